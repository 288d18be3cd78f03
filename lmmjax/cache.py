"""JAX's persistent compilation cache, set so that small functions are kept as well."""

import os
from pathlib import Path

import jax


def enable_compilation_cache(path: str | os.PathLike | None = None) -> Path:
    """Keeps compiled functions between processes, in `path` or the user's cache folder; returns the folder.

    This changes JAX's global configuration, for all code in the process.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(path) if path is not None else Path(base) / "lmmjax" / "jax"
    folder.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return folder
