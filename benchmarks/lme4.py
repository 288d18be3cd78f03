"""R's lme4 and the packages beside it, timed by Rscript beside the rest."""

import json
import os
import shutil
import subprocess
from functools import cache

from .harness import Row, row, skip

BLAS = "LMMJAX_BENCH_R_BLAS"  # names a library that R loads in the place of its own BLAS
PACKAGES = ("lme4", "lmerTest", "pbkrtest", "RLRsim", "MCMCpack", "nlme")
PRELUDE = """
suppressMessages(library(lme4))
seconds <- function(f, repeats, unmeasured = 2) {
  for (i in seq_len(unmeasured)) f()
  vapply(seq_len(repeats), function(i) { start <- Sys.time(); f(); as.numeric(Sys.time() - start, units = "secs") }, 0)
}
other <- function(y) y + 0.5 * sd(y) * sin(seq_along(y))
emit <- function(case, quantity, values, note = "", unit = "")
  cat(sprintf('{"case":"%s","quantity":"%s","note":"%s","unit":"%s","values":[%s]}\\n', case, quantity, note, unit,
              paste(format(values, digits = 6), collapse = ",")))
"""
VERSIONS = """
blas <- basename(extSoftVersion()[["BLAS"]])
cat("R:", paste0(R.version$major, ".", R.version$minor, if (nchar(blas)) paste0(" with ", blas)), "\\n")
for (p in commandArgs(TRUE)) if (nchar(system.file(package = p))) cat(p, ":", as.character(packageVersion(p)), "\\n")
"""


@cache
def versions() -> dict[str, str]:
    """Versions of R, with its BLAS, and of the packages that are there; empty without Rscript or lme4."""
    if shutil.which("Rscript") is None:
        return {}
    done = _rscript(VERSIONS, *PACKAGES)
    found = dict(map(str.strip, line.split(":", 1)) for line in done.stdout.splitlines())
    return found if "lme4" in found else {}


def run(case: str, code: str, unit: str = "ms", package: str = "lme4") -> list[Row]:
    """Rows that the R code emits, or one that says why there are none.

    unit : "ms" or "s", of the timings that it emits. package : to load after lme4, and the contestant's name.
    """
    if package not in versions():
        return [skip(case, package, f"Rscript with {package} is not there")]
    code = f"{PRELUDE}\nsuppressMessages(library({package}))\n{code}"
    done = _rscript(code)
    if done.returncode:
        return [skip(case, package, " ".join(done.stderr.split()[-40:]))]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return [row(f["case"], package, f["quantity"], f["values"], unit=f["unit"] or unit, note=f["note"]) for f in found]


def _rscript(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **({"LD_PRELOAD": os.environ[BLAS]} if BLAS in os.environ else {})}
    return subprocess.run(["Rscript", "-e", code, *arguments], capture_output=True, text=True, check=False, env=env)


def frame(path: str, factors: list[str]) -> str:
    """R code that reads a CSV file as `data`, with some columns as factors."""
    made = "\n".join(f"data${name} <- factor(data${name})" for name in factors)
    return f'data <- read.csv("{path}")\n{made}\n'
