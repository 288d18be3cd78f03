"""Every derivative equals finite differences, everywhere: at random θ, at zero, at singular θ, and in the data."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_cases import (
    PATHS,
    N,
    build,
    close,
    compiled,
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
EXPANDED = ("scalar", "vector 2", "diagonal", "crossed, sparse", *PATHS[1:])
few = pytest.mark.parametrize("name", ["vector 2", "crossed, sparse"])
gradient = compiled(jax.grad(criterion))


def example(name: str):
    """A design of the case, its cross-products, and θ at random, at zero and where every T is singular."""
    design = build(name, SEED)
    points = random_theta(design, SEED), np.zeros(design.n_theta), singular_theta(design, SEED)
    return design, products(name, design), points


@pytest.mark.parametrize("name", EXPANDED)
def test_expansion_is_value_gradient_and_hessian(name):
    _, cp, points = example(name)
    for theta, reml in zip(points * 2, [True] * 3 + [False] * 3, strict=True):
        value, slopes, hessian = expansion(theta, cp, reml)
        close(value, criterion(theta, cp, reml), 1e-13)
        close(slopes, numeric_jacobian(lambda t, reml=reml: criterion(t, cp, reml), theta), 1e-8)
        close(hessian, numeric_jacobian(lambda t, reml=reml: expansion(t, cp, reml)[1], theta), 1e-8)


@pytest.mark.parametrize("name", ["vector 5", "nested 3", "mix, sparse"])
def test_gradient_by_jax(name):
    _, cp, points = example(name)
    for theta in points:
        close(gradient(theta, cp), numeric_jacobian(lambda t: criterion(t, cp), theta), 1e-8)


@few
def test_hessian_by_jax_is_the_closed_form(name):
    _, cp, points = example(name)
    hessian = compiled(jax.hessian(criterion))
    for theta in points:
        close(hessian(theta, cp), expansion(theta, cp)[2], 1e-11)


@few
def test_deviance_in_theta_and_sigma(name):
    _, cp, (theta, *_) = example(name)
    x = np.append(theta, 0.8)
    slopes = compiled(jax.grad(lambda x, cp: deviance(x[:-1], x[-1], cp)))
    close(slopes(x, cp), numeric_jacobian(lambda x: deviance(x[:-1], x[-1], cp), x), 1e-8)
    close(theta_sigma_hessian(theta, 0.8, cp), numeric_jacobian(lambda x: slopes(x, cp), x), 1e-8)


@few
def test_forward_and_reverse_mode_agree(name):
    _, cp, (theta, *_) = example(name)
    _, slopes, hessian = expansion(theta, cp)
    close(compiled(jax.jacfwd(criterion))(theta, cp), slopes, 1e-12)
    close(compiled(jax.jacrev(jax.jacrev(criterion)))(theta, cp), hessian, 1e-11)


def test_jit_is_eager():
    _, cp, (theta, *_) = example("crossed, sparse")
    with jax.disable_jit():
        eager = criterion(theta, cp)
    close(eager, criterion(theta, cp), 1e-14)


@few
def test_vmap_is_a_loop(name):
    _, cp, points = example(name)
    batch = jax.vmap(expansion, (0, None))(np.stack(points), cp)
    for i, parts in enumerate(zip(*(expansion(theta, cp) for theta in points), strict=True)):
        close(batch[i], np.stack(parts), 1e-12)


@pytest.mark.parametrize("name", ["vector 5", "nested 3", "crossed vectors"])
def test_criterion_is_even_in_each_column_of_each_template(name):
    design, cp, (theta, *_) = example(name)
    at = 0
    for term in design.terms:
        columns = term.template.fn.indices[1]
        for column in range(term.p):
            flipped = theta.copy()
            flipped[at : at + len(columns)][columns == column] *= -1
            close(criterion(flipped, cp), criterion(theta, cp), 1e-13)
        at += len(columns)


# The data enter through the cross-products.


def with_part(design, part: str, value):
    """The design with one of its arrays exchanged; "z" is the raw model matrix of the last term."""
    if part != "z":
        return design.replace(**{part: value})
    return design.replace(terms=(*design.terms[:-1], replace(design.terms[-1], x=value)))


@pytest.mark.parametrize("name, orthonormal", [("vector 2", False), ("crossed", True), ("crossed, sparse", False)])
def test_gradient_in_the_data(name, orthonormal):
    design, plan = jax.tree.map(jnp.asarray, build(name, SEED)), plan_of(name, build(name, SEED))
    theta = random_theta(design, SEED)
    parts = {p: design.terms[-1].x if p == "z" else getattr(design, p) for p in ("y", "X", "z", "weights", "offset")}

    def value(parts):
        changed = design
        for part, array in parts.items():
            changed = with_part(changed, part, array)
        return criterion(theta, cross_products(changed, plan, orthonormal))

    slopes, at = compiled(jax.grad(value))(parts), compiled(value)
    for part, array in parts.items():
        direction = np.random.default_rng(1).normal(size=array.shape)
        expected = slope(lambda a, part=part: at({**parts, part: a}), array, direction)
        close(jnp.sum(slopes[part] * direction), expected, 1e-8)


def test_gradient_in_y_has_its_closed_form():
    """dc/dy = 2ν V⁻¹(y − o − Xβ)/r², and V⁻¹(y − o − Xβ) = W(y − o − Xβ − Zb)."""
    name, design = "mix", build("mix", SEED)
    theta, plan = random_theta(design, SEED), plan_of(name, design)
    slopes = compiled(jax.grad(lambda y: criterion(theta, cross_products(design.replace(y=y), plan))))(design.y)
    found = profile(theta, cross_products(design, plan))
    e = design.y - design.offset - design.X @ found.beta
    for term, b in zip(design.terms, found.b, strict=True):
        e = e - np.sum(term.x * np.asarray(b)[term.codes], -1)
    close(slopes, 2 * (N - design.p) * design.weights * e / found.prss, 1e-11)


def test_jax_arrays_in_the_products_need_no_host():
    """Under jit with the plan as an argument, for one design and for a batch of responses."""
    name = "crossed, sparse"
    design = build(name, SEED)
    plan, theta = plan_of(name, design), random_theta(design, SEED)
    ys = np.stack([design.y, design.y**2])

    @partial(jax.vmap, in_axes=(0, None, None))
    def batched(y, design, plan):
        return criterion(theta, cross_products(design.replace(y=y), plan))

    expected = [criterion(theta, cross_products(design.replace(y=y), plan)) for y in ys]
    close(compiled(batched)(ys, design, plan), np.stack(expected), 1e-12)
