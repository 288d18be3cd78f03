"""Small designs of every elimination plan, their dense oracles, and finite differences, for the tests of `lmmjax.core`.

A case fixes what a compiled function sees (shapes, the pattern of the codes); a seed fills in the numbers, relabels the
levels and shuffles the rows, so that many examples share one compilation.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from scipy import linalg, stats

from lmmjax.core import (
    CrossProducts,
    Design,
    Plan,
    RandomTerm,
    Template,
    cross_products,
    make_plan,
    random_matrix,
    relative_factor,
)
from lmmjax.core.compile import QUICKEST

N = 40
QUICK = settings(derandomize=True, max_examples=10, deadline=None, database=None)
SEEDS = st.integers(0, 2**31)

# Grouping factors by levels: a is nested in b, b in c; h and k cross them all; g has a level without rows.
_rng = np.random.default_rng(20240607)
_b_of_a = np.array([0, 0, 0, 1, 1, 2, 2, 3, 3, 3])
_a = np.concatenate([np.arange(10), _rng.integers(0, 10, N - 10)])
_b = _b_of_a[_a]
CODES = {
    "g": np.concatenate([np.arange(7), _rng.integers(0, 7, N - 7)]),
    "a": _a,
    "b": _b,
    "c": np.array([0, 0, 1, 1])[_b],
    "h": np.concatenate([np.arange(5), _rng.integers(0, 5, N - 5)]),
    "k": np.concatenate([np.arange(3), _rng.integers(0, 3, N - 3)]),
}
LEVELS = {"g": 8, "a": 10, "b": 4, "c": 2, "h": 5, "k": 3}


@dataclass(frozen=True)
class Case:
    """Terms as "factor:columns" (a trailing d: diagonal template), and whether the crossings are kept sparsely."""

    terms: str
    sparse: bool = False


CASES = {
    "no term": Case(""),
    "scalar": Case("g:1"),
    "vector 2": Case("g:2"),
    "vector 3": Case("g:3"),
    "vector 5": Case("g:5"),
    "diagonal": Case("g:3d"),
    "two terms": Case("g:1 g:2"),
    "nested 3": Case("b:2 c:2 a:1"),
    "crossed": Case("h:1 g:1"),
    "crossed vectors": Case("g:2 h:3 k:1"),
    "mix": Case("a:1 h:2 b:2"),
    "crossed, sparse": Case("h:1 g:1", sparse=True),
    "crossed vectors, sparse": Case("g:2 h:3 k:1", sparse=True),
    "mix, sparse": Case("a:1 h:2 b:2", sparse=True),
    "long mix, sparse": Case("k:1 a:2 b:1 c:2 h:1", sparse=True),
}
ALL = tuple(CASES)
# One case for each path through the code.
PATHS = ("no term", "vector 5", "two terms", "nested 3", "crossed vectors", "mix", "mix, sparse")
FEW = ("vector 2", "crossed", "mix, sparse")


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    """Float64 for each test of a file that imports this name."""
    with jax.enable_x64(True):
        yield


@contextmanager
def sparse_crossings() -> Iterator[None]:
    """Within it `make_plan` keeps every crossing sparsely, however small the design."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lmmjax.core.plan.DENSE_ADVANTAGE", 0)
        yield


def build(name: str, seed: int, weights: bool = True, offset: bool = True) -> Design:
    """A design of the case with random numbers, relabelled levels and shuffled rows."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(N)
    relabel = {f: rng.permutation(levels) for f, levels in LEVELS.items()}
    terms = []
    for text in CASES[name].terms.split():
        factor, columns = text.split(":")
        p, kind = int(columns[0]), "diagonal" if columns.endswith("d") else "full"
        x = np.column_stack([np.ones(N), rng.normal(size=(N, p - 1))])
        codes = relabel[factor][CODES[factor]][order]
        terms.append(RandomTerm(x, codes, LEVELS[factor], getattr(Template, kind)(p)))
    X = np.column_stack([np.ones(N), rng.normal(size=(N, 2))])
    y = 1 + X @ rng.normal(size=3) + rng.normal(size=N)
    for term in terms:
        y = y + np.sum(term.x * rng.normal(size=(term.n_levels, term.p))[term.codes], -1)
    w = rng.uniform(0.3, 3, N) if weights else None
    return Design(X, y, tuple(terms), w, rng.normal(size=N) if offset else None)


def plan_of(name: str, design: Design) -> Plan:
    """The case's elimination plan, of the kind that the case asks for."""
    if not CASES[name].sparse:
        plan = make_plan(design.terms)
        assert not plan.crossings
        return plan
    with sparse_crossings():
        plan = make_plan(design.terms)
    assert len(plan.crossings) == len(plan.chain)
    return plan


def products(name: str, design: Design, orthonormal: bool = False, keep_rows: bool = False) -> CrossProducts:
    """The case's cross-products; without rows unless asked, so that weights and offsets share compiled functions."""
    cp = cross_products(design, plan_of(name, design), orthonormal)
    return cp if keep_rows else replace(cp, rows=None, orthonormal=False)


def rows_of(design: Design, rows) -> Design:
    """The design of some of the rows, in a given order and as often as given."""

    def pick(a):
        return None if a is None else a[rows]

    terms = tuple(replace(t, x=t.x[rows], codes=t.codes[rows]) for t in design.terms)
    return Design(design.X[rows], design.y[rows], terms, pick(design.weights), pick(design.offset))


def random_theta(design: Design, seed: int) -> np.ndarray:
    """(m,) of any signs."""
    return np.random.default_rng(seed + 1).normal(size=design.n_theta)


def singular_theta(design: Design, seed: int) -> np.ndarray:
    """Random θ with the last column of every T zero: a boundary point of every term."""
    theta, at = random_theta(design, seed), 0
    for term in design.terms:
        columns = term.template.fn.indices[1]
        theta[at : at + len(columns)][columns == term.p - 1] = 0
        at += len(columns)
    return theta


# Dense oracles


def dense_factor(design: Design, theta) -> np.ndarray:
    """ZΛ, (n, q)."""
    return (random_matrix(design) @ relative_factor(design, theta)).toarray()


def dense_covariance(design: Design, theta) -> np.ndarray:
    """V = W⁻¹ + ZΛΛᵀZᵀ, (n, n): Var(y)/σ²."""
    factor = dense_factor(design, theta)
    w = np.ones(design.n) if design.weights is None else design.weights
    return np.diag(1 / w) + factor @ factor.T


def centred(design: Design) -> np.ndarray:
    """y − offset."""
    return design.y if design.offset is None else design.y - design.offset


def gls(design: Design, theta) -> tuple[np.ndarray, float, np.ndarray]:
    """β̂, r² and (XᵀV⁻¹X)⁻¹ by generalised least squares."""
    v, X, y = dense_covariance(design, theta), design.X, centred(design)
    vcov = np.linalg.inv(X.T @ np.linalg.solve(v, X))
    beta = vcov @ X.T @ np.linalg.solve(v, y)
    e = y - X @ beta
    return beta, float(e @ np.linalg.solve(v, e)), vcov


def dense_deviance(design: Design, theta, sigma: float, reml: bool) -> float:
    """−2 log density of y at β̂ (ML), or of an orthonormal basis of the residual space plus log|XᵀX| (REML)."""
    v, X, y = dense_covariance(design, theta), design.X, centred(design)
    if not reml:
        mean = X @ gls(design, theta)[0]
        return -2 * stats.multivariate_normal(mean, sigma**2 * v).logpdf(y)
    k = linalg.null_space(X.T)
    density = stats.multivariate_normal(np.zeros(k.shape[1]), sigma**2 * k.T @ v @ k).logpdf(k.T @ y)
    return -2 * density + np.linalg.slogdet(X.T @ X)[1]


def dense_criterion(design: Design, theta, reml: bool) -> float:
    """The dense deviance at the best σ, σ² = r²/ν."""
    nu = design.n - design.p * reml
    return dense_deviance(design, theta, np.sqrt(gls(design, theta)[1] / nu), reml)


def compiled(function: Callable, **options: Any) -> Callable:
    """`jax.jit` as the package compiles small fits: quickly. Outermost only."""
    return jax.jit(function, compiler_options=QUICKEST, **options)


def forward_and_backward(function: Callable, at, direction, weights):
    """The derivative of all outputs along a direction, and of weights @ outputs in all inputs: one compilation."""
    _, push = jax.linearize(function, at)
    return push(direction), jax.linear_transpose(push, at)(weights)[0]


# Finite differences


def slope(f, x, direction, h: float = 5e-4):
    """df/dt at x + t·direction by fourth-order central differences; f may return an array."""
    near = np.asarray(f(x + h * direction)) - np.asarray(f(x - h * direction))
    far = np.asarray(f(x + 2 * h * direction)) - np.asarray(f(x - 2 * h * direction))
    return (8 * near - far) / (12 * h)


def numeric_jacobian(f, x) -> np.ndarray:
    """(…, m) derivatives of f along each element of x (m,)."""
    return np.stack([slope(f, x, e) for e in np.eye(len(x))], -1)


def close(actual, expected, tolerance: float) -> None:
    """Asserts |actual − expected| ≤ tolerance · max(1, |expected|∞), shapes and finiteness included."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    assert np.all(np.isfinite(actual))
    scale = max(1.0, np.max(np.abs(expected), initial=0.0))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)
