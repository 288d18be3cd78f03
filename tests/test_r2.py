"""R² against performance::r2_nakagawa, where that is defined and right, and against a dense ZΛΛᵀZᵀ."""

import numpy as np
import pytest
from catalogue import BUNDLED, SHARED

import lmmjax as lj

MODELS = {str(m): m for m in (*BUNDLED, *SHARED)}
NO_SLOPE = "shared-sleep_uncorr"  # of (x||g) performance 0.10 counts the first term only
WITH_R = [m for m in SHARED if m.r(True).get("r2") and str(m) != NO_SLOPE and not m.name.startswith("soy")]


@pytest.mark.parametrize("model", WITH_R, ids=str)
def test_as_performance(model):
    for reml in (True, False):
        r, found = model.r(reml)["r2"], lj.r2(model.fit(reml=reml))
        assert found["marginal"] == pytest.approx(r["marginal"], rel=1e-7, abs=1e-12)
        conditional = found["marginal"] if r["conditional"] is None else r["conditional"]  # the limit, where R has none
        assert found["conditional"] == pytest.approx(conditional, rel=1e-7, abs=1e-12)


def dense_shares(fit):
    """(V_f, V_r, σ²) with V_r the mean diagonal of Zσ²ΛΛᵀZᵀ, formed."""
    total = np.zeros((fit.nobs, fit.nobs))
    for term, t in zip(fit.design.terms, fit.templates, strict=True):
        z = np.einsum("nl,np->nlp", np.eye(term.n_levels)[term.codes], term.x).reshape(fit.nobs, -1)
        total += z @ np.kron(np.eye(term.n_levels), t @ t.T) @ z.T
    fixed = fit.design.X @ fit.estimate.beta
    return fixed.var(ddof=1), fit.sigma**2 * np.trace(total) / fit.nobs, fit.sigma**2


@pytest.mark.parametrize("name", ["sleep_uncorr", "sleep_slope_only", "machines_nested", "cake_slash", "dyestuff2"])
def test_as_dense(name):
    fit = MODELS[f"bundled-{name}"].fit()
    fixed, random, residual = dense_shares(fit)
    expected = np.array([fixed, fixed + random]) / (fixed + random + residual)
    np.testing.assert_allclose(lj.r2(fit), expected, rtol=1e-12, atol=1e-12)


def test_performance_leaves_out_the_second_term_of_a_double_bar():
    if NO_SLOPE not in MODELS:
        pytest.skip(reason="needs the larger reference")
    model = MODELS[NO_SLOPE]
    fit, r = model.fit(), model.r(True)["r2"]
    fixed, _, residual = dense_shares(fit)
    intercept = fit.varcorr["vcov"][0]
    assert r["marginal"] == pytest.approx(fixed / (fixed + intercept + residual), rel=1e-6)
    assert lj.r2(fit)["marginal"] < 0.7 * r["marginal"]


def test_without_random_variance_both_are_equal():
    assert (lj.r2(MODELS["bundled-dyestuff2"].fit()) == 0).all()
    fit = lj.lm("Reaction ~ Days", MODELS["bundled-sleep_int"].data())
    found = lj.r2(fit)
    assert found["marginal"] == found["conditional"]
    explained = np.sum((fit.fitted - fit.fitted.mean()) ** 2) / 179
    assert found["marginal"] == pytest.approx(explained / (explained + fit.sigma**2), rel=1e-12)
