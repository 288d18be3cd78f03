"""Priors on (θ, σ), a known σ and held θ: the optimum is one of the function that it says, and differentiable."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_cases import (
    build,
    close,
    compiled,
    float64,  # noqa: F401
    forward_and_backward,
)
from jax.tree_util import Partial
from scipy.optimize import minimize

from lmmjax.core import Design, RandomTerm, Template, cross_products, deviance, estimate
from lmmjax.core.optimize import CONVERGED, FIXED


def gamma(rate, theta, sigma):
    """Log density of a gamma of shape 2.5 on the first and the last θ (blme's default has rate 0)."""
    sd = jnp.abs(theta[jnp.array([0, -1])])
    return jnp.sum(1.5 * jnp.log(sd) - rate * sd * sigma)


def no_prior(theta, sigma):
    """Flat."""
    return 0.0 * sigma


@pytest.fixture
def cp():
    return cross_products(build("vector 2", 31))


@pytest.mark.parametrize("reml", [True, False])
def test_a_flat_prior_and_the_estimated_sigma_change_nothing(cp, reml):
    plain = estimate(cp, reml)
    for fit in (estimate(cp, reml, log_prior=no_prior), estimate(cp, reml, sigma=plain.sigma)):
        assert fit.status == CONVERGED
        np.testing.assert_allclose(fit.criterion, plain.criterion, rtol=1e-12)
        np.testing.assert_allclose(abs(fit.theta), abs(plain.theta), atol=1e-6)
        np.testing.assert_allclose(fit.sigma, plain.sigma, rtol=1e-6)
        np.testing.assert_allclose(fit.vcov, plain.vcov, rtol=1e-5, atol=1e-9)


def quadratic(theta, sigma):
    """Normal in θ and in log σ."""
    return -2 * jnp.sum((theta - 0.8) ** 2) - 3 * jnp.log(sigma) ** 2


def test_a_prior_is_added_to_the_likelihood(cp):
    def objective(v, reml):
        return deviance(v[:-1], jnp.exp(v[-1]), cp, reml) - 2 * quadratic(v[:-1], jnp.exp(v[-1]))

    both, curvature = map(compiled, (jax.value_and_grad(objective), jax.hessian(objective)))
    for reml in (True, False):
        fit = estimate(cp, reml, log_prior=quadratic)
        at = np.append(fit.theta, np.log(fit.sigma))
        assert fit.status == CONVERGED
        value, slopes = both(at, reml)
        assert np.abs(slopes).max() < 1e-5
        assert np.linalg.eigvalsh(curvature(at, reml)).min() > 0
        np.testing.assert_allclose(fit.criterion, deviance(fit.theta, fit.sigma, cp, reml), rtol=1e-13)
        by_scipy = minimize(both, at + 0.3, args=(reml,), jac=True)
        assert value <= by_scipy.fun + 1e-9


def null_design() -> Design:
    """One factor whose estimated variance is zero."""
    rng = np.random.default_rng(4)
    y = rng.normal(size=(6, 5))
    y -= y.mean(1, keepdims=True)
    codes = np.repeat(np.arange(6), 5)
    return Design(np.ones((30, 1)), y.ravel(), (RandomTerm(np.ones((30, 1)), codes, 6, Template.full(1)),))


def test_a_gamma_prior_avoids_the_boundary():
    cp = cross_products(null_design())
    assert estimate(cp).theta[0] == 0
    fit = estimate(cp, log_prior=Partial(gamma, 0.0))
    assert fit.status == CONVERGED
    assert fit.free.all()
    assert fit.theta[0] > 0.05


def test_known_sigma_is_a_meta_analysis():
    """Effects with known variances: the estimate maximises the likelihood of yᵢ ~ N(μ, sᵢ² + τ²)."""
    rng = np.random.default_rng(6)
    s = rng.uniform(0.2, 0.6, 12)
    y = 1 + rng.normal(size=12) * np.sqrt(s**2 + 0.25)
    term = RandomTerm(np.ones((12, 1)), np.arange(12), 12, Template.full(1))
    cp = cross_products(Design(np.ones((12, 1)), y, (term,), weights=1 / s**2))

    def marginal(tau, reml):
        v = s**2 + tau**2
        mu = np.sum(y / v) / np.sum(1 / v)
        return np.sum(np.log(2 * np.pi * v) + (y - mu) ** 2 / v) + reml * (np.log(np.sum(1 / v)) - np.log(2 * np.pi))

    for reml in (True, False):
        fit = estimate(cp, reml, sigma=1.0)
        best = minimize(lambda t, r=reml: marginal(t[0], r), [0.3], method="Nelder-Mead", options={"xatol": 1e-9})
        assert (fit.status, fit.sigma) == (CONVERGED, 1.0)
        np.testing.assert_allclose(fit.theta[0], abs(best.x[0]), rtol=1e-5)
        np.testing.assert_allclose(fit.criterion, marginal(fit.theta[0], reml), rtol=1e-12)
        v = s**2 + fit.theta[0] ** 2
        np.testing.assert_allclose(fit.vcov[0, 0], 1 / np.sum(1 / v), rtol=1e-10)


def test_sigma_known_and_theta_given(cp):
    fit = estimate(cp, theta=np.array([1.0, 0.2, 0.5]), sigma=2.0)
    assert (fit.status, fit.sigma) == (FIXED, 2.0)
    np.testing.assert_allclose(fit.criterion, deviance(np.array([1.0, 0.2, 0.5]), 2.0, cp), rtol=1e-13)


def test_held_theta_stay_and_the_others_are_optimal(cp):
    held = np.array([0.7, 0.0, 0.4])
    fit = estimate(cp, theta=held, free=np.array([True, False, True]))
    assert fit.status == CONVERGED
    assert fit.theta[1] == 0
    np.testing.assert_array_equal(fit.free, [True, False, True])
    diagonal = build("vector 2", 31)
    term = RandomTerm(diagonal.terms[0].x, diagonal.terms[0].codes, 8, Template.diagonal(2))
    same = estimate(cross_products(diagonal.replace(terms=(term,))))
    np.testing.assert_allclose(fit.criterion, same.criterion, rtol=1e-12)
    np.testing.assert_allclose(abs(fit.theta[[0, 2]]), same.theta, atol=1e-6)


def by_hand(objective, z, held=()):
    """dz/dt = −H⁻¹ ∂²/∂z∂t of the objective (z, t) at t = 0, over the z that are not held."""
    free = np.array([i for i in range(len(z)) if i not in held])
    slopes = compiled(jax.jacfwd(jax.grad(objective), argnums=(0, 1)))
    hessian, mixed = map(np.asarray, slopes(z, 0.0))
    out = np.zeros(len(z))
    out[free] = -np.linalg.solve(hessian[np.ix_(free, free)], mixed[free])
    return out


def check_derivatives(fit_at, objective, held=()):
    """θ̂ and log σ̂ move as the objective says; β̂ as it does at a fixed θ and along θ̂; backward as forward."""
    fit = fit_at(0.0)
    z = np.append(fit.theta, np.log(fit.sigma))

    def value(t):
        e = fit_at(t)
        return jnp.append(e.theta, jnp.log(e.sigma))

    forward, backward = compiled(lambda t: forward_and_backward(value, t, 1.0, np.ones_like(z)))(0.0)
    close(forward, by_hand(objective, z, held), 1e-6)
    np.testing.assert_allclose(backward, np.sum(forward), rtol=1e-8, atol=1e-12)


@pytest.fixture
def moved(cp):
    """t ↦ cross-products of a response that moves with t."""
    y = np.asarray(cp.rows.y)
    return lambda t: cp.with_response(y + t * np.cos(np.arange(len(y))))


def test_derivatives_in_data_and_hyperparameters(moved):
    def objective(z, t):
        theta, sigma = z[:-1], jnp.exp(z[-1])
        return deviance(theta, sigma, moved(t)) - 2 * gamma(0.5 + t, theta, sigma)

    check_derivatives(lambda t: estimate(moved(t), log_prior=Partial(gamma, 0.5 + t)), objective)


def test_derivatives_in_a_known_sigma(moved):
    def objective(z, t):
        return deviance(z[:-1], 1.2 + t, moved(t), False)

    def fit(t):
        return estimate(moved(t), False, sigma=1.2 + t)

    forward = compiled(lambda t: jax.jvp(lambda t: fit(t).theta, (t,), (1.0,))[1])(0.0)
    close(forward, by_hand(lambda z, t: objective(jnp.append(z, 0.0), t), fit(0.0).theta), 1e-6)


def test_derivatives_beside_held_theta(moved):
    def objective(z, t):
        theta = jnp.stack([z[0], 0.3 + t, z[2]])
        return deviance(theta, jnp.exp(z[-1]), moved(t))

    def fit(t):
        theta = jnp.array([0.7, 0.3, 0.4]) + t * jnp.array([0.0, 1.0, 0.0])
        return estimate(moved(t), theta=theta, free=np.array([True, False, True]))

    at = fit(0.0)
    expected = by_hand(objective, np.append(at.theta, np.log(at.sigma)), held=(1,))
    expected[1] = 1.0

    def value(t):
        e = fit(t)
        return jnp.append(e.theta, jnp.log(e.sigma))

    close(compiled(lambda t: jax.jvp(value, (t,), (1.0,))[1])(0.0), expected, 1e-6)
