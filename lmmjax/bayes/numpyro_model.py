"""The model of `gibbs` as a NumPyro model, and NUTS on it: the second opinion on every posterior."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from patsy import EvalEnvironment

from ..core.design import RandomTerm
from ..core.linalg import matmul
from ..core.start import default_start
from ..guard import check_counts
from ..precision import float64, to_numpy
from ..refitting import key_of
from .gibbs import DISPERSION
from .model import Model, model_of
from .posterior import inference_data

FIELDS = ("diverging", "accept_prob", "num_steps", "energy")


def numpyro_model(formula: str, data: Any, priors: Any = None, **options: Any) -> Callable[..., None]:
    """The model and the priors of `gibbs` as a NumPyro model, a function of nothing or of another response.

    Arguments as in `gibbs`. The function takes y, (n,), by default that of the data, and None for a response to be
    drawn: `Predictive(model, 100)(key, y=None)["y"]`. Its sites, for each random-effects term t:
    beta (p,), sigma, sd_t (pᵢ,), cor_t (pairs), b_t (levels, pᵢ) : the variables of the posterior of `gibbs`.
    coefficients (p,) : in an orthonormal basis of X, around least squares, of Xβ and what of Zb lies along X: what the
    response tells of β and b is then nearly independent. beta follows from them.
    u_t (levels, pᵢ) : standard normal; with root_t, (pᵢ, pᵢ), the root of a free covariance matrix in units of order
    one, or with sd_t, they give b_t (the non-centred parametrisation).
    y (n,) : the response.
    It computes in the precision of the caller's JAX. Raises DataError and FormulaError for data, formula and priors.
    """
    return _function(model_of(formula, data, priors, EvalEnvironment.capture(1), options))


def nuts(
    formula: str,
    data: Any,
    priors: Any = None,
    draws: int = 1000,
    warmup: int = 1000,
    chains: int = 4,
    seed: Any = 0,
    log_likelihood: bool = False,
    progress: bool = False,
    target_accept: float = 0.9,
    **options: Any,
) -> Any:
    """Posterior draws of the model of `gibbs` by NUTS on `numpyro_model` (Hoffman & Gelman 2014, JMLR 15).

    Arguments and result as for `gibbs`; it is slower, and shares no sampling code with it. target_accept : what the
    step size is adapted to; higher where draws diverge. sample_stats : diverging, acceptance_rate, n_steps, tree_depth
    and energy. Raises as `gibbs`, and ValueError unless 0 < target_accept < 1.
    """
    check_counts(draws=(draws, 1), warmup=(warmup, 0), chains=(chains, 1))
    if not 0 < target_accept < 1:
        raise ValueError(f"target_accept={target_accept!r}: give a number between 0 and 1")
    model = model_of(formula, data, priors, EvalEnvironment.capture(1), options)
    with float64():
        mcmc = sampler(model, draws, warmup, chains, target_accept, progress)
        mcmc.run(key_of(seed), extra_fields=FIELDS)
        samples, fields = to_numpy((mcmc.get_samples(True), mcmc.get_extra_fields(True)))
    return inference_data(model.schema, model.design, _draws(model, samples), log_likelihood, _stats(fields))


def sampler(model: Model, draws: int, warmup: int, chains: int, target_accept: float, progress: bool = False) -> Any:
    """NumPyro's MCMC object: chains side by side, from the data's units times random factors."""
    from numpyro.infer import MCMC, NUTS

    start = partial(_dispersed, _expected(model))
    kernel = NUTS(_function(model), init_strategy=start, target_accept_prob=target_accept)
    sizes = {"num_warmup": warmup, "num_samples": draws, "num_chains": chains}
    return MCMC(kernel, **sizes, chain_method="vectorized", progress_bar=progress)


def _function(model: Model) -> Callable[..., None]:
    from numpyro import deterministic, sample
    from numpyro import distributions as dist

    from .roots import law_of_sd

    design, cp, residual = model.design, model.cross_products, model.priors.residual
    assert residual is not None
    names, laws = model.schema.term_names, model.priors.terms
    spread, units = _units(model)
    basis = np.asarray(cp.basis)
    orthonormal = np.linalg.solve(basis.T, design.X.T).T  # (n, p)
    back = spread * np.linalg.inv(basis)  # (p, p)
    center = np.linalg.solve(basis, np.asarray(cp.response.shift))
    prior = _of_coefficients(model, back, center)
    weighted = orthonormal if design.weights is None else orthonormal * design.weights[:, None]
    base = design.X @ center + (0 if design.offset is None else design.offset)
    root_weights = 1.0 if design.weights is None else np.sqrt(design.weights)

    def model_function(y: Any = design.y) -> None:
        effects = jnp.zeros(design.n)
        for name, term, unit in zip(names, design.terms, units, strict=True):
            effects = effects + _effects(name, term, laws[name].law(term.p), unit)
        along = weighted.T @ effects / spread  # what of them X could take up
        z = sample("coefficients", dist.MultivariateNormal(prior[0] + along, scale_tril=prior[1]))
        deterministic("beta", center + back @ (z - along))
        sigma = sample("sigma", law_of_sd(residual.law(1), ()))
        mean = base + effects + spread * (orthonormal @ (z - along))
        sample("y", dist.Normal(mean, sigma / root_weights), obs=y)

    return model_function


def _effects(name: str, term: RandomTerm, law: Any, unit: np.ndarray) -> Any:
    """(n,) what a term adds to the mean."""
    from numpyro import deterministic, sample
    from numpyro import distributions as dist

    from .roots import law_of_root, law_of_sd

    shape = (term.n_levels, term.p)
    if term.template.is_full and term.p > 1:
        root = unit[:, None] * sample(f"root_{name}", law_of_root(law, unit))
        sd = deterministic(f"sd_{name}", jnp.sqrt(jnp.sum(root**2, 1)))
        rows = root / sd[:, None]
        deterministic(f"cor_{name}", matmul(rows, rows.T)[np.triu_indices(term.p, 1)])
        b = matmul(sample(f"u_{name}", dist.Normal().expand(shape).to_event(2)), root.T)
    else:
        sd = sample(f"sd_{name}", law_of_sd(law, (term.p,)))
        b = sd * sample(f"u_{name}", dist.Normal().expand(shape).to_event(2))
    b = deterministic(f"b_{name}", b if term.level_factor is None else matmul(jnp.asarray(term.level_factor), b))
    return jnp.sum(term.x * b[term.codes], 1)


def _units(model: Model) -> tuple[float, list[np.ndarray]]:
    """Where σ and, per term, the standard deviations (pᵢ,) of effects may be expected."""
    cp = model.cross_products
    sigma = float(np.sqrt(0.5 * cp.response.yy / cp.n))
    theta, slices = np.asarray(default_start(cp)), cp.plan.theta_slices()
    return sigma, [sigma * np.diag(t(theta[s])) for t, s in zip(cp.plan.templates, slices, strict=True)]


def _of_coefficients(model: Model, back: np.ndarray, center: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (p,) and root (p, p) of the covariance of z, where β = center + back z has its prior."""
    mean, sd = np.array([(n.mean, n.sd) for n in model.priors.fixed.values()]).reshape(-1, 2).T
    half = np.linalg.solve(back, np.diag(sd))
    return np.linalg.solve(back, mean - center), np.linalg.cholesky(half @ half.T)


def _expected(model: Model) -> dict[str, np.ndarray]:
    """Positive sites' values to start from."""
    sigma, units = _units(model)
    values = {"sigma": np.array(sigma)}
    for name, unit in zip(model.schema.term_names, units, strict=True):
        values |= {f"sd_{name}": unit, f"root_{name}": np.eye(len(unit))}
    return values


def _dispersed(values: dict[str, np.ndarray], site: dict) -> Any:
    """NumPyro's way to start: those values times a random factor, the other sites at zero."""
    if site["type"] != "sample" or site["is_observed"]:
        return None
    factor = jnp.exp(DISPERSION * jax.random.normal(site["kwargs"]["rng_key"]))
    return factor * values.get(site["name"], np.zeros(site["fn"].shape()))


def _draws(model: Model, samples: dict[str, np.ndarray]) -> dict[str, Any]:
    """What `inference_data` takes, from the sites' values (chains, draws, …)."""
    names = model.schema.term_names
    covariances = []
    for name in names:
        sd = samples[f"sd_{name}"]
        p = sd.shape[-1]
        correlation = np.broadcast_to(np.eye(p), (*sd.shape, p)).copy()
        if f"cor_{name}" in samples:
            i, j = np.triu_indices(p, 1)
            correlation[..., i, j] = correlation[..., j, i] = samples[f"cor_{name}"]
        covariances.append(sd[..., :, None] * sd[..., None, :] * correlation)
    effects = [samples[f"b_{name}"] for name in names]
    return {"beta": samples["beta"], "sigma": samples["sigma"], "covariances": covariances, "b": effects}


def _stats(fields: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Under ArviZ's names; a tree of depth d has up to 2^d − 1 steps."""
    steps = fields["num_steps"]
    return {
        "diverging": fields["diverging"],
        "acceptance_rate": fields["accept_prob"],
        "n_steps": steps,
        "tree_depth": np.ceil(np.log2(steps + 1)).astype(int),
        "energy": fields["energy"],
    }
