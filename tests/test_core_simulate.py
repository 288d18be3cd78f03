"""Simulated responses have the model's moments, and a replicate depends on its own number only."""

import jax
import numpy as np
import pytest
from core_cases import (
    build,
    close,
    dense_covariance,
    float64,  # noqa: F401
    random_theta,
    rows_of,
)

from lmmjax.core import linear_predictor, simulate

BETA, SIGMA, MANY = np.array([1.0, -2, 0.5]), 0.7, 20_000


def example():
    """Twelve rows of a design with crossed factors, weights and an offset, and its θ."""
    design = rows_of(build("crossed", 41), np.arange(12))
    return design, random_theta(design, 41)


def assert_moments(draws, mean, covariance) -> None:
    """Every entry of the sample mean and covariance within five Monte Carlo standard errors."""
    n, variances = len(draws), np.diag(covariance)
    assert np.all(np.abs(np.mean(draws, 0) - mean) < 5 * np.sqrt(variances / n))
    se = np.sqrt((np.outer(variances, variances) + covariance**2) / n)
    assert np.all(np.abs(np.cov(draws.T) - covariance) < 5 * se)


def test_moments_of_the_marginal_distribution():
    design, theta = example()
    draws = simulate(design, theta, BETA, SIGMA, jax.random.key(1), MANY)
    mean = design.X @ BETA + design.offset
    assert_moments(np.asarray(draws), mean, SIGMA**2 * dense_covariance(design, theta))


def test_moments_given_the_effects():
    design, theta = example()
    rng = np.random.default_rng(0)
    b = [rng.normal(size=(t.n_levels, t.p)) for t in design.terms]
    draws = simulate(design, theta, BETA, SIGMA, jax.random.key(2), MANY, b)
    assert_moments(np.asarray(draws), linear_predictor(design, BETA, b), np.diag(SIGMA**2 / design.weights))


def test_no_random_term():
    design = rows_of(build("no term", 42, weights=False, offset=False), np.arange(12))
    draws = simulate(design, np.zeros(0), BETA, SIGMA, jax.random.key(3), MANY)
    assert_moments(np.asarray(draws), design.X @ BETA, SIGMA**2 * np.eye(12))


@pytest.mark.parametrize("first, n", [(0, 2), (3, 5), (1000, 7)])
def test_a_replicate_depends_on_its_number_only(first, n):
    """Bit for bit in chunks of two or more; alone, XLA may round the last bit otherwise."""
    design, theta = example()
    key = jax.random.key(4)
    chunk = simulate(design, theta, BETA, SIGMA, key, n, first=first)
    later = simulate(design, theta, BETA, SIGMA, key, n + 3, first=first + 1)
    np.testing.assert_array_equal(later[: n - 1], chunk[1:])
    close(simulate(design, theta, BETA, SIGMA, key, 1, first=first)[0], chunk[0], 1e-14)
    assert len(np.unique(chunk[:, 0])) == n
