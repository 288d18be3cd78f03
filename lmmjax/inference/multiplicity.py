"""p-values and intervals of a family of m tests with t-distributions."""

from functools import lru_cache

import numpy as np

from .df import t_quantile

ADJUSTMENTS = ("tukey", "holm", "bonferroni", "sidak", "fdr", "none")
NODES = 13  # quantiles of Tukey's that are computed one by one; to 1e-6 by interpolation beyond


def check_adjustment(adjust: str, pairwise: bool) -> None:
    """Raises ValueError for an unknown one, and for Tukey's where the family is not all pairs of means."""
    known = [a for a in ADJUSTMENTS if pairwise or a != "tukey"]
    if adjust not in known:
        raise ValueError(f"adjust={adjust!r}: choose one of {', '.join(known)}")


def adjusted(p: np.ndarray, t: np.ndarray, df: np.ndarray, adjust: str, k: int) -> np.ndarray:
    """(m,) p-values adjusted for the family; NaN stay out of it, except that Tukey's has all k means.

    p, t, df : (m,) two-sided p-values, statistics and degrees of freedom. Tukey's are exact for balanced means and
    conservative otherwise (Hayter 1984, Annals of Statistics 12, 61-75); "fdr" is Benjamini and Hochberg (1995).
    """
    out, ok = np.full(len(p), np.nan), np.isfinite(p)
    out[ok] = _adjusted(p[ok], t[ok], df[ok], adjust, k)
    return out


def _adjusted(p: np.ndarray, t: np.ndarray, df: np.ndarray, adjust: str, k: int) -> np.ndarray:
    from scipy import stats

    m = len(p)
    if adjust == "none" or not m:
        return p
    if adjust == "tukey":
        return np.clip(stats.studentized_range.sf(np.sqrt(2) * np.abs(t), k, df), 0, 1)
    if adjust == "fdr":
        return stats.false_discovery_control(p)
    if adjust == "bonferroni":
        return np.minimum(1, m * p)
    if adjust == "sidak":
        return -np.expm1(m * np.log1p(-p))
    order = np.argsort(p)
    steps = np.maximum.accumulate((m - np.arange(m)) * p[order])
    return np.minimum(1, steps)[np.argsort(order)]


def critical(df: np.ndarray, level: float, adjust: str, k: int) -> np.ndarray:
    """(m,) half-lengths, in standard errors, of intervals that hold together with the probability `level`.

    Holm's and Benjamini and Hochberg's steps give no intervals: these are Bonferroni's.
    """
    known = df[~np.isnan(df)]
    m = max(1, len(known))
    if adjust == "tukey":
        found = _tukey_quantiles(level, k, known)
    else:
        tail = {"none": 1 - level, "sidak": 1 - level ** (1 / m)}.get(adjust, (1 - level) / m)
        found = t_quantile(1 - tail / 2, known)
    out = np.full(len(df), np.nan)
    out[~np.isnan(df)] = found
    return out


def _tukey_quantiles(level: float, k: int, df: np.ndarray) -> np.ndarray:
    """Of the studentized range over √2. Each takes a second, so many are interpolated: log q is smooth in 1/df."""

    def log_quantile(inverse: np.ndarray) -> np.ndarray:
        return np.log([_tukey_quantile(level, k, float(f"{x:.10g}")) for x in inverse])

    inverse, place = np.unique(np.round(1 / df, 12), return_inverse=True)
    if len(inverse) <= NODES:
        return np.exp(log_quantile(inverse))[place]
    curve = np.polynomial.Chebyshev.interpolate(log_quantile, NODES - 1, domain=[inverse[0], inverse[-1]])
    return np.exp(curve(inverse))[place]


@lru_cache(maxsize=1024)
def _tukey_quantile(level: float, k: int, inverse_df: float) -> float:
    from scipy import stats

    df = 1 / inverse_df if inverse_df > 0 else np.inf
    return float(stats.studentized_range.ppf(level, k, df)) / np.sqrt(2)
