"""aov() and model_tables(): classical analysis of variance, with error strata as R's aov has them."""

from dataclasses import dataclass
from html import escape
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from patsy import EvalEnvironment
from scipy.special import fdtrc

from ..core.estimate import EXACT
from ..errors import DataError, FormulaError
from ..formula.hints import listed
from ..guard import check_response
from ..tables import format_numbers, legend, named_line, text_table
from .printed import anova_text, zapped
from .sequential import crossed, project, subspaces, unit
from .strata import WITHIN, Stratum, layout, strata

KINDS = ("effects", "means")


class Effect(NamedTuple):
    """What a term contributes to the fitted values (n,) in one stratum."""

    stratum: str
    term: str
    values: np.ndarray


@dataclass(frozen=True, eq=False, repr=False)
class Aov:
    """A classical analysis of variance; prints like R's summary.

    formula : as given. strata : a table for each error stratum, one named "Within" without Error(), with rows for the
    terms that have degrees of freedom there and "Residuals", and columns df, sumsq, meansq, F and p. F and p compare
    with the stratum's residuals; they are missing where it has none.
    effects, factors, terms, y : what model_tables() reads: contributions of the terms, (n,) codes and levels by
    factor, the factors of each term, and the response (n,) without offset.
    """

    formula: str
    strata: dict[str, pd.DataFrame]
    effects: tuple[Effect, ...]
    factors: dict[str, tuple[np.ndarray, pd.Index]]
    terms: dict[str, tuple[str, ...]]
    y: np.ndarray

    @property
    def table(self) -> pd.DataFrame:
        """The table; with Error() those of all strata, by stratum and term."""
        if list(self.strata) == [WITHIN]:
            return self.strata[WITHIN]
        return pd.concat(self.strata, names=["stratum", "term"])

    def __repr__(self) -> str:
        text = "\n\n".join(f"{self._title(name)}{anova_text(table)}" for name, table in self.strata.items())
        return text + legend(*self.strata.values())

    def _repr_html_(self) -> str:
        return "".join(
            f"<p>{escape(self._title(name))}</p>{table.to_html(border=0, na_rep='')}"
            for name, table in self.strata.items()
        )

    def _title(self, stratum: str) -> str:
        return "" if list(self.strata) == [WITHIN] else f"Error: {stratum}\n"


def aov(formula: str, data: Any, subset: Any = None, na_action: str = "omit") -> Aov:
    """Classical analysis of variance by sequential sums of squares, as R's aov.

    formula : "y ~ a * b", and "y ~ a * b + Error(block/plot)" for a design with error strata: block, plot within block,
    and what is left, "Within". The mean, then each term of Error() in turn, take a subspace of the data; in each of
    these, and in the rest, the terms are fitted in their order and compared with what they leave over. So the tests of
    balanced split-plot, nested, Latin square and repeated-measures designs are exact. A term that is not balanced over
    a stratum appears in several. Numbers are covariates with one degree of freedom, as in any formula: write C(x) for a
    factor. data, subset, na_action : as in `lmer`; contrasts do not matter.
    The arrays of all indicators are dense: (rows) × (levels).
    Raises FormulaError for a numeric column in Error() and for random terms (1|g), DataError for a stratum that those
    before it determine and for a model with as many columns as rows.
    Source: Bailey (2008), Design of Comparative Experiments, chapter 10.
    """
    design = layout(formula, data, env=EvalEnvironment.capture(1), subset=subset, na_action=na_action)
    schema, y = design.schema, design.y
    check_response(schema.response, y)
    X = unit(design.X)
    blocks = {name: X[:, where] for name, where in schema.fixed_terms}
    smallest = EXACT * float(y @ y)
    analysed = {name: _analysed(name, stratum, y, blocks, smallest) for name, stratum in strata(design).items()}
    factors = {t.name(): tuple(f.name() for f in t.factors) for t in schema.design_info.terms}
    return Aov(
        formula=formula,
        strata={name: table for name, (table, _) in analysed.items()},
        effects=tuple(effect for _, effects in analysed.values() for effect in effects),
        factors=design.factors,
        terms={name: factors[name] for name in blocks},
        y=y,
    )


def _analysed(
    name: str, stratum: Stratum, y: np.ndarray, blocks: dict[str, np.ndarray], smallest: float
) -> tuple[pd.DataFrame, list[Effect]]:
    """The table of a stratum and the effects of the terms there. smallest : residual sum of squares to divide by."""
    y = stratum.part(y)
    bases = subspaces(stratum.part(block) for block in blocks.values())
    found = {term: u for term, u in zip(blocks, bases, strict=True) if u.shape[1]}
    effects = [Effect(name, term, project(u, y)) for term, u in found.items()]
    left = stratum.df - sum(u.shape[1] for u in found.values())
    lines = [(e.term, found[e.term].shape[1], e.values) for e in effects if e.term != "Intercept"]
    lines += [("Residuals", left, y - sum(e.values for e in effects))] if left else []
    terms, df, values = zip(*lines, strict=True)
    table = pd.DataFrame({"df": df, "sumsq": [float(v @ v) for v in values]}, pd.Index(terms, name="term"))
    table["meansq"] = table["sumsq"] / table["df"]
    table[["F", "p"]] = np.nan
    if left and table["sumsq"].iloc[-1] > smallest:
        tested = table.index[:-1]
        table.loc[tested, "F"] = table["meansq"] / table["meansq"].iloc[-1]
        table.loc[tested, "p"] = fdtrc(table["df"], left, table["F"])
    return table, effects


# -------------------------------------------------------------------------------------------------------- model_tables


class ModelTables(dict):
    """By term a Series of effects or means, indexed by level, or by levels for an interaction.

    kind : "effects" or "means". grand_mean : of the response. replications : by term the number of rows in each cell.
    se : by term the standard error of an effect, or of a difference of two means; missing where the cells are not
    equally large, the stratum has no residuals, or a mean mixes strata.
    """

    kind: str
    grand_mean: float
    replications: dict[str, pd.Series]
    se: pd.Series

    def __repr__(self) -> str:
        head = f"Tables of {self.kind}" + (f"\nGrand mean: {self.grand_mean:.7g}" if self.kind == "means" else "")
        return "\n\n".join([head, *(f"{term}\n{_cells_text(cells)}" for term, cells in self.items())])

    def _repr_html_(self) -> str:
        wide = {term: _wide(cells) for term, cells in self.items()}
        return f"<p>Tables of {self.kind}</p>" + "".join(f"<p>{escape(t)}</p>{w.to_html()}" for t, w in wide.items())


def model_tables(fit: Aov, kind: str = "effects") -> ModelTables:
    """Tables of effects or of means for each term of a balanced analysis of variance, as R's model.tables.

    fit : of `aov`. kind : "effects", what a term adds to the terms it contains, which sums to zero over each factor, or
    "means", the grand mean with the effects of the term and of those it contains.
    The standard error of an effect is √(s²/r), of a difference of means √(2s²/r), with the residual mean square s² of
    the term's stratum and r rows in a cell.
    Raises DataError where a term is not the same in all rows of a cell, as in an unbalanced design (use emmeans), is
    spread over several strata, or is numeric; FormulaError for a model without intercept; ValueError for a kind that
    does not exist.
    """
    if not isinstance(fit, Aov):
        raise TypeError(f"model_tables() takes what aov() returns, not {type(fit).__name__}")
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: choose one of {', '.join(KINDS)}")
    if "Intercept" not in fit.terms:
        raise FormulaError(f"model_tables() needs an intercept, which {fit.formula!r} has not")
    shares = {e.term: e for e in fit.effects if e.term != "Intercept"}
    cells = {term: _cells(fit, term) for term in fit.terms if term in shares}
    for term, (codes, _) in cells.items():
        _check_balanced(fit, term, codes)
    out, se = ModelTables(), {}
    out.kind, out.grand_mean, out.replications = kind, float(fit.y.mean()), {}
    for term, (codes, index) in cells.items():
        summed = [shares[term]]
        if kind == "means":
            summed = [shares[t] for t in cells if set(fit.terms[t]) <= set(fit.terms[term])]
        values = sum(s.values for s in summed) + (out.grand_mean if kind == "means" else 0)
        count = np.bincount(codes)
        out[term] = pd.Series(np.bincount(codes, values) / count, index, name=term)
        out.replications[term] = pd.Series(count, index, name=term)
        se[term] = _standard_error(fit, {s.stratum for s in summed}, count, kind)
    out.se = pd.Series(se, name="se", dtype=float)
    return out


def _cells(fit: Aov, term: str) -> tuple[np.ndarray, pd.Index]:
    """(n,) codes and the index of the cells of a term."""
    names = fit.terms[term]
    for name in names:
        if name not in fit.factors:
            raise DataError(f"{name!r} is numeric: model_tables() is of factors; write C({name}) for one")
    if len(names) == 1:
        codes, levels = fit.factors[names[0]]
        return codes, levels.rename(names[0])
    codes, cells = crossed([fit.factors[f][0] for f in names])
    arrays = [fit.factors[f][1][cells[:, i]] for i, f in enumerate(names)]
    return codes, pd.MultiIndex.from_arrays(arrays, names=names)


def _check_balanced(fit: Aov, term: str, codes: np.ndarray) -> None:
    """Raises DataError unless the term has one effect in one stratum, the same in all rows of a cell."""
    effects = [e for e in fit.effects if e.term == term]
    if len(effects) > 1:
        raise DataError(
            f"{term!r} is spread over the strata {listed(e.stratum for e in effects)}: the design is not balanced, and "
            "has no tables of effects; fit it with lmer() and use emmeans()"
        )
    values = effects[0].values
    means = np.bincount(codes, values) / np.bincount(codes)
    if np.abs(values - means[codes]).max() > 1e-8 * np.abs(fit.y - fit.y.mean()).max():
        raise DataError(
            f"the effect of {term!r} differs within its cells: the design is not balanced, and has no tables of "
            "effects; use emmeans()"
        )


def _standard_error(fit: Aov, strata: set[str], count: np.ndarray, kind: str) -> float:
    tables = [fit.strata[s] for s in strata]
    if len(tables) > 1 or np.ptp(count) or "Residuals" not in tables[0].index:
        return np.nan
    return np.sqrt((1 if kind == "effects" else 2) * tables[0].loc["Residuals", "meansq"] / count[0])


def _wide(cells: pd.Series) -> pd.DataFrame:
    """A one-way table as a row, others with the last factor across."""
    return cells.to_frame().T if cells.index.nlevels == 1 else cells.unstack(sort=False)


def _cells_text(cells: pd.Series) -> str:
    wide, digits = _wide(cells), format_numbers(zapped(cells.to_numpy()))
    if cells.index.nlevels == 1:
        return named_line(dict(zip(map(str, cells.index), digits, strict=True)))
    text = pd.Series(digits, cells.index).unstack(sort=False).fillna("")
    rows = {" ": [" ".join(map(str, np.atleast_1d(i))) for i in wide.index]}
    return text_table(rows | {str(c): list(text[c]) for c in text})
