"""Classical analysis of variance: R's aov and model.tables, the notes' numbers, and identities of mean squares."""

import itertools
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import references
from catalogue import dataset
from numpy.testing import assert_allclose
from scipy import stats

import lmmjax as lj
from lmmjax.inference.df import freedom

COLUMNS = ["df", "sumsq", "meansq", "F", "p"]
R = references.bundled("classical_reference.json")
PLACES = ["sumsq", "meansq", "numdf", "dendf", "F", "p", "denominator", "exact"]


def as_list(value: Any) -> list:
    """JSON written by R has a bare number where a vector has one element."""
    return value if isinstance(value, list) else [value]


def data_of(model: dict[str, Any]) -> pd.DataFrame:
    """The data of one of R's models."""
    name = model["dataset"]
    if name in R["datasets"]:
        columns, kinds = R["datasets"][name]["data"], R["datasets"][name]["columns"]
        levels = {c: kind["levels"] for c, kind in kinds.items() if kind["type"] == "factor"}
        data = pd.DataFrame({c: pd.Categorical(v, levels[c]) if c in levels else v for c, v in columns.items()})
    else:
        data = dataset("bundled", name)
    return data.drop(index=[i - 1 for i in model["drop"]])


@cache
def analysis(name: str) -> Any:
    """Ours of one of R's models."""
    model = R["models"][name]
    return lj.aov(model["formula"], data_of(model))


# ------------------------------------------------------------------------------------------------------------------ R


@pytest.mark.parametrize("name", R["models"])
def test_tables_are_those_of_r(name):
    """Partly confounded, unbalanced and saturated designs among them."""
    ours, theirs = analysis(name), R["models"][name]["strata"]
    assert list(ours.strata) == list(theirs)
    for stratum, table in ours.strata.items():
        r = theirs[stratum]
        assert list(table.columns) == COLUMNS
        assert list(table.index) == as_list(r["terms"])
        assert list(table["df"]) == as_list(r["df"])
        for column in COLUMNS[1:]:
            expected = np.array(as_list(r[column]), dtype=float)
            assert_allclose(table[column], expected, rtol=1e-9, atol=1e-12, err_msg=f"{stratum} {column}")


TIES = {"npk", "sleep_unbalanced", "eggs"}  # have 33.135, 9.3025, 0.088605 to round: the last bit decides


@pytest.mark.parametrize("name", [name for name in R["models"] if name not in TIES])
def test_print_is_that_of_r(name):
    """Word by word; R's quotes are typographic, and its columns are wider by a blank."""
    printed = "\n".join(R["models"][name]["printed"]).replace("‘", "'").replace("’", "'")
    ours = [line.split() for line in repr(analysis(name)).splitlines() if line]
    assert ours == [line.split() for line in printed.splitlines() if line]


TABLES = [(name, kind) for name, model in R["models"].items() for kind in ("effects", "means") if kind in model]


@pytest.mark.parametrize(("name", "kind"), TABLES)
def test_model_tables_are_those_of_r(name, kind):
    r = R["models"][name][kind]
    tables = lj.model_tables(analysis(name), kind)
    assert list(tables) == list(r["cells"])
    for term, cells in r["cells"].items():
        assert_allclose(tables[term], cells, rtol=1e-9, atol=1e-11)
    if kind == "means":
        assert tables.grand_mean == pytest.approx(r["grand_mean"], rel=1e-12)
    elif r["se"]:
        assert_allclose(tables.se[list(r["se"])], list(r["se"].values()), rtol=1e-9)


# ---------------------------------------------------------------------------------------------------------- the notes


def test_pulp_as_in_the_notes():
    pulp = lj.datasets.load("pulp")
    fit = lj.aov("bright ~ operator", pulp)
    assert list(fit.table.index) == ["operator", "Residuals"]
    assert list(fit.table["df"]) == [3, 16]
    assert_allclose(fit.table["sumsq"], [1.34, 1.70], atol=5e-13)
    assert_allclose(fit.table["meansq"], [0.4467, 0.1062], atol=5.1e-5)
    assert fit.table.loc["operator", "F"] == pytest.approx(4.204, abs=5e-4)
    assert fit.table.loc["operator", "p"] == pytest.approx(0.0226, abs=5e-5)
    assert_allclose(lj.lm("bright ~ operator", pulp, contrasts="sum").fixef, [60.40, -0.16, -0.34, 0.22], atol=1e-9)
    effects = lj.model_tables(fit)["operator"]
    assert_allclose(effects, [-0.16, -0.34, 0.22, 0.28], atol=1e-12)
    found = lj.variance_components_anova("bright ~ 1 + (1|operator)", pulp)
    by_hand = (fit.table.loc["operator", "meansq"] - fit.table.loc["Residuals", "meansq"]) / 5
    assert found.components.loc["operator", "estimate"] == pytest.approx(by_hand, rel=1e-12)
    assert_allclose(found.components["estimate"], [0.06808, 0.10625], atol=5e-6)
    ratio = effects / found.fit.ranef()["operator"]["Intercept"]
    assert_allclose(ratio, 1.312117, atol=5e-7)


def test_irrigation_as_in_the_notes():
    """The Kenward-Roger tests of the notes, .2452 on (3, 4), 1.5782 on (1, 7) and .3882 on (3, 4)."""
    data = lj.datasets.load("irrigation")
    strata = lj.aov("yield ~ irrigation * variety + Error(field)", data).strata
    interaction, whole = strata["Within"].loc["irrigation:variety"], strata["field"].loc["irrigation"]
    assert (interaction["F"], interaction["p"]) == pytest.approx((0.2452, 0.8612), abs=5e-5)
    assert (whole["F"], whole["p"]) == pytest.approx((0.3882, 0.7685), abs=5e-5)
    variety = lj.aov("yield ~ irrigation + variety + Error(field)", data).strata["Within"].loc["variety"]
    assert (variety["F"], variety["p"]) == pytest.approx((1.5782, 0.2493), abs=1e-4)


# --------------------------------------------------------------------------------------------------------- identities


MODELS = {  # formula and data set of balanced mixed models, and whether an estimate is negative
    "pulp": ("bright ~ 1 + (1|operator)", False),
    "Dyestuff": ("Yield ~ 1 + (1|Batch)", False),
    "Dyestuff2": ("Yield ~ 1 + (1|Batch)", True),
    "eggs": ("Fat ~ 1 + (1|Lab/Technician/Sample)", False),
    "Pastes": ("strength ~ 1 + (1|batch/cask)", False),
    "Penicillin": ("diameter ~ 1 + (1|plate) + (1|sample)", False),
    "irrigation": ("yield ~ irrigation * variety + (1|field)", False),
    "cake": ("angle ~ recipe * temperature + (1|replicate/recipe)", False),
}


@cache
def components(name: str) -> Any:
    """The ANOVA estimators of one of MODELS."""
    return lj.variance_components_anova(MODELS[name][0], lj.datasets.load(name))


@pytest.mark.parametrize("name", MODELS)
def test_balanced_estimates_are_reml_unless_negative(name):
    found, negative = components(name), MODELS[name][1]
    assert (found.components["estimate"] < 0).any() == negative
    if negative:
        assert found.components["reml"].iloc[0] == 0
        assert "negative" in repr(found)
    else:
        assert_allclose(found.components["estimate"], found.components["reml"], rtol=1e-8)


@pytest.mark.parametrize("name", MODELS)
def test_lines_add_up(name):
    """Sums of squares and degrees of freedom to those of the response about its mean, mean squares to their model."""
    found = components(name)
    y = found.fit.design.y
    assert list(found.table.columns) == PLACES
    assert found.table["sumsq"].sum() == pytest.approx(np.sum((y - y.mean()) ** 2), rel=1e-12)
    assert found.table["numdf"].sum() == len(y) - 1
    parts = found.components.index
    expected = found.ems.loc[parts].to_numpy() @ found.components["estimate"].to_numpy()
    assert_allclose(expected, found.table.loc[parts, "meansq"], rtol=1e-12)


def test_expected_mean_squares_of_the_textbooks():
    assert_allclose(
        components("eggs").ems.to_numpy(), [[8, 4, 2, 1], [0, 4, 2, 1], [0, 0, 2, 1], [0, 0, 0, 1]], atol=1e-12
    )
    assert_allclose(components("Penicillin").ems.to_numpy(), [[6, 0, 1], [0, 24, 1], [0, 0, 1]], atol=1e-12)
    cake = [[0, 6, 1], [0, 0, 1], [0, 0, 1], [18, 6, 1], [0, 6, 1], [0, 0, 1]]
    assert_allclose(components("cake").ems.to_numpy(), cake, atol=1e-12)
    assert list(components("cake").ems.columns) == ["replicate", "recipe:replicate", "Residual"]


def test_strata_and_expected_mean_squares_agree():
    """The denominators of a balanced split-plot are the residuals of its strata."""
    strata = analysis("cake").strata
    table = components("cake").table
    for stratum, term in (("replicate:recipe", "recipe"), ("Within", "temperature"), ("Within", "recipe:temperature")):
        columns = ["sumsq", "meansq", "F", "p"]
        assert_allclose(table.loc[term, columns].astype(float), strata[stratum].loc[term, columns], rtol=1e-10)
        assert table.loc[term, "dendf"] == pytest.approx(strata[stratum].loc["Residuals", "df"], rel=1e-10)
    assert table["exact"][:-1].all()
    assert list(table["denominator"][:-1]) == [
        "recipe:replicate",
        "Residual",
        "Residual",
        "recipe:replicate",
        "Residual",
    ]


@pytest.mark.parametrize("name", ["irrigation", "cake"])
def test_f_tests_of_fixed_terms_are_kenward_and_rogers(name):
    """Balanced and no variance zero: the scaling is one and F exact."""
    found = components(name)
    fit = lj.lmer(MODELS[name][0], lj.datasets.load(name), contrasts="sum")
    tests = freedom(fit.estimate, fit.cross_products, True, "kenward-roger")
    for term, where in fit.schema.fixed_terms[1:]:
        f = tests.f_test(np.eye(fit.design.p)[list(where)], fit.estimate.beta)
        row = found.table.loc[term]
        assert_allclose(row[["numdf", "dendf", "F"]].astype(float), [f.numdf, f.dendf, f.F], rtol=1e-6)


def three_way() -> pd.DataFrame:
    """A balanced crossed design, 120 rows: a fixed, b and c random with their interactions with a, r a copy."""
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(itertools.product(range(4), range(3), range(5), range(2)), columns=["a", "b", "c", "r"])
    y = 10 + frame["a"] + rng.normal(size=len(frame))
    for names, sd in ((["b"], 1.5), (["c"], 1.0), (["a", "b"], 1.2), (["a", "c"], 1.1)):
        codes = frame.groupby(names).ngroup().to_numpy()
        y = y + sd * rng.normal(size=codes.max() + 1)[codes]
    return frame.assign(y=y).astype({"a": str, "b": str, "c": str})


def test_synthesised_denominator():
    """No mean square has the expectation of a's without a: three together have, with Satterthwaite's df.

    They are the df that the REML fit gives by its information matrix.
    """
    found = lj.variance_components_anova("y ~ a + (1|b) + (1|c) + (1|a:b) + (1|a:c)", three_way())
    ms, df = found.table["meansq"], found.table["numdf"]
    below = ms["a:b"] + ms["a:c"] - ms["Residual"]
    dendf = below**2 / sum(ms[t] ** 2 / df[t] for t in ("a:b", "a:c", "Residual"))
    row = found.table.loc["a"]
    assert row["denominator"] == "a:b + a:c - Residual"
    assert not row["exact"]
    assert (row["F"], row["dendf"]) == pytest.approx((ms["a"] / below, dendf), rel=1e-9)
    assert row["p"] == pytest.approx(stats.f.sf(row["F"], 3, dendf), rel=1e-9)
    assert list(found.table["denominator"][1:5]) == ["a:b", "a:c", "Residual", "Residual"]
    assert found.table["exact"][1:5].all()
    assert_allclose(found.components["estimate"], found.components["reml"], rtol=1e-8)
    fit = found.fit
    test = freedom(fit.estimate, fit.cross_products, True, "satterthwaite").f_test(np.eye(4)[1:], fit.estimate.beta)
    assert_allclose([test.F, test.dendf], [row["F"], row["dendf"]], rtol=1e-5)


def test_a_negative_denominator_gives_no_test():
    """Without the two interactions the residual is subtracted from nothing."""
    data = three_way()
    effects = {e.term: e.values for e in lj.aov("y ~ a*b + a*c", data).effects}
    data["y"] -= effects["a:b"] + effects["a:c"]
    found = lj.variance_components_anova("y ~ a + (1|b) + (1|c) + (1|a:b) + (1|a:c)", data)
    assert found.table.loc["a", "denominator"] == "a:b + a:c - Residual"
    assert found.table.loc["a", ["dendf", "F", "p"]].isna().all()
    assert len(found.notes) == 2
    assert (found.components.loc[["a:b", "a:c"], "estimate"] < 0).all()


def test_one_denominator_is_not_enough_to_be_exact():
    """Three groups of four. Of z one half lies between them, so has its mean square the expectation of that of g, on
    which it depends; so has that of the pair (b, w), one between and one within, which is no multiple of χ².
    """
    between, within = [2, -1, -1], [1, -1, 1, -1]
    b = np.repeat(between, 4) / np.sqrt(24)
    w = np.tile(within, 3) / np.sqrt(12)
    z = np.repeat([0, 1, -1], 4) / np.sqrt(8) + np.tile([1, 1, -1, -1], 3) / np.sqrt(12)
    y = np.random.default_rng(5).normal(size=12) + np.repeat([0.0, 3, -2], 4)
    data = pd.DataFrame({"y": y, "b": b, "w": w, "z": z, "g": np.repeat(list("abc"), 4)})
    found = lj.variance_components_anova("y ~ z + np.column_stack([b, w]) + (1|g)", data)
    assert_allclose(found.ems["g"], [2, 2, 2, 0], atol=1e-12)
    assert list(found.table["denominator"][:3]) == ["g", "g", "Residual"]
    assert list(found.table["exact"][:3]) == [False, False, True]


def ragged() -> pd.DataFrame:
    """An unbalanced design: g nested in h, crossed with k, and a fixed f."""
    rng = np.random.default_rng(11)
    n = 60
    h, k = rng.integers(0, 5, n), rng.integers(0, 4, n)
    g = rng.integers(0, 3, n)
    y = rng.normal(size=5)[h] + rng.normal(size=(5, 3))[h, g] + rng.normal(size=4)[k] + rng.normal(size=n)
    return pd.DataFrame({"y": y, "h": h, "g": g, "k": k, "f": rng.choice(["u", "v", "w"], n), "x": rng.normal(size=n)})


def dense(labels: pd.Series) -> np.ndarray:
    """(n, ℓ) indicators."""
    return pd.get_dummies(labels).to_numpy(float)


def test_unbalanced_expected_mean_squares_are_traces():
    """Against projectors by pseudo-inverse: E yᵀQy = tr(QV) for each line, so the estimates are unbiased."""
    data = ragged()
    found = lj.variance_components_anova("y ~ f + x + (1|h/g) + (1|k)", data)
    assert list(found.ems.index) == ["f", "x", "h", "k", "g:h", "Residual"]
    n = len(data)
    blocks = [np.ones((n, 1)), dense(data["f"]), data[["x"]].to_numpy(), dense(data["h"]), dense(data["k"])]
    blocks += [dense(data["h"].astype(str) + data["g"].astype(str)), np.eye(n)]
    projectors = [(lambda B: B @ np.linalg.pinv(B))(np.column_stack(blocks[: i + 1])) for i in range(len(blocks))]
    random = {"h": blocks[3], "k": blocks[4], "g:h": blocks[5], "Residual": np.eye(n)}
    for line, before, after in zip(found.ems.index, projectors[:-1], projectors[1:], strict=True):
        Q, y = after - before, data["y"].to_numpy()
        assert found.table.loc[line, "numdf"] == round(np.trace(Q))
        assert found.table.loc[line, "sumsq"] == pytest.approx(y @ Q @ y, rel=1e-9)
        expected = [np.trace(Q @ Z @ Z.T) / np.trace(Q) for Z in random.values()]
        assert_allclose(found.ems.loc[line, list(random)], expected, atol=1e-10)
    assert not found.table.loc["h", "exact"]
    assert found.table.loc["g:h", "exact"]  # the residual is below, and no other component is in it


def test_unbalanced_one_way_has_n0():
    """n₀ = (n − Σnᵢ²/n)/(a − 1), and F is exact still."""
    data = data_of(R["models"]["oneway_unbalanced"])
    found = lj.variance_components_anova("Yield ~ 1 + (1|Batch)", data)
    sizes = data["Batch"].value_counts().to_numpy()
    n0 = (sizes.sum() - np.sum(sizes**2) / sizes.sum()) / (len(sizes) - 1)
    assert found.ems.loc["Batch", "Batch"] == pytest.approx(n0, rel=1e-12)
    table = analysis("oneway_unbalanced").table
    row = found.table.loc["Batch"]
    assert (row["F"], row["p"], row["dendf"]) == pytest.approx((table["F"].iloc[0], table["p"].iloc[0], 19), rel=1e-10)
    assert row["exact"]


@pytest.mark.parametrize("change", ["rows", "names", "contrasts"])
def test_nothing_depends_on_rows_names_or_coding(change):
    """The terms of cake, partly crossed with strata."""
    data = lj.datasets.load("cake")
    formula = "angle ~ recipe * temperature + Error(replicate/recipe)"
    if change == "rows":
        data = data.sample(frac=1, random_state=1)
    elif change == "names":
        names = {level: f"z{i}" for i, level in enumerate(reversed(list(data["recipe"].cat.categories)))}
        data = data.assign(recipe=data["recipe"].astype(str).map(names), replicate=data["replicate"].astype(str))
    else:
        formula = "angle ~ C(recipe, Sum) * C(temperature, Helmert) + Error(replicate/C(recipe, Sum))"
    changed, before = lj.aov(formula, data).table, analysis("cake").table
    assert_allclose(changed.to_numpy(), before.to_numpy(), rtol=1e-9)


def test_the_order_of_random_terms_is_settled():
    """What determines another term comes after it, whatever is written first."""
    data = lj.datasets.load("Pastes")
    turned = lj.variance_components_anova("strength ~ 1 + (1|batch:cask) + (1|batch)", data)
    assert list(turned.ems.columns) == ["batch", "batch:cask", "Residual"]
    assert_allclose(turned.components.to_numpy(), components("Pastes").components.to_numpy(), rtol=1e-9)


def test_rows_with_missing_values_are_left_out():
    """In the response, a term and a stratum, all at once."""
    data = lj.datasets.load("cake").astype({"angle": float, "recipe": object, "replicate": object})
    data.loc[3, "angle"], data.loc[60, "recipe"], data.loc[200, "replicate"] = np.nan, None, None
    formula = "angle ~ recipe * temperature + Error(replicate/recipe)"
    pd.testing.assert_frame_equal(lj.aov(formula, data).table, lj.aov(formula, data.dropna()).table)
    with pytest.raises(lj.DataError, match="angle"):
        lj.aov(formula, data, na_action="raise")
    subset = lj.aov(formula, data, subset="temp < 200").table
    pd.testing.assert_frame_equal(subset, lj.aov(formula, data[data["temp"] < 200]).table)


def test_offsets_are_taken_off():
    data = lj.datasets.load("pulp").assign(o=lambda d: np.linspace(0, 2, len(d)))
    data["less"] = data["bright"] - data["o"]
    offset = lj.aov("bright ~ operator + offset(o)", data).table
    assert_allclose(offset.to_numpy(), lj.aov("less ~ operator", data).table.to_numpy(), rtol=1e-9)
    found = lj.variance_components_anova("bright ~ offset(o) + (1|operator)", data).components
    assert_allclose(found, lj.variance_components_anova("less ~ 1 + (1|operator)", data).components, rtol=1e-8)


def test_error_may_stand_anywhere_and_hold_any_expansion():
    data = three_way().assign(**{"odd name": lambda d: d["b"]})
    first = lj.aov("y ~ Error(b*c) + a", data)
    assert list(first.strata) == ["b", "c", "b:c", "Within"]
    pd.testing.assert_frame_equal(first.table, lj.aov("y ~ a + Error(b + c + b:c)", data).table)
    quoted = lj.aov("y ~ a + Error(`odd name` * c)", data)
    assert_allclose(quoted.table, first.table)
    numbers = lj.aov("y ~ a + Error(C(b) * c)", data.astype({"b": int}))
    assert_allclose(numbers.table, first.table)


def test_a_term_in_two_strata_has_no_tables():
    with pytest.raises(lj.DataError, match="'N' is spread over the strata 'block', 'Within'"):
        lj.model_tables(analysis("npk_unbalanced"))
    with pytest.raises(lj.DataError, match="'tension' differs within its cells"):
        lj.model_tables(analysis("warpbreaks_unbalanced"))


def test_tables_say_how_far_they_can_be_trusted():
    """Standard errors of differences by hand; none for means that mix strata, unequal cells, or without residuals."""
    means = lj.model_tables(analysis("irrigation"), "means")
    ms = {name: table.loc["Residuals", "meansq"] for name, table in analysis("irrigation").strata.items()}
    assert_allclose(means.se, [np.sqrt(ms["field"] / 2), np.sqrt(ms["Within"] / 4), np.nan])
    assert list(means.replications["irrigation:variety"]) == [2] * 8
    assert means["irrigation:variety"].index.names == ["irrigation", "variety"]
    assert means["irrigation:variety"]["i4", "v2"] == pytest.approx(43.8)
    assert lj.model_tables(analysis("oneway_unbalanced")).se.isna().all()
    assert np.isnan(lj.model_tables(analysis("irrigation_all")).se["irrigation"])


def test_html_has_every_table():
    html = analysis("irrigation")._repr_html_()
    assert html.count("<table") == 2
    assert "Error: field" in html
    assert lj.model_tables(analysis("irrigation"))._repr_html_().count("<table") == 3
    assert components("Dyestuff2")._repr_html_().count("<table") == 3
    assert "i4" in repr(lj.model_tables(analysis("irrigation"), "means"))
    assert "Expected mean squares" in repr(components("cake"))


# ------------------------------------------------------------------------------------------------------------- errors


BAD = [
    ("aov", "y ~ a + Error(n)", lj.FormulaError, r"'n' in Error\(\) is numeric; .* write C\(n\)"),
    ("aov", "y ~ a + Error(b) + Error(c)", lj.FormulaError, "more than one Error"),
    ("aov", "y ~ a + Error()", lj.FormulaError, "names no factor"),
    ("aov", "y ~ a + Error(1)", lj.FormulaError, "names no factor"),
    ("aov", "y ~ a * Error(b)", lj.FormulaError, "cannot be multiplied"),
    ("aov", "y ~ a - Error(b)", lj.FormulaError, "cannot be subtracted"),
    ("aov", "y ~ a + (1|b)", lj.FormulaError, "takes strata as Error"),
    ("aov", "y ~ a + Error(b) + (1|c)", lj.FormulaError, "takes strata as Error"),
    ("aov", "y ~ a + Error(nowhere)", lj.FormulaError, "nowhere"),
    ("aov", "y ~ a + Error(b + same)", lj.DataError, "'same'.* no degrees of freedom.*'b'"),
    ("aov", "y ~ a + Error(one)", lj.DataError, "'one'.*only one level"),
    ("aov", "y ~ a + Error(row)", lj.DataError, "120 levels of 'row'"),
    ("aov", "constant ~ a", lj.DataError, "constant"),
    ("aov", "y ~ a*b*c*r", lj.DataError, "more rows than columns"),
    ("aov", 3, lj.FormulaError, "a formula is a text"),
    ("variance_components_anova", "y ~ a", lj.FormulaError, "no random term"),
    ("variance_components_anova", "y ~ a + (n|b)", lj.FormulaError, r"write one \(1\|b\)"),
    ("variance_components_anova", "y ~ a + (1|b) + (1|b)", lj.FormulaError, r"write one \(1\|b\)"),
    ("variance_components_anova", "y ~ a + (1|a)", lj.DataError, r"\(1\|a\) has no degrees of freedom"),
    ("variance_components_anova", "y ~ a + (1|b) + (1|same)", lj.DataError, r"\(1\|same\) has no degrees of freedom"),
    ("variance_components_anova", "y ~ a*b*c + (1|half)", lj.DataError, "leave none for the residual"),
    ("variance_components_anova", "constant ~ a + (1|b)", lj.DataError, "constant"),
]


@pytest.mark.parametrize(("function", "formula", "error", "message"), BAD, ids=lambda v: str(v)[:40])
def test_bad_models_are_refused(function, formula, error, message):
    data = three_way().assign(n=lambda d: d["a"].astype(int), one="x", constant=1.0)
    data = data.assign(same="s" + data["b"], r=data["r"].astype(str), row=data.index.astype(str))
    data["half"] = np.where(data["r"] == "0", data["a"] + data["b"] + data["c"], "rest")
    with pytest.raises(error, match=message):
        getattr(lj, function)(formula, data)


def test_bad_tables_are_refused():
    fit = analysis("pulp")
    with pytest.raises(ValueError, match="kind='mean': choose one of effects, means"):
        lj.model_tables(fit, "mean")
    with pytest.raises(TypeError, match="what aov"):
        lj.model_tables(lj.lm("bright ~ operator", lj.datasets.load("pulp")))
    with pytest.raises(lj.DataError, match=r"'Days' is numeric.*C\(Days\)"):
        lj.model_tables(analysis("sleepstudy"))
    with pytest.raises(lj.FormulaError, match="needs an intercept"):
        lj.model_tables(analysis("warpbreaks_cells"))


def test_nothing_is_divided_by_rounding():
    """A term that explains the response exactly has no F."""
    data = pd.DataFrame({"g": list("aabbcc"), "y": [1.0, 1, 2, 2, 4, 4]})
    assert lj.aov("y ~ g", data).table[["F", "p"]].isna().all(axis=None)
