"""The fit is a differentiable function: every output against finite differences of refits."""

from functools import cache

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
    plan_of,
    slope,
)
from hypothesis import assume, given
from hypothesis import strategies as st

import lmmjax as lj
from lmmjax.core import Design, RandomTerm, Template, cross_products, estimate, estimate_many, expansion, make_plan
from lmmjax.core.rectify import column_norms

MODELS = {
    "sleepstudy": "Reaction ~ Days + (Days|Subject)",
    "pulp": "bright ~ 1 + (1|operator)",
    "eggs": "Fat ~ 1 + (1|Lab) + (1|Lab:Technician) + (1|Lab:Technician:Sample)",
    "Penicillin": "diameter ~ 1 + (1|plate) + (1|sample)",
    "soybean_sim": "AqE ~ days + Precip + (1|plot_number) + (1|disk)",
}


def polished(cp, reml):
    """The fit after one more Newton step: differences of refits need θ̂ to more digits than a fit does."""
    fit = estimate(cp, reml)
    _, gradient, hessian = expansion(fit.theta, cp, reml)
    hessian = jnp.where(fit.free & fit.free[:, None], hessian, jnp.eye(len(gradient)))
    theta = fit.theta - jnp.linalg.solve(hessian, jnp.where(fit.free, gradient, 0))
    return estimate(cp, reml, theta=theta)


def outputs(fit):
    """All that has derivatives, in one vector."""
    parts = [fit.theta, fit.beta, fit.sigma, fit.criterion, fit.deviance, fit.vcov, *fit.b, *fit.u]
    return jnp.concatenate([jnp.ravel(a) for a in parts])


def floats(design: Design) -> dict:
    """The arrays of a design that derivatives are for."""
    x = [t.x for t in design.terms]
    return {"X": design.X, "y": design.y, "weights": design.weights, "offset": design.offset, "x": x}


def with_arrays(design: Design, arrays: dict) -> Design:
    """The design with these arrays."""
    terms = tuple(
        RandomTerm(x, t.codes, t.n_levels, t.template) for x, t in zip(arrays["x"], design.terms, strict=True)
    )
    rest = {k: v for k, v in arrays.items() if k != "x"}
    return design.replace(terms=terms, **rest)


def moved(arrays, direction, t):
    return jax.tree.map(lambda a, d: a + t * d, arrays, direction)


def problem(arrays, design: Design, plan):
    """Derivatives and refits along a direction of all arrays; codes and plan are traced, so that seeds share them."""
    return cross_products(with_arrays(design, arrays), plan)


@cache
def functions(name: str):
    """The compiled derivative, forward and reverse, and refits, of a case."""

    def fitted(arrays, design, plan, reml):
        return outputs(estimate(problem(arrays, design, plan), reml))

    def forward(design, plan, direction, reml):
        return jax.jvp(lambda a: fitted(a, design, plan, reml), (floats(design),), (direction,))[1]

    def backward(design, plan, direction, reml, weights):
        slopes = jax.grad(lambda a: weights @ fitted(a, design, plan, reml))(floats(design))
        return sum(jnp.sum(g * d) for g, d in zip(jax.tree.leaves(slopes), jax.tree.leaves(direction), strict=True))

    def refit(design, plan, direction, reml, t):
        return outputs(polished(problem(moved(floats(design), direction, t), design, plan), reml))

    return compiled(forward), compiled(backward), compiled(refit)


def is_smooth(fit, plan) -> bool:
    """Whether differences stay on one side of the boundary."""
    size = column_norms(fit.theta * fit.scale, fit.scale, plan)
    curvature = np.diagonal(fit.hessian) / fit.scale**2
    return bool(np.all(np.where(fit.free, size > 0.15, curvature > 1)))


def check(name: str, seed: int, reml: bool) -> None:
    """Forward = differences of refits, and reverse = forward, along a random direction."""
    design, rng = build(name, seed), np.random.default_rng(seed)
    plan = plan_of(name, design)
    assume(is_smooth(estimate(cross_products(design, plan), reml), plan))
    direction = jax.tree.map(lambda a: 0.3 * rng.normal(size=a.shape), floats(design))
    forward, backward, refit = functions(name)
    change = forward(design, plan, direction, reml)
    refits = slope(lambda t: refit(design, plan, direction, reml, t[0]), np.zeros(1), np.ones(1), 1e-3)
    close(change, refits, 1e-6)
    weights = rng.normal(size=change.shape)
    total = backward(design, plan, direction, reml, weights)
    np.testing.assert_allclose(total, weights @ change, rtol=1e-7, atol=1e-9 * np.abs(change).sum())


@pytest.mark.parametrize("name", ["scalar", "vector 2", "crossed", "crossed, sparse"])
@QUICK
@given(seed=SEEDS, reml=st.booleans())
def test_derivatives_are_those_of_refits(name, seed, reml):
    check(name, seed, reml)


@pytest.mark.parametrize("name", ["vector 2", "crossed"])
def test_second_derivatives_are_those_of_first(name):
    design = build(name, 22)
    plan, arrays = plan_of(name, design), floats(design)
    rng = np.random.default_rng(3)
    direction = jax.tree.map(lambda a: 0.3 * rng.normal(size=a.shape), arrays)

    def value(a):
        return jnp.sum(jnp.sin(outputs(estimate(problem(a, design, plan)))[:8]))

    def first(t):
        return jax.jvp(lambda s: value(moved(arrays, direction, s)), (t,), (1.0,))[1]

    slopes = compiled(first)
    second = compiled(lambda t: jax.jvp(first, (t,), (1.0,))[1])(0.0)
    close(second, slope(lambda t: slopes(t[0]), np.zeros(1), np.ones(1), 2e-3), 1e-5)
    mixed = compiled(lambda a: jax.jvp(jax.grad(value), (a,), (direction,))[1])(arrays)
    total = sum(np.sum(g * d) for g, d in zip(jax.tree.leaves(mixed), jax.tree.leaves(direction), strict=True))
    np.testing.assert_allclose(total, second, rtol=1e-8)


@pytest.mark.parametrize("data", MODELS)
def test_data_sets(data):
    frame = lj.datasets.load(data)
    fit = lj.lmer(MODELS[data], frame)
    cp, y = fit.cross_products, fit.design.y
    direction = fit.sigma * np.cos(np.arange(len(y)))

    def along(t, reml):
        return outputs(estimate(cp.with_response(y + t * direction), reml))

    refit = compiled(lambda t, reml: outputs(polished(cp.with_response(y + t * direction), reml)))
    forward = compiled(lambda reml: jax.jvp(lambda t: along(t, reml), (0.0,), (1.0,))[1])
    backward = compiled(lambda reml: jax.grad(lambda t: jnp.sum(along(t, reml)[:4]))(0.0))
    for reml in (True, False):
        change = forward(reml)
        refits = slope(lambda t, r=reml: refit(t[0], r), np.zeros(1), np.ones(1), 5e-3)
        assert np.abs(change - refits).max() < 1e-6 * np.abs(refits).max()
        np.testing.assert_allclose(backward(reml), np.sum(change[:4]), rtol=1e-8)


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


def test_only_the_free_part_moves_on_the_boundary():
    design = boundary()
    plan, direction = make_plan(design.terms), 0.3 * np.sin(np.arange(48))

    def at(t):
        return cross_products(design.replace(y=design.y + t * direction), plan)

    refit = compiled(lambda t, reml: outputs(polished(at(t), reml)))
    forward = compiled(lambda reml: jax.jvp(lambda t: outputs(estimate(at(t), reml)), (0.0,), (1.0,))[1])
    backward = compiled(lambda reml: jax.grad(lambda t: estimate(at(t), reml).theta[0])(0.0))
    for reml in (True, False):
        fit = estimate(cross_products(design, plan), reml)
        np.testing.assert_array_equal(fit.free, [True, False])
        np.testing.assert_array_equal(fit.theta == 0, [False, True])
        change = forward(reml)
        assert change[1] == 0
        close(change, slope(lambda t, r=reml: refit(t[0], r), np.zeros(1), np.ones(1), 1e-3), 1e-6)
        np.testing.assert_allclose(backward(reml), change[0], rtol=1e-8)


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

    loop = np.stack([compiled(jax.grad(one))(y) for y in Y])
    close(compiled(jax.vmap(jax.grad(one)))(Y), loop, 1e-9)
    close(compiled(jax.grad(many))(Y), loop, 1e-9)


def test_upstream_parameters():
    """A parameter of the user's own code, before the design."""
    design = build("vector 2", 24)
    plan = make_plan(design.terms)

    def value(rate):
        x = jnp.exp(-rate * jnp.abs(design.terms[0].x))
        term = RandomTerm(x, design.terms[0].codes, design.terms[0].n_levels, design.terms[0].template)
        return estimate(cross_products(design.replace(terms=(term,)), plan), False).criterion

    close(compiled(jax.grad(value))(0.5), slope(lambda r: compiled(value)(r[0]), np.array([0.5]), np.ones(1)), 1e-6)
