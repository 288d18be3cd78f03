"""Observed and expected information, in (θ, σ), in (β, θ, σ) and in the variances themselves.

The observed one in (θ, σ) is half the Hessian of the deviance, from the closed-form slopes that the optimiser uses. For
the expected one, write V = σ²(I + ZDZᵀ): along changes A, B of D, which V is linear in,

    tr(P V_A P V_B) = −d²(log|V| + log|XᵀV⁻¹X|)[A, B]        (ML: without the second determinant, V⁻¹ for P),

so that derivatives of two log-determinants give it, at a singular D too, and no n × n matrix is formed.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from .blocks import eliminate_chain, template_blocks
from .compile import jit
from .covariance import Filled, Template
from .criterion import deviance_of, factorise, inverse_pieces, residual_df, weighted_slopes, weights
from .crossprod import CrossProducts
from .linalg import log_diagonal, posterior, solve_lower
from .plan import Factor

AT_ONCE = 300  # dense columns up to which second derivatives are formed side by side


def deviance_expansion(theta, sigma, cp: CrossProducts, reml: bool = True):
    """−2ℓ(θ, σ) with its gradient (m + 1,), Hessian (m + 1, m + 1), factors, and L̃⁻¹dS L̃⁻ᵀ (m, r, r)."""
    here = cp.at(theta)
    eliminated, inverse = factorise(theta, here)
    nu, ratio = residual_df(cp, reml), (inverse[-1, -1] * sigma) ** -2  # r²/σ²
    gradient, hessian, x = weighted_slopes(theta, cp, weights(cp, reml, ratio), eliminated, inverse)
    of_r = x[:, -1, -1]  # d log r²
    hessian += ratio * of_r[:, None] * of_r
    cross = -2 * ratio / sigma * of_r[:, None]
    corner = jnp.reshape((6 * ratio - 2 * nu) / sigma**2, (1, 1))
    hessian = jnp.block([[hessian, cross], [cross.T, corner]])
    gradient = jnp.append(gradient, 2 * (nu - ratio) / sigma)
    value = deviance_of(inverse_pieces(cp, eliminated, inverse), sigma, here, reml)
    return value, gradient, hessian, (eliminated, inverse), x


@jit
def theta_sigma_hessian(theta, sigma, cp: CrossProducts, reml: bool = True):
    """(m + 1, m + 1) Hessian of the deviance −2ℓ(θ, σ) in (θ, σ): twice the observed information."""
    return deviance_expansion(jnp.asarray(theta), sigma, cp, reml)[2]


def information(theta, sigma, cp: CrossProducts, reml: bool = True, expected: bool = False, beta: bool = False):
    """Fisher information in (θ, σ), (m + 1, m + 1); with `beta` in (β, θ, σ) at β̂(θ), p more.

    The expected one has no block between β and the others.
    """
    of_theta = _expected(theta, sigma, cp, reml) if expected else _observed(theta, sigma, cp, reml, beta)
    if not beta:
        return of_theta
    precision, cross = _beta_blocks(theta, sigma, cp)
    cross = 0 * cross if expected else cross
    return jnp.block([[precision, cross], [cross.T, of_theta]])


@jit
def _observed(theta, sigma, cp: CrossProducts, reml: bool, beta: bool):
    theta = jnp.asarray(theta)
    _, _, hessian, (_, inverse), x = deviance_expansion(theta, sigma, cp, reml)
    moved = x[:, cp.plan.q_rest : -1, -1] / (inverse[-1, -1] * sigma)  # dβ̂ in units of its standard errors
    return 0.5 * hessian + beta * jnp.pad(moved @ moved.T, (0, 1))


@jit
def _beta_blocks(theta, sigma, cp: CrossProducts):
    """XᵀV⁻¹X (p, p) and −XᵀV⁻¹X dβ̂ (p, m + 1)."""
    theta, q = jnp.asarray(theta), cp.plan.q_rest
    _, _, _, (_, inverse), x = deviance_expansion(theta, sigma, cp, False)
    root = cp.basis.T @ solve_lower(inverse[q:-1, q:-1], jnp.eye(cp.p, dtype=theta.dtype))
    moved = root @ x[:, q:-1, -1].T / (inverse[-1, -1] * sigma**2)
    return root @ root.T / sigma**2, jnp.pad(-moved, ((0, 0), (0, 1)))


@jit
def _expected(theta, sigma, cp: CrossProducts, reml: bool):
    theta = jnp.asarray(theta)
    _, slope, bend = expand(lambda c: log_dets(marginal(theta, cp, _moves(theta, cp), c), cp, reml), len(theta), cp)
    cross = slope[:, None] / sigma
    corner = jnp.reshape(2 * residual_df(cp, reml) / sigma**2, (1, 1))
    return jnp.block([[-0.5 * bend, cross], [cross.T, corner]])


def variance_information(theta, sigma, cp: CrossProducts, reml: bool = True, expected: bool = False):
    """Fisher information (m + 1, m + 1) in the variances and covariances Σ = σ²TTᵀ, in θ's order, and in σ².

    Regular at variances of zero, where that in θ is singular. Raises ValueError for templates of a function, whose
    covariances are not all free.
    """
    if not all(t.filled for t in cp.plan.templates):
        raise ValueError("variance_information: only full and diagonal templates have free variances and covariances")
    return (_expected_of_variances if expected else _observed_of_variances)(theta, sigma, cp, reml)


@jit
def _observed_of_variances(theta, sigma, cp: CrossProducts, reml: bool):
    theta = jnp.asarray(theta)
    directions, free = entries(cp), covariances(theta, cp)

    def value(x):
        return _natural_deviance(marginal(theta, cp, directions, x[:-1] / x[-1] - free), x[-1], cp, reml)

    return 0.5 * jax.hessian(value)(jnp.append(sigma**2 * free, sigma**2))


@jit
def _expected_of_variances(theta, sigma, cp: CrossProducts, reml: bool):
    theta = jnp.asarray(theta)
    directions, free = entries(cp), covariances(theta, cp)
    _, slope, bend = expand(lambda c: log_dets(marginal(theta, cp, directions, c), cp, reml), len(free), cp)
    return of_covariances(-0.5 * bend, 0.5 * slope, 0.5 * residual_df(cp, reml), free) / sigma**4


def of_covariances(of_d, cross, corner, d):
    """(m + 1, m + 1) in (Σ, σ²) at Σ = d, σ² = 1 from an information in (D, σ²): of_d (m, m), cross (m,), corner."""
    whole = jnp.block([[of_d, cross[:, None]], [cross, jnp.reshape(corner, (1, 1))]])
    zero, one = jnp.zeros((len(d), 1), d.dtype), jnp.ones((1, 1), d.dtype)
    turn = jnp.block([[jnp.eye(len(d), dtype=d.dtype), -d[:, None]], [zero.T, one]])
    return turn.T @ whole @ turn


def expand(function: Callable, m: int, cp: CrossProducts):
    """What function(c) gives, its first (m, …) and second (m, m, …) derivatives at c = 0, (m,)."""
    zero, eye = jnp.zeros(m, cp.dense.dtype), jnp.eye(m, dtype=cp.dense.dtype)
    rows, cols = np.tril_indices(m)

    def along(pair):
        def first(c):
            return jax.jvp(function, (c,), (eye[pair[0]],))

        return jax.jvp(first, (zero,), (eye[pair[1]],))

    each = partial(jax.lax.map, along) if cp.plan.q_rest > AT_ONCE else jax.vmap(along)
    (value, first), (_, second) = each(np.stack([rows, cols], 1))
    place = np.zeros((m, m), int)
    place[rows, cols] = place[cols, rows] = np.arange(len(rows))
    diagonal = np.diagonal(place)
    return _at(value, 0), _at(first, diagonal), _at(second, place)


def _at(tree, index):
    return jax.tree.map(lambda a: a[index], tree)


def marginal(theta, cp: CrossProducts, directions: Callable, change):
    """log|V₀| and [X, y]ᵀV₀⁻¹[X, y] (p + 1, p + 1), in the basis of X, at D = TTᵀ + Σₐ changeₐ directionₐ.

    V₀ = V/σ², with R = I: ValueError for a residual structure. directions : Factor → (k, P, P) symmetric. change :
    (k,). Its derivatives at zero are exact at any T.
    """

    if cp.unwhitened is not None:
        raise ValueError("the expected information is not known with a residual structure: take the observed one")

    def moved(factor: Factor):
        return jnp.tensordot(change, directions(factor), 1)

    log_det, full, _ = eliminate_chain(theta, cp, [moved(f) for f in cp.plan.chain])
    if not cp.plan.rest:
        return log_det, full
    q, d, t = cp.plan.q_rest, [], []
    for factor, block in zip(cp.plan.rest, template_blocks(theta, cp.plan, cp.plan.rest), strict=True):
        levels = jnp.eye(factor.n_levels, dtype=full.dtype)
        d.append(jnp.kron(levels, block @ block.T + moved(factor)))
        t.append(jnp.kron(levels, block))
    gram, border = full[:q, :q], full[:q, q:]
    log_rest, w = posterior(
        jax.scipy.linalg.block_diag(*d), jax.lax.stop_gradient(jax.scipy.linalg.block_diag(*t)), gram[None]
    )
    return log_det + log_rest[0], full[q:, q:] - border.T @ w[0] @ border


def entries(cp: CrossProducts) -> Callable:
    """Directions of `marginal`: ∂D along each of the `covariances`."""

    def directions(factor: Factor):
        return _embedded(factor, cp, [_free(t).entries for t in cp.plan.templates])

    return directions


def covariances(theta, cp: CrossProducts):
    """(k,) the entries of D = TTᵀ that the templates leave free, in θ's order; all that a function makes, by columns
    of the lower triangle."""
    parts = zip(cp.plan.templates, cp.plan.theta_slices(), strict=True)
    return jnp.concatenate([free_covariances(t, theta[s]) for t, s in parts])


def free_covariances(template: Template, theta):
    """The part of one term."""
    t = template(theta)
    return (t @ t.T)[_free(template).indices]


def _free(template: Template) -> Filled:
    return template.fn if template.filled else Filled(template.p, "full")


def _moves(theta, cp: CrossProducts) -> Callable:
    """Directions of `marginal`: ∂D along each θ."""

    def directions(factor: Factor):
        parts = zip(cp.plan.templates, cp.plan.theta_slices(), strict=True)
        along = [jax.jacfwd(lambda x, t=t: t(x) @ t(x).T)(theta[s]) for t, s in parts]
        return _embedded(factor, cp, [jnp.moveaxis(a, -1, 0) for a in along])

    return directions


def _embedded(factor: Factor, cp: CrossProducts, per_term):
    """(k, P, P) the directions of all terms in a factor's block, zero for those of other factors."""
    stops = np.cumsum([0, *map(len, per_term)])
    out, start = jnp.zeros((stops[-1], factor.p, factor.p), cp.dense.dtype), 0
    for i in factor.terms:
        rows = slice(start, start + cp.plan.templates[i].p)
        out = out.at[stops[i] : stops[i + 1], rows, rows].set(per_term[i])
        start = rows.stop
    return out


def log_dets(parts, cp: CrossProducts, reml: bool):
    """log|V₀|, with REML + log|XᵀV₀⁻¹X| in the basis of X, from what `marginal` gives."""
    log_det, block = parts
    return log_det + reml * 2 * jnp.sum(log_diagonal(block)[:-1])


def _natural_deviance(parts, variance, cp: CrossProducts, reml: bool):
    """−2ℓ up to a constant, at σ² = variance."""
    rss = jnp.exp(2 * log_diagonal(parts[1])[-1])
    return log_dets(parts, cp, reml) + residual_df(cp, reml) * jnp.log(variance) + rss / variance
