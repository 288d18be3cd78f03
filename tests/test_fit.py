"""What a fit is and does: identities under changes of data and coding, fixed θ, refits, draws, tables, notes."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
from catalogue import Model, dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

import lmmjax as lj

SLOPES = "Reaction ~ Days + (Days|Subject)"
both = pytest.mark.parametrize("reml", [True, False], ids=["REML", "ML"])


def sleep() -> pd.DataFrame:
    """The sleepstudy, 180 rows."""
    return dataset("bundled", "sleepstudy")


@cache
def slopes(reml: bool = True) -> lj.Fit:
    """The model with correlated intercepts and slopes."""
    return lj.lmer(SLOPES, sleep(), reml=reml)


@cache
def bundled(name: str, reml: bool = True) -> lj.Fit:
    """A model of the bundled reference."""
    return Model("bundled", name).fit(reml)


def same_fit(a: lj.Fit, b: lj.Fit, tolerance: float = 1e-7) -> None:
    """The estimates of two fits agree; the criterion to its last digits."""
    assert a.loglik == pytest.approx(b.loglik, rel=1e-11)
    assert_allclose(a.theta, b.theta, atol=tolerance)
    assert_allclose(a.fixef.to_numpy(), b.fixef.to_numpy(), rtol=tolerance)
    assert a.sigma == pytest.approx(b.sigma, rel=tolerance)


# ------------------------------------------------------------------------------------------------------- invariances


@both
def test_order_of_rows(reml):
    order = np.random.default_rng(1).permutation(180)
    fit, shuffled = slopes(reml), lj.lmer(SLOPES, sleep().iloc[order], reml=reml)
    same_fit(shuffled, fit)
    assert_allclose(shuffled.fitted, fit.fitted[order], rtol=1e-7)
    assert_allclose(shuffled.ranef()["Subject"], fit.ranef()["Subject"], atol=1e-5)
    assert list(shuffled.schema.index) == list(order)


def test_names_of_levels():
    data = sleep()
    renamed = {level: f"s{999 - int(level)}" for level in data["Subject"].cat.categories}
    fit = lj.lmer(SLOPES, data.assign(Subject=data["Subject"].astype(str).map(renamed)))
    same_fit(fit, slopes())
    ours = slopes().ranef()["Subject"].rename(index=renamed)
    assert list(fit.ranef()["Subject"].index) == sorted(renamed.values())
    assert_allclose(fit.ranef()["Subject"].loc[ours.index], ours, atol=1e-5)


def test_order_of_levels():
    data = sleep()
    backwards = data["Subject"].cat.categories[::-1]
    fit = lj.lmer(SLOPES, data.assign(Subject=data["Subject"].cat.reorder_categories(backwards)))
    same_fit(fit, slopes())
    assert list(fit.ranef()["Subject"].index) == list(backwards)
    assert_allclose(fit.ranef()["Subject"].iloc[::-1], slopes().ranef()["Subject"], atol=1e-5)


def test_order_of_terms():
    fit = bundled("schools")
    other = lj.lmer("y ~ 1 + (1|rater) + (1|school) + (1|class:school)", dataset("bundled", "schools"))
    same_fit(other, fit)
    assert other.schema.term_names == fit.schema.term_names == ["class:school", "school", "rater"]


@both
@settings(max_examples=10, deadline=None, derandomize=True, database=None)
@given(shift=st.floats(-1e3, 1e3), scale=st.floats(1e-3, 1e3), sign=st.sampled_from([-1, 1]))
def test_units_of_the_response(reml, shift, scale, sign):
    fit, c = slopes(reml), sign * scale
    other = lj.refit(fit, shift + c * fit.design.y)
    assert_allclose(other.theta, fit.theta, atol=1e-6)
    assert other.sigma == pytest.approx(scale * fit.sigma, rel=1e-7)
    assert_allclose(other.fixef, shift * np.eye(2)[0] + c * fit.fixef, rtol=1e-6, atol=1e-6 * scale)
    assert_allclose(other.ranef()["Subject"], c * fit.ranef()["Subject"], atol=1e-4 * scale)
    rows = fit.nobs - (2 if reml else 0)
    assert -2 * other.loglik == pytest.approx(-2 * fit.loglik + 2 * rows * np.log(scale), abs=1e-7)


@both
def test_units_of_a_column(reml):
    fit, data = slopes(reml), sleep()
    ms = 86_400_000.0
    other = lj.lmer(SLOPES, data.assign(Days=data["Days"] * ms), reml=reml)
    assert_allclose(other.theta, fit.theta / [1, ms, ms], rtol=1e-6)
    assert_allclose(other.fixef, fit.fixef / [1, ms], rtol=1e-9)
    assert_allclose(other.varcorr["sdcor"], fit.varcorr["sdcor"] / [1, ms, 1, 1], rtol=1e-6)
    moved = 2 * np.log(ms) if reml else 0.0
    assert -2 * other.loglik == pytest.approx(-2 * fit.loglik + moved, rel=1e-10)
    assert other.certificate.optimal


@pytest.mark.parametrize("contrasts", ["sum", "helmert", {"irrigation": "sum"}])
@both
def test_coding_of_the_columns(reml, contrasts):
    fit = bundled("irrigation_full_trt", reml)
    other = lj.lmer(fit.schema.formula, dataset("bundled", "irrigation"), reml=reml, contrasts=contrasts)
    transform = np.linalg.lstsq(fit.design.X, other.design.X, rcond=None)[0]  # X' = X A
    assert_allclose(fit.design.X @ transform, other.design.X, atol=1e-12)
    moved = 2 * np.linalg.slogdet(transform)[1] if reml else 0.0
    assert abs(moved) > 1 or not reml
    assert -2 * other.loglik == pytest.approx(-2 * fit.loglik + moved, abs=1e-9)
    assert_allclose(transform @ other.fixef, fit.fixef, atol=1e-9)
    assert_allclose(transform @ other.vcov @ transform.T, fit.vcov, atol=1e-7)
    assert_allclose(other.fitted, fit.fitted, rtol=1e-8)


def test_coding_of_a_random_term():
    cells, treatment = bundled("machines_cell"), bundled("machines_slope")
    assert cells.loglik == pytest.approx(treatment.loglik, rel=1e-11)
    assert_allclose(cells.fitted, treatment.fitted, rtol=1e-6)


# ----------------------------------------------------------------------------------------------------------- fixed θ

THETA = np.array([0.9, 0.05, 0.2])


def covariance(fit: lj.Fit) -> np.ndarray:
    """(n, n) Var(y)/σ²."""
    half = lj.core.random_matrix(fit.design) @ lj.core.relative_factor(fit.design, fit.theta)
    weights = np.ones(fit.nobs) if fit.design.weights is None else fit.design.weights
    return np.diag(1 / weights) + (half @ half.T).toarray()


@pytest.mark.parametrize("weights", [None, "w"])
@both
def test_known_covariance_is_generalised_least_squares(reml, weights):
    data = sleep().assign(w=np.linspace(0.5, 2, 180))
    fit = lj.lmer(SLOPES, data, reml=reml, theta=THETA, weights=weights)
    V, X, y = covariance(fit), fit.design.X, fit.design.y
    unscaled = np.linalg.inv(X.T @ np.linalg.solve(V, X))
    beta = unscaled @ X.T @ np.linalg.solve(V, y)
    e = y - X @ beta
    sigma = np.sqrt(e @ np.linalg.solve(V, e) / (180 - 2 * reml))
    assert_array_equal(fit.theta, THETA)
    assert_allclose(fit.fixef, beta, rtol=1e-9)
    assert fit.sigma == pytest.approx(sigma, rel=1e-9)
    assert_allclose(fit.vcov, sigma**2 * unscaled, rtol=1e-8)
    if not reml:
        assert fit.loglik == pytest.approx(stats.multivariate_normal(X @ beta, sigma**2 * V).logpdf(y), rel=1e-10)


def test_known_covariance_is_said_to_be_given():
    fit = lj.lmer(SLOPES, sleep(), theta=THETA)
    assert fit.converged
    assert "θ was given" in str(fit.certificate)
    assert fit.loglik < slopes().loglik
    same_fit(lj.lmer(SLOPES, sleep(), theta=slopes().theta), slopes())


def test_theta_of_zero_is_ordinary_least_squares():
    fit, ols = lj.lmer(SLOPES, sleep(), theta=[0, 0, 0]), lj.lm("Reaction ~ Days", sleep())
    assert_allclose(fit.fixef, ols.fixef, rtol=1e-12)
    assert_allclose(fit.vcov, ols.vcov, rtol=1e-10)
    assert fit.is_singular


@pytest.mark.parametrize(
    ("theta", "match"),
    [([1.0], "1.*3 cov"), (np.ones(6), "theta.*6.*3 cov"), ([1, np.nan, 0], "theta"), ([np.inf, 0, 1], "theta")],
)
def test_theta_that_does_not_fit(theta, match):
    with pytest.raises(lj.DataError, match=match):
        lj.lmer(SLOPES, sleep(), theta=theta)


# ------------------------------------------------------------------------------------------------- refits and draws


@pytest.mark.parametrize(
    "name", ["sleep_slope", "sleep_weights", "penicillin_weights_offset", "schools", "sleep_missing"]
)
def test_refit_is_the_fit_to_that_response(name):
    model = Model("bundled", name)
    fit = bundled(name)
    y = lj.simulate(fit, 1, seed=3)[0]
    response, data = fit.schema.response, model.data()
    data.loc[fit.schema.index, response] = y
    refitted = lj.refit(fit, y)
    same_fit(refitted, lj.lmer(model.entry["formula"], data, **model.options()))
    assert refitted.reml == fit.reml
    assert_array_equal(refitted.design.y, y)
    assert fit.loglik == bundled(name).loglik != refitted.loglik


def test_refit_of_the_same_response_is_the_same_fit():
    same_fit(lj.refit(slopes(False), sleep()["Reaction"]), slopes(False))


@pytest.mark.parametrize(
    ("y", "match"),
    [
        (np.ones(3), r"shape \(3,\).*180 rows"),
        (np.ones((180, 2)), r"shape \(180, 2\)"),
        (np.r_[np.nan, np.arange(179.0)], "not finite in 1 of its 180"),
        (np.r_[np.inf, np.arange(179.0)], "not finite in 1"),
        (np.full(180, 4.0), "constant"),
    ],
)
def test_refit_refuses(y, match):
    with pytest.raises(lj.DataError, match=match):
        lj.refit(slopes(), y)


def test_draws_have_a_shape_and_a_seed():
    many, few = lj.simulate(slopes(), 4, seed=11), lj.simulate(slopes(), 2, seed=11)
    assert many.shape == (4, 180)
    assert many.dtype == np.float64
    assert_array_equal(many[:2], few)
    assert_array_equal(many, lj.simulate(slopes(), 4, seed=np.int64(11)))
    assert not np.allclose(few, lj.simulate(slopes(), 2, seed=12))
    assert not np.allclose(many[0], many[1])
    assert lj.simulate(slopes(), seed=11).shape == (1, 180)


def test_draws_follow_a_key():
    import jax

    assert_array_equal(lj.simulate(slopes(), 2, seed=jax.random.key(11)), lj.simulate(slopes(), 2, seed=11))


@pytest.mark.parametrize("name", ["sleep_weights", "penicillin_weights_offset"])
def test_draws_have_the_moments_of_the_model(name):
    fit, n = bundled(name), 4000
    y = lj.simulate(fit, n, seed=5)
    V = fit.sigma**2 * covariance(fit)
    mean = fit.predict(None, re_form="~0")
    assert np.abs((y.mean(0) - mean) / np.sqrt(np.diag(V) / n)).max() < 5
    standard = np.linalg.solve(np.linalg.cholesky(V), (y - mean).T)
    assert standard.var() == pytest.approx(1, abs=5 * np.sqrt(2 / standard.size))
    assert np.abs(np.cov(standard) - np.eye(fit.nobs)).max() < 6 * np.sqrt(2 / n)


def test_draws_given_the_random_effects():
    fit, n = bundled("sleep_weights"), 4000
    y = lj.simulate(fit, n, seed=5, use_u=True)
    sd = fit.sigma / np.sqrt(fit.design.weights)
    assert np.abs((y.mean(0) - fit.fitted) / (sd / np.sqrt(n))).max() < 5
    assert np.abs(y.var(0) / sd**2 - 1).max() < 6 * np.sqrt(2 / n)


# --------------------------------------------------------------------------------------------------- linear models


@pytest.mark.parametrize("weights", [None, "w"])
def test_linear_model_is_least_squares(weights):
    data = sleep().assign(w=np.linspace(0.5, 2, 180), o=np.sin(np.arange(180)))
    fit = lj.lm("Reaction ~ Days + I(Days^2)", data, weights=weights, offset="o")
    w = data["w"].to_numpy() if weights else np.ones(180)
    X, y = fit.design.X * np.sqrt(w)[:, None], (data["Reaction"] - data["o"]).to_numpy() * np.sqrt(w)
    beta, (rss,), *_ = np.linalg.lstsq(X, y, rcond=None)
    assert_allclose(fit.fixef, beta, rtol=1e-9)
    assert fit.sigma == pytest.approx(np.sqrt(rss / 177), rel=1e-9)
    assert_allclose(fit.vcov, rss / 177 * np.linalg.inv(X.T @ X), rtol=1e-7)
    # R's logLik.lm
    loglik = 0.5 * (np.log(w).sum() - 180 * (np.log(2 * np.pi) + 1 - np.log(180) + np.log(rss)))
    assert fit.loglik == pytest.approx(loglik, rel=1e-12)
    assert (fit.df, fit.df_resid) == (4, 177)
    assert fit.aic == pytest.approx(8 - 2 * loglik)
    assert fit.bic == pytest.approx(4 * np.log(180) - 2 * loglik)
    assert_allclose(fit.fitted, fit.design.X @ beta + data["o"], rtol=1e-9)


def test_linear_model_has_no_random_part():
    fit = lj.lm("Reaction ~ Days", sleep())
    assert fit.theta.shape == (0,)
    assert fit.ranef() == fit.coef() == {}
    assert fit.varcorr["group"].tolist() == ["Residual"]
    assert not fit.is_singular
    assert fit.converged
    assert fit.certificate.optimal


# --------------------------------------------------------------------------------------------------- effects, tables


@pytest.mark.parametrize("name", ["sleep_slope", "sleep_interaction", "items_uncorr", "schools", "sleep_offset"])
def test_effects_and_fitted_values_agree(name):
    fit = bundled(name)
    Z, b = lj.core.random_matrix(fit.design), np.concatenate([b.ravel() for b in fit.estimate.b])
    offset = 0.0 if fit.design.offset is None else fit.design.offset
    assert_allclose(fit.design.X @ fit.fixef + Z @ b + offset, fit.fitted, rtol=1e-12)
    assert_allclose(fit.predict(), fit.fitted, rtol=1e-14)
    assert_allclose(fit.predict(None, "~0"), fit.design.X @ fit.fixef + offset, rtol=1e-12)
    assert_allclose(fit.predict(Model("bundled", name).data()), fit.fitted, rtol=1e-12)


def test_coefficients_are_fixed_plus_random():
    fit = bundled("items")
    coef, effects = fit.coef(), fit.ranef()
    assert list(coef) == list(effects) == ["subj", "item"]
    assert_allclose(coef["subj"], fit.fixef + effects["subj"])
    assert_allclose(coef["item"]["Intercept"], fit.fixef["Intercept"] + effects["item"]["Intercept"])
    assert (coef["item"]["x"] == fit.fixef["x"]).all()
    assert list(coef["item"].columns) == ["Intercept", "x"]


def test_coefficients_of_columns_that_are_not_fixed():
    fit = bundled("sleep_nointercept")
    assert list(fit.coef()["Subject"].columns) == ["Days", "Intercept"]
    assert_allclose(fit.coef()["Subject"]["Intercept"], fit.ranef()["Subject"]["Intercept"])


def test_several_terms_on_one_factor_stand_side_by_side():
    fit = bundled("sleep_uncorr")
    effects = fit.ranef(cond_var=True)
    assert list(effects) == ["Subject"]
    assert list(effects["Subject"].columns) == ["Intercept", "Days"]
    assert fit.schema.term_names == ["Subject", "Subject.1"]
    assert fit.varcorr["group"].tolist() == ["Subject", "Subject.1", "Residual"]
    assert effects.cond_var["Subject"].shape == (18, 2, 2)
    assert np.abs(effects.cond_var["Subject"][:, 0, 1]).min() > 0  # a priori apart, not given y
    assert fit.ranef().cond_var is None


@pytest.mark.parametrize(
    "name", ["sleep_weights", "sleep_uncorr", "items_uncorr", "schools", "penicillin_weights_offset"]
)
def test_conditional_variances_are_those_of_the_normal_distribution(name):
    fit = bundled(name)
    Z, factor = lj.core.random_matrix(fit.design).toarray(), lj.core.relative_factor(fit.design, fit.theta).toarray()
    w = np.ones(fit.nobs) if fit.design.weights is None else fit.design.weights
    half = np.linalg.solve(
        np.linalg.cholesky(factor.T @ Z.T @ (w[:, None] * Z @ factor) + np.eye(fit.design.q)), factor.T
    )
    dense, start, columns = fit.sigma**2 * half.T @ half, 0, {}
    for group, term in zip(fit.schema.groups, fit.design.terms, strict=True):
        at = start + np.arange(term.n_levels * term.p).reshape(term.n_levels, term.p)
        columns.setdefault(group.group, []).append(at)
        start += at.size
    for group, variances in fit.ranef(cond_var=True).cond_var.items():
        at = np.concatenate(columns[group], axis=1)
        assert_allclose(variances, dense[at[:, :, None], at[:, None, :]], atol=1e-9 * dense.max())


def test_kinds_of_residuals():
    fit = bundled("sleep_weights")
    raw = fit.design.y - fit.fitted
    assert_allclose(fit.resid(), raw)
    assert_allclose(fit.resid("pearson"), raw * np.sqrt(fit.design.weights))
    assert_allclose(fit.resid("scaled"), fit.resid("pearson") / fit.sigma)
    with pytest.raises(ValueError, match="response, pearson, scaled"):
        fit.resid("deviance")


def test_form_of_the_variance_table():
    table = bundled("machines_slope").varcorr
    assert list(table) == ["group", "name1", "name2", "vcov", "sdcor"]
    names = ["Intercept", "Machine[T.B]", "Machine[T.C]"]
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    assert table["group"].tolist() == 6 * ["Worker"] + ["Residual"]
    assert table["name1"].tolist()[:6] == names + [a for a, _ in pairs]
    assert table["name2"].isna().tolist() == [True, True, True, False, False, False, True]
    assert table["name2"].tolist()[3:6] == [b for _, b in pairs]
    cov = table.set_index(["name1", "name2"])["vcov"]
    sd = table["sdcor"][:3].to_numpy()
    assert_allclose(table["vcov"][:3], sd**2)
    for a, b in pairs:
        i, j = names.index(a), names.index(b)
        assert cov[a, b] == pytest.approx(table["sdcor"][3 + pairs.index((a, b))] * sd[i] * sd[j])


def test_names_of_the_tables():
    fit = slopes()
    assert fit.fixef.index.tolist() == fit.vcov.index.tolist() == fit.vcov.columns.tolist() == ["Intercept", "Days"]
    assert (fit.nobs, fit.df, fit.df_resid) == (180, 6, 174)
    assert fit.dic == pytest.approx(2 * slopes(False).deviance - fit.reml_criterion, rel=1e-12)
    assert slopes(False).dic == pytest.approx(slopes(False).deviance, rel=1e-12)
    assert fit.loglik == pytest.approx(-fit.reml_criterion / 2)
    assert slopes(False).loglik == pytest.approx(-slopes(False).deviance / 2)
    assert slopes(False).deviance < fit.deviance
    assert fit.reml_criterion < slopes(False).reml_criterion


# ------------------------------------------------------------------------------------------- certificate, singularity


def test_certificate_prints():
    text = str(slopes().certificate)
    assert text.startswith("optimum: converged after")
    assert "gradient" in text
    assert slopes().certificate.gradient < 1e-3
    assert slopes().certificate.curvature > 0


def test_certificate_of_a_fixed_theta_tells_how_far_it_is():
    certificate = lj.lmer(SLOPES, sleep(), theta=THETA).certificate
    assert not certificate.optimal
    assert str(certificate).startswith("not shown to be an optimum")
    assert certificate.expected_decrease > 0.01


def combination(text: str, columns: list[str]) -> np.ndarray:
    """The weights of a combination of columns as the certificate prints it."""
    if text in columns:
        return np.eye(len(columns))[columns.index(text)]
    weights = dict(part.split("·")[::-1] for part in text.split(" "))
    return np.array([float(weights.get(c, 0)) for c in columns])


@pytest.mark.parametrize("name", ["flat_corr", "flat_neg", "flat_noslope", "flat_noslope_vector", "flat_none"])
@both
def test_the_direction_without_variance_is_named(name, reml):
    fit = bundled(name, reml)
    assert fit.is_singular
    (note,) = fit.summary().notes
    named = {name: [] for name in fit.schema.term_names}
    for sentence in fit.certificate_of_boundary:
        assert sentence in note
        assert f"no variance: {sentence}" in str(fit.certificate)
        text, group = sentence.split(" within ")
        named[group].append(text)
    for group, columns, t in zip(fit.schema.term_names, fit.schema.groups, fit.templates, strict=True):
        assert len(named[group]) == len(t) - np.linalg.matrix_rank(t, tol=1e-4)
        for text in named[group]:
            weights = combination(text, list(columns.columns))
            assert np.linalg.norm(weights @ t) <= 0.006 * np.abs(t).sum()  # weights are printed with two decimals


def test_no_direction_is_named_inside():
    assert slopes().certificate_of_boundary == ()
    assert slopes().summary().notes == ()


# ------------------------------------------------------------------------------------------------- rows and columns


def test_columns_that_are_dropped_are_listed():
    fit = bundled("sleep_rank_deficient")
    assert fit.schema.dropped == ("I(2 * Days)",)
    assert list(fit.fixef.index) == ["Intercept", "Days"]
    assert any("I(2 * Days)" in note for note in fit.summary().notes)
    assert "I(2 * Days)" in str(fit)
    same_fit(fit, bundled("sleep_int"))


def test_rows_that_are_dropped_are_counted():
    fit = bundled("sleep_missing")
    assert "rows with missing values left out: 15" in str(fit.summary())
    assert fit.nobs == len(fit.schema.index) == 165
    complete = Model("bundled", "sleep_missing").data().dropna()
    same_fit(lj.lmer(SLOPES, complete), fit, 1e-12)
    with pytest.raises(lj.DataError, match="'Reaction' .15 rows"):
        lj.lmer(SLOPES, Model("bundled", "sleep_missing").data(), na_action="raise")


def test_tables_of_other_kinds():
    pl = pytest.importorskip("polars")
    data = sleep().assign(Subject=lambda d: d["Subject"].astype(str))
    columns = {name: data[name].to_list() for name in data}
    for table in (columns, pl.DataFrame(columns), {k: np.array(v) for k, v in columns.items()}):
        fit = lj.lmer(SLOPES, table)
        same_fit(fit, slopes(), 1e-12)
        assert list(fit.ranef()["Subject"].index) == list(slopes().ranef()["Subject"].index)


def test_subset():
    data, last = sleep(), 7
    expected = lj.lmer(SLOPES, data[data["Days"] <= 7])
    for subset in ("Days <= 7", "Days <= last", data["Days"] <= last, (data["Days"] <= 7).to_list()):
        same_fit(lj.lmer(SLOPES, data, subset=subset), expected, 1e-12)
    assert expected.nobs == 144


def test_weights_and_offset_as_names_or_arrays():
    model = Model("bundled", "penicillin_weights_offset")
    data, fit = model.data(), bundled("penicillin_weights_offset")
    formula = model.entry["formula"]
    w, off = data["w"], data["off"].to_numpy()
    same_fit(lj.lmer(formula, data, weights=w, offset=off), fit, 1e-12)
    same_fit(lj.lmer(formula, data, weights=list(w), offset="off"), fit, 1e-12)
    same_fit(lj.lmer(formula + " + offset(off)", data.drop(columns="w"), weights=w.to_numpy()), fit, 1e-12)


def test_constant_weights_change_only_sigma():
    fit = lj.lmer(SLOPES, sleep(), weights=np.full(180, 4.0))
    assert fit.loglik == pytest.approx(slopes().loglik, rel=1e-10)
    assert fit.sigma == pytest.approx(2 * slopes().sigma, rel=1e-7)
    assert_allclose(fit.varcorr["vcov"][:3], slopes().varcorr["vcov"][:3], rtol=1e-6)


# --------------------------------------------------------------------------------------- the matrices of the notes


@pytest.mark.parametrize("name", ["sleep_slope", "items", "schools", "machines_cell"])
def test_matrices_of_the_notes(name):
    fit, core = bundled(name), lj.core
    design = fit.design
    Z, factor = core.random_matrix(design), core.relative_factor(design, fit.theta)
    assert Z.shape == (fit.nobs, design.q)
    assert factor.shape == (design.q, design.q)
    parts = []
    for term, t in zip(design.terms, fit.templates, strict=True):
        J = core.indicator(term)
        assert J.shape == (fit.nobs, term.n_levels)
        assert (J.sum(1) == 1).all()
        assert (core.khatri_rao(J, term.x) != core.term_matrix(term)).nnz == 0
        parts.append(core.term_matrix(term).toarray())
        for i in (0, fit.nobs - 1):
            assert_array_equal(parts[-1][i], np.kron(J.toarray()[i], term.x[i]))
        assert_array_equal(t, np.tril(t))
    assert_array_equal(Z.toarray(), np.hstack(parts))
    blocks = [np.kron(np.eye(t.n_levels), m) for t, m in zip(design.terms, fit.templates, strict=True)]
    dense, at = factor.toarray(), 0
    for block in blocks:
        assert_allclose(dense[at : at + len(block), at : at + len(block)], block)
        at += len(block)
    assert np.count_nonzero(dense) == sum(np.count_nonzero(b) for b in blocks)
    u = np.concatenate([u.ravel() for u in fit.estimate.u])
    assert_allclose(dense @ u, np.concatenate([b.ravel() for b in fit.estimate.b]), atol=1e-10)
    levels = [t.n_levels for t in design.terms]
    assert levels == sorted(levels, reverse=True)


@pytest.mark.parametrize("name", ["sleep_weights", "schools"])
def test_cholesky_blocks(name):
    fit = bundled(name)
    L, RZX, RX = lj.core.cholesky_blocks(fit.design, fit.theta)
    w = np.ones(fit.nobs) if fit.design.weights is None else fit.design.weights
    half = (lj.core.random_matrix(fit.design) @ lj.core.relative_factor(fit.design, fit.theta)).toarray()
    X = fit.design.X
    assert_allclose(L @ L.T, half.T @ (w[:, None] * half) + np.eye(fit.design.q), atol=1e-9)
    assert_allclose(L @ RZX, half.T @ (w[:, None] * X), atol=1e-9)
    assert_allclose(RZX.T @ RZX + RX.T @ RX, X.T @ (w[:, None] * X), rtol=1e-9)
    assert 2 * np.log(np.diag(L)).sum() == pytest.approx(float(fit.estimate.log_l))
    assert 2 * np.log(np.abs(np.diag(RX))).sum() == pytest.approx(float(fit.estimate.log_rx))
    assert_allclose(fit.sigma**2 * np.linalg.inv(RX.T @ RX), fit.vcov, rtol=1e-8)


# ------------------------------------------------------------------------------------------------------ special models


def test_a_model_matrix_of_the_caller():
    """As the lecture notes drop one column of a model matrix: y ~ -1 + M1 + (1|g)."""
    data = dataset("bundled", "irrigation")
    full = bundled("irrigation_add_trt")
    M1 = full.design.X
    same_fit(lj.lmer("yield ~ -1 + M1 + (1|field)", data), full)
    M1 = np.delete(M1, 4, axis=1)
    fit = lj.lmer("yield ~ -1 + M1 + (1|field)", data)
    same_fit(fit, lj.lmer("yield ~ irrigation + (1|field)", data))
    assert fit.aic != pytest.approx(full.aic)
    assert lj.lm("yield ~ -1 + M1", data).design.p == 4


def test_no_fixed_columns():
    reml, ml = bundled("sleep_p0"), bundled("sleep_p0", False)
    same_fit(reml, ml)
    assert reml.reml_criterion == pytest.approx(reml.deviance)
    assert reml.fixef.shape == (0,)
    assert reml.vcov.shape == (0, 0)
    assert_array_equal(reml.predict(None, "~0"), np.zeros(180))
    assert_allclose(reml.coef()["Subject"], reml.ranef()["Subject"])


def test_one_row_for_some_levels():
    data = sleep()
    fit = lj.lmer("Reaction ~ Days + (1|Subject)", data[(data["Subject"] != "308") | (data["Days"] == 0)])
    assert fit.certificate.optimal
    assert fit.nobs == 171


def test_a_fit_keeps_its_formula_and_data_names():
    fit = bundled("sleep_log_quadratic")
    assert fit.schema.formula == "log(Reaction) ~ Days + I(Days^2) + (Days|Subject)"
    assert fit.schema.response == "log(Reaction)"
    assert_allclose(fit.design.y, np.log(sleep()["Reaction"]))
