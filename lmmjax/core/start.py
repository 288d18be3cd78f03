"""Where the optimiser begins, and in which units it works."""

import numpy as np

from .criterion import by_term
from .crossprod import CrossProducts
from .namespace import namespace


def default_start(cp: CrossProducts, scale=None):
    """(m,) T = I in units where each column of Z has root mean square one: lme4's start for intercepts. Templates of
    a function start where they say, and so do residual structures.

    scale : `column_scale(cp)`, where it is known already.
    """
    xp, phi = namespace(cp), () if cp.unwhitened is None else cp.unwhitened.structure.start
    start = xp.concatenate([*(np.array(t.start) for t in cp.plan.templates), xp.asarray(phi)]).astype(cp.dense.dtype)
    return start / xp.where(cp.plan.filled, column_scale(cp) if scale is None else scale, 1.0)


def column_scale(cp: CrossProducts):
    """(m,) root mean square of Z ∂T/∂θ: of the column of Z that a θ multiplies (one for a column of zeros)."""
    xp = namespace(cp)
    rms = [xp.sqrt(xp.sum(squares, 0, keepdims=True) / cp.n) for squares, _ in _column_products(cp)]
    return _per_theta([xp.where(r > 0, r, 1.0) for r in rms], cp)


def moment_start(cp: CrossProducts):
    """(m,) diagonal T from the scatter of each column's level means, as if no other random term existed.

    With gᵢ = zᵢᵀzᵢ and B = Σ (zᵢᵀy)²/gᵢ over ℓ levels, E B ≈ ℓσ² + σ²θ² Σ gᵢ.
    """
    xp, yy, out = namespace(cp), cp.response.yy, []
    for squares, products in _column_products(cp):
        levels, total = squares.shape[0], xp.maximum(xp.sum(squares, 0, keepdims=True), 1e-300)
        between = xp.sum(products**2 / xp.maximum(squares, 1e-300), 0, keepdims=True)
        within = xp.maximum((yy - between) / (cp.n - levels), 1e-6 * yy / cp.n)
        out.append(xp.sqrt(xp.maximum((between / within - levels) / total, 0.0025 * cp.n / total)))
    start = default_start(cp)
    return xp.where(cp.plan.filled, start * column_scale(cp) * _per_theta(out, cp), start)


def curvature_guess(cp: CrossProducts, theta):
    """(m,) expected second derivatives 4θ² Σ (gᵢ/(1 + gᵢθ²))² as if the columns of Z were orthogonal."""
    xp = namespace(cp)
    rows = [t.basis.any(2).argmax(1) for t in cp.plan.templates]
    factors = [t(theta[s]) for s, t in zip(cp.plan.theta_slices(), cp.plan.templates, strict=True)]
    sizes = xp.concatenate([xp.sum(t * t, 1)[r] for t, r in zip(factors, rows, strict=True)])
    per_term = by_term([squares for squares, _ in _column_products(cp)], cp.plan)
    squares = [g[:, r] for g, r in zip(per_term, rows, strict=True)]
    at = [sizes[s] for s in cp.plan.theta_slices()]
    parts = [4 * v * xp.sum((g / (1 + g * v)) ** 2, 0) for g, v in zip(squares, at, strict=True)]
    return xp.concatenate([*parts, xp.full(cp.plan.n_phi, cp.n)])


def _column_products(cp: CrossProducts):
    """Per factor, chain then rest: (ℓ, P) squares zᵢᵀzᵢ and products zᵢᵀy of every level's columns."""
    xp, at = namespace(cp), 0
    diagonal, out = xp.diagonal(cp.dense), []
    for stage, zy in zip(cp.stages, cp.response.zy, strict=True):
        squares = xp.diagonal(stage.gram, axis1=1, axis2=2)
        count = stage.multiplicity
        out.append((squares if count is None else squares * count[:, None], zy))
    for factor in cp.plan.rest:
        block = slice(at, at + factor.q)
        out.append((diagonal[block].reshape(-1, factor.p), cp.response.dense[block].reshape(-1, factor.p)))
        at += factor.q
    return out


def _per_theta(per_factor, cp: CrossProducts):
    """(1, P) values per factor, one for each row of T → (m + k,): of the rows that a θ moves, their norm over ∂T/∂θ;
    one for each φ."""
    xp, per_term = namespace(cp), by_term(per_factor, cp.plan)
    shares = [(t.basis**2).sum(2) for t in cp.plan.templates]  # (n_theta, p)
    parts = [xp.sqrt(share.astype(v.dtype) @ v[0] ** 2) for v, share in zip(per_term, shares, strict=True)]
    return xp.concatenate([*parts, xp.ones(cp.plan.n_phi, cp.dense.dtype)])
