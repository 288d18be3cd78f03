"""The models of the two references: R's description of a model becomes a call of `lj.lmer`.

One `Model` stands for one entry of the bundled or the shared reference. R's numbers come in lme4's order of columns,
terms and levels, which is the package's, so names are matched by position; `patsy_names` says what patsy calls them.
"""

import re
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import pandas as pd
import pytest
import references

import lmmjax as lj

LARGE = 1000  # rows from which R's own optimum is less exact (see the references' README)


@dataclass(frozen=True)
class Model:
    """One model of a reference. source : "bundled" or "shared"."""

    source: str
    name: str

    def __str__(self) -> str:
        return f"{self.source}-{self.name}"

    @cached_property
    def reference(self) -> dict[str, Any]:
        """The whole reference that the model belongs to, or skip."""
        return references.bundled() if self.source == "bundled" else references.shared()

    @cached_property
    def entry(self) -> dict[str, Any]:
        """What R says about the model."""
        return self.reference["models"][self.name]

    def r(self, reml: bool) -> dict[str, Any]:
        """R's numbers of the REML or the ML fit."""
        return self.entry["fits"]["REML" if reml else "ML"]

    @property
    def is_large(self) -> bool:
        """Whether R's optimum is only good to about 1e-5."""
        return self.r(True)["n"] >= LARGE

    def data(self) -> pd.DataFrame:
        """The data set with the model's own columns."""
        return with_extra_columns(dataset(self.source, self.entry["dataset"]), self.entry)

    def newdata(self) -> pd.DataFrame:
        """R's rows for predictions. R leaves an `offset=` argument out of them: a column of zeros does the same."""
        new = pd.DataFrame(self.entry["newdata"])
        return new.assign(**{self.entry["offset"]: 0.0}) if self.entry.get("offset") else new

    def options(self) -> dict[str, Any]:
        """Arguments of `lj.lmer` besides formula, data and reml."""
        entry = self.entry
        used = dict(entry["contrasts_used"] or {})  # an empty list where R has nothing to say
        contrasts = {factor: kind for factor, kind in entry["contrasts"].items() if factor in used}
        keep = (entry.get("extra_columns") or {}).get("keep")
        return {
            "contrasts": contrasts or None,
            "weights": entry["weights"],
            "offset": entry.get("offset"),
            "subset": None if keep is None else np.asarray(keep, dtype=bool),
        }

    def fit(self, reml: bool = True, **changes: Any) -> "lj.Fit":
        """The package's fit, made once in a process; warnings are errors in the test run."""
        return self._fit(reml, changes) if changes else _fitted(self, reml)

    def _fit(self, reml: bool, changes: dict[str, Any]) -> "lj.Fit":
        dropped = self.entry["fits"]["REML"].get("dropped")
        told = pytest.warns(lj.DroppedWarning, match="rank deficient") if dropped else nullcontext()
        with told:
            return lj.lmer(self.entry["formula"], self.data(), reml=reml, **(self.options() | changes))


@cache
def _fitted(model: Model, reml: bool) -> "lj.Fit":
    return model._fit(reml, {})


BUNDLED = [Model("bundled", name) for name in references.bundled()["models"]]
SHARED = [Model("shared", name) for name in references.shared_models()]


def dataset(source: str, name: str) -> pd.DataFrame:
    """A data set of a reference: numbers as float64, factors with R's levels in R's order; skips where it is absent."""
    described = (references.bundled() if source == "bundled" else references.shared())["datasets"][name]
    if source == "bundled":
        raw = pd.DataFrame(described["data"])
    else:
        raw = pd.read_csv(references.shared_data(described["file"].removeprefix("data/")), dtype=str)
    return pd.DataFrame({c: _column(raw[c], kind) for c, kind in described["columns"].items()})


def _column(values: pd.Series, described: dict[str, Any]) -> Any:
    if described["type"] == "numeric":
        return values.astype(float)
    return pd.Categorical(values, described["levels"], ordered=described["type"] == "ordered")


def with_extra_columns(data: pd.DataFrame, entry: dict[str, Any]) -> pd.DataFrame:
    """The data with the model's own columns, which replace those of the same name; `null` is a missing value."""
    extra = {k: v for k, v in (entry.get("extra_columns") or {}).items() if k != "keep"}
    numbers = {k: all(not isinstance(x, str) for x in v) for k, v in extra.items()}
    return data.assign(**{k: np.array(v, dtype=float if numbers[k] else object) for k, v in extra.items()})


POLYNOMIALS = {"Linear": ".L", "Quadratic": ".Q", "Cubic": ".C"}


def r_name(name: str, data: Any) -> str:
    """R's name of a column that patsy calls `name`; sum contrasts are numbered in the order of the levels."""
    parts = name.replace(" ** ", "^").replace("Intercept", "(Intercept)").split(":")
    return ":".join(_r_factor(part, data) for part in parts)


def _r_factor(part: str, data: Any) -> str:
    coded = re.fullmatch(r"(\w+)\[(?:(\w)\.)?(.*)\]", part)
    polynomial = re.fullmatch(r"(\w+)(?:\.(Linear|Quadratic|Cubic)|(\^\d+))", part)
    if coded and coded[2] == "S":
        return coded[1] + str(list(data[coded[1]].cat.categories).index(coded[3]) + 1)
    if coded:
        return coded[1] + coded[3]
    return polynomial[1] + (polynomial[3] or POLYNOMIALS[polynomial[2]]) if polynomial else part


def patsy_names(fit: "lj.Fit", r_names: list[str]) -> dict[str, str]:
    """R's name of each fixed-effects column → patsy's, by position."""
    assert len(r_names) == len(fit.schema.fixed_names)
    return dict(zip(r_names, fit.schema.fixed_names, strict=True))
