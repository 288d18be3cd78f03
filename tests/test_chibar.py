"""Mixtures of χ² from cones: closed forms, conditions of projections, and draws against both."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats
from scipy.optimize import nnls

from lmmjax.inference.chibar import (
    closed_weights,
    coordinates,
    matrices,
    project,
    simulate,
    size,
    tail,
)

CONES = [(1, 1), (1, 1, 1), (2,), (2, 1), (1, 1, 1, 1), (3,), (2, 2)]


def covariance(k: int, seed: int = 0) -> np.ndarray:
    """Some (k, k) covariance."""
    a = np.random.default_rng(seed).normal(size=(k, k + 4))
    return a @ a.T


def normals(n: int, k: int) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(n, k))


def correlated(k: int, rho: float) -> np.ndarray:
    """Unit variances, one correlation."""
    return (1 - rho) * np.eye(k) + rho


def congruence(p: int, g: np.ndarray) -> np.ndarray:
    """The matrix of S → GSGᵀ in coordinates."""
    return coordinates(g @ matrices(np.eye(p * (p + 1) // 2), p) @ g.T).T


# -------------------------------------------------------------------------------------------------------- closed forms


def test_orthants():
    assert_allclose(closed_weights((), np.zeros((0, 0))), [1])
    assert_allclose(closed_weights((1,), np.array([[7.0]])), [0.5, 0.5])
    assert_allclose(closed_weights((1, 1), np.diag([3.0, 0.2])), [0.25, 0.5, 0.25])
    assert_allclose(closed_weights((1, 1, 1), np.diag([3.0, 0.2, 9])), np.array([1, 3, 3, 1]) / 8)
    for rho in (-0.9, -0.3, 0.6):
        scale = np.array([[4.0, 2], [2, 1]])
        both = 0.25 + np.arcsin(rho) / (2 * np.pi)
        assert_allclose(closed_weights((1, 1), scale * correlated(2, rho)), [0.5 - both, 0.5, both])


@pytest.mark.parametrize("k", [2, 3])
def test_equal_correlations_of_one_half(k):
    """Then xᵢ = z₀ + zᵢ, all positive where −z₀ is the smallest of k + 1: one out of k + 1."""
    assert closed_weights((1,) * k, correlated(k, 0.5))[-1] == pytest.approx(1 / (k + 1), rel=1e-12)


def test_matrices_of_two_columns_in_their_own_metric():
    """The cone is then circular with a half angle of 45 degrees (Kuriki & Takemura 2000)."""
    root = np.sqrt(2)
    assert_allclose(closed_weights((2,), 3 * np.eye(3)), np.array([2 - root, root, root, 2 - root]) / 4, rtol=1e-12)


def test_congruences_change_no_weights():
    g = np.array([[2.0, 0], [-300, 150]])
    for w in (np.eye(3), covariance(3)):
        turn = congruence(2, g)
        assert_allclose(closed_weights((2,), turn @ w @ turn.T), closed_weights((2,), w), rtol=1e-8)


def test_share_of_positive_definite_matrices():
    n = 400_000
    for seed in range(3):
        w = covariance(3, seed)
        drawn = matrices(normals(n, 3) @ np.linalg.cholesky(w).T, 2)
        share = np.mean(np.linalg.eigvalsh(drawn)[:, 0] > 0)
        exact = closed_weights((2,), w)[-1]
        assert share == pytest.approx(exact, abs=4 * np.sqrt(exact / n))


def test_more_dimensions_have_no_closed_form():
    assert closed_weights((2, 1), np.eye(4)) is None
    assert closed_weights((1, 1, 1, 1), np.eye(4)) is None


def test_tails():
    """Point mass at zero, and χ² on more degrees of freedom where other parameters are tested as well."""
    assert tail(0.0, [0.5, 0.5], 0) == 1
    assert tail(2.7, [0.5, 0.5], 0) == pytest.approx(0.5 * stats.chi2.sf(2.7, 1))
    assert tail(2.7, [0.2, 0.3, 0.5], 4) == pytest.approx(stats.chi2.sf(2.7, [4, 5, 6]) @ [0.2, 0.3, 0.5])


# --------------------------------------------------------------------------------------------------------- projections


def test_coordinates_keep_inner_products():
    a, b = covariance(3, 1), covariance(3, 2)
    assert coordinates(a) @ coordinates(b) == pytest.approx(np.trace(a @ b))
    assert_allclose(matrices(coordinates(a), 3), a)


@pytest.mark.parametrize("blocks", CONES, ids=str)
def test_conditions_of_the_nearest_point(blocks):
    """x ∈ K, W⁻¹(x − c) ∈ K (its own dual), and the two are orthogonal: together they suffice."""
    k = size(blocks)
    w = covariance(k)
    c = normals(300, k) @ np.linalg.cholesky(w).T
    x = project(c, w, blocks)
    dual = (x - c) @ np.linalg.inv(w)
    assert_allclose(np.sum(x * dual, 1), 0, atol=1e-5)
    start = 0
    for p in blocks:
        part = slice(start, start := start + p * (p + 1) // 2)
        assert np.linalg.eigvalsh(matrices(x[:, part], p)).min() > -1e-12
        assert np.linalg.eigvalsh(matrices(dual[:, part], p)).min() > -1e-6


def test_nearest_points_of_orthants_are_least_squares():
    w = covariance(4, 3)
    root = np.linalg.inv(np.linalg.cholesky(w))
    c = normals(40, 4) @ np.linalg.cholesky(w).T
    assert_allclose(project(c, w, (1, 1, 1, 1)), [nnls(root, root @ row)[0] for row in c], atol=1e-6)


# --------------------------------------------------------------------------------------------------------------- draws


@pytest.mark.parametrize("blocks", CONES[:3], ids=str)
@pytest.mark.parametrize("free", [0, 2])
def test_draws_follow_the_closed_form(blocks, free):
    n, k = 10_000, size(blocks)
    w = covariance(k)
    found, exact = simulate(blocks, w, free, normals(n, k + free)), closed_weights(blocks, w)
    assert found.weights.sum() == pytest.approx(1)
    assert_allclose(found.weights, exact, atol=4 * 0.5 / np.sqrt(n))
    for statistic in (0.5, 3.0, 12.0, 40.0):
        p, se = found.tail(statistic)
        assert p == pytest.approx(tail(statistic, exact, free), abs=4 * se)
        count = np.mean(found.draws >= statistic)
        assert count == pytest.approx(p, abs=4 * np.sqrt(p / n))
    assert found.tail(0.0) == (1.0, 0.0)


def test_independent_cones_convolve():
    """Weights of a product of independent cones are those of a sum."""
    n, w = 10_000, np.zeros((4, 4))
    w[:3, :3], w[3, 3] = covariance(3), 2.0
    found = simulate((2, 1), w, 0, normals(n, 4))
    exact = np.convolve(closed_weights((2,), w[:3, :3]), [0.5, 0.5])
    for statistic in (1.0, 4.0, 25.0):
        p, se = found.tail(statistic)
        assert p == pytest.approx(tail(statistic, exact, 0), abs=4 * se)
    assert_allclose(found.weights, exact, atol=4 * 0.5 / np.sqrt(n))


def test_draws_do_not_depend_on_the_basis():
    """S → GSGᵀ with G lower triangular: the projections are the same points."""
    w, turn = covariance(6, 2), congruence(3, np.array([[1.0, 0, 0], [5, 30, 0], [0.1, 0, 1e-3]]))
    one, other = (simulate((3,), v, 1, normals(2000, 7)) for v in (w, turn @ w @ turn.T))
    assert_allclose(other.draws, one.draws, atol=1e-5)
