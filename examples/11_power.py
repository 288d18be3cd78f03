"""How many subjects? Simulated power beside the exact one where that is known, then from a pilot fit to a sample size.

In balanced designs Satterthwaite's and Kenward and Roger's tests are the F tests of the analysis of variance as long as
no variance is estimated as zero, so that their power is that of a noncentral F distribution. The standard deviations
between groups are large here, so that this does not happen.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import matplotlib
import numpy as np
from scipy import stats

import lmmjax as lj

N, ALPHA, ALARM = 20_000, 0.05, 3.3  # replicates; standard errors, which chance exceeds once in a thousand times
SIGMA = 1.0
GROUPS, SIZE, SD_GROUP = 12, 4, 2.0  # one-way: treatments differ between groups
PAIRS, SD_PAIR = 15, 3.0  # paired: within
PLOTS, SD_PLOT = 10, 2.5  # split-plot: one of both, and their interaction
TARGET = 0.8


@contextmanager
def timed(what: str) -> Iterator[None]:
    begin = perf_counter()
    yield
    print(f"{what}: {perf_counter() - begin:.2f} s")


def exact_power(ncp: float, numdf: int, dendf: int) -> float:
    return float(stats.ncf.sf(stats.f.isf(ALPHA, numdf, dendf), numdf, dendf, ncp)) if ncp else ALPHA


# The designs with all effects at zero and at these values, the tests of each, and (noncentrality, numdf, dendf).
def one_way(at: float) -> lj.Population:
    return lj.designs.one_way(GROUPS, SIZE, SD_GROUP, SIGMA, treatments=3, effect=3.5 * at)


def paired(at: float) -> lj.Population:
    return lj.designs.paired(PAIRS, SD_PAIR, SIGMA, effect=0.9 * at)


def split_plot(at: float) -> lj.Population:
    return lj.designs.split_plot(
        PLOTS, sd=SD_PLOT, sigma=SIGMA, whole_effect=3 * at, sub_effect=0.6 * at, interaction=1.4 * at
    )


OF_MEAN, OF_PLOT = SD_GROUP**2 + SIGMA**2 / SIZE, SD_PLOT**2 + SIGMA**2 / 2  # variances of a group's, a plot's mean
STEPS = np.array([-0.5, 0.0, 0.5])  # of the three treatments' means, in units of the effect
DESIGNS: dict[str, tuple[Callable, list[tuple[str, lj.Test, float, int, int]]]] = {
    "one-way": (
        one_way,
        [
            (
                "treatment, between groups",
                lj.Test(["treatment[T.t2]", "treatment[T.t3]"], "kenward-roger"),
                GROUPS / 3 * np.sum((3.5 * STEPS) ** 2) / OF_MEAN,
                2,
                GROUPS - 3,
            )
        ],
    ),
    "paired": (
        paired,
        [("treatment, within pairs", lj.Test("treatment[T.t2]"), PAIRS * 0.9**2 / (2 * SIGMA**2), 1, PAIRS - 1)],
    ),
    "split-plot": (
        split_plot,
        [
            ("whole-plot effect", lj.Test([0, 1, 0, 0.5]), 3.7**2 * PLOTS / (4 * OF_PLOT), 1, PLOTS - 2),
            ("sub-plot effect", lj.Test([0, 0, 1, 0.5]), 1.3**2 * PLOTS / (2 * SIGMA**2), 1, PLOTS - 2),
            ("interaction", lj.Test("whole[T.w2]:sub[T.s2]"), 1.4**2 * PLOTS / (8 * SIGMA**2), 1, PLOTS - 2),
        ],
    ),
}


def draw(size) -> Path:
    matplotlib.use("Agg")
    ax = lj.plots.power(size.table, x="Subject")
    ax.axhline(TARGET, color="0.6", linestyle=":")
    ax.axvline(size.size, color="0.6", linestyle=":")
    ax.set_title("sleepstudy: power to find half of the slope")
    path = Path(__file__).parent / "figures" / "11_power.png"
    path.parent.mkdir(exist_ok=True)
    ax.figure.savefig(path, dpi=150)
    return path


farthest = 0.0
print(f"{'design':<12}{'test':<28}{'':<8}{'simulated':>9}{'exact':>9}{'standard errors apart':>23}")
seconds = {}
for name, (design, tests) in DESIGNS.items():
    study = lj.Study({"at": [0.0, 1.0]}, design, [test for _, test, *_ in tests], n=N, seed=11)
    begin = perf_counter()
    table = study.run()
    middle = perf_counter()
    assert study.run().equals(table), "the same seed gives the same table"
    seconds[name] = middle - begin, perf_counter() - middle
    assert table["converged"].all()
    for what, test, *of_f in tests:
        for at, kind in enumerate(("level", "power")):
            found = float((table.loc[table["scenario"] == at, test.name] <= ALPHA).mean())
            exact = exact_power(of_f[0] * at, *of_f[1:])
            z = (found - exact) / np.sqrt(exact * (1 - exact) / N)
            farthest = max(farthest, abs(z))
            print(f"{name:<12}{what:<28}{kind:<8}{found:>9.4f}{exact:>9.4f}{z:>23.2f}")
for name, (cold, warm) in seconds.items():
    print(f"{name}: {2 * N:,} fits and their tests in {cold:.2f} s, of which compiling {cold - warm:.2f} s")

# A pilot: 18 subjects on ten days. What would a study have to be like that finds a slope half as large?
fit = lj.lmer("Reaction ~ Days + (Days | Subject)", lj.datasets.load("sleepstudy"))
effect = {"Days": fit.fixef["Days"] / 2}
print(f"\nsleepstudy: slope {fit.fixef['Days']:.2f} ms a day; power to find {effect['Days']:.2f}")
with timed("1000 replicates with Kenward and Roger's test, first call"):
    power = lj.power(fit, effect, method="kenward-roger", seed=1)
with timed("1000 others, compiled"):
    other = lj.power(fit, effect, method="kenward-roger", seed=2)
print(power, "\n")
with timed("power at three sizes, two of them new"):
    curve = lj.power_curve(fit, effect, along="Subject", sizes=[9, 13, 18], method="kenward-roger", seed=1)
print(curve.to_string(index=False))
with timed("the smallest size, by bisection"):
    size = lj.sample_size(fit, effect, along="Subject", power=TARGET, method="kenward-roger", seed=1)
print(size.table.to_string(index=False))
print(size)
print(draw(size))

at = size.table.set_index("Subject")
assert farthest < ALARM, f"{farthest:.2f} standard errors from the exact power"
assert abs(power.power - other.power) < ALARM * np.sqrt(2 * power.power * (1 - power.power) / power.n)
assert curve["power"].is_monotonic_increasing, "more subjects, more power"
assert curve["power"].iloc[-1] == power.power, "18 subjects are the pilot's: the same replicates"
assert at.loc[size.size, "power"] >= TARGET > at.loc[size.size - 1, "power"]
assert at.loc[18, "power"] == power.power
print("Checks met")
