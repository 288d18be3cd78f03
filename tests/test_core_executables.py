"""Compiled functions on disk: what is kept gives the same numbers without a trace, and is never in the way."""

import importlib

import jax
import numpy as np
import pytest
from core_cases import build, compiled
from jax.experimental.compilation_cache import compilation_cache

from lmmjax.core import cross_products
from lmmjax.core.executables import keepable, load_or_compile
from lmmjax.precision import float64

home = importlib.import_module("lmmjax.core.estimate")
packed = home._packed.__wrapped__


class NoTrace:
    """In place of a jitted function that must not be traced again."""

    def lower(self, *args, **kwargs):
        raise AssertionError("traced again")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A compilation cache of this test's own; JAX's has what other tests compiled, which cannot be written again."""
    monkeypatch.setattr("lmmjax.core.executables.folder", lambda: tmp_path / "kept")
    before = jax.config.jax_compilation_cache_dir
    for folder in (str(tmp_path / "jax"), before):
        jax.config.update("jax_compilation_cache_dir", folder)
        compilation_cache.reset_cache()
        if folder != before:
            yield tmp_path / "kept"


def fit(jitted, name="vector 2"):
    """The packed fit of a small design by what `load_or_compile` gives, run."""
    with float64():
        args = cross_products(build(name, 0), orthonormal=True).without_rows(), True, None, None
        return np.asarray(load_or_compile(jitted, packed, None, "shapes", args, {})(*args))


def test_what_is_kept_needs_no_trace(place):
    first = fit(compiled(packed))
    assert len(list(place.iterdir())) == 1
    np.testing.assert_array_equal(fit(NoTrace()), first)


def test_a_damaged_file_is_compiled_again(place):
    first = fit(compiled(packed))
    (file,) = place.iterdir()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(AssertionError, match="traced again"):
        fit(NoTrace())
    np.testing.assert_array_equal(fit(compiled(packed)), first)


def test_a_folder_that_cannot_be_written_is_no_error(place):
    place.write_text("a file where the folder should be")
    assert np.isfinite(fit(compiled(packed))).all()


def test_calls_of_lapack_are_not_kept(place):
    fit(compiled(packed), "crossed")  # its dense rest is too large to be written out
    assert not place.exists()


def test_only_functions_that_their_name_describes_are_kept():
    assert keepable(packed)
    assert not keepable(lambda cp: cp)
    assert not keepable(test_what_is_kept_needs_no_trace)


def test_a_static_argument_without_a_stable_text_is_not_kept(place):
    jitted = compiled(packed)
    assert load_or_compile(jitted, packed, None, "<function f at 0x7f>", (), {}) is jitted
