"""What a criterion must not notice: the order and names of rows, levels and terms, the basis of X, the plan."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from core_cases import (
    FEW,
    PATHS,
    QUICK,
    SEEDS,
    N,
    build,
    close,
    float64,  # noqa: F401
    plan_of,
    products,
    random_theta,
    rows_of,
)
from hypothesis import given

from lmmjax.core import Design, criterion, cross_products, make_plan, profile

EXACT = 1e-11
few = pytest.mark.parametrize("name", FEW)


def value(name: str, design: Design, theta, reml: bool = True, orthonormal: bool = False):
    return criterion(theta, products(name, design, orthonormal), reml)


def with_codes(design: Design, change) -> Design:
    """The design with every term's codes (those of one factor alike) passed through `change`(codes, n_levels)."""
    return design.replace(terms=tuple(replace(t, codes=change(t.codes, t.n_levels)) for t in design.terms))


@pytest.mark.parametrize("name", PATHS)
def test_order_of_rows_and_names_of_levels(name):
    design = build(name, 3)
    theta, rng = random_theta(design, 3), np.random.default_rng(3)
    shuffled = rows_of(design, rng.permutation(N))
    # One permutation for each factor: terms on one factor have equal codes.
    labels = {t.codes.tobytes(): rng.permutation(t.n_levels) for t in shuffled.terms}
    relabelled = with_codes(shuffled, lambda codes, levels: labels[codes.tobytes()][codes])
    close(value(name, relabelled, theta), value(name, design, theta), EXACT)


@pytest.mark.parametrize("name", ["two terms", "nested 3", "crossed vectors", "mix, sparse"])
def test_order_of_terms(name):
    design = build(name, 4)
    theta = random_theta(design, 4)
    parts = [theta[s] for s in plan_of(name, design).theta_slices()]
    turned = design.replace(terms=design.terms[::-1])
    close(value(name, turned, np.concatenate(parts[::-1])), value(name, design, theta), EXACT)


@few
@QUICK
@given(seed=SEEDS)
def test_basis_of_x(name, seed):
    """X ↦ XA shifts REML by 2 log|det A| and ML not at all, in either basis of the computation; β ↦ A⁻¹β."""
    design = build(name, seed)
    theta, a = random_theta(design, seed), np.random.default_rng(seed).normal(size=(3, 3)) + 3 * np.eye(3)
    moved, shift = design.replace(X=design.X @ a), 2 * np.linalg.slogdet(a)[1]
    for orthonormal in (False, True):
        close(value(name, moved, theta, False, orthonormal), value(name, design, theta, False), 1e-10)
        close(value(name, moved, theta, True, orthonormal), value(name, design, theta) + shift, 1e-10)
        beta = profile(theta, products(name, moved, orthonormal)).beta
        close(a @ np.asarray(beta), profile(theta, products(name, design)).beta, 1e-9)


def test_orthonormal_basis_keeps_the_digits_of_an_ill_conditioned_x():
    """Columns a million apart in size and a mean a million times the noise: 1e-9 where plain products lose all."""
    design = build("vector 2", 7, offset=False)
    theta = random_theta(design, 7)
    expected = value("vector 2", design, theta)
    hard = design.replace(X=design.X * [1, 1e6, 1], y=design.y + 1e6 * design.X[:, 0])
    shifted = expected + 2 * np.log(1e6)
    close(value("vector 2", hard, theta, orthonormal=True), shifted, 1e-9)
    assert abs(value("vector 2", hard, theta) - shifted) > 1e-6


@few
@QUICK
@given(seed=SEEDS)
def test_prior_weights_are_transformed_rows(name, seed):
    """Rows times √w without weights, up to −Σ log w; an offset is taken off y."""
    design = build(name, seed)
    root = np.sqrt(design.weights)[:, None]
    terms = tuple(replace(t, x=t.x * root) for t in design.terms)
    plain = Design(design.X * root, (design.y - design.offset) * root[:, 0], terms)
    theta = random_theta(design, seed)
    for reml in (True, False):
        shift = np.sum(np.log(design.weights))
        close(value(name, design, theta, reml), value(name, plain, theta, reml) - shift, EXACT)


@few
@QUICK
@given(seed=SEEDS)
def test_location_and_scale_of_the_response(name, seed):
    """y ↦ a + c·y in the span of X: 2ν log c, β ↦ c·β + a, σ ↦ cσ."""
    design = build(name, seed, offset=False)
    theta, a, c = random_theta(design, seed), 3.0, 0.02
    found, moved = (profile(theta, products(name, d)) for d in (design, design.replace(y=a + c * design.y)))
    close(moved.criterion, found.criterion + 2 * (N - design.p) * np.log(c), 1e-10)
    close(moved.deviance, found.deviance + 2 * N * np.log(c), 1e-10)
    close(moved.sigma / c, found.sigma, 1e-10)
    close(moved.beta, c * np.asarray(found.beta) + [a, 0, 0], 1e-10)


@pytest.mark.parametrize("name", ["crossed vectors", "mix"])
def test_dense_and_sparse_crossings_are_one_function(name):
    design = build(name, 8)
    theta = random_theta(design, 8)
    dense, sparse = products(name, design), products(f"{name}, sparse", design)
    a, b = profile(theta, dense), profile(theta, sparse)
    for part in ("criterion", "beta", "unscaled_vcov", "log_l", "log_rx"):
        close(getattr(b, part), getattr(a, part), EXACT)
    for x, y in zip(a.b + a.u, b.b + b.u, strict=True):
        close(y, x, EXACT)


def test_a_border_too_large_for_memory_is_kept_sparsely(monkeypatch):
    design = build("crossed", 8)
    assert not make_plan(design.terms).crossings
    monkeypatch.setattr("lmmjax.core.plan.DENSE_BORDER_LIMIT", 0)
    assert make_plan(design.terms).crossings


@pytest.mark.parametrize(
    "name, chain, rest",
    [
        ("two terms", [(0, 1)], []),
        ("nested 3", [(2,), (0,), (1,)], []),
        ("crossed", [(1,)], [(0,)]),
        ("long mix, sparse", [(1,), (2,), (3,)], [(0,), (4,)]),
    ],
)
def test_the_plan_eliminates_the_longest_nested_chain(name, chain, rest):
    plan = plan_of(name, build(name, 0))
    assert [f.terms for f in plan.chain] == chain
    assert [f.terms for f in plan.rest] == rest


@pytest.mark.parametrize("name", ["vector 2", "mix", "mix, sparse"])
def test_the_number_of_rows_is_no_shape_of_the_statistics(name):
    """What jit looks at is the same for twice the rows, so that a compiled criterion serves both."""
    design = build(name, 0)
    both = design, rows_of(design, np.tile(np.arange(N), 2))
    small, large = (cross_products(d, plan_of(name, d)).without_rows() for d in both)
    assert jax.tree.structure(small) == jax.tree.structure(large)
    assert [np.shape(a) for a in jax.tree.leaves(small)] == [np.shape(a) for a in jax.tree.leaves(large)]
