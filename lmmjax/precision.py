"""The border between callers and JAX: float64 inside whatever the caller's configuration is, NumPy outside."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import jax
import numpy as np

P = ParamSpec("P")
T = TypeVar("T")


def float64() -> AbstractContextManager:
    """Context in which JAX computes in 64 bits; research code enters it to use `lmmjax.core` at full precision.

    It holds for the current thread only, and float64 arrays must not be used with JAX after it is left.
    """
    return jax.enable_x64(True)


def in_float64(function: Callable[P, T]) -> Callable[P, T]:
    """Runs a function inside `float64()`; it must return nothing that belongs to JAX."""

    @wraps(function)
    def inside(*args: P.args, **kwargs: P.kwargs) -> T:
        with float64():
            return function(*args, **kwargs)

    return inside


def to_numpy(tree: Any) -> Any:
    """The same pytree with NumPy leaves."""
    return jax.tree.map(np.asarray, tree)
