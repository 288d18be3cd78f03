"""The Gibbs kernels hold the joint law of parameters and data, and wrong ones are found out.

Geweke (2004, J. Amer. Statist. Assoc. 99): sweeps that take turns with new responses leave the prior as it is. Talts et
al. (2018, arXiv:1804.06788): truths rank uniformly among their posterior draws; here a small share of the benchmark
`sbc`. Seeds are fixed; another seed would fail a test of a right sampler with probability `ALARM`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from core_cases import compiled, float64  # noqa: F401
from scipy import stats

from lmmjax.bayes.priors import laws
from lmmjax.core import gibbs, linear_predictor

ALARM = 1e-3
CHAINS, SWEEPS, OF_PRIOR = 256, 100, 20_000
N, DRAWS, BINS = 1024, 31, 8


@pytest.fixture(scope="module")
def sbc() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(references.ROOT))
        yield pytest.importorskip("benchmarks.sbc", reason="benchmarks/ is not in this copy")


@dataclass(frozen=True)
class Sampled:
    """A case of the benchmark and the kernel that samples it."""

    sbc: Any
    case: Any
    effects: Callable

    def arrays(self, wrong: Callable | None) -> tuple[Any, gibbs.Priors]:
        """Cross-products and priors, right or wrong."""
        cp = self.case.model.cross_products
        right = cp, laws(self.case.model.priors, cp.plan)
        return right if wrong is None else wrong(*right)


@pytest.fixture(scope="module", params=[("ONE_WAY", gibbs.one_way), ("HALF_T", gibbs.joint)], ids=lambda p: p[0])
def sampled(request: Any, sbc: Any) -> Sampled:
    name, effects = request.param
    return Sampled(sbc.models, replace(getattr(sbc, name), thin=5), effects)


def wrong_degrees_of_freedom(cp: Any, of_priors: gibbs.Priors) -> tuple[Any, gibbs.Priors]:
    """Of σ², as if there were four rows less."""
    return replace(cp, n=cp.n - 4), of_priors


def no_prior_of_the_coefficients(cp: Any, of_priors: gibbs.Priors) -> tuple[Any, gibbs.Priors]:
    return cp, replace(of_priors, sd=np.full(cp.p, np.inf))


def wrong_scale(cp: Any, of_priors: gibbs.Priors) -> tuple[Any, gibbs.Priors]:
    """Of the covariance matrix."""
    (law,) = of_priors.covariances
    return cp, replace(of_priors, covariances=(replace(law, scale=3 * law.scale),))


wrongly = pytest.mark.parametrize("wrong", [wrong_degrees_of_freedom, no_prior_of_the_coefficients, wrong_scale])


# -------------------------------------------------------------------------------------------------------- Geweke


def started(drawn: dict, of_priors: gibbs.Priors) -> gibbs.State:
    """The states of prior draws; the model has one term. The mixing variables have their law given the rest."""
    rng, (v,), (b,) = np.random.default_rng(2), drawn["covariances"], drawn["b"]
    sigma, mixing = drawn["sigma"], []
    for law, of in zip(of_priors.laws, (sigma[:, None, None] ** 2, v), strict=True):
        p = law.n_mixing
        rates = law.df * np.linalg.inv(of)[:, range(p), range(p)] + law.scale**-2.0 if p else np.zeros((len(of), 0))
        mixing.append(rates / rng.gamma((law.df + p) / 2, size=rates.shape))
    return gibbs.State(
        beta=drawn["beta"],
        b=(b,),
        covariances=(v,),
        sigma=sigma,
        rss=np.zeros_like(sigma),
        moments=(b.mT @ b,),
        mixing=tuple(mixing),
    )


@cache
def successive(effects: Callable) -> Callable:
    """(keys, design, cp, priors, states) → β, σ, Σ (chains, SWEEPS, …); each sweep sees a new response."""

    def chain(key, design, cp, of_priors, state):
        def step(state, t):
            of_noise, of_sweep = jax.random.split(jax.random.fold_in(key, t))
            noise = state.sigma * jax.random.normal(of_noise, (design.n,))
            y = linear_predictor(design, state.beta, state.b) + noise
            seen = replace(state, rss=noise @ noise)
            after = gibbs.gibbs_kernel(of_sweep, cp.with_response(y), of_priors, seen, 1, effects=effects)
            after = jax.tree.map(lambda a: a[0], after)
            return after, (after.beta, after.sigma, after.covariances[0])

        return jax.lax.scan(step, state, jnp.arange(SWEEPS))[1]

    return compiled(jax.vmap(chain, (0, None, None, None, 0)))


def statistics(beta, sigma, v) -> np.ndarray:
    """(…, 2k) β, log σ, log standard deviations, the correlation, and their squares."""
    sd = np.sqrt(np.diagonal(v, axis1=-2, axis2=-1))
    first = [beta, np.log(sigma)[..., None], np.log(sd)]
    if sd.shape[-1] == 2:
        first.append((v[..., 0, 1] / sd.prod(-1))[..., None])
    values = np.concatenate(first, -1)
    return np.concatenate([values, values**2], -1)


def geweke_z(sampled: Sampled, wrong: Callable | None = None) -> np.ndarray:
    """(2k,) z statistics of the means over independent chains, which start at draws from the prior."""
    prior = sampled.sbc.truths(sampled.case, OF_PRIOR)[0]
    first = jax.tree.map(lambda a: a[:CHAINS], prior)
    cp, of_priors = sampled.arrays(wrong)
    keys = jax.random.split(jax.random.key(1), CHAINS)
    states = started(first, sampled.arrays(None)[1])
    run = successive(sampled.effects)(keys, sampled.case.model.design, cp, of_priors, states)
    of_chains = statistics(*map(np.asarray, run)).mean(1)
    of_prior = statistics(prior["beta"][CHAINS:], prior["sigma"][CHAINS:], prior["covariances"][0][CHAINS:])
    spread = of_chains.var(0, ddof=1) / CHAINS + of_prior.var(0, ddof=1) / len(of_prior)
    return (of_chains.mean(0) - of_prior.mean(0)) / np.sqrt(spread)


def test_sweeps_leave_the_joint_law_as_it_is(sampled):
    z = geweke_z(sampled)
    assert np.abs(z).max() < stats.norm.isf(ALARM / 2 / len(z)), z


@wrongly
def test_wrong_sweeps_do_not(sampled, wrong):
    assert np.abs(geweke_z(sampled, wrong)).max() > 6


# ----------------------------------------------------------------------------------- simulation-based calibration


def uniformity(sampled: Sampled, wrong: Callable | None = None) -> np.ndarray:
    """p-values of χ² of all quantities."""
    sampler = sampled.sbc.of_gibbs(sampled.case, sampled.effects, *sampled.arrays(wrong))
    found = sampled.sbc.ranks(sampled.case, sampler, N, DRAWS)
    return np.array([sampled.sbc.chi2_p(rank, DRAWS, BINS) for rank in found.values()])


def test_truths_rank_uniformly(sampled):
    p = uniformity(sampled)
    assert p.min() > ALARM / len(p), p


@wrongly
def test_truths_of_wrong_samplers_do_not(sampled, wrong):
    assert uniformity(sampled, wrong).min() < 1e-6


def test_uniformity_tests_hold_their_level(sbc):
    """Uniform ranks: both p-values are at most .05 as often as that; U-shaped ones are seen."""
    rng, copies = np.random.default_rng(3), 400
    for p in (sbc.models.chi2_p, sbc.models.ecdf_p):
        small = np.array([p(rng.integers(0, 64, 500), 63) for _ in range(copies)]) <= 0.05
        assert stats.binomtest(int(small.sum()), copies, 0.05).pvalue > ALARM
        assert p((64 * rng.beta(0.7, 0.7, 500)).astype(int), 63) < 1e-3


def test_committed_ranks_are_uniform(sbc):
    """Of the whole benchmark: no p-value below what `ALARM` of all such tables would show."""
    saved = json.loads((references.ROOT / "benchmarks/results/sbc.json").read_text(encoding="utf-8"))
    rows = saved["rows"]
    assert {row["contestant"] for row in rows} == {"Gibbs, one_way", "Gibbs, joint", "NUTS, NumPyro"}
    p = np.array([(row["median"], float(row["note"].partition("p ")[2].partition(";")[0])) for row in rows])
    assert p.min() > ALARM / p.size
