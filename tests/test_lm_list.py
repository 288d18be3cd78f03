"""Regressions by level: nlme's lmList, the notes' income panel, and the regressions one by one."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import references
from catalogue import dataset
from numpy.testing import assert_allclose, assert_array_equal

import lmmjax as lj

R = references.bundled("lm_list_reference.json")


def data_of(model: dict[str, Any]) -> pd.DataFrame:
    """The data of one of R's models, levels in R's order."""
    name = model["dataset"]
    if name in R["datasets"]:
        columns, kinds = R["datasets"][name]["data"], R["datasets"][name]["columns"]
        data = pd.DataFrame({c: pd.Categorical(v, kinds[c].get("levels")) if "levels" in kinds[c] else v
                             for c, v in columns.items()})  # fmt: skip
    else:
        data = dataset("bundled", name)
    return data.drop(index=[i - 1 for i in np.atleast_1d(model["drop"]).astype(int)])


def fitted(name: str, pool: bool = True) -> Any:
    """Ours of one of R's models, with the levels that R leaves out named in a warning, and only then."""
    model = R["models"][name]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = lj.lm_list(model["formula"], data_of(model), pool=pool)
    lost = [level for level, b in zip(model["levels"], model["coef"], strict=True) if b is None]
    assert [str(level) for level in result.undetermined] == lost
    assert [w.category for w in caught] == [lj.DroppedWarning] * bool(lost)
    return result


def rows(values: list, p: int) -> np.ndarray:
    """(levels, p) numbers of R, NaN for a level that it has none of."""
    filled = [np.full(p, np.nan) if v is None else np.atleast_1d(np.array(v, float)) for v in values]
    return np.array([np.full(p, np.nan) if len(v) != p else v for v in filled])


@pytest.mark.parametrize("name", R["models"])
def test_regressions_are_those_of_nlme(name):
    ours, r = fitted(name), R["models"][name]
    p = ours.coef.shape[1]
    assert [str(level) for level in ours.coef.index] == r["levels"]
    assert_allclose(ours.coef, rows(r["coef"], p), rtol=1e-9, atol=1e-9)
    assert_allclose(ours.sigma, rows(r["sigma"], 1)[:, 0], rtol=1e-9)
    assert_array_equal(ours.df, rows(r["df"], 1)[:, 0])
    assert ours.pooled_sd == pytest.approx(r["pooled_sd"], rel=1e-10)
    assert ours.pooled_df == r["pooled_df"]


@pytest.mark.parametrize("name", R["models"])
@pytest.mark.parametrize("kind", ["pooled", "single"])
def test_standard_errors_and_intervals_are_those_of_nlme(name, kind):
    """R has none of a level with as many rows as columns, not even with the pooled variance."""
    r = R["models"][name].get(kind)
    if r is None:
        pytest.skip(reason="nlme has no intervals of a level without residual degrees of freedom")
    ours = fitted(name, pool=kind == "pooled")
    p = ours.coef.shape[1]
    theirs = rows(r["se"], p)
    known = np.isfinite(theirs).all(1)
    assert known.sum() >= len(known) - 1
    assert_allclose(ours.se[known], theirs[known], rtol=1e-9)
    if r["lower"]:
        for side, limits in ours.confint(0.9).items():
            assert_allclose(limits.to_numpy().reshape(-1, p)[known], rows(r[side], p)[known], rtol=1e-8)


def test_a_level_with_as_many_rows_as_columns_has_the_pooled_error():
    ours = fitted("chick")
    x = data_of(R["models"]["chick"]).query("Chick == '18'")["Time"]
    inverse = np.linalg.inv(np.array([[2, x.sum()], [x.sum(), (x**2).sum()]]))
    assert_allclose(ours.se.loc["18"], ours.pooled_sd * np.sqrt(np.diag(inverse)))
    assert ours.df["18"] == 0
    assert np.isnan(ours.sigma["18"])
    single = fitted("chick", pool=False)
    assert single.se.loc["18"].isna().all()
    assert single.se.drop("18").notna().all(axis=None)


@pytest.fixture
def sleep():
    return lj.datasets.load("sleepstudy")


def test_weights_offsets_contrasts_and_subsets_are_those_of_lm(sleep):
    data = sleep.assign(w=1 + sleep["Days"] % 3, o=np.sqrt(sleep["Days"]), part=np.where(sleep.index % 2, "a", "b"))
    options = {"weights": "w", "offset": "o", "contrasts": "sum", "subset": "Days > 0"}
    ours = lj.lm_list("Reaction ~ Days + part | Subject", data, pool=False, **options)
    for level in ("309", "372"):
        fit = lj.lm("Reaction ~ Days + part", data[data["Subject"] == level], **options)
        summary = fit.summary(ddf="residual").coefficients
        table = ours.table.loc[level]
        assert list(table.columns) == list(summary.columns)
        assert_allclose(table, summary, rtol=1e-9)
        assert ours.sigma[level] == pytest.approx(fit.sigma)
        used = (data["Subject"] == level)[ours.schema.index]
        assert_allclose(ours.fitted[used], fit.fitted)
        assert_allclose(ours.resid()[used], fit.resid())


def test_predictions_are_those_of_each_level(sleep):
    ours = lj.lm_list("Reaction ~ center(Days) | Subject", sleep)
    mixed = sleep.sample(frac=1, random_state=1)
    assert_allclose(ours.predict(mixed), pd.Series(ours.fitted, sleep.index)[mixed.index])
    with pytest.raises(lj.DataError, match=r"levels of 'Subject' without a regression in 1 row \(first: row 1\)"):
        ours.predict(pd.DataFrame({"Days": [1, 2], "Subject": ["308", "nobody"]}))
    with pytest.raises(lj.DataError, match="the offset was an array"):
        lj.lm_list("Reaction ~ Days | Subject", sleep, offset=np.ones(len(sleep))).predict(sleep)


def test_what_is_left_out_is_said(sleep):
    data = sleep.assign(dose=np.where(sleep["Subject"] == "308", 1.0, sleep["Days"] % 2))
    text = r"no regression in 1 of 18 levels of 'Subject', for columns that others determine there \(1\): '308'"
    with pytest.warns(lj.DroppedWarning, match=text):
        found = lj.lm_list("Reaction ~ Days + dose | Subject", data)
    assert found.coef.loc["308"].isna().all()
    assert np.isnan(found.fitted[sleep["Subject"] == "308"]).all()
    assert found.pooled_df == 17 * 7
    assert "no regression in 1 of 18" in repr(found)
    assert "no regression in 1 of 18" in found._repr_html_()
    short = sleep[(sleep["Subject"] != "308") | (sleep["Days"] == 0)]
    with pytest.warns(lj.DroppedWarning, match=r"for fewer rows than the 2 columns \(1\): '308'"):
        lj.lm_list("Reaction ~ Days | Subject", short)
    with pytest.warns(lj.DroppedWarning, match="X is rank deficient: left out twice"):
        lj.lm_list("Reaction ~ Days + twice | Subject", sleep.assign(twice=2 * sleep["Days"]))


def test_it_prints_like_nlme(sleep):
    lines = repr(lj.lm_list("Reaction ~ Days | Subject", sleep)).splitlines()
    assert lines[:2] == ["Regressions by level of Subject", "Formula: Reaction ~ Days | Subject"]
    assert lines[4].split() == ["308", "244.2", "21.765"]
    assert lines[-1] == "Residual standard deviation: 25.59 on 144 of 180 degrees of freedom"


@pytest.mark.parametrize(
    ("formula", "part"),
    [
        ("Reaction ~ Days", "lm_list\\(\\) takes 'y ~ x | g'"),
        ("Reaction ~ Days + (1 | Subject)", "lm_list\\(\\) takes"),
        ("Reaction ~ Days || Subject", "lm_list\\(\\) takes"),
        ("Reaction ~ Days | Subject | half", "lm_list\\(\\) takes"),
        ("Reaction ~ (1 | half) | Subject", "lm_list\\(\\) takes"),
        ("Reaction ~ Days | Subject/half", "write a:b .* not a/b"),
        ("Reaction ~ 0 | Subject", "has no coefficients"),
        (3, "a formula is a text"),
        ("Reaction ~ constant | Subject", "no regression in 18 of 18 levels"),
    ],
)
def test_bad_formulas_are_refused(sleep, formula, part):
    data = sleep.assign(half=np.where(sleep["Days"] < 5, "a", "b"), constant=sleep["Subject"].cat.codes.astype(float))
    with pytest.raises(lj.LmmError, match=part):
        lj.lm_list(formula, data)


def test_interactions_of_factors_are_levels(sleep):
    data = sleep.assign(half=np.where(sleep["Days"] < 5, "a", "b"))
    found = lj.lm_list("Reaction ~ Days | Subject:half", data)
    assert len(found.coef) == 36
    one = lj.lm("Reaction ~ Days", data, subset="(Subject == '310') & (half == 'b')")
    assert_allclose(found.coef.loc["310:b"], one.fixef)


# --------------------------------------------------------------------------------------------------------- the notes


def test_the_income_panel_has_the_notes_numbers():
    """Section on the Panel Study of Income Dynamics: the first person, and incomes and their growth by sex."""
    psid = pd.read_csv(references.shared_data("psid.csv"))
    found = lj.lm_list("log(income) ~ I(year-78) | person", psid)
    assert_allclose(found.coef.loc[1], [9.3999568, 0.0842667], atol=5e-8)
    sex = psid.groupby("person")["sex"].first()
    published = {
        "I(year - 78)": ((-2.3786, 56.736, 0.02077), (0.05691046, 0.08903346), (-0.05916871, -0.00507729)),
        "Intercept": ((8.2199, 79.719, 3.065e-12), (9.382325, 8.229275), (0.8738792, 1.4322218)),
    }
    for column, ((t, df, p), means, interval) in published.items():
        ours = lj.welch_test(found.coef[column][sex == "M"], found.coef[column][sex == "F"])
        assert ours.statistic == pytest.approx(t, abs=5e-5)
        assert ours.df == pytest.approx(df, abs=5e-4)
        assert ours.p_value == pytest.approx(p, rel=3e-4)
        assert_allclose(ours.means, means, rtol=1e-7)
        assert_allclose([ours.lower, ours.upper], interval, atol=5e-8)


def test_welch_is_a_t_test_with_two_variances():
    x, y = np.array([1.0, 4, 2, np.nan, 5]), np.array([9.0, 7, 8, 8.5, 6, 7])
    found = lj.welch_test(x, y, level=0.8)
    x = x[~np.isnan(x)]
    v, w = x.var(ddof=1) / 4, y.var(ddof=1) / 6
    assert found.n == (4, 6)
    assert found.statistic == pytest.approx((x.mean() - y.mean()) / np.sqrt(v + w))
    assert found.df == pytest.approx((v + w) ** 2 / (v**2 / 3 + w**2 / 5))
    assert found.estimate == pytest.approx((found.lower + found.upper) / 2)
    assert repr(found).splitlines()[2].startswith("difference -4.5833, 80% interval")


def test_welch_refuses_what_has_no_variance():
    with pytest.raises(lj.DataError, match="y has 1 values that are not missing"):
        lj.welch_test([1.0, 2.0], [3.0, np.nan])
    with pytest.raises(lj.DataError, match="x and y are constant"):
        lj.welch_test([1.0, 1.0], [3.0, 3.0])
    with pytest.raises(lj.DataError, match="x is not numeric"):
        lj.welch_test(["a", "b"], [3.0, 3.0])
    with pytest.raises(ValueError, match="level=2"):
        lj.welch_test([1.0, 2.0], [3.0, 4.0], level=2)
