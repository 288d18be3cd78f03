"""Data sets to learn and test with: `load("pulp")` gives a DataFrame, `describe("pulp")` its documentation.

Factor columns are pandas Categoricals whose levels stand in R's order (the first is the reference of treatment
contrasts); numbers are float64 or int64.
"""

from collections.abc import Callable
from difflib import get_close_matches
from importlib import resources

import pandas as pd

from ..errors import DataError
from . import facts, psid, soybean
from .registry import FACTOR, ORDERED, REGISTRY, Column, DataSet

__all__ = ["available", "describe", "load"]

_MADE: dict[str, Callable[[], object]] = {
    "pulp": facts.pulp,
    "irrigation": facts.irrigation,
    "eggs": facts.eggs,
    "soybean_sim": soybean.simulate,
    "psid": psid.read,
}


def available() -> list[str]:
    """Names that `load` knows."""
    return list(REGISTRY)


def describe(name: str) -> DataSet:
    """Columns, units, source and licence of a data set; prints as a text.

    Raises:
        DataError: there is no data set of that name.
    """
    if name not in REGISTRY:
        close = get_close_matches(name.lower(), [known.lower() for known in REGISTRY], n=3)
        near = [known for known in REGISTRY if known.lower() in close]
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(REGISTRY)}"
        raise DataError(f"no data set {name!r}: {hint}")
    return REGISTRY[name]


def load(name: str) -> pd.DataFrame:
    """The data set as a new DataFrame.

    Raises:
        DataError: there is no data set of that name, or psid is neither on disk nor to be downloaded.
    """
    data_set = describe(name)
    raw = pd.DataFrame(_MADE[name]() if name in _MADE else _bundled(name))
    return pd.DataFrame({column.name: _typed(raw[column.name], column) for column in data_set.columns})


def _bundled(name: str) -> pd.DataFrame:
    with resources.files(__package__).joinpath("data", f"{name}.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file, dtype=str)


def _typed(values: pd.Series, column: Column) -> pd.Series:
    if column.kind in (FACTOR, ORDERED):
        levels = pd.Index(column.levels, dtype=object)
        return pd.Series(pd.Categorical(values, categories=levels, ordered=column.kind == ORDERED))
    return pd.to_numeric(values).astype(column.kind)
