"""Random effects one by one, how far they are shrunk, and which share of the variance is theirs."""

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import fdtri, ndtri

from ..core.estimate import Estimate
from ..core.spectral import applies, spectrum
from ..errors import DataError
from ..fit import Fit
from ..precision import in_float64
from .bootstrap import bootstrap
from .intervals import check_level, percentile, tails
from .nesting import check_fits

METHODS = ("auto", "exact", "boot")


def ranef_intervals(fit: Fit, level: float = 0.95) -> pd.DataFrame:
    """Normal intervals of the random effects: b̂ ± z √Var(b | y) at β̂, θ̂ and σ̂, what lme4's dotplot of `ranef` draws.

    Returns estimate, se, lower, upper, in units of the response per unit of the column, by (group, level, column). They
    take the estimates for the truth, so with few levels they are too short, and where a variance is zero they are a
    point. Raises DataError for a model without random effects, ValueError for a bad level.
    """
    check_level(level)
    _check_random(fit, "ranef_intervals")
    effects = fit.ranef(cond_var=True)
    estimate = _long(effects)
    se = np.sqrt(_conditional(effects))
    lower, upper = (estimate + z * se for z in ndtri(tails(level)))
    return pd.DataFrame({"estimate": estimate, "se": se, "lower": lower, "upper": upper})


def shrinkage(fit: Fit) -> pd.Series:
    """1 − Var(b | y)/Var(b) of each random effect, at β̂ and θ̂, by (group, level, column): 1 keeps all, 0 nothing.

    In a balanced one-way layout of n rows per level it is σ_a²/(σ_a² + σ²/n), the ratio of a predicted effect to the
    deviation of its level's mean; in general the reliability of b̂ (Raudenbush & Bryk 2002, Hierarchical Linear Models,
    chapter 3). 0 where the variance is zero, which is the limit. Raises DataError for a model without random effects.
    """
    _check_random(fit, "shrinkage")
    effects = fit.ranef(cond_var=True)
    prior = _long({g: pd.DataFrame(v, effects[g].index, effects[g].columns) for g, v in _variances(fit).items()})
    ratio = 1 - _conditional(effects) / prior.where(prior > 0)
    return ratio.fillna(0.0).rename("shrinkage")


def mean_variances(fit: Fit) -> np.ndarray:
    """(k,) variance that each term gives to a row, on average over the rows: σ² mean(zᵀTTᵀz) (Johnson 2014)."""
    return fit.sigma**2 * _relative_variances(fit, fit.theta[None])[0]


def icc(fit: Fit, level: float = 0.95, method: str | None = "auto", n: int = 1000, seed: Any = 0) -> pd.DataFrame:
    """Intraclass correlations: the share of each grouping factor in the variance that X does not explain.

    The variance of a term with slopes is its mean over the rows (Johnson 2014, Methods in Ecology and Evolution 5,
    944-946), the residual one that of a row of weight one; fixed effects do not count ("adjusted", Nakagawa, Johnson &
    Schielzeth 2017). Of nested factors each has its own share; two rows of one inner level share the sum.
    method : of the interval. "exact", for one term with one column and any X: the variance ratios at which the F
    statistic of the levels is not extreme, after Wald (Harville & Fenech 1985, Biometrics 41, 137-152); in a balanced
    one-way layout Searle's interval. It may be the point 0. "boot": percentiles of n parametric bootstrap draws with
    this seed. "auto": exact where that exists, else bootstrap. None: no interval.
    Returns estimate, lower, upper by group. Raises DataError for a model without random effects or where there is no
    exact interval, ValueError for unknown options.
    """
    check_level(level)
    _check_random(fit, "icc")
    if method is not None and method not in METHODS:
        raise ValueError(f"method={method!r}: choose None, {', '.join(map(repr, METHODS))}")
    groups = pd.Index(list(dict.fromkeys(g.group for g in fit.schema.groups)), name="group")
    table = pd.DataFrame({"estimate": _shares(fit, fit.theta[None])[0]}, groups)
    if method is None:
        return table
    bounds = _exact_interval(fit, level) if method != "boot" else None
    if method == "exact" and bounds is None:
        raise DataError(
            f"{fit.schema.formula!r} has no exact interval: that needs one random term with one column, and levels "
            "that differ within X; use method='boot'"
        )
    if bounds is None:
        draws = _shares(fit, bootstrap(fit, _theta, n, seed).draws)
        bounds = np.array([percentile(d[np.isfinite(d)], level) for d in draws.T])
    return table.assign(lower=bounds[:, 0], upper=bounds[:, 1])


def _theta(e: Estimate) -> Any:
    return e.theta


def _check_random(fit: Fit, name: str) -> None:
    check_fits((fit,), name, structured=name == "ranef_intervals")
    if not fit.design.terms:
        raise DataError(f"{fit.schema.formula!r} has no random effects")


def _long(frames: dict[str, pd.DataFrame]) -> pd.Series:
    """Tables of levels by columns as one column, by (group, level, column)."""
    names = [pd.MultiIndex.from_product([[g], f.index, f.columns]) for g, f in frames.items()]
    index = names[0].append(names[1:]).set_names(["group", "level", "column"])
    return pd.Series(np.concatenate([f.to_numpy().ravel() for f in frames.values()]), index)


def _conditional(effects: Any) -> pd.Series:
    """Var(b | y) of each effect, long."""
    diagonals = {g: np.einsum("lpp->lp", v) for g, v in effects.cond_var.items()}
    return _long({g: pd.DataFrame(diagonals[g], f.index, f.columns) for g, f in effects.items()})


def _variances(fit: Fit) -> dict[str, np.ndarray]:
    """Var(b) per grouping factor, (ℓ, p)."""
    parts: dict[str, list[np.ndarray]] = {}
    for group, term, t in zip(fit.schema.groups, fit.design.terms, fit.templates, strict=True):
        own = np.outer(_level_variances(term), fit.sigma**2 * np.sum(t**2, 1))
        parts.setdefault(group.group, []).append(own)
    return {g: np.hstack(v) for g, v in parts.items()}


def _level_variances(term: Any) -> np.ndarray:
    """(ℓ,) diagonal of the levels' known correlation matrix."""
    return np.ones(term.n_levels) if term.level_factor is None else np.sum(np.square(term.level_factor), 1)


def _relative_variances(fit: Fit, thetas: np.ndarray) -> np.ndarray:
    """(B, k) mean(zᵀTTᵀz) of each term at each of thetas (B, m)."""
    out = []
    for term, s in zip(fit.design.terms, fit.cross_products.plan.theta_slices(), strict=True):
        moments = (term.x * _level_variances(term)[term.codes, None]).T @ term.x / fit.nobs
        t = np.stack([np.asarray(term.template(x)) for x in thetas[:, s]])
        out.append(np.einsum("bij,ik,bkj->b", t, moments, t))
    return np.stack(out, 1)


def _shares(fit: Fit, thetas: np.ndarray) -> np.ndarray:
    """(B, G) intraclass correlations, groups in the order of the terms."""
    names = [g.group for g in fit.schema.groups]
    groups = list(dict.fromkeys(names))
    relative = _relative_variances(fit, thetas)
    member = np.array([[n == g for g in groups] for n in names], float)  # (k, G)
    return relative @ member / (1 + relative.sum(1, keepdims=True))


@in_float64
def _exact_interval(fit: Fit, level: float) -> np.ndarray | None:
    """(1, 2) the exact interval of the intraclass correlation, or None where there is none.

    With the nonzero eigenvalues s of ZᵀP_X Z and q the squares of y along them, (Σ q/(1 + γs)/r) / (rss/ν) has the
    distribution F(r, ν) at the true γ = σ_a²/σ², and falls as γ grows.
    """
    from scipy.optimize import brentq

    cp = fit.cross_products
    spectral = spectrum(cp, fit.reml) if applies(cp) else None
    if spectral is None:
        return None
    y, border = cp.response, cp.stages[0].border[:, 0]
    solved = spectral.inverse @ y.dense
    q = (spectral.rotation.T @ (y.zy[0][:, 0] - border @ solved)) ** 2 / spectral.eigenvalues
    rss, r = float(y.yy - y.dense @ solved - q.sum()), len(q)
    nu = float(cp.n) - cp.p - r
    if nu < 1:
        return None
    mean_square = _relative_variances(fit, np.ones((1, 1)))[0, 0]

    def excess(share: float, quantile: float) -> float:
        rest = (1 - share) * mean_square
        return float(np.sum(q * rest / (rest + share * spectral.eigenvalues))) / r / (rss / nu) - quantile

    ends = []
    for quantile in fdtri(r, nu, tails(level))[::-1]:
        at = partial(excess, quantile=quantile)
        ends.append(brentq(at, 0.0, 1.0, xtol=1e-14) if at(0.0) > 0 else 0.0)
    return np.array([ends])
