"""What each replicate of a study yields: estimates, intervals and whether they cover, p-values."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import jax
import numpy as np
from scipy.special import chdtrc

from ..core.batch import estimate_many
from ..core.design import Design
from ..core.residual import natural
from ..core.simulate import simulate
from ..errors import DataError
from ..inference.confint import confint
from ..inference.df import hypothesis, t_quantile
from ..inference.exact import rlrt_draws
from ..inference.intervals import check_level, tails
from ..inference.nesting import without_rounding
from ..inference.parameters import chosen, parameters_of, values
from ..precision import in_float64, to_numpy
from ..refitting import refit
from .sample import Change, Sample

Columns = dict[str, np.ndarray]
OF_FIXED = {"wald": None, "residual": "residual", "satterthwaite": "satterthwaite", "kenward-roger": "kenward-roger"}
BY_LIKELIHOOD = ("lrt", "bootstrap_lrt")
OF_VARIANCE = (*BY_LIKELIHOOD, "mixture", "exact_rlrt")
ONE_BY_ONE = ("profile", "boot")
DRAWS = {"bootstrap_lrt": 1000, "exact_rlrt": 100_000}
AT_ONCE = 2**14  # responses of a bootstrap that are fitted together


@dataclass(frozen=True)
class Estimates:
    """`estimate[…]` of every parameter, by lme4's long names, and `se[…]` of the fixed effects."""

    def columns(self, sample: Sample) -> Columns:
        """Of B replicates, arrays (B,)."""
        fit, e = sample.population, sample.estimates
        named = parameters_of(fit)
        found = all_parameters(sample)
        out = {f"estimate[{p.name}]": found[:, p.place] for p in named}
        se = np.full_like(e.beta, np.nan)
        for part, free in sample.freedom(None):
            se[part] = free.se
        return out | {f"se[{name}]": se[:, j] for j, name in enumerate(fit.schema.fixed_names)}


@dataclass(frozen=True)
class Interval:
    """`lower[…]`, `upper[…]` and `covers[…]` (1, or 0 where the truth is outside) of a confidence interval.

    parameters : names, or None for the fixed effects. method : "wald" (normal quantiles), "residual", "satterthwaite",
    "kenward-roger" (t) for fixed effects, all replicates at once; "profile" and "boot" (percentiles of n draws) for any
    parameter, one replicate after the other (0.1 s or so each).
    """

    parameters: Any = None
    method: str = "satterthwaite"
    level: float = 0.95
    n: int = 200

    def __post_init__(self) -> None:
        _check("Interval", self.method, (*OF_FIXED, *ONE_BY_ONE))
        check_level(self.level)

    def columns(self, sample: Sample) -> Columns:
        """Of B replicates, arrays (B,)."""
        fit = sample.population
        of_beta = [p for p in parameters_of(fit) if p.kind == "beta"]
        wanted = chosen(parameters_of(fit), self.parameters) if self.parameters is not None else of_beta
        if self.method in OF_FIXED and any(p.kind != "beta" for p in wanted):
            raise DataError(f"{self}: this method is for fixed effects, choose method='profile' or 'boot'")
        names, out = [p.name for p in wanted], dict[str, np.ndarray]()
        limits = self._at_once if self.method in OF_FIXED else self._one_by_one
        for name, (lower, upper) in zip(names, limits(sample, names), strict=True):
            place, truth = f"[{name}, {self.method}]", fit.truth[name]
            covers = np.where(np.isnan(lower), np.nan, (lower <= truth) & (truth <= upper))
            out |= {f"lower{place}": lower, f"upper{place}": upper, f"covers{place}": covers}
        return out

    def _at_once(self, sample: Sample, names: list[str]) -> np.ndarray:
        """(k, 2, B) limits."""
        beta, fixed = sample.estimates.beta, sample.population.schema.fixed_names
        found = np.full((len(fixed), 2, len(beta)), np.nan)
        for part, free in sample.freedom(OF_FIXED[self.method]):
            df = np.broadcast_to(free.df(np.eye(len(fixed))), free.se.shape)
            limits = beta[part] + free.se * t_quantile(tails(self.level)[:, None, None], df)
            found[:, :, part] = np.moveaxis(limits, -1, 0)
        return found[[fixed.index(name) for name in names]]

    def _one_by_one(self, sample: Sample, names: list[str]) -> np.ndarray:
        """(k, 2, B) limits."""
        sample.problem(None)
        found = np.full((len(names), 2, len(sample.ok)), np.nan)
        for i in np.flatnonzero(sample.ok):
            seed = jax.random.fold_in(sample.key, sample.first + i)
            one = refit(sample.population, sample.responses[i])
            found[:, :, i] = confint(one, names, self.level, self.method, n=self.n, seed=seed).loc[names]
        return found


@dataclass(frozen=True)
class Test:
    """`p[…]` of a hypothesis.

    what : columns of X, a constraint on them or numbers, as `lj.linear_test` takes them; or a random term, by its text
    "(1 | g)" or its name in `varcorr`, to be left out.
    method : for fixed effects "wald" (χ²), "residual", "satterthwaite", "kenward-roger", "lrt" (ML, χ²) and
    "bootstrap_lrt" (n draws for each replicate, 1000 by default); for a random term "lrt" (ML, χ² on its parameters),
    "mixture" (half of a point at zero, half χ²₁, of one variance), "bootstrap_lrt" and "exact_rlrt" (one variance;
    n draws, 100,000 by default, which all replicates share).
    """

    __test__ = False  # not one of pytest's

    what: Any
    method: str = "satterthwaite"
    n: int = 0

    def __post_init__(self) -> None:
        _check("Test", self.method, (*OF_FIXED, *OF_VARIANCE))
        object.__setattr__(self, "n", self.n or DRAWS.get(self.method, 0))
        object.__setattr__(self, "what", tuple(self.what) if isinstance(self.what, list) else self.what)

    @property
    def name(self) -> str:
        """Of its column in a study's table."""
        what = self.what if isinstance(self.what, str) else ", ".join(map(str, np.ravel(self.what)))
        return f"p[{what}, {self.method}]"

    def columns(self, sample: Sample) -> Columns:
        """Of B replicates, an array (B,)."""
        term = term_of(sample.population.schema, self.what)
        p = self._of_term(sample, term) if term is not None else self._of_fixed(sample)
        return {self.name: np.where(sample.ok, p, np.nan)}

    def _of_fixed(self, sample: Sample) -> np.ndarray:
        if self.method not in (*OF_FIXED, *BY_LIKELIHOOD):
            raise DataError(f"{self}: this method tests a random term; there is none called {self.what!r}")
        L, value = hypothesis(self.what, sample.population.schema.fixed_names)
        if self.method in OF_FIXED:
            return sample.f_test(L, value, OF_FIXED[self.method]).p
        return self._by_likelihood(sample, partial(_restricted, L=L, value=value), len(L))

    def _of_term(self, sample: Sample, term: int) -> np.ndarray:
        template = sample.population.design.terms[term].template
        if self.method in OF_FIXED:
            raise DataError(f"{self}: a random term is tested by {', '.join(OF_VARIANCE)}")
        if self.method in ("mixture", "exact_rlrt") and template.n_theta != 1:
            raise DataError(f"{self}: this is for one variance, and the term has {template.n_theta} parameters")
        change = partial(_without, term=term)
        if self.method == "exact_rlrt":
            draws = np.sort(rlrt_draws(_alone(sample, term), self.n, jax.random.fold_in(sample.key, 0)))
            observed = _ratio(sample, change, True)
            return np.where(observed > 0, 1 - np.searchsorted(draws, observed) / len(draws), 1.0)
        if self.method == "mixture":
            observed = _ratio(sample, change, False)
            return np.where(observed > 0, 0.5 * chdtrc(1, observed), 1.0)
        return self._by_likelihood(sample, change, template.n_theta)

    def _by_likelihood(self, sample: Sample, change: Change, df: int) -> np.ndarray:
        observed = _ratio(sample, change, False)
        if self.method == "lrt":
            return chdtrc(df, observed)
        draws = _null_ratios(sample, change, self.n)
        return np.mean(~(draws < observed[:, None]), 1)


def all_parameters(sample: Sample) -> np.ndarray:
    """(B, k) the numbers of `parameters_of`."""
    design, e = sample.population.design, sample.estimates
    slices = sample.population.cross_products.plan.theta_slices()
    factors = [t.template(e.theta[:, s]) for t, s in zip(design.terms, slices, strict=True)]
    phi = ()
    if design.residual is not None:
        phi = tuple(_natural(design.residual.structures)(e.theta[:, design.n_theta :]).T)
    return values([t.template for t in design.terms], factors, e.sigma, e.beta, phi)


@lru_cache(maxsize=16)
def _natural(structures: tuple) -> Callable:
    return in_float64(lambda phi: to_numpy(jax.vmap(partial(natural, structures))(phi)))


def _check(name: str, method: str, known: tuple[str, ...]) -> None:
    if method not in known:
        raise ValueError(f"{name}(method={method!r}): choose one of {', '.join(known)}")


def term_of(schema: Any, what: Any) -> int | None:
    """The random term of this text or name, or None."""
    if not isinstance(what, str):
        return None
    texts = [g.text.replace(" ", "") for g in schema.groups]
    if (bare := what.replace(" ", "")) in texts:
        return texts.index(bare)
    return schema.term_names.index(what) if what in schema.term_names else None


def _restricted(design: Design, L: np.ndarray, value: np.ndarray) -> Design:
    """With Lβ = value: X on the null space of L, and the rest as an offset."""
    particular, rank = np.linalg.lstsq(L, value)[0], len(L)
    space = np.linalg.svd(L)[2][rank:].T
    offset = (
        design.offset if not value.any() else design.X @ particular + (0 if design.offset is None else design.offset)
    )
    return design.replace(X=design.X @ space, offset=offset)


def _without(design: Design, term: int) -> Design:
    return design.replace(terms=design.terms[:term] + design.terms[term + 1 :])


def _alone(sample: Sample, term: int) -> Any:
    """The model with this random term only."""
    fit = sample.population
    design = fit.design.replace(terms=(fit.design.terms[term],))
    schema = replace(fit.schema, groups=(fit.schema.groups[term],))
    cp = sample.problem(lambda _: design)
    return replace(fit, schema=schema, design=design, cross_products=cp)


def _ratio(sample: Sample, change: Change, reml: bool) -> np.ndarray:
    """(B,) likelihood ratios; what is rounding is zero."""
    large, small = sample.criterion(None, reml), sample.criterion(change, reml)
    return without_rounding(small - large, small)


@in_float64
def _null_ratios(sample: Sample, change: Change, n: int) -> np.ndarray:
    """(B, n) likelihood ratios of responses drawn from each replicate's ML fit of the smaller model."""
    null, alt = sample.problem(change), sample.problem(None)
    design, e = change(sample.population.design), sample.refitted(change, False)
    out = []
    at_once = max(1, AT_ONCE // n)
    for start in range(0, len(sample.ok), at_once):
        drawn = [
            simulate(design, e.theta[i], e.beta[i], e.sigma[i], jax.random.fold_in(sample.key, sample.first + i), n)
            for i in range(start, min(start + at_once, len(sample.ok)))
        ]
        y = np.concatenate([np.asarray(a) for a in drawn])
        small, large = (estimate_many(cp, y, reml=False).criterion for cp in (null, alt))
        out.append(without_rounding(small - large, small).reshape(-1, n))
    return np.concatenate(out)
