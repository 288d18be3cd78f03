"""estimate(cp) → Estimate: the ML or REML fit of one set of cross-products."""

from dataclasses import dataclass, fields
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .compile import jit
from .covariance import Template
from .criterion import Profiled, criterion, evaluate, factorise, solution, value_and_gradient
from .crossprod import CrossProducts
from .namespace import is_concrete
from .optimize import FIXED, Minimum, model_step, newton
from .plan import Factor, Plan
from .start import column_scale, curvature_guess, default_start, moment_start

SINGULAR = 1e-4  # lme4's tolerance for a vanished standard deviation, relative to σ
SECANT_REST = 300  # dense columns from which BFGS curvature is cheaper than exact Hessians
EXACT = 1e-18  # share of a sum of squares that is rounding
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
    differentiable through the optimiser's loop. NumPy in, NumPy out.
    """
    arguments = cp.without_rows(), reml, start, theta
    if not is_concrete(arguments):
        return _unpacked(*arguments)
    return _unpack(np.asarray(_packed(*arguments)), cp)


def solve(cp: CrossProducts, reml: bool, start, theta) -> Estimate:
    scale = column_scale(cp)
    if theta is not None or not cp.plan.templates:
        at = _stay(scale if theta is None else theta, cp)
    else:
        at = _minimise(first_start(cp, scale) if start is None else start, scale, cp, reml)
    return at_minimum(at, scale, cp, reml)


def at_minimum(at: Minimum, scale, cp: CrossProducts, reml: bool) -> Estimate:
    """The Estimate where an optimiser stopped; `at.extra` holds the factors there."""
    profiled = solution(at.x, cp, reml, *at.extra)
    known = {f.name: getattr(profiled, f.name) for f in fields(Profiled)}
    trace = {"status": at.status, "iterations": at.iterations, "saddle": at.saddle}
    return Estimate(**known, theta=at.x, gradient=at.gradient, hessian=at.hessian, scale=scale, **trace)


_unpacked = jit(solve)


@jit
def _packed(*arguments):
    """All numbers of an Estimate in one array: each output of a compiled function costs as much as a small fit."""
    leaves = jax.tree.leaves(solve(*arguments))
    return jnp.concatenate([jnp.ravel(a).astype(arguments[0].dense.dtype) for a in leaves])


def _unpack(numbers: np.ndarray, cp: CrossProducts) -> Estimate:
    """The Estimate whose numbers stand in the last axis; leading axes are batches."""
    treedef, leaves = _layout(cp.plan.templates, cp.plan.chain, cp.plan.rest, cp.p)
    out, at = [], 0
    for shape, dtype in leaves:
        size = prod(shape)
        part = numbers[..., at : at + size].reshape(numbers.shape[:-1] + shape)
        out.append(part if dtype is None else part.astype(dtype))
        at += size
    return jax.tree.unflatten(treedef, out)


@lru_cache
def _layout(templates: tuple[Template, ...], chain: tuple[Factor, ...], rest: tuple[Factor, ...], p: int):
    """The tree of an Estimate, and the shape and dtype of each leaf; None for floating point."""
    m = sum(t.n_theta for t in templates)
    levels = {i: f.n_levels for f in chain + rest for i in f.terms}
    effects = tuple(_Leaf((levels[i], t.p)) for i, t in enumerate(templates))
    number, by_theta, by_column = _Leaf(()), _Leaf((m,)), _Leaf((p,))
    profiled = Profiled(number, by_column, number, number, effects, effects, _Leaf((p, p)), number, number, number)
    known = {f.name: getattr(profiled, f.name) for f in fields(Profiled)}
    count = _Leaf((), int)
    tree = Estimate(
        **known,
        theta=by_theta,
        gradient=by_theta,
        hessian=_Leaf((m, m)),
        scale=by_theta,
        status=count,
        iterations=count,
        saddle=_Leaf((), bool),
    )
    leaves, treedef = jax.tree.flatten(tree, is_leaf=lambda a: isinstance(a, _Leaf))
    return treedef, leaves


class _Leaf(NamedTuple):
    shape: tuple[int, ...]
    dtype: type | None = None


def _stay(theta, cp: CrossProducts) -> Minimum:
    zero = jnp.zeros((), int)
    hessian = 0 * theta * theta[:, None]
    return Minimum(theta, 0.0, 0 * theta, hessian, factorise(theta, cp), zero + FIXED, zero, zero > 0)


def _minimise(start, scale, cp: CrossProducts, reml: bool) -> Minimum:
    """Runs the optimiser in x = scale·θ; returns its end in θ, with a non-negative diagonal of every T."""
    x, slope, secant = start * scale, evaluation(cp, scale, reml), uses_secants(cp)
    retry = second_start(cp, x)
    if _has_many(cp):
        from .lbfgs import lbfgs  # it imports optax, which takes longer than most fits

        x = lbfgs(lambda v: criterion(v / scale, cp, reml) / cp.n, x)
    if secant:
        found = newton(slope, x, retry, jnp.diag(curvature_guess(cp, start) / scale**2))
        # One more step costs nothing; what it gains is below the loop's tolerance.
        x = found.x + model_step(found.gradient, found.hessian, np.inf)[0]
        found = found._replace(x=x, extra=factorise(x / scale, cp))
    else:
        found = newton(slope, x, retry)
    return rectified(found, scale, cp.plan)


def evaluation(cp: CrossProducts, scale, reml: bool):
    """x = scale·θ → (criterion, gradient, Hessian and factors; or None and None where BFGS is cheaper)."""

    def exact(x):
        value, gradient, hessian, factors = evaluate(x / scale, cp, reml)
        return value, gradient / scale, hessian / scale / scale[:, None], factors

    def slope(x):
        value, gradient = value_and_gradient(x / scale, cp, reml)
        return value, gradient / scale, None, None

    return slope if uses_secants(cp) else exact


def second_start(cp: CrossProducts, start):
    """x → (whether an end x deserves a second attempt, from where), for a first attempt that began at `start`."""
    many = _has_many(cp)  # always then, as criteria of many parameters have several minima

    def retry(x):
        return (column_norms(x, cp.plan) < SINGULAR).any() | many, (1 if many else 5) * start

    return retry


def rectified(found: Minimum, scale, plan: Plan) -> Minimum:
    """The optimiser's end in θ, with a non-negative diagonal of every T."""
    found = _snap(found, plan)
    gradient, hessian = found.gradient * scale, found.hessian * scale * scale[:, None]
    return _rectify(found._replace(x=found.x / scale, gradient=gradient, hessian=hessian), plan)


def _rectify(at: Minimum, plan: Plan) -> Minimum:
    """The same minimum with a non-negative diagonal of every T."""
    signs = [t.signs(at.x[s]) for t, s in zip(plan.templates, plan.theta_slices(), strict=True)]
    of_columns = [s[t.start > 0] for t, s in zip(plan.templates, signs, strict=True)]
    flip, factors = jnp.concatenate(signs), at.extra
    if factors is not None and plan.rest:
        rest = [jnp.tile(jnp.concatenate([of_columns[i] for i in f.terms]), f.n_levels) for f in plan.rest]
        eliminated, inverse = factors
        rows = jnp.concatenate([*rest, jnp.ones(inverse.shape[0] - plan.q_rest, inverse.dtype)])
        factors = eliminated, inverse * rows * rows[:, None]
    hessian = at.hessian * flip * flip[:, None]
    return at._replace(x=at.x * flip, gradient=at.gradient * flip, hessian=hessian, extra=factors)


def column_norms(x, plan: Plan):
    """(m,) the norm of the column of T that each θ belongs to."""
    slices = zip(plan.templates, plan.theta_slices(), strict=True)
    return jnp.concatenate([jnp.sqrt(jnp.sum(t(x[s]) ** 2, 0))[t.indices[1]] for t, s in slices])


def _snap(at: Minimum, plan: Plan) -> Minimum:
    """Columns of T that have vanished to within rounding become zero: the criterion is even in each of them."""
    vanished = column_norms(at.x, plan) < np.finfo(at.x.dtype).eps ** 0.5
    gradient, hessian = jnp.where(vanished, 0, at.gradient), jnp.where(vanished != vanished[:, None], 0, at.hessian)
    return at._replace(x=jnp.where(vanished, 0, at.x), gradient=gradient, hessian=hessian)


def first_start(cp: CrossProducts, scale):
    return moment_start(cp) if uses_secants(cp) else default_start(cp, scale)


def _has_many(cp: CrossProducts) -> bool:
    return sum(t.n_theta for t in cp.plan.templates) > MANY_THETA


def uses_secants(cp: CrossProducts) -> bool:
    return cp.plan.q_rest > SECANT_REST
