"""What the pictures have in common: Axes, panels, legends, and columns of a table."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..errors import DataError
from ..formula.frame import frame_of, vector
from ..formula.hints import suggest
from ..formula.values import coded

MOST = 24  # panels of a figure
WIDE = 36  # letters of a line above a panel
HUES = 10  # colours of matplotlib's cycle
LINE = 60  # letters that fit below an axis


def new_axes(ax: Any, size: tuple[float, float] | None = None) -> Any:
    """`ax`, or that of a new figure."""
    if ax is not None:
        return ax
    from matplotlib import pyplot

    return pyplot.subplots(figsize=size, layout="constrained")[1]


def panels(
    ax: Any,
    names: Sequence[str],
    what: str,
    height: float,
    columns: int = 3,
    width: float = 3.2,
    share: bool = False,
) -> np.ndarray:
    """As many Axes as names, new ones in rows of `columns` where ax is None. share : new ones have the same limits.

    Raises ValueError for another number.
    """
    if ax is None:
        from matplotlib import pyplot

        size, rows = min(columns, len(names)), -(-len(names) // columns)
        figure = pyplot.figure(figsize=(width * size, height * rows), layout="constrained")
        ax = []
        for i in range(len(names)):
            same = ax[0] if share and ax else None
            ax.append(figure.add_subplot(rows, size, i + 1, sharex=same, sharey=same))
            if share:
                ax[i].tick_params(labelleft=i % size == 0, labelbottom=i + size >= len(names))
    axes = np.ravel(np.asarray(ax, dtype=object))
    if len(axes) != len(names):
        raise ValueError(f"{len(axes)} axes for {len(names)} {what}: {', '.join(names)}")
    return axes


def say_left_out(figure: Any, shown: int, total: int, what: str, how: str) -> None:
    """A line above a figure that does not show all."""
    if shown < total:
        figure.suptitle(f"{total - shown} of {total} {what} are left out: {how}", fontsize="medium")


def legend_beside(ax: Any, title: str | None = None, handles: Any = None) -> None:
    """A legend on the right of the Axes, where it covers nothing."""
    ax.legend(handles=handles, title=title, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)


def hues(count: int) -> list[Any]:
    """Colours that can be told apart."""
    from matplotlib import colormaps

    return [f"C{i}" for i in range(count)] if count <= HUES else list(colormaps["viridis"](np.linspace(0, 0.95, count)))


def factor_axes(ax: Any, names: Sequence[str]) -> Any:
    """Axes with these names at the places 0, 1, … of x, upright where they would not fit side by side."""
    ax = new_axes(ax, (max(6.4, 1 + 0.2 * len(names)), 4.8))
    crowded = len(names) * max(len(line) for name in names for line in name.split("\n")) > LINE
    shown = [name.replace("\n", " ") for name in names] if crowded else names
    ax.set_xticks(range(len(names)), shown, rotation=90 if crowded else 0)
    return ax


def columns_of(data: Any, numbers: Sequence[str] = (), factors: Sequence[str | None] = ()) -> pd.DataFrame:
    """Columns of a table, numbers as float64 and factors as pd.Categorical in the order that a fit gives them.

    Rows with a missing value are left out; a factor's name may be None. Raises DataError for names that are no columns,
    for numbers that are none, and where no row is left.
    """
    frame, wanted = frame_of(data), [name for name in factors if name is not None]
    for name in [*numbers, *wanted]:
        if name not in frame:
            raise DataError(f"the data have no column {name!r}{suggest(name, frame.names)}")
    found: dict[str, Any] = {}
    for name in wanted:
        codes, levels, _ = coded(frame.column(name), name)
        found[name] = pd.Categorical.from_codes(codes, levels)
    found |= {name: vector(frame.column(name), f"the column {name!r}", frame.n) for name in numbers}
    table = pd.DataFrame(found, frame.index).dropna()
    if table.empty:
        raise DataError(f"no row is left: every row has a missing value in one of {', '.join(found)}")
    return table.assign(**{name: table[name].cat.remove_unused_categories() for name in wanted})
