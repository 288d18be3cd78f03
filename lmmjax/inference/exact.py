"""Exact tests of one variance: the likelihood ratio's distribution in finite samples, simulated from eigenvalues.

Crainiceanu & Ruppert (2004), J. R. Statist. Soc. B 66, 165-185. Without the random effect, y ~ N(Xβ, σ²I). Then the
criterion is a function of λ = θ² (see `core.spectral`) that takes one χ² variable for each distinct eigenvalue of
ZᵀP_X Z and one for the residual, so a draw costs a few numbers, not a fit. X and Z are multiplied by the square roots
of prior weights, and Z by the factor L of known correlations between levels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ..core.batch import MEMORY
from ..core.criterion import criterion
from ..core.design import RandomTerm
from ..core.estimate import estimate
from ..core.spectral import BEYOND, GRID, Curve, improvements, spectrum
from ..errors import DataError
from ..fit import Fit
from ..precision import in_float64
from ..refitting import given_theta, key_of
from .nesting import check_comparable, check_fits, likelihood_ratio
from .results import TestResult
from .sampling import check_replicates, chunks

FEW, MANY = 2**10, 2**12  # draws in a chunk: few are compiled faster, many are computed faster


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class ExactTest(TestResult):
    """A likelihood-ratio test of one variance with its exact null distribution; see `exact_rlrt` and `exact_lrt`.

    restricted : whether the likelihood is REML's. null, alternative : what is compared. n : draws made. share_zero :
    share of draws that are zero, because the estimated variance is. note : which fits were fitted again, or "".
    """

    restricted: bool
    null: str
    alternative: str
    n: int
    share_zero: float
    note: str

    def _lines(self) -> list[str]:
        kind, name = ("restricted likelihood", "RLRT") if self.restricted else ("likelihood", "LRT")
        return [
            f"Exact {kind}-ratio test of one variance",
            f"null:        {self.null}",
            f"alternative: {self.alternative}",
            f"{name} {self.statistic:.5g}, p = {self.p_value:.4g} (standard error {self.p_se:.2g})",
            f"{self.n} draws, {self.share_zero:.1%} of them zero",
            *([self.note] if self.note else []),
        ]


@in_float64
def exact_rlrt(
    fit: Fit, n: int = 10_000, seed: Any = 0, reduced: Fit | None = None, null: Fit | None = None
) -> ExactTest:
    """Tests whether the variance of one random effect is zero, by the restricted likelihood ratio.

    fit : of `lmer`, with one scalar term such as (1 | g); it is compared with the same model without it. Where there
    are more random terms, give two more fits of the same data: `reduced` with the tested term only, and `null` with all
    the others (m, mA and m0 of R's RLRsim are reduced, fit and null). The statistic then comes from `fit` and `null`
    and its distribution from `reduced`: an approximation, close where the other variances do not blur the tested one
    (Greven et al. 2008, J. Comput. Graph. Stat. 17, 870-891). With one term the test is exact in samples of any size.
    n : draws under the null hypothesis. seed : an int or a JAX key; the first draws of a seed are the same for any n.

    p_value is the share of draws at least as large as the statistic, p_se its standard error √(p(1 − p)/n). ML fits are
    fitted again by REML, and the result says so. A statistic below 1e-8 of the criterion is rounding: zero, and p is 1.
    Raises DataError for a term with several parameters, for several terms without the two other fits, for fits that do
    not belong together, for a θ that was given, and where X explains the random effect or no residual is left;
    ValueError for a bad n or one of the two fits alone.
    """
    check_replicates(n)
    if (reduced is None) != (null is None):
        raise ValueError("give reduced= (only the tested random term) and null= (all the others) together")
    fits = [f for f in (fit, reduced, null) if f is not None]
    _check_estimated("exact_rlrt", fits)
    tested = fit if reduced is None else reduced
    _check_one_variance(tested)
    if reduced is not None and null is not None:
        _check_together(fit, reduced, null)
    below = criterion(np.zeros(1), fit.cross_products, True) if null is None else _criterion(null, True)
    text = f"no {tested.schema.groups[0].text}" if null is None else null.schema.formula
    observed = likelihood_ratio(float(below), _criterion(fit, True))
    draws = rlrt_draws(tested, n, seed)
    note = "" if all(f.reml for f in fits) else "ML fits refitted by REML"
    return _result(observed, draws, True, text, fit, note)


@in_float64
def exact_lrt(fit: Fit, null: Fit, n: int = 10_000, seed: Any = 0) -> ExactTest:
    """Tests a model with one random effect against a linear model, by the likelihood ratio.

    fit, null : of `lmer` with one scalar term such as (1 | g), and of `lm` to the same data, in either order. The null
    may have fewer fixed effects, which are tested together with the variance; where it has the same ones, `exact_rlrt`
    has more power. n, seed, p_value, p_se : as in `exact_rlrt`. A REML fit is fitted again by ML, and the result says
    so. Raises DataError as `exact_rlrt`, and where neither fit is a linear model or they are not nested.
    """
    check_replicates(n)
    _check_estimated("exact_lrt", (fit, null))
    full, null = (fit, null) if fit.design.terms else (null, fit)
    _check_one_variance(full)
    if null.design.terms:
        raise DataError("exact_lrt() compares with a fit of lm(); where both have random effects use bootstrap_lrt()")
    check_comparable(null, full)
    observed = likelihood_ratio(null.deviance, _criterion(full, False))
    draws = _draws(_curve(full, False), full, n, seed, full.design.p - null.design.p)
    note = "REML fit refitted by ML" if full.reml else ""
    return _result(observed, draws, False, null.schema.formula, full, note)


def rlrt_draws(fit: Fit, n: int, seed: Any) -> np.ndarray:
    """(n,) restricted likelihood ratios of `exact_rlrt` where the variance is zero; fit : with one scalar term."""
    return _draws(_curve(fit, True), fit, n, seed)


def _check_estimated(name: str, fits: Sequence[Fit]) -> None:
    check_fits(fits, name)
    for fit in fits:
        if given_theta(fit) is not None:
            raise DataError(f"theta of {fit.schema.formula!r} was given: fit it without theta= to test a variance")


def _check_one_variance(fit: Fit) -> None:
    """Raises DataError unless the model has a single random term with a single variance."""
    terms, formula = fit.design.terms, repr(fit.schema.formula)
    if not terms:
        raise DataError(f"{formula} has no random effect to test")
    if len(terms) > 1:
        raise DataError(
            f"{formula} has {len(terms)} random terms: to test one of them by exact_rlrt() give reduced= (a fit with "
            "only the tested term) and null= (one with only the others)"
        )
    if terms[0].p > 1:
        raise DataError(
            f"{fit.schema.groups[0].text} has a variance for each of {terms[0].p} columns; an exact test is of a term "
            "with one: use bootstrap_lrt()"
        )


def _check_together(fit: Fit, reduced: Fit, null: Fit) -> None:
    """Raises DataError unless the random terms of `fit` are those of the other two and all else is the same."""
    for smaller in (reduced, null):
        check_comparable(smaller, fit)
        if smaller.design.p != fit.design.p:
            names = f"{smaller.schema.formula!r} and {fit.schema.formula!r}"
            raise DataError(f"{names} differ in their fixed effects: a restricted likelihood ratio needs the same")
    parts = reduced.design.terms + null.design.terms
    if not (_are_among(parts, fit.design.terms) and _are_among(fit.design.terms, parts)):
        raise DataError(
            f"{fit.schema.formula!r} must have the random terms of reduced, {reduced.schema.formula!r}, and of null, "
            f"{null.schema.formula!r}, together, and no others"
        )


def _are_among(terms: Sequence[RandomTerm], others: Sequence[RandomTerm]) -> bool:
    return all(any(_equal(a, b) for b in others) for a in terms)


def _equal(a: RandomTerm, b: RandomTerm) -> bool:
    if a.template != b.template or (a.level_factor is None) != (b.level_factor is None):
        return False
    same = a.level_factor is None or np.array_equal(a.level_factor, b.level_factor)
    return same and np.array_equal(a.codes, b.codes) and np.array_equal(a.x, b.x)


def _criterion(fit: Fit, reml: bool) -> float:
    """The least REML or ML criterion of the model, whichever it was fitted by."""
    e = fit.estimate if fit.reml == reml else estimate(fit.cross_products, reml)
    return float(e.criterion)


def _curve(fit: Fit, reml: bool) -> Curve:
    found = spectrum(fit.cross_products, reml)
    if found is None:
        raise DataError(f"the fixed effects explain {fit.schema.groups[0].text}: it has no variance of its own to test")
    return found.curve


def _draws(curve: Curve, fit: Fit, n: int, seed: Any, dropped: int = 0) -> np.ndarray:
    """(n,) likelihood ratios of y ~ N(Xβ, σ²I) where `dropped` columns of X have no effect."""
    residual = fit.nobs - fit.design.p - curve.times.sum()
    if residual < 1:
        raise DataError(f"{fit.schema.formula!r} has as many effects as rows: no residual is left to compare with")
    df, k = np.array([*curve.times, residual, *([dropped] if dropped else [])]), len(curve.times) + 1
    generators = np.random.default_rng(np.asarray(jax.random.key_data(key_of(seed)))).spawn(2)
    largest, draws = FEW if n < 16 * MANY else MANY, np.empty(n)
    todo = chunks(n, 8 * (3 * (GRID + BEYOND) + 8 * k), MEMORY, largest=largest)
    for first, count in todo:
        chi_squares, parts = _chi_squares(df, count, *generators), np.ones((todo.size, k))
        parts[:count] = chi_squares[:, :k]
        draws[first : first + count] = np.asarray(improvements(parts, curve))[:count]
        if dropped:
            share = chi_squares[:, k] / chi_squares[:, :k].sum(1)
            draws[first : first + count] += curve.nu * np.log1p(share)
    return draws


def _chi_squares(df: np.ndarray, count: int, first: np.random.Generator, second: np.random.Generator) -> np.ndarray:
    """(count, len(df)); JAX's own take ten times as long. Most have one degree of freedom: squares of normals."""
    one, out = df == 1, np.empty((len(df), count))  # a row is written faster than a column
    out[one] = np.square(first.standard_normal((count, one.sum()))).T
    out[~one] = second.chisquare(df[~one], (count, (~one).sum())).T
    return out.T


def _result(statistic: float, draws: np.ndarray, restricted: bool, null: str, full: Fit, note: str) -> ExactTest:
    n, p = len(draws), float(np.mean(draws >= statistic))
    return ExactTest(
        statistic=statistic,
        p_value=p,
        p_se=float(np.sqrt(p * (1 - p) / n)),
        draws=draws,
        restricted=restricted,
        null=null,
        alternative=full.schema.formula,
        n=n,
        share_zero=float(np.mean(draws == 0)),
        note=note,
    )
