"""What derivatives cost: of the REML criterion, as multiples of its value, and of a fit, as multiples of the fit."""

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import jax
import numpy as np
import pandas as pd

import lmmjax as lj

from . import insteval
from .harness import Row, row, seconds_of, skip, warm

REPEATS = 20
SOYBEAN = "AqE ~ ID + days + I(days^2) + Precip + Precip_7day + (1|plot_number) + (1|disk)"


def run() -> list[Row]:
    """Value, gradient and expansion of three models at a θ that is not the optimum."""
    rows = []
    for case, formula, data, theta in _models():
        fit = lj.lmer(formula, data, theta=theta)
        with lj.float64():
            cp = jax.device_put(fit.cross_products)
            rows += _measure(case, fit.theta, cp)
            rows += _measure_fit(case, fit.design.y, cp)
    if not any(r.case == insteval.CASE for r in rows):
        rows.append(skip(insteval.CASE, "lmmjax", "no data"))
    return rows


def _models() -> Iterator[tuple[str, str, pd.DataFrame, list[float]]]:
    yield "like psid", "y ~ x * sex + age + educ + (x | person)", like_psid(), [0.7, 0.01, 0.06]
    yield "soybean_sim", SOYBEAN, lj.datasets.load("soybean_sim"), [0.3, 0.2]
    with tempfile.TemporaryDirectory() as folder:
        path = insteval.data_file(Path(folder))
        if path is not None:
            yield insteval.CASE, insteval.FORMULA, insteval.read(path), [0.3, 0.4, 0.1]


def _measure(case: str, theta: np.ndarray, cp: Any) -> list[Row]:
    functions: dict[str, Callable] = {
        "value": jax.jit(partial(lj.core.criterion, reml=True)),
        "value and gradient (jax.value_and_grad)": jax.jit(jax.value_and_grad(partial(lj.core.criterion, reml=True))),
        "value, gradient and Hessian (expansion)": jax.jit(partial(lj.core.expansion, reml=True)),
    }
    return _multiples(case, functions, (theta, cp), "values", f"{len(theta)} θ; ")


def _measure_fit(case: str, y: np.ndarray, cp: Any) -> list[Row]:
    def scalar(y: Any, cp: Any) -> Any:
        e = lj.core.estimate(cp.with_response(y))
        return e.sigma + e.theta.sum() + e.beta[0]

    functions = {"fit, from y": jax.jit(scalar), "gradient in y of a scalar of the fit": jax.jit(jax.grad(scalar))}
    return _multiples(case, functions, (y, cp), "fits")


def _multiples(case: str, functions: dict[str, Callable], arguments: tuple, unit: str, note: str = "") -> list[Row]:
    """A row for each function, as multiples of the first."""
    rows: list[Row] = []
    jax.clear_caches()  # so that first calls compile
    for name, function in functions.items():

        def call(function: Callable = function) -> Any:
            return jax.block_until_ready(function(*arguments))

        first = seconds_of(call)
        values = warm(call, REPEATS)
        multiple = f"{median(values) * 1000 / (rows[0].median or 1):.1f} {unit}, " if rows else ""
        rows.append(row(case, "lmmjax", name, values, note=f"{multiple}{note}first call {first:.1f} s"))
    return rows


def like_psid(seed: int = 1) -> pd.DataFrame:
    """85 people with 11 to 23 years each, and the columns of the income panel."""
    rng = np.random.default_rng(seed)
    years = rng.integers(11, 24, size=85)
    person = np.repeat(np.arange(85), years)
    x = np.concatenate([np.arange(n) - 10.0 for n in years])
    sex, age, educ = rng.choice(["F", "M"], 85), rng.integers(25, 40, 85), rng.integers(3, 17, 85)
    line = rng.normal(0, [0.53, 0.05], (85, 2))
    y = 7 + line[person, 0] + (0.07 + line[person, 1]) * x + 0.1 * educ[person] + rng.normal(0, 0.68, len(x))
    return pd.DataFrame(
        {"y": y, "x": x, "sex": sex[person], "age": age[person], "educ": educ[person], "person": person}
    )
