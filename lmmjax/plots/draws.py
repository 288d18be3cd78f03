"""Pictures of posterior draws."""

from collections.abc import Callable, Sequence
from textwrap import fill
from typing import Any

import numpy as np

from ..bayes.posterior import posterior_of
from ..errors import DataError
from ..formula.hints import suggest
from .frames import MOST, WIDE, panels, say_left_out

FEW = 10  # chains that are worth a legend


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
    axes = panels(ax, list(shown), "parameters", 1.9)
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
        say_left_out(figure, len(shown), len(parameters), "parameters", "var_names and most choose")
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
