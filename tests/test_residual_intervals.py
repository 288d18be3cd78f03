"""Profile intervals of fits with residual=, and derivatives of such fits in the data."""

from functools import cache

import jax
import numpy as np
import pytest
from core_cases import compiled, slope
from scipy.optimize import minimize
from scipy.stats import chi2
from test_residual import DATA, STRUCTURE

import lmmjax as lj
from lmmjax.core import cross_products, estimate


@cache
def fitted() -> lj.Fit:
    return lj.gls("y ~ day", DATA, STRUCTURE)


def deviance(phi: float, log_ratio: float, coefficient: float | None = None) -> float:
    """The ML deviance at ρ = phi and a ratio of standard deviations, over β and σ, written out."""
    fit = fitted()
    day, X, y = DATA["day"].to_numpy(), fit.design.X, fit.design.y
    same = DATA["id"].to_numpy()[:, None] == DATA["id"].to_numpy()
    sd = np.where(DATA["arm"] == "b", np.exp(log_ratio), 1.0)
    v = np.where(same, phi ** abs(np.subtract.outer(day, day)), 0) * sd * sd[:, None]
    if coefficient is not None:
        X, y = X[:, :1], y - coefficient * X[:, 1]
    left = y - X @ np.linalg.solve(X.T @ np.linalg.solve(v, X), X.T @ np.linalg.solve(v, y))
    rss = left @ np.linalg.solve(v, left)
    return float(np.linalg.slogdet(v)[1] + len(y) * (1 + np.log(2 * np.pi * rss / len(y))))


def least(phi: float | None = None, log_ratio: float | None = None, coefficient: float | None = None) -> float:
    """The minimum over what is not given."""

    def at(x):
        free = iter(x)
        rho = np.tanh(next(free)) if phi is None else phi
        return deviance(rho, next(free) if log_ratio is None else log_ratio, coefficient)

    start = np.zeros((phi is None) + (log_ratio is None)) + 0.3
    return minimize(at, start, method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-10, "maxiter": 4000}).fun


def test_profile_intervals_against_the_deviance_written_out():
    found = lj.confint(fitted(), ["Phi|id", "sd_b/a|arm", "day"])
    level = least() + chi2.ppf(0.95, 1)
    held = {"Phi|id": lambda x: least(phi=x), "sd_b/a|arm": lambda x: least(log_ratio=np.log(x))}
    held["day"] = lambda x: least(coefficient=x)
    for name, function in held.items():
        for limit in found.loc[name]:
            assert function(limit) == pytest.approx(level, abs=1e-6)
    assert found.loc["Phi|id", "lower"] < fitted().phi["Phi|id"] < found.loc["Phi|id", "upper"]


def test_names_and_order_of_the_parameters():
    wald = lj.confint(fitted(), method="wald", ddf="satterthwaite")
    assert list(wald.index) == ["Phi|id", "sd_b/a|arm", "sigma", "Intercept", "day"]
    boot = lj.confint(fitted(), method="boot", n=32, seed=1)
    assert boot.loc["Phi|id", "lower"] < fitted().phi["Phi|id"] < boot.loc["Phi|id", "upper"]


def test_unstructured_correlations_have_no_profile():
    data = DATA[DATA["day"] < 6].assign(stage=DATA["day"] // 2).drop_duplicates(["id", "stage"])
    fit = lj.gls("y ~ day", data, lj.un("stage", "id"))
    with pytest.raises(lj.DataError, match="cor_1.0|id: functions of other parameters"):
        lj.profile(fit, "cor_1.0|id")
    assert np.isfinite(lj.confint(fit, "sd_1/0|stage").to_numpy()).all()


def test_derivatives_in_the_response():
    design = fitted().design

    def everything(y):
        e = estimate(cross_products(design.replace(y=y), orthonormal=True))
        return jax.numpy.concatenate([e.theta, e.beta, e.sigma[None], e.criterion[None]])

    of = compiled(everything)
    with lj.float64():
        direction = np.random.default_rng(0).normal(size=design.n)
        exact = jax.jvp(of, (jax.numpy.asarray(design.y),), (jax.numpy.asarray(direction),))[1]
        near = slope(lambda t: np.asarray(of(np.asarray(design.y + t * direction))), 0.0, 1.0, 1e-3)
    np.testing.assert_allclose(exact, near, rtol=1e-5, atol=1e-6)
