"""Many designs in one batch are a loop of single fits, and one compilation."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from batch_checks import CONVERGED, assert_same, assert_same_criterion, compilations, stacked
from core_cases import (
    close,
    float64,  # noqa: F401
)

import lmmjax as lj
from lmmjax.core import Design, Estimate, Estimates, RandomTerm, Template, cross_products, estimate, estimate_many

BETA = np.array([1.0, -2.0, 0.5])
by_both = pytest.mark.parametrize("reml", [True, False])


def small_design(kind: str, seed: int, n: int, levels: int) -> Design:
    """A design with n rows and about `levels` levels; codes, X, response and weights by the seed."""
    rng = np.random.default_rng(seed)
    # Every level occurs, so that level counts are those of the data.
    a = np.concatenate([np.arange(levels), rng.integers(0, levels, n - levels)])
    x = np.column_stack([np.ones(n), rng.normal(size=n)])
    one, few = x[:, :1], levels // 2
    terms = {
        "scalar": (RandomTerm(one, a, levels, Template.full(1)),),
        "vector": (RandomTerm(x, a, levels, Template.full(2)),),
        "nested": (RandomTerm(one, a, levels, Template.full(1)), RandomTerm(one, a % few, few, Template.full(1))),
        "crossed": (
            RandomTerm(one, a, levels, Template.full(1)),
            RandomTerm(one, np.concatenate([np.arange(3), rng.integers(0, 3, n - 3)]), 3, Template.full(1)),
        ),
    }[kind]
    X = np.column_stack([x, rng.normal(size=n)])
    y = X @ BETA + rng.normal(size=n)
    if seed % 2:
        y = y + 0.8 * rng.normal(size=levels)[a]
    return Design(X, y, terms, rng.uniform(0.5, 2, n) if kind == "crossed" else None)


MANY = 10
SIZES = [(40, 9), *zip(range(15, 39, 3), [5, 7, 9, 4, 6, 8, 7, 9], strict=True), (40, 4)]
KINDS = ("scalar", "vector", "nested", "crossed")
kinds = pytest.mark.parametrize("kind", KINDS)


def small_designs(kind: str, first: int) -> list[Design]:
    """Designs of MANY sizes, always the same; the seeds from `first` on fill them."""
    return [small_design(kind, first + i, n, levels) for i, (n, levels) in enumerate(SIZES)]


def alone(design: Design, reml: bool) -> Estimate:
    """Its single fit. Levels without rows change nothing and spare a compilation for each level count."""
    most = [9, 4] if len(design.terms) > 1 and design.terms[1].n_levels != 3 else [9, 3]
    terms = tuple(replace(t, n_levels=m) for t, m in zip(design.terms, most, strict=False))
    return estimate(cross_products(design.replace(terms=terms)).without_rows(), reml)


def vcov(e: Estimate):
    """What is kept of each fit, by the same function in every test: another one would be another compilation."""
    return e.vcov


@by_both
@kinds
def test_many_designs_are_a_loop(kind, reml):
    designs = small_designs(kind, 100)
    found = lj.core.estimate_designs(designs, reml, keep=vcov)
    expected = [alone(d, reml) for d in designs]
    assert isinstance(found, Estimates)
    assert_same_criterion(found.criterion, stacked(expected, "criterion"))
    assert np.all(found.status == CONVERGED)
    close(found.beta, stacked(expected, "beta"), 1e-4)
    close(found.sigma, stacked(expected, "sigma"), 1e-4)
    close(found.kept, stacked(expected, "vcov"), 1e-4)


@kinds
def test_many_designs_take_one_compilation(kind):
    """Other numbers of the same greatest sizes compile nothing, whatever the sizes of the others are."""
    lj.core.estimate_designs(small_designs(kind, 100), keep=vcov)
    others = small_designs(kind, 200)
    with compilations() as seen:
        lj.core.estimate_designs(others[::-1], keep=vcov)
        lj.core.estimate_designs([others[0], *others[4:0:-1], *others[5:]], keep=vcov)
    assert seen == []


def test_one_design_many_times_is_one_batch():
    design = small_design("vector", 1, 40, 9)
    Y = design.y + np.random.default_rng(0).normal(size=(MANY, 40))
    found = lj.core.estimate_designs([design.replace(y=y) for y in Y], keep=vcov)
    assert_same_criterion(found.criterion, estimate_many(cross_products(design), Y).criterion)


def test_a_design_that_cannot_be_fitted_keeps_its_place():
    designs = small_designs("scalar", 100)
    whole = lj.core.estimate_designs(designs, keep=vcov)
    designs[3] = designs[3].replace(y=np.full(designs[3].n, np.nan))
    designs[6] = designs[6].replace(y=np.zeros(designs[6].n))
    found = lj.core.estimate_designs(designs, keep=vcov)
    assert CONVERGED not in found.status[[3, 6]]
    rest = np.delete(np.arange(MANY), [3, 6])
    assert_same(*(jax.tree.map(lambda a: a[rest], e) for e in (found, whole)))


def test_designs_of_different_models_are_refused():
    with pytest.raises(ValueError):
        lj.core.estimate_designs([small_design("scalar", 1, 40, 9), small_design("vector", 1, 40, 9)])
