"""Templates T(θ): the p×p lower-triangular relative covariance factors, one per random-effects term."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .namespace import namespace

KINDS = ("full", "diagonal")


@dataclass(frozen=True)
class Template:
    """How the parameters of one term fill its relative covariance factor.

    `full` fills the lower triangle column by column (lme4's order of θ); `diagonal` only the diagonal.
    Hashable, so that it can be static under `jit`.
    """

    p: int
    kind: str = "full"

    def __post_init__(self) -> None:
        if self.kind not in KINDS or self.p < 1:
            raise ValueError(f"Template(p={self.p}, kind={self.kind!r}): p must be positive and kind one of {KINDS}")

    @cached_property
    def indices(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of T that θ fills, in θ's order."""
        cols, rows = np.triu_indices(self.p) if self.kind == "full" else np.diag_indices(self.p)
        return rows.astype(np.int32), cols.astype(np.int32)  # 32 bits: JAX may be without wider ones

    @property
    def n_theta(self) -> int:
        """Number of parameters."""
        return len(self.indices[0])

    @cached_property
    def start(self) -> np.ndarray:
        """lme4's start, T = I."""
        rows, cols = self.indices
        return (rows == cols).astype(float)

    @cached_property
    def basis(self) -> np.ndarray:
        """(n_theta, p, p) with T(θ) = Σₐ θₐ basisₐ."""
        out = np.zeros((self.n_theta, self.p, self.p))
        out[np.arange(self.n_theta), *self.indices] = 1
        return out

    def __call__(self, theta):
        """T(θ), shape (p, p), from θ of shape (n_theta,)."""
        return namespace(theta).tensordot(theta, self.basis.astype(theta.dtype), 1)

    def signs(self, theta):
        """(n_theta,) of ±1: times θ they leave TTᵀ as it is and make the diagonal of T non-negative."""
        xp = namespace(theta)
        return xp.where(xp.diagonal(self(theta)) < 0, -1, 1).astype(theta.dtype)[self.indices[1]]
