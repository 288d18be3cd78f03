"""Pictures of a fit: residuals, quantiles, random effects, regressions by level."""

from typing import Any

import numpy as np
import pandas as pd

from ..errors import DataError
from ..fit import Fit
from ..formula.hints import listed, suggest
from ..inference.effects import ranef_intervals
from ..inference.lm_list import LmList
from .frames import hues, legend_beside, new_axes

CROWDED = 40  # levels above which a caterpillar has no names at its axis


def qq(values: Any, group: str | None = None, ax: Any = None) -> Any:
    """Normal quantile-quantile plot, with the line through the quartiles.

    values : a Fit, whose residuals in units of σ̂ are drawn, or with `group` the conditional modes of that grouping
    factor, in units of the response and one colour for each column; or numbers (n,).
    Raises DataError for a group that is no grouping factor.
    """
    ax = new_axes(ax)
    if not isinstance(values, Fit):
        samples, what, title = {None: values}, getattr(values, "name", None) or "sample quantiles", "normal quantiles"
    elif group is None:
        samples, what = {None: values.resid("scaled")}, f"residual {values.schema.response} / σ̂"
        title = f"{values.schema.response}: residuals, normal quantiles"
    else:
        samples, what = dict(_effects(values, group).items()), f"effect on {values.schema.response}"
        title = f"{group}: random effects, normal quantiles"
    for name, sample in samples.items():
        _quantiles(ax, np.sort(np.asarray(sample, float)), name)
    if len(samples) > 1:
        ax.legend()
    ax.set(xlabel="standard normal quantiles", ylabel=what, title=title)
    return ax


def _quantiles(ax: Any, y: np.ndarray, label: str | None) -> None:
    from scipy.special import ndtri

    x = ndtri((np.arange(len(y)) + 0.5) / len(y))
    (points,) = ax.plot(x, y, "o", markersize=4, alpha=0.7, label=label)
    quartiles = np.quantile(y, [0.25, 0.75])
    slope = np.diff(quartiles)[0] / (2 * ndtri(0.75))
    ax.axline((0, quartiles.mean()), slope=slope, color=points.get_color(), linewidth=1)


def residuals(fit: Fit, kind: str = "pearson", ax: Any = None) -> Any:
    """Residuals against fitted values, and the residuals' local mean.

    kind : as in `Fit.resid`; all but "scaled" are in units of the response.
    """
    ax, name = new_axes(ax), fit.schema.response
    ax.axhline(0, color="0.5", linewidth=1)
    _scatter(ax, fit.fitted, fit.resid(kind))
    unit = " / σ̂" if kind == "scaled" else ""
    ax.set(xlabel=f"fitted {name}", ylabel=f"residual {name}{unit}", title=f"{name}: residuals and their local mean")
    return ax


def scale_location(fit: Fit, ax: Any = None) -> Any:
    """√|residual / σ̂| against fitted values: where its local mean slopes, the variance changes with the mean."""
    ax, name = new_axes(ax), fit.schema.response
    _scatter(ax, fit.fitted, np.sqrt(np.abs(fit.resid("scaled"))))
    ax.set(xlabel=f"fitted {name}", ylabel="√|residual / σ̂|", title=f"{name}: size of residuals and its local mean")
    ax.set_ylim(bottom=0)
    return ax


def _scatter(ax: Any, x: np.ndarray, y: np.ndarray) -> None:
    """Points, and the means of y in up to ten groups of equally many, in the order of x."""
    ax.plot(x, y, "o", markersize=4, alpha=0.6)
    parts = np.array_split(np.argsort(x, kind="stable"), min(10, max(1, len(x) // 5)))
    ax.plot([x[i].mean() for i in parts], [y[i].mean() for i in parts], color="C1")


def caterpillar(
    fit: Fit, group: str | None = None, column: str | None = None, level: float = 0.95, ax: Any = None
) -> Any:
    """Random effects of a grouping factor in increasing order, with the intervals of `ranef_intervals`.

    group, column : by default the first factor, and its first column. level : of the intervals. Beyond 40 levels their
    names are left out. Raises DataError for a factor or column that is not there.
    """
    effects = _effects(fit, group)
    group, column = effects.columns.name, effects.columns[0] if column is None else column
    if column not in effects:
        raise DataError(f"{group} has no effects of {column!r}{suggest(column, effects)}")
    table = ranef_intervals(fit, level).xs((group, column), level=(0, 2)).sort_values("estimate")
    shown = len(table) <= CROWDED
    ax = new_axes(ax, (6.4, max(3.0, 1 + 0.22 * min(len(table), CROWDED))))
    places = np.arange(len(table))
    ax.axvline(0, color="0.5", linewidth=1)
    ax.hlines(places, table["lower"], table["upper"], linewidth=1)
    ax.plot(table["estimate"], places, "o", markersize=3)
    ax.set_yticks(places if shown else [], table.index if shown else [])
    unit = fit.schema.response
    ax.set(ylabel=group, xlabel=f"effect on {unit}, with {level:.0%} intervals", title=f"{column} by {group}")
    return ax


def _effects(fit: Fit, group: str | None) -> pd.DataFrame:
    """Conditional modes of a factor, by default the first, (ℓ, p); the columns are named for it."""
    found = fit.ranef()
    if not found:
        raise DataError(f"{fit.schema.formula!r} has no random effects")
    group = next(iter(found)) if group is None else group
    if group not in found:
        raise DataError(f"{fit.schema.formula!r} has no grouping factor {group!r}{suggest(group, found)}")
    return found[group].rename_axis(columns=group)


def slopes(result: LmList, x: str | None = None, y: str | None = None, by: Any = None, ax: Any = None) -> Any:
    """One coefficient of each level's regression against another.

    result : of `lj.lm_list`. x, y : its columns, by default the first two. by : a group of each level, as a Series or
    dict by level, which has a colour. Levels without a regression are left out. Raises DataError for columns that are
    not there, and for levels without a group.
    """
    found = result.coef.dropna()
    if found.shape[1] < 2 and (x is None or y is None):
        raise DataError(f"{result.formula!r} has one column of coefficients; a picture needs two")
    x, y = found.columns[0] if x is None else x, found.columns[1] if y is None else y
    for name in (x, y):
        if name not in found:
            raise DataError(f"{result.formula!r} has no coefficients of {name!r}{suggest(name, found)}")
    groups = pd.Series("", found.index) if by is None else pd.Series(by).reindex(found.index)
    if groups.isna().any():
        raise DataError(f"no group in by= for the levels {listed(groups.index[groups.isna()])}")
    ax, response = new_axes(ax), result.schema.response
    parts = list(found.groupby(groups))
    for colour, (label, part) in zip(hues(len(parts)), parts, strict=True):
        ax.plot(part[x], part[y], "o", markersize=4, alpha=0.7, color=colour, label=str(label))
    ax.set(xlabel=f"{x}, effect on {response}", ylabel=f"{y}, effect on {response}")
    ax.set_title(f"{response}: regressions by {found.index.name}")
    if by is not None:
        legend_beside(ax, getattr(by, "name", None))
    return ax
