"""emmeans(fit, specs): estimated marginal means, their differences and other contrasts."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import combinations
from math import gcd, lcm
from typing import Any

import numpy as np
import pandas as pd

from ..errors import DataError, FormulaError
from ..fit import Fit
from ..formula.matrices import independent_columns
from .df import Freedom, freedom, t_tails
from .grid import WEIGHTS, Grid, check_names, grid_of
from .intervals import check_level
from .multiplicity import adjusted, check_adjustment, critical
from .nesting import check_fits

ESTIMABLE = 1e-6  # how far a combination may be from the dependence of the columns left out
NOTHING = 1e-10
DEGREES = ("linear", "quadratic", "cubic", "quartic")


def emmeans(
    fit: Fit,
    specs: Any,
    by: Any = None,
    at: Mapping[str, Any] | None = None,
    ddf: str | None = "auto",
    level: float = 0.95,
    weights: str = "equal",
) -> "Means":
    """Estimated marginal means: predictions on a grid of the fixed part's variables, averaged over some of them.

    specs : the variables to have means of: a name, a list, or a text such as "a", "a * b", "a | b" (the bar as `by`);
    [] or "1" for the grand mean. by : variables that split comparisons into families.
    The grid has the levels of each factor (and of a number with two values, or in `C(x)`) and the mean of every other
    column before any transform. at : other values, {"x": [1, 2]}; `weights` then count the levels that are named.
    weights : of what is averaged over: "equal" for all combinations; "proportional", by the rows of the data that have
    the combination, in each mean alike; "cells", by those that have the mean's own levels as well.
    ddf : "kenward-roger", "satterthwaite", "residual" or None for normal intervals; "auto" is Kenward–Roger for REML,
    Satterthwaite for ML, residual for `lm`. An offset of the formula is taken at the grid, one that was an array at its
    mean. Means are those of the response as it stands in the formula: a transform is not undone.
    A mean that the data do not determine, because cells are empty, is NaN, and `note` says so.
    Source: Searle, Speed & Milliken (1980), The American Statistician 34, 216-221; as R's package emmeans.
    Raises FormulaError for unknown variables, DataError for values that the fit does not know, ValueError for options.
    """
    check_fits((fit,), "emmeans", structured=True)
    check_level(level)
    if not isinstance(specs, str | list | tuple):
        raise TypeError(f"emmeans(): specs must be a name, a list of names or a text such as 'a * b', not {specs!r}")
    if weights not in WEIGHTS:
        raise ValueError(f"weights={weights!r}: choose one of {', '.join(WEIGHTS)}")
    if not fit.design.p:
        raise FormulaError(f"{fit.schema.formula!r} has no fixed effects, and so no means")
    grid = grid_of(fit, at)
    specs, by = _split(specs, by, grid)
    names = [*specs, *by]
    check_names(fit, names, list(grid.values), "emmeans()")
    if len(set(names)) < len(names):
        raise FormulaError(f"emmeans(): a variable is named twice in {', '.join(names)}")
    if ddf == "auto":
        ddf = ("kenward-roger" if fit.reml else "satterthwaite") if not fit.is_lm else "residual"
    L, shift, excess = _averages(fit, grid, names, weights)
    first = np.unique(grid.cell(names), return_index=True)[1]
    levels = {v: grid.values[v].take(grid.codes[v][first]) for v in names}
    texts = [np.array(grid.label(v), object)[grid.codes[v][first]] for v in specs]
    return Means(
        levels=levels,
        labels=[" ".join(parts) for parts in zip(*texts, strict=True)] or ["overall"] * len(first),
        by=tuple(by),
        L=L,
        shift=shift,
        excess=excess,
        beta=fit.estimate.beta,
        freedom=freedom(fit.estimate, fit.cross_products, fit.reml, ddf),
        ddf=ddf,
        level=level,
        averaged=tuple(v for v, size in grid.sizes.items() if size > 1 and v not in names),
    )


def _split(specs: Any, by: Any, grid: Grid) -> tuple[list[str], list[str]]:
    """Names of specs and by, from texts or lists."""
    if isinstance(specs, str) and specs not in grid.values:
        left, *right = specs.split("|")
        before, _, left = left.rpartition("~")
        if before.strip():
            raise FormulaError(f"emmeans(): write {specs!r} without a left side, and call .pairs() on the result")
        if right and by is not None:
            raise ValueError(f"specs={specs!r} says by what already; leave by={by!r} out")
        specs, by = left, right[0] if right else by
    return _names(specs, grid), _names([] if by is None else by, grid)


def _names(text: Any, grid: Grid) -> list[str]:
    if not isinstance(text, str):
        return list(text)
    parts = [text] if text in grid.values else [v.strip() for v in re.split(r"[*:+]", text)]
    return [v for v in parts if v not in ("", "1")]


def _averages(fit: Fit, grid: Grid, names: list[str], weights: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(k, p) linear functions of β, (k,) offsets and (k, d) excess, NaN where there are no rows to average."""
    X, _, offset = fit.schema.new_data(grid.rows, groups=False)
    if fit.schema.array_offset:
        if fit.schema.offsets:
            raise DataError("the offset was an array beside another offset: put both in the formula")
        offset = np.full(grid.n, np.mean(fit.design.offset))
    shift = np.zeros(grid.n) if offset is None else offset
    rows = np.column_stack([X, shift, fit.schema.excess(grid.rows)])
    out = np.zeros((len(np.unique(grid.cell(names))), rows.shape[1]))
    np.add.at(out, grid.cell(names), grid.averages(names, weights)[:, None] * rows)
    return out[:, : fit.design.p], out[:, fit.design.p], out[:, fit.design.p + 1 :]


@dataclass(frozen=True, eq=False, repr=False)
class Means:
    """Estimated marginal means, linear functions Lβ̂ (plus an offset); see `emmeans`.

    levels : per variable (k,) its values. labels : (k,) names of the means in a family. by : variables that make
    families. L : (k, p). shift : (k,) offsets. excess : (k, d), zero where the mean is estimable. averaged : variables
    that are averaged over.
    """

    levels: dict[str, pd.Index]
    labels: list[str]
    by: tuple[str, ...]
    L: np.ndarray
    shift: np.ndarray
    excess: np.ndarray
    beta: np.ndarray
    freedom: Freedom
    ddf: str | None
    level: float
    averaged: tuple[str, ...]

    @cached_property
    def table(self) -> pd.DataFrame:
        """estimate, se, df, lower, upper of each mean, by the levels of specs, then by."""
        table = self._estimates(np.eye(len(self.L)))
        half = critical(table["df"].to_numpy(), self.level, "none", 0) * table["se"]
        table = table.assign(lower=table["estimate"] - half, upper=table["estimate"] + half)
        return table.set_axis(self._index(self.levels, slice(None)))

    @property
    def note(self) -> str:
        """What a reader must know, in one line."""
        parts = [f"degrees of freedom: {self.ddf or 'infinite'}"]
        parts += [f"averaged over {', '.join(self.averaged)}"] if self.averaged else []
        lost = int(self.table["estimate"].isna().sum())
        return "; ".join(parts + ([f"{lost} not estimable from these data"] if lost else []))

    def pairs(self, adjust: str = "tukey", intervals: bool = False) -> pd.DataFrame:
        """Differences of all pairs of means in each family: estimate, se, df, t, p, by (by …, contrast).

        adjust : of the p-values in a family: "tukey", "holm", "bonferroni", "sidak", "fdr" or "none". intervals : add
        lower, upper, simultaneous in the same way (those of Bonferroni for "holm" and "fdr").
        """
        check_adjustment(adjust, True)
        rows = [self._pairs(f) for f in self._families()]
        return self._contrasts(rows, adjust, intervals)

    def contrast(self, method: Any, adjust: str = "none", intervals: bool = False) -> pd.DataFrame:
        """Contrasts of the means in each family; the table is that of `pairs`.

        method : {name: coefficients of a family's means}; "trt.vs.ctrl", the others against the first; "poly",
        orthogonal polynomials for evenly spaced levels, in whole numbers.
        """
        check_adjustment(adjust, False)
        return self._contrasts([self._named(method, f) for f in self._families()], adjust, intervals)

    def joint_test(self) -> pd.DataFrame:
        """F test that the means of a family are equal, by the levels of `by`: numdf, dendf, F, p."""
        rows, index = [], []
        for family in self._families():
            members = np.flatnonzero(family)
            C = np.diff(np.eye(len(self.L))[members], axis=0)
            L = (C @ np.nan_to_num(self.L))[self._estimable(C)]
            L = L[independent_columns(np.where(np.abs(L) > NOTHING, L, 0).T)]
            if len(L):
                f = self.freedom.f_test(L, self.beta)
                rows.append((f.numdf, float(f.dendf), float(f.F), float(f.p)))
            else:
                rows.append((0, np.nan, np.nan, np.nan))
            index.append(members[0])
        names = {v: self.levels[v] for v in self.by}
        return pd.DataFrame(rows, self._index(names, index), ["numdf", "dendf", "F", "p"])

    def _index(self, levels: Mapping[str, pd.Index], at: Any) -> pd.Index:
        if len(levels) > 1:
            return pd.MultiIndex.from_arrays([v[at] for v in levels.values()], names=list(levels))
        named = [v[at].rename(name) for name, v in levels.items()]
        return named[0] if named else pd.Index(["overall"])

    def _families(self) -> Iterator[np.ndarray]:
        """(k,) masks of the means that are compared with each other."""
        if not self.by:
            return iter([np.ones(len(self.L), bool)])
        keys = pd.MultiIndex.from_arrays([self.levels[v] for v in self.by])
        codes = pd.factorize(keys)[0]
        return (codes == c for c in range(codes.max() + 1))

    def _pairs(self, family: np.ndarray) -> tuple[np.ndarray, list[str], np.ndarray]:
        members, eye = np.flatnonzero(family), np.eye(len(family))
        both = list(combinations(members, 2))
        C = np.array([eye[i] - eye[j] for i, j in both]).reshape(-1, len(family))
        return C, [f"{self.labels[i]} - {self.labels[j]}" for i, j in both], members

    def _named(self, method: Any, family: np.ndarray) -> tuple[np.ndarray, list[str], np.ndarray]:
        members = np.flatnonzero(family)
        coefficients = _coefficients(method, [self.labels[i] for i in members])
        C = np.zeros((len(coefficients), len(family)))
        C[:, members] = list(coefficients.values())
        return C, list(coefficients), members

    def _contrasts(self, families: Sequence[tuple], adjust: str, intervals: bool) -> pd.DataFrame:
        tables = []
        for C, names, members in families:
            table = self._estimates(C)
            estimate, se, df = table.to_numpy().T
            with np.errstate(invalid="ignore", divide="ignore"):
                t = estimate / se
            table = table.assign(t=t, p=adjusted(t_tails(t, df), t, df, adjust, len(members)))
            if intervals:
                half = critical(df, self.level, adjust, len(members)) * se
                table = table.assign(lower=estimate - half, upper=estimate + half)
            of = {v: self.levels[v][[members[0]] * len(names)] for v in self.by} | {"contrast": pd.Index(names)}
            tables.append(table.set_axis(self._index(of, slice(None))))
        return pd.concat(tables)

    def _estimable(self, C: np.ndarray) -> np.ndarray:
        """(m,) which combinations of the means the data determine."""
        absent = np.isnan(self.L).any(1)
        away = np.abs(C @ np.nan_to_num(self.excess)).max(1, initial=0)
        return (away < ESTIMABLE) & ~(C[:, absent] != 0).any(1)

    def _estimates(self, C: np.ndarray) -> pd.DataFrame:
        """estimate, se, df of combinations C (m, k) of the means; NaN where they are not estimable."""
        L, shift = C @ np.nan_to_num(self.L), C @ np.nan_to_num(self.shift)
        ok = self._estimable(C)
        varies = ok & (np.abs(L) > NOTHING).any(1)
        out = np.full((3, len(C)), np.nan)
        out[0, ok] = L[ok] @ self.beta + shift[ok]
        out[1, ok] = np.sqrt(np.einsum("ki,ij,kj->k", L[ok], self.freedom.vcov, L[ok]))
        if varies.any():
            out[2, varies] = self.freedom.df(L[varies])
        return pd.DataFrame(out.T, columns=["estimate", "se", "df"])

    def __repr__(self) -> str:
        return f"{self.table.to_string(float_format='{:.4g}'.format)}\n{self.note}"

    def _repr_html_(self) -> str:
        return f"{self.table.to_html(float_format='{:.4g}'.format, border=0)}<p>{self.note}</p>"


def _coefficients(method: Any, labels: list[str]) -> dict[str, Any]:
    """Contrasts of the means of one family by name."""
    k = len(labels)
    if isinstance(method, Mapping):
        for name, c in method.items():
            if np.shape(c) != (k,):
                raise ValueError(f"contrast {name!r} has {np.size(c)} coefficients; a family has {k} means: {labels}")
        return dict(method)
    if method == "trt.vs.ctrl":
        return {f"{v} - {labels[0]}": np.eye(k)[i] - np.eye(k)[0] for i, v in enumerate(labels) if i}
    if method == "poly":
        names = [*DEGREES, *(f"degree {d}" for d in range(5, k))][: k - 1]
        return dict(zip(names, _polynomials(k), strict=True))
    raise ValueError(f"method={method!r}: give 'trt.vs.ctrl', 'poly' or a dict of coefficients")


def _polynomials(k: int) -> list[list[int]]:
    """Orthogonal polynomials on k even steps, degrees 1 to k − 1, in the smallest whole numbers."""
    basis: list[list[int]] = [[1] * k]
    for degree in range(1, k):
        rest = [Fraction(i**degree) for i in range(k)]
        for b in basis:
            share = sum((r * c for r, c in zip(rest, b, strict=True)), Fraction(0)) / sum(c * c for c in b)
            rest = [r - share * c for r, c in zip(rest, b, strict=True)]
        whole = [int(r * lcm(*(q.denominator for q in rest))) for r in rest]
        basis.append([w // gcd(*whole) for w in whole])
    return basis[1:]
