"""The profiled ML and REML criteria, by penalised least squares (Bates et al. 2015, J. Stat. Softw. 67(1), §3).

    −2ℓ(θ, σ) = log|L|² (+ log|R_X|²) + d + ν log(2πσ²) + r²(θ)/σ²,    ν = n (ML) or n − p (REML)

is the one primitive; a criterion is its minimum over σ, at σ² = r²/ν.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from .blocks import Eliminated, back_substitute, eliminate
from .crossprod import CrossProducts
from .linalg import half_lower, inverse_factor, log_diagonal


def pieces(theta, cp: CrossProducts):
    """log|L|², log|R_X|² (of X itself, not of its basis) and log r² at θ."""
    return _pieces(eliminate(theta, cp), cp)


def _pieces(eliminated: Eliminated, cp: CrossProducts):
    q = cp.plan.q_rest
    logs = 2 * log_diagonal(eliminated.dense)
    log_basis = 2 * jnp.sum(jnp.log(jnp.abs(jnp.diagonal(cp.basis))))
    return eliminated.log_det + jnp.sum(logs[:q]), jnp.sum(logs[q : q + cp.p]) + log_basis, logs[-1]


def residual_df(cp: CrossProducts, reml: bool):
    """ν: n for ML, n − p for REML."""
    return cp.n - cp.p if reml else cp.n


@partial(jax.jit, static_argnames="reml")
def deviance(theta, sigma, cp: CrossProducts, reml: bool = True):
    """−2 log-likelihood (REML: restricted) at θ (m,) and σ, with β profiled out (REML: integrated out)."""
    log_l, log_rx, log_prss = pieces(theta, cp)
    nu = residual_df(cp, reml)
    dets = log_l + log_rx if reml else log_l
    return dets - cp.log_weights + nu * jnp.log(2 * jnp.pi * sigma**2) + jnp.exp(log_prss) / sigma**2


@partial(jax.jit, static_argnames="reml")
def criterion(theta, cp: CrossProducts, reml: bool = True):
    """The deviance at its minimum over σ: lme4's profiled deviance or REML criterion, constants included."""
    return _criterion(pieces(theta, cp), cp, reml)


def _criterion(parts, cp: CrossProducts, reml: bool):
    log_l, log_rx, log_prss = parts
    nu = residual_df(cp, reml)
    dets = log_l + log_rx if reml else log_l
    return dets - cp.log_weights + nu * (1 + jnp.log(2 * jnp.pi / nu) + log_prss)


@partial(jax.jit, static_argnames="reml")
def expansion(theta, cp: CrossProducts, reml: bool = True):
    """The criterion with its gradient (m,) and Hessian (m, m) in θ, in closed form over the dense block.

    With F(S) = Σⱼ wⱼ log L̃ⱼⱼ on the dense Schur complement S(θ): dF = ½⟨M, dS⟩, M = L̃⁻ᵀ diag(w) L̃⁻¹, and
    d²F[A, B] = −⟨diag(w) Φ(L̃⁻¹BL̃⁻ᵀ), L̃⁻¹AL̃⁻ᵀ⟩; the rest is elementwise and left to autodiff.
    """
    eliminated = eliminate(theta, cp)
    inverse = inverse_factor(eliminated.dense)
    w = _weights(cp, reml)
    m = inverse.T @ (w[:, None] * inverse)

    def linear(t):
        e = eliminate(t, cp)
        return e.log_det + 0.5 * jnp.sum(m * e.dense), e.dense

    def push(direction):
        return jax.jvp(jax.grad(linear, has_aux=True), (theta,), (direction,))

    (gradient, _), (hessian, slopes) = jax.vmap(push, out_axes=(None, 0))(jnp.eye(theta.shape[0], dtype=theta.dtype))
    x = jnp.einsum("ij,ajk,lk->ail", inverse, slopes, inverse)
    curved = jnp.einsum("ajk,bjk->ab", jax.vmap(half_lower)(x) * w[:, None], x)
    return _criterion(_pieces(eliminated, cp), cp, reml), gradient, hessian - curved


def _weights(cp: CrossProducts, reml: bool):
    """(r,) w: 2 on the columns of Z, 0 or 2 on those of X, 2ν on y."""
    q, p, dtype = cp.plan.q_rest, cp.p, cp.dense.dtype
    nu = jnp.asarray(residual_df(cp, reml), dtype)
    return jnp.concatenate([jnp.full(q, 2.0, dtype), jnp.full(p, 2.0 * reml, dtype), 2 * nu[None]])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Profiled:
    """Everything that θ determines.

    beta : (p,). sigma : the standard deviation √(r²/ν). prss : r²(θ). u, b : per term (ℓ, p_i), spherical and on the
    data's scale. unscaled_vcov : (p, p) (XᵀV⁻¹X)⁻¹, so that Var(β̂) = σ² times it. log_l, log_rx : log|L|², log|R_X|².
    deviance : the profiled ML deviance, also of a REML fit.
    """

    criterion: Any
    beta: Any
    sigma: Any
    prss: Any
    u: tuple[Any, ...]
    b: tuple[Any, ...]
    unscaled_vcov: Any
    log_l: Any
    log_rx: Any
    deviance: Any


@partial(jax.jit, static_argnames="reml")
def profile(theta, cp: CrossProducts, reml: bool = True) -> Profiled:
    """The penalised least-squares solution and both criteria at θ (m,)."""
    eliminated = eliminate(theta, cp)
    inverse = inverse_factor(eliminated.dense)
    parts = _pieces(eliminated, cp)
    q, prss = cp.plan.q_rest, jnp.exp(parts[2])
    solution = -inverse[-1, :-1] / inverse[-1, -1]  # the last row of L̃⁻¹ is (−u, −β, 1)/r
    effects = back_substitute(theta, cp, eliminated, solution)
    unbased = solve_basis(cp, jnp.eye(cp.p, dtype=solution.dtype))
    half = inverse[q:-1, q:-1] @ unbased.T
    return Profiled(
        criterion=_criterion(parts, cp, reml),
        beta=unbased @ (solution[q:] + cp.response.shift),
        sigma=jnp.sqrt(prss / residual_df(cp, reml)),
        prss=prss,
        u=by_term([u for _, u in effects], cp),
        b=by_term([b for b, _ in effects], cp),
        unscaled_vcov=half.T @ half,
        log_l=parts[0],
        log_rx=parts[1],
        deviance=_criterion(parts, cp, False),
    )


def solve_basis(cp: CrossProducts, b):
    """R⁻¹b: coefficients of the basis of X → coefficients of X."""
    return jax.scipy.linalg.solve_triangular(cp.basis, b)


def by_term(per_factor, cp: CrossProducts):
    """Blocks (ℓ, P) per factor, chain then rest → (ℓ, p_i) per term, in the design's order."""
    plan, out = cp.plan, {}
    for factor, block in zip(plan.chain + plan.rest, per_factor, strict=True):
        column = 0
        for i in factor.terms:
            out[i] = block[:, column : column + plan.templates[i].p]
            column += plan.templates[i].p
    return tuple(out[i] for i in range(len(plan.templates)))
