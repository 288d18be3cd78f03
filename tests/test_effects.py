"""Random effects one by one: closed forms of balanced layouts, R's conditional variances, dense formulas."""

import numpy as np
import pandas as pd
import pytest
from catalogue import BUNDLED
from scipy import stats

import lmmjax as lj

MODELS = {m.name: m for m in BUNDLED}


@pytest.mark.parametrize("name", ["pulp_sum", "sleep_uncorr", "sleep_slope", "pastes", "dyestuff2"])
def test_intervals_from_rs_conditional_variances(name):
    model = MODELS[name]
    fit, terms = model.fit(), model.r(True)["ranef"]
    table = lj.ranef_intervals(fit, level=0.9)
    for group, columns, r in zip((g.group for g in fit.schema.groups), fit._columns, terms, strict=True):
        b = np.reshape(r["b"], (len(r["levels"]), -1))
        sd = np.sqrt(np.reshape([np.diag(np.atleast_2d(v)) for v in r["condvar"]], b.shape))
        for j, column in enumerate(columns):
            rows = table.xs((group, column), level=("group", "column")).loc[r["levels"]]
            close = {"rtol": 2e-6, "atol": 1e-5 * fit.sigma}
            np.testing.assert_allclose(rows["estimate"], b[:, j], **close)
            np.testing.assert_allclose(rows["se"], sd[:, j], **close)
            np.testing.assert_allclose(rows["upper"], b[:, j] + stats.norm.ppf(0.95) * sd[:, j], **close)
            np.testing.assert_allclose(rows["lower"] + rows["upper"], 2 * rows["estimate"], rtol=1e-9, atol=1e-9)


def test_shrinkage_of_the_notes():
    """The effects of the one-way analysis of variance are 1.312117 times the predicted ones."""
    fit = MODELS["pulp_sum"].fit()
    ratio = lj.shrinkage(fit)
    variance = fit.varcorr["vcov"][0]
    np.testing.assert_allclose(ratio, variance / (variance + fit.sigma**2 / 5), rtol=1e-9)
    np.testing.assert_allclose(1 / ratio, 1.312117, atol=5e-7)
    data = MODELS["pulp_sum"].data()
    deviation = data.groupby("operator", observed=True)["bright"].mean() - data["bright"].mean()
    np.testing.assert_allclose(fit.ranef()["operator"]["Intercept"], ratio.to_numpy() * deviation, rtol=1e-9)


def test_shrinkage_is_zero_without_variance():
    fit = MODELS["dyestuff2"].fit()
    assert (lj.shrinkage(fit) == 0).all()
    np.testing.assert_allclose(lj.ranef_intervals(fit), 0, atol=1e-12 * fit.sigma)


def test_shrinkage_of_slopes_and_of_two_factors_lies_between_0_and_1():
    for name in ("sleep_slope", "machines_nested"):
        fit = MODELS[name].fit()
        ratio = lj.shrinkage(fit)
        assert len(ratio) == fit.design.q
        assert ratio.between(0, 1, inclusive="neither").all()


def related_fit():
    rng = np.random.default_rng(1)
    names = [f"a{i}" for i in range(6)]
    root = np.tril(rng.normal(size=(6, 6))) + 2 * np.eye(6)
    correlation = pd.DataFrame(root @ root.T / 4, names, names)
    y = rng.normal(size=30) + 2 * np.repeat(rng.normal(size=6), 5)
    data = pd.DataFrame({"animal": np.repeat(names, 5), "y": y})
    return lj.lmer("y ~ 1 + (1|animal)", data, relmat={"animal": correlation}), correlation


def test_related_levels_have_variances_of_their_own():
    fit, correlation = related_fit()
    prior = fit.varcorr["vcov"][0] * correlation.to_numpy()
    posterior = np.linalg.inv(np.linalg.inv(prior) + 5 * np.eye(6) / fit.sigma**2)
    np.testing.assert_allclose(lj.shrinkage(fit), 1 - np.diag(posterior) / np.diag(prior), rtol=1e-8)
    variance = prior.diagonal().mean()
    np.testing.assert_allclose(lj.icc(fit, method=None)["estimate"], variance / (variance + fit.sigma**2), rtol=1e-12)


@pytest.mark.parametrize("name", ["pulp_sum", "dyestuff", "dyestuff2"])
def test_exact_interval_of_a_balanced_layout_is_searles(name):
    """From F = MSA/MSE: (F/q − 1)/(F/q + n − 1) at both quantiles q, not below zero."""
    fit = MODELS[name].fit()
    codes, y = fit.design.terms[0].codes, fit.design.y
    a, n = codes.max() + 1, len(y) // (codes.max() + 1)
    means = np.bincount(codes, y) / n
    f = (n * means.var(ddof=1)) / (np.sum((y - means[codes]) ** 2) / (len(y) - a))
    ratio = f / stats.f.ppf([0.95, 0.05], a - 1, len(y) - a)
    found = lj.icc(fit, level=0.9).loc[fit.schema.groups[0].group]
    np.testing.assert_allclose(found[["lower", "upper"]], np.maximum(0, (ratio - 1) / (ratio + n - 1)), atol=1e-12)
    variance = fit.varcorr["vcov"][0]
    assert found["estimate"] == pytest.approx(variance / (variance + fit.sigma**2), rel=1e-12)


@pytest.mark.parametrize("name", ["sleep_weights_int", "sleep_slope_only"])
def test_ends_of_the_exact_interval_give_the_quantiles_of_f(name):
    """Also with weights, covariates and a slope: generalised sums of squares from dense matrices."""
    fit = MODELS[name].fit()
    term, w = fit.design.terms[0], np.sqrt(1.0 if fit.design.weights is None else fit.design.weights)
    rows = (np.eye(fit.nobs) * w) @ np.column_stack([fit.design.X, fit.design.y])
    x, y = rows[:, :-1], rows[:, -1]
    z = (np.eye(term.n_levels)[term.codes] * term.x).T * w
    own = np.mean(term.x**2)

    def rss(x, v):
        half = np.linalg.inv(np.linalg.cholesky(v))
        return float(np.linalg.lstsq(half @ x, half @ y)[1][0])

    within = float(np.sum((y - (f := np.column_stack([x, z.T])) @ np.linalg.lstsq(f, y)[0]) ** 2))
    r = np.linalg.matrix_rank(f) - x.shape[1]
    nu = fit.nobs - x.shape[1] - r
    found = lj.icc(fit, method="exact").loc["Subject"]
    for end, quantile in (("lower", 0.975), ("upper", 0.025)):
        gamma = found[end] / (1 - found[end]) / own
        value = (rss(x, np.eye(fit.nobs) + gamma * z.T @ z) - within) / r / (within / nu)
        assert value == pytest.approx(stats.f.ppf(quantile, r, nu), rel=1e-7)
    assert found["lower"] < found["estimate"] < found["upper"]


def test_shares_of_crossed_factors_and_of_slopes():
    fit = MODELS["penicillin"].fit()
    table = lj.icc(fit, method=None)
    variances = fit.varcorr.set_index("group")["vcov"]
    np.testing.assert_allclose(table["estimate"], (variances / variances.sum())[["plate", "sample"]], rtol=1e-12)
    assert list(table.columns) == ["estimate"]
    fit = MODELS["sleep_uncorr"].fit()
    one, other = fit.varcorr["vcov"][:2]
    both = one + other * np.mean(np.arange(10) ** 2)
    assert lj.icc(fit, method=None).to_dict() == {"estimate": {"Subject": pytest.approx(both / (both + fit.sigma**2))}}


def test_bootstrap_interval():
    fit = MODELS["pulp_sum"].fit()
    draws = lj.bootstrap(fit, lambda e: e.theta**2 / (1 + e.theta**2), n=100, seed=3).interval(level=0.9)
    found = lj.icc(fit, level=0.9, method="boot", n=100, seed=3)
    np.testing.assert_allclose(found[["lower", "upper"]], draws, rtol=1e-9)
    assert found.loc["operator", "estimate"] == lj.icc(fit).loc["operator", "estimate"]


def test_what_is_refused():
    fit = MODELS["pulp_sum"].fit()
    line = lj.lm("bright ~ 1", MODELS["pulp_sum"].data())
    for function in (lj.ranef_intervals, lj.shrinkage, lj.icc):
        with pytest.raises(lj.DataError, match="has no random effects"):
            function(line)
    with pytest.raises(ValueError, match="level=95"):
        lj.ranef_intervals(fit, level=95)
    with pytest.raises(ValueError, match="method='F': choose None, 'auto', 'exact', 'boot'"):
        lj.icc(fit, method="F")
    with pytest.raises(lj.DataError, match="needs one random term with one column"):
        lj.icc(MODELS["penicillin"].fit(), method="exact")
