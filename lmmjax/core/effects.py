"""Random effects and fitted values: what follows from an estimate by passes over stored arrays."""

from functools import partial

import jax
import jax.numpy as jnp

from .blocks import eliminate, template_blocks
from .compile import jit
from .criterion import pieces
from .crossprod import CrossProducts
from .design import Design
from .linalg import inverse_factor, log_diagonal


def linear_predictor(design: Design, beta, b=()):
    """(n,) offset + Xβ + Σᵢ Zᵢbᵢ, with b per term (ℓ, p_i); NumPy in, NumPy out."""
    eta = design.X @ beta
    eta = eta if design.offset is None else eta + design.offset
    for term, effects in zip(design.terms, b, strict=False):
        eta = eta + (term.x * effects[term.codes]).sum(-1)
    return eta


@jit
def conditional_variances(theta, cp: CrossProducts):
    """Var(b | y, β, θ)/σ² per grouping factor, chain then rest, as (ℓ, P, P).

    D − D HⱼD with Hⱼ a diagonal block of ZᵀV⁻¹Z, which is the derivative of log|V| = log|L|² along the level's own D.
    """
    plan, q, cp = cp.plan, cp.plan.q_rest, cp.at(theta)

    def log_det(probes):
        e = eliminate(theta, cp, probes)
        return e.log_det + 2 * jnp.sum(log_diagonal(e.dense)[:q])

    slopes = jax.grad(log_det)(tuple(jnp.zeros_like(s.gram) for s in cp.stages))
    out = []
    for stage, slope, t in zip(cp.stages, slopes, template_blocks(theta, plan, plan.chain), strict=True):
        d = t @ t.T
        for count in (stage.multiplicity, stage.copies):
            slope = slope if count is None else slope / count[:, None, None]
        out.append(d - d @ (0.5 * (slope + slope.mT)) @ d)
    inverse, start = inverse_factor(eliminate(theta, cp).dense)[:q, :q], 0
    blocks = template_blocks(theta, plan, plan.rest)
    for factor, t, of_levels in zip(plan.rest, blocks, cp.level_factors, strict=True):
        half = inverse[:, start : start + factor.q].reshape(q, factor.n_levels, factor.p) @ t.T
        half = half if of_levels is None else jnp.einsum("lk,rka->rla", of_levels, half)
        out.append(jnp.einsum("rla,rlb->lab", half, half))
        start += factor.q
    return tuple(out)


@partial(jit, rows=True)
def leverages(theta, cp: CrossProducts):
    """(n,) dŷᵢ/dyᵢ at θ held: the diagonal of the hat matrix, from cross-products that keep their rows.

    log|L|² + log|R_X|² is the log-determinant of the cross-products of [ZΛ, X] with I added to the first block. Its
    derivative in a row's case weight is the row's quadratic form in their inverse: one reverse pass has them all.
    """
    assert cp.rows is not None

    def log_dets(cases):
        log_l, log_rx, _ = pieces(theta, cp.with_case_weights(rows=cases))
        return log_l + log_rx

    return jax.grad(log_dets)(jnp.ones_like(cp.rows.y))
