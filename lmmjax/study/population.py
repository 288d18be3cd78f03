"""Models at parameters that were given rather than estimated: what studies and power calculations draw from."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from patsy import EvalEnvironment

from ..core.covariance import Template
from ..core.crossprod import cross_products
from ..core.design import Design
from ..core.estimate import estimate
from ..core.optimize import CONVERGED
from ..core.simulate import simulate
from ..errors import DataError
from ..fit import Fit
from ..formula import Schema, build, parse
from ..formula.hints import listed, suggest
from ..inference.parameters import Parameter, parameters_of, values
from ..precision import in_float64, to_numpy
from ..refitting import key_of

CLOSE = 1e-8  # of a covariance matrix: how far its template's nearest one may be


@dataclass(frozen=True, eq=False, repr=False)
class Population(Fit):
    """A model at given parameters, the truth of a simulation: `fixef`, `varcorr`, `sigma`, `theta` and `phi` are those.

    Its response is one that was drawn from them. `lj.simulate` draws more, and `lj.refit_many` estimates from those.
    present : (n,) the rows that replicates of a study have, where it is not all of them.
    """

    present: np.ndarray | None = None

    @property
    def truth(self) -> pd.Series:
        """The parameters by lme4's long names, as `make_lmer` takes them."""
        return truth_of(self)

    def __repr__(self) -> str:
        return f"Population: parameters were given, the response is drawn from them\n{self.summary().text}"


def make_lmer(
    formula: str, data: Any, parameters: Mapping[str, float], reml: bool = True, seed: Any = 0, **options: Any
) -> Population:
    """A mixed model from its parameters instead of from a response, as makeLmer of R's simr.

    formula : as in `lmer`, `lm` or `gls`. data : a table without the response, or with one that is not looked at.
    parameters : by lme4's long names, such as {"Intercept": 250, "x": 10, "sd_Intercept|g": 25, "sigma": 20}; standard
    deviations and `cor_x.Intercept|g` are those of the random effects, and correlations that are not named are zero.
    reml : how refits will estimate. seed : of the response that it holds. options : of `lmer` (weights, offset,
    contrasts, relmat, covariance, residual).
    Raises DataError for unknown or absent parameters and for values that no model has; FormulaError.
    """
    table = pd.DataFrame(data).copy()
    for _, name in parse(formula).response.variables:
        if name not in table:
            table[name] = np.linspace(1, 2, len(table))
    schema, design = build(formula, table, env=EvalEnvironment.capture(1), **options)
    return at_parameters(schema, design, parameters, reml, seed)


def at_parameters(
    schema: Schema, design: Design, parameters: Mapping[str, float], reml: bool, seed: Any = 0
) -> Population:
    """A design whose names are known already at parameters, of which only correlations may be absent: they are zero."""
    start = np.concatenate([[s for t in design.terms for s in t.template.start], np.zeros(design.n_phi)])
    blank = _population(schema, design, start, np.zeros(design.p), 1.0, reml, seed)
    known = {p.name: 0.0 for p in parameters_of(blank) if p.kind == "cor"}
    return _at(blank, {**known, **parameters}, seed)


def truth_of(fit: Fit) -> pd.Series:
    """The parameters of a fit by lme4's long names; no correlation where something does not vary."""
    found = values([t.template for t in fit.design.terms], fit.templates, fit.sigma, fit.estimate.beta, fit.phi)
    return pd.Series(found, [p.name for p in parameters_of(fit)]).fillna(0)


def with_parameters(fit: Fit, parameters: Mapping[str, float], seed: Any = 0) -> Population:
    """The model of a fit at its estimates, but for the parameters that are given, by lme4's long names.

    A changed standard deviation keeps the correlations. seed : of the response that it holds. Raises as `make_lmer`.
    """
    held = truth_of(fit)
    return _at(fit, {**held, **_checked(parameters, held.index)}, seed)


def _checked(parameters: Mapping[str, float], names: Any) -> Mapping[str, float]:
    for name, value in parameters.items():
        if name not in names:
            raise DataError(f"no parameter {name!r}; there are {listed(names, len(names))}{suggest(name, names)}")
        if not np.isfinite(value):
            raise DataError(f"{name}={value}: give a finite number")
    return parameters


def _at(fit: Fit, parameters: Mapping[str, float], seed: Any) -> Population:
    """The model of `fit` with these parameters, all of which are given."""
    named = parameters_of(fit)
    _checked(parameters, [p.name for p in named])
    absent = [p.name for p in named if p.name not in parameters]
    if absent:
        raise DataError(f"parameters without a value: {listed(absent, len(absent))}")
    sigma = float(parameters["sigma"])
    if not sigma > 0:
        raise DataError(f"sigma={sigma}: give a positive standard deviation")
    terms = range(len(fit.design.terms))
    theta = [_theta(fit, i, [p for p in named if p.term == i], parameters) for i in terms]
    phi = _phi(fit.design, np.array([parameters[p.name] for p in named if p.kind == "phi"]))
    beta = np.array([parameters[p.name] for p in named if p.kind == "beta"], float)
    return _population(fit.schema, fit.design, np.concatenate([*theta, phi]), beta, sigma, fit.reml, seed)


def _theta(fit: Fit, i: int, named: list[Parameter], parameters: Mapping[str, float]) -> np.ndarray:
    """θ of term i, from its standard deviations and correlations."""
    template, text = fit.design.terms[i].template, fit.schema.groups[i].text
    sd, correlation = np.zeros(template.p), np.eye(template.p)
    for p in named:
        value = float(parameters[p.name])
        if p.kind == "sd" and value < 0 or p.kind == "cor" and abs(value) > 1:
            raise DataError(f"{p.name}={value}: no {'standard deviation' if p.kind == 'sd' else 'correlation'}")
        if p.kind == "sd":
            sd[p.columns[0]] = value
        else:
            correlation[p.columns] = correlation[p.columns[::-1]] = value
    if np.linalg.eigvalsh(correlation)[0] < -CLOSE:
        raise DataError(f"the correlations of {text} cannot hold together: their matrix is not positive semi-definite")
    return _of_covariance(template, correlation * np.outer(sd, sd) / parameters["sigma"] ** 2, text)


def _of_covariance(template: Template, d: np.ndarray, text: str) -> np.ndarray:
    """θ with TTᵀ = D (p, p): the triangular root for all covariances, otherwise the nearest that there is."""
    size = np.sqrt(np.trace(d)) or 1.0
    if template.is_full:
        eigenvalues, vectors = np.linalg.eigh(d)
        r = np.linalg.qr((vectors * np.sqrt(np.maximum(eigenvalues, 0))).T)[1]
        root = (r * np.where(np.diag(r) < 0, -1, 1)[:, None]).T
        return root[template.fn.indices]
    from scipy.optimize import least_squares

    def miss(theta: np.ndarray) -> np.ndarray:
        t = template(theta)
        return ((t @ t.T - d) / size**2).ravel()

    start = np.sqrt(np.diag(d)) if template.is_diagonal else np.array(template.start)
    found = least_squares(miss, start, xtol=1e-15, ftol=1e-15, gtol=1e-15)
    if np.abs(found.fun).max() > CLOSE:
        raise DataError(f"{text} cannot have the covariance {(d / size**2).round(3).tolist()} (relative to its trace)")
    return found.x


@in_float64
def _phi(design: Design, natural: np.ndarray) -> np.ndarray:
    """(k,) φ of the residual structure from what is reported of it."""
    parts, at = [np.zeros(0)], 0
    for structure in () if design.residual is None else design.residual.structures:
        parts.append(to_numpy(structure.from_natural(natural[at : at + structure.n_phi])))
        at += structure.n_phi
    phi = np.concatenate(parts)
    if not np.isfinite(phi).all():
        raise DataError(f"no residual structure has the parameters {natural.tolist()}")
    return phi


@in_float64
def _population(
    schema: Schema, design: Design, theta: np.ndarray, beta: np.ndarray, sigma: float, reml: bool, seed: Any
) -> Population:
    drawn = np.asarray(simulate(design, theta, beta, sigma, key_of(seed), 1))[0]
    design = design.replace(y=drawn)
    cp = cross_products(design, orthonormal=True)
    there = to_numpy(estimate(cp, reml, theta=theta, sigma=sigma))
    effects = {name: tuple(np.zeros_like(a) for a in getattr(there, name)) for name in ("b", "u")}
    truth = replace(there, beta=beta, sigma=np.float64(sigma), status=np.int64(CONVERGED), **effects)
    return Population(schema, design, cp, truth, reml)
