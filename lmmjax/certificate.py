"""What shows that a fit is at its optimum: gradient, curvature, and the directions of T that vanished."""

from dataclasses import dataclass

import numpy as np

from .core.optimize import CONVERGED, FIXED, STATUS
from .core.rectify import SINGULAR


@dataclass(frozen=True)
class Certificate:
    """The first- and second-order conditions at θ̂, in units where each column of Z has root mean square one.

    gradient : largest absolute derivative of the criterion. expected_decrease : what a Newton step could still gain, in
    units of the criterion (twice log-likelihood). curvature : smallest eigenvalue of the Hessian; on a boundary a
    non-negative one says that the criterion rises as the vanished variance grows, which is the first-order condition
    there. resolution : rounding error of the criterion. vanished : the directions in which a T has no variance.
    """

    gradient: float
    expected_decrease: float
    curvature: float
    resolution: float
    vanished: tuple[str, ...]
    status: int
    iterations: int

    @property
    def optimal(self) -> bool:
        """Whether the conditions of a minimum hold to within rounding."""
        flat = np.sqrt(self.resolution)
        return self.status in (CONVERGED, FIXED) and self.expected_decrease <= 1e-6 and self.curvature >= -flat

    def __str__(self) -> str:
        verdict = "optimum" if self.optimal else "not shown to be an optimum"
        lines = [
            f"{verdict}: {STATUS[self.status]} after {self.iterations} evaluations",
            f"largest gradient {self.gradient:.2g}, a Newton step would gain {self.expected_decrease:.2g}, "
            f"smallest curvature {self.curvature:.3g} (criterion exact to {self.resolution:.1g})",
        ]
        return "\n".join([*lines, *(f"no variance: {v}" for v in self.vanished)])


def certify(value, gradient, hessian, scale, status, iterations, vanished=()) -> Certificate:
    """From the criterion's value, gradient (m,) and Hessian (m, m) in θ, and the optimiser's scale (m,)."""
    g, h = gradient / scale, hessian / np.outer(scale, scale)
    values, vectors = np.linalg.eigh(h) if len(g) else (np.zeros(1), np.zeros((0, 1)))
    modulus = np.maximum(np.abs(values), 1e-8 * np.abs(values).max() + np.finfo(float).tiny)
    return Certificate(
        gradient=float(np.abs(g).max(initial=0.0)),
        expected_decrease=float(0.5 * np.sum((vectors.T @ g) ** 2 / modulus)),
        curvature=float(values[0]),
        resolution=float(np.finfo(np.asarray(value).dtype).eps * max(1.0, abs(float(value)))),
        vanished=tuple(vanished),
        status=int(status),
        iterations=int(iterations),
    )


def vanished_directions(t: np.ndarray, rms: np.ndarray, columns: list[str], group: str) -> list[str]:
    """Combinations of a term's effects that have no variance between levels, to SINGULAR in the columns' units."""
    left, sizes, _ = np.linalg.svd(rms[:, None] * t)
    return [f"{_combination(rms * left[:, i], columns)} within {group}" for i in np.flatnonzero(sizes < SINGULAR)]


def _combination(weights: np.ndarray, columns: list[str]) -> str:
    weights = weights / weights[np.argmax(np.abs(weights))]
    kept = np.flatnonzero(np.abs(weights) > 1e-3)
    if len(kept) == 1:
        return columns[kept[0]]
    return " ".join(f"{weights[k]:+.3g}·{columns[k]}" for k in kept)
