"""refit_many above the arrays: tables, Wald tests, failures, and the closed forms of the balanced one-way layout."""

import signal
from functools import cache

import jax
import numpy as np
import pandas as pd
import pytest
import references
from batch_checks import CONVERGED, FIXED, assert_same_criterion
from core_cases import close
from scipy import stats

import lmmjax as lj

by_both = pytest.mark.parametrize("reml", [True, False])


@pytest.fixture(scope="module", params=[True, False], ids=["REML", "ML"])
def sleep(request) -> tuple["lj.Fit", np.ndarray]:
    """sleepstudy with random slopes, and eight responses simulated from it."""
    fit = lj.lmer("Reaction ~ Days + (Days|Subject)", lj.datasets.load("sleepstudy"), reml=request.param)
    return fit, lj.simulate(fit, 8, seed=1)


@pytest.fixture(scope="module")
def sleep_batch(sleep) -> "lj.BatchFit":
    """All of them refitted at once."""
    return lj.refit_many(*sleep)


def test_refit_many_is_a_loop_of_refit(sleep, sleep_batch):
    fit, Y = sleep
    loop = [lj.refit(fit, y) for y in Y]
    assert_same_criterion(sleep_batch.criterion, np.array([-2 * f.loglik for f in loop]))
    close(sleep_batch.theta, np.stack([f.theta for f in loop]), 1e-5)
    close(sleep_batch.beta, np.stack([f.fixef for f in loop]), 1e-7)
    close(sleep_batch.sigma, np.stack([f.sigma for f in loop]), 1e-6)
    close(sleep_batch.vcov, np.stack([f.vcov for f in loop]), 1e-5)
    assert sleep_batch.vcov.shape == (8, 2, 2)
    assert sleep_batch.n_failed == 0


def test_the_callers_precision_is_no_matter(sleep, sleep_batch):
    fit, Y = sleep
    with jax.enable_x64(False):
        found = lj.refit_many(fit, Y)
        np.testing.assert_array_equal(found.criterion, sleep_batch.criterion)
        for array in (found.theta, found.beta, found.sigma, found.criterion, found.vcov):
            assert isinstance(array, np.ndarray)
            assert array.dtype == np.float64
        assert isinstance(found.status, np.ndarray)


def test_refit_many_of_a_linear_model():
    data = lj.datasets.load("sleepstudy")
    fit = lj.lm("Reaction ~ Days", data)
    Y = lj.simulate(fit, 5, seed=2)
    found, single = lj.refit_many(fit, Y), [lj.refit(fit, y) for y in Y]
    assert found.theta.shape == (5, 0)
    assert found.n_failed == 0
    close(found.beta, np.stack([f.fixef for f in single]), 1e-10)
    close(found.vcov, np.stack([f.vcov for f in single]), 1e-10)


def test_a_given_theta_stays():
    """As in `refit`."""
    data = lj.datasets.load("pulp")
    fit = lj.lmer("bright ~ 1 + (1|operator)", data, theta=[0.7])
    Y = lj.simulate(fit, 5, seed=3)
    found, single = lj.refit_many(fit, Y), [lj.refit(fit, y) for y in Y]
    np.testing.assert_array_equal(found.theta, np.full((5, 1), 0.7))
    assert_same_criterion(found.criterion, np.array([-2 * f.loglik for f in single]))
    assert np.all(found.status == FIXED)
    assert found.n_failed == 0


def test_responses_of_another_length_are_refused(sleep):
    fit, Y = sleep
    for wrong in (Y[:, 1:], Y[0], Y[None]):
        with pytest.raises(lj.DataError, match="shape"):
            lj.refit_many(fit, wrong)


def test_a_memmap_of_responses(sleep, sleep_batch, tmp_path):
    fit, Y = sleep
    mapped = np.memmap(tmp_path / "y", np.float64, "w+", shape=Y.shape)
    mapped[:] = Y
    found = lj.refit_many(fit, mapped, memory=2**16)
    assert_same_criterion(found.criterion, sleep_batch.criterion, 1e-10)
    close(found.vcov, sleep_batch.vcov, 1e-7)


def test_silent_unless_asked(sleep, capfd):
    fit, Y = sleep
    lj.refit_many(fit, Y)
    assert capfd.readouterr() == ("", "")
    lj.refit_many(fit, Y, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "100%" in err


# Wald tests and Benjamini–Hochberg


def wald(batch: "lj.BatchFit", L: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Statistics (Lβ)ᵀ(L V Lᵀ)⁻¹ Lβ and their χ² p-values, one response after the other."""
    L = np.atleast_2d(L)
    values = [(L @ b) @ np.linalg.solve(L @ v @ L.T, L @ b) for b, v in zip(batch.beta, batch.vcov, strict=True)]
    return np.array(values), stats.chi2.sf(values, len(L))


@pytest.mark.parametrize("L", [[0.0, 1.0], [[0.0, 1.0]], [[1.0, -25.0], [0.0, 1.0]]])
def test_wald_tests(sleep_batch, L):
    found = sleep_batch.test(np.array(L))
    statistic, p = wald(sleep_batch, np.array(L))
    assert list(found.columns) == ["statistic", "df", "ddf", "p", "p_adjusted"]
    assert np.all(np.isinf(found["ddf"]))
    np.testing.assert_allclose(found["statistic"], statistic, rtol=1e-9)
    assert np.all(found["df"] == len(np.atleast_2d(L)))
    np.testing.assert_allclose(found["p"], p, rtol=1e-9)
    np.testing.assert_allclose(found["p_adjusted"], stats.false_discovery_control(p, method="bh"), rtol=1e-9)


def test_wald_tests_on_residual_degrees_of_freedom(sleep, sleep_batch):
    """A response with gaps has fewer."""
    fit, Y = sleep
    Y = np.array(Y)
    Y[3, :20] = np.nan
    L = np.array([[1.0, -25.0], [0.0, 1.0]])
    batch = lj.refit_many(fit, Y)
    found, (statistic, _) = batch.test(L, ddf="residual"), wald(batch, L)
    ddf = np.where(np.arange(8) == 3, 158, 178)
    np.testing.assert_array_equal(found["ddf"], ddf)
    np.testing.assert_allclose(found["p"], stats.f.sf(statistic / 2, 2, ddf), rtol=1e-9)
    with pytest.raises(ValueError, match="ddf"):
        batch.test(L, ddf="between")


@pytest.mark.parametrize("ddf", ["satterthwaite", "kenward-roger"])
def test_each_response_has_its_own_degrees_of_freedom(sleep, ddf):
    """As `linear_test` of each refit; where rows are missing too."""
    fit, Y = sleep
    Y = np.array(Y)
    Y[3, :7] = np.nan
    there = ~np.isnan(Y[3])
    batch = lj.refit_many(fit, Y)
    if ddf == "kenward-roger" and not fit.reml:
        with pytest.raises(lj.DataError, match="needs a REML fit"):
            batch.test("Days = 9", ddf=ddf)
        return
    found = batch.test("Days = 9", ddf=ddf)
    data = lj.datasets.load("sleepstudy").assign(Reaction=Y[3])[there]
    one_alone = lj.lmer("Reaction ~ Days + (Days | Subject)", data, reml=fit.reml)
    loop = [lj.refit(fit, Y[0]), lj.refit(fit, Y[5]), one_alone]
    for i, one in zip((0, 5, 3), loop, strict=True):
        test = lj.linear_test(one, "Days = 9", ddf=ddf)
        expected = [test.statistic, test.df, test.ddf, test.p_value]
        np.testing.assert_allclose(found.loc[i, ["statistic", "df", "ddf", "p"]], expected, rtol=1e-6)


def test_a_response_without_a_level_of_a_factor_has_no_fit(sleep):
    """Its columns of X depend on each other there."""
    _, Y = sleep
    data = lj.datasets.load("sleepstudy").assign(late=lambda d: (d.Days > 6).astype(str))
    fit = lj.lmer("Reaction ~ late + (1 | Subject)", data)
    Y = np.array(Y)
    Y[2, data["late"] == "True"] = np.nan
    found = lj.refit_many(fit, Y)
    np.testing.assert_array_equal(np.flatnonzero(~found.converged), [2])
    assert found.test("late[T.True]", ddf="satterthwaite")["p"].isna().sum() == 1


def test_a_contrast_by_the_name_of_a_column(sleep_batch):
    pd.testing.assert_frame_equal(sleep_batch.test("Days"), sleep_batch.test([0.0, 1.0]))
    with pytest.raises(lj.DataError, match="Nights"):
        sleep_batch.test("Nights")


def test_failures_are_counted_and_left_out_of_the_adjustment(sleep):
    """A constant response is explained exactly, which `lmer` refuses; here it is a failure like any other."""
    fit, Y = sleep
    Y = np.array(Y)
    Y[1], Y[4], Y[6] = 250.0, np.nan, 10 * fit.design.X[:, 1]
    found = lj.refit_many(fit, Y)
    bad = np.isin(np.arange(8), [1, 4, 6])
    assert found.n_failed == 3
    np.testing.assert_array_equal(found.status != CONVERGED, bad)
    table = found.test(np.array([0.0, 1.0]))
    assert len(table) == 8
    assert table["p"][bad].isna().all()
    assert table["p_adjusted"][bad].isna().all()
    adjusted = stats.false_discovery_control(table["p"][~bad], method="bh")
    np.testing.assert_allclose(table["p_adjusted"][~bad], adjusted, rtol=1e-12)


# ------------------------------------------------------------------------------- the balanced one-way layout: pulp

LEVELS_OF_PULP, PER_LEVEL, DRAWS = 4, 5, 100_000


@pytest.fixture(scope="module")
def null_draws() -> np.ndarray:
    """Responses of pulp without an operator effect, (DRAWS, 20)."""
    return lj.simulate(lj.lm("bright ~ 1", lj.datasets.load("pulp")), DRAWS, seed=5)


def one_way(Y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of squares between and within operators of every response."""
    groups = Y.reshape(-1, LEVELS_OF_PULP, PER_LEVEL)
    means = groups.mean(-1)
    between = PER_LEVEL * np.sum((means - means.mean(1, keepdims=True)) ** 2, -1)
    return between, np.sum((groups - means[..., None]) ** 2, (1, 2))


def pulp(reml: bool) -> "lj.Fit":
    """The model with an operator effect."""
    return lj.lmer("bright ~ 1 + (1|operator)", lj.datasets.load("pulp"), reml=reml)


def f_of(between: np.ndarray, within: np.ndarray) -> np.ndarray:
    """F statistics of the operators."""
    a, r = LEVELS_OF_PULP, PER_LEVEL
    return between / within * a * (r - 1) / (a - 1)


@by_both
def test_every_null_estimate_has_its_closed_form(reml, null_draws):
    """θ̂² = (F/F₀ − 1)/r, zero below F₀ = 1 (REML) or a/(a − 1) (ML): 70.1% and 58.2% of the draws."""
    a, r = LEVELS_OF_PULP, PER_LEVEL
    found = lj.refit_many(pulp(reml), null_draws)
    f, critical = f_of(*one_way(null_draws)), 1 if reml else a / (a - 1)
    assert np.all(found.status == CONVERGED)
    np.testing.assert_allclose(found.theta[:, 0] ** 2, np.maximum(0, f / critical - 1) / r, rtol=1e-6, atol=1e-7)
    sure = np.abs(f / critical - 1) > 1e-6
    np.testing.assert_array_equal(found.theta[sure, 0] < 1e-6, f[sure] < critical)
    share = stats.f(a - 1, a * (r - 1)).cdf(critical)
    assert share == pytest.approx(0.58176 if reml else 0.70148, abs=1e-5)
    zeros = np.mean(found.theta[:, 0] < 1e-6)
    assert abs(zeros - share) < 4 * np.sqrt(share * (1 - share) / DRAWS)


def test_the_null_distribution_of_the_likelihood_ratio(null_draws):
    """A monotone function of F, draw by draw and as a distribution: F from the statistic is F-distributed beyond F₀."""
    a, n = LEVELS_OF_PULP, LEVELS_OF_PULP * PER_LEVEL
    between, within = one_way(null_draws)
    null = n * (1 + np.log(2 * np.pi * (between + within) / n))
    statistic = null - lj.refit_many(pulp(False), null_draws).criterion

    def of(share):  # of the sum of squares within operators
        return -a * np.log((1 - share) / (a / n)) - (n - a) * np.log(share / ((n - a) / n))

    share = within / (between + within)
    expected = np.where(share < (n - a) / n, of(share), 0.0)
    np.testing.assert_allclose(statistic, expected, rtol=0, atol=1e-8 * np.abs(null).max())

    grid = (n - a) / n * np.linspace(1e-6, 1, 200_001)  # the inverse of the decreasing function
    positive = statistic[statistic > 1e-6]
    share = np.interp(positive, of(grid)[::-1], grid[::-1])
    distribution = stats.f(a - 1, n - a)
    below = distribution.cdf(a / (a - 1))
    uniform = (distribution.cdf((1 / share - 1) * (n - a) / (a - 1)) - below) / (1 - below)
    assert stats.kstest(uniform, "uniform").pvalue > 0.01
    assert abs(len(positive) / DRAWS - (1 - below)) < 4 * np.sqrt(below * (1 - below) / DRAWS)


class PressesCtrlC(np.ndarray):
    """Responses that are interrupted when a row of their second half is read."""

    def __getitem__(self, key):
        if isinstance(key, slice) and (key.start or 0) >= len(self) // 2:
            signal.raise_signal(signal.SIGINT)
        return super().__getitem__(key)


def test_an_interrupted_batch_is_no_batch(null_draws):
    """A batch reads its responses chunk by chunk; those it has fitted before Ctrl-C are not taken for all of them."""
    fit, some, result = pulp(False), null_draws[:20_000], None
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            result = lj.refit_many(fit, some.view(PressesCtrlC), memory=2**20)
    finally:
        signal.signal(signal.SIGINT, before)
    assert result is None
    whole = lj.refit_many(fit, some, memory=2**20)
    assert_same_criterion(whole.criterion[:50], lj.refit_many(fit, some[:50]).criterion, 1e-10)


# ------------------------------------------------------------------------------------------------------ simulate


@pytest.mark.parametrize("use_u", [False, True])
def test_a_replicate_of_a_seed_is_always_the_same(sleep, use_u):
    fit, _ = sleep
    many = lj.simulate(fit, 17, seed=4, use_u=use_u)
    for n in (1, 3):
        np.testing.assert_array_equal(lj.simulate(fit, n, seed=4, use_u=use_u), many[:n])
    assert not np.any(lj.simulate(fit, 3, seed=5, use_u=use_u) == many[:3])


# -------------------------------------------------------------------------------------------------------- soybean

FIXED_PART = "AqE ~ ID + days + I(days**2) + Precip + Precip_7day"
REPLICATES = 200


@cache
def soybean(random: str) -> "lj.Fit":
    """A model of soybean_sim by maximum likelihood."""
    data = lj.datasets.load("soybean_sim")
    return lj.lmer(FIXED_PART + random, data, reml=False) if random else lj.lm(FIXED_PART, data)


def deviances(fit: "lj.Fit", Y: np.ndarray) -> np.ndarray:
    """Least −2 log-likelihoods; those of a linear model by least squares."""
    if fit.design.terms:
        found = lj.refit_many(fit, Y)
        assert found.n_failed == 0
        return found.criterion
    q, _ = np.linalg.qr(fit.design.X)
    left = np.sum((Y - Y @ q @ q.T) ** 2, -1)
    return fit.nobs * (1 + np.log(2 * np.pi * left / fit.nobs))


PLOT, DISK = " + (1|plot_number)", " + (1|disk)"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("null", "alternative", "name"), [("", PLOT, "boot_soy_plot_lrt.csv"), (PLOT, PLOT + DISK, "boot_soy_disk_lrt.csv")]
)
def test_null_distributions_of_soybean_are_those_of_lme4(null, alternative, name):
    path = references.shared_folder() / name
    if not path.is_file():
        pytest.skip(f"no {path}")
    theirs = np.loadtxt(path, skiprows=1)
    Y = lj.simulate(soybean(null), REPLICATES, seed=6)
    ours = deviances(soybean(null), Y) - deviances(soybean(alternative), Y)
    assert np.all(ours > -1e-6)
    single = [lj.refit(soybean(alternative), y).deviance for y in Y[:2]]
    assert_same_criterion(deviances(soybean(alternative), Y)[:2], np.array(single))
    ours, theirs = (np.where(lrt < 1e-5, 0, lrt) for lrt in (ours, theirs))
    assert stats.ks_2samp(ours, theirs).pvalue > 0.01
    zeros = [[np.sum(lrt == 0), np.sum(lrt > 0)] for lrt in (ours, theirs)]
    assert stats.fisher_exact(zeros).pvalue > 0.001
