"""lmer(), lm() and gls(): formula and data in, a Fit out."""

from typing import Any

from patsy import EvalEnvironment

from .errors import FormulaError
from .fit import Fit, fit_design
from .formula import build


def lmer(
    formula: str,
    data: Any,
    reml: bool = True,
    weights: Any = None,
    offset: Any = None,
    contrasts: Any = None,
    subset: Any = None,
    na_action: str = "omit",
    theta: Any = None,
    relmat: Any = None,
    covariance: Any = None,
    residual: Any = None,
) -> Fit:
    """Fits a linear mixed model.

    formula : lme4's, for example "y ~ x + (x | g)"; names that are no columns are looked up where lmer was called.
    data : pandas or polars DataFrame, or a dict of arrays. reml : minimise the REML criterion, else the ML deviance.
    weights : prior weights, which divide a row's residual variance. offset : added to the linear predictor; both as
    arrays or column names. contrasts : "sum", "helmert", … or a dict by column. subset : booleans or a condition.
    na_action : "omit" rows with missing values (counted in the summary) or "raise". theta : (m,) fixes the relative
    covariance parameters. relmat : known covariances between levels (kinship, distance) by grouping factor,
    {"animal": A}: a DataFrame labelled by the levels, or an array in their order. covariance : by grouping factor what
    the covariance between a term's columns is: "full", "diagonal", "compound_symmetry", "ar1", a `core.Template`, or a
    function from the number of columns to one. residual : the covariance of the residuals, `lj.ar1(time, by)`,
    `lj.un(time, by)`, `lj.cs(by) * lj.var_ident(by)` …; theta is then θ and φ together.
    Raises FormulaError and DataError, naming the culprit; warns with ConvergenceWarning.
    """
    options = {"weights": weights, "offset": offset, "contrasts": contrasts, "subset": subset, "na_action": na_action}
    related = {"relmat": relmat, "covariance": covariance, "residual": residual}
    schema, design = build(formula, data, env=EvalEnvironment.capture(1), **options, **related)
    if not design.terms:
        raise FormulaError(f"{formula!r} has no random-effects term: add one such as (1 | g), or use lm()")
    return fit_design(schema, design, reml, theta)


def lm(
    formula: str,
    data: Any,
    weights: Any = None,
    offset: Any = None,
    contrasts: Any = None,
    subset: Any = None,
    na_action: str = "omit",
) -> Fit:
    """Fits a linear model without random effects on the same code path; arguments as in `lmer`.

    As R's lm: σ̂ and the standard errors divide by n − p, the log-likelihood is the full one.
    """
    options = {"weights": weights, "offset": offset, "contrasts": contrasts, "subset": subset, "na_action": na_action}
    schema, design = build(formula, data, env=EvalEnvironment.capture(1), **options)
    if design.terms:
        raise FormulaError(f"{formula!r} has random-effects terms: use lmer()")
    return fit_design(schema, design, reml=True)


def gls(
    formula: str,
    data: Any,
    residual: Any,
    reml: bool = True,
    weights: Any = None,
    offset: Any = None,
    contrasts: Any = None,
    subset: Any = None,
    na_action: str = "omit",
) -> Fit:
    """Fits a linear model whose residuals are correlated or of unequal variance: generalised least squares, of which an
    MMRM (residual=lj.un(visit, subject)) is one.

    residual : `lj.ar1(time, by)`, `lj.un(time, by)`, `lj.var_ident(by)` …, or a product. The other arguments are those
    of `lmer`. Raises and warns as `lmer`; TypeError for another residual.
    """
    options = {"weights": weights, "offset": offset, "contrasts": contrasts, "subset": subset, "na_action": na_action}
    schema, design = build(formula, data, env=EvalEnvironment.capture(1), residual=residual, **options)
    if design.terms:
        raise FormulaError(f"{formula!r} has random-effects terms: use lmer()")
    if design.residual is None:
        raise TypeError("gls needs residual=, such as lj.ar1(time, by); lm() fits equal and independent residuals")
    return fit_design(schema, design, reml)
