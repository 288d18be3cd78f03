"""The geometry of sequential sums of squares: what each block of columns adds to those before it. NumPy only."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from ..formula.matrices import TOLERANCE


def unit(X: np.ndarray) -> np.ndarray:
    """The columns of X (n, p) at length one."""
    return X / np.linalg.norm(X, axis=0)


def indicators(codes: np.ndarray) -> np.ndarray:
    """(n, ℓ) zeros and ones of a factor with codes (n,), every one of which occurs."""
    return np.eye(codes.max() + 1)[codes]


def crossed(codes: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The interaction of factors, the first slowest: its (n,) codes, and (cells, factors) codes of the cells it has."""
    frame = pd.DataFrame(np.column_stack(codes))
    cells = frame.drop_duplicates().sort_values(list(frame.columns)).to_numpy()
    return frame.groupby(list(frame.columns)).ngroup().to_numpy(), cells


def project(basis: np.ndarray, a: np.ndarray) -> np.ndarray:
    """The part of a, (n,) or (n, k), in the span of an orthonormal basis (n, r)."""
    return basis @ (basis.T @ a)


def subspaces(blocks: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Orthonormal bases (n, rᵢ) of what each block adds to the span of those before it, orthogonal to one another.

    blocks : (n, cᵢ) arrays whose columns had length one before they were projected on a stratum, if they were.
    With basis U, a block has the sequential sum of squares |Uᵀy|² on rᵢ degrees of freedom.
    """
    bases: list[np.ndarray] = []
    for block in blocks:
        for _ in range(2):  # once more for the rounding of the first projection
            for basis in bases:
                block = block - project(basis, block)
        u, lengths, _ = np.linalg.svd(block, full_matrices=False)
        bases.append(u[:, lengths > TOLERANCE])
    return bases
