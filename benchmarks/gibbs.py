"""Gibbs sampling: the notes' 50,000 sweeps against their R loop, many chains, many rows, and effective draws a second
against NUTS and bambi.

Each contestant has a process of its own. Priors are lmmjax's defaults, for bambi its own.
"""

import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import lmmjax as lj

from . import batch, lme4
from .harness import Row, call_in_new_process, row, seconds_of, skip, warm

SWEEPS = 50_000
NOTES = "the notes' example, 7 subjects"
MANY, EVERY = 1000, 20  # chains, and of how many of their sweeps one is kept: all would fill 5 GB
COPIES = (1, 10, 100, 1000)  # of sleepstudy's 180 rows
MODELS = {
    "sleepstudy": ("sleepstudy", batch.SLEEP[1]),
    "psid" if batch.panel_is_there() else "like psid": ("psid", batch.PANEL),
}
# The notes' derivation, as R users write it.
R = f"""
d <- split(data$y, data$subject); counts <- lengths(d); n <- length(d); N <- sum(counts)
own <- factor(rep(seq_len(n), counts)); y <- unlist(d); mu <- 0; a <- numeric(n); kept <- matrix(0, {SWEEPS}, 3 + n)
took <- system.time(for (i in seq_len({SWEEPS})) {{
  va <- rinvgamma(1, 2 + n / 2, 100 + sum(a^2) / 2)
  ve <- rinvgamma(1, 2 + N / 2, 100 + sum((y - mu - a[own])^2) / 2)
  precision <- N / ve + 2
  mu <- rnorm(1, sum(y - a[own]) / ve / precision, 1 / sqrt(precision))
  sums <- vapply(d, function(yi) sum(yi - mu), 0)
  a <- rnorm(n, sums / (counts + ve / va), 1 / sqrt(counts / ve + 1 / va))
  kept[i, ] <- c(va, ve, mu, a)
}})[["elapsed"]]
emit("{NOTES}", "{SWEEPS:,} sweeps, 1 chain", took, sprintf("mean of mu %.2f", mean(kept[-(1:1000), 3])), "s")
"""


def run() -> list[Row]:
    """All of it."""
    rows = _notes()
    for case, (data, formula) in MODELS.items():
        rows += _effective(case, data, formula)
    return rows + _rows_of_data()


def notes_priors() -> lj.Priors:
    """Of the notes' example, whose σs are variances."""
    half = lj.InverseGamma(2, 100)
    return lj.Priors({"Intercept": lj.Normal(0, np.sqrt(0.5))}, {"subject": half}, half)


def chains_session(kernel: str, chains: int) -> dict[str, Any]:
    """The first call and warm ones on the notes' example."""
    data, priors, found = lj.datasets.load("one_way"), notes_priors(), list[float]()
    thin = EVERY if chains == MANY else 1
    options = {"draws": SWEEPS // thin, "warmup": 0, "chains": chains, "thin": thin, "kernel": kernel}

    def call() -> Any:
        idata = lj.gibbs("y ~ 1 + (1 | subject)", data, priors, seed=len(found), **options)
        found.append(float(idata.posterior["beta"][:, 1000 // thin :].mean()))

    first = seconds_of(call)
    return {"first": first, "warm": warm(call, 5 if chains < MANY else 1), "note": f"mean of mu {found[-1]:.2f}"}


def gibbs_session(data: str, formula: str, draws: int = 10_000) -> dict[str, Any]:
    """The first call and warm ones, four chains, and the effective draws of the worst number."""
    frame, found = batch.read(data), []

    def call() -> Any:
        found.append(lj.gibbs(formula, frame, draws=draws, seed=len(found)))

    return {"first": seconds_of(call), "warm": warm(call, 5), "ess": least_ess(found[-1].posterior)}


def nuts_session(data: str, formula: str, draws: int = 1000) -> dict[str, Any]:
    """The same by `lj.nuts`; the second run of its MCMC object compiles nothing."""
    import jax
    from patsy import EvalEnvironment

    from lmmjax.bayes.model import model_of
    from lmmjax.bayes.numpyro_model import sampler

    model = model_of(formula, batch.read(data), None, EvalEnvironment.capture(), {})
    with lj.float64():
        mcmc = sampler(model, draws, 1000, 4, 0.9)
        times = [seconds_of(lambda i=i: mcmc.run(jax.random.key(i))) for i in range(2)]
        samples = mcmc.get_samples(group_by_chain=True)
        kept = {k: np.asarray(v) for k, v in samples.items() if k.startswith(("beta", "sigma", "sd_", "cor_", "b_"))}
    return {"first": times[0], "warm": times[1:], "ess": least_ess(kept)}


def bambi_session(data: str, formula: str, draws: int = 1000) -> dict[str, Any]:
    """The same by bambi through NumPyro, its own priors and no correlations; every call compiles."""
    import warnings

    import bambi

    warnings.simplefilter("ignore")
    frame, found = batch.read(data), []

    def call() -> Any:
        model = bambi.Model(formula.replace("+ 1 ", ""), frame)
        options = {"inference_method": "numpyro", "draws": draws, "tune": 1000, "chains": 4, "random_seed": len(found)}
        found.append(model.fit(**options, chain_method="vectorized", progress_bar=False))

    return {"first": seconds_of(call), "warm": [seconds_of(call)], "ess": least_ess(found[-1].posterior)}


def rows_session(copies: int) -> dict[str, Any]:
    """Warm calls on sleepstudy's rows, each so many times over, less those of a quarter of the sweeps."""
    data = lj.datasets.load("sleepstudy")
    rng = np.random.default_rng(0)
    data = pd.concat([data] * copies, ignore_index=True)
    data["Reaction"] += rng.normal(size=len(data))

    def call(draws: int) -> Any:
        return lj.gibbs(batch.SLEEP[1], data, draws=draws, warmup=0, chains=1)

    long, short = (min(warm(lambda d=d: call(d), 15)) for d in (2**15, 2**13))
    return {"each": (long - short) / (2**15 - 2**13), "whole": long}


def least_ess(draws: Any) -> float:
    """The smaller of the bulk effective sample sizes of all numbers."""
    import arviz

    found = arviz.ess(arviz.convert_to_dataset(draws))
    return float(min(np.nanmin(v) for v in found.values()))


def _notes() -> list[Row]:
    rows = []
    for kernel in ("one_way", "joint"):
        for chains in (1, 4, MANY):
            found = call_in_new_process("gibbs", "chains_session", kernel, chains)
            note, target = found["note"], None
            if chains == 1:
                one, target = np.median(found["warm"]), 0.1
            if chains == MANY:
                note += f"; {np.median(found['warm']) / one:.0f} times one chain, target 20; every {EVERY}th kept"
            what = f"{SWEEPS:,} sweeps, {chains} chain{'s' * (chains > 1)}"
            rows.append(row(NOTES, f"lmmjax, {kernel}", what, found["warm"], unit="s", target=target, note=note))
            rows.append(row(NOTES, f"lmmjax, {kernel}", f"{what}, first call", [found["first"]], unit="s"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one_way.csv"
        lj.datasets.load("one_way").to_csv(path, index=False)
        return rows + lme4.run(NOTES, lme4.frame(str(path), ["subject"]) + R, package="MCMCpack")


def _effective(case: str, data: str, formula: str) -> list[Row]:
    rows, rate = [], {}
    for name, session in (("lmmjax, gibbs", "gibbs"), ("lmmjax, nuts", "nuts"), ("bambi, numpyro", "bambi")):
        if session == "bambi" and find_spec("bambi") is None:
            rows.append(skip(case, name, "pip install bambi"))
            continue
        found = call_in_new_process("gibbs", f"{session}_session", data, formula)
        rate[session] = found["ess"] / np.median(found["warm"])
        note = f"least effective sample size {found['ess']:.0f}: {rate[session]:.0f} a second"
        if session != "gibbs":
            note += f"; Gibbs has {rate['gibbs'] / rate[session]:.0f} times as many"
        what = f"4 chains of {'10,000' if session == 'gibbs' else '1,000'} draws after 1,000"
        rows.append(row(case, name, what, found["warm"], unit="s", note=note))
        rows.append(row(case, name, f"{what}, first call", [found["first"]], unit="s"))
    return rows


def _rows_of_data() -> list[Row]:
    rows = []
    for copies in COPIES:
        found = call_in_new_process("gibbs", "rows_session", copies)
        note = f"{1 / found['each']:,.0f} sweeps a second"
        rows.append(row(f"sleepstudy, {180 * copies:,} rows", "lmmjax, gibbs", "one sweep", [found["each"]], note=note))
    return rows
