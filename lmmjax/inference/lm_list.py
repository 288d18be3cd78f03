"""lm_list(formula, data): a linear regression for each level of a factor."""

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from patsy import EvalEnvironment

from ..core.design import Design
from ..errors import DataError, DroppedWarning, FormulaError
from ..formula import Schema, build, parse
from ..formula.expression import translate
from ..formula.hints import listed, plural
from ..formula.matrices import TOLERANCE
from ..formula.tokens import BARS, tokenise
from ..guard import caller
from ..tables import format_numbers, text_table
from .df import t_quantile, t_tails
from .intervals import check_level, tails

SHOWN = 20  # lines of a printed result


@dataclass(frozen=True, eq=False, repr=False)
class LmList:
    """Regressions by level; prints like nlme's lmList.

    formula : as given. coef : (levels, columns) coefficients, NaN for a level that does not determine them. spread :
    the same shape, their standard errors for a residual standard deviation of one. nobs, rss : rows and residual sum
    of squares of each level. pool : whether standard errors take the pooled residual standard deviation or the level's.
    """

    formula: str
    schema: Schema
    design: Design
    coef: pd.DataFrame
    spread: pd.DataFrame
    nobs: pd.Series
    rss: pd.Series
    pool: bool

    @property
    def undetermined(self) -> pd.Index:
        """Levels without a regression: they have too few rows, or columns that others determine there."""
        return self.rss.index[self.rss.isna()]

    @property
    def df(self) -> pd.Series:
        """Residual degrees of freedom of each level, rows minus columns; NaN where there is no regression."""
        return (self.nobs - self.coef.shape[1]).where(self.rss.notna()).rename("df")

    @property
    def sigma(self) -> pd.Series:
        """Residual standard deviation of each level, in units of the response; NaN where no row is left over for it."""
        return np.sqrt(self.rss / self.df.where(self.df > 0)).rename("sigma")

    @property
    def pooled_df(self) -> int:
        """Residual degrees of freedom of all levels together."""
        return int(self.df.sum())

    @property
    def pooled_sd(self) -> float:
        """Residual standard deviation of all levels together: √(Σ rss / Σ df)."""
        return float(np.sqrt(self.rss.sum() / self.pooled_df)) if self.pooled_df else np.nan

    @property
    def se(self) -> pd.DataFrame:
        """Standard errors, shaped like `coef`."""
        return self.spread * self.pooled_sd if self.pool else self.spread.mul(self.sigma, axis=0)

    @property
    def table(self) -> pd.DataFrame:
        """estimate, se, df, t and p by (level, column); df are the pooled ones or the level's."""
        shape = self.coef.shape
        df = np.full(shape, float(self.pooled_df)) if self.pool else np.repeat(self.df.to_numpy()[:, None], shape[1], 1)
        names = [self.coef.index.name, "column"]
        parts = {"estimate": self.coef.to_numpy(), "se": self.se.to_numpy(), "df": df}
        index = pd.MultiIndex.from_product([self.coef.index, self.coef.columns], names=names)
        table = pd.DataFrame({name: values.ravel() for name, values in parts.items()}, index)
        with np.errstate(divide="ignore", invalid="ignore"):  # levels that are fitted exactly
            t = table["estimate"] / table["se"]
        return table.assign(t=t, p=t_tails(t, table["df"]))

    def confint(self, level: float = 0.95) -> pd.DataFrame:
        """lower and upper by (level, column): estimate ± t quantile × se. Raises ValueError for a bad level."""
        check_level(level)
        table = self.table
        half = t_quantile(tails(level)[1], table["df"]) * table["se"]
        return pd.DataFrame({"lower": table["estimate"] - half, "upper": table["estimate"] + half})

    @cached_property
    def fitted(self) -> np.ndarray:
        """(n,) fitted values of the rows used, in their order; NaN in levels without a regression."""
        return self._values(self.design.X, self.design.terms[0].codes, self.design.offset)

    def resid(self) -> np.ndarray:
        """(n,) response − fitted."""
        return self.design.y - self.fitted

    def predict(self, newdata: Any) -> np.ndarray:
        """(rows,) predicted means of new data from the regressions of their levels.

        Raises DataError for levels that the data did not have, and where the offset was an array.
        """
        X, ((_, codes),), offset = self.schema.new_data(newdata)  # type: ignore[misc]
        if self.schema.array_offset:
            raise DataError("the offset was an array, which newdata cannot hold: put offset(column) in the formula")
        unseen = np.flatnonzero(codes < 0)
        if len(unseen):
            text = f"{plural(len(unseen), 'row')} (first: row {unseen[0]})"
            raise DataError(f"newdata has levels of {self.coef.index.name!r} without a regression in {text}")
        return self._values(X, codes, offset)

    def _values(self, X: np.ndarray, codes: np.ndarray, offset: np.ndarray | None) -> np.ndarray:
        return np.einsum("np,np->n", X, self.coef.to_numpy()[codes]) + (0 if offset is None else offset)

    def __repr__(self) -> str:
        columns = {" ": [str(name) for name in self.coef.index[:SHOWN]]}
        columns |= {name: format_numbers(values[:SHOWN]) for name, values in self.coef.items()}
        more = len(self.coef) - SHOWN
        rest = [f"… and {plural(more, 'more level')}"] if more > 0 else []
        return "\n".join([*self._head(), "", text_table(columns), *rest, "", *self._foot()])

    def _repr_html_(self) -> str:
        table = self.coef.to_html(border=0, max_rows=SHOWN, na_rep="")
        return f"<p>{'<br>'.join(self._head())}</p>{table}<p>{'<br>'.join(self._foot())}</p>"

    def _head(self) -> list[str]:
        return [f"Regressions by level of {self.coef.index.name}", f"Formula: {self.formula}"]

    def _foot(self) -> list[str]:
        total = int(self.nobs[self.rss.notna()].sum())
        lines = [f"Residual standard deviation: {self.pooled_sd:.4g} on {self.pooled_df} of {total} degrees of freedom"]
        if self.schema.n_dropped:
            lines.append(f"rows with missing values left out: {self.schema.n_dropped}")
        return lines + ([_undetermined(self)] if len(self.undetermined) else [])


def lm_list(
    formula: str,
    data: Any,
    pool: bool = True,
    weights: Any = None,
    offset: Any = None,
    contrasts: Any = None,
    subset: Any = None,
    na_action: str = "omit",
) -> LmList:
    """A linear regression for each level of a factor, as nlme's lmList: the first half of a response feature analysis.

    formula : "y ~ x | g", one regression of y on x for each level of g; g may be an interaction a:b. pool : take one
    residual standard deviation for all levels, as nlme does, or each level's own. The other arguments as in `lm`.
    Columns of X are those of all rows together, transforms like center(x) too. A level with fewer rows than columns, or
    where a column depends on others, has NaN, does not count in the pooled variance, and a DroppedWarning names it.
    Raises FormulaError for a formula without "| g" or with (1 | g), DataError where no level has a regression.
    Solved by Householder's QR of X, all levels with equally many rows at once.
    """
    formula_of_rows = _with_term(formula)
    options = {"weights": weights, "offset": offset, "contrasts": contrasts, "subset": subset, "na_action": na_action}
    schema, design = build(formula_of_rows, data, env=EvalEnvironment.capture(1), saturated=True, **options)
    if schema.dropped:
        text = f"X is rank deficient: left out {', '.join(schema.dropped)}, which other columns determine"
        warnings.warn(text, DroppedWarning, stacklevel=caller())
    (term,), y = design.terms, design.y - (0 if design.offset is None else design.offset)
    root = np.ones(design.n) if design.weights is None else np.sqrt(design.weights)
    coef, spread, rss = _by_level(design.X * root[:, None], y * root, term.codes)
    levels = schema.groups[0].levels.rename(schema.groups[0].group)
    result = LmList(
        formula=formula,
        schema=schema,
        design=design,
        coef=pd.DataFrame(coef, levels, schema.fixed_names),
        spread=pd.DataFrame(spread, levels, schema.fixed_names),
        nobs=pd.Series(np.bincount(term.codes), levels, name="nobs"),
        rss=pd.Series(rss, levels, name="rss"),
        pool=pool,
    )
    if len(result.undetermined) == len(levels):
        raise DataError(f"{_undetermined(result)}: give the formula {formula!r} columns that vary within levels")
    if len(result.undetermined):
        warnings.warn(_undetermined(result), DroppedWarning, stacklevel=caller())
    return result


def _with_term(formula: Any) -> str:
    """y ~ x | g as y ~ x + (1 | g), from which `build` takes X and the levels."""
    if not isinstance(formula, str):
        parse(formula)  # which refuses it
    left, *right = tokenise(translate(formula)).split_on("~")
    parts = right[0].split_on("|") if len(right) == 1 else []
    if len(parts) != 2 or not all(parts) or parts[0].visible(*BARS) or parts[1].visible(*BARS):
        raise FormulaError(
            f"{formula!r}: lm_list() takes 'y ~ x | g', a regression on x for each level of one factor g"
        )
    found = f"{left.text} ~ {parts[0].text} + (1 | {parts[1].text})"
    if len(parse(found).bars) > 1:
        raise FormulaError(f"{formula!r}: write a:b for the combinations of two factors, not a/b")
    return found


def _by_level(X: np.ndarray, y: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(ℓ, p) coefficients, (ℓ, p) roots of the diagonals of (XᵀX)⁻¹, and (ℓ,) residual sums of squares."""
    count, p = np.bincount(codes), X.shape[1]
    if not p:
        raise FormulaError("a regression without columns has no coefficients: write 'y ~ 1 | g' for means")
    first, order = np.cumsum(count) - count, np.argsort(codes, kind="stable")
    coef, spread, rss = np.full((len(count), p), np.nan), np.full((len(count), p), np.nan), np.full(len(count), np.nan)
    for size in np.unique(count[count >= p]):
        levels = np.flatnonzero(count == size)
        rows = order[first[levels][:, None] + np.arange(size)]
        levels, rows, Q, R = _of_full_rank(levels, rows, X)
        inverse, z = np.linalg.inv(R), np.einsum("lnp,ln->lp", Q, y[rows])
        coef[levels] = np.einsum("lpq,lq->lp", inverse, z)
        spread[levels] = np.linalg.norm(inverse, axis=2)
        rss[levels] = np.sum((y[rows] - np.einsum("lnp,lp->ln", Q, z)) ** 2, 1)
    return coef, spread, rss


def _of_full_rank(levels: np.ndarray, rows: np.ndarray, X: np.ndarray) -> tuple[np.ndarray, ...]:
    """The levels in whose rows (k, m) no column depends on those before it, their rows, and Q and R of X there."""
    Q, R = np.linalg.qr(X[rows])
    left, length = np.abs(np.diagonal(R, axis1=1, axis2=2)), np.linalg.norm(X[rows], axis=1)
    full = np.all((left >= TOLERANCE * length) & (left > 0), 1)
    return levels[full], rows[full], Q[full], R[full]


def _undetermined(result: LmList) -> str:
    lost, p = result.undetermined, result.coef.shape[1]
    short = int((result.nobs[lost] < p).sum())
    why = [f"fewer rows than the {plural(p, 'column')} ({short})"] if short else []
    why += [f"columns that others determine there ({len(lost) - short})"] if len(lost) > short else []
    count = f"{len(lost)} of {plural(len(result.coef), 'level')} of {result.coef.index.name!r}"
    return f"no regression in {count}, for {' or '.join(why)}: {listed(lost)}"
