"""InstEval: 73,421 ratings, 2,972 students crossed with 1,128 lecturers and 14 departments."""

import os
import subprocess
import tempfile
from pathlib import Path

import pandas as pd

from . import lme4, rivals
from .harness import ROOT, Row, fresh, row, skip

CASE = "InstEval"
FORMULA = "y ~ service + (1 | s) + (1 | d) + (1 | dept)"
FACTORS = ("s", "d", "service", "dept")
SESSION = """
import json
import lmmjax as lj
from benchmarks.harness import other_response, peak_memory, seconds_of
from benchmarks.insteval import FORMULA, read
data = read(PATH)
times = {"before": peak_memory(), "first": seconds_of(lambda: lj.lmer(FORMULA, data))}
times["whole call"] = [seconds_of(lambda: lj.lmer(FORMULA, data)) for _ in range(5)]
fit = lj.lmer(FORMULA, data)
y = other_response(data["y"])
times["refit"] = [seconds_of(lambda: lj.refit(fit, y)) for _ in range(5)]
times["memory"] = peak_memory()
times["criterion"], times["other criterion"] = fit.reml_criterion, lj.refit(fit, y).reml_criterion
print(json.dumps(times))
"""


def run() -> list[Row]:
    """lmmjax in a process of its own, for its memory; then the others once."""
    with tempfile.TemporaryDirectory() as folder:
        path = data_file(Path(folder))
        if path is None:
            return [skip(CASE, "all", "no InstEval.csv.gz in LMMJAX_DATA_DIR, and no lme4 to export it")]
        plain = Path(folder) / "plain.csv"
        read(path)[[*FACTORS, "y"]].to_csv(plain, index=False)
        rows = _ours(path) + lme4.run(CASE, _in_r(str(plain)), unit="s")
        return rows + rivals.run(CASE, str(plain), FORMULA, list(FACTORS), "y", repeats=1, unit="s")


def data_file(folder: Path) -> Path | None:
    """The data on disk, or exported by R into `folder`."""
    places = [os.environ.get("LMMJAX_DATA_DIR"), ROOT.parent / "shared" / "reference" / "data"]
    found = [p for p in (Path(place) / "InstEval.csv.gz" for place in places if place) if p.is_file()]
    if found:
        return found[0]
    if not lme4.versions():
        return None
    path = folder / "InstEval.csv.gz"
    code = f'write.csv(lme4::InstEval, gzfile("{path}"), row.names = FALSE)'
    subprocess.run(["Rscript", "-e", code], check=True, capture_output=True)
    return path


def read(path: str | Path) -> pd.DataFrame:
    """The ratings, with categorical factors."""
    data = pd.read_csv(path, dtype=dict.fromkeys(FACTORS, str))
    return data.astype(dict.fromkeys(FACTORS, "category"))


def _ours(path: Path) -> list[Row]:
    found = fresh(f"PATH = {str(path)!r}\n" + SESSION)
    note, other = (f"criterion {found[key]:.6f}" for key in ("criterion", "other criterion"))
    memory = found["memory"]
    return [
        row(CASE, "lmmjax", "first call (cold)", [found["first"]], unit="s"),
        row(CASE, "lmmjax", "whole call", found["whole call"], unit="s", note=note),
        row(CASE, "lmmjax", "refit", found["refit"], unit="s", target=1.0, note=other),
        Row(CASE, "lmmjax", "peak memory", memory, memory, 1, "MiB", 2048, f"{found['before']:.0f} MiB before the fit"),
    ]


def _in_r(path: str) -> str:
    return f"""{lme4.frame(path, list(FACTORS))}
    fit <- NULL
    values <- seconds(function() fit <<- lmer({FORMULA}, data), 1, unmeasured = 0)
    emit("{CASE}", "whole call", values, sprintf("criterion %.6f", REMLcrit(fit)))
    again <- NULL
    values <- seconds(function() again <<- refit(fit, other(data$y)), 1, unmeasured = 0)
    emit("{CASE}", "refit", values, sprintf("criterion %.6f", REMLcrit(again)))
    """
