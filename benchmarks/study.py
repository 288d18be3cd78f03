"""Simulation studies: what `Study` adds to bare refits, a million fits with a test each, and a power analysis.

Times of the first call include compilation, those of warm ones do not; each contestant has a process of its own.
"""

from typing import Any

import numpy as np

import lmmjax as lj

from . import lme4
from .harness import Row, call_in_new_process, row, seconds_of, warm

MANY, MILLION, OF_SIMR = 100_000, 1_000_000, 1000
ONE_WAY = "20 groups × 5"
SLEEP = "sleepstudy, (Days | Subject)"
FEW, TIMES = 20, OF_SIMR // 20  # replicates that R is given time for
# What simr's powerSim does for a fixed effect, with the same packages.
R = f"""
large <- lmer(Reaction ~ Days + (Days | Subject), sleepstudy)
took <- system.time(for (i in seq_len({FEW})) {{
  y <- simulate(large, 1)[[1]]
  suppressMessages(suppressWarnings(KRmodcomp(refit(large, y), lmer(y ~ 1 + (Days | Subject), sleepstudy))))
}})[["elapsed"]]
emit("{SLEEP}", "{OF_SIMR:,} replicates, Kenward-Roger", {TIMES} * took, "{TIMES} times {FEW} of them", "s")
"""


def run() -> list[Row]:
    """All of it."""
    return _overhead() + _million() + _power()


def one_way(effect: float) -> lj.Population:
    """The design of the many fits."""
    return lj.designs.one_way(20, 5, treatments=2, effect=effect)


def overhead_session() -> dict[str, Any]:
    """Replicates of one scenario through `Study`, and the same calls without it, one after the other."""
    population = one_way(0.5)

    def bare() -> None:
        for first in range(0, MANY, 4096):
            count = min(4096, MANY - first)
            fits = lj.refit_many(population, lj.simulate(population, count, seed=first))
            fits.test("treatment[T.t2]", "satterthwaite")

    def study() -> None:
        lj.Study({"effect": [0.5]}, one_way, lj.Test("treatment[T.t2]"), n=MANY).run()

    bare(), study()
    pairs = [(seconds_of(bare), seconds_of(study)) for _ in range(5)]
    return {"bare": [a for a, _ in pairs], "study": [b for _, b in pairs]}


def million_session() -> dict[str, Any]:
    """Four scenarios, a quarter of a million fits each, every one with a Satterthwaite test."""
    study = lj.Study({"effect": [0.0, 0.5, 1.0, 1.5]}, one_way, lj.Test("treatment[T.t2]"), n=MILLION // 4)
    found: list[Any] = []
    first = seconds_of(lambda: found.append(study.run()))
    rates = found[0].groupby("effect")["p[treatment[T.t2], satterthwaite]"].apply(lambda p: np.mean(p <= 0.05))
    return {"first": first, "note": f"{len(found[0]):,} rows; rejected {', '.join(f'{r:.3f}' for r in rates)}"}


def power_session() -> dict[str, Any]:
    """The power of the slope by Kenward–Roger's test."""
    fit = lj.lmer("Reaction ~ Days + (Days | Subject)", lj.datasets.load("sleepstudy"))
    found: list[lj.Power] = []

    def call() -> None:
        found.append(lj.power(fit, {"Days": 5.0}, n=OF_SIMR, method="kenward-roger", seed=len(found)))

    return {"first": seconds_of(call), "warm": warm(call, 5), "note": f"power {found[0].power:.3f}"}


def _overhead() -> list[Row]:
    found = call_in_new_process("study", "overhead_session")
    share = np.median(np.array(found["study"]) / np.array(found["bare"])) - 1
    what = f"{MANY:,} fits with a Satterthwaite test"
    return [
        row(ONE_WAY, "refit_many", what, found["bare"], unit="s"),
        row(
            ONE_WAY, "Study", what, found["study"], unit="s", note=f"{100 * share:+.1f} % in the median pair; target 10"
        ),
    ]


def _million() -> list[Row]:
    found = call_in_new_process("study", "million_session")
    what = f"{MILLION:,} fits with a Satterthwaite test, first call"
    return [row(ONE_WAY, "Study", what, [found["first"]], unit="s", target=180, note=found["note"])]


def _power() -> list[Row]:
    found = call_in_new_process("study", "power_session")
    what = f"{OF_SIMR:,} replicates, Kenward-Roger"
    return [
        row(SLEEP, "lmmjax, power", what, found["warm"], unit="s", target=5, note=found["note"]),
        row(SLEEP, "lmmjax, power", f"{what}, first call", [found["first"]], unit="s"),
        *lme4.run(SLEEP, R, unit="s", package="pbkrtest"),
    ]
