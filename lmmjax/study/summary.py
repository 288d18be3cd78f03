"""What the replicates of a study say: bias, coverage, power, each with the error that simulation leaves."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from ..inference.intervals import clopper_pearson

LEVEL = 0.95  # of the limits of what simulation leaves open


def share(hits: int, n: int, level: float = LEVEL) -> tuple[float, float, float]:
    """hits/n and its Clopper-Pearson limits; NaN of nothing."""
    return (hits / n, *clopper_pearson(hits, n, level)) if n else (np.nan,) * 3


def summarise(table: pd.DataFrame, columns: list[str], truths: Mapping[int, pd.Series], alpha: float) -> pd.DataFrame:
    """See `Study.summary`. columns : of the scenarios. truths : by scenario the parameters by name."""
    rows: list[dict[str, Any]] = []
    for scenario, part in table.groupby("scenario", sort=True):
        own = {"scenario": scenario} | {name: part[name].iloc[0] for name in columns}
        for quantity, measure, (value, lower, upper), n in _measures(part, truths[scenario], alpha):
            rows.append(
                {
                    **own,
                    "quantity": quantity,
                    "measure": measure,
                    "value": value,
                    "lower": lower,
                    "upper": upper,
                    "n": n,
                }
            )
    return pd.DataFrame(rows)


def _measures(part: pd.DataFrame, truth: pd.Series, alpha: float) -> Iterator[tuple]:
    converged = part["converged"].to_numpy()
    yield "fits", "converged", share(int(converged.sum()), len(part)), len(part)
    for name in part.columns:
        kind, _, rest = name.partition("[")
        values, what = part[name].to_numpy(), rest[:-1]
        if kind not in ("estimate", "se", "covers", "p") or not rest:
            continue
        values = values[~np.isnan(values.astype(float))]
        n = len(values)
        if kind == "estimate":
            yield from ((what, measure, limits, n) for measure, limits in _of_estimate(values, truth.get(what)))
        elif kind == "se":
            yield what, "mean se", _mean(values), n
        elif kind == "covers":
            yield what, "coverage", share(int(values.sum()), n), n
        else:
            yield what, f"p <= {alpha:g}", share(int(np.sum(values <= alpha)), n), n


def _of_estimate(values: np.ndarray, truth: float | None) -> Iterator[tuple[str, tuple[float, float, float]]]:
    """truth : None where there is none to compare with."""
    yield "mean", _mean(values)
    if truth is not None:
        yield "bias", _mean(values - truth)
    yield "sd", (float(np.std(values, ddof=1)) if len(values) > 1 else np.nan, np.nan, np.nan)
    if truth is not None:
        square, low, high = _mean((values - truth) ** 2)
        yield "rmse", (square**0.5, max(low, 0) ** 0.5, high**0.5)


def _mean(values: np.ndarray) -> tuple[float, float, float]:
    from scipy.special import ndtri

    mean = float(np.mean(values)) if len(values) else np.nan
    half = ndtri(0.5 + LEVEL / 2) * float(np.std(values, ddof=1)) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return mean, mean - half, mean + half
