"""estimate_many(cp, Y) → Estimates: one design, many responses, each at its own optimum."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import crossed, spectral
from .chunks import chunk_size, in_chunks, lanes, spread
from .criterion import factorise, residual_df
from .crossprod import CrossProducts
from .estimate import EXACT, Estimate, at_minimum, evaluation, first_start, second_start, solve, uses_secants
from .lanes import run_lanes
from .levels import merge_levels
from .optimize import CONVERGED, FAILED, FIXED, RUNNING, SECANT_TOLERANCE, Minimum, begin, iterate, model_step
from .rectify import rectified
from .start import column_scale, curvature_guess

MEMORY = 2**28  # bytes that a chunk may take
RANK = 1e-12  # of cross-products of X, relative to the largest
AGREED = 1e-10  # interpolated and exact criterion, relative
LAST_STEP = 1e-11  # Newton decrement, relative to the criterion, below which one more step ends in rounding


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Estimates:
    """B fits. theta : (B, m). beta : (B, p). sigma, criterion : (B,).

    status : (B,) indices of `optimize.STATUS`; a response that could not be fitted keeps its place. iterations : (B,).
    kept : what `keep` gave for each fit, stacked; None without one.
    """

    theta: Any
    beta: Any
    sigma: Any
    criterion: Any
    status: Any
    iterations: Any
    kept: Any = None

    @property
    def converged(self):
        """(B,) whether the optimiser's conditions for a minimum held (or θ was given)."""
        return np.isin(self.status, (CONVERGED, FIXED)) & np.isfinite(self.criterion)


@dataclass(frozen=True)
class OfProblem:
    """A `keep` of `estimate_many` that sees the problem too: function(Estimate, CrossProducts)."""

    function: Callable[[Estimate, CrossProducts], Any]


def estimate_many(
    cp: CrossProducts,
    Y: Any,
    reml: bool = True,
    keep: Callable[[Estimate], Any] | OfProblem | None = None,
    theta: Any = None,
    memory: int = MEMORY,
    progress: bool = False,
) -> Estimates:
    """Fits every row of Y, (B, n), each at its own optimum of the ML or REML criterion.

    Y : an array or memmap of responses to the rows of `cp`; NaN marks rows that a response does not have.
    keep : a JAX function of an Estimate, to be had for each fit as well; a compilation belongs to the function, so
    give the same one again rather than another of the same text. theta : (B, m) fixes θ instead. memory : bytes that a
    chunk may take. progress : show a tqdm bar. Never raises for a response: see `status`. Spread over all local
    devices, and over the processes of `jax.distributed`. NumPy out, unless it is traced.
    Raises ValueError where Y does not fit the rows, and for NaN where residuals are correlated.
    """
    n = _rows(cp)
    if len(np.shape(Y)) != 2 or np.shape(Y)[1] != n:
        raise ValueError(f"Y has shape {np.shape(Y)}; the cross-products have {n} rows: give (responses, {n})")
    if any(isinstance(a, jax.core.Tracer) for a in jax.tree.leaves((cp, Y, theta))):
        return _traced(cp, Y, reml, keep, theta)
    q = sum(f.q for f in cp.plan.chain + cp.plan.rest)
    size = chunk_size(np.shape(Y)[0], 8 * (3 * n + 8 * (q + cp.plan.q_rest + cp.p)), memory)
    shortcuts = _shortcuts(cp, reml)

    def fit(rows: slice) -> Estimates:
        given = None if theta is None else np.asarray(theta[rows], cp.dense.dtype)
        return _by_pattern(cp, shortcuts, Y[rows], given, size, reml, keep)

    return in_chunks(fit, np.shape(Y)[0], size, progress)


def _traced(cp: CrossProducts, Y, reml, keep, theta) -> Estimates:
    def fit(y, theta):
        own = cp.with_response(y).without_rows()
        return kept_of(solve(own, reml, None, theta), own, keep)

    return jax.vmap(fit, in_axes=(0, None if theta is None else 0))(Y, theta)


def _rows(cp: CrossProducts) -> int:
    if cp.rows is None:
        raise ValueError("these cross-products have no rows left: form them from the whole design")
    return cp.rows.y.shape[0]


def _by_pattern(cp: CrossProducts, shortcuts: "_Shortcuts", y, theta, size: int, reml: bool, keep) -> Estimates:
    """The fits of one chunk, (count ≤ size, n), pattern by pattern of missing rows."""
    y = y if isinstance(y, jax.Array) else np.asarray(y, cp.dense.dtype)
    missing = np.asarray(jnp.isnan(y)) if isinstance(y, jax.Array) else np.isnan(y)
    if not missing.any():
        return _fit(cp, shortcuts, y, theta, size, reml, keep)
    if cp.unwhitened is not None and cp.unwhitened.structure.correlation is not None:
        raise ValueError("responses to correlated rows may have no NaN: fit those with missing values one by one")
    patterns, which = np.unique(missing, axis=0, return_inverse=True)
    parts, order = [], []
    for i, pattern in enumerate(patterns):
        rows = np.flatnonzero(which.ravel() == i)
        own = cp.with_case_weights(rows=np.where(pattern, 0.0, 1.0)) if pattern.any() else cp
        there = np.where(pattern, 0.0, np.asarray(y)[rows])
        known = None if theta is None else theta[rows]
        found = _fit(own, _shortcuts(own, reml), there, known, size, reml, keep)
        parts.append(found if _has_rank(own) else replace(found, status=np.full_like(found.status, FAILED)))
        order.append(rows)
    back = np.argsort(np.concatenate(order))
    return jax.tree.map(lambda *a: np.concatenate(a)[back], *parts)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Shortcuts:
    """What one design allows: a spectrum, an interpolated surface, fewer levels, or none of them."""

    spectrum: Any = None
    surface: Any = None
    merged: Any = None


def _has_rank(cp: CrossProducts) -> bool:
    """Whether the rows that are left determine every column of X."""
    products = np.asarray(cp.dense)[-cp.p :, -cp.p :]
    return not cp.p or np.linalg.matrix_rank(products, RANK * abs(products).max()) == cp.p


def _shortcuts(cp: CrossProducts, reml: bool) -> _Shortcuts:
    if not cp.plan.templates or cp.unwhitened is not None or not _has_rank(cp):
        return _Shortcuts()
    if spectral.applies(cp):
        return _Shortcuts(spectrum=spectral.spectrum(cp, reml))
    if crossed.applies(cp):
        return _Shortcuts(surface=crossed.surface(cp, reml))
    return _Shortcuts(merged=merge_levels(cp))


def _fit(cp: CrossProducts, shortcuts: _Shortcuts, y, theta, size: int, reml: bool, keep) -> Estimates:
    """The fits of (count ≤ size, n) complete responses."""
    shared = cp.without_rows(), cp.rows, shortcuts, float(reml)
    width = _width(cp if shortcuts.merged is None else shortcuts.merged.cp)
    found = spread(_solve_chunk, (keep, width), shared, (y, theta), size)
    open_ = np.flatnonzero(found.status == RUNNING)
    if len(open_) == 0:
        return found
    known = None if theta is None else theta[open_]
    rest = _fit(cp, _Shortcuts(), y[open_], known, size, reml, keep)
    jax.tree.map(lambda a, b: a.__setitem__(open_, b), found, rest)
    return found


def _width(cp: CrossProducts) -> int:
    rest = cp.plan.q_rest + cp.p + 1
    if cp.unwhitened is not None:
        return lanes(cp.unwhitened.rows.X.shape[0] * (cp.p + 1) * (cp.plan.n_theta + cp.plan.n_phi), rest)
    return lanes(sum(f.q for f in cp.plan.chain) * (rest if cp.plan.dense_border else cp.p + 1), rest)


def _solve_chunk(shared, batch, count, keep, width: int) -> Estimates:
    """A device's fits of (y, theta); a response that the model explains exactly has failed, as in a single fit."""
    (cp, _, _, reml), (y, _) = shared, batch
    found = _solve_some(shared, batch, count, keep, width)
    left = found.sigma**2 * residual_df(cp, reml)
    return replace(found, status=jnp.where(left > EXACT * jnp.sum(y * y, -1), found.status, FAILED))


def _solve_some(shared, batch, count, keep, width: int) -> Estimates:
    (cp, rows, shortcuts, reml), (y, theta) = shared, batch
    whole, merged = replace(cp, rows=rows), shortcuts.merged
    responses = jax.vmap(lambda v: whole.with_response(v).response)(y)

    def problem(response) -> CrossProducts:
        return replace(cp, response=response)

    def given(response, theta=None) -> Estimates:
        own = problem(response)
        return kept_of(solve(own, reml, None, theta), own, keep)

    def small(response) -> CrossProducts:
        return problem(response) if merged is None else replace(merged.cp, response=merged.response(response))

    def read(response, at: Minimum) -> Estimates:
        own = (small if keep is None else problem)(response)
        e = at_minimum(at._replace(extra=factorise(at.x, own)), column_scale(own), own, reml)
        return kept_of(e, own, keep)

    if not cp.plan.n_theta + cp.plan.n_phi:  # empty arrays, which lax.map cannot cut
        return jax.vmap(given)(responses)
    if theta is not None:
        return _each(lambda a: given(*a), (responses, theta), width)
    if shortcuts.spectrum is not None:
        theta, *known = spectral.minimise(responses, shortcuts.spectrum, cp)
        found = Estimates(theta, *known)
        if keep is None:
            return found
        at = jax.vmap(_minimum)(theta, found.status, found.iterations)
        return replace(found, kept=_each(lambda a: read(*a).kept, (responses, at), width))
    if shortcuts.surface is not None:
        scale = column_scale(cp)
        at = _on_surface(crossed.reduce(responses, shortcuts.surface, cp.p), shortcuts.surface, cp, scale, count[0])
        found = _each(lambda a: read(*a), (responses, at), width)
        sure = abs(found.criterion - at.value) <= AGREED * jnp.maximum(1, abs(found.criterion))
        return replace(found, status=jnp.where(sure & (at.status == CONVERGED), CONVERGED, RUNNING))
    at = minimise_many(small, responses, count[0], reml, width)
    return _each(lambda a: read(*a), (responses, at), width)


def _minimum(theta, status, iterations) -> Minimum:
    zero = jnp.zeros_like(theta)
    return Minimum(theta, 0.0, zero, zero[:, None] * zero, None, status, iterations, iterations < 0)


def kept_of(e: Estimate, cp: CrossProducts, keep) -> Estimates:
    """What a batch holds of one Estimate."""
    kept = None if keep is None else keep.function(e, cp) if isinstance(keep, OfProblem) else keep(e)
    return Estimates(e.theta, e.beta, e.sigma, e.criterion, e.status, e.iterations, kept)


def _each(function: Callable, batch, width: int):
    """vmap in slices of a few lanes, so that memory stays small; one by one where problems are large."""
    return jax.lax.map(function, batch, batch_size=None if width == 1 else width)


def _on_surface(reduced, surface, cp: CrossProducts, scale, count) -> Minimum:
    """The optima of interpolated criteria."""
    start = first_start(cp, scale) * scale

    def step(state, y):
        return iterate(
            state, crossed.evaluation(surface, y, scale), second_start(cp, scale, start), tolerance=SECANT_TOLERANCE
        )

    states = jax.vmap(lambda _: begin(start))(reduced)
    ended = run_lanes(step, _running, states, reduced, count, lanes(surface.sigma.size, 0))
    return jax.vmap(lambda s: rectified(s.at, scale, cp.plan))(ended)


def minimise_many(problem: Callable, batch, count, reml, width: int) -> Minimum:
    """The optimum of `count` problems: batch[i] → CrossProducts, each from the start of a single fit.

    A lane stops where a last Newton step, which needs no evaluation, takes it to rounding.
    """

    def prepare(data):
        cp = problem(data)
        scale = column_scale(cp)
        start = first_start(cp, scale)
        hessian = jnp.diag(curvature_guess(cp, start) / scale**2) if uses_secants(cp) else None
        return begin(start * scale, hessian), (data, scale, start * scale)

    def step(state, known):
        data, scale, start = known
        cp = problem(data)
        slope, secant = evaluation(cp, scale, reml), uses_secants(cp)
        tolerance = SECANT_TOLERANCE if secant else LAST_STEP

        def lean(x):
            return (*slope(x)[:3], None)

        return iterate(state, lean, second_start(cp, scale, start), secant=secant, tolerance=tolerance)

    def finish(state, known):
        data, scale, _ = known
        at = state.at
        last = at._replace(x=at.x + model_step(at.gradient, at.hessian, np.inf)[0])
        last = jax.tree.map(lambda a, b: jnp.where(at.status == CONVERGED, a, b), last, at)
        return rectified(last, scale, problem(data).plan)

    states, known = jax.vmap(prepare)(batch)
    return jax.vmap(finish)(run_lanes(step, _running, states, known, count, width), known)


def _running(state):
    return state.at.status == RUNNING
