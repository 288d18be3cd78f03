"""R's lme4, timed by Rscript beside the rest."""

import json
import shutil
import subprocess
from functools import cache

from .harness import Row, row, skip

PRELUDE = """
suppressMessages(library(lme4))
seconds <- function(f, repeats, unmeasured = 2) {
  for (i in seq_len(unmeasured)) f()
  vapply(seq_len(repeats), function(i) { start <- Sys.time(); f(); as.numeric(Sys.time() - start, units = "secs") }, 0)
}
other <- function(y) y + 0.5 * sd(y) * sin(seq_along(y))
emit <- function(case, quantity, values, note = "")
  cat(sprintf('{"case":"%s","quantity":"%s","note":"%s","seconds":[%s]}\\n', case, quantity, note,
              paste(format(values, digits = 6), collapse = ",")))
"""


@cache
def version() -> str:
    """lme4's version, or "absent"."""
    if shutil.which("Rscript") is None:
        return "absent"
    code = 'cat(as.character(packageVersion("lme4")), "on R", paste(R.version$major, R.version$minor, sep = "."))'
    done = subprocess.run(["Rscript", "-e", code], capture_output=True, text=True, check=False)
    return "absent" if done.returncode else done.stdout.strip()


def run(case: str, code: str, unit: str = "ms") -> list[Row]:
    """Rows that the R code emits, or one that says why there are none."""
    if version() == "absent":
        return [skip(case, "lme4", "Rscript with lme4 is not there")]
    done = subprocess.run(["Rscript", "-e", PRELUDE + code], capture_output=True, text=True, check=False)
    if done.returncode:
        return [skip(case, "lme4", done.stderr.strip().splitlines()[-1])]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return [row(f["case"], "lme4", f["quantity"], f["seconds"], unit=unit, note=f["note"]) for f in found]


def frame(path: str, factors: list[str]) -> str:
    """R code that reads a CSV file as `data`, with some columns as factors."""
    made = "\n".join(f"data${name} <- factor(data${name})" for name in factors)
    return f'data <- read.csv("{path}")\n{made}\n'
