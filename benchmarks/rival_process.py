"""What the python of LMMJAX_BENCH_RIVALS runs: one job from stdin, JSON lines out. Knows nothing of lmmjax."""

import json
import math
import statistics
import sys
import time
from importlib.metadata import PackageNotFoundError, version


def seconds(function, repeats):
    """Wall times of calls after two that do not count."""
    if repeats > 1:
        function(), function()
    out = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        out.append(time.perf_counter() - start)
    return out


def other_response(y):
    """As harness.other_response."""
    half = 0.5 * statistics.stdev(map(float, y))
    return [value + half * math.sin(i) for i, value in enumerate(y, start=1)]


def mixedlm(job):
    """Yields (quantity, seconds, REML criterion)."""
    import mixedlm as package
    import numpy as np
    import pandas as pd

    data = pd.read_csv(job["csv"], dtype=dict.fromkeys(job["factors"], str))
    y = np.array(other_response(data[job["response"]]))
    fit = package.lmer(job["formula"], data)
    yield "whole call", seconds(lambda: package.lmer(job["formula"], data), job["repeats"]), fit.REMLcrit()
    yield "refit", seconds(lambda: fit.refit(y), job["repeats"]), fit.refit(y).REMLcrit()


def lme_python(job):
    """Yields (quantity, seconds, REML criterion)."""
    import lme_python as package
    import polars as pl

    data = pl.read_csv(job["csv"], schema_overrides=dict.fromkeys(job["factors"], pl.String))
    data = data.with_columns(pl.col(job["response"]).cast(pl.Float64))
    prepared = package.prepare_lmer(job["formula"], data)
    first = data[job["response"]].to_list()
    y = other_response(first)
    call = lambda: package.lmer(job["formula"], data=data, reml=True)  # noqa: E731
    yield "whole call", seconds(call, job["repeats"]), prepared.fit(y=first, reml=True).reml_criterion
    yield (
        "refit",
        seconds(lambda: prepared.fit(y=y, reml=True), job["repeats"]),
        prepared.fit(y=y, reml=True).reml_criterion,
    )


def installed(name):
    """Version of a package, or "absent"."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def main():
    """Answers one job."""
    job = json.load(sys.stdin)
    if "versions" in job:
        print(json.dumps({name: installed(name) for name in job["versions"]}))
        return
    for quantity, values, criterion in {"mixedlm": mixedlm, "lme-python": lme_python}[job["package"]](job):
        note = f"criterion {criterion:.6f}"
        print(json.dumps({"quantity": quantity, "seconds": values, "note": note}), flush=True)


if __name__ == "__main__":
    main()
