"""Pictures of inference: profiles, bootstrap distributions, power."""

from collections.abc import Sequence
from itertools import combinations
from textwrap import fill
from typing import Any

import jax
import numpy as np
import pandas as pd

from ..errors import DataError
from ..formula.hints import plural, suggest
from ..inference.bootstrap import Bootstrap
from ..inference.profile import Profile
from .frames import MOST, WIDE, hues, legend_beside, new_axes, panels, say_left_out


def profile(result: Profile, levels: Sequence[float] = (0.5, 0.8, 0.95), ax: Any = None) -> Any:
    """Zeta plots of `lj.profile(fit)`: the signed root of the deviance's excess against each parameter, a straight line
    where the likelihood is normal in it. The brackets are the intervals of these levels.

    ax : as many Axes as there are profiles, by default new ones; returns their array. Correlations with what does not
    vary have no profile. Raises ValueError for another number of Axes.
    """
    parts = dict(iter(result.table.groupby("parameter", sort=False)))
    axes = panels(ax, list(parts), "profiles", 2.8)
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


def profile_pairs(result: Profile, levels: Sequence[float] = (0.5, 0.8, 0.95), ax: Any = None) -> Any:
    """Contours of the profile likelihood of each pair of parameters, and its two profile traces, what one is where the
    other is held; where these cross is the estimate.

    levels : of joint regions, which hold at a χ²₂ quantile of the deviance's excess. The contours are interpolated from
    the profiles of single parameters, exactly for a normal likelihood (Bates & Watts 1988, Nonlinear Regression
    Analysis and Its Applications, appendix 6); one that reaches farther than they do, or to a bound, is left out: take
    `lj.profile(fit, level=0.999)` for more. ax : as many Axes as there are pairs, by default a triangle of new ones.
    Returns their array, in the order of `itertools.combinations`. Raises DataError for a single profile.
    """
    parts = {name: part.sort_values("zeta") for name, part in result.table.groupby("parameter", sort=False)}
    pairs = list(combinations(parts, 2))
    if not pairs:
        raise DataError("a pair needs the profiles of two parameters")
    axes = _triangle(list(parts)) if ax is None else panels(ax, [" and ".join(p) for p in pairs], "pairs", 0)
    for panel, (a, b) in zip(axes, pairs, strict=True):
        panel.plot(parts[a][a], parts[a][b], color="0.6", linewidth=1)
        panel.plot(parts[b][a], parts[b][b], color="0.6", linewidth=1)
        for level in levels:
            panel.plot(*_contour(parts[a], parts[b], np.sqrt(-2 * np.log1p(-level))), color="C0", linewidth=1)
        panel.locator_params(nbins=4)
        panel.set(xlabel=_lines(a), ylabel=_lines(b))
    if ax is None:
        for panel in axes:
            panel.label_outer()
        shares = ", ".join(f"{level:.0%}" for level in levels)
        axes[0].figure.suptitle(f"joint regions of {shares}", fontsize="medium")
    return axes


def _lines(name: str) -> str:
    """A long name of a parameter in two lines."""
    return name.replace("|", "\n|") if len(name) > 16 else name


def _triangle(names: list[str]) -> np.ndarray:
    """New Axes of all pairs, the first parameter of a pair across; those of a column and of a row have its limits."""
    from matplotlib import pyplot

    size = len(names) - 1
    figure = pyplot.figure(figsize=(max(4, 2.1 * size), max(3.5, 1.9 * size)), layout="constrained")
    made: dict[tuple[int, int], Any] = {}
    for i, j in combinations(range(len(names)), 2):
        above, left = made.get((i, j - 1)), made.get((i - 1, j))
        made[i, j] = figure.add_subplot(size, size, (j - 1) * size + i + 1, sharex=above, sharey=left)
    return np.array(list(made.values()), dtype=object)


def _contour(a: pd.DataFrame, b: pd.DataFrame, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Values of two parameters around the contour at √excess = radius; empty where the profiles do not reach so far.

    With ζ = radius · cos(φ ± δ/2), δ is constant on an ellipse and else a smooth function of φ, known at the four
    points where the contour meets a trace.
    """
    from scipy.interpolate import CubicSpline

    first, second = a["parameter"].iloc[0], b["parameter"].iloc[0]
    ends = np.array([radius, -radius])
    across = _curve(b[second], b["zeta"])(_curve(a["zeta"], a[second])(ends)) / radius  # ζ of b where that of a ends
    along = _curve(a[first], a["zeta"])(_curve(b["zeta"], b[first])(ends)) / radius
    known = np.array([[1, across[0]], [-1, across[1]], [along[0], 1], [along[1], -1]])
    if not np.isfinite(known).all():
        return np.empty(0), np.empty(0)
    angles = np.arccos(np.clip(known, -1, 1))
    phi, delta = angles.mean(1), angles[:, 0] - angles[:, 1]
    phi, delta = np.where(delta < 0, -phi, phi), np.abs(delta)
    order = np.argsort(phi)
    phi, delta = np.append(phi[order], phi[order[0]] + 2 * np.pi), np.append(delta[order], delta[order[0]])
    if not (np.diff(phi) > 0).all():
        return np.empty(0), np.empty(0)
    at = np.linspace(phi[0], phi[-1], 201)
    half = CubicSpline(phi, delta, bc_type="periodic")(at) / 2
    return (
        _curve(a["zeta"], a[first])(radius * np.cos(at + half)),
        _curve(b["zeta"], b[second])(radius * np.cos(at - half)),
    )


def _curve(x: pd.Series, y: pd.Series) -> Any:
    """A smooth curve through points, NaN beyond them."""
    from scipy.interpolate import CubicSpline

    x, places = np.unique(x, return_index=True)
    return CubicSpline(x, y.to_numpy()[places], extrapolate=False)


def bootstrap(result: Any, bins: int = 40, most: int = MOST, ax: Any = None) -> Any:
    """Histograms of bootstrap draws, with the observed value.

    result : of `lj.bootstrap`, a panel for each number of the statistic, up to `most` (returns their array; ax : as
    many Axes), or of a test that keeps its draws, such as `lj.bootstrap_lrt`: the distribution under the null (returns
    the Axes). Draws that are not finite are left out. Raises TypeError for what has no draws.
    """
    if isinstance(result, Bootstrap):
        return _statistics(result, bins, most, ax)
    draws = getattr(result, "draws", None)
    if draws is None:
        raise TypeError(
            f"bootstrap() takes what lj.bootstrap or a simulated test returned, not {type(result).__name__}"
        )
    ax, zero = new_axes(ax), getattr(result, "share_zero", 0)
    _histogram(ax, draws, result.statistic, bins)
    count = plural(len(draws), "draw") + (f", {zero:.0%} of them zero" if zero else "")
    ax.set_title(f"observed {result.statistic:.4g}, p = {result.p_value:.3g}\n{count}")
    ax.set(xlabel="statistic under the null hypothesis", ylabel="draws")
    return ax


def _statistics(result: Bootstrap, bins: int, most: int, ax: Any) -> np.ndarray:
    draws = np.hstack([np.reshape(a, (result.n, -1)) for a in jax.tree.leaves(result.draws)])
    observed = np.concatenate([np.ravel(a) for a in jax.tree.leaves(result.observed)])
    names = list(result.labels[:most])
    axes = panels(ax, names, "numbers of the statistic", 2.4)
    for panel, name, own, value in zip(axes, names, draws.T, observed, strict=False):
        _histogram(panel, own, value, bins)
        panel.set_title(fill(f"{name}: observed {value:.4g}", WIDE), fontsize="medium")
        panel.set(xlabel=name, ylabel="draws")
    if ax is None:
        say_left_out(axes[0].figure, len(names), len(result.labels), "numbers", "most chooses")
    return axes


def _histogram(ax: Any, draws: np.ndarray, observed: float, bins: int) -> None:
    ax.hist(draws[np.isfinite(draws)], bins=bins, color="0.75")
    ax.axvline(observed, color="C1")


def power(table: pd.DataFrame, x: str = "x", by: str | None = None, ax: Any = None) -> Any:
    """Power against what was varied.

    table : columns `x`, "power", and where they are there "lower" and "upper", drawn as a band. x : its column of the
    horizontal axis, a sample size or an effect. by : a column whose values have a curve each. Raises DataError for
    columns that are not there.
    """
    for name in (x, "power", *([by] if by else [])):
        if name not in table:
            raise DataError(f"the table has no column {name!r}{suggest(name, table.columns)}")
    ax = new_axes(ax)
    curves = dict(list(table.groupby(by, sort=False))) if by else {"power": table}
    for colour, (level, curve) in zip(hues(len(curves)), curves.items(), strict=True):
        curve = curve.sort_values(x)
        ax.plot(curve[x], curve["power"], "o-", markersize=4, color=colour, label=str(level))
        if {"lower", "upper"} <= set(curve.columns):
            ax.fill_between(curve[x], curve["lower"], curve["upper"], color=colour, alpha=0.2, linewidth=0)
    ax.set(xlabel=x, ylabel="power", title=f"power by {x}", ylim=(-0.02, 1.02))
    if by:
        legend_beside(ax, by)
    return ax
