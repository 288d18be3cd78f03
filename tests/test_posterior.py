"""Draws with names, beside the fit's answers, and as new responses: against direct computation on made-up draws."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import lmmjax as lj
from lmmjax.bayes import posterior as module
from lmmjax.bayes.posterior import inference_data, pointwise

arviz = pytest.importorskip("arviz", reason="the extra `bayes`")
FORMULA = "y ~ x + offset(o) + (1 | school/class) + (0 + x | school) + (x | town) + (x | h) + (1 | animal)"
ANIMALS = ["a", "b", "c", "d"]
NEAR = 4.5  # standard errors of a Monte Carlo mean


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    rng = np.random.default_rng(8)
    n = 96
    frame = pd.DataFrame(rng.normal(size=(n, 2)), columns=["x", "o"])
    frame["school"], frame["class"] = np.repeat(range(1, 5), 24), np.tile(np.repeat(["p", "q", "r"], 8), 4)
    frame["town"], frame["h"] = np.tile(list("tuvw"), 24), rng.permutation(np.repeat(range(6), 16))
    frame["animal"], frame["w"] = rng.permutation(np.repeat(ANIMALS, 24)), rng.uniform(0.5, 2, n)
    return frame.assign(y=rng.normal(size=n), z=rng.normal(size=n))


def lmer(data: pd.DataFrame, formula: str = FORMULA, **options) -> lj.Fit:
    """At a given θ: what is compared here does not depend on it."""
    related = pd.DataFrame(0.5 * np.eye(4) + 0.5, ANIMALS, ANIMALS)
    sizes = {"weights": "w", "relmat": {"animal": related}, "covariance": {"h": "diagonal"}}
    return lj.lmer(formula, data, theta=[0.7, 0.6, 0.5, 0.3, 0.8, 0.9, 0.2, 0.4, 0.35], **sizes, **options)


@pytest.fixture(scope="module")
def fit(data) -> lj.Fit:
    return lmer(data)


def made_up(design, shape: tuple[int, int]) -> dict:
    """Draws as a sampler gives them."""
    rng = np.random.default_rng(2)
    covariances, b = [], []
    for term in design.terms:
        root = rng.normal(size=(*shape, term.p, term.p)) + 2 * np.eye(term.p)
        full = root @ root.mT
        covariances.append(full * np.eye(term.p) if term.template.is_diagonal else full)
        b.append(rng.normal(size=(*shape, term.n_levels, term.p)))
    sigma, beta = rng.uniform(1, 2, shape), rng.normal(size=(*shape, design.p))
    return {"beta": beta, "sigma": sigma, "covariances": covariances, "b": b}


@pytest.fixture(scope="module")
def draws(fit) -> dict:
    return made_up(fit.design, (2, 50))


def named(fit: lj.Fit, draws: dict, log_likelihood: bool = False):
    return inference_data(fit.schema, fit.design, draws, log_likelihood, {"rss": draws["sigma"]})


@pytest.fixture(scope="module")
def idata(fit, draws):
    return named(fit, draws, log_likelihood=True)


def test_every_variable_has_its_dimensions_and_labels(idata, fit):
    posterior = idata.posterior
    assert {name: v.dims[2:] for name, v in posterior.items()} == {
        "beta": ("column",),
        "sigma": (),
        **{f"sd_{t}": (f"{t}_column",) for t in fit.schema.term_names},
        **{f"b_{t}": (t.split(".")[0], f"{t}_column") for t in fit.schema.term_names},
        "cor_town": ("town_pair",),
    }
    assert set(fit.schema.term_names) == {"class:school", "school", "school.1", "town", "h", "animal"}
    labels = {name: list(v.values) for name, v in posterior.coords.items()}
    assert labels["class:school"] == [f"{c}:{s}" for c in "pqr" for s in range(1, 5)]
    assert labels["school"] == [1, 2, 3, 4]
    assert labels["animal"] == ANIMALS
    assert (labels["school_column"], labels["school.1_column"]) == (["x"], ["Intercept"])
    assert (labels["h_column"], labels["town_pair"]) == (["Intercept", "x"], ["x.Intercept"])
    assert idata.sample_stats["rss"].dims == ("chain", "draw")
    assert idata.observed_data["y"].dims == ("row",)
    assert idata.log_likelihood["y"].dims == ("chain", "draw", "row")


def test_the_numbers_are_those_of_the_covariances(idata, fit, draws):
    at = fit.schema.term_names.index("town")
    covariance, effects = draws["covariances"][at][1, 3], draws["b"][at][1, 3]
    own = idata.posterior.isel(chain=1, draw=3)
    assert own["sd_town"].sel(town_column="x") == pytest.approx(np.sqrt(covariance[1, 1]))
    correlation = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
    assert own["cor_town"].sel(town_pair="x.Intercept") == pytest.approx(correlation)
    assert own["b_town"].sel(town="v", town_column="Intercept") == effects[2, 0]


def test_correlations_of_three_columns_are_in_the_order_of_confint(data):
    fit = lj.lmer("y ~ 1 + (x + z | h)", data, theta=[1, 0, 0, 1, 0, 1])
    draws = made_up(fit.design, (1, 4))
    covariance = draws["covariances"][0][0, 2]
    sd = np.sqrt(np.diag(covariance))
    correlations = named(fit, draws).posterior["cor_h"][0, 2]
    for name, (i, j) in {"x.Intercept": (0, 1), "z.Intercept": (0, 2), "z.x": (1, 2)}.items():
        assert correlations.sel(h_pair=name) == pytest.approx(covariance[i, j] / sd[i] / sd[j])
    table = lj.compare_posterior(fit, named(fit, draws))
    assert list(table.index) == list(lj.confint(fit, method="wald").index)
    assert table["mean"]["cor_z.x|h"] == pytest.approx(
        float(named(fit, draws).posterior["cor_h"].mean(("chain", "draw"))[2])
    )


def test_log_likelihood_is_that_of_normal_rows(idata, fit, draws, data):
    Z = lj.core.random_matrix(fit.design)
    for chain, draw in ((0, 0), (1, 41)):
        b = np.concatenate([v[chain, draw].ravel() for v in draws["b"]])
        mean = data["o"] + fit.design.X @ draws["beta"][chain, draw] + Z @ b
        expected = stats.norm.logpdf(data["y"], mean, draws["sigma"][chain, draw] / np.sqrt(data["w"]))
        np.testing.assert_allclose(idata.log_likelihood["y"][chain, draw], expected, rtol=1e-12)


def test_chunks_change_nothing(fit, idata, draws, monkeypatch):
    new = lj.posterior_predictive(fit, idata)
    monkeypatch.setattr(module, "CHUNK", 7 * fit.nobs)
    np.testing.assert_allclose(pointwise(fit.design, draws), idata.log_likelihood["y"], rtol=1e-12)
    chunked = lj.posterior_predictive(fit, idata)
    np.testing.assert_allclose(chunked.posterior_predictive["y"], new.posterior_predictive["y"], rtol=1e-12)


@pytest.mark.parametrize("group", ["chain", "draw", "column", "beta", "sigma"])
def test_a_factor_may_have_the_name_of_something_else(data, group, tmp_path):
    fit = lj.lmer(f"y ~ x + (1 | {group})", data.rename(columns={"town": group}), theta=[0.5])
    idata = named(fit, made_up(fit.design, (2, 8)))
    idata.to_netcdf(str(tmp_path / "draws.nc"))
    back = arviz.from_netcdf(str(tmp_path / "draws.nc"))
    assert back.posterior[f"b_{group}"].dims == ("chain", "draw", f"{group}_level", f"{group}_column")
    pd.testing.assert_frame_equal(lj.compare_posterior(fit, back), lj.compare_posterior(fit, idata))


def test_rows_with_labels_of_two_levels(data):
    fit = lj.lmer("y ~ x + (1 | town)", data.set_index(["school", "class"]), theta=[0.5])
    idata = named(fit, made_up(fit.design, (1, 4)))
    assert list(idata.observed_data["row"].values[:2]) == ["1:p", "1:p"]


def test_posterior_stands_beside_the_fit(fit, idata):
    table = lj.compare_posterior(fit, idata, level=0.8)
    assert list(table) == ["estimate", "se", "mean", "sd", "lower", "upper", "ess", "rhat"]
    assert list(table.index) == list(lj.confint(fit, method="wald").index)
    sdcor = fit.varcorr.set_index(["group", "name1"])["sdcor"]
    assert table["estimate"]["sd_x|h"] == pytest.approx(sdcor["h", "x"])
    assert table["estimate"]["sigma"] == fit.sigma
    np.testing.assert_allclose(table["se"].dropna(), np.sqrt(np.diag(fit.vcov)))
    assert table["se"].isna().sum() == len(table) - 2
    posterior = idata.posterior
    of = {
        "sd_Intercept|class:school": posterior["sd_class:school"][..., 0],
        "sd_x|school": posterior["sd_school"].sel(school_column="x"),
        "cor_x.Intercept|town": posterior["cor_town"][..., 0],
        "sd_x|h": posterior["sd_h"].sel(h_column="x"),
        "sigma": posterior["sigma"],
        "x": posterior["beta"].sel(column="x"),
    }
    for name, values in of.items():
        numbers = values.to_numpy()
        expected = [numbers.mean(), numbers.std(ddof=1), *np.quantile(numbers, [0.1, 0.9])]
        expected += [float(arviz.ess(numbers)), float(arviz.rhat(numbers))]
        np.testing.assert_allclose(table.loc[name].iloc[2:], expected)


def test_effects_stand_beside_their_predictions(fit, idata):
    table = lj.compare_posterior(fit, idata, effects=True)
    known = lj.ranef_intervals(fit).set_axis(["estimate", "se", "fit_lower", "fit_upper"], axis=1)
    pd.testing.assert_frame_equal(table[list(known)], known)
    posterior = idata.posterior
    of = {
        ("class:school", "q:3", "Intercept"): posterior["b_class:school"].sel({"class:school": "q:3"}),
        ("school", 2, "x"): posterior["b_school"].sel(school=2),
        ("town", "w", "x"): posterior["b_town"].sel(town="w", town_column="x"),
        ("h", 5, "Intercept"): posterior["b_h"].sel(h=5, h_column="Intercept"),
        ("animal", "b", "Intercept"): posterior["b_animal"].sel(animal="b"),
    }
    for name, values in of.items():
        numbers = values.to_numpy().ravel()
        expected = [numbers.mean(), numbers.std(ddof=1), *np.quantile(numbers, [0.025, 0.975])]
        np.testing.assert_allclose(table.loc[name, ["mean", "sd", "lower", "upper"]], expected)


def test_a_single_chain_has_no_rhat(fit):
    table = lj.compare_posterior(fit, named(fit, made_up(fit.design, (1, 20))))
    assert table["rhat"].isna().all()
    assert table["ess"].notna().all()


def fixed_draws(fit: lj.Fit, count: int):
    """The same draw many times: what new responses then are is known."""
    one = made_up(fit.design, (1, 1))
    repeated = {k: np.repeat(one[k], count, 1) for k in ("beta", "sigma")}
    lists = {k: [np.repeat(v, count, 1) for v in one[k]] for k in ("covariances", "b")}
    return {k: v[0, 0] for k, v in one.items() if k in repeated}, named(fit, {**repeated, **lists})


def test_new_responses_have_the_mean_and_the_spread_of_the_rows(fit, data):
    own, idata = fixed_draws(fit, 2000)
    b = np.concatenate([idata.posterior[f"b_{t}"][0, 0].values.ravel() for t in fit.schema.term_names])
    mean = data["o"] + fit.design.X @ own["beta"] + lj.core.random_matrix(fit.design) @ b
    sd = own["sigma"] / np.sqrt(data["w"])
    y = lj.posterior_predictive(fit, idata).posterior_predictive["y"]
    assert y.dims == ("chain", "draw", "row")
    z = (y.values[0] - mean.to_numpy()) / sd.to_numpy()
    assert np.abs(z.mean(0)).max() < NEAR / np.sqrt(len(z))
    assert np.abs((z**2).mean(0) - 1).max() < NEAR * np.sqrt(2 / len(z))
    assert stats.kstest(z.ravel(), "norm").pvalue > 1e-3
    assert abs(np.corrcoef(z[:, 0], z[:, 1])[0, 1]) < NEAR / np.sqrt(len(z))


@pytest.fixture(scope="module")
def newdata() -> pd.DataFrame:
    """Rows 0 and 1: one new class of a known school. 2: another. 3 and 4: two new animals. 5: all known."""
    frame = pd.DataFrame({"x": [1.0, -2, 0.5, 0, 0, 1], "o": 10.0, "school": [1, 1, 2, 1, 1, 1]}, list("uvwxyz"))
    frame["class"], frame["animal"] = ["s", "s", "s", "p", "p", "p"], ["a", "a", "a", "e", "f", "a"]
    return frame.assign(town=["t", "t", "t", "t", "t", "u"], h=[0, 9, 9, 0, 0, 0])


def test_new_levels_vary_as_the_draws_say(fit, newdata):
    own, idata = fixed_draws(fit, 20_000)
    found = lj.posterior_predictive(fit, idata, newdata, allow_new_levels=True)
    assert found.groups() == ["predictions"]
    y = found.predictions["y"]
    assert list(y["row"].values) == list("uvwxyz")
    posterior = idata.posterior.isel(chain=0, draw=0)
    of_class, of_animal = (float(posterior[f"sd_{t}"][0]) ** 2 for t in ("class:school", "animal"))
    intercept, slope = posterior["sd_h"].values ** 2  # of the level 9, at x = −2 and 0.5
    expected = np.diag(np.full(6, own["sigma"] ** 2))
    expected[:2, :2] += of_class
    expected[2, 2] += of_class
    expected[1:3, 1:3] += intercept + slope * np.outer([-2, 0.5], [-2, 0.5])
    expected[[3, 4], [3, 4]] += of_animal
    covariance = np.cov(y.values[0].T)
    error = np.sqrt((expected**2 + np.outer(np.diag(expected), np.diag(expected))) / 20_000)
    assert (np.abs(covariance - expected) < NEAR * error).all()

    def known(term: str, level, column: int = 0) -> float:
        return float(posterior[f"b_{term}"].sel({term.split(".")[0]: level})[column])

    first = 10 + own["beta"] @ [1, 1] + known("school", 1) + known("school.1", 1) + known("animal", "a")
    first += known("town", "t") + known("town", "t", 1) + known("h", 0) + known("h", 0, 1)
    last = first + known("class:school", "p:1") + sum(known("town", "u", j) - known("town", "t", j) for j in (0, 1))
    error = np.sqrt(np.diag(expected) / 20_000)
    assert abs(float(y[0, :, 0].mean()) - first) < NEAR * error[0]
    assert abs(float(y[0, :, 5].mean()) - last) < NEAR * error[5]


def test_new_levels_of_correlated_columns(data):
    fit = lj.lmer("y ~ 0 + (x | town)", data, theta=[0.5, 0.1, 0.5])
    own, idata = fixed_draws(fit, 20_000)
    new = pd.DataFrame({"x": [0.0, 1, -3], "town": "new"})
    y = lj.posterior_predictive(fit, idata, new, allow_new_levels=True).predictions["y"].values[0]
    z = np.column_stack([np.ones(3), new["x"]])
    covariance = z @ made_up(fit.design, (1, 1))["covariances"][0][0, 0] @ z.T + own["sigma"] ** 2 * np.eye(3)
    error = np.sqrt((covariance**2 + np.outer(np.diag(covariance), np.diag(covariance))) / 20_000)
    assert (np.abs(np.cov(y.T) - covariance) < NEAR * error).all()


def test_new_responses_depend_on_the_seed_alone(fit, idata, newdata):
    def y(**options):
        return lj.posterior_predictive(fit, idata, newdata, True, **options).predictions["y"]

    assert y(seed=3).equals(y(seed=3))
    assert not np.isclose(y(seed=3), y(seed=4)).any()
    with lj.float64():
        import jax

        key = jax.random.key(3)
    assert y(seed=key).equals(y(seed=3))


def test_some_draws_are_evenly_spaced(fit, idata):
    y = lj.posterior_predictive(fit, idata, draws=5).posterior_predictive["y"]
    assert y.shape == (2, 5, fit.nobs)
    assert list(y["draw"].values) == [0, 10, 20, 30, 40]
    assert {
        b - a for a, b in pairwise(lj.posterior_predictive(fit, idata, draws=20).posterior_predictive["draw"].values)
    } == {2, 3}


def test_arviz_takes_them_in(fit, draws, newdata):
    matplotlib = pytest.importorskip("matplotlib", reason="the extra `plots`")
    matplotlib.use("Agg")
    idata = named(fit, draws)
    idata.extend(lj.posterior_predictive(fit, idata))
    idata.extend(lj.posterior_predictive(fit, idata, newdata, True))
    assert {"posterior", "posterior_predictive", "predictions", "observed_data"} <= set(idata.groups())
    assert arviz.plot_ppc(idata, num_pp_samples=5).get_xlabel() == "y"
    matplotlib.pyplot.close("all")


def test_draws_of_gibbs_are_of_the_fit_of_the_formula():
    pulp, formula = lj.datasets.load("pulp"), "bright ~ 1 + (1 | operator)"
    fit, idata = lj.lmer(formula, pulp), lj.gibbs(formula, pulp, draws=400, warmup=100, chains=2)
    table = lj.compare_posterior(fit, idata)
    assert table["mean"]["Intercept"] == pytest.approx(60.4, abs=0.1)
    assert table["sd"]["Intercept"] > table["se"]["Intercept"]  # it knows that four operators are few
    y = lj.posterior_predictive(fit, idata).posterior_predictive["bright"]
    assert float(y.mean()) == pytest.approx(pulp["bright"].mean(), abs=0.1)


def test_draws_of_another_model_are_refused(data, fit, idata):
    def compared(formula=FORMULA, frame=data, **options):
        return lj.compare_posterior(lmer(frame, formula, **options), idata)

    with pytest.raises(
        lj.DataError, match=r"'beta' has 'Intercept', 'x' in the draws, 'Intercept', 'o', 'x' in the fit"
    ):
        compared(FORMULA.replace("x + offset(o)", "o + x"))
    with pytest.raises(lj.DataError, match="'b_animal' has 'a', 'b', 'c', 'd' in the draws, 'a', 'b', 'c' in the fit"):
        compared(frame=data[data["animal"] != "d"])
    with pytest.raises(lj.DataError, match="given other values of 'y'"):
        compared(frame=data.assign(y=data["y"] + 1))
    other = lj.lmer("y ~ x + (1 | animal)", data, theta=[1])
    with pytest.raises(lj.DataError, match="'sd_class:school' is what the draws have, but not the fit of 'y ~ x"):
        lj.posterior_predictive(other, idata)
    draws = named(other, made_up(other.design, (2, 8)))
    with pytest.raises(lj.DataError, match="'sd_class:school' is what the draws do not have, but the fit of"):
        lj.compare_posterior(fit, draws)
    with pytest.raises(lj.DataError, match="Dataset without a posterior"):
        lj.compare_posterior(fit, idata.posterior)
    with pytest.raises(TypeError, match=r"compare_posterior\(\) takes fits"):
        lj.compare_posterior(FORMULA, idata)


def test_bad_input_names_the_culprit(fit, idata, newdata, data):
    with pytest.raises(ValueError, match="level=95"):
        lj.compare_posterior(fit, idata, level=95)
    for bad in (0, 51, 2.5):
        with pytest.raises(ValueError, match=f"draws={bad}: give an integer from 1 to 50"):
            lj.posterior_predictive(fit, idata, draws=bad)
    with pytest.raises(lj.DataError, match=r"3 rows \(first: row 0\) with levels of 'class:school'.*allow_new_levels"):
        lj.posterior_predictive(fit, idata, newdata)
    with pytest.raises(lj.DataError, match="no column 'town'"):
        lj.posterior_predictive(fit, idata, newdata.drop(columns="town"))
    with pytest.raises(TypeError, match="seed='a'"):
        lj.posterior_predictive(fit, idata, seed="a")
    other = lj.lmer("y ~ x + (1 | town)", data, offset=data["o"].to_numpy(), theta=[1])
    with pytest.raises(lj.DataError, match="offset was an array"):
        lj.posterior_predictive(other, named(other, made_up(other.design, (1, 4))), newdata)
