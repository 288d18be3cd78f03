"""Wald tests of linear hypotheses, and comparisons by Kenward and Roger's F."""

import catalogue
import numpy as np
import pytest
import references
from scipy import stats

import lmmjax as lj

OWN = references.bundled("inference_reference.json")


@pytest.fixture(scope="module")
def sleep():
    return lj.datasets.load("sleepstudy")


@pytest.fixture(scope="module")
def fit(sleep):
    return lj.lmer("Reaction ~ Days + (Days | Subject)", sleep)


def shared_comparisons() -> list[str]:
    path = references.shared_folder() / "reference.json"
    return [k for k in references.shared()["comparisons"] if k.startswith("kr_")] if path.is_file() else []


def check_comparison(small: lj.Fit, large: lj.Fit, r: dict) -> None:
    for pair in ((small, large), (large, small)):
        found = lj.kr_compare(*pair)
        np.testing.assert_allclose(
            [found.statistic, found.df, found.ddf, found.p_value, found.scaling],
            [r[k] for k in ("F", "ndf", "ddf", "p", "F_scaling")],
            rtol=1e-6,
        )
        np.testing.assert_allclose(found.unscaled, [r["F_unscaled"], r["p_unscaled"]], rtol=1e-6)


@pytest.mark.parametrize("name", shared_comparisons())
def test_kr_compare_is_krmodcomp(name):
    r = references.shared()["comparisons"][name]
    check_comparison(*(catalogue.Model("shared", r[k]).fit() for k in ("small", "large")), r)


@pytest.mark.parametrize("r", OWN["kr_compare"], ids=lambda r: f"{r['model']} against {r['small']}")
def test_kr_compare_of_bundled_models(r):
    model = catalogue.Model("bundled", r["model"])
    small = lj.lmer(r["small"], model.data(), **model.options() | {"contrasts": None})
    check_comparison(small, model.fit(), r | {"F_scaling": r["scaling"]})


def test_numbers_of_the_notes():
    data = catalogue.dataset("bundled", "irrigation")
    full, both, irrigation, variety = (
        lj.lmer(f"yield ~ {rhs} + (1 | field)", data)
        for rhs in ("irrigation * variety", "irrigation + variety", "irrigation", "variety")
    )
    for small, large, expected in (
        (both, full, (0.2452, 3, 4, 0.8612)),
        (irrigation, both, (1.5782, 1, 7, 0.2493)),
        (variety, both, (0.3882, 3, 4, 0.7685)),
    ):
        found = lj.kr_compare(small, large)
        assert (found.statistic, found.df, found.ddf, found.p_value) == pytest.approx(expected, abs=6e-5)


def test_t_and_chi_square(fit):
    se = np.sqrt(fit.vcov.loc["Days", "Days"])
    t = fit.fixef["Days"] / se
    found = lj.linear_test(fit, "Days")
    assert found.statistic == pytest.approx(t**2)
    assert found.ddf == pytest.approx(17, rel=1e-6)
    assert found.p_value == pytest.approx(2 * stats.t.sf(t, found.ddf))
    row = found.table.iloc[0]
    assert row[["estimate", "se", "t", "p"]].tolist() == pytest.approx([fit.fixef["Days"], se, t, found.p_value])
    assert row[["lower", "upper"]].tolist() == pytest.approx(stats.t.interval(0.95, found.ddf, row.estimate, se))
    chi = lj.linear_test(fit, "Days", ddf=None, level=0.9)
    assert chi.p_value == pytest.approx(stats.chi2.sf(t**2, 1))
    assert chi.ddf is None
    assert chi.table[["lower", "upper"]].iloc[0].tolist() == pytest.approx(stats.norm.interval(0.9, row.estimate, se))
    with pytest.raises(ValueError, match="has no scaling"):
        chi.unscaled  # noqa: B018


def test_other_values(fit, sleep):
    """Days = 10 is the test of Days = 0 after 10·Days was taken from the response."""
    found = lj.linear_test(fit, "Days = 10", ddf="kenward-roger")
    moved = lj.lmer("I(Reaction - 10 * Days) ~ Days + (Days | Subject)", sleep)
    assert found.statistic == pytest.approx(lj.linear_test(moved, "Days", ddf="kenward-roger").statistic, rel=1e-6)
    assert found.table["estimate"].iloc[0] == pytest.approx(fit.fixef["Days"])
    both = lj.linear_test(fit, "Days = 10, Intercept = 250", ddf=None)
    left = fit.fixef.to_numpy() - [250, 10]
    assert both.statistic == pytest.approx(left @ np.linalg.solve(fit.vcov, left))
    assert both.df == 2


def test_printed(fit):
    text = repr(lj.linear_test(fit, ["Intercept", "Days"], ddf="kenward-roger"))
    assert text.startswith("Wald test (F, kenward-roger)\nstatistic ")
    assert "on 2 and 16 df" in text  # pbkrtest's too: not the 17 of each alone
    assert text.splitlines()[-3].split() == ["estimate", "se", "df", "t", "p", "lower", "upper"]


def test_refusals(fit, sleep):
    days = lj.lmer("Reaction ~ 1 + (Days | Subject)", sleep)
    with pytest.raises(lj.DataError, match=r"random ones must be the same.*\(1 \| Subject\)|\(1\|Subject\)"):
        lj.kr_compare(lj.lmer("Reaction ~ 1 + (1 | Subject)", sleep), fit)
    with pytest.raises(lj.DataError, match="180 and 170 rows"):
        lj.kr_compare(days, lj.lmer("Reaction ~ Days + (Days | Subject)", sleep[:170]))
    with pytest.raises(lj.DataError, match="same fixed effects: nothing to test"):
        lj.kr_compare(fit, fit)
    with pytest.raises(lj.DataError, match="do not span I"):
        lj.kr_compare(lj.lmer("Reaction ~ 0 + I(Days**2) + (Days | Subject)", sleep), fit)
    with pytest.raises(lj.DataError, match="not none and"):
        lj.kr_compare(lj.lm("Reaction ~ 1", sleep), fit)
    with pytest.raises(lj.DataError, match="theta of .* was given"):
        lj.kr_compare(lj.lmer("Reaction ~ 1 + (Days | Subject)", sleep, theta=[1, 0, 0.2]), fit)
    with pytest.raises(TypeError, match=r"linear_test\(\) takes fits of lmer\(\) or lm\(\), not str"):
        lj.linear_test("fit", "Days")
    with pytest.raises(lj.DataError, match="needs a REML fit"):
        lj.kr_compare(*(lj.lmer(f"Reaction ~ {x} + (Days | Subject)", sleep, reml=False) for x in ("1", "Days")))
    with pytest.raises(lj.DataError, match="no fixed-effects columns"):
        lj.linear_test(fit, "Nights")
