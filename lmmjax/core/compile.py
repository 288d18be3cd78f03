"""`jit` for functions of CrossProducts: what enters a compiled shape, how hard XLA tries, and what is kept on disk."""

from collections.abc import Callable
from functools import wraps

import jax
import numpy as np
from jax.experimental.xla_metadata import set_xla_metadata

from .crossprod import CrossProducts
from .executables import CONFIG, folder, keepable, load_or_compile
from .namespace import is_concrete

# XLA's own optimisation levels, by the numbers in the arguments. On a CPU most of a first fit is compilation: the older
# emitters compile in half the time to code of the same speed, and level 0 halves it again where arrays are small.
SMALL = 2**12
QUICK = {"xla_cpu_use_fusion_emitters": False} if jax.__version_info__ < (0, 11) else {}
QUICKEST = {**QUICK, "xla_backend_optimization_level": 0}
LOOP = {**QUICK, "xla_backend_optimization_level": 1, "xla_cpu_experimental_ynn_fusion_type": ""}  # no library calls

# The mark that XLA itself puts on loops that touch less than a kilobyte.
ONE_KERNEL = {"xla_cpu_small_call": "true", "inlineable": "false"}


def jit(function: Callable, large: bool = False, rows: bool = False, loop: bool = False) -> Callable:
    """`jax.jit`, with rows left outside, so that no compiled shape depends on n, and compile time kept in mind.

    large : whether small arguments make much work nevertheless, as keys do. rows : whether CrossProducts keep theirs.
    loop : whether it is a loop of many small steps: level 1 compiles a sampler four times as fast as what runs a
    quarter faster.
    """
    bare = (lambda a: a) if rows else _bare
    plain, quick, quickest = (jax.jit(function, compiler_options=o) for o in (None, LOOP if loop else QUICK, QUICKEST))
    options_known, keeps = True, keepable(function)
    compiled: dict = {}

    @wraps(function)
    def call(*args, **kwargs):
        nonlocal options_known
        args, kwargs = tuple(map(bare, args)), {k: bare(v) for k, v in kwargs.items()}
        leaves, tree = jax.tree.flatten((args, kwargs))
        traced = any(isinstance(a, jax.core.Tracer) for a in leaves)  # options belong to the outermost jit
        if traced or not options_known or jax.default_backend() != "cpu":
            return plain(*args, **kwargs)
        small = not (large or loop) and sum(map(np.size, leaves)) < SMALL
        chosen, options = (quickest, QUICKEST) if small else (quick, LOOP if loop else QUICK)
        try:
            if not keeps or folder() is None or not is_concrete(leaves):
                return chosen(*args, **kwargs)
            shapes = tree, tuple((np.shape(a), getattr(a, "dtype", type(a))) for a in leaves)
            key = chosen, shapes, CONFIG.jax_enable_x64
            if key not in compiled:
                compiled[key] = load_or_compile(chosen, function, options, shapes, args, kwargs)
            return compiled[key](*args, **kwargs)
        except jax.errors.JaxRuntimeError as error:
            if "compile option" not in str(error):
                raise
            options_known = False  # another XLA, with other names
            return plain(*args, **kwargs)

    return call


def in_one_kernel(loop: Callable, *args):
    """loop(*args), which a CPU runs as one kernel: otherwise each operation of each round takes 0.1 µs to start.

    It may add, multiply, slice and sum, but not scatter, and call no library: no large products, no factorisations.
    """
    if jax.default_backend() != "cpu":
        return loop(*args)

    def unmarked(*args):
        with set_xla_metadata(**dict.fromkeys(ONE_KERNEL)):
            return loop(*args)

    with set_xla_metadata(**ONE_KERNEL):
        return jax.jit(unmarked)(*args)


def _bare(argument):
    return argument.without_rows() if isinstance(argument, CrossProducts) else argument
