"""What a design must satisfy before anything is fitted; each failure names the culprit."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..errors import DataError
from .hints import plural


def check_finite(values: np.ndarray, names: Sequence[str], index: pd.Index) -> None:
    """Raises DataError where a column of `values`, (n,) or (n, m), has inf or NaN, with the count and the first row."""
    finite = np.isfinite(values)
    if finite.all():
        return
    finite = finite.reshape(len(values), -1)
    column = int(np.argmin(finite.all(axis=0)))
    bad = np.flatnonzero(~finite[:, column])
    value = values.reshape(len(values), -1)[bad[0], column]
    raise DataError(
        f"{names[column]!r} is not finite in {plural(len(bad), 'row')}, first in row {_row(index, bad[0])} ({value}); "
        "correct the data, or leave these rows out with subset="
    )


def check_weights(weights: np.ndarray, index: pd.Index) -> None:
    """Raises DataError for a weight that is not positive."""
    bad = np.flatnonzero(weights <= 0)
    if len(bad):
        raise DataError(
            f"weights must be positive: {plural(len(bad), 'row')} with a weight of zero or less, first in row "
            f"{_row(index, bad[0])} ({weights[bad[0]]:g}); leave such rows out with subset="
        )


def _row(index: pd.Index, position: int) -> str:
    return repr(index[position : position + 1].tolist()[0])


def check_term(text: str, group: str, p: int, n_levels: int, n: int, correlated: bool = False) -> None:
    """lme4's checks of a random term: two levels or more, fewer effects than rows unless levels are correlated."""
    if n_levels < 2:
        raise DataError(
            f"the grouping factor {group!r} has only one level in the rows used; grouping factors must have more "
            f"than one: leave {text} out"
        )
    if p * n_levels >= n and not correlated:
        raise DataError(
            f"term {text}: number of observations (={n}) <= number of random effects (={p * n_levels}), {p} for each "
            f"of the {n_levels} levels of {group!r}; the random-effects parameters and the residual variance cannot be "
            "told apart: leave the term out or give it fewer columns"
        )


def check_size(n: int, p: int) -> None:
    """Raises DataError unless there are more rows than fixed-effects columns."""
    if n <= p:
        raise DataError(
            f"{plural(n, 'row')} for {plural(p, 'fixed-effects column')}: a fit needs more rows than columns; "
            "drop terms from the fixed part"
        )
