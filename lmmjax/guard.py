"""What a fit refuses, and how it warns."""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from .core.estimate import EXACT, Estimate
from .core.optimize import CONVERGED, FIXED, STATUS
from .errors import DataError
from .formula import Schema

NEARLY_EXACT = 1e-10  # share of a sum of squares that explains why a fit diverged


def check_response(name: str, y: np.ndarray) -> None:
    """Raises DataError where y does not vary."""
    if np.ptp(y) == 0:
        raise DataError(f"the response {name!r} is constant ({y[0]:g} in every row): there is nothing to model")


def checked_theta(theta: Any, n_theta: int) -> np.ndarray:
    """(n_theta,) finite covariance parameters, or DataError."""
    values = np.asarray(theta, dtype=float).reshape(-1)
    if len(values) != n_theta:
        raise DataError(f"theta has {len(values)} values; this model has {n_theta} covariance parameters")
    if not np.isfinite(values).all():
        raise DataError(f"theta holds values that are not finite: {values}")
    return values


def check_independent(schema: Schema, what: str) -> None:
    """Raises DataError where the fit has a residual structure, which `what` does not know."""
    if schema.residual is not None:
        raise DataError(f"{what}: not known for a fit with residual={schema.residual.structure}")


def check_residual(schema: Schema, y: np.ndarray, left: float, estimate: Estimate) -> None:
    """Raises DataError where nothing is left to compare with. left : sum of squares that X leaves over."""
    name, prss = schema.response, float(estimate.prss)
    if not left > EXACT * np.sum(np.square(y)):
        raise DataError(f"the fixed part explains {name!r} exactly: there is nothing left to model")
    converged = int(estimate.status) in (CONVERGED, FIXED)
    if not prss > (EXACT if converged else NEARLY_EXACT) * left:
        raise DataError(
            f"the model explains {name!r} exactly, as when it is constant within levels: of {left:.2g} a residual sum "
            f"of squares of {prss:.2g} remains; leave out a random effect"
        )
    if not np.isfinite(estimate.criterion):
        raise DataError(f"the criterion of {schema.formula!r} is not finite at the start of the optimisation")


def advice(estimate: Estimate) -> str:
    """What a fit that did not converge says."""
    return (
        f"optimisation {STATUS[int(estimate.status)]}. fit.certificate says how far from an optimum it is; "
        "rescale columns with very different units, or simplify the random effects"
    )


def caller() -> int:
    """The stacklevel, for a warning of the calling function, of the first frame outside the package."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(str(Path(__file__).parent)):
        level, frame = level + 1, frame.f_back
    return level


def check_counts(**counts: tuple[Any, int]) -> None:
    """Raises ValueError unless each value, given with the least it may be, is an integer of at least that."""
    for name, (value, least) in counts.items():
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name}={value!r}: give an integer of at least {least}")
