"""The border of the package: float64 inside, NumPy and pandas outside, and a JAX configuration left as it was."""

import dataclasses
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import references
from catalogue import dataset
from numpy.testing import assert_allclose, assert_array_equal

import lmmjax as lj

FORMULA = "Reaction ~ Days + (Days|Subject)"


@cache
def slopes() -> lj.Fit:
    """The model with correlated intercepts and slopes."""
    return lj.lmer(FORMULA, dataset("bundled", "sleepstudy"))


# -------------------------------------------------------------------------------------------------- what comes out


def public(fit: lj.Fit) -> dict:
    """Everything that a fit gives, by name."""
    names = [name for name in dir(fit) if not name.startswith("_")]
    values = {name: getattr(fit, name) for name in names}
    calls = {name: v() for name, v in values.items() if callable(v)}
    return values | calls | {"variances": fit.ranef(cond_var=True).cond_var}


def leaves(value):
    """The arrays, numbers and texts that a value is made of."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from leaves(getattr(value, field.name))
    elif isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, pd.DataFrame):
        for name in value:
            yield from value[name]
    elif isinstance(value, pd.Series):
        yield from value
    else:
        yield value


MODELS = {
    "slopes": FORMULA,
    "crossed": "diameter ~ 1 + (1|plate) + (1|sample)",
    "nested": "strength ~ 1 + (1|batch/cask)",
    "singular": "Yield ~ 1 + (1|Batch)",
    "no term": "bright ~ 1",
}
DATA = dict(zip(MODELS, ["sleepstudy", "Penicillin", "Pastes", "Dyestuff2", "pulp"], strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_nothing_of_jax_comes_out(name):
    fit = (lj.lmer if "|" in MODELS[name] else lj.lm)(MODELS[name], dataset("bundled", DATA[name]))
    for fit_ in (fit, lj.refit(fit, fit.design.y + np.arange(fit.nobs) % 5)):
        found = public(fit_)
        assert {"theta", "fixef", "ranef", "cross_products", "estimate", "certificate", "summary"} <= set(found)
        for key, value in found.items():
            for leaf in [*leaves(value), *jax.tree.leaves(value)]:
                assert not isinstance(leaf, jax.Array), key
    drawn = lj.simulate(fit, 2, seed=1)
    assert type(drawn) is np.ndarray


def test_arrays_are_float64_and_tables_are_pandas():
    fit = slopes()
    for array in (fit.theta, fit.fitted, fit.resid(), fit.predict(), lj.simulate(fit), *fit.templates):
        assert type(array) is np.ndarray
        assert array.dtype == np.float64
    assert type(fit.fixef) is pd.Series
    assert {type(t) for t in (fit.vcov, fit.varcorr, fit.ranef()["Subject"], fit.coef()["Subject"])} == {pd.DataFrame}
    assert {type(v) for v in (fit.sigma, fit.deviance, fit.reml_criterion)} == {float}
    assert type(fit.is_singular) is type(fit.converged) is bool
    assert isinstance(fit.loglik, float)
    floats = [
        a for a in jax.tree.leaves((fit.design, fit.cross_products, fit.estimate)) if np.result_type(a).kind == "f"
    ]
    assert {np.result_type(a) for a in floats} == {np.dtype(np.float64)}


# ----------------------------------------------------------------------------------------- the caller's configuration

CONFIGURATION = """
import jax
before = dict(jax.config.values)
import lmmjax as lj
data = lj.datasets.load("sleepstudy")
fit = lj.lmer("Reaction ~ Days + (1|Subject)", data)
fit.summary(), fit.certificate, fit.ranef(cond_var=True), fit.predict(data)
lj.refit(fit, lj.simulate(fit, 2)[0])
with lj.float64():
    pass
try:
    lj.lmer("Reaction ~ Days + (1|Subject)", data, theta=[1, 2])
except lj.DataError:
    pass
after = dict(jax.config.values)
assert jax.numpy.ones(1).dtype == "float32", "x64 was left on"
assert before["jax_enable_x64"] is False
print({k: (before[k], after[k]) for k in before if before[k] != after[k]}, len(before) > 50)
"""


def run(code: str, *arguments: str) -> str:
    """Output of a fresh Python process at the root of the repository."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.check_output(command, text=True, cwd=references.ROOT, timeout=300).strip()


def test_configuration_is_left_alone():
    assert run(CONFIGURATION) == "{} True"


def test_precision_of_the_caller_does_not_matter():
    assert jnp.ones(1).dtype == np.float32
    data = dataset("bundled", "sleepstudy")
    with jax.enable_x64(True):
        fit = lj.lmer(FORMULA, data)
        drawn = lj.simulate(fit, 2, seed=4)
        assert jnp.ones(1).dtype == np.float64
    assert jnp.ones(1).dtype == np.float32
    assert_array_equal(fit.theta, slopes().theta)
    assert_array_equal(drawn, lj.simulate(slopes(), 2, seed=4))
    assert fit.loglik == slopes().loglik
    with jax.enable_x64(True):
        assert_array_equal(lj.refit(slopes(), fit.design.y).theta, lj.lmer(FORMULA, data).theta)


def test_an_error_inside_restores_the_precision():
    with pytest.raises(lj.DataError):
        lj.lmer(FORMULA, dataset("bundled", "sleepstudy"), theta=[1.0])
    assert jnp.ones(1).dtype == np.float32


@pytest.mark.parametrize("enabled", [False, True])
def test_new_thread(enabled):
    """A new thread inherits nothing of the caller's precision."""
    found = {}

    def work():
        found["fit"] = lj.lmer(FORMULA, dataset("bundled", "sleepstudy"))
        found["drawn"] = lj.simulate(found["fit"], 1, seed=2)
        found["summary"] = str(found["fit"])
        found["certificate"] = found["fit"].certificate
        found["dtype"] = jnp.ones(1).dtype

    with jax.enable_x64(enabled):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert found["dtype"] == np.float32
    assert_array_equal(found["fit"].theta, slopes().theta)
    assert_array_equal(found["drawn"], lj.simulate(slopes(), 1, seed=2))
    assert found["summary"] == str(slopes())
    assert found["certificate"].optimal


def test_float64_is_a_context_for_research_code():
    fit = slopes()
    with lj.float64():
        cp = lj.core.cross_products(fit.design)
        value = lj.core.criterion(jnp.asarray(fit.theta), cp, True)
        assert value.dtype == np.float64
        gradient = jax.grad(lj.core.criterion)(jnp.asarray(fit.theta), cp, True)
        assert_allclose(gradient, 0, atol=1e-4)
    assert float(value) == pytest.approx(fit.reml_criterion, rel=1e-12)
    assert jnp.ones(1).dtype == np.float32


def test_core_says_when_precision_is_lost():
    with pytest.warns(lj.PrecisionWarning):
        lj.core.cross_products(slopes().design.replace(X=jnp.asarray(slopes().design.X, jnp.float32)))


# -------------------------------------------------------------------------------------------------- the package's names


def test_names_of_the_package():
    assert set(lj.__all__) <= set(dir(lj))
    for name in lj.__all__:
        assert getattr(lj, name) is getattr(lj, name)
    for name in ("lmer", "lm", "refit", "simulate", "Fit", "core", "datasets", "enable_compilation_cache", "float64"):
        assert name in lj.__all__
    assert len(set(lj.__all__)) == len(lj.__all__)


def test_unknown_names():
    with pytest.raises(AttributeError, match="module 'lmmjax' has no attribute 'lmerr'"):
        lj.lmerr  # noqa: B018
    with pytest.raises(ImportError, match="lmerr"):
        from lmmjax import lmerr  # noqa: F401


def test_names_load_lazily():
    code = """
import sys, lmmjax
assert not {"jax", "pandas", "patsy", "numpy"} & set(sys.modules), "import lmmjax is not light"
lmmjax.lmer
print("jax" in sys.modules, "numpyro" in sys.modules)
"""
    assert run(code) == "True False"


CACHE = """
import sys
from pathlib import Path
import lmmjax as lj
folder = lj.enable_compilation_cache(sys.argv[1])
assert folder == Path(sys.argv[1]), folder
print(lj.lmer("bright ~ 1 + (1|operator)", lj.datasets.load("pulp")).sigma)
"""


def test_compilation_cache(tmp_path, monkeypatch):
    for variable in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.delenv(variable, raising=False)
    folder = tmp_path / "not yet" / "there"
    first = run(CACHE, str(folder))
    kept = {p.name for p in (folder / "lmmjax").iterdir()}
    assert len(kept) == 1
    assert run(CACHE, str(folder)) == first
    assert {p.name for p in (folder / "lmmjax").iterdir()} == kept


def test_compilation_cache_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    folder = Path(run("import lmmjax; print(lmmjax.enable_compilation_cache())"))
    assert folder.is_dir()
    assert tmp_path in folder.parents
