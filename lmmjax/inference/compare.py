"""Likelihood-ratio comparisons of fitted models: tables of nested ones, one test, and a test for each random term."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import chdtrc

from ..core.covariance import Template
from ..core.crossprod import cross_products
from ..core.design import RandomTerm
from ..errors import DataError
from ..fit import Fit, fit_cross_products
from ..formula.matrices import Matrix
from ..formula.parse import parse
from ..formula.schema import GroupTerm
from ..precision import in_float64
from ..refitting import given_theta
from .boundary import boundary_test
from .nesting import (
    Undetermined,
    check_comparable,
    check_fits,
    check_fixed,
    check_same_data,
    check_same_fixed,
    check_structures,
    likelihood_ratio,
    not_spanned,
    outside_span,
    placed,
)
from .results import LikelihoodRatioTest
from .sampling import check_replicates

NONE = "<none>"  # R's name of the row of the whole model
METHODS = ("auto", "chisq", "mixture")
DRAWS = 10_000


def compare_fits(*fits: Fit, refit: bool = True) -> pd.DataFrame:
    """Likelihood-ratio tests of two or more models of one response, each against the next smaller.

    fits : of `lmer` or `lm`, in any order, each nested in the next by its number of parameters. refit : fit REML models
    again by ML, without which models of different fixed effects cannot be compared; where False, linear models among
    REML fits enter by REML too.
    Returns a row for each model, named by its formula, smallest first: npar (β, θ and σ), aic, bic, loglik, deviance
    (−2 loglik), and of the test against the row above chisq, df and p; p is missing where df is 0. `.attrs["note"]` and
    the heading of the printed table tell which criterion it shows. As lme4's anova: p takes chisq for chi-squared,
    which makes it too large where a variance is zero under the smaller model (`lrt` does not).
    Raises ValueError for fewer than two fits and for REML beside ML fits under refit=False; DataError for fits of
    different rows, responses, weights or offsets, for neighbours that are not nested (where that cannot be told of
    random terms they pass), and under refit=False for fixed effects of another space or coding.
    """
    if len(fits) < 2:
        raise ValueError(f"anova() compares two or more fits; it was given {len(fits)}")
    check_fits(fits, "anova", structured=True)
    for fit in fits[1:]:
        check_same_data(fits[0], fit)
    restricted = [f.reml for f in fits if not f.is_lm]
    reml = not refit and any(restricted)
    if reml and not all(restricted):
        raise ValueError("refit=False: some of the fits are by REML, others by ML; let them be refitted by ML")
    models = sorted(fits, key=lambda f: f.df)
    for null, alt in pairwise(models):
        if reml:
            check_same_fixed(null, alt)
        if null.df < alt.df:
            _check_nested(null, alt)
    models = models if reml else [by_ml(f) for f in models]
    loglik = np.array([-0.5 * f.reml_criterion if reml else f.loglik for f in models])
    npar, (chisq, df) = np.array([f.df for f in models]), np.full((2, len(models)), np.nan)
    chisq[1:], df[1:] = 2 * np.diff(loglik), np.diff(npar)
    names = pd.Index([f.schema.formula for f in models], name="model")
    note = "fitted by REML" if reml else "REML fits refitted by ML" if any(restricted) else "fitted by ML"
    return lrt_table(names, npar, loglik, chisq, df, models[0].nobs, note)


@in_float64
def lrt(null: Fit, alt: Fit, method: str = "auto", n: int = DRAWS, seed: Any = 0) -> LikelihoodRatioTest:
    """Tests a model against a larger one by the likelihood ratio, variances of zero under the null allowed for.

    null, alt : fits of `lmer` or `lm` to the same response, in either order; the one with fewer parameters is the null.
    They may differ in fixed effects, random effects or both. REML fits with the same fixed effects are compared by
    REML (a linear model too); else by ML, to which REML fits are refitted. `.note` and the printed test say so.
    method : "chisq" refers the statistic to χ² on as many degrees of freedom as there are parameters more, which is
    conservative where variances are tested. "mixture" refers it to its limit, a mixture of χ² (Self & Liang 1987;
    Stram & Lee 1994; Shapiro 1988), by n draws from `seed` (an int or a JAX key). "auto" computes the weights of the
    mixture where they have a closed form (up to three dimensions at the boundary: one variance gives ½χ²₀ + ½χ²₁, a
    slope added to an intercept ½χ²₁ + ½χ²₂), draws where not, and is χ² where no variance is tested.

    The limit takes the expected information in the variances and covariances at the estimates of the null, and that
    variances which the null estimates are positive; where one of them is estimated as zero, `.note` says so. It is for
    many levels: for few of them see `bootstrap_lrt` and `exact_rlrt`.
    `.weights` : of the χ² distributions, by degrees of freedom; `.p_chisq` : what "chisq" says; `.p_se`, `.draws` where
    drawn. Raises DataError where the fits differ in rows, response, weights or offset, where they are not nested,
    naming the term, and where that cannot be told; ValueError for other methods.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r}: choose one of {', '.join(METHODS)}")
    check_replicates(n)
    check_fits((null, alt), "lrt", structured=True)
    null, alt = (null, alt) if null.df <= alt.df else (alt, null)
    check_comparable(null, alt)
    _check_nested(null, alt)
    null, alt, reml, note = _one_criterion(null, alt)
    statistic = likelihood_ratio(*(f.reml_criterion if reml else f.deviance for f in (null, alt)))
    df = alt.df - null.df
    p_chisq = float(chdtrc(df, statistic))
    found: dict[str, Any] = {"p_value": p_chisq, "weights": pd.Series([1.0], [df])}
    if method != "chisq" and not _differ_in_phi_only(null, alt):
        limit = boundary_test(statistic, null, alt, reml, method == "auto", n, seed)
        found = {"p_value": limit.p, "weights": limit.weights, "p_se": limit.p_se, "draws": limit.draws}
        if len(limit.weights) > 1 and null.design.terms and null.is_singular:
            note += "; variances of zero under the null taken as positive"
    return LikelihoodRatioTest(
        statistic=statistic,
        df=df,
        p_chisq=p_chisq,
        note=note,
        null=null.schema.formula,
        alternative=alt.schema.formula,
        **found,
    )


@in_float64
def ranova(fit: Fit, reduce_terms: bool = True, n: int = DRAWS, seed: Any = 0) -> pd.DataFrame:
    """A likelihood-ratio test of each random term, by the criterion of the fit (REML or ML), as lmerTest's ranova.

    reduce_terms : take from a term one of its own terms at a time ("x in (x | g)" tests it against (1 | g)), those that
    no interaction contains; a term of an intercept alone is dropped. False drops every term whole. A term without an
    intercept, (0 + x | g), has nothing nested in it and is dropped, where lmerTest takes (1 | g) for the smaller model;
    so is one whose covariance is neither full nor diagonal.
    Returns a row "<none>" for the fit itself and one for each reduction, in the formula's order: npar, aic, bic,
    loglik, deviance, chisq, df, p from χ² on df, and p_mixture, which allows for the boundary as `lrt` does (n, seed :
    draws, where it needs some) and is missing where the limit is not known. The smallest model may be a linear one.
    Raises DataError for a fit without random terms or with a given θ.
    """
    check_fits((fit,), "ranova")
    if not fit.design.terms:
        raise DataError(f"{fit.schema.formula!r} has no random term to test")
    if given_theta(fit) is not None:
        raise DataError(f"theta of {fit.schema.formula!r} was given: its random terms were not estimated")
    check_replicates(n)
    rows = [(name, _refitted(fit, i, term)) for name, i, term in _reductions(fit, reduce_terms)]
    fits = [fit, *(smaller for _, smaller in rows)]
    npar = np.array([f.df for f in fits])
    loglik = np.array([-0.5 * float(f.estimate.criterion) for f in fits])
    chisq, df = 2 * (loglik[0] - loglik), 1.0 * (npar[0] - npar)
    chisq[0] = df[0] = np.nan
    names = pd.Index([NONE, *(name for name, _ in rows)], name="reduced")
    note = f"fitted by {'REML' if fit.reml else 'ML'}"
    p = [_limit_p(statistic, smaller, fit, n, seed) for statistic, (_, smaller) in zip(chisq[1:], rows, strict=True)]
    return lrt_table(names, npar, loglik, chisq, df, fit.nobs, note, p_mixture=[np.nan, *p])


def lrt_table(index: pd.Index, npar, loglik, chisq, df, nobs: int, note: str, **more: Any) -> pd.DataFrame:
    """The columns of every table of likelihood-ratio tests, from (models,) arrays."""
    chisq = np.maximum(chisq, 0)  # as in R: less is rounding
    columns = {
        "npar": npar,
        "aic": 2 * npar - 2 * loglik,
        "bic": np.log(nobs) * npar - 2 * loglik,
        "loglik": loglik,
        "deviance": -2 * loglik,
        "chisq": chisq,
        "df": df,
        "p": np.where(df > 0, chdtrc(df, chisq), np.nan),
    }
    table = pd.DataFrame({**columns, **more}, index)
    table.columns.name = note
    table.attrs["note"] = note
    return table


def by_ml(fit: Fit) -> Fit:
    """The fit, or if it is a REML fit the same model by ML; a θ that was given stays."""
    if not fit.reml or fit.is_lm:
        return fit
    return fit_cross_products(fit.schema, fit.design, fit.cross_products, False, given_theta(fit))


def outermost(matrix: Matrix) -> list[str]:
    """Terms but the intercept whose factors are not all in another term (R's drop.scope)."""
    present = [name for name, _ in matrix.terms]
    factors = {t.name(): frozenset(t.factors) for t in matrix.info.terms if t.name() in present}
    return [name for name in present if factors[name] and not any(factors[name] < other for other in factors.values())]


def _check_nested(null: Fit, alt: Fit) -> None:
    """DataError where the null is no special case; models of which it cannot be told pass."""
    check_fixed(null, alt)
    check_structures(null, alt)
    try:
        placed(null, alt)
    except Undetermined:
        pass


def _one_criterion(null: Fit, alt: Fit) -> tuple[Fit, Fit, bool, str]:
    """Both fits by one criterion, whether it is REML, and a note that says so."""
    restricted = [f.reml for f in (null, alt) if not f.is_lm]
    if restricted and all(restricted) and not outside_span(alt, null):
        check_same_fixed(null, alt)
        return null, alt, True, "by REML"
    note = "by ML, REML fits refitted" if any(restricted) else "by ML"
    return by_ml(null), by_ml(alt), False, note


def _differ_in_phi_only(null: Fit, alt: Fit) -> bool:
    """Whether no variance of a random effect is tested in fits with residual structures; DataError where one is."""
    if null.design.residual is None and alt.design.residual is None:
        return False
    if null.design.n_theta != alt.design.n_theta:
        raise DataError("the limit is not known where variances are tested beside a residual structure: method='chisq'")
    return True


def _limit_p(statistic: float, null: Fit, alt: Fit, n: int, seed: Any) -> float:
    try:
        return boundary_test(statistic, null, alt, alt.reml, True, n, seed).p
    except Undetermined:
        return np.nan


def _refitted(fit: Fit, i: int, term: RandomTerm | None) -> Fit:
    """The fit with another term in the place of term i, or none. Its schema keeps the old term's names."""
    pairs = list(zip(fit.design.terms, fit.schema.groups, strict=True))
    pairs[i : i + 1] = [] if term is None else [(term, pairs[i][1])]
    design = fit.design.replace(terms=tuple(t for t, _ in pairs))
    schema = replace(fit.schema, groups=tuple(g for _, g in pairs))
    return fit_cross_products(schema, design, cross_products(design, orthonormal=True), fit.reml)


def _reductions(fit: Fit, reduce_terms: bool) -> list[tuple[str, int, RandomTerm | None]]:
    """(name of the row, position of the term, what stays of it) for each reduction, in the formula's order."""
    bars = parse(fit.schema.formula).bars
    pairs = list(zip(fit.design.terms, fit.schema.groups, strict=True))
    found: list[tuple[str, int, RandomTerm | None]] = []
    for i in sorted(range(len(pairs)), key=lambda i: bars.index(pairs[i][1].bar)):
        term, group = pairs[i]
        names = outermost(group.matrix) if reduce_terms and term.template.filled else []
        found += [(f"{name} in {group.text}", i, _without(term, group, name)) for name in names]
        found += [] if names else [(group.text, i, None)]
    return found


def _without(term: RandomTerm, group: GroupTerm, name: str) -> RandomTerm | None:
    """The random term without one term of its raw matrix; None where nothing is left.

    As in R a factor that is left is coded by all its levels where there is no intercept, and of (0 + f | g) without the
    factor f an intercept stays; both lie in the span of what was.
    """
    matrix = group.matrix
    left = [t for t in matrix.info.terms if t.name() != name]
    x = term.x[:, [c for other, columns in matrix.terms if other != name for c in columns]]
    types = {f: info.type for f, info in matrix.info.factor_infos.items()}
    constant = not left or any(all(types[f] == "categorical" for f in t.factors) for t in left)
    one = np.ones((len(x), 1))
    if constant and not term.template.is_diagonal and not_spanned(one, x).any() and not not_spanned(one, term.x).any():
        x = np.concatenate([one, x], 1)
    if not x.shape[1]:
        return None
    template = Template.diagonal(x.shape[1]) if term.template.is_diagonal else Template.full(x.shape[1])
    return replace(term, x=x, template=template)
