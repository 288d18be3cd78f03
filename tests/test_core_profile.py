"""What θ determines equals a dense solution of the penalised least-squares problem, for every elimination plan."""

import numpy as np
import pytest
from core_cases import (
    PATHS,
    build,
    centred,
    close,
    dense_covariance,
    dense_criterion,
    dense_factor,
    float64,  # noqa: F401
    gls,
    plan_of,
    products,
    random_theta,
    singular_theta,
)

from lmmjax.core import (
    cholesky_blocks,
    conditional_variances,
    linear_predictor,
    profile,
    random_matrix,
    relative_factor,
)

EXACT = 1e-10
POINTS = (random_theta, singular_theta, lambda design, seed: np.zeros(design.n_theta))


def penalised_solution(design, theta):
    """(u, β, r²) of min ‖√W(y − o − Xβ − ZΛu)‖² + ‖u‖² by stacked dense least squares."""
    z, root = dense_factor(design, theta), np.sqrt(design.weights)[:, None]
    q = z.shape[1]
    stacked = np.block([[root * z, root * design.X], [np.eye(q), np.zeros((q, design.p))]])
    target = np.concatenate([root[:, 0] * centred(design), np.zeros(q)])
    solution, *_ = np.linalg.lstsq(stacked, target)
    return solution[:q], solution[q:], np.sum((target - stacked @ solution) ** 2)


def flat(blocks):
    """(q,) effects in the order of Z's columns."""
    return np.concatenate([*(np.asarray(b).ravel() for b in blocks), np.zeros(0)])


@pytest.mark.parametrize("name", [*PATHS, "long mix, sparse"])
def test_profile_is_the_dense_solution(name):
    design = build(name, 21)
    for point, orthonormal in zip(POINTS, (False, True, False), strict=True):
        theta, cp = point(design, 21), products(name, design, orthonormal)
        u, beta, prss = penalised_solution(design, theta)
        found = profile(theta, cp)
        close(flat(found.u), u, EXACT)
        close(flat(found.b), relative_factor(design, theta) @ u, EXACT)
        close(found.beta, beta, EXACT)
        close(found.prss, prss, EXACT)
        close(found.sigma, np.sqrt(prss / (design.n - design.p)), EXACT)
        close(profile(theta, cp, False).sigma, np.sqrt(prss / design.n), EXACT)
        close(found.beta, gls(design, theta)[0], EXACT)
        close(found.unscaled_vcov, gls(design, theta)[2], EXACT)
        close(found.criterion, dense_criterion(design, theta, True), EXACT)
        close(found.deviance, dense_criterion(design, theta, False), EXACT)


@pytest.mark.parametrize("name", PATHS)
def test_conditional_variances_are_the_dense_ones(name):
    """Var(b | y, β, θ)/σ² = D − DZᵀV⁻¹ZD, its diagonal blocks by factor."""
    design = build(name, 22)
    plan, cp = plan_of(name, design), products(name, design)
    offsets = np.cumsum([0, *(t.p * t.n_levels for t in design.terms)])
    for point in POINTS:
        theta = point(design, 22)
        z, factor = random_matrix(design).toarray(), relative_factor(design, theta).toarray()
        d = factor @ factor.T
        full = d - d @ z.T @ np.linalg.solve(dense_covariance(design, theta), z @ d)
        for f, blocks in zip(plan.chain + plan.rest, conditional_variances(theta, cp), strict=True):
            for level in range(f.n_levels):
                columns = [offsets[i] + level * design.terms[i].p + np.arange(design.terms[i].p) for i in f.terms]
                where = np.concatenate(columns)
                close(blocks[level], full[np.ix_(where, where)], EXACT)


@pytest.mark.parametrize("name", [*PATHS, "long mix, sparse"])
def test_cholesky_blocks_rebuild_the_system(name):
    design = build(name, 23)
    theta = random_theta(design, 23)
    lower, rzx, rx = cholesky_blocks(design, theta)
    z, x = (np.sqrt(design.weights)[:, None] * a for a in (dense_factor(design, theta), design.X))
    close(lower @ lower.T, z.T @ z + np.eye(design.q), EXACT)
    close(lower @ rzx, z.T @ x, EXACT)
    close(rzx.T @ rzx + rx.T @ rx, x.T @ x, EXACT)
    np.testing.assert_array_equal(np.tril(rx, -1), 0)
    np.testing.assert_array_equal(np.triu(lower, 1), 0)
    found = profile(theta, products(name, design))
    close(found.log_l, 2 * np.sum(np.log(np.diagonal(lower))), EXACT)
    close(found.log_rx, 2 * np.sum(np.log(np.diagonal(rx))), EXACT)


@pytest.mark.parametrize("name", ["no term", "vector 2", "mix"])
def test_linear_predictor(name):
    design = build(name, 24)
    found = profile(random_theta(design, 24), products(name, design))
    beta, b = np.asarray(found.beta), [np.asarray(b) for b in found.b]
    fixed = design.offset + design.X @ beta
    eta = linear_predictor(design, beta, b)
    assert isinstance(eta, np.ndarray)
    close(eta, fixed + random_matrix(design) @ flat(b), 1e-12)
    close(linear_predictor(design.replace(offset=None), beta), fixed - design.offset, 1e-12)
