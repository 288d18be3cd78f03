"""The blocked factorisation of Ω(θ), the cross-products of [ZΛ, X, y] with I added to the ZΛ block.

The chain of grouping factors is eliminated one block-diagonal factor at a time, each passing its update to the next
(a multifrontal factorisation on a forest); what is left, [Z_rest Λ, X, y], is one dense matrix for LAPACK. A level's
elimination is written with W = T(TᵀGT + I)⁻¹Tᵀ, which exists for any T, singular ones included, and whose derivatives
are products of W and G again (`linalg.posterior`).
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.ops import segment_sum

from .crossprod import CrossProducts
from .linalg import matmul, posterior
from .plan import Factor, Plan
from .products import segment_outer


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Eliminated:
    """What the chain leaves behind.

    log_det : its share of log|L|². dense : (r, r) Schur complement of [Z_rest Λ, X, y] with I on the rest's diagonal,
    r = q_R + p + 1. solved : per chain factor what back-substitution needs.
    """

    log_det: Any
    dense: Any
    solved: tuple["Solved", ...]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Solved:
    """One chain factor: w (ℓ, P, P), and its gram, border and entries after the inner factors' updates."""

    w: Any
    gram: Any
    border: Any
    entries: Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Passed:
    """Updates on their way out of the eliminated levels.

    tail : (t, t) for [(dense rest,) X, y]. block : (ℓ, a, c) for the levels of the next chain factor, a columns of the
    outer chain by c = a + t. entries : (N, a) for its sparse entries. rest, rest_tail : (q_R, q_R) lower triangle and
    (q_R, t), with sparse crossings only.
    """

    tail: Any
    block: Any = None
    entries: Any = None
    rest: Any = 0.0
    rest_tail: Any = 0.0


def template_blocks(theta, plan: Plan, factors: tuple[Factor, ...]):
    """Per factor the (P, P) block-diagonal of its terms' T(θ)."""
    parts = [t(theta[s]) for t, s in zip(plan.templates, plan.theta_slices(), strict=True)]

    def block_diagonal(factor: Factor):
        start, rows = 0, []
        for t in (parts[i] for i in factor.terms):
            rows.append(jnp.pad(t, ((0, 0), (start, factor.p - start - t.shape[0]))))
            start += t.shape[0]
        return jnp.concatenate(rows) if len(rows) > 1 else rows[0]

    return [block_diagonal(f) for f in factors]


def eliminate(theta, cp: CrossProducts, probes=None) -> Eliminated:
    """Eliminates the chain for one θ (m,).

    probes : per chain factor (ℓ, P, P), added to each level's TTᵀ; the derivative of log|L|² there is a diagonal block
    of ZᵀV⁻¹Z.
    """
    log_det, full, solved = eliminate_chain(theta, cp, probes)
    return Eliminated(log_det, _spherical(theta, cp, full), solved)


def eliminate_chain(theta, cp: CrossProducts, probes=None):
    """The same with the Schur complement of [Z_rest, X, y] itself: (log|L|² of the chain, (r, r), solved)."""
    tail = cp.p + 1 + (cp.plan.q_rest if cp.plan.dense_border else 0)
    passed = _Passed(jnp.zeros((tail, tail), cp.dense.dtype))
    log_det, solved = jnp.zeros((), cp.dense.dtype), []
    for s, t in enumerate(template_blocks(theta, cp.plan, cp.plan.chain)):
        gram, border, entries, passed = _own(cp, s, passed)
        d = t @ t.T if probes is None else t @ t.T + probes[s]
        log_dets, w = posterior(d, jax.lax.stop_gradient(t), gram)
        solved.append(Solved(w, gram, border, entries))
        log_det += jnp.sum(_times(cp.stages[s].copies, _counted(cp, s, log_dets)))
        passed = _pass_on(cp, s, passed, solved[-1])
    return log_det, _schur(cp, passed), tuple(solved)


def _counted(cp: CrossProducts, s: int, values):
    """(ℓ, …) values times the case weights of the factor's levels."""
    return _times(cp.stages[s].multiplicity, values)


def _times(count, values):
    return values if count is None else values * count.reshape(-1, *[1] * (values.ndim - 1))


def _own(cp: CrossProducts, s: int, passed: _Passed):
    """A factor's own blocks after what the inner factors passed, and what they pass further out."""
    stage, p = cp.stages[s], cp.plan.chain[s].p
    border = jnp.concatenate([stage.border, cp.response.zy[s][..., None]], -1)
    if passed.block is None:
        return stage.gram, border, stage.entries, passed
    block = passed.block
    gram, border = stage.gram - block[:, :p, :p], border - block[:, :p, p:]
    further = replace(passed, block=block[:, p:, p:])
    if stage.entries is None:
        return gram, border, None, further
    return gram, border, stage.entries - passed.entries[:, :p], replace(further, entries=passed.entries[:, p:])


def _pass_on(cp: CrossProducts, s: int, passed: _Passed, own: Solved) -> _Passed:
    """Adds borderᵀ W border of one factor, split into what its outer factors need and what all share."""
    outer = sum(f.p for f in cp.plan.chain[s + 1 :])
    wb = _counted(cp, s, matmul(own.w, own.border))  # (ℓ, P, c)
    copies = _times(cp.stages[s].copies, wb[..., outer:])
    tail = passed.tail + jnp.einsum("lpa,lpb->ab", own.border[..., outer:], copies)
    out = replace(passed, tail=tail)
    if outer:
        block = matmul(own.border[..., :outer].mT, wb)
        block = block if passed.block is None else block + passed.block
        out = replace(out, block=segment_sum(block, cp.plan.parents[s], cp.plan.chain[s + 1].n_levels))
    return out if own.entries is None else _pass_entries(cp, s, out, own, wb)


def _pass_entries(cp: CrossProducts, s: int, passed: _Passed, own: Solved, wb) -> _Passed:
    """The same for the sparse crossings: entries with the border and, pair by pair within a level, with themselves."""
    crossing, q_rest, e = cp.plan.crossings[s], cp.plan.q_rest, own.entries
    outer = wb.shape[-1] - passed.tail.shape[0]
    met = matmul(e[:, None, :], wb[crossing.level])[:, 0]  # (N, c)
    we = matmul(_counted(cp, s, own.w)[crossing.level], e[..., None])[..., 0]
    pairs = jnp.sum(e[crossing.first] * we[crossing.second], -1)
    rest = segment_sum(pairs, crossing.cell, q_rest * q_rest, indices_are_sorted=True).reshape(q_rest, q_rest)
    up = None
    if outer:
        up = met[:, :outer] if passed.entries is None else met[:, :outer] + passed.entries
        up = segment_sum(up, crossing.up, cp.plan.crossings[s + 1].level.shape[0])
    rest_tail = segment_sum(met[:, outer:], crossing.column, q_rest)
    return replace(passed, entries=up, rest=passed.rest + rest, rest_tail=passed.rest_tail + rest_tail)


def _schur(cp: CrossProducts, passed: _Passed):
    """(r, r) the bordered cross-products of [Z_rest, X, y] less all updates."""
    y = cp.response
    full = jnp.block([[cp.dense, y.dense[:, None]], [y.dense[None, :], y.yy]])
    if cp.plan.crossings:
        rest = passed.rest + jnp.tril(passed.rest, -1).T
        return full - jnp.block([[rest, passed.rest_tail], [passed.rest_tail.T, passed.tail]])
    return full - passed.tail


def _spherical(theta, cp: CrossProducts, full):
    """The same in terms of u: scaled by Λ, plus I for the rest."""
    if not cp.plan.rest:
        return full
    identity = jnp.diag((jnp.arange(full.shape[0]) < cp.plan.q_rest).astype(full.dtype))
    return _scale(theta, cp.plan, full) + identity


def _scale(theta, plan: Plan, matrix):
    """diag(Λ_rest, I)ᵀ matrix diag(Λ_rest, I)."""
    if any(f.p > 1 for f in plan.rest):
        return _scale_rows(theta, plan, _scale_rows(theta, plan, matrix).T)
    sizes = [
        jnp.broadcast_to(t[0, 0], f.q) for f, t in zip(plan.rest, template_blocks(theta, plan, plan.rest), strict=True)
    ]
    scale = jnp.concatenate([*sizes, jnp.ones(matrix.shape[0] - plan.q_rest, matrix.dtype)])
    return matrix * scale[:, None] * scale


def _scale_rows(theta, plan: Plan, matrix):
    """diag(Λ_rest, I)ᵀ times a matrix whose rows are those of [Z_rest, X, y]."""
    parts, start = [], 0
    for factor, t in zip(plan.rest, template_blocks(theta, plan, plan.rest), strict=True):
        block = matrix[start : start + factor.q].reshape(factor.n_levels, factor.p, -1)
        parts.append(jnp.einsum("pa,lpc->lac", t, block).reshape(factor.q, -1))
        start += factor.q
    return jnp.concatenate([*parts, matrix[start:]])


def back_substitute(theta, cp: CrossProducts, eliminated: Eliminated, rest_x, noise=None):
    """Effects of every factor from the dense solution.

    rest_x : (q_R + p,) the spherical effects of the rest and the coefficients of X in its basis. noise : per chain
    factor (ℓ, P), to be added to u. Returns per factor, chain then rest, b and u (ℓ, P); the chain's, but for noise,
    with r = Zᵀ(y − Xβ − Z_other b): b = W r and u = Tᵀ(r − G b).
    """
    plan, k = cp.plan, len(cp.plan.chain)
    rest, start = [], 0
    for factor, t in zip(plan.rest, template_blocks(theta, plan, plan.rest), strict=True):
        u = rest_x[start : start + factor.q].reshape(factor.n_levels, factor.p)
        rest.append((u @ t.T, u))
        start += factor.q
    b_rest = jnp.concatenate([b.reshape(-1) for b, _ in rest]) if rest else rest_x[:0]
    known = rest_x[start:] if plan.crossings else jnp.concatenate([b_rest, rest_x[start:]])
    chain: list = []
    for s in reversed(range(k)):
        own, t = eliminated.solved[s], template_blocks(theta, plan, plan.chain[s : s + 1])[0]
        r = own.border[..., -1] - _outer_effects(cp, s, chain, own) - own.border[..., -1 - known.shape[0] : -1] @ known
        if plan.crossings:
            crossing = plan.crossings[s]
            effects = b_rest[crossing.column, None]
            r = r - segment_outer(own.entries, effects, crossing.level, plan.chain[s].n_levels)[..., 0]
        b = matmul(own.w, r[..., None])[..., 0]
        u = (r - matmul(own.gram, b[..., None])[..., 0]) @ t
        chain.insert(0, (b, u) if noise is None else (b + noise[s] @ t.T, u + noise[s]))
    mixed = [
        (b if of_levels is None else of_levels @ b, u) for (b, u), of_levels in zip(rest, cp.level_factors, strict=True)
    ]
    return chain + mixed


def _outer_effects(cp: CrossProducts, s: int, chain, own: Solved):
    """(ℓ, P) what the effects of the outer chain factors, already found, contribute to a factor's products."""
    total, start, at = 0.0, 0, None
    for i, (b, _) in enumerate(chain):
        step = cp.plan.parents[s + i]
        at = step if at is None else step[at]
        width = b.shape[1]
        total = total + matmul(own.border[..., start : start + width], b[at][..., None])[..., 0]
        start += width
    return total
