"""Truths drawn from the priors, responses drawn from the truths, and the ranks of the truths among posterior draws.

With the right sampler every rank is uniform (Talts et al. 2018, arXiv:1804.06788). Truths and responses come from NumPy
and SciPy: nothing is shared with the samplers but the design and what the priors say of themselves.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from patsy import EvalEnvironment
from scipy import stats

import lmmjax as lj
from lmmjax.bayes.model import Model, model_of
from lmmjax.bayes.posterior import means
from lmmjax.bayes.priors import laws
from lmmjax.core import gibbs
from lmmjax.core.compile import jit
from lmmjax.core.start import default_start

Drawn = dict[str, Any]  # beta (…, p), sigma (…), and per term covariances (…, pᵢ, pᵢ) and b (…, ℓ, pᵢ)
Sampler = Callable[
    [np.ndarray, int, int], Drawn
]  # (responses (R, rows), draws of each, number of the batch) → (R, draws, …)
NAMES = ("beta", "sigma", "covariances", "b")
BATCH = 128  # responses that are sampled together
COPIES = 9999  # simulated sets of ranks behind the p-value of an ECDF


@dataclass(frozen=True, eq=False)
class Case:
    """A model with proper priors. thin : sweeps of the Gibbs samplers from one kept draw to the next."""

    name: str
    formula: str
    data: pd.DataFrame
    priors: lj.Priors
    thin: int
    seed: int
    weights: str | None = None

    @cached_property
    def model(self) -> Model:
        """Names, arrays and priors."""
        return model_of(self.formula, self.data, self.priors, EvalEnvironment.capture(), {"weights": self.weights})


# ------------------------------------------------------------------------------------------------------- truths


def truths(case: Case, n: int) -> tuple[Drawn, np.ndarray]:
    """n draws from the priors, and a response for each of them, (n, rows)."""
    rng, priors, design = np.random.default_rng(case.seed), case.model.priors, case.model.design
    mean, sd = _of_coefficients(case)
    beta = mean + sd * rng.standard_normal((n, len(sd)))
    sigma = np.sqrt(_variances(priors.residual, 1, n, rng)[:, 0])
    covariances, b = [], []
    for law, term in zip(priors.terms.values(), design.terms, strict=True):
        covariances.append(_covariances(law, term, n, rng))
        u = rng.standard_normal((n, term.n_levels, term.p))
        b.append(u @ np.linalg.cholesky(covariances[-1]).mT)
    drawn = {"beta": beta, "sigma": sigma, "covariances": covariances, "b": b}
    return drawn, responses(case, drawn, rng)


def responses(case: Case, drawn: Drawn, rng: np.random.Generator) -> np.ndarray:
    """(n, rows) one for each of n draws."""
    design = case.model.design
    noise = drawn["sigma"][:, None] * rng.standard_normal((len(drawn["sigma"]), design.n))
    return means(design, drawn["beta"], drawn["b"]) + noise / _root_weights(design)


def _of_coefficients(case: Case) -> np.ndarray:
    """(2, p) means and standard deviations of β's prior."""
    return np.array([(law.mean, law.sd) for law in case.model.priors.fixed.values()]).T


def _root_weights(design: Any) -> Any:
    return 1.0 if design.weights is None else np.sqrt(design.weights)


def _covariances(law: Any, term: Any, n: int, rng: np.random.Generator) -> np.ndarray:
    """(n, p, p) of a term."""
    p = term.p
    if isinstance(law, lj.InverseWishart):
        return stats.invwishart(law.df, law.scale).rvs(n, random_state=rng).reshape(n, p, p)
    if isinstance(law, lj.HalfT) and term.template.is_full and p > 1:  # Huang & Wand (2013), eq. 2
        a = np.broadcast_to(law.scale, p) ** -2.0 / rng.gamma(0.5, size=(n, p))
        root = np.sqrt(2 * law.df / a)
        unit = stats.invwishart(law.df + p - 1, np.eye(p)).rvs(n, random_state=rng)
        return root[:, :, None] * unit * root[:, None, :]
    return _variances(law, p, n, rng)[:, :, None] * np.eye(p)


def _variances(law: Any, p: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """(n, p) independent ones."""
    if isinstance(law, lj.InverseGamma):
        return law.scale / rng.gamma(law.shape, size=(n, p))
    return (law.scale * rng.standard_t(law.df, (n, p))) ** 2


# --------------------------------------------------------------------------------------------------- quantities


def quantities(case: Case, drawn: Drawn, y: np.ndarray) -> dict[str, np.ndarray]:
    """What is ranked, each (R, …), of draws given y (R, rows): parameters, the first level's effects, log densities.

    The likelihood's rank finds posteriors that look like the prior (Modrák et al. 2023, Bayesian Anal. 20); that of the
    density of β finds a prior left out: with a flat one β itself ranks as uniformly as confidence intervals hold.
    """
    schema, design = case.model.schema, case.model.design
    out = {f"β {name}": drawn["beta"][..., j] for j, name in enumerate(schema.fixed_names)}
    mean, sd = _of_coefficients(case)
    out |= {"p(β)": -np.sum(((drawn["beta"] - mean) / sd) ** 2, -1), "σ": drawn["sigma"]}
    parts = zip(schema.term_names, schema.groups, design.terms, drawn["covariances"], drawn["b"], strict=True)
    for name, group, term, v, b in parts:
        sd = np.sqrt(np.diagonal(v, axis1=-2, axis2=-1))
        out |= {f"sd {column}|{name}": sd[..., j] for j, column in enumerate(group.columns)}
        if term.template.is_full and term.p > 1:
            out[f"cor|{name}"] = v[..., 0, 1] / (sd[..., 0] * sd[..., 1])
        out |= {f"b₁ {column}|{name}": b[..., 0, j] for j, column in enumerate(group.columns)}
    return out | {"p(y | β, b, σ)": _log_likelihood(design, drawn, y)}


def _log_likelihood(design: Any, drawn: Drawn, y: np.ndarray) -> np.ndarray:
    """(R, …) given the effects, but for a constant."""
    sigma = drawn["sigma"]
    b = [v.reshape(-1, *v.shape[sigma.ndim :]) for v in drawn["b"]]
    mean = means(design, drawn["beta"].reshape(-1, design.p), b).reshape(len(y), -1, design.n)
    rss = np.sum((_root_weights(design) * (y[:, None] - mean)) ** 2, -1).reshape(sigma.shape)
    return -design.n * np.log(sigma) - 0.5 * rss / sigma**2


# ----------------------------------------------------------------------------------------------------- samplers


def of_gibbs(case: Case, effects: Callable, cp: Any = None, of_priors: Any = None, skipped: int = 10) -> Sampler:
    """The array layer's kernel. skipped : kept draws that are thrown away at first.

    cp, of_priors : others than the model's, to see that what is wrong is found.
    """
    cp = case.model.cross_products if cp is None else cp
    of_priors = laws(case.model.priors, cp.plan) if of_priors is None else of_priors

    @lj.float64()
    def sampler(y: np.ndarray, draws: int, batch: int) -> Drawn:
        root = jax.random.fold_in(jax.random.key(case.seed), batch)
        chains = _chains(effects, skipped, draws, case.thin)
        drawn = chains(cp, of_priors, default_start(cp), jax.random.split(root, len(y)), y)
        return jax.tree.map(np.asarray, drawn)

    return sampler


@cache
def _chains(effects: Callable, skipped: int, draws: int, thin: int) -> Callable:
    """(cp with its rows, priors, θ to start from, keys (R,), responses (R, rows)) → draws."""

    def chain(cp, of_priors, theta, key, y):
        cp = cp.with_response(y)
        start = gibbs.start(cp, of_priors, theta, jnp.zeros(cp.p), jnp.sqrt(0.5 * cp.response.yy / cp.n))
        states = gibbs.gibbs_kernel(key, cp, of_priors, start, skipped + draws, thin, effects=effects)
        return jax.tree.map(lambda a: a[skipped:], {name: getattr(states, name) for name in NAMES})

    return jit(jax.vmap(chain, (None, None, None, 0, 0)), rows=True, loop=True)


def of_nuts(case: Case, warmup: int = 500, thin: int = 8) -> Sampler:
    """NUTS on the NumPyro model, one chain for each response, of which every `thin`-th draw is kept."""
    from numpyro.infer import MCMC, NUTS

    model = lj.numpyro_model(case.formula, case.data, case.priors, weights=case.weights)

    @cache
    def chains(draws: int) -> Callable:
        def chain(key, y):
            kernel = NUTS(model, target_accept_prob=0.9, max_tree_depth=6)  # a batch waits for its slowest
            mcmc = MCMC(kernel, num_warmup=warmup, num_samples=thin * draws, thinning=thin, progress_bar=False)
            mcmc.run(key, y)
            return mcmc.get_samples()

        return jax.jit(jax.vmap(chain))

    @lj.float64()
    def sampler(y: np.ndarray, draws: int, batch: int) -> Drawn:
        keys = jax.random.split(jax.random.fold_in(jax.random.key(case.seed), batch), len(y))
        return _of_sites(case, jax.tree.map(np.asarray, chains(draws)(keys, y)))

    return sampler


def _of_sites(case: Case, sites: Drawn) -> Drawn:
    """Values of the model's sites as covariances and effects."""
    covariances, names = [], case.model.schema.term_names
    for name in names:
        sd = sites[f"sd_{name}"]
        v = sd[..., :, None] * sd[..., None, :] * np.eye(sd.shape[-1])
        if f"cor_{name}" in sites:  # of two columns
            v[..., 0, 1] = v[..., 1, 0] = sites[f"cor_{name}"][..., 0] * sd.prod(-1)
        covariances.append(v)
    b = [sites[f"b_{name}"] for name in names]
    return {"beta": sites["beta"], "sigma": sites["sigma"], "covariances": covariances, "b": b}


# -------------------------------------------------------------------------------------------------------- ranks


def ranks(case: Case, sampler: Sampler, n: int, draws: int) -> dict[str, np.ndarray]:
    """(n,) per quantity: how many of so many posterior draws lie below the truth; uniform on 0 … draws."""
    drawn, y = truths(case, n)
    true, found = quantities(case, drawn, y), []
    for first in range(0, n, BATCH):
        part = slice(first, first + BATCH)
        posterior = quantities(case, sampler(y[part], draws, first), y[part])
        found.append([np.sum(posterior[name] < true[name][part, None], 1) for name in true])
    return dict(zip(true, np.concatenate(found, 1), strict=True))


def chi2_p(rank: np.ndarray, draws: int, bins: int = 16) -> float:
    """Of the counts in bins of equal size; bins divides draws + 1."""
    counts = np.bincount(rank * bins // (draws + 1), minlength=bins)
    return float(stats.chisquare(counts).pvalue)


def ecdf_p(rank: np.ndarray, draws: int) -> float:
    """The level at which simultaneous bands of the ECDF just hold it: outside those of level 1 − α iff p ≤ α.

    Bands of equal pointwise level, by simulation (Säilynoja, Bürkner & Vehtari 2022, Stat. Comput. 32, 32).
    """
    return float(
        (1 + np.sum(_null_extremes(len(rank), draws) <= _extreme(np.bincount(rank, minlength=draws + 1))))
        / (1 + COPIES)
    )


@cache
def _null_extremes(n: int, draws: int) -> np.ndarray:
    """(COPIES,) of uniform ranks."""
    counts = np.random.default_rng(0).multinomial(n, np.full(draws + 1, 1 / (draws + 1)), COPIES)
    return _extreme(counts)


def _extreme(counts: np.ndarray) -> np.ndarray:
    """(…,) the smallest pointwise two-sided p-value of the ECDF of ranks with these counts (…, draws + 1)."""
    below, n = np.cumsum(counts, -1)[..., :-1], counts.sum(-1)[..., None]
    law = stats.binom(n, np.arange(1, counts.shape[-1]) / counts.shape[-1])
    return 2 * np.minimum(law.cdf(below), law.sf(below - 1)).min(-1)
