"""Study: scenarios × replicates, each fitted and analysed, on any executor, kept in a folder to go on in."""

import errno
import os
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import version
from itertools import product
from typing import Any
from uuid import uuid4

import jax
import numpy as np
import pandas as pd
from tqdm import tqdm

from ..core.simulate import simulate as simulate_responses
from ..errors import DataError, StudyWarning
from ..fit import Fit
from ..formula.hints import plural
from ..guard import caller, check_counts
from ..precision import in_float64
from ..refitting import key_of
from .identity import identity
from .population import Population, with_parameters
from .redrawing import redrawn
from .sample import FreshSample, Sample
from .store import DamagedPart, Store
from .summary import summarise
from .work import Failure, Task, outcomes

BLOCK = 4096  # replicates that are computed, kept and lost together
ATTEMPTS = 3  # at a part that is damaged as soon as it is written
KNOWN = 8  # populations that a worker remembers
RESERVED = ("scenario", "replicate", "converged")


@dataclass(frozen=True, eq=False)
class Study:
    """A simulation study: n replicates of every scenario, all analyses of a replicate from one fit.

    scenarios : a DataFrame, one scenario a row; or a grid, {"groups": [6, 12], "sd": [0, 0.5]}, of which every
    combination is one. simulate : called with the columns of a row by name, returns the model with its true parameters:
    `lj.designs.one_way` and its like, a function of your own around `lj.make_lmer`, or around `lj.with_parameters` and
    `lj.extend` of a fit. analyse : what each replicate yields: `lj.Estimates()`, `lj.Interval(…)`, `lj.Test(…)`, or
    functions from a `lj.Sample` to arrays (B,) by column name. n : replicates. seed : an integer. redraw : where
    covariates are random, (DataFrame, NumPy Generator) → DataFrame with new values in them, for each replicate.
    common : whether all scenarios take the same random numbers, as far as their rows are the same, so that differences
    between them are less noisy. block : replicates that are computed together and written as one part.

    Replicate i of a scenario is the same whatever n is, on any executor, and in a run that was interrupted.
    Raises DataError and ValueError for arguments.
    """

    scenarios: Any
    simulate: Callable[..., Fit]
    analyse: Any
    n: int = 1000
    seed: int = 0
    redraw: Callable[[pd.DataFrame, np.random.Generator], pd.DataFrame] | None = None
    common: bool = False
    block: int = BLOCK

    def __post_init__(self) -> None:
        check_counts(n=(self.n, 1), block=(self.block, 1))
        if not isinstance(self.seed, int | np.integer):
            raise TypeError(f"seed={self.seed!r}: give an integer")
        analyse = self.analyse if isinstance(self.analyse, list | tuple) else [self.analyse]
        if not analyse or not callable(self.simulate):
            raise ValueError("a study needs something to analyse, and a function or a design to simulate")
        for one in analyse:
            if not callable(one) and not hasattr(one, "columns"):
                raise TypeError(f"analyse: {one!r} is no analysis, such as lj.Test('x'), and no function")
        object.__setattr__(self, "analyse", tuple(analyse))
        object.__setattr__(self, "scenarios", _table(self.scenarios))

    def run(
        self, store: str | os.PathLike | None = None, executor: Executor | None = None, progress: bool = False
    ) -> pd.DataFrame:
        """The table of all replicates: scenario, its columns, replicate, converged, and what the analyses yield.

        store : a folder for Parquet parts (the extra `study`), in which an interrupted run goes on; a part that is
        damaged is computed again, with a warning. executor : any `concurrent.futures.Executor`: a process pool that
        spawns, `distributed.Client.get_executor()`, `mpi4py.futures`; None computes here, over all local devices.
        Blocks whose worker dies are sent again. progress : show a bar.
        A scenario that fails does not stop the others: it is missing from the table, a StudyWarning says so, and its
        error is in `.attrs["errors"]`. Raises DataError where all fail and where the folder holds another study;
        OSError where it cannot be written to; TypeError, ValueError and WorkersLost for executors.
        """
        kept = None if store is None else Store.open(store, self.manifest)
        tasks = [Task(i, b) for i in range(len(self.scenarios)) for b in range(-(-self.n // self.block))]
        there = {} if kept is None else kept.parts()
        todo = [t for t in tasks if t not in there]
        errors: dict[int, str] = {}
        parts: dict[Task, pd.DataFrame] = {}
        for _ in range(ATTEMPTS):
            errors |= self._computed(todo, kept, parts, executor, progress)
            wanted = [t for t in tasks if t.scenario not in errors]
            if not (todo := [] if kept is None else self._read(wanted, kept, parts)):
                break
        else:
            raise OSError(errno.EIO, "parts are damaged again and again", str(store))
        if not wanted:
            which = "every scenario failed; the first: " if len(errors) > 1 else ""
            raise DataError(f"{which}{errors[min(errors)]}")
        _report(errors, self.scenarios)
        table = self._joined([parts[t] for t in wanted])
        table.attrs["errors"] = errors
        return table

    def population(self, scenario: int) -> Population:
        """The model of a scenario, a row number, at its true parameters."""
        row = {name: column.iloc[scenario] for name, column in self.scenarios.items()}
        found = self.simulate(**{name: v.item() if isinstance(v, np.generic) else v for name, v in row.items()})
        if not isinstance(found, Fit):
            raise TypeError(f"simulate returned {type(found).__name__}: give a fit, or what lj.make_lmer makes")
        return found if isinstance(found, Population) else with_parameters(found, {})

    def summary(self, table: pd.DataFrame, alpha: float = 0.05) -> pd.DataFrame:
        """What the replicates say of each scenario: scenario, its columns, quantity, measure, value, lower, upper, n.

        Of an estimate the mean, bias, empirical standard deviation and root mean square error; of a standard error the
        mean; of an interval its coverage; of a test the share of p-values up to alpha. lower, upper : 95 % limits of
        what the value would be after infinitely many replicates (Clopper-Pearson for shares). n : replicates behind it.
        """
        truths = {i: self.population(i).truth for i in table["scenario"].unique()}
        return summarise(table, list(self.scenarios.columns), truths, alpha)

    @staticmethod
    def status(store: str | os.PathLike) -> pd.DataFrame:
        """How far the run in a folder is, also from another process: its scenarios, done, n and error."""
        found, manifest = Store.there(store)
        n, block = manifest["n"], manifest["block"]
        table = pd.DataFrame(manifest["scenarios"])
        counts = np.zeros(len(table), int)
        for scenario, b in found.parts():
            counts[scenario] += min(block, n - b * block)
        errors = {i: text.splitlines()[0] for i, text in found.errors().items()}
        return table.assign(done=counts, n=n, error=[errors.get(i, "") for i in range(len(table))])

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What the results depend on, as JSON has it."""
        return {
            "scenarios": [{k: _plain(v) for k, v in row.items()} for row in self.scenarios.to_dict("records")],
            "simulate": identity(self.simulate),
            "analyse": [identity(one) for one in self.analyse],
            "redraw": identity(self.redraw),
            "n": int(self.n),
            "seed": int(self.seed),
            "common": bool(self.common),
            "block": int(self.block),
            "versions": {name: version(name) for name in ("lmmjax", "jax", "jaxlib", "numpy")},
        }

    @in_float64
    def rows(self, run: str, scenario: int, block: int) -> pd.DataFrame:
        """The rows of a block: scenario, replicate, converged, and what the analyses yield. run : tells runs apart."""
        population = _remembered(self, run, scenario)
        sample = self._sample(population, scenario, block * self.block, self._count(block))
        replicates = sample.first + np.arange(len(sample.ok))
        columns = {"scenario": np.full_like(replicates, scenario), "replicate": replicates, "converged": sample.ok}
        for one in self.analyse:
            found = one.columns(sample) if hasattr(one, "columns") else one(sample)
            for name, values in found.items():
                if name in columns or np.shape(values) != sample.ok.shape:
                    raise DataError(f"analyse: column {name!r} comes twice, or has not one value for each replicate")
                columns[name] = np.asarray(values)
        return pd.DataFrame(columns)

    def _count(self, block: int) -> int:
        """Replicates of a block: the last one has fewer."""
        return min(self.block, self.n - block * self.block)

    def _sample(self, population: Population, scenario: int, first: int, count: int) -> Sample:
        stream = 0 if self.common else scenario
        data_key, own_key = jax.random.split(jax.random.fold_in(key_of(self.seed), stream))
        if self.redraw is not None:
            seeds = (int(self.seed), stream)
            designs = [
                redrawn(population, self.redraw, np.random.default_rng([*seeds, i]))
                for i in range(first, first + count)
            ]
            return FreshSample(population, np.zeros((count, 0)), own_key, first, designs)
        e, design = population.estimate, population.design
        y = simulate_responses(design, e.theta, e.beta, e.sigma, data_key, count, None, first)
        y = np.asarray(y) if population.present is None else np.where(population.present, y, np.nan)
        return Sample(population, y, own_key, first)

    def _computed(
        self, todo: list[Task], kept: Store | None, parts: dict, executor: Executor | None, progress: bool
    ) -> dict[int, str]:
        """Computes the blocks; returns by scenario what went wrong."""
        errors: dict[int, str] = {}
        rows = {t: self._count(t.block) for t in todo}
        total = self.n * len(self.scenarios)
        with tqdm(total=total, initial=total - sum(rows.values()), unit=" replicates", disable=not progress) as bar:
            for task, outcome in outcomes(partial(self.rows, uuid4().hex), todo, executor):
                if isinstance(outcome, Failure):
                    errors[task.scenario] = outcome.text
                    if kept is not None:
                        kept.note(task.scenario, f"{outcome.text}\n\n{outcome.trace}")
                elif kept is None:
                    parts[task] = outcome
                else:
                    kept.write(*task, outcome)
                bar.update(rows[task])
        if kept is not None:
            for scenario in {t.scenario for t in todo} - set(errors):
                kept.note(scenario, None)
        return errors

    def _read(self, wanted: list[Task], kept: Store, parts: dict) -> list[Task]:
        """Reads the parts; returns those that were damaged, which are there no more."""
        damaged, files = [], kept.parts()
        for task in wanted:
            try:
                parts[task] = parts[task] if task in parts else kept.read(files[task])
            except DamagedPart as error:
                warnings.warn(f"a damaged part is computed again: {error}", StudyWarning, stacklevel=caller())
                files[task].unlink(missing_ok=True)
                damaged.append(task)
        return damaged

    def _joined(self, parts: list[pd.DataFrame]) -> pd.DataFrame:
        table = pd.concat(parts, ignore_index=True)
        own = self.scenarios.iloc[table["scenario"]].reset_index(drop=True)
        return pd.concat([table[["scenario"]], own, table.drop(columns="scenario")], axis=1)


_populations: OrderedDict[tuple[str, int], Population] = OrderedDict()


def _remembered(study: Study, run: str, scenario: int) -> Population:
    """The population of a scenario, made once for a run in each process."""
    key = run, scenario
    if key not in _populations:
        _populations[key] = study.population(scenario)
        while len(_populations) > KNOWN:
            _populations.popitem(last=False)
    return _populations[key]


def _table(scenarios: Any) -> pd.DataFrame:
    if isinstance(scenarios, Mapping):
        values = [
            v if isinstance(v, list | tuple | range | np.ndarray | pd.Series) else [v] for v in scenarios.values()
        ]
        scenarios = pd.DataFrame(list(product(*values)), columns=list(scenarios))
    if not isinstance(scenarios, pd.DataFrame) or scenarios.empty:
        raise DataError("scenarios: give a DataFrame with a row for each, or a dict of lists of which all meet")
    if taken := [name for name in scenarios.columns if name in RESERVED or not isinstance(name, str)]:
        raise DataError(f"scenarios: a column cannot be called {taken[0]!r}")
    return scenarios.reset_index(drop=True)


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    value = value.item() if isinstance(value, np.generic) else value
    return value if isinstance(value, int | float | str | bool | None) else identity(value)


def _report(errors: Mapping[int, str], scenarios: pd.DataFrame) -> None:
    if not errors:
        return
    first = min(errors)
    where = ", ".join(f"{name}={value}" for name, value in scenarios.iloc[first].items())
    text = f"{plural(len(errors), 'scenario')} of {len(scenarios)} failed; number {first} ({where}): {errors[first]}"
    warnings.warn(text, StudyWarning, stacklevel=caller())
