"""Case weights of independent groups: the infinitesimal jackknife, scores, leave-one-out fits and their densities.

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


def group_derivatives(cp: CrossProducts, theta, reml, held: bool) -> Parameters:
    """d(β̂, θ̂, σ̂)/dc by group, (G, …), by one reverse pass per parameter; θ̂ does not move if `held`.

    theta : (m,) the optimum.
    """
    ones = jnp.ones(n_groups(cp), cp.dense.dtype)

    def fit(c):
        weighted = cp.with_case_weights(groups=c)
        given = (None, theta) if held else (theta, None)
        return of_estimate(solve(weighted, reml, *given))

    return Parameters(*(jnp.moveaxis(j, -1, 0) for j in jax.jacrev(fit)(ones)))


def group_products(cp: CrossProducts, theta):
    """(G, p + 1, p + 1) each group's share of [X, y]ᵀV₀⁻¹[X, y], in the basis of X."""

    def whole(c):
        return eliminate(theta, cp.with_case_weights(groups=c)).dense

    return jnp.moveaxis(jax.jacrev(whole)(jnp.ones(n_groups(cp), cp.dense.dtype)), -1, 0)


def without_each(cp: CrossProducts, theta, reml) -> tuple[Parameters, jax.Array]:
    """The fits without one group each, (G, …), from θ (m,), and their statuses (G,)."""

    def fit(left_out):
        c = jnp.where(jnp.arange(n_groups(cp)) == left_out, 0.0, 1.0).astype(cp.dense.dtype)
        e = solve(cp.with_case_weights(groups=c), reml, theta, None)
        return of_estimate(e), e.status

    return jax.lax.map(fit, jnp.arange(n_groups(cp)))


def group_deviances(cp: CrossProducts, parameters: Parameters) -> jax.Array:
    """(G,) −2 log density of each group's rows under parameters of its own, (G, …)."""
    ones = jnp.ones(n_groups(cp), cp.dense.dtype)

    def share(group, own: Parameters):
        direction = (jnp.arange(len(ones)) == group).astype(ones.dtype)
        return jax.jvp(lambda c: deviance_at(*own, cp.with_case_weights(groups=c)), (ones,), (direction,))[1]

    return jax.lax.map(lambda a: share(*a), (jnp.arange(len(ones)), parameters))
