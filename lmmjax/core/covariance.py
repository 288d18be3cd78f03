"""Templates T(θ): the p×p relative covariance factors, one per random-effects term; Var(b of a level) = σ²TTᵀ."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..precision import float64
from .linalg import cholesky
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
        shape = (self.fn.p,) * 2 if self.filled else jax.eval_shape(self.fn, jnp.zeros(self.n_theta)).shape
        if len(shape) != 2 or shape[0] != shape[1] or 0 in shape or not np.isfinite(self(np.array(self.start))).all():
            raise ValueError(f"Template: fn(start) must be a square matrix of finite numbers, (p, p); it is {shape}")
        object.__setattr__(self, "p", shape[0])

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
    def n_theta(self) -> int:
        """Number of parameters."""
        return len(self.start)

    def __call__(self, theta):
        """T(θ), shape (p, p), from θ of shape (n_theta,); NumPy in, NumPy out."""
        if self.filled or not isinstance(theta, np.ndarray):
            return self.fn(theta)
        with float64():
            return np.asarray(self.fn(jnp.asarray(theta)))

    @cached_property
    def basis(self) -> np.ndarray:
        """(n_theta, p, p) ∂T/∂θ at the start; where T is linear, T(θ) = Σₐ θₐ basisₐ."""
        if self.filled:
            return self.fn.basis
        with jax.ensure_compile_time_eval(), float64():
            return np.asarray(jnp.moveaxis(jax.jacfwd(self.fn)(jnp.array(self.start)), -1, 0))

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
    """T whose lower triangle ("full"), column by column, or whose diagonal is θ."""

    p: int
    kind: str

    def __post_init__(self) -> None:
        if self.p < 1:
            raise ValueError(f"Template: a term has at least one column, not {self.p}")

    @cached_property
    def indices(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of T that θ fills, in θ's order."""
        cols, rows = np.triu_indices(self.p) if self.kind == "full" else np.diag_indices(self.p)
        return rows.astype(np.int32), cols.astype(np.int32)  # 32 bits: JAX may be without wider ones

    @cached_property
    def basis(self) -> np.ndarray:
        """(n_theta, p, p) with T(θ) = Σₐ θₐ basisₐ."""
        rows, cols = self.indices
        out = np.zeros((len(rows), self.p, self.p))
        out[np.arange(len(rows)), rows, cols] = 1
        return out

    def __call__(self, theta):
        return namespace(theta).tensordot(theta, self.basis.astype(theta.dtype), 1)


@dataclass(frozen=True)
class CompoundSymmetry:
    """See `Template.compound_symmetry`."""

    p: int

    def __call__(self, theta):
        share = jax.nn.sigmoid(theta[1])  # of the eigenvalue along (1, …, 1) in the trace
        rho = (self.p * share - 1) / max(self.p - 1, 1)
        eye = jnp.eye(self.p, dtype=theta.dtype)
        return theta[0] * cholesky(rho + (1 - rho) * eye)


@dataclass(frozen=True)
class Autoregressive:
    """See `Template.ar1`."""

    p: int

    def __call__(self, theta):
        rho = jnp.tanh(theta[1])
        powers = jnp.stack([rho**k for k in range(self.p)])
        return theta[0] * _markov(powers[abs(np.subtract.outer(np.arange(self.p), np.arange(self.p)))])


@dataclass(frozen=True)
class Exponential:
    """See `Template.exponential`."""

    positions: tuple[float, ...]

    def __call__(self, theta):
        distance = abs(np.subtract.outer(self.positions, self.positions)).astype(theta.dtype)
        return theta[0] * _markov(jnp.exp(-distance * jnp.exp(-theta[1])))


def _markov(correlation):
    """The Cholesky factor of a Markov chain's correlations: rᵢⱼ √(1 − rⱼ,ⱼ₋₁²)."""
    before = jnp.diagonal(correlation, -1)
    return jnp.tril(correlation) * jnp.sqrt(1 - jnp.concatenate([jnp.zeros(1, before.dtype), before]) ** 2)
