"""Bootstraps: closed forms where there are some, identities of each way to resample, intervals, and what is refused."""

from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pandas as pd
import pytest
from catalogue import dataset
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

import lmmjax as lj
from lmmjax.core import RandomTerm, cross_products, estimate
from lmmjax.inference import intervals
from lmmjax.inference.bootstrap import Bootstrap, bootstrap
from lmmjax.inference.bootstrap_lrt import bootstrap_lrt, is_decided
from lmmjax.inference.cases import _layout, jackknife, resample
from lmmjax.inference.prediction import _target, predict_interval
from lmmjax.inference.sampling import chunks, reflated, residual
from lmmjax.refitting import key_of

# Replicates, and the memory that makes chunks of 64, 1024 and 2048 of the pulp data, so that few shapes are compiled.
N, BY_64, BY_1024, BY_2048 = 64, 2**16, 2**21, 3 * 2**20


def everything(e):
    """A statistic with a scalar, vectors and something of the random effects."""
    return {"sigma": e.sigma, "beta": e.beta, "theta": e.theta, "first": e.b[0][0, 0]}


@cache
def pulp(reml: bool = True) -> lj.Fit:
    """Four operators, five sheets each."""
    return lj.lmer("bright ~ 1 + (1|operator)", dataset("bundled", "pulp"), reml=reml)


@cache
def plain() -> lj.Fit:
    """The pulp data without operators."""
    return lj.lm("bright ~ 1", dataset("bundled", "pulp"))


@cache
def sleep() -> lj.Fit:
    """Correlated intercepts and slopes, unbalanced, with prior weights; `arm` differs in two of the 18 levels."""
    rng = np.random.default_rng(0)
    data = dataset("bundled", "sleepstudy").assign(w=rng.uniform(0.5, 2, 180))
    data["arm"] = data["Subject"].isin(["330", "331"]).astype(float)
    return lj.lmer("Reaction ~ arm + (Days|Subject)", data[rng.uniform(size=180) < 0.8], weights="w")


@cache
def pulp_bootstrap(kind: str = "parametric") -> Bootstrap:
    return bootstrap(pulp(), everything, N, kind=kind)


# --------------------------------------------------------------------------------------------- likelihood-ratio test


def pulp_lrt(y: np.ndarray) -> np.ndarray:
    """The ML likelihood ratio of (n, 20) responses, in closed form: the design is balanced."""
    codes = pulp().design.terms[0].codes
    means = np.stack([y[:, codes == g].mean(1) for g in range(4)], 1)
    between = 5 * np.sum((means - y.mean(1)[:, None]) ** 2, 1)
    within = np.sum((y - means[:, codes]) ** 2, 1)
    ratio = 20 * np.log((between + within) / 20) - 16 * np.log(within / 16) - 4 * np.log(between / 4)
    return np.where(between / 4 > within / 16, ratio, 0)


def test_lrt_of_a_balanced_design_is_its_closed_form():
    found = bootstrap_lrt(plain(), pulp(), n=1000, seed=3)
    assert found.statistic == pytest.approx(pulp_lrt(plain().design.y[None])[0], rel=1e-9)
    assert_allclose(found.draws, pulp_lrt(lj.simulate(plain(), 1000, seed=3)), atol=1e-7)  # whatever σ and μ are


def test_lrt_p_value_is_exact_for_pulp():
    found = bootstrap_lrt(plain(), pulp(), n=2**15, seed=1, memory=BY_1024)
    # The statistic is a monotone function of F, which the null distribution is known of.
    y, codes = plain().design.y, pulp().design.terms[0].codes
    f = stats.f_oneway(*(y[codes == g] for g in range(4))).statistic
    p, zero = stats.f(3, 16).sf(f), stats.f(3, 16).cdf(4 / 3)
    assert (p, zero) == (pytest.approx(0.022609, abs=1e-6), pytest.approx(0.70148, abs=1e-5))
    assert abs(found.p_value - p) < 4 * found.p_se
    assert abs(found.share_zero - zero) < 4 * np.sqrt(zero * (1 - zero) / found.n)
    assert found.p_se == pytest.approx(np.sqrt(found.p_value * (1 - found.p_value) / found.n))
    assert found.p_chisq == pytest.approx(0.1090199, abs=1e-6)  # the notes'
    assert found.df == 1
    assert found.n_failed == 0
    r = round(found.p_value * found.n)
    assert found.p_value_plus_one == (1 + r) / (1 + found.n)
    for part in ("LRT 2.5684 on 1 df", "bright ~ 1 + (1|operator)", "standard error", "70.", "0.109"):
        assert part in repr(found)


def test_lrt_of_fixed_effects_is_the_f_test_without_random_effects():
    data = dataset("bundled", "pulp").assign(x=np.linspace(0, 1, 20) ** 2)
    null, alt = lj.lm("bright ~ 1", data), lj.lm("bright ~ x", data)
    found = bootstrap_lrt(null, alt, n=2**13, memory=BY_1024)
    exact = stats.linregress(data["x"], data["bright"]).pvalue
    assert abs(found.p_value - exact) < 4 * found.p_se
    assert found.share_zero < 0.002


def test_lrt_takes_either_order_and_either_criterion():
    a = bootstrap_lrt(plain(), pulp(), n=1000, seed=3)
    b = bootstrap_lrt(pulp(reml=False), plain(), n=1000, seed=3)
    assert a.statistic == b.statistic
    assert_array_equal(a.draws, b.draws)


def test_lrt_stops_early_only_where_alpha_is_far():
    settled = bootstrap_lrt(plain(), pulp(), n=5000, alpha=0.3)
    assert settled.n == 1024
    assert_allclose(settled.draws, pulp_lrt(lj.simulate(plain(), 1024, seed=0)), atol=1e-7)
    assert bootstrap_lrt(plain(), pulp(), n=5000, alpha=0.022).n == 5000


@pytest.mark.parametrize(("large", "n"), [(0, 1024), (3, 1024), (512, 1024), (1024, 1024)])
def test_looks_use_the_clopper_pearson_interval(large, n):
    interval = stats.binomtest(large, n).proportion_ci(0.999, "exact")
    for alpha in (interval.low, interval.high):
        assert is_decided(large, n, alpha + 1e-9) != (interval.low <= alpha + 1e-9 <= interval.high)
        assert is_decided(large, n, alpha - 1e-9) != (interval.low <= alpha - 1e-9 <= interval.high)


def _changed(**columns) -> pd.DataFrame:
    return dataset("bundled", "pulp").assign(**columns)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: lj.lm("bright ~ 1", dataset("bundled", "pulp")[:19]), "20 and 19|19 and 20 rows"),
        (lambda: lj.lm("bright ~ 1", dataset("bundled", "pulp")[::-1]), "the rows that they use"),
        (lambda: lj.lm("np.log(bright) ~ 1", dataset("bundled", "pulp")), r"responses \(np.log\(bright\) and bright\)"),
        (lambda: lj.lm("bright ~ 1", _changed(bright=np.arange(20.0))), "the values of their responses"),
        (lambda: lj.lm("bright ~ 1", _changed(), weights=np.arange(1.0, 21)), "weights"),
        (lambda: lj.lm("bright ~ 1", _changed(), offset=np.arange(1.0, 21)), "offset"),
        (lambda: lj.lm("bright ~ x - 1", _changed(x=np.arange(20.0))), "do not span x"),
        (lambda: lj.lm("bright ~ x", _changed(x=np.arange(20.0))), "do not span x"),
        (lambda: pulp(reml=False), "the same number of parameters, 3"),
        (lambda: lj.lmer("bright ~ 1 + (1|operator)", _changed(), theta=[1.0]), "was given|same number"),
    ],
)
def test_lrt_refuses_what_is_not_nested(other, message):
    with pytest.raises(lj.DataError, match=message):
        bootstrap_lrt(other(), pulp(), n=10)


def test_lrt_refuses_a_null_that_fits_better():
    rng = np.random.default_rng(0)
    data = dataset("bundled", "pulp").assign(**{f"x{i}": rng.normal(size=20) for i in range(3)})
    data["y"] = 5.0 * data["operator"].cat.codes + rng.normal(size=20)
    with pytest.raises(lj.DataError, match="the larger likelihood"):
        bootstrap_lrt(lj.lmer("y ~ 1 + (1|operator)", data), lj.lm("y ~ x0 + x1 + x2", data))


# ---------------------------------------------------------------------------------------------------------- replicates


@pytest.mark.parametrize("kind", ["parametric", "residual", "cases"])
def test_replicates_do_not_depend_on_n_or_memory(kind):
    whole = pulp_bootstrap(kind)
    part = bootstrap(pulp(), everything, 20, kind=kind, memory=2**14)
    for name, draws in part.draws.items():
        assert_allclose(draws, whole.draws[name][:20], rtol=1e-8, atol=1e-7)


@pytest.mark.parametrize("use_u", [False, True])
def test_residual_responses_do_not_depend_on_chunks(use_u):
    with lj.float64():
        draw, key = residual(sleep(), use_u), key_of(7)
        whole = np.asarray(draw(key, 0, 32))
        parts = np.concatenate([np.asarray(draw(key, first, 8)) for first in range(0, 32, 8)])
    assert_allclose(parts, whole, rtol=1e-14)  # the same numbers, added up in another order


def test_a_seed_is_an_int_or_a_key():
    with lj.float64():
        key = jax.random.key(0)
    assert_array_equal(bootstrap(pulp(), everything, N, seed=key).draws["beta"], pulp_bootstrap().draws["beta"])
    with pytest.raises(TypeError, match="int or a JAX key"):
        bootstrap(pulp(), everything, N, seed="0")


@pytest.mark.parametrize("n", [1, 16, 17, 1000, 1100, 5000, 100_000])
@pytest.mark.parametrize("memory", [1, 2**12, 2**28])
def test_chunks_cover_n_in_few_shapes(n, memory):
    parts = chunks(n, 8, memory)
    ranges = [range(first, first + count) for first, count in parts]
    assert [i for r in ranges for i in r] == list(range(n))
    assert parts.size & (parts.size - 1) == 0
    assert parts.size * 8 <= max(memory, 8)
    assert parts.size <= 16 or len(ranges) * parts.size - n <= n / 8


def test_progress_shows_a_bar(capsys):
    assert list(chunks(20, 8, 2**10, progress=True)) == [(0, 16), (16, 4)]
    assert "20/20" in capsys.readouterr().err


def test_parametric_replicates_are_refits_of_simulated_responses():
    found = pulp_bootstrap()
    y = lj.simulate(pulp(), 3, seed=0)
    for i in range(3):
        again = lj.refit(pulp(), y[i])
        assert_allclose(found.draws["beta"][i], again.fixef, rtol=1e-9)
        assert found.draws["sigma"][i] == pytest.approx(again.sigma, rel=1e-6)
        assert found.draws["first"][i] == pytest.approx(again.ranef()["operator"].iloc[0, 0], abs=1e-6)


def test_parametric_spread_of_the_mean():
    found = bootstrap(pulp(), everything, 4096, seed=2, memory=BY_64)
    se = float(np.sqrt(pulp().vcov.iloc[0, 0]))
    assert found.se["beta"][0] == pytest.approx(se, rel=5 / np.sqrt(2 * 4096))
    assert abs(found.bias["beta"][0]) < 5 * se / 64
    kept = bootstrap(pulp(), everything, 4096, seed=2, use_u=True, memory=BY_64)
    assert kept.se["beta"][0] == pytest.approx(pulp().sigma / np.sqrt(20), rel=5 / np.sqrt(2 * 4096))


def test_theta_that_was_given_stays():
    fit = lj.lmer("bright ~ 1 + (1|operator)", dataset("bundled", "pulp"), theta=[0.5])
    for kind in ("parametric", "cases"):
        found = bootstrap(fit, everything, 16, kind=kind)
        assert_array_equal(found.draws["theta"], np.full((16, 1), 0.5))
        assert found.n_failed == 0


# ------------------------------------------------------------------------------------------------------------ residual


@pytest.mark.parametrize("t", [[[1.5, 0], [0.4, 0.7]], [[1.5, 0], [-0.4, 0]], [[0, 0], [0, 0.3]], [[0, 0], [0, 0]]])
def test_reflated_effects_have_the_estimated_moments(t):
    t = np.array(t, float)
    u = np.random.default_rng(1).normal(size=(9, 2)) @ [[1, 0.5], [0, 1]] * np.any(t, 0)  # a zero column of T: û zero
    pool, reached = reflated(u, t, sigma=2.0)
    assert_allclose(pool.mean(0), 0, atol=1e-14)
    assert_allclose(pool.T @ pool / 9, 4 * t @ t.T, atol=1e-13)
    assert_allclose(reached, t @ t.T, atol=1e-13)


def test_residual_responses_are_made_of_fitted_pieces():
    fit = sleep()
    with lj.float64():
        y = np.asarray(residual(fit)(key_of(0), 0, 400))
        kept = np.asarray(residual(fit, use_u=True)(key_of(0), 0, 4))
    root = np.sqrt(fit.design.weights)
    errors = fit.resid("pearson") - fit.resid("pearson").mean()
    errors *= fit.sigma / np.sqrt(np.mean(errors**2))
    made = (kept - fit.fitted) * root
    assert np.abs(made[..., None] - errors).min(-1).max() < 1e-9
    # Var(y) = Var(Zb) + σ²/w, as in the model.
    x, t = fit.design.terms[0].x, fit.templates[0]
    expected = fit.sigma**2 * (np.sum((x @ t) ** 2, 1) + 1 / fit.design.weights)
    assert np.mean(y.var(0) / expected) == pytest.approx(1, abs=0.05)
    assert_allclose(y.mean(0), fit.design.X @ fit.fixef.to_numpy(), atol=5 * np.sqrt(expected.max() / 400))


def test_residual_bootstrap_of_a_singular_fit():
    fit = lj.lmer("Yield ~ 1 + (1|Batch)", dataset("bundled", "Dyestuff2"))
    assert fit.is_singular
    with lj.float64():
        y = np.asarray(residual(fit)(key_of(0), 0, 400))
    assert y.var() == pytest.approx(fit.sigma**2, rel=0.1)


def test_residual_bootstrap_refuses_too_few_levels():
    two = replace(sleep(), estimate=replace(sleep().estimate, u=(sleep().estimate.u[0][:2],)))
    with pytest.raises(lj.DataError, match=r"levels of \(.*Days \| Subject\) cannot have the estimated covariance"):
        residual(two)


# --------------------------------------------------------------------------------------------------------------- cases


@cache
def sleep_cases() -> Bootstrap:
    return bootstrap(sleep(), everything, 256, seed=5, kind="cases")


resampled = jax.jit(resample, static_argnums=(3, 4))


def drawn_levels(key, n_levels: int) -> np.ndarray:
    return np.asarray(jax.random.randint(jax.random.split(key)[0], (n_levels,), 0, n_levels))


def replicated(fit: lj.Fit, levels) -> lj.core.Design:
    """The design whose level s is a copy of level levels[s]."""
    d, term = fit.design, fit.design.terms[0]
    rows = [np.flatnonzero(term.codes == g) for g in levels]
    codes = np.repeat(np.arange(len(levels)), [len(r) for r in rows])
    at = np.concatenate(rows)
    copy = RandomTerm(term.x[at], codes, len(levels), term.template)
    return lj.core.Design(d.X[at], d.y[at], (copy,), d.weights[at])


def test_cases_are_replication_of_levels():
    fit = sleep()
    with lj.float64():
        key = key_of(5)
        own = jax.random.fold_in(key, 2)
        explicit = estimate(cross_products(replicated(fit, drawn_levels(own, 18)), orthonormal=True), fit.reml)
    found = sleep_cases()
    for name in ("beta", "theta", "sigma"):
        assert_allclose(found.draws[name][2], getattr(explicit, name), rtol=1e-5, atol=1e-5)


def test_cases_in_two_stages_draw_the_rows_of_each_copy_anew():
    fit = sleep()
    codes, y = fit.design.terms[0].codes, fit.design.y
    with lj.float64():
        key = key_of(1)
        rows = resampled(fit.cross_products, _layout(fit), key, True, True).rows
        levels = drawn_levels(key, 18)
    real = np.asarray(rows.cases) == 1
    slots, values = np.asarray(rows.codes[0])[real], np.asarray(rows.y)[real]
    assert_array_equal(np.bincount(slots), np.bincount(codes)[levels])
    assert all(np.isin(values[slots == s], y[codes == g]).all() for s, g in enumerate(levels))
    twice = [s for s in range(18) if np.sum(levels == levels[s]) > 1]
    assert not np.array_equal(
        values[slots == twice[0]], values[slots == [s for s in twice if levels[s] == levels[twice[0]]][1]]
    )


def test_cases_of_rows_keep_the_size_of_every_level():
    fit = sleep()
    with lj.float64():
        cases = np.asarray(resampled(fit.cross_products, _layout(fit), key_of(1), False, True).rows.cases)
    codes = fit.design.terms[0].codes
    assert_array_equal(np.bincount(codes, cases), np.bincount(codes))
    assert cases.max() > 1


def test_cases_that_lose_a_column_of_x_are_counted():
    found = sleep_cases()
    lost = np.isnan(found.draws["beta"]).any(1)
    assert found.n_failed == lost.sum()
    p = (16 / 18) ** 18  # neither of the two levels with arm = 1
    assert abs(lost.mean() - p) < 4 * np.sqrt(p * (1 - p) / 256)
    assert np.isfinite(found.interval()).all(axis=None)
    assert f"{lost.sum()} not converged" in repr(found)


@pytest.mark.parametrize(
    ("formula", "data"),
    [
        ("diameter ~ 1 + (1|plate) + (1|sample)", "Penicillin"),
        ("Fat ~ 1 + (1|Lab) + (1|Lab:Technician)", "eggs"),
    ],
)
def test_cases_refuse_several_factors(formula, data):
    with pytest.raises(lj.DataError, match="one grouping factor; this model has 2"):
        bootstrap(lj.lmer(formula, dataset("bundled", data)), everything, N, kind="cases")


def test_cases_refuse_a_linear_model():
    with pytest.raises(lj.DataError, match="no levels to resample"):
        bootstrap(plain(), lambda e: e.beta, N, kind="cases")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "wild"}, "choose one of parametric, residual, cases"),
        ({"kind": "cases", "use_u": True}, "uses none"),
        ({"kind": "cases", "levels": False}, "nothing would be resampled"),
        ({"rows": True}, "kind='parametric' does not use them"),
        ({"kind": "residual", "levels": False}, "kind='residual' does not use them"),
        ({"n": 0}, "positive number"),
        ({"n": 1.5}, "positive number"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap(pulp(), everything, **{"n": N, **options})


# ----------------------------------------------------------------------------------------------------------- intervals


def test_bca_of_a_mean_agrees_with_scipy():
    x = np.random.default_rng(0).exponential(size=25)
    found = stats.bootstrap((x,), np.mean, n_resamples=999, method="BCa", random_state=1)
    left_out = (x.sum() - x) / 24
    a = intervals.acceleration(left_out)
    assert a == pytest.approx(stats.skew(x) / (6 * np.sqrt(25)))
    assert_allclose(intervals.bca(found.bootstrap_distribution, x.mean(), a, 0.95), found.confidence_interval)


@pytest.mark.parametrize(("kind", "method"), [("percentile", "percentile"), ("basic", "basic")])
def test_percentile_and_basic_agree_with_scipy(kind, method):
    x = np.random.default_rng(0).exponential(size=25)
    found = stats.bootstrap((x,), np.mean, n_resamples=999, method=method, random_state=1, confidence_level=0.9)
    draws = found.bootstrap_distribution
    ours = intervals.percentile(draws, 0.9) if kind == "percentile" else intervals.basic(draws, x.mean(), 0.9)
    assert_allclose(ours, found.confidence_interval)


def test_bca_without_bias_or_acceleration_is_the_percentile_interval():
    draws = np.arange(101.0)
    assert_allclose(intervals.bca(draws, 50, 0.0, 0.9), intervals.percentile(draws, 0.9))
    assert np.isnan(intervals.bca(draws, -1, 0.0, 0.9)).all()
    assert np.isnan(intervals.bca(draws, 50, np.nan, 0.9)).all()
    assert np.isnan(intervals.acceleration(np.ones(1)))
    assert intervals.acceleration(np.full(5, 0.1)) == 0


def test_intervals_have_a_row_for_each_number():
    found = pulp_bootstrap()
    for kind in intervals.KINDS:
        table = found.interval(0.9, kind)
        assert list(table.index) == ["beta[0]", "first", "sigma", "theta[0]"]
        assert list(table.columns) == ["lower", "upper"]
        assert (table["lower"] < table["upper"]).all()
    scalar = replace(found, observed=np.array(1.0), draws=np.arange(3.0))
    assert list(scalar.interval().index) == ["statistic"]
    assert scalar.bias.shape == scalar.se.shape == ()
    assert (scalar.bias, scalar.se) == (0, 1)
    nothing = replace(scalar, draws=np.full(3, np.nan))
    assert np.isnan([nothing.bias, nothing.se, *nothing.interval().loc["statistic"]]).all()
    assert found.se["beta"].shape == (1,)
    assert found.se["sigma"] == pytest.approx(found.draws["sigma"].std(ddof=1))
    assert found.bias["sigma"] == pytest.approx(found.draws["sigma"].mean() - pulp().sigma)
    assert "Bootstrap (parametric), 64 replicates" in repr(found)
    with pytest.raises(ValueError, match="choose one of percentile, basic, bca"):
        found.interval(kind="t")
    with pytest.raises(ValueError, match="between 0 and 1"):
        found.interval(95)


def test_jackknife_leaves_out_rows_of_a_linear_model():
    data = dataset("bundled", "pulp").assign(x=np.linspace(0, 1, 20) ** 2)
    fit = lj.lm("bright ~ x", data)
    x, e = fit.design.X, fit.resid()
    inverse = np.linalg.inv(x.T @ x)
    leverage = np.einsum("ij,jk,ik->i", x, inverse, x)
    expected = fit.fixef.to_numpy() - (x @ inverse) * (e / (1 - leverage))[:, None]
    assert_allclose(jackknife(fit, lambda e: e.beta), expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("data", "formula", "unit"),
    [
        ("pulp", "bright ~ 1 + (1|operator)", "operator"),
        ("eggs", "Fat ~ 1 + (1|Lab) + (1|Lab:Technician)", "Lab"),
        ("Penicillin", "diameter ~ 1 + (1|plate) + (1|sample)", "plate"),
    ],
)
def test_jackknife_leaves_out_levels(data, formula, unit):
    table = dataset("bundled", data)
    values = jackknife(lj.lmer(formula, table), lambda e: (e.beta, e.sigma))
    levels = table[unit].cat.categories
    assert len(values[1]) == len(levels)
    for i in (0, len(levels) - 1):
        rest = table[table[unit] != levels[i]]
        fit = lj.lmer(formula, rest.assign(**{unit: rest[unit].cat.remove_unused_categories()}))
        assert_allclose(values[0][i], fit.fixef, rtol=1e-6)
        assert values[1][i] == pytest.approx(fit.sigma, rel=1e-6)


# --------------------------------------------------------------------------------------------------------- predictions

NEW = pd.DataFrame({"operator": ["a"]})


def quantile_error(draws_sd: float, n: int, level: float = 0.95) -> float:
    """Standard error of the end of a normal interval from n draws."""
    density = stats.norm.pdf(stats.norm.ppf((1 + level) / 2)) / draws_sd
    return float(np.sqrt((1 - level) / 2 * (1 + level) / 2 / n) / density)


def test_prediction_intervals_of_the_notes():
    # Theirs are from 1000 draws, so three standard errors of theirs is what to expect; ours are from many.
    tolerance = 3 * quantile_error(0.42, 1000)
    new = predict_interval(pulp(), NEW, n=2**14, new_level=True, method="plugin", memory=BY_2048)
    assert_allclose(new[["lower", "upper"]].to_numpy()[0], [59.62780, 61.24264], atol=tolerance)
    known = predict_interval(pulp(), NEW, n=2**14, method="plugin", memory=BY_2048)
    assert_allclose(known[["lower", "upper"]].to_numpy()[0], [59.60897, 60.97931], atol=tolerance)
    # A closed form of the first: β* varies by σ²/20 where the operators are kept.
    sd = np.sqrt(pulp().sigma ** 2 * (1 + 1 / 20) + pulp().varcorr["vcov"][0])
    assert_allclose(new[["lower", "upper"]].to_numpy()[0], 60.4 + 1.96 * sd * np.array([-1, 1]), atol=0.03)


@pytest.mark.parametrize("mean", [False, True])
def test_prediction_interval_of_a_linear_model_is_the_t_interval(mean):
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"x": rng.normal(size=8)})
    data["y"] = 1 + data["x"] + rng.normal(size=8)
    fit, new = lj.lm("y ~ x", data), pd.DataFrame({"x": [0.0, 3.0]}, index=["near", "far"])
    found = predict_interval(fit, new, n=2**15, mean=mean, memory=2**20)
    x = np.column_stack([np.ones(2), new["x"]])
    sd = np.sqrt(np.sum(x @ fit.vcov.to_numpy() * x, 1) + (0 if mean else fit.sigma**2))
    half = stats.t(6).ppf(0.975) * sd
    assert_allclose(found["upper"] - found["fit"], half, rtol=0.04)
    assert_allclose(found["fit"] - found["lower"], half, rtol=0.04)
    assert_allclose(found["fit"], fit.predict(new))
    assert list(found.index) == ["near", "far"]


def test_prediction_intervals_answer_different_questions():
    width = {}
    for new in (False, True):
        for mean in (False, True):
            table = predict_interval(pulp(), NEW, n=2000, new_level=new, mean=mean, memory=BY_2048)
            width[new, mean] = float((table["upper"] - table["lower"]).iloc[0])
            assert table["fit"].iloc[0] == pytest.approx(60.4 if new else pulp().predict(NEW)[0])
            assert table.attrs["n_failed"] == 0
    assert width[False, True] < width[False, False] < width[True, False]
    assert width[True, True] > width[False, True]


def test_prediction_intervals_with_slopes_and_weights():
    new = pd.DataFrame({"Days": [0.0, 5, 20], "Subject": ["308", "309", "308"], "arm": [0, 0, 1]})
    known, fresh = (predict_interval(sleep(), new, n=500, new_level=which) for which in (False, "Subject"))
    assert_allclose(known["fit"], sleep().predict(new))
    assert_allclose(fresh["fit"], sleep().predict(new, re_form="~0"))
    half = (fresh["upper"] - fresh["lower"]).to_numpy() / 2
    z, x = (np.column_stack([np.ones(3), new[name]]) for name in ("Days", "arm"))
    own = sleep().sigma ** 2 * (1 + np.sum((z @ sleep().templates[0]) ** 2, 1))
    sd = np.sqrt(own + np.sum(x @ sleep().vcov.to_numpy() * x, 1))
    assert_allclose(half / (1.96 * sd), 1.05, atol=0.2)


def test_prediction_for_new_levels_of_some_factors():
    fit = lj.lmer("diameter ~ 1 + (1|plate) + (1|sample)", dataset("bundled", "Penicillin"))
    new = pd.DataFrame({"plate": ["new", "a"], "sample": ["A", "B"]})
    target, e = _target(fit, new, "plate", mean=False), fit.estimate
    expected = fit.fixef["Intercept"] + fit.ranef()["sample"].loc[["A", "B"], "Intercept"]
    assert_allclose(target.predict(e.beta[None], [b[None] for b in e.b])[0], expected)
    plate = fit.varcorr["vcov"][fit.schema.term_names.index("plate")]
    assert_allclose(target.noise(e.theta[None], np.array([e.sigma]))[0], np.sqrt(plate + fit.sigma**2))
    assert_allclose(_target(fit, new, "plate", mean=True).noise(e.theta[None], np.array([e.sigma]))[0], np.sqrt(plate))
    with pytest.raises(lj.DataError, match=r"1 rows \(first: row 0\) with levels of 'plate' .* new_level='plate'"):
        predict_interval(fit, new)
    with pytest.raises(lj.FormulaError, match="new_level names disk; the grouping factors are plate, sample"):
        predict_interval(fit, new, new_level=["disk"])


@pytest.mark.parametrize(
    ("options", "message"), [({"method": "t"}, "choose one of studentized"), ({"level": 2}, "level=2")]
)
def test_prediction_options_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        predict_interval(pulp(), NEW, **options)


def test_prediction_refuses_an_offset_that_was_an_array():
    fit = lj.lm("bright ~ 1", dataset("bundled", "pulp"), offset=np.arange(20.0))
    with pytest.raises(lj.DataError, match="offset was an array"):
        predict_interval(fit, NEW)
