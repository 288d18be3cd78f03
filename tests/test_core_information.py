"""Fisher information against traces of dense matrices, and against autodiff of dense likelihoods."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_cases import (
    build,
    centred,
    close,
    compiled,
    dense_covariance,
    float64,  # noqa: F401
    products,
    random_matrix,
    random_theta,
    singular_theta,
    slope,
)
from scipy import linalg

from lmmjax.core import Template, cross_products, deviance, estimate, expansion
from lmmjax.core.information import information, theta_sigma_hessian, variance_information

CASES = ("scalar", "two terms", "nested 3", "crossed vectors", "mix, sparse")
SIGMA = 1.3


def projections(design, theta, reml):
    """V and V⁻¹, or P for REML."""
    v = SIGMA**2 * dense_covariance(design, theta)
    inverse = np.linalg.inv(v)
    if not reml:
        return inverse
    vx = inverse @ design.X
    return inverse - vx @ np.linalg.solve(design.X.T @ vx, vx.T)


def expected(changes, p):
    """½ tr(P V_a P V_b)."""
    turned = [p @ c for c in changes]
    return np.array([[0.5 * np.sum(a * b.T) for b in turned] for a in turned])


@pytest.mark.parametrize("name", ["two terms", "crossed vectors", "mix, sparse"])  # JAX's Hessian compiles for seconds
def test_observed_is_half_the_hessian(name):
    design = build(name, 3)
    cp = products(name, design)
    by_jax = compiled(jax.hessian(lambda x, reml: deviance(x[:-1], x[-1], cp, reml)))
    for theta, reml in ((random_theta(design, 3), True), (singular_theta(design, 3), False)):
        x = np.append(theta, SIGMA)
        hessian = by_jax(x, reml)
        close(2 * information(theta, SIGMA, cp, reml), hessian, 1e-10)
        close(theta_sigma_hessian(theta, SIGMA, cp, reml), hessian, 1e-10)


@pytest.mark.parametrize("name", CASES)
def test_expected_is_a_trace(name):
    design = build(name, 4)
    cp = products(name, design)
    for theta, reml in ((random_theta(design, 4), True), (singular_theta(design, 4), False)):
        x = np.append(theta, SIGMA)
        changes = [slope(lambda x: x[-1] ** 2 * dense_covariance(design, x[:-1]), x, e) for e in np.eye(len(x))]
        close(
            information(theta, SIGMA, cp, reml, expected=True),
            expected(changes, projections(design, theta, reml)),
            1e-8,
        )


@pytest.mark.parametrize("name", CASES)
def test_of_variances(name):
    """V is linear in the variances, so that observed = −½ tr(PV_aPV_b) + yᵀPV_aPV_bPy, and both hold at zero."""
    design = build(name, 5)
    cp = products(name, design)
    z, changes, at = random_matrix(design).toarray(), [], 0
    for term in design.terms:
        q = term.n_levels * term.p
        for row, col in zip(*term.template.fn.indices, strict=True):
            e = np.zeros((term.p, term.p))
            e[row, col] = e[col, row] = 1
            changes.append(z[:, at : at + q] @ np.kron(np.eye(term.n_levels), e) @ z[:, at : at + q].T)
        at += q
    changes.append(np.diag(1 / design.weights))
    for theta in (random_theta(design, 5), np.zeros(design.n_theta)):
        for reml in (True, False):
            p, of_y = projections(design, theta, reml), projections(design, theta, True) @ centred(design)
            trace = expected(changes, p)
            close(variance_information(theta, SIGMA, cp, reml, expected=True), trace, 1e-9)
            quadratic = np.array(
                [[of_y @ a @ projections(design, theta, True) @ b @ of_y for b in changes] for a in changes]
            )
            close(variance_information(theta, SIGMA, cp, reml), quadratic - trace, 1e-9)


@pytest.mark.parametrize("name", ["two terms", "crossed vectors"])
def test_with_the_fixed_effects(name):
    design = build(name, 6)
    cp, theta = products(name, design), random_theta(design, 6)
    z = jnp.asarray(random_matrix(design).toarray())

    def value(v):
        beta, t, sigma = v[:3], v[3:-1], v[-1]
        blocks, at = [], 0
        for term in design.terms:
            block = term.template(t[at : at + term.template.n_theta])
            blocks.append(jnp.kron(jnp.eye(term.n_levels), block))
            at += term.template.n_theta
        factor = z @ jax.scipy.linalg.block_diag(*blocks)
        v0 = sigma**2 * (jnp.diag(1 / design.weights) + factor @ factor.T)
        e = centred(design) - design.X @ beta
        return 0.5 * (jnp.linalg.slogdet(v0)[1] + e @ jnp.linalg.solve(v0, e))

    v = dense_covariance(design, theta)
    beta = linalg.solve(design.X.T @ np.linalg.solve(v, design.X), design.X.T @ np.linalg.solve(v, centred(design)))
    at = np.concatenate([beta, theta, [SIGMA]])
    close(information(theta, SIGMA, cp, False, beta=True), compiled(jax.hessian(value))(at), 1e-9)
    block = information(theta, SIGMA, cp, False, expected=True, beta=True)
    close(block[:3, :3], design.X.T @ np.linalg.solve(SIGMA**2 * v, design.X), 1e-10)
    close(block[:3, 3:], np.zeros((3, len(theta) + 1)), 1e-15)


def test_the_optimiser_sees_the_same_information():
    """Profiling σ out leaves the Schur complement of the observed information."""
    cp = cross_products(build("vector 2", 7))
    fit = estimate(cp)
    whole = 2 * np.asarray(information(fit.theta, fit.sigma, cp))
    schur = whole[:-1, :-1] - np.outer(whole[:-1, -1], whole[-1, :-1]) / whole[-1, -1]
    close(expansion(fit.theta, cp)[2], schur, 1e-9)


def test_covariances_of_a_function_have_no_natural_scale():
    design = build("vector 3", 1)
    term = design.terms[0].__class__(design.terms[0].x, design.terms[0].codes, 8, Template.ar1(3))
    with pytest.raises(ValueError, match="full and diagonal"):
        variance_information(np.ones(2), 1.0, cross_products(design.replace(terms=(term,))))
