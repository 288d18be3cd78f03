"""Bootstrap confidence intervals of one number, from its draws; NumPy only.

Efron & Tibshirani (1993), An Introduction to the Bootstrap, chapters 13 and 14; Davison & Hinkley (1997), Bootstrap
Methods and their Application, chapter 5.
"""

import numpy as np
from scipy.special import ndtr, ndtri

KINDS = ("percentile", "basic", "bca")


def check_level(level: float) -> None:
    """Raises ValueError unless 0 < level < 1."""
    if not 0 < level < 1:
        raise ValueError(f"level={level!r}: give a number between 0 and 1")


def tails(level: float) -> np.ndarray:
    """(2,) the probabilities that a central interval leaves below its two ends."""
    return np.array([(1 - level) / 2, (1 + level) / 2])


def clopper_pearson(hits: int, n: int, level: float) -> tuple[float, float]:
    """Exact limits of a probability of which hits of n trials tell."""
    from scipy.stats import binomtest

    interval = binomtest(hits, n).proportion_ci(level, "exact")
    return float(interval.low), float(interval.high)


def percentile(draws: np.ndarray, level: float) -> np.ndarray:
    """(2,) quantiles of the draws (B,), with linear interpolation."""
    return np.quantile(draws, tails(level))


def basic(draws: np.ndarray, observed: float, level: float) -> np.ndarray:
    """(2,) the percentile interval reflected in the estimate: draws − estimate stands for estimate − truth."""
    return 2 * observed - percentile(draws, level)[::-1]


def bca(draws: np.ndarray, observed: float, acceleration: float, level: float) -> np.ndarray:
    """(2,) the bias-corrected and accelerated interval (Efron 1987, J. Amer. Statist. Assoc. 82, 171-185).

    Quantiles at Φ(z₀ + (z₀ + z)/(1 − a(z₀ + z))), where Φ(z₀) is the share of draws below the estimate; draws equal to
    it count by half. NaN where all draws lie on one side of the estimate: z₀ is infinite then.
    """
    below = np.mean(draws < observed) / 2 + np.mean(draws <= observed) / 2
    if not (0 < below < 1 and np.isfinite(acceleration)):
        return np.full(2, np.nan)
    shifted = ndtri(below) + ndtri(tails(level))
    return np.quantile(draws, ndtr(ndtri(below) + shifted / (1 - acceleration * shifted)))


def acceleration(jackknife: np.ndarray) -> float:
    """a = Σd³ / 6(Σd²)^{3/2}, d = mean − value, from (g,) values of the statistic that leave out one unit each.

    NaN from fewer than two.
    """
    if len(jackknife) < 2:
        return np.nan
    d = jackknife.mean() - jackknife
    spread = np.sum(d**2)
    # Differences that are rounding have no skewness.
    if spread <= len(d) * (1e-10 * np.abs(jackknife).max()) ** 2:
        return 0.0
    return float(np.sum(d**3) / (6 * spread**1.5))
