"""confint(fit) → DataFrame: profile, Wald and bootstrap intervals of all parameters through one call."""

from typing import Any

import numpy as np
import pandas as pd

from ..fit import Fit
from ..precision import in_float64
from .bootstrap import bootstrap
from .df import freedom, t_quantile
from .intervals import check_level, tails
from .nesting import check_fits
from .parameters import chosen, parameters_of, statistic
from .profile import profile

METHODS = ("profile", "wald", "boot")


@in_float64
def confint(
    fit: Fit,
    parameters: Any = None,
    level: float = 0.95,
    method: str = "profile",
    ddf: str | None = None,
    n: int = 1000,
    seed: Any = 0,
    kind: str = "percentile",
) -> pd.DataFrame:
    """Confidence intervals: lower, upper by parameter.

    parameters : names such as "sd_Intercept|operator", "cor_Days.Intercept|Subject", "sigma" or a column of X; None for
    all, in lme4's order: the lower triangle of each term column by column, the parameters of a residual structure, σ,
    β. σ and the sd of an intercept are in units of the response.
    method :
    "profile", where the profiled ML deviance is a χ²₁ quantile above its minimum (see `profile`); limits on the
    boundary are exactly 0, or ±1 for a correlation.
    "wald", estimate ± quantile × standard error for fixed effects; NaN for the others, whose estimates are far from
    normal. ddf : None for normal quantiles, "satterthwaite", "kenward-roger" (with its adjusted standard errors) or
    "residual" for those of t.
    "boot", from n draws of the parametric bootstrap of this fit by its own criterion. kind : "percentile", "basic" or
    "bca", as in `Bootstrap.interval`. seed : an int or a JAX key.
    `.attrs["note"]` of the table says what a reader must know. Raises ValueError for unknown options, DataError for
    names of no parameter.
    """
    check_fits((fit,), "confint", structured=True)
    check_level(level)
    if method not in METHODS:
        raise ValueError(f"method={method!r}: choose one of {', '.join(METHODS)}")
    if ddf is not None and method != "wald":
        raise ValueError(f"ddf={ddf!r} belongs to method='wald'; method={method!r} does not use it")
    if method == "profile":
        return profile(fit, parameters, level).confint(level)
    everything = parameters_of(fit)
    kept = [p.place for p in chosen(everything, parameters)]
    limits = _wald(fit, level, ddf) if method == "wald" else _boot(fit, level, n, seed, kind)
    return pd.DataFrame(limits, [p.name for p in everything], ["lower", "upper"]).iloc[kept]


def _wald(fit: Fit, level: float, ddf: str | None) -> np.ndarray:
    """(k, 2) limits, NaN for all but β."""
    e, p = fit.estimate, fit.design.p
    f = freedom(fit.estimate, fit.cross_products, fit.reml, ddf)
    quantiles = t_quantile(tails(level), f.df(np.eye(p))[:, None])
    of_beta = e.beta[:, None] + f.se[:, None] * quantiles
    return np.concatenate([np.full((len(parameters_of(fit)) - p, 2), np.nan), of_beta])


def _boot(fit: Fit, level: float, n: int, seed: Any, kind: str) -> np.ndarray:
    """(k, 2) limits of all parameters from one bootstrap."""
    structures = () if fit.design.residual is None else fit.design.residual.structures
    everything = statistic(fit.cross_products.plan.templates, structures)
    return bootstrap(fit, everything, n, seed).interval(level, kind).to_numpy()
