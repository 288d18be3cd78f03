"""Schema: the names of a model, the columns behind them, and how to rebuild its matrices for new data."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..errors import DataError, FormulaError
from .expression import Expression
from .frame import Frame, Rows, frame_of, vector
from .grouping import Grouping
from .hints import plural, suggest
from .matrices import Matrix, build
from .parse import Bar
from .residual import Fitted, expressions
from .scope import resolve_again
from .terms import Factor
from .values import missing
from .variables import Variables, summarise


class Prepared(NamedTuple):
    """A factor outside the model matrices, an offset say, with the state of its transforms."""

    factor: Factor
    state: dict

    def values(self, rows: Rows, what: str) -> np.ndarray:
        """(n,) float64."""
        return vector(self.factor.eval(self.state, rows), what, rows.n)


@dataclass(frozen=True)
class GroupTerm:
    """One random term: its text and how to build its raw matrix and codes."""

    bar: Bar
    matrix: Matrix
    grouping: Grouping

    @property
    def text(self) -> str:
        """The term as lme4 prints it, `(1 + x | g)`."""
        return self.bar.text

    @property
    def group(self) -> str:
        """lme4's name of the grouping factor."""
        return self.bar.group

    @property
    def columns(self) -> list[str]:
        """Names of the raw columns."""
        return self.matrix.names

    @property
    def levels(self) -> pd.Index:
        """Level names, in the order of the codes."""
        return self.grouping.levels


class Aliased(NamedTuple):
    """Fixed-effects columns left out: how to build them, and (p, d) what the kept ones make of them in the fit's rows.

    scale : (d,) divides both, so that they are of order one.
    """

    matrix: Matrix
    coefficients: np.ndarray
    scale: np.ndarray


@dataclass(frozen=True)
class Schema:
    """Names of a model and what rebuilds its matrices. A pickle holds what it was built from.

    formula, response : the formula as given, and its left side as patsy prints it.
    groups : random terms, in the order of Design.terms.
    index : (n,) labels of the rows used.
    n_dropped : rows left out for missing values.
    fixed : the fixed-effects matrix, without the dropped columns.
    offsets : offsets that new data can give again, from the formula or named in `offset=`.
    array_offset : whether an offset came as an array, which new data cannot give again.
    rows : the columns that the formula names in the rows used, and its factors evaluated there.
    aliased : fixed-effects columns left out because they depend on columns before them, or None.
    residual : the residual structure, or None.
    expressions : all that was read from the rows.
    arguments : the texts in which weights and offset were given, or the column of `frame` that an array has become.
    options : the other arguments of `build`, but for those that choose rows.
    """

    formula: str
    response: str
    groups: tuple[GroupTerm, ...]
    index: pd.Index
    n_dropped: int
    fixed: Matrix
    offsets: tuple[Prepared, ...]
    array_offset: bool
    rows: Rows
    aliased: Aliased | None
    residual: Fitted | None = None
    expressions: tuple[Expression, ...] = ()
    arguments: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The columns of the data that the model names, weights and offsets among them, in the rows used."""
        names = {i: name for e in self.expressions for i, name in e.variables}
        columns = {names.get(i, i): values for i, values in self.rows.columns.items()}
        return pd.DataFrame({name: pd.Series(values) for name, values in columns.items()}).set_axis(self.index)

    @property
    def constants(self) -> Mapping[str, Any]:
        """The caller's functions and single values that the formula uses."""
        return self.rows.constants

    @property
    def dropped(self) -> tuple[str, ...]:
        """Names of the columns in `aliased`."""
        return () if self.aliased is None else tuple(self.aliased.matrix.names)

    @cached_property
    def variables(self) -> Variables:
        """Levels and means of the columns that the fixed part and the offsets name."""
        return summarise(self.fixed, (o.factor for o in self.offsets), self.rows)

    @property
    def term_names(self) -> list[str]:
        """The grouping factor of each random term; a second term on one factor is `g.1`, as in lme4."""
        seen: dict[str, int] = {}
        names = []
        for g in self.groups:
            count = seen[g.group] = seen.get(g.group, -1) + 1
            names.append(f"{g.group}.{count}" if count else g.group)
        return names

    @property
    def fixed_names(self) -> list[str]:
        """patsy's names of the fixed-effects columns, in R's order of terms."""
        return self.fixed.names

    @property
    def fixed_terms(self) -> list[tuple[str, tuple[int, ...]]]:
        """(term name, positions of its columns) pairs; the first is Intercept where there is one."""
        return list(self.fixed.terms)

    @property
    def design_info(self) -> Any:
        """patsy's DesignInfo of the fixed part, before columns were dropped and in patsy's order."""
        return self.fixed.info

    def new_data(
        self, newdata: Any, *, groups: bool | Collection[str] = True
    ) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray] | None], np.ndarray | None]:
        """Matrices for new data, with transforms, contrasts and columns as in the fit; the response is not needed.

        groups : whether to build the random terms, or the names of the grouping factors to build.
        Returns X (n, p), for each random term (x (n, pᵢ), codes (n,) with -1 for an unseen level) or None where it was
        not asked for, and the sum of the offsets (n,) or None.
        Raises DataError for absent columns, missing or infinite values, and unseen levels of fixed factors.
        """
        wanted = [g if self._wants(g, groups) else None for g in self.groups]
        rows = self._rows(frame_of(newdata), [g for g in wanted if g])
        X, *raw = build([self.fixed, *(g.matrix for g in wanted if g)], rows)
        xs = iter(raw)
        random = [(next(xs), g.grouping.codes(rows)) if g else None for g in wanted]
        offset = [o.values(rows, f"offset {o.factor.name()!r}") for o in self.offsets]
        _check_finite(X, self.fixed_names)
        for g, pair in zip(self.groups, random, strict=True):
            if pair:
                _check_finite(pair[0], g.columns)
        return X, random, np.sum(offset, axis=0) if offset else None

    def residual_places(self, newdata: Any) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """Where new rows stand in the residual structure: see `Fitted.places`. Raises as `new_data`."""
        if self.residual is None:
            raise FormulaError(f"{self.formula!r} was fitted without residual=")
        return self.residual.places(self._named(expressions(self.residual.structure), frame_of(newdata)))

    def excess(self, newdata: Any) -> np.ndarray:
        """(n, d) how far new data are from the dependence that d columns were left out for, of order one.

        A linear combination of the rows' means is estimable where the same combination of these rows is zero.
        Raises as `new_data`.
        """
        rows = self._rows(frame_of(newdata), [])
        if self.aliased is None:
            return np.zeros((rows.n, 0))
        X, others = build([self.fixed, self.aliased.matrix], rows)
        return (others - X @ self.aliased.coefficients) / self.aliased.scale

    def _wants(self, term: GroupTerm, groups: bool | Collection[str]) -> bool:
        if isinstance(groups, bool):
            return groups
        groups = [groups] if isinstance(groups, str) else groups
        known = {g.group for g in self.groups}
        for name in groups:
            if name not in known:
                raise FormulaError(f"{name!r} is no grouping factor of {self.formula!r}{suggest(name, known)}")
        return term.group in groups

    def _rows(self, frame: Frame, terms: list[GroupTerm]) -> Rows:
        matrices = [self.fixed, *(g.matrix for g in terms)]
        needed = [f.expression for m in matrices for f in m.factors]
        needed += [o.factor.expression for o in self.offsets] + [a for g in terms for a in g.grouping.atoms]
        return self._named(needed, frame)

    def _named(self, needed: list[Expression], frame: Frame) -> Rows:
        columns = resolve_again(needed, frame, self.constants)
        names = {i: name for e in needed for i, name in e.variables}
        for identifier, value in columns.items():
            gap = missing(value)
            if gap is not None and gap.any():
                raise DataError(
                    f"the new data have missing values in {names[identifier]!r} ({plural(int(gap.sum()), 'row')})"
                )
        return Rows(frame.n, columns, self.constants)


def _check_finite(values: np.ndarray, names: list[str]) -> None:
    finite = np.isfinite(values)
    if not finite.all():
        column = int(np.argmin(finite.all(axis=0)))
        count = int((~finite[:, column]).sum())
        raise DataError(f"{names[column]!r} is not finite in {plural(count, 'row')} of the new data")
