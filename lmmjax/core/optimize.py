"""Minimisers for a smooth function of few variables that is even in groups of them.

A profiled criterion does not change when a column of T changes its sign, so every boundary is a stationary point and
θ runs free of bounds. A small gradient alone proves nothing there: the loop looks at the curvature, steps off saddles,
and starts a second time where it ended on a boundary or passed a saddle.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

CONVERGED, STALLED, LIMIT, DIVERGED, FAILED, FIXED = range(6)
STATUS = (
    "converged",
    "stalled: steps became too small before the expected decrease did",
    "stopped at the iteration limit",
    "diverged: the criterion keeps falling as θ grows",
    "failed: the criterion is not finite",
    "θ was given, not estimated",
)
MAX_ITERATIONS = 200
FAR = 1e7  # in units where a column of Z has root mean square one


class Minimum(NamedTuple):
    """Where a minimiser stopped. x, gradient : (m,). hessian : (m, m). saddle : whether it stepped off one."""

    x: Any
    value: Any
    gradient: Any
    hessian: Any
    status: Any
    iterations: Any
    saddle: Any


class _State(NamedTuple):
    best: Minimum  # of an earlier attempt
    at: Minimum
    trial: Any
    predicted: Any
    radius: Any
    attempt: Any


def newton(evaluate: Callable, start, retry: Callable, hessian=None, max_iterations: int = MAX_ITERATIONS) -> Minimum:
    """Trust-region Newton from `start` (m,); pure, so it runs under `jit` and `vmap`.

    evaluate : x → (value, gradient, Hessian). With `hessian` (m, m), an initial guess, evaluate returns only value and
    gradient and BFGS updates keep the curvature.
    retry : x → (whether x deserves a second start, that start).
    """
    start = jnp.asarray(start)
    nowhere = _nowhere(start, hessian)
    radius = 0.5 * jnp.linalg.norm(start)
    state = _State(nowhere, nowhere, start, jnp.inf, radius, jnp.zeros((), int))
    running = jnp.asarray(-1)
    state = state._replace(at=nowhere._replace(status=running))
    body = partial(_iterate, evaluate=evaluate, retry=retry, secant=hessian is not None, limit=max_iterations)
    return jax.lax.while_loop(lambda s: s.at.status < 0, body, state).at


def _nowhere(start, hessian) -> Minimum:
    m, count = start.shape[0], jnp.zeros((), int)
    hessian = jnp.eye(m, dtype=start.dtype) if hessian is None else hessian
    infinite = jnp.full((), jnp.inf, start.dtype)
    return Minimum(start, infinite, jnp.zeros_like(start), hessian, count, count, jnp.zeros((), bool))


def _iterate(s: _State, evaluate, retry, secant: bool, limit: int) -> _State:
    """One evaluation, its acceptance, and the next trial or the end of the attempt."""
    at, fresh = s.at, jnp.isinf(s.at.value)
    moved = s.trial - at.x
    value, gradient, *rest = evaluate(s.trial)
    hessian = jnp.where(fresh, at.hessian, _bfgs(at.hessian, moved, gradient - at.gradient)) if secant else rest[0]
    noise = 20 * jnp.finfo(s.trial.dtype).eps * jnp.maximum(1, jnp.abs(value))
    actual = at.value - value
    good = jnp.isfinite(value) & jnp.all(jnp.isfinite(hessian)) & (actual >= 1e-4 * s.predicted - noise)
    good = jnp.where(fresh, jnp.isfinite(value), good)
    radius = _new_radius(s, fresh, good, actual, jnp.linalg.norm(moved))
    new = at._replace(x=s.trial, value=value, gradient=gradient, hessian=hessian)
    at = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, at)
    at = at._replace(iterations=at.iterations + 1)
    step, predicted, decrement, saddle = model_step(at.gradient, at.hessian, radius)
    tolerance = 4 * jnp.finfo(s.trial.dtype).eps * jnp.maximum(1, jnp.abs(at.value))
    at = at._replace(saddle=at.saddle | (saddle & (decrement <= tolerance)))
    status = _status(at, radius, good & ~saddle & (decrement <= tolerance), fresh & ~good, limit)
    state = _State(s.best, at._replace(status=status), at.x + step, predicted, radius, s.attempt)
    return _second_attempt(state, retry)


def _new_radius(s: _State, fresh, good, actual, length):
    ratio = actual / s.predicted
    shrunk = jnp.where(good & (ratio > 0.25), s.radius, 0.25 * length)
    grown = jnp.where((ratio > 0.75) & (length > 0.8 * s.radius), 2 * s.radius, shrunk)
    return jnp.where(fresh, s.radius, grown)


def _status(at: Minimum, radius, converged, failed, limit: int):
    status = jnp.where(at.iterations >= limit, LIMIT, -1)
    status = jnp.where(radius < jnp.finfo(at.x.dtype).eps * (1 + jnp.linalg.norm(at.x)), STALLED, status)
    status = jnp.where(jnp.linalg.norm(at.x) > FAR, DIVERGED, status)
    return jnp.where(failed, FAILED, jnp.where(converged, CONVERGED, status))


def _second_attempt(s: _State, retry: Callable) -> _State:
    """At the end of the first attempt, perhaps another start; at the end of the second, the better of the two."""
    wanted, start = retry(s.at.x)
    ended = s.at.status >= 0
    again = ended & (s.attempt == 0) & (wanted | s.at.saddle)
    fresh = s.at._replace(value=jnp.full_like(s.at.value, jnp.inf), status=jnp.full_like(s.at.status, -1))
    second = _State(s.at, fresh, start, s.predicted, 0.5 * jnp.linalg.norm(start), s.attempt + 1)
    # A tie within rounding keeps the first attempt's point.
    margin = 1e-10 * jnp.maximum(1, jnp.abs(s.at.value))
    first_wins = (s.attempt == 1) & ended & ~(s.at.value < s.best.value - margin)
    kept = s.best._replace(iterations=s.at.iterations, saddle=s.at.saddle)
    s = s._replace(at=jax.tree.map(lambda a, b: jnp.where(first_wins, a, b), kept, s.at))
    return jax.tree.map(lambda a, b: jnp.where(again, a, b), second, s)


def model_step(gradient, hessian, radius):
    """Step (m,), the decrease its quadratic model predicts, the Newton decrement, and whether x is a saddle.

    Negative curvature is followed by its modulus; where the gradient has nothing to say, half a radius along it.
    """
    values, vectors = jnp.linalg.eigh(hessian)
    g = vectors.T @ gradient
    largest = jnp.max(jnp.abs(values))
    modulus = jnp.maximum(jnp.abs(values), 1e-8 * largest + jnp.finfo(g.dtype).tiny)
    decrement = 0.5 * jnp.sum(g**2 / modulus)
    saddle = values[0] < -jnp.sqrt(jnp.finfo(g.dtype).eps) * (1 + largest)
    kick = jnp.where(saddle, 0.5 * radius, 0.0) * (jnp.arange(g.shape[0]) == 0) * jnp.where(g[0] > 0, -1, 1)
    step = -g / modulus
    step = jnp.where(jnp.linalg.norm(step) < 1e-3 * radius, step + kick, step)
    step *= jnp.minimum(1, radius / jnp.maximum(jnp.linalg.norm(step), jnp.finfo(g.dtype).tiny))
    predicted = -(g @ step) - 0.5 * jnp.sum(values * step**2)
    return vectors @ step, predicted, decrement, saddle


def _bfgs(hessian, step, change):
    """Damped BFGS update (Powell 1978), which keeps the curvature positive."""
    hs = hessian @ step
    shs, sy = step @ hs, step @ change
    damp = jnp.where(sy < 0.2 * shs, 0.8 * shs / (shs - sy), 1.0)
    y = damp * change + (1 - damp) * hs
    updated = hessian - jnp.outer(hs, hs) / shs + jnp.outer(y, y) / (step @ y)
    return jnp.where(shs > 0, updated, hessian)


def lbfgs(value: Callable, start, max_iterations: int = 500, tolerance: float = 1e-6):
    """optax's L-BFGS from `start` (m,) until the gradient's largest element is below `tolerance`."""
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
