"""A study's table is that of a plain loop, bit for bit the same however it was computed, stopped and gone on with."""

import errno
import json
import multiprocessing
import os
import pickle
import re
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import study_cases as cases
from numpy.testing import assert_allclose
from pandas.testing import assert_frame_equal

import lmmjax as lj
from lmmjax.study import work

pytest.importorskip("pyarrow", reason="needs the extra `study`")
KILLS = 20
identical = partial(assert_frame_equal, check_exact=True)


@cache
def undisturbed() -> pd.DataFrame:
    return cases.study().run()


def parts_of(store: Path) -> list[Path]:
    return sorted((store / "parts").glob("*.parquet"))


# ------------------------------------------------------------------------------------------------------ what it gives


def test_is_a_plain_loop() -> None:
    population = lj.designs.one_way(groups=6, size=4, sd=0.8, treatments=3, effect=1.0)
    columns = ["treatment[T.t2]", "treatment[T.t3]"]
    methods = ("wald", "satterthwaite", "kenward-roger")
    analyse = [lj.Estimates(), lj.Test(columns, "lrt"), lj.Test("(1 | group)", "lrt"), lj.Test("group", "mixture")]
    analyse += [f(method=m) for m in methods for f in (lj.Interval, partial(lj.Test, columns))]
    analyse += [lj.Interval("sigma", "profile")]
    table = lj.Study({"x": [0]}, lambda x: population, analyse, n=5, seed=3).run()

    def reported(sample: lj.Sample) -> dict:
        drawn.append(sample.responses)
        return {}

    drawn: list[np.ndarray] = []
    lj.Study({"x": [0]}, lambda x: population, reported, n=5, seed=3).run()
    for y, (_, row) in zip(drawn[0], table.iterrows(), strict=True):
        fit = lj.refit(population, y)
        ml = lj.lmer(fit.schema.formula, fit.schema.frame.assign(y=y), reml=False)
        smaller = lj.lmer("y ~ 1 + (1 | group)", fit.schema.frame.assign(y=y), reml=False)
        linear = lj.lm("y ~ treatment", fit.schema.frame.assign(y=y))
        assert_allclose(
            row[["estimate[Intercept]", *(f"estimate[{c}]" for c in columns)]].astype(float),
            fit.fixef,
            rtol=1e-6,
            atol=1e-9,
        )
        assert_allclose(
            row[["estimate[sd_Intercept|group]", "estimate[sigma]"]].astype(float),
            fit.varcorr["sdcor"],
            rtol=1e-5,
            atol=1e-6,
        )
        assert_allclose(row["se[Intercept]"], np.sqrt(fit.vcov.iloc[0, 0]), rtol=1e-6)
        for method in methods:
            ddf = None if method == "wald" else method
            place = f"{', '.join(columns)}, {method}"
            assert_allclose(row[f"p[{place}]"], lj.linear_test(fit, columns, ddf=ddf).p_value, rtol=1e-5)
            limits = lj.confint(fit, method="wald", ddf=ddf).loc["Intercept"]
            found = row[[f"lower[Intercept, {method}]", f"upper[Intercept, {method}]"]].astype(float)
            assert_allclose(found, limits, rtol=0, atol=1e-6)
            assert row[f"covers[Intercept, {method}]"] == (limits["lower"] <= 0 <= limits["upper"])
        assert_allclose(row[f"p[{', '.join(columns)}, lrt]"], lj.lrt(smaller, ml).p_value, rtol=1e-6)
        chisq = max(linear.deviance - ml.deviance, 0)
        from scipy.stats import chi2

        assert_allclose(row["p[(1 | group), lrt]"], chi2.sf(chisq, 1), rtol=1e-5)
        assert_allclose(row["p[group, mixture]"], chi2.sf(chisq, 1) / 2 if chisq > 1e-8 else 1, rtol=1e-5)
        assert_allclose(
            row[["lower[sigma, profile]", "upper[sigma, profile]"]].astype(float),
            lj.confint(fit, "sigma").iloc[0],
            rtol=1e-9,
        )


def test_simulated_tests_are_those_of_the_fit() -> None:
    """The exact test has one null distribution for all replicates; bootstraps draw from each one's own null fit."""
    population = lj.designs.one_way(groups=6, size=4, sd=0.5, treatments=2)
    found: list[np.ndarray] = []
    analyse = [
        lj.Test("group", "exact_rlrt", n=20_000),
        lj.Test("group", "bootstrap_lrt", n=400),
        lj.Test("treatment[T.t2]", "bootstrap_lrt", n=400),
        lambda sample: found.append(sample.responses) or {},
    ]
    table = lj.Study({"x": [0]}, lambda x: population, analyse, n=4, seed=1).run()
    for y, (_, row) in zip(found[0], table.iterrows(), strict=True):
        fit = lj.refit(population, y)
        data = fit.schema.frame.assign(y=y)
        exact = lj.exact_rlrt(fit, n=20_000, seed=5)
        assert abs(row["p[group, exact_rlrt]"] - exact.p_value) < 4 * 2**0.5 * max(exact.p_se, 1e-3)
        for name, null in (
            ("group", lj.lm("y ~ treatment", data)),
            ("treatment[T.t2]", lj.lmer("y ~ 1 + (1 | group)", data)),
        ):
            test = lj.bootstrap_lrt(null, fit, n=400, seed=9)
            assert abs(row[f"p[{name}, bootstrap_lrt]"] - test.p_value) < 4 * 2**0.5 * max(test.p_se, 1e-2)


def test_summary_says_what_numpy_says() -> None:
    study, table = cases.study(), undisturbed()
    found = study.summary(table).set_index(["scenario", "quantity", "measure"])
    part = table[table["scenario"] == 1]
    values = part["estimate[treatment[T.t2]]"]
    name = (1, "treatment[T.t2]")
    assert_allclose(found.loc[(*name, "bias"), "value"], values.mean() - 1.0)
    assert_allclose(found.loc[(*name, "rmse"), "value"], np.sqrt(np.mean((values - 1.0) ** 2)))
    half = 1.959964 * values.std() / np.sqrt(len(values))
    assert_allclose(
        found.loc[(*name, "mean"), ["lower", "upper"]].astype(float), values.mean() + np.array([-half, half]), rtol=1e-6
    )
    share = (part["p[treatment[T.t2], wald]"] <= 0.05).mean()
    assert found.loc[(1, "treatment[T.t2], wald", "p <= 0.05"), "value"] == share
    assert (found["n"] == cases.N).all()


def test_covariates_drawn_anew() -> None:
    """Against one fit after the other of the same designs."""
    population = lj.make_lmer(
        "y ~ x + (1 | g)",
        {"x": np.arange(24) % 3, "g": np.repeat(np.arange(6), 4)},
        {"Intercept": 0, "x": 0.5, "sd_Intercept|g": 1, "sigma": 1},
    )
    designs: list = []

    def kept(sample: lj.Sample) -> dict:
        designs.extend(sample.designs)
        return {}

    analyse = [lj.Estimates(), lj.Test("x", "kenward-roger"), lj.Test("x", "lrt"), kept]
    table = lj.Study({"slope": [0.5]}, lambda slope: population, analyse, n=6, seed=2, redraw=cases.redraw).run()
    assert len({d.X[:, 1].tobytes() for d in designs}) == 6
    for design, (_, row) in zip(designs, table.iterrows(), strict=True):
        data = pd.DataFrame({"y": design.y, "x": design.X[:, 1], "g": design.terms[0].codes})
        fit = lj.lmer("y ~ x + (1 | g)", data)
        assert_allclose(row["estimate[x]"], fit.fixef["x"], rtol=1e-6)
        assert_allclose(row["p[x, kenward-roger]"], lj.linear_test(fit, "x", ddf="kenward-roger").p_value, rtol=1e-5)
        assert_allclose(row["p[x, lrt]"], lj.lrt(lj.lmer("y ~ 1 + (1 | g)", data), fit).p_value, rtol=1e-5)
    with pytest.raises(lj.DataError, match="same covariates in every replicate"):
        lj.Study({"s": [0]}, lambda s: population, lj.Test("g", "bootstrap_lrt"), n=2, redraw=cases.redraw).run()


# ------------------------------------------------------------------------------------------- the same, however computed


def test_replicates_do_not_depend_on_their_number() -> None:
    longer = cases.study(n=cases.N + 30).run()
    first = longer[longer["replicate"] < cases.N].reset_index(drop=True)
    identical(first, undisturbed())


def test_a_store_holds_the_same_table(tmp_path: Path) -> None:
    identical(cases.study().run(store=tmp_path / "new" / "store"), undisturbed())
    written = {path: path.stat().st_mtime_ns for path in parts_of(tmp_path / "new" / "store")}
    identical(cases.study().run(store=tmp_path / "new" / "store"), undisturbed())
    assert written == {path: path.stat().st_mtime_ns for path in parts_of(tmp_path / "new" / "store")}
    assert len(written) == 2 * cases.N // cases.BLOCK


def test_status_from_another_process(tmp_path: Path) -> None:
    cases.study().run(store=tmp_path)
    for path in parts_of(tmp_path)[-3:]:
        path.unlink()
    code = f"import lmmjax as lj; print(lj.Study.status({str(tmp_path)!r}).to_json())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    status = pd.DataFrame(json.loads(out.stdout))
    assert status["done"].tolist() == [cases.N, cases.N - 3 * cases.BLOCK]
    assert status["n"].tolist() == [cases.N] * 2


def test_on_threads_and_processes() -> None:
    with ThreadPoolExecutor(2) as threads:
        identical(cases.study().run(executor=threads), undisturbed())
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as processes:
        identical(cases.study().run(executor=processes), undisturbed())


def test_killed_at_random_moments(tmp_path: Path) -> None:
    """SIGKILL to a process at a random moment after each of the four runs in it has written something more, until
    twenty runs were cut off before their end. A run that came to its end first loses half of its parts and begins anew.
    """
    server = multiprocessing.get_context("forkserver")  # imports once, and forks before JAX has threads
    server.set_forkserver_preload(["study_cases"])
    rng, killed, whole = np.random.default_rng(0), 0, 2 * cases.N // cases.BLOCK
    stores = [tmp_path / str(i) for i in range(4)]
    while killed < KILLS:
        before = [len(parts_of(store)) for store in stores]
        process = server.Process(target=cases.run_in, args=([str(store) for store in stores],))
        process.start()
        while process.is_alive() and any(len(parts_of(s)) <= b for s, b in zip(stores, before, strict=True)):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.join()
        for store, number in zip(stores, before, strict=True):
            assert len(parts_of(store)) > number  # what was there is there, and more
            killed += len(parts_of(store)) < whole
            if len(parts_of(store)) > whole - 4:
                for path in parts_of(store)[::2]:
                    path.unlink()
    for store in stores:
        identical(cases.study().run(store=store), undisturbed())
        assert not list(store.rglob("*.tmp"))


def test_a_worker_that_dies_is_replaced(tmp_path: Path) -> None:
    simulate = partial(cases.dies_once, marker=str(tmp_path / "died"))
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as processes:
        found = cases.study(simulate).run(executor=processes)
    assert (tmp_path / "died").exists()
    identical(found, undisturbed())


def test_workers_that_always_die_are_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "RETRIES", 1)
    study = cases.study(cases.always_dies, n=cases.BLOCK, scenarios={"sd": [1.0]})
    with (
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes,
        pytest.raises(work.WorkersLost, match="block 0 of scenario 0"),
    ):
        study.run(store=tmp_path, executor=processes)


def test_on_a_dask_cluster_that_loses_a_worker(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="needs distributed")
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sockets and event loops that close late
        with (
            distributed.LocalCluster(2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
            distributed.Client(cluster) as client,
        ):
            client.run(sys.path.append, str(Path(cases.__file__).parent))
            pids = list(client.run(os.getpid).values())
            with _killed_half_way(tmp_path, pids[0]):
                found = cases.study().run(store=tmp_path, executor=client.get_executor())
    identical(found, undisturbed())


@contextmanager
def _killed_half_way(store: Path, pid: int):
    """SIGKILL to a process when half of the parts are there."""
    from threading import Thread

    def watch() -> None:
        while len(parts_of(store)) < cases.N // cases.BLOCK:
            time.sleep(0.005)
        os.kill(pid, signal.SIGKILL)

    thread = Thread(target=watch)
    thread.start()
    yield
    thread.join()


# --------------------------------------------------------------------------------------------------- what goes wrong


def test_a_full_disk(tmp_path: Path) -> None:
    """The operating system refuses to write more than a few bytes."""
    undisturbed()
    study, limits = cases.study(), resource.getrlimit(resource.RLIMIT_FSIZE)
    study.run(store=tmp_path)
    lost = parts_of(tmp_path)[5:]
    for path in lost:
        path.unlink()
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="what was done before is kept") as caught:
            study.run(store=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert len(parts_of(tmp_path)) == 5
    assert not list(tmp_path.rglob("*.tmp"))
    identical(study.run(store=tmp_path), undisturbed())


def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=re.escape(str(tmp_path / "file"))):
        cases.study().run(store=tmp_path / "file" / "store")
    with pytest.raises(OSError, match="/proc/lmmjax"):  # where nobody can write, root neither
        cases.study().run(store="/proc/lmmjax")


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "of another scenario"])
def test_a_damaged_part_is_computed_again(tmp_path: Path, damage: str) -> None:
    cases.study().run(store=tmp_path)
    path, other = parts_of(tmp_path)[3], parts_of(tmp_path)[3 + cases.N // cases.BLOCK]
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    whole = path.read_bytes()
    path.write_bytes(
        {"flipped": bytes(content), "cut": whole[:-30], "empty": b"", "of another scenario": other.read_bytes()}[damage]
    )
    with pytest.warns(lj.StudyWarning, match=f"damaged part is computed again: .*{path.name}"):
        found = cases.study().run(store=tmp_path)
    identical(found, undisturbed())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"scenarios": {"sd": [0.0, 2.0]}}, "scenarios: number 1 is {'sd': 1.0} there, {'sd': 2.0} now"),
        ({"scenarios": {"sd": [0.0]}}, "scenarios: 2 there, 1 now"),
        ({"seed": 8}, "seed: 7 there, 8 now"),
        ({"n": 100}, "n: 240 there, 100 now"),
        ({"simulate": lambda sd: cases.one_way(sd)}, "simulate"),
    ],
)
def test_another_study_is_refused(tmp_path: Path, change: dict, named: str) -> None:
    cases.study().run(store=tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(lj.DataError, match=re.escape(named)):
        cases.study(**change).run(store=tmp_path)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


MEAN = 0.0


def of_a_global(sd: float) -> lj.Population:
    return lj.designs.paired(5, sd=sd, mean=MEAN)


def test_nothing_is_remembered_from_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A global that a function reads has another value: the table is another, and the store refuses it."""
    call = {"scenarios": {"sd": [1.0]}, "simulate": of_a_global, "analyse": lj.Estimates(), "n": 30}
    first, store = lj.Study(**call).run()["estimate[Intercept]"], tmp_path / "store"
    lj.Study(**call).run(store=store)
    monkeypatch.setitem(globals(), "MEAN", 100.0)
    assert_allclose(lj.Study(**call).run()["estimate[Intercept]"], first + 100)
    with pytest.raises(lj.DataError, match="differs in 'simulate'"):
        lj.Study(**call).run(store=store)


def test_identity_of_fits_is_all_that_replicates_depend_on() -> None:
    from lmmjax.study.identity import identity

    g = np.repeat(np.arange(6), 3)
    data = pd.DataFrame({"g": g, "t": np.tile(np.arange(3), 6), "x": np.arange(18.0)})
    given = {"Intercept": 0, "x": 1, "sd_Intercept|g": 1, "sigma": 1}
    kin = pd.DataFrame(np.eye(6) + 0.3 * (1 - np.eye(6)), range(6), range(6))
    slopes = given | {"sd_x|g": 1}
    made = [
        lj.make_lmer("y ~ x + (1 | g)", data, given),
        lj.make_lmer("y ~ x + (1 | g)", data, given | {"sigma": 2}),
        lj.make_lmer("y ~ x + (1 | g)", data, given, reml=False),
        lj.make_lmer("y ~ x + (1 | g)", data.assign(x=data["x"] ** 2), given),
        lj.make_lmer("y ~ x + (1 | g)", data, given, weights=np.arange(1, 19)),
        lj.make_lmer("y ~ x + (1 | g)", data, given, relmat={"g": kin}),
        lj.make_lmer("y ~ x + (1 | g)", data, given, relmat={"g": kin**2}),
        lj.make_lmer("y ~ x + (1 | g)", data, given | {"Phi|g": 0.5}, residual=lj.ar1("t", "g")),
        lj.make_lmer(
            "y ~ x + (1 | g)", data.assign(t=2 - data["t"] % 2), given | {"Phi|g": 0.5}, residual=lj.car1("x", "g")
        ),
        lj.make_lmer("y ~ x + (x | g)", data, slopes),
        lj.make_lmer("y ~ x + (x || g)", data, slopes),
    ]
    assert len(set(map(identity, made))) == len(made)
    again = lj.make_lmer("y ~ x + (1 | g)", data, given, seed=9)  # the response that it holds does not matter
    assert identity(again) == identity(made[0])
    assert identity(pickle.loads(pickle.dumps(made[5]))) == identity(made[5])


def test_estimates_without_a_truth() -> None:
    def own(sample: lj.Sample) -> dict:
        return {"estimate[icc]": sample.estimates.theta[:, 0]}

    study = lj.Study({"sd": [1.0]}, cases.one_way, own, n=20)
    table = study.run()
    found = study.summary(table).set_index("measure")
    assert found.loc["mean", "value"] == table["estimate[icc]"].mean()
    assert "bias" not in found.index


def test_folders_that_are_no_store(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(lj.DataError, match="holds other files"):
        cases.study().run(store=tmp_path)
    with pytest.raises(lj.DataError, match="holds no study"):
        lj.Study.status(tmp_path)
    with pytest.raises(lj.DataError, match="no folder"):
        lj.Study.status(tmp_path / "nowhere")
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(lj.DataError, match="damaged"):
        cases.study().run(store=tmp_path)


def test_a_scenario_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    study = cases.study(scenarios={"sd": [0.0, -1.0, 1.0]})
    for executor in (None, ThreadPoolExecutor(2)):
        with pytest.warns(
            lj.StudyWarning, match=r"1 scenario of 3 failed; number 1 \(sd=-1.0\): DataError: sd_Intercept"
        ):
            found = study.run(store=tmp_path, executor=executor)
        assert sorted(found["scenario"].unique()) == [0, 2]
        assert "no standard deviation" in found.attrs["errors"][1]
        assert "no standard deviation" in lj.Study.status(tmp_path)["error"][1]
        assert lj.Study.status(tmp_path)["done"].tolist() == [cases.N, 0, cases.N]
    with pytest.raises(lj.DataError, match="every scenario failed; the first: DataError"):
        cases.study(scenarios={"sd": [-1.0, -2.0]}).run()
    with pytest.raises(lj.DataError, match="^DataError: sd_Intercept"):
        cases.study(scenarios={"sd": [-1.0]}).run()


class _Refusing(Executor):
    def submit(self, fn, /, *args, **kwargs) -> Future:
        raise RuntimeError("cannot schedule new futures after shutdown")


def test_executors_that_cannot_be_used() -> None:
    with (
        ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as forking,
        pytest.raises(ValueError, match="spawn"),
    ):
        cases.study().run(executor=forking)
    with pytest.raises(work.WorkersLost, match="takes no more work"):
        cases.study().run(executor=_Refusing())
    with (
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes,
        pytest.raises(TypeError, match="top of a module"),
    ):
        cases.study(lambda sd: cases.one_way(sd)).run(executor=processes)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"scenarios": {}}, lj.DataError, "a row for each"),
        ({"scenarios": pd.DataFrame({"sd": []})}, lj.DataError, "a row for each"),
        ({"scenarios": {"replicate": [1]}}, lj.DataError, "cannot be called 'replicate'"),
        ({"n": 0}, ValueError, "n=0"),
        ({"block": -1}, ValueError, "block=-1"),
        ({"seed": 1.5}, TypeError, "seed=1.5"),
        ({"simulate": 3}, ValueError, "something to analyse"),
    ],
)
def test_bad_studies(arguments: dict, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        cases.study(**arguments)


@pytest.mark.parametrize(
    ("analysis", "text"),
    [
        (lj.Test("sd", "wald"), "sd"),
        (lj.Test("group", "wald"), "a random term is tested by"),
        (lj.Test("treatment[T.t2]", "exact_rlrt"), "none called"),
        (lj.Interval("sigma"), "method='profile' or 'boot'"),
        (lj.Interval("nothing"), "no parameter 'nothing'"),
        (lambda sample: {"short": np.zeros(1)}, "one value for each replicate"),
        (lambda sample: {"converged": sample.ok}, "comes twice"),
    ],
)
def test_bad_analyses(analysis, text: str) -> None:
    with pytest.raises(lj.DataError, match=text):
        lj.Study({"sd": [1.0]}, cases.one_way, analysis, n=3).run()
    with pytest.raises(ValueError, match="choose one of"):
        lj.Test("x", "magic")
