"""A large batch cut into chunks of one padded shape, each spread over the local devices."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from tqdm import tqdm

from . import processes
from .compile import jit

LARGEST = 2**16  # problems in a chunk
LANES = 64  # at most, on a CPU
LANE_NUMBERS = 2**17  # that a step of all lanes may work on, on a CPU
LARGE_REST = 24  # dense columns from which a CPU solves problems one by one
LANES_ON_ACCELERATOR, NUMBERS_ON_ACCELERATOR = 2**14, 2**27


def chunk_size(total: int, bytes_each: int, memory: int) -> int:
    """Problems in a chunk: a power of two for each device."""
    devices = len(jax.local_devices())
    most = max(1, min(LARGEST, memory // bytes_each) // devices)
    return devices * 2 ** min(int(np.log2(most)), int(np.ceil(np.log2(max(1, total / devices)))))


def lanes(chain: int, rest: int) -> int:
    """Problems worked on at a time. chain : numbers in the chain's borders. rest : columns of the dense rest."""
    if jax.default_backend() != "cpu":
        return _power(min(LANES_ON_ACCELERATOR, NUMBERS_ON_ACCELERATOR // (chain + rest**2 + 1)))
    return 1 if rest > LARGE_REST else _power(max(8, min(LANES, LANE_NUMBERS // (chain + 1))))


def _power(number: int) -> int:
    return 2 ** int(np.log2(max(1, number)))


def in_chunks(solve: Callable[[slice], Any], total: int, size: int, progress: bool) -> Any:
    """solve(rows) of all chunks, one after the other in one pytree of NumPy arrays; the same in every process."""
    mine = processes.share(total)
    first = range(mine.start, max(mine.stop, mine.start + 1), size)  # of no problems at all, an empty chunk
    starts = tqdm(first, disable=not progress)
    parts = [solve(slice(start, min(start + size, mine.stop))) for start in starts]
    return processes.gather(jax.tree.map(lambda *a: np.concatenate(a), *parts), total)


def spread(function: Callable, options: tuple, shared: Any, batch: Any, size: int) -> Any:
    """function(shared, batch, count, *options) of a batch padded to `size`, over all local devices.

    function : gets a device's part of the batch and (1,) how many of its problems are real. options : hashable, what
    else a compilation depends on. batch : leaves with the same first axis. Returns NumPy arrays without the padding.
    """
    count, devices = len(jax.tree.leaves(batch)[0]), len(jax.local_devices())
    padded = jax.tree.map(lambda a: _padded(a, size), batch)
    counts = np.clip(count - np.arange(devices) * (size // devices), 0, size // devices)
    found = _compiled(function, options, devices)(shared, padded, counts)
    return jax.tree.map(lambda a: np.asarray(a)[:count], found)


def _padded(a, size: int):
    """(size, …): the last row again and again, or zeros where there is none."""
    if len(a) == size:
        return a
    pad: Any = jnp.pad if isinstance(a, jax.Array) else np.pad
    mode = "edge" if len(a) else "constant"
    return pad(a, ((0, size - len(a)), *[(0, 0)] * (a.ndim - 1)), mode=mode)


@lru_cache(maxsize=64)
def _compiled(function: Callable, options: tuple, devices: int) -> Callable:
    def run(shared, batch, counts):
        return function(shared, batch, counts, *options)

    if devices == 1:
        return jit(run)
    each, whole = PartitionSpec("batch"), PartitionSpec()
    mesh = Mesh(np.array(jax.local_devices()), ("batch",))
    return jit(jax.shard_map(run, mesh=mesh, in_specs=(whole, each, each), out_specs=each, check_vma=False))
