"""Tables of nested models and of all models that leave one thing out: identities, lme4's numbers, and refusals."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
from catalogue import Model, dataset, r_name
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

import lmmjax as lj
from lmmjax.inference import dropping
from lmmjax.inference.dropping import drop_one

COLUMNS = ["npar", "aic", "bic", "loglik", "deviance", "chisq", "df", "p"]
CAKE = "angle ~ recipe*temp + (1|recipe:replicate)"
SOYBEAN = "AqE ~ ID + days + I(days^2) + Precip + Precip_7day"


@cache
def cake(reml: bool = True, formula: str = CAKE, contrasts: str | None = None) -> lj.Fit:
    """A model of the cakes, 270 rows."""
    return lj.lmer(formula, dataset("bundled", "cake"), reml=reml, contrasts=contrasts)


@cache
def trial() -> pd.DataFrame:
    """A 120-row data set: two crossed factors g and h, a factor f of three levels, x with its own slopes, z, w > 0."""
    rng = np.random.default_rng(8)
    g, h = np.repeat(np.arange(12), 10), np.tile(np.arange(10), 12)
    x, z, f = rng.normal(size=(2, 120)).tolist() + [rng.choice(["a", "b", "c"], 120)]
    data = pd.DataFrame({"g": g, "h": h, "x": x, "z": z, "f": f, "w": rng.uniform(0.5, 2, 120)})
    slopes = rng.normal(size=12)[g] * data["x"] * 0.4
    data["y"] = 3 + 0.3 * data["x"] + slopes + 0.5 * rng.normal(size=12)[g] + 0.7 * rng.normal(size=10)[h]
    data["y"] += (f == "b") * 0.5 + rng.normal(size=120) / np.sqrt(data["w"])
    return data.astype({"g": str, "h": str})


def same_row(row: pd.Series, smaller: lj.Fit, full: lj.Fit, df: int) -> None:
    """A row is the ML fit of the smaller model, and its test against the full one."""
    assert (row["npar"], row["df"]) == (smaller.df, df)
    assert_allclose(row[["aic", "bic", "loglik"]].astype(float), [smaller.aic, smaller.bic, smaller.loglik], rtol=1e-9)
    chisq = max(0.0, 2 * (full.loglik - smaller.loglik))
    assert row["deviance"] == pytest.approx(-2 * smaller.loglik, rel=1e-9)
    assert row["chisq"] == pytest.approx(chisq, abs=1e-7)
    assert row["p"] == pytest.approx(stats.chi2.sf(chisq, df), rel=1e-5)


# ------------------------------------------------------------------------------------------------------------ drop_one


DROPPED = [  # random effects, options, fixed θ: one path of the core each
    ("", {}),
    ("(x|g)", {}),
    ("(x||g)", {"weights": "w", "offset": "z"}),
    ("(1|g) + (1|h)", {}),
    ("(x|g) + (1|h)", {"weights": "w"}),
    ("(1|g) + (1|h)", {"theta": [0.5, 0.0]}),
]


@pytest.mark.parametrize(("random", "options"), DROPPED, ids=lambda v: str(v))
def test_rows_are_fits_without_the_term(random, options):
    data, call = trial(), lj.lmer if random else lj.lm
    ml = {"reml": False, **options} if random else options
    random = random and f" + {random}"
    full = call(f"y ~ x + z + f{random}", data, **ml)
    table = drop_one(full)
    assert list(table.columns) == COLUMNS
    assert list(table.index) == ["<none>", "x", "z", "f"]
    whole = table.iloc[0]
    assert_allclose(whole[COLUMNS[:5]].astype(float), [full.df, full.aic, full.bic, full.loglik, -2 * full.loglik])
    assert whole[COLUMNS[5:]].isna().all()
    for name, rest, df in (("x", "z + f", 1), ("z", "x + f", 1), ("f", "x + z", 2)):
        same_row(table.loc[name], call(f"y ~ {rest}{random}", data, **ml), full, df)


def test_rows_are_fits_without_the_column():
    """Dropping the column of a level merges it with the reference level."""
    data, full = dataset("bundled", "cake"), cake(reml=False, formula="angle ~ recipe + temp + (1|recipe:replicate)")
    table = drop_one(full, columns=["recipe[T.B]", "temp", "Intercept"])
    merged = data.assign(r=np.where(data["recipe"] == "C", "C", "A or B"))
    smaller = lj.lmer("angle ~ r + temp + (1|recipe:replicate)", merged, reml=False)
    same_row(table.loc["recipe[T.B]"], smaller, full, 1)
    same_row(table.loc["temp"], cake(False, "angle ~ recipe + (1|recipe:replicate)"), full, 1)
    coded = data.assign(B=1.0 * (data["recipe"] == "B"), C=1.0 * (data["recipe"] == "C"))
    smaller = lj.lmer("angle ~ 0 + B + C + temp + (1|recipe:replicate)", coded, reml=False)
    same_row(table.loc["Intercept"], smaller, full, 1)
    assert_array_equal(drop_one(full, "temp"), table.loc[["<none>", "temp"]])


def test_reml_fits_are_compared_by_ml_and_the_table_says_so():
    restricted, table = drop_one(cake(True)), drop_one(cake(False))
    assert_allclose(restricted, table, rtol=1e-7, atol=1e-7)
    assert table.attrs["note"] == table.columns.name == "fitted by ML"
    assert restricted.attrs["note"] == "REML fit refitted by ML"
    assert "REML fit refitted by ML" in str(restricted)


def test_by_default_no_term_that_an_interaction_contains():
    assert list(drop_one(cake(False)).index) == ["<none>", "recipe:temp"]
    assert list(drop_one(cake(False, "angle ~ recipe:temp + recipe + (1|replicate)")).index[1:]) == ["recipe:temp"]
    for name in ("pulp_sum", "sleep_p0"):
        nothing = drop_one(Model("bundled", name).fit(False))
        assert (list(nothing.index), nothing.attrs["note"]) == (["<none>"], "fitted by ML")
    assert list(drop_one(Model("bundled", "sleep_rank_deficient").fit(False)).index) == ["<none>", "Days"]


def test_a_term_inside_an_interaction_is_dropped_from_its_coding():
    """With sum contrasts that is the test of type III; with an interaction kept whole it is none with treatments."""
    full = cake(False, contrasts="sum")
    table = drop_one(full, terms=["recipe", "recipe:temp"])
    same_row(table.loc["recipe:temp"], cake(False, "angle ~ recipe + temp + (1|recipe:replicate)"), full, 2)
    data = dataset("bundled", "cake")
    first, second = (1.0 * (data["recipe"] == level) - (data["recipe"] == "C") for level in "AB")
    coded = data.assign(u=first * data["temp"], v=second * data["temp"])
    same_row(table.loc["recipe"], lj.lmer("angle ~ temp + u + v + (1|recipe:replicate)", coded, reml=False), full, 2)


def test_a_batch_of_any_size():
    """Repeated names, and more of them than one compiled batch holds, change nothing."""
    fit = cake(False)
    one, many = drop_one(fit, "temp"), drop_one(fit, ["temp"] * (dropping.BATCH + 1))
    assert len(many) == dropping.BATCH + 2
    assert_array_equal(many.iloc[1:], one.iloc[[1] * (dropping.BATCH + 1)])
    assert list(drop_one(fit, columns=[]).index) == ["<none>"]


@pytest.mark.parametrize("random", ["(1|g)", "(1|g) + (1|h)", "(z|g)"])
def test_a_variance_that_is_zero_only_with_the_column(random):
    """The full model is on the boundary; without `between`, which explains the groups, it is not."""
    data, rng = trial(), np.random.default_rng(9)
    between = rng.normal(size=12)
    errors = rng.normal(size=(12, 10))
    errors -= 0.8 * errors.mean(1, keepdims=True)  # groups differ less than chance would have them
    data = data.assign(between=between[data["g"].astype(int)], y=2 * between[data["g"].astype(int)] + errors.ravel())
    full = lj.lmer(f"y ~ between + x + {random}", data, reml=False)
    smaller = lj.lmer(f"y ~ x + {random}", data, reml=False)
    assert full.is_singular
    assert full.theta[0] < 0.01 < 1 < smaller.theta[0]
    table = drop_one(full)
    same_row(table.loc["between"], smaller, full, 1)
    same_row(table.loc["x"], lj.lmer(f"y ~ between + {random}", data, reml=False), full, 1)


def test_large_means_lose_no_digits():
    data = trial()
    fits = [lj.lmer("y ~ x + f + (1|g)", data.assign(y=data["y"] + shift), reml=False) for shift in (0, 1e6)]
    first, second = (drop_one(fit) for fit in fits)
    assert_allclose(second, first, rtol=1e-8, atol=1e-6)


def test_a_fit_without_convergence_is_told(monkeypatch):
    batch = dropping._batch
    monkeypatch.setattr(dropping, "_batch", lambda *a: (batch(*a)[0], 0 * batch(*a)[1] + 2))
    with pytest.warns(lj.ConvergenceWarning, match="the model without 'temp': optimisation stopped at the iteration"):
        drop_one(cake(False), "temp")


@pytest.mark.parametrize(
    ("names", "error", "parts"),
    [
        ({"columns": "recipeB"}, lj.FormulaError, ["'recipeB' is no column", "'recipe[T.B]'", "'recipe[T.B]:temp'"]),
        ({"columns": ["temp", "tmp"]}, lj.FormulaError, ["'tmp'", "did you mean 'temp'?"]),
        ({"terms": "recipe[T.B]"}, lj.FormulaError, ["no fixed-effects term", "'recipe', 'temp', 'recipe:temp'"]),
        ({"terms": "temp", "columns": "temp"}, ValueError, ["columns or terms"]),
    ],
)
def test_unknown_names(names, error, parts):
    with pytest.raises(error) as caught:
        drop_one(cake(False), **names)
    for part in parts:
        assert part in str(caught.value)


# --------------------------------------------------------------------------------------------------------------- anova


LADDER = ["angle ~ temp", "angle ~ temp + (1|recipe:replicate)", "angle ~ recipe + temp + (1|recipe:replicate)", CAKE]


def ladder(reml: bool) -> list[lj.Fit]:
    """Four nested models, the smallest of them without random effects."""
    return [lj.lm(LADDER[0], dataset("bundled", "cake")), *(cake(reml, formula) for formula in LADDER[1:])]


@pytest.mark.parametrize("reml", [False, True], ids=["ML", "REML"])
def test_rows_are_differences_of_log_likelihoods(reml):
    table, fits = lj.anova(*ladder(reml)), ladder(False)
    assert list(table.columns) == COLUMNS
    assert list(table.index) == LADDER
    assert_array_equal(table["npar"], [3, 4, 6, 8])
    for name in ("aic", "bic", "loglik"):
        assert_allclose(table[name], [getattr(f, name) for f in fits], rtol=1e-9)
    assert table.iloc[0][COLUMNS[5:]].isna().all()
    for i in range(1, 4):
        chisq = 2 * (fits[i].loglik - fits[i - 1].loglik)
        assert table["chisq"].iloc[i] == pytest.approx(chisq, abs=1e-7)
        assert table["p"].iloc[i] == pytest.approx(stats.chi2.sf(chisq, fits[i].df - fits[i - 1].df), rel=1e-5)
    assert table.attrs["note"] == ("REML fits refitted by ML" if reml else "fitted by ML")
    assert table.attrs["note"] in str(table)


def test_order_of_the_arguments():
    fits = ladder(False)
    expected = lj.anova(*fits)
    for order in ((3, 2, 1, 0), (2, 0, 3, 1)):
        pd.testing.assert_frame_equal(lj.anova(*(fits[i] for i in order)), expected)


def test_restricted_likelihoods_where_they_are_wanted():
    data = dataset("bundled", "sleepstudy")
    fits = [lj.lmer(f"Reaction ~ Days + {random}", data) for random in ("(1|Subject)", "(Days|Subject)")]
    linear = lj.lm("Reaction ~ Days", data)
    table = lj.anova(*fits, linear, refit=False)
    restricted = [linear.reml_criterion, *(f.reml_criterion for f in fits)]
    assert_allclose(table["deviance"], restricted)
    assert_allclose(table["chisq"].iloc[1:], -np.diff(restricted))
    assert table.attrs["note"] == "fitted by REML"
    assert lj.anova(lj.lmer("Reaction ~ 1 + (1|Subject)", data), *fits).attrs["note"] == "REML fits refitted by ML"


def test_models_of_equal_size():
    """No p-value where no parameter was added."""
    same = lj.anova(cake(False), cake(False))
    assert_array_equal(same[["chisq", "df"]].iloc[1], [0, 0])
    assert np.isnan(same["p"].iloc[1])
    assert list(same.index) == [CAKE, CAKE]


def test_a_given_theta_stays():
    data = dataset("bundled", "sleepstudy")
    fixed = [lj.lmer(f"Reaction ~ {x} + (1|Subject)", data, theta=[0.5]) for x in ("1", "Days")]
    expected = [lj.lmer(f"Reaction ~ {x} + (1|Subject)", data, theta=[0.5], reml=False) for x in ("1", "Days")]
    assert_allclose(lj.anova(*fixed)["loglik"], [f.loglik for f in expected])


def test_singular_fits():
    data = dataset("bundled", "Dyestuff2")
    fit, linear = lj.lmer("Yield ~ 1 + (1|Batch)", data), lj.lm("Yield ~ 1", data)
    table = lj.anova(fit, linear)
    assert_allclose(table["loglik"], linear.loglik)
    assert_allclose(table.iloc[1][["chisq", "df", "p"]].astype(float), [0, 1, 1], atol=1e-6)


def test_fits_that_cannot_be_compared():
    fit, data = cake(False), dataset("bundled", "cake")
    with pytest.raises(ValueError, match="two or more fits; it was given 0"):
        lj.anova()
    with pytest.raises(TypeError, match="not str"):
        lj.anova(fit, CAKE)
    with pytest.raises(lj.DataError, match="270 and 269 rows"):
        lj.anova(fit, lj.lm("angle ~ temp", data.iloc[1:]))
    with pytest.raises(lj.DataError, match=r"differ in their responses \(angle and log\(angle\)\)"):
        lj.anova(fit, lj.lm("log(angle) ~ temp", data))
    with pytest.raises(lj.DataError, match="differ in the rows that they use"):
        lj.anova(fit, lj.lm("angle ~ temp", data.iloc[::-1]))
    with pytest.raises(lj.DataError, match="differ in weights"):
        lj.anova(fit, lj.lm("angle ~ temp", data, weights="temp"))


def test_models_that_are_not_nested():
    data, smaller = dataset("bundled", "cake"), cake(False, "angle ~ recipe + (1|recipe:replicate)")
    with pytest.raises(lj.DataError, match="not nested: the larger model's fixed effects do not span temp"):
        lj.anova(cake(False, LADDER[1]), smaller)
    with pytest.raises(
        lj.DataError, match=r"not nested: \(1 \| recipe:replicate\) is no special case of a random term"
    ):
        lj.anova(cake(False, LADDER[1]), lj.lmer("angle ~ recipe*temp + (1|replicate)", data, reml=False))


def test_restricted_likelihoods_that_do_not_compare():
    data, sums = dataset("bundled", "cake"), cake(True, contrasts="sum")
    with pytest.raises(
        lj.DataError, match=r"other fixed effects \(only .*recipe \+ temp.* spans recipe\[T.B\], recipe"
    ):
        lj.anova(cake(True, LADDER[1]), cake(True, LADDER[2]), refit=False)
    with pytest.raises(lj.DataError, match=r"in other columns \(.*recipe\[S.A\].*recipe\[T.B\].* REML criteria depend"):
        lj.anova(sums, cake(True), refit=False)
    assert_allclose(lj.anova(sums, cake(True))["loglik"], cake(False).loglik)
    with pytest.raises(ValueError, match="some of the fits are by REML, others by ML"):
        lj.anova(cake(False), cake(True), refit=False)
    assert lj.anova(lj.lm("angle ~ temp", data), cake(False), refit=False).attrs["note"] == "fitted by ML"


# ---------------------------------------------------------------------------------------------------- R (lme4)


@pytest.mark.parametrize("reml", [False, True], ids=["ML", "REML"])
@pytest.mark.parametrize("name", ["irrigation_interaction", "irrigation_variety", "sleep_corr", "sleep_slope"])
def test_anova_as_lme4(name, reml, reference):
    r = reference["comparisons"][f"lrt_{name}"]
    large, small = (Model("shared", r[which]).fit(reml) for which in ("large", "small"))
    row = lj.anova(large, small).iloc[1]
    assert_allclose(row[["chisq", "df", "p"]].astype(float), [r["lrt"], r["df"], r["p"]], rtol=1e-6)


def test_pulp_as_in_r(reference):
    r, data = reference["comparisons"]["pulp_lrt_null"], dataset("shared", "pulp")
    table = lj.anova(lj.lmer("bright ~ 1 + (1|operator)", data), lj.lm("bright ~ 1", data))
    assert table["loglik"].iloc[0] == pytest.approx(r["logLik_null"])
    assert_allclose(table[["chisq", "p"]].iloc[1], [r["lrt"], r["p_chisq"]], rtol=1e-7)


@cache
def soybean() -> list[lj.Fit]:
    """The three models of the shared soybean data, by ML."""
    data, plots = dataset("shared", "soybean_sim"), f"{SOYBEAN} + (1|plot_number)"
    return [lj.lm(SOYBEAN, data), *(lj.lmer(f, data, reml=False) for f in (plots, f"{plots} + (1|disk)"))]


def test_soybean_ladder_as_in_r(reference):
    r, table = reference["comparisons"]["soy_ladder"], lj.anova(*soybean())
    for name, theirs in (("aic", "AIC"), ("bic", "BIC"), ("loglik", "logLik")):
        assert_allclose(table[name], r[theirs], rtol=1e-9)
    disk = reference["comparisons"]["lrt_soy_disk"]
    assert_allclose(table[["chisq", "p"]].iloc[2], [disk["lrt"], disk["p"]], rtol=1e-6)


def test_soybean_genotype_screen_as_in_r(reference):
    """40 refits of the crossed model, each without the column of one genotype."""
    r, fit = reference["comparisons"]["soy_drop_one_ID"], soybean()[2]
    data = dataset("shared", "soybean_sim")
    columns = {r_name(name, data): name for name in fit.schema.fixed_names}
    table = drop_one(fit, [columns[name] for name in r["column"]])
    assert table["aic"].iloc[0] == pytest.approx(r["full_AIC"], rel=1e-9)
    assert_allclose(table["aic"].iloc[1:], r["AIC"], rtol=1e-9)
