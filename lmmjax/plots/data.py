"""Pictures of data before a model: series, groups, designs. Rows with a missing value in what is drawn are left out."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..errors import DataError
from ..formula.frame import frame_of
from ..formula.hints import listed, plural
from ..formula.values import is_number
from .frames import MOST, columns_of, factor_axes, hues, legend_beside, new_axes, panels, say_left_out

MARKERS = "os^DvPX*<>"


def series(
    data: Any,
    x: str,
    y: str,
    subject: str,
    by: str | None = None,
    log: bool = False,
    most: int = MOST,
    ax: Any = None,
) -> Any:
    """The course of y over x of each subject.

    subject : the column of the subjects. by : a column whose levels have a panel each, with a line for each subject; by
    default each subject has a panel, of up to `most`, and the figure says how many are left out. log : y on a
    logarithmic scale. ax : as many Axes as panels; returns their array. Panels of a new figure have the same limits.
    Raises DataError for unknown columns and for a logarithm of what is not positive.
    """
    table = columns_of(data, [x, y], [subject, by] if by != subject else [subject])
    if log and table[y].min() <= 0:
        raise DataError(f"{y!r} has values of zero or less, and log=True: add a constant to it")
    facets = dict(list(table.groupby(by or subject, observed=True))[:most])
    total = table[by or subject].cat.categories.size
    names = [f"{by or subject} {level}" for level in facets]
    height, columns, width = (3.2, 3, 3.2) if by else (1.7, 5, 2.0)
    axes = panels(ax, names, "panels", height, columns, width, share=True)
    for panel, name, part in zip(axes, names, facets.values(), strict=True):
        for _, own in part.sort_values(x).groupby(subject, observed=True):
            panel.plot(own[x], own[y], linewidth=1, alpha=0.6 if by else 1, color="C0")
        panel.set_title(name, fontsize="medium")
        panel.set_yscale("log" if log else "linear")
    if ax is None:
        figure = axes[0].figure
        figure.supxlabel(x, fontsize="medium")
        figure.supylabel(y, fontsize="medium")
        say_left_out(figure, len(names), total, "panels", "most chooses")
    else:
        for panel in axes:
            panel.set(xlabel=x, ylabel=y)
    return axes


def box(data: Any, y: str, by: str, ax: Any = None) -> Any:
    """Box plots of y in each level of `by`, with the number of values. Raises DataError for unknown columns."""
    table = columns_of(data, [y], [by])
    groups = {str(level): part[y].to_numpy() for level, part in table.groupby(by, observed=True)}
    ax = factor_axes(ax, [f"{name}\n(n = {len(values)})" for name, values in groups.items()])
    ax.boxplot(list(groups.values()), positions=range(len(groups)), widths=0.5, manage_ticks=False)
    ax.set(xlabel=by, ylabel=y, title=f"{y} by {by}")
    return ax


def pairs(data: Any, columns: Sequence[str] | None = None, bins: int = 20, ax: Any = None) -> Any:
    """Each column against each other, and its histogram on the diagonal.

    columns : all that hold numbers by default. ax : (k, k) Axes of k columns, by default new ones; returns that array.
    Raises DataError for unknown columns and for fewer than two.
    """
    frame = frame_of(data)
    if columns is None:
        order = list(data) if isinstance(data, dict) else [str(name) for name in data.columns]
        columns = [name for name in order if is_number(frame.column(name))]
    if len(columns) < 2:
        raise DataError(f"pairs() needs two columns of numbers, not {listed(columns) or 'none'}")
    table, k = columns_of(data, columns), len(columns)
    names = [f"{below} and {across}" for below in columns for across in columns]
    axes = panels(ax, names, "pairs", 1.8, k, 2.0).reshape(k, k)
    low, high = table.min().to_numpy(), table.max().to_numpy()
    limits = np.column_stack([low, high]) + np.outer(high - low, [-0.05, 0.05])
    for (i, j), panel in np.ndenumerate(axes):
        if i == j:
            counts = panel.twinx()  # so that the panel's own scale is that of its row
            counts.hist(table[columns[i]], bins=bins, color="0.75")
            counts.set_yticks([])
        else:
            panel.plot(table[columns[j]], table[columns[i]], "o", markersize=3, alpha=0.5)
        panel.locator_params(nbins=4)
        panel.set(xlabel=columns[j], ylabel=columns[i], xlim=limits[j], ylim=limits[i])
        if ax is None:
            panel.label_outer()
    return axes


def signal_to_noise(data: Any, y: str, by: str, bins: int = 20, ax: Any = None) -> Any:
    """Histogram of the ratio mean/sd of y within each level of `by`; where it is far from zero, levels matter.

    Levels with one row, or where y does not vary, have no ratio; the title counts them. Raises DataError for unknown
    columns and where there is none.
    """
    groups = columns_of(data, [y], [by]).groupby(by, observed=True)[y]
    spread = groups.std()
    ratio = (groups.mean() / spread.where(spread > 0)).dropna()
    if ratio.empty:
        raise DataError(f"no level of {by!r} has two different values of {y!r}")
    ax, lost = new_axes(ax), len(spread) - len(ratio)
    ax.hist(ratio, bins=bins)
    without = f", {lost} without" if lost else ""
    ax.set(xlabel=f"mean / sd of {y}", ylabel="levels", title=f"{y} in {plural(len(ratio), 'level')} of {by}{without}")
    return ax


def jitter(
    data: Any,
    y: str,
    x: str,
    colour: str | None = None,
    shape: str | None = None,
    width: float = 0.1,
    seed: int = 0,
    ax: Any = None,
) -> Any:
    """Every value of y against the levels of a factor, moved aside at random so that equal ones are seen.

    x : the factor. colour, shape : factors that the colours and the markers stand for. width : of the moves, which
    `seed` fixes; levels are one apart. Raises DataError for unknown columns and for more levels than markers.
    """
    table = columns_of(data, [y], list(dict.fromkeys([x, colour, shape])))
    codes = [table[name].cat.codes.to_numpy() if name else np.zeros(len(table), int) for name in (x, colour, shape)]
    if codes[2].max() >= len(MARKERS):
        raise DataError(f"{shape!r} has {codes[2].max() + 1} levels, and there are {len(MARKERS)} markers")
    places = codes[0] + np.random.default_rng(seed).uniform(-width, width, len(table))
    ax, shown = factor_axes(ax, [str(level) for level in table[x].cat.categories]), hues(codes[1].max() + 1)
    for i, j in np.unique(np.column_stack(codes[1:]), axis=0):
        own = (codes[1] == i) & (codes[2] == j)
        ax.plot(places[own], table[y][own], MARKERS[j], color=shown[i], markersize=6, alpha=0.8)
    ax.set(xlabel=x, ylabel=y, title=f"{y} by {x}")
    if colour or shape:
        legend_beside(ax, handles=_keys(table, colour, shape, shown))
    return ax


def _keys(table: pd.DataFrame, colour: str | None, shape: str | None, shown: list[Any]) -> list[Any]:
    """Of a legend: what each colour and each marker means, one factor for both only once."""
    from matplotlib.lines import Line2D

    def key(name: str | None, level: Any, marker: str, paint: Any) -> Any:
        return Line2D([], [], linestyle="", marker=marker, color=paint, label=f"{name} {level}", markeredgewidth=2)

    colours, shapes = (list(table[name].cat.categories) if name else [] for name in (colour, shape))
    if colour == shape:
        return [key(colour, *each) for each in zip(colours, MARKERS, shown, strict=False)]
    paints = [key(colour, level, "_" if shape else "o", paint) for level, paint in zip(colours, shown, strict=False)]
    return paints + [key(shape, level, marker, "0.4") for level, marker in zip(shapes, MARKERS, strict=False)]


def interaction(data: Any, y: str, x: str, by: str, ax: Any = None) -> Any:
    """Means of y in the cells of two factors: a line over the levels of x for each level of `by`.

    Parallel lines mean no interaction; an empty cell is a gap. Raises DataError for unknown columns.
    """
    means = columns_of(data, [y], [x, by]).pivot_table(y, x, by, observed=False)
    ax = factor_axes(ax, [str(level) for level in means.index])
    for colour, (level, values) in zip(hues(means.shape[1]), means.items(), strict=True):
        ax.plot(range(len(values)), values, "o-", color=colour, label=str(level))
    ax.set(xlabel=x, ylabel=f"mean of {y}", title=f"{y} by {x} and {by}")
    legend_beside(ax, by)
    return ax
