"""Residual structures against the covariance matrix written out: the criterion, its derivatives, and invariance."""

from dataclasses import replace

import numpy as np
import pytest
from core_cases import centred, close, compiled, float64, numeric_jacobian, rows_of, sparse_crossings  # noqa: F401
from residual_cases import NAMES, SERIES, build, dense_covariance, dense_residual, random_parameters
from scipy import linalg, stats

from lmmjax.core import cross_products, expansion, information, make_plan
from lmmjax.core.criterion import criterion, value_and_gradient
from lmmjax.core.residual import Power, Residual

WITH_TERMS = [*((name, "group" if i % 2 else "") for i, name in enumerate(NAMES))]
WITH_TERMS += [("ar1 ident", "crossed"), ("ident", "crossed"), ("cs", "related"), ("power", "related")]


def dense_criterion(name, design, x, reml):
    """−2 log density at the best β and σ; REML: of an orthonormal basis of the residual space, plus log|XᵀX|."""
    v, X, y = dense_covariance(name, design, x), design.X, centred(design)
    k = linalg.null_space(X.T) if reml else np.eye(design.n)
    mean = np.zeros(k.shape[1])
    if not reml:
        mean = X @ np.linalg.solve(X.T @ np.linalg.solve(v, X), X.T @ np.linalg.solve(v, y))
    white, left = k.T @ v @ k, k.T @ y - mean
    variance = left @ np.linalg.solve(white, left) / len(left)
    density = stats.multivariate_normal(mean, variance * white).logpdf(k.T @ y)
    return -2 * density + (np.linalg.slogdet(X.T @ X)[1] if reml else 0.0)


@pytest.mark.parametrize(("name", "terms"), WITH_TERMS)
def test_criterion_and_derivatives(name, terms):
    for seed, reml in ((1, True), (2, False)):
        design = build(name, seed, terms)
        x = random_parameters(design, seed)
        with sparse_crossings():
            cp = cross_products(design, orthonormal=True)
        assert bool(cp.plan.crossings) == ((name, terms) == ("ident", "crossed"))
        value, gradient, hessian = expansion(x, cp, float(reml))
        close(value, dense_criterion(name, design, x, reml), 1e-11)
        close(gradient, numeric_jacobian(lambda v, d=design, r=reml: dense_criterion(name, d, v, r), x), 1e-7)
        close(hessian, numeric_jacobian(lambda v, c=cp, r=reml: expansion(v, c, float(r))[1], x), 1e-7)


def test_gradient_by_one_reverse_pass():
    design = build("ar1 ident", 3, "crossed")
    x, cp = random_parameters(design, 3), cross_products(design, orthonormal=True)
    close(value_and_gradient(x, cp, 1.0)[1], expansion(x, cp, 1.0)[1], 1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_color_undoes_whitening(name):
    design = build(name, 4)
    r, phi = design.residual, random_parameters(design, 4)[design.n_theta :]
    unit = np.asarray(r.arrange(np.eye(design.n)))
    both = compiled(lambda r, phi, a: (*r.whiten(phi, a), r.color(phi, r.whiten(phi, a)[0])))
    white, log_det, back = map(np.asarray, both(r, phi, unit))
    dense = dense_residual(name, replace(design, weights=np.ones(design.n)), phi)
    close(np.sum(log_det), np.linalg.slogdet(dense)[1], 1e-12)
    close(white.T @ white, np.linalg.inv(dense), 1e-11)
    close(r.restore(back, design.n), np.eye(design.n), 1e-12)


def test_a_plan_must_know_the_structure():
    design = build("ar1", 6)
    with pytest.raises(ValueError, match="make_plan\\(design.terms, design.residual\\)"):
        cross_products(design, make_plan(design.terms))
    with pytest.raises(ValueError, match="do not add"):
        cross_products(design) + cross_products(design)
    with pytest.raises(ValueError, match="correlated rows have no case weights"):
        cross_products(design).with_case_weights(rows=np.ones(design.n))
    with pytest.raises(ValueError, match="expected information is not known"):
        information(random_parameters(design, 6), 1.0, cross_products(design), expected=True)


def test_whole_groups_have_case_weights():
    # A group of weight two is a group that is there twice.
    design = build("cs power", 7)
    x, group = random_parameters(design, 7), np.asarray(design.terms[0].codes)
    weights = np.where(np.arange(len(SERIES)) == 1, 2.0, 1.0)
    weighted = cross_products(design).with_case_weights(levels=weights)
    rows = np.append(np.arange(design.n), np.flatnonzero(group == 1))
    codes = np.append(group, np.full(np.sum(group == 1), len(SERIES)))
    twice = rows_of(replace(design, residual=None), rows)
    terms = (replace(twice.terms[0], codes=codes, n_levels=len(SERIES) + 1),)
    r = design.residual
    logs = np.empty(design.n)
    logs[r.rows] = r.at[0]
    structure = Residual.of(len(rows), r.correlation, codes, np.zeros(len(rows)), [(Power(), logs[rows])])
    replicated = cross_products(replace(twice, terms=terms, residual=structure))
    assert float(criterion(x, weighted, 1.0)) == pytest.approx(float(criterion(x, replicated, 1.0)), rel=1e-13)


def test_order_of_the_rows_does_not_matter():
    design = build("toeplitz", 5)
    r, x = design.residual, random_parameters(design, 5)
    order = np.random.default_rng(5).permutation(design.n)
    place = np.argsort(order)
    moved = replace(rows_of(design, order), residual=replace(r, rows=place[r.rows]))
    values = [float(expansion(x, cross_products(d, orthonormal=True), 1.0)[0]) for d in (design, moved)]
    assert values[0] == pytest.approx(values[1], rel=1e-13)
