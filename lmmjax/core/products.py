"""The sums over rows that a criterion is made of: Gram blocks of grouping factors, what meets them, and products of y.

NumPy arrays in give NumPy arrays out without compiling anything; JAX arrays (or tracers) stay in JAX.
"""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from .namespace import namespace
from .plan import Plan


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Stage:
    """Cross-products of one chain factor, whose columns of Z are Z_s.

    gram : (ℓ, P, P) diagonal blocks of Z_sᵀZ_s. border : (ℓ, P, c) Z_sᵀ[Z of the outer chain, (dense rest,) X]; a
    level meets one level of each outer factor. entries : (N, P) Z_sᵀZ_rest at the plan's sparse crossings, or None.
    multiplicity : (ℓ,) case weights of whole levels, or None. copies : (ℓ,) those of the outermost level that holds
    each level: how often all that is eliminated within it counts.
    """

    gram: Any
    border: Any
    entries: Any = None
    multiplicity: Any = None
    copies: Any = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Response:
    """The products that y takes part in, after offset, weights and shift.

    zy : per chain factor (ℓ, P). dense : (q_R + p,) [Z_rest, X]ᵀy. yy : yᵀy. shift : (p,) coefficients of the basis of
    X already subtracted from y, so that yᵀy does not drown the residuals. placed : (N,) the shifted y in the positions
    of a residual structure, before its whitening; None without one.
    """

    zy: tuple[Any, ...]
    dense: Any
    yy: Any
    shift: Any
    placed: Any = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rows:
    """Whitened rows, kept for new responses and case weights.

    X : (n, p) in its basis. z, codes : per factor, chain then rest, (n, P) and (n,). y : (n,) as given.
    cases : (n,) multiplicities of rows; levels : (ℓ₁,) those of the first chain factor's levels; groups : (ℓ_k,) those
    of the last one's; or None.
    """

    X: Any
    z: tuple[Any, ...]
    codes: tuple[Any, ...]
    y: Any
    root_weights: Any = None
    offset: Any = None
    cases: Any = None
    levels: Any = None
    groups: Any = None
    group_codes: Any = None

    def counted(self, columns, lead: bool = False, chain: bool = False):
        """(n, c) columns times the rows' multiplicities; the lead factor's own products count its levels once, and
        those of the chain its outermost levels."""
        if self.cases is not None:
            columns = columns * self.cases[:, None]
        if self.levels is not None and not lead:
            columns = columns * self.levels[self.codes[0]][:, None]
        if self.groups is not None and not chain:
            columns = columns * self.groups[self.group_codes][:, None]
        return columns

    def whiten(self, y):
        """(n,) √w (y − offset)."""
        y = y if self.offset is None else y - self.offset
        return y if self.root_weights is None else y * self.root_weights


def segment_outer(a, b, segments, n_segments: int):
    """(n_segments, P, c): Σ aᵢ bᵢᵀ over the rows i of each segment, for a (n, P), b (n, c), segments (n,)."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        sums = [np.bincount(segments, x * y, n_segments) for x in a.T for y in b.T]
        out = np.stack(sums, -1) if sums else np.zeros((n_segments, 0))
        return out.reshape(n_segments, a.shape[1], b.shape[1]).astype(a.dtype)
    return jax.ops.segment_sum(a[:, :, None] * b[:, None, :], segments, n_segments)


def mixed(a, level_factors, plan: Plan):
    """KᵀA for A whose rows begin with those of the rest, K = L ⊗ I of each rest factor whose levels are correlated."""
    parts, at = [], 0
    if all(f is None for f in level_factors):
        return a
    for factor, of_levels in zip(plan.rest, level_factors, strict=True):
        block = a[at : at + factor.q]
        if of_levels is not None:
            shape = block.shape
            block = (of_levels.T @ block.reshape(factor.n_levels, -1)).reshape(shape)
        parts.append(block)
        at += factor.q
    return namespace((a, level_factors)).concatenate([*parts, a[at:]])


def stage_products(rows: Rows, plan: Plan, s: int, level_factors) -> Stage:
    """Products of chain factor s with itself, with the outer chain, the rest and X."""
    xp, k, levels = namespace(rows), len(plan.chain), plan.chain[s].n_levels
    z, codes, lead = rows.z[s], rows.codes[s], s == 0
    inner = rows.counted(z, lead, chain=True)
    gram = segment_outer(inner, z, codes, levels)
    border = [segment_outer(inner, rows.z[i], codes, levels) for i in range(s + 1, k)]
    entries = None
    if plan.dense_border:
        crossed = xp.concatenate([_crossed(inner, codes, levels, rows, plan, i) for i in range(len(plan.rest))], -1)
        border.append(xp.moveaxis(mixed(xp.moveaxis(crossed, -1, 0), level_factors, plan), 0, -1))
    elif plan.rest:
        crossing = plan.crossings[s]
        met = zip(crossing.meeting, crossing.n_meetings, rows.z[k:], strict=True)
        blocks = (segment_outer(inner, zr, index, count) for index, count, zr in met)
        entries = xp.concatenate([xp.swapaxes(b, 1, 2).reshape(-1, z.shape[1]) for b in blocks])
    border.append(segment_outer(inner, rows.X, codes, levels))
    copies = None if rows.groups is None else rows.groups[_outermost(plan, s)]
    return Stage(gram, xp.concatenate(border, -1), entries, rows.levels if lead else None, copies)


def _outermost(plan: Plan, s: int):
    """(ℓ,) the level of the last chain factor that holds each level of factor s."""
    at = np.arange(plan.chain[s].n_levels)
    for parents in plan.parents[s:]:
        at = parents[at]
    return at


def _crossed(inner, codes, levels: int, rows: Rows, plan: Plan, i: int):
    """(ℓ, P, q_r) products of a factor's columns with all columns of rest factor i."""
    xp, other = namespace(rows), plan.rest[i]
    k = len(plan.chain) + i
    wide = codes.astype(np.int64) if xp is np else codes  # JAX may be in 32 bits, where int64 does not exist
    segments = wide * other.n_levels + rows.codes[k]
    block = segment_outer(inner, rows.z[k], segments, levels * other.n_levels)
    block = block.reshape(levels, other.n_levels, inner.shape[1], other.p)
    return xp.swapaxes(block, 1, 2).reshape(levels, inner.shape[1], other.q)


def dense_products(rows: Rows, plan: Plan, level_factors):
    """(q_R + p, q_R + p) products of [Z_rest, X] with themselves."""
    xp, k, n_rest = namespace(rows), len(plan.chain), len(plan.rest)
    xx = rows.counted(rows.X).T @ rows.X
    if not plan.rest:
        return xx
    zz, zx = [], []
    for i, factor in enumerate(plan.rest):
        z, codes = rows.counted(rows.z[k + i]), rows.codes[k + i]
        zz.append([_crossed(z, codes, factor.n_levels, rows, plan, j).reshape(factor.q, -1) for j in range(n_rest)])
        zx.append(segment_outer(z, rows.X, codes, factor.n_levels).reshape(factor.q, -1))
    zx = xp.concatenate(zx)
    whole = xp.block([[xp.block(zz), zx], [zx.T, xx]])
    return mixed(mixed(whole, level_factors, plan).T, level_factors, plan)


def response_products(rows: Rows, plan: Plan, orthonormal: bool, level_factors, structure=None) -> Response:
    """Products of y with all columns. structure : the `Residual` in whose positions y is kept too."""
    xp, k = namespace(rows), len(plan.chain)
    y = rows.whiten(rows.y)
    shift = y @ rows.X if orthonormal else xp.zeros(rows.X.shape[1], rows.X.dtype)
    y = (y - rows.X @ shift)[:, None]
    counted, products = rows.counted(y), []
    for i, factor in enumerate(plan.chain + plan.rest):
        times = rows.counted(y, i == 0, i < k)
        products.append(segment_outer(rows.z[i], times, rows.codes[i], factor.n_levels))
    dense = xp.concatenate([*(z.reshape(-1) for z in products[k:]), (rows.X.T @ counted)[:, 0]])
    dense = mixed(dense, level_factors, plan)
    placed = None if structure is None else structure.arrange(y[:, 0])
    return Response(tuple(z[..., 0] for z in products[:k]), dense, (y.T @ counted)[0, 0], shift, placed)
