"""Single precision: everything runs and stays float32, to a stated accuracy; float64 data there draw a warning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_cases import build, plan_of, random_theta

from lmmjax.core import (
    conditional_variances,
    criterion,
    cross_products,
    deviance,
    estimate,
    expansion,
    make_plan,
    profile,
    simulate,
)
from lmmjax.errors import PrecisionWarning

# Worst relative errors seen: 5e-6 at a given θ (3e-4 with five columns a term); an estimate is as good as the
# criterion's last digits allow, 1e-3 in θ, and worse where the criterion is flat.
AT_THETA, AT_OPTIMUM = 5e-5, 2e-3
names = pytest.mark.parametrize("name", ["vector 2", "crossed, sparse"])


def narrow(tree):
    """The tree with its float arrays in float32."""
    return jax.tree.map(lambda a: a.astype(np.float32) if np.asarray(a).dtype == np.float64 else a, tree)


def near(actual, expected, tolerance: float) -> None:
    """Float32, and within the tolerance of the largest expected element."""
    assert np.asarray(actual).dtype == np.float32
    expected = np.asarray(expected)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * max(1, np.max(np.abs(expected))))


def both(name: str, orthonormal: bool = True):
    """(θ, products) in float32 and in float64."""
    design = build(name, 51)
    plan, theta = plan_of(name, design), random_theta(design, 51)
    wide = theta, cross_products_wide(design, plan, orthonormal)
    return (narrow(theta), cross_products(narrow(design), plan, orthonormal)), wide


def cross_products_wide(*args):
    with jax.enable_x64(True):
        return cross_products(*args)


@names
def test_functions_of_theta(name):
    narrow_args, wide_args = both(name)
    with jax.enable_x64(True):
        expected = expansion(*wide_args), profile(*wide_args), criterion(*wide_args)
    found = expansion(*narrow_args), profile(*narrow_args), criterion(*narrow_args)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        near(a, b, AT_THETA)


def test_deviance_and_conditional_variances():
    (theta, cp), wide_args = both("scalar")
    with jax.enable_x64(True):
        expected = deviance(wide_args[0], 0.9, wide_args[1]), conditional_variances(*wide_args)[0]
    near(deviance(theta, np.float32(0.9), cp), expected[0], AT_THETA)
    near(conditional_variances(theta, cp)[0], expected[1], AT_THETA)


@names
def test_estimate(name):
    (_, small), (_, large) = both(name)
    with jax.enable_x64(True):
        expected = estimate(large)
    for found in (estimate(small), estimate(jax.tree.map(jnp.asarray, small))):
        near(found.criterion, expected.criterion, 1e-6)
        near(found.theta, expected.theta, AT_OPTIMUM)
        near(found.sigma, expected.sigma, AT_OPTIMUM)
        near(found.beta, expected.beta, AT_OPTIMUM)


@pytest.mark.parametrize("name", ["two terms", "mix", "mix, sparse"])
def test_jax_arrays_in_the_products(name):
    design = narrow(build(name, 52))
    plan = plan_of(name, design)
    expected = cross_products(design, plan)
    found = cross_products(jax.tree.map(jnp.asarray, design), plan)
    for a, b in zip(jax.tree.leaves(found.without_rows()), jax.tree.leaves(expected.without_rows()), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * max(1, np.max(np.abs(b), initial=0)))


def test_simulate():
    design = narrow(build("mix", 53))
    theta, beta = narrow(random_theta(design, 53)), np.ones(3, np.float32)
    draws = simulate(design, theta, beta, np.float32(1), jax.random.key(0), 3)
    assert draws.dtype == np.float32
    assert draws.shape == (3, design.n)
    assert np.all(np.isfinite(draws))


def test_float64_data_in_32_bits_draw_a_warning():
    design = build("scalar", 54)
    with pytest.warns(PrecisionWarning, match="float64"):
        cross_products(design, make_plan(design.terms))
    cross_products(narrow(design), make_plan(design.terms))  # none: warnings are errors here
    with jax.enable_x64(True):
        cross_products(design, make_plan(design.terms))
