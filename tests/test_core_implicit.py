"""The fit is a differentiable function: every output against finite differences of refits."""

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
    forward_and_backward,
    plan_of,
    slope,
)
from hypothesis import assume, given
from hypothesis import strategies as st

import lmmjax as lj
from lmmjax.core import Design, RandomTerm, Template, cross_products, estimate, estimate_many, expansion, make_plan
from lmmjax.core.rectify import column_norms

# One factor and two small crossed ones are cases below, with derivatives in all arrays.
MODELS = {
    "sleepstudy": "Reaction ~ Days + (Days|Subject)",
    "eggs": "Fat ~ 1 + (1|Lab) + (1|Lab:Technician) + (1|Lab:Technician:Sample)",
    "soybean_sim": "AqE ~ days + Precip + (1|plot_number) + (1|disk)",
}


def polished(cp, reml):
    """The fit after one more Newton step: differences of refits need θ̂ to more digits than a fit does."""
    fit = estimate(cp, reml)
    _, gradient, hessian = expansion(fit.theta, cp, reml)
    hessian = np.where(fit.free & fit.free[:, None], hessian, np.eye(len(gradient)))
    theta = fit.theta - np.linalg.solve(hessian, np.where(fit.free, gradient, 0))
    return estimate(cp, reml, theta=theta)


def parts(fit) -> list:
    """All that has derivatives."""
    return [fit.theta, fit.beta, fit.sigma, fit.criterion, fit.deviance, fit.vcov, *fit.b, *fit.u]


def outputs(fit):
    """The same in one vector."""
    return jnp.concatenate([jnp.ravel(a) for a in parts(fit)])


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


def inner(a, b):
    """The inner product of two trees of arrays."""
    return sum(jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def problem(arrays, design: Design, plan):
    """Derivatives and refits along a direction of all arrays; codes and plan are traced, so that seeds share them."""
    return cross_products(with_arrays(design, arrays), plan)


@compiled
def derivatives(design, plan, direction, reml, weights):
    """Along the direction, forward, and of weights @ outputs along the direction, in reverse."""
    change, slopes = forward_and_backward(
        lambda a: outputs(estimate(problem(a, design, plan), reml)), floats(design), direction, weights
    )
    return change, inner(slopes, direction)


def is_smooth(fit, plan) -> bool:
    """Whether differences stay on one side of the boundary."""
    size = column_norms(fit.theta * fit.scale, fit.scale, plan)
    curvature = np.diagonal(fit.hessian) / fit.scale**2
    return bool(np.all(np.where(fit.free, size > 0.15, curvature > 1)))


def check(name: str, seed: int, reml: bool) -> None:
    """Forward = differences of refits, and reverse = forward, along a random direction."""
    design, rng = build(name, seed), np.random.default_rng(seed)
    plan = plan_of(name, design)
    fit = estimate(cross_products(design, plan), reml)
    assume(is_smooth(fit, plan))
    direction = jax.tree.map(lambda a: 0.3 * rng.normal(size=a.shape), floats(design))
    weights = rng.normal(size=sum(map(np.size, parts(fit))))
    change, total = derivatives(design, plan, direction, reml, weights)

    def refit(t):
        return outputs(polished(problem(moved(floats(design), direction, t[0]), design, plan), reml))

    close(change, slope(refit, np.zeros(1), np.ones(1), 1e-3), 1e-6)
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

    def forward(t):
        return jax.jvp(lambda s: value(moved(arrays, direction, s)), (t,), (1.0,))[1]

    def backward(t):
        return inner(jax.grad(value)(moved(arrays, direction, t)), direction)

    first_and_second = compiled(lambda t: jax.jvp(backward, (t,), (1.0,)))
    second = first_and_second(0.0)[1]
    close(second, slope(lambda t: first_and_second(t[0])[0], np.zeros(1), np.ones(1), 2e-3), 1e-5)
    if name == "vector 2":
        twice_forward = compiled(lambda t: jax.jvp(forward, (t,), (1.0,)))(0.0)
        np.testing.assert_allclose(twice_forward, first_and_second(0.0), rtol=1e-8)


@pytest.mark.parametrize("data", MODELS)
def test_data_sets(data):
    frame = lj.datasets.load(data)
    fit = lj.lmer(MODELS[data], frame)
    cp, y = fit.cross_products, fit.design.y
    direction = fit.sigma * np.cos(np.arange(len(y)))

    def along(t, reml):
        return outputs(estimate(cp.with_response(y + t * direction), reml))

    def refit(t, reml):
        return outputs(polished(cp.with_response(y + t * direction), reml))

    weights = (np.arange(sum(map(np.size, parts(fit.estimate)))) < 4).astype(float)
    derivatives = compiled(lambda reml: forward_and_backward(lambda t: along(t, reml), 0.0, 1.0, weights))
    for reml in (True, False):
        change, total = derivatives(reml)
        refits = slope(lambda t, r=reml: refit(t, r), np.zeros(1), np.ones(1), 5e-3)
        assert np.abs(change - refits).max() < 1e-6 * np.abs(refits).max()
        np.testing.assert_allclose(total, np.sum(change[:4]), rtol=1e-8)


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

    def along(t, reml):
        return outputs(estimate(at(t), reml))

    first = (np.arange(len(along(0.0, True))) == 0).astype(float)
    derivatives = compiled(lambda reml: forward_and_backward(lambda t: along(t, reml), 0.0, 1.0, first))
    for reml in (True, False):
        fit = estimate(cross_products(design, plan), reml)
        np.testing.assert_array_equal(fit.free, [True, False])
        np.testing.assert_array_equal(fit.theta == 0, [False, True])
        change, slope_of_first = derivatives(reml)
        assert change[1] == 0
        refits = slope(lambda t, r=reml: outputs(polished(at(t[0]), r)), np.zeros(1), np.ones(1), 1e-3)
        close(change, refits, 1e-6)
        np.testing.assert_allclose(slope_of_first, change[0], rtol=1e-8)


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

    single = compiled(jax.grad(one))
    loop = np.stack([single(y) for y in Y])
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

    both = compiled(jax.value_and_grad(value))
    close(both(0.5)[1], slope(lambda r: both(r[0])[0], np.array([0.5]), np.ones(1)), 1e-6)
