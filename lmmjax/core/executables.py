"""Compiled functions kept whole beside JAX's compilation cache.

JAX's cache saves the compilation alone: each new process still traces and lowers a fit, which takes as long as all
imports of this package. What is kept here is found by the shapes of the arguments and needs neither.
"""

import hashlib
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jaxlib
from jax.experimental.serialize_executable import deserialize_and_load, serialize

from ..files import write_whole

DIGEST = 32  # bytes of SHA-256 before each executable: a damaged file is never loaded
CONFIG: Any = jax.config
SETTINGS = ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")  # of the environment, that change what is compiled
_ADDRESS = " at 0x"  # in the text of a static argument that another process would print otherwise


def folder() -> Path | None:
    """Where executables are kept: the folder of JAX's compilation cache, if there is one."""
    path = CONFIG.jax_compilation_cache_dir
    return Path(path) / "lmmjax" if path and "://" not in path else None


def keepable(function: Callable) -> bool:
    """Whether a name says all about a function: it belongs to this package and encloses nothing."""
    name = getattr(function, "__qualname__", "<")
    return function.__module__.startswith(__package__) and "<" not in name and not function.__closure__


def load_or_compile(jitted: Any, function: Callable, options: Any, shapes: Any, args, kwargs) -> Callable:
    """The compiled function for these arguments: from the folder if it is there, else compiled and put there."""
    place = folder()
    if place is None or _ADDRESS in str(shapes):
        return jitted
    settings = CONFIG.jax_enable_x64, *map(os.environ.get, SETTINGS)
    names = (function.__module__, function.__qualname__, options, str(shapes), *settings)
    file = place / hashlib.sha256(repr((_machine(), names)).encode()).hexdigest()
    trees = jax.tree.structure((args, kwargs)), jax.tree.structure(0)
    if (kept := _load(file, trees)) is not None:
        return kept
    lowered = jitted.lower(*args, **kwargs)
    # LAPACK's functions are only registered when a call to them is lowered.
    if lowered.out_tree != trees[1] or "lapack" in lowered.as_text():
        return lowered.compile()
    with _outside_jax_cache():
        compiled = lowered.compile()
    if _store(file, compiled) and not _runs(_load(file, trees), args, kwargs):
        file.unlink(missing_ok=True)
    return compiled


@contextmanager
def _outside_jax_cache() -> Iterator[None]:
    """What JAX's cache has given back cannot be written again, so it must not get it first."""
    least = CONFIG.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", float("inf"))
    try:
        yield
    finally:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", least)


def _load(file: Path, trees) -> Callable | None:
    try:
        content = file.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(content[DIGEST:]).digest() != content[:DIGEST]:
        return None
    return deserialize_and_load(content[DIGEST:], *trees)


def _store(file: Path, compiled) -> bool:
    content = serialize(compiled)[0]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, hashlib.sha256(content).digest() + content)
    except OSError:  # a full or read-only disk: the next process compiles again
        return False
    return True


def _runs(kept: Callable | None, args, kwargs) -> bool:
    try:
        return kept is not None and kept(*args, **kwargs).block_until_ready() is not None
    except jax.errors.JaxRuntimeError:
        return False


@lru_cache
def _machine() -> tuple:
    """What a compiled function depends on besides its arguments: this package's source, JAX, the processor."""
    source = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        source.update(path.read_bytes())
    return source.hexdigest(), jax.__version__, jaxlib.__version__, platform.machine(), _processor()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
