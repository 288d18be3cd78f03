"""Structured covariances against R: nlme's pdCompSymm and pdSymm, and lme4 with the columns of Z mixed by kinship.

Where the two optima differ the lower criterion is the more exact one. lmmjax's is never the higher by more than
rounding; how far R's may be from it is what the tolerances say.
"""

from functools import cache

import jax
import numpy as np
import pandas as pd
import pytest
import references

import lmmjax as lj
from lmmjax.inference.prediction import _simulator

REFERENCE = references.bundled("covariance_reference.json")
VISITS = ("compound_symmetry", "full")
ANIMALS = {"animal": "y ~ x + (1|animal)", "animal_pen": "y ~ x + (1|animal) + (1|pen)"}
KINSHIP = pd.DataFrame(REFERENCE["kinship"]["A"], REFERENCE["kinship"]["names"], REFERENCE["kinship"]["names"])
kinds = pytest.mark.parametrize("kind", ["REML", "ML"])


@cache
def fitted(name: str, kind: str) -> lj.Fit:
    """One fit for all tests of a model."""
    if name in VISITS:
        data, formula = REFERENCE["data"]["visits"], "y ~ x + (0 + visit|subject)"
        return lj.lmer(formula, pd.DataFrame(data), kind == "REML", covariance={"subject": name})
    data = pd.DataFrame(REFERENCE["data"]["animals"])
    return lj.lmer(ANIMALS[name], data, kind == "REML", relmat={"animal": KINSHIP})


@kinds
@pytest.mark.parametrize("name", [*VISITS, *ANIMALS])
def test_criterion_fixed_effects_and_residual(name, kind):
    fit, r = fitted(name, kind), REFERENCE["models"][name][kind]
    assert -2 * fit.loglik <= r["criterion"] * (1 + 1e-8)
    assert -2 * fit.loglik == pytest.approx(r["criterion"], rel=1e-8)
    assert fit.certificate.optimal
    assert fit.df == r["df"]
    se = np.sqrt(np.diag(r["vcov"]))
    assert np.max(np.abs(fit.fixef - r["beta"]) / se) < 1e-5
    np.testing.assert_allclose(fit.vcov, r["vcov"], atol=1e-5 * np.max(se) ** 2)
    assert fit.sigma == pytest.approx(r["sigma"], rel=1e-6)


@kinds
@pytest.mark.parametrize("name", VISITS)
def test_covariance_of_the_visits(name, kind):
    fit, expected = fitted(name, kind), np.array(REFERENCE["models"][name][kind]["covariance"])
    factor = fit.sigma * fit.templates[0]
    np.testing.assert_allclose(factor @ factor.T, expected, rtol=1e-5)
    rows = fit.varcorr.set_index(["name1", "name2"])["vcov"]
    assert rows["visit[v1]", "visit[v3]"] == pytest.approx(expected[2, 0], rel=1e-5)


@kinds
@pytest.mark.parametrize("name", ANIMALS)
def test_standard_deviations_and_blups_of_animals(name, kind):
    fit, r = fitted(name, kind), REFERENCE["models"][name][kind]
    sds = fit.varcorr.set_index("group")["sdcor"]
    for group, sd in r["sd"].items():
        assert sds[group] == pytest.approx(sd, rel=1e-5)
    blups = fit.ranef()["animal"]["Intercept"]
    np.testing.assert_allclose(blups[r["animals"]], r["blup"], atol=1e-5 * r["sd"]["animal"])


@kinds
def test_order_of_the_kinship_does_not_matter(kind):
    shuffled = KINSHIP.sample(frac=1, random_state=1)[KINSHIP.columns[::-1]]
    data = pd.DataFrame(REFERENCE["data"]["animals"])
    fit = lj.lmer(ANIMALS["animal"], data, kind == "REML", relmat={"animal": shuffled})
    assert fit.loglik == pytest.approx(fitted("animal", kind).loglik, rel=1e-12)


def test_bootstrapped_predictions_draw_related_effects():
    fit = fitted("animal", "REML")
    e, a = fit.estimate, fit.design.terms[0].level_factor
    with lj.float64():
        keys = jax.random.split(jax.random.key(0))
        _, (effects,) = _simulator(20_000, (False,))(fit.design, e.theta, e.beta, e.sigma, e.b, keys, 0)
    found = np.cov(np.asarray(effects)[..., 0].T) / (e.sigma * e.theta[0]) ** 2
    np.testing.assert_allclose(found, a @ a.T, atol=6 * np.max(a @ a.T) / np.sqrt(10_000))
    assert np.max(np.abs(a @ a.T - np.eye(len(a)))) > 0.3  # independent ones would fail
