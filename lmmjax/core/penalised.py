"""Fits with a log-prior on (θ, σ), a known σ, or some θ held: Newton on −2ℓ(θ, σ) − 2 log p(θ, σ) itself.

The unknowns are z = (θ, log σ), or θ alone where σ is known.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .criterion import factorise, residual_df
from .crossprod import CrossProducts
from .implicit import implicit
from .information import deviance_expansion
from .optimize import Minimum, newton
from .rectify import SINGULAR, column_norms, moves, rectified
from .start import column_scale


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Problem:
    """What is fitted. start : (m,), which holds the values of the held θ. sigma : known, or None. log_prior : a
    `jax.tree_util.Partial` (θ, σ) ↦ log p, or None. free : (m,) which θ are estimated, or None for all."""

    cp: CrossProducts
    reml: Any
    start: Any
    sigma: Any = None
    log_prior: Any = None
    free: Any = None

    @property
    def estimated(self):
        """(m,) which θ are estimated."""
        return jnp.ones(self.start.shape, bool) if self.free is None else jnp.asarray(self.free)

    def parameters(self, z):
        """θ and σ at z."""
        m = self.start.shape[0]
        theta = jnp.where(self.estimated, z[:m], self.start)
        return theta, jnp.exp(z[m]) if self.sigma is None else jnp.asarray(self.sigma, z.dtype)


def minimise_penalised(problem: Problem) -> Minimum:
    """The minimum in z, differentiable in `problem`; x is (θ, log σ) or θ."""
    return _optimum(problem)


def expansion(z, problem: Problem):
    """−2ℓ − 2 log p with its gradient and Hessian in z (held θ: as if nothing depended on them), and factors."""
    theta, sigma = problem.parameters(z)
    value, gradient, hessian, factors, _ = deviance_expansion(theta, sigma, problem.cp, problem.reml)
    if problem.log_prior is not None:

        def penalty(v):
            return -2 * problem.log_prior(v[:-1], v[-1])

        v = jnp.append(theta, sigma)
        value = value + penalty(v)
        gradient, hessian = gradient + jax.grad(penalty)(v), hessian + jax.hessian(penalty)(v)
    m = theta.shape[0]
    by = jnp.append(jnp.ones_like(theta), sigma)  # ∂σ/∂ log σ = σ
    gradient = gradient * by
    hessian = hessian * by * by[:, None] + jnp.diag(jnp.append(0 * theta, gradient[m]))
    keep = jnp.append(problem.estimated, problem.sigma is None)
    gradient, hessian = jnp.where(keep, gradient, 0), jnp.where(keep & keep[:, None], hessian, jnp.eye(m + 1))
    size = z.shape[0]
    return value, gradient[:size], hessian[:size, :size], factors


def _minimise(problem: Problem) -> Minimum:
    cp, m = problem.cp, problem.start.shape[0]
    scale = jnp.append(column_scale(cp), jnp.ones(0 if problem.sigma is not None else 1, cp.dense.dtype))
    start = problem.start
    if problem.sigma is None:
        prss = factorise(problem.start, cp)[1][-1, -1] ** -2
        start = jnp.append(start, 0.5 * jnp.log(prss / residual_df(cp, problem.reml)))

    def evaluate(x):
        value, gradient, hessian, factors = expansion(x / scale, problem)
        return value, gradient / scale, hessian / scale / scale[:, None], factors

    def retry(x):
        vanished = column_norms(x[:m], scale[:m], cp.plan) < SINGULAR
        far = jnp.where(problem.estimated, 5, 1) * start[:m] * scale[:m]
        return (vanished & problem.estimated).any(), jnp.append(far, x[m:])

    found = newton(evaluate, start * scale, retry)
    of_theta = found._replace(x=found.x[:m], gradient=found.gradient[:m], hessian=found.hessian[:m, :m])
    of_theta = rectified(of_theta, scale[:m], cp.plan, _symmetric(problem))
    x = jnp.append(of_theta.x, found.x[m:])
    gradient, hessian = found.gradient * scale, found.hessian * scale * scale[:, None]
    return of_theta._replace(
        x=x, gradient=gradient.at[:m].set(of_theta.gradient), hessian=hessian.at[:m, :m].set(of_theta.hessian)
    )


def _symmetric(problem: Problem):
    """(m,) whether the sign of a column of T is open: not with a prior, and not in a term with a held θ."""
    plan = problem.cp.plan
    if problem.log_prior is not None:
        return np.zeros(problem.start.shape, bool)
    whole = [jnp.broadcast_to(problem.estimated[s].all(), s.stop - s.start) for s in plan.theta_slices()]
    return plan.filled & jnp.concatenate([*whole, jnp.zeros(plan.n_phi, bool)])


def _free(z, problem: Problem):
    m = problem.start.shape[0]
    of_theta = moves(z[:m], column_scale(problem.cp), problem.cp.plan) & problem.estimated
    return jnp.append(of_theta, jnp.ones(z.shape[0] - m, bool))


_optimum = implicit(
    _minimise,
    slope=lambda z, problem: expansion(z, problem)[1],
    curvature=lambda z, problem: expansion(z, problem)[2],
    free=_free,
    factors=lambda z, problem: factorise(problem.parameters(z)[0], problem.cp),
)
