"""Populations of the usual designs, from numbers alone: what `lj.Study` calls with a row of its scenarios.

Where a treatment has k levels, level j = 0 … k − 1 differs from the first by effect · j/(k − 1).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..formula.residual import ar1
from ..guard import check_counts
from .population import Population, make_lmer


def one_way(
    groups: int = 6,
    size: int | Sequence[int] = 5,
    sd: float = 1.0,
    sigma: float = 1.0,
    mean: float = 0.0,
    treatments: int = 1,
    effect: float = 0.0,
) -> Population:
    """y ~ 1 + (1 | group), or y ~ treatment + (1 | group) with treatments dealt to the groups in turn.

    size : rows of a group, or of each. sd, sigma : standard deviations between and within groups.
    """
    sizes = [size] * groups if np.ndim(size) == 0 else list(np.ravel(size))
    _counts(groups=groups, treatments=treatments, **{f"size[{i}]": s for i, s in enumerate(sizes)})
    if len(sizes) != groups:
        raise ValueError(f"size={size!r}: give one size, or one for each of the {groups} groups")
    group = np.repeat(np.arange(groups), sizes)
    data = pd.DataFrame({"group": _levels("g", group)})
    parameters = {"Intercept": mean, "sd_Intercept|group": sd, "sigma": sigma}
    if treatments == 1:
        return make_lmer("y ~ 1 + (1 | group)", data, parameters)
    data["treatment"] = _levels("t", group % treatments)
    return make_lmer("y ~ treatment + (1 | group)", data, parameters | _steps("treatment", "t", treatments, effect))


def paired(pairs: int = 20, sd: float = 1.0, sigma: float = 1.0, mean: float = 0.0, effect: float = 0.0) -> Population:
    """y ~ treatment + (1 | pair), each pair with one row of both treatments, which differ by effect."""
    _counts(pairs=pairs)
    pair, treatment = np.divmod(np.arange(2 * pairs), 2)
    data = pd.DataFrame({"pair": _levels("p", pair), "treatment": _levels("t", treatment)})
    parameters = {"Intercept": mean, "sd_Intercept|pair": sd, "sigma": sigma, "treatment[T.t2]": effect}
    return make_lmer("y ~ treatment + (1 | pair)", data, parameters)


def nested(
    outer: int = 6,
    inner: int = 3,
    size: int = 2,
    sd_outer: float = 1.0,
    sd_inner: float = 1.0,
    sigma: float = 1.0,
    mean: float = 0.0,
) -> Population:
    """y ~ 1 + (1 | outer/inner): inner levels of their own in each outer one, with `size` rows."""
    _counts(outer=outer, inner=inner, size=size)
    a, b, _ = (i.ravel() for i in np.indices((outer, inner, size)))
    data = pd.DataFrame({"outer": _levels("o", a), "inner": _levels("i", b)})
    sds = {"sd_Intercept|inner:outer": sd_inner, "sd_Intercept|outer": sd_outer}
    return make_lmer("y ~ 1 + (1 | outer/inner)", data, {"Intercept": mean, **sds, "sigma": sigma})


def crossed(
    rows: int = 8,
    columns: int = 6,
    size: int = 1,
    sd_row: float = 1.0,
    sd_column: float = 1.0,
    sigma: float = 1.0,
    mean: float = 0.0,
) -> Population:
    """y ~ 1 + (1 | row) + (1 | column): every row level meets every column level `size` times."""
    _counts(rows=rows, columns=columns, size=size)
    a, b, _ = (i.ravel() for i in np.indices((rows, columns, size)))
    data = pd.DataFrame({"row": _levels("r", a), "column": _levels("c", b)})
    sds = {"sd_Intercept|row": sd_row, "sd_Intercept|column": sd_column}
    return make_lmer("y ~ 1 + (1 | row) + (1 | column)", data, {"Intercept": mean, **sds, "sigma": sigma})


def split_plot(
    plots: int = 8,
    whole: int = 2,
    sub: int = 2,
    sd: float = 1.0,
    sigma: float = 1.0,
    mean: float = 0.0,
    whole_effect: float = 0.0,
    sub_effect: float = 0.0,
    interaction: float = 0.0,
) -> Population:
    """y ~ whole * sub + (1 | plot): whole-plot treatments dealt to the plots in turn, all sub-plot ones in each plot.

    plots : of all whole-plot treatments together. interaction : of the two last levels; those of others are in
    proportion to both places.
    """
    _counts(plots=plots, whole=whole, sub=sub)
    plot, part = (i.ravel() for i in np.indices((plots, sub)))
    levels = {"plot": _levels("p", plot), "whole": _levels("w", plot % whole), "sub": _levels("s", part)}
    parameters = {"Intercept": mean, "sd_Intercept|plot": sd, "sigma": sigma}
    parameters |= _steps("whole", "w", whole, whole_effect) | _steps("sub", "s", sub, sub_effect)
    for i in range(1, whole):
        for j in range(1, sub):
            parameters[f"whole[T.w{i + 1}]:sub[T.s{j + 1}]"] = interaction * i * j / ((whole - 1) * (sub - 1))
    return make_lmer("y ~ whole * sub + (1 | plot)", pd.DataFrame(levels), parameters)


def longitudinal(
    subjects: int = 20,
    times: int = 5,
    sd: float = 1.0,
    sd_slope: float = 0.5,
    cor: float = 0.0,
    sigma: float = 1.0,
    mean: float = 0.0,
    slope: float = 0.0,
    arms: int = 1,
    effect: float = 0.0,
    rho: float | None = None,
) -> Population:
    """y ~ time + (time | subject) at times 0, 1, …; with arms y ~ time * arm, where slopes differ by effect.

    sd, sd_slope, cor : of subjects' intercepts and slopes; with sd_slope = 0 the model is (1 | subject). rho :
    correlation of neighbouring residuals, `lj.ar1("time", "subject")`; None for independent ones.
    """
    _counts(subjects=subjects, times=times, arms=arms)
    subject, time = (i.ravel() for i in np.indices((subjects, times)))
    data = pd.DataFrame({"subject": _levels("s", subject), "time": time, "arm": _levels("a", subject % arms)})
    parameters: dict[str, float] = {"Intercept": mean, "time": slope, "sd_Intercept|subject": sd, "sigma": sigma}
    if sd_slope:
        parameters |= {"sd_time|subject": sd_slope, "cor_time.Intercept|subject": cor}
    if arms > 1:
        slopes = _steps("arm", "a", arms, effect)
        parameters |= dict.fromkeys(slopes, 0.0) | {f"time:{name}": value for name, value in slopes.items()}
    options: dict[str, Any] = {}
    if rho is not None:
        options, parameters["Phi|subject"] = {"residual": ar1("time", "subject")}, rho
    formula = f"y ~ time{' * arm' if arms > 1 else ''} + ({'time' if sd_slope else '1'} | subject)"
    return make_lmer(formula, data, parameters, **options)


def _counts(**counts: Any) -> None:
    """Raises ValueError unless all are positive integers."""
    check_counts(**{name: (value, 1) for name, value in counts.items()})


def _levels(letter: str, codes: np.ndarray) -> pd.Categorical:
    names = [f"{letter}{i + 1}" for i in range(int(codes.max()) + 1)]
    return pd.Categorical.from_codes(codes, names)


def _steps(factor: str, letter: str, count: int, effect: float) -> dict[str, float]:
    """Treatment contrasts of levels in equal steps."""
    return {f"{factor}[T.{letter}{j + 1}]": effect * j / (count - 1) for j in range(1, count)}
