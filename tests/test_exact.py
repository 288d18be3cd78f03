"""Exact tests of one variance: RLRsim's numbers, closed forms of balanced designs, and refits of simulated responses.

RLRsim maximises over a grid of λ, which changes no p-value by as much as the Monte Carlo error of its draws.
"""

from functools import cache
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest
import references
from catalogue import SHARED, dataset
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

import lmmjax as lj
from lmmjax.core.spectral import Curve, improvements, spectrum
from lmmjax.inference import exact

RLRSIM = references.bundled("exact_reference.json")
KINSHIP = references.bundled("covariance_reference.json")
N = 50_000
LEVELS = (0.8, 0.9, 0.95, 0.99)


def spread(p: float, *sizes: int) -> float:
    """Standard error of a difference of shares p of independent draws."""
    return np.sqrt(p * (1 - p) * sum(1 / n for n in sizes))


# ---- RLRsim ----------------------------------------------------------------------------------------------------------


@cache
def fitted(dataset_name: str, formula: str, rows: tuple[int, ...] | None, reml: bool) -> lj.Fit:
    """One fit for all tests; rows are counted from one, as R does."""
    data = dataset("bundled", dataset_name)
    data = data if rows is None else data.iloc[np.array(rows) - 1]
    return lj.lmer(formula, data, reml) if "|" in formula else lj.lm(formula, data)


def fits_of(entry: dict[str, Any], reml: bool) -> dict[str, lj.Fit]:
    """The fits of a case: full, and null and reduced where it has them."""
    rows = tuple(entry["rows"]) if "rows" in entry else None
    return {k: fitted(entry["dataset"], entry[k], rows, reml) for k in ("full", "null", "reduced") if k in entry}


def agrees_with_rlrsim(test, entry: dict[str, Any]) -> None:
    n = RLRSIM["meta"]["nsim"]
    assert test.statistic == pytest.approx(entry["statistic"], rel=1e-6, abs=1e-6)
    assert abs(test.p_value - entry["p"]) <= 4 * np.hypot(spread(entry["p"], n), test.p_se)
    share = np.mean(test.draws == 0)
    assert test.share_zero == share
    assert abs(share - entry["share_zero"]) <= 4 * spread(entry["share_zero"], n, N)
    for level, quantile in zip(LEVELS, entry["quantiles"], strict=True):
        assert abs(np.mean(test.draws <= quantile) - level) < 4 * spread(level, n, N)


@pytest.mark.parametrize("name", RLRSIM["rlrt"])
def test_rlrt_is_rlrsims(name):
    fits = fits_of(RLRSIM["rlrt"][name], True)
    test = lj.exact_rlrt(fits.pop("full"), N, seed=1, **fits)
    agrees_with_rlrsim(test, RLRSIM["rlrt"][name])
    assert test.p_se == pytest.approx(spread(test.p_value, N))
    assert test.restricted
    assert not test.note


@pytest.mark.parametrize("name", RLRSIM["lrt"])
def test_lrt_is_rlrsims(name):
    fits = fits_of(RLRSIM["lrt"][name], False)
    test = lj.exact_lrt(fits["full"], fits["null"], N, seed=1)
    agrees_with_rlrsim(test, RLRSIM["lrt"][name])
    assert not test.restricted
    assert not test.note


SHARED_TESTS = {
    ("exactRLRT", name)
    for name in ("pulp_sum", "irrigation_full_trt", "irrigation_add_trt", "dyestuff", "dyestuff2", "sleep_int")
} | {("exactLRT", name) for name in ("pulp_sum", "dyestuff")}


@pytest.mark.parametrize(("kind", "name"), sorted(SHARED_TESTS))
def test_shared_reference(kind, name):
    entry = references.shared()["comparisons"][f"{kind}_{name}"]
    (model,) = (m for m in SHARED if m.name == name)
    if kind == "exactRLRT":
        test, statistic = lj.exact_rlrt(model.fit(True), N, seed=2), entry["RLRT"]
    else:
        test = lj.exact_lrt(model.fit(False), lj.lm(model.entry["formula"].split(" + (")[0], model.data()), N, seed=2)
        statistic = entry["LRT"]
    assert test.statistic == pytest.approx(statistic, rel=1e-6, abs=1e-6)
    if name == "dyestuff2":  # RLRsim takes 5.7e-14 for a statistic above zero, and says .44: see its note
        assert (test.statistic, test.p_value, test.p_se) == (0, 1, 0)
    else:
        assert abs(test.p_value - entry["p"]) <= 4 * np.hypot(entry["mc_se"], test.p_se)


# ---- closed forms ----------------------------------------------------------------------------------------------------


def balanced(levels: int = 5, each: int = 3) -> pd.DataFrame:
    """A balanced one-way layout."""
    rng, g = np.random.default_rng(levels), np.repeat(np.arange(levels), each)
    return pd.DataFrame(
        {"g": g.astype(str), "y": 10 + 1.5 * rng.normal(size=levels)[g] + rng.normal(size=levels * each)}
    )


@cache
def one_way(reml: bool = True) -> lj.Fit:
    """The balanced layout, fitted."""
    return lj.lmer("y ~ 1 + (1|g)", balanced(), reml)


def f_test():
    """The one-way analysis of variance."""
    return stats.f_oneway(*(y.to_numpy() for _, y in balanced().groupby("g")["y"]))


def test_balanced_one_way_is_the_f_test():
    """The RLRT grows with F = MSB/MSW where F > 1 and is zero elsewhere; the LRT is zero where F < ℓ/(ℓ − 1)."""
    f, p = f_test()
    assert f > 5 / 4
    null = stats.f(4, 10)
    tests = lj.exact_rlrt(one_way(), N), lj.exact_lrt(one_way(False), lj.lm("y ~ 1", balanced()), N)
    for test, least in zip(tests, (1, 5 / 4), strict=True):
        assert abs(test.p_value - p) < 4 * spread(p, N)
        zero = null.cdf(least)
        assert abs(test.share_zero - zero) < 4 * spread(zero, N)


def test_balanced_draws_have_the_closed_form():
    """With V̂ar ∝ F − 1: RLRT = 14 log((4F + 10)/14) − 4 log F, of which the draws are those for random F."""

    def rlrt(f):
        return np.where(f > 1, 14 * np.log((4 * f + 10) / 14) - 4 * np.log(np.maximum(f, 1)), 0)

    draws, shares = lj.exact_rlrt(one_way(), N, seed=4).draws, np.array([0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999])
    below = [np.mean(draws <= q) for q in rlrt(stats.f(4, 10).ppf(shares))]
    assert np.all(np.abs(below - shares) < 4 * spread(shares, N))
    assert lj.exact_rlrt(one_way(), 1).statistic == pytest.approx(float(rlrt(f_test().statistic)), rel=1e-9)


def test_split_plot_is_the_f_test_of_whole_plots():
    """Fields within irrigation methods against the residual of the halves: 4 and 4 degrees of freedom."""
    fit = fitted("irrigation", "yield ~ irrigation*variety + (1|field)", None, True)
    f = 1 + 2 * fit.theta[0] ** 2
    test = lj.exact_rlrt(fit, N, seed=3)
    assert abs(test.p_value - stats.f(4, 4).sf(f)) < 4 * test.p_se
    assert stats.f(4, 4).sf(f) == pytest.approx(0.0096, abs=5e-4)


# ---- refits of simulated responses -----------------------------------------------------------------------------------


def uneven(levels: int = 6) -> pd.DataFrame:
    """From one to eight rows a level, with a covariate that differs between levels, weights and an offset."""
    rng, g = np.random.default_rng(5), np.repeat(np.arange(levels), [1, 2, 3, 5, 8, 4])
    x = rng.normal(size=len(g)) + g / 3
    columns = {"g": g.astype(str), "x": x, "w": rng.uniform(0.3, 3, len(g)), "o": rng.normal(size=len(g))}
    return pd.DataFrame({**columns, "y": 2 + x + rng.normal(size=levels)[g] + rng.normal(size=len(g))})


def refitted(full: lj.Fit, null: lj.Fit, n: int) -> np.ndarray:
    """Likelihood ratios of n responses drawn from the null, each fitted again."""
    responses, d = lj.simulate(null, n, seed=11), null.design
    q, r = np.linalg.qr(d.X * np.sqrt(d.weights)[:, None])
    y = (responses - (0 if d.offset is None else d.offset)) * np.sqrt(d.weights)
    nu = d.n - full.reml * d.p
    alone = nu * (1 + np.log(2 * np.pi * (np.sum(y**2, 1) - np.sum((y @ q) ** 2, 1)) / nu)) - np.log(d.weights).sum()
    alone += full.reml * 2 * np.log(abs(np.diagonal(r))).sum()
    lrt = alone - lj.refit_many(full, responses).criterion
    return np.where(lrt < 1e-10, 0, lrt)


def test_restricted_draws_are_those_of_refits():
    full = lj.lmer("y ~ x + (1|g)", uneven(), weights="w", offset="o")
    drawn = refitted(full, lj.lm("y ~ x", uneven(), weights="w", offset="o"), 4000)
    test = lj.exact_rlrt(full, N, seed=6)
    assert abs(np.mean(drawn == 0) - test.share_zero) <= 4 * spread(test.share_zero, 4000, N)
    assert stats.ks_2samp(drawn, test.draws).pvalue > 0.01


def test_draws_with_fewer_fixed_effects_are_those_of_refits():
    full, null = lj.lmer("y ~ x + (1|g)", uneven(), False, weights="w"), lj.lm("y ~ 1", uneven(), weights="w")
    assert stats.ks_2samp(refitted(full, null, 4000), lj.exact_lrt(full, null, N, seed=6).draws).pvalue > 0.01


# ---- the core --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reml", [True, False])
def test_eigenvalues_are_those_of_dense_matrices(reml):
    """Related animals with prior weights: those of LᵀZᵀP_X Z L and LᵀZᵀZ L after √w."""
    d = kin(reml).design
    root, (term,) = np.sqrt(d.weights)[:, None], d.terms
    z = root * term.level_factor[term.codes]
    q = np.linalg.qr(root * d.X)[0]
    curve = spectrum(kin(reml).cross_products, reml).curve
    left = np.linalg.svd(z - q @ (q.T @ z), compute_uv=False) ** 2
    own = left if reml else np.linalg.svd(z, compute_uv=False) ** 2
    assert_allclose(np.repeat(curve.values, curve.times.astype(int)), np.sort(left[left > 1e-9]), rtol=1e-9)
    assert_allclose(np.repeat(curve.dets, curve.counts.astype(int)), np.sort(own[own > 1e-9]), rtol=1e-9)
    assert curve.nu == d.n - reml * d.p


def single(counts: float) -> Curve:
    """One eigenvalue, 2, which occurs four times."""
    return Curve(np.array([2.0]), np.array([4.0]), np.array([2.0]), np.array([counts]), 0.0, 15.0)


THREE = Curve(np.array([0.2, 1, 7]), np.array([2.0, 1, 3]), np.array([0.5, 8]), np.array([4.0, 3]), 0.0, 15.0)


@pytest.mark.parametrize("curve", [THREE, single(4.0), single(5.0)], ids=["three", "one REML", "one ML"])
def test_improvement_is_the_best_of_a_fine_grid(curve):
    df = np.array([*curve.times, 9.0])
    parts = np.random.default_rng(1).chisquare(df, (100, len(df))) * np.array([4.0] * (len(df) - 1) + [1.0])
    lam = np.concatenate([[0], np.geomspace(1e-5, 1e5, 20_001)])[:, None, None]
    criterion = 15 * np.log(parts[:, -1] + np.sum(parts[:, :-1] / (1 + lam * curve.values), -1))
    criterion += np.sum(curve.counts * np.log1p(lam * curve.dets), -1)
    best = criterion[0] - criterion.min(0)
    with lj.float64():
        found = np.asarray(improvements(parts, curve))
    assert 2 < np.sum(best == 0) < 98
    assert_array_equal(found == 0, best == 0)
    assert np.all(found >= best - 1e-13 * curve.nu * np.abs(criterion[0]))
    assert_allclose(found, best, atol=1e-6)


# ---- identities ------------------------------------------------------------------------------------------------------


@cache
def kin(reml: bool = True) -> lj.Fit:
    """Records of related animals, with prior weights."""
    known, data = KINSHIP["kinship"], pd.DataFrame(KINSHIP["data"]["animals"])
    related = {"animal": pd.DataFrame(known["A"], known["names"], known["names"])}
    return lj.lmer("y ~ x + (1|animal)", data, reml, weights=np.linspace(0.5, 2, len(data)), relmat=related)


def test_statistic_is_the_difference_of_the_criteria():
    none = criterion_at_zero(kin())
    assert lj.exact_rlrt(kin(), 10).statistic == pytest.approx(none - kin().reml_criterion, rel=1e-10)
    data = pd.DataFrame(KINSHIP["data"]["animals"])
    small = lj.lm("y ~ 1", data, weights=np.linspace(0.5, 2, len(data)))
    assert lj.exact_lrt(small, kin(False), 10).statistic == pytest.approx(
        small.deviance - kin(False).deviance, rel=1e-10
    )


def criterion_at_zero(fit: lj.Fit) -> float:
    """−2 restricted log-likelihood of the linear model, with √w-transformed rows."""
    d = fit.design
    x, y, nu = d.X * np.sqrt(d.weights)[:, None], d.y * np.sqrt(d.weights), d.n - d.p
    rss = np.sum((y - x @ np.linalg.lstsq(x, y)[0]) ** 2)
    return nu * (1 + np.log(2 * np.pi * rss / nu)) - np.log(d.weights).sum() + np.linalg.slogdet(x.T @ x)[1]


def test_order_of_rows_and_units_do_not_matter():
    data = uneven()
    first = lj.exact_rlrt(lj.lmer("y ~ x + (0 + x|g)", data), 2000)
    turned = data.assign(y=1e4 * data.y - 5, x=1e-3 * data.x).sample(frac=1, random_state=0)
    second = lj.exact_rlrt(lj.lmer("y ~ x + (0 + x|g)", turned), 2000)
    assert second.statistic == pytest.approx(first.statistic, rel=1e-8)
    assert_allclose(second.draws, first.draws, rtol=1e-6, atol=1e-9)


def test_draws_belong_to_the_seed(monkeypatch):
    fit = lj.lmer("y ~ x + (1|g)", uneven())
    draws = lj.exact_rlrt(fit, 3000, seed=7).draws
    assert_allclose(lj.exact_rlrt(fit, 2100, seed=7).draws, draws[:2100], rtol=1e-8, atol=1e-12)
    assert_array_equal(lj.exact_rlrt(fit, 3000, seed=jax.random.key(7)).draws, draws)
    assert np.mean(lj.exact_rlrt(fit, 3000, seed=8).draws == draws) < 0.5
    monkeypatch.setattr(exact, "FEW", 64)
    assert_allclose(lj.exact_rlrt(fit, 3000, seed=7).draws, draws, rtol=1e-8, atol=1e-12)


def test_other_criterion_is_fitted_again():
    reml, ml, null = one_way(), one_way(False), lj.lm("y ~ 1", balanced())
    first, second = lj.exact_rlrt(reml, 1000), lj.exact_rlrt(ml, 1000)
    assert second.statistic == pytest.approx(first.statistic, rel=1e-9)
    assert_array_equal(second.draws, first.draws)
    assert second.note == "ML fits refitted by REML"
    first, second = lj.exact_lrt(ml, null, 1000), lj.exact_lrt(null, reml, 1000)
    assert second.statistic == pytest.approx(first.statistic, rel=1e-9)
    assert_array_equal(second.draws, first.draws)
    assert second.note == "REML fit refitted by ML"


def test_with_other_effects_the_draws_are_the_reduced_models():
    fits = fits_of(RLRSIM["rlrt"]["eggs_lab"], True)
    full = fits.pop("full")
    test = lj.exact_rlrt(full, 1000, **fits)
    assert_array_equal(test.draws, lj.exact_rlrt(fits["reduced"], 1000).draws)
    assert test.statistic == pytest.approx(2 * (full.loglik - fits["null"].loglik), rel=1e-9)
    assert test.null == fits["null"].schema.formula


def test_no_variance_is_certain():
    fit = lj.lmer("Yield ~ 1 + (1|Batch)", dataset("bundled", "Dyestuff2"))
    test = lj.exact_rlrt(fit, 1000)
    assert (test.statistic, test.p_value, test.p_se) == (0, 1, 0)
    assert 0.4 < test.share_zero < 0.8


def test_text():
    lines = repr(lj.exact_rlrt(one_way(False), 1000)).splitlines()
    assert lines[0] == "Exact restricted likelihood-ratio test of one variance"
    assert lines[1:3] == ["null:        no (1 | g)", "alternative: y ~ 1 + (1|g)"]
    assert lines[3].startswith("RLRT ")
    assert "(standard error " in lines[3]
    assert lines[4].startswith("1000 draws, ")
    assert lines[4].endswith("of them zero")
    assert lines[5:] == ["ML fits refitted by REML"]
    text = repr(lj.exact_lrt(one_way(False), lj.lm("y ~ 1", balanced()), 1000))
    assert text.startswith("Exact likelihood-ratio test of one variance\nnull:        y ~ 1\n")
    assert "\nLRT " in text


# ---- what is refused -------------------------------------------------------------------------------------------------


def mixed(formula: str, data: pd.DataFrame | None = None, **options: Any) -> lj.Fit:
    """A fit to the uneven data with a second factor h."""
    data = uneven() if data is None else data
    return lj.lmer(formula, data.assign(h=np.arange(len(data)) % 6), **options)


def test_what_exact_rlrt_refuses():
    one = mixed("y ~ x + (1|g)")
    two, h = mixed("y ~ x + (1|g) + (1|h)"), mixed("y ~ x + (1|h)")
    slope, slopes = mixed("y ~ x + (0+x|g)"), mixed("y ~ x + (x|g)")
    refused = [
        ((lj.lm("y ~ x", uneven()),), {}, "no random effect to test"),
        ((two,), {}, "has 2 random terms: .* give reduced= .* and null="),
        ((slopes,), {}, r"\(x \| g\) has a variance for each of 2 columns"),
        ((two,), {"reduced": two, "null": h}, "has 2 random terms"),
        ((two,), {"reduced": h, "null": slope}, "must have the random terms of reduced"),
        ((one,), {"reduced": h, "null": slope}, "same number of parameters"),
        ((two,), {"reduced": one, "null": one}, "must have the random terms of reduced"),
        ((two,), {"reduced": one, "null": slope}, "must have the random terms of reduced"),
        ((slopes,), {"reduced": slope, "null": one}, "must have the random terms of reduced"),
        ((two,), {"reduced": mixed("y ~ 1 + (1|g)"), "null": h}, "differ in their fixed effects"),
        ((two,), {"reduced": one, "null": mixed("y ~ x + (1|h)", uneven()[1:])}, "fitted to 22 and 23 rows"),
        ((two,), {"reduced": one, "null": mixed("y ~ x + (1|h)", weights="w")}, "differ in weights"),
        ((mixed("y ~ x + (1|g)", theta=[0.5]),), {}, "theta of .* was given"),
        ((mixed("y ~ 0 + g + (1|g)"),), {}, r"the fixed effects explain \(1 \| g\)"),
    ]
    for fits, options, text in refused:
        with pytest.raises(lj.DataError, match=text):
            lj.exact_rlrt(*fits, **options)
    with pytest.raises(ValueError, match="together"):
        lj.exact_rlrt(two, null=h)
    with pytest.raises(ValueError, match="n=0"):
        lj.exact_rlrt(one, 0)
    with pytest.raises(TypeError, match="seed"):
        lj.exact_rlrt(one, seed="a")
    with pytest.raises(TypeError, match="not str"):
        lj.exact_rlrt("y ~ x + (1|g)")


def test_what_exact_lrt_refuses():
    one, null = mixed("y ~ x + (1|g)"), lj.lm("y ~ x", uneven())
    refused = [
        ((null, null), "no random effect to test"),
        ((one, mixed("y ~ x + (1|h)")), "compares with a fit of lm"),
        ((mixed("y ~ x + (x|g)"), null), "has a variance for each of 2 columns"),
        ((one, lj.lm("y ~ w", uneven())), "not nested"),
        ((one, lj.lm("y ~ x", uneven()[1:])), "fitted to 22 and 23 rows"),
        ((one, lj.lm("w ~ x", uneven())), "their responses"),
    ]
    for fits, text in refused:
        with pytest.raises(lj.DataError, match=text):
            lj.exact_lrt(*fits)
    with pytest.raises(TypeError, match="not None"):
        lj.exact_lrt(one, None)


def test_no_residual_is_refused():
    """Six levels, eight rows, two covariates and no intercept: the random effects reach all that X leaves over."""
    rng = np.random.default_rng(3)
    data = pd.DataFrame({"g": list("aabbcdef"), **{v: rng.normal(size=8) for v in "xzy"}})
    with pytest.raises(lj.DataError, match="no residual is left"):
        lj.exact_rlrt(lj.lmer("y ~ 0 + x + z + (1|g)", data), 10)
