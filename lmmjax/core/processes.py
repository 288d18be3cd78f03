"""A batch split over the processes of `jax.distributed`; without it, everything is one process's."""

from typing import Any

import jax
import numpy as np


def share(total: int) -> range:
    """The part of `total` problems that is this process's; fewer problems than processes are everybody's."""
    processes, own = jax.process_count(), jax.process_index()
    if total < processes:
        return range(total)
    return range(total * own // processes, total * (own + 1) // processes)


def gather(found: Any, total: int) -> Any:
    """The whole from every process's share, a pytree of NumPy arrays with the problems on their first axis."""
    processes = jax.process_count()
    if processes == 1 or total < processes:
        return found
    from jax.experimental import multihost_utils

    lengths = np.diff([total * i // processes for i in range(processes + 1)])

    def whole(a: np.ndarray) -> np.ndarray:
        padded = np.concatenate([a, np.zeros((max(lengths) - len(a), *a.shape[1:]), a.dtype)])
        parts = np.asarray(multihost_utils.process_allgather(padded))
        return np.concatenate([p[:n] for p, n in zip(parts, lengths, strict=True)])

    return jax.tree.map(whole, found)
