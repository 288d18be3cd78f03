"""Power of a test in a model at given effects, along sample sizes, and the smallest size that reaches a power."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from ..errors import DataError
from ..fit import Fit
from ..guard import check_counts
from ..inference.nesting import check_fits
from .analyses import OF_FIXED, Test, term_of
from .extending import extend, names_of, present_size, room_for, sized
from .population import Population, with_parameters
from .study import Study
from .summary import share

MOST = 64  # times the present size: up to where sample_size searches
WITH_GAPS = (*OF_FIXED, "lrt", "mixture")  # methods whose replicates may lack rows
WITHIN, PRESENT = "rows", 0  # the column of sizes of groups, and the size that a model has


@dataclass(frozen=True)
class Power:
    """power : the share of n replicates whose p-value is at most alpha; lower, upper : its Clopper-Pearson limits.

    Replicates whose fit failed, n_failed, count as not rejected. test : what was tested, and how. truth : the
    parameters that replicates were drawn from.
    """

    power: float
    lower: float
    upper: float
    n: int
    n_failed: int
    alpha: float
    test: Test
    truth: pd.Series
    level: float = 0.95

    def __repr__(self) -> str:
        what = self.test.name[2:-1]
        limits = f"{100 * self.level:g} % limits {100 * self.lower:.2f} and {100 * self.upper:.2f}"
        failed = f", {self.n_failed} failed" if self.n_failed else ""
        return (
            f"Power of {what} at alpha = {self.alpha:g}: {100 * self.power:.2f} % ({limits})\n"
            f"{self.n} replicates{failed}, drawn from\n{self.truth.to_string()}"
        )


@dataclass(frozen=True)
class SampleSize:
    """size : the smallest size whose estimated power is at least `target`. table : all sizes that were tried, as
    `power_curve` gives them."""

    size: int
    target: float
    along: str
    table: pd.DataFrame

    def __repr__(self) -> str:
        at = self.table.set_index(self.along).loc[self.size]
        limits = f"95 % limits {100 * at['lower']:.1f} and {100 * at['upper']:.1f}"
        return (
            f"{self.along} = {self.size} has power {100 * at['power']:.1f} % ({limits}); wanted {100 * self.target:g} %"
        )


def power(
    fit: Fit,
    effect: Any,
    alpha: float = 0.05,
    n: int = 1000,
    seed: int = 0,
    method: str | None = None,
    test: Any = None,
    level: float = 0.95,
    progress: bool = False,
) -> Power:
    """How often a test finds an effect in data drawn from a fit, or from a `Population`.

    effect : {"Days": 5} sets parameters, by lme4's long names, and tests the fixed effects among them together; a name
    or names, "Days", test them as they are in the fit (post-hoc power is a poor guide: the estimate is one draw); the
    text of a random term, "(1 | g)", tests that. test : something else to test, as in `lj.Test`, or one. method : one
    of `lj.Test`; by default "satterthwaite", and of random terms "exact_rlrt" for one variance and "lrt" for more.
    n : replicates. level : of the Clopper-Pearson limits. seed : an integer; the same replicates for every effect,
    method and alpha. Raises DataError and ValueError as `with_parameters`, `lj.Test` and `lj.Study`.
    """
    wanted = _wanted(fit, effect, test, method)
    values = _curve(wanted, WITHIN, [PRESENT], alpha, n, seed, level, {"progress": progress}).iloc[0]
    found, lower, upper = (float(values[name]) for name in ("power", "lower", "upper"))
    return Power(found, lower, upper, n, int(values["n_failed"]), alpha, wanted.test, wanted.population.truth, level)


def power_curve(
    fit: Fit,
    effect: Any,
    along: str | None = None,
    sizes: Sequence[int] = (),
    within: str | Sequence[str] | None = None,
    alpha: float = 0.05,
    n: int = 1000,
    seed: int = 0,
    method: str | None = None,
    test: Any = None,
    level: float = 0.95,
    store: str | os.PathLike | None = None,
    executor: Executor | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """The power at several sizes, for `lj.plots.power`: a column of the name of `along` (or "rows"), power, lower,
    upper, n, n_failed.

    along, within : what grows, as in `lj.extend`. Sizes share their random numbers as far as they share rows. store,
    executor : of `lj.Study.run`; the other arguments are those of `power`. Raises as these.
    """
    present_size(fit, along, within)
    check_counts(**{f"sizes[{i}]": (size, 1) for i, size in enumerate(sizes)})
    if not len(sizes):
        raise ValueError("sizes=: give the sizes whose power you want")
    room = room_for(fit, along, max(sizes))
    wanted = replace(_wanted(fit, effect, test, method), along=along, within=_columns(within), room=room)
    options = {"store": store, "executor": executor, "progress": progress}
    return _curve(wanted, along or WITHIN, list(sizes), alpha, n, seed, level, options)


def sample_size(
    fit: Fit,
    effect: Any,
    along: str | None = None,
    power: float = 0.8,
    within: str | Sequence[str] | None = None,
    most: int | None = None,
    alpha: float = 0.05,
    n: int = 1000,
    seed: int = 0,
    method: str | None = None,
    test: Any = None,
    executor: Executor | None = None,
    progress: bool = False,
) -> SampleSize:
    """The smallest size whose estimated power is at least `power`, by bisection with common random numbers.

    most : the largest size to try, by default 64 times the present one. Sizes too small for the model count as without
    power. The size is as uncertain as the power is: see the limits in `.table`, and raise n. The other arguments are
    those of `power_curve`. Raises DataError where `most` does not reach the power.
    """
    if not 0 < power < 1:
        raise ValueError(f"power={power!r}: give a number between 0 and 1")
    now = present_size(fit, along, within)
    name, most = along or WITHIN, most or MOST * now
    wanted = replace(_wanted(fit, effect, test, method), along=along, within=_columns(within))
    tried: dict[int, pd.DataFrame] = {}

    def reaches(size: int) -> bool:
        options, room = {"executor": executor, "progress": progress}, min(now, most)
        while room < size:
            room = min(2 * room, most)
        try:
            roomy = replace(wanted, room=room_for(fit, along, room))
            tried[size] = _curve(roomy, name, [size], alpha, n, seed, 0.95, options)
        except DataError:
            if size >= now:
                raise
            return False
        return bool(tried[size]["power"].iloc[0] >= power)

    low, high = _bracket(reaches, now, most, lambda: tried[most]["power"].iloc[0])
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    table = pd.concat([tried[size] for size in sorted(tried)], ignore_index=True)
    return SampleSize(high, power, name, table)


def _bracket(reaches: Callable[[int], bool], now: int, most: int, last: Callable[[], float]) -> tuple[int, int]:
    """A size that does not reach the power, or 0, and a larger one that does."""
    high = min(now, most)
    if reaches(high):
        low = high // 2
        while low and reaches(low):
            low, high = low // 2, low
        return low, high
    while high < most:
        low, high = high, min(2 * high, most)
        if reaches(high):
            return low, high
    raise DataError(f"the largest size, {most}, has power {last():.3f}: give a larger most=, or a larger effect")


@dataclass(frozen=True)
class _Sized:
    """A model at its parameters, at the size that a scenario names. room : as in `sized`."""

    population: Population
    test: Test
    along: str | None = None
    within: tuple[str, ...] | None = None
    room: int = 0

    def __call__(self, **size: int) -> Population:
        (n,) = size.values()
        if n == PRESENT:
            return self.population
        if self.test.method in WITH_GAPS and self.population.design.residual is None and n < self.room:
            return sized(self.population, self.along, self.within, n, self.room)
        return extend(self.population, self.along, self.within, n)


def _columns(within: str | Sequence[str] | None) -> tuple[str, ...] | None:
    return None if within is None else tuple(names_of(within))


def _wanted(fit: Fit, effect: Any, test: Any, method: str | None) -> _Sized:
    check_fits((fit,), "power", structured=True)
    if isinstance(test, Test) and method is not None:
        raise ValueError(f"method={method!r} and test={test}, which has a method: give one of them")
    changed = effect if isinstance(effect, Mapping) else {}
    if test is None:
        fixed = [name for name in changed if name in fit.schema.fixed_names]
        test = fixed if isinstance(effect, Mapping) else effect
        if not len(test):
            raise DataError(f"effect={dict(effect)} names no fixed effect to test: say test= what")
    population = fit if isinstance(fit, Population) and not changed else with_parameters(fit, changed)
    return _Sized(population, test if isinstance(test, Test) else Test(test, method or _method(fit, test)))


def _method(fit: Fit, test: Any) -> str:
    term = term_of(fit.schema, test)
    if term is None:
        return "satterthwaite"
    return "exact_rlrt" if fit.design.terms[term].template.n_theta == 1 else "lrt"


def _curve(
    wanted: _Sized,
    name: str,
    sizes: list[int],
    alpha: float,
    n: int,
    seed: int,
    level: float,
    options: Mapping[str, Any],
) -> pd.DataFrame:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha={alpha!r}: give a number between 0 and 1")
    table = Study({name: sizes}, wanted, wanted.test, n, seed, common=True).run(**options)
    rows = []
    for size, part in table.groupby(name):
        p = part[wanted.test.name].to_numpy()
        hits = dict(zip(("power", "lower", "upper"), share(int(np.sum(p <= alpha)), n, level), strict=True))
        rows.append({name: size, **hits, "n": n, "n_failed": int(np.isnan(p).sum())})
    found = pd.DataFrame(rows)
    found.attrs["errors"] = table.attrs["errors"]
    return found
