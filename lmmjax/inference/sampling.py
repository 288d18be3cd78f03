"""Responses for a bootstrap, in chunks of one compiled shape; replicate i of a seed is the same in any chunk."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from ..core.compile import jit
from ..core.design import Design
from ..core.effects import linear_predictor
from ..core.estimate import Estimate
from ..core.optimize import CONVERGED, FIXED
from ..core.simulate import simulate
from ..errors import DataError
from ..fit import Fit

LARGEST = 2**16  # responses in a chunk
SMALLEST = 16
COPIES = 6  # arrays of a response's size that live at once
RANK = 1e-14  # of second moments, relative to the largest


def check_replicates(n: int) -> None:
    """Raises ValueError unless n is a positive integer."""
    if not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"n={n!r}: give a positive number of replicates")


def failed(status: np.ndarray) -> np.ndarray:
    """(n,) whether a fit did not converge."""
    return ~np.isin(status, (CONVERGED, FIXED))


@dataclass(frozen=True)
class Chunks:
    """n replicates in chunks of `size`; the last one is computed whole and cut. Iterates over (first, count)."""

    n: int
    size: int
    progress: bool = False
    unit: str = " fits"

    def __iter__(self) -> Iterator[tuple[int, int]]:
        with tqdm(total=self.n, unit=self.unit, disable=not self.progress) as bar:
            for first in range(0, self.n, self.size):
                count = min(self.size, self.n - first)
                yield first, count
                bar.update(count)


def chunks(
    n: int, bytes_each: int, memory: int, progress: bool = False, largest: int = LARGEST, unit: str = " fits"
) -> Chunks:
    """Chunks of a power of two, so that few shapes are ever compiled, and of which little is waste."""
    most = max(1, min(largest, memory // max(1, bytes_each)))
    size = 2 ** (int(most).bit_length() - 1)
    while size > SMALLEST and -n % size > n // 8:
        size //= 2
    return Chunks(n, size, progress, unit)


def response_bytes(design: Design) -> int:
    """Memory that one simulated response takes while it is made and fitted."""
    return 8 * (COPIES * design.n + 2 * design.q)


Responses = Callable[[jax.Array, int, int], Any]  # (key, first, size) → (size, n)


def parametric(design: Design, e: Estimate, use_u: bool = False) -> Responses:
    """Draws from the normal model at an estimate; the same responses as `lj.simulate`."""
    b = e.b if use_u else None

    def draw(key, first, size):
        return simulate(design, e.theta, e.beta, e.sigma, key, size, b, first)

    return draw


def residual(fit: Fit, use_u: bool = False) -> Responses:
    """Draws of effects and residuals, rescaled to the estimated variances, with replacement; see `bootstrap`."""
    e, design = fit.estimate, fit.design
    errors = fit.resid("pearson")
    errors = errors - errors.mean()
    errors = errors * (e.sigma / np.sqrt(np.mean(errors**2)))
    pools = None if use_u else tuple(map(partial(_pool, fit), range(len(design.terms))))

    def draw(key, first, size):
        return _resampler(size)(design, e.beta, e.b, errors, pools, key, first)

    return draw


def _pool(fit: Fit, i: int) -> np.ndarray:
    """Term i's effects to draw from, or DataError where there are too few of them to have the estimated covariance."""
    t = fit.templates[i]
    if fit.design.terms[i].level_factor is not None:
        text = "have known correlations and cannot be exchanged: use the parametric bootstrap"
        raise DataError(f"the levels of {fit.schema.groups[i].group!r} {text}")
    pool, reached = reflated(fit.estimate.u[i], t, fit.sigma)
    if np.abs(reached - t @ t.T).max() > 1e-6 * np.abs(t @ t.T).max():
        term = fit.schema.groups[i]
        raise DataError(
            f"the {len(term.levels)} levels of {term.text} cannot have the estimated covariance of its "
            f"{len(term.columns)} effects after centring: use the parametric bootstrap"
        )
    return pool


def reflated(u: np.ndarray, t: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Effects (ℓ, p) of mean zero whose second moments over the levels are σ²TTᵀ, and the TTᵀ that they reach.

    The spherical û (ℓ, p) are centred, made white by the symmetric root of their second moments S and multiplied by
    σTᵀ. Where T has a column of zeros, so has û: directions in which S is zero stay so, and nothing is lost.
    """
    centred = u - u.mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(u))
    kept = values > RANK * values.max()
    vectors = vectors[:, kept]
    white = (centred @ vectors / np.sqrt(values[kept])) @ vectors.T
    return sigma * white @ t.T, t @ vectors @ vectors.T @ t.T


@lru_cache(maxsize=32)
def _resampler(size: int) -> Callable:
    """(size, n) responses from effects and errors (n,) drawn with replacement; the effects b stay if pools is None."""

    def one(design: Design, beta, b, errors, pools, key):
        noise_key, *keys = jax.random.split(key, 1 + len(design.terms))
        noise = _rows(noise_key, errors)
        noise = noise if design.weights is None else noise / jnp.sqrt(design.weights)
        drawn = b if pools is None else [_rows(k, p) for k, p in zip(keys, pools, strict=True)]
        return linear_predictor(design, beta, drawn) + noise

    def run(design: Design, beta, b, errors, pools, key, first):
        numbers = first + jnp.arange(size)
        return jax.vmap(lambda i: one(design, beta, b, errors, pools, jax.random.fold_in(key, i)))(numbers)

    return jit(run, large=True)


def _rows(key, pool):
    return pool[jax.random.randint(key, pool.shape[:1], 0, pool.shape[0])]
