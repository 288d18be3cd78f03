"""Set-up of the whole suite: JAX on the CPU, its compilation cache, one BLAS thread, and the reference numbers."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import references


def _cache_folder() -> Path:
    """One cache for each xdist worker: JAX writes an entry in place, so that another process could read half of it."""
    return Path(__file__).resolve().parent.parent / ".jax_cache" / os.environ.get("PYTEST_XDIST_WORKER", "main")


# Before anything imports jax or numpy. Precision is left alone: the package enters float64 by itself.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_cache_folder()))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the tests that download out, unless they are asked for."""
    if os.environ.get("LMMJAX_TEST_NETWORK") == "1":
        return
    skip = pytest.mark.skip(reason="downloads something; set LMMJAX_TEST_NETWORK=1 to run it")
    for item in items:
        if "network" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session", autouse=True)
def _nothing_kept() -> Iterator[None]:
    """Executables are kept for the next process, which costs this one time: only their own tests do so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lmmjax.core.compile.folder", lambda: None)
        yield


@pytest.fixture(scope="session")
def reference() -> dict[str, Any]:
    """The larger reference, computed by R; skips where it is absent."""
    return references.shared()


@pytest.fixture(scope="session")
def bundled_reference() -> dict[str, Any]:
    """The reference that is committed with the tests."""
    return references.bundled()
