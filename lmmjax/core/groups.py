"""Case weights: the infinitesimal jackknife, fits without some rows, scores of independent groups and their densities.

The groups are the levels of the outermost grouping factor. −2ℓ(β, θ, σ) is a sum over them, so that its derivative in a
group's case weight is that group's share, and dβ̂/dc is the first-order change when a group counts a little more.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .blocks import eliminate
from .criterion import deviance_at
from .crossprod import CrossProducts
from .estimate import Estimate, solve
from .rectify import off_the_boundary


class Parameters(NamedTuple):
    """beta (p,), theta (m,), sigma; or stacked by group."""

    beta: Any
    theta: Any
    sigma: Any


def of_estimate(e: Estimate) -> Parameters:
    """The parameters of a fit."""
    return Parameters(e.beta, e.theta, e.sigma)


def n_groups(cp: CrossProducts) -> int:
    """Levels of the outermost factor of the chain."""
    return cp.plan.chain[-1].n_levels


def case_derivatives(cp: CrossProducts, ones: dict[str, Any], theta, reml, given) -> Parameters:
    """d(β̂, θ̂, σ̂)/dc, (count, …), by one reverse pass per parameter.

    ones : (count,) ones by the argument of `with_case_weights` that they are: rows, levels or groups. theta : (m,) the
    optimum; given : the same where θ does not move, else None.
    """

    def fit(cases):
        beta, moved, sigma = of_estimate(solve(cp.with_case_weights(**cases), reml, theta, given))
        return jnp.concatenate([beta, moved, sigma[None]])

    flat, pull = jax.vjp(fit, ones)
    (slopes,) = jax.tree.leaves(jax.lax.map(pull, jnp.eye(len(flat), dtype=flat.dtype)))  # (p + m + 1, count)
    return Parameters(slopes[: cp.p].T, slopes[cp.p : -1].T, slopes[-1])


def group_products(cp: CrossProducts, theta):
    """(G, p + 1, p + 1) each group's share of [X, y]ᵀV₀⁻¹[X, y], in the basis of X."""

    def whole(c):
        return eliminate(theta, cp.with_case_weights(groups=c)).dense

    return jnp.moveaxis(jax.jacrev(whole)(jnp.ones(n_groups(cp), cp.dense.dtype)), -1, 0)


def without_each(cp: CrossProducts, codes, levels, theta, reml, given) -> tuple[Parameters, jax.Array, jax.Array]:
    """The fits without the rows of each level, (count, …), their standard errors of β̂ (count, p) and statuses (count,).

    codes : (n,) the level of each row. levels : (count,) those to leave out in turn. theta, given : as above.
    """
    start = off_the_boundary(theta, cp)[0] if cp.plan.templates else theta

    def fit(left_out):
        cases = jnp.where(codes == left_out, 0.0, 1.0).astype(cp.dense.dtype)
        e = solve(cp.with_case_weights(rows=cases), reml, start, given)
        return of_estimate(e), jnp.sqrt(jnp.diagonal(e.vcov)), e.status

    return jax.lax.map(fit, levels)


def group_deviances(cp: CrossProducts, parameters: Parameters) -> jax.Array:
    """(G,) −2 log density of each group's rows under parameters of its own, (G, …)."""
    ones = jnp.ones(n_groups(cp), cp.dense.dtype)

    def share(group, own: Parameters):
        direction = (jnp.arange(len(ones)) == group).astype(ones.dtype)
        return jax.jvp(lambda c: deviance_at(*own, cp.with_case_weights(groups=c)), (ones,), (direction,))[1]

    return jax.lax.map(lambda a: share(*a), (jnp.arange(len(ones)), parameters))
