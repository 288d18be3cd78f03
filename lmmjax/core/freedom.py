"""What degrees of freedom are made of: how Var(β̂) moves with the variance parameters, and how well those are known.

Both sets of pieces come from projections on [Z X] and exact derivatives; no n × n matrix is formed. For a batch,
`satterthwaite_pieces` and `kenward_roger_pieces` are `vmap`ped.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from .compile import jit
from .criterion import residual_df
from .crossprod import CrossProducts
from .information import (
    covariances,
    deviance_expansion,
    entries,
    expand,
    free_covariances,
    log_dets,
    marginal,
    of_covariances,
)
from .linalg import cholesky, solve_lower, solve_upper


class SatterthwaitePieces(NamedTuple):
    """hessian : (m + 1, m + 1) of the deviance in (θ, σ). vcov : (p, p). slopes : (m + 1, p, p) of vcov."""

    hessian: jax.Array
    vcov: jax.Array
    slopes: jax.Array


class KenwardRogerPieces(NamedTuple):
    """In the letters of Kenward & Roger (1997), with Σ's entries and σ² as parameters, r of them, all at σ = 1.

    information : (r, r) expected. half : (p, p) H with Φ = Var(β̂) = HHᵀ. slopes : (r, p, p) HᵀPᵣH, Pᵣ = ∂Φ⁻¹.
    bends : (r, r, p, p) Hᵀ(Qᵣₛ + Qₛᵣ − ½Rᵣₛ)H/2.
    """

    information: jax.Array
    half: jax.Array
    slopes: jax.Array
    bends: jax.Array


@jit
def satterthwaite_pieces(theta, sigma, cp: CrossProducts, reml: bool = True) -> SatterthwaitePieces:
    """The pieces at θ̂ (m,) and σ̂, from the slopes that the optimiser uses."""
    theta, q = jnp.asarray(theta), cp.plan.q_rest
    _, _, hessian, (_, inverse), x = deviance_expansion(theta, sigma, cp, reml)
    half = solve_upper(cp.basis, inverse[q:-1, q:-1].T)  # R⁻¹L_X⁻ᵀ
    vcov = sigma**2 * half @ half.T
    slopes = -(sigma**2) * half @ x[:, q:-1, q:-1] @ half.T
    return SatterthwaitePieces(hessian, vcov, jnp.concatenate([slopes, 2 * vcov[None] / sigma]))


@jit
def kenward_roger_pieces(theta, cp: CrossProducts) -> KenwardRogerPieces:
    """The pieces at θ̂ (m,) of a REML fit; variances of zero are like any other."""
    theta = jnp.asarray(theta)
    directions, d = entries(cp), covariances(theta, cp)

    def function(change):
        parts = marginal(theta, cp, directions, change)
        return log_dets(parts, cp, True), parts[1][:-1, :-1]

    (_, m), (slope, m_1), (bend, m_2) = expand(function, len(d), cp)
    information = of_covariances(-0.5 * bend, 0.5 * slope, 0.5 * residual_df(cp, True), d)
    root = cholesky(m)
    identity = jnp.eye(cp.p, dtype=m.dtype)
    first, second = _in_variances(identity, _whitened(root, m_1), _whitened(root, m_2), d)
    jacobian, curvature = _parametrised(theta, cp)
    of_function = jnp.einsum("ars,aij->rsij", curvature, first)  # −R
    second = jnp.einsum("ar,abij,bs->rsij", jacobian, second, jacobian) + of_function
    first = jnp.einsum("ar,aij->rij", jacobian, first)
    half = solve_upper(cp.basis, solve_lower(root, identity).T)
    return KenwardRogerPieces(jacobian.T @ information @ jacobian, half, first, 0.5 * second - 0.25 * of_function)


def _whitened(root, a):
    """L⁻¹AL⁻ᵀ of a stack of symmetric matrices (…, p, p)."""
    lower = jnp.broadcast_to(root, a.shape)
    return solve_lower(lower, solve_lower(lower, a).mT)


def _in_variances(m, m_1, m_2, d):
    """Derivatives in (Σ, σ²) at σ² = 1 of M(Σ/σ²)/σ², from M and its derivatives in D = Σ, (k,)."""
    along, twice = jnp.tensordot(d, m_1, 1), jnp.tensordot(d, m_2, 1)
    mixed = -2 * m_1 - twice
    corner = 2 * m + 4 * along + jnp.tensordot(d, twice, 1)
    second = jnp.concatenate([m_2, mixed[:, None]], 1)
    last = jnp.concatenate([mixed, corner[None]])
    return jnp.concatenate([m_1, -(m + along)[None]]), jnp.concatenate([second, last[None]])


def _parametrised(theta, cp: CrossProducts):
    """First (k + 1, r) and second (k + 1, r, r) derivatives of (Σ, σ²) at σ² = 1 in what is estimated: σ², and of each
    term its covariances, or where a function makes them its own parameters."""
    plan = cp.plan
    own = [own_parameters(t, theta[s]) for t, s in zip(plan.templates, plan.theta_slices(), strict=True)]

    def whole(x):
        parts, at = [], 0
        for template, values in zip(plan.templates, own, strict=True):
            part = x[at : at + len(values)]
            parts.append(part if template.filled else x[-1] * free_covariances(template, part))
            at += len(values)
        return jnp.concatenate([*parts, x[-1:]])

    x = jnp.concatenate([*own, jnp.ones(1, theta.dtype)])
    if all(t.filled for t in plan.templates):
        return jnp.eye(len(x), dtype=x.dtype), jnp.zeros((len(x),) * 3, x.dtype)
    return jax.jacfwd(whole)(x), jax.jacfwd(jax.jacfwd(whole))(x)


def own_parameters(template, theta):
    """A term's parameters: its free covariances, or its θ where a function makes them."""
    return free_covariances(template, theta) if template.filled else theta
