"""Set-up of the whole suite: JAX on the CPU, its compilation cache, one BLAS thread, and the reference numbers."""

import gc
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import references

# One for each xdist worker: JAX writes an entry in place, so that another process could read half of it.
CACHES = Path(__file__).resolve().parent.parent / ".jax_cache"
OWN_CACHE = CACHES / os.environ.get("PYTEST_XDIST_WORKER", "main")
MOST_MAPS = 25_000  # of memory, after a file
WRITTEN = 2  # seconds after which an entry is surely whole

# Before anything imports jax or numpy. Precision is left alone: the package enters float64 by itself.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(OWN_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES", "none")  # else a key depends on the folder
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Small arrays: XLA would take longer to optimise a program than to run it. Some examples run as for a user.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):  # a later XLA stops at flags that it lost
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1")

import jax  # noqa: E402

# The longest files, longest first: two workers that take file after file should end together.
LONGEST = (
    "reference examples notebooks study core_implicit batch influence core_templates compare bootstrap core_penalised "
    "core_information batch_fit batch_designs batch_devices core_derivatives batch_reference"
).split()
# These fit every model of the references, which one process does once.
TOGETHER = {f"tests/test_{name}.py" for name in "reference df anova confint effects lrt profile r2".split()}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist loadfile`, the files above count as one."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "together" if file in TOGETHER else file

    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, and without the tests that download, unless they are asked for."""
    place = {f"test_{name}": i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONGEST)))
    if os.environ.get("LMMJAX_TEST_NETWORK") == "1":
        return
    skip = pytest.mark.skip(reason="downloads something; set LMMJAX_TEST_NETWORK=1 to run it")
    for item in items:
        if "network" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="module", autouse=True)
def _found_by_others() -> None:
    """What the other workers have compiled need not be compiled again."""
    whole, own = time.time() - WRITTEN, {entry.name for entry in OWN_CACHE.glob("*-cache")}
    for entry in CACHES.glob("*/*-cache"):
        if entry.name not in own and entry.stat().st_mtime < whole:
            OWN_CACHE.mkdir(exist_ok=True)
            with suppress(FileExistsError):
                os.link(entry, OWN_CACHE / entry.name)


@pytest.fixture(scope="module", autouse=True)
def _room_for_executables() -> Iterator[None]:
    """XLA takes about ten memory maps for each executable, of which Linux allows 65,530, and crashes without."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()
        gc.collect()


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
