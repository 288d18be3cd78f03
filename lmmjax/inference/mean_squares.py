"""Variance components by equating mean squares to their expectations (the ANOVA estimators)."""

from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from patsy import EvalEnvironment
from scipy.special import fdtrc

from ..core.design import Design
from ..errors import DataError, FormulaError
from ..fit import Fit, fit_design
from ..formula import Schema, build
from ..formula.parse import parse
from ..tables import format_numbers, legend, text_table
from .printed import anova_text
from .sequential import crossed, indicators, project, subspaces, unit

RESIDUAL = "Residual"
ROUNDING = 1e-9


@dataclass(frozen=True, eq=False, repr=False)
class VarianceComponents:
    """ANOVA estimates of variance components; see `variance_components_anova`.

    table : a row for each fixed term, each random term and "Residual": sumsq, meansq, numdf, and of the test that the
    term is absent dendf, F, p, `denominator` (the mean squares that have the same expectation without the term) and
    `exact`: whether F then has the F distribution, whatever the variances are.
    ems : expected mean squares, a row for each line of `table`: the coefficient of each variance. Those of fixed terms
    have a quadratic form of fixed effects besides.
    components : a row for each random term and "Residual": `estimate`, which may be negative, and `reml`, from `fit`.
    fit : the REML fit of the same model.
    """

    formula: str
    table: pd.DataFrame
    ems: pd.DataFrame
    components: pd.DataFrame
    fit: Fit

    @property
    def notes(self) -> tuple[str, ...]:
        """One sentence for each thing that a reader must know."""
        negative = self.components.index[self.components["estimate"] < 0]
        return tuple(f"the estimate for {name} is negative: the data show no variance of it" for name in negative)

    def __repr__(self) -> str:
        parts = [
            f"Variance components by expected mean squares\nFormula: {self.formula}",
            anova_text(self.table) + legend(self.table),
            "Expected mean squares:\n" + _text(self.ems.round(10)),
            "Variance components:\n" + _text(self.components),
            *self.notes,
        ]
        return "\n\n".join(parts)

    def _repr_html_(self) -> str:
        named = {"Analysis of variance": self.table, "Expected mean squares": self.ems, "Variances": self.components}
        tables = "".join(f"<p>{title}</p>{t.to_html(border=0, na_rep='')}" for title, t in named.items())
        return f"<p><b>{escape(self.formula)}</b></p>{tables}" + "".join(f"<p>{escape(n)}</p>" for n in self.notes)


def variance_components_anova(
    formula: str, data: Any, subset: Any = None, na_action: str = "omit"
) -> VarianceComponents:
    """Variance components by the method of moments: mean squares equated to their expectations.

    formula : lme4's with random intercepts, "y ~ a + (1|block/plot)"; data, subset, na_action : as in `lmer`, where a
    numeric grouping column is a factor.
    The model is lme4's, in which interactions of fixed and random factors are independent (the "unrestricted" one).
    Sums of squares are sequential: fixed terms in their order, then random terms, those that others are nested in
    first, otherwise as written. With U an orthonormal basis of what a line adds to those before it, its mean square is
    |Uᵀy|²/df and the coefficient of component i in its expectation |UᵀZᵢ|²/df. So the estimates are unbiased in any
    design. In a balanced one they are the textbook's, and REML's where none is negative; in an unbalanced one they
    depend on the order of crossed random terms (a form of Henderson's method 3).
    The F test of a term, beside those before it, divides by the mean square that has the same expectation without the
    term, or by a combination Σ wₗMSₗ that has, on Satterthwaite's (Σ wₗMSₗ)² / Σ (wₗMSₗ)²/dfₗ degrees of freedom. F is
    missing where the combination is negative.
    The arrays of all indicators are dense: (rows) × (levels).
    Raises FormulaError for random slopes or a formula without random terms, DataError for a term without degrees of
    freedom of its own. Warns as `lmer`, which fits the same model.
    Source: Searle, Casella & McCulloch (1992), Variance Components, chapters 4 and 5; Satterthwaite (1946), Biometrics
    Bulletin 2, 110-114.
    """
    options = {"subset": subset, "na_action": na_action}
    schema, design = build(formula, data, env=EvalEnvironment.capture(1), **options)
    random = _random_terms(schema, design)
    bases = _bases(schema, design, random)
    fit = fit_design(schema, design, reml=True)
    y = design.y - (0 if design.offset is None else design.offset)
    table = _mean_squares(y, bases)
    shares = {(line, i): u.T @ z for line, u in bases.items() for i, z in random.items()}
    shares |= {(RESIDUAL, i): np.zeros((1, z.shape[1])) for i, z in random.items()}
    parts = pd.Index([*random, RESIDUAL], name="component")
    ems = pd.DataFrame([[_mean(shares[line, i]) for i in random] for line in table.index], table.index, parts[:-1])
    ems[RESIDUAL] = 1.0
    estimates = np.linalg.solve(ems.loc[parts].to_numpy(), table.loc[parts, "meansq"].to_numpy())
    reml = fit.varcorr.set_index("group")["vcov"]
    components = pd.DataFrame({"estimate": estimates, "reml": reml[parts].to_numpy()}, parts)
    return VarianceComponents(formula, table.join(_tests(table, ems, shares)), ems, components, fit)


def _random_terms(schema: Schema, design: Design) -> dict[str, np.ndarray]:
    """Indicators (n, ℓ) by grouping factor: each after those that it determines, otherwise as written."""
    if not schema.groups:
        raise FormulaError(f"{schema.formula!r} has no random term: add one such as (1|g), or use aov()")
    written = [bar.text for bar in parse(schema.formula).bars]
    codes: dict[str, np.ndarray] = {}
    for g, term in sorted(zip(schema.groups, design.terms, strict=True), key=lambda pair: written.index(pair[0].text)):
        if g.columns != ["Intercept"] or g.group in codes:
            raise FormulaError(f"{g.text}: the ANOVA estimators are of random intercepts; write one (1|{g.group})")
        codes[g.group] = np.asarray(term.codes)
    depth = {a: sum(_determines(codes[a], codes[b]) for b in codes) for a in codes}
    return {name: indicators(codes[name]) for name in sorted(codes, key=depth.__getitem__)}


def _determines(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether the level of a settles the level of b."""
    return len(crossed([a, b])[1]) == a.max() + 1


def _bases(schema: Schema, design: Design, random: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What each fixed and each random term adds to those before it: orthonormal (n, df) by name."""
    X = unit(design.X)
    fixed = {name: X[:, where] for name, where in schema.fixed_terms}
    bases = subspaces([*fixed.values(), *(unit(z) for z in random.values())])
    for name, basis in zip(random, bases[len(fixed) :], strict=True):
        if not basis.shape[1]:
            raise DataError(
                f"the term (1|{name}) has no degrees of freedom of its own: the terms before it determine its levels; "
                "leave it or them out"
            )
    if sum(u.shape[1] for u in bases) == design.n:
        raise DataError(
            f"the terms take all {design.n} degrees of freedom and leave none for the residual; leave one of them out"
        )
    return dict(zip([*fixed, *random], bases, strict=True))


def _mean_squares(y: np.ndarray, bases: dict[str, np.ndarray]) -> pd.DataFrame:
    """sumsq, meansq and numdf of each term but the intercept, and of the residual."""
    rest = y - sum(project(u, y) for u in bases.values())
    rows = {name: (np.sum((u.T @ y) ** 2), u.shape[1]) for name, u in bases.items() if name != "Intercept"}
    rows[RESIDUAL] = rest @ rest, len(y) - sum(u.shape[1] for u in bases.values())
    sumsq, df = (np.array(values) for values in zip(*rows.values(), strict=True))
    return pd.DataFrame({"sumsq": sumsq, "meansq": sumsq / df, "numdf": df}, pd.Index(rows, name="term"))


def _mean(share: np.ndarray) -> float:
    """tr(UᵀZZᵀU)/df from UᵀZ (df, ℓ)."""
    return float(np.sum(share**2) / len(share))


def _tests(table: pd.DataFrame, ems: pd.DataFrame, shares: dict[tuple[str, str], np.ndarray]) -> pd.DataFrame:
    """dendf, F, p, denominator and exact of each line but the residual."""
    parts = list(ems.columns)
    meansq, df = (table.loc[parts, column].to_numpy() for column in ("meansq", "numdf"))
    rows: dict[str, tuple] = {}
    for line in table.index[:-1]:
        absent = ems.loc[line].where(ems.columns != line, 0.0).to_numpy()
        weights = np.linalg.solve(ems.loc[parts].to_numpy().T, absent)
        weights[np.abs(weights) < ROUNDING] = 0
        below = weights @ meansq
        F = table.loc[line, "meansq"] / below if below > 0 else np.nan
        dendf = below**2 / np.sum((weights * meansq) ** 2 / df) if below > 0 else np.nan
        p = fdtrc(table.loc[line, "numdf"], dendf, F)
        used = [name for name, w in zip(parts, weights, strict=True) if w]
        exact = len(used) == 1 and _is_exact(line, used[0], parts[:-1], shares)
        rows[line] = dendf, F, p, _combination(parts, weights), exact
    rows[RESIDUAL] = np.nan, np.nan, np.nan, None, None
    return pd.DataFrame.from_dict(rows, "index", columns=["dendf", "F", "p", "denominator", "exact"])


def _is_exact(line: str, below: str, random: list[str], shares: dict[tuple[str, str], np.ndarray]) -> bool:
    """Whether the two are independent multiples of χ² for any variances, the numerator's own being zero."""
    others = [(shares[line, i], shares[below, i]) for i in random if i != line]
    return all(
        _isotropic(a) and _isotropic(b) and np.allclose(a @ b.T, 0, atol=ROUNDING * a.shape[1]) for a, b in others
    )


def _isotropic(share: np.ndarray) -> bool:
    """Whether ZZᵀ acts on the span of U as one number, from UᵀZ (df, ℓ)."""
    size = _mean(share)
    return bool(np.allclose(share @ share.T, size * np.eye(len(share)), atol=ROUNDING * max(1.0, size)))


def _combination(names: list[str], weights: np.ndarray) -> str:
    """`A:B + A:C - A:B:C`, with coefficients where they are not one."""
    text = ""
    for name, w in zip(names, weights, strict=True):
        if w:
            size = "" if np.isclose(abs(w), 1) else f"{abs(w):.4g} "
            text += f" {'-' if w < 0 else '+'} {size}{name}"
    return text.removeprefix(" + ")


def _text(table: pd.DataFrame) -> str:
    cells = {str(c): format_numbers(table[c].to_numpy()) for c in table}
    return text_table({" ": [str(i) for i in table.index], **cells})
