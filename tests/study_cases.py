"""A study that other processes can import, small enough to be run again and again."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import lmmjax as lj

N, BLOCK = 240, 20


def one_way(sd: float) -> lj.Population:
    return lj.designs.one_way(groups=5, size=3, sd=sd, treatments=2, effect=1.0)


def dies_once(sd: float, marker: str) -> lj.Population:
    """`one_way`, but the first process that wants the last scenario is killed."""
    if sd == 1 and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return one_way(sd)


def always_dies(sd: float) -> lj.Population:
    os.kill(os.getpid(), signal.SIGKILL)
    return one_way(sd)


def study(simulate: Any = one_way, scenarios: Any = None, **options: Any) -> lj.Study:
    """Two scenarios of 240 replicates in blocks of 20."""
    analyse = [lj.Estimates(), lj.Test("treatment[T.t2]", "wald")]
    scenarios = {"sd": [0.0, 1.0]} if scenarios is None else scenarios
    return lj.Study(scenarios, simulate, analyse, **{"n": N, "seed": 7, "block": BLOCK, **options})


def redraw(data: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    return data.assign(x=rng.normal(size=len(data)))


def run_in(stores: list[str]) -> None:
    """What is killed: one run in each store, side by side."""
    with ThreadPoolExecutor(len(stores)) as threads:
        list(threads.map(lambda store: study().run(store=store), stores))
