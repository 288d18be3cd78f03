"""One text for two drivers: the same functions run on NumPy arrays, compiling nothing, and inside JAX's transforms."""

from functools import cache
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def is_concrete(tree: Any) -> bool:
    """Whether every array of a pytree is NumPy's."""
    return all(isinstance(a, np.ndarray | np.generic | float | int) for a in jax.tree.leaves(tree))


def namespace(tree: Any) -> ModuleType:
    """NumPy if every array of a pytree is NumPy's, else jax.numpy."""
    return np if isinstance(tree, np.ndarray) or is_concrete(tree) else jnp


@cache
def epsilon(dtype: Any) -> float:
    """Machine epsilon of a floating-point dtype."""
    return float(np.finfo(dtype).eps)


def select(condition, a, b):
    """Pytree a where the condition holds, else b."""
    if isinstance(condition, bool | np.bool_):
        return a if condition else b
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def while_loop(condition, body, state):
    """`lax.while_loop`, or Python's on NumPy arrays."""
    if not is_concrete(state):
        return jax.lax.while_loop(condition, body, state)
    with np.errstate(all="ignore"):  # as under JAX, what is not finite is seen to by the caller
        while condition(state):
            state = body(state)
    return state


def like(example, tree):
    """NumPy arrays where the example is one, else the tree as it is."""
    return jax.tree.map(np.asarray, tree) if isinstance(example, np.ndarray) else tree


def canonical(tree):
    """NumPy arrays in the precision that JAX computes in."""
    return jax.tree.map(lambda a: np.asarray(a, jax.dtypes.canonicalize_dtype(np.asarray(a).dtype)), tree)
