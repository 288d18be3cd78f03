"""How often tests reject what is true, and how often intervals hold it, in small designs: simulated, with seeds.

The rates and not the times are what is reported. A run writes its tables into docs/tests.md and docs/intervals.md too.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

import lmmjax as lj

from . import calibration_models as models
from .calibration_models import Model
from .harness import ROOT, Row

ALPHAS = (0.05, 0.01)
N = 10_000  # replicates
NESTED, OF_SLOPES = 2000, 1000  # replicates with a bootstrap each, which of random slopes costs more
COPIES, FOR_QUANTILES = 199, 399  # draws of such a bootstrap
ERROR, COVERAGE = "type I error at {:g}", "coverage of 95 % intervals"
TABLES = {"tests.md": ("fixed effects", "variances"), "intervals.md": ("intervals",)}


def _irrigation() -> pd.DataFrame:
    return lj.datasets.load("irrigation")


def _one_way(sizes: Sequence[int]) -> pd.DataFrame:
    """Groups of these sizes; the arms of a trial take turns."""
    group = np.repeat(np.arange(len(sizes)), sizes)
    y = np.random.default_rng(0).standard_normal(len(group))
    return pd.DataFrame({"y": y, "arm": pd.Categorical(group % 2), "group": pd.Categorical(group)})


def _panel(subjects: int, times: int) -> pd.DataFrame:
    subject, time = (a.ravel() for a in np.indices((subjects, times)))
    y = np.random.default_rng(0).standard_normal(len(time))
    return pd.DataFrame({"y": y, "time": time.astype(float), "subject": pd.Categorical(subject)})


PLOTS, GROUPS = "yield ~ irrigation + variety + (1 | field)", "y ~ arm + (1 | group)"
SIZES = (2, 2, 3, 3, 4, 5, 6, 8, 10, 12)
SLOPES = "y ~ time + (time | subject)"
SPLIT_PLOT = Model("split plot (irrigation), σ_f = 2.8 σ", PLOTS, _irrigation(), (2.78,), 1)
LITTLE = Model("split plot (irrigation), σ_f = 0.5 σ", PLOTS, _irrigation(), (0.5,), 2)
UNBALANCED = Model("10 groups of 2 to 12, σ_a = 0.7 σ", GROUPS, _one_way(SIZES), (0.7,), 3)
RANDOM_SLOPES = Model("10 subjects × 5 times, random slopes", SLOPES, _panel(10, 5), (1.0, 0.0, 0.5), 4)
PULP = Model("4 × 5 (pulp), σ_a = σ", "bright ~ 1 + (1 | operator)", lj.datasets.load("pulp"), (1.0,), 5)
LARGER = Model("20 × 5, σ_a = σ", "y ~ 1 + (1 | group)", _one_way((5,) * 20), (1.0,), 6)
IRRIGATION = ("irrigation[T.i2]", "irrigation[T.i3]", "irrigation[T.i4]")
FIXED = (
    (SPLIT_PLOT, "irrigation (3 df)", IRRIGATION, NESTED),
    (SPLIT_PLOT, "i2 − i1", IRRIGATION[:1], NESTED),
    (SPLIT_PLOT, "variety", ("variety[T.v2]",), NESTED),
    (LITTLE, "irrigation (3 df)", IRRIGATION, NESTED),
    (UNBALANCED, "arm", ("arm[T.1]",), NESTED),
    (RANDOM_SLOPES, "time", ("time",), OF_SLOPES),
)
# Here the tested variance is zero, and theta is that of the null.
ONE_VARIANCE = (
    Model("4 × 5 (pulp)", PULP.formula, PULP.data, (0.0,), 7),
    Model("split plot (irrigation), 8 fields", PLOTS, SPLIT_PLOT.data, (0.0,), 8),
    Model("10 groups of 2 to 12", GROUPS, UNBALANCED.data, (0.0,), 9),
)
NO_SLOPES = Model("10 subjects × 5 times, slope and its correlation", SLOPES, RANDOM_SLOPES.data, (1.0,), 10)
INTERVALS = {"LRT, χ²": "profile", "Wald χ²": "Wald, normal", **{name: name for name in list(models.DDF)[1:]}}


def run() -> list[Row]:
    """All rates; the tables of the documentation are written on the way."""
    rows = [*_fixed_effects(), *_variances(), *_standard_deviations()]
    publish(rows)
    return rows


def _fixed_effects() -> Iterable[Row]:
    """Tests, and the intervals that hold the truth where a test of it does not reject."""
    for model, what, columns, n_boot in FIXED:
        print(case := f"{model.name}: {what}", flush=True)
        p = models.of_fixed_effects(model, columns, N, n_boot, COPIES)
        yield from _errors("fixed effects", case, p)
        if len(columns) == 1:
            for name, interval in INTERVALS.items():
                yield _coverage(case, interval.replace("F, ", "Wald, t, "), p[name] > 0.05, np.isnan(p[name]))
            covers = models.percentile_of_beta(model, columns[0], n_boot, FOR_QUANTILES)
            yield _coverage(case, "bootstrap, percentile", covers)


def _variances() -> Iterable[Row]:
    for model in ONE_VARIANCE:
        print(model.name, flush=True)
        yield from _errors("variances", model.name, models.of_one_variance(model, N))
    print(NO_SLOPES.name, flush=True)
    p = models.of_a_slope(NO_SLOPES, "y ~ time + (1 | subject)", N, OF_SLOPES, COPIES)
    yield from _errors("variances", NO_SLOPES.name, p)


def _standard_deviations() -> Iterable[Row]:
    for model in (PULP, LARGER):
        print(model.name, flush=True)
        p = models.profile_p(model, model.responses(N))
        yield _coverage(f"{model.name}: σ_a", "profile", p > 0.05, np.isnan(p))
        covers = models.percentile_of_sd(model, NESTED, FOR_QUANTILES)
        yield _coverage(f"{model.name}: σ_a", "bootstrap, percentile", covers)


def _errors(kind: str, case: str, p: dict[str, np.ndarray]) -> Iterable[Row]:
    for method, values in p.items():
        for alpha in ALPHAS:
            yield _rate(case, method, f"{kind}: {ERROR.format(alpha)}", values <= alpha, np.isnan(values))


def _coverage(case: str, method: str, covers: np.ndarray, unknown: np.ndarray | bool = False) -> Row:
    return _rate(case, method, f"intervals: {COVERAGE}", covers, unknown)


def _rate(case: str, method: str, quantity: str, found: np.ndarray, unknown: np.ndarray | bool) -> Row:
    """A share in per cent and its standard error, of the replicates whose fit converged."""
    kept = found[~np.broadcast_to(unknown, found.shape)]
    share, n = float(kept.mean()), len(kept)
    note = f"standard error {100 * np.sqrt(share * (1 - share) / n):.2f}"
    note += f"; {len(found) - n} not converged" if n < len(found) else ""
    return Row(case, method, quantity, 100 * share, None, n, "%", None, note)


# -------------------------------------------------------------------------------------------- tables in the docs


def publish(rows: Sequence[Row]) -> None:
    """Writes the tables between their marks in the documentation."""
    for page, kinds in TABLES.items():
        path = ROOT / "docs" / page
        text = path.read_text(encoding="utf-8")
        for kind in kinds:
            text = replaced(text, kind, table(rows, kind))
        path.write_text(text, encoding="utf-8")


def replaced(text: str, kind: str, new: str) -> str:
    """The text with what lies between the marks of `kind` replaced."""
    start, end = f"<!-- calibration: {kind} -->\n", "<!-- end of calibration -->"
    before, mark, rest = text.partition(start)
    if not mark:
        raise ValueError(f"no mark {start.strip()!r}")
    return f"{before}{start}\n{new}\n\n{end}{rest.partition(end)[2]}"


def table(rows: Sequence[Row], kind: str) -> str:
    """Cases by methods, in per cent; two rates in a cell are those at .05 and .01."""
    own = [r for r in rows if r.quantity.startswith(kind)]
    cases, methods = (list(dict.fromkeys(names)) for names in ([r.case for r in own], [r.contestant for r in own]))
    found: dict[tuple[str, str], list[str]] = {}
    for r in own:
        found.setdefault((r.case, r.contestant), []).append(f"{r.median:.1f}")
    lines = [["", *methods], ["---"] * (1 + len(methods))]
    lines += [[case, *(" / ".join(found.get((case, method), ["–"])) for method in methods)] for case in cases]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
