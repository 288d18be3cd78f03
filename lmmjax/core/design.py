"""The arrays of a model: fixed-effects matrix, response, weights, offset and the raw pieces of each Zᵢ."""

from dataclasses import dataclass, field, replace
from typing import Any

import jax

from .covariance import Template
from .residual import Residual


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RandomTerm:
    """One term (r | g): Zᵢ is the transposed Khatri–Rao product of g's indicators and `x`; it is never formed.

    x : (n, p) raw model matrix of r.
    codes : (n,) integers in [0, n_levels), the level of g in each row.
    n_levels : number of levels ℓ (static).
    template : T(θ) with `template.p == p` (static).
    level_factor : (ℓ, ℓ) lower-triangular L where the levels are correlated, A = LLᵀ (kinship, distance); else None.
        The effects b (ℓ, p) then have the covariance σ²A between levels times TTᵀ between columns.
    """

    x: Any
    codes: Any
    n_levels: int = field(metadata={"static": True})
    template: Template = field(metadata={"static": True})
    level_factor: Any = None

    @property
    def p(self) -> int:
        """Columns of the raw model matrix."""
        return self.template.p


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Design:
    """y | b ~ N(Xβ + Zb + offset, σ² W^-½ R(φ) W^-½), W = diag(weights), with Z = [Z₁ … Z_k] kept as `terms`.

    X : (n, p); y : (n,); weights, offset : (n,) or None (ones, zeros). residual : R(φ), or None for R = I.
    Arrays may be NumPy's or JAX's; the dtype of every computation follows them.
    """

    X: Any
    y: Any
    terms: tuple[RandomTerm, ...] = ()
    weights: Any = None
    offset: Any = None
    residual: Residual | None = None

    @property
    def n(self) -> int:
        """Number of rows."""
        return self.X.shape[0]

    @property
    def p(self) -> int:
        """Number of fixed-effects columns."""
        return self.X.shape[1]

    @property
    def q(self) -> int:
        """Number of random effects, the columns of Z."""
        return sum(t.p * t.n_levels for t in self.terms)

    @property
    def n_theta(self) -> int:
        """Number of covariance parameters."""
        return sum(t.template.n_theta for t in self.terms)

    @property
    def n_phi(self) -> int:
        """Number of parameters of the residual structure."""
        return 0 if self.residual is None else self.residual.n_phi

    def replace(self, **changes) -> "Design":
        """A copy with some arrays exchanged."""
        return replace(self, **changes)
