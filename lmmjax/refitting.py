"""A fitted model with another response, and responses simulated from it."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from .core.batch import Estimates, estimate_many
from .core.optimize import FIXED
from .core.simulate import simulate as simulate_responses
from .errors import DataError
from .fit import Fit, fit_cross_products
from .guard import check_response
from .precision import in_float64


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
    theta = fit.theta if int(fit.estimate.status) == FIXED else None
    design = fit.design.replace(y=y)
    return fit_cross_products(fit.schema, design, fit.cross_products.with_response(y), fit.reml, theta)


@dataclass(frozen=True, eq=False)
class BatchFit:
    """Fits of one model to B responses: `estimates` (arrays: see `core.Estimates`) of `fit`'s model."""

    fit: Fit
    responses: Any
    estimates: Estimates

    @property
    def theta(self) -> np.ndarray:
        """(B, m) relative covariance parameters."""
        return self.estimates.theta

    @property
    def beta(self) -> np.ndarray:
        """(B, p) fixed effects."""
        return self.estimates.beta

    @property
    def sigma(self) -> np.ndarray:
        """(B,) residual standard deviations."""
        return self.estimates.sigma

    @property
    def criterion(self) -> np.ndarray:
        """(B,) REML criteria or ML deviances."""
        return self.estimates.criterion

    @property
    def status(self) -> np.ndarray:
        """(B,) indices of `core.STATUS`."""
        return self.estimates.status


@in_float64
def refit_many(fit: Fit, Y: Any, keep: Any = None, memory: int = 2**28, progress: bool = False) -> BatchFit:
    """The model of `fit` refitted to every row of Y, (B, n). Arguments as in `core.estimate_many`."""
    return BatchFit(fit, Y, estimate_many(fit.cross_products, Y, fit.reml, keep, memory, progress))


@in_float64
def simulate(fit: Fit, n: int = 1, seed: Any = 0, use_u: bool = False) -> np.ndarray:
    """(n, rows) responses drawn from the fitted model.

    seed : an int or a JAX key; replicate i of a seed is the same whatever n is. use_u : keep the estimated random
    effects instead of drawing new ones.
    """
    if not isinstance(seed, int | np.integer | jax.Array):
        raise TypeError(f"seed={seed!r}: give an int or a JAX key")
    key = jax.random.key(seed) if isinstance(seed, int | np.integer) else seed
    e = fit.estimate
    return np.asarray(simulate_responses(fit.design, e.theta, e.beta, e.sigma, key, n, e.b if use_u else None))
