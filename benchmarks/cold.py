"""What a notebook user waits for: a new process, from `import lmmjax` to the first printed summary, and what follows.

The time that `import jax, pandas, patsy` takes in a new process is subtracted: no package on JAX can be faster.
"""

import tempfile
from statistics import median

from .harness import Row, fresh, row

REPEATS = 3
NO_CACHE = {"JAX_COMPILATION_CACHE_DIR": None}
IMPORTS = """
import time; start = time.perf_counter()
import jax, pandas, patsy
print('{"total": %f}' % (time.perf_counter() - start))
"""
SESSION = """
import json, time; start = time.perf_counter()
import lmmjax as lj
if CACHE:
    lj.enable_compilation_cache(CACHE)
FORMULA = "Reaction ~ Days + (Days|Subject)"
data = lj.datasets.load("sleepstudy")
print(lj.lmer(FORMULA, data).summary())
times = {"total": time.perf_counter() - start}

def then(name, formula, data):
    start = time.perf_counter()
    str(lj.lmer(formula, data).summary())
    times[name] = time.perf_counter() - start

then("same model, other response", FORMULA, data.assign(Reaction=data["Reaction"][::-1].to_numpy()))
then("same model, fewer rows", FORMULA, data[data["Days"] < 9])
other = data.rename(columns={"Reaction": "y", "Days": "x", "Subject": "g"}).assign(x=lambda d: d["x"] ** 2 / 10)
then("other model, equal block shapes", "y ~ x + (x|g)", other[other["x"] > 0])
print(json.dumps(times))
"""


def run() -> list[Row]:
    """Cold starts without and with a filled compilation cache, taken in turns with the bare imports."""
    imports: list[float] = []
    sessions: dict[str, list[dict[str, float]]] = {"no cache": [], "filled cache": []}
    with tempfile.TemporaryDirectory() as folder:
        cached = f"CACHE = {folder!r}\n" + SESSION
        fresh(IMPORTS, **NO_CACHE)  # reads the files once
        fresh(cached, **NO_CACHE)  # fills the cache
        for _ in range(REPEATS):
            imports.append(fresh(IMPORTS, **NO_CACHE)["total"])
            sessions["no cache"].append(fresh("CACHE = None\n" + SESSION, **NO_CACHE))
            sessions["filled cache"].append(fresh(cached, **NO_CACHE))
    rows = [row("new process", "jax, pandas, patsy", "import", imports, unit="s")]
    for name, target in (("no cache", 1.5), ("filled cache", 0.4)):
        rows += _rows(name, sessions[name], median(imports), target)
    return rows


def _rows(name: str, runs: list[dict[str, float]], imports: float, target: float) -> list[Row]:
    totals = [r["total"] for r in runs]
    beyond = [t - imports for t in totals]
    case = f"new process, {name}"
    rows = [
        row(case, "lmmjax", "import to first summary", totals, unit="s"),
        row(case, "lmmjax", "the same beyond the imports", beyond, unit="s", target=target),
    ]
    then = [key for key in runs[0] if key != "total"]
    return rows + [row(f"after that, {name}", "lmmjax", key, [r[key] for r in runs]) for key in then]
