"""The matrices for reading are those of the lecture notes, and the templates fill them in lme4's order."""

import numpy as np
import pytest
from core_cases import build, close, dense_factor, float64, random_theta  # noqa: F401
from scipy import linalg, sparse

from lmmjax.core import RandomTerm, Template, indicator, khatri_rao, random_matrix, relative_factor, term_matrix

GROUP = np.repeat([0, 1, 2], 2)  # gl(3, 2) of the notes
RAW = np.column_stack([np.ones(6), np.tile([-1.0, 1.0], 3)])  # cbind(1, rep.int(c(-1, 1), 3L))


def test_transposed_khatri_rao_product_of_the_notes():
    term = RandomTerm(RAW, GROUP, 3, Template.full(2))
    block = np.array([[1, -1], [1, 1]])
    np.testing.assert_array_equal(indicator(term).toarray(), linalg.block_diag(*[np.ones((2, 1))] * 3))
    np.testing.assert_array_equal(term_matrix(term).toarray(), linalg.block_diag(*[block] * 3))
    np.testing.assert_array_equal(khatri_rao(indicator(term), RAW).toarray(), term_matrix(term).toarray())


def test_khatri_rao_rows_are_kronecker_products():
    rng = np.random.default_rng(0)
    j, x = rng.normal(size=(5, 4)) * (rng.random((5, 4)) < 0.5), rng.normal(size=(5, 3))
    rows = [np.kron(a, b) for a, b in zip(j, x, strict=True)]
    np.testing.assert_allclose(khatri_rao(sparse.csr_array(j), x).toarray(), rows, rtol=1e-15)


def test_template_fills_the_lower_triangle_column_by_column():
    np.testing.assert_array_equal(Template.full(3)(np.arange(1.0, 7)), [[1, 0, 0], [2, 4, 0], [3, 5, 6]])
    np.testing.assert_array_equal(Template.diagonal(3)(np.arange(1.0, 4)), np.diag([1, 2, 3]))
    np.testing.assert_array_equal(Template.full(3)(np.array(Template.full(3).start)), np.eye(3))
    assert (Template.full(3).n_theta, Template.diagonal(3).n_theta) == (6, 3)


def test_signs_rectify_without_changing_the_covariance():
    theta = np.array([-1.0, 2, -3, 4, 5, -6])
    template = Template.full(3)
    rectified = theta * np.asarray(template.signs(theta))
    before, after = np.asarray(template(theta)), np.asarray(template(rectified))
    assert np.all(np.diagonal(after) > 0)
    np.testing.assert_allclose(after @ after.T, before @ before.T)


@pytest.mark.parametrize("make", [lambda: Template.full(0), lambda: Template(lambda t: t, [1.0, 2.0])])
def test_impossible_templates_are_refused(make):
    with pytest.raises(ValueError, match="Template"):
        make()


def test_z_and_lambda_put_the_terms_side_by_side():
    design = build("crossed vectors", 61)
    theta = random_theta(design, 61)
    z, factor = random_matrix(design), relative_factor(design, theta)
    assert z.shape == (design.n, design.q)
    np.testing.assert_array_equal(z.toarray(), np.hstack([term_matrix(t).toarray() for t in design.terms]))
    blocks, at = [], 0
    for term in design.terms:
        t = np.asarray(term.template(theta[at : at + term.template.n_theta]))
        blocks += [t] * term.n_levels
        at += term.template.n_theta
    np.testing.assert_array_equal(factor.toarray(), linalg.block_diag(*blocks))
    close(dense_factor(design, theta), z.toarray() @ factor.toarray(), 1e-15)
