"""Trust-region Newton for a smooth function of few variables that is even in groups of them.

A profiled criterion does not change when a column of T changes its sign, so every boundary is a stationary point and
θ runs free of bounds. A small gradient alone proves nothing there: the loop looks at the curvature, steps off saddles,
and starts a second time where it ended on a boundary or passed a saddle.

The same text runs under JAX's transforms and, given NumPy arrays, as a plain Python loop that compiles nothing.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .namespace import epsilon, namespace, select, while_loop

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
    """Minimises from `start` (m,), NumPy's or JAX's.

    evaluate : x → (value, gradient, Hessian). With `hessian` (m, m), an initial guess, evaluate returns only value and
    gradient and BFGS updates keep the curvature.
    retry : x → (whether x deserves a second start, that start).
    """
    xp = namespace(start)
    zero, infinite = xp.zeros((), int), xp.full((), np.inf, start.dtype)
    curvature = xp.eye(start.shape[0], dtype=start.dtype) if hessian is None else hessian
    nowhere = Minimum(start, infinite, 0 * start, curvature, zero + RUNNING, zero, xp.zeros((), bool))
    state = _State(nowhere, nowhere, start, infinite, 0.5 * _norm(start), zero)
    body = partial(_iterate, evaluate=evaluate, retry=retry, secant=hessian is not None, limit=max_iterations)
    return while_loop(lambda s: s.at.status == RUNNING, body, state).at


def _iterate(s: _State, evaluate, retry, secant: bool, limit: int) -> _State:
    """One evaluation, its acceptance, and the next trial or the end of the attempt."""
    xp, at, eps = namespace(s.trial), s.at, epsilon(s.trial.dtype)
    fresh, moved = xp.isinf(at.value), s.trial - at.x
    value, gradient, *rest = evaluate(s.trial)
    hessian = select(fresh, at.hessian, _bfgs(at.hessian, moved, gradient - at.gradient)) if secant else rest[0]
    noise = 20 * eps * xp.maximum(1, abs(value))
    actual = at.value - value
    good = xp.isfinite(value) & xp.all(xp.isfinite(hessian)) & (fresh | (actual >= 1e-4 * s.predicted - noise))
    radius = _new_radius(s, fresh, good, actual, _norm(moved))
    new = at._replace(x=s.trial, value=value, gradient=gradient, hessian=hessian)
    at = select(good, new, at)._replace(iterations=at.iterations + 1)
    step, predicted, decrement, saddle = model_step(at.gradient, at.hessian, radius)
    still = decrement <= (SECANT_TOLERANCE if secant else 4 * eps) * xp.maximum(1, abs(at.value))
    status = _status(at, radius, good & ~saddle & still, fresh & ~good, limit)
    at = at._replace(saddle=at.saddle | (saddle & still), status=status)
    trial = (at.x + step).astype(at.x.dtype)  # a NumPy scalar may have widened it
    return _second_attempt(_State(s.best, at, trial, predicted, radius, s.attempt), retry)


def _new_radius(s: _State, fresh, good, actual, length):
    ratio = actual / s.predicted
    radius = select(good & (ratio > 0.25), s.radius, 0.25 * length)
    radius = select((ratio > 0.75) & (length > 0.8 * s.radius), 2 * s.radius, radius)
    return select(fresh, s.radius, radius)


def _status(at: Minimum, radius, converged, failed, limit: int):
    xp, size = namespace(at.x), _norm(at.x)
    code = xp.where(at.iterations >= limit, LIMIT, RUNNING)
    code = xp.where(radius < epsilon(at.x.dtype) * (1 + size), STALLED, code)
    code = xp.where(size > FAR, DIVERGED, code)
    return xp.where(failed, FAILED, xp.where(converged, CONVERGED, code))


def _second_attempt(s: _State, retry: Callable) -> _State:
    """At the end of the first attempt, perhaps another start; at the end of the second, the better of the two."""
    xp, ended = namespace(s.trial), s.at.status != RUNNING
    if xp is np and not ended:
        return s
    wanted, start = retry(s.at.x)
    again = ended & (s.attempt == 0) & (wanted | s.at.saddle)
    fresh = s.at._replace(value=xp.full_like(s.at.value, np.inf), status=s.at.status * 0 + RUNNING)
    second = _State(s.at, fresh, start, s.predicted, 0.5 * _norm(start), s.attempt + 1)
    # A tie within rounding keeps the first attempt's point.
    margin = 1e-10 * xp.maximum(1, abs(s.at.value))
    first_wins = (s.attempt == 1) & ended & ~(s.at.value < s.best.value - margin)
    kept = s.best._replace(iterations=s.at.iterations, saddle=s.at.saddle)
    return select(again, second, s._replace(at=select(first_wins, kept, s.at)))


def model_step(gradient, hessian, radius):
    """Step (m,), the decrease its quadratic model predicts, the Newton decrement, and whether x is a saddle.

    Negative curvature is followed by its modulus; where the gradient has nothing to say, half a radius along it.
    """
    xp, eps, tiny = namespace(hessian), epsilon(hessian.dtype), 1e-30
    values, vectors = xp.linalg.eigh(xp.where(xp.isfinite(hessian), hessian, 0))
    g = vectors.T @ gradient
    largest = xp.max(abs(values))
    modulus = xp.maximum(abs(values), 1e-8 * largest + tiny)
    decrement = 0.5 * xp.sum(g**2 / modulus)
    saddle = values[0] < -(eps**0.5) * (1 + largest)
    kick = xp.where(saddle & (np.arange(g.shape[0]) == 0), 0.5 * radius * xp.where(g[0] > 0, -1, 1), 0)
    step = -g / modulus
    step = xp.where(_norm(step) < 1e-3 * radius, step + kick, step)
    step = step * xp.minimum(1, radius / xp.maximum(_norm(step), tiny))
    predicted = -(g @ step) - 0.5 * xp.sum(values * step**2)
    return vectors @ step, predicted, decrement, saddle


def _norm(x):
    return (x @ x) ** 0.5


def _bfgs(hessian, step, change):
    """Damped BFGS update (Powell 1978), which keeps the curvature positive."""
    xp = namespace(hessian)
    hs = hessian @ step
    shs, sy = step @ hs, step @ change
    damp = xp.where(sy < 0.2 * shs, 0.8 * shs / (shs - sy), 1.0)
    y = damp * change + (1 - damp) * hs
    return hessian - xp.outer(hs, hs) / shs + xp.outer(y, y) / (step @ y)
