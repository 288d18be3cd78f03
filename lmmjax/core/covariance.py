"""Templates T(θ): the p×p relative covariance factors, one per random-effects term; Var(b of a level) = σ²TTᵀ."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..precision import float64
from .namespace import namespace


@dataclass(frozen=True)
class Template:
    """How the parameters of one term make its relative covariance factor.

    fn : any JAX function θ (n_theta,) → T (p, p). start : θ where a fit begins. The name of the parameters is the
    author's affair; they run free of bounds, so that fn maps the whole real line to what it needs (see `ar1`).
    Hashable, as `fn` must be, so that it can be static under `jit`: two templates are equal if their fn and start are,
    so that a function made anew compiles anew. Raises ValueError where fn(start) is not a square matrix of numbers.
    """

    fn: Any
    start: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", tuple(float(s) for s in np.atleast_1d(np.asarray(self.start, float))))
        t = np.asarray(self(np.array(self.start)))
        if t.ndim != 2 or t.shape[0] != t.shape[1] or not t.size or not np.isfinite(t).all():
            raise ValueError(f"Template: fn(start) must be a square matrix of finite numbers, (p, p); it is {t.shape}")
        object.__setattr__(self, "p", len(t))

    p: int = field(init=False)

    @classmethod
    def full(cls, p: int) -> "Template":
        """Any covariance: θ fills the lower triangle column by column (lme4's order)."""
        return cls._of(Filled(p, "full"))

    @classmethod
    def diagonal(cls, p: int) -> "Template":
        """Independent effects: θ fills the diagonal."""
        return cls._of(Filled(p, "diagonal"))

    @classmethod
    def square(cls, p: int) -> "Template":
        """Any covariance by a T that need not be triangular: θ fills it column by column."""
        return cls._of(Filled(p, "square"))

    @classmethod
    def compound_symmetry(cls, p: int) -> "Template":
        """Equal variances and equal correlations ρ: θ = (sd, z), ρ = (p s − 1)/(p − 1), s = 1/(1 + e^−z)."""
        return cls(CompoundSymmetry(p), (1.0, -float(np.log(max(p - 1, 1)))))

    @classmethod
    def ar1(cls, p: int) -> "Template":
        """Equal variances and correlations ρ^|i−j| of the columns i and j: θ = (sd, z), ρ = tanh z."""
        return cls(Autoregressive(p), (1.0, 0.0))

    @classmethod
    def exponential(cls, positions: Sequence[float]) -> "Template":
        """Equal variances and correlations exp(−|tᵢ−tⱼ|/r): positions t (p,) ascending; θ = (sd, log r)."""
        gaps = np.diff(np.asarray(positions, float))
        if not (gaps > 0).all():
            raise ValueError(f"Template.exponential: positions must ascend: {list(positions)}")
        return cls(Exponential(tuple(map(float, positions))), (1.0, float(np.log(gaps.mean())) if len(gaps) else 0.0))

    @classmethod
    def _of(cls, filled: "Filled") -> "Template":
        rows, cols = filled.indices
        return cls(filled, tuple((rows == cols).astype(float)))

    @property
    def filled(self) -> bool:
        """Whether each θ is one entry of T, so that T is linear and even in the columns' signs."""
        return isinstance(self.fn, Filled)

    @property
    def is_full(self) -> bool:
        """Whether every covariance is allowed, by a triangular T."""
        return self.filled and (self.fn.kind == "full" or self.fn.kind == "diagonal" and self.p == 1)

    @property
    def is_diagonal(self) -> bool:
        """Whether several variances are free and no covariance is."""
        return self.filled and self.fn.kind == "diagonal" and self.p > 1

    @property
    def n_theta(self) -> int:
        """Number of parameters."""
        return len(self.start)

    def __call__(self, theta):
        """T(θ), (p, p), from θ (n_theta,), or stacks of both; NumPy in, NumPy out."""
        if self.filled:
            return self.fn(theta)
        if not isinstance(theta, np.ndarray):
            return self.fn(theta) if theta.ndim == 1 else jax.vmap(self.fn)(theta)
        with float64():
            return np.asarray(_whole(self.fn, theta.ndim > 1)(jnp.asarray(theta)))

    @cached_property
    def basis(self) -> np.ndarray:
        """(n_theta, p, p) ∂T/∂θ at the start; where T is linear, T(θ) = Σₐ θₐ basisₐ."""
        if self.filled:
            return self.fn.basis
        with jax.ensure_compile_time_eval(), float64():
            return np.moveaxis(np.asarray(jax.jit(jax.jacfwd(self.fn))(jnp.array(self.start))), -1, 0)

    def reach(self, theta):
        """(n_theta,) ‖∂T/∂θⱼ Tᵀ‖: zero where the covariance TTᵀ does not move with θⱼ. Where T is linear it is the norm
        of θⱼ's column."""
        t = self(theta)
        if self.filled:
            return jnp.sqrt(jnp.sum(t**2, 0))[self.fn.indices[1]]
        moved = jnp.moveaxis(jax.jacfwd(self.fn)(theta), -1, 0) @ t.T
        return jnp.sqrt(jnp.sum(moved**2, (-2, -1)))

    def column_signs(self, theta):
        """(p,) of ±1 that make the diagonal of T non-negative and leave TTᵀ as it is; ones where T is not linear."""
        xp = namespace(theta)
        t = self(theta)
        return (xp.where(xp.diagonal(t) < 0, -1, 1) if self.filled else xp.ones(self.p)).astype(theta.dtype)

    def signs(self, theta):
        """(n_theta,) the sign of the column that each θ stands in."""
        signs = self.column_signs(theta)
        return signs[self.fn.indices[1]] if self.filled else namespace(theta).ones_like(theta)


@dataclass(frozen=True)
class Filled:
    """T whose lower triangle ("full") or whole ("square"), column by column, or whose diagonal is θ."""

    p: int
    kind: str

    def __post_init__(self) -> None:
        if self.p < 1:
            raise ValueError(f"Template: a term has at least one column, not {self.p}")

    @cached_property
    def indices(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of T that θ fills, in θ's order."""
        if self.kind == "square":
            cols, rows = np.indices((self.p, self.p)).reshape(2, -1)
        else:
            cols, rows = np.triu_indices(self.p) if self.kind == "full" else np.diag_indices(self.p)
        return rows.astype(np.int32), cols.astype(np.int32)  # 32 bits: JAX may be without wider ones

    @cached_property
    def basis(self) -> np.ndarray:
        """(n_theta, p, p) with T(θ) = Σₐ θₐ basisₐ."""
        rows, cols = self.indices
        out = np.zeros((len(rows), self.p, self.p))
        out[np.arange(len(rows)), rows, cols] = 1
        return out

    @cached_property
    def entries(self) -> np.ndarray:
        """(n_theta, p, p) ∂Σ along each entry of a covariance Σ = TTᵀ that θ leaves free: ones there."""
        return np.maximum(self.basis, self.basis.swapaxes(1, 2))

    def __call__(self, theta):
        return namespace(theta).tensordot(theta, self.basis.astype(theta.dtype), 1)


@lru_cache(maxsize=64)
def _whole(fn: Any, stacked: bool) -> Any:
    """fn, or its vmap, in one compilation: operation by operation JAX would compile each."""
    return jax.jit(jax.vmap(fn) if stacked else fn)


@dataclass(frozen=True)
class CompoundSymmetry:
    """See `Template.compound_symmetry`."""

    p: int

    def __call__(self, theta):
        p = self.p
        if p == 1:
            return theta[:1, None]
        share = jax.nn.sigmoid(theta[1])  # of the eigenvalue along (1, …, 1) in the trace
        rho, rest = (
            (p * share - 1) / (p - 1),
            p * jax.nn.sigmoid(-theta[1]) / (p - 1),
        )  # rest = 1 − ρ, to all its digits
        k = np.arange(1, p)
        grown = jnp.append(1 + k[:-1] * rho, p * share)  # 1 + kρ
        before = jnp.append(jnp.ones(1, theta.dtype), grown[:-1])
        diagonal = jnp.append(jnp.ones(1, theta.dtype), jnp.sqrt(rest * grown / before))
        below = rho * jnp.append(jnp.ones(1, theta.dtype), jnp.sqrt(rest / (before * grown)))
        return theta[0] * (jnp.tril(jnp.broadcast_to(below, (p, p)), -1) + jnp.diag(diagonal))


@dataclass(frozen=True)
class Autoregressive:
    """See `Template.ar1`."""

    p: int

    def __call__(self, theta):
        rho = jnp.tanh(theta[1])
        powers = jnp.stack([rho**k for k in range(self.p)])
        correlation = powers[abs(np.subtract.outer(np.arange(self.p), np.arange(self.p)))]
        # √(1 − ρ²) = 1/cosh z, to all its digits
        return theta[0] * _markov(correlation, jnp.broadcast_to(1 / jnp.cosh(theta[1]), self.p - 1))


@dataclass(frozen=True)
class Exponential:
    """See `Template.exponential`."""

    positions: tuple[float, ...]

    def __call__(self, theta):
        distance = abs(np.subtract.outer(self.positions, self.positions)).astype(theta.dtype)
        scaled = -distance * jnp.exp(-theta[1])
        return theta[0] * _markov(jnp.exp(scaled), jnp.sqrt(-jnp.expm1(2 * jnp.diagonal(scaled, -1))))


def _markov(correlation, innovation):
    """The Cholesky factor of a Markov chain's correlations: rᵢⱼ √(1 − rⱼ,ⱼ₋₁²), the root given (p − 1,)."""
    return jnp.tril(correlation) * jnp.concatenate([jnp.ones(1, correlation.dtype), innovation])
