"""The matrices of the model, written out sparsely for reading, teaching and tests; a fit never forms them.

Names follow Bates et al. (2015), J. Stat. Softw. 67(1), tables 3–4, as the lecture notes do.
"""

import numpy as np
from scipy import sparse

from .design import Design, RandomTerm
from .plan import term_slices


def indicator(term: RandomTerm) -> sparse.csr_array:
    """Jᵢ, (n, ℓᵢ): which level each row belongs to."""
    codes = np.asarray(term.codes)
    n = codes.shape[0]
    return sparse.csr_array((np.ones(n), (np.arange(n), codes)), shape=(n, term.n_levels))


def khatri_rao(j: sparse.sparray, x) -> sparse.csr_array:
    """(JᵀᵀKhatri–Rao Xᵀ)ᵀ, (n, ℓ p): row i is the Kronecker product of row i of J (n, ℓ) and row i of X (n, p)."""
    x, j = np.asarray(x), sparse.coo_array(j)
    n, p = x.shape
    columns = j.col[:, None] * p + np.arange(p)
    values = j.data[:, None] * x[j.row]
    rows = np.repeat(j.row, p)
    return sparse.csr_array((values.ravel(), (rows, columns.ravel())), shape=(n, j.shape[1] * p))


def term_matrix(term: RandomTerm) -> sparse.csr_array:
    """Zᵢ, (n, qᵢ), by the transposed Khatri–Rao product of Jᵢ and Xᵢ."""
    return khatri_rao(indicator(term), term.x)


def random_matrix(design: Design) -> sparse.csr_array:
    """Z = [Z₁ … Z_k], (n, q)."""
    empty = sparse.csr_array((design.n, 0))
    return sparse.csr_array(sparse.hstack([empty, *(term_matrix(t) for t in design.terms)]))


def relative_factor(design: Design, theta) -> sparse.csr_array:
    """Λ_θ, (q, q): block-diagonal, ℓᵢ copies of Tᵢ for each term, or L ⊗ Tᵢ where its levels are correlated."""
    theta = np.asarray(theta)
    templates = tuple(t.template for t in design.terms)
    blocks = [sparse.csr_array((0, 0))]
    for term, part in zip(design.terms, term_slices(templates), strict=True):
        t = term.template(theta[part])
        between = sparse.eye_array(term.n_levels) if term.level_factor is None else np.asarray(term.level_factor)
        blocks.append(sparse.kron(between, t))
    return sparse.csr_array(sparse.block_diag(blocks))


def cholesky_blocks(design: Design, theta) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """L (q, q), R_ZX (q, p) and R_X (p, p): the dense Cholesky blocks of the penalised least-squares problem."""
    root = np.ones(design.n) if design.weights is None else np.sqrt(np.asarray(design.weights))
    z = (random_matrix(design) @ relative_factor(design, theta)).toarray() * root[:, None]
    x = np.asarray(design.X) * root[:, None]
    factor = np.linalg.cholesky(z.T @ z + np.eye(z.shape[1]))
    rzx = np.linalg.solve(factor, z.T @ x)
    return factor, rzx, np.linalg.cholesky(x.T @ x - rzx.T @ rzx).T
