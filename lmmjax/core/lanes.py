"""Many independent loops in a fixed number of lanes.

`vmap(while_loop)` runs until its slowest member is done. Here a lane that has finished takes the next problem from the
queue, so that the work is the sum of the iterations, in one compiled shape.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

FEW = 16  # share of the lanes in which the last problems end


def run_lanes(begin: Callable, step: Callable, running: Callable, result: Callable, batch: Any, count, width: int):
    """result(final state, problem) of `count` problems, stacked in an array of the batch's length.

    begin : problem → state. step : (state, problem) → state. running : state → bool.
    batch : pytree whose leaves have the problems on their first axis. count : how many of them are real; the results
    of the others are zeros. width : lanes; with one, problems are run in turn, which suits those that are large.
    """
    size = jax.tree.leaves(batch)[0].shape[0]
    index = jnp.arange(size)
    if width == 1:
        return jax.lax.map(lambda i: _alone(begin, step, running, result, _take(batch, i), i < count), index)
    outputs = jax.eval_shape(jax.vmap(lambda b: result(begin(b), b)), batch)
    outputs = jax.tree.map(lambda o: jnp.zeros(o.shape, o.dtype), outputs)

    def advance(carry):
        states, own, following, outputs = carry
        problems = _take(batch, jnp.minimum(own, size - 1))
        states = jax.vmap(step)(states, problems)
        done = ~jax.vmap(running)(states)
        place = jnp.where(done & (own < count), own, size)
        found = jax.vmap(result)(states, problems)
        outputs = jax.tree.map(lambda o, f: o.at[place].set(f, mode="drop"), outputs, found)
        own = jnp.where(done, following + jnp.cumsum(done) - 1, own)
        fresh = jax.vmap(begin)(_take(batch, jnp.minimum(own, size - 1)))
        return _where(done, fresh, states), own, following + jnp.sum(done), outputs

    def busy(carry, few: int):
        return (carry[2] < count) | (jnp.sum(carry[1] < count) > few)

    width = min(width, size)
    few = max(1, width // FEW)
    own = jnp.arange(width)
    carry = jax.vmap(begin)(_take(batch, own)), own, jnp.asarray(width), outputs
    states, own, following, outputs = jax.lax.while_loop(partial(busy, few=few), advance, carry)
    # The slowest go on in few lanes, so that the others do not idle.
    last = jnp.argsort(own)[:few]
    carry = _take(states, last), own[last], following, outputs
    return jax.lax.while_loop(partial(busy, few=0), advance, carry)[3]


def _alone(begin, step, running, result, problem, real):
    start = begin(problem)
    end = jax.lax.while_loop(lambda s: real & running(s), partial(_swap, step, problem), start)
    return result(end, problem)


def _swap(step, problem, state):
    return step(state, problem)


def _take(tree, index):
    return jax.tree.map(lambda a: a[index], tree)


def _where(condition, a, b):
    """Pytrees a and b, lane by lane."""

    def choose(x, y):
        return jnp.where(condition.reshape(-1, *[1] * (x.ndim - 1)), x, y)

    return jax.tree.map(choose, a, b)
