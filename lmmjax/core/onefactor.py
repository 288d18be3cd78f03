"""Gradient and Hessian of the criterion for one grouping factor, written out.

Most models have one grouping factor, and these dozen products compile and run several times faster than the general
rule of `criterion.evaluate`. With D = TTᵀ, K = I − GW, H = KG = ZⱼᵀV⁻¹Zⱼ and F = KB = ZⱼᵀV⁻¹[X, y] of each level:

    d log|V| = Σ ⟨H, dD⟩,    dS = −Σ FᵀdD F,    dH = −H dD H,    dF = −H dD F.
"""

import jax
import jax.numpy as jnp
import numpy as np

from .blocks import Eliminated, template_blocks
from .crossprod import CrossProducts
from .plan import Plan


def one_factor_slopes(theta, cp: CrossProducts, w, eliminated: Eliminated, inverse):
    """Gradient (m,), the part of the Hessian (m, m) that is linear in dS, and L̃⁻¹dS L̃⁻ᵀ (m, r, r).

    w : (r,) weights of log L̃ⱼⱼ in the criterion. inverse : (r, r) L̃⁻¹.
    """
    own, count = eliminated.solved[0], cp.stages[0].multiplicity
    identity = jnp.eye(own.gram.shape[-1], dtype=w.dtype)
    k = identity - own.gram @ own.w
    h, q = k @ own.gram, (k @ own.border) @ inverse.T  # (ℓ, P, P), (ℓ, P, r)
    n = (q * w) @ q.mT  # F M Fᵀ
    counted = (lambda a: a) if count is None else (lambda a: a * count[:, None, None])
    slope = jnp.sum(counted(h - 0.5 * n), 0)  # ∂/∂D
    bend = jnp.einsum("lbc,lda->abcd", counted(h), n - h)  # ⟨A, bend, B⟩ = Σ tr(A H B N) − tr(A H B H)
    spread = jnp.einsum("lap,lbq->abpq", counted(q), q)
    t, slopes, bends = _derivatives(theta, cp.plan)
    half = slopes @ t.T
    along = half + half.mT  # dD for each θ
    hessian = jnp.einsum("mab,abcd,ncd->mn", along, bend, along)
    hessian += 2 * jnp.einsum("ab,mac,nbc->mn", slope, slopes, slopes)
    if bends is not None:
        hessian += 2 * jnp.einsum("ab,mnab->mn", slope, bends @ t.T)
    return jnp.einsum("mab,ab->m", along, slope), hessian, -jnp.einsum("mab,abpq->mpq", along, spread)


def _derivatives(theta, plan: Plan):
    """T (P, P) of all terms, block-diagonal, and its first (m, P, P) and second (m, m, P, P) derivatives or None."""

    def t(x):
        return template_blocks(x, plan, plan.chain)[0]

    if all(template.filled for template in plan.templates):
        return t(theta), _basis(plan).astype(theta.dtype), None
    bends = jax.jacfwd(jax.jacrev(t))(theta)
    return t(theta), jnp.moveaxis(jax.jacfwd(t)(theta), -1, 0), jnp.moveaxis(bends, (-2, -1), (0, 1))


def _basis(plan: Plan) -> np.ndarray:
    """(m, P, P) dT for each θ, where T is linear."""
    p = plan.chain[0].p
    out, start = [np.zeros((0, p, p))], 0
    for template in plan.templates:
        after = p - start - template.p
        out.append(np.pad(template.basis, ((0, 0), (start, after), (start, after))))
        start += template.p
    return np.concatenate(out)
