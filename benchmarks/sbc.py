"""Simulation-based calibration of the Gibbs kernels and of the NumPyro model: are ranks of the truth uniform?

The p-values of the tests and not the times are what is reported. Draws that are not independent pile up at the ends of
the ranks: with 4096 truths the ECDF of a half-t standard deviation had p 0.0001 at every 20th sweep (under a wider
prior of β) and 0.001 at every 30th, which is why every 60th is kept there. NUTS keeps every eighth draw, and has truths
of its own.
"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd

import lmmjax as lj
from lmmjax.core import gibbs

from . import sbc_models as models
from .harness import Row
from .sbc_models import Case, Sampler

N, N_NUTS, DRAWS = 2048, 1024, 63  # truths, and kept draws of each posterior
ALPHA = 0.05


def _frame(**columns: np.ndarray) -> pd.DataFrame:
    """With a response that only sets the units, and codes as categories."""
    y = np.random.default_rng(0).standard_normal(len(columns["g"]))
    factors = {name: pd.Categorical(v) if v.dtype == int else v for name, v in columns.items()}
    return pd.DataFrame({"y": y, **factors})


def _one_way() -> pd.DataFrame:
    return _frame(g=np.repeat(np.arange(6), (2, 3, 3, 4, 5, 6)))


def _panel() -> pd.DataFrame:
    return _frame(g=np.repeat(np.arange(6), 4), x=np.tile([-1.5, -0.5, 0.5, 1.5], 6))


def _crossed() -> pd.DataFrame:
    g, h = (a.ravel() for a in np.indices((6, 4)))
    return _frame(g=g, h=h, x=np.cos(np.arange(24)), w=1 + np.arange(24) % 3 / 2)


MEAN = {"Intercept": lj.Normal(1, 0.25)}
SLOPE = {**MEAN, "x": lj.Normal(0, 0.15)}
ONE_WAY = Case(
    "6 groups of 2 to 6, (1 | g), inverse-gamma",
    "y ~ 1 + (1 | g)",
    _one_way(),
    lj.Priors(MEAN, {"g": lj.InverseGamma(3, 2)}, lj.InverseGamma(4, 3)),
    thin=10,
    seed=1,
)
HALF_T = Case(
    "6 groups × 4, (x | g), half-t",
    "y ~ x + (x | g)",
    _panel(),
    lj.Priors(SLOPE, {"g": lj.HalfT(2, (1.0, 0.7))}, lj.HalfT(4, 1.0)),
    thin=60,
    seed=2,
)
WISHART = Case(
    "6 groups × 4, (x | g), inverse-Wishart",
    HALF_T.formula,
    HALF_T.data,
    lj.Priors(SLOPE, {"g": lj.InverseWishart(5, [[2.0, 0.5], [0.5, 1.0]])}, lj.InverseGamma(4, 3)),
    thin=10,
    seed=3,
)
CROSSED = Case(
    "6 × 4, (x || g) + (1 | h), prior weights",
    "y ~ x + (x || g) + (1 | h)",
    _crossed(),
    lj.Priors(SLOPE, {"g": lj.HalfT(3, 1.0), "g.1": lj.HalfT(3, 0.7), "h": lj.InverseGamma(3, 2)}, lj.HalfT(4, 1.0)),
    thin=60,
    seed=4,
    weights="w",
)
GIBBS = (
    (ONE_WAY, "Gibbs, one_way", gibbs.one_way),
    (ONE_WAY, "Gibbs, joint", gibbs.joint),
    (HALF_T, "Gibbs, joint", gibbs.joint),
    (WISHART, "Gibbs, joint", gibbs.joint),
    (CROSSED, "Gibbs, joint", gibbs.joint),
)
NUTS = tuple(replace(case, seed=case.seed + 10) for case in (ONE_WAY, HALF_T, WISHART))


def run() -> list[Row]:
    """Two p-values of each quantity: χ² of 16 bins, and that of simultaneous bands of the ECDF."""
    rows: list[Row] = []
    for case, name, effects in GIBBS:
        rows += _rows(case, name, models.of_gibbs(case, effects), N)
    for case in NUTS:
        rows += _rows(case, "NUTS, NumPyro", models.of_nuts(case), N_NUTS)
    return rows


def _rows(case: Case, name: str, sampler: Sampler, n: int) -> Iterable[Row]:
    print(case.name, name, flush=True)
    for quantity, rank in models.ranks(case, sampler, n, DRAWS).items():
        chi2, ecdf = models.chi2_p(rank, DRAWS), models.ecdf_p(rank, DRAWS)
        side = "inside" if ecdf > ALPHA else "OUTSIDE"
        note = f"{side} the 95 % bands of the ECDF, p {ecdf:.3f}; {n} truths, {DRAWS} draws of each"
        yield Row(case.name, name, f"rank of {quantity}: p of χ²", chi2, None, n, "", None, note)
