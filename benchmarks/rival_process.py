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


def batch(job):
    """Yields (quantity, seconds scaled to all fits, a note) for many responses to one model, or for many formulas."""
    package, reml = job["package"], job.get("reml", False)
    reader, wrap = READERS[package]
    data = reader(job)
    if "formulas" in job:
        make = WHOLE[package]
        fits = (make(formula, data, reml) for formula in job["formulas"])
        yield "whole call in a loop", *_some(fits, job, shown=None)
        return
    model = PREPARED[package](job["formula"], data, reml)
    null = job["null"] and (PREPARED[package](job["null"], data, reml) if "|" in job["null"] else _linear(job, data))
    responses = [wrap(line) for line in open(job["responses"], encoding="utf-8")]
    model(responses[0])

    def each():
        for y in responses:
            if null:
                null(y)
            yield model(y)

    yield "refit", *_some(each(), job, job["shown"])


def _some(fits, job, shown):
    """Seconds for all n fits, scaled from those that the given time allows (at least `shown`), and a note on them."""
    criteria, start = [], time.perf_counter()
    for criterion in fits:
        criteria.append(criterion)
        took = time.perf_counter() - start
        if took > job["seconds"] and len(criteria) >= (shown or 1):
            break
    name = f"mean criterion of {shown}" if shown else "mean deviance"
    note = f"{name}: {statistics.fmean(criteria[:shown]):.6f}"
    if len(criteria) < job["n"]:
        note += f"; scaled from {len(criteria)}"
    return [took * job["n"] / len(criteria)], note


def _linear(job, data):
    """A null without random effects, for either package: NumPy's least squares on the columns that are numbers."""
    import numpy as np

    names = [name for name in data.columns if name not in job["factors"] and name != job["response"]]
    X = np.column_stack([np.ones(len(data)), *(np.asarray(data[name], float) for name in names)])
    return lambda y: np.linalg.lstsq(X, np.asarray(y), rcond=None)


def _mixedlm_data(job):
    import pandas as pd

    return pd.read_csv(job["csv"], dtype=dict.fromkeys(job["factors"], str))


def _lme_python_data(job):
    import polars as pl

    data = pl.read_csv(job["csv"], schema_overrides=dict.fromkeys(job["factors"], pl.String))
    return data.with_columns(pl.col(job["response"]).cast(pl.Float64))


def _mixedlm_whole(formula, data, reml):
    import mixedlm as package

    return _mixedlm_criterion(package.lmer(formula, data, REML=reml), reml)


def _mixedlm_prepared(formula, data, reml):
    import mixedlm as package

    fit = package.lmer(formula, data, REML=reml)
    return lambda y: _mixedlm_criterion(fit.refit(y), reml)


def _mixedlm_criterion(fit, reml):
    return fit.REMLcrit() if reml else -2 * fit.logLik().value


def _lme_python_whole(formula, data, reml):
    return _lme_python_prepared(formula, data, reml)(None)


def _lme_python_prepared(formula, data, reml):
    import lme_python as package

    prepared = package.prepare_lmer(formula, data)

    def refit(y):
        fit = prepared.fit(y=y, reml=reml)
        return fit.reml_criterion if reml else -2 * fit.log_likelihood

    return refit


def _numbers(line):
    return [float(value) for value in line.split(",")]


def _array(line):
    import numpy as np

    return np.array(_numbers(line))


READERS = {"mixedlm": (_mixedlm_data, _array), "lme-python": (_lme_python_data, _numbers)}
WHOLE = {"mixedlm": _mixedlm_whole, "lme-python": _lme_python_whole}
PREPARED = {"mixedlm": _mixedlm_prepared, "lme-python": _lme_python_prepared}


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
    if "batch" in job:
        for quantity, values, note in batch(job):
            print(json.dumps({"quantity": quantity, "seconds": values, "note": note}), flush=True)
        return
    for quantity, values, criterion in {"mixedlm": mixedlm, "lme-python": lme_python}[job["package"]](job):
        note = f"criterion {criterion:.6f}"
        print(json.dumps({"quantity": quantity, "seconds": values, "note": note}), flush=True)


if __name__ == "__main__":
    main()
