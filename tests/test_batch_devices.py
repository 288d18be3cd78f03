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

import lmmjax as lj

# By data set: formula and number of responses, none a multiple of two or four.
MODELS = {
    "pulp": ("bright ~ 1 + (1|operator)", 1003),
    "sleepstudy": ("Reaction ~ Days + (Days|Subject)", 11),
    "Penicillin": ("diameter ~ 1 + (1|plate) + (1|sample)", 3),
}
ALL, ONE = tuple(MODELS), ("sleepstudy",)
GAPS = "pulp"  # where one response has gaps, and one fails
TOLERANCES = {"criterion": 1e-10, "beta": 1e-8, "sigma": 1e-8, "theta": 1e-5, "vcov": 1e-7}
LIMIT = 300  # seconds for a process
TESTS = Path(__file__).resolve().parent


def work(names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Responses and fits of some of the models."""
    arrays = {"devices": np.array(len(jax.devices())), "local": np.array(len(jax.local_devices()))}
    for name in names:
        formula, n = MODELS[name]
        fit = lj.lmer(formula, lj.datasets.load(name))
        arrays[f"{name}.Y"] = Y = lj.simulate(fit, n, seed=3)
        if name == GAPS:
            Y = np.array(Y)
            Y[1, :2], Y[-1, 4] = np.nan, np.inf
        # Small chunks: several rounds over the devices for the longest batch, the last one incomplete.
        batch = lj.refit_many(fit, Y, keep=_sum_of_squares, memory=2**18)
        parts = {"theta": batch.theta, "beta": batch.beta, "sigma": batch.sigma, "criterion": batch.criterion}
        parts |= {"status": batch.status, "kept": batch.estimates.kept}
        if name == "sleepstudy":
            parts["vcov"] = batch.vcov
        arrays |= {f"{name}.{key}": np.asarray(value) for key, value in parts.items()}
    return arrays


def _sum_of_squares(e):
    return sum((u**2).sum() for u in e.u)


def child(out: str, names: tuple[str, ...], rank: int = 0, processes: int = 1, address: str = "") -> None:
    """What a new process runs: `work`, saved in the file `out`."""
    if processes > 1:
        jax.distributed.initialize(address, processes, rank)
    np.savez(out, **work(names))


@cache
def one_device() -> dict[str, np.ndarray]:
    """`work` in this process."""
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
        if key not in expected:
            continue
        assert found[key].shape == expected[key].shape
        actual, wanted = found[key][good], expected[key][good]
        np.testing.assert_array_less(np.abs(actual - wanted), tolerance * np.maximum(1, np.abs(wanted)))
    np.testing.assert_allclose(found["kept"][good], expected["kept"][good], rtol=1e-5, atol=1e-6)


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
