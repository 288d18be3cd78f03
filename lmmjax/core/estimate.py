"""estimate(cp) → Estimate: the ML or REML fit of one set of cross-products."""

from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .criterion import Profiled, criterion, evaluate, factorise, solution, value_and_gradient
from .crossprod import CrossProducts, jit
from .namespace import canonical, epsilon, is_concrete, like, namespace
from .optimize import FIXED, Minimum, model_step, newton
from .plan import Plan
from .start import column_scale, curvature_guess, default_start, moment_start

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


def estimate(cp: CrossProducts, reml: bool = True, start=None, theta=None) -> Estimate:
    """Minimises the ML or REML criterion over θ.

    start : (m,), by default T = I in units where each column of Z has root mean square one, or moment estimates where a
    large dense rest makes evaluations dear. theta : (m,) fixes θ instead. Never raises: see `status`. Not
    differentiable through the optimiser's loop.

    With NumPy arrays the loop runs in Python around one compiled function; otherwise all of it is compiled.
    """
    arguments = cp.without_rows(), start, theta
    if is_concrete(arguments):
        cp, start, theta = canonical(arguments)
        return _estimate(cp, reml, start, theta)
    return _traced(cp, reml, start, theta)


def _estimate(cp: CrossProducts, reml: bool, start, theta) -> Estimate:
    scale = column_scale(cp)
    if theta is not None or not cp.plan.templates:
        found = _stay(scale if theta is None else theta)
    else:
        found = _minimise(_first(cp) if start is None else start, scale, cp, reml)
    gradient, hessian = found.gradient, found.hessian
    if _uses_secants(cp):
        factors = factorise(found.x, cp)
    else:
        _, gradient, hessian, factors = evaluate(found.x, cp, reml)
    profiled = solution(found.x, cp, reml, *like(found.x, factors))
    at_theta = {f.name: getattr(profiled, f.name) for f in fields(Profiled)}
    trace = {"status": found.status, "iterations": found.iterations, "saddle": found.saddle}
    return Estimate(**at_theta, theta=found.x, gradient=gradient, hessian=hessian, scale=scale, **trace)


_traced = jit(_estimate)


def rectify(theta, plan: Plan):
    """θ with a non-negative diagonal of every T, and the (m,) signs that it was multiplied by."""
    signs = [t.signs(theta[s]) for t, s in zip(plan.templates, plan.theta_slices(), strict=True)]
    signs = namespace(theta).concatenate([*signs, theta[:0]])
    return theta * signs, signs


def column_norms(x, plan: Plan):
    """(m,) the norm of the column of T that each θ belongs to."""
    xp, parts = namespace(x), [x[:0]]
    for t, s in zip(plan.templates, plan.theta_slices(), strict=True):
        parts.append(xp.sqrt(xp.sum(t(x[s]) ** 2, 0))[t.indices[1]])
    return xp.concatenate(parts)


def _snap(x, plan: Plan):
    """Columns of T that have vanished to within rounding become zero: the criterion changes by their square."""
    tolerance = epsilon(x.dtype) ** 0.5
    return namespace(x).where(column_norms(x, plan) < tolerance, 0, x).astype(x.dtype)


def _uses_secants(cp: CrossProducts) -> bool:
    return cp.plan.q_rest > SECANT_REST


def _first(cp: CrossProducts):
    return moment_start(cp) if _uses_secants(cp) else default_start(cp)


def _stay(theta) -> Minimum:
    xp = namespace(theta)
    zero = xp.zeros((), int)
    return Minimum(theta, 0.0 * zero, 0 * theta, theta[:, None] * 0 * theta, zero + FIXED, zero, zero > 0)


def _minimise(start, scale, cp: CrossProducts, reml: bool) -> Minimum:
    """Runs the optimiser in x = scale·θ; returns its end in θ, with a non-negative diagonal of every T."""

    def exact(x):
        value, gradient, hessian = like(x, evaluate(x / scale, cp, reml)[:3])
        return value, gradient / scale, hessian / scale / scale[:, None]

    def slope(x):
        value, gradient = like(x, value_and_gradient(x / scale, cp, reml))
        return value, gradient / scale

    def retry(x):  # after L-BFGS always, as criteria of many parameters have several minima
        return (column_norms(x, cp.plan) < SINGULAR).any() | many, (1 if many else 5) * start * scale

    x, many = start * scale, start.shape[0] > MANY_THETA
    if many:
        from .lbfgs import lbfgs  # it imports optax, which takes longer than most fits

        x = like(x, lbfgs(lambda v: criterion(v / scale, cp, reml) / cp.n, jnp.asarray(x)))
    if _uses_secants(cp):
        found = newton(slope, x, retry, namespace(x).diag(curvature_guess(cp, start) / scale**2))
        # One more step costs nothing; what it gains is below the loop's tolerance.
        found = found._replace(x=found.x + model_step(found.gradient, found.hessian, np.inf)[0])
    else:
        found = newton(exact, x, retry)
    x, signs = rectify(_snap(found.x, cp.plan), cp.plan)
    unit = signs * scale
    return found._replace(x=x / scale, gradient=found.gradient * unit, hessian=found.hessian * unit * unit[:, None])
