"""The NumPyro model of `lj.numpyro_model` and `lj.nuts`: its density, its laws, and the posterior beside that of Gibbs."""

from functools import partial

import arviz
import jax
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from numpyro.handlers import seed, trace
from numpyro.infer import MCMC, NUTS, Predictive
from numpyro.infer.util import log_density
from patsy import EvalEnvironment
from scipy import stats

import lmmjax as lj
from lmmjax.bayes.posterior import means
from lmmjax.bayes.roots import HalfTRoot, InverseWishartRoot
from lmmjax.errors import DataError
from lmmjax.formula import build

SLOPES = "y ~ x + (x | g)"
LATENT = ("coefficients", "sigma", "root_g", "u_g")
FIXED = {"Intercept": lj.Normal(1, 30), "x": lj.Normal(1, 30)}
SCALE = np.array([[2.0, 0.3], [0.3, 0.5]])


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(3)
    g, h = np.repeat(np.arange(8), 6), np.tile(np.arange(4), 12)
    x = rng.normal(5, 2, 48)
    effects = rng.normal(size=(8, 2)) @ np.diag([1.5, 0.7])
    y = 20 + x + effects[g, 0] + effects[g, 1] * (x - 5) + rng.normal(size=4)[h] + rng.normal(size=48)
    return pd.DataFrame({"y": y, "x": x, "g": g, "h": h, "w": rng.uniform(0.5, 2, 48), "o": rng.normal(size=48)})


def points(model, n=3):
    """Values of every site of the model, drawn from its priors, with coefficients and effects of moderate size."""
    found = []
    for i in range(n):
        sites = trace(seed(partial(model, None), i)).get_trace()
        found.append({name: np.array(s["value"]) for name, s in sites.items()})
    return found


def log_densities(model, found):
    """Of the latent sites."""
    derived = {"beta", "y"} | {name for name in found[0] if name.startswith(("b_", "cor_"))}
    derived |= {name.replace("root_", "sd_") for name in found[0] if name.startswith("root_")}
    latent = [{name: v for name, v in sites.items() if name not in derived} for sites in found]
    return np.array([log_density(model, (), {}, v)[0] for v in latent])


def half_t(x, df, scale):
    return np.sum(stats.t.logpdf(x, df, 0, scale) + np.log(2))


def of_rows(data, sites, z):
    """Log density of y given the effects, and that of the coefficients, whose priors are Normal(1, 30)."""
    beta, (term,) = sites["beta"], [v for name, v in sites.items() if name.startswith("b_")]
    mean = beta[0] + beta[1] * data.x + np.sum(z * term[data.g], 1) + data.o
    rows = stats.norm.logpdf(data.y, mean, sites["sigma"] / np.sqrt(data.w)).sum()
    return rows + stats.norm.logpdf(beta, 1, 30).sum()


@pytest.mark.parametrize("prior", [lj.InverseGamma(2, 3), lj.HalfT(3, 1.5)], ids=lambda p: type(p).__name__)
def test_density_of_the_one_way_model(data, prior):
    priors = lj.Priors(FIXED, {"g": prior}, prior)
    with lj.float64():
        model = lj.numpyro_model("y ~ x + (1 | g)", data, priors, weights="w", offset="o")
        found = points(model)
        got = log_densities(model, found)
    expected = []
    for sites in found:
        total = of_rows(data, sites, np.ones((48, 1)))
        for sd in (sites["sigma"], sites["sd_g"][0]):
            of_variance = stats.invgamma.logpdf(sd**2, 2, scale=3) + np.log(2 * sd)
            total += half_t(sd, 3, 1.5) if isinstance(prior, lj.HalfT) else of_variance
        b = sites["b_g"][:, 0]
        expected.append(total + stats.norm.logpdf(b, 0, sites["sd_g"]).sum() + len(b) * np.log(sites["sd_g"][0]))
    assert_allclose(np.diff(got), np.diff(expected), rtol=1e-9)


def test_density_with_correlated_effects(data):
    priors = lj.Priors(FIXED, {"g": lj.InverseWishart(4.5, SCALE)}, lj.HalfT(2, 2))
    with lj.float64():
        model = lj.numpyro_model(SLOPES, data, priors, weights="w", offset="o")
        found = points(model)
        got = log_densities(model, found)
    expected = []
    for sites in found:
        z = np.column_stack([np.ones(48), data.x])
        sd, r = sites["sd_g"], sites["cor_g"][0]
        covariance = np.outer(sd, sd) * [[1, r], [r, 1]]
        t, b = np.diag(np.linalg.cholesky(covariance)), sites["b_g"]
        total = of_rows(data, sites, z) + half_t(sites["sigma"], 2, 2)
        total += stats.invwishart.logpdf(covariance, 4.5, SCALE) + np.log(4 * t[0] ** 2 * t[1])  # dΣ/dT
        total += stats.multivariate_normal.logpdf(b, [0, 0], covariance).sum() + len(b) * np.log(t).sum()  # db/du
        expected.append(total)
    assert_allclose(np.diff(got), np.diff(expected), rtol=1e-9)


def test_density_of_a_half_t_root():
    """The mixture over inverse-gamma variables of inverse-Wishart laws, summed up on a grid of their logarithms."""
    df, scale, root = 2.5, np.array([1.5, 0.4]), np.array([[1.2, 0.0], [-0.3, 0.7]])
    covariance = root @ root.T
    log_a, step = np.linspace(-8, 22, 121, retstep=True)
    total = 0.0
    for first in np.exp(log_a):
        both = np.column_stack([np.full(121, first), np.exp(log_a)])
        weight = np.prod(stats.invgamma.pdf(both, 0.5, scale=scale**-2.0) * both, 1) * step**2
        keep = weight > 1e-14
        laws = [stats.invwishart.pdf(covariance, df + 1, np.diag(2 * df / a)) for a in both[keep]]
        total += weight[keep] @ laws
    with lj.float64():
        got = float(HalfTRoot(df, scale).log_prob(jax.numpy.array(root)))
    assert_allclose(got, np.log(total * 4 * root[0, 0] ** 2 * root[1, 1]), rtol=1e-6)


def test_roots_drawn_from_the_priors():
    """Half-t standard deviations, correlations uniform with df = 2, and the means of inverse-Wishart matrices."""
    scale = np.array([0.5, 1.0, 3.0])
    with lj.float64():
        of_half_t = np.array(HalfTRoot(2.0, scale).sample(jax.random.key(1), (4000,)))
        of_wishart = np.array(InverseWishartRoot(9.0, SCALE).sample(jax.random.key(2), (20_000,)))
    covariance = of_half_t @ of_half_t.mT
    sd = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    for k in range(3):
        assert stats.kstest(sd[:, k] / scale[k], lambda x: 2 * stats.t.cdf(x, 2) - 1).pvalue > 0.01
        i, j = [(0, 1), (0, 2), (1, 2)][k]
        assert stats.kstest(covariance[:, i, j] / (sd[:, i] * sd[:, j]), stats.uniform(-1, 2).cdf).pvalue > 0.01
    covariance = of_wishart @ of_wishart.mT
    error = covariance.std(0) / np.sqrt(len(covariance))
    assert (abs(covariance.mean(0) - stats.invwishart(9, SCALE).mean()) < 4 * error).all()
    corner = stats.invgamma(8 / 2, scale=SCALE[0, 0] / 2)  # of a block one column narrower, with one df less
    assert stats.kstest(covariance[:, 0, 0], corner.cdf).pvalue > 0.01


def test_sites_of_several_terms(data):
    """Crossed terms, a diagonal one and related levels: the sites of the posterior, and the mean that they make."""
    kinship = pd.DataFrame(0.4 + 0.6 * np.eye(4), range(4), range(4))
    formula, options = "y ~ x + (x | g) + (x | h)", {"covariance": {"g": "diagonal"}, "relmat": {"h": kinship}}
    model = lj.numpyro_model(formula, data, weights="w", offset="o", **options)
    _, design = build(formula, data, env=EvalEnvironment.capture(), weights="w", offset="o", **options)
    with lj.float64():
        sites = trace(seed(model, 0)).get_trace()
    value = {name: np.array(site["value"]) for name, site in sites.items()}
    shapes = {"beta": (2,), "sigma": (), "sd_g": (2,), "b_g": (8, 2), "sd_h": (2,), "cor_h": (1,), "b_h": (4, 2)}
    assert {name: value[name].shape for name in shapes} == shapes
    names = [name for name in value if name.startswith(("b_", "sd_", "cor_"))]
    assert set(names) == set(shapes) - {"beta", "sigma"}
    by_term = [value["b_g"][None], value["b_h"][None]]
    expected = means(design, value["beta"][None], by_term)[0]
    assert_allclose(sites["y"]["fn"].loc, expected, rtol=1e-9)
    assert_allclose(sites["y"]["fn"].scale, value["sigma"] / np.sqrt(data.w), rtol=1e-12)
    assert_allclose(value["b_g"], value["sd_g"] * value["u_g"])
    level_free = np.linalg.solve(np.linalg.cholesky(kinship), value["b_h"])
    root = np.linalg.lstsq(value["u_h"], level_free, rcond=None)[0].T
    assert_allclose(value["u_h"] @ root.T, level_free, atol=1e-9 * abs(level_free).max())
    assert_allclose(np.sqrt(np.sum(root**2, 1)), value["sd_h"])
    assert_allclose((root @ root.T)[0, 1] / np.prod(value["sd_h"]), value["cor_h"][0])


def test_in_the_callers_32_bits(data):
    """The caller's own NUTS and predictions in single precision, and the density to its precision."""
    model = lj.numpyro_model(SLOPES, data)
    mcmc = MCMC(NUTS(model, max_tree_depth=4), num_warmup=20, num_samples=10, progress_bar=False)
    mcmc.run(jax.random.key(0))
    samples = mcmc.get_samples()
    assert {str(v.dtype) for v in samples.values()} == {"float32"}
    drawn = Predictive(model, samples)(jax.random.key(1), y=None)["y"]
    assert drawn.shape == (10, 48)
    assert abs(drawn.mean() - data.y.mean()) < 5
    latent = {name: np.array(v[-1], float) for name, v in samples.items() if name in LATENT}
    short = float(log_density(model, (), {}, latent)[0])
    with lj.float64():
        assert_allclose(short, float(log_density(model, (), {}, latent)[0]), rtol=1e-4)
    prior = Predictive(model, num_samples=5)(jax.random.key(2), y=None)
    assert prior["b_g"].shape == (5, 8, 2)
    assert np.ptp(prior["y"], 0).min() > 0


def test_agrees_with_gibbs(data):
    """Means and standard deviations within four Monte Carlo standard errors, under the same names."""
    by_nuts = lj.nuts(SLOPES, data, draws=400, warmup=300, chains=4, seed=1, log_likelihood=True)
    by_gibbs = lj.gibbs(SLOPES, data, draws=4000, warmup=500, chains=4, seed=2, log_likelihood=True)
    assert jax.numpy.zeros(1).dtype == np.float32  # the caller's precision is as it was
    assert {k: v.dims for k, v in by_nuts.posterior.items()} == {k: v.dims for k, v in by_gibbs.posterior.items()}
    assert by_nuts.log_likelihood["y"].shape == (4, 400, 48)
    steps = by_nuts.sample_stats
    assert (2.0**steps.tree_depth > steps.n_steps).all()
    assert (2.0 ** (steps.tree_depth - 1) <= steps.n_steps).all()
    assert steps.acceptance_rate.mean() > 0.8
    assert steps.diverging.sum() < 10
    for statistic in ("mean", "sd"):
        z = difference(by_nuts, by_gibbs, statistic)
        assert abs(z).max() < 4, z.idxmax()


def difference(a, b, statistic):
    """A mean or standard deviation of all variables in both, apart by so many Monte Carlo standard errors."""
    first, second = (
        arviz.summary(i, kind="all", round_to="none")[[statistic, f"mcse_{statistic}"]].to_numpy() for i in (a, b)
    )
    return pd.Series((first[:, 0] - second[:, 0]) / np.hypot(first[:, 1], second[:, 1]))


def test_bad_input(data):
    with pytest.raises(ValueError, match="draws=0"):
        lj.nuts(SLOPES, data, draws=0)
    with pytest.raises(ValueError, match="chains=1.5"):
        lj.nuts(SLOPES, data, chains=1.5)
    with pytest.raises(ValueError, match="target_accept=1: "):
        lj.nuts(SLOPES, data, target_accept=1)
    with pytest.raises(DataError, match="'gg', which is no random-effects term"):
        lj.numpyro_model(SLOPES, data, lj.Priors(terms={"gg": lj.HalfT()}))
    with pytest.raises(DataError, match="covariance without a conjugate prior"):
        lj.numpyro_model(SLOPES, data, covariance={"g": "compound_symmetry"})
