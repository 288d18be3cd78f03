"""Information criteria beyond AIC and BIC: for small samples, and for predictions of the groups at hand."""

import jax
import jax.numpy as jnp
import numpy as np

from ..core.blocks import template_blocks
from ..core.compile import jit
from ..core.criterion import expansion, profile
from ..core.crossprod import CrossProducts
from ..core.effects import linear_predictor
from ..core.information import marginal
from ..core.linalg import log_diagonal
from ..core.optimize import FIXED
from ..fit import Fit
from ..precision import in_float64, to_numpy
from .nesting import check_fits


def aicc(fit: Fit) -> float:
    """AIC + 2k(k + 1)/(n − k − 1), with k = `fit.df` parameters and n rows (Hurvich & Tsai 1989); ∞ where n ≤ k + 1.

    By the likelihood that `fit.aic` takes: the restricted one of a REML fit. Exact for linear models; for mixed ones
    n rows count as independent, which flatters them.
    """
    check_fits((fit,), "aicc", structured=True)
    k, left = fit.df, fit.nobs - fit.df - 1
    return float(fit.aic + 2 * k * (k + 1) / left) if left > 0 else np.inf


@in_float64
def caic(fit: Fit) -> float:
    """Conditional AIC: −2 log p(y | b̂, β̂, σ̂) + 2(ρ + 1), for predictions at the levels in the data.

    ρ = tr ∂ŷ/∂y counts what the fitted values spend: the trace of the hat matrix, plus what θ̂ spends by moving with y
    (Greven & Kneib 2010; a θ on the boundary does not move); σ̂ counts as one. Where θ was given only the hat matrix is
    left (Vaida & Blanchard 2005). For `lm` it is the AIC, as there are no random effects to condition on.
    """
    check_fits((fit,), "caic")
    if not fit.design.terms:
        return float(fit.aic)
    errors, sigma = fit.resid("pearson"), fit.sigma
    density = fit.nobs * np.log(2 * np.pi * sigma**2) - fit.cross_products.log_weights + np.sum(errors**2) / sigma**2
    return float(density + 2 * (_spent(fit) + 1))


def _spent(fit: Fit) -> float:
    """tr ∂ŷ/∂y.

    The criterion sees y through ν log r², and ∂r²/∂y = 2We with e = y − ŷ. Its gradient thus moves with y by
    g'ₐ = −2ν W(fₐ + e ∂ₐr²/r²)/r², fₐ = ∂ŷ/∂θₐ, and θ̂ by −H⁻¹g'.
    """
    e, cp, design = fit.estimate, fit.cross_products, fit.design
    of_hat, prss, beta, b = to_numpy(_slopes(e.theta, cp))
    hat = design.p + float(of_hat)
    free = np.flatnonzero(e.free)
    if int(e.status) == FIXED or not len(free):
        return hat
    bare = design.replace(offset=None)
    root = 1.0 if design.weights is None else np.sqrt(design.weights)
    moved = np.stack([root * linear_predictor(bare, beta[:, a], [term[..., a] for term in b]) for a in free])
    hessian = np.asarray(expansion(e.theta, cp, fit.reml)[2])[np.ix_(free, free)]
    nu, r2 = fit.nobs - fit.reml * design.p, float(e.prss)
    products = moved @ moved.T + np.outer(moved @ fit.resid("pearson"), prss[free] / r2)
    return hat + 2 * nu / r2 * float(np.trace(np.linalg.solve(hessian, products)))


@jit
def _slopes(theta, cp: CrossProducts):
    """tr(P ZDZᵀ), the hat matrix's trace less p; and ∂r² (m,), ∂β (p, m), ∂b per term (ℓ, p_i, m)."""
    theta = jnp.asarray(theta)

    def log_dets(change):
        def own(factor):
            t = template_blocks(theta, cp.plan, (factor,))[0]
            return (t @ t.T)[None]

        log_det, block = marginal(theta, cp, own, change[None])
        return log_det + 2 * jnp.sum(log_diagonal(block)[:-1])

    def outcome(t):
        at = profile(t, cp, True)
        return at.prss, at.beta, at.b

    return jax.grad(log_dets)(jnp.zeros((), theta.dtype)), *jax.jacfwd(outcome)(theta)
