"""Every derivative equals finite differences, everywhere: at random θ, at zero, at singular θ, and in the data."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_cases import (
    FEW,
    N,
    WITH_TERMS,
    build,
    close,
    float64,  # noqa: F401
    numeric_jacobian,
    plan_of,
    products,
    random_theta,
    singular_theta,
    slope,
)

from lmmjax.core import criterion, cross_products, deviance, expansion, profile, theta_sigma_hessian

SEED = 11
POINTS = {
    "random": random_theta,
    "zero": lambda design, seed: np.zeros(design.n_theta),
    "singular": singular_theta,
}
at_points = pytest.mark.parametrize("point", POINTS)
few = pytest.mark.parametrize("name", FEW)
first = jax.jit(jax.grad(criterion), static_argnames="reml")
second = jax.jit(jax.hessian(criterion), static_argnames="reml")


def example(name: str, point: str):
    """θ at one of the points and the case's cross-products."""
    design = build(name, SEED)
    return POINTS[point](design, SEED), products(name, design)


@pytest.mark.parametrize("name", WITH_TERMS)
@at_points
def test_gradient_of_the_criterion(name, point):
    theta, cp = example(name, point)
    close(first(theta, cp), numeric_jacobian(lambda t: criterion(t, cp), theta), 1e-8)


@pytest.mark.parametrize("name", WITH_TERMS)
@at_points
def test_expansion_is_value_gradient_and_hessian(name, point):
    theta, cp = example(name, point)
    value, gradient, hessian = expansion(theta, cp)
    close(value, criterion(theta, cp), 1e-13)
    close(gradient, first(theta, cp), 1e-11)
    close(hessian, numeric_jacobian(lambda t: expansion(t, cp)[1], theta), 1e-8)


@few
@at_points
def test_hessian_by_jax_is_the_closed_form(name, point):
    theta, cp = example(name, point)
    close(second(theta, cp), expansion(theta, cp)[2], 1e-11)


@few
def test_ml_derivatives(name):
    theta, cp = example(name, "random")
    _, gradient, hessian = expansion(theta, cp, False)
    close(gradient, numeric_jacobian(lambda t: criterion(t, cp, False), theta), 1e-8)
    close(hessian, numeric_jacobian(lambda t: expansion(t, cp, False)[1], theta), 1e-8)


@few
@pytest.mark.parametrize("reml", [False, True])
def test_deviance_in_theta_and_sigma(name, reml):
    theta, cp = example(name, "random")
    x = np.append(theta, 0.8)
    gradient = jax.jit(jax.grad(lambda x, cp: deviance(x[:-1], x[-1], cp, reml)))
    close(gradient(x, cp), numeric_jacobian(lambda x: deviance(x[:-1], x[-1], cp, reml), x), 1e-8)
    hessian = numeric_jacobian(lambda x: gradient(x, cp), x)
    close(theta_sigma_hessian(theta, 0.8, cp, reml), hessian, 1e-8)


@few
def test_forward_mode_is_reverse_mode(name):
    theta, cp = example(name, "random")
    close(jax.jit(jax.jacfwd(criterion))(theta, cp), first(theta, cp), 1e-12)
    close(jax.jit(jax.jacrev(jax.jacrev(criterion)))(theta, cp), expansion(theta, cp)[2], 1e-11)


@few
def test_jit_is_eager_and_vmap_is_a_loop(name):
    theta, cp = example(name, "random")
    with jax.disable_jit():
        close(criterion(theta, cp), criterion.__wrapped__(theta, cp), 1e-14)
        eager = expansion(theta, cp)
    thetas = np.stack([theta, np.zeros_like(theta), -2 * theta])
    batch = jax.vmap(expansion, (0, None))(thetas, cp)
    loop = [expansion(t, cp) for t in thetas]
    for i in range(3):
        close(eager[i], loop[0][i], 1e-12)
        close(batch[i], np.stack([one[i] for one in loop]), 1e-12)


@few
def test_the_criterion_is_even_in_each_column(name):
    theta, cp = example(name, "random")
    design = build(name, SEED)
    flips, at = np.ones_like(theta), 0
    for term in design.terms:
        flips[at : at + term.template.n_theta][term.template.indices[1] == 0] = -1
        at += term.template.n_theta
    close(criterion(theta * flips, cp), criterion(theta, cp), 1e-14)


# Data enter through the cross-products


def data_function(name, part, plan_orthonormal=False):
    """Design and the criterion as a function of one of its arrays."""
    design = jax.tree.map(jnp.asarray, build(name, SEED))
    theta, plan = random_theta(design, SEED), plan_of(name, build(name, SEED))

    def value(a):
        if part == "z":
            changed = design.replace(terms=(replace(design.terms[0], x=a), *design.terms[1:]))
        else:
            changed = design.replace(**{part: a})
        return criterion(theta, cross_products(changed, plan, plan_orthonormal))

    return getattr(design, part) if part != "z" else design.terms[0].x, jax.jit(value)


@few
@pytest.mark.parametrize("part", ["y", "X", "z", "weights", "offset"])
def test_gradient_in_the_data(name, part):
    at, value = data_function(name, part)
    direction = np.random.default_rng(1).normal(size=at.shape)
    gradient = jax.jit(jax.grad(value))(at)
    close(jnp.sum(gradient * direction), slope(value, at, direction), 1e-8)


def test_gradient_in_the_response_of_an_orthonormal_design():
    y, value = data_function("mix", "y", plan_orthonormal=True)
    plain = data_function("mix", "y")[1]
    close(jax.jit(jax.grad(value))(y), jax.jit(jax.grad(plain))(y), 1e-10)


def test_gradient_in_y_has_its_closed_form():
    """dc/dy = 2ν V⁻¹(y − Xβ − o)/r², checked by the profile of the same products: V⁻¹e = W(e − Zb)."""
    name, design = "mix", build("mix", SEED)
    theta, plan = random_theta(design, SEED), plan_of(name, design)
    gradient = jax.grad(lambda y: criterion(theta, cross_products(design.replace(y=y), plan)))(jnp.asarray(design.y))
    found = profile(theta, cross_products(design, plan))
    e = design.y - design.offset - design.X @ found.beta
    for term, b in zip(design.terms, found.b, strict=True):
        e = e - np.sum(term.x * np.asarray(b)[term.codes], -1)
    close(gradient, 2 * (N - design.p) * design.weights * e / found.prss, 1e-11)
