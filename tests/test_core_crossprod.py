"""Cross-products: sums of chunks, new responses, NumPy and JAX alike; case weights are replication."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_cases import (
    ALL,
    CASES,
    N,
    build,
    close,
    compiled,
    float64,  # noqa: F401
    plan_of,
    random_theta,
    rows_of,
    slope,
    sparse_crossings,
)

from lmmjax.core import conditional_variances, criterion, cross_products, expansion, make_plan, profile

SOME = ("no term", "two terms", "nested 3", "crossed", "mix", "mix, sparse", "crossed vectors, sparse")
some = pytest.mark.parametrize("name", SOME)


def same(actual, expected, tolerance: float = 1e-13) -> None:
    """Asserts that two CrossProducts hold the same statistics and the same plan."""
    actual, expected = actual.without_rows(), expected.without_rows()
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        close(a, b, tolerance)


# Sums and responses


@pytest.mark.parametrize("name", ALL)
def test_products_of_chunks_add(name):
    design = build(name, 31)
    plan, order = plan_of(name, design), np.random.default_rng(0).permutation(N)
    chunks = [slice(0, 13), slice(13, 14), slice(14, N)]
    whole = cross_products(design, plan)
    parts = [cross_products(rows_of(design, rows), plan.take(rows)) for rows in chunks]
    same(parts[0] + parts[1] + parts[2], whole)
    a, b = (cross_products(rows_of(design, rows), plan.take(rows)) for rows in (order[:25], order[25:]))
    same(b + a, whole)


def test_orthonormal_products_do_not_add():
    cp = cross_products(build("scalar", 1), orthonormal=True)
    with pytest.raises(ValueError, match="orthonormal"):
        cp + cp
    with pytest.raises(ValueError, match="orthonormal"):
        cross_products(build("scalar", 1)) + cp


def test_a_sum_has_no_rows_for_a_response_or_case_weights():
    design = build("scalar", 1)
    cp = cross_products(design) + cross_products(design)
    with pytest.raises(ValueError, match="without rows"):
        cp.with_response(design.y)
    with pytest.raises(ValueError, match="without rows"):
        cp.with_case_weights(rows=np.ones(N))


@some
@pytest.mark.parametrize("orthonormal", [False, True])
def test_with_response_is_the_design_with_another_response(name, orthonormal):
    design = build(name, 32)
    plan, y = plan_of(name, design), np.random.default_rng(1).normal(size=N)
    changed = cross_products(design, plan, orthonormal).with_response(y)
    same(changed, cross_products(design.replace(y=y), plan, orthonormal))


@some
@pytest.mark.parametrize("orthonormal", [False, True])
def test_numpy_and_jax_and_jit_agree(name, orthonormal):
    design = build(name, 33)
    plan = plan_of(name, design)
    expected = cross_products(design, plan, orthonormal)
    assert all(isinstance(a, np.ndarray | np.generic) for a in jax.tree.leaves(expected))
    jitted = compiled(cross_products, static_argnums=2)(design, plan, orthonormal)
    if orthonormal:  # the sign of a row of R is the factorisation's choice
        theta = random_theta(design, 33)
        close(criterion(theta, jitted), criterion(theta, expected), 1e-11)
    else:
        same(jitted, expected, 1e-12)
        same(cross_products(jax.tree.map(jnp.asarray, design), plan), expected, 1e-12)


def test_one_factor_needs_no_plan_under_jit():
    design = build("vector 2", 34)
    same(compiled(cross_products)(design), cross_products(design), 1e-12)


# Case weights


@some
@pytest.mark.parametrize("orthonormal", [False, True])
def test_integer_row_weights_are_repeated_rows(name, orthonormal):
    """A weight of zero leaves the row out. Σ log w of prior weights counts rows, too."""
    design = build(name, 35)
    plan, counts = plan_of(name, design), np.random.default_rng(2).integers(0, 4, N)
    rows = np.repeat(np.arange(N), counts)
    weighted = cross_products(design, plan, orthonormal).with_case_weights(rows=counts.astype(float))
    repeated = cross_products(rows_of(design, rows), plan.take(rows))
    if orthonormal:
        theta = random_theta(design, 35)
        close(criterion(theta, weighted), criterion(theta, repeated), 1e-11)
    else:
        same(weighted, repeated)


def repeat_levels(name: str, design, counts):
    """The design and plan in which level j of the first chain factor stands counts[j] times, its rows with it.

    Copies are levels of their own and keep their parents and the levels that they cross.
    """
    lead = plan_of(name, design).chain[0].terms
    codes, starts = design.terms[lead[0]].codes, np.cumsum(counts) - counts
    rows = np.concatenate([np.tile(np.flatnonzero(codes == j), c) for j, c in enumerate(counts)])
    copies = [np.repeat(starts[j] + np.arange(c), np.sum(codes == j)) for j, c in enumerate(counts)]
    repeated, new = rows_of(design, rows), np.concatenate(copies)
    levels = int(np.sum(counts))
    terms = [replace(t, codes=new, n_levels=levels) if i in lead else t for i, t in enumerate(repeated.terms)]
    repeated = repeated.replace(terms=tuple(terms))
    if not CASES[name].sparse:
        return repeated, make_plan(repeated.terms)
    with sparse_crossings():
        return repeated, make_plan(repeated.terms)


def level_example(name: str, low: int):
    """θ, level-weighted products, those of the repeated levels, and the counts, each at least `low`."""
    design = build(name, 36)
    plan = plan_of(name, design)
    counts = np.random.default_rng(3).integers(low, 4, plan.chain[0].n_levels)
    counts[:3] = [1, 3, 2]
    repeated, plan_repeated = repeat_levels(name, design, counts)
    assert [f.terms for f in plan_repeated.chain] == [f.terms for f in plan.chain]
    weighted = cross_products(design, plan).with_case_weights(levels=counts.astype(float))
    return random_theta(design, 36), weighted, cross_products(repeated, plan_repeated), counts


@pytest.mark.parametrize("name", ["two terms", "nested 3", "mix", "mix, sparse"])
def test_integer_level_weights_are_repeated_levels(name):
    """A weight of zero leaves the level out."""
    theta, weighted, repeated, _ = level_example(name, 0)
    close(weighted.n, repeated.n, 1e-15)
    for reml in (False, True):
        close(criterion(theta, weighted, reml), criterion(theta, repeated, reml), 1e-11)
    close(criterion(0 * theta, weighted), criterion(0 * theta, repeated), 1e-11)


@pytest.mark.parametrize("name", ["vector 2", "crossed, sparse"])
def test_derivatives_and_solution_with_level_weights(name):
    theta, weighted, repeated, counts = level_example(name, 1)
    for a, b in zip(expansion(theta, weighted), expansion(theta, repeated), strict=True):
        close(a, b, 1e-10)
    found, expected = profile(theta, weighted), profile(theta, repeated)
    for part in ("beta", "sigma", "unscaled_vcov", "deviance"):
        close(getattr(found, part), getattr(expected, part), 1e-10)
    first = np.cumsum(counts) - counts
    lead = weighted.plan.chain[0].terms[0]
    close(found.b[lead], np.asarray(expected.b[lead])[first], 1e-10)
    a, b = conditional_variances(theta, weighted), conditional_variances(theta, repeated)
    close(a[0], np.asarray(b[0])[first], 1e-10)
    for x, y in zip(a[1:], b[1:], strict=True):
        close(x, y, 1e-10)


def test_row_and_level_weights_together():
    design = build("two terms", 37)
    plan, rng = plan_of("two terms", design), np.random.default_rng(4)
    rows, levels = rng.integers(1, 3, N), rng.integers(1, 3, 8)
    repeated, plan_repeated = repeat_levels("two terms", rows_of(design, np.repeat(np.arange(N), rows)), levels)
    weighted = cross_products(design, plan).with_case_weights(rows=rows.astype(float), levels=levels.astype(float))
    theta = random_theta(design, 37)
    close(criterion(theta, weighted), criterion(theta, cross_products(repeated, plan_repeated)), 1e-11)


@pytest.mark.parametrize("name", ["vector 2", "crossed, sparse"])
def test_gradient_in_case_weights(name):
    """The infinitesimal jackknife: derivatives at weights of one, of rows and of levels."""
    design = build(name, 38)
    theta, cp = random_theta(design, 38), jax.tree.map(jnp.asarray, cross_products(design, plan_of(name, design)))
    rng = np.random.default_rng(5)
    ones = {"rows": jnp.ones(N), "levels": jnp.ones(cp.plan.chain[0].n_levels)}

    def weighted(weights):
        return criterion(theta, cp.with_case_weights(**weights))

    value, slopes = compiled(weighted), compiled(jax.grad(weighted))(ones)
    for part, one in ones.items():
        direction = rng.normal(size=one.shape)
        expected = slope(lambda w, part=part: value({**ones, part: w}), one, direction)
        close(jnp.sum(slopes[part] * direction), expected, 1e-8)
