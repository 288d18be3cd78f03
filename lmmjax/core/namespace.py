"""One text for two uses: the same functions run on NumPy arrays, compiling nothing, and inside JAX's transforms."""

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
