"""estimate(cp) → Estimate: the ML or REML fit of one set of cross-products."""

from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from .criterion import Profiled, criterion, expansion, profile
from .crossprod import CrossProducts
from .optimize import FIXED, Minimum, lbfgs, newton
from .plan import Plan

SINGULAR = 1e-4  # lme4's tolerance for a vanished standard deviation, relative to σ
SECANT_REST = 300  # dense columns from which BFGS curvature is cheaper than exact Hessians
MANY_THETA = 30  # parameters from which L-BFGS goes first


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Estimate(Profiled):
    """A fit: `Profiled` at θ̂, and how the optimiser got there.

    theta : (m,), each T with a non-negative diagonal. gradient, hessian : (m,), (m, m) of the criterion in θ (with many
    dense columns the Hessian is the optimiser's BFGS estimate; `expansion` gives the exact one). scale : (m,) root mean
    square of the column of Z that each θ multiplies. status : an index of `optimize.STATUS`. saddle : whether the
    optimiser had to step off one.
    """

    theta: Any
    gradient: Any
    hessian: Any
    scale: Any
    status: Any
    iterations: Any
    saddle: Any

    @property
    def vcov(self):
        """(p, p) covariance of β̂ at θ̂ and σ̂."""
        return self.sigma**2 * self.unscaled_vcov


@partial(jax.jit, static_argnames="reml")
def estimate(cp: CrossProducts, reml: bool = True, start=None, theta=None) -> Estimate:
    """Minimises the ML or REML criterion over θ.

    start : (m,), by default T = I in units where each column of Z has root mean square one. theta : (m,) fixes θ
    instead. Never raises: see `status`. Not differentiable through the optimiser's loop.
    """
    scale = column_scale(cp)
    if theta is not None or not cp.plan.templates:
        minimum = _stay(jnp.zeros(0, scale.dtype) if theta is None else jnp.asarray(theta), cp, reml)
    else:
        start = default_start(cp) if start is None else jnp.asarray(start)
        minimum = _minimise(start * scale, scale, cp, reml)
    x, signs = rectify(minimum.x, cp.plan)
    found = profile(x, cp, reml)
    at_theta = {f.name: getattr(found, f.name) for f in fields(Profiled)}
    trace = {"status": minimum.status, "iterations": minimum.iterations, "saddle": minimum.saddle}
    curved = minimum.hessian * signs[:, None] * signs
    return Estimate(**at_theta, theta=x, gradient=minimum.gradient * signs, hessian=curved, scale=scale, **trace)


def default_start(cp: CrossProducts):
    """(m,) T = I in units where each column of Z has root mean square one: lme4's start for intercepts."""
    start = jnp.concatenate([jnp.asarray(t.start, cp.dense.dtype) for t in cp.plan.templates])
    return start / column_scale(cp)


def column_scale(cp: CrossProducts):
    """(m,) root mean square of the column of Z that each θ multiplies (one for a column of zeros)."""
    plan, squares = cp.plan, {}
    diagonal, at = jnp.diagonal(cp.dense), 0
    for factor, stage in zip(plan.chain, cp.stages, strict=True):
        squares[factor] = jnp.sum(jnp.diagonal(stage.gram, axis1=1, axis2=2), 0)
    for factor in plan.rest:
        squares[factor] = jnp.sum(diagonal[at : at + factor.q].reshape(-1, factor.p), 0)
        at += factor.q
    out: dict[int, Any] = {}
    for factor, total in squares.items():
        rms, column = jnp.sqrt(total / cp.n), 0
        rms = jnp.where(rms > 0, rms, 1.0)
        for i in factor.terms:
            template = plan.templates[i]
            out[i] = rms[column : column + template.p][template.indices[0]]
            column += template.p
    return jnp.concatenate([out[i] for i in range(len(out))] or [diagonal[:0]])


def rectify(theta, plan: Plan):
    """θ with a non-negative diagonal of every T, and the (m,) signs that it was multiplied by."""
    signs = [t.signs(theta[s]) for t, s in zip(plan.templates, plan.theta_slices(), strict=True)]
    signs = jnp.concatenate([*signs, theta[:0]])
    return theta * signs, signs


def vanished(x, plan: Plan):
    """Whether some column of some T is zero: x (m,) in the optimiser's units."""
    parts = [t(x[s]) for t, s in zip(plan.templates, plan.theta_slices(), strict=True)]
    return jnp.any(jnp.stack([jnp.any(jnp.linalg.norm(t, axis=0) < SINGULAR) for t in parts]))


def _stay(theta, cp: CrossProducts, reml: bool) -> Minimum:
    value, gradient, hessian = expansion(theta, cp, reml) if theta.size else (0.0, theta, theta[:, None] * theta)
    return Minimum(theta, value, gradient, hessian, jnp.asarray(FIXED), jnp.asarray(0), jnp.asarray(False))


def _minimise(start, scale, cp: CrossProducts, reml: bool) -> Minimum:
    """Runs the optimiser in x = scale·θ and returns the minimum in θ."""

    def exact(x):
        value, gradient, hessian = expansion(x / scale, cp, reml)
        return value, gradient / scale, hessian / scale / scale[:, None]

    def value(x):
        return criterion(x / scale, cp, reml)

    def retry(x):
        return vanished(x, cp.plan), 5 * start

    if start.shape[0] > MANY_THETA:
        start = lbfgs(lambda x: value(x) / cp.n, start)
    if cp.plan.q_rest > SECANT_REST:
        guess = jnp.diag(jnp.asarray(_levels(cp.plan), start.dtype))
        found = newton(jax.value_and_grad(value), start, retry, guess)
    else:
        found = newton(exact, start, retry)
    hessian = found.hessian * scale * scale[:, None]
    return found._replace(x=_snap(found.x, cp.plan) / scale, gradient=found.gradient * scale, hessian=hessian)


def _snap(x, plan: Plan):
    """Columns of T that have vanished to within rounding become zero: the criterion changes by their square."""
    parts = [x[:0]]
    for t, s in zip(plan.templates, plan.theta_slices(), strict=True):
        norms = jnp.linalg.norm(t(x[s]), axis=0)
        parts.append(jnp.where(norms[t.indices[1]] < jnp.sqrt(jnp.finfo(x.dtype).eps), 0.0, x[s]))
    return jnp.concatenate(parts)


def _levels(plan: Plan) -> list[float]:
    """(m,) the number of levels behind each θ: the size of the criterion's curvature in the optimiser's units."""
    levels = {i: float(f.n_levels) for f in plan.chain + plan.rest for i in f.terms}
    return [levels[i] for i, t in enumerate(plan.templates) for _ in range(t.n_theta)]
