"""What the tests of batches share: comparisons of many fits with a loop, and a count of compilations."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np
from core_cases import close

from lmmjax.core import Estimate, Estimates

CONVERGED, FIXED = 0, 5


def stacked(fits: list[Estimate], part: str) -> np.ndarray:
    """One part of every fit, (B, …)."""
    return np.stack([np.asarray(getattr(fit, part)) for fit in fits])


def assert_same_criterion(actual, expected, tolerance: float = 1e-8) -> None:
    """|actual − expected| ≤ tolerance · max(1, |expected|) for each."""
    assert np.shape(actual) == np.shape(expected)
    error = np.abs(actual - expected) / np.maximum(1, np.abs(expected))
    assert np.all(error <= tolerance), error


def assert_same(actual: Estimates, expected: Estimates, tolerance: float = 1e-10) -> None:
    """Equal numbers and the same status, however the work was cut; θ to half the digits, as where a minimum is flat."""
    np.testing.assert_array_equal(actual.status, expected.status)
    assert_same_criterion(actual.criterion, expected.criterion, tolerance)
    for part in ("theta", "beta", "sigma"):
        close(getattr(actual, part), getattr(expected, part), tolerance**0.5 if part == "theta" else 100 * tolerance)


@contextmanager
def compilations() -> Iterator[list[str]]:
    """The names of JAX's events for each program that XLA compiles (or takes from its cache) meanwhile."""
    seen: list[str] = []

    def listen(event: str, _seconds: float, **_more: object) -> None:
        if event.endswith("backend_compile_duration"):
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
