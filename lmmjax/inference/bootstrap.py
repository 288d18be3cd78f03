"""bootstrap(fit, statistic) → Bootstrap: the sampling distribution of anything that an estimate determines."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
import pandas as pd

from ..core.batch import MEMORY
from ..core.estimate import Estimate
from ..fit import Fit
from ..guard import check_independent
from ..precision import in_float64, to_numpy
from ..refitting import key_of, refit_many
from ..tables import format_numbers, text_table
from . import intervals
from .cases import case_draws, jackknife
from .sampling import (
    Responses,
    check_replicates,
    chunks,
    failed,
    parametric,
    residual,
    response_bytes,
)

KINDS = ("parametric", "residual", "cases")
SHOWN = 20  # lines of a printed result


@dataclass(frozen=True, eq=False, repr=False)
class Bootstrap:
    """Draws of a statistic of a fit.

    observed : the statistic of the fit itself, an array or a pytree of arrays. draws : the same, each array with a
    leading axis of n. status : (n,) indices of `core.STATUS`. kind : the kind of bootstrap.
    """

    observed: Any
    draws: Any
    status: np.ndarray
    kind: str
    fit: Fit
    statistic: Callable[[Estimate], Any]

    @property
    def n(self) -> int:
        """Replicates."""
        return len(self.status)

    @property
    def n_failed(self) -> int:
        """Replicates whose fit did not converge. Their draws are kept, and summaries use all that are finite."""
        return int(failed(self.status).sum())

    @property
    def bias(self) -> Any:
        """Mean of the draws minus the observed value, shaped like it."""
        return self._shaped([d.mean() - o for d, o in zip(self._columns, self._observed, strict=True)])

    @property
    def se(self) -> Any:
        """Standard deviation of the draws (divisor n − 1), shaped like the observed value."""
        return self._shaped([d.std(ddof=1) if len(d) > 1 else np.nan for d in self._columns])

    def interval(self, level: float = 0.95, kind: str = "percentile") -> pd.DataFrame:
        """Confidence intervals (lower, upper), a row for each number of the statistic.

        kind : "percentile", quantiles of the draws; "basic", these reflected in the estimate; "bca", percentiles
        corrected for bias and for a standard error that changes with the parameter. The latter's acceleration comes
        from the jackknife over levels of the grouping factor (of nested factors the outermost, of crossed ones the
        largest; rows of an `lm`), with a fit for each; its bounds are NaN where all draws lie on one side of the
        estimate. Sources: see `inference.intervals`; DiCiccio & Efron (1996), Statistical Science 11, 189-228.
        """
        intervals.check_level(level)
        if kind not in intervals.KINDS:
            raise ValueError(f"kind={kind!r}: choose one of {', '.join(intervals.KINDS)}")
        if kind == "percentile":
            bounds = [intervals.percentile(d, level) for d in self._columns]
        elif kind == "basic":
            bounds = [intervals.basic(d, o, level) for d, o in zip(self._columns, self._observed, strict=True)]
        else:
            parts = zip(self._columns, self._observed, self.acceleration, strict=True)
            bounds = [intervals.bca(d, o, a, level) for d, o, a in parts]
        return pd.DataFrame(np.reshape(bounds, (-1, 2)), self.labels, ["lower", "upper"])

    @cached_property
    def acceleration(self) -> np.ndarray:
        """(k,) the constant a of the BCa interval for each number of the statistic, by jackknife."""
        values = _flat(jackknife(self.fit, self.statistic), batched=True)
        return np.array([intervals.acceleration(v[np.isfinite(v)]) for v in values.T])

    @cached_property
    def labels(self) -> pd.Index:
        """A name for each number of the statistic: its place in the pytree, "statistic" for a bare array."""
        names = []
        for path, leaf in jax.tree_util.tree_flatten_with_path(self.observed)[0]:
            name = jax.tree_util.keystr(path, simple=True, separator=".") or "statistic"
            places = np.ndindex(np.shape(leaf))
            names += [f"{name}[{','.join(map(str, at))}]" if at else name for at in places]
        return pd.Index(names)

    @cached_property
    def _observed(self) -> np.ndarray:
        return _flat(self.observed)

    @cached_property
    def _columns(self) -> list[np.ndarray]:
        """Per number of the statistic its finite draws; NaN alone where there are none."""
        columns = [d[np.isfinite(d)] for d in _flat(self.draws, batched=True).T]
        return [d if len(d) else np.array([np.nan]) for d in columns]

    def _shaped(self, values: list[float]) -> Any:
        leaves, tree = jax.tree.flatten(self.observed)
        stops = np.cumsum([np.size(a) for a in leaves])
        parts = np.split(np.array(values), stops[:-1])
        return jax.tree.unflatten(tree, [p.reshape(np.shape(a)) for p, a in zip(parts, leaves, strict=True)])

    def __repr__(self) -> str:
        numbers = np.array([self._observed, _flat(self.bias), _flat(self.se)])[:, :SHOWN]
        columns = {" ": list(self.labels[:SHOWN])}
        for name, values in zip(("observed", "bias", "se"), numbers, strict=True):
            columns[name] = format_numbers(values)
        failed = f", {self.n_failed} not converged" if self.n_failed else ""
        more = len(self.labels) - SHOWN
        rest = f"\n… and {more} more" if more > 0 else ""
        return f"Bootstrap ({self.kind}), {self.n} replicates{failed}\n{text_table(columns)}{rest}"


def _flat(tree: Any, batched: bool = False) -> np.ndarray:
    """(k,) all numbers of a pytree, or (n, k) of stacked ones."""
    leaves = [np.asarray(a, float) for a in jax.tree.leaves(tree)]
    return np.concatenate([a.reshape(len(a), -1) if batched else a.ravel() for a in leaves], -1)


@in_float64
def bootstrap(
    fit: Fit,
    statistic: Callable[[Estimate], Any],
    n: int = 1000,
    seed: Any = 0,
    kind: str = "parametric",
    use_u: bool = False,
    levels: bool = True,
    rows: bool = False,
    memory: int = MEMORY,
    progress: bool = False,
) -> Bootstrap:
    """Bootstraps a statistic of a fit: n data sets made like the fit's, each fitted by the same criterion.

    statistic : a JAX function of a `core.Estimate` that gives an array or a pytree of arrays, for example
    `lambda e: e.beta` or `lambda e: {"sd": e.sigma * abs(e.theta), "sigma": e.sigma}`. Compiled code belongs to the
    function object: to bootstrap again quickly, give the same object.
    kind : what a new data set is.
    "parametric", normal random effects and residuals from the fitted model; use_u keeps the estimated effects.
    "residual", the predicted effects of each term and the conditional residuals (times √weights), centred, rescaled to
    the estimated σ²TTᵀ and σ², and drawn with replacement; no normality, but equal variances (Carpenter, Goldstein &
    Rasbash 2003, Applied Statistics 52, 431-443; the root of the covariances is the symmetric one in the coordinates of
    the spherical effects, so that singular fits work). use_u keeps the effects and draws residuals only.
    "cases", with `levels` whole levels of the grouping factor drawn with replacement, each copy a level of its own,
    and with `rows` rows within each level (Van der Leeden, Meijer & Busing 2008, in Handbook of Multilevel Analysis;
    Davison & Hinkley 1997, section 3.8, advise to leave the rows of a level together). One grouping factor only.
    seed : an int or a JAX key; replicate i of a seed is made of the same random numbers whatever n and memory are.
    memory : bytes that a chunk of replicates may take. progress : show a bar.
    A θ that was given stays. Raises DataError where a kind does not apply, ValueError for unknown options.
    """
    _check_options(kind, use_u, levels, rows)
    check_replicates(n)
    if kind != "parametric":
        check_independent(fit.schema, f"the bootstrap of kind={kind!r}")
    key = key_of(seed)
    if kind == "cases":
        draws, status = case_draws(fit, statistic, key, n, (levels, rows), memory, progress)
    else:
        responses = residual(fit, use_u) if kind == "residual" else parametric(fit.design, fit.estimate, use_u)
        draws, status = _refitted(fit, statistic, responses, key, n, memory, progress)
    return Bootstrap(to_numpy(statistic(fit.estimate)), draws, status, kind, fit, statistic)


def _check_options(kind: str, use_u: bool, levels: bool, rows: bool) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: choose one of {', '.join(KINDS)}")
    if kind == "cases" and use_u:
        raise ValueError("use_u=True keeps the estimated effects; the cases bootstrap uses none")
    if kind == "cases" and not (levels or rows):
        raise ValueError("levels=False, rows=False: nothing would be resampled")
    if kind != "cases" and (rows or not levels):
        raise ValueError(f"levels= and rows= choose what kind='cases' resamples; kind={kind!r} does not use them")


def _refitted(
    fit: Fit, statistic: Callable, responses: Responses, key: jax.Array, n: int, memory: int, progress: bool
) -> tuple[Any, np.ndarray]:
    """The statistic of n refits, stacked, and their status."""
    parts = []
    todo = chunks(n, response_bytes(fit.design), memory, progress)
    for first, count in todo:
        found = refit_many(fit, responses(key, first, todo.size), statistic, memory).estimates
        parts.append(jax.tree.map(lambda a, count=count: a[:count], (found.kept, found.status)))
    return jax.tree.map(lambda *a: np.concatenate(a), *parts)
