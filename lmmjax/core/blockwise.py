"""Kenward and Roger's pieces where residuals have a structure: V and its derivatives, block by block.

V(τ) is nonlinear in correlations, so that its second derivatives take part (Kenward & Roger 1997, eq. 7). τ are the
covariances of the random effects, the correlations of the residuals, their variances by level or their power, and σ².
An unstructured covariance of the residuals enters by its entries: V is linear in them, and what is found is what a
program that estimates these finds.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .compile import jit
from .correlation import Unstructured
from .crossprod import CrossProducts
from .freedom import KenwardRogerPieces, own_parameters
from .linalg import cholesky, solve_lower, solve_upper
from .plan import Factor
from .residual import Identified, Residual

LARGEST = 2**27  # numbers in the derivatives of all blocks


def blockwise_pieces(theta, cp: CrossProducts) -> KenwardRogerPieces:
    """The pieces at (θ̂, φ̂) of a REML fit, as `kenward_roger_pieces` gives them without a residual structure.

    Blocks of rows that nothing connects are found on the host. Raises ValueError where they are too large.
    """
    rows = _blocks(cp)
    parameters = cp.plan.n_theta + cp.plan.n_phi + 1
    if rows.size * rows.shape[1] * parameters > LARGEST:
        raise ValueError(f"{rows.shape[0]} independent blocks of up to {rows.shape[1]} rows are too large")
    linear = _has_free_covariances(cp.unwhitened.structure)  # type: ignore[union-attr]
    return (_by_covariances if linear else _by_correlations)(jnp.asarray(theta), cp, rows)


def _blocks(cp: CrossProducts) -> np.ndarray:
    """(G, N) positions of the rows of each independent block, −1 where it has fewer."""
    own = cp.unwhitened
    assert own is not None
    held = np.flatnonzero(np.ones(len(own.structure.rows)) if own.structure.real is None else own.structure.real)
    label = np.zeros(len(held), int) if cp.plan.rest else np.asarray(own.structure.group)[held]
    for codes in () if cp.plan.rest else own.rows.codes:
        label = _joined(label, np.asarray(codes)[held])
    label = np.unique(label, return_inverse=True)[1]
    order, sizes = np.argsort(label, kind="stable"), np.bincount(label)
    out = np.full((len(sizes), sizes.max()), -1)
    out[label[order], np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)] = held[order]
    return out


def _joined(label: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """(n,) labels of what both connect; in a chain of nested factors one pass is enough."""
    first = np.full(int(codes.max()) + 1, np.iinfo(int).max)
    np.minimum.at(first, codes, label)
    least = np.full(int(label.max()) + 1, np.iinfo(int).max)
    np.minimum.at(least, label, first[codes])
    return least[label]


def _has_free_covariances(structure: Residual) -> bool:
    """Whether every covariance of the occasions is free: an unstructured correlation times variances by occasion."""
    if not isinstance(structure.correlation, Unstructured) or len(structure.variances) != 1:
        return False
    held = slice(None) if structure.real is None else np.asarray(structure.real)
    same = np.array_equal(np.asarray(structure.at[0])[held], np.asarray(structure.time)[held])
    return same and isinstance(structure.variances[0], Identified)


@jit
def _by_covariances(theta, cp: CrossProducts, rows):
    return _pieces(theta, cp, rows, True)


@jit
def _by_correlations(theta, cp: CrossProducts, rows):
    return _pieces(theta, cp, rows, False)


def _pieces(theta, cp: CrossProducts, rows, linear: bool) -> KenwardRogerPieces:
    own = cp.unwhitened
    assert own is not None
    X = own.rows.X[rows][..., -cp.p :] * (rows >= 0)[..., None]
    tau = _estimated(theta, cp, linear)
    covariance = partial(_covariance, cp=cp, rows=rows, linear=linear)
    root = jax.lax.linalg.cholesky(covariance(tau))
    identity = jnp.broadcast_to(jnp.eye(rows.shape[1], dtype=theta.dtype), root.shape)
    inverse = jax.lax.linalg.triangular_solve(root, identity, left_side=True, lower=True)
    white = inverse @ X
    half = solve_lower(cholesky(jnp.einsum("gni,gnj->ij", white, white)), jnp.eye(X.shape[-1], dtype=theta.dtype)).T
    white = white @ half  # X'V⁻¹X = I
    along = jax.lax.map(lambda e: inverse @ jax.jvp(covariance, (tau,), (e,))[1] @ inverse.mT, jnp.eye(len(tau)))
    moved = along @ white  # (r, G, N, p)
    slopes = -jnp.einsum("gni,rgnj->rij", white, moved)
    q = jnp.einsum("rgni,sgnj->rsij", moved, moved)
    traces = jnp.einsum("rgnm,sgnm->rs", along, along) - 2 * jnp.einsum("rsii->rs", q)
    information = 0.5 * (traces + jnp.einsum("rij,sji->rs", slopes, slopes))
    bends = 0.5 * (q + jnp.swapaxes(q, 2, 3))
    if not linear:
        solved = inverse.mT @ white

        def form(t):
            return jnp.einsum("gni,gnm,gmj->ij", solved, covariance(t), solved)

        bends -= 0.25 * jnp.moveaxis(jax.jacfwd(jax.jacfwd(form))(tau), (2, 3), (0, 1))
    return KenwardRogerPieces(information, solve_upper(cp.basis, half), slopes, bends)


def _estimated(theta, cp: CrossProducts, linear: bool):
    """(r,) τ at σ = 1."""
    plan, structure = cp.plan, cp.unwhitened.structure  # type: ignore[union-attr]
    slices = zip(plan.templates, plan.theta_slices(), strict=True)
    parts = [own_parameters(t, theta[s]) for t, s in slices]
    phi = theta[plan.n_theta :]
    if linear:
        sd = jnp.append(1, structure.variances[0].natural(structure.split(phi)[1]))
        whole = structure.correlation.matrix(structure.split(phi)[0]) * sd * sd[:, None]
        parts.append(whole[np.tril_indices(len(sd))][1:])
    else:
        for s, own in zip(structure.structures, structure.split(phi), strict=True):
            parts.append(s.natural(own) ** 2 if isinstance(s, Identified) else s.natural(own))
    return jnp.concatenate([*parts, jnp.ones(1, theta.dtype)])


def _residual_of(tau, structure: Residual, linear: bool):
    """φ and σ² of the last elements of τ."""
    variance, values, parts = tau[-1], tau[-1 - structure.n_phi : -1], []
    if linear:
        occasions = structure.correlation.occasions
        lower = jnp.zeros((occasions, occasions), tau.dtype)
        lower = lower.at[np.tril_indices(occasions)].set(jnp.append(variance, values))
        variances = jnp.diagonal(lower)
        rows, cols = np.triu_indices(occasions, 1)
        correlations = lower[cols, rows] / jnp.sqrt(variances[cols] * variances[rows])
        parts = [structure.correlation.from_natural(correlations), 0.5 * jnp.log(variances[1:] / variance)]
    else:
        for s, own in zip(structure.structures, structure.split(values), strict=True):
            parts.append(0.5 * jnp.log(own / variance) if isinstance(s, Identified) else s.from_natural(own))
    return jnp.concatenate([*parts, tau[:0]]), variance


def _covariance(tau, cp: CrossProducts, rows, linear: bool):
    """(G, N, N) V of each block, with prior weights taken out of the rows; the identity where there is no row."""
    own, plan = cp.unwhitened, cp.plan
    assert own is not None
    structure, at = own.structure, 0
    phi, variance = _residual_of(tau, structure, linear)
    sd, real = jnp.exp(structure.log_sd(phi))[rows], rows >= 0
    group = jnp.where(real, structure.group[rows], -1)
    v = jnp.broadcast_to(jnp.eye(rows.shape[1], dtype=tau.dtype), (*rows.shape, rows.shape[1]))
    if structure.correlation is not None:
        time = structure.time[rows]
        r = structure.correlation.between(structure.split(phi)[0], time[:, :, None], time[:, None, :])
        v = jnp.where(group[:, :, None] == group[:, None, :], r, 0)
    v = variance * v * sd[:, :, None] * sd[:, None, :]
    own_covariances = []
    for template in plan.templates:
        size = template.fn.entries.shape[0] if template.filled else template.n_theta
        part, at = tau[at : at + size], at + size
        if template.filled:
            own_covariances.append(jnp.tensordot(part, template.fn.entries.astype(tau.dtype), 1))
        else:
            own_covariances.append(variance * template(part) @ template(part).T)
    levels = (None,) * len(plan.chain) + cp.level_factors
    for f, z, codes, factor in zip(plan.chain + plan.rest, own.rows.z, own.rows.codes, levels, strict=False):
        codes = codes[rows]
        same = codes[:, :, None] == codes[:, None, :] if factor is None else _gram(factor, codes)
        v += _quadratic(z[rows], _block(f, own_covariances)) * same
    start = 0
    for f in plan.rest[len(own.rows.z) - len(plan.chain) :]:  # all or none
        z = own.rows.X[rows][..., start : start + f.q].reshape(*rows.shape, f.n_levels, f.p)
        v += jnp.einsum("gnlp,pq,gmlq->gnm", z, _block(f, own_covariances), z)
        start += f.q
    both = real[:, :, None] & real[:, None, :]
    return jnp.where(both, v, jnp.eye(rows.shape[1], dtype=tau.dtype))


def _quadratic(z, covariance):
    """(G, N, N) zΣzᵀ."""
    return (z @ covariance) @ z.mT


def _gram(factor, codes):
    """(G, N, N) covariances between the levels of two rows."""
    return (factor @ factor.T)[codes[:, :, None], codes[:, None, :]]


def _block(factor: Factor, covariances: list[Any]):
    """(P, P) block-diagonal covariance of a factor's terms."""
    return jax.scipy.linalg.block_diag(*(covariances[i] for i in factor.terms))
