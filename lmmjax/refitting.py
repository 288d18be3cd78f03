"""A fitted model with another response, and responses simulated from it."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np
import pandas as pd

from .core.batch import MEMORY, Estimates, OfProblem, estimate_many
from .core.blockwise import blockwise_pieces
from .core.crossprod import CrossProducts
from .core.estimate import Estimate
from .core.freedom import kenward_roger_pieces, satterthwaite_pieces
from .core.optimize import FIXED
from .core.simulate import simulate as simulate_responses
from .errors import DataError
from .fit import Fit, fit_cross_products
from .guard import check_response
from .inference.df import Freedom, check_method, hypothesis, kenward_roger, satterthwaite
from .precision import in_float64, to_numpy


def refit(fit: Fit, y: Any) -> Fit:
    """The same model fitted to the response y, (n,), in the rows of the fit; a θ that was given stays.

    Raises DataError for a wrong length or values that are not finite.
    """
    y = np.asarray(y, dtype=float)
    if y.shape != (fit.nobs,):
        raise DataError(f"y has shape {y.shape}; the fit uses {fit.nobs} rows")
    if not np.isfinite(y).all():
        raise DataError(f"y is not finite in {int((~np.isfinite(y)).sum())} of its {len(y)} rows")
    check_response(fit.schema.response, y)
    theta = given_theta(fit)
    design = fit.design.replace(y=y)
    return fit_cross_products(fit.schema, design, fit.cross_products.with_response(y), fit.reml, theta)


def key_of(seed: Any) -> jax.Array:
    """A JAX key from an int or a key; to be called inside `float64()`."""
    if not isinstance(seed, int | np.integer | jax.Array):
        raise TypeError(f"seed={seed!r}: give an int or a JAX key")
    return jax.random.key(seed) if isinstance(seed, int | np.integer) else seed


def given_theta(fit: Fit) -> np.ndarray | None:
    """(m + k,) θ and φ where they were given instead of estimated: refits leave them alone."""
    return fit.estimate.theta if not fit.is_lm and int(fit.estimate.status) == FIXED else None


@dataclass(frozen=True, eq=False)
class BatchFit:
    """Fits of one model to B responses. theta (B, m), with φ of a residual structure behind it, beta (B, p), sigma,
    criterion, status (B,): NumPy arrays.

    A response that could not be fitted keeps its place and its `status`, an index of `core.STATUS`.
    """

    fit: Fit
    responses: Any
    estimates: Estimates

    theta = property(lambda self: self.estimates.theta)
    beta = property(lambda self: self.estimates.beta)
    sigma = property(lambda self: self.estimates.sigma)
    criterion = property(lambda self: self.estimates.criterion)
    status = property(lambda self: self.estimates.status)

    converged = property(lambda self: self.estimates.converged)

    @property
    def n_failed(self) -> int:
        """How many responses have no fit that converged."""
        return int(np.sum(~self.converged))

    @cached_property
    @in_float64
    def vcov(self) -> np.ndarray:
        """(B, p, p) covariance of each β̂, at its θ̂ and σ̂."""
        cp, reml = self.fit.cross_products, self.fit.reml
        return estimate_many(cp, self.responses, reml, _vcov, theta=self.theta).kept

    def test(self, L: Any, ddf: str | None = None) -> pd.DataFrame:
        """Wald tests of Lβ = 0 for each response, one row each: statistic, df, ddf, p, p_adjusted.

        L : (p,) or (k, p), names of fixed-effects columns, or constraints on them as in `linear_test`. ddf : None
        refers the statistic to χ² with k degrees of freedom; "residual", "satterthwaite" and "kenward-roger" give F on
        k and ddf, each response with its own. p_adjusted : Benjamini and Hochberg (1995), over the responses whose fit
        converged; the others have none.
        """
        from scipy import stats  # it takes longer to import than most batches

        rows, value = hypothesis(L, self.fit.schema.fixed_names)
        statistic, dendf, p, adjusted = (np.full(len(self.status), np.nan) for _ in range(4))
        ok = self.converged
        for part, free in self.freedoms(ddf):
            found = free.f_test(rows, self.beta[part], value)
            statistic[part] = found.F * (len(rows) if ddf is None else 1)
            dendf[part], p[part] = found.dendf, found.p
        adjusted[ok] = stats.false_discovery_control(p[ok]) if ok.any() else np.nan
        return pd.DataFrame({"statistic": statistic, "df": len(rows), "ddf": dendf, "p": p, "p_adjusted": adjusted})

    def freedoms(self, ddf: str | None) -> Iterator[tuple[np.ndarray, Freedom]]:
        """(places, what `ddf` says of their tests) of the fits that converged, as many as memory allows at once."""
        places = np.flatnonzero(self.converged)
        for part in np.array_split(places, -(-len(places) // self._at_once(ddf)) or 1):
            yield part, self._freedom(part, ddf)

    def _at_once(self, ddf: str | None) -> int:
        """How many fits' pieces of degrees of freedom are in memory together."""
        p, r = self.fit.design.p, self.fit.design.n_theta + 1
        return max(1, MEMORY // (8 * p * p * (r * r if ddf == "kenward-roger" else r)))

    @in_float64
    def _freedom(self, part: np.ndarray, ddf: str | None) -> Freedom:
        """What `ddf` says of the fits whose places are `part`."""
        fit = self.fit
        check_method(ddf, fit.reml)
        if ddf is None:
            return Freedom(self.vcov[part])
        if ddf == "residual" or fit.is_lm or given_theta(fit) is not None:
            rows = np.array([np.sum(~np.isnan(self.responses[i])) for i in part])
            return Freedom(self.vcov[part], rows - float(fit.design.p))
        if ddf == "kenward-roger" and fit.design.residual is not None:
            return kenward_roger(self.sigma[part], self._blockwise(part))
        keep = _SATTERTHWAITE[fit.reml] if ddf == "satterthwaite" else _KENWARD_ROGER
        y, theta = self.responses[part], self.theta[part]
        kept = estimate_many(fit.cross_products, y, fit.reml, keep, theta).kept
        return satterthwaite(*kept) if ddf == "satterthwaite" else kenward_roger(self.sigma[part], kept)

    def _blockwise(self, part: np.ndarray) -> Any:
        """The pieces of fits with a residual structure, one after the other."""
        cp = self.fit.cross_products
        pieces = [to_numpy(blockwise_pieces(self.theta[i], cp)) for i in part]
        return jax.tree.map(lambda *a: np.stack(a), *pieces)

    def __repr__(self) -> str:
        return f"BatchFit: {len(self.status)} responses, {self.n_failed} not converged\n{self.fit.schema.formula}"


def _vcov(estimate: Estimate) -> Any:
    return estimate.vcov


def _satterthwaite(e: Estimate, cp: CrossProducts, reml: bool) -> Any:
    return satterthwaite_pieces(e.theta, e.sigma, cp, reml), e.free


_KENWARD_ROGER = OfProblem(lambda e, cp: kenward_roger_pieces(e.theta, cp))
_SATTERTHWAITE = {reml: OfProblem(partial(_satterthwaite, reml=reml)) for reml in (False, True)}


@in_float64
def refit_many(fit: Fit, Y: Any, keep: Any = None, memory: int = MEMORY, progress: bool = False) -> BatchFit:
    """The model of `fit` fitted to every row of Y, (B, n), each at its own optimum; a θ that was given stays.

    Y : array or memmap of responses to the rows of the fit; NaN marks missing values. The other arguments are those of
    `core.estimate_many`; what `keep` gives is in `.estimates.kept`. Raises DataError where Y does not fit the rows.
    """
    Y = Y if hasattr(Y, "shape") else np.asarray(Y, dtype=float)
    Y = Y.to_numpy() if isinstance(Y, pd.DataFrame) else Y
    if len(Y.shape) != 2 or Y.shape[1] != fit.nobs:
        raise DataError(f"Y has shape {tuple(Y.shape)}; the fit uses {fit.nobs} rows: give (responses, {fit.nobs})")
    given = given_theta(fit)
    theta = None if given is None else np.broadcast_to(given, (len(Y), len(given)))
    return BatchFit(fit, Y, estimate_many(fit.cross_products, Y, fit.reml, keep, theta, memory, progress))


@in_float64
def simulate(fit: Fit, n: int = 1, seed: Any = 0, use_u: bool = False) -> np.ndarray:
    """(n, rows) responses drawn from the fitted model.

    seed : an int or a JAX key; replicate i of a seed is the same whatever n is. use_u : keep the estimated random
    effects instead of drawing new ones.
    """
    key, e = key_of(seed), fit.estimate
    return np.asarray(simulate_responses(fit.design, e.theta, e.beta, e.sigma, key, n, e.b if use_u else None))
