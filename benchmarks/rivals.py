"""Other Python packages, timed in a virtual environment of their own: LMMJAX_BENCH_RIVALS names its python."""

import json
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from .harness import Row, row, skip

PACKAGES = ("mixedlm", "lme-python")
VARIABLE = "LMMJAX_BENCH_RIVALS"
WORKER = Path(__file__).with_name("rival_process.py")
LIMIT = 300  # seconds for one model


@cache
def versions() -> dict[str, str]:
    """Versions of the rivals that are there."""
    return {} if VARIABLE not in os.environ else _ask({"versions": list(PACKAGES)})[0]


def run(
    case: str, csv: str, formula: str, factors: list[str], response: str, repeats: int, unit: str = "ms"
) -> list[Row]:
    """Rows of each rival for one model: the whole call, and a refit where it has one."""
    job = {"csv": csv, "formula": formula, "factors": factors, "response": response, "repeats": repeats}
    return _rows(case, job, unit)


def run_batch(case: str, job: dict[str, Any]) -> list[Row]:
    """Rows of each rival for many responses to one model, or for many formulas: see `rival_process.batch`."""
    return _rows(case, {**job, "batch": True}, "s")


def _rows(case: str, job: dict[str, Any], unit: str) -> list[Row]:
    if VARIABLE not in os.environ:
        return [skip(case, name, f"{VARIABLE} names no python that has it") for name in PACKAGES]
    rows = []
    for name in PACKAGES:
        if versions().get(name, "absent") == "absent":
            rows.append(skip(case, name, f"not installed where {VARIABLE} points"))
            continue
        for found in _ask({**job, "package": name}):
            if "error" in found:
                rows.append(skip(case, name, found["error"]))
            else:
                rows.append(row(case, name, found["quantity"], found["seconds"], unit=unit, note=found["note"]))
    return rows


def _ask(job: dict[str, Any]) -> list[dict[str, Any]]:
    command = [os.environ[VARIABLE], str(WORKER)]
    try:
        done = subprocess.run(
            command, input=json.dumps(job), capture_output=True, text=True, check=False, timeout=LIMIT
        )
    except subprocess.TimeoutExpired as late:
        lines = late.stdout.decode() if isinstance(late.stdout, bytes) else late.stdout or ""
        return [*_answers(lines), {"error": f"stopped after {LIMIT} s"}]
    if done.returncode:
        return [{"error": (done.stderr.strip().splitlines() or ["the process died"])[-1]}]
    return _answers(done.stdout)


def _answers(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]
