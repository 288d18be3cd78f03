"""A fitted model with another response, and responses simulated from it."""

from typing import Any

import jax
import numpy as np

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
