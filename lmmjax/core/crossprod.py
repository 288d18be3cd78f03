"""Design → CrossProducts: everything that a criterion needs to know about the rows, formed once.

NumPy arrays in give NumPy arrays out without compiling anything; JAX arrays (or tracers) stay in JAX.
"""

import warnings
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np

from ..errors import PrecisionWarning
from .design import Design
from .namespace import namespace
from .plan import Plan, make_plan


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
    X already subtracted from y, so that yᵀy does not drown the residuals.
    """

    zy: tuple[Any, ...]
    dense: Any
    yy: Any
    shift: Any


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


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CrossProducts:
    """The sufficient statistics of a linear mixed model.

    stages : one Stage per chain factor. dense : (q_R + p, q_R + p) cross-products of [Z_rest, X]. n : rows, a float.
    log_weights : Σ log wᵢ. level_factors : per rest factor (ℓ, ℓ) L of its levels or None, which its columns are
    multiplied by already. basis : (p, p) upper-triangular R; X R⁻¹ stands in the place of X, which changes no
    criterion but keeps digits. rows : None in a sum of CrossProducts.
    """

    stages: tuple[Stage, ...]
    dense: Any
    response: Response
    n: Any
    log_weights: Any
    basis: Any
    plan: Plan
    rows: Rows | None = None
    level_factors: tuple[Any, ...] = ()
    orthonormal: bool = field(default=False, metadata={"static": True})

    @property
    def p(self) -> int:
        """Fixed-effects columns."""
        return self.basis.shape[-1]

    def __add__(self, other: "CrossProducts") -> "CrossProducts":
        """Cross-products of the rows of both: chunks of one design, formed with one plan (see `Plan.take`)."""
        if self.orthonormal or other.orthonormal:
            raise ValueError("cross-products in an orthonormal basis do not add; use orthonormal=False for every chunk")
        parts = ("stages", "dense", "response", "n", "log_weights")
        summed = {k: jax.tree.map(lambda a, b: a + b, getattr(self, k), getattr(other, k)) for k in parts}
        return replace(self, rows=None, **summed)

    def without_rows(self) -> "CrossProducts":
        """The statistics alone: nothing left whose shape depends on the number of rows."""
        return replace(self, rows=None, plan=self.plan.take(slice(0)))

    def with_response(self, y) -> "CrossProducts":
        """The same design with another response, (n,). A sum of CrossProducts has no rows left: ValueError."""
        rows = replace(_kept(self.rows), y=y)
        return replace(self, rows=rows, response=_response(rows, self.plan, self.orthonormal, self.level_factors))

    def with_case_weights(self, rows=None, levels=None, groups=None) -> "CrossProducts":
        """Multiplicities of rows (n,), of whole levels of the first chain factor (ℓ₁,), or of the last one (ℓ_k,).

        Integers are replication. The last factor's levels, `groups`, hold the others': ValueError where crossed factors
        leave no such groups. A level's weight multiplies its share of log|L|, of every cross-product and of n (DESIGN:
        case weights).
        """
        if groups is not None and (self.plan.rest or not self.plan.chain):
            raise ValueError(
                "no independent groups: their levels meet in crossed or correlated factors, or none is there"
            )
        if len(self.plan.chain) == 1 and groups is not None and levels is None:
            levels, groups = groups, None
        rows = replace(_kept(self.rows), cases=rows, levels=levels, groups=groups)
        if groups is not None:
            rows = replace(rows, group_codes=rows.codes[len(self.plan.chain) - 1])
        return _assemble(rows, self.plan, self.basis, self.orthonormal, self.level_factors)

    def with_fixed(self, C) -> "CrossProducts":
        """The same rows with X C in the place of X, from the products alone; safe under `jit` and `vmap` over C.

        C : (p, p') of full column rank, in the coordinates of X itself. With R C = QR', X R⁻¹Q takes the place of
        X R⁻¹, and y gets back what was subtracted from it along the columns that leave.
        """
        q, basis = namespace((self.without_rows(), C)).linalg.qr(self.basis @ C)
        rows = None if self.rows is None else replace(self.rows, X=self.rows.X @ q)
        back = self.response.shift - q @ (q.T @ self.response.shift)
        stages = tuple(replace(s, border=_turned(s.border, q)) for s in self.stages)
        dense = _turned(_turned(self.dense, q).T, q).T
        return replace(self, stages=stages, dense=dense, response=_returned(self, back, q), basis=basis, rows=rows)


def cross_products(design: Design, plan: Plan | None = None, orthonormal: bool = False) -> CrossProducts:
    """Forms the cross-products of a design.

    plan : from `make_plan`; needed under `jit` when there are several grouping factors.
    orthonormal : work in an orthonormal basis of X (by QR) with y's projection on it removed. The criteria are the
    same functions; ill-conditioned X and large means lose no digits. Such products cannot be added.
    Warns with PrecisionWarning when float64 arrays meet a JAX that computes in 32 bits.
    """
    _check_precision(design)
    plan = make_plan(design.terms) if plan is None else plan
    xp = namespace(design)
    root = None if design.weights is None else xp.sqrt(design.weights)
    scale = (lambda a: a) if root is None else (lambda a: a * root[:, None])
    factors = plan.chain + plan.rest
    z = tuple(scale(xp.concatenate([design.terms[i].x for i in f.terms], 1)) for f in factors)
    codes = tuple(design.terms[f.terms[0]].codes for f in factors)
    X, basis = scale(design.X), xp.eye(design.p, dtype=design.X.dtype)
    if orthonormal:
        X, basis = xp.linalg.qr(X)
    rows = Rows(X, z, codes, design.y, root, design.offset)
    level_factors = tuple(design.terms[f.terms[0]].level_factor for f in plan.rest)
    return _assemble(rows, plan, basis, orthonormal, level_factors)


def segment_outer(a, b, segments, n_segments: int):
    """(n_segments, P, c): Σ aᵢ bᵢᵀ over the rows i of each segment, for a (n, P), b (n, c), segments (n,)."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        sums = [np.bincount(segments, x * y, n_segments) for x in a.T for y in b.T]
        out = np.stack(sums, -1) if sums else np.zeros((n_segments, 0))
        return out.reshape(n_segments, a.shape[1], b.shape[1]).astype(a.dtype)
    return jax.ops.segment_sum(a[:, :, None] * b[:, None, :], segments, n_segments)


def _assemble(rows: Rows, plan: Plan, basis, orthonormal: bool, level_factors) -> CrossProducts:
    xp, k = namespace(rows), len(plan.chain)
    stages = tuple(_stage(rows, plan, s, level_factors) for s in range(k))
    ones = rows.counted(xp.ones((rows.y.shape[0], 1), rows.X.dtype))
    log_weights = 0.0 if rows.root_weights is None else 2 * xp.sum(ones[:, 0] * xp.log(rows.root_weights))
    return CrossProducts(
        stages,
        _dense(rows, plan, level_factors),
        _response(rows, plan, orthonormal, level_factors),
        xp.sum(ones),
        xp.asarray(log_weights, dtype=rows.X.dtype),
        basis,
        plan,
        rows,
        level_factors,
        orthonormal,
    )


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


def _stage(rows: Rows, plan: Plan, s: int, level_factors) -> Stage:
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


def _dense(rows: Rows, plan: Plan, level_factors):
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


def _response(rows: Rows, plan: Plan, orthonormal: bool, level_factors) -> Response:
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
    return Response(tuple(z[..., 0] for z in products[:k]), dense, (y.T @ counted)[0, 0], shift)


def _turned(columns, q):
    """(…, c − p + p') the last p columns times q, (p, p'); these are the columns of X."""
    first = columns.shape[-1] - q.shape[0]
    return namespace((columns, q)).concatenate([columns[..., :first], columns[..., first:] @ q], -1)


def _returned(cp: CrossProducts, back, q) -> Response:
    """The products of y + X·back, X in its basis, with [Z, Xq] and itself; q : (p, p')."""
    y, p = cp.response, cp.p
    zy = tuple(a + s.border[..., s.border.shape[-1] - p :] @ back for a, s in zip(y.zy, cp.stages, strict=True))
    x = y.dense.shape[0] - p
    dense = y.dense + cp.dense[:, x:] @ back
    return Response(zy, _turned(dense, q), y.yy + back @ (y.dense[x:] + dense[x:]), y.shift @ q)


def _kept(rows: Rows | None) -> Rows:
    if rows is None:
        raise ValueError("these cross-products are a sum without rows: form them from the whole design instead")
    return rows


def _check_precision(design: Design) -> None:
    wide = any(isinstance(a, np.ndarray) and a.dtype == np.float64 for a in jax.tree.leaves(design))
    if wide and not jax.config.read("jax_enable_x64"):
        text = (
            "float64 data will be computed in float32, to about 7 digits: enter lmmjax.float64() or set jax_enable_x64"
        )
        warnings.warn(text, PrecisionWarning, stacklevel=3)
