"""Factorisations with the derivatives that the criteria need, in closed form.

Batched LAPACK calls on tiny blocks dominate compile and run time on a CPU, so blocks up to UNROLL are written out.
"""

from functools import reduce
from itertools import combinations
from operator import add

import jax
import jax.numpy as jnp

UNROLL = 4
SWEEPS = (0, 0, 1, 4, 5)  # of Jacobi's method, by the size of the matrix: to rounding in double precision
FUSED = 16  # inner dimension from which a product is not written out
SMALL = 16  # rows of a factor that is found without LAPACK where that is asked for
HALVE = 100  # rows from which triangular products are split


def matmul(a, b):
    """Product of stacks of small matrices, (…, P, Q) by (…, Q, R), as one fused sum; of large ones by BLAS.

    A reduction over a tiny dimension cannot be vectorised: written out it is five times as fast in a batch.
    """
    inner = a.shape[-1]
    if inner > FUSED:
        return a @ b
    if not 0 < inner <= UNROLL:
        return (a[..., :, :, None] * b[..., None, :, :]).sum(-2)
    return reduce(add, (a[..., :, m, None] * b[..., m, None, :] for m in range(inner)))


def cholesky(a):
    """Lower factor L of (…, P, P) symmetric positive definite blocks; NaN where a block is not."""
    p = a.shape[-1]
    if p > UNROLL:
        return jax.lax.linalg.cholesky(a, symmetrize_input=False)
    rows: list[list] = []
    for i in range(p):
        row: list = []
        for j in range(i):
            row.append((a[..., i, j] - sum(row[m] * rows[j][m] for m in range(j))) / rows[j][j])
        row.append(jnp.sqrt(a[..., i, i] - sum(x * x for x in row)))
        rows.append(row)
    zero = jnp.zeros_like(a[..., 0, 0])
    return jnp.stack([jnp.stack(r + [zero] * (p - len(r)), -1) for r in rows], -2)


def solve_lower(factor, b):
    """L⁻¹b for lower-triangular L (…, P, P) and b (…, P, c)."""
    p = factor.shape[-1]
    if p > UNROLL:
        return jax.lax.linalg.triangular_solve(factor, b, left_side=True, lower=True)
    rows: list = []
    for i in range(p):
        known = sum(factor[..., i, m, None] * rows[m] for m in range(i))
        rows.append((b[..., i, :] - known) / factor[..., i, i, None])
    return jnp.stack(rows, -2) if rows else b


def solve_upper(factor, b):
    """R⁻¹b for upper-triangular R (…, P, P) and b (…, P, c)."""
    return solve_lower(factor[..., ::-1, ::-1], b[..., ::-1, :])[..., ::-1, :]


def eigh(a):
    """Eigenvalues (p,), in no order, and eigenvectors (p, p), as columns, of a symmetric matrix of which the upper
    triangle is read; cyclic Jacobi up to UNROLL (Golub & Van Loan 2013, §8.5)."""
    p = a.shape[-1]
    if p > UNROLL:
        vectors, values = jax.lax.linalg.eigh(a, lower=False, symmetrize_input=False)
        return values, vectors
    upper = {(i, j): a[i, j] for i in range(p) for j in range(i, p)}
    zero, one = jnp.zeros_like(a[0, 0]), jnp.ones_like(a[0, 0])
    columns = [[one if i == j else zero for i in range(p)] for j in range(p)]
    state = jax.lax.fori_loop(0, SWEEPS[p], lambda _, s: _jacobi_sweep(*s), (upper, columns))
    upper, columns = state
    return jnp.stack([upper[i, i] for i in range(p)]), jnp.stack([jnp.stack(c) for c in columns], -1)


def _jacobi_sweep(upper: dict, columns: list):
    """One rotation per pair (i, j), each of which makes upper[i, j] zero."""
    p, upper, columns = len(columns), dict(upper), list(columns)
    for i, j in combinations(range(p), 2):
        off = upper[i, j]
        ratio = (upper[j, j] - upper[i, i]) / jnp.where(off == 0, 1, 2 * off)
        tangent = jnp.where(ratio < 0, -1, 1) / (abs(ratio) + jnp.sqrt(1 + ratio**2))
        tangent = jnp.where(off == 0, 0, tangent)
        cosine = 1 / jnp.sqrt(1 + tangent**2)
        sine = tangent * cosine
        upper[i, i], upper[j, j] = upper[i, i] - tangent * off, upper[j, j] + tangent * off
        upper[i, j] = jnp.zeros_like(off)
        for k in set(range(p)) - {i, j}:
            ki, kj = (min(i, k), max(i, k)), (min(j, k), max(j, k))
            upper[ki], upper[kj] = cosine * upper[ki] - sine * upper[kj], sine * upper[ki] + cosine * upper[kj]
        pairs = list(zip(columns[i], columns[j], strict=True))
        columns[i] = [cosine * x - sine * y for x, y in pairs]
        columns[j] = [sine * x + cosine * y for x, y in pairs]
    return upper, columns


@jax.custom_jvp
def posterior(d, t, gram):
    """log|I + GD| (ℓ,) and W = (D⁻¹ + G)⁻¹ (ℓ, P, P) for every level's G, without inverting D.

    d : (P, P) or (ℓ, P, P), the relative covariance of a level's effects. t : (P, P) with d = ttᵀ; it carries the
    value, `d` the derivative. gram : (ℓ, P, P). W σ² is the conditional covariance of a level's effects.
    """
    p = t.shape[-1]
    factor = cholesky(matmul(t.T, matmul(gram, t)) + jnp.eye(p, dtype=t.dtype))
    half = solve_lower(factor, jnp.broadcast_to(t.T, gram.shape))
    log_det = 2 * jnp.sum(jnp.log(jnp.diagonal(factor, axis1=-2, axis2=-1)), -1)
    return log_det, matmul(half.mT, half)


@posterior.defjvp
def _posterior_jvp(primals, tangents):
    # With K = I − GW: d log|I+GD| = ⟨KG, dD⟩ + ⟨W, dG⟩ and dW = KᵀdD K − W dG W.
    _, _, gram = primals
    d_dot, _, gram_dot = tangents
    log_det, w = posterior(*primals)
    k = jnp.eye(w.shape[-1], dtype=w.dtype) - matmul(gram, w)
    log_det_dot = jnp.sum(matmul(k, gram) * d_dot + w * gram_dot, (-2, -1))
    return (log_det, w), (log_det_dot, matmul(matmul(k.mT, d_dot), k) - matmul(matmul(w, gram_dot), w))


@jax.custom_jvp
def inverse_factor(s):
    """L⁻¹ of the (r, r) symmetric positive definite S = LLᵀ."""
    return _inverse_lower(cholesky(s))


def small_inverse_factor(s):
    """The same for few rows, on a CPU without LAPACK: what turns S into Lᵀ, row after row, turns I into L⁻¹."""
    r = len(s)
    if not UNROLL < r <= SMALL or jax.default_backend() != "cpu":
        return inverse_factor(s)

    def step(j, m):
        at, own = jnp.arange(r)[:, None], m[j] / jnp.sqrt(m[j, j])
        return jnp.where(at == j, own, m - jnp.where(at > j, m[:, j, None] / m[j, j], 0) * m[j])

    return jax.lax.fori_loop(0, r, step, jnp.concatenate([s, jnp.eye(r, dtype=s.dtype)], 1))[:, r:]


def _inverse_lower(factor):
    """L⁻¹ by halves: most of it is matrix products, and a third of what a solve with I would take."""
    r = factor.shape[-1]
    if r <= HALVE:
        return solve_lower(factor, jnp.eye(r, dtype=factor.dtype))
    h = r // 2
    first, last = _inverse_lower(factor[:h, :h]), _inverse_lower(factor[h:, h:])
    return jnp.block([[first, jnp.zeros((h, r - h), factor.dtype)], [-last @ (factor[h:, :h] @ first), last]])


def weighted_gram(inverse, w):
    """KᵀWK (r, r) for lower-triangular K and W = diag(w), by halves."""
    r = inverse.shape[-1]
    if r <= HALVE:
        return inverse.T @ (w[:, None] * inverse)
    h = r // 2
    below, last = inverse[h:, :h], inverse[h:, h:]
    weighted = w[h:, None] * below
    corner = last.T @ weighted
    first = weighted_gram(inverse[:h, :h], w[:h]) + below.T @ weighted
    return jnp.block([[first, corner.T], [corner, weighted_gram(last, w[h:])]])


@inverse_factor.defjvp
def _inverse_factor_jvp(primals, tangents):
    # d(L⁻¹) = −Φ(L⁻¹ dS L⁻ᵀ) L⁻¹, with Φ the lower triangle and half the diagonal (Murray 2016, arXiv:1602.07527).
    inverse = inverse_factor(primals[0])
    return inverse, -half_lower(inverse @ tangents[0] @ inverse.T) @ inverse


def half_lower(x):
    """Φ(X): the strict lower triangle plus half the diagonal."""
    return jnp.tril(x, -1) + 0.5 * jnp.diag(jnp.diagonal(x))


@jax.custom_jvp
def log_diagonal(s):
    """(r,) log Lⱼⱼ of the Cholesky factor of S."""
    return jnp.log(jnp.diagonal(jnp.linalg.cholesky(s)))


@log_diagonal.defjvp
def _log_diagonal_jvp(primals, tangents):
    # d log Lⱼⱼ = ½ (L⁻¹ dS L⁻ᵀ)ⱼⱼ: its transpose is the one matrix ½ L⁻ᵀ diag(w) L⁻¹ of DESIGN §1.
    inverse = inverse_factor(primals[0])
    return -jnp.log(jnp.diagonal(inverse)), 0.5 * jnp.sum((inverse @ tangents[0]) * inverse, -1)
