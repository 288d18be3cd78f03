"""The profiled ML and REML criteria, by penalised least squares (Bates et al. 2015, J. Stat. Softw. 67(1), §3).

    −2ℓ(θ, σ) = log|L|² (+ log|R_X|²) + d + ν log(2πσ²) + r²(θ)/σ²,    ν = n (ML) or n − p (REML)

is the one primitive; a criterion is its minimum over σ, at σ² = r²/ν. Where the residuals have a structure, θ in every
argument list is (θ, φ), (m + k,).
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .blocks import Eliminated, back_substitute, eliminate
from .compile import jit
from .crossprod import CrossProducts
from .linalg import inverse_factor, log_diagonal, solve_lower, solve_upper, weighted_gram
from .onefactor import one_factor_slopes
from .plan import Plan


def pieces(theta, cp: CrossProducts):
    """log|L|², log|R_X|² (of X itself, not of its basis) and log r² at θ."""
    eliminated = eliminate(theta, cp.at(theta))
    return _pieces(eliminated.log_det, log_diagonal(eliminated.dense), cp)


def _pieces(log_det, log_diagonal, cp: CrossProducts):
    q, logs = cp.plan.q_rest, 2 * log_diagonal
    log_basis = 2 * jnp.sum(jnp.log(abs(jnp.diagonal(cp.basis))))
    return log_det + jnp.sum(logs[:q]), jnp.sum(logs[q:-1]) + log_basis, logs[-1]


def residual_df(cp: CrossProducts, reml: bool):
    """ν: n for ML, n − p for REML."""
    return cp.n - reml * cp.p


@jit
def deviance(theta, sigma, cp: CrossProducts, reml: bool = True):
    """−2 log-likelihood (REML: restricted) at θ (m,) and σ, with β profiled out (REML: integrated out)."""
    cp = cp.at(theta)
    return deviance_of(pieces(theta, cp), sigma, cp, reml)


def deviance_of(parts, sigma, cp: CrossProducts, reml: bool):
    """The same from `pieces`."""
    log_l, log_rx, log_prss = parts
    nu = residual_df(cp, reml)
    dets = log_l + reml * log_rx
    return dets - cp.log_weights + nu * jnp.log(2 * jnp.pi * sigma**2) + jnp.exp(log_prss) / sigma**2


@jit
def deviance_at(beta, theta, sigma, cp: CrossProducts):
    """−2 log-likelihood at β (p,), θ (m,) and σ: nothing is profiled out. Linear in case weights of groups."""
    cp = cp.at(theta)
    eliminated, inverse = factorise(theta, cp)
    q = cp.plan.q_rest
    log_l = inverse_pieces(cp, eliminated, inverse)[0]
    root = solve_lower(inverse[q:, q:], jnp.eye(cp.p + 1, dtype=inverse.dtype))  # of [X, y]ᵀV⁻¹[X, y]
    residual = root.T @ jnp.append(cp.response.shift - cp.basis @ beta, 1)
    return log_l - cp.log_weights + cp.n * jnp.log(2 * jnp.pi * sigma**2) + residual @ residual / sigma**2


@jit
def criterion(theta, cp: CrossProducts, reml: bool = True):
    """The deviance at its minimum over σ: lme4's profiled deviance or REML criterion, constants included."""
    cp = cp.at(theta)
    return _criterion(pieces(theta, cp), cp, reml)


def _criterion(parts, cp: CrossProducts, reml: bool):
    log_l, log_rx, log_prss = parts
    nu = residual_df(cp, reml)
    dets = log_l + reml * log_rx
    return dets - cp.log_weights + nu * (1 + jnp.log(2 * np.pi / nu) + log_prss)


def expansion(theta, cp: CrossProducts, reml: bool = True):
    """The criterion with its gradient (m,) and Hessian (m, m) in θ."""
    return evaluate(theta, cp, reml)[:3]


@jit
def value_and_gradient(theta, cp: CrossProducts, reml: bool):
    """The criterion and its gradient (m,) by one reverse pass, which starts from the M of `evaluate`."""

    def outcome(t):
        here = cp.at(t)
        e = eliminate(t, here)
        return e.log_det - here.log_weights, e.dense, (e.log_det, here.log_weights)

    (log_det, dense, parts), pull = jax.vjp(outcome, theta)
    inverse = inverse_factor(dense)
    m = weighted_gram(inverse, weights(cp, reml, residual_df(cp, reml)))
    here = replace(cp, log_weights=parts[1])
    value = _criterion(_pieces(parts[0], -jnp.log(jnp.diagonal(inverse)), cp), here, reml)
    zero = jax.tree.map(jnp.zeros_like, parts)
    return value, pull((jnp.ones_like(log_det), 0.5 * m, zero))[0]


@jit
def evaluate(theta, cp: CrossProducts, reml: bool):
    """Criterion, gradient and Hessian, and the factorisation they come from."""
    here = cp.at(theta)
    eliminated, inverse = factorise(theta, here)
    gradient, hessian, _ = weighted_slopes(theta, cp, weights(cp, reml, residual_df(cp, reml)), eliminated, inverse)
    return _criterion(inverse_pieces(cp, eliminated, inverse), here, reml), gradient, hessian, (eliminated, inverse)


def weighted_slopes(theta, cp: CrossProducts, w, eliminated: Eliminated, inverse):
    """Gradient (m,) and Hessian (m, m) of d + the chain's log|L|² + Σⱼ wⱼ log L̃ⱼⱼ, and L̃⁻¹dS L̃⁻ᵀ (m, r, r).

    Closed form over the dense Schur complement S(θ): with F(S) the sum, dF = ½⟨M, dS⟩, M = L̃⁻ᵀ diag(w) L̃⁻¹, and
    d²F[A, B] = −⟨diag(w) Φ(L̃⁻¹BL̃⁻ᵀ), L̃⁻¹AL̃⁻ᵀ⟩, with Φ the lower triangle and half the diagonal.
    """
    one_factor = len(cp.plan.chain) == 1 and not cp.plan.rest and cp.unwhitened is None
    slopes = one_factor_slopes if one_factor else _general_slopes
    gradient, hessian, x = slopes(theta, cp, w, eliminated, inverse)
    half = jnp.tril(x) - 0.5 * x * jnp.eye(x.shape[-1], dtype=x.dtype)  # Φ(x)
    return gradient, hessian - jnp.einsum("ajk,bjk->ab", half * w[:, None], x), x


def _general_slopes(theta, cp: CrossProducts, w, eliminated: Eliminated, inverse):
    """As `one_factor_slopes`, by autodiff of the elementwise part."""
    m = weighted_gram(inverse, w)

    def linear(t):
        here = cp.at(t)
        e = eliminate(t, here)
        return e.log_det - here.log_weights + 0.5 * jnp.sum(m * e.dense), e.dense

    def push(direction):
        return jax.jvp(jax.grad(linear, has_aux=True), (theta,), (direction,))

    (gradient, _), (hessian, slopes) = jax.vmap(push, out_axes=(None, 0))(jnp.eye(theta.shape[0], dtype=theta.dtype))
    return gradient, hessian, inverse @ slopes @ inverse.T


@jit
def factorise(theta, cp: CrossProducts):
    """The chain's elimination and the inverse factor L̃⁻¹ (r, r) of its dense rest."""
    eliminated = eliminate(theta, cp.at(theta))
    return eliminated, inverse_factor(eliminated.dense)


def weights(cp: CrossProducts, reml: bool, of_y):
    """(r,) w: 2 on the columns of Z, 0 or 2 on those of X, 2·of_y on y."""
    z, x = np.repeat(np.eye(2), [cp.plan.q_rest, cp.p], axis=0).T
    return 2 * jnp.append((z + reml * x).astype(cp.dense.dtype), of_y)


def inverse_pieces(cp: CrossProducts, eliminated: Eliminated, inverse):
    """`pieces` from L̃⁻¹."""
    return _pieces(eliminated.log_det, -jnp.log(jnp.diagonal(inverse)), cp)


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


@jit
def profile(theta, cp: CrossProducts, reml: bool = True) -> Profiled:
    """The penalised least-squares solution and both criteria at θ (m,)."""
    return solution(theta, cp, reml, *factorise(theta, cp))


def solution(theta, cp: CrossProducts, reml: bool, eliminated: Eliminated, inverse) -> Profiled:
    """Reads `Profiled` off L̃⁻¹, whose last row is (−u, −β, 1)/r."""
    q, cp = cp.plan.q_rest, cp.at(theta)
    parts = inverse_pieces(cp, eliminated, inverse)
    prss = jnp.exp(parts[2])
    solved = -inverse[-1, :-1] / inverse[-1, -1]
    effects = back_substitute(theta, cp, eliminated, solved)
    half = solve_upper(cp.basis, inverse[q:-1, q:-1].T)  # R⁻¹: from the basis of X to X
    return Profiled(
        criterion=_criterion(parts, cp, reml),
        beta=solve_upper(cp.basis, (solved[q:] + cp.response.shift)[:, None])[:, 0],
        sigma=jnp.sqrt(prss / residual_df(cp, reml)),
        prss=prss,
        u=by_term([u for _, u in effects], cp.plan),
        b=by_term([b for b, _ in effects], cp.plan),
        unscaled_vcov=half @ half.T,
        log_l=parts[0],
        log_rx=parts[1],
        deviance=_criterion(parts, cp, False),
    )


def by_term(per_factor, plan: Plan):
    """Blocks (ℓ, P) per factor, chain then rest → (ℓ, p_i) per term, in the design's order."""
    out = {}
    for factor, block in zip(plan.chain + plan.rest, per_factor, strict=True):
        column = 0
        for i in factor.terms:
            out[i] = block[:, column : column + plan.templates[i].p]
            column += plan.templates[i].p
    return tuple(out[i] for i in range(len(plan.templates)))
