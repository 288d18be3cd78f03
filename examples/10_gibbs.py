"""Gibbs sampling of a one-way random effects model (lecture notes, "Fitting a linear random effects model using MCMC").

What the notes' printed R code does, what their derivation says, and what lies between: the code never hands the drawn
variances to the updates of μ and aᵢ, and its mean of μ lacks a factor 1/σ_ε.
"""

from functools import partial
from time import perf_counter

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
from published import Published

import lmmjax as lj

SWEEPS, DISCARDED = 50_000, 1000
data = lj.datasets.load("one_way")  # set.seed(13), m = 2, a = -3, ..., 3, T ~ Poisson(20), as in the notes
groups = data.groupby("subject", observed=True)["y"]
T, means, within = groups.size().to_numpy(), groups.mean().to_numpy(), (groups.var() * (groups.size() - 1)).sum()
print(groups.agg(["size", "mean"]).T.round(2).to_string(), "\n")


# A sweep of the printed code, with each of its two slips mended or not. σ_a, σ_ε and σ_μ are variances there.
def sweep(feedback, factor, state, key):
    mu, a = state
    gammas = jax.random.gamma(key, jnp.array([2 + len(T) / 2, 2 + T.sum() / 2]))
    residual = within + jnp.sum(T * (means - mu - a) ** 2)
    sigma_a, sigma_e = drawn = (100 + jnp.array([jnp.sum(a**2), residual]) / 2) / gammas
    seen_a, seen_e = drawn if feedback else (0.5, 0.5)
    z = jax.random.normal(jax.random.fold_in(key, 1), (1 + len(T),))
    precision = T.sum() / seen_e + 1 / 0.5
    mu = jnp.sum(T * (means - a)) * (1 / seen_e if factor else 1) / precision + z[0] / jnp.sqrt(precision)
    a = T * (means - mu) / (T + seen_e / seen_a) + z[1:] / jnp.sqrt(T / seen_e + 1 / seen_a)
    return (mu, a), jnp.concatenate([jnp.array([mu]), a])


@partial(jax.jit, static_argnums=(0, 1))
def chain(feedback, factor, key):
    start = jnp.zeros(()), jnp.zeros(len(T))
    return jax.lax.scan(partial(sweep, feedback, factor), start, jax.random.split(key, SWEEPS))[1]


table = Published()
names = ["mu", *(f"a_{i}" for i in range(1, 8))]
found = {}
with lj.float64():
    for name, feedback, factor in (
        ("as printed", False, False),
        ("factor alone", False, True),
        ("feedback alone", True, False),
        ("both", True, True),
    ):
        found[name] = np.asarray(chain(feedback, factor, jax.random.key(1)))[DISCARDED:]
print(f"Means of {SWEEPS:,} sweeps\n{'':<16}" + "".join(f"{n:>8}" for n in names))
for name, draws in found.items():
    finite = np.isfinite(draws).all()
    cells = "".join(f"{m:8.2f}" for m in draws.mean(0)) if finite else "  diverges"
    print(f"{name:<16}{cells}")
assert not np.isfinite(found["feedback alone"]).all()
table.check_all(
    ["mode of mu", *(f"mode of {n}" for n in names[1:7])], "0 -1 0 1 2 3 4", found["as printed"].mean(0)[:7]
)
table.slip("mode of a_7", "5", "4", found["as printed"].mean(0)[7], "the notes say 'closer to -1, 0, ..., 4, 5'")
print("""
as printed      the mean of mu lacks 1/0.5, so each sweep pulls mu half the way to 0: what it settles at is no
                posterior, and it is why the notes' autocorrelations die out so soon.
factor alone    the exact posterior for variances known to be 0.5: the draws of sigma_a and sigma_e are not used.
feedback alone  the gain is about sigma_e times too large, and sigma_e is above 1: mu is multiplied at each sweep.
both            the notes' derivation. What keeps mu near 0 is its tight prior, N(0, 0.5): the data tell mu + aᵢ alone,
                and the aᵢ, whose variance is 28, take up the rest.
""")

# The derivation is `kernel="one_way"`; "joint" draws mu and all aᵢ at once from their joint conditional law.
priors = lj.Priors(
    fixed={"Intercept": lj.Normal(0, np.sqrt(0.5))},
    terms={"subject": lj.InverseGamma(2, 100)},
    residual=lj.InverseGamma(2, 100),
)
print(lj.priors("y ~ 1 + (1 | subject)", data, priors), "\n")
summaries = []
for kernel in ("one_way", "joint"):
    options = {"draws": SWEEPS, "warmup": DISCARDED, "kernel": kernel, "seed": 2}
    lj.gibbs("y ~ 1 + (1 | subject)", data, priors, **options)
    start = perf_counter()
    idata = lj.gibbs("y ~ 1 + (1 | subject)", data, priors, **options)
    seconds = perf_counter() - start
    summary = az.summary(idata, var_names=["beta", "b_subject", "sigma", "sd_subject"], round_to="none")
    print(f"lj.gibbs, kernel={kernel!r}: 4 chains of {SWEEPS:,} sweeps in {seconds:.2f} s (the notes: one in 1.11 s)")
    print(summary[["mean", "sd", "mcse_mean", "ess_bulk", "r_hat"]].round(3).to_string(), "\n")
    assert summary["r_hat"].max() < 1.01
    summaries.append(summary)
difference = summaries[0]["mean"] - summaries[1]["mean"]
assert (abs(difference) < 4 * np.hypot(summaries[0]["mcse_mean"], summaries[1]["mcse_mean"])).all()

fit = lj.lmer("y ~ 1 + (1 | subject)", data)
print(lj.compare_posterior(fit, idata).round(3).to_string())
table.report()
