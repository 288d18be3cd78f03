"""Which variances of a design cannot be told apart, and why: the null space of their expected information."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from patsy import EvalEnvironment
from scipy.linalg import null_space, qr

from ..core.crossprod import cross_products
from ..core.design import Design
from ..core.information import variance_information
from ..core.start import default_start
from ..errors import DataError
from ..fit import Fit
from ..formula import Schema, build
from ..guard import check_independent
from ..precision import in_float64

NULL = 1e-9  # eigenvalue of the information, relative to the largest, that is rounding
RESIDUAL = "residual"


@dataclass(frozen=True, repr=False)
class Identifiability:
    """directions : (variances and covariances, r) combinations that leave the distribution of the data as it is.

    explanations : (r,) each in words. leave_out : random terms without which every variance can be told.
    """

    directions: pd.DataFrame
    explanations: tuple[str, ...]
    leave_out: tuple[str, ...]

    @property
    def identified(self) -> bool:
        """Whether the data can tell all variances apart."""
        return not self.explanations

    def __repr__(self) -> str:
        if self.identified:
            return "all variances and covariances can be told apart"
        advice = f"leave out, or give fewer columns: {', '.join(self.leave_out)}"
        return "\n".join([*self.explanations, advice])


def identifiability(model: Fit | str, data: Any = None) -> Identifiability:
    """Which variances and covariances of a model cannot be told apart, why, and what to leave out.

    model : a fit, or a formula with `data`; `lmer` refuses some designs that are explained here. The response does not
    matter: with V = Σ σₐ² Vₐ the expected information of REML, ½tr(P Vₐ P V_b), has a null vector where a combination
    of the Vₐ vanishes in what the fixed effects leave (Rothenberg 1971). It is evaluated at equal variances.
    Raises DataError for a formula without data and for covariances that a function makes, and what `lmer` raises for
    bad formulas and data.
    """
    if isinstance(model, Fit):
        check_independent(model.schema, "identifiability()")
        return _explained(model.schema, model.design)
    if data is None:
        raise DataError("identifiability of a formula needs the data: identifiability(formula, data)")
    return _explained(*build(model, data, env=EvalEnvironment.capture(1), saturated=True))


@in_float64
def _explained(schema: Schema, design: Design) -> Identifiability:
    if not design.terms:
        return Identifiability(pd.DataFrame(index=[RESIDUAL]), (), ())
    for group, term in zip(schema.groups, design.terms, strict=True):
        if not term.template.filled:
            text = "a function of other parameters (covariance=), which this cannot look at"
            raise DataError(f"the covariance of {group.text} is {text}")
    cp = cross_products(design, orthonormal=True)
    theta = default_start(cp)
    information = np.asarray(variance_information(theta, 1.0, cp, True, expected=True))
    parameters, units = _parameters(schema, design, theta, cp.plan.theta_slices())
    null = _null_space(units[:, None] * information * units)
    null = null * units[:, None]
    largest = null[np.abs(null).argmax(0), np.arange(null.shape[1])]
    directions = pd.DataFrame(null / largest, [p.name for p in parameters])
    sentences = []
    for _, v in directions.items():
        sentences.append(_sentence([(p, x) for p, x in zip(parameters, v, strict=True) if x], schema, design))
    leave_out = tuple(schema.groups[i].text for i in _to_leave_out(null, parameters, design))
    return Identifiability(directions, tuple(sentences), leave_out)


@dataclass(frozen=True)
class _Parameter:
    """name : var_x|g, cov_x.z|g or residual. words : the same in words. term : its position in the design."""

    name: str
    words: str
    term: int | None


def _parameters(schema: Schema, design: Design, theta, slices) -> tuple[list[_Parameter], np.ndarray]:
    """All variances and covariances in the order of the information, and the units (m + 1,) that θ = start implies."""
    found, units = [], []
    for i, (group, term, s) in enumerate(zip(schema.groups, design.terms, slices, strict=True)):
        sd = np.diag(term.template(theta[s]))
        for row, column in zip(*term.template.fn.indices, strict=True):
            a, b = group.columns[row], group.columns[column]
            name, words = (f"var_{a}|{group.group}", f"the variance of {a} in {group.text}")
            if row != column:
                name, words = f"cov_{a}.{b}|{group.group}", f"the covariance of {a} and {b} in {group.text}"
            elif len(group.columns) == 1:
                words = f"the variance of {group.text}"
            found.append(_Parameter(name, words, i))
            units.append(sd[row] * sd[column])
    return [*found, _Parameter(RESIDUAL, "the residual variance", None)], np.array([*units, 1.0])


def _null_space(information: np.ndarray) -> np.ndarray:
    """(m, r) a basis in which each vector has a parameter to itself, so that it involves few."""
    values, vectors = np.linalg.eigh(information)
    null = vectors[:, values < NULL * values[-1]]
    if not null.size:
        return null
    own = qr(null.T, pivoting=True)[2][: null.shape[1]]
    null = null @ np.linalg.inv(null[own])
    return np.where(np.abs(null) < NULL**0.5 * np.abs(null).max(0), 0, null)


def _to_leave_out(null: np.ndarray, parameters: list[_Parameter], design: Design) -> list[int]:
    """Terms, one after the other, that leave the smallest null space; of equal ones that with the most levels."""
    chosen: list[int] = []
    owner = np.array([-1 if p.term is None else p.term for p in parameters])
    while null.shape[1]:
        without = {i: null @ null_space(null[owner == i]) for i in range(len(design.terms)) if null[owner == i].any()}
        best = min(without, key=lambda i: (without[i].shape[1], -design.terms[i].n_levels, -i))
        chosen.append(best)
        null = without[best]
    return chosen


def _sentence(involved: list[tuple[_Parameter, float]], schema: Schema, design: Design) -> str:
    names = [p.words for p, _ in involved]
    if len(involved) == 1:
        return f"{names[0]} changes nothing: the fixed effects determine all that it stands for"
    listed = f"{', '.join(names[:-1])} and {names[-1]}"
    if len(involved) == 2 and np.isclose(involved[0][1], -involved[1][1]):
        return f"{listed} enter only as their sum{_reason([p.term for p, _ in involved], schema, design)}"
    return f"{listed} cannot be told apart: adding {', '.join(f'{x:.3g}' for _, x in involved)} to them changes nothing"


def _reason(terms: list[int | None], schema: Schema, design: Design) -> str:
    """Why two variances enter as a sum, where the grouping factors say it."""
    codes = [np.arange(design.n) if i is None else design.terms[i].codes for i in terms]
    pairs, *counts = (len(np.unique(c, axis=0)) for c in (np.column_stack(codes), *codes))
    if not pairs == counts[0] == counts[1]:
        return ", once the fixed effects are taken out"
    groups = [schema.groups[i].group for i in terms if i is not None]
    if None in terms:
        return f", because each level of {groups[0]} has one row: it is the residual"
    return f", because {groups[0]} and {groups[1]} put the same rows together"
