"""Tests and intervals against R: pbkrtest, lmerTest, lme4's profiles and RLRsim, and what a batch of tests saves.

Each task on each model is a process of its own, for its compilations and its memory, after the fit; R's as well.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import lmmjax as lj

from . import batch, insteval, lme4
from .harness import (
    Row,
    call_in_new_process,
    peak_memory,
    repeats_for,
    resident_memory,
    row,
    seconds_of,
    skip,
    warm,
)

LONG = 5  # seconds of a call that is made once
GAIN = 10  # times as fast as R, at least
DRAWS = 100_000
RESPONSES, LOOP = 1000, 100
LARGE = "y ~ service + lectage + studage + (1 | s) + (1 | d) + (1 | dept)"  # of InstEval
OF_LARGE = ("lectage", "studage")
MEMORY = 8192  # MiB, of Kenward and Roger's tests there
MORE = "peak memory beyond the fit"


@dataclass(frozen=True)
class Model:
    """What `batch.read` knows as `data`, a formula that R reads too, and the columns that are factors there."""

    data: str
    formula: str
    factors: tuple[str, ...]


SLEEP, PANEL = "sleepstudy", "psid" if batch.panel_is_there() else "like psid"
PLOTS, DISKS = "soybean, plots", "soybean, disks"
IRRIGATION, PULP, UNBALANCED = "irrigation, 8 fields", "pulp, 4 operators", f"{PANEL}, 85 unequal persons"
OF_PANEL, OF_SOYBEAN = ("sex", "person"), ("ID", "plot_number", "disk")
MODELS = {
    SLEEP: Model("sleepstudy", batch.SLEEP[1], ("Subject",)),
    PANEL: Model("psid", batch.PANEL, OF_PANEL),
    PLOTS: Model("soybean_sim", batch.PLOTS[0], OF_SOYBEAN),
    DISKS: Model("soybean_sim", batch.DISKS[0], OF_SOYBEAN),
    IRRIGATION: Model("irrigation", "yield ~ irrigation * variety + (1 | field)", ("irrigation", "variety", "field")),
    PULP: Model("pulp", batch.PULP[1], ("operator",)),
    UNBALANCED: Model("psid", batch.PANEL.replace("(x |", "(1 |"), OF_PANEL),
}


@dataclass(frozen=True)
class Task:
    """What is timed on some models.

    ours : of a fit, what is computed. shown : of that, the numbers of the note. package : of R. r : R code that defines
    the same two functions, task() and shown(result), for `fit`, lme4's. more : R code that times something else too.
    """

    models: tuple[str, ...]
    ours: Callable[[lj.Fit], Any]
    shown: Callable[[Any], Sequence[float]]
    package: str
    r: str
    more: str = ""


KR, ANOVA, PROFILE, RLRT = (
    "Kenward-Roger, all coefficients",
    "anova, type III, Satterthwaite",
    "profile intervals, all parameters",
    f"exact RLRT, {DRAWS:,} draws",
)
TASKS = {
    KR: Task(
        (PANEL, PLOTS, DISKS),
        lambda fit: fit.summary("kenward-roger").coefficients,
        lambda table: [table["df"].min(), table["df"].max()],
        "pbkrtest",
        """
        task <- function() {
          adjusted <- vcovAdj(fit); plain <- vcov(fit); p <- length(fixef(fit))
          vapply(seq_len(p), function(i) Lb_ddf(replace(numeric(p), i, 1), plain, adjusted), 0)
        }
        shown <- range
        """,
    ),
    ANOVA: Task(
        (SLEEP, PANEL, PLOTS, DISKS),
        lj.anova,
        lambda table: [table["dendf"].min(), table["dendf"].max()],
        "lmerTest",
        """
        task <- function() anova(as_lmerModLmerTest(fit), type = "III")
        shown <- function(table) range(table$DenDF)
        """,
        """
        ready <- as_lmerModLmerTest(fit)
        emit(case, "the same, of a fit that has its derivatives", timed(function() anova(ready, type = "III")))
        """,
    ),
    PROFILE: Task(
        (SLEEP, PANEL),
        lj.confint,
        lambda table: table.loc["sigma"],
        "lme4",
        """
        task <- function() confint(fit, method = "profile", oldNames = FALSE, quiet = TRUE)
        shown <- function(table) table["sigma", ]
        """,
    ),
    RLRT: Task(
        (IRRIGATION, PULP, UNBALANCED),
        partial(lj.exact_rlrt, n=DRAWS, seed=1),
        lambda test: [test.statistic, test.p_value],
        "RLRsim",
        f"""
        task <- function() exactRLRT(fit, nsim = {DRAWS}, seed = 1)
        shown <- function(test) c(test$statistic, test$p.value)
        """,
    ),
}


def run() -> list[Row]:
    """All tasks, the large one that pbkrtest cannot do, and a batch against a loop."""
    with tempfile.TemporaryDirectory() as folder:
        rows = [r for name, task in TASKS.items() for model in task.models for r in _both(name, model, Path(folder))]
        return rows + _large(Path(folder)) + _batch()


# ----------------------------------------------------------------------------------- our side, in a new process


def session(task: str, model: str) -> dict[str, Any]:
    """A task on a fit: the first call, warm calls, peak memory beyond that of the fit, and what was found."""
    m = MODELS[model]
    return _measured(TASKS[task], lj.lmer(m.formula, batch.read(m.data)))


def large_session(path: str) -> dict[str, Any]:
    """Kenward and Roger's test on InstEval."""
    return _measured(TASKS[KR], lj.lmer(LARGE, insteval.read(path).astype(dict.fromkeys(OF_LARGE, "category"))))


def _measured(task: Task, fit: lj.Fit) -> dict[str, Any]:
    call, before = partial(task.ours, fit), resident_memory()
    cold, again = seconds_of(call), seconds_of(call)
    values = [again] if again > LONG else warm(call, repeats_for(again))
    return {"cold": cold, "warm": values, "memory": peak_memory() - before, "note": _numbers(task.shown(call()))}


def batch_session(ddf: str) -> dict[str, Any]:
    """Tests of many responses at once and in a loop, seconds; and how far their degrees of freedom differ."""
    fit = lj.lmer(batch.SLEEP[1], lj.datasets.load("sleepstudy"))
    Y = lj.simulate(fit, RESPONSES, seed=1)

    def at_once() -> pd.DataFrame:
        return lj.refit_many(fit, Y).test("Days", ddf)

    def in_a_loop() -> list[float]:
        return [float(lj.linear_test(lj.refit(fit, y), "Days", ddf).ddf or np.nan) for y in Y[:LOOP]]

    fits, cold = lj.refit_many(fit, Y), seconds_of(at_once)
    alone = warm(lambda: fits.test("Days", ddf), 10)
    difference = np.max(np.abs(at_once()["ddf"][:LOOP] / in_a_loop() - 1))
    return {
        "cold": cold,
        "warm": warm(at_once, 10),
        "test": alone,
        "loop": [t * RESPONSES / LOOP for t in warm(in_a_loop, 3)],
        "note": f"df of {LOOP} agree to {difference:.0e}",
    }


# --------------------------------------------------------------------------------------------- all contestants


def _both(task: str, model: str, folder: Path) -> list[Row]:
    theirs = lme4.run(model, _in_r(task, model, folder), "s", TASKS[task].package)
    times = [r.median for r in theirs if r.quantity == task and r.median]
    found = call_in_new_process("inference", "session", task, model)
    return _ours(model, task, found, times[0] / GAIN if times else None) + theirs


def _ours(case: str, task: str, found: dict[str, Any], target: float | None) -> list[Row]:
    gain = f"{GAIN * target / np.median(found['warm']):.3g} times as fast; " if target else ""
    return [
        row(case, "lmmjax", f"{task}, first call", [found["cold"]], unit="s", note="compiles"),
        row(case, "lmmjax", task, found["warm"], unit="s", target=target, note=gain + found["note"]),
        row(case, "lmmjax", MORE, [found["memory"]], unit="MiB", note="compilation counts"),
    ]


IN_R = f"""
status <- function(name) grep(name, readLines("/proc/self/status"), value = TRUE)
resident <- function(name) as.numeric(gsub("[^0-9]", "", status(name))) / 1024
timed <- function(f) {{
  first <- seconds(f, 1, 0)
  if (first > {LONG}) first else seconds(f, if (first > 0.5) 3 else 10, 1)
}}
before <- resident("VmRSS")
result <- NULL
values <- timed(function() result <<- task())
after <- resident("VmHWM")
"""


def _in_r(task: str, model: str, folder: Path) -> str:
    m, of, csv, data = MODELS[model], TASKS[task], folder / "data.csv", batch.read(MODELS[model].data)
    data.to_csv(csv, index=False)
    first = {name: data[name].astype("category").cat.categories[0] for name in m.factors}
    return f"""{lme4.frame(str(csv), list(m.factors))}
    {"; ".join(f'data${name} <- relevel(data${name}, "{level}")' for name, level in first.items())}
    case <- "{model}"
    fit <- lme4::lmer({m.formula}, data)
    {of.r}
    {IN_R}
    emit(case, "{task}", values, paste(sprintf("%.5g", shown(result)), collapse = ", "))
    emit(case, "{MORE}", after - before, "", "MiB")
    {of.more}
    """


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{v:.5g}" for v in values)


def _large(folder: Path) -> list[Row]:
    path = insteval.data_file(folder)
    if path is None:
        return [skip(insteval.CASE, "all", "no InstEval.csv.gz in LMMJAX_DATA_DIR, and no lme4 to export it")]
    *times, memory = _ours(insteval.CASE, KR, call_in_new_process("inference", "large_session", str(path)), None)
    rows = [*times, replace(memory, target=MEMORY)]
    return [*rows, skip(insteval.CASE, "pbkrtest", "inverts the 73,421 × 73,421 covariance of y: 43 GB, dense")]


def _batch() -> list[Row]:
    case, rows = f"sleepstudy, {RESPONSES:,} responses", []
    for ddf in ("satterthwaite", "kenward-roger"):
        found, name = call_in_new_process("inference", "batch_session", ddf), f"fits and tests, {ddf}"
        once, loop = np.median(found["warm"]), np.median(found["loop"])
        gain = f"{1000 * once / RESPONSES:.2g} ms each, {loop / once:.3g} times as fast as the loop"
        rows += [
            row(case, "lmmjax", f"{name}, first call", [found["cold"]], unit="s", note="compiles"),
            row(case, "lmmjax", name, found["warm"], unit="s", note=f"{gain}; {found['note']}"),
            row(case, "lmmjax", f"BatchFit.test alone, {ddf}", found["test"], unit="s"),
            row(case, "lmmjax", f"{name}, in a loop", found["loop"], unit="s", note=f"scaled from {LOOP}"),
        ]
    return rows
