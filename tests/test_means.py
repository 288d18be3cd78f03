"""Estimated marginal means against R's emmeans (reference/make_means_reference.R) and closed forms."""

import json
from functools import cache

import numpy as np
import pandas as pd
import pytest
import references
from catalogue import dataset
from scipy import stats

import lmmjax as lj
from lmmjax.inference.multiplicity import critical

CASES = json.loads((references.ROOT / "tests" / "reference" / "means_reference.json").read_text("utf-8"))["cases"]
S = "satterthwaite"
FULL = "yield ~ irrigation * variety + (1 | field)"
ADD = "yield ~ irrigation + variety + (1 | field)"
CURVE = "log(Reaction) ~ Days + I(Days^2) + (Days | Subject)"


@cache
def data(name):
    """The data sets of the R script."""
    if name in ("uneven", "hole"):
        irrigation = dataset("bundled", "irrigation")
        if name == "uneven":
            return irrigation.drop(index=[0, 5, 10])
        return irrigation[(irrigation["irrigation"] != "i4") | (irrigation["variety"] != "v2")]
    found = dataset("bundled", name)
    if name == "sleepstudy":
        found = found.assign(w=np.tile([1, 2, 0.5], 60), late=(found["Days"] > 6).astype(float))
    return found


@cache
def fitted(formula, name, weights=None):
    """One fit for all tests of a model."""
    if "|" not in formula:
        return lj.lm(formula, data(name))
    if name == "hole":
        with pytest.warns(lj.DroppedWarning, match="rank deficient"):
            return lj.lmer(formula, data(name))
    return lj.lmer(formula, data(name), weights=weights)


CALLS = {  # (formula, data set, specs, options of emmeans)
    "irrigation": (ADD, "irrigation", "irrigation", {}),
    "irrigation_satterthwaite": (ADD, "irrigation", "irrigation", {"ddf": S}),
    "irrigation_both": (FULL, "irrigation", "irrigation * variety", {}),
    "irrigation_by": (FULL, "irrigation", "~ irrigation | variety", {}),
    "irrigation_lm": ("yield ~ irrigation + variety", "irrigation", ["irrigation"], {}),
    "irrigation_asymptotic": (ADD, "irrigation", "irrigation", {"ddf": None}),
    "grand": (ADD, "irrigation", "1", {}),
    "level_90": (ADD, "irrigation", "irrigation", {"level": 0.9}),
    "uneven_equal": (FULL, "uneven", "variety", {}),
    "uneven_proportional": (FULL, "uneven", "variety", {"weights": "proportional"}),
    "uneven_cells": (FULL, "uneven", "irrigation", {"weights": "cells"}),
    "hole": (FULL, "hole", "irrigation", {}),
    "cake_by": ("angle ~ recipe * temperature + (1 | recipe:replicate)", "cake", "recipe", {"by": "temperature"}),
    "cake_recipe": ("angle ~ recipe * temperature + (1 | recipe:replicate)", "cake", "recipe", {}),
    "cake_mean": ("angle ~ recipe * temp + (1 | recipe:replicate)", "cake", "recipe", {}),
    "cake_at": (
        "angle ~ recipe * temp + (1 | recipe:replicate)",
        "cake",
        "recipe | temp",
        {"at": {"temp": [180, 210]}},
    ),
    "curve": (CURVE, "sleepstudy", "Days", {}),
    "curve_at": (CURVE, "sleepstudy", "Days", {"at": {"Days": [0, 4, 9]}, "ddf": S}),
    "binary": ("Reaction ~ late + (1 | Subject)", "sleepstudy", "late", {}),
    "binary_mean": ("Reaction ~ late + (1 | Subject)", "sleepstudy", [], {}),
}


@cache
def means(case):
    """The package's answer to a case of the R script."""
    formula, name, specs, options = CALLS[case]
    return lj.emmeans(fitted(formula, name), specs, **options)


def assert_like_r(table, r, scale, columns=("estimate", "se", "df", "lower", "upper")):
    """Rows in R's order. R finds the degrees of freedom of Satterthwaite by numerical derivatives."""
    for column in columns:
        expected = np.array(r[column], float)
        if column == "p":
            np.testing.assert_allclose(table[column], expected, rtol=2e-6, atol=1e-7)
        elif column == "df":
            expected[np.isnan(expected) & ~np.isnan(np.array(r["estimate"], float))] = np.inf  # null as well
            np.testing.assert_allclose(table[column], expected, rtol=2e-6)
        else:
            np.testing.assert_allclose(table[column], expected, rtol=1e-6, atol=1e-6 * scale)


@pytest.mark.parametrize("case", CALLS)
def test_means_as_emmeans(case):
    found, r = means(case), CASES[case]["table"]
    assert_like_r(found.table, r, np.nanmax(np.array(r["se"], float)))
    for i, name in enumerate(n for n in found.levels if n in r):
        values = found.table.index.get_level_values(i)
        assert list(values) == [type(values[0])(v) for v in r[name]]


@pytest.mark.parametrize("case", [c for c in CALLS if "pairs" in CASES[c]])
def test_pairs_as_emmeans(case):
    for adjust, r in CASES[case]["pairs"].items():
        found = means(case).pairs(adjust, intervals=True)
        columns = ("estimate", "se", "df", "lower", "upper", "t", "p")
        assert_like_r(found, r, np.nanmax(np.array(r["se"], float)), columns)
        if case == "irrigation_both":
            assert list(found.index) == r["contrast"]


def test_shared_reference(reference):
    r = reference["comparisons"]["emmeans_irrigation"]
    found = means("irrigation")
    assert_like_r(found.table, r | {"estimate": r["emmean"]}, 4)
    pairs = r["pairs"]
    assert_like_r(found.pairs(), pairs | {"p": pairs["p_tukey"]}, 4, ("estimate", "se", "df", "t", "p"))
    assert list(found.pairs().index) == pairs["contrast"]
    (row,) = (
        a
        for a in reference["models"]["irrigation_add_trt"]["fits"]["REML"]["anova_kenward_roger"]["III"]
        if a["term"] == "irrigation"
    )
    joint = found.joint_test().iloc[0]
    assert [joint["numdf"], joint["dendf"], joint["F"], joint["p"]] == pytest.approx(
        [row["NumDF"], row["DenDF"], row["F"], row["p"]], rel=1e-5
    )


def test_prior_weights_as_emmeans():
    fit = lj.lmer("Reaction ~ Days + (1 | Subject)", data("sleepstudy"), weights="w")
    found, r = lj.emmeans(fit, "Days", at={"Days": [1, 5]}, ddf=S), CASES["weighted"]
    assert_like_r(found.table, r["table"], 10)
    assert_like_r(found.pairs("none"), r["pairs"]["tukey"], 10, ("estimate", "se", "df", "t", "p"))


@pytest.mark.parametrize("method, case", [("trt.vs.ctrl", "control"), ("poly", "poly")])
def test_contrasts_as_emmeans(method, case):
    r = CASES[case]["contrast"]
    found = means("irrigation").contrast(method, intervals=True)
    assert list(found.index) == r["contrast"]
    assert_like_r(found, r, 4, ("estimate", "se", "df", "lower", "upper", "t", "p"))


def test_contrasts_in_families_and_of_ones_own():
    cake = lj.emmeans(fitted(*CALLS["cake_by"][:2]), "temperature", by="recipe")
    assert_like_r(cake.contrast("poly"), CASES["poly_cake"]["contrast"], 4, ("estimate", "se", "df", "t", "p"))
    found = means("irrigation").contrast({"last": np.array([-1, -1, -1, 3]) / 3, "first": [1, -1, 0, 0]}, "holm")
    assert_like_r(found, CASES["custom"]["contrast"], 4, ("estimate", "se", "df", "t", "p"))


def test_balanced_means_are_means_of_the_data():
    for name, specs in (("irrigation", ["irrigation"]), ("irrigation", ["irrigation", "variety"])):
        table = lj.emmeans(fitted(FULL, name), specs).table
        expected = data(name).groupby(specs, observed=True)["yield"].mean()
        np.testing.assert_allclose(table["estimate"].reindex(expected.index), expected, rtol=1e-9)


def test_a_model_of_the_intercept_alone_has_a_grand_mean():
    found = lj.emmeans(fitted("bright ~ 1 + (1 | operator)", "pulp"), "1")
    assert found.table["estimate"].to_dict() == {"overall": pytest.approx(60.4)}
    assert found.table["df"].item() == pytest.approx(3, rel=1e-6)  # balanced: operators less one
    assert len(found.pairs()) == 0
    assert found.joint_test()["numdf"].item() == 0


def test_the_coding_does_not_matter():
    other = lj.lmer(FULL, data("uneven"), contrasts="sum")
    pd.testing.assert_frame_equal(lj.emmeans(other, "variety").table, means("uneven_equal").table, rtol=1e-6)


def test_joint_tests_of_families():
    """For two means the F of a family is the square of their t."""
    found = lj.emmeans(fitted(FULL, "irrigation"), "variety", by="irrigation")
    joint, t = found.joint_test(), found.pairs("none")
    np.testing.assert_allclose(joint["F"], t["t"] ** 2, rtol=1e-10)
    np.testing.assert_allclose(joint["p"], t["p"], rtol=1e-8)
    assert list(joint.index) == ["i1", "i2", "i3", "i4"]
    assert (lj.emmeans(fitted(ADD, "irrigation"), "irrigation", ddf=None).joint_test()["dendf"] == np.inf).all()


def test_cells_without_data():
    """What other rows do determine still is: the margin of i4 averaged over its one variety, and differences."""
    fit = fitted(FULL, "hole")
    found = lj.emmeans(fit, ["irrigation", "variety"])
    assert found.table["estimate"].isna().to_list() == [False] * 7 + [True]
    assert "1 not estimable" in found.note
    assert found.table.loc[("i4", "v1"), "estimate"] == pytest.approx(42.35, abs=1)
    cells = lj.emmeans(fit, "irrigation", weights="cells").table
    assert cells.loc["i4", "estimate"] == pytest.approx(found.table.loc[("i4", "v1"), "estimate"], rel=1e-12)
    absent = lj.emmeans(fit, ["irrigation", "variety"], weights="cells")
    assert absent.table["estimate"].isna().sum() == 1
    assert absent.pairs("holm")["p"].isna().sum() == 7
    doubled = data("sleepstudy").assign(twice=lambda d: 2 * d["Days"])
    with pytest.warns(lj.DroppedWarning):
        line = lj.lmer("Reaction ~ Days + twice + (1 | Subject)", doubled)
    at = {"Days": [0, 1], "twice": [0, 2]}
    table = lj.emmeans(line, "Days * twice", at=at).table
    assert table["estimate"].isna().to_list() == [False, True, True, False]


def test_grid_of_other_kinds_of_columns():
    """Booleans, texts and numbers in C() at the levels that are left; numbers at their means before a transform."""
    d = data("sleepstudy")
    d = d.assign(odd=np.arange(180) % 7 < 3, word=np.tile(list("xyz"), 60), part=np.arange(180) % 5)
    fit = lj.lm("Reaction ~ odd + word + C(part) + center(Days)", d[d["part"] != 4])
    assert list(lj.emmeans(fit, "odd").table.index) == [False, True]
    assert list(lj.emmeans(fit, "part").table.index) == [0, 1, 2, 3]
    assert lj.emmeans(fit, "part").averaged == ("odd", "word")
    table = lj.emmeans(fit, "word", at={"odd": True, "part": 0}).table
    expected = fit.fixef["Intercept"] + fit.fixef["odd[T.True]"]  # of level x, at the mean of Days
    np.testing.assert_allclose(table["estimate"] - expected, [0, *fit.fixef.filter(like="word")], atol=1e-9)


def test_offsets_stand_at_the_grid():
    """As in a prediction. emmeans has the offset at the grid for `lm`, but for `lmer` its mean in every row."""
    fit = fitted("Reaction ~ Days + offset(0.5*Days^2) + (Days | Subject)", "sleepstudy")
    found, r, at = lj.emmeans(fit, "Days", at={"Days": [1, 5]}), CASES["shifted"], np.array([1, 5])
    expected = np.array(r["table"]["estimate"]) + 0.5 * at**2 - 0.5 * np.mean(data("sleepstudy")["Days"] ** 2)
    np.testing.assert_allclose(found.table["estimate"], expected, rtol=1e-7)
    np.testing.assert_allclose(found.table["estimate"], fit.predict({"Days": at}, re_form="~0"), rtol=1e-12)
    assert_like_r(found.table, r["table"], 10, ("se", "df"))
    difference = found.pairs("none")
    assert difference["estimate"].item() == pytest.approx(expected[0] - expected[1], rel=1e-7)
    assert_like_r(difference, r["pairs"]["holm"], 10, ("se", "df"))


def test_an_array_offset_stands_at_its_mean():
    d, shift = data("sleepstudy"), np.arange(180.0)
    plain, moved = (lj.lm("Reaction ~ Days", d, offset=o) for o in (None, shift))
    expected = lj.lm("y ~ Days", d.assign(y=d["Reaction"] - shift)).fixef @ [1, 4.5] + shift.mean()
    assert lj.emmeans(moved, "1").table["estimate"].item() == pytest.approx(expected, rel=1e-12)
    assert lj.emmeans(plain, []).ddf == "residual"


def test_many_quantiles_of_tukey_are_interpolated():
    df = np.array([*np.linspace(2.5, 60, 20), 1e4])
    found = critical(df, 0.95, "tukey", 3)
    some = [0, 3, 20]
    np.testing.assert_allclose(found[some] * np.sqrt(2), stats.studentized_range.ppf(0.95, 3, df[some]), rtol=1e-5)


def test_what_is_refused():
    fit = fitted(ADD, "irrigation")
    with pytest.raises(lj.FormulaError, match="'irigation' is no variable .* did you mean 'irrigation'"):
        lj.emmeans(fit, "irigation")
    with pytest.raises(lj.FormulaError, match="at=: 'field' is no variable"):
        lj.emmeans(fit, "irrigation", at={"field": "f1"})
    with pytest.raises(lj.DataError, match="level 'i9', which is not among the levels of the fit"):
        lj.emmeans(fit, "irrigation", at={"irrigation": ["i1", "i9"]})
    with pytest.raises(lj.FormulaError, match="without a left side, and call .pairs"):
        lj.emmeans(fit, "pairwise ~ irrigation")
    with pytest.raises(lj.FormulaError, match="named twice"):
        lj.emmeans(fit, "irrigation", by="irrigation")
    with pytest.raises(ValueError, match="weights='all': choose one of equal"):
        lj.emmeans(fit, "irrigation", weights="all")
    with pytest.raises(ValueError, match="ddf='kr'"):
        lj.emmeans(fit, "irrigation", ddf="kr")
    with pytest.raises(lj.DataError, match="needs a REML fit"):
        lj.emmeans(lj.lmer(ADD, data("irrigation"), reml=False), "irrigation", ddf="kenward-roger")
    found = means("irrigation")
    with pytest.raises(ValueError, match="adjust='dunnett': choose one of tukey, holm"):
        found.pairs("dunnett")
    with pytest.raises(ValueError, match="adjust='tukey': choose one of holm"):
        found.contrast("poly", "tukey")
    with pytest.raises(ValueError, match="contrast 'c' has 2 coefficients; a family has 4 means"):
        found.contrast({"c": [1, -1]})
    with pytest.raises(ValueError, match="method='consec'"):
        found.contrast("consec")


def test_it_prints():
    text = repr(means("irrigation"))
    assert text.splitlines()[-1] == "degrees of freedom: kenward-roger; averaged over variety"
    assert "38.8" in text
    assert "<table" in means("irrigation")._repr_html_()
