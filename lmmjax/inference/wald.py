"""Wald tests of linear hypotheses about the fixed effects: linear_test(fit, L), kr_compare(fit0, fit1)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..errors import DataError
from ..fit import Fit
from ..refitting import given_theta
from .df import f_tail, freedom, hypothesis, t_quantile, t_tails
from .intervals import check_level, tails
from .nesting import check_fits, check_fixed, check_same_data
from .results import TestResult


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class WaldTest(TestResult):
    """A test of Lβ = value. statistic : F on df and ddf, or χ² on df where ddf is None.

    L : (k, p). value : (k,). table : a row for each row of L, with estimate, se, df, t, p, lower, upper (95 %).
    scaling : what Kenward and Roger multiply F by, contained in it; one otherwise. method : of `ddf=`.
    """

    L: np.ndarray
    value: np.ndarray
    table: pd.DataFrame
    scaling: float
    method: str | None

    @property
    def unscaled(self) -> tuple[float, float]:
        """F without the scaling, and its p-value."""
        if self.ddf is None:
            raise ValueError("unscaled: a χ² test has no scaling; give ddf=")
        f = self.statistic / self.scaling
        return f, float(f_tail(f, self.df, self.ddf))

    def _lines(self) -> list[str]:
        table = self.table.to_string(float_format="{:.5g}".format)
        name = {None: "χ²", "residual": "F, residual degrees of freedom"}.get(self.method, f"F, {self.method}")
        return [f"Wald test ({name})", *super()._lines(), table]


def linear_test(fit: Fit, L: Any, ddf: str | None = "satterthwaite", level: float = 0.95) -> WaldTest:
    """Tests Lβ = 0, or other values, by Wald's statistic.

    L : (p,) or (k, p) numbers; a dict, Series or DataFrame of numbers by column; names of columns of X; or constraints
    as text, "Days = 10", "a - b", "a = b, c = 0" (patsy's). ddf : None refers kF to χ² with k degrees of freedom;
    "satterthwaite", "kenward-roger" (with its adjusted covariance) and "residual" (D as it was estimated, n − p) refer
    F to an F distribution. Satterthwaite's ddf of several rows depend on how they are written, Kenward and Roger's on
    their span only.
    level : of the intervals in `.table`, one for each row of L.
    Raises DataError for unknown columns, dependent rows, and Kenward–Roger on an ML fit.
    """
    check_fits((fit,), "linear_test", structured=True)
    check_level(level)
    rows, value = hypothesis(L, fit.schema.fixed_names)
    return _test(fit, rows, value, ddf, level)


def kr_compare(null: Fit, alt: Fit) -> WaldTest:
    """Kenward and Roger's F test of the fixed effects that one REML fit has and the other has not.

    null, alt : fits with the same random effects, in either order; all comes from the larger one, whose columns of X
    must span the smaller one's. As pbkrtest's KRmodcomp. statistic is the scaled F; `.unscaled` the other.
    Raises DataError where the rows, responses or random effects differ, or neither is a special case of the other.
    """
    check_fits((null, alt), "kr_compare", structured=True)
    null, alt = (null, alt) if null.design.p <= alt.design.p else (alt, null)
    check_same_data(null, alt)
    check_fixed(null, alt)
    terms = [
        sorted((g.text, repr(t.template)) for g, t in zip(f.schema.groups, f.design.terms, strict=True))
        for f in (null, alt)
    ]
    if terms[0] != terms[1]:
        texts = [" + ".join(text for text, _ in found) or "none" for found in terms]
        raise DataError(
            f"kr_compare() compares fixed effects: the random ones must be the same, not {texts[0]} and {texts[1]} "
            "(covariance= included); see lrt() and exact_rlrt()"
        )
    for fit in (null, alt):
        if given_theta(fit) is not None:
            raise DataError(
                f"theta of {fit.schema.formula!r} was given, not estimated: see linear_test(fit, L, ddf=None)"
            )
    left = alt.design.p - null.design.p
    if not left:
        raise DataError(
            f"{null.schema.formula!r} and {alt.schema.formula!r} have the same fixed effects: nothing to test"
        )
    return _test(alt, _restriction(null.design.X, alt.design.X, left), np.zeros(left), "kenward-roger", 0.95)


def _restriction(small: np.ndarray, large: np.ndarray, k: int) -> np.ndarray:
    """L (k, p) with Lβ = 0 where large·β lies in the span of small."""
    q, r = np.linalg.qr(large)
    inside = np.linalg.qr(q.T @ small)[0]
    return np.linalg.svd(inside, full_matrices=True)[0][:, -k:].T @ r


def _test(fit: Fit, L: np.ndarray, value: np.ndarray, ddf: str | None, level: float) -> WaldTest:
    free = freedom(fit.estimate, fit.cross_products, fit.reml, ddf)
    found = free.f_test(L, fit.estimate.beta, value)
    chi2 = ddf is None
    return WaldTest(
        statistic=float(found.F * (found.numdf if chi2 else 1)),
        df=found.numdf,
        ddf=None if chi2 else float(found.dendf),
        p_value=float(found.p),
        L=L,
        value=value,
        table=_estimates(L, fit.estimate.beta, free, level, value),
        scaling=float(found.scaling),
        method=ddf,
    )


def _estimates(L: np.ndarray, beta: np.ndarray, free: Any, level: float, value: Any = 0.0) -> pd.DataFrame:
    """A row for each row of L (k, p): estimate, se, df, t of estimate − value, p, and the interval lower, upper."""
    estimate, df = L @ beta, free.df(L)
    se = np.sqrt(np.einsum("kp,pq,kq->k", L, free.vcov, L))
    t = (estimate - value) / se
    lower, upper = estimate + t_quantile(tails(level)[:, None], df) * se
    columns = {"estimate": estimate, "se": se, "df": df, "t": t, "p": t_tails(t, df), "lower": lower, "upper": upper}
    return pd.DataFrame(columns)
