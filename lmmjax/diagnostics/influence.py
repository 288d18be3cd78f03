"""Influence of groups, cluster-robust covariances and cross-validation, from case weights of independent groups."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from ..core.compile import jit
from ..core.crossprod import CrossProducts
from ..core.groups import Parameters, group_derivatives, group_deviances, group_products, of_estimate, without_each
from ..core.optimize import CONVERGED, FIXED
from ..errors import DataError
from ..fit import Fit
from ..precision import in_float64, to_numpy

KINDS = ("IJ", "CR0", "CR1", "CR2", "CR3")
DETERMINED = 1e-10  # share of its own variance that a group leaves a direction of β, below which it determines it alone


@dataclass(frozen=True, eq=False, repr=False)
class Influence:
    """How the estimates change when one group is left out. Tables have a row per group, in the order of its levels.

    dbeta : (G, p) change of the fixed effects. dtheta : (G, m) of θ. dsigma : (G,) of σ. cooks : (G,) Cook's distance,
    dbetaᵀ vcov⁻¹ dbeta / p. exact : whether by refits; else first-order, by one derivative. converged : (G,) of refits.
    """

    fit: Fit
    dbeta: pd.DataFrame
    dtheta: np.ndarray
    dsigma: pd.Series
    exact: bool
    converged: np.ndarray

    @cached_property
    def cooks(self) -> pd.Series:
        """Cook's distance of each group."""
        change = self.dbeta.to_numpy()
        solved = np.linalg.solve(self.fit.vcov.to_numpy(), change.T).T
        return pd.Series(np.sum(change * solved, 1) / change.shape[1], self.dbeta.index, name="cooks")

    @property
    def table(self) -> pd.DataFrame:
        """dbeta, the change of σ and Cook's distance, the most influential group first."""
        table = self.dbeta.assign(sigma=self.dsigma, cooks=self.cooks)
        return table.sort_values("cooks", ascending=False)

    def __repr__(self) -> str:
        how = "refits" if self.exact else "first-order"
        return f"Change when one group is left out ({how})\n{self.table.to_string(float_format='{:.4g}'.format)}"


@in_float64
def influence(fit: Fit, exact: bool = False) -> Influence:
    """What each group of the outermost grouping factor does to the estimates.

    First-order by default: minus the derivative in the group's case weight, by one reverse pass per parameter (the
    infinitesimal jackknife, Jaeckel 1972). exact : refit without each group in one batch.
    Raises DataError where crossed factors leave no independent groups.
    """
    names, e = groups_of(fit), fit.estimate
    converged = np.ones(len(names), bool)
    if exact:
        left, status = _run(_refits, fit, e.theta, fit.reml)
        change = Parameters(*(a - b for a, b in zip(left, of_estimate(e), strict=True)))
        converged = np.isin(status, (CONVERGED, FIXED))
    else:
        change = Parameters(*(-a for a in _derivatives(fit)))
    table = pd.DataFrame(change.beta, names, fit.fixef.index)
    return Influence(fit, table, change.theta, pd.Series(change.sigma, names, name="sigma"), exact, converged)


@in_float64
def vcov_cr(fit: Fit, kind: str = "CR2") -> pd.DataFrame:
    """Cluster-robust covariance (p, p) of the fixed effects; the clusters are the outermost grouping factor's levels.

    With M = (Σ Hᵢ)⁻¹, Hᵢ = XᵢᵀVᵢ⁻¹Xᵢ and scores sᵢ = XᵢᵀVᵢ⁻¹eᵢ, it is Σ dᵢdᵢᵀ with

    - "CR0": dᵢ = M sᵢ, the derivative of β̂ in the case weight of a group with θ held; "CR1": times G/(G − 1);
    - "CR2": dᵢ = M(I − HᵢM)^−½ sᵢ, unbiased where the model holds (Bell & McCaffrey 2002, in V's metric);
    - "CR3": dᵢ = M(I − HᵢM)⁻¹ sᵢ, the change of β̂ when the group is left out with θ held;
    - "IJ": the derivative of β̂ with θ̂ moving too (infinitesimal jackknife).

    Raises DataError where there are no independent groups, ValueError for an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r}: known are {', '.join(KINDS)}")
    groups_of(fit)
    if kind == "IJ":
        changes = _derivatives(fit).beta
    else:
        changes = _changes(fit.cross_products, _run(_products, fit, fit.estimate.theta), kind)
    robust = changes.T @ changes
    count = len(changes)
    robust = robust * count / (count - 1) if kind == "CR1" else robust
    return pd.DataFrame(robust, fit.fixef.index, fit.fixef.index)


def _changes(cp: CrossProducts, products: np.ndarray, kind: str) -> np.ndarray:
    """(G, p) the dᵢ of `vcov_cr`, from the groups' shares of [X, y]ᵀV₀⁻¹[X, y] in the basis of X."""
    h, total = products[:, :-1, :-1], products.sum(0)
    beta = np.linalg.solve(total[:-1, :-1], total[:-1, -1])
    scores = products[:, :-1, -1] - h @ beta
    root = np.linalg.cholesky(np.linalg.inv(total[:-1, :-1]))
    leverage = root.T @ h @ root
    values, vectors = np.linalg.eigh(leverage)  # between 0 and 1
    left = np.maximum(1 - values, 0)
    power = {"CR0": 0.0, "CR1": 0.0, "CR2": -0.5, "CR3": -1.0}[kind]
    # A group that determines a direction alone has no residual in it: the generalised inverse leaves it out.
    alone = left <= DETERMINED
    weight = np.where(alone, power == 0, np.where(alone, 1, left) ** power)
    turned = np.einsum("gji,gj->gi", vectors, scores @ root) * weight
    changes = np.einsum("gij,gj->gi", vectors, turned) @ root.T
    return np.linalg.solve(cp.basis, changes.T).T


@in_float64
def cross_validate(fit: Fit, exact: bool = True) -> pd.DataFrame:
    """Leave-one-group-out log density of each group of the outermost grouping factor.

    exact : with the estimates of a refit without the group; else with first-order estimates. Columns: log_density of
    the group's rows together, given the others; in_sample, the same under the fit to all; converged. The sum of
    log_density compares models as AIC does, without its asymptotics.
    Raises DataError where crossed factors leave no independent groups.
    """
    own = of_estimate(fit.estimate)
    without = influence(fit, exact)
    changes = Parameters(without.dbeta.to_numpy(), without.dtheta, without.dsigma.to_numpy())
    names = without.dbeta.index
    inside = Parameters(*(np.broadcast_to(a, (len(names), *np.shape(a))) for a in own))
    left_out = Parameters(*(a + b for a, b in zip(inside, changes, strict=True)))
    densities = [-0.5 * _run(_deviances, fit, p) for p in (left_out, inside)]
    columns = {"log_density": densities[0], "in_sample": densities[1], "converged": without.converged}
    return pd.DataFrame(columns, names)


def groups_of(fit: Fit) -> pd.Index:
    """The levels of the outermost grouping factor. Raises DataError where they are not independent."""
    plan = fit.cross_products.plan
    names = list(dict.fromkeys(g.group for g in fit.schema.groups))
    if not plan.chain and not plan.rest:
        raise DataError("a model without random effects has no groups to leave out")
    if plan.rest:
        raise DataError(
            f"no independent groups: {', '.join(names)} are crossed, or their levels correlated, so that what is left "
            "without a level still depends on it"
        )
    return fit.schema.groups[plan.chain[-1].terms[0]].levels


def _derivatives(fit: Fit) -> Parameters:
    """d(β̂, θ̂, σ̂)/dc by group; a θ that was given does not move."""
    held = int(fit.estimate.status) == FIXED
    return _run(_with_theta_held if held else _with_theta_free, fit, fit.estimate.theta, fit.reml)


def _run(compiled, fit: Fit, *arguments):
    """A compiled function of cross-products that keep their rows."""
    cp = fit.cross_products
    return to_numpy(compiled(cp.without_rows(), cp.rows, *arguments))


@jit
def _with_theta_free(cp, rows, theta, reml):
    return group_derivatives(replace(cp, rows=rows), theta, reml, held=False)


@jit
def _with_theta_held(cp, rows, theta, reml):
    return group_derivatives(replace(cp, rows=rows), theta, reml, held=True)


@jit
def _refits(cp, rows, theta, reml):
    return without_each(replace(cp, rows=rows), theta, reml)


@jit
def _products(cp, rows, theta):
    return group_products(replace(cp, rows=rows), theta)


@jit
def _deviances(cp, rows, parameters):
    return group_deviances(replace(cp, rows=rows), parameters)
