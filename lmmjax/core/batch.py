"""estimate_many(cp, Y) → Estimates: one design, many responses, each at its own optimum."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from . import spectral
from .compile import jit
from .criterion import factorise
from .crossprod import CrossProducts
from .estimate import Estimate, at_minimum, evaluation, first_start, rectified, second_start, solve, uses_secants
from .lanes import run_lanes
from .levels import merge_levels
from .optimize import RUNNING, SECANT_TOLERANCE, Minimum, begin, iterate
from .start import column_scale, curvature_guess

LARGEST_CHUNK = 2**16
LANES = 128  # at most, on a CPU
LANE_NUMBERS = 2**16  # that a step of all lanes may work on
LARGE_REST = 24  # dense columns from which problems are solved one by one


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


def estimate_many(
    cp: CrossProducts,
    Y: Any,
    reml: bool = True,
    keep: Callable[[Estimate], Any] | None = None,
    memory: int = 2**28,
    progress: bool = False,
) -> Estimates:
    """Fits every row of Y, (B, n), each at its own optimum of the ML or REML criterion.

    Y : an array or memmap of responses to the rows of `cp`; NaN marks rows that a response does not have.
    keep : a JAX function of an Estimate, to be had for each fit as well; a compilation belongs to the function, so
    give the same one again rather than another of the same text. memory : bytes that a chunk may take. progress : show
    a tqdm bar. Never raises for a response: see `status`. Spread over all local devices, and over the processes of
    `jax.distributed`. NumPy out. Raises ValueError where Y does not fit the rows.
    """
    n = _rows(cp)
    if len(np.shape(Y)) != 2 or np.shape(Y)[1] != n:
        raise ValueError(f"Y has shape {np.shape(Y)}; the cross-products have {n} rows: give (responses, {n})")
    total, size = np.shape(Y)[0], _chunk(cp, np.shape(Y)[0], memory)
    mine = _share(range(0, total, size))
    shortcuts = _shortcuts(cp, reml)
    parts = [
        _chunk_of(cp, shortcuts, Y, slice(a, min(a + size, total)), size, reml, keep) for a in _bar(mine, progress)
    ]
    return _gather(parts, cp, total, size)


def _rows(cp: CrossProducts) -> int:
    if cp.rows is None:
        raise ValueError("these cross-products have no rows left: form them from the whole design")
    return cp.rows.y.shape[0]


def _chunk(cp: CrossProducts, total: int, memory: int) -> int:
    """Responses in a chunk: a power of two for each device."""
    q = sum(f.q for f in cp.plan.chain + cp.plan.rest)
    bytes_each = 8 * (3 * _rows(cp) + 8 * (q + cp.plan.q_rest + cp.p))
    devices = len(jax.local_devices())
    most = max(1, min(LARGEST_CHUNK, memory // bytes_each, -(-total // devices)))
    power = 2 ** int(np.log2(most))
    return devices * (power if power * devices >= min(total, most * devices) or most >= total else power)


def _chunk_of(cp: CrossProducts, shortcuts, Y, part: slice, size: int, reml: bool, keep) -> Estimates:
    """The fits of one chunk, (part,) of them."""
    y = Y[part]
    y = y if isinstance(y, jax.Array) else np.asarray(y, cp.dense.dtype)
    missing = np.isnan(y) if isinstance(y, np.ndarray) else np.asarray(jnp.isnan(y))
    if not missing.any():
        return _fit(cp, shortcuts, y, size, reml, keep)
    patterns, which = np.unique(missing, axis=0, return_inverse=True)
    out: Any = None
    for i, pattern in enumerate(patterns):
        rows = np.flatnonzero(which.ravel() == i)
        masked = cp.with_case_weights(rows=np.where(pattern, 0.0, 1.0)) if pattern.any() else cp
        found = _fit(masked, _shortcuts(masked, reml), np.where(pattern, 0.0, np.asarray(y)[rows]), size, reml, keep)
        out = jax.tree.map(lambda a: np.zeros((len(y), *a.shape[1:]), a.dtype), found) if out is None else out
        jax.tree.map(lambda a, f, rows=rows: a.__setitem__(rows, f), out, found)
    return out


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Shortcuts:
    """What one design allows: a spectrum, or fewer levels, or neither."""

    spectrum: Any = None
    merged: Any = None


def _shortcuts(cp: CrossProducts, reml: bool) -> _Shortcuts:
    if spectral.applies(cp):
        return _Shortcuts(spectral.spectrum(cp, reml))
    return _Shortcuts(merged=merge_levels(cp)) if cp.plan.templates else _Shortcuts()


def _fit(cp: CrossProducts, shortcuts: _Shortcuts, y, size: int, reml: bool, keep) -> Estimates:
    """The fits of (count ≤ size, n) complete responses, padded to `size`."""
    count, devices = len(y), len(jax.local_devices())
    short = size - count
    pad = jnp.pad if isinstance(y, jax.Array) else np.pad
    y = pad(y, ((0, short), (0, 0)), mode="edge") if short else y
    counts = np.clip(count - np.arange(devices) * (size // devices), 0, size // devices)
    run = _compiled(keep, _width(cp if shortcuts.merged is None else shortcuts.merged.cp), devices)
    found = run(cp.without_rows(), cp.rows, shortcuts, y, counts, float(reml))
    return jax.tree.map(lambda a: np.asarray(a)[:count], found)


def _width(cp: CrossProducts) -> int:
    """Lanes: as many as keep a step's arrays in the cache of a CPU; many more on an accelerator."""
    if cp.plan.q_rest + cp.p > LARGE_REST:
        return 1
    numbers = sum(f.q for f in cp.plan.chain) * (cp.p + 1 + cp.plan.q_rest) + 1
    if jax.default_backend() != "cpu":
        return 2 ** int(np.log2(max(1, min(2**15, 2**27 // numbers))))
    return 2 ** int(np.log2(max(8, min(LANES, LANE_NUMBERS // numbers))))


@lru_cache(maxsize=64)
def _compiled(keep, width: int, devices: int) -> Callable:
    def run(cp, rows, shortcuts, y, counts, reml):
        body = partial(_solve_chunk, keep=keep, width=width)
        if devices == 1:
            return body(cp, rows, shortcuts, y, counts, reml)
        each, all_ = PartitionSpec("batch"), PartitionSpec()
        mesh = Mesh(np.array(jax.local_devices()), ("batch",))
        specs = (all_, all_, all_, each, each, all_)
        return jax.shard_map(body, mesh=mesh, in_specs=specs, out_specs=each, check_vma=False)(
            cp, rows, shortcuts, y, counts, reml
        )

    return jit(run)


def _solve_chunk(cp: CrossProducts, rows, shortcuts, y, counts, reml, keep, width: int) -> Estimates:
    """One device's share of a chunk: y (size, n), of which counts (1,) are real."""
    whole, merged = replace(cp, rows=rows), shortcuts.merged
    responses = jax.vmap(lambda v: whole.with_response(v).response)(y)

    def problem(response) -> CrossProducts:
        return replace(cp, response=response)

    def small(response) -> CrossProducts:
        return problem(response) if merged is None else replace(merged.cp, response=merged.response(response))

    def read(response, at: Minimum) -> Estimate:
        own = (small if keep is None else problem)(response)
        return at_minimum(at._replace(extra=factorise(at.x, own)), column_scale(own), own, reml)

    if shortcuts.spectrum is not None:
        theta, *known = spectral.minimise(responses, shortcuts.spectrum, cp)
        found = Estimates(theta, *known)
        if keep is None:
            return found
        at = jax.vmap(_minimum)(theta, found.status, found.iterations)
        return replace(found, kept=_each(lambda a: keep(read(*a)), (responses, at), width))
    if not cp.plan.templates:
        return _each(lambda r: _kept(solve(problem(r), reml, None, None), keep), responses, width)
    at = minimise_many(small, responses, counts[0], reml, width)
    return _each(lambda a: _kept(read(*a), keep), (responses, at), width)


def _minimum(theta, status, iterations) -> Minimum:
    zero = jnp.zeros_like(theta)
    return Minimum(theta, 0.0, zero, zero[:, None] * zero, None, status, iterations, iterations < 0)


def _kept(e: Estimate, keep) -> Estimates:
    return Estimates(e.theta, e.beta, e.sigma, e.criterion, e.status, e.iterations, None if keep is None else keep(e))


def _each(function: Callable, batch, width: int):
    """vmap in slices of a few lanes, so that memory stays small; one by one where problems are large."""
    return jax.lax.map(function, batch, batch_size=None if width == 1 else width)


def minimise_many(problem: Callable, batch, count, reml, width: int) -> Minimum:
    """The optimum of `count` problems: batch[i] → CrossProducts, each from the start of a single fit."""

    def begin_one(data):
        cp = problem(data)
        scale = column_scale(cp)
        start = first_start(cp, scale)
        hessian = jnp.diag(curvature_guess(cp, start) / scale**2) if uses_secants(cp) else None
        return begin(start * scale, hessian)

    def step(state, data):
        cp = problem(data)
        scale = column_scale(cp)
        evaluate, retry = evaluation(cp, scale, reml), second_start(cp, first_start(cp, scale) * scale)

        def lean(x):
            return (*evaluate(x)[:3], None)

        return iterate(state, lean, retry, secant=uses_secants(cp), tolerance=SECANT_TOLERANCE)

    def result(state, data):
        cp = problem(data)
        return rectified(state.at, column_scale(cp), cp.plan)

    return run_lanes(begin_one, step, lambda s: s.at.status == RUNNING, result, batch, count, width)


def _share(starts: range) -> list[int]:
    """This process's part of the chunks, under `jax.distributed`."""
    return list(starts)[jax.process_index() :: jax.process_count()]


def _gather(parts: list[Estimates], cp: CrossProducts, total: int, size: int) -> Estimates:
    return jax.tree.map(lambda *a: np.concatenate(a), *parts)


def _bar(chunks: list[int], progress: bool) -> Iterator[int]:
    from tqdm import tqdm

    return tqdm(chunks, disable=None if progress else True)
