"""Every model of both references, by REML and by ML, against the numbers that R (lme4) gave.

Tolerances: the criterion is never above R's by more than 1e-8; θ 1e-5, β 1e-5 standard errors (1e-4 for the large
models), σ 1e-6, everything else 1e-5 of its scale. On the boundary, where directions of θ are not determined, only what
the criterion determines is compared. The shared reference is larger and may be absent; then its tests skip.
"""

import json
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import references
from catalogue import BUNDLED, SHARED, Model, dataset, patsy_names, r_name
from patsy import EvalEnvironment

import lmmjax as lj
from lmmjax.formula import build

MODELS = BUNDLED + (SHARED or [Model("shared", "all models")])


def _is_regular(model: Model, reml: bool) -> bool:
    return model not in BUNDLED + SHARED or not model.r(reml)["singular"]


def _cases(wanted=lambda model, reml: True) -> list:
    slow = {"insteval": pytest.mark.slow}
    return [
        pytest.param(m, reml, id=f"{m}-{'REML' if reml else 'ML'}", marks=slow.get(m.name, ()))
        for m in MODELS
        for reml in (True, False)
        if wanted(m, reml)
    ]


every = pytest.mark.parametrize(("model", "reml"), _cases())
regular = pytest.mark.parametrize(("model", "reml"), _cases(_is_regular))


@cache
def fitted(model: Model, reml: bool) -> lj.Fit:
    """One fit for all tests of a model."""
    return model.fit(reml)


def close(actual, expected, tolerance: float, scale=1.0) -> None:
    """Asserts |actual − expected| ≤ tolerance · scale, elementwise, and equal shapes."""
    actual, expected, scale = np.asarray(actual, float), np.asarray(expected, float), np.asarray(scale, float)
    assert actual.shape == expected.shape
    error = np.max(np.abs(actual - expected) / np.maximum(scale, 1e-300), initial=0.0)
    assert error <= tolerance, f"off by {error:.2e} of the scale, allowed {tolerance:.0e}"


# ------------------------------------------------------------------------------------------------- all models


@every
def test_criterion_is_never_above_that_of_r(model, reml):
    fit, r = fitted(model, reml), model.r(reml)
    assert -2 * fit.loglik <= r["criterion"] + 1e-8 * max(1, abs(r["criterion"]))
    assert -2 * fit.loglik == pytest.approx(r["criterion"], rel=1e-8, abs=1e-8)
    assert fit.certificate.optimal


@every
def test_loglik_and_information_criteria(model, reml):
    fit, r = fitted(model, reml), model.r(reml)
    scale = max(1, abs(r["criterion"]))
    close([fit.loglik, fit.aic, fit.bic], [r["logLik"], r["AIC"], r["BIC"]], 1e-8, scale)
    assert (fit.df, fit.df_resid, fit.nobs) == (r["df"], r["df_residual"], r["n"])


@every
def test_singular_fits_are_recognised(model, reml):
    fit, r = fitted(model, reml), model.r(reml)
    assert fit.is_singular == r["singular"]
    assert bool(fit.certificate_of_boundary) == r["singular"]


@every
def test_fixed_effects_and_sigma(model, reml):
    fit, r = fitted(model, reml), model.r(reml)
    close(fit.fixef, r["beta"], 1e-4 if model.is_large else 1e-5, r["se"])
    close(fit.sigma, r["sigma"], 1e-6, r["sigma"])


@every
def test_columns_are_those_of_r(model, reml):
    fit, r, data = fitted(model, reml), model.r(reml), model.data()
    assert [r_name(name, data) for name in patsy_names(fit, r["coef_names"]).values()] == r["coef_names"]
    assert [r_name(name, data) for name in fit.schema.dropped] == r.get("dropped", [])
    assert fit.schema.n_dropped == model.entry["n_dropped"]
    assert (fit.design.p, fit.design.q, fit.design.n_theta) == (r["p"], r["q"], r["n_theta"])


@every
def test_fitted_values_and_residuals(model, reml):
    fit, r = fitted(model, reml), model.r(reml)
    sigma = r["sigma"]
    close(fit.fitted[:10], r["fitted_head"], 1e-5, sigma)
    close(fit.resid()[:10], r["resid_head"], 1e-5, sigma)
    close(fit.resid("pearson")[:10], r["pearson_head"], 1e-5, sigma)
    close(fit.fitted.mean(), r["fitted_sum"] / r["n"], 1e-5, sigma)
    close(np.sqrt(np.mean(fit.fitted**2)), np.sqrt(r["fitted_sumsq"] / r["n"]), 1e-5, sigma)


# --------------------------------------------------------------------------------- models inside the boundary


@regular
def test_theta(model, reml):
    close(fitted(model, reml).theta, model.r(reml)["theta"], 1e-5)


@regular
def test_covariance_of_the_fixed_effects(model, reml):
    r = model.r(reml)
    close(fitted(model, reml).vcov, np.reshape(r["vcov"], (r["p"], r["p"])), 1e-5, np.outer(r["se"], r["se"]))


@regular
def test_variances_and_correlations(model, reml):
    fit, r = fitted(model, reml), model.r(reml)
    table = fit.varcorr.set_index("group")
    assert table.loc["Residual", "sdcor"] == pytest.approx(r["sigma"], rel=1e-6)
    for group, columns, term in zip(fit.schema.term_names, fit.schema.groups, r["varcorr"], strict=True):
        rows = table.loc[[group]]
        diagonal = rows["name2"].isna()
        sd, at = np.array(term["sd"]), np.triu_indices(len(columns.columns), 1)
        assert columns.group == term["group"]
        assert len(columns.levels) == term["n_levels"]
        close(rows["sdcor"][diagonal], sd, 1e-5, sd)
        close(rows["vcov"][diagonal], np.diag(term["cov"]), 1e-5, sd**2)
        close(rows["sdcor"][~diagonal], np.array(term["corr"])[at], 1e-5)
        close(rows["vcov"][~diagonal], np.array(term["cov"])[at], 1e-5, np.outer(sd, sd)[at])


@regular
def test_random_effects_and_their_variances(model, reml):
    fit, r = fitted(model, reml), model.r(reml)
    effects, data, start = fit.ranef(cond_var=True), model.data(), {}
    for term, variances in zip(r["ranef"], r["varcorr"], strict=True):
        group, sd, shown = term["group"], np.array(variances["sd"]), len(term["levels"])
        at = start.get(group, 0) + np.arange(len(sd))
        start[group] = at[-1] + 1
        table = effects[group].iloc[:, at]
        assert [r_name(c, data) for c in table.columns] == term["columns"]
        assert [str(level) for level in table.index[:shown]] == term["levels"]
        close(table[:shown], term["b"], 1e-5, sd)
        conditional = effects.cond_var[group][:shown, at[:, None], at]
        close(conditional, term["condvar"], 1e-5, np.outer(sd, sd))
        assert len(table) == term["n_levels"]
        if term.get("truncated"):
            close(table.mean(), np.array(term["all_sum"]) / len(table), 1e-5, sd)
            close(np.sqrt((table**2).mean()), np.sqrt(np.array(term["all_sumsq"]) / len(table)), 1e-5, sd)


@regular
def test_pieces_of_the_criterion(model, reml):
    fit, r = fitted(model, reml), model.r(reml)
    e, pieces = fit.estimate, r["devcomp"]
    weights = 1.0 if fit.design.weights is None else fit.design.weights
    wrss, ussq = np.sum(weights * fit.resid() ** 2), sum(np.sum(u**2) for u in e.u)
    close([e.log_l, e.log_rx], [pieces["ldL2"], pieces["ldRX2"]], 1e-5, max(1, pieces["ldL2"]))
    close([wrss, ussq, e.prss], [pieces["wrss"], pieces["ussq"], pieces["pwrss"]], 1e-5, pieces["pwrss"])
    assert wrss + ussq == pytest.approx(e.prss, rel=1e-9)
    n, p = r["n"], r["p"]
    close(np.sqrt([e.prss / n, e.prss / (n - p)]), [pieces["sigmaML"], pieces["sigmaREML"]], 1e-6, r["sigma"])


@regular
def test_predictions(model, reml):
    fit, r, new = fitted(model, reml), model.r(reml), model.newdata()
    close(fit.predict(new, allow_new_levels=True), r["pred_newdata"], 1e-5, r["sigma"])
    close(fit.predict(new, re_form="~0"), r["pred_newdata_fixed"], 1e-5, r["sigma"])


# ---------------------------------------------------------------------------------------------- other things


@pytest.mark.parametrize("name", ["soy_lm", "pulp_lm"])
def test_linear_models(name, reference):
    r = reference["lm"][name]
    data = dataset("shared", r["dataset"])
    fit = lj.lm(r["formula"], data)
    assert [r_name(n, data) for n in fit.schema.fixed_names] == r["coef_names"]
    close(fit.fixef, r["beta"], 1e-9, r["se"])
    close(np.sqrt(np.diag(fit.vcov)), r["se"], 1e-9, r["se"])
    close([fit.sigma, fit.loglik, fit.aic, fit.bic], [r[k] for k in ("sigma", "logLik", "AIC", "BIC")], 1e-9, fit.nobs)
    assert (fit.df, fit.df_resid) == (r["df"], r["df_residual"])


EXPANSIONS = references.bundled()["double_bar"]["expansions"]


@pytest.mark.parametrize("expansion", EXPANSIONS, ids=lambda e: e["formula"].removeprefix("y ~ x + "))
def test_bars_expand_as_in_lme4(expansion):
    data = references.bundled()["double_bar"]["data"]
    schema, design = build(expansion["formula"], data, env=EvalEnvironment.capture())
    assert [g.group for g in schema.groups] == expansion["groups"]
    assert [[r_name(c, data) for c in g.columns] for g in schema.groups] == expansion["columns"]
    assert [t.n_levels for t in design.terms] == expansion["n_levels"]
    assert design.n_theta == expansion["n_theta"]


# Not getrusage: its maximum starts from the parent's memory.
CHILD = """
import json, sys
from pathlib import Path
sys.path.insert(0, "tests")
from catalogue import Model
fit = Model("shared", "insteval").fit()
fit.summary(), fit.certificate
peak = next(s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith("VmHWM"))
print(json.dumps([-2 * fit.loglik, int(peak.split()[1]) / 2**20]))
"""


@pytest.mark.slow
def test_insteval_needs_less_than_two_gigabytes(reference):
    references.shared_data("InstEval.csv.gz")
    output = subprocess.check_output([sys.executable, "-c", CHILD], text=True, cwd=references.ROOT)
    criterion, gigabytes = json.loads(output.splitlines()[-1])
    assert criterion == pytest.approx(reference["models"]["insteval"]["fits"]["REML"]["criterion"], rel=1e-8)
    assert gigabytes < 2
