"""Signs and vanished columns of T: what a criterion that is even in each column of T leaves open."""

import jax.numpy as jnp
import numpy as np

from .crossprod import CrossProducts
from .namespace import namespace
from .optimize import Minimum
from .plan import Plan
from .start import column_scale, default_start

SINGULAR = 1e-4  # lme4's tolerance for a vanished standard deviation, relative to σ


def column_norms(x, scale, plan: Plan):
    """(m,) at x = scale·θ the norm of the column of T that each θ belongs to (`Template.reach`); ones for φ."""
    slices = zip(plan.templates, plan.theta_slices(), strict=True)
    norms = [t.reach(x[s] if t.filled else x[s] / scale[s]) for t, s in slices]
    return jnp.concatenate([*norms, jnp.ones(plan.n_phi, x.dtype)])


def moves(theta, scale, plan: Plan):
    """(m,) whether the covariance TTᵀ moves with each θ: not in a column of T that has vanished."""
    return column_norms(theta * scale, scale, plan) >= _rounding(theta)


def off_the_boundary(theta, cp: CrossProducts):
    """(m,) a start near θ, where each column of T that has vanished gets some length, as criteria have no slope there;
    and (m,) which θ those are."""
    scale = column_scale(cp)
    vanished = column_norms(theta * scale, scale, cp.plan) < SINGULAR
    return namespace((theta, cp)).where(vanished, 0.2 * default_start(cp, scale), theta), vanished


def rectified(found: Minimum, scale, plan: Plan, symmetric=None) -> Minimum:
    """The end in θ; a T whose θ are `symmetric`, (m,), by default `plan.filled`, gets a non-negative diagonal."""
    symmetric = plan.filled if symmetric is None else symmetric
    found = _snap(found, scale, plan, symmetric)
    gradient, hessian = found.gradient * scale, found.hessian * scale * scale[:, None]
    return _rectify(found._replace(x=found.x / scale, gradient=gradient, hessian=hessian), plan, symmetric)


def _rectify(at: Minimum, plan: Plan, symmetric) -> Minimum:
    pairs = list(zip(plan.templates, plan.theta_slices(), strict=True))
    signs = [*(t.signs(at.x[s]) for t, s in pairs), jnp.ones(plan.n_phi, at.x.dtype)]
    flip = jnp.where(symmetric, jnp.concatenate(signs), 1)
    of_columns = [jnp.where(symmetric[s][0], t.column_signs(at.x[s]), 1) for t, s in pairs]
    factors = at.extra
    if factors is not None and plan.rest:
        rest = [jnp.tile(jnp.concatenate([of_columns[i] for i in f.terms]), f.n_levels) for f in plan.rest]
        eliminated, inverse = factors
        rows = jnp.concatenate([*rest, jnp.ones(inverse.shape[0] - plan.q_rest, inverse.dtype)])
        factors = eliminated, inverse * rows * rows[:, None]
    hessian = at.hessian * flip * flip[:, None]
    return at._replace(x=at.x * flip, gradient=at.gradient * flip, hessian=hessian, extra=factors)


def _snap(at: Minimum, scale, plan: Plan, symmetric) -> Minimum:
    """Columns of T that have vanished to within rounding become zero: the criterion is even in each of them."""
    vanished = symmetric & (column_norms(at.x, scale, plan) < _rounding(at.x))
    gradient, hessian = jnp.where(vanished, 0, at.gradient), jnp.where(vanished != vanished[:, None], 0, at.hessian)
    return at._replace(x=jnp.where(vanished, 0, at.x), gradient=gradient, hessian=hessian)


def _rounding(x) -> float:
    return np.finfo(x.dtype).eps ** 0.5
