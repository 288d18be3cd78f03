"""F tests of the terms of a model: lmerTest's tables, and what types I, II and III mean."""

from contextlib import nullcontext

import catalogue
import numpy as np
import pandas as pd
import pytest
import references

import lmmjax as lj

OWN = references.bundled("inference_reference.json")
SHARED = [m for m in catalogue.SHARED if m.name != "insteval"]
KEYS = {"satterthwaite": "anova_satterthwaite", "kenward-roger": "anova_kenward_roger"}
LMERTEST = {"SumSq": "sumsq", "MeanSq": "meansq", "NumDF": "numdf", "DenDF": "dendf"}


def check(found: pd.DataFrame, rows: list[dict], rtol: float) -> None:
    expected = pd.DataFrame(rows).rename(columns=LMERTEST)
    assert len(found) == len(expected)
    for column in found.columns if len(expected) else ():  # a small p moves ten times as much as F
        tolerance = 10 * rtol if column == "p" else rtol
        np.testing.assert_allclose(found[column], expected[column], rtol=tolerance, atol=1e-300, err_msg=column)


@pytest.mark.parametrize("reml", [True, False], ids=["REML", "ML"])
@pytest.mark.parametrize("model", SHARED, ids=str)
def test_tables_of_lmertest(model, reml):
    fit, r = model.fit(reml), model.r(reml)
    for ddf, key in KEYS.items():
        for kind, rows in (r.get(key) or {}).items():
            table = lj.anova(fit, type=kind, ddf=ddf)
            check(table, rows, 1e-5 if model.is_large else 1e-6)


@pytest.mark.parametrize("name", OWN["models"])
def test_tables_of_bundled_models(name):
    model = catalogue.Model("bundled", name)
    fit, r = model.fit(), OWN["models"][name]
    for ddf, key in KEYS.items():
        for kind, rows in r.get(key, {}).items():
            check(lj.anova(fit, type=kind, ddf=ddf), rows, 1e-6)
    ml = model.fit(reml=False)
    check(lj.anova(ml), r["ml_anova_satterthwaite"]["III"], 1e-6)


def test_irrigation_of_the_notes():
    """3 and 4 df, p = .7685, under treatment and sum coding alike."""
    data = catalogue.dataset("bundled", "irrigation")
    for contrasts in (None, "sum", "helmert"):
        fit = lj.lmer("yield ~ irrigation * variety + (1 | field)", data, contrasts=contrasts)
        table = lj.anova(fit)
        assert table.index.tolist() == ["irrigation", "variety", "irrigation:variety"]
        assert table.loc["irrigation", ["numdf", "dendf"]].tolist() == pytest.approx([3, 4])
        assert table.loc["irrigation", ["F", "p"]].round(4).tolist() == [0.3882, 0.7685]
        assert table.loc["irrigation:variety", ["F", "p"]].round(4).tolist() == [0.2452, 0.8612]


@pytest.fixture(scope="module")
def unbalanced() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    n = 90
    data = pd.DataFrame({"a": rng.choice(list("xyz"), n), "b": rng.choice(list("uvw"), n), "x": rng.normal(2, 1, n)})
    data["g"] = rng.integers(0, 12, n).astype(str)
    data["y"] = data.x + rng.normal(size=n) + (data.a == "x") + rng.normal(size=12)[data.g.astype(int)]
    return data


@pytest.mark.parametrize("kind", [1, 2, 3])
@pytest.mark.parametrize("ddf", ["satterthwaite", "kenward-roger"])
def test_coding_does_not_matter(unbalanced, kind, ddf):
    """With the cell x:w empty too, where a test that drops columns depends on the coding."""
    for data in (unbalanced, unbalanced[(unbalanced.a != "x") | (unbalanced.b != "w")]):
        tables = []
        for contrasts in (None, "sum", "helmert"):
            with pytest.warns(lj.DroppedWarning) if len(data) < 90 else nullcontext():
                fit = lj.lmer("y ~ a * b + x + (1 | g)", data, contrasts=contrasts)
            tables.append(lj.anova(fit, type=kind, ddf=ddf))
        for other in tables[1:]:
            pd.testing.assert_frame_equal(tables[0], other, rtol=1e-5)


def test_types_agree_where_they_must(unbalanced):
    """Last terms are alike in I and II; without interactions II and III are; one line of a term is a Wald test."""
    fit = lj.lmer("y ~ a + b + x + (1 | g)", unbalanced)
    one, two, three = (lj.anova(fit, type=kind) for kind in (1, 2, 3))
    np.testing.assert_allclose(two, three, rtol=1e-9)
    np.testing.assert_allclose(one.loc["x"], two.loc["x"], rtol=1e-9)
    test = lj.linear_test(fit, "x")
    assert test.statistic == pytest.approx(two.loc["x", "F"])
    assert test.p_value == pytest.approx(two.loc["x", "p"])


def test_types_of_a_single_term(unbalanced):
    """lmerTest takes the rows of type I then, on whose form Satterthwaite's df depend."""
    fit = lj.lmer("y ~ a + (1 | g)", unbalanced)
    one, two, three = (lj.anova(fit, type=kind) for kind in (1, 2, 3))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, three)


def test_third_type_averages_cells(unbalanced):
    """Equal weights of the cells, by hand: the means over b of the cell means of a."""
    fit = lj.lmer("y ~ a * b + (1 | g)", unbalanced)
    cells = pd.DataFrame([(a, b) for a in "xyz" for b in "uvw"], columns=["a", "b"])
    X, _, _ = fit.schema.new_data(cells, groups=False)
    means = X.reshape(3, 3, -1).mean(1)
    byhand = lj.linear_test(fit, means[1:] - means[0], ddf="kenward-roger")
    row = lj.anova(fit, ddf="kenward-roger").loc["a"]
    np.testing.assert_allclose(row[["F", "dendf", "p"]], [byhand.statistic, byhand.ddf, byhand.p_value], rtol=1e-9)


def test_slopes_in_groups(unbalanced):
    """Only terms with the same numbers contain each other: a is tested where x is zero, x as the mean slope."""
    fit = lj.lmer("y ~ a * x + (1 | g)", unbalanced)
    table = lj.anova(fit, ddf="residual")
    at_zero = lj.linear_test(fit, ["a[T.y]", "a[T.z]"], ddf="residual")
    assert table.loc["a", "F"] == pytest.approx(at_zero.statistic)
    slope = np.array([[0, 0, 0, 1, 1 / 3, 1 / 3]])
    assert table.loc["x", "F"] == pytest.approx(lj.linear_test(fit, slope, ddf="residual").statistic)


def test_of_linear_models(unbalanced):
    """Sequential sums of squares are those of the projections."""
    fit = lj.lm("y ~ a + x", unbalanced)
    table = lj.anova(fit, type=1)
    left = [np.sum(lj.lm(f, unbalanced).resid() ** 2) for f in ("y ~ 1", "y ~ a", "y ~ a + x")]
    np.testing.assert_allclose(table["sumsq"], -np.diff(left), rtol=1e-9)
    assert (table["dendf"] == 86).all()


def test_other_forms(unbalanced):
    fit = lj.lmer("y ~ x + (1 | g)", unbalanced)
    wald = lj.anova(fit, ddf=None)
    assert np.isinf(wald["dendf"]).all()
    assert wald.loc["x", "F"] == pytest.approx((fit.fixef["x"] / np.sqrt(fit.vcov.loc["x", "x"])) ** 2)
    assert wald.attrs["note"] == "type III, χ²"
    empty = lj.anova(lj.lmer("y ~ 1 + (1 | g)", unbalanced))
    assert empty.empty
    assert list(empty) == ["sumsq", "meansq", "numdf", "dendf", "F", "p"]
    nothing = lj.lmer("y ~ 0 + (1 | g)", unbalanced)
    for ddf in ("satterthwaite", "kenward-roger", "residual"):
        assert lj.anova(nothing, ddf=ddf).empty
        assert nothing.summary(ddf).coefficients.empty


def test_refusals(unbalanced):
    fit = lj.lmer("y ~ x + (1 | g)", unbalanced, reml=False)
    with pytest.raises(ValueError, match="type=4: choose 1, 2 or 3"):
        lj.anova(fit, type=4)
    with pytest.raises(ValueError, match=r"type=\[1\]: choose"):
        lj.anova(fit, type=[1])
    with pytest.raises(lj.DataError, match="needs a REML fit"):
        lj.anova(fit, ddf="kenward-roger")
    with pytest.raises(TypeError, match="not str"):
        lj.anova("fit")
