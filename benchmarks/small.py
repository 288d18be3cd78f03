"""Small models, warm: a refit, and the whole call from formula to fit."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import lmmjax as lj

from . import lme4, rivals
from .harness import Row, other_response, row, seconds_of, warm


@dataclass(frozen=True)
class Model:
    """A data set of the package, a formula that every contestant reads, and the columns that are factors."""

    data: str
    formula: str
    factors: tuple[str, ...]
    response: str


MODELS = (
    Model("pulp", "bright ~ 1 + (1 | operator)", ("operator",), "bright"),
    Model("sleepstudy", "Reaction ~ Days + (Days | Subject)", ("Subject",), "Reaction"),
    Model("Penicillin", "diameter ~ 1 + (1 | plate) + (1 | sample)", ("plate", "sample"), "diameter"),
)
REPEATS = 100


def run() -> list[Row]:
    """Each model by each contestant."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for model in MODELS:
            path = str(Path(folder) / f"{model.data}.csv")
            lj.datasets.load(model.data).to_csv(path, index=False)
            rows += _ours(model) + lme4.run(model.data, _in_r(model, path))
            rows += rivals.run(model.data, path, model.formula, list(model.factors), model.response, REPEATS)
    return rows


def _ours(model: Model) -> list[Row]:
    data = lj.datasets.load(model.data)
    y = other_response(data[model.response])
    first = seconds_of(lambda: lj.lmer(model.formula, data))
    fit = lj.lmer(model.formula, data)
    note = f"criterion {fit.reml_criterion:.6f}"
    call = warm(lambda: lj.lmer(model.formula, data), REPEATS)
    again = warm(lambda: lj.refit(fit, y), REPEATS)
    return [
        row(model.data, "lmmjax", "first call (cold)", [first], note="compiles, unless an earlier model did"),
        row(model.data, "lmmjax", "whole call", call, target=5.0, note=note),
        row(model.data, "lmmjax", "refit", again, target=1.0, note=f"criterion {lj.refit(fit, y).reml_criterion:.6f}"),
    ]


def _in_r(model: Model, path: str) -> str:
    return f"""{lme4.frame(path, list(model.factors))}
    fit <- lmer({model.formula}, data)
    note <- sprintf("criterion %.6f", REMLcrit(fit))
    emit("{model.data}", "whole call", seconds(function() lmer({model.formula}, data), 30), note)
    y <- other(data${model.response})
    note <- sprintf("criterion %.6f", REMLcrit(refit(fit, y)))
    emit("{model.data}", "refit", seconds(function() refit(fit, y), 30), note)
    """
