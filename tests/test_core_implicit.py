"""The fit is a differentiable function: every output against finite differences of refits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_cases import (
    build,
    close,
    float64,  # noqa: F401
    plan_of,
    slope,
)

import lmmjax as lj
from lmmjax.core import Design, RandomTerm, Template, cross_products, estimate, estimate_many, make_plan

CASES = ("scalar", "vector 2", "two terms", "nested 3", "crossed", "mix, sparse")
MODELS = {
    "sleepstudy": "Reaction ~ Days + (Days|Subject)",
    "pulp": "bright ~ 1 + (1|operator)",
    "eggs": "Fat ~ 1 + (1|Lab) + (1|Lab:Technician) + (1|Lab:Technician:Sample)",
    "Penicillin": "diameter ~ 1 + (1|plate) + (1|sample)",
    "soybean_sim": "AqE ~ days + Precip + (1|plot_number) + (1|disk)",
}


def outputs(fit):
    """All that has derivatives, in one vector."""
    parts = [fit.theta, fit.beta, fit.sigma, fit.criterion, fit.deviance, fit.vcov, *fit.b, *fit.u]
    return jnp.concatenate([jnp.ravel(a) for a in parts])


def floats(design: Design) -> dict:
    """The arrays of a design that derivatives are for."""
    x = [t.x for t in design.terms]
    return {"X": design.X, "y": design.y, "weights": design.weights, "offset": design.offset, "x": x}


def fitted(arrays: dict, design: Design, plan, reml: bool):
    """outputs of the fit of the design with these arrays."""
    terms = tuple(
        RandomTerm(x, t.codes, t.n_levels, t.template) for x, t in zip(arrays["x"], design.terms, strict=True)
    )
    rest = {k: v for k, v in arrays.items() if k != "x"}
    return outputs(estimate(cross_products(design.replace(terms=terms, **rest), plan), reml))


def moved(arrays, direction, t):
    return jax.tree.map(lambda a, d: a + t * d, arrays, direction)


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_derivatives_are_those_of_refits(name, reml):
    design = build(name, 21)
    plan, arrays = plan_of(name, design), floats(design)
    rng = np.random.default_rng(2)
    direction = jax.tree.map(lambda a: 0.3 * rng.normal(size=a.shape), arrays)
    along = jax.jit(lambda t: fitted(moved(arrays, direction, t), design, plan, reml))
    forward = jax.jit(lambda t: jax.jvp(along, (t,), (1.0,))[1])(0.0)
    refits = slope(lambda t: along(t[0]), np.zeros(1), np.ones(1), 2e-3)
    close(forward, refits, 2e-6)
    weights = rng.normal(size=forward.shape)
    backward = jax.jit(jax.grad(lambda a: weights @ fitted(a, design, plan, reml)))(arrays)
    total = sum(np.sum(g * d) for g, d in zip(jax.tree.leaves(backward), jax.tree.leaves(direction), strict=True))
    np.testing.assert_allclose(total, weights @ forward, rtol=1e-9)


@pytest.mark.parametrize("name", ["vector 2", "crossed"])
def test_second_derivatives_are_those_of_first(name):
    design = build(name, 22)
    plan, arrays = plan_of(name, design), floats(design)
    rng = np.random.default_rng(3)
    direction = jax.tree.map(lambda a: 0.3 * rng.normal(size=a.shape), arrays)

    def value(a):
        return jnp.sum(jnp.sin(fitted(a, design, plan, True)[:8]))

    first = jax.jit(lambda t: jax.jvp(lambda s: value(moved(arrays, direction, s)), (t,), (1.0,))[1])
    second = jax.jit(lambda t: jax.jvp(first, (t,), (1.0,))[1])(0.0)
    close(second, slope(lambda t: first(t[0]), np.zeros(1), np.ones(1), 2e-3), 1e-6)
    mixed = jax.jit(lambda a: jax.jvp(jax.grad(value), (a,), (direction,))[1])(arrays)
    total = sum(np.sum(g * d) for g, d in zip(jax.tree.leaves(mixed), jax.tree.leaves(direction), strict=True))
    np.testing.assert_allclose(total, second, rtol=1e-8)


@pytest.mark.parametrize("data", MODELS)
def test_data_sets(data):
    frame = lj.datasets.load(data)
    fit = lj.lmer(MODELS[data], frame)
    cp, y = fit.cross_products, fit.design.y
    direction = fit.sigma * np.cos(np.arange(len(y)))

    def along(t):
        return outputs(estimate(cp.with_response(y + t * direction)))

    along = jax.jit(along)
    forward = jax.jit(lambda t: jax.jvp(along, (t,), (1.0,))[1])(0.0)
    refits = slope(lambda t: along(t[0]), np.zeros(1), np.ones(1), 2e-2)
    assert np.abs(forward - refits).max() < 2e-6 * np.abs(refits).max()
    backward = jax.jit(jax.grad(lambda t: jnp.sum(along(t)[:4])))(0.0)
    np.testing.assert_allclose(backward, np.sum(forward[:4]), rtol=1e-8)


def boundary() -> Design:
    """Two crossed factors, of which the second has less variance between levels than chance gives."""
    rng = np.random.default_rng(0)
    g, h = np.repeat(np.arange(8), 6), np.tile(np.arange(6), 8)
    noise = rng.normal(size=(8, 6))
    noise -= noise.mean(0)  # the levels of h have equal means
    y = (noise + rng.normal(size=(8, 1)) * 2).ravel()
    one = np.ones((48, 1))
    terms = RandomTerm(one, g, 8, Template.full(1)), RandomTerm(one, h, 6, Template.full(1))
    return Design(np.column_stack([np.ones(48), rng.normal(size=48)]), y, terms)


@pytest.mark.parametrize("reml", [True, False])
def test_only_the_free_part_moves_on_the_boundary(reml):
    design = boundary()
    plan, direction = make_plan(design.terms), 0.3 * np.sin(np.arange(48))
    fit = estimate(cross_products(design, plan), reml)
    np.testing.assert_array_equal(fit.free, [True, False])
    np.testing.assert_array_equal(fit.theta == 0, [False, True])

    def along(t):
        return outputs(estimate(cross_products(design.replace(y=design.y + t * direction), plan), reml))

    forward = jax.jit(lambda t: jax.jvp(along, (t,), (1.0,))[1])(0.0)
    assert forward[1] == 0
    close(forward, slope(lambda t: along(t[0]), np.zeros(1), np.ones(1), 1e-3), 1e-6)
    backward = jax.jit(jax.grad(lambda t: along(t)[0]))(0.0)
    np.testing.assert_allclose(backward, forward[0], rtol=1e-9)


def test_vmap_and_estimate_many_are_a_loop():
    design = build("vector 2", 23)
    cp = cross_products(design)
    Y = design.y + np.random.default_rng(1).normal(size=(3, design.n))

    def one(y):
        fit = estimate(cp.with_response(y))
        return fit.sigma + fit.theta.sum() + fit.beta[1]

    def many(ys):
        found = estimate_many(cp, ys)
        return jnp.sum(found.sigma + found.theta.sum(1) + found.beta[:, 1])

    loop = np.stack([jax.jit(jax.grad(one))(y) for y in Y])
    close(jax.jit(jax.vmap(jax.grad(one)))(Y), loop, 1e-9)
    close(jax.jit(jax.grad(many))(Y), loop, 1e-9)


def test_upstream_parameters():
    """A parameter of the user's own code, before the design."""
    design = build("vector 2", 24)
    plan = make_plan(design.terms)

    def value(rate):
        x = jnp.exp(-rate * jnp.abs(design.terms[0].x))
        term = RandomTerm(x, design.terms[0].codes, design.terms[0].n_levels, design.terms[0].template)
        return estimate(cross_products(design.replace(terms=(term,)), plan), False).criterion

    close(jax.jit(jax.grad(value))(0.5), slope(lambda r: jax.jit(value)(r[0]), np.array([0.5]), np.ones(1)), 1e-6)
