"""Trust-region Newton for a smooth function of few variables that is even in groups of them.

A profiled criterion does not change when a column of T changes its sign, so every boundary is a stationary point and
θ runs free of bounds. A small gradient alone proves nothing there: the loop looks at the curvature, steps off saddles,
and starts a second time where it ended on a boundary or passed a saddle.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .linalg import eigh

CONVERGED, STALLED, LIMIT, DIVERGED, FAILED, FIXED = range(6)
STATUS = (
    "converged",
    "stalled: steps became too small before the expected decrease did",
    "stopped at the iteration limit",
    "diverged: the criterion keeps falling as θ grows",
    "failed: the criterion is not finite",
    "θ was given, not estimated",
)
RUNNING = -1
MAX_ITERATIONS = 200
SECANT_TOLERANCE = 1e-12  # on the Newton decrement, relative to the criterion; exact Hessians go to rounding
FAR = 1e7  # in units where a column of Z has root mean square one


class Minimum(NamedTuple):
    """Where a minimiser stopped. x, gradient : (m,). hessian : (m, m). saddle : whether it stepped off one.

    extra : what else `evaluate` returned at x.
    """

    x: Any
    value: Any
    gradient: Any
    hessian: Any
    extra: Any
    status: Any
    iterations: Any
    saddle: Any


class State(NamedTuple):
    """A minimisation under way."""

    best: Minimum  # of an earlier attempt
    at: Minimum
    trial: Any
    predicted: Any
    radius: Any
    attempt: Any


def newton(evaluate: Callable, start, retry: Callable, hessian=None, max_iterations: int = MAX_ITERATIONS) -> Minimum:
    """Minimises from `start` (m,).

    evaluate : x → (value, gradient, Hessian, anything else worth keeping). With `hessian` (m, m), an initial guess,
    evaluate's own is ignored (None will do) and BFGS updates keep the curvature.
    retry : x → (whether x deserves a second start, that start).
    """
    extra = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(evaluate, start)[3])
    step = partial(iterate, evaluate=evaluate, retry=retry, secant=hessian is not None, limit=max_iterations)
    return jax.lax.while_loop(lambda s: s.at.status == RUNNING, step, begin(start, hessian, extra)).at


def begin(start, hessian=None, extra=None) -> State:
    """The state before the first evaluation."""
    zero, infinite = jnp.zeros((), int), jnp.full((), np.inf, start.dtype)
    curvature = jnp.eye(start.shape[0], dtype=start.dtype) if hessian is None else hessian
    nowhere = Minimum(start, infinite, 0 * start, curvature, extra, zero + RUNNING, zero, zero > 0)
    return State(nowhere, nowhere, start, infinite, _first_radius(start), zero)


def iterate(
    s: State, evaluate: Callable, retry: Callable, secant: bool = False, limit: int = MAX_ITERATIONS, tolerance=None
) -> State:
    """One evaluation, its acceptance, and the next trial or the end of the attempt.

    tolerance : on the Newton decrement, relative to the criterion; by default rounding.
    """
    at, eps = s.at, _epsilon(s.trial)
    tolerance = tolerance or (SECANT_TOLERANCE if secant else 4 * eps)
    fresh, moved = jnp.isinf(at.value), s.trial - at.x
    value, gradient, hessian, extra = evaluate(s.trial)
    if secant:
        hessian = jnp.where(fresh, at.hessian, _bfgs(at.hessian, moved, gradient - at.gradient))
    noise = 20 * eps * jnp.maximum(1, abs(value))
    actual = at.value - value
    good = jnp.isfinite(value) & jnp.all(jnp.isfinite(hessian)) & (fresh | (actual >= 1e-4 * s.predicted - noise))
    radius = _new_radius(s, fresh, good, actual, _norm(moved))
    new = at._replace(x=s.trial, value=value, gradient=gradient, hessian=hessian, extra=extra)
    at = _select(good, new, at)._replace(iterations=at.iterations + 1)
    step, predicted, decrement, saddle = model_step(at.gradient, at.hessian, radius)
    still = decrement <= tolerance * jnp.maximum(1, abs(at.value))
    status = _status(at, radius, good & ~saddle & still, fresh & ~good, limit)
    at = at._replace(saddle=at.saddle | (saddle & still), status=status)
    return _second_attempt(State(s.best, at, at.x + step, predicted, radius, s.attempt), retry)


def _new_radius(s: State, fresh, good, actual, length):
    ratio = actual / s.predicted
    radius = jnp.where(good & (ratio > 0.25), s.radius, 0.25 * length)
    radius = jnp.where((ratio > 0.75) & (length > 0.8 * s.radius), 2 * s.radius, radius)
    return jnp.where(fresh, s.radius, radius)


def _status(at: Minimum, radius, converged, failed, limit: int):
    size = _norm(at.x)
    conditions = [failed, converged, size > FAR, radius < _epsilon(at.x) * (1 + size), at.iterations >= limit]
    return jnp.select(conditions, [FAILED, CONVERGED, DIVERGED, STALLED, LIMIT], RUNNING)


def _second_attempt(s: State, retry: Callable) -> State:
    """At the end of the first attempt, perhaps another start; at the end of the second, the better of the two."""
    ended = s.at.status != RUNNING
    wanted, start = retry(s.at.x)
    again = ended & (s.attempt == 0) & (wanted | s.at.saddle)
    # A tie within rounding keeps the first attempt's point.
    margin = 1e-10 * jnp.maximum(1, abs(s.at.value))
    first_wins = (s.attempt == 1) & ended & ~(s.at.value < s.best.value - margin)
    kept = s.best._replace(iterations=s.at.iterations, saddle=s.at.saddle)
    fresh = s.at._replace(value=jnp.where(again, np.inf, s.at.value), status=jnp.where(again, RUNNING, s.at.status))
    return State(
        best=_select(again, s.at, s.best),
        at=_select(first_wins, kept, fresh),
        trial=jnp.where(again, start, s.trial),
        predicted=s.predicted,
        radius=jnp.where(again, _first_radius(start), s.radius),
        attempt=s.attempt + again,
    )


def model_step(gradient, hessian, radius):
    """Step (m,), the decrease its quadratic model predicts, the Newton decrement, and whether x is a saddle.

    Negative curvature is followed by its modulus; where the gradient has nothing to say, half a radius along it.
    """
    eps, tiny = _epsilon(hessian), 1e-30
    values, vectors = eigh(jnp.where(jnp.isfinite(hessian), hessian, 0))
    g, lowest = vectors.T @ gradient, jnp.argmin(values)
    largest = jnp.max(abs(values))
    modulus = jnp.maximum(abs(values), 1e-10 * largest + tiny)
    decrement = 0.5 * jnp.sum(g**2 / modulus)
    saddle = values[lowest] < -(eps**0.5) * (1 + largest)
    kick = jnp.where(saddle & (np.arange(g.shape[0]) == lowest), 0.5 * radius * jnp.where(g > 0, -1, 1), 0)
    step = -g / modulus
    step = jnp.where(_norm(step) < 1e-3 * radius, step + kick, step)
    step = step * jnp.minimum(1, radius / jnp.maximum(_norm(step), tiny))
    predicted = -(g @ step) - 0.5 * jnp.sum(values * step**2)
    return vectors @ step, predicted, decrement, saddle


def _first_radius(start):
    size = _norm(start)
    return 0.5 * jnp.where(size > 0, size, 1)


def _norm(x):
    return jnp.sqrt(jnp.sum(x * x))


def _epsilon(x) -> float:
    return float(np.finfo(x.dtype).eps)


def _select(condition, a, b):
    """Pytree a where the condition holds, else b."""
    return jax.tree.map(partial(jnp.where, condition), a, b)


def _bfgs(hessian, step, change):
    """Damped BFGS update (Powell 1978), which keeps the curvature positive."""
    hs = hessian @ step
    shs, sy = step @ hs, step @ change
    damp = jnp.where(sy < 0.2 * shs, 0.8 * shs / (shs - sy), 1.0)
    y = damp * change + (1 - damp) * hs
    return hessian - jnp.outer(hs, hs) / shs + jnp.outer(y, y) / (step @ y)
