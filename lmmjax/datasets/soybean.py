"""A simulated soybean field trial, in the shape of a published one whose measurements are not public."""

import numpy as np
from numpy.typing import NDArray

from .facts import Columns

SEED = 2019
N_ROWS, N_PLOTS, N_GENOTYPES, N_CHECK_PLOTS = 3309, 200, 40, 21
DAYS = (0, 7, 15, 21, 29, 36, 44)
DISKS_PER_DAY = (15, 15, 15, 14, 14, 14, 14)
SD_GENOTYPE, SD_PLOT, SD_DISK, SD_RESIDUAL = 0.15, 0.22, 0.13, 0.73


def simulate() -> Columns:
    """Columns of the trial; the same values on every call.

    A day has its own measuring disks; a disk holds leaves from about 33 plots, so plots are crossed with disks. A plot
    grows one genotype. The three weather and time covariates are constant within a day and standardised over rows.
    """
    rng = np.random.default_rng(SEED)
    genotype = _genotype_of_plot(rng)
    plot, disk = _leaves(rng)
    day = np.repeat(np.arange(len(DAYS)), DISKS_PER_DAY)[disk]
    rain, rain_week = (-np.log1p(-rng.random(len(DAYS))) for _ in range(2))
    covariates = [_standardise(np.asarray(by_day, float)[day]) for by_day in (DAYS, rain, rain_week)]
    effect = np.concatenate([[0.0], SD_GENOTYPE * rng.standard_normal(N_GENOTYPES)])
    response = (
        0.2
        + effect[genotype[plot]]
        + _trend(*covariates)
        + SD_PLOT * rng.standard_normal(N_PLOTS)[plot]
        + SD_DISK * rng.standard_normal(sum(DISKS_PER_DAY))[disk]
        + SD_RESIDUAL * rng.standard_normal(N_ROWS)
    )
    days, precip, precip_week = covariates
    return {
        "AqE": np.round(response, 6).tolist(),
        "ID": ["RC" if g == 0 else f"G{g:02d}" for g in genotype[plot]],
        "days": days.tolist(),
        "Precip": precip.tolist(),
        "Precip_7day": precip_week.tolist(),
        "plot_number": [str(i + 1) for i in plot],
        "disk": [str(i + 1) for i in disk],
        "day": [DAYS[i] for i in day],
    }


def _genotype_of_plot(rng: np.random.Generator) -> NDArray[np.intp]:
    """Genotype of every plot: 0 is the check RC, and each of the others grows somewhere."""
    others = N_PLOTS - N_CHECK_PLOTS - N_GENOTYPES
    extra = 1 + np.floor(N_GENOTYPES * rng.random(others)).astype(np.intp)
    entries = np.concatenate([np.zeros(N_CHECK_PLOTS, np.intp), np.arange(1, N_GENOTYPES + 1), extra])
    return entries[np.argsort(rng.random(N_PLOTS))]


def _leaves(rng: np.random.Generator) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Plot and disk of every measured leaf: disks of uneven size, each with distinct plots."""
    share = np.cumsum(0.6 + 0.8 * rng.random(sum(DISKS_PER_DAY)))
    sizes = np.diff(np.rint(N_ROWS * share / share[-1]).astype(np.intp), prepend=0)
    plots = [np.sort(np.argsort(rng.random(N_PLOTS))[:size]) for size in sizes]
    return np.concatenate(plots), np.repeat(np.arange(len(sizes)), sizes)


def _trend(days: NDArray, precip: NDArray, precip_week: NDArray) -> NDArray:
    return -0.25 * days - 0.2 * days**2 + 0.1 * precip + 0.15 * precip_week


def _standardise(x: NDArray) -> NDArray:
    return np.round((x - x.mean()) / x.std(ddof=1), 8)
