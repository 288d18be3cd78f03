"""Rows of results, warm timings, and fresh processes."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SKIPPED = "skipped"


@dataclass(frozen=True)
class Row:
    """One measured quantity.

    case : model or situation. contestant : who. quantity : what was measured. median, best : of `repeats` values, in
    `unit`; None where skipped. target : what the median should not exceed. note : what a reader must know.
    """

    case: str
    contestant: str
    quantity: str
    median: float | None
    best: float | None
    repeats: int
    unit: str = "ms"
    target: float | None = None
    note: str = ""


def row(case: str, contestant: str, quantity: str, seconds: Sequence[float], **more: Any) -> Row:
    """A Row from timings in seconds; `unit` is "ms" (default) or "s"."""
    scale = 1000 if more.get("unit", "ms") == "ms" else 1
    return Row(case, contestant, quantity, scale * median(seconds), scale * min(seconds), len(seconds), **more)


def skip(case: str, contestant: str, reason: str) -> Row:
    """A row that says why there is no number; printed as well."""
    print(f"{SKIPPED}: {contestant}, {case}: {reason}", flush=True)
    return Row(case, contestant, SKIPPED, None, None, 0, "", None, reason)


def seconds_of(function: Callable[[], Any]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def warm(function: Callable[[], Any], repeats: int = 50) -> list[float]:
    """Wall times of `repeats` calls after two that do not count."""
    function(), function()
    return [seconds_of(function) for _ in range(repeats)]


def fresh(code: str, **environment: str | None) -> dict[str, Any]:
    """Runs Python code in a new process and returns the JSON object on its last line of output.

    environment : variables to set, or to leave out where None. Raises RuntimeError with the process's error text.
    """
    changed = {**os.environ, **{k: v for k, v in environment.items() if v is not None}}
    env = {k: v for k, v in changed.items() if environment.get(k, "") is not None}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=env, check=False)
    if done.returncode:
        raise RuntimeError(f"a benchmark process failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def call_in_new_process(module: str, function: str, *arguments: Any, **environment: str | None) -> dict[str, Any]:
    """What a function of a module of this package returns in a new process without a compilation cache."""
    code = f"import json\nfrom benchmarks import {module}\nprint(json.dumps({module}.{function}(*{arguments!r})))"
    return fresh(code, **{"JAX_COMPILATION_CACHE_DIR": None, **environment})


def repeats_for(seconds: float) -> int:
    """How many repeats of so long a call there is time for."""
    return int(np.clip(5 / seconds, 3, 30))


def other_response(y: Any) -> np.ndarray:
    """What every contestant refits: the first response would be a start at its own optimum."""
    y = np.asarray(y, dtype=float)
    return y + 0.5 * y.std(ddof=1) * np.sin(np.arange(1, len(y) + 1))


def peak_memory() -> float:
    """Largest resident memory of this process so far, MiB (Linux)."""
    return _memory("VmHWM")


def resident_memory() -> float:
    """Resident memory of this process now, MiB (Linux)."""
    return _memory("VmRSS")


def _memory(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))
