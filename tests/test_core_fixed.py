"""`CrossProducts.with_fixed`: the products of X C from those of X, for every elimination plan.

X has four columns here and X C mostly three, as X in the other tests of the core: they share compiled functions.
"""

from dataclasses import replace

import core_cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_cases import (
    ALL,
    FEW,
    PATHS,
    N,
    close,
    compiled,
    float64,  # noqa: F401
    plan_of,
    products,
    random_theta,
    slope,
)

from lmmjax.core import Design, criterion, cross_products, estimate, expansion, profile

EXACT = 1e-11
bases = pytest.mark.parametrize("orthonormal", [False, True], ids=["as given", "orthonormal"])


def build(name: str, seed: int, **options: bool) -> Design:
    """A design of the case with one more column in X."""
    design = core_cases.build(name, seed, **options)
    return design.replace(X=np.column_stack([design.X, np.random.default_rng(seed + 2).normal(size=N)]))


def combination(columns: int = 3, seed: int = 0) -> np.ndarray:
    """(4, columns) of full column rank."""
    return np.random.default_rng(seed).normal(size=(4, columns))


def directly(name: str, design: Design, C, orthonormal: bool = False):
    """The cross-products of the design whose fixed-effects matrix is X C."""
    return products(name, design.replace(X=design.X @ C), orthonormal)


def same_model(actual, expected, theta, tolerance: float = EXACT) -> None:
    """Asserts equal criteria, derivatives and solutions of two CrossProducts at θ, by ML and by REML."""
    for reml in (False, True):
        for a, b in zip(expansion(theta, actual, reml), expansion(theta, expected, reml), strict=True):
            close(a, b, 10 * tolerance)
        a, b = profile(theta, actual, reml), profile(theta, expected, reml)
        for part in ("criterion", "beta", "sigma", "prss", "unscaled_vcov", "log_l", "log_rx", "deviance"):
            close(getattr(a, part), getattr(b, part), tolerance)
        for x, y in zip(a.u + a.b, b.u + b.b, strict=True):
            close(x, y, tolerance)


@pytest.mark.parametrize("name", PATHS)
@bases
def test_products_of_combined_columns_are_those_of_the_other_design(name, orthonormal):
    design, C = build(name, 51), combination()
    cp = products(name, design, orthonormal)
    assert cp.rows is None
    same_model(cp.with_fixed(C), directly(name, design, C, orthonormal), random_theta(design, 51))


@pytest.mark.parametrize("columns", [(2, 0, 1), (0,), ()], ids=str)
@pytest.mark.parametrize("name", FEW)
def test_any_selection_of_columns(name, columns):
    design, C = build(name, 52), np.eye(4)[:, list(columns)]
    cp = products(name, design, orthonormal=True)
    same_model(cp.with_fixed(C), directly(name, design, C), random_theta(design, 52))


@pytest.mark.parametrize("name", ALL)
def test_a_change_of_basis_keeps_the_model(name):
    """ML criteria do not change; REML criteria change by log|CᵀC|."""
    design, C = core_cases.build(name, 53), combination()[:3]
    cp, theta = products(name, design, orthonormal=True), random_theta(design, 53)
    turned = cp.with_fixed(C)
    close(criterion(theta, turned, False), criterion(theta, cp, False), EXACT)
    close(criterion(theta, turned, True), criterion(theta, cp, True) + np.linalg.slogdet(C.T @ C)[1], EXACT)


@pytest.mark.parametrize("name", FEW)
def test_steps_compose(name):
    design, first, second = build(name, 54), combination(4, 1), combination(3, 2)
    cp = products(name, design, orthonormal=True)
    same_model(cp.with_fixed(first).with_fixed(second), cp.with_fixed(first @ second), random_theta(design, 54))


@pytest.mark.parametrize("name", ["no term", *FEW])
@bases
def test_rows_stay_consistent(name, orthonormal):
    """With rows kept, a new response and case weights find the new columns."""
    design, C, rng = build(name, 55), combination(), np.random.default_rng(6)
    theta, y, counts = random_theta(design, 55), rng.normal(size=N), rng.integers(1, 4, N).astype(float)
    kept = products(name, design, orthonormal, keep_rows=True).with_fixed(C)
    fresh = cross_products(design.replace(X=design.X @ C), plan_of(name, design), orthonormal)
    same_model(bare(kept), bare(fresh), theta)
    same_model(bare(kept.with_response(y)), bare(fresh.with_response(y)), theta)
    same_model(bare(kept.with_case_weights(rows=counts)), bare(fresh.with_case_weights(rows=counts)), theta)


def bare(cp):
    """Products of one pytree structure, whatever basis they were formed in."""
    return replace(cp.without_rows(), orthonormal=False)


def test_case_weights_of_levels_are_kept():
    design, C = build("nested 3", 56), combination()
    plan, weights = plan_of("nested 3", design), np.random.default_rng(7).uniform(0.5, 2, 10)
    weighted = cross_products(design, plan, orthonormal=True).with_case_weights(levels=weights)
    fresh = cross_products(design.replace(X=design.X @ C), plan).with_case_weights(levels=weights)
    same_model(bare(weighted.with_fixed(C)), bare(fresh), random_theta(design, 56))


@pytest.mark.parametrize("name", ["no term", "vector 5", "nested 3", *FEW])
def test_vmap_and_jit_are_the_loop(name):
    design = build(name, 57)
    cp, theta = products(name, design, orthonormal=True), random_theta(design, 57)
    C = np.stack([combination(3, seed) for seed in range(5)])

    def value(c):
        p = profile(theta, cp.with_fixed(c))
        return p.criterion, p.beta, p.unscaled_vcov

    batched = compiled(jax.vmap(value))(C)
    for found, expected in zip(batched, zip(*map(value, C), strict=True), strict=True):
        close(found, np.stack(expected), EXACT)


def test_numpy_in_numpy_out():
    cp = products("crossed", build("crossed", 58), orthonormal=True).with_fixed(combination())
    assert all(isinstance(a, np.ndarray | np.generic) for a in jax.tree.leaves(cp))


@pytest.mark.parametrize("name", FEW)
def test_differentiable_in_the_columns(name):
    design, C, direction = build(name, 59), combination(), combination(3, 8)
    cp, theta = jax.tree.map(jnp.asarray, products(name, design, orthonormal=True)), random_theta(design, 59)

    def value(c):
        return criterion(theta, cp.with_fixed(c))

    close(jnp.sum(compiled(jax.grad(value))(C) * direction), slope(compiled(value), C, direction), 1e-7)


def test_large_means_and_near_collinear_columns_lose_no_digits():
    """The orthonormal basis does for X C what it does for X: y of 1e6, one column 1e-4 away from another."""
    design = build("crossed", 60, weights=False, offset=False)
    close_by = design.X[:, 1] + 1e-4 * design.X[:, 2]
    design = design.replace(X=np.column_stack([design.X[:, [0, 1, 3]], close_by]), y=design.y + 1e6)
    theta, C = random_theta(design, 60), np.array([[1, 0, 0], [0, 0.5, 0], [0, 0, 1], [0, 2.0, 0]])
    cp = products("crossed", design, orthonormal=True)
    close(criterion(theta, cp.with_fixed(C)), criterion(theta, directly("crossed", design, C, True)), 1e-10)


def test_fits_of_submodels():
    design = build("two terms", 61)
    cp, C = products("two terms", design, orthonormal=True), np.eye(4)[:, :3]
    found, expected = estimate(cp.with_fixed(C), False), estimate(directly("two terms", design, C, True), False)
    close(found.criterion, expected.criterion, EXACT)
    close(found.beta, expected.beta, 1e-7)
