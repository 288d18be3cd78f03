"""Residual structures against nlme's gls and lme: published data (Pierson & Ginther 1987; Potthoff & Roy 1964; Hand &
Crowder 1996) and two simulated sets.

The lower criterion is the more exact optimum: ours is never the higher one by more than rounding.
"""

from functools import cache

import numpy as np
import pandas as pd
import pytest
import references

import lmmjax as lj

REFERENCE = references.bundled("residual_reference.json")
WAVE, GROWTH, DIET = "follicles ~ s + c", "distance ~ C(Sex, Treatment('Female')) * age", "weight ~ Time * C(Diet)"
ARMS, VISITS = "y ~ arm * day", "y ~ arm * C(visit)"
STEP, SUBJECT, VISIT = lj.ar1("step", "Mare"), lj.cs("Subject"), lj.un("visit", "Subject", variances=False)
# The model, and how nlme's parameters become ours.
MODELS = {
    "ovary_gls_ar1": (WAVE, STEP, {}),
    "ovary_lme_ar1": (f"{WAVE} + (1 | Mare)", STEP, {}),
    "ovary_gls_car1": (WAVE, lj.car1("Time", "Mare"), {}),
    "orthodont_gls_cs": (GROWTH, SUBJECT, {}),
    "orthodont_gls_symm": (GROWTH, VISIT, {}),
    "orthodont_gls_un": (GROWTH, lj.un("visit", "Subject"), {}),
    "orthodont_gls_cs_ident": (GROWTH, SUBJECT * lj.var_ident("Sex"), {}),
    "orthodont_lme_ident": (f"{GROWTH} + (1 | Subject)", lj.var_ident("Sex"), {}),
    "rats_lme_power": (f"{DIET} + (Time | Rat)", lj.var_power("Time"), {}),
    "rats_lme_car1": (f"{DIET} + (Time | Rat)", lj.car1("Time", "Rat"), {}),
    "rats_gls_power_ar1": (DIET, lj.ar1("Time", "Rat") * lj.var_power("Time"), {}),
    "series_lme_ar1_ident": (f"{ARMS} + (1 | id)", lj.ar1("day", "id") * lj.var_ident("arm"), {}),
    "series_gls_car1_power": (ARMS, lj.car1("day", "id") * lj.var_power("exposure"), {}),
    "series_lme_cs_weights": (f"{ARMS} + (0 + day | id)", lj.cs("id"), {"weights": "1 / exposure"}),
    "trial_gls_un": (VISITS, lj.un("visit", "subject"), {}),
}
kinds = pytest.mark.parametrize("kind", ["REML", "ML"])


@cache
def fitted(name: str, kind: str) -> lj.Fit:
    """One fit for all tests of a model."""
    formula, residual, options = MODELS[name]
    data = pd.DataFrame(REFERENCE["data"][REFERENCE["models"][name]["data"]])
    if " | " in formula:
        return lj.lmer(formula, data, kind == "REML", residual=residual, **options)
    return lj.gls(formula, data, residual, kind == "REML", **options)


def test_every_model_is_fitted():
    assert list(MODELS) == list(REFERENCE["models"])


@kinds
@pytest.mark.parametrize("name", MODELS)
def test_against_nlme(name, kind):
    fit, r = fitted(name, kind), REFERENCE["models"][name][kind]
    assert fit.converged
    assert -2 * fit.loglik <= r["criterion"] * (1 + 1e-10)
    assert -2 * fit.loglik == pytest.approx(r["criterion"], rel=1e-8)
    assert fit.df == r["df"]
    assert fit.sigma == pytest.approx(r["sigma"] * of_first_level(fit, r), rel=1e-4)
    assert np.max(np.abs(fit.fixef - r["beta"]) / r["se"]) < 1e-4
    # nlme's gls divides by n − p in the standard errors of an ML fit as well.
    factor = np.sqrt(fit.nobs / (fit.nobs - fit.design.p)) if kind == "ML" and not fit.design.terms else 1.0
    np.testing.assert_allclose(factor * np.sqrt(np.diag(fit.vcov)), r["se"], rtol=1e-4)
    np.testing.assert_allclose(fit.phi, nlme_phi(fit, r), rtol=1e-4, atol=1e-4)
    if "covariance" in r:
        factor = fit.sigma * fit.templates[0]
        np.testing.assert_allclose(factor @ factor.T, r["covariance"], rtol=1e-3, atol=1e-4)


def of_first_level(fit, r):
    """nlme's σ is that of the level that comes first in the rows, ours that of the first level."""
    first = [name.split("/")[1].split("|")[0] for name in fit.phi.index if name.startswith("sd_")]
    return r["variance"].get(first[0], 1.0) if first else 1.0


def nlme_phi(fit, r):
    """nlme's correlations, ratios and powers in our order; its ratios are to the level that comes first in the rows."""
    ratios, variances = r.get("variance", {}), []
    for name in fit.phi.index[len(r.get("correlation", [])) :]:
        if name.startswith("power"):
            variances.append(ratios["power"])
        else:
            level, first = name.removeprefix("sd_").split("|")[0].split("/")
            variances.append(ratios.get(level, 1.0) / ratios.get(first, 1.0))
    return [*r.get("correlation", []), *variances]
