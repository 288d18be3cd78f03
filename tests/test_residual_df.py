"""Satterthwaite's and Kenward and Roger's degrees of freedom of fits with residual=, against V written out whole."""

from functools import cache

import numpy as np
import pytest
from core_cases import numeric_jacobian, slope
from test_residual import DATA

import lmmjax as lj

# Kenward-Roger: the parameters τ of V, σ² the last, as functions that make R from them.
MODELS = {
    "ar1 ident": ("y ~ day + (1 | id)", lj.ar1("day", "id") * lj.var_ident("arm")),
    "cs power": ("y ~ day", lj.cs("id") * lj.var_power("v")),
    "un": ("y ~ arm + stage", lj.un("stage", "id")),
    "ident": ("y ~ day + (1 | arm) + (1 | id)", lj.var_ident("half")),
}
HALVES = DATA.assign(half=np.where(DATA["day"] % 2, "odd", "even"), stage=DATA["day"] // 3)
EARLY = HALVES.drop_duplicates(["id", "stage"])


@cache
def fitted(name: str) -> lj.Fit:
    formula, residual = MODELS[name]
    data = EARLY if name == "un" else HALVES
    call = lj.lmer if "|" in formula else lj.gls
    return call(formula, data, residual=residual, weights=None if name == "un" else "1 / v")


def same(codes) -> np.ndarray:
    return np.asarray(codes)[:, None] == np.asarray(codes)


def random_part(fit: lj.Fit, variances) -> np.ndarray:
    """(n, n) Σᵢ varianceᵢ ZᵢZᵢᵀ of intercepts."""
    parts = zip(variances, fit.design.terms, strict=True)
    return sum((v * same(t.codes) for v, t in parts), np.zeros((fit.nobs, fit.nobs)))


def estimated(name: str, fit: lj.Fit) -> np.ndarray:
    """τ at the estimate."""
    variance, phi = fit.sigma**2, fit.phi.to_numpy()
    own = variance * fit.theta**2
    if name == "ar1 ident":
        return np.array([*own, phi[0], variance * phi[1] ** 2, variance])
    if name == "cs power":
        return np.array([*own, *phi, variance])
    if name == "ident":
        return np.array([*own, variance * phi[0] ** 2, variance])
    sd = fit.sigma * np.append(1, phi[3:])
    c = np.array([[1, phi[0], phi[1]], [phi[0], 1, phi[2]], [phi[1], phi[2], 1]]) * sd * sd[:, None]
    return np.append(c[np.tril_indices(3)][1:], variance)


def covariance(name: str, fit: lj.Fit, data, tau) -> np.ndarray:
    """(n, n) V(τ)."""
    k = len(fit.design.terms)
    series, day = same(data["id"]), data["day"].to_numpy()
    w = np.ones(fit.nobs) if fit.design.weights is None else fit.design.weights
    if name == "ar1 ident":
        sd = np.sqrt(np.where(data["arm"] == "b", tau[k + 1], tau[k + 2]))
        r = tau[k] ** abs(np.subtract.outer(day, day))
    elif name == "cs power":
        sd = np.sqrt(tau[-1]) * data["v"].to_numpy() ** tau[1]
        r = np.where(np.eye(len(day)), 1, tau[0])
    elif name == "ident":
        sd, r = np.sqrt(np.where(data["half"] == "odd", tau[k], tau[k + 1])), np.eye(len(day))
    else:
        c = np.zeros((3, 3))
        c[np.tril_indices(3)] = np.append(tau[-1], tau[:-1])
        stage = data["stage"].to_numpy()
        sd, r = np.ones(len(day)), (c + np.tril(c, -1).T)[stage[:, None], stage]
    sd = sd / np.sqrt(w)
    return np.where(series, r, 0) * sd * sd[:, None] + random_part(fit, tau[:k])


def dense_kenward_roger(name: str, fit: lj.Fit, data):
    """The adjusted covariance of β̂, and Φ, P and W, by Kenward & Roger (1997)."""
    tau, X = estimated(name, fit), fit.design.X
    steps = np.diag(1e-3 * np.maximum(np.abs(tau), 0.1))
    v = covariance(name, fit, data, tau)
    v_inv = np.linalg.inv(v)
    first = [slope(lambda t: covariance(name, fit, data, t), tau, e, 1.0) for e in steps]
    phi = np.linalg.inv(X.T @ v_inv @ X)
    p = [-X.T @ v_inv @ d @ v_inv @ X for d in first]
    project = v_inv - v_inv @ X @ phi @ X.T @ v_inv
    information = np.array([[0.5 * np.trace(project @ a @ project @ b) for b in first] for a in first])
    w = np.linalg.inv(information)
    total = np.zeros_like(phi)
    for r in range(len(tau)):
        for s in range(len(tau)):
            q = X.T @ v_inv @ first[r] @ v_inv @ first[s] @ v_inv @ X
            inner = slope(
                lambda t, s=s: slope(lambda u: covariance(name, fit, data, u), t, steps[s], 1.0), tau, steps[r], 1.0
            )
            bend = X.T @ v_inv @ inner @ v_inv @ X
            total += w[r, s] * (q - p[r] @ phi @ p[s] - bend / 4)
    return phi + 2 * phi @ total @ phi, phi, np.array(p), w


def dense_denominator(L, phi, p, w):
    """m of an F(1, m) test of one row L."""
    theta = np.outer(L, L) / (L @ phi @ L)
    traces = np.array([np.trace(theta @ phi @ a @ phi) for a in p])
    return 2 / (traces @ w @ traces)


@pytest.mark.parametrize("name", MODELS)
def test_kenward_roger(name):
    fit = fitted(name)
    data = EARLY if name == "un" else HALVES
    adjusted, phi, p, w = dense_kenward_roger(name, fit, data)
    np.testing.assert_allclose(fit.vcov, phi, rtol=1e-8)
    table = fit.summary(ddf="kenward-roger").coefficients
    np.testing.assert_allclose(table["se"], np.sqrt(np.diag(adjusted)), rtol=1e-6)
    df = [dense_denominator(L, phi, p, w) for L in np.eye(len(phi))]
    np.testing.assert_allclose(table["df"], df, rtol=1e-6)


@pytest.mark.parametrize("name", ["ar1 ident", "un"])
def test_satterthwaite(name):
    # Invariant to the choice of parameters at the minimum of the REML deviance: take τ.
    fit = fitted(name)
    data, tau, X = (EARLY if name == "un" else DATA), estimated(name, fit), fit.design.X

    def deviance(t):
        v = covariance(name, fit, data, t)
        inverse = np.linalg.inv(v)
        m = X.T @ inverse @ X
        left = fit.design.y - X @ np.linalg.solve(m, X.T @ inverse @ fit.design.y)
        return np.linalg.slogdet(v)[1] + np.linalg.slogdet(m)[1] + left @ inverse @ left

    def vcov(t):
        return np.linalg.inv(X.T @ np.linalg.solve(covariance(name, fit, data, t), X))

    hessian = numeric_jacobian(lambda t: numeric_jacobian(deviance, t), tau)
    gradients = np.moveaxis(numeric_jacobian(vcov, tau), -1, 0)
    table = fit.summary(ddf="satterthwaite").coefficients
    for j in range(X.shape[1]):
        g = gradients[:, j, j]
        df = 2 * fit.vcov.iloc[j, j] ** 2 / (g @ (2 * np.linalg.inv(hessian)) @ g)
        assert table["df"].iloc[j] == pytest.approx(df, rel=1e-4)


def test_growth_of_two_arms_as_in_the_text_books():
    # In a balanced design with one unstructured covariance the test of the arms' means over occasions is exact: t on
    # (subjects − 2) degrees of freedom, and Kenward and Roger find them.
    rng = np.random.default_rng(5)
    y = rng.normal(size=(14, 3)) @ np.linalg.cholesky([[1, 0.5, 0.2], [0.5, 2, 0.5], [0.2, 0.5, 1]]).T
    data = {"id": np.repeat(np.arange(14), 3), "t": np.tile([0, 1, 2], 14), "arm": np.repeat(np.arange(14) % 2, 3)}
    fit = lj.gls("y ~ 0 + C(t) + C(t):arm", {**data, "y": y.ravel()}, lj.un("t", "id"))
    L = np.array([0, 0, 0, 1, 1, 1]) / 3
    test = lj.linear_test(fit, L, ddf="kenward-roger")
    means = y.mean(1)
    a, b = means[1::2], means[::2]
    pooled = (a.var(ddof=1) + b.var(ddof=1)) / 2
    assert test.ddf == pytest.approx(12, rel=1e-6)
    assert test.statistic == pytest.approx((a.mean() - b.mean()) ** 2 / (pooled * 2 / 7), rel=1e-6)


def test_batch_is_a_loop():
    fit = fitted("ar1 ident")
    draws = lj.simulate(fit, 3, seed=1)
    batch = lj.refit_many(fit, draws)
    for ddf in ("satterthwaite", "kenward-roger"):
        found = batch.test("day", ddf=ddf)
        for y, row in zip(draws, found.itertuples(), strict=True):
            single = lj.linear_test(lj.refit(fit, y), "day", ddf=ddf)
            assert row.ddf == pytest.approx(single.ddf, rel=1e-4)
            assert row.statistic == pytest.approx(single.statistic, rel=1e-4)
