"""Power against the exact power of F-tests in balanced designs, and against itself."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

import lmmjax as lj

N = 20_000
ALARM = 3.9  # standard errors; one test in 10,000 would reach it by chance


def near(found: lj.Study | float, exact: float, n: int = N) -> None:
    """Whether a share of n differs from a probability by no more than chance."""
    assert abs(found - exact) < ALARM * np.sqrt(exact * (1 - exact) / n), (found, exact)


def of_f(ncp: float, numdf: int, dendf: int, alpha: float = 0.05) -> float:
    """Power of an F-test."""
    critical = stats.f.isf(alpha, numdf, dendf)
    return float(stats.ncf.sf(critical, numdf, dendf, ncp)) if ncp else alpha


def table_of(simulate, scenarios: dict, tests: list[lj.Test]) -> pd.DataFrame:
    return lj.Study(scenarios, simulate, tests, n=N, seed=11).run()


def share(table: pd.DataFrame, scenario: int, test: lj.Test) -> float:
    return float((table.loc[table["scenario"] == scenario, test.name] <= 0.05).mean())


@pytest.mark.parametrize("method", ["satterthwaite", "kenward-roger"])
def test_one_way(method: str) -> None:
    """Treatments between groups: F of group means. sd is so large that no variance is estimated as zero."""
    groups, size, sd, sigma = 12, 4, 2.0, 1.0
    test = lj.Test(["treatment[T.t2]", "treatment[T.t3]"], method)

    def simulate(effect: float) -> lj.Population:
        return lj.designs.one_way(groups, size, sd, sigma, treatments=3, effect=effect)

    table = table_of(simulate, {"effect": [0.0, 3.5]}, [test])
    assert table["converged"].all()
    for scenario, effect in enumerate((0.0, 3.5)):
        means = effect * np.array([0, 0.5, 1])
        ncp = groups / 3 * np.sum((means - means.mean()) ** 2) / (sd**2 + sigma**2 / size)
        near(share(table, scenario, test), of_f(ncp, 2, groups - 3))


def test_paired() -> None:
    pairs, effect, test = 15, 0.9, lj.Test("treatment[T.t2]")
    table = table_of(
        lambda effect: lj.designs.paired(pairs, 3.0, 1.0, effect=effect), {"effect": [0.0, effect]}, [test]
    )
    near(share(table, 0, test), 0.05)
    near(share(table, 1, test), of_f(pairs * effect**2 / 2, 1, pairs - 1))


def test_split_plot() -> None:
    """Main effects and the interaction, each with the error of its own stratum."""
    plots, sd, sigma, whole, sub, both = 10, 2.5, 1.0, 3.0, 0.6, 1.4
    tests = [lj.Test([0, 1, 0, 0.5]), lj.Test([0, 0, 1, 0.5]), lj.Test("whole[T.w2]:sub[T.s2]")]

    def simulate(of: float) -> lj.Population:
        effects = {"whole_effect": of * whole, "sub_effect": of * sub, "interaction": of * both}
        return lj.designs.split_plot(plots, sd=sd, sigma=sigma, **effects)

    table = table_of(simulate, {"of": [0.0, 1.0]}, tests)
    between, within = sd**2 + sigma**2 / 2, sigma**2
    powers = [
        of_f((whole + both / 2) ** 2 * plots / (4 * between), 1, plots - 2),
        of_f((sub + both / 2) ** 2 * plots / (2 * within), 1, plots - 2),
        of_f(both**2 * plots / (8 * within), 1, plots - 2),
    ]
    for test, power in zip(tests, powers, strict=True):
        near(share(table, 0, test), 0.05)
        near(share(table, 1, test), power)


def test_exact_test_of_a_variance_keeps_its_level() -> None:
    """Where the variance is zero the exact test rejects as often as it says, and χ² far too seldom."""
    exact, chi2 = lj.Test("group", "exact_rlrt", n=100_000), lj.Test("group", "lrt")
    table = table_of(lambda sd: lj.designs.one_way(6, 5, sd), {"sd": [0.0]}, [exact, chi2])
    near(share(table, 0, exact), 0.05, N / 1.2)  # 100,000 draws behind the p-values
    assert share(table, 0, chi2) < 0.03


# ------------------------------------------------------------------------------------------------------ the front


@cache
def sleep() -> lj.Fit:
    return lj.lmer("Reaction ~ Days + (Days | Subject)", lj.datasets.load("sleepstudy"))


def test_power_is_the_share_of_small_p_values() -> None:
    found = lj.power(sleep(), {"Days": 5.0}, n=300, seed=4, method="kenward-roger", alpha=0.1)
    population = lj.with_parameters(sleep(), {"Days": 5.0})
    table = lj.Study({"rows": [0]}, lambda rows: population, lj.Test("Days", "kenward-roger"), n=300, seed=4).run()
    hits = int((table["p[Days, kenward-roger]"] <= 0.1).sum())
    interval = stats.binomtest(hits, 300).proportion_ci(0.95, "exact")
    assert (found.power, found.lower, found.upper) == (hits / 300, interval.low, interval.high)
    assert (found.n, found.n_failed, found.alpha) == (300, 0, 0.1)
    assert found.truth["Days"] == 5.0
    assert f"{100 * found.power:.2f} %" in repr(found)
    larger = lj.power(sleep(), {"Days": 8.0}, n=300, seed=4, method="kenward-roger", alpha=0.1)
    assert larger.power > found.power
    as_it_is = lj.power(sleep(), "Days", n=50)
    assert as_it_is.truth["Days"] == pytest.approx(sleep().fixef["Days"])


def test_power_of_a_random_term() -> None:
    found = lj.power(lj.designs.one_way(8, 4, sd=1.0), "(1 | group)", n=200)
    assert found.test == lj.Test("(1 | group)", "exact_rlrt", n=100_000)
    assert 0.5 < found.power < 1


def test_curve_and_sample_size_agree() -> None:
    """Bisection finds the smallest size of the curve that reaches the power, with the same numbers."""
    options = {"n": 200, "seed": 1, "method": "wald"}
    fit = lj.designs.paired(8, 2.0, 1.0)
    found = lj.sample_size(fit, {"treatment[T.t2]": 1.0}, along="pair", power=0.8, **options)
    curve = lj.power_curve(
        fit, {"treatment[T.t2]": 1.0}, along="pair", sizes=range(found.size - 2, found.size + 2), **options
    )
    reached = curve["power"] >= 0.8
    assert curve.loc[reached, "pair"].min() == found.size
    tried = found.table.set_index("pair")
    assert tried.index.is_monotonic_increasing
    common = curve[curve["pair"].isin(tried.index)].set_index("pair")
    assert_array_equal(tried.loc[common.index, "power"], common["power"])
    assert f"pair = {found.size}" in repr(found)
    exact = of_f(found.size / 2, 1, found.size - 1)
    assert 0.7 < exact < 0.9


@pytest.mark.parametrize("grown", [{"along": "Subject"}, {"along": "Days"}, {"within": "Subject"}])
def test_sizes_share_arrays_and_agree_with_their_own(grown: dict) -> None:
    """In the arrays of the largest size, with the rows that are too many left out."""
    from lmmjax.study.extending import sized

    population = lj.with_parameters(sleep(), {})
    roomy, own = (
        sized(population, **{"along": None, "within": None, **grown}, n=8, room=12),
        lj.extend(population, **grown, n=8),
    )
    assert roomy.present.sum() == own.nobs < roomy.nobs
    test = lj.Test("Days", "kenward-roger")
    found = lj.Study({"x": [0]}, lambda x: roomy, [lj.Estimates(), test, lj.Test("Days", "lrt")], n=30).run()
    if grown == {"along": "Subject"}:  # rows of the smaller size come first: they draw the same numbers
        alone = lj.Study({"x": [0]}, lambda x: own, [lj.Estimates(), test, lj.Test("Days", "lrt")], n=30).run()
        for name in found.columns[3:]:
            assert_allclose(found[name].astype(float), alone[name].astype(float), rtol=1e-4, atol=1e-6)


def test_common_random_numbers() -> None:
    """Scenarios of one design then differ by their parameters alone."""

    def responses(sample: lj.Sample) -> dict:
        drawn.append(sample.responses)
        return {}

    for common in (True, False):
        drawn: list[np.ndarray] = []
        study = lj.Study(
            {"effect": [0.0, 3.0]}, lambda effect: lj.designs.paired(effect=effect), responses, n=4, common=common
        )
        study.run()
        assert np.allclose((drawn[1] - drawn[0])[:, :4], [0, 3, 0, 3]) == common


def test_curve_goes_on_in_its_store(tmp_path) -> None:
    pytest.importorskip("pyarrow", reason="needs the extra `study`")
    call = {"effect": {"treatment[T.t2]": 1.0}, "along": "pair", "sizes": [5, 9], "n": 50, "method": "wald"}
    fit = lj.designs.paired(8, 2.0, 1.0)
    first = lj.power_curve(fit, **call, store=tmp_path)
    pd.testing.assert_frame_equal(lj.power_curve(fit, **call, store=tmp_path), first)
    assert_allclose(lj.power_curve(fit, **call)["power"], first["power"])
    with pytest.raises(lj.DataError, match="another study"):
        lj.power_curve(fit, **{**call, "effect": {"treatment[T.t2]": 2.0}}, store=tmp_path)


def test_sizes_that_are_too_small_are_reported() -> None:
    fit = lj.designs.paired(8, 2.0, 1.0)
    with pytest.warns(lj.StudyWarning, match=r"1 scenario of 2 failed; number 0 \(pair=1\)"):
        curve = lj.power_curve(fit, {"treatment[T.t2]": 1.0}, along="pair", sizes=[1, 9], n=20, method="wald")
    assert curve["pair"].tolist() == [9]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"effect": {"Day": 1.0}}, lj.DataError, "'Day'"),
        ({"effect": {"sd_Days|Subject": 1.0}}, lj.DataError, "no fixed effect to test"),
        ({"effect": "Day"}, lj.DataError, "Day"),
        ({"effect": "Days", "alpha": 0}, ValueError, "alpha=0"),
        ({"effect": "Days", "n": 0}, ValueError, "n=0"),
        ({"effect": "Days", "method": "simr"}, ValueError, "choose one of"),
        ({"effect": "Days", "method": "wald", "test": lj.Test("Days")}, ValueError, "give one of them"),
        (
            {"effect": "Days", "method": "wald", "test": "(Days | Subject)"},
            lj.DataError,
            "^DataError: .*is tested by lrt",
        ),
    ],
)
def test_bad_power(arguments: dict, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        lj.power(sleep(), **arguments)


def test_bad_sizes() -> None:
    fit, effect = lj.designs.paired(8, 2.0, 1.0), {"treatment[T.t2]": 0.01}
    with pytest.raises(ValueError, match="sizes="):
        lj.power_curve(fit, effect, along="pair")
    with pytest.raises(ValueError, match=r"sizes\[1\]=0"):
        lj.power_curve(fit, effect, along="pair", sizes=[3, 0])
    with pytest.raises(ValueError, match="power=2"):
        lj.sample_size(fit, effect, along="pair", power=2)
    with pytest.raises(lj.DataError, match="the largest size, 16, has power"):
        lj.sample_size(fit, effect, along="pair", most=16, n=50, method="wald")
