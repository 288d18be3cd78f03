"""Many fits at once: bootstrap tests, refits, a screen of fixed columns, and a response per gene or voxel.

Every contestant refits the same simulated responses, read from one file. Each of our workloads runs in a process of its
own, for its compilations and its memory; the others fit as many responses as LIMIT allows, scaled to the whole number.
"""

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd

import lmmjax as lj

from . import lme4, rivals
from .derivatives import like_psid
from .harness import Row, call_in_new_process, peak_memory, repeats_for, row, seconds_of, warm

LIMIT = 30.0  # seconds for a rival's timed fits
MEMORY = 2048  # MiB
SHOWN = 5  # responses whose mean criterion is printed: the more exact contestant has the lower one
SHARE = float(os.environ.get("LMMJAX_BENCH_SHARE", "1"))  # of the responses, to try this file out
SOYBEAN = "AqE ~ ID + days + days2 + Precip + Precip_7day"  # not I(days^2), which mixedlm does not read
PANEL = "y ~ x * sex + age + educ + (x | person)"


@dataclass(frozen=True)
class Workload:
    """Responses drawn from `null` (or the model itself) and the fits of all of them, by ML where there is a null.

    n : responses. target : seconds. rivals : whether to time the others too.
    """

    case: str
    data: str
    formula: str
    null: str | None
    factors: tuple[str, ...]
    n: int
    target: float | None
    rivals: bool = True

    @property
    def reml(self) -> bool:
        """Comparisons are by ML."""
        return self.null is None

    @property
    def response(self) -> str:
        """Name of the response column."""
        return self.formula.split()[0]

    @property
    def what(self) -> str:
        """What is timed."""
        return "refit_many" if self.null is None else "refit_many, null and alternative"


PULP = ("pulp", "bright ~ 1 + (1 | operator)", "bright ~ 1", ("operator",))
SLEEP = ("sleepstudy", "Reaction ~ Days + (Days | Subject)", None, ("Subject",))
PLOTS = (f"{SOYBEAN} + (1 | plot_number)", SOYBEAN, ("ID", "plot_number", "disk"))
DISKS = (f"{SOYBEAN} + (1 | plot_number) + (1 | disk)", PLOTS[0], PLOTS[2])
WORKLOADS = (
    Workload("pulp", *PULP, 1000, 0.005),
    Workload("pulp, many", *PULP, 100_000, 0.3, rivals=False),
    Workload("sleepstudy", *SLEEP, 1000, 0.03),
    Workload("soybean, plots", "soybean_sim", *PLOTS, 1000, 0.5),
    Workload("soybean, disks", "soybean_sim", *DISKS, 1000, 3.0),
    Workload("psid's design", "psid", PANEL, None, ("sex", "person"), 20_000, 10.0),
)
ON_ACCELERATOR = (
    Workload("sleepstudy, a million", *SLEEP, 1_000_000, 1.0, rivals=False),
    Workload("soybean, disks, many", "soybean_sim", *DISKS, 100_000, None, rivals=False),
)
SCREEN = "genotype screen"
DEVICES = Workload("sleepstudy, devices", *SLEEP, 20_000, None, rivals=False)


def run() -> list[Row]:
    """Every workload, the screen, and what a second device gains."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for work in WORKLOADS + (() if on_cpu() else ON_ACCELERATOR):
            rows += _workload(work, Path(folder))
        rows += _screen(Path(folder))
        if on_cpu():
            rows += _devices(Path(folder))
    return rows


def on_cpu() -> bool:
    """Whether the run was told to compute on the CPU, which is the default of this package."""
    return os.environ.get("JAX_PLATFORMS", "cpu") == "cpu"


# -------------------------------------------------------------------------------------------------- data


def read(data: str) -> pd.DataFrame:
    """A data set; the panel under the names of `like_psid`, which stands in where it is not on disk."""
    if data == "soybean_sim":
        return lj.datasets.load(data).assign(days2=lambda d: d["days"] ** 2)
    if data != "psid":
        return lj.datasets.load(data)
    if not panel_is_there():
        return like_psid()
    panel = lj.datasets.load("psid")
    panel = panel.assign(y=np.log(panel["income"]), x=panel["year"] - 78.0)
    return panel[["y", "x", "sex", "age", "educ", "person"]]


def panel_is_there() -> bool:
    """Whether psid.csv lies where LMMJAX_DATA_DIR says; nothing is downloaded for a benchmark."""
    return (Path(os.environ.get("LMMJAX_DATA_DIR") or "/nowhere") / "psid.csv").is_file()


def fitted(work: Workload, formula: str) -> "lj.Fit":
    """A model of a workload."""
    data = read(work.data)
    return lj.lmer(formula, data, reml=work.reml) if "|" in formula else lj.lm(formula, data)


def count(work: Workload) -> int:
    """Responses of this run."""
    return max(SHOWN + 1, round(SHARE * work.n))


def write_responses(work: Workload, path: Path) -> None:
    """Draws the responses into a .npy file, a chunk at a time."""
    truth, n, chunk = fitted(work, work.null or work.formula), count(work), 1000
    out = np.lib.format.open_memmap(path, "w+", np.float64, (n, truth.nobs))
    for first in range(0, n, chunk):
        out[first : first + chunk] = lj.simulate(truth, min(chunk, n - first), seed=first)
    out.flush()


# ----------------------------------------------------------------------------------- our side, in a new process


def session(options: dict[str, Any], path: str) -> dict[str, Any]:
    """The first call, warm calls, what they found and the peak memory of this process."""
    work = Workload(**options)
    Y = np.load(path, mmap_mode="r")
    null = fitted(work, work.null) if work.null else None
    model = fitted(work, work.formula)
    before = peak_memory()
    calls: dict[str, Callable[[], Any]] = {work.what: lambda: _fits(null, model, Y)}
    if null is not None:
        calls["bootstrap_lrt"] = lambda: lj.bootstrap_lrt(null, model, n=len(Y), seed=1)
    found: dict[str, Any] = {"before": before, "cold": {}, "warm": {}}
    for name, call in calls.items():
        found["cold"][name] = seconds_of(call)
        found["warm"][name] = warm(call, repeats_for(seconds_of(call)))
    return {**found, "memory": peak_memory(), **_summary(work, null, model, Y)}


def _fits(null: "lj.Fit | None", model: "lj.Fit", Y: Any) -> list[Any]:
    return [lj.refit_many(m, Y) for m in (null, model) if m is not None]


def _summary(work: Workload, null: "lj.Fit | None", model: "lj.Fit", Y: Any) -> dict[str, Any]:
    *_, found = fits = _fits(null, model, Y)
    notes = [f"mean criterion of {SHOWN}: {np.mean(found.criterion[:SHOWN]):.6f}"]
    if null is not None:
        lrt = deviances(null, fits[0]) - found.criterion
        notes.append(f"zero LRTs {np.mean(lrt < 1e-5):.4f}")
    failed = int(np.sum(~np.isin(found.status, [0, 5])))
    return {"note": ", ".join(notes + ([f"{failed} FAILED"] if failed else []))}


def deviances(fit: "lj.Fit", batch: "lj.BatchFit") -> np.ndarray:
    """Least −2 log-likelihoods; σ̂ of a linear model divides by n − p."""
    if fit.design.terms:
        return batch.criterion
    n = fit.nobs
    return n * (1 + np.log(2 * np.pi * batch.sigma**2 * (n - fit.design.p) / n))


# --------------------------------------------------------------------------------------------- all contestants


def _workload(work: Workload, folder: Path) -> list[Row]:
    path = folder / "responses.npy"
    write_responses(work, path)
    found = call_in_new_process("batch", "session", asdict(work), str(path))
    case = f"{work.case}, {count(work):,} responses"
    rows = _ours(case, work, found)
    if work.rivals:
        rows += _others(case, work, path, folder)
    path.unlink()
    return rows


def _ours(case: str, work: Workload, found: dict[str, Any]) -> list[Row]:
    rows = []
    target = work.target if SHARE == 1 else None
    for name, values in found["warm"].items():
        rows.append(row(case, "lmmjax", f"{name}, first call", [found["cold"][name]], unit="s", note="compiles"))
        note = found["note"] if name == work.what else "draws the responses too"
        rows.append(row(case, "lmmjax", name, values, unit="s", target=target, note=note))
    return [*rows, _memory(case, found)]


def _memory(case: str, found: dict[str, Any]) -> Row:
    memory, note = found["memory"], f"{found['before']:.0f} MiB before the batch; the file of responses counts"
    return Row(case, "lmmjax", "peak memory", memory, memory, 1, "MiB", MEMORY, note)


def _others(case: str, work: Workload, path: Path, folder: Path) -> list[Row]:
    data, Y = read(work.data), np.load(path, mmap_mode="r")
    n, some = len(Y), Y[: min(len(Y), 3000)]  # more than any of them fits in the time
    csv, responses = folder / "data.csv", folder / "responses.csv"
    data.to_csv(csv, index=False)
    np.savetxt(responses, some, "%.17g", delimiter=",")
    rows = lme4.run(case, _in_r(case, work, csv, responses, n), unit="s")
    job = {"csv": str(csv), "formula": work.formula, "null": work.null, "reml": work.reml}
    job |= {"responses": str(responses), "n": n, "seconds": LIMIT, "shown": SHOWN}
    return rows + rivals.run_batch(case, {**job, "factors": list(work.factors), "response": work.response})


R_BATCH = """
Y <- as.matrix(read.csv("{responses}", header = FALSE))
# As many as there is time for, at least {shown}; f fits one response and gives the criterion.
some <- function(f) {{
  f(Y[1, ]); values <- c(); start <- Sys.time()
  for (i in seq_len(nrow(Y))) {{
    values[i] <- f(Y[i, ])
    took <- as.numeric(Sys.time() - start, units = "secs")
    if (took > {limit} && i >= {shown}) break
  }}
  note <- sprintf("mean criterion of {shown}: %.6f", mean(values[seq_len({shown})]))
  if (i < {n}) note <- sprintf("%s; scaled from %d", note, i)
  list(seconds = took * {n} / i, note = note)
}}
tell <- function(quantity, r) emit("{case}", quantity, r$seconds, r$note)
"""


def _in_r(case: str, work: Workload, csv: Path, responses: Path, n: int) -> str:
    """R code for a loop of lmer and for refit, each after the null where there is one."""
    reml = "TRUE" if work.reml else "FALSE"
    criterion = "REMLcrit" if work.reml else "-2 * logLik"
    mixed = "|" in (work.null or "")
    model = f"lmer({work.formula}, data, REML = {reml})"
    null = "" if work.null is None else f"lmer({work.null}, data, REML = {reml})" if mixed else f"lm({work.null}, data)"
    put = f"data${work.response} <<- y"
    again = "refit(null, y)" if mixed else f"{put}; {null}" if null else ""
    return f"""{lme4.frame(str(csv), list(work.factors))}
    {R_BATCH.format(responses=responses, shown=SHOWN, limit=LIMIT, n=n, case=case)}
    fit <- {model}
    null <- {null or "NULL"}
    tell("lmer in a loop", some(function(y) {{ {put}; {null}; as.numeric({criterion}({model})) }}))
    tell("refit", some(function(y) {{ {again}; as.numeric({criterion}(refit(fit, y))) }}))
    """


# ------------------------------------------------------------------------------------------- the genotype screen


def screen_session() -> dict[str, Any]:
    """All models that drop one genotype, from the fitted full model."""
    data = read("soybean_sim")
    fit = lj.lmer(DISKS[0], data, reml=False)
    columns = [name for name in fit.fixef.index if name.startswith("ID")]
    before = peak_memory()

    def call() -> pd.DataFrame:
        return lj.drop_one(fit, columns=columns)

    cold = seconds_of(call)
    values = warm(call, repeats_for(seconds_of(call)))
    note = f"mean deviance {call().loc[columns, 'deviance'].mean():.6f}"
    return {"cold": cold, "warm": values, "memory": peak_memory(), "before": before, "note": note}


def _screen(folder: Path) -> list[Row]:
    found, case = call_in_new_process("batch", "screen_session"), f"{SCREEN}, 40 fits"
    rows = [
        row(case, "lmmjax", "drop_one, first call", [found["cold"]], unit="s", note="compiles"),
        row(case, "lmmjax", "drop_one", found["warm"], unit="s", target=0.5, note=found["note"]),
        _memory(case, found),
    ]
    data, csv = read("soybean_sim"), folder / "screen.csv"
    dummies = pd.get_dummies(data["ID"], dtype=float)[list(data["ID"].cat.categories[1:])]
    data.drop(columns="ID").join(dummies).to_csv(csv, index=False)
    rest = "days + days2 + Precip + Precip_7day + (1 | plot_number) + (1 | disk)"
    formulas = [f"AqE ~ {' + '.join(d for d in dummies if d != out)} + {rest}" for out in dummies]
    formulas = formulas[: max(2, round(SHARE * len(formulas)))]
    rows += lme4.run(case, _screen_in_r(case, csv, formulas, len(dummies.columns)), unit="s")
    job = {"csv": str(csv), "formulas": formulas, "n": 40, "seconds": 2 * LIMIT, "response": "AqE"}
    return rows + rivals.run_batch(case, {**job, "factors": ["plot_number", "disk"]})


def _screen_in_r(case: str, csv: Path, formulas: list[str], n: int) -> str:
    texts = ", ".join(f'"{f}"' for f in formulas)
    return f"""{lme4.frame(str(csv), ["plot_number", "disk"])}
    values <- c(); start <- Sys.time()
    for (f in c({texts})) values <- c(values, -2 * as.numeric(logLik(lmer(as.formula(f), data, REML = FALSE))))
    took <- as.numeric(Sys.time() - start, units = "secs")
    note <- sprintf("mean deviance %.6f", mean(values))
    if (length(values) < {n}) note <- sprintf("%s; scaled from %d", note, length(values))
    emit("{case}", "lmer in a loop", took * {n} / length(values), note)
    """


# -------------------------------------------------------------------------------------------------- devices


def devices_session(options: dict[str, Any], path: str) -> dict[str, Any]:
    """Warm seconds on the devices of this process."""
    import jax

    fit, Y = fitted(work := Workload(**options), work.formula), np.load(path, mmap_mode="r")
    call = partial(lj.refit_many, fit, Y)
    return {"devices": len(jax.devices()), "warm": warm(call, repeats_for(seconds_of(call)))}


def _devices(folder: Path) -> list[Row]:
    """The same batch on one and on two forced devices of this machine."""
    path, times = folder / "responses.npy", {}
    write_responses(DEVICES, path)
    case = f"{DEVICES.case}, {count(DEVICES):,} responses"
    for k in (1, 2):
        flags = f"--xla_force_host_platform_device_count={k}"
        found = call_in_new_process("batch", "devices_session", asdict(DEVICES), str(path), XLA_FLAGS=flags)
        times[found["devices"]] = found["warm"]
    path.unlink()
    rows = [row(case, "lmmjax", f"refit_many on {k} device{'s'[: k - 1]}", t, unit="s") for k, t in times.items()]
    gain = median(times[1]) / median(times[2])
    note = f"{gain:.2f} times as fast; {os.cpu_count()} cores, and XLA may use several for one device"
    return [*rows, Row(case, "lmmjax", "efficiency of the second device", gain / 2, gain / 2, 1, "", None, note)]


if __name__ == "__main__":
    print(json.dumps([asdict(r) for r in run()], indent=1))
