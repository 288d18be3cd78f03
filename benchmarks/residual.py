"""Fits with a general residual covariance: AR(1) series, and unstructured visits with some missing, beside R's nlme."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import lmmjax as lj

from . import lme4
from .harness import Row, call_in_new_process, row, seconds_of, warm

SERIES, VISITS = (1000, 20), (200, 8)  # subjects, times
CASES = {
    "AR(1), 1,000 subjects × 20": (SERIES, 0.0, "y ~ t * arm", "ar1", 0.5),
    "AR(1) and (1 | s), 1,000 × 20": (SERIES, 0.0, "y ~ t * arm + (1 | s)", "ar1", 0.5),
    "unstructured, 200 × 8": (VISITS, 0.0, "y ~ factor(t) * arm", "un", 1.0),
    "unstructured, 200 × 8, 10 % missing": (VISITS, 0.1, "y ~ factor(t) * arm", "un", 1.0),
}
# gls' own default of the correlation, and where it is unstructured variances by visit.
R = {
    "ar1": "gls(y ~ t * arm, data, correlation = corAR1(form = ~ t | s))",
    "un": "gls(y ~ factor(t) * arm, data, correlation = corSymm(form = ~ t1 | s), weights = varIdent(form = ~ 1 | t),"
    " control = glsControl(maxIter = 500, msMaxIter = 500))",
}


def run() -> list[Row]:
    """All of it."""
    rows: list[Row] = []
    for case, (_, missing, formula, kind, target) in CASES.items():
        found = call_in_new_process("residual", "session", case)
        rows.append(row(case, "lmmjax", "whole call", found["warm"], unit="s", target=target, note=found["note"]))
        rows.append(row(case, "lmmjax", "whole call, first", [found["first"]], unit="s"))
        if "|" not in formula and not missing:
            rows += _in_r(case, kind)
    return rows


def session(case: str) -> dict[str, Any]:
    """The first call and warm ones."""
    _, _, formula, kind, _ = CASES[case]
    data, structure = frame(case), getattr(lj, kind)("t", "s")
    fits: list[lj.Fit] = []

    def call() -> None:
        if "|" in formula:
            fits.append(lj.lmer(formula, data, residual=structure))
        else:
            fits.append(lj.gls(formula, data, structure))

    return {"first": seconds_of(call), "warm": warm(call, 5), "note": f"log-likelihood {fits[-1].loglik:.4f}"}


def frame(case: str) -> pd.DataFrame:
    """Residuals of a covariance without structure; two arms."""
    (subjects, times), missing, *_ = CASES[case]
    rng = np.random.default_rng(0)
    root = rng.normal(size=(times, times))
    y = rng.normal(size=(subjects, times)) @ np.linalg.cholesky(root @ root.T / times + np.eye(times)).T
    s, t = (a.ravel() for a in np.indices((subjects, times)))
    return pd.DataFrame({"y": y.ravel(), "t": t, "s": s, "arm": s % 2})[rng.random(subjects * times) >= missing]


def _in_r(case: str, kind: str) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.csv"
        frame(case).to_csv(path, index=False)
        code = f"""{lme4.frame(str(path), ["s"])}
data$t1 <- data$t + 1
took <- system.time(fit <- {R[kind]})[["elapsed"]]
emit("{case}", "whole call", took, sprintf("log-likelihood %.4f", logLik(fit)), "s")
"""
        return lme4.run(case, code, unit="s", package="nlme")
