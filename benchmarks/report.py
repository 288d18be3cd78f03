"""JSON per workload, one Markdown table for all, and the machine they were measured on."""

import json
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from . import lme4, rivals
from .harness import ROOT, Row

RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "benchmarks" / "README.md"
START, END = "<!-- results: written by the run -->", "<!-- end of results -->"
PACKAGES = ("lmmjax", "jax", "jaxlib", "numpy", "scipy", "pandas", "patsy")


def machine() -> dict[str, str]:
    """Where and with what: processor, cores, load, versions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": names[0] if names else platform.processor(),
        "cores": str(os.cpu_count()),
        "load at the start": load,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        **lme4.versions(),
        **rivals.versions(),
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def save(workload: str, rows: Iterable[Row], where: dict[str, str]) -> None:
    """Writes results/<workload>.json."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"machine": where, "rows": [asdict(r) for r in rows]}, indent=1, ensure_ascii=False)
    (RESULTS / f"{workload}.json").write_text(text + "\n", encoding="utf-8")


def publish(workloads: Sequence[str]) -> Path:
    """Writes results/results.md from all saved workloads, and puts it into README.md; returns the path."""
    parts = []
    for name in workloads:
        path = RESULTS / f"{name}.json"
        if path.is_file():
            saved = json.loads(path.read_text(encoding="utf-8"))
            where = ", ".join(f"{key} {value}" for key, value in saved["machine"].items())
            parts.append(f"### {name}\n\n{where}.\n\n{table([Row(**r) for r in saved['rows']])}\n")
    text = "\n".join(parts)
    out = RESULTS / "results.md"
    out.write_text(text, encoding="utf-8")
    before, _, rest = README.read_text(encoding="utf-8").partition(START)
    README.write_text(f"{before}{START}\n\n{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    return out


def table(rows: Sequence[Row]) -> str:
    """A Markdown table."""
    header = ("case", "contestant", "quantity", "median", "min", "repeats", "target", "note")
    cells = [header, *map(_cells, rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(header))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in cells]
    rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _cells(r: Row) -> tuple[str, ...]:
    target = "" if r.target is None else f"{_number(r.target)} {r.unit} {'met' if _met(r) else 'MISSED'}"
    values = [("" if v is None else f"{_number(v)} {r.unit}".rstrip()) for v in (r.median, r.best)]
    return (r.case, r.contestant, r.quantity, *values, str(r.repeats or ""), target, r.note.replace("|", "\\|"))


def _met(r: Row) -> bool:
    return r.median is not None and r.target is not None and r.median <= r.target


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
