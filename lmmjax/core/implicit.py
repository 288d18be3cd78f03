"""The optimum as a differentiable function of the data, by the implicit function theorem.

At θ̂ the gradient g(θ̂, data) is zero, so that dθ̂ = −H⁻¹ ∂g for any change of the data, whatever the optimiser did to
get there. Everything in the rule is differentiable again, θ̂ itself by this rule: derivatives of any order are exact.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .linalg import cholesky, solve_lower, solve_upper


def implicit(minimise: Callable, slope: Callable, curvature: Callable, free: Callable, factors: Callable) -> Callable:
    """`minimise(data) → Minimum`, with derivatives in `data`, a pytree.

    slope, curvature : (θ, data) → gradient (m,) and Hessian (m, m) of what is minimised. free : (θ, data) → (m,) which
    parameters move; the others stay. factors : (θ, data) → `extra` of the Minimum. Of the Minimum, x and extra have
    derivatives; the rest describes the optimiser's end and is constant.
    """
    optimum = jax.custom_jvp(minimise)

    @optimum.defjvp
    def rule(primals, tangents):
        data, data_dot = primals[0], tangents[0]
        at = optimum(data)
        slope_dot = jax.jvp(lambda d: slope(at.x, d), (data,), (data_dot,))[1]
        x_dot = -_solve(curvature(at.x, data), slope_dot, free(at.x, data))
        extra_dot = jax.jvp(factors, (at.x, data), (x_dot, data_dot))[1]
        return at, jax.tree.map(_zero, at)._replace(x=x_dot, extra=extra_dot)

    return optimum


def _solve(hessian, b, free):
    """H⁻¹b over the free parameters, zero for the others."""
    held = jnp.where(free & free[:, None], hessian, jnp.eye(len(b), dtype=b.dtype))
    factor = cholesky(held)
    return solve_upper(factor.T, solve_lower(factor, jnp.where(free, b, 0)[:, None]))[:, 0]


def _zero(a):
    return jnp.zeros_like(a) if jnp.issubdtype(a.dtype, jnp.floating) else np.zeros(a.shape, jax.dtypes.float0)
