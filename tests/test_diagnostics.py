"""Leverages, residuals by level and identifiability, against dense hat matrices, lme4 and designs known to fail."""

from functools import cache

import numpy as np
import pytest
import references
from core_cases import (
    build,
    close,
    dense_factor,
    float64,  # noqa: F401
    products,
    random_theta,
    singular_theta,
)

import lmmjax as lj
from lmmjax.core.effects import leverages

REFERENCE = references.bundled("diagnostics_reference.json")
SLEEP = "Reaction ~ Days + (Days|Subject)"
MODELS = {
    "sleepstudy": SLEEP,
    "sleepstudy_weighted": SLEEP,
    "Penicillin": "diameter ~ 1 + (1|plate) + (1|sample)",
    "Pastes": "strength ~ 1 + (1|batch/cask)",
}


@cache
def fitted(name: str) -> lj.Fit:
    """One fit for all tests of a model."""
    data = lj.datasets.load(name.removesuffix("_weighted"))
    weights = np.tile([1, 2, 0.5], 60) if name.endswith("_weighted") else None
    return lj.lmer(MODELS[name], data, weights=weights)


@pytest.mark.parametrize("name", ["no term", "nested 3", "crossed vectors", "mix, sparse"])
def test_leverages_are_the_diagonal_of_the_hat_matrix(name):
    design = build(name, 51)
    cp, root = products(name, design, orthonormal=True, keep_rows=True), np.sqrt(design.weights)[:, None]
    for theta in (random_theta(design, 51), singular_theta(design, 51)):
        both = root * np.hstack([dense_factor(design, theta), design.X])
        penalty = np.diag(np.repeat([1.0, 0.0], [both.shape[1] - design.p, design.p]))
        hat = both @ np.linalg.solve(both.T @ both + penalty, both.T)
        close(leverages(theta, cp), np.diag(hat), 1e-10)


@pytest.mark.parametrize("name", MODELS)
def test_hatvalues_are_those_of_lme4(name):
    # their θ̂ is R's, which is good to about 1e-6
    np.testing.assert_allclose(fitted(name).hatvalues, REFERENCE["hatvalues"][name], rtol=1e-5)


def test_hatvalues_say_how_fitted_values_follow_the_response():
    fit = fitted("Penicillin")
    held = lj.lmer(MODELS["Penicillin"], lj.datasets.load("Penicillin"), theta=fit.theta)
    for row in (0, 77):
        moved = lj.refit(held, fit.design.y + (np.arange(fit.nobs) == row))
        assert moved.fitted[row] - fit.fitted[row] == pytest.approx(fit.hatvalues[row], rel=1e-8)
    trace = fit.hatvalues.sum()
    assert fit.design.p < trace < fit.design.p + fit.design.q


def test_residuals_by_level():
    fit = fitted("Pastes")
    data = lj.datasets.load("Pastes")
    strength = data["strength"].to_numpy()
    np.testing.assert_array_equal(fit.resid(re_form=None), fit.resid())
    np.testing.assert_allclose(fit.resid(re_form="~0"), strength - fit.fixef["Intercept"])
    batch = fit.ranef()["batch"]["Intercept"][data["batch"]].to_numpy()
    np.testing.assert_allclose(fit.resid(re_form="~(1|batch)"), strength - fit.fixef["Intercept"] - batch)
    np.testing.assert_allclose(fit.resid("scaled", re_form="~0") * fit.sigma, fit.resid(re_form="~0"))
    with pytest.raises(lj.FormulaError, match="is not part of the model"):
        fit.resid(re_form="~(1|field)")


def irrigation(formula: str) -> str:
    """What is said about a model of the split plots, and that the advice helps."""
    data = lj.datasets.load("irrigation")
    found = lj.identifiability(formula, data)
    if not found.identified:
        terms = [t.strip() for t in formula.split("~")[1].replace(" |", "|").replace("| ", "|").split(" + ")]
        kept = [t for t in terms if t.replace("|", " | ") not in found.leave_out]
        assert lj.identifiability(f"yield ~ {' + '.join(kept)}", data).identified
    return repr(found)


def test_one_row_per_level_is_the_residual():
    """The notes' fullest split-plot model, which lmer refuses; without the term it is the notes' own."""
    formula = "yield ~ irrigation * variety + (1|field) + (1|field:variety)"
    with pytest.raises(lj.DataError, match="cannot be told apart"):
        lj.lmer(formula, lj.datasets.load("irrigation"))
    text = irrigation(formula)
    assert text.startswith("the variance of (1 | field:variety) and the residual variance enter only as their sum")
    assert "because each level of field:variety has one row: it is the residual" in text
    assert text.endswith(": (1 | field:variety)")
    assert irrigation("yield ~ irrigation * variety + (1|field)") == "all variances and covariances can be told apart"


def test_two_names_of_the_same_groups():
    text = irrigation("yield ~ variety + (1|field) + (1|irrigation) + (1|irrigation:field)")
    assert "irrigation:field and field put the same rows together" in text


def test_fixed_effects_take_a_variance():
    assert "(1 | field) changes nothing: the fixed effects determine" in irrigation("yield ~ field + (1|field)")


def test_two_terms_that_only_fewer_columns_save():
    text = irrigation("yield ~ variety + (1|field) + (1|irrigation) + (variety|field)")
    assert "variance of Intercept in (variety | field) and the variance of (1 | field) enter only as their sum" in text
    assert text.endswith(": (variety | field)")


def test_directions_leave_the_distribution_as_it_is():
    """A slope on what is constant within subjects; seen in V itself."""
    data = lj.datasets.load("sleepstudy").assign(late=lambda d: (d["Subject"].cat.codes % 2) * 3.0)
    found = lj.identifiability("Reaction ~ Days + (late|Subject)", data)
    (v,) = found.directions.T.to_numpy()
    assert v == pytest.approx([0, 1, -2 / 3, 0])  # 2·late·cov + late²·var = 6 − 9·2/3
    assert "adding 1, -0.667 to them changes nothing" in repr(found)
    fit = fitted("sleepstudy")
    assert lj.identifiability(fit).identified
    assert lj.identifiability(fit).directions.shape == (4, 0)


def test_identifiability_of_bad_input():
    with pytest.raises(lj.DataError, match="needs the data"):
        lj.identifiability("y ~ 1 + (1|g)")
    with pytest.raises(lj.DataError, match="only one level"):
        lj.identifiability("y ~ 1 + (1|g)", {"y": [1.0, 2, 4], "g": ["a"] * 3})
