"""lj.gibbs and its priors: names, reproducibility, resumption, and what they refuse."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import references

import lmmjax as lj
from lmmjax import DataError, FormulaError
from lmmjax.bayes.gibbs import _sweeper

pytest.importorskip("arviz", reason="the extra `bayes`")
FORMULA = "y ~ x + (x | g)"


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    x, g = rng.normal(size=60), np.repeat([f"g{i}" for i in range(6)], 10)
    return pd.DataFrame({"x": x, "g": g, "y": 3 + x + rng.normal(size=6).repeat(10) + rng.normal(size=60)})


@pytest.fixture(scope="module")
def sample(data):
    return partial(lj.gibbs, FORMULA, data, seed=5, warmup=20)


@pytest.fixture(scope="module")
def idata(sample):
    return sample(draws=60, chains=2, log_likelihood=True)


def test_every_number_has_a_name(idata, data):
    posterior = idata.posterior
    assert set(posterior) == {"beta", "sigma", "sd_g", "cor_g", "b_g"}
    assert list(posterior["column"].values) == ["Intercept", "x"]
    assert posterior["b_g"].dims == ("chain", "draw", "g", "g_column")
    assert list(posterior["g"].values) == [f"g{i}" for i in range(6)]
    assert list(posterior["cor_g"].coords["g_pair"].values) == ["x.Intercept"]
    assert idata.log_likelihood["y"].dims == ("chain", "draw", "row")
    np.testing.assert_array_equal(idata.observed_data["y"], data["y"])


def test_residual_sum_of_squares_is_that_of_the_rows(idata, data):
    last = idata.posterior.isel(chain=1, draw=-1)
    effects = last["b_g"].sel(g=data["g"].to_numpy()).values
    Z = np.column_stack([np.ones(len(data)), data["x"]])
    left = data["y"] - Z @ last["beta"].values - (Z * effects).sum(1)
    assert idata.sample_stats["rss"].isel(chain=1, draw=-1) == pytest.approx(np.sum(left**2), rel=1e-10)


@pytest.mark.parametrize(("formula", "kernel"), [(FORMULA, "joint"), ("y ~ 1 + (1 | g)", "one_way")])
def test_a_chain_does_not_depend_on_the_others(data, formula, kernel):
    one, five = (
        lj.gibbs(formula, data, seed=5, warmup=20, draws=60, chains=chains, kernel=kernel).posterior
        for chains in (1, 5)
    )
    for name, values in one.items():
        np.testing.assert_array_equal(five[name].values[:1], values)
    assert len(np.unique(five["sigma"][:, 0])) == 5


def test_chains_at_once_as_on_an_accelerator_are_those_by_themselves(sample, idata, monkeypatch):
    """To rounding: the last bit of a sum depends on the shape that it is computed in."""
    monkeypatch.setattr("lmmjax.bayes.gibbs._Run._together", 2)
    together = sample(draws=60, chains=2).posterior
    for name, values in idata.posterior.items():
        np.testing.assert_allclose(together[name], values, rtol=1e-9, atol=1e-9)


def test_what_xla_cannot_put_in_one_kernel_runs_as_many(data, monkeypatch):
    """LAPACK's factorisation of twenty crossed effects, say, where a wrong guess would have it."""
    crossed = data.assign(h=np.tile(range(20), 3))
    run = partial(lj.gibbs, "y ~ x + (1 | g) + (1 | h)", crossed, warmup=5, draws=12, chains=2)
    as_known = run().posterior
    _sweeper.cache_clear()
    monkeypatch.setattr("lmmjax.core.gibbs.is_one_kernel", lambda cp: True)
    assert run().posterior.equals(as_known)


def test_a_seed_is_a_result(sample, idata):
    assert idata.posterior.equals(sample(draws=60, chains=2).posterior)
    assert not np.allclose(idata.posterior["sigma"], sample(draws=60, chains=2, seed=6).posterior["sigma"])


def test_resumed_run_is_the_longer_run(sample, idata, data, tmp_path):
    import arviz

    idata.to_netcdf(str(tmp_path / "run.nc"))
    saved = arviz.from_netcdf(str(tmp_path / "run.nc"))
    longer = sample(draws=100, chains=2, log_likelihood=True)
    resumed = lj.gibbs(FORMULA, data, draws=40, resume=saved)
    assert resumed.posterior.equals(longer.posterior)
    assert resumed.log_likelihood.equals(longer.log_likelihood)
    resumed.extend(lj.posterior_predictive(lj.lmer(FORMULA, data), resumed))
    again = lj.gibbs(FORMULA, data, draws=20, resume=resumed)
    assert again.posterior.sizes["draw"] == again.log_likelihood.sizes["draw"] == 120


def test_resume_refuses_another_model(idata, data):
    with pytest.raises(DataError, match="not those of the earlier run"):
        lj.gibbs(FORMULA, data, lj.Priors(residual=lj.InverseGamma(2, 1)), resume=idata)
    with pytest.raises(DataError, match="no result of lj.gibbs"):
        lj.gibbs(FORMULA, data, resume=idata.observed_data)


def test_thinned_draws_are_those_of_every_sweep(sample, idata):
    thinned = sample(draws=20, thin=3, warmup=18, chains=2).posterior
    whole = sample(draws=62, chains=2, warmup=18).posterior
    np.testing.assert_allclose(thinned["beta"], whole["beta"][:, 2:60:3], rtol=1e-9)


def test_default_priors_follow_the_units(data):
    ours = lj.priors(FORMULA, data)
    other = lj.priors(FORMULA, data.assign(y=1000 * data["y"] + 5e4, x=data["x"] / 100))
    assert other.fixed["x"].sd == pytest.approx(1e5 * ours.fixed["x"].sd)
    assert other.fixed["Intercept"].mean == pytest.approx(1000 * ours.fixed["Intercept"].mean + 5e4)
    np.testing.assert_allclose(other.terms["g"].scale, np.array([1e3, 1e5]) * ours.terms["g"].scale)
    assert other.residual.scale == pytest.approx(1000 * ours.residual.scale)
    text = str(lj.priors(FORMULA, data, lj.Priors(residual=lj.InverseGamma(2, 100))))
    assert text.splitlines()[-1] == "residual   ~  InverseGamma(shape=2, scale=100)"
    assert [line.split()[0] for line in text.splitlines()] == ["Intercept", "x", "g", "residual"]


def test_cell_means_share_the_mean_of_y(data):
    priors = lj.priors("y ~ 0 + C(g) + (1 | h)", data.assign(h=np.tile(range(10), 6), y=data["y"] + 1e6))
    assert all(p.mean == pytest.approx(np.mean(data["y"]) + 1e6) for p in priors.fixed.values())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lj.Normal(0, 0), "sd must be positive and finite"),
        (lambda: lj.Normal(0, np.inf), "improper"),
        (lambda: lj.Normal(np.nan, 1), "mean must be finite"),
        (lambda: lj.InverseGamma(-1, 1), "shape must be positive"),
        (lambda: lj.InverseGamma(0, 0), "improper"),
        (lambda: lj.InverseGamma(1, np.nan), "scale must be positive"),
        (lambda: lj.InverseWishart(1, np.eye(2)), "df must be above p − 1 = 1"),
        (lambda: lj.InverseWishart(3, [[1, 2], [2, 1]]), "positive definite"),
        (lambda: lj.InverseWishart(3, [1, 2]), "symmetric matrix"),
        (lambda: lj.HalfT(2, (1, -1)), "scale must be positive"),
        (lambda: lj.HalfT(0, 1), "df must be positive"),
    ],
)
def test_improper_priors_are_refused(make, message):
    with pytest.raises(DataError, match=message):
        make()


@pytest.mark.parametrize(
    ("priors", "message"),
    [
        (lj.Priors(terms={"G": lj.HalfT()}), "'G', which is no random-effects term.*did you mean 'g'"),
        (lj.Priors(fixed={"z": lj.Normal()}), "'z', which is no fixed-effects column"),
        (lj.Priors(fixed={"x": lj.HalfT()}), r"coefficient 'x'.*lj.Normal\(mean, sd\)"),
        (lj.Priors(terms={"g": lj.InverseGamma(2, 1)}), "'g' has 2 correlated columns"),
        (
            lj.Priors(terms={"g": lj.InverseWishart(4, np.eye(3))}),
            r"'g' has 2 columns, and its InverseWishart is 3 wide",
        ),
        (lj.Priors(terms={"g": lj.HalfT(2, (1, 2, 3))}), "'g' has 2 columns, and its HalfT 3 scales"),
        (lj.Priors(terms={"g": lj.Normal()}), "prior of the term 'g' is Normal"),
        (lj.Priors(residual=lj.Normal()), "residual variance lj.InverseGamma"),
        (lj.Priors(residual=lj.HalfT(2, (1, 2))), "scalar lj.HalfT"),
    ],
)
def test_priors_that_do_not_fit_are_refused(priors, message, data):
    with pytest.raises(DataError, match=message):
        lj.gibbs(FORMULA, data, priors)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chains": 0}, "chains=0: give an integer of at least 1"),
        ({"draws": 0}, "draws=0"),
        ({"draws": 10.5}, "draws=10.5"),
        ({"warmup": -1}, "warmup=-1"),
        ({"thin": 0}, "thin=0"),
        ({"kernel": "hmc"}, "kernel='hmc': choose one of joint, one_way"),
        ({"kernel": "one_way"}, r"for models y ~ 1 \+ \(1 \| g\)"),
    ],
)
def test_options_that_cannot_be(options, message, data):
    with pytest.raises(ValueError, match=message):
        lj.gibbs(FORMULA, data, **options)


def test_other_bad_input(data):
    with pytest.raises(TypeError, match="priors=.*give lj.Priors"):
        lj.gibbs(FORMULA, data, {"g": lj.HalfT()})
    with pytest.raises(FormulaError, match="no random-effects term"):
        lj.gibbs("y ~ x", data)
    with pytest.raises(DataError, match="missing"):
        lj.gibbs(FORMULA, data.assign(y=data["y"].where(data["x"] < 1)))
    with pytest.raises(DataError, match="constant"):
        lj.gibbs(FORMULA, data.assign(y=1.0))
    with pytest.raises(DataError, match="'g' has a covariance without a conjugate prior"):
        lj.gibbs(FORMULA, data, covariance={"g": "compound_symmetry"})
    with pytest.raises(TypeError, match="seed"):
        lj.gibbs(FORMULA, data, seed="a")


def test_missing_rows_may_be_left_out(sample, data):
    gap = data.assign(y=data["y"].where(data["x"] < 1))
    idata = lj.gibbs(FORMULA, gap, seed=5, warmup=20, draws=60, chains=2, na_action="omit")
    assert idata.observed_data["y"].sizes["row"] == (data["x"] < 1).sum()


def test_data_set_is_that_of_r():
    data, r = lj.datasets.load("one_way"), references.bundled("gibbs.json")["data"]
    np.testing.assert_array_equal(data["y"], r["y"])
    np.testing.assert_array_equal(data.groupby("subject", observed=True).size(), r["T"])
