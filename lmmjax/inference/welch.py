"""welch_test(x, y): whether two means differ, with unequal variances."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DataError
from ..formula.frame import vector
from .intervals import check_level
from .results import TestResult


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class WelchTest(TestResult):
    """Welch's t-test; see `welch_test`.

    statistic : t. df : Welch and Satterthwaite's. estimate : mean of x minus mean of y. lower, upper : its interval of
    `level`. means : of x and y. n : numbers of values of x and y.
    """

    estimate: float
    lower: float
    upper: float
    level: float
    means: tuple[float, float]
    n: tuple[int, int]

    def _lines(self) -> list[str]:
        sides = (f"{mean:.7g} (n = {n})" for mean, n in zip(self.means, self.n, strict=True))
        return [
            "Welch's two-sample t-test",
            f"means {' and '.join(sides)}",
            f"difference {self.estimate:.5g}, {100 * self.level:.3g}% interval {self.lower:.5g} to {self.upper:.5g}",
            f"t = {self.statistic:.5g}, df = {self.df:.5g}, p = {self.p_value:.4g}",
        ]


def welch_test(x: Any, y: Any, level: float = 0.95) -> WelchTest:
    """Tests that the means of x (n,) and y (m,) are equal, two-sided, where their variances may differ.

    NaN, such as the slopes of levels without a regression, are left out. level : of the difference's interval.
    Source: Welch (1947), Biometrika 34, 28-35; computed by scipy.stats.ttest_ind.
    Raises DataError where x or y has fewer than two values, or where neither varies; ValueError for a bad level.
    """
    from scipy import stats

    check_level(level)
    samples = [vector(v, name, np.size(v)) for name, v in (("x", x), ("y", y))]
    samples = [v[~np.isnan(v)] for v in samples]
    for name, v in zip(("x", "y"), samples, strict=True):
        if len(v) < 2:
            raise DataError(f"{name} has {len(v)} values that are not missing: a variance needs two")
    if not any(np.ptp(v) for v in samples):
        raise DataError("x and y are constant: there is no variance to compare their means with")
    found = stats.ttest_ind(*samples, equal_var=False)
    lower, upper = found.confidence_interval(level)
    means = tuple(float(v.mean()) for v in samples)
    return WelchTest(
        statistic=float(found.statistic),
        p_value=float(found.pvalue),
        df=float(found.df),
        estimate=means[0] - means[1],
        lower=float(lower),
        upper=float(upper),
        level=level,
        means=(means[0], means[1]),
        n=(len(samples[0]), len(samples[1])),
    )
