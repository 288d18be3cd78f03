"""p-values and intervals of simulated responses, all of one design in a few batches.

Responses are drawn with β = 0 and σ = 1. That is no loss: every statistic here stays what it is when y is multiplied by
a number or moved along X (along the null's X for tests of fixed effects), and so a bootstrap draws with β = 0 and σ = 1
too, at the θ̂ of its own replicate.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
import pandas as pd
from scipy.special import chdtrc

import lmmjax as lj
from lmmjax.core.optimize import CONVERGED
from lmmjax.core.profiling import Space, minimise_on, squared

AT_ONCE = 2**15  # responses of a bootstrap that are in memory together
REFERENCE = 99_999  # draws of a null distribution that is the same for every replicate
DDF = {
    "Wald χ²": None,
    "F, residual df": "residual",
    "F, Satterthwaite": "satterthwaite",
    "F, Kenward-Roger": "kenward-roger",
}


@dataclass(frozen=True, eq=False)
class Model:
    """A design and what is true of it. theta : the truth in units of σ. seed : of everything that is drawn here."""

    name: str
    formula: str
    data: pd.DataFrame
    theta: tuple[float, ...]
    seed: int

    @cached_property
    def fit(self) -> "lj.Fit":
        """By REML, of whatever response the data have."""
        return lj.lmer(self.formula, self.data)

    def generator(self, purpose: int) -> np.random.Generator:
        """Independent ones for each purpose: 0, responses; 1, draws of the null's fits; 2, of the model's."""
        return np.random.default_rng([self.seed, purpose])

    def responses(self, n: int) -> np.ndarray:
        """(n, rows) at the truth."""
        return draw(self.fit.design, np.tile(self.theta, (n, 1)), self.generator(0))


def draw(design: Any, theta: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """(R, rows) one response for each row of theta (R, m), with β = 0 and σ = 1."""
    y, first = generator.standard_normal((len(theta), design.n)), 0
    for term in design.terms:
        own = theta[:, first : (first := first + term.template.n_theta)]
        factors = np.einsum("rm,mij->rij", own, term.template.basis)
        b = generator.standard_normal((len(theta), term.n_levels, term.p)) @ factors.mT
        y += np.einsum("nj,rnj->rn", term.x, b[:, term.codes])
    return y


@lj.float64()
def without(fit: "lj.Fit", columns: tuple[str, ...]) -> Any:
    """The cross-products of the model without some columns of X."""
    keep = [i for i, name in enumerate(fit.schema.fixed_names) if name not in columns]
    return lj.core.cross_products(fit.design.replace(X=fit.design.X[:, keep]), orthonormal=True)


@lj.float64()
def ratios(small: Any, full: Any, y: np.ndarray, reml: bool = False) -> tuple[np.ndarray, Any]:
    """(R,) likelihood ratios of two cross-products, and the fits of the smaller."""
    null = lj.core.estimate_many(small, y, reml)
    return np.maximum(null.criterion - lj.core.estimate_many(full, y, reml).criterion, 0), null


# ----------------------------------------------------------------------------------------------------- bootstrap


def replicated(design: Any, theta: np.ndarray, copies: int, generator: np.random.Generator) -> Iterator[tuple]:
    """(which rows of theta, `copies` responses for each of them), in parts of one shape but the last."""
    size = max(1, AT_ONCE // copies)
    for first in range(0, len(theta), size):
        part = slice(first, min(first + size, len(theta)))
        yield part, draw(design, np.repeat(theta[part], copies, 0), generator)


def bootstrap_p(
    small: Any, full: Any, design: Any, theta: np.ndarray, observed: np.ndarray, copies: int, generator
) -> np.ndarray:
    """(R,) (1 + r)/(1 + copies) of likelihood ratios (R,), each from draws at the θ of its own null fit, (R, m).

    design : the null's.
    """
    p = np.empty(len(observed))
    for part, y in replicated(design, theta, copies, generator):
        drawn = ratios(small, full, y)[0].reshape(-1, copies)
        p[part] = (1 + np.sum(drawn >= observed[part, None], 1)) / (1 + copies)
    return p


# ------------------------------------------------------------------------------------------------------- p-values


def of_fixed_effects(model: Model, columns: tuple[str, ...], n: int, n_boot: int = 0, copies: int = 199) -> dict:
    """p-values of tests that these columns have no effect, which is true: (n,) by method, the bootstrap (n_boot,)."""
    fit, y = model.fit, model.responses(n)
    batch = lj.refit_many(fit, y)
    small, full = without(fit, columns), fit.cross_products
    observed, null = ratios(small, full, y)
    p = {"LRT, χ²": chdtrc(len(columns), observed)}
    p |= {name: batch.test(columns, ddf).p.to_numpy() for name, ddf in DDF.items()}
    if n_boot:
        of, theta = model.generator(1), null.theta[:n_boot]
        p["LRT, bootstrap"] = bootstrap_p(small, full, fit.design, theta, observed[:n_boot], copies, of)
    return p


def of_one_variance(model: Model, n: int) -> dict:
    """p-values of tests that the only variance is zero, which is true, (n,) by method.

    Nothing of the null but β and σ is unknown, so the bootstrap's null distribution is the same for every replicate.
    """
    fit, y = model.fit, draw(model.fit.design, np.zeros((n, 1)), model.generator(0))
    fixed = model.formula.partition(" + (")[0]
    null = lj.lm(fixed, model.data)
    exact = lj.exact_rlrt(fit, REFERENCE, seed=model.seed).draws
    drawn = lj.bootstrap_lrt(null, fit, REFERENCE, seed=model.seed + 1).draws
    with lj.float64():
        at_zero = [lj.core.estimate_many(fit.cross_products, y, reml, theta=np.zeros((n, 1))) for reml in (True, False)]
        best = [lj.core.estimate_many(fit.cross_products, y, reml) for reml in (True, False)]
    restricted, ordinary = (np.maximum(a.criterion - b.criterion, 0) for a, b in zip(at_zero, best, strict=True))
    restricted, ordinary = (np.where(t < 1e-6, 0, t) for t in (restricted, ordinary))
    tail = chdtrc(1, restricted)
    return {
        "RLRT, χ²": tail,
        "RLRT, mixture": np.where(restricted > 0, tail / 2, 1.0),
        "RLRT, exact": _tail(exact, restricted),
        "LRT, bootstrap": _tail(drawn, ordinary),
    }


def of_a_slope(model: Model, smaller: str, n: int, n_boot: int, copies: int) -> dict:
    """p-values of tests that the model's random slope is not needed, which is true; smaller : formula without it."""
    null = lj.lmer(smaller, model.data)
    y = draw(null.design, np.tile(model.theta, (n, 1)), model.generator(0))
    restricted = ratios(null.cross_products, model.fit.cross_products, y, True)[0]
    observed, found = ratios(null.cross_products, model.fit.cross_products, y[:n_boot])
    tails = [chdtrc(k, restricted) for k in (1, 2)]
    of, pair = model.generator(1), (null.cross_products, model.fit.cross_products)
    return {
        "RLRT, χ²": tails[1],
        "RLRT, mixture": (tails[0] + tails[1]) / 2,
        "LRT, bootstrap": bootstrap_p(*pair, null.design, found.theta, observed, copies, of),
    }


def _tail(draws: np.ndarray, statistics: np.ndarray) -> np.ndarray:
    """Share of draws at least as large, by statistic, as (1 + r)/(1 + n)."""
    return (1 + len(draws) - np.searchsorted(np.sort(draws), statistics)) / (1 + len(draws))


# ------------------------------------------------------------------------------------------------------ intervals


def percentile_of_beta(model: Model, column: str, n: int, copies: int) -> np.ndarray:
    """(n,) whether the 95 % percentile interval of a parametric bootstrap holds the true coefficient, zero."""
    place = model.fit.schema.fixed_names.index(column)
    return _percentile(model, lambda found: found.beta[:, place], n, copies, 0.0, additive=True)


def percentile_of_sd(model: Model, n: int, copies: int) -> np.ndarray:
    """(n,) whether it holds the true standard deviation of the only random effect."""
    return _percentile(model, lambda f: f.sigma * abs(f.theta[:, 0]), n, copies, model.theta[0], additive=False)


@lj.float64()
def _percentile(model: Model, value: Any, n: int, copies: int, truth: float, additive: bool) -> np.ndarray:
    """A draw is σ̂ times what draws with σ = 1 give, after β̂ where it is `additive`."""
    cp, covers = model.fit.cross_products, np.empty(n, bool)
    found = lj.core.estimate_many(cp, model.responses(n))
    centre = value(found) if additive else 0 * found.sigma
    for part, y in replicated(model.fit.design, found.theta, copies, model.generator(2)):
        drawn = value(lj.core.estimate_many(cp, y)).reshape(-1, copies)
        lower, upper = np.quantile(drawn, (0.025, 0.975), axis=1) * found.sigma[part] + centre[part]
        covers[part] = (lower <= truth) & (truth <= upper)
    return covers


@lj.float64()
def profile_p(model: Model, y: np.ndarray) -> np.ndarray:
    """(n,) p-values of the true standard deviation of the first term's first column by the profile likelihood.

    The interval holds the truth where p is above one minus its level, so there is no need to find its ends.
    """
    fit = model.fit
    space = Space(tuple(t.template for t in fit.design.terms), squared(fit.cross_products), np.array(model.theta), 1.0)
    sd = float(np.linalg.norm(space.templates[0](np.array(model.theta))[0]))
    chart, start, cp = space.chart(0, (0,), sd), space.start(0, (0,)), fit.cross_products

    @jax.jit
    def held(y):
        return jax.lax.map(lambda v: minimise_on(chart, start, squared(cp.with_response(v)))[:2], y, batch_size=64)

    value, status = np.asarray(held(y)).T
    best = lj.core.estimate_many(cp, y, reml=False)
    return np.where(status == CONVERGED, chdtrc(1, np.maximum(value - best.criterion, 0)), np.nan)
