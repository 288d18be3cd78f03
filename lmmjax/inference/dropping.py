"""drop_one(fit): all models that leave one fixed-effects column or term out, refitted by ML in one batch."""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.scipy.linalg import block_diag

from ..core.compile import jit
from ..core.criterion import value_and_gradient
from ..core.crossprod import CrossProducts
from ..core.estimate import SECANT_REST, solve
from ..core.optimize import CONVERGED, FIXED, STATUS, newton
from ..core.rectify import SINGULAR, column_norms, off_the_boundary
from ..core.start import column_scale, curvature_guess
from ..errors import ConvergenceWarning, FormulaError
from ..fit import Fit
from ..formula.hints import listed, suggest
from ..guard import caller, check_independent
from ..precision import in_float64, to_numpy
from .compare import NONE, by_ml, lrt_table, outermost

BATCH = 64  # fits of one compiled batch, or a power of two times it


def drop_one(fit: Fit, columns: Any = None, terms: Any = None) -> pd.DataFrame:
    """All models that leave one fixed-effects column, or one term, out of `fit`: refitted by ML in one batch.

    columns : one or several names of columns of X (see `fit.fixef`). terms : names of fixed-effects terms, each of
    which is dropped with all its columns. By default the terms that no interaction contains, as in R's drop1.
    Returns a row "<none>" for the fit itself and one for each column or term: npar (parameters left), aic, bic, loglik,
    deviance, and of the likelihood-ratio test against the fit chisq, df (columns dropped) and p. A REML fit is compared
    by ML, as in lme4's drop1; `.attrs["note"]` and the heading of the printed table say so.
    The other columns stay as they are. So a term that an interaction contains is dropped from its coding, which with
    sum contrasts gives tests of type III, and columns that the fit left out as dependent stay out.
    Raises FormulaError for unknown names, ValueError for columns together with terms; warns with ConvergenceWarning.
    """
    check_independent(fit.schema, "drop_one()")
    chosen = _chosen(fit, columns, terms)
    full = by_ml(fit)
    kept = np.ones((len(chosen), fit.design.p))
    for row, (_, positions) in zip(kept, chosen, strict=True):
        row[list(positions)] = 0
    deviance, status = _refitted(full, kept)
    names = pd.Index([NONE, *(name for name, _ in chosen)], name="dropped")
    _warn(names[1:], status)
    dropped = np.array([np.nan, *np.sum(kept == 0, 1)])
    chisq = np.array([np.nan, *(deviance - full.deviance)])
    npar = full.df - np.nan_to_num(dropped).astype(int)
    loglik = -0.5 * np.array([full.deviance, *deviance])
    note = "fitted by ML" if full is fit else "REML fit refitted by ML"
    return lrt_table(names, npar, loglik, chisq, dropped, fit.nobs, note)


def _chosen(fit: Fit, columns: Any, terms: Any) -> list[tuple[str, tuple[int, ...]]]:
    """(name, positions in X) of each thing to drop."""
    if columns is not None and terms is not None:
        raise ValueError("drop_one() drops columns or terms, not both in one call")
    by_term = dict(fit.schema.fixed_terms)
    if columns is not None:
        by_column = {name: (i,) for i, name in enumerate(fit.schema.fixed_names)}
        return _looked_up(columns, by_column, f"column of the fixed effects of {fit.schema.formula!r}")
    terms = outermost(fit.schema.fixed) if terms is None else terms
    return _looked_up(terms, by_term, f"fixed-effects term of {fit.schema.formula!r}")


def _looked_up(names: str | Iterable[str], known: Mapping[str, tuple[int, ...]], what: str):
    names = [names] if isinstance(names, str) else list(names)
    for name in names:
        if name not in known:
            raise FormulaError(f"{name!r} is no {what}, which has {listed(known, len(known))}{suggest(name, known)}")
    return [(name, known[name]) for name in names]


@in_float64
def _refitted(full: Fit, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(B,) ML deviances and statuses of the models with the columns of X that kept, (B, p), marks by ones."""
    count, e = len(kept), full.estimate
    if not count:
        return np.zeros(0), np.zeros(0, int)
    size = BATCH * 2 ** int(np.ceil(np.log2(max(1, count / BATCH))))
    padded = np.concatenate([kept, np.zeros((size - count, kept.shape[1]))])
    if int(e.status) == FIXED:
        out = _batch(full.cross_products, padded, count, None, e.theta)
    else:
        out = _batch(full.cross_products, padded, count, *_start(full))
    deviance, status = to_numpy(out)
    return deviance[:count], status[:count]


def _start(full: Fit) -> tuple[np.ndarray, None, np.ndarray | None]:
    """The last arguments of `_batch`, from the optimum of the full model.

    Scalar terms and large ones need no exact Hessians: where only zero can be a saddle, BFGS from a close curvature
    costs a third.
    """
    e, cp = full.estimate, full.cross_products
    start, vanished = map(np.asarray, off_the_boundary(e.theta, cp))
    if cp.plan.q_rest <= SECANT_REST and any(t.p > 1 for t in cp.plan.templates):
        return start, None, None
    if vanished.any():
        return start, None, np.diag(curvature_guess(cp, start) / e.scale**2)
    values, vectors = np.linalg.eigh(e.hessian / np.outer(e.scale, e.scale))
    values = np.maximum(np.abs(values), 1e-4 * np.abs(values).max() + 1e-12)
    return start, None, (vectors * values) @ vectors.T


@jit
def _batch(cp: CrossProducts, kept, count, start, theta, curvature=None):
    """Deviances and statuses of the first `count` submodels, one after the other.

    kept : (B, p) ones and zeros. theta : (m,) fixes θ. curvature : (m, m) guess at `start` (m,), in units where each
    column of Z has root mean square one, for BFGS in the place of exact Hessians.
    """
    beside, scale = _beside_nothing(cp), column_scale(cp)

    def fit(row):
        sub = beside.with_fixed(jnp.concatenate([jnp.diag(row), jnp.diag(1 - row)]))
        if curvature is None:
            e = solve(sub, False, start, theta)
            return e.deviance, e.status

        def slope(x):
            value, gradient = value_and_gradient(x / scale, sub, False)
            return value, gradient / scale, None, None

        def retry(x):
            return (column_norms(x, scale, cp.plan) < SINGULAR).any(), 5 * start * scale

        found = newton(slope, start * scale, retry, curvature)
        return found.value, found.status

    def absent(row):
        return jnp.full((), jnp.nan, row.dtype), jnp.zeros((), int)

    return jax.lax.map(lambda i: jax.lax.cond(i < count, fit, absent, kept[i]), jnp.arange(kept.shape[0]))


def _beside_nothing(cp: CrossProducts) -> CrossProducts:
    """X beside p more columns, orthogonal to everything: in the place of a column of X they change no ML criterion.

    So submodels of any size have one shape.
    """
    identity, y = jnp.eye(cp.p, dtype=cp.dense.dtype), cp.response

    def padded(a):
        return jnp.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, cp.p)])

    return replace(
        cp,
        stages=tuple(replace(s, border=padded(s.border)) for s in cp.stages),
        dense=block_diag(cp.dense, identity),
        response=replace(y, dense=padded(y.dense), shift=padded(y.shift)),
        basis=block_diag(cp.basis, identity),
    )


def _warn(names: Iterable[str], status: np.ndarray) -> None:
    for name, s in zip(names, status, strict=True):
        if s not in (CONVERGED, FIXED):
            text = f"the model without {name!r}: optimisation {STATUS[int(s)]}"
            warnings.warn(text, ConvergenceWarning, stacklevel=caller())
