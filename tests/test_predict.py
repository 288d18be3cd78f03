"""Predictions for new rows: new levels, parts of the random effects, offsets, transforms, and data that do not fit."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
from catalogue import dataset
from numpy.testing import assert_allclose, assert_array_equal

import lmmjax as lj

NEW = pd.DataFrame({"Days": [0.0, 2.5, 9.0, 1.0], "Subject": ["308", "335", "372", "309"]})
UNSEEN = NEW.assign(Subject=["308", "new", "372", "other"])


def sleep() -> pd.DataFrame:
    """The sleepstudy, with columns to make models of."""
    data = dataset("bundled", "sleepstudy")
    i = np.arange(180)
    return data.assign(w=1.0 + i % 4, off=np.cos(i), phase=np.where(data["Days"] < 5, "early", "late"))


@cache
def slopes() -> lj.Fit:
    """The model with correlated intercepts and slopes."""
    return lj.lmer("Reaction ~ Days + (Days|Subject)", sleep())


@cache
def crossed() -> lj.Fit:
    """Two crossed factors."""
    return lj.lmer("diameter ~ 1 + (1|plate) + (1|sample)", dataset("bundled", "Penicillin"))


# ------------------------------------------------------------------------------------------------- rows, new levels


def test_prediction_is_fixed_plus_random():
    fit = slopes()
    coef = fit.coef()["Subject"].loc[NEW["Subject"]]
    expected = coef["Intercept"].to_numpy() + coef["Days"].to_numpy() * NEW["Days"]
    assert_allclose(fit.predict(NEW), expected, rtol=1e-13)
    assert_allclose(fit.predict(NEW.sample(frac=1, random_state=1)), expected[[3, 2, 0, 1]], rtol=1e-13)
    assert fit.predict(NEW).dtype == np.float64


def test_new_data_may_be_any_table():
    expected = slopes().predict(NEW)
    assert_array_equal(slopes().predict(NEW.to_dict("list")), expected)
    assert_array_equal(slopes().predict(NEW.assign(Subject=NEW["Subject"].astype("category"))), expected)
    assert_array_equal(slopes().predict(NEW.iloc[[2]]), expected[[2]])
    assert slopes().predict(NEW.iloc[:0]).shape == (0,)


def test_new_levels_are_refused_unless_allowed():
    with pytest.raises(lj.DataError, match="2 rows.*row 1.*'Subject'.*allow_new_levels"):
        slopes().predict(UNSEEN)


def test_new_levels_are_predicted_by_the_fixed_part():
    fit = slopes()
    predicted = fit.predict(UNSEEN, allow_new_levels=True)
    assert_allclose(predicted[[1, 3]], fit.predict(UNSEEN, re_form="~0")[[1, 3]], rtol=1e-14)
    assert_allclose(predicted[[0, 2]], fit.predict(NEW)[[0, 2]], rtol=1e-14)
    assert_array_equal(fit.predict(NEW, allow_new_levels=True), fit.predict(NEW))


def test_new_level_of_one_factor_keeps_the_effect_of_the_other():
    fit = crossed()
    new = pd.DataFrame({"plate": ["zz", "a"], "sample": ["B", "B"]})
    with pytest.raises(lj.DataError, match="'plate'"):
        fit.predict(new)
    effects = fit.ranef()
    expected = fit.fixef["Intercept"] + effects["sample"].loc["B", "Intercept"]
    plate = effects["plate"].loc["a", "Intercept"]
    assert_allclose(fit.predict(new, allow_new_levels=True), [expected, expected + plate], rtol=1e-13)


def test_new_combination_of_known_levels_is_a_new_level():
    fit = lj.lmer("strength ~ 1 + (1|batch:cask)", dataset("bundled", "Pastes"), subset="sample != 'A:a'")
    new = pd.DataFrame({"batch": ["A"], "cask": ["a"]})
    with pytest.raises(lj.DataError, match="'batch:cask'"):
        fit.predict(new)
    assert_allclose(fit.predict(new, allow_new_levels=True), fit.fixef)


# --------------------------------------------------------------------------------------------------------- re_form


@pytest.mark.parametrize("text", ["~0", "~ 0"])
def test_no_random_effects(text):
    fit = slopes()
    assert_allclose(
        fit.predict(NEW, re_form=text), fit.fixef["Intercept"] + fit.fixef["Days"] * NEW["Days"], rtol=1e-13
    )
    assert_allclose(fit.predict(UNSEEN[["Days"]], re_form=text), fit.predict(NEW, re_form=text))
    assert_allclose(fit.predict(re_form=text), fit.design.X @ fit.fixef, rtol=1e-13)


def test_part_of_a_term():
    fit = slopes()
    fixed, effects = fit.predict(NEW, re_form="~0"), fit.ranef()["Subject"].loc[NEW["Subject"]]
    slope = effects["Days"].to_numpy() * NEW["Days"]
    assert_allclose(fit.predict(NEW, re_form="~(1|Subject)"), fixed + effects["Intercept"].to_numpy(), rtol=1e-13)
    assert_allclose(fit.predict(NEW, re_form="~(0+Days|Subject)"), fixed + slope, rtol=1e-13)
    for whole in ("~(Days|Subject)", "~(1+Days|Subject)", "~(1|Subject) + (0+Days|Subject)", "~(Days||Subject)"):
        assert_allclose(fit.predict(NEW, re_form=whole), fit.predict(NEW), rtol=1e-13)


def test_one_of_two_factors():
    fit = crossed()
    new = pd.DataFrame({"plate": ["a", "c"], "sample": ["B", "F"]})
    effects = fit.ranef()
    for group in ("plate", "sample"):
        expected = fit.fixef["Intercept"] + effects[group].loc[new[group], "Intercept"].to_numpy()
        assert_allclose(fit.predict(new[[group]], re_form=f"~(1|{group})"), expected, rtol=1e-13)
        fitted = fit.predict(re_form=f"~(1|{group})")
        assert_allclose(fitted, fit.predict(dataset("bundled", "Penicillin"), re_form=f"~(1|{group})"), rtol=1e-13)
    with pytest.raises(lj.DataError, match="'sample'"):
        fit.predict(new[["plate"]])


def test_one_of_two_terms_on_a_factor():
    fit = lj.lmer("Reaction ~ Days + (Days||Subject)", sleep())
    effects = fit.ranef()["Subject"].loc[NEW["Subject"]]
    fixed = fit.predict(NEW, re_form="~0")
    assert_allclose(fit.predict(NEW, re_form="~(1|Subject)"), fixed + effects["Intercept"].to_numpy(), rtol=1e-13)
    assert_allclose(fit.predict(NEW, re_form="~(Days|Subject)"), fit.predict(NEW), rtol=1e-13)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("~(1|plate)", r"\(1 \| plate\) is not part"),
        ("~(phase|Subject)", r"\(phase \| Subject\) is not part"),
        ("~(1|Subject) + (1|phase)", r"\(1 \| phase\) is not part"),
        ("~Days", "random terms"),
        ("~1", "random terms"),
        ("Subject", "one-sided"),
        ("~(1|Subject", "unbalanced"),
    ],
)
def test_unknown_part(text, match):
    for new in (None, NEW):
        with pytest.raises(lj.FormulaError, match=match):
            slopes().predict(new, re_form=text)


# --------------------------------------------------------------------------------------------- offsets and weights


def test_offset_of_the_formula_is_included():
    fit = lj.lmer("Reaction ~ Days + offset(2*off) + (1|Subject)", sleep())
    zero, one = (fit.predict(NEW.assign(off=value)) for value in (0.0, 1.0))
    assert_allclose(one, zero + 2, rtol=1e-13)
    assert_allclose(fit.predict(NEW.assign(off=1.0), re_form="~0") - fit.predict(NEW.assign(off=0.0), re_form="~0"), 2)
    with pytest.raises(lj.DataError, match="'off'"):
        fit.predict(NEW)


def test_offset_by_name_is_read_from_the_new_data():
    fit = lj.lmer("Reaction ~ Days + (1|Subject)", sleep(), offset="off")
    same = lj.lmer("Reaction ~ Days + offset(off) + (1|Subject)", sleep())
    new = NEW.assign(off=[3.0, 1.0, 0.0, -2.0])
    assert_allclose(fit.predict(new), same.predict(new), rtol=1e-12)
    assert_allclose(fit.predict(sleep()), fit.fitted, rtol=1e-13)


def test_offset_as_an_array_cannot_be_predicted_with():
    fit = lj.lmer("Reaction ~ Days + (1|Subject)", sleep(), offset=sleep()["off"].to_numpy())
    assert_allclose(fit.predict(), fit.fitted)
    with pytest.raises(lj.DataError, match=r"offset.*array.*offset\(column\)"):
        fit.predict(NEW)


def test_weights_and_response_are_not_needed():
    fit = lj.lmer("log(Reaction) ~ Days + (1|Subject)", sleep(), weights="w", subset="Days > 0")
    assert_allclose(fit.predict(NEW), fit.predict(NEW.assign(Reaction=np.nan, w=-1.0)))


# ---------------------------------------------------------------------------------------------- transforms, factors


@pytest.mark.parametrize(
    "terms", ["center(Days)", "scale(Days)", "bs(Days, df=4)", "center(Days) + I(center(Days)^2)", "standardize(Days)"]
)
def test_transforms_remember_the_data_of_the_fit(terms):
    data = sleep()
    fit = lj.lmer(f"Reaction ~ {terms} + (1|Subject)", data)
    rows = [179, 3, 50]
    assert_allclose(fit.predict(data.iloc[rows]), fit.fitted[rows], rtol=1e-10)
    assert_allclose(fit.predict(data.iloc[[3]]), fit.fitted[[3]], rtol=1e-10)


def test_transform_in_a_random_term():
    data = sleep()
    fit = lj.lmer("Reaction ~ Days + (center(Days)|Subject)", data)
    assert_allclose(fit.predict(data.iloc[100:103]), fit.fitted[100:103], rtol=1e-12)
    assert_allclose(fit.fitted, slopes().fitted, rtol=1e-6)


def test_contrasts_of_the_fit_are_kept():
    data = dataset("bundled", "cake")
    fit = lj.lmer("angle ~ recipe + temperature + (1|replicate:recipe)", data, contrasts={"recipe": "sum"})
    rows = [200, 7, 44]
    some = data.iloc[rows]
    assert_allclose(fit.predict(some), fit.fitted[rows], rtol=1e-12)
    assert_allclose(fit.predict(some.astype({"recipe": str, "temperature": str})), fit.fitted[rows], rtol=1e-12)


def test_dropped_columns_stay_out():
    with pytest.warns(lj.DroppedWarning, match=r"I\(2 \* Days\)"):
        fit = lj.lmer("Reaction ~ Days + I(2*Days) + (1|Subject)", sleep())
    plain = lj.lmer("Reaction ~ Days + (1|Subject)", sleep())
    assert_allclose(fit.predict(NEW), plain.predict(NEW), rtol=1e-12)


def test_a_function_of_the_caller_is_kept():
    def doubled(v):
        return 2 * v

    fit = lj.lmer("Reaction ~ doubled(Days) + (1|Subject)", sleep())
    plain = lj.lmer("Reaction ~ Days + (1|Subject)", sleep())
    assert_allclose(fit.predict(NEW), plain.predict(NEW), rtol=1e-10)
    assert doubled(1) == 2


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"phase": ["early", "late", "noon", "late"]}, "'phase' has the level 'noon'.*'early', 'late'"),
        ({"phase": ["early", None, "late", "late"]}, "missing values in 'phase' .1 row"),
        ({"Days": [0.0, np.nan, 1.0, np.nan]}, "missing values in 'Days' .2 rows"),
        ({"Days": [0.0, np.inf, 1.0, 2.0]}, "'Days' is not finite in 1 row"),
        ({"Subject": ["308", None, "372", "309"]}, "missing values in 'Subject'"),
    ],
)
def test_new_data_that_do_not_fit(change, match):
    fit = lj.lmer("Reaction ~ Days + phase + (1|Subject)", sleep())
    new = NEW.assign(phase="late").assign(**change)
    with pytest.raises(lj.DataError, match=match):
        fit.predict(new, allow_new_levels=True)


@pytest.mark.parametrize("column", ["Days", "Subject"])
def test_absent_columns_are_named(column):
    with pytest.raises(lj.DataError, match=f"no column '{column}'"):
        slopes().predict(NEW.drop(columns=column))


def test_new_data_of_another_kind():
    with pytest.raises(lj.DataError, match="no table"):
        slopes().predict([1, 2])


def test_linear_model():
    fit = lj.lm("Reaction ~ Days", sleep())
    expected = fit.fixef["Intercept"] + fit.fixef["Days"] * NEW["Days"]
    assert_allclose(fit.predict(NEW), expected, rtol=1e-13)
    assert_allclose(fit.predict(NEW, re_form="~0"), expected, rtol=1e-13)
