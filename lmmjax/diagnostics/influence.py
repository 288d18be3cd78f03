"""Influence of groups, cluster-robust covariances and cross-validation, from case weights of independent groups."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..core.compile import jit
from ..core.crossprod import CrossProducts
from ..core.groups import Parameters, case_derivatives, group_deviances, group_products, of_estimate, without_each
from ..core.optimize import CONVERGED, FIXED
from ..core.products import segment_outer
from ..errors import DataError
from ..fit import Fit
from ..formula.hints import suggest
from ..inference.nesting import check_fits
from ..precision import in_float64, to_numpy
from ..refitting import given_theta

SHOWN = 10  # rows of a printed table
KINDS = ("IJ", "CR0", "CR1", "CR2", "CR3")
DETERMINED = 1e-10  # share of its own variance that a group leaves a direction of β, below which it determines it alone


@dataclass(frozen=True, eq=False, repr=False)
class Influence:
    """How the estimates change when one group, or one row, is left out. Tables have a row for each, in their order.

    dbeta : (G, p) change of the fixed effects, without minus with, as lme4's dfbeta. dtheta : (G, m) of θ. dsigma :
    (G,) of σ. se : (G, p) standard errors of the fixed effects without the group; those of the fit where first-order.
    exact : whether by refits; else first-order, by one derivative. converged : (G,) of refits; without, all changes are
    missing: also where what is left does not determine the fixed effects.
    """

    fit: Fit
    dbeta: pd.DataFrame
    dtheta: np.ndarray
    dsigma: pd.Series
    se: pd.DataFrame
    exact: bool
    converged: np.ndarray

    @cached_property
    def cooks(self) -> pd.Series:
        """Cook's distance dbetaᵀ vcov⁻¹ dbeta / p, vcov that of the fit (Cook 1977).

        θ moves as well; lme4's `cooks.distance` of a fit holds it, and that of its `influence` multiplies this by
        (G − p)/G.
        """
        change = self.dbeta.to_numpy()
        solved = np.linalg.solve(self.fit.vcov.to_numpy(), change.T).T
        return pd.Series(np.sum(change * solved, 1) / max(change.shape[1], 1), self.dbeta.index, name="cooks")

    @property
    def dfbetas(self) -> pd.DataFrame:
        """(G, p) dbeta in units of `se` (Belsley, Kuh & Welsch 1980), as lme4's dfbetas of its `influence`."""
        return self.dbeta / self.se

    @property
    def n_failed(self) -> int:
        """How many could not be left out."""
        return int(np.sum(~self.converged))

    @property
    def table(self) -> pd.DataFrame:
        """dbeta, the change of σ and Cook's distance, the most influential first."""
        table = self.dbeta.assign(sigma=self.dsigma, cooks=self.cooks)
        return table.sort_values("cooks", ascending=False)

    def __repr__(self) -> str:
        how, table = "refits" if self.exact else "first-order", self.table
        lines = [f"Change when one {self.dbeta.index.name or 'group'} is left out ({how})"]
        lines.append(table.head(SHOWN).to_string(float_format="{:.4g}".format))
        lines += [f"… {len(table)} in all, see .table"] if len(table) > SHOWN else []
        failed = "without them fixed effects are not determined, or the refit did not converge"
        return "\n".join(lines + ([f"{self.n_failed} without values: {failed}"] if self.n_failed else []))


@in_float64
def influence(fit: Fit, by: str | None = None, exact: bool = False) -> Influence:
    """What each group, or each row, does to the estimates.

    by : a grouping factor of the model, by default the outermost one, or "row" for each row (unless a grouping factor
    has that name). exact : refit without each, in one compiled loop from θ̂. Otherwise first-order, by one reverse pass
    per parameter: minus the derivative in the case weight (the infinitesimal jackknife, Jaeckel 1972), for rows divided
    by 1 − leverage, which makes the change of β̂ exact where θ is held (Christensen, Pearson & Johnson 1992).
    A group's weight counts its random effects too; first-order falls short by about a share 1/G. Such weights have the
    outermost factor of nested ones and, of crossed ones, the one that is eliminated first (the one with most effects,
    unless others are nested in it); for another one DataError asks for exact=True. A θ that was given stays.
    Raises DataError for a `by` that is no grouping factor, and by default where factors are crossed.
    """
    check_fits((fit,), "influence")
    left = _left_out(fit, by, exact)
    change, se, converged = (_by_refits if exact else _first_order)(fit, left)
    converged &= _determined(fit, left)
    beta, theta, sigma, se = (np.where(_beside(converged, a), a, np.nan) for a in (*change, se))
    names, columns = left.names, fit.fixef.index
    changes = pd.DataFrame(beta, names, columns), theta, pd.Series(sigma, names, name="sigma")
    return Influence(fit, *changes, pd.DataFrame(se, names, columns), exact, converged)


class _LeftOut(NamedTuple):
    """What is left out, one at a time: names (G,), the rows' codes (n,), and the case weights that do it gradually."""

    names: pd.Index
    codes: np.ndarray
    weights: str | None


def _left_out(fit: Fit, by: str | None, exact: bool) -> _LeftOut:
    if by is None:
        by = groups_of(fit).name
    factors = {g.group: i for i, g in reversed(list(enumerate(fit.schema.groups)))}
    if by == "row" and by not in factors:
        return _LeftOut(pd.Index(fit.schema.index, name="row"), np.arange(fit.nobs), "rows")
    if by not in factors:
        hint = suggest(by, factors)
        raise DataError(f"by={by!r} is no grouping factor of {fit.schema.formula!r}, nor 'row'{hint}")
    plan, i = fit.cross_products.plan, factors[by]
    weights = None
    if plan.chain and i in plan.chain[-1].terms and not (plan.rest and len(plan.chain) > 1):
        weights = "levels" if plan.rest else "groups"
    if weights is None and not exact:
        raise DataError(f"levels of {by!r} have no case weights in this model: leave them out by refits, exact=True")
    return _LeftOut(fit.schema.groups[i].levels.rename(by), fit.design.terms[i].codes, weights)


def _by_refits(fit: Fit, left: _LeftOut) -> tuple[Parameters, np.ndarray, np.ndarray]:
    """Changes, standard errors (G, p) and whether the refits converged (G,)."""
    e, levels = fit.estimate, np.arange(len(left.names))
    found = _REFITS(fit.cross_products, left.codes, levels, e.theta, fit.reml, given_theta(fit))
    without, se, status = to_numpy(found)
    change = Parameters(*(a - b for a, b in zip(without, of_estimate(e), strict=True)))
    return change, se, np.isin(status, (CONVERGED, FIXED)) & np.isfinite(without.sigma)


def _first_order(fit: Fit, left: _LeftOut) -> tuple[Parameters, np.ndarray, np.ndarray]:
    """The same from derivatives; with the standard errors of the fit."""
    derivatives, ok = _derivatives(fit, left), np.ones(len(left.names), bool)
    freedom = np.maximum(1 - fit.hatvalues, DETERMINED) if left.weights == "rows" else np.ones(len(ok))
    se = np.sqrt(np.diag(fit.estimate.vcov))
    return Parameters(*(-a / _beside(freedom, a) for a in derivatives)), np.tile(se, (len(ok), 1)), ok


def _determined(fit: Fit, left: _LeftOut) -> np.ndarray:
    """(G,) whether the rows that are left determine all fixed effects: 1 is no eigenvalue of a group's share of XᵀX."""
    rows = fit.cross_products.rows
    assert rows is not None
    X = rows.X  # orthonormal
    if left.weights == "rows":
        return 1 - np.sum(X**2, 1) > DETERMINED
    return 1 - np.linalg.eigvalsh(segment_outer(X, X, left.codes, len(left.names))).max(-1, initial=0) > DETERMINED


def _beside(values: np.ndarray, a: np.ndarray) -> np.ndarray:
    """(G,) values in the shape that multiplies a, (G, …)."""
    return values.reshape(-1, *[1] * (a.ndim - 1))


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
    check_fits((fit,), "vcov_cr")
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r}: known are {', '.join(KINDS)}")
    groups_of(fit)
    if kind == "IJ":
        changes = _derivatives(fit, _left_out(fit, None, exact=False)).beta
    else:
        changes = _changes(fit.cross_products, to_numpy(_PRODUCTS(fit.cross_products, fit.estimate.theta)), kind)
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
    without = influence(fit, exact=exact)
    changes = Parameters(without.dbeta.to_numpy(), without.dtheta, without.dsigma.to_numpy())
    names = without.dbeta.index
    inside = Parameters(*(np.broadcast_to(a, (len(names), *np.shape(a))) for a in own))
    left_out = Parameters(*(a + b for a, b in zip(inside, changes, strict=True)))
    densities = [-0.5 * to_numpy(_DEVIANCES(fit.cross_products, p)) for p in (left_out, inside)]
    columns = {"log_density": densities[0], "in_sample": densities[1], "converged": without.converged}
    return pd.DataFrame(columns, names)


def groups_of(fit: Fit) -> pd.Index:
    """The levels of the outermost grouping factor. Raises DataError where they are not independent."""
    plan = fit.cross_products.plan
    names = list(dict.fromkeys(g.group for g in fit.schema.groups))
    if not plan.chain and not plan.rest:
        raise DataError("a model without random effects has no groups to leave out; influence(fit, by='row') has rows")
    if plan.rest:
        raise DataError(
            f"no independent groups: {', '.join(names)} are crossed, or their levels correlated, so that what is left "
            "without a level still depends on it; influence(fit, by=…) leaves out the levels of one factor"
        )
    outermost = fit.schema.groups[plan.chain[-1].terms[0]]
    return outermost.levels.rename(outermost.group)


def _derivatives(fit: Fit, left: _LeftOut) -> Parameters:
    """d(β̂, θ̂, σ̂)/dc of each case weight; a θ that was given does not move."""
    ones = {left.weights: np.ones(len(left.names))}
    return to_numpy(_WEIGHTS(fit.cross_products, ones, fit.estimate.theta, fit.reml, given_theta(fit)))


# Compiled with the rows, whose case weights they take.
_WEIGHTS, _REFITS, _PRODUCTS, _DEVIANCES = (
    jit(f, rows=True) for f in (case_derivatives, without_each, group_products, group_deviances)
)
