"""R(φ) = S C S: how the residuals of one group are correlated (C) and how their standard deviations differ (S).

Whitening multiplies the rows of each group by the inverse of a factor of its block of R.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from .correlation import Correlation


class Variance(Protocol):
    """Standard deviations relative to σ. n_phi : parameters. at : what `log_sd` needs to know of each row, (n,)."""

    @property
    def n_phi(self) -> int: ...
    def log_sd(self, phi, at) -> Any:
        """(n,) log s."""

    def natural(self, phi) -> Any:
        """(n_phi,) the parameters as they are reported."""

    def from_natural(self, values) -> Any:
        """The φ of such parameters."""

    def start(self, at, residuals) -> np.ndarray:
        """(n_phi,) φ where a fit begins, from what is left of y, (N,)."""


@dataclass(frozen=True)
class Identified:
    """Standard deviations by level, relative to the first one's. φ : logarithms of these ratios; at : codes."""

    levels: int

    @property
    def n_phi(self) -> int:
        return self.levels - 1

    def log_sd(self, phi, at):
        return jnp.concatenate([jnp.zeros(1, phi.dtype), phi])[at]

    def natural(self, phi):
        return jnp.exp(phi)

    def from_natural(self, values):
        return jnp.log(values)

    def start(self, at, residuals) -> np.ndarray:
        sums, counts = np.bincount(at, residuals**2, self.levels), np.bincount(at, residuals != 0, self.levels)
        log_sd = 0.5 * np.log(np.maximum(sums, 1e-300) / np.maximum(counts, 1))
        return log_sd[1:] - log_sd[0] if sums.all() else np.zeros(self.n_phi)


@dataclass(frozen=True)
class Power:
    """|v|^φ of a covariate v. at : log|v|."""

    n_phi: int = 1

    def log_sd(self, phi, at):
        return phi[0] * at

    def natural(self, phi):
        return phi

    def from_natural(self, values):
        return values

    def start(self, at, residuals) -> np.ndarray:
        return np.zeros(1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Residual:
    """R(φ) of a design's rows. φ (k,) : the correlation's parameters, then those of the variances.

    correlation, variances : structures, static. rows : (N,) the row in each position. real : (N,) whether there is one,
    None for all. where : what the correlation needs. at : for each variance structure what it needs, by position.
    group, time : (N,) by position. start : (k,).
    """

    correlation: Any = field(metadata={"static": True})
    variances: tuple[Any, ...] = field(metadata={"static": True})
    rows: Any
    real: Any
    where: Any
    at: tuple[Any, ...]
    group: Any
    time: Any
    start: Any

    @classmethod
    def of(
        cls,
        n: int,
        correlation: Correlation | None = None,
        group: np.ndarray | None = None,
        time: np.ndarray | None = None,
        variances: Sequence[tuple[Variance, np.ndarray]] = (),
    ) -> "Residual":
        """For n rows, NumPy only. group : (n,) codes 0, 1, …; time : (n,), integers for an `Autoregressive` and codes
        of occasions for those that have some. variances : structures, each with its (n,)."""
        group = np.arange(n) if group is None else group
        time = np.zeros(n) if time is None else time
        rows, real, where = np.arange(n), None, ()
        parts = []
        if correlation is not None:
            rows, real, where = correlation.layout(group, time)
            parts.append(correlation.start(where))
        kinds = tuple(v for v, _ in variances)
        start = np.concatenate([*parts, *(np.zeros(v.n_phi) for v in kinds)])
        at = tuple(a[rows] for _, a in variances)
        return cls(correlation, kinds, rows, real, where, at, group[rows], time[rows], start)

    def started(self, residuals: np.ndarray) -> "Residual":
        """With a start from what is left of y, (n,), NumPy only: moments, as if nothing else correlated the rows."""
        placed, parts = self.arrange(residuals), []
        for variance, at in zip(self.variances, self.at, strict=True):
            parts.append(variance.start(at, placed))
            placed = placed * np.exp(-np.asarray(variance.log_sd(parts[-1], at)))
        if self.correlation is not None:
            parts.insert(0, self.correlation.start(self.where, placed))
        return replace(self, start=np.concatenate(parts))

    @property
    def n_phi(self) -> int:
        """Number of parameters k."""
        return sum(s.n_phi for s in self.structures)

    @property
    def structures(self) -> tuple[Any, ...]:
        """All of them, in the order of φ."""
        return (() if self.correlation is None else (self.correlation,)) + self.variances

    def split(self, phi) -> list[Any]:
        """φ of each structure."""
        return split(self.structures, phi)

    @property
    def occupied(self) -> tuple[Any, Any]:
        """(n,) rows and the groups that they belong to."""
        return (self.rows, self.group) if self.real is None else (self.rows[self.real], self.group[self.real])

    def arrange(self, columns):
        """(N, …) rows in their positions, zero in empty ones."""
        placed = columns[self.rows]
        return placed if self.real is None else placed * self.real.reshape(-1, *[1] * (columns.ndim - 1))

    def restore(self, placed, n: int):
        """(n, c) rows from their positions."""
        rows = self.rows if self.real is None else jnp.where(self.real, self.rows, n)
        return jnp.zeros((n, placed.shape[1]), placed.dtype).at[rows].set(placed, mode="drop")

    def log_sd(self, phi):
        """(N,) log s."""
        own = self.split(phi)[len(self.structures) - len(self.variances) :]
        parts = [v.log_sd(p, a) for v, p, a in zip(self.variances, own, self.at, strict=True)]
        return sum(parts, jnp.zeros(self.rows.shape[0], phi.dtype))

    def whiten(self, phi, placed):
        """K placed (N, c) with KᵀK = R⁻¹, and (N,) shares of log|R|."""
        log_sd, log_det = self.log_sd(phi), 0.0
        placed = placed * jnp.exp(-log_sd)[:, None] if self.variances else placed
        if self.correlation is not None:
            placed, log_det = self.correlation.whiten(self.split(phi)[0], self.where, placed)
            placed, log_det = placed.reshape(-1, placed.shape[-1]), log_det.reshape(-1)
        of_sd = 2 * log_sd
        return placed, log_det + (of_sd if self.real is None else jnp.where(self.real, of_sd, 0))

    def color(self, phi, placed):
        """K⁻¹ placed (N, c): what `whiten` undoes."""
        if self.correlation is not None:
            placed = self.correlation.color(self.split(phi)[0], self.where, placed).reshape(placed.shape)
        return placed * jnp.exp(self.log_sd(phi))[:, None]

    def natural(self, phi):
        """(k,) the parameters as they are reported."""
        return natural(self.structures, phi)


def split(structures: tuple[Any, ...], phi) -> list[Any]:
    """φ (…, k) of each structure."""
    stops = np.cumsum([0, *(s.n_phi for s in structures)])
    return [phi[..., a:b] for a, b in zip(stops, stops[1:], strict=False)]


def natural(structures: tuple[Any, ...], phi):
    """(k,) the parameters of all structures as they are reported."""
    own = [s.natural(p) for s, p in zip(structures, split(structures, phi), strict=True)]
    return jnp.concatenate([*own, phi[:0]])
