"""Estimates are minima: stationary, never above a multi-start search, equal to closed forms, whatever the start."""

import importlib
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_cases import (
    QUICK,
    SEEDS,
    build,
    close,
    compiled,
    float64,  # noqa: F401
    products,
)
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from lmmjax.core import (
    STATUS,
    Design,
    RandomTerm,
    Template,
    cross_products,
    default_start,
    estimate,
    expansion,
    profile,
)

CONVERGED, FAILED, FIXED = 0, 4, 5
FITTED = ("scalar", "vector 2", "crossed vectors")
fitted = pytest.mark.parametrize("name", FITTED)
# `lmmjax.core.estimate` by attribute is the function.
MODULE = importlib.import_module("lmmjax.core.estimate")


def null_or_not(name: str, seed: int):
    """A design whose response has no random effects for even seeds: about half of those optima are on the boundary."""
    design = build(name, seed)
    return design.replace(y=np.random.default_rng(seed).normal(size=design.n)) if seed % 2 == 0 else design


def best_of_many_starts(cp, fit, seed: int) -> float:
    """The least criterion that BFGS finds from T = I and ten random starts of many sizes."""
    rng, scale = np.random.default_rng(seed), fit.scale

    def evaluate(x):
        value, gradient, _ = expansion(x / scale, cp)
        return float(value), np.asarray(gradient) / scale

    starts = [default_start(cp) * scale, *(rng.normal(size=len(scale)) * 10 ** rng.uniform(-1.5, 1) for _ in range(10))]
    return min(minimize(evaluate, s, jac=True, method="BFGS", options={"gtol": 1e-6}).fun for s in starts)


@fitted
@pytest.mark.parametrize("seed", range(10))
def test_never_above_a_multistart_search(name, seed):
    cp = products(name, null_or_not(name, seed))
    fit = estimate(cp)
    assert fit.status == CONVERGED
    assert fit.criterion <= best_of_many_starts(cp, fit, seed) + 1e-8


@fitted
@pytest.mark.parametrize("seed", range(6))
def test_certificate(name, seed):
    """What is reported at the estimate is the expansion there: no slope, no direction down, T's diagonals positive."""
    cp = products(name, null_or_not(name, seed))
    fit = estimate(cp)
    value, gradient, hessian = expansion(fit.theta, cp)
    close(fit.criterion, value, 1e-13)
    close(fit.gradient, gradient, 1e-10)
    close(fit.hessian, hessian, 1e-10)
    assert np.max(np.abs(gradient / fit.scale)) < 1e-5
    curvature = np.linalg.eigvalsh(hessian / fit.scale / fit.scale[:, None])
    assert curvature[0] > -1e-6 * (1 + curvature[-1])
    at = 0
    for template in cp.plan.templates:
        diagonal = np.equal(*template.fn.indices)
        assert np.all(fit.theta[at : at + template.n_theta][diagonal] >= 0)
        at += template.n_theta


@fitted
@pytest.mark.parametrize("factor", [100, 0.01, -1])
def test_start_does_not_matter(name, factor):
    cp = products(name, build(name, 1))
    near, far = estimate(cp), estimate(cp, start=factor * default_start(cp))
    assert far.status == CONVERGED
    close(far.criterion, near.criterion, 1e-10)
    close(far.theta, near.theta, 1e-5)


@pytest.mark.parametrize("seed", [1, 3, 5])
def test_a_saddle_is_left(seed):
    """The fit without a term is stationary in the model with it, and no minimum where the term matters."""
    design = build("crossed", seed)
    alone = estimate(cross_products(design.replace(terms=design.terms[:1])))
    cp = cross_products(design)
    at_saddle = np.append(alone.theta, 0.0)
    _, gradient, hessian = expansion(at_saddle, cp)
    assert np.max(np.abs(gradient)) < 1e-5
    assert np.linalg.eigvalsh(hessian)[0] < -0.1
    fit = estimate(cp, start=at_saddle)
    assert fit.status == CONVERGED
    assert fit.saddle
    close(fit.criterion, estimate(cp).criterion, 1e-10)
    close(fit.theta, estimate(cp).theta, 1e-5)


# Balanced one-way layout: everything is a function of F = MSB/MSE.

LEVELS, PER_LEVEL = 6, 4


def one_way(f: float, seed: int = 0) -> Design:
    """A balanced one-way layout whose F statistic is exactly f, with mean square error one."""
    rng, g = np.random.default_rng(seed), np.repeat(np.arange(LEVELS), PER_LEVEL)
    within = rng.normal(size=(LEVELS, PER_LEVEL))
    within -= within.mean(1, keepdims=True)
    within *= np.sqrt(LEVELS * (PER_LEVEL - 1) / np.sum(within**2))
    between = rng.normal(size=LEVELS)
    between -= between.mean()
    between *= np.sqrt(f * (LEVELS - 1) / PER_LEVEL / np.sum(between**2))
    one = np.ones((len(g), 1))
    return Design(one, 10 + between[g] + within.ravel(), (RandomTerm(one, g, LEVELS, Template.full(1)),))


@pytest.mark.parametrize("reml", [True, False])
@QUICK
@given(st.floats(0, 3).filter(lambda ratio: abs(ratio - 1) > 1e-4), SEEDS)
def test_balanced_one_way(reml, ratio_drawn, seed):
    """REML is zero iff F < 1, ML iff F < a/(a−1); else θ² = (F − 1)/r with (a−1)F/a in the place of F for ML."""
    critical = 1 if reml else LEVELS / (LEVELS - 1)
    for ratio in (ratio_drawn, 0.999, 1.001):
        fit = estimate(cross_products(one_way(ratio * critical, seed)), reml)
        assert fit.status == CONVERGED
        assert (fit.theta[0] < 1e-6) == (ratio < 1)
        np.testing.assert_allclose(fit.theta[0] ** 2, max(0.0, ratio - 1) / PER_LEVEL, rtol=0, atol=2e-7)
        if ratio > 1:
            np.testing.assert_allclose(fit.sigma, 1, rtol=1e-6)


# What the arguments and the status say


def test_theta_fixed_is_the_profile():
    cp = products("vector 2", build("vector 2", 0))
    theta = np.array([0.7, -0.3, 0.4])
    fit, found = estimate(cp, theta=theta), profile(theta, cp)
    assert fit.status == FIXED
    np.testing.assert_array_equal(fit.theta, theta)
    for part in ("criterion", "beta", "sigma", "unscaled_vcov", "deviance"):
        close(getattr(fit, part), getattr(found, part), 1e-13)
    close(fit.vcov, found.sigma**2 * found.unscaled_vcov, 1e-13)


def test_no_random_term_is_least_squares():
    design = build("no term", 0, weights=False, offset=False)
    fit = estimate(cross_products(design))
    beta, rss, *_ = np.linalg.lstsq(design.X, design.y)
    assert fit.status == FIXED
    assert fit.theta.shape == (0,)
    close(fit.beta, beta, 1e-12)
    close(fit.sigma, np.sqrt(rss[0] / (design.n - design.p)), 1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_response_that_is_not_finite_fails_without_an_exception(bad):
    design = one_way(2.0)
    design.y[3] = bad
    cp = cross_products(design)
    for fit in (estimate(cp), compiled(estimate)(cp)):
        assert STATUS[int(fit.status)].startswith("failed")


@pytest.mark.parametrize("noise", [0.0, 1e-9])
def test_a_vanishing_residual_variance_is_not_called_converged(noise):
    design = one_way(2.0)
    means = design.y.reshape(LEVELS, -1).mean(1)[design.terms[0].codes]
    cp = cross_products(design.replace(y=means + noise * np.random.default_rng(0).normal(size=design.n)))
    assert estimate(cp).status != CONVERGED


# Other routes to the same optimum


@pytest.mark.parametrize("name, seed", [("vector 2", 0), ("vector 3", 2)])
def test_lbfgs_first_ends_at_the_same_optimum(name, seed, monkeypatch):
    cp = products(name, null_or_not(name, seed))
    expected = estimate(cp)
    monkeypatch.setattr(MODULE, "MANY_THETA", 0)
    fit = estimate(cp)
    assert fit.status == CONVERGED
    close(fit.criterion, expected.criterion, 1e-10)
    close(fit.theta, expected.theta, 1e-4)


@pytest.mark.parametrize("name", ["crossed", "crossed, sparse", "crossed vectors"])
@pytest.mark.parametrize("seed", range(3))
def test_secant_curvature_ends_at_the_same_optimum(name, seed, monkeypatch):
    cp = products(name, null_or_not(name, seed))
    expected = estimate(cp)
    monkeypatch.setattr(MODULE, "SECANT_REST", 0)
    fit = estimate(cp)
    assert fit.status == CONVERGED
    close(fit.criterion, expected.criterion, 1e-9)


def test_vmap_is_a_loop_and_the_compiled_loop_is_the_host_loop():
    name = "vector 2"
    design = build(name, 1)
    cp = cross_products(design)
    ys = np.stack([null_or_not(name, seed).y for seed in range(4)])
    vmapped = jax.vmap(lambda y, cp: estimate(cp.with_response(y)), (0, None))
    batch = compiled(vmapped)(ys, jax.tree.map(jnp.asarray, cp))
    loop = [estimate(cp.with_response(y)) for y in ys]
    np.testing.assert_array_equal(batch.status, [fit.status for fit in loop])
    for part in ("criterion", "beta", "sigma"):
        close(getattr(batch, part), np.stack([getattr(fit, part) for fit in loop]), 1e-7)
    close(batch.theta, np.stack([fit.theta for fit in loop]), 1e-5)


# Equivariance


@QUICK
@given(seed=SEEDS, a=st.floats(-10, 10), c=st.floats(0.01, 100))
def test_location_and_scale_of_the_response(seed, a, c):
    design = build("vector 2", seed, offset=False)
    fit = estimate(cross_products(design))
    moved = estimate(cross_products(design.replace(y=a + c * design.y)))
    n_p = design.n - design.p
    close(moved.criterion, fit.criterion + 2 * n_p * np.log(c), 1e-9)
    close(moved.theta, fit.theta, 1e-5)
    close(moved.sigma / c, fit.sigma, 1e-6)
    close(moved.beta / c, fit.beta + np.array([a, 0, 0]) / c, 1e-6)


@QUICK
@given(seed=SEEDS, units=st.floats(-4, 4))
def test_units_of_a_column_of_z(seed, units):
    design = build("vector 2", seed)
    term, c = design.terms[0], 10**units
    changed = design.replace(terms=(replace(term, x=term.x * [1, c]),))
    fit, other = (estimate(cross_products(d)) for d in (design, changed))
    close(other.criterion, fit.criterion, 1e-9)
    close(other.theta * [1, c, c], fit.theta, 1e-5)
    close(other.b[0] * np.array([1, c]), fit.b[0], 1e-5)
