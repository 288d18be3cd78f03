"""The variables behind the fixed part: what a reference grid takes them at, and which of their combinations occur."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..errors import DataError
from .frame import Rows
from .matrices import Matrix
from .terms import Factor
from .values import Coded, coded, is_number


@dataclass(frozen=True)
class Variables:
    """A summary of the columns that the fixed part and the offsets name, in the rows used.

    levels : values of the discrete ones: factors, numbers that a factor is made of as in `C(x)`, and numbers with one
    or two values. means : of the other numbers; an array for a variable of several columns.
    cells : (m, len(levels)) codes of the combinations of levels that occur. counts : (m,) rows of each.
    """

    levels: dict[str, pd.Index]
    means: dict[str, Any]
    cells: np.ndarray
    counts: np.ndarray


def summarise(matrix: Matrix, others: Iterable[Factor], rows: Rows) -> Variables:
    """`Variables` of a matrix and of other factors. A column that only functions can read is left out."""
    kinds = {f: info.type for f, info in matrix.info.factor_infos.items()}
    made = {i for f, kind in kinds.items() if kind == "categorical" for i, _ in f.expression.variables}
    names = {i: name for f in (*matrix.factors, *others) for i, name in f.expression.variables if i in rows.columns}
    found, means = {}, {}
    for identifier, name in names.items():
        column = rows.columns[identifier]
        discrete = _discrete(column, name, identifier in made)
        if discrete is not None:
            found[name] = discrete
        elif is_number(column):
            means[name] = column.mean(axis=0)
    return Variables({name: c.levels for name, c in found.items()}, means, *_cells(found.values(), rows.n))


def _discrete(column: Any, name: str, made: bool) -> Coded | None:
    if made or not is_number(column):
        try:
            return coded(column, name)
        except DataError:
            return None
    low, high = column.min(), column.max()
    upper = column == high
    if column.ndim > 1 or not (upper | (column == low)).all():
        return None
    return Coded(upper.astype(int) if low < high else np.zeros(len(column), int), pd.Index([low, high]).unique())


def _cells(factors: Iterable[Coded], n: int) -> tuple[np.ndarray, np.ndarray]:
    cells, key = np.zeros((1, 0), int), np.zeros(n, int)
    for factor in factors:
        key, pairs = pd.factorize(key * len(factor.levels) + factor.codes, sort=True)
        before, last = np.divmod(pairs, len(factor.levels))
        cells = np.column_stack([cells[before], last])
    return cells, np.bincount(key)
