"""Correlations C(φ) within groups of rows, and how to whiten by them.

A structure maps free real numbers φ to correlations. Autoregressions have a bidiagonal inverse factor, compound
symmetry a closed form; the others factorise one small matrix for each set of occasions that occurs, whatever the number
of groups.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from .linalg import cholesky, inverse_factor, solve_lower

SHRINK = 0.9  # of a moment estimate of correlations, towards none


class Correlation(Protocol):
    """Correlations within groups. Positions : the rows in the order of `layout`, some of which may be empty."""

    @property
    def n_phi(self) -> int: ...
    def layout(self, group: np.ndarray, time: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, Any]:
        """Row of each position (N,), which positions hold a row (N,) or None for all, and what the others need."""

    def start(self, where, residuals=None) -> np.ndarray:
        """(n_phi,) φ where a fit begins; residuals : (N,) what is left of y in each position, where it is known."""

    def whiten(self, phi, where, columns) -> tuple[Any, Any]:
        """K columns (N, c) with KᵀK = C⁻¹, and (N,) shares of log|C|, zero in empty positions."""

    def color(self, phi, where, columns) -> Any:
        """K⁻¹ columns."""

    def between(self, phi, a, b) -> Any:
        """Correlations of rows of one group at times a and b, which broadcast."""

    def natural(self, phi) -> Any:
        """The parameters as they are reported."""

    def from_natural(self, values) -> Any:
        """The φ of such parameters."""


class _Markov:
    """Each residual depends on the one before: where is (gap, first), (N,) both."""

    n_phi = 1

    def layout(self, group: np.ndarray, time: np.ndarray):
        order = np.lexsort((time, group))
        first = np.diff(group[order], prepend=-1) != 0
        return order, None, (np.where(first, 0, np.diff(time[order], prepend=0)).astype(time.dtype), first)

    def whiten(self, phi, where, columns):
        r, left = self._step(phi, where)
        before = jnp.concatenate([jnp.zeros_like(columns[:1]), columns[:-1]])
        return (columns - r[:, None] * before) / jnp.sqrt(left)[:, None], jnp.log(left)

    def color(self, phi, where, columns):
        r, left = self._step(phi, where)

        def joined(a, b):
            return a[0] * b[0], b[0] * a[1] + b[1]

        shocks = columns * jnp.sqrt(left)[:, None]
        return jax.lax.associative_scan(joined, (jnp.broadcast_to(r[:, None], shocks.shape), shocks))[1]

    def _step(self, phi, where):
        """(N,) the correlation with the row before, and 1 minus its square; 0 and 1 for the first row of a group."""
        gap, first = where
        r, left = self._decay(phi[0], gap)
        return jnp.where(first, 0, r), jnp.where(first, 1, left)

    def between(self, phi, a, b):
        return self._decay(phi[0], abs(a - b))[0]

    def _decay(self, phi, gap) -> tuple[Any, Any]:
        raise NotImplementedError


@dataclass(frozen=True)
class Autoregressive(_Markov):
    """ρ^|s − t| of integer times s and t; ρ = tanh φ."""

    def start(self, where, residuals=None) -> np.ndarray:
        return np.arctanh([0.3])

    def _decay(self, phi, gap):
        r = jnp.tanh(phi) ** gap
        return r, 1 - r * r

    def natural(self, phi):
        return jnp.tanh(phi)

    def from_natural(self, values):
        return jnp.arctanh(values)


@dataclass(frozen=True)
class ContinuousAutoregressive(_Markov):
    """ρ^|s − t| of any times, 0 < ρ < 1; φ = log(−1/log ρ), so that another unit of time moves φ only."""

    def start(self, where, residuals=None) -> np.ndarray:
        gap, first = where
        return np.log([np.mean(gap[~first]) / np.log(2)])

    def _decay(self, phi, gap):
        log_r = -gap * jnp.exp(-phi)
        return jnp.exp(log_r), -jnp.expm1(2 * log_r)

    def natural(self, phi):
        return jnp.exp(-jnp.exp(-phi))

    def from_natural(self, values):
        return -jnp.log(-jnp.log(values))


@dataclass(frozen=True)
class Exchangeable:
    """One correlation ρ within groups of at most m rows; ρ = (m s − 1)/(m − 1), s = 1/(1 + e^−φ).

    where : (codes, sizes) of the rows' groups (N,) and (G,). The symmetric root of C is a multiple of I in a group, but
    for the mean.
    """

    largest: int
    n_phi: int = 1

    def layout(self, group: np.ndarray, time: np.ndarray):
        order = np.argsort(group, kind="stable")
        return order, None, (group[order].astype(np.int32), np.bincount(group).astype(float))

    def start(self, where, residuals=None) -> np.ndarray:
        return -np.log([self.largest - 1.0])

    def whiten(self, phi, where, columns):
        codes, sizes = where
        alone, together = self._eigenvalues(phi, sizes)
        share = 1 - jnp.sqrt(alone / together)
        log_det = jnp.log(alone) + jnp.log(together / alone) / sizes
        return (columns - _means(columns, codes, sizes, share)) / jnp.sqrt(alone), log_det[codes]

    def color(self, phi, where, columns):
        codes, sizes = where
        alone, together = self._eigenvalues(phi, sizes)
        return (columns - _means(columns, codes, sizes, 1 - jnp.sqrt(together / alone))) * jnp.sqrt(alone)

    def _eigenvalues(self, phi, sizes):
        """1 − ρ, to all its digits, and 1 + (size − 1)ρ."""
        alone = self.largest * jax.nn.sigmoid(-phi[0]) / (self.largest - 1)
        return alone, alone + sizes * self.natural(phi)[0]

    def between(self, phi, a, b):
        return jnp.where(a == b, 1.0, self.natural(phi)[0])

    def natural(self, phi):
        return (self.largest * jax.nn.sigmoid(phi) - 1) / (self.largest - 1)

    def from_natural(self, values):
        alone, together = 1 - values, 1 + (self.largest - 1) * values
        return jnp.log(together / alone) - jnp.log(self.largest - 1.0)


def _means(columns, codes, sizes, share):
    """(N, c) the mean of each row's group times its share (G,)."""
    sums = jax.ops.segment_sum(columns, codes, sizes.shape[0], indices_are_sorted=True)
    return (sums * (share / sizes)[:, None])[codes]


class _ByOccasion:
    """Correlations of T occasions: where is (present, pattern), the P sets of occasions that occur (P, T) and each
    group's (G,). Every group has T positions."""

    occasions: int

    def layout(self, group: np.ndarray, time: np.ndarray):
        groups, t = int(group.max()) + 1, self.occasions
        place = group.astype(np.int64) * t + time
        rows, real = np.zeros(groups * t, np.int64), np.zeros(groups * t, bool)
        rows[place], real[place] = np.arange(len(place)), True
        present, pattern = np.unique(real.reshape(groups, t), axis=0, return_inverse=True)
        return rows, real, (present.astype(float), pattern.ravel().astype(np.int32))

    def start(self, where, residuals=None) -> np.ndarray:
        return np.zeros(self.n_phi)

    def whiten(self, phi, where, columns):
        inverse = self._inverse(phi, where)
        log_det = -2 * jnp.log(jnp.diagonal(inverse, axis1=1, axis2=2))
        grouped = columns.reshape(-1, self.occasions, columns.shape[-1])
        return self._each(inverse, where) @ grouped, log_det[where[1]]

    def color(self, phi, where, columns):
        grouped = columns.reshape(-1, self.occasions, columns.shape[-1])
        return solve_lower(self._each(self._inverse(phi, where), where), grouped)

    def _inverse(self, phi, where):
        """(P, T, T) inverse factors; absent occasions are independent of all."""
        present = where[0].astype(phi.dtype)
        identity = jnp.eye(self.occasions, dtype=phi.dtype)
        kept = self.matrix(phi) * present[:, :, None] * present[:, None, :]
        return jax.vmap(inverse_factor)(kept + identity * (1 - present)[:, None, :])

    def _each(self, per_pattern, where):
        return per_pattern if per_pattern.shape[0] == 1 else per_pattern[where[1]]

    def between(self, phi, a, b):
        return self.matrix(phi)[a, b]

    @property
    def n_phi(self) -> int:
        raise NotImplementedError

    def matrix(self, phi) -> Any:
        """(T, T)."""
        raise NotImplementedError


@dataclass(frozen=True)
class Unstructured(_ByOccasion):
    """Any correlations of T occasions; φ fills the rows below a unit diagonal, which are then scaled to length one:
    C = LLᵀ."""

    occasions: int

    @property
    def n_phi(self) -> int:
        return self.occasions * (self.occasions - 1) // 2

    def start(self, where, residuals=None) -> np.ndarray:
        if residuals is None:
            return np.zeros(self.n_phi)
        there, r = where[0][where[1]], residuals.reshape(-1, self.occasions)
        products, counts = r.T @ r, there.T @ there
        sd = np.sqrt(np.diag(products) / np.diag(counts))
        matrix = SHRINK * products / counts / np.outer(sd, sd)
        np.fill_diagonal(matrix, 1)
        if np.linalg.eigvalsh(matrix)[0] < 1 - SHRINK:  # pairs with other groups each need not fit together
            return np.zeros(self.n_phi)
        rows = np.linalg.cholesky(matrix)
        return (rows / np.diag(rows)[:, None])[np.tril_indices(self.occasions, -1)]

    def matrix(self, phi):
        rows = jnp.eye(self.occasions, dtype=phi.dtype).at[np.tril_indices(self.occasions, -1)].set(phi)
        rows = rows / jnp.sqrt(jnp.sum(rows**2, 1, keepdims=True))
        return rows @ rows.T

    def natural(self, phi):
        rows, cols = np.triu_indices(self.occasions, 1)
        return self.matrix(phi)[cols, rows]

    def from_natural(self, values):
        rows, cols = np.triu_indices(self.occasions, 1)
        factor = cholesky(jnp.eye(self.occasions, dtype=values.dtype).at[cols, rows].set(values))
        return (factor / jnp.diagonal(factor)[:, None])[np.tril_indices(self.occasions, -1)]


@dataclass(frozen=True)
class Toeplitz(_ByOccasion):
    """One correlation for each lag up to `bands`, zero beyond; tanh φ. Not every φ makes a covariance: where none is
    made the criterion is not finite."""

    occasions: int
    bands: int

    @property
    def n_phi(self) -> int:
        return self.bands

    def matrix(self, phi):
        lags = np.subtract.outer(np.arange(self.occasions), np.arange(self.occasions))
        beyond = jnp.zeros(self.occasions - 1 - self.bands, phi.dtype)
        return jnp.concatenate([jnp.ones(1, phi.dtype), jnp.tanh(phi), beyond])[abs(lags)]

    def natural(self, phi):
        return jnp.tanh(phi)

    def from_natural(self, values):
        return jnp.arctanh(values)
