"""optax's L-BFGS, in a module of its own because importing optax takes longer than most fits."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax


def lbfgs(value: Callable, start, max_iterations: int = 500, tolerance: float = 1e-6):
    """Minimises value(x) from `start` (m,) until the gradient's largest element is below `tolerance`."""
    solver = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(value)

    def step(carry):
        x, state = carry
        f, g = value_and_grad(x, state=state)
        updates, state = solver.update(g, state, x, value=f, grad=g, value_fn=value)
        return optax.apply_updates(x, updates), state

    def unfinished(carry):
        state = carry[1]
        count, g = optax.tree.get(state, "count"), optax.tree.get(state, "grad")
        return (count == 0) | ((count < max_iterations) & (jnp.max(jnp.abs(g)) > tolerance))

    return jax.lax.while_loop(unfinished, step, (start, solver.init(start)))[0]
