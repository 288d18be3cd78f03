"""The reference grid of a fit: combinations of the fixed part's variables at which means are predicted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from ..errors import DataError, FormulaError
from ..fit import Fit
from ..formula.hints import listed, suggest
from ..formula.values import labels

LARGEST = 100_000  # rows of a grid
WEIGHTS = ("equal", "proportional", "cells")


@dataclass(frozen=True, eq=False)
class Grid:
    """All combinations of `values`, the first variable varying fastest.

    values : per variable what it is taken at. held : per variable of several columns its means.
    """

    fit: Fit
    values: dict[str, pd.Index]
    held: dict[str, np.ndarray]

    @cached_property
    def sizes(self) -> dict[str, int]:
        """How many values each variable has."""
        return {name: len(v) for name, v in self.values.items()}

    @property
    def n(self) -> int:
        """Rows."""
        return int(np.prod(list(self.sizes.values()), dtype=float))

    @cached_property
    def codes(self) -> dict[str, np.ndarray]:
        """Per variable the (n,) positions of its values."""
        shape = (*self.sizes.values(), 1)  # never empty
        return dict(zip(self.sizes, np.unravel_index(np.arange(self.n), shape, order="F"), strict=False))

    @cached_property
    def rows(self) -> dict[str, Any]:
        """The grid as a table; a column without a name gives it its length where there are no variables."""
        varied = {name: v.take(self.codes[name]) for name, v in self.values.items()}
        return (
            {"": np.zeros(self.n)}
            | varied
            | {name: np.broadcast_to(v, (self.n, *v.shape)) for name, v in self.held.items()}
        )

    def cell(self, names: Sequence[str]) -> np.ndarray:
        """(n,) number of the combination of some variables, the first fastest."""
        if not names:
            return np.zeros(self.n, int)
        return np.ravel_multi_index([self.codes[v] for v in names], [self.sizes[v] for v in names], order="F")

    def averages(self, names: Sequence[str], weights: str) -> np.ndarray:
        """(n,) weights of the rows that sum to one in each combination of `names`; NaN where it has no rows of data."""
        to = self.cell(names)
        w = np.ones(self.n)
        if weights != "equal":
            w = self._counts([v for v in self._counted if weights == "cells" or v not in names])
        with np.errstate(invalid="ignore"):
            return w / np.bincount(to, w)[to]

    @property
    def _counted(self) -> list[str]:
        """Discrete variables at some of their own levels."""
        levels = self.fit.schema.variables.levels
        return [name for name, v in self.values.items() if name in levels and v.isin(levels[name]).all()]

    def _counts(self, names: list[str]) -> np.ndarray:
        """(n,) rows of the fit that have each row's combination of levels."""
        known, levels = self.fit.schema.variables, self.fit.schema.variables.levels
        places, key, wanted = list(levels), np.zeros(len(known.counts), int), np.zeros(self.n, int)
        for v in names:
            key = key * len(levels[v]) + known.cells[:, places.index(v)]
            wanted = wanted * len(levels[v]) + levels[v].get_indexer(self.values[v])[self.codes[v]]
        return pd.Series(known.counts).groupby(key).sum().reindex(wanted, fill_value=0).to_numpy(float)

    def label(self, name: str) -> list[str]:
        """Names of a variable's values; numbers are preceded by the variable's name, as R does."""
        numeric = name in self.fit.schema.variables.means or self.values[name].dtype.kind in "iuf"
        return [f"{name}{v}" if numeric else v for v in labels(self.values[name])]


def grid_of(fit: Fit, at: Mapping[str, Any] | None) -> Grid:
    """Factors at their levels, numbers at their means (those with two values at both), others as `at` says.

    Raises FormulaError for unknown names, DataError for a grid that is too large or a column without a mean.
    """
    known = fit.schema.variables
    if at is not None and not isinstance(at, Mapping):
        raise TypeError(f"at= must be a dict of values by variable, not {at!r}")
    at = {} if at is None else dict(at)
    names = {name: None for f in fit.schema.fixed.factors for _, name in f.expression.variables}
    names |= {name: None for o in fit.schema.offsets for _, name in o.factor.expression.variables}
    columns = [v for v in names if v in known.levels or v in known.means or v not in fit.schema.constants]
    check_names(fit, at, columns, "at=")
    values, held = {}, {}
    for name in columns:
        if name in at:
            values[name] = pd.Index(np.atleast_1d(np.asarray(at[name]))).unique()
            if not len(values[name]):
                raise DataError(f"at={{{name!r}: …}} has no values")
        elif name in known.levels:
            values[name] = known.levels[name]
        elif name not in known.means:
            raise DataError(f"{name!r} has no levels and no mean: say at={{{name!r}: …}}")
        elif np.ndim(known.means[name]):
            held[name] = np.asarray(known.means[name])
        else:
            values[name] = pd.Index([float(known.means[name])])
    grid = Grid(fit, values, held)
    if grid.n > LARGEST:
        raise DataError(f"the reference grid has {grid.n} rows, more than {LARGEST}: hold some variables by at=")
    return grid


def check_names(fit: Fit, names: Any, known: Sequence[str], where: str) -> None:
    """Raises FormulaError for a name that is no variable of the fixed part."""
    for name in names:
        if name not in known:
            raise FormulaError(
                f"{where}: {name!r} is no variable of the fixed part of {fit.schema.formula!r}, which has "
                f"{listed(known) or 'none'}{suggest(name, known)}"
            )
