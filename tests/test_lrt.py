"""Likelihood-ratio tests of fixed and random terms: closed-form limits, R's tables, invariances and refusals."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
from catalogue import SHARED, Model, dataset
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

import lmmjax as lj
from lmmjax.inference.chibar import closed_weights
from lmmjax.inference.compare import lrt, ranova

SLEEP = "Reaction ~ Days + "


@cache
def sleep(random: str = "", reml: bool = False, fixed: str = "Days") -> lj.Fit:
    """A model of sleepstudy, linear where there are no random terms."""
    data = dataset("bundled", "sleepstudy")
    if not random:
        return lj.lm(f"Reaction ~ {fixed}", data)
    return lj.lmer(f"Reaction ~ {fixed} + {random}", data, reml=reml)


def chi2(statistic: float, *df: int) -> np.ndarray:
    return stats.chi2.sf(statistic, df)


# --------------------------------------------------------------------------------------------------- limits


def test_one_variance():
    result = lrt(sleep(), sleep("(1|Subject)"))
    assert result.statistic == pytest.approx(2 * (sleep("(1|Subject)").loglik - sleep().loglik))
    assert result.df == 1
    assert result.p_value == pytest.approx(0.5 * chi2(result.statistic, 1)[0], rel=1e-12)
    assert result.p_chisq == pytest.approx(2 * result.p_value)
    assert_array_equal(result.weights, [0.5, 0.5])
    assert_array_equal(result.weights.index, [0, 1])
    assert (result.p_se, result.draws, result.ddf) == (None, None, None)


def test_a_slope_beside_an_intercept():
    result = lrt(sleep("(1|Subject)"), sleep("(Days|Subject)"))
    assert_array_equal(result.weights.index, [1, 2])
    assert result.p_value == pytest.approx(chi2(result.statistic, 1, 2).mean(), rel=1e-12)
    alone = lrt(sleep("(1|Subject)"), sleep("(Days||Subject)"))
    assert_array_equal(alone.weights.index, [0, 1])
    assert alone.p_value == pytest.approx(0.5 * alone.p_chisq, rel=1e-12)


def test_a_correlation_is_not_at_a_boundary():
    result = lrt(sleep("(Days||Subject)"), sleep("(Days|Subject)"))
    assert result.p_value == result.p_chisq == pytest.approx(chi2(result.statistic, 1)[0])
    assert list(result.weights.items()) == [(1, 1.0)]


def test_fixed_effects_add_their_degrees_of_freedom():
    result = lrt(sleep(fixed="1"), sleep("(1|Subject)", fixed="Days + I(Days**2)"))
    assert (result.df, list(result.weights.index)) == (3, [2, 3])
    assert result.p_value == pytest.approx(chi2(result.statistic, 2, 3).mean(), rel=1e-12)
    only = lrt(sleep("(1|Subject)", fixed="1"), sleep("(1|Subject)"))
    assert only.p_value == only.p_chisq


def test_two_crossed_variances_of_a_balanced_design():
    """REML estimates are then differences of independent mean squares, of 23, 5 and 115 degrees of freedom."""
    data = dataset("bundled", "Penicillin")
    full = lj.lmer("diameter ~ 1 + (1|plate) + (1|sample)", data)
    result = lrt(lj.lm("diameter ~ 1", data), full)
    rho = (1 / 115) / np.sqrt((1 / 23 + 1 / 115) * (1 / 5 + 1 / 115))
    both = 0.25 + np.arcsin(rho) / (2 * np.pi)
    assert_allclose(result.weights, [0.5 - both, 0.5, both], rtol=1e-9)
    assert result.statistic == pytest.approx(lj.lm("diameter ~ 1", data).reml_criterion - full.reml_criterion)


def test_a_vector_term_against_nothing_does_not_depend_on_its_basis():
    """Two matrices of one span: the same cone, whose weights are exact; draws agree with them."""
    data = dataset("bundled", "sleepstudy").assign(centred=lambda d: 1000 * (d["Days"] - 4.5))
    raw = lrt(sleep(), sleep("(Days|Subject)"))
    turned = lrt(sleep(), lj.lmer(f"{SLEEP}(centred|Subject)", data, reml=False))
    assert_array_equal(raw.weights.index, range(4))
    assert_allclose(turned.weights, raw.weights, rtol=1e-8)
    assert turned.p_value == pytest.approx(raw.p_value, rel=1e-8)
    drawn = lrt(sleep(), sleep("(Days|Subject)"), method="mixture", n=4000, seed=3)
    assert_allclose(drawn.weights, raw.weights, atol=4 * 0.5 / np.sqrt(4000))
    assert drawn.p_value == pytest.approx(raw.p_value, abs=4 * drawn.p_se)
    assert drawn.draws.shape == (4000,)
    assert_array_equal(lrt(sleep(), sleep("(Days|Subject)"), method="mixture", n=4000, seed=3).draws, drawn.draws)


def test_the_design_of_a_vector_term():
    """Estimates of a balanced design, whose covariances are known; σ̂² takes part in them."""
    levels = 18
    data = pd.DataFrame({"g": np.repeat(np.arange(levels), 4), "x": np.tile([-1.0, 1, -1, 1], levels)})
    data["y"] = np.random.default_rng(1).normal(size=4 * levels)
    weights = lrt(lj.lm("y ~ x", data), lj.lmer("y ~ x + (x|g)", data, reml=False)).weights
    # Σ̂ = mean products of the groups' coefficients − I σ̂²/4, of 18 and of 2·18 degrees of freedom
    w = 2 / levels * np.eye(3) + 2 / (2 * levels) * np.outer([1, 0, 1], [1, 0, 1])
    assert_allclose(weights, closed_weights((2,), w), rtol=1e-9)


def test_units_order_and_arguments():
    data = dataset("bundled", "sleepstudy")
    other = data.assign(Reaction=data["Reaction"] / 1000, Days=24 * data["Days"]).sample(frac=1, random_state=2)
    other_fits = lj.lm("Reaction ~ Days", other), lj.lmer(f"{SLEEP}(Days||Subject)", other, reml=False)
    first = lrt(sleep(), sleep("(Days||Subject)"))
    for result in (lrt(*other_fits), lrt(*other_fits[::-1])):
        assert result.statistic == pytest.approx(first.statistic, rel=1e-8)
        assert_allclose(result.weights, first.weights, rtol=1e-7)
        assert result.null == "Reaction ~ Days"


def test_other_codings_of_a_factor():
    """An intercept is a special case of a cell-means term too: the complement of a direction, not of a column."""
    data = dataset("bundled", "Machines")
    null = lj.lmer("score ~ Machine + (1|Worker)", data, reml=False)
    alts = [lj.lmer(f"score ~ Machine + ({raw}|Worker)", data, reml=False) for raw in ("Machine", "0 + Machine")]
    one, other = (lrt(null, alt) for alt in alts)
    assert_array_equal(one.weights.index, [2, 3, 4, 5])  # a cone of 2 × 2 matrices, and two covariances
    assert_allclose(other.weights, one.weights, rtol=1e-5)
    assert other.p_value == pytest.approx(one.p_value, rel=1e-5)


def test_diagonal_covariances():
    data = dataset("bundled", "sleepstudy")
    diagonal = lj.lmer(f"{SLEEP}(Days|Subject)", data, reml=False, covariance={"Subject": "diagonal"})
    for null in (sleep(), sleep("(1|Subject)")):
        one, other = lrt(null, diagonal), lrt(null, sleep("(Days||Subject)"))
        assert_allclose(one.weights, other.weights, rtol=1e-6)
        assert one.statistic == pytest.approx(other.statistic, rel=1e-8)
    assert lrt(diagonal, sleep("(Days|Subject)")).p_chisq == lrt(diagonal, sleep("(Days|Subject)")).p_value


def test_more_than_three_dimensions_are_drawn():
    data = dataset("bundled", "Machines")
    cells = lj.lmer("score ~ Machine + (0 + Machine|Worker)", data, reml=False)
    result = lrt(lj.lm("score ~ Machine", data), cells, n=4000)
    assert_array_equal(result.weights.index, range(7))
    assert result.weights.sum() == pytest.approx(1)
    assert result.draws.shape == (4000,)
    assert 0 < result.p_se < 0.2 * result.p_value < 0.2 * result.p_chisq


def test_a_statistic_of_zero():
    data = dataset("bundled", "Dyestuff2")
    result = lrt(lj.lm("Yield ~ 1", data), lj.lmer("Yield ~ 1 + (1|Batch)", data))
    assert (result.statistic, result.p_value, result.p_chisq) == (0, 1, 1)


# ------------------------------------------------------------------------------------------- criteria and what is said


def test_random_terms_are_compared_by_reml_and_fixed_ones_by_ml():
    reml = lrt(sleep("(1|Subject)", reml=True), sleep("(Days|Subject)", reml=True))
    assert reml.note == "by REML"
    both = [sleep(random, reml=True).reml_criterion for random in ("(1|Subject)", "(Days|Subject)")]
    assert reml.statistic == pytest.approx(both[0] - both[1])
    assert lrt(sleep(), sleep("(1|Subject)", reml=True)).note == "by REML"
    refitted = lrt(sleep("(1|Subject)", reml=True, fixed="1"), sleep("(1|Subject)", reml=True))
    by_ml = lrt(sleep("(1|Subject)", fixed="1"), sleep("(1|Subject)"))
    assert (refitted.note, by_ml.note) == ("by ML, REML fits refitted", "by ML")
    assert refitted.statistic == pytest.approx(by_ml.statistic, rel=1e-7)
    mixed = lrt(sleep("(1|Subject)", reml=True), sleep("(Days|Subject)"))
    assert (mixed.note, mixed.statistic) == (refitted.note, pytest.approx(42.139298542, rel=1e-8))


def test_printed():
    text = str(lrt(sleep("(1|Subject)"), sleep("(Days|Subject)")))
    assert text == (
        "Likelihood-ratio test (by ML)\n"
        "null:        Reaction ~ Days + (1|Subject)\n"
        "alternative: Reaction ~ Days + (Days|Subject)\n"
        "LRT 42.139 on 2 df, p = 3.961e-10\n"
        "from 0.5 χ²(1) + 0.5 χ²(2); χ² would say p = 7.072e-10"
    )
    plain = str(lrt(sleep("(1|Subject)"), sleep("(Days|Subject)"), method="chisq"))
    assert plain.endswith("LRT 42.139 on 2 df, p = 7.072e-10")
    assert "(standard error" in str(lrt(sleep(), sleep("(1|Subject)"), method="mixture", n=100))


def test_a_null_at_the_boundary_says_what_is_assumed():
    data = dataset("bundled", "sleepstudy")
    by_subject = data.groupby("Subject", observed=True)["Reaction"].transform("mean")
    data = data.assign(Reaction=data["Reaction"] - by_subject)
    fits = [lj.lmer(f"{SLEEP}({raw}|Subject)", data, reml=False) for raw in ("1", "Days")]
    assert fits[0].is_singular
    result = lrt(*fits)
    assert result.note == "by ML; variances of zero under the null taken as positive"
    assert_array_equal(result.weights.index, [1, 2])


# ------------------------------------------------------------------------------------------------------------ refusals


def test_random_terms_that_are_not_nested():
    data = dataset("bundled", "sleepstudy").assign(z=lambda d: np.sin(d["Days"]), odd=lambda d: d["Days"] % 2)
    slopes = lj.lmer("Reaction ~ Days + z + (z|Subject)", data, reml=False)
    for method in ("auto", "chisq"):
        with pytest.raises(lj.DataError, match=r"not nested: \(Days \| Subject\) is no special case of a random term"):
            lrt(sleep("(Days|Subject)"), slopes, method=method)
    with pytest.raises(lj.DataError, match=r"not nested: \(1 \| odd\) is no special case"):
        lrt(lj.lmer(f"{SLEEP}(1|odd)", data, reml=False), slopes)
    diagonal = lj.lmer(f"{SLEEP}(Days|Subject)", data, reml=False, covariance={"Subject": "diagonal"})
    turned = lj.lmer(f"{SLEEP}(0 + I(Days + 1)|Subject)", data, reml=False)
    with pytest.raises(lj.DataError, match=r"not nested: \(0 \+ I\(Days \+ 1\) \| Subject\)"):
        lrt(turned, diagonal)
    assert lrt(turned, sleep("(Days|Subject)")).df == 2


def test_nesting_that_cannot_be_told():
    """Compound symmetry of cells within workers is a special case of any covariance, in other terms."""
    data = dataset("bundled", "Machines")
    null, alt = (lj.lmer(f"score ~ Machine + {r}", data) for r in ("(1|Worker/Machine)", "(0+Machine|Worker)"))
    with pytest.raises(lj.DataError, match=r"cannot be told whether \(1 \| Machine:Worker\) is .*use bootstrap_lrt"):
        lrt(null, alt)
    result = lrt(null, alt, method="chisq")
    assert result.statistic == pytest.approx(null.reml_criterion - alt.reml_criterion)
    assert lj.anova(null, alt, refit=False)["chisq"].iloc[1] == pytest.approx(result.statistic)


def test_parameters_that_mean_nothing_under_the_null():
    data = dataset("bundled", "Machines")
    null = lj.lm("score ~ Machine", data)
    symmetric = {"data": data, "covariance": {"Worker": "compound_symmetry"}, "reml": False}
    alt = lj.lmer("score ~ Machine + (0+Machine|Worker)", **symmetric)
    with pytest.raises(lj.DataError, match=r"limit .* not known: \(0 \+ Machine \| Worker\) has parameters that mean"):
        lrt(null, alt)
    assert lrt(null, alt, method="chisq").df == 2
    table = ranova(alt)
    assert list(table.index) == ["<none>", "(0 + Machine | Worker)"]
    assert table["p_mixture"].isna().all()


@pytest.mark.slow
def test_fixed_effects_beside_a_covariance_of_a_function():
    symmetric = {"covariance": {"Worker": "compound_symmetry"}, "reml": False}
    null, alt = (
        lj.lmer(f"score ~ {x} + (0+Machine|Worker)", dataset("bundled", "Machines"), **symmetric)
        for x in ("1", "Machine")
    )
    result = lrt(null, alt)
    assert (result.df, result.p_value) == (2, result.p_chisq)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: ("Reaction ~ 1", d.iloc[:-1]), "180 and 179 rows|179 and 180 rows"),
        (lambda d: ("Days ~ 1", d), r"differ in their responses \(Days and Reaction\)"),
        (lambda d: ("Reaction ~ np.sin(Days)", d), r"do not span np.sin\(Days\)"),
    ],
    ids=["rows", "response", "fixed effects"],
)
def test_fits_that_do_not_compare(change, message):
    formula, data = change(dataset("bundled", "sleepstudy"))
    with pytest.raises(lj.DataError, match=message):
        lrt(lj.lm(formula, data), sleep("(Days|Subject)"))


def test_fits_of_one_size():
    with pytest.raises(lj.DataError, match="same number of parameters, 4"):
        lrt(sleep("(1|Subject)"), sleep("(0 + Days|Subject)"))


def test_wrong_options():
    pair = sleep(), sleep("(1|Subject)")
    with pytest.raises(ValueError, match="method='boot': choose one of auto, chisq, mixture"):
        lrt(*pair, method="boot")
    with pytest.raises(ValueError, match="n=0"):
        lrt(*pair, n=0)
    with pytest.raises(TypeError, match="int or a JAX key"):
        lrt(*pair, method="mixture", seed="a")
    with pytest.raises(TypeError, match=r"lrt\(\) takes fits of lmer\(\) or lm\(\), not str"):
        lrt(pair[0], "(1|Subject)")
    given = lj.lmer(f"{SLEEP}(1|Subject)", dataset("bundled", "sleepstudy"), theta=[0.5])
    for call in (lambda: lrt(pair[0], given), lambda: ranova(given)):
        with pytest.raises(lj.DataError, match="theta of .* was given"):
            call()
    with pytest.raises(lj.DataError, match="'Reaction ~ Days' has no random term"):
        ranova(pair[0])


# -------------------------------------------------------------------------------------------------------------- ranova


def test_rows_are_tests_against_smaller_fits():
    data = dataset("bundled", "Penicillin")
    full = lj.lmer("diameter ~ 1 + (1|plate) + (1|sample)", data)
    table = ranova(full)
    assert list(table.columns) == ["npar", "aic", "bic", "loglik", "deviance", "chisq", "df", "p", "p_mixture"]
    assert list(table.index) == ["<none>", "(1 | plate)", "(1 | sample)"]
    assert table.attrs["note"] == "fitted by REML"
    assert table.iloc[0][["npar", "loglik", "aic"]].tolist() == pytest.approx([full.df, full.loglik, full.aic])
    for row, left in ((1, "sample"), (2, "plate")):
        smaller = lj.lmer(f"diameter ~ 1 + (1|{left})", data)
        test, found = lrt(smaller, full), table.iloc[row]
        assert_allclose(found[["npar", "bic", "loglik"]].astype(float), [smaller.df, smaller.bic, smaller.loglik])
        expected = [test.statistic, test.df, test.p_chisq, test.p_value]
        assert_allclose(found[["chisq", "df", "p", "p_mixture"]].astype(float), expected, rtol=1e-6)


def test_terms_dropped_whole():
    table, test = ranova(sleep("(Days|Subject)"), reduce_terms=False), lrt(sleep(), sleep("(Days|Subject)"))
    assert list(table.index) == ["<none>", "(Days | Subject)"]
    expected = [test.statistic, test.df, test.p_chisq, test.p_value]
    assert_allclose(table.iloc[1][["chisq", "df", "p", "p_mixture"]].astype(float), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("term", "rows"),
    [
        ("(Machine|Worker)", {"Machine in (Machine | Worker)": "(1|Worker)"}),
        ("(0 + Machine|Worker)", {"Machine in (0 + Machine | Worker)": "(1|Worker)"}),
        ("(0 + x|Worker)", {"x in (0 + x | Worker)": ""}),
        ("(x + z|Worker)", {"x in (x + z | Worker)": "(z|Worker)", "z in (x + z | Worker)": "(x|Worker)"}),
        (
            "(0 + d + x|Worker)",
            {"d in (0 + d + x | Worker)": "(0 + x|Worker)", "x in (0 + d + x | Worker)": "(d|Worker)"},
        ),
        ("(0 + d + e|Worker)", {"d in (0 + d + e | Worker)": "(e|Worker)", "e in (0 + d + e | Worker)": "(d|Worker)"}),
    ],
)
def test_what_is_left_of_a_term(term, rows):
    data, rng = dataset("bundled", "Machines"), np.random.default_rng(6)
    x, z = rng.normal(size=(2, len(data)))
    d, e = rng.choice(["a", "b"], (2, len(data)))
    data = data.assign(x=x, z=z, d=d, e=e)
    table = ranova(lj.lmer(f"score ~ Machine + {term}", data, reml=False))
    assert list(table.index) == ["<none>", *rows]
    for name, left in rows.items():
        call = {"reml": False} if left else {}
        smaller = (lj.lmer if left else lj.lm)(f"score ~ Machine + {left or 1}", data, **call)
        assert table.loc[name, ["npar", "loglik"]].tolist() == pytest.approx([smaller.df, smaller.loglik], rel=1e-7)
        assert table.loc[name, "p_mixture"] <= table.loc[name, "p"]


# --------------------------------------------------------------------------------------------------- R (lme4, lmerTest)

QUICK = ("sleep_slope", "sleep_uncorr", "dyestuff2", "irrigation_full_trt")


@pytest.mark.parametrize(
    "model", [pytest.param(m, marks=[] if m.name in QUICK else pytest.mark.slow) for m in SHARED], ids=str
)
@pytest.mark.parametrize("reml", [True, False], ids=["REML", "ML"])
def test_ranova_as_lmertest(model, reml):
    rows = model.r(reml).get("ranova")
    if rows is None:
        pytest.skip("lmerTest gave no table")
    table = ranova(model.fit(reml))
    assert list(table.index) == [r["term"] for r in rows]
    for ours, theirs in (("npar", "npar"), ("loglik", "logLik"), ("aic", "AIC")):
        assert_allclose(table[ours], [r[theirs] for r in rows], rtol=1e-9)
    for ours, theirs in (("chisq", "LRT"), ("df", "Df"), ("p", "p")):
        assert_allclose(table[ours].iloc[1:], [r[theirs] for r in rows[1:]], rtol=1e-6, atol=1e-9)
    alone = table[table["df"] == 1]
    assert_allclose(alone["p_mixture"], np.where(alone["chisq"] > 1e-6, alone["p"] / 2, 1), rtol=1e-9)


@pytest.mark.parametrize("name", ["irrigation_interaction", "irrigation_variety", "sleep_corr", "sleep_slope"])
def test_lrt_as_lme4(name, reference):
    r = reference["comparisons"][f"lrt_{name}"]
    result = lrt(*(Model("shared", r[which]).fit(False) for which in ("large", "small")))
    assert (result.statistic, result.p_chisq) == (pytest.approx(r["lrt"], rel=1e-7), pytest.approx(r["p"], rel=1e-6))
    assert result.df == r["df"]


def test_pulp_as_in_the_notes(reference):
    r, data = reference["comparisons"]["pulp_lrt_null"], dataset("shared", "pulp")
    result = lrt(lj.lmer("bright ~ 1 + (1|operator)", data, reml=False), lj.lm("bright ~ 1", data))
    assert [result.statistic, result.p_chisq] == pytest.approx([r["lrt"], r["p_chisq"]], rel=1e-7)
    assert result.p_value == pytest.approx(r["p_chisq"] / 2, rel=1e-7)
