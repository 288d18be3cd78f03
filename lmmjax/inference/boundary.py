"""What a likelihood-ratio test of random terms tests: free directions, and a cone of covariances at their boundary."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from scipy.special import chdtrc

from ..core.covariance import Template
from ..core.information import variance_information
from ..errors import DataError
from ..fit import Fit
from ..refitting import key_of
from .chibar import closed_weights, coordinates, simulate, size, tail
from .nesting import Placed, Undetermined, placed

SINGULAR = 1e-10  # reciprocal condition number of an information matrix, scaled to a diagonal of ones


class Tested(NamedTuple):
    """What the null holds at zero.

    blocks : sizes of the matrices that must stay positive semi-definite. constraints : (k, m) their coordinates (see
    `chibar`) from the entries of the larger model's covariances. free : other parameters, without a bound.
    """

    blocks: tuple[int, ...]
    constraints: np.ndarray
    free: int


class Null(NamedTuple):
    """A p-value, and the mixture it is from: weights by degrees of freedom. p_se, draws : where it was simulated."""

    p: float
    weights: pd.Series
    p_se: float | None = None
    draws: np.ndarray | None = None


def boundary_test(statistic: float, null: Fit, alt: Fit, reml: bool, exact: bool, n: int, seed: Any) -> Null:
    """The p-value of a likelihood ratio from its limit at the boundary (see `chibar`).

    exact : take closed-form weights where there are some. Raises DataError where the models are not nested, and
    Undetermined where the limit is not known.
    """
    where = placed(null, alt)
    test = _tested(null, alt, where)
    k = size(test.blocks)
    if not k:
        return Null(float(chdtrc(test.free, statistic)), pd.Series([1.0], [test.free]))
    w = _covariance(null, alt, where, test, reml) if k > 1 else np.ones((1, 1))
    weights = closed_weights(test.blocks, w) if exact else None
    by_df = test.free + np.arange(k + 1)
    if weights is not None:
        return Null(tail(statistic, weights, test.free), pd.Series(weights, by_df))
    normals = np.asarray(jax.random.normal(key_of(seed), (n, k + test.free), float))
    limit = simulate(test.blocks, w, test.free, normals)
    p, p_se = limit.tail(statistic)
    return Null(p, pd.Series(limit.weights, by_df), p_se, limit.draws)


def _tested(null: Fit, alt: Fit, where: Sequence[Placed]) -> Tested:
    """Of a term's Σ, positive semi-definite, the null fills M Σ₀ Mᵀ, and it is taken to fill it with full rank.

    Directions S from there stay in the cone where NᵀSN does, N spanning what is orthogonal to M.
    """
    slices, blocks, rows = alt.cross_products.plan.theta_slices(), [], []
    for i, (term, columns) in enumerate(zip(alt.design.terms, slices, strict=True)):
        inside = [p.columns for p in where if p.large == i]
        if not term.template.filled:
            if not inside:
                text = f"{alt.schema.groups[i].text} has parameters that mean nothing without its variance"
                raise Undetermined(f"the limit of the likelihood ratio is not known: {text}; use bootstrap_lrt()")
            continue
        for n in _complements(term.template, term.x, inside):
            of_term = coordinates(n.T @ term.template.fn.entries @ n).T
            blocks.append(n.shape[1])
            rows.append(np.zeros((len(of_term), alt.design.n_theta)))
            rows[-1][:, columns] = of_term
    constraints = np.concatenate(rows) if rows else np.zeros((0, alt.design.n_theta))
    free = alt.df - null.df - len(constraints)
    if free < 0:
        raise Undetermined(f"the random terms of {null.schema.formula!r} overlap: their variances are not identified")
    return Tested(tuple(blocks), constraints, free)


def _complements(template: Template, x: np.ndarray, inside: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Each N, (p, p_N), of a term of which the null has the columns M `inside`, (p, p₀) each."""
    filled = np.concatenate([np.zeros((template.p, 0)), *inside], 1)
    if template.is_diagonal:
        return [np.eye(template.p)[:, [j]] for j in np.flatnonzero(~filled.any(1))]
    scale = np.sqrt(np.mean(x**2, 0))  # ranks in the units of the columns
    left, values, _ = np.linalg.svd(scale[:, None] * filled)
    rank = int(np.sum(values > 1e-7 * values.max(initial=0)))
    return [scale[:, None] * left[:, rank:]] if rank < template.p else []


def _covariance(null: Fit, alt: Fit, where: Sequence[Placed], test: Tested, reml: bool) -> np.ndarray:
    """(k, k) W up to a factor: of the estimated constraints, σ² and all that is free estimated too."""
    if not all(t.template.filled for t in alt.design.terms):
        text = "only full and diagonal covariances have an information in the variances"
        raise Undetermined(f"the limit of the likelihood ratio is not known: {text}; use bootstrap_lrt()")
    theta = _embedded(null, alt, where)
    information = np.asarray(variance_information(theta, 1.0, alt.cross_products, reml, expected=True))
    scale = np.sqrt(np.diagonal(information))
    scaled = information / np.outer(scale, scale)
    if not np.linalg.cond(scaled) < 1 / SINGULAR:
        raise DataError(f"the variances of {alt.schema.formula!r} are not identified under the smaller model")
    onto = np.pad(test.constraints, ((0, 0), (0, 1))) / scale
    return onto @ np.linalg.solve(scaled, onto.T)


def _embedded(null: Fit, alt: Fit, where: Sequence[Placed]) -> np.ndarray:
    """(m,) θ of the larger model that gives the smaller one's covariances."""
    parts = []
    for i, term in enumerate(alt.design.terms):
        turned = [p.columns @ null.templates[p.small] for p in where if p.large == i]
        if term.template.is_diagonal:
            t = np.diag(np.sqrt(sum((np.sum(a**2, 1) for a in turned), np.zeros(term.p))))
        else:
            t = np.asarray(np.linalg.qr(np.concatenate([np.zeros((term.p, term.p)), *turned], 1).T, mode="r")).T
        parts.append(t[term.template.fn.indices])
    return np.concatenate(parts)
