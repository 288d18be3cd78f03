"""Curvature of the deviance beyond the profiled criterion."""

import jax
import jax.numpy as jnp

from .compile import jit
from .criterion import deviance
from .crossprod import CrossProducts


@jit
def theta_sigma_hessian(theta, sigma, cp: CrossProducts, reml: bool = True):
    """(m + 1, m + 1) Hessian of the deviance −2ℓ(θ, σ) in (θ, σ): twice the observed information."""

    def value(x):
        return deviance(x[:-1], x[-1], cp, reml)

    return jax.hessian(value)(jnp.append(jnp.asarray(theta), sigma))
