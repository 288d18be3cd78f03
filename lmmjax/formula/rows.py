"""Which rows of the data a model uses: `subset`, then no missing value in anything the model mentions."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..errors import DataError
from .expression import evaluate, expression
from .frame import Frame, Rows
from .hints import listed, plural
from .scope import Scope, resolve
from .values import array_of, is_array, missing, take

ACTIONS = ("omit", "raise")


class Used(NamedTuple):
    """The rows used: `keep` is a (n,) mask or None for all, `n_dropped` the rows with missing values left out."""

    keep: np.ndarray | None
    n_dropped: int


def subset_mask(subset: Any, frame: Frame, namespace: Any) -> np.ndarray | None:
    """(n,) boolean mask of `subset`, None for all rows; where its condition is missing a row is left out.

    subset : None, a boolean array-like of frame.n values, or an expression in columns and the caller's variables.
    Raises DataError where it is not one truth value for each row, or no row is left.
    """
    if subset is None:
        return None
    what = "subset"
    if isinstance(subset, str):
        what, e = f"subset {subset!r}", expression(subset)
        scope = resolve([e], frame, namespace)
        subset = evaluate(e.code, what, Rows(frame.n, *scope), scope.constants)
    if not is_array(subset):
        raise DataError(f"{what} is of type {type(subset).__name__}, not a boolean array")
    return _truth(array_of(subset), what, frame.n)


def _truth(mask: Any, what: str, n: int) -> np.ndarray:
    if len(mask) != n:
        raise DataError(f"{what} has {plural(len(mask), 'value')} where the data have {plural(n, 'row')}")
    if getattr(mask, "ndim", 1) != 1:
        raise DataError(f"{what} must have one dimension")
    if mask.dtype == object:
        mask = np.where(pd.isna(mask), False, mask)
        mask = mask.astype(bool) if all(isinstance(v, (bool, np.bool_)) for v in mask) else mask
    if mask.dtype != bool:
        raise DataError(f"{what} must be true or false for each row, not of type {mask.dtype}")
    if not mask.any():
        raise DataError(f"{what} leaves no rows")
    return mask


def complete(columns: Mapping[str, Any], names: Mapping[str, str], mask: np.ndarray | None, action: str) -> Used:
    """Rows of `mask` where no column is missing.

    names : identifier → name for messages.
    Raises DataError if `action` is "raise" and a value is missing, or if no row is left.
    """
    gaps: dict[str, np.ndarray] = {}
    for identifier, value in columns.items():
        gap = missing(value)
        gap = gap & mask if gap is not None and mask is not None else gap
        if gap is not None and gap.any():
            gaps[names.get(identifier, identifier)] = gap
    if not gaps:
        return Used(mask, 0)
    counts = ", ".join(f"{name!r} ({plural(int(gap.sum()), 'row')})" for name, gap in gaps.items())
    if action == "raise":
        raise DataError(f"missing values in {counts}; fill them, or leave the rows out with na_action='omit'")
    incomplete = np.logical_or.reduce(list(gaps.values()))
    keep = ~incomplete if mask is None else mask & ~incomplete
    if not keep.any():
        raise DataError(f"no row is left: every row has a missing value, in {counts}")
    return Used(keep, int(incomplete.sum()))


def check_action(action: str) -> None:
    """Raises DataError unless `action` is known."""
    if action not in ACTIONS:
        raise DataError(f"na_action={action!r} is unknown; it is one of {listed(ACTIONS)}")


def select(scope: Scope, used: Used, n: int) -> Rows:
    """The columns of `scope` at the rows used, out of n."""
    count = n if used.keep is None else int(used.keep.sum())
    return Rows(count, {k: take(v, used.keep) for k, v in scope.columns.items()}, scope.constants)
