"""A table of any kind as columns by name: pandas, a dict of arrays, or whatever narwhals reads."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..errors import DataError
from .hints import listed, plural
from .values import array_of, as_series, is_array, is_number


@dataclass(frozen=True)
class Frame:
    """Columns by name, read one at a time.

    n : number of rows.
    index : (n,) row labels.
    names : the columns there are.
    column : name → canonical column (see values.py).
    """

    n: int
    index: pd.Index
    names: frozenset
    column: Callable[[str], Any]

    def __contains__(self, name: str) -> bool:
        return name in self.names


def frame_of(data: Any) -> Frame:
    """A `Frame` on `data`. Raises DataError for what is no table, duplicate columns or columns of unequal length."""
    if isinstance(data, pd.DataFrame):
        _unique(data.columns)
        return Frame(len(data), data.index, frozenset(data.columns), lambda name: array_of(data[name]))
    if isinstance(data, Mapping):
        return _from_mapping(data)
    return _from_narwhals(data)


def _unique(names: Iterable) -> None:
    index = pd.Index(names)
    if not index.is_unique:
        twice = index[index.duplicated()].unique()
        raise DataError(f"duplicate column names in the data: {listed(twice)}; rename them")


def _from_mapping(data: Mapping) -> Frame:
    lengths = {}
    for name, value in data.items():
        if not is_array(value):
            raise DataError(f"column {name!r} of the data is of type {type(value).__name__}, not an array")
        lengths[name] = len(value)
    n = next(iter(lengths.values()), 0)
    for name, length in lengths.items():
        if length != n:
            first = next(iter(lengths))
            raise DataError(f"columns of the data differ in length: {name!r} has {length} rows, {first!r} has {n}")
    return Frame(n, pd.RangeIndex(n), frozenset(data), lambda name: array_of(data[name]))


def _from_narwhals(data: Any) -> Frame:
    import narwhals.stable.v2 as nw

    try:
        frame = nw.from_native(data, eager_only=True)
    except TypeError as err:
        raise DataError(
            f"data of type {type(data).__name__} are no table: give a DataFrame (pandas, polars, collected if lazy) "
            "or a dict of arrays"
        ) from err

    def column(name: str) -> Any:
        series = frame[name]
        values = array_of(series.to_numpy())
        appearing = frame.implementation.is_polars()  # a polars Categorical has its levels in order of appearance
        if isinstance(series.dtype, nw.Enum) or (isinstance(series.dtype, nw.Categorical) and not appearing):
            return pd.Categorical(values, categories=series.cat.get_categories().to_list())
        return values

    _unique(frame.columns)
    return Frame(len(frame), pd.RangeIndex(len(frame)), frozenset(frame.columns), column)


class Rows:
    """The rows a model uses: a namespace for expressions, and what patsy takes as data.

    n : number of rows.
    columns : identifier → canonical column of n rows.
    constants : identifier → caller's functions and single values, shared by reference.
    memo : factor → its value, so that each is evaluated once.
    """

    def __init__(self, n: int, columns: Mapping[str, Any], constants: Mapping[str, Any]) -> None:
        self.n = n
        self.columns = columns
        self.constants = constants
        self.memo: dict = {}
        self._series: dict = {}

    def __getitem__(self, identifier: str) -> Any:
        if identifier not in self._series:
            self._series[identifier] = as_series(self.columns[identifier])
        return self._series[identifier]


def vector(value: Any, what: str, n: int) -> np.ndarray:
    """`value` as (n,) float64. Raises DataError naming `what` if it is not one column of n numbers."""
    if not is_array(value):
        raise DataError(f"{what} is of type {type(value).__name__}, not an array of {plural(n, 'value')}")
    array = array_of(value)
    array = array.to_numpy() if isinstance(array, pd.DataFrame) else array
    if len(array) != n:
        raise DataError(f"{what} has {plural(len(array), 'value')} where the data have {plural(n, 'row')}")
    if array.ndim > 1 and array.shape[1] != 1:
        raise DataError(f"{what} has {array.shape[1]} columns; it must have one")
    if not is_number(array):
        raise DataError(f"{what} is not numeric (it is of type {array.dtype}); convert it to numbers first")
    return np.array(array, dtype=float).reshape(n)  # a copy: the caller may change the data later
