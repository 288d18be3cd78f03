"""Covariances of one's own: templates of a function, and levels that are correlated, against dense computations."""

from dataclasses import replace

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
    dense_criterion,
    float64,  # noqa: F401
    gls,
    numeric_jacobian,
)

from lmmjax.core import (
    Design,
    Template,
    conditional_variances,
    criterion,
    cross_products,
    estimate,
    estimate_many,
    expansion,
    profile,
    random_matrix,
    relative_factor,
    simulate,
)
from lmmjax.core.optimize import CONVERGED


def unequal(theta):
    """A T that is neither triangular nor linear."""
    return jnp.exp(theta[0]) * jnp.eye(3) + theta[1] * jnp.ones((3, 3)) * jnp.sin(theta[2])


TEMPLATES = {
    "compound symmetry": Template.compound_symmetry(3),
    "ar1": Template.ar1(3),
    "exponential": Template.exponential([0.0, 0.5, 2.0]),
    "own function": Template(unequal, (0.1, 0.2, 0.3)),
}


def with_template(name: str, template: Template) -> Design:
    """A case of `core_cases` whose last term has another template."""
    design = build(name, 5)
    return design.replace(terms=(*design.terms[:-1], replace(design.terms[-1], template=template)))


def with_kinship(name: str, which: int, levels: int = 0) -> Design:
    """A case whose term `which` has correlated levels."""
    design = build(name, 6)
    term = design.terms[which]
    root = np.random.default_rng(levels).normal(size=(term.n_levels, term.n_levels)) / 2
    factor = np.linalg.cholesky(root @ root.T + np.eye(term.n_levels))
    terms = list(design.terms)
    terms[which] = replace(term, level_factor=factor)
    return design.replace(terms=tuple(terms))


def test_shipped_templates_have_the_covariances_they_name():
    sd = 1.7
    cs = np.asarray(Template.compound_symmetry(4)(np.array([sd, 0.3])))
    rho = (4 / (1 + np.exp(-0.3)) - 1) / 3
    np.testing.assert_allclose(cs @ cs.T, sd**2 * (rho + (1 - rho) * np.eye(4)), rtol=1e-14)
    ar = np.asarray(Template.ar1(4)(np.array([sd, -0.8])))
    lags = abs(np.subtract.outer(np.arange(4), np.arange(4)))
    np.testing.assert_allclose(ar @ ar.T, sd**2 * np.tanh(-0.8) ** lags, rtol=1e-13)
    at = np.array([0, 0.5, 2, 2.1])
    ex = np.asarray(Template.exponential(at)(np.array([sd, np.log(1.3)])))
    np.testing.assert_allclose(ex @ ex.T, sd**2 * np.exp(-abs(np.subtract.outer(at, at)) / 1.3), rtol=1e-13)
    for template in TEMPLATES.values():
        assert (template.p, template(np.array(template.start)).shape) == (3, (3, 3))
    for template in list(TEMPLATES.values())[:3]:
        np.testing.assert_allclose(template(np.array(template.start)), np.tril(template(np.array(template.start))))


def test_independence_is_where_compound_symmetry_and_ar1_start():
    for template in (Template.compound_symmetry(5), Template.ar1(5)):
        np.testing.assert_allclose(template(np.array(template.start)), np.eye(5), atol=1e-15)


def test_descending_positions_are_refused():
    with pytest.raises(ValueError, match="ascend"):
        Template.exponential([0, 2, 1])


@pytest.mark.parametrize("name", ["vector 3", "crossed, vector 3"])
@pytest.mark.parametrize("kind", TEMPLATES)
def test_criterion_and_its_derivatives(name, kind):
    design = with_template("vector 3", TEMPLATES[kind])
    if name != "vector 3":
        crossed = build("crossed vectors", 5)  # g:2 h:3 k:1
        design = with_template("crossed vectors", Template.full(1))
        terms = crossed.terms[0], replace(crossed.terms[1], template=TEMPLATES[kind]), crossed.terms[2]
        design = crossed.replace(terms=terms)
    cp = cross_products(design)
    theta = np.random.default_rng(3).normal(size=design.n_theta)
    for reml in (True, False):
        value, gradient, hessian = expansion(theta, cp, reml)
        close(value, dense_criterion(design, theta, reml), 1e-12)
        close(gradient, numeric_jacobian(lambda t, r=reml: criterion(t, cp, r), theta), 1e-8)
        close(hessian, numeric_jacobian(lambda t, r=reml: expansion(t, cp, r)[1], theta), 1e-8)


@pytest.mark.parametrize("kind", ["compound symmetry", "ar1"])
def test_estimates_find_the_optimum(kind):
    rng = np.random.default_rng(8)
    design = with_template("vector 3", TEMPLATES[kind])
    term = replace(design.terms[0], codes=np.repeat(np.arange(20), 12), n_levels=20, x=rng.normal(size=(240, 3)))
    X = np.column_stack([np.ones(240), rng.normal(size=240)])
    design = Design(X, np.zeros(240), (term,))
    truth = np.array([1.5, 0.7])
    Y = np.asarray(simulate(design, truth, np.ones(2), 0.5, jax.random.key(1), 3))
    cp = cross_products(design)
    slopes = compiled(jax.grad(criterion))
    many = estimate_many(cp, Y) if kind == "ar1" else None  # which compiles for seconds
    for i, y in enumerate(Y):
        fit = estimate(cp.with_response(y))
        assert fit.status == CONVERGED
        assert fit.free.all()
        assert np.abs(slopes(fit.theta, cp.with_response(y))).max() < 1e-5
        near = [criterion(fit.theta + 0.05 * rng.normal(size=2), cp.with_response(y)) for _ in range(5)]
        assert min(near) > fit.criterion
        if many:
            np.testing.assert_allclose(many.criterion[i], fit.criterion, rtol=1e-10)
            assert abs(np.tanh(fit.theta[1]) - np.tanh(0.7)) < 0.3


KINSHIP = [("scalar", 0), ("vector 3", 0), ("crossed", 0), ("mix", 1), ("nested 3", 2)]


@pytest.mark.parametrize("name, which", KINSHIP)
def test_correlated_levels(name, which):
    design = with_kinship(name, which)
    cp = cross_products(design)
    theta = np.random.default_rng(4).normal(size=design.n_theta)
    for reml in (True, False):
        close(criterion(theta, cp, reml), dense_criterion(design, theta, reml), 1e-12)
        close(cross_criterion(design, theta, reml), dense_criterion(design, theta, reml), 1e-12)
    beta, _, _ = gls(design, theta)
    d, z, v = factor(design, theta), random_matrix(design).toarray(), dense_covariance(design, theta)
    effects = d @ z.T @ np.linalg.solve(v, centred(design) - design.X @ beta)
    found = profile(theta, cp)
    close(np.concatenate([np.asarray(b).ravel() for b in found.b]), effects, 1e-10)
    left = d - d @ z.T @ np.linalg.solve(v, z @ d)
    at = 0
    expected = []
    for term in design.terms:
        q = term.n_levels * term.p
        block = left[at : at + q, at : at + q].reshape(term.n_levels, term.p, term.n_levels, term.p)
        expected.append(np.einsum("lalb->lab", block))
        at += q
    factors = cp.plan.chain + cp.plan.rest
    for one, variances in zip(factors, conditional_variances(theta, cp), strict=True):
        if len(one.terms) == 1:
            close(variances, expected[one.terms[0]], 1e-10)


@pytest.mark.parametrize("name, which", [("scalar", 0), ("crossed", 0), ("crossed", 1)])
def test_batches_of_correlated_levels_are_loops(name, which):
    design = with_kinship(name, which).replace(weights=None)
    cp = cross_products(design, orthonormal=True)
    Y = np.asarray(simulate(design, np.ones(design.n_theta), np.ones(3), 1.0, jax.random.key(3), 4))
    found = estimate_many(cp, Y)
    for i, y in enumerate(Y):
        one = estimate(cp.with_response(y))
        np.testing.assert_allclose(found.criterion[i], one.criterion, rtol=1e-9)
        np.testing.assert_allclose(found.theta[i], one.theta, atol=1e-4)


def test_batches_of_an_own_scalar_template_are_loops():
    design = with_template("scalar", Template(scalar, (0.0,)))
    cp = cross_products(design)
    Y = design.y + np.random.default_rng(0).normal(size=(3, design.n))
    found = estimate_many(cp, Y)
    for i, y in enumerate(Y):
        np.testing.assert_allclose(found.criterion[i], estimate(cp.with_response(y)).criterion, rtol=1e-9)


def scalar(theta):
    """A standard deviation on the log scale."""
    return jnp.exp(theta)[:, None]


def cross_criterion(design, theta, reml):
    """The criterion from chunks of rows and with a response set later."""
    other = cross_products(design.replace(y=0 * design.y))
    return criterion(theta, other.with_response(design.y), reml)


def factor(design, theta):
    """ΛΛᵀ, (q, q)."""
    root = relative_factor(design, theta).toarray()
    return root @ root.T


def test_simulated_effects_have_the_levels_covariance():
    design = with_kinship("scalar", 0).replace(weights=None)
    Y = np.asarray(simulate(design, np.array([2.0]), np.zeros(3), 1.0, jax.random.key(0), 40_000))
    expected = dense_covariance(design, np.array([2.0]))
    found = np.cov(Y.T)
    assert np.abs(found - expected).max() < 6 * expected.max() * np.sqrt(2 / 40_000)


def test_identity_between_levels_changes_nothing():
    design = build("crossed", 2)
    term = replace(design.terms[0], level_factor=np.eye(design.terms[0].n_levels))
    plain, same = (
        estimate(cross_products(design)),
        estimate(cross_products(design.replace(terms=(term, design.terms[1])))),
    )
    np.testing.assert_allclose(same.criterion, plain.criterion, rtol=1e-12)
    np.testing.assert_allclose(same.theta, plain.theta, atol=1e-6)
