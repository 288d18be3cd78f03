"""residual=: which rows' residuals are correlated, and how their standard deviations differ, by names of columns."""

from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..core import correlation
from ..core.residual import Identified, Power, Residual, Variance
from ..errors import DataError
from .checks import check_finite
from .expression import Expression, evaluate, expression
from .frame import Rows, vector
from .grouping import Grouping, fit_grouping
from .hints import listed
from .values import labels

# What the times of a structure are.
INTEGER_TIMES, ANY_TIMES, OCCASIONS, NO_TIMES = "integers", "numbers", "occasions", "none"
TIMES = {"ar1": INTEGER_TIMES, "car1": ANY_TIMES, "un": OCCASIONS, "toeplitz": OCCASIONS, "cs": NO_TIMES}


class Part(NamedTuple):
    """One structure as it was asked for. kind : "ar1", …, "var_ident" or "var_power". by : column of groups, or the
    covariate. time, bands : where the kind has them."""

    kind: str
    by: str
    time: str | None = None
    bands: int | None = None

    @property
    def text(self) -> str:
        """As the caller wrote it."""
        words = [repr(w) for w in (self.time, self.by) if w is not None]
        return f"{self.kind}({', '.join(words)}{'' if self.bands is None else f', bands={self.bands}'})"


@dataclass(frozen=True)
class Structure:
    """Residual structures to be multiplied: at most one that correlates rows, any number of standard deviations."""

    parts: tuple[Part, ...]

    def __mul__(self, other: Any) -> "Structure":
        """Both: the covariance of two rows is their correlation times their standard deviations."""
        if not isinstance(other, Structure):
            return NotImplemented
        both = Structure(self.parts + other.parts)
        if len(both.correlations) > 1:
            raise TypeError(f"{both}: two structures of correlation; multiply one by var_ident or var_power")
        return both

    @property
    def correlations(self) -> list[Part]:
        """Those that correlate rows."""
        return [p for p in self.parts if p.kind in TIMES]

    def within(self, other: "Structure") -> bool:
        """Whether it is a special case of the other, as far as the texts tell."""
        left = [p for p in self.parts if p not in other.parts]
        free = {p.by for p in other.correlations if p.kind == "un"}
        return all(p.kind in TIMES and p.by in free for p in left) and len(left) < 2

    def __repr__(self) -> str:
        return " * ".join(p.text for p in self.parts)


def ar1(time: str, by: str) -> Structure:
    """Autoregression of order one: rows of one level of `by` at times s and t correlate by ρ^|s − t|.

    time : column of integers; gaps are allowed, as in nlme's corAR1(form = ~ time | by). −1 < ρ < 1.
    """
    return _structure("ar1", by, time)


def car1(time: str, by: str) -> Structure:
    """Autoregression in continuous time: ρ^|s − t| for any times, 0 < ρ < 1; nlme's corCAR1."""
    return _structure("car1", by, time)


def cs(by: str) -> Structure:
    """Compound symmetry: one correlation within the levels of `by`, which may be negative; nlme's corCompSymm."""
    return _structure("cs", by)


def un(time: str, by: str, variances: bool = True) -> Structure:
    """Unstructured: any covariance of the occasions, the levels of `time`; an MMRM's.

    variances : False for one variance at all occasions, which is nlme's corSymm alone.
    """
    both = _structure("un", by, time)
    return both * var_ident(time) if variances else both


def toeplitz(time: str, by: str, bands: int | None = None) -> Structure:
    """One correlation for each lag between occasions, which are the sorted levels of `time` and equally spaced.

    bands : the largest lag with a correlation, the others being zero; None for all.
    """
    if bands is not None and (not isinstance(bands, int | np.integer) or bands < 1):
        raise ValueError(f"bands={bands!r}: give a positive number of lags, or None for all")
    return _structure("toeplitz", by, time, None if bands is None else int(bands))


def var_ident(by: str) -> Structure:
    """A standard deviation for each level of `by`, as a ratio to the first level's, which is σ; nlme's varIdent."""
    return _structure("var_ident", by)


def var_power(covariate: str) -> Structure:
    """Standard deviation σ v^δ of a positive covariate v; nlme's varPower(form = ~ covariate)."""
    return _structure("var_power", covariate)


def _structure(kind: str, by: Any, time: Any = None, bands: int | None = None) -> Structure:
    wanted = {"by": by} if TIMES.get(kind, NO_TIMES) == NO_TIMES else {"time": time, "by": by}
    for argument, name in wanted.items():
        if not isinstance(name, str):
            raise TypeError(f"{kind}: {argument} must be the name of a column, not {name!r}")
    return Structure((Part(kind, by, time, bands),))


def checked(structure: Any) -> Structure | None:
    """The argument residual=. Raises TypeError for anything but a Structure or None."""
    if structure is None or isinstance(structure, Structure):
        return structure
    raise TypeError(f"residual={structure!r}: give lj.ar1(time, by), lj.un(time, by), lj.var_ident(by) or the like")


def expressions(structure: Structure | None) -> list[Expression]:
    """The columns that a structure names."""
    parts = () if structure is None else structure.parts
    return [_column(name) for p in parts for name in (p.by, p.time) if name is not None]


def _column(name: str) -> Expression:
    return expression(name if name.isidentifier() else f"Q({name!r})")


@dataclass(frozen=True)
class Fitted:
    """A structure with what it found in the rows of a fit. groupings : by column name. names : (k,) of the parameters
    as `Residual.natural` gives them."""

    structure: Structure
    groupings: dict[str, Grouping] = field(default_factory=dict)
    names: tuple[str, ...] = ()

    def places(self, rows: Rows) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """Group codes of new rows (n,), −1 where the fit has no such level, their times (n,), and what each
        variance structure needs. Raises DataError for new occasions and new levels of `var_ident`."""
        group, time = np.full(rows.n, -1), np.zeros(rows.n)
        for p in self.structure.correlations:
            group = self.groupings[p.by].codes(rows)
            if p.time is None:
                time = np.full(rows.n, -1)  # of no row in the fit
            elif TIMES[p.kind] == OCCASIONS:
                time = self._known(p, p.time, rows)
            else:
                time = _times(p, rows, None)
        at = []
        for p in self.structure.parts:
            if p.kind == "var_power":
                at.append(_log_covariate(p, rows, None))
            elif p.kind == "var_ident":
                at.append(self._known(p, p.by, rows))
        return group, time, at

    def _known(self, p: Part, name: str, rows: Rows) -> np.ndarray:
        codes = self.groupings[name].codes(rows)
        if (codes < 0).any():
            raise DataError(f"{p.text}: the new data have levels of {name!r} that are not in the fit")
        return codes


def fit_residual(structure: Structure | None, rows: Rows, index: pd.Index) -> tuple[Fitted | None, Residual | None]:
    """The structure in the rows of a fit, and its arrays.

    Raises DataError where it cannot be estimated from them, naming the columns.
    """
    if structure is None:
        return None, None
    fitted, names = Fitted(structure), []
    made, group, time = None, None, None
    variances: list[tuple[Variance, np.ndarray]] = []
    for p in structure.correlations:
        grouping, group = fit_grouping((_column(p.by),), rows)
        time = _occasions(p, fitted, rows) if TIMES[p.kind] == OCCASIONS else _times(p, rows, index)
        fitted.groupings[p.by] = grouping
        _check_series(p, group, time, grouping)
        made, own = _correlation(p, fitted, group, time)
        names += own
    for p in structure.parts:
        if p.kind == "var_power":
            variances.append((Power(), _log_covariate(p, rows, index)))
            names.append(f"power|{p.by}")
        elif p.kind == "var_ident":
            grouping, codes = fit_grouping((_column(p.by),), rows)
            levels = labels(grouping.levels)
            if len(levels) < 2:
                raise DataError(f"{p.text}: {p.by!r} has only one level in the rows used; it needs two or more")
            fitted.groupings[p.by] = grouping
            variances.append((Identified(len(levels)), codes))
            names += [f"sd_{level}/{levels[0]}|{p.by}" for level in levels[1:]]
    return replace(fitted, names=tuple(names)), Residual.of(rows.n, made, group, time, variances)


def _occasions(p: Part, fitted: Fitted, rows: Rows) -> np.ndarray:
    """(n,) codes of the occasions."""
    grouping, codes = fit_grouping((_column(p.time or ""),), rows)
    fitted.groupings[p.time or ""] = grouping
    if len(grouping.levels) < 2:
        raise DataError(f"{p.text}: {p.time!r} has only one level in the rows used; it needs two or more")
    return codes


def _values(p: Part, name: str, rows: Rows, index: pd.Index | None) -> np.ndarray:
    """(n,) numbers of a column; finite."""
    e = _column(name)
    values = vector(evaluate(e.code, e.label, rows, rows.constants), f"{name!r} of {p.text}", rows.n)
    check_finite(values, [name], pd.RangeIndex(rows.n) if index is None else index)
    return values


def _times(p: Part, rows: Rows, index: pd.Index | None) -> np.ndarray:
    """(n,) times; of a structure without, the number of the row."""
    if p.time is None:
        return np.arange(rows.n)
    values = _values(p, p.time, rows, index)
    if TIMES[p.kind] != INTEGER_TIMES:
        return values
    if not np.array_equal(values, np.round(values)):
        first = values[values != np.round(values)][0]
        raise DataError(f"{p.text}: {p.time!r} must be integers ({first:g} is among them); car1 takes any times")
    return values.astype(np.int32)


def _log_covariate(p: Part, rows: Rows, index: pd.Index | None) -> np.ndarray:
    values = _values(p, p.by, rows, index)
    if not (values > 0).all():
        raise DataError(f"{p.text}: {p.by!r} must be positive ({values[values <= 0][0]:g} is among its values)")
    return np.log(values)


def _check_series(p: Part, group: np.ndarray, time: np.ndarray, grouping: Grouping) -> None:
    """Raises DataError where no two rows share a group, or two of a group share a time."""
    if np.bincount(group).max() < 2:
        raise DataError(f"{p.text}: every level of {p.by!r} has one row only: there is nothing to correlate")
    order = np.lexsort((time, group))
    twice = (np.diff(group[order]) == 0) & (np.diff(time[order]) == 0)
    if twice.any():
        level = labels(grouping.levels)[group[order][1:][twice][0]]
        raise DataError(
            f"{p.text}: {p.by!r} = {level} has two rows at one value of {p.time!r}; each row of a group needs a time "
            "of its own"
        )


def _correlation(p: Part, fitted: Fitted, group: np.ndarray, time: np.ndarray) -> tuple[Any, list[str]]:
    """The structure of core and the names of its parameters."""
    if p.kind == "ar1":
        return correlation.Autoregressive(), [f"Phi|{p.by}"]
    if p.kind == "car1":
        return correlation.ContinuousAutoregressive(), [f"Phi|{p.by}"]
    if p.kind == "cs":
        return correlation.Exchangeable(int(np.bincount(group).max())), [f"Rho|{p.by}"]
    levels = labels(fitted.groupings[p.time or ""].levels)
    met = _met(group, time, len(levels))
    if p.kind == "un":
        apart = [f"{levels[i]} and {levels[j]}" for i, j in combinations(range(len(levels)), 2) if not met[i, j]]
        if apart:
            raise DataError(f"{p.text}: no level of {p.by!r} has the occasions {listed(apart, 3)} both")
        pairs = combinations(range(len(levels)), 2)
        return correlation.Unstructured(len(levels)), [f"cor_{levels[j]}.{levels[i]}|{p.by}" for i, j in pairs]
    bands = len(levels) - 1 if p.bands is None else p.bands
    if bands >= len(levels):
        raise DataError(f"{p.text}: {len(levels)} occasions have lags up to {len(levels) - 1} only")
    unseen = [lag for lag in range(1, bands + 1) if not np.diagonal(met, lag).any()]
    if unseen:
        raise DataError(f"{p.text}: no level of {p.by!r} has two occasions at lag {unseen[0]}; give bands=")
    return correlation.Toeplitz(len(levels), bands), [f"cor_lag{lag}|{p.by}" for lag in range(1, bands + 1)]


def _met(group: np.ndarray, time: np.ndarray, occasions: int) -> np.ndarray:
    """(T, T) how many groups have both occasions."""
    there = np.zeros((int(group.max()) + 1, occasions))
    there[group, time] = 1
    return there.T @ there
