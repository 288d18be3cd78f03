"""Pictures of fits and of posterior draws with matplotlib.

Each function draws into `ax`, by default a new figure's, and returns the Axes.
"""

from collections.abc import Callable, Sequence
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd

from .bayes.posterior import posterior_of
from .errors import DataError
from .fit import Fit
from .formula.hints import suggest
from .inference.effects import ranef_intervals
from .inference.profile import Profile

CROWDED = 40  # levels above which a caterpillar has no names at its axis
MOST = 24  # panels of a figure of draws
WIDE = 36  # letters of a line above a panel
FEW = 10  # chains that are worth a legend


def qq(values: Any, group: str | None = None, ax: Any = None) -> Any:
    """Normal quantile-quantile plot, with the line through the quartiles.

    values : a Fit, whose residuals in units of σ̂ are drawn, or with `group` the conditional modes of that grouping
    factor, in units of the response and one colour for each column; or numbers (n,).
    Raises DataError for a group that is no grouping factor.
    """
    ax = _axes(ax)
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
    if group is not None:
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
    ax, name = _axes(ax), fit.schema.response
    ax.axhline(0, color="0.5", linewidth=1)
    _scatter(ax, fit.fitted, fit.resid(kind))
    unit = " / σ̂" if kind == "scaled" else ""
    ax.set(xlabel=f"fitted {name}", ylabel=f"residual {name}{unit}", title=f"{name}: residuals and their local mean")
    return ax


def scale_location(fit: Fit, ax: Any = None) -> Any:
    """√|residual / σ̂| against fitted values: where its local mean slopes, the variance changes with the mean."""
    ax, name = _axes(ax), fit.schema.response
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
    ax = _axes(ax, (6.4, max(3.0, 1 + 0.22 * min(len(table), CROWDED))))
    places = np.arange(len(table))
    ax.axvline(0, color="0.5", linewidth=1)
    ax.hlines(places, table["lower"], table["upper"], linewidth=1)
    ax.plot(table["estimate"], places, "o", markersize=3)
    ax.set_yticks(places if shown else [], table.index if shown else [])
    unit = fit.schema.response
    ax.set(ylabel=group, xlabel=f"effect on {unit}, with {level:.0%} intervals", title=f"{column} by {group}")
    return ax


def profile(result: Profile, levels: Sequence[float] = (0.5, 0.8, 0.95), ax: Any = None) -> Any:
    """Zeta plots of `lj.profile(fit)`: the signed root of the deviance's excess against each parameter, a straight line
    where the likelihood is normal in it. The brackets are the intervals of these levels.

    ax : as many Axes as there are profiles, by default new ones; returns their array. Correlations with what does not
    vary have no profile. Raises ValueError for another number of Axes.
    """
    parts = dict(iter(result.table.groupby("parameter", sort=False)))
    axes = _panels(ax, list(parts), "profiles", 2.8)
    intervals = [result.confint(level) for level in levels]
    for panel, (name, part) in zip(axes, parts.items(), strict=True):
        panel.axhline(0, color="0.5", linewidth=1)
        panel.plot(part["value"], part["zeta"], ".-")
        for limits in intervals:
            ends = limits.loc[name]
            heights = np.interp(ends, part["value"], part["zeta"])
            panel.plot(np.repeat(ends, 2), [heights[0], 0, 0, heights[1]], color="0.5", linewidth=1)
        panel.set(xlabel=name, ylabel="ζ")
    return axes


def trace(idata: Any, var_names: Sequence[str] | None = None, most: int = MOST, ax: Any = None) -> Any:
    """Draws of `gibbs` or `nuts` in their order, a line for each chain: chains that mix look alike and go nowhere.

    var_names : variables of the posterior, all by default, parameters before effects. Each of their numbers has a
    panel with the name that `arviz.summary` gives it; of more than `most` the first are drawn, and the figure says how
    many are left out. ax : as many Axes as there are panels, by default new ones. Returns the array of Axes. Raises
    DataError for what has no posterior or no such variable, ValueError for another number of Axes.
    """

    def draw(panel: Any, chain: np.ndarray, label: str) -> None:
        panel.plot(chain, linewidth=0.6, alpha=0.8, label=label)

    return _by_chain(idata, var_names, most, ax, draw, "draw", "")


def acf(idata: Any, var_names: Sequence[str] | None = None, lags: int = 40, most: int = MOST, ax: Any = None) -> Any:
    """Autocorrelations of each chain's draws at lags up to `lags`, between the limits ±1.96/√draws of white noise.

    The other arguments, what is returned and raised: as in `trace`.
    """
    import arviz

    def draw(panel: Any, chain: np.ndarray, label: str) -> None:
        panel.plot(arviz.autocorr(chain)[: lags + 1], ".-", linewidth=0.8, markersize=3, label=label)

    axes = _by_chain(idata, var_names, most, ax, draw, "lag", "autocorrelation")
    limit = 1.96 / np.sqrt(idata.posterior.sizes["draw"])
    for panel in axes:
        panel.axhspan(-limit, limit, color="0.85", zorder=0)
        panel.set_ylim(top=1.05)
    return axes


def density(idata: Any, var_names: Sequence[str] | None = None, most: int = MOST, ax: Any = None) -> Any:
    """Posterior densities, ArviZ's kernel estimate from each chain's draws.

    The other arguments, what is returned and raised: as in `trace`.
    """
    import arviz

    def draw(panel: Any, chain: np.ndarray, label: str) -> None:
        panel.plot(*arviz.kde(chain), linewidth=1, label=label)

    axes = _by_chain(idata, var_names, most, ax, draw, "", "density")
    for panel in axes:
        panel.set_yticks([])
        panel.set_ylim(bottom=0)
    return axes


def _by_chain(
    idata: Any, var_names: Sequence[str] | None, most: int, ax: Any, draw: Callable, xlabel: str, ylabel: str
) -> np.ndarray:
    """Axes with draw(axes, draws of one chain, label) for each parameter and chain."""
    parameters = _parameters(idata, var_names)
    if most < 1:
        raise ValueError(f"most={most!r}: give a number of panels")
    shown = dict(list(parameters.items())[:most])
    axes = _panels(ax, list(shown), "parameters", 1.9)
    chains = [f"chain {label}" for label in idata.posterior["chain"].values]
    for panel, (name, draws) in zip(axes, shown.items(), strict=True):
        for label, own in zip(chains, draws, strict=True):
            draw(panel, own, label)
        panel.set_title(fill(name, WIDE), fontsize="medium")
        panel.set(xlabel=xlabel, ylabel=ylabel)
    if ax is None:
        figure, columns = axes[0].figure, min(len(chains), 2 * min(3, len(axes)))
        if 1 < len(chains) <= FEW:
            figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=columns)
        if len(shown) < len(parameters):
            text = f"{len(parameters) - len(shown)} of {len(parameters)} parameters are left out"
            figure.suptitle(f"{text}: var_names and most choose", fontsize="medium")
    return axes


def _parameters(idata: Any, var_names: Sequence[str] | None) -> dict[str, np.ndarray]:
    """(chains, draws) of each number of the posterior, by ArviZ's name of it; effects last."""
    from arviz.labels import BaseLabeller
    from arviz.sel_utils import xarray_var_iter

    posterior = posterior_of(idata)
    if var_names is None:
        var_names = sorted(posterior, key=lambda name: name.startswith("b_"))
    wanted = [var_names] if isinstance(var_names, str) else list(var_names)
    for name in wanted:
        if name not in posterior:
            raise DataError(f"the posterior has no {name!r} but {', '.join(posterior)}{suggest(name, posterior)}")
    parts = xarray_var_iter(posterior[wanted], var_names=wanted, combined=True)
    return {BaseLabeller().make_label_flat(name, where, at): values for name, where, at, values in parts}


def _panels(ax: Any, names: Sequence[str], what: str, height: float) -> np.ndarray:
    """As many Axes as names, new ones in rows of three where ax is None. Raises ValueError for another number."""
    if ax is None:
        from matplotlib import pyplot

        size, rows = min(3, len(names)), -(-len(names) // 3)
        figure = pyplot.figure(figsize=(3.2 * size, height * rows), layout="constrained")
        ax = [figure.add_subplot(rows, size, i + 1) for i in range(len(names))]
    axes = np.ravel(np.asarray(ax, dtype=object))
    if len(axes) != len(names):
        raise ValueError(f"{len(axes)} axes for {len(names)} {what}: {', '.join(names)}")
    return axes


def _effects(fit: Fit, group: str | None) -> pd.DataFrame:
    """Conditional modes of a factor, by default the first, (ℓ, p); the columns are named for it."""
    found = fit.ranef()
    if not found:
        raise DataError(f"{fit.schema.formula!r} has no random effects")
    group = next(iter(found)) if group is None else group
    if group not in found:
        raise DataError(f"{fit.schema.formula!r} has no grouping factor {group!r}{suggest(group, found)}")
    return found[group].rename_axis(columns=group)


def _axes(ax: Any, size: tuple[float, float] | None = None) -> Any:
    if ax is not None:
        return ax
    from matplotlib import pyplot

    return pyplot.subplots(figsize=size, layout="constrained")[1]
