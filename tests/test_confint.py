"""Profile, Wald and bootstrap intervals through one call."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
from catalogue import SHARED, Model
from scipy import stats

import lmmjax as lj
from lmmjax.inference.df import freedom

MODELS = [m for m in SHARED if m.name != "insteval"] or [Model("shared", "all models")]


@cache
def sleep() -> lj.Fit:
    return lj.lmer("Reaction ~ Days + (Days | Subject)", lj.datasets.load("sleepstudy"))


# ------------------------------------------------------------------------------------------------- Wald


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_wald_limits_are_those_of_r(model):
    for reml in (True, False):
        fit, r = model.fit(reml), pd.DataFrame(model.r(reml)["wald_ci"])
        limits = lj.confint(fit, method="wald")
        assert list(limits.columns) == ["lower", "upper"]
        of_beta = limits.loc[fit.schema.fixed_names]
        se = np.sqrt(np.diag(fit.vcov))[:, None]
        error = np.abs(of_beta - r[["lower", "upper"]].to_numpy(float)) / se
        assert error.max(axis=None) < (1e-4 if model.is_large else 1e-5)
        assert limits.drop(fit.schema.fixed_names).isna().all(axis=None)


@pytest.mark.parametrize("ddf", ["satterthwaite", "kenward-roger", "residual"])
def test_wald_limits_with_degrees_of_freedom(ddf):
    fit = sleep()
    limits = lj.confint(fit, fit.schema.fixed_names, 0.9, "wald", ddf=ddf)
    f = freedom(fit.estimate, fit.cross_products, fit.reml, ddf)
    half = stats.t.ppf(0.95, f.df(np.eye(2))) * np.sqrt(np.diag(f.vcov))
    np.testing.assert_allclose(limits, np.column_stack([fit.fixef - half, fit.fixef + half]), rtol=1e-12)
    if ddf != "residual":  # 17 degrees of freedom, as in lmerTest's documentation of these data
        np.testing.assert_allclose(f.df(np.eye(2)), 17, rtol=1e-4)


def test_wald_limits_of_a_linear_model_are_those_of_t():
    fit = lj.lm("Reaction ~ Days", lj.datasets.load("sleepstudy"))
    limits = lj.confint(fit, "Days", method="wald", ddf="residual").loc["Days"]
    expected = stats.t.interval(0.95, fit.df_resid, fit.fixef["Days"], fit.vcov.loc["Days", "Days"] ** 0.5)
    np.testing.assert_allclose(limits, expected, rtol=1e-12)


# ------------------------------------------------------------------------------------------------- bootstrap


def test_bootstrap_limits_are_quantiles_of_all_parameters():
    fit = sleep()
    limits = lj.confint(fit, method="boot", n=64, seed=3)
    draws = lj.refit_many(fit, lj.simulate(fit, 64, seed=3))
    t = np.zeros((64, 2, 2))
    t[:, 0, 0], t[:, 1, 0], t[:, 1, 1] = draws.theta.T
    cov = draws.sigma[:, None, None] ** 2 * t @ t.swapaxes(1, 2)
    sd = np.sqrt(cov[:, [0, 1], [0, 1]])
    numbers = np.column_stack([sd[:, 0], cov[:, 1, 0] / sd.prod(1), sd[:, 1], draws.sigma, draws.beta])
    np.testing.assert_allclose(limits, np.quantile(numbers, [0.025, 0.975], axis=0).T, rtol=1e-6)
    expected = ["sd_Intercept|Subject", "cor_Days.Intercept|Subject", "sd_Days|Subject", "sigma", "Intercept", "Days"]
    assert list(limits.index) == expected


def test_bootstrap_passes_the_kind_of_interval_on():
    fit, names = sleep(), ["Days", "sigma"]
    basic = lj.confint(fit, names, method="boot", n=64, seed=3, kind="basic")
    percentile = lj.confint(fit, names, method="boot", n=64, seed=3)
    observed = np.array([[fit.sigma], [fit.fixef["Days"]]])
    np.testing.assert_allclose(basic, 2 * observed - percentile.to_numpy()[:, ::-1], rtol=1e-10)
    assert list(basic.index) == ["sigma", "Days"]  # the model's order
    with pytest.raises(ValueError, match="kind='magic'"):
        lj.confint(fit, method="boot", n=16, kind="magic")


# ------------------------------------------------------------------------------------------------- the call


def test_default_is_the_profile():
    fit = sleep()
    limits = lj.confint(fit, "Days", level=0.8)
    pd.testing.assert_frame_equal(limits, lj.profile(fit, "Days").confint(0.8))
    assert "by ML" in limits.attrs["note"]


def test_names_follow_terms_columns_and_the_fixed_part():
    data = lj.datasets.load("sleepstudy").assign(late=lambda d: (d["Days"] > 4).astype(float))
    fit = lj.lmer("Reaction ~ Days + (Days || Subject) + (0 + late | Subject)", data, theta=[1, 0.2, 0.1])
    names = ["sd_Intercept|Subject", "sd_Days|Subject", "sd_late|Subject", "sigma", "Intercept", "Days"]
    assert list(lj.confint(fit, method="wald").index) == names


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "walt"}, ValueError, "method='walt'"),
        ({"level": 95}, ValueError, "level=95"),
        ({"ddf": "satterthwaite"}, ValueError, "belongs to method='wald'"),
        ({"method": "wald", "ddf": "magic"}, ValueError, "ddf='magic'"),
        ({"parameters": "Dys", "method": "wald"}, lj.DataError, "did you mean 'Days'"),
        ({"parameters": ["Day"], "method": "boot", "n": 16}, lj.DataError, "no parameter 'Day'"),
    ],
)
def test_what_it_refuses(options, error, message):
    with pytest.raises(error, match=message):
        lj.confint(sleep(), **options)
