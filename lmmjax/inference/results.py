"""What a test returns: numbers by name, and a text."""

from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class TestResult:
    """A test of a null hypothesis; what does not apply is None.

    statistic : its observed value. df, ddf : numerator and denominator degrees of freedom. p_value : between 0 and 1.
    p_se : Monte Carlo standard error of a simulated p-value. draws : (n,) statistics simulated under the null.
    """

    statistic: float
    p_value: float
    df: float | None = None
    ddf: float | None = None
    p_se: float | None = None
    draws: np.ndarray | None = None

    def _lines(self) -> list[str]:
        freedom = "" if self.df is None else f" on {self.df:g}"
        freedom += "" if self.ddf is None else f" and {self.ddf:.4g}"
        return [f"statistic {self.statistic:.5g}{freedom and freedom + ' df'}, p = {self.p_value:.4g}"]

    def __repr__(self) -> str:
        return "\n".join(self._lines())


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class BootstrapTest(TestResult):
    """A likelihood-ratio test by parametric bootstrap; see `bootstrap_lrt`.

    null, alternative : formulas. n : draws made. n_failed : draws for which a fit did not converge. share_zero : share
    of draws that are zero to within rounding. p_value_plus_one : (1 + r)/(1 + n), with r draws as large as the
    statistic; a valid p-value for any n. p_chisq : from the χ² distribution on df degrees of freedom.
    """

    null: str
    alternative: str
    n: int
    n_failed: int
    share_zero: float
    p_value_plus_one: float
    p_chisq: float

    def _lines(self) -> list[str]:
        failed = f", {self.n_failed} of them not converged" if self.n_failed else ""
        return [
            "Likelihood-ratio test by parametric bootstrap",
            f"null:        {self.null}",
            f"alternative: {self.alternative}",
            f"LRT {self.statistic:.5g} on {self.df:g} df, p = {self.p_value:.4g} (standard error {self.p_se:.2g})",
            f"{self.n} draws{failed}, {self.share_zero:.1%} of them zero",
            f"(1 + r)/(1 + n) = {self.p_value_plus_one:.4g}; χ² would say p = {self.p_chisq:.4g}",
        ]


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class LikelihoodRatioTest(TestResult):
    """A likelihood-ratio test; see `lrt`.

    null, alternative : formulas. note : the criterion compared, and what is assumed. df : parameters tested. weights :
    of the χ² distributions that p_value is from, by their degrees of freedom. p_chisq : from χ² on df alone.
    """

    null: str
    alternative: str
    note: str
    weights: pd.Series
    p_chisq: float

    def _lines(self) -> list[str]:
        simulated = "" if self.p_se is None else f" (standard error {self.p_se:.2g})"
        parts = [f"{w:.3g} χ²({d})" for d, w in self.weights.items() if w > 0]
        mixture = [] if len(self.weights) == 1 else [f"from {' + '.join(parts)}; χ² would say p = {self.p_chisq:.4g}"]
        return [
            f"Likelihood-ratio test ({self.note})",
            f"null:        {self.null}",
            f"alternative: {self.alternative}",
            f"LRT {self.statistic:.5g} on {self.df:g} df, p = {self.p_value:.4g}{simulated}",
            *mixture,
        ]
