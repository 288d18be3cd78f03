"""Fits with residual=: what they refuse, print, simulate and predict; batches; invariance."""

import numpy as np
import pandas as pd
import pytest
from patsy import EvalEnvironment

import lmmjax as lj
from lmmjax.formula import build


def series(seed: int = 1, groups: int = 12) -> pd.DataFrame:
    """Series with gaps and unequal lengths, in no order."""
    rng = np.random.default_rng(seed)
    parts = []
    for g in range(groups):
        day = np.sort(rng.choice(8, rng.integers(4, 8), replace=False))
        noise = np.linalg.cholesky(0.6 ** abs(np.subtract.outer(day, day))) @ rng.normal(size=len(day))
        y = 3 + 0.2 * day + rng.normal() + noise * (1 + 0.5 * (g % 2))
        parts.append(pd.DataFrame({"id": f"s{g:02d}", "day": day, "arm": "ab"[g % 2], "y": y}))
    data = pd.concat(parts, ignore_index=True)
    data["v"] = rng.uniform(0.5, 2, len(data))
    return data.sample(frac=1, random_state=seed)


DATA = series()
FORMULA = "y ~ day + (1 | id)"
STRUCTURE = lj.ar1("day", "id") * lj.var_ident("arm")


@pytest.fixture(scope="module")
def fit() -> lj.Fit:
    return lj.lmer(FORMULA, DATA, residual=STRUCTURE)


def covariance(fit: lj.Fit, data: pd.DataFrame) -> np.ndarray:
    """Var(y) of `data` under `fit`, written out."""
    same = data["id"].to_numpy()[:, None] == data["id"].to_numpy()
    day, sd = data["day"].to_numpy(), np.where(data["arm"] == "b", fit.phi["sd_b/a|arm"], 1.0)
    r = np.where(same, fit.phi["Phi|id"] ** abs(np.subtract.outer(day, day)), 0) * sd * sd[:, None]
    return fit.sigma**2 * (r + fit.theta[0] ** 2 * same)


def test_invariance_to_the_order_of_rows_and_the_unit_of_time(fit):
    shuffled = DATA.sample(frac=1, random_state=9)
    again = lj.lmer(FORMULA, shuffled, residual=STRUCTURE)
    assert again.loglik == pytest.approx(fit.loglik, rel=1e-12)
    np.testing.assert_allclose(again.phi, fit.phi, rtol=1e-7)
    days = lj.gls("y ~ day", DATA, lj.car1("day", "id"))
    hours = lj.gls("y ~ day", DATA.assign(hour=24 * DATA["day"] + 7), lj.car1("hour", "id"))
    assert hours.loglik == pytest.approx(days.loglik, rel=1e-12)
    assert hours.phi.iloc[0] ** 24 == pytest.approx(days.phi.iloc[0], rel=1e-6)


def test_integer_weights_times_variances(fit):
    # Prior weights divide a row's variance, as var_power does: v^(2δ) with the estimated δ held in the weights.
    power = lj.gls("y ~ day", DATA, lj.ar1("day", "id") * lj.var_power("v"), reml=False)
    held = lj.gls("y ~ day", DATA.assign(w=DATA["v"] ** (-2 * power.phi["power|v"])), lj.ar1("day", "id"), False, "w")
    assert held.loglik == pytest.approx(power.loglik, rel=1e-10)
    np.testing.assert_allclose(held.fixef, power.fixef, rtol=1e-6)


def test_summary_and_parameters(fit):
    text = fit.summary().text
    assert "Residual structure: ar1('day', 'id') * var_ident('arm')" in text
    assert list(fit.phi.index) == ["Phi|id", "sd_b/a|arm"]
    assert "Phi|id" in text
    assert "sd_b/a|arm" in fit._repr_html_()
    assert fit.df == 2 + 1 + 2 + 1
    assert lj.lmer(FORMULA, DATA).phi.empty
    assert lj.gls("y ~ day", DATA, STRUCTURE).summary().text.startswith("Generalized least squares fit by REML")


def test_random_effects_are_the_blups(fit):
    v, data = covariance(fit, DATA), DATA
    z = (data["id"].to_numpy()[:, None] == fit.ranef()["id"].index.to_numpy()).astype(float)
    left = data["y"] - fit.design.X @ fit.estimate.beta
    expected = (fit.sigma * fit.theta[0]) ** 2 * z.T @ np.linalg.solve(v, left)
    np.testing.assert_allclose(fit.ranef()["id"]["Intercept"], expected, atol=1e-9)
    own = (fit.sigma * fit.theta[0]) ** 2
    conditional = own * np.eye(z.shape[1]) - own**2 * z.T @ np.linalg.solve(v, z)
    np.testing.assert_allclose(fit.ranef(cond_var=True).cond_var["id"][:, 0, 0], np.diag(conditional), rtol=1e-9)


def test_standardised_residuals(fit):
    r = covariance(fit, DATA) / fit.sigma**2 - fit.theta[0] ** 2 * (
        DATA["id"].to_numpy()[:, None] == DATA["id"].to_numpy()
    )
    left = fit.resid()
    np.testing.assert_allclose(fit.resid("pearson"), left / np.sqrt(np.diag(r)), rtol=1e-10)
    white = fit.resid("normalized") * fit.sigma
    assert white @ white == pytest.approx(left @ np.linalg.solve(r, left), rel=1e-10)


@pytest.mark.parametrize("residual", [STRUCTURE, lj.toeplitz("day", "id", 2), lj.cs("id")])
def test_predictions_use_a_known_series(residual):
    both = pd.DataFrame({"id": ["s00", "s03", "s03", "new"], "day": [3, 0, 7, 5], "arm": ["a", "b", "b", "a"]})
    seen = DATA[~DATA.set_index(["id", "day"]).index.isin(both.set_index(["id", "day"]).index)]
    fit = lj.gls("y ~ day", seen, residual)
    whole = pd.concat([both, seen], ignore_index=True)
    r, k = dense(fit, whole), len(both)
    left = seen["y"].to_numpy() - fit.predict(seen, re_form="~0")
    expected = fit.predict(both, re_form="~0") + r[:k, k:] @ np.linalg.solve(r[k:, k:], left)
    np.testing.assert_allclose(fit.predict(both), expected, rtol=1e-9)
    assert fit.predict(both)[3] == fit.predict(both, re_form="~0")[3]
    np.testing.assert_allclose(fit.predict(), fit.predict(seen, re_form="~0"), rtol=1e-12)


def dense(fit: lj.Fit, data: pd.DataFrame) -> np.ndarray:
    """R of `data`."""
    same = data["id"].to_numpy()[:, None] == data["id"].to_numpy()
    day, phi = data["day"].to_numpy(), fit.phi
    if "Rho|id" in phi:
        return np.where(same, np.where(np.eye(len(data)), 1.0, phi["Rho|id"]), 0)
    if "Phi|id" in phi:
        sd = np.where(data["arm"] == "b", phi["sd_b/a|arm"], 1.0)
        return np.where(same, phi["Phi|id"] ** abs(np.subtract.outer(day, day)), 0) * sd * sd[:, None]
    by_lag = np.array([1, phi["cor_lag1|id"], phi["cor_lag2|id"], *np.zeros(5)])
    return np.where(same, by_lag[abs(np.subtract.outer(day, day))], 0)


def test_simulated_responses_have_the_covariance(fit):
    draws = lj.simulate(fit, 4000, seed=1)
    found, expected = np.cov(draws.T), covariance(fit, DATA)
    sd = np.sqrt(np.diag(expected))
    assert np.max(np.abs(found - expected) / (sd * sd[:, None])) < 6 / np.sqrt(4000)
    held = lj.simulate(fit, 2000, seed=1, use_u=True)
    np.testing.assert_allclose(held.mean(0), fit.fitted, atol=6 * sd.max() / np.sqrt(2000))
    np.testing.assert_array_equal(lj.simulate(fit, 3, seed=1), draws[:3])


def test_refit_many_is_a_loop_of_refits(fit):
    draws = lj.simulate(fit, 6, seed=2)
    batch = lj.refit_many(fit, draws)
    single = [lj.refit(fit, y) for y in draws]
    assert batch.converged.all()
    np.testing.assert_allclose(batch.criterion, [-2 * f.loglik for f in single], rtol=1e-10)
    np.testing.assert_allclose(batch.theta, [f.estimate.theta for f in single], atol=1e-5)
    np.testing.assert_allclose(batch.vcov, [f.vcov for f in single], rtol=1e-6)
    with pytest.raises(ValueError, match="correlated rows may have no NaN"):
        lj.refit_many(fit, np.where(np.arange(fit.nobs) == 3, np.nan, draws))


def test_an_unstructured_ml_fit_has_the_sample_covariance():
    root = np.linalg.cholesky([[1, 0.5, 0.2], [0.5, 1, 0.5], [0.2, 0.5, 2]])
    y = np.random.default_rng(0).normal(size=(30, 3)) @ root.T
    data = {"id": np.repeat(np.arange(30), 3), "t": np.tile([1, 2, 3], 30), "y": y.ravel()}
    fit = lj.gls("y ~ 0 + C(t)", data, lj.un("t", "id"), reml=False)
    centred = y - y.mean(0)
    sample = centred.T @ centred / 30
    sd = fit.sigma * np.array([1, *fit.phi[3:]])
    np.testing.assert_allclose(sd, np.sqrt(np.diag(sample)), rtol=1e-7)
    correlations = sample / np.outer(sd, sd)
    np.testing.assert_allclose(fit.phi[:3], correlations[[0, 0, 1], [1, 2, 2]], atol=1e-7)
    np.testing.assert_allclose(fit.vcov, sample / 30, rtol=1e-6, atol=1e-9)


def test_theta_and_phi_may_be_given(fit):
    same = lj.lmer(FORMULA, DATA, residual=STRUCTURE, theta=fit.estimate.theta)
    assert same.loglik == pytest.approx(fit.loglik, rel=1e-12)
    with pytest.raises(lj.DataError, match="3 covariance parameters"):
        lj.lmer(FORMULA, DATA, residual=STRUCTURE, theta=[1.0])


def test_rows_with_missing_times_are_left_out():
    holes = DATA.assign(day=DATA["day"].where(np.arange(len(DATA)) != 4))
    schema, design = build("y ~ 1", holes, env=EvalEnvironment.capture(), residual=lj.ar1("day", "id"))
    assert schema.n_dropped == 1
    assert design.n == len(design.residual.rows) == len(DATA) - 1


BAD = {
    "no column": (lj.ar1("days", "id"), lj.FormulaError, "days.*did you mean 'day'"),
    "repeated times": (lj.ar1("arm01", "id"), lj.DataError, "'id' = s0. has two rows at one value of 'arm01'"),
    "no integers": (lj.ar1("v", "id"), lj.DataError, "'v' must be integers.*car1"),
    "text as times": (lj.car1("arm", "id"), lj.DataError, "'arm' of car1.* is not numeric"),
    "single rows": (lj.cs("row"), lj.DataError, "every level of 'row' has one row only"),
    "apart": (lj.un("half", "pair"), lj.DataError, "no level of 'pair' has the occasions 'b and c' both"),
    "one level": (lj.var_ident("one"), lj.DataError, "'one' has only one level"),
    "covariate": (lj.var_power("day"), lj.DataError, "'day' must be positive \\(0"),
    "bands": (lj.toeplitz("day", "id", bands=8), lj.DataError, "8 occasions have lags up to 7"),
    "not a structure": ("ar1", TypeError, "residual='ar1'.*lj.ar1"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_structures(name):
    residual, error, text = BAD[name]
    one = DATA.assign(arm01=0, row=np.arange(len(DATA)), one="x")
    one["pair"], one["half"] = one["row"] // 2, np.array(list("abac"))[one["row"] % 4]
    with pytest.raises(error, match=text):
        lj.gls("y ~ 1", one, residual)


def test_bad_calls(fit):
    with pytest.raises(TypeError, match="time must be the name of a column"):
        lj.ar1(DATA["day"], "id")
    with pytest.raises(TypeError, match="two structures of correlation"):
        lj.ar1("day", "id") * lj.cs("id")
    with pytest.raises(ValueError, match="bands=0"):
        lj.toeplitz("day", "id", bands=0)
    with pytest.raises(TypeError, match="gls needs residual="):
        lj.gls("y ~ day", DATA, None)
    with pytest.raises(lj.FormulaError, match="use lmer"):
        lj.gls(FORMULA, DATA, STRUCTURE)
    with pytest.raises(lj.DataError, match="levels of 'day' that are not in the fit"):
        lj.gls("y ~ 1", DATA, lj.toeplitz("day", "id", bands=1)).predict(DATA.assign(day=9))


@pytest.mark.parametrize(
    "call", [lj.influence, lj.icc, lj.ranova, lj.r2, lj.caic, lj.drop_one, lj.vcov_cr, lj.exact_rlrt]
)
def test_what_does_not_know_residual_structures_says_so(fit, call):
    with pytest.raises(lj.DataError, match="not known for a fit with residual=ar1"):
        call(fit)


def test_likelihood_ratios_of_structures(fit):
    plain, richer = lj.lmer(FORMULA, DATA), lj.lmer(FORMULA, DATA, residual=lj.var_ident("arm"))
    test = lj.lrt(richer, fit)
    assert test.df == 1
    assert test.statistic == pytest.approx(2 * (fit.loglik - richer.loglik), rel=1e-8)
    table = lj.anova(plain, richer, fit, refit=False)
    np.testing.assert_allclose(table["npar"], [4, 5, 6])
    with pytest.raises(lj.DataError, match="no special case of residual"):
        lj.lrt(lj.lmer(FORMULA, DATA, residual=lj.cs("id")), fit)
