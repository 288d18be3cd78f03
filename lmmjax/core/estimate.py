"""estimate(cp) → Estimate: the ML or REML fit of one set of cross-products."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from .compile import jit
from .covariance import Template
from .criterion import Profiled, criterion, deviance_of, evaluate, expansion, factorise, solution, value_and_gradient
from .crossprod import CrossProducts
from .implicit import implicit
from .namespace import is_concrete
from .optimize import FIXED, Minimum, model_step, newton
from .penalised import Problem, minimise_penalised
from .plan import Factor
from .rectify import SINGULAR, column_norms, moves, rectified
from .start import column_scale, curvature_guess, default_start, moment_start

SECANT_REST = 300  # dense columns from which BFGS curvature is cheaper than exact Hessians
EXACT = 1e-18  # share of a sum of squares that is rounding
MANY_THETA = 30  # parameters from which L-BFGS goes first


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Estimate(Profiled):
    """A fit: `Profiled` at θ̂, and how the optimiser got there.

    theta : (m,), each T with a non-negative diagonal; φ (k,) of a residual structure stands behind it, here and in all
    that follows. gradient, hessian : (m,), (m, m) of the criterion in θ (with many dense columns the Hessian is the
    optimiser's BFGS estimate; `expansion` gives the exact one). scale : (m,) root mean square of the column of Z that
    each θ multiplies. free : (m,) false where a column of T has vanished: the optimum is
    on the boundary, and θ does not move there when the data do. status : an index of `optimize.STATUS`. saddle :
    whether the optimiser had to step off one.
    """

    theta: Any
    gradient: Any
    hessian: Any
    scale: Any
    free: Any
    status: Any
    iterations: Any
    saddle: Any

    @property
    def vcov(self):
        """(p, p) covariance of β̂ at θ̂ and σ̂."""
        return self.sigma**2 * self.unscaled_vcov


def estimate(
    cp: CrossProducts,
    reml: bool = True,
    start=None,
    theta=None,
    sigma=None,
    log_prior: Callable | None = None,
    free=None,
) -> Estimate:
    """Minimises the ML or REML criterion over θ.

    start : (m,), by default T = I in units where each column of Z has root mean square one, or moment estimates where a
    large dense rest makes evaluations dear. theta : (m,) fixes θ instead; with free, (m,) booleans, only where free is
    false, and estimation starts from the rest. sigma : the residual standard deviation, where it is known.
    log_prior : a JAX function (θ, σ) ↦ log density: the fit maximises the penalised likelihood, and signs of columns of
    T are left as they come. A `jax.tree_util.Partial` may hold arrays, which are traced. `criterion` of the result is
    −2 log-likelihood at (θ̂, σ̂), without the prior.

    Never raises: see `status`. NumPy in, NumPy out. Differentiable any number of times in all arrays behind `cp`, and
    in theta, sigma and a Partial's, by the implicit function theorem: θ, σ, β, u, b, both criteria and vcov have
    derivatives; gradient, hessian, scale and the flags are constants.
    """
    prior = log_prior if log_prior is None or isinstance(log_prior, Partial) else Partial(log_prior)
    arguments = cp.without_rows(), reml, start, theta, sigma, prior, free
    if not is_concrete(arguments):
        return _unpacked(*arguments)
    return _unpack(np.asarray(_packed(*arguments)), cp)


def solve(cp: CrossProducts, reml, start, theta, sigma=None, log_prior=None, free=None) -> Estimate:
    """`estimate` on tracers."""
    scale = column_scale(cp)
    if not cp.plan.n_theta + cp.plan.n_phi or (theta is not None and free is None):
        return at_minimum(_stay(scale if theta is None else jnp.asarray(theta), cp), scale, cp, reml, sigma)
    start = theta if theta is not None else first_start(cp, scale) if start is None else start
    if sigma is None and log_prior is None and free is None:
        return at_minimum(_optimum((cp, reml, start)), scale, cp, reml)
    problem, m = Problem(cp, reml, jnp.asarray(start), sigma, log_prior, free), len(start)
    at = minimise_penalised(problem)
    at_theta, at_sigma = problem.parameters(at.x)
    at = at._replace(x=at_theta, gradient=at.gradient[:m], hessian=at.hessian[:m, :m])
    return at_minimum(at, scale, cp, reml, at_sigma, problem.estimated)


def at_minimum(at: Minimum, scale, cp: CrossProducts, reml, sigma=None, estimated=True) -> Estimate:
    """The Estimate where an optimiser stopped; `at.extra` holds the factors there.

    sigma : where it is not the one that θ implies. estimated : (m,) which θ were not held.
    """
    profiled = solution(at.x, cp, reml, *at.extra)
    if sigma is not None:
        parts = profiled.log_l, profiled.log_rx, jnp.log(profiled.prss)
        criteria = [deviance_of(parts, sigma, cp, r) for r in (reml, False)]
        sigma = jnp.asarray(sigma, at.x.dtype)
        profiled = replace(profiled, sigma=sigma, criterion=criteria[0], deviance=criteria[1])
    known = {f.name: getattr(profiled, f.name) for f in fields(Profiled)}
    trace = {"status": at.status, "iterations": at.iterations, "saddle": at.saddle}
    free = moves(at.x, scale, cp.plan) & estimated
    return Estimate(**known, theta=at.x, gradient=at.gradient, hessian=at.hessian, scale=scale, free=free, **trace)


_unpacked = jit(solve)


@jit
def _packed(*arguments):
    """All numbers of an Estimate in one array: each output of a compiled function costs as much as a small fit."""
    leaves = jax.tree.leaves(solve(*arguments))
    return jnp.concatenate([jnp.ravel(a).astype(arguments[0].dense.dtype) for a in leaves])


def _unpack(numbers: np.ndarray, cp: CrossProducts) -> Estimate:
    """The Estimate whose numbers stand in the last axis; leading axes are batches."""
    treedef, leaves = _layout(cp.plan.templates, cp.plan.chain, cp.plan.rest, cp.p, cp.plan.n_phi)
    out, at = [], 0
    for shape, dtype in leaves:
        size = prod(shape)
        part = numbers[..., at : at + size].reshape(numbers.shape[:-1] + shape)
        out.append(part if dtype is None else part.astype(dtype))
        at += size
    return jax.tree.unflatten(treedef, out)


@lru_cache
def _layout(templates: tuple[Template, ...], chain: tuple[Factor, ...], rest: tuple[Factor, ...], p: int, n_phi: int):
    """The tree of an Estimate, and the shape and dtype of each leaf; None for floating point."""
    m = sum(t.n_theta for t in templates) + n_phi
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
        free=_Leaf((m,), bool),
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


def _minimise(data) -> Minimum:
    """Runs the optimiser in x = scale·θ; returns its end in θ, with a non-negative diagonal of every T."""
    cp, reml, start = data
    scale = column_scale(cp)
    x, slope, secant = start * scale, evaluation(cp, scale, reml), uses_secants(cp)
    retry = second_start(cp, scale, x)
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


_optimum = implicit(
    _minimise,
    slope=lambda theta, data: jax.grad(criterion)(theta, *data[:2]),
    curvature=lambda theta, data: expansion(theta, *data[:2])[2],
    free=lambda theta, data: moves(theta, column_scale(data[0]), data[0].plan),
    factors=lambda theta, data: factorise(theta, data[0]),
)


def evaluation(cp: CrossProducts, scale, reml: bool):
    """x = scale·θ → (criterion, gradient, Hessian and factors; or None and None where BFGS is cheaper)."""

    def exact(x):
        value, gradient, hessian, factors = evaluate(x / scale, cp, reml)
        return value, gradient / scale, hessian / scale / scale[:, None], factors

    def slope(x):
        value, gradient = value_and_gradient(x / scale, cp, reml)
        return value, gradient / scale, None, None

    return slope if uses_secants(cp) else exact


def second_start(cp: CrossProducts, scale, start):
    """x → (whether an end x deserves a second attempt, from where), for a first attempt that began at `start`."""
    many = _has_many(cp)  # always then, as criteria of many parameters have several minima

    def retry(x):
        return (column_norms(x, scale, cp.plan) < SINGULAR).any() | many, (1 if many else 5) * start

    return retry


def first_start(cp: CrossProducts, scale):
    return moment_start(cp) if uses_secants(cp) else default_start(cp, scale)


def _has_many(cp: CrossProducts) -> bool:
    return cp.plan.n_theta > MANY_THETA


def uses_secants(cp: CrossProducts) -> bool:
    return cp.plan.q_rest > SECANT_REST
