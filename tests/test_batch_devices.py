"""One batch on several devices and in several processes: the same random numbers, the same fits, the whole result.

Four devices are forced on the CPU in a new process; two processes meet on the loopback interface.
"""

import os
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest
from batch_checks import CONVERGED
from patsy import EvalEnvironment

import lmmjax as lj
from lmmjax.formula import build

# By data set: formula, true θ, β and σ, and a number of responses that is no multiple of two or four.
MODELS = {
    "pulp": ("bright ~ 1 + (1|operator)", [0.5], [60.0], 0.3, 1003),
    "sleepstudy": ("Reaction ~ Days + (Days|Subject)", [0.9, 0.1, 0.2], [250.0, 10.0], 25.0, 11),
    "Penicillin": ("diameter ~ 1 + (1|plate) + (1|sample)", [1.5, 3.5], [23.0], 0.55, 3),
}
ALL, ONE = tuple(MODELS), ("sleepstudy",)
GAPS = "pulp"  # where one response has gaps, and one fails
TOLERANCES = {"criterion": 1e-10, "beta": 1e-8, "sigma": 1e-8, "theta": 1e-5, "kept": 1e-5}
LIMIT = 300  # seconds for a process
TESTS = Path(__file__).resolve().parent


def work(names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Responses and fits of some of the models."""
    arrays = {"devices": np.array(len(jax.devices())), "local": np.array(len(jax.local_devices()))}
    for name in names:
        formula, theta, beta, sigma, n = MODELS[name]
        _, design = build(formula, lj.datasets.load(name), env=EvalEnvironment.capture())
        truth = np.array(theta), np.array(beta), sigma
        Y = np.array(lj.core.simulate(design, *truth, jax.random.key(3), n))
        arrays[f"{name}.Y"] = Y.copy()
        if name == GAPS:
            Y[1, :2], Y[-1, 4] = np.nan, np.inf
        cp = lj.core.cross_products(design, orthonormal=True)
        # Small chunks: several rounds over the devices for the longest batch, the last one incomplete.
        found = lj.core.estimate_many(cp, Y, keep=_sum_of_squares, memory=2**18)
        for key in ("theta", "beta", "sigma", "criterion", "status", "kept"):
            arrays[f"{name}.{key}"] = np.asarray(getattr(found, key))
    return arrays


def _sum_of_squares(e: lj.core.Estimate):
    return sum((u**2).sum() for u in e.u)


def child(out: str, names: tuple[str, ...], rank: int = 0, processes: int = 1, address: str = "") -> None:
    """What a new process runs: `work`, saved in the file `out`."""
    if processes > 1:
        jax.distributed.initialize(address, processes, rank)
    with lj.float64():
        np.savez(out, **work(names))


@cache
def one_device() -> dict[str, np.ndarray]:
    """`work` in this process."""
    with lj.float64():
        found = work(ALL)
    assert found["devices"] == 1
    return found


def start(out: Path, devices: int, names: tuple[str, ...], rank: int = 0, *others: object) -> subprocess.Popen:
    """A new process on so many devices of its own."""
    cache_folder = Path(os.environ.get("JAX_COMPILATION_CACHE_DIR", out.parent)) / f"devices-{devices}-{rank}"
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}".strip()
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_COMPILATION_CACHE_DIR": str(cache_folder)}
    code = f"import test_batch_devices as t; t.child{(str(out), names, rank, *others)!r}"
    path = os.pathsep.join([str(TESTS), str(TESTS.parent), *filter(None, [env.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**env, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(processes: list[subprocess.Popen], outs: list[Path]) -> list[dict[str, np.ndarray]]:
    """What they saved; a process that fails or hangs fails the test, with its error text."""
    try:
        texts = [process.communicate(timeout=LIMIT) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, error) in zip(processes, texts, strict=True):
        assert process.returncode == 0, error
    return [dict(np.load(out)) for out in outs]


@pytest.fixture(scope="module")
def four_devices(tmp_path_factory) -> dict[str, np.ndarray]:
    """`work` on four devices of one process."""
    out = tmp_path_factory.mktemp("devices") / "four.npz"
    return finish([start(out, 4, ALL)], [out])[0]


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> list[dict[str, np.ndarray]]:
    """`work` in two processes that know of each other, each with its whole result, two devices each."""
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    outs = [folder / f"{rank}.npz" for rank in range(2)]
    return finish([start(out, 2, ONE, rank, 2, address) for rank, out in enumerate(outs)], outs)


def of_model(arrays: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """The arrays of one model."""
    return {key.split(".")[1]: value for key, value in arrays.items() if key.startswith(f"{name}.")}


def assert_same_fits(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], name: str) -> None:
    """To 1e-10 in the criterion, with the same failures; what has a flat minimum to fewer digits."""
    found, expected = (
        {k.split(".")[1]: v for k, v in a.items() if k.startswith(f"{name}.")} for a in (found, expected)
    )
    np.testing.assert_array_equal(found["status"], expected["status"])
    good = expected["status"] == CONVERGED
    assert good.sum() == len(good) - (name == GAPS)
    for key, tolerance in TOLERANCES.items():
        assert found[key].shape == expected[key].shape
        actual, wanted = found[key][good], expected[key][good]
        np.testing.assert_array_less(np.abs(actual - wanted), tolerance * np.maximum(1, np.abs(wanted)))


@pytest.mark.parametrize("name", ALL)
def test_random_numbers_are_the_same_on_four_devices(name, four_devices):
    assert four_devices["devices"] == 4
    np.testing.assert_array_equal(four_devices[f"{name}.Y"], one_device()[f"{name}.Y"])


@pytest.mark.parametrize("name", ALL)
def test_fits_are_the_same_on_four_devices(name, four_devices):
    assert_same_fits(four_devices, one_device(), name)


@pytest.mark.parametrize("name", ONE)
def test_both_of_two_processes_end_with_the_whole_result(name, two_processes):
    first, second = two_processes
    assert (first["devices"], first["local"]) == (4, 2)
    for key in first:
        if key.startswith(name):
            np.testing.assert_array_equal(first[key], second[key])
    np.testing.assert_array_equal(first[f"{name}.Y"], one_device()[f"{name}.Y"])
    assert_same_fits(first, one_device(), name)
