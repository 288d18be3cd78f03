"""Many independent loops in a fixed number of lanes.

`vmap(while_loop)` runs until its slowest member is done. Here a lane that has finished takes the next problem from the
queue, so that the work is the sum of the iterations, in one compiled shape.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

FEW = 16  # share of the lanes in which the last problems of a long queue end
LONG = 4


def run_lanes(step: Callable, running: Callable, states: Any, batch: Any, count, width: int):
    """The final states of many problems, run from `states` by state ↦ step(state, problem) while running(state).

    states, batch : pytrees with the problems on their first axis. count : how many of them are real; the states of the
    others stay. width : lanes; with one, problems are run in turn, which suits those that are large.
    """
    size = jax.tree.leaves(batch)[0].shape[0]
    if width == 1:
        return jax.lax.map(
            lambda i: _alone(step, running, _take(states, i), _take(batch, i), i < count), jnp.arange(size)
        )
    first = states

    def advance(carry):
        states, own, following, ended = carry
        here = jnp.minimum(own, size - 1)
        states = jax.vmap(step)(states, _take(batch, here))
        done = ~jax.vmap(running)(states)
        place = jnp.where(done & (own < count), own, size)
        ended = jax.tree.map(lambda e, s: e.at[place].set(s, mode="drop"), ended, states)
        own = jnp.where(done, following + jnp.cumsum(done) - 1, own)
        fresh = _take(first, jnp.minimum(own, size - 1))
        return _where(done, fresh, states), own, following + jnp.sum(done), ended

    def busy(carry, few: int):
        return (carry[2] < count) | (jnp.sum(carry[1] < count) > few)

    width = min(width, size)
    few = width // FEW if size > LONG * width else 0  # a second loop is a second compilation
    own = jnp.arange(width)
    carry = _take(first, own), own, jnp.asarray(width), first
    states, own, following, ended = jax.lax.while_loop(partial(busy, few=few), advance, carry)
    if not few:
        return ended
    # The slowest go on in few lanes, so that the others do not idle.
    last = jnp.argsort(own)[:few]
    carry = _take(states, last), own[last], following, ended
    return jax.lax.while_loop(partial(busy, few=0), advance, carry)[3]


def _alone(step, running, state, problem, real):
    return jax.lax.while_loop(lambda s: real & running(s), lambda s: step(s, problem), state)


def _take(tree, index):
    return jax.tree.map(lambda a: a[index], tree)


def _where(condition, a, b):
    """Pytrees a and b, lane by lane."""

    def choose(x, y):
        return jnp.where(condition.reshape(-1, *[1] * (x.ndim - 1)), x, y)

    return jax.tree.map(choose, a, b)
