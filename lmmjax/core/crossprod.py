"""Design → CrossProducts: everything that a criterion needs to know about the rows, formed once.

NumPy arrays in give NumPy arrays out without compiling anything; JAX arrays (or tracers) stay in JAX.
"""

import warnings
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import PrecisionWarning
from .design import Design
from .namespace import namespace
from .plan import DENSE_BORDER_LIMIT, Factor, Plan, make_plan
from .products import Response, Rows, Stage, dense_products, mixed, response_products, stage_products
from .residual import Residual


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Unwhitened:
    """Rows in the positions of a residual structure, before they are whitened.

    rows : where rows are correlated their X holds [Z_rest, X], as whitening mixes the levels of what crosses the chain.
    meetings : see `Crossing`, by chain factor.
    """

    structure: Residual
    rows: Rows
    meetings: tuple[tuple[Any, ...], ...]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CrossProducts:
    """The sufficient statistics of a linear mixed model.

    stages : one Stage per chain factor. dense : (q_R + p, q_R + p) cross-products of [Z_rest, X]. n : rows, a float.
    log_weights : Σ log wᵢ. level_factors : per rest factor (ℓ, ℓ) L of its levels or None, which its columns are
    multiplied by already. basis : (p, p) upper-triangular R; X R⁻¹ stands in the place of X, which changes no
    criterion but keeps digits. rows : None in a sum of CrossProducts. unwhitened : with a residual structure, what
    `at` makes the products from; these here are then those of R = I.
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
    unwhitened: Unwhitened | None = None

    @property
    def p(self) -> int:
        """Fixed-effects columns."""
        return self.basis.shape[-1]

    def at(self, parameters) -> "CrossProducts":
        """The products for R(φ), φ being what stands behind θ in `parameters` (m + k,); the same where R = I."""
        return self if self.unwhitened is None else _whitened(self, self.unwhitened, parameters[self.plan.n_theta :])

    def __add__(self, other: "CrossProducts") -> "CrossProducts":
        """Cross-products of the rows of both: chunks of one design, formed with one plan (see `Plan.take`)."""
        if self.unwhitened is not None or other.unwhitened is not None:
            raise ValueError("cross-products with a residual structure do not add: form them from the whole design")
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
        return replace(self, rows=rows, response=_response(rows, self))

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
        new = replace(_kept(self.rows), cases=rows, levels=levels, groups=groups)
        if groups is not None:
            new = replace(new, group_codes=new.codes[len(self.plan.chain) - 1])
        return _assemble(new, replace(self, unwhitened=_counted_too(self.unwhitened, new)))

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
        unwhitened = self.unwhitened
        if unwhitened is not None:
            unwhitened = replace(unwhitened, rows=replace(unwhitened.rows, X=_turned(unwhitened.rows.X, q)))
        parts = {"stages": stages, "dense": dense, "basis": basis, "rows": rows, "unwhitened": unwhitened}
        return replace(self, response=_returned(self, back, q), **parts)


def cross_products(design: Design, plan: Plan | None = None, orthonormal: bool = False) -> CrossProducts:
    """Forms the cross-products of a design.

    plan : from `make_plan`, which must have seen the residual structure; needed under `jit` when there are several
    grouping factors.
    orthonormal : work in an orthonormal basis of X (by QR) with y's projection on it removed. The criteria are the
    same functions; ill-conditioned X and large means lose no digits. Such products cannot be added.
    Warns with PrecisionWarning when float64 arrays meet a JAX that computes in 32 bits.
    """
    _check_precision(design)
    if plan is not None and plan.n_phi != design.n_phi:
        raise ValueError("the plan knows nothing of residual=: make_plan(design.terms, design.residual)")
    plan = make_plan(design.terms, design.residual) if plan is None else plan
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
    unwhitened = None if design.residual is None else _unwhitened(design.residual, rows, plan, level_factors)
    unknown: Any = None
    blank = CrossProducts((), *(unknown,) * 4, basis, plan, None, level_factors, orthonormal, unwhitened)
    return _assemble(rows, blank)


def _assemble(rows: Rows, cp: CrossProducts) -> CrossProducts:
    """`cp` with the products of these rows."""
    xp, k = namespace(rows), len(cp.plan.chain)
    ones = rows.counted(xp.ones((rows.y.shape[0], 1), rows.X.dtype))
    log_weights = 0.0 if rows.root_weights is None else 2 * xp.sum(ones[:, 0] * xp.log(rows.root_weights))
    return replace(
        cp,
        stages=tuple(stage_products(rows, cp.plan, s, cp.level_factors) for s in range(k)),
        dense=dense_products(rows, cp.plan, cp.level_factors),
        response=_response(rows, cp),
        n=xp.sum(ones),
        log_weights=xp.asarray(log_weights, dtype=rows.X.dtype),
        rows=rows,
    )


def _unwhitened(structure: Residual, rows: Rows, plan: Plan, level_factors) -> Unwhitened:
    """The rows in the structure's positions; y stays where it is."""
    z, X, codes = rows.z, rows.X, rows.codes
    if structure.correlation is not None:
        k = len(plan.chain)
        if X.shape[0] * plan.q_rest > DENSE_BORDER_LIMIT:
            raise ValueError(f"correlated rows meet {plan.q_rest} effects that cross their groups: too many")
        rest = [_columns(a, c, f) for a, c, f in zip(z[k:], codes[k:], plan.rest, strict=True)]
        X = mixed(namespace(rows).concatenate([*rest, X], 1).T, level_factors, plan).T
        z, codes = z[:k], codes[:k]
    codes = tuple(c[structure.rows] for c in codes)  # in empty positions, where columns are zero, those of a row
    placed = Rows(structure.arrange(X), tuple(map(structure.arrange, z)), codes, None)
    meetings = tuple(tuple(m[structure.rows] for m in c.meeting) for c in plan.crossings)
    return Unwhitened(structure, placed, meetings)


def _columns(z, codes, factor: Factor):
    """(n, q) all columns of a factor."""
    indicators = codes[:, None] == np.arange(factor.n_levels)
    return (indicators[:, :, None] * z[:, None, :]).reshape(z.shape[0], factor.q)


def _counted_too(own: Unwhitened | None, rows: Rows) -> Unwhitened | None:
    """The same multiplicities for the rows in their positions."""
    if own is None:
        return None
    if rows.cases is not None and own.structure.correlation is not None:
        raise ValueError("correlated rows have no case weights of their own: give those of whole groups")
    cases, codes = (None if a is None else own.structure.arrange(a) for a in (rows.cases, rows.group_codes))
    changed = replace(own.rows, cases=cases, levels=rows.levels, groups=rows.groups, group_codes=codes)
    return replace(own, rows=changed)


def _whitened(cp: CrossProducts, own: Unwhitened, phi) -> CrossProducts:
    """The products at φ (k,), with nothing left to whiten."""
    parts = [*own.rows.z, own.rows.X, cp.response.placed[:, None]]
    white, log_det = own.structure.whiten(phi, jnp.concatenate(parts, 1))
    *z, X, y = jnp.split(white, np.cumsum([a.shape[1] for a in parts[:-1]]), 1)
    rows = replace(own.rows, z=tuple(z), X=X, y=y[:, 0])
    crossings = zip(cp.plan.crossings, own.meetings, strict=True)
    plan = replace(cp.plan, crossings=tuple(replace(c, meeting=m) for c, m in crossings))
    bare = replace(cp, plan=plan, orthonormal=False, unwhitened=None)
    if own.structure.correlation is not None:  # the rest stands among the columns of X
        bare = replace(bare, plan=replace(plan, rest=()), level_factors=())
    found = _assemble(rows, bare).without_rows()
    log_weights = cp.log_weights - jnp.sum(rows.counted(log_det[:, None]))
    kept = {"plan": cp.plan, "level_factors": cp.level_factors, "n": cp.n, "log_weights": log_weights}
    return replace(found, response=replace(found.response, shift=cp.response.shift), **kept)


def _response(rows: Rows, cp: CrossProducts) -> Response:
    structure = None if cp.unwhitened is None else cp.unwhitened.structure
    return response_products(rows, cp.plan, cp.orthonormal, cp.level_factors, structure)


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
    placed = None if cp.unwhitened is None else y.placed + cp.unwhitened.rows.X[:, -p:] @ back
    return Response(zy, _turned(dense, q), y.yy + back @ (y.dense[x:] + dense[x:]), y.shift @ q, placed)


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
