"""R² of mixed models after Nakagawa and Schielzeth: what fixed effects explain, and what random ones do besides."""

import numpy as np
import pandas as pd

from ..fit import Fit
from ..inference.effects import mean_variances
from ..inference.nesting import check_fits


def r2(fit: Fit) -> pd.Series:
    """Marginal and conditional R²: V_f/(V_f + V_r + σ²) and (V_f + V_r)/(V_f + V_r + σ²).

    V_f is the variance of Xβ̂ over the rows (divisor n − 1), V_r the variance that the random effects give to a row, on
    average over the rows, σ² that of a row of weight one; an offset is no part of them. Where a random effect has no
    variance it adds nothing, so that a fit without any has equal values. Both are the same for `lm`.
    Sources: Nakagawa & Schielzeth (2013), Methods in Ecology and Evolution 4, 133-142; slopes: Johnson (2014), 5,
    944-946; Nakagawa, Johnson & Schielzeth (2017), J. R. Soc. Interface 14, 20170213.
    """
    check_fits((fit,), "r2")
    X = fit.design.X
    fixed = float(np.sum(((X - X.mean(0)) @ fit.estimate.beta) ** 2)) / (fit.nobs - 1)
    random = float(mean_variances(fit).sum()) if fit.design.terms else 0.0
    total = fixed + random + fit.sigma**2
    return pd.Series({"marginal": fixed / total, "conditional": (fixed + random) / total}, name="r2")
