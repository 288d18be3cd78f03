"""Prior laws of the parameters of a mixed model, and the defaults that a design suggests.

They stand on the data's scale: β, the covariance matrix Σ of each random-effects term, and the residual variance σ².
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..core import gibbs as core
from ..core.design import Design
from ..core.plan import Plan
from ..errors import DataError
from ..formula import Schema
from ..formula.hints import suggest

WIDTH = 10  # of the default priors, in standard deviations of the response
CORRELATIONS = 2.0  # degrees of freedom with which `HalfT` makes each correlation uniform


@dataclass(frozen=True)
class Normal:
    """A coefficient: normal with this mean and standard deviation. Raises DataError unless 0 < sd < ∞."""

    mean: float = 0.0
    sd: float = 1.0

    def __post_init__(self) -> None:
        _check_positive(self, "sd")
        if not np.isfinite(self.mean):
            raise DataError(f"{self}: mean must be finite")


@dataclass(frozen=True)
class InverseGamma:
    """A variance v: density ∝ v^−(shape + 1) exp(−scale/v). scale : in units of the variance.

    Raises DataError unless both are positive and finite: with shape or scale 0 the law is improper.
    """

    shape: float
    scale: float

    def __post_init__(self) -> None:
        _check_positive(self, "shape", "scale")

    def law(self, p: int) -> core.InverseWishart:
        """As the array layer has it."""
        return core.InverseWishart(np.float64(2 * self.shape), np.array([[2.0 * self.scale]]))


@dataclass(frozen=True)
class InverseWishart:
    """A covariance matrix Σ: density ∝ |Σ|^−(df + p + 1)/2 exp(−½ tr(scale Σ⁻¹)), so that E Σ = scale/(df − p − 1).

    scale : (p, p). Raises DataError unless it is positive definite and df > p − 1.
    """

    df: float
    scale: Any

    def __post_init__(self) -> None:
        scale = np.asarray(self.scale, float)
        if scale.ndim != 2 or scale.shape[0] != scale.shape[1] or not np.allclose(scale, scale.T):
            raise DataError(f"{self}: scale must be a symmetric matrix, (p, p)")
        if not np.isfinite(scale).all() or np.linalg.eigvalsh(scale).min() <= 0:
            raise DataError(f"{self}: scale must be positive definite; the prior would be improper")
        if not len(scale) - 1 < self.df < np.inf:
            raise DataError(f"{self}: df must be above p − 1 = {len(scale) - 1}; the prior would be improper")
        object.__setattr__(self, "scale", tuple(map(tuple, scale.tolist())))

    def law(self, p: int) -> core.InverseWishart:
        """As the array layer has it."""
        return core.InverseWishart(np.float64(self.df), np.array(self.scale))


@dataclass(frozen=True)
class HalfT:
    """A covariance matrix whose standard deviations are half-t with `df` degrees of freedom and these scales.

    scale : one number or (p,), in units of the standard deviations. With df = 2 each correlation is uniform on (−1, 1)
    (Huang & Wand 2013, Bayesian Analysis 8, 439–452). Of a single variance it is the half-t law of its root, the
    half-Cauchy with df = 1 (Gelman 2006, Bayesian Analysis 1, 515–534). Raises DataError unless all are positive.
    """

    df: float = CORRELATIONS
    scale: Any = 1.0

    def __post_init__(self) -> None:
        _check_positive(self, "df", "scale")
        scale = np.asarray(self.scale, float)
        object.__setattr__(self, "scale", tuple(scale.tolist()) if scale.ndim else float(scale))

    def law(self, p: int) -> core.HalfT:
        """As the array layer has it."""
        return core.HalfT(np.float64(self.df), np.broadcast_to(np.asarray(self.scale, float), p).copy())


OfVariance = InverseGamma | HalfT
OfCovariance = InverseGamma | InverseWishart | HalfT


def _check_positive(prior: Any, *names: str) -> None:
    for name in names:
        values = np.asarray(getattr(prior, name), float)
        if not (np.isfinite(values) & (values > 0)).all() or values.ndim > 1:
            raise DataError(f"{prior}: {name} must be positive and finite; the prior would be improper")


@dataclass(frozen=True)
class Priors:
    """Prior laws by name; what is not named has a default, which `print(lj.priors(formula, data))` shows.

    fixed : by column of X, as `fit.fixef` names them. terms : by grouping factor, as in `fit.varcorr` (`g.1` is the
    second term on g). residual : of σ², for rows of prior weight one.
    Defaults, with s the standard deviation of y and r that of what least squares on X leave: coefficients
    Normal(0, 10 s/sd(x)), an intercept Normal(mean of y, 10 s √(1 + Σ (mean(x)/sd(x))²)); standard deviations of
    effects HalfT(2, 10 r/rms(z)), z the column of Z; the residual's HalfT(2, 10 r). They follow the units of the data.
    """

    fixed: Mapping[str, Normal] = field(default_factory=dict)
    terms: Mapping[str, OfCovariance] = field(default_factory=dict)
    residual: OfVariance | None = None

    def __str__(self) -> str:
        rows = [*self.fixed.items(), *self.terms.items()]
        rows += [("residual", self.residual)] if self.residual is not None else []
        width = max((len(name) for name, _ in rows), default=0)
        return "\n".join(f"{name:<{width}}  ~  {_printed(prior)}" for name, prior in rows)


def _printed(prior: Any) -> str:
    parts = []
    for name, value in vars(prior).items():
        text = np.array2string(np.asarray(value), precision=4, separator=", ").replace("\n", "")
        parts.append(f"{name}={text}")
    return f"{type(prior).__name__}({', '.join(parts)})"


def complete(priors: Priors | None, schema: Schema, design: Design) -> Priors:
    """The same with defaults for all that it does not name.

    Raises DataError for names that the model has not, and for a law that does not fit its term; TypeError for what is
    no prior at all.
    """
    priors = Priors() if priors is None else priors
    if not isinstance(priors, Priors):
        raise TypeError(f"priors={priors!r}: give lj.Priors(fixed=..., terms=..., residual=...)")
    _check_names(priors.fixed, schema.fixed_names, "fixed-effects column", schema.formula)
    _check_names(priors.terms, schema.term_names, "random-effects term", schema.formula)
    left = design.y - (0 if design.offset is None else design.offset)
    left = left - design.X @ np.linalg.lstsq(design.X, left, rcond=None)[0]
    spread = WIDTH * float(np.sqrt(np.mean(left**2)))
    fixed = {**_default_fixed(schema, design), **priors.fixed}
    terms = {}
    for name, term in zip(schema.term_names, design.terms, strict=True):
        rms = np.sqrt(np.mean(term.x**2, 0))
        default = HalfT(CORRELATIONS, spread / np.where(rms > 0, rms, 1))
        terms[name] = priors.terms.get(name, default)
        _check_term(name, terms[name], term.template)
    residual = HalfT(CORRELATIONS, spread) if priors.residual is None else priors.residual
    if not isinstance(residual, OfVariance) or np.ndim(getattr(residual, "scale", 0)):
        raise DataError(f"residual={residual!r}: give the residual variance lj.InverseGamma or a scalar lj.HalfT")
    return Priors({n: _normal(n, fixed[n]) for n in schema.fixed_names}, terms, residual)


def _check_names(given: Mapping[str, Any], known: list[str], what: str, formula: str) -> None:
    for name in given:
        if name not in known:
            raise DataError(f"a prior for {name!r}, which is no {what} of {formula!r}{suggest(name, known)}")


def _normal(name: str, prior: Any) -> Normal:
    if not isinstance(prior, Normal):
        raise DataError(f"the prior of the coefficient {name!r} is {prior!r}: give lj.Normal(mean, sd)")
    return prior


def _check_term(name: str, prior: Any, template: Any) -> None:
    p = template.p
    if not (template.is_full or template.is_diagonal):
        raise DataError(f"the term {name!r} has a covariance without a conjugate prior: only full and diagonal ones")
    if not isinstance(prior, OfCovariance):
        raise DataError(f"the prior of the term {name!r} is {prior!r}: give HalfT, InverseGamma or InverseWishart")
    if isinstance(prior, InverseGamma) and p > 1 and template.is_full:
        raise DataError(f"the term {name!r} has {p} correlated columns: give lj.InverseWishart or lj.HalfT")
    if isinstance(prior, InverseWishart) and (len(prior.scale) != p or template.is_diagonal):
        wanted = "InverseGamma or HalfT, since its columns are independent" if template.is_diagonal else f"({p}, {p})"
        raise DataError(
            f"the term {name!r} has {p} columns, and its InverseWishart is {len(prior.scale)} wide: {wanted}"
        )
    if isinstance(prior, HalfT) and np.size(prior.scale) not in (1, p):
        raise DataError(f"the term {name!r} has {p} columns, and its HalfT {np.size(prior.scale)} scales")


def _default_fixed(schema: Schema, design: Design) -> dict[str, Normal]:
    """Normal laws so wide that data decide; the mean of y goes to the columns that add up to one."""
    X, y = design.X, design.y - (0 if design.offset is None else design.offset)
    mean, sd = X.mean(0), X.std(0)
    constant = sd <= 1e-12 * np.abs(mean)
    of_one = np.linalg.lstsq(X, np.ones(len(y)), rcond=None)[0]
    of_one = np.where(abs(of_one) > 1e-10, of_one, 0) if np.allclose(X @ of_one, 1) else 0 * of_one
    varying = ~constant
    centred = np.sqrt(1 + np.sum((mean[varying] / sd[varying]) ** 2))
    widths = (
        WIDTH
        * y.std()
        * np.where(constant, centred / np.where(constant, np.abs(mean), 1), 1 / np.where(constant, 1, sd))
    )
    return {
        n: Normal(float(m), float(w)) for n, m, w in zip(schema.fixed_names, y.mean() * of_one, widths, strict=True)
    }


def laws(priors: Priors, plan: Plan) -> core.Priors:
    """As the array layer has them; `priors` names everything, terms in the order of the design."""
    given = list(priors.terms.values())
    covariances = []
    for i, columns in core.blocks_of(plan):
        whole = given[i].law(plan.templates[i].p)
        covariances.append(core.HalfT(whole.df, whole.scale[columns]) if isinstance(whole, core.HalfT) else whole)
    assert priors.residual is not None
    return core.Priors(
        np.array([n.mean for n in priors.fixed.values()]),
        np.array([n.sd for n in priors.fixed.values()]),
        priors.residual.law(1),
        tuple(covariances),
    )
