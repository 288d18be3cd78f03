"""Profile likelihood: limits against R, closed forms, refits and another optimiser; equivariance; boundaries."""

from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
from catalogue import SHARED, Model, patsy_names
from scipy import optimize, stats

import lmmjax as lj
from lmmjax import core
from lmmjax.core.profiling import HeldColumn
from lmmjax.precision import float64, to_numpy

Q = stats.chi2.ppf(0.95, 1)
WITH_LIMITS = [m for m in SHARED if m.entry.get("profile_ci_exact")] or [Model("shared", "all models")]


def normal_data(seed: int, n: int = 120, size=(1.0, 0.8, 0.6), noise: float = 1.0) -> pd.DataFrame:
    """y on x and z with effects of 15 levels of g and 6 of h."""
    rng = np.random.default_rng(seed)
    data = pd.DataFrame({"x": rng.normal(size=n), "z": rng.normal(size=n), "w": rng.uniform(0.5, 2, n)})
    data["g"], data["h"] = np.arange(n) % 15, rng.integers(0, 6, n)
    b = rng.normal(size=(15, 3)) @ np.array([[1, 0.4, 0], [0, 1, 0.3], [0, 0, 1]]) * size
    y = 1 + 0.5 * data["x"] + b[data["g"], 0] + b[data["g"], 1] * data["x"] + b[data["g"], 2] * data["z"]
    return data.assign(y=y + 0.7 * rng.normal(size=6)[data["h"]] + noise * rng.normal(size=n))


@cache
def fitted(model: Model) -> lj.Fit:
    return model.fit(reml=False)


@cache
def model_limits(model: Model) -> pd.DataFrame:
    return lj.confint(fitted(model))


# ------------------------------------------------------------------------------------------------- against R


@pytest.mark.parametrize("model", WITH_LIMITS, ids=str)
def test_limits_are_those_of_r(model):
    r = model.entry["profile_ci_exact"]
    ours, theirs = model_limits(model), pd.DataFrame(r)[["lower", "upper"]].to_numpy(float)
    names = {"(Intercept)": "Intercept", **patsy_names(fitted(model), model.r(False)["coef_names"])}
    renamed = [names.get(p, p.replace("(Intercept)", "Intercept")) for p in r["parameter"]]
    assert list(ours.index) == renamed
    ours = ours.to_numpy()
    if model.name == "dyestuff2":  # see the next test
        ours, theirs = ours[:2], theirs[:2]
    np.testing.assert_array_equal(ours[np.isin(theirs, (0, 1, -1))], theirs[np.isin(theirs, (0, 1, -1))])
    np.testing.assert_allclose(ours, theirs, rtol=1e-8)


def one_way_deviance(sizes: tuple[int, int], within: float, means: np.ndarray, mu: float, sd=None, sigma=None) -> float:
    """The least −2 log-likelihood of a balanced one-way layout at μ, in closed form but for one search where sd or
    sigma is held. sizes : groups and rows in each. within : sum of squares within groups."""
    a, m = sizes
    between = m * np.sum((means - mu) ** 2)

    def at(s2, total):  # total : σ² + m sd²
        logs = a * m * np.log(2 * np.pi) + a * (m - 1) * np.log(s2) + a * np.log(total)
        return logs + within / s2 + between / total

    if sigma is not None:
        return at(sigma**2, max(between / a, sigma**2))
    if sd is not None:
        search = {"bounds": (-20, 20), "method": "bounded", "options": {"xatol": 1e-10}}
        return optimize.minimize_scalar(lambda t: at(np.exp(t), np.exp(t) + m * sd**2), **search).fun
    s2, total = within / (a * (m - 1)), between / a
    return at(s2, total) if total > s2 else at((within + between) / (a * m), (within + between) / (a * m))


def one_way_limits(y: np.ndarray) -> np.ndarray:
    """(3, 2) limits of sd, σ and μ for y (groups, rows)."""
    means = y.mean(1)
    known = y.shape, float(np.sum((y - means[:, None]) ** 2)), means
    centre = y.mean()
    top = one_way_deviance(*known, centre) + Q

    def root(f, inside, outside):
        return optimize.brentq(lambda v: f(v) - top, inside, outside, xtol=1e-13)

    between, within = y.shape[1] * np.sum((means - centre) ** 2) / len(y), known[1] / (y.size - len(y))
    pooled = (between * len(y) + known[1]) / y.size
    sd = np.sqrt(max(0.0, between - within) / y.shape[1])
    sigma = np.sqrt(within if between > within else pooled)

    def of_sd(s):
        return one_way_deviance(*known, centre, sd=s)

    def of_sigma(s):
        return one_way_deviance(*known, centre, sigma=s)

    def of_mu(mu):
        return one_way_deviance(*known, mu)

    lowest = 0.0 if of_sd(0) <= top else root(of_sd, sd, 0)
    far = centre + 100 * y.std() * np.array([-1, 1])
    return np.array(
        [
            [lowest, root(of_sd, sd, 50 * y.std())],
            [root(of_sigma, sigma, 0.05 * sigma), root(of_sigma, sigma, 20 * sigma)],
            [root(of_mu, centre, v) for v in far],
        ]
    )


def grouped(y: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"y": y.ravel(), "g": np.repeat(np.arange(len(y)), y.shape[1])})


@pytest.mark.parametrize("between", [0.0, 0.3, 2.0])
def test_one_way_limits_in_closed_form(between):
    rng = np.random.default_rng(5)
    y = 3 + between * rng.normal(size=(6, 1)) + rng.normal(size=(6, 5))
    limits = lj.confint(lj.lmer("y ~ 1 + (1 | g)", grouped(y)))
    np.testing.assert_allclose(limits, one_way_limits(y), rtol=1e-9)
    assert (limits.iloc[0, 0] == 0) == (between < 1)


def test_intercept_of_dyestuff2_is_wider_than_in_r():
    """R holds θ at the zero of the estimate; at R's limits a positive θ has a lower deviance, by the closed form."""
    model = Model("shared", "dyestuff2")
    y = model.data()["Yield"].to_numpy().reshape(6, 5)
    r = model.entry["profile_ci_exact"]
    at = r["parameter"].index("(Intercept)")
    expected = one_way_limits(y)[2]
    np.testing.assert_allclose(model_limits(model).loc["Intercept"], expected, rtol=1e-10)
    means, within = y.mean(1), np.sum((y - y.mean(1, keepdims=True)) ** 2)
    at_r = one_way_deviance(y.shape, within, means, r["lower"][at])
    assert at_r - one_way_deviance(y.shape, within, means, y.mean()) < Q - 1e-3


# ------------------------------------------------------------------------------------------------- identities


def test_limits_of_a_linear_model_in_closed_form():
    """β: n log(1 + t²/(n − p)) is the excess. σ: n (log(σ²/σ̂²) + σ̂²/σ² − 1) is."""
    fit = lj.lm("y ~ x + z", normal_data(1))
    limits, n = lj.confint(fit), fit.nobs
    se, df = np.sqrt(np.diag(fit.vcov)), fit.df_resid
    half = se * np.sqrt(df * np.expm1(Q / n))
    np.testing.assert_allclose(limits.iloc[1:], np.column_stack([fit.fixef - half, fit.fixef + half]), rtol=1e-9)
    ml = fit.sigma * np.sqrt(df / n)
    ends = [optimize.brentq(lambda s: n * (2 * np.log(s) + s**-2 - 1) - Q, 1, v) for v in (0.1, 10)]
    np.testing.assert_allclose(limits.loc["sigma"], ml * np.array(ends), rtol=1e-9)
    assert "note" not in limits.attrs or not limits.attrs["note"]


@pytest.fixture(scope="module")
def crossed():
    """A REML fit with weights, an offset, a vector term and a crossed factor, and its profile."""
    data = normal_data(11).assign(o=lambda d: 0.1 * d["z"])
    fit = lj.lmer("y ~ x + z + (x | g) + (1 | h)", data, weights="w", offset="o")
    return data, fit, lj.profile(fit)


def test_fits_with_the_coefficient_fixed_have_the_deviance_of_the_limit(crossed):
    data, fit, profile = crossed
    best = lj.lmer(fit.schema.formula, data, reml=False, weights="w", offset="o").deviance
    limits = profile.confint()
    for name in ("x", "z"):
        for limit in limits.loc[name]:
            rest = {"x": "z", "z": "x"}[name]
            fixed = data.assign(o=data["o"] + limit * data[name])
            held = lj.lmer(f"y ~ {rest} + (x | g) + (1 | h)", fixed, reml=False, weights="w", offset="o")
            assert held.deviance - best == pytest.approx(Q, abs=1e-8)


def test_fits_with_sigma_known_have_the_deviance_of_the_limit(crossed):
    _, fit, profile = crossed
    with float64():
        best = core.estimate(fit.cross_products, reml=False).criterion
        for limit in profile.confint().loc["sigma"]:
            assert core.estimate(fit.cross_products, False, sigma=limit).criterion - best == pytest.approx(Q, abs=1e-8)


def constrained(cp, held: int, value: float, start: np.ndarray, p: int) -> float:
    """The least deviance over standard deviations, correlations and σ with one of them held, by BFGS in just these.
    start : sds (p,), correlations, the other term's sd, σ."""

    def factor(v):
        corr = np.eye(p)
        corr[np.tril_indices(p, -1)] = v[p : p + p * (p - 1) // 2]
        corr = corr + np.tril(corr, -1).T
        return v[:p, None] * np.linalg.cholesky(corr)

    def deviance(v):
        try:
            t = factor(v) / v[-1]
        except np.linalg.LinAlgError:
            return 1e6
        theta = np.concatenate([t.T[np.triu_indices(p)], v[p * (p + 1) // 2 : -1] / v[-1]])
        return float(core.deviance(theta, v[-1], cp, False))

    keep = np.delete(np.arange(len(start)), held)

    def whole(v):
        out = np.empty(len(start))
        out[keep], out[held] = v, value
        return out

    found = optimize.minimize(lambda v: deviance(whole(v)), start[keep], method="BFGS", options={"gtol": 1e-7})
    return found.fun


def test_another_optimiser_finds_the_same_deviances():
    """Three correlated effects and a crossed one, every limit inside its range."""
    rng = np.random.default_rng(3)
    n, levels = 720, 40
    d = pd.DataFrame({"x": rng.normal(size=n), "z": rng.normal(size=n), "g": np.arange(n) % levels})
    d["h"] = rng.integers(0, 9, n)
    b = rng.normal(size=(levels, 3)) @ np.linalg.cholesky([[1, 0.4, -0.3], [0.4, 1, 0.2], [-0.3, 0.2, 1]]).T
    d["y"] = b[d["g"], 0] + b[d["g"], 1] * d["x"] + b[d["g"], 2] * d["z"] + rng.normal(size=9)[d["h"]]
    d["y"] += rng.normal(size=n)
    fit = lj.lmer("y ~ 1 + (x + z | g) + (1 | h)", d, reml=False)
    limits = lj.confint(fit).iloc[:8]
    order = [0, 3, 5, 1, 2, 4, 6, 7]  # sds, correlations (by rows of the lower triangle), the other sd, σ
    estimate = fit.varcorr["sdcor"].to_numpy()
    with float64():
        for at, name in enumerate(limits.index[order]):
            found = constrained(fit.cross_products, at, limits.loc[name].iloc[at % 2], estimate, 3)
            assert found - fit.deviance == pytest.approx(Q, abs=1e-6), name


def test_held_column_is_an_offset():
    fit = lj.lmer("y ~ x + z + (x | g)", normal_data(2))
    with float64():
        for j in range(3):
            held = HeldColumn.of(fit.cross_products, j)
            moved = fit.design.replace(y=fit.design.y - 1.7 * fit.design.X[:, j], X=np.delete(fit.design.X, j, 1))
            ours = to_numpy(core.profile(fit.theta, held.at(1.7), False))
            theirs = to_numpy(core.profile(fit.theta, core.cross_products(moved), False))
            assert ours.criterion == pytest.approx(theirs.criterion, abs=1e-9)
            np.testing.assert_allclose(held.coefficients(ours.beta, 1.7), np.insert(theirs.beta, j, 1.7), atol=1e-10)


def test_limits_follow_units_and_forget_the_order_of_rows(crossed):
    data, fit, profile = crossed
    limits = profile.confint(0.9)
    changed = data.sample(frac=1, random_state=1).assign(
        y=lambda d: 1e3 * (d["y"] + 2 * d["x"]), o=lambda d: 1e3 * d["o"], z=lambda d: 0.01 * d["z"]
    )
    again = lj.confint(lj.lmer(fit.schema.formula, changed, weights="w", offset="o"), level=0.9)
    factor = np.where(again.index.str.startswith("cor"), 1, 1e3)
    factor[list(again.index).index("z")] = 1e5
    shift = np.where(again.index == "x", 2e3, 0)
    np.testing.assert_allclose(again, limits.mul(factor, axis=0).add(shift, axis=0), rtol=1e-8)


def test_limits_follow_units_of_a_random_slope():
    data = normal_data(4)
    limits = lj.confint(lj.lmer("y ~ x + (x | g)", data))
    again = lj.confint(lj.lmer("y ~ x + (x | g)", data.assign(x=1e-3 * data["x"])))
    factor = np.where(again.index.isin(["sd_x|g", "x"]), 1e3, 1.0)
    np.testing.assert_allclose(again, limits.mul(factor, axis=0), rtol=1e-8)


# ------------------------------------------------------------------------------------------------- the object


def test_table_goes_through_the_estimate_and_to_the_limits(crossed):
    _, fit, profile = crossed
    table = profile.table
    assert list(table.columns[:3]) == ["parameter", "zeta", "value"]
    assert list(table.columns[3:]) == list(profile.estimate.index) == list(dict.fromkeys(table["parameter"]))
    limits = profile.confint(profile.level)
    for name, part in table.groupby("parameter"):
        assert (np.diff(part["zeta"]) > 0).all()
        assert (np.diff(part["value"]) > 0).all()
        np.testing.assert_array_equal(part["value"], part[name])
        centre = part[part["zeta"] == 0]
        np.testing.assert_allclose(centre[profile.estimate.index].to_numpy()[0], profile.estimate, rtol=1e-12)
        np.testing.assert_allclose(part["value"].iloc[[0, -1]], limits.loc[name], rtol=1e-7)


def test_other_parameters_of_a_row_are_those_of_the_refit(crossed):
    data, _, profile = crossed
    row = profile.table.query("parameter == 'x'").iloc[2]
    fixed = data.assign(o=data["o"] + row["value"] * data["x"])
    held = lj.lmer("y ~ z + (x | g) + (1 | h)", fixed, reml=False, weights="w", offset="o")
    sdcor = held.varcorr["sdcor"].to_numpy()
    np.testing.assert_allclose(row.iloc[3:8].to_numpy(float), sdcor[[0, 2, 1, 3, 4]], rtol=1e-6)
    np.testing.assert_allclose(row[["Intercept", "z"]].to_numpy(float), held.fixef, rtol=1e-6)


def test_table_does_not_depend_on_what_was_asked_before(crossed):
    _, fit, profile = crossed
    first = lj.profile(fit, "sigma")
    first.confint(0.5)
    other = profile.table.query("parameter == 'sigma'").reset_index(drop=True)
    pd.testing.assert_frame_equal(first.table, other, rtol=1e-7)


def test_reml_fits_are_profiled_by_ml_and_say_so(crossed):
    data, fit, profile = crossed
    assert "by ML" in profile.note
    assert "by ML" in repr(profile)
    ml = lj.profile(lj.lmer(fit.schema.formula, data, reml=False, weights="w", offset="o"), "sigma")
    assert not ml.note
    np.testing.assert_allclose(ml.confint(), profile.confint().loc[["sigma"]], rtol=1e-9)


def test_zeta_plots_show_the_table_and_the_intervals(crossed):
    pytest.importorskip("matplotlib").use("Agg")
    from matplotlib import pyplot

    _, _, profile = crossed
    panels = lj.plots.profile(profile, levels=(0.9,))
    limits = profile.confint(0.9)
    assert [p.get_xlabel() for p in panels] == list(profile.curves)
    for panel, (name, part) in zip(panels, profile.table.groupby("parameter", sort=False), strict=True):
        _, curve, bracket = panel.lines
        np.testing.assert_array_equal(curve.get_xydata(), part[["value", "zeta"]])
        np.testing.assert_allclose(bracket.get_xdata()[[0, 3]], limits.loc[name])
        inside = np.abs(limits.loc[name].to_numpy()) % 1 > 0  # not on the boundary
        tops, zeta = bracket.get_ydata()[[0, 3]], stats.norm.ppf([0.05, 0.95])
        np.testing.assert_allclose(tops[inside], zeta[inside], rtol=0.02)
    with pytest.raises(ValueError, match="1 axes for 8 profiles"):
        lj.plots.profile(profile, ax=panels[0])
    pyplot.close("all")


# ------------------------------------------------------------------------------------------------- boundaries


def test_limits_on_the_boundary_are_exact():
    data = normal_data(5, n=60, size=(1.0, 0.0, 0.0))
    limits = lj.confint(lj.lmer("y ~ x + (x | g)", data))
    assert limits.loc["sd_x|g", "lower"] == 0
    assert limits.loc["sd_Intercept|g", "lower"] > 0
    assert limits.loc["cor_x.Intercept|g"].tolist() == [-1, 1]


def test_a_correlation_against_the_data_is_best_without_one_of_the_effects():
    """Where a correlation of −0.9 fits worse than no second effect, its profile is that of the smaller models."""
    data = normal_data(8, size=(0.0, 0.0, 0.0))
    data["y"] += (data["x"] + 0.3) * np.random.default_rng(2).normal(size=15)[data["g"]]
    fit = lj.lmer("y ~ x + (x | g)", data, reml=False)
    curve = lj.profile(fit).curves["cor_x.Intercept|g"]
    assert curve.estimate == pytest.approx(1)
    with float64():
        zeta = curve.at(-0.9).zeta
    smaller = [lj.lmer(f"y ~ x + ({t} | g)", data, reml=False).deviance for t in ("1", "0 + x")]
    assert zeta < 0
    assert zeta**2 == pytest.approx(min(smaller) - fit.deviance, rel=1e-9)


def test_a_correlation_with_nothing_has_no_limits():
    rng = np.random.default_rng(0)
    slopes = rng.normal(size=(12, 1))
    x = np.tile(np.array([-1.5, -0.5, 0.5, 1.5]), (12, 1))
    noise = rng.normal(size=(12, 4))
    y = slopes * x + noise - noise.mean(1, keepdims=True)  # all level means are zero: no variance of the intercept
    data = grouped(y).assign(x=x.ravel())
    profile = lj.profile(lj.lmer("y ~ x + (x | g)", data))
    limits = profile.confint()
    assert limits.loc["cor_x.Intercept|g"].isna().all()
    assert "cor_x.Intercept|g" in profile.note
    assert limits.loc["sd_Intercept|g", "lower"] == 0
    assert limits.drop("cor_x.Intercept|g").notna().all(axis=None)
    assert "cor_x.Intercept|g" not in set(profile.table["parameter"])


def test_sigma_without_lower_limit_is_zero():
    """Two rows a level and two variances: the likelihood stays finite as σ goes to zero."""
    rng = np.random.default_rng(3)
    x = np.tile([0.0, 1.0], (10, 1))
    y = rng.normal(size=(10, 1)) + 2 * rng.normal(size=(10, 1)) * x + 0.3 * rng.normal(size=(10, 2))
    data = grouped(y).assign(x=x.ravel())
    limits = lj.confint(lj.lmer("y ~ 1 + (x || g)", data), "sigma")
    assert limits.loc["sigma", "lower"] == 0
    assert np.isfinite(limits.loc["sigma", "upper"])


# ------------------------------------------------------------------------------------------------- what else it takes


def assert_deviance_of_limits(fit: lj.Fit, profile, column: int) -> None:
    """An ML fit with a coefficient at its limit has the deviance of the limit."""
    held = HeldColumn.of(fit.cross_products, column)
    with float64():
        for limit in profile.confint().loc[fit.schema.fixed_names[column]]:
            assert core.estimate(held.at(limit), False).criterion - fit.deviance == pytest.approx(Q, abs=1e-8)


def test_terms_of_other_templates_have_no_profile():
    data = normal_data(6)
    fit = lj.lmer("y ~ x + (x | g)", data, reml=False, covariance={"g": "compound_symmetry"})
    profile = lj.profile(fit)
    assert list(profile.curves) == ["sigma", "Intercept", "x"]
    assert "covariance" in profile.note
    assert_deviance_of_limits(fit, profile, 1)
    with pytest.raises(lj.DataError, match=r"sd_x\|g.*covariance="):
        lj.profile(fit, "sd_x|g")


def test_related_levels():
    data, a = normal_data(7), np.random.default_rng(1).normal(size=(15, 20))
    fit = lj.lmer("y ~ x + (1 | g)", data, reml=False, relmat={"g": a @ a.T / 20})
    assert_deviance_of_limits(fit, lj.profile(fit, "x"), 1)


def test_failures_are_told(crossed, monkeypatch):
    _, fit, _ = crossed
    profile = lj.profile(fit, "x")
    likelihood = profile.curves["x"].likelihood
    likelihood.ml = replace(likelihood.ml, criterion=likelihood.ml.criterion + 0.5)
    with pytest.warns(lj.ConvergenceWarning, match="profile of x: the deviance falls .* below that of the fit"):
        profile.curves["x"].limit(0.1, 1)
    profile = lj.profile(fit, "x")
    monkeypatch.setattr(profile.curves["x"].likelihood, "minimum", lambda chart, w, cp: (np.nan, w, fit.estimate.beta))
    with pytest.warns(lj.ConvergenceWarning, match="profile of x: no minimum .* the limit is unknown"):
        assert profile.confint().isna().all(axis=None)


def test_what_it_refuses(crossed):
    data, fit, _ = crossed
    with pytest.raises(lj.DataError, match=r"no parameter 'sd_Intercpt\|g'.*did you mean 'sd_Intercept\|g'"):
        lj.profile(fit, ["sigma", "sd_Intercpt|g"])
    with pytest.raises(ValueError, match="level=95"):
        lj.profile(fit, level=95)
    with pytest.raises(lj.DataError, match="theta of"):
        lj.profile(lj.lmer("y ~ x + (1 | g)", data, theta=[0.5]))
