"""Two crossed scalar terms, many responses: eigendecompositions at a few θ₁, exact in θ₂, and interpolation between.

X is projected out, A = ZᵀP_X Z. At a given λ₁ = θ₁² the first factor is eliminated and the rest diagonalised,
S(λ₁) = A₂₂ − A₂₁(A₁₁ + 1/λ₁)⁻¹A₁₂ = QσQᵀ, so that for every response

    log|L|² = Σ log(1 + λ₁a) + Σ log(1 + λ₂d),    r² = r₁ − Σ λ₂w²/(1 + λ₂σ),    w = Qᵀ(what is left of ZᵀP_X y)

(d = σ for REML; for ML a and d come from ZᵀZ itself). All but the first sum is smooth and bounded in τ = λ₁c/(1 + λ₁c):
a polynomial through Chebyshev points. The optimum that it finds is checked against the exact criterion by the caller.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from numpy.polynomial import chebyshev

from .criterion import residual_df
from .crossprod import CrossProducts
from .products import Response

NODES = 20
LARGEST = 0.995  # τ of the last node
MOST_LEVELS = (1500, 300)  # of the first factor and of the second
WORTH = 32  # levels of the second factor from which factorising for each response is dearer


class Surface(NamedTuple):
    """What all responses share; K nodes.

    first, second : (q₁ + q₂ + p, q₁) and (K, q₁ + q₂ + p, q₂), from [Z₁, Z₂, X]ᵀy to η and w. damped : (K, q₁) of r₁.
    inverse : (p, p) (XᵀX)⁻¹. exact : (q₁,) the a. sigma, dets : (K, q₂). basis : (3, K, K), from Chebyshev polynomials
    to the nodes' Lagrange polynomials and their derivatives. centre : c. order : which θ is which factor's.
    """

    first: Any
    second: Any
    damped: Any
    inverse: Any
    exact: Any
    sigma: Any
    dets: Any
    basis: Any
    centre: Any
    nu: Any
    constant: Any
    order: Any


class Reduced(NamedTuple):
    """A response: within (K,) r₁ and squares (K, q₂) w² at the nodes."""

    within: Any
    squares: Any


def applies(cp: CrossProducts) -> bool:
    """Whether the model has two crossed scalar terms of sizes for which this pays."""
    plan = cp.plan
    if (
        [t.p for t in plan.templates] != [1, 1]
        or not plan.filled.all()
        or len(plan.chain) != 1
        or not plan.dense_border
    ):
        return False
    q1, q2 = plan.chain[0].n_levels, plan.rest[0].n_levels
    return q1 <= MOST_LEVELS[0] and WORTH <= q2 <= MOST_LEVELS[1] and cp.stages[0].multiplicity is None


def surface(cp: CrossProducts, reml: bool) -> Surface:
    """The shared decompositions, on the host."""
    q1, q2, p = cp.plan.chain[0].n_levels, cp.plan.rest[0].n_levels, cp.p
    border, gram = cp.stages[0].border[:, 0], cp.stages[0].gram[:, 0, 0]
    whole = np.block([[np.diag(gram), border], [border.T, cp.dense]])  # of [Z₁, Z₂, X]
    x = slice(q1 + q2, None)
    inverse = np.linalg.inv(whole[x, x])
    out = np.eye(q1 + q2 + p)[:, : q1 + q2]  # P_X, from products with y
    out[x] = -inverse @ whole[x, : q1 + q2]
    a = whole[: q1 + q2] @ out
    values, u = np.linalg.eigh(a[:q1, :q1])
    values = np.maximum(values, 0)
    b = a[q1:, :q1] @ u
    points = chebyshev.chebpts1(NODES)
    tau, centre = 0.5 * LARGEST * (1 + points), np.mean(gram)
    lam = tau / (1 - tau) / centre
    damped = lam[:, None] / (1 + lam[:, None] * values)
    sigma, q = np.linalg.eigh(a[q1:, q1:] - (b * damped[:, None]) @ b.T)
    second = out[:, q1:] @ q - out[:, :q1] @ u @ (damped[:, :, None] * (b.T @ q))
    dets = sigma
    if not reml:
        plain = lam[:, None] / (1 + lam[:, None] * gram)
        dets = np.linalg.eigvalsh(whole[q1:-p, q1:-p] - (border[:, :q2].T * plain[:, None]) @ border[:, :q2])
    lagrange = np.linalg.inv(chebyshev.chebvander(points, NODES - 1)).T  # (K nodes, K polynomials)
    basis = [np.stack([_pad(chebyshev.chebder(c, k)) for c in lagrange], 1) for k in range(3)]
    nu = float(residual_df(cp, reml))
    log_x = np.linalg.slogdet(whole[x, x])[1] + 2 * np.sum(np.log(abs(np.diagonal(cp.basis))))
    constant = reml * log_x - float(cp.log_weights) + nu * (1 + np.log(2 * np.pi / nu))
    return Surface(
        first=out[:, :q1] @ u,
        second=second,
        damped=damped,
        inverse=inverse,
        exact=values if reml else gram,
        sigma=np.maximum(sigma, 0),
        dets=np.maximum(dets, 0),
        basis=np.stack(basis),
        centre=centre,
        nu=nu,
        constant=constant,
        order=np.array([cp.plan.chain[0].terms[0], cp.plan.rest[0].terms[0]], np.int32),
    )


def _pad(coefficients: np.ndarray) -> np.ndarray:
    return np.append(coefficients, np.zeros(NODES - len(coefficients)))


def reduce(responses: Response, s: Surface, p: int) -> Reduced:
    """Responses with a leading axis B as the surface sees them, (B, …)."""
    products = jnp.concatenate([responses.zy[0][..., 0], responses.dense], -1)  # [Z₁, Z₂, X]ᵀy
    xy = products[:, -p:]
    total = responses.yy - jnp.sum(xy @ s.inverse * xy, -1)
    within = total[:, None] - (products @ s.first) ** 2 @ s.damped.T
    left = products @ jnp.moveaxis(s.second, 0, 1).reshape(products.shape[1], -1)
    return Reduced(within, left.reshape(len(left), *s.sigma.shape) ** 2)


def evaluation(s: Surface, y: Reduced, scale):
    """x = scale·θ → (criterion, gradient (2,), Hessian (2, 2), None) of the interpolated criterion."""

    def evaluate(x):
        root = (x / scale)[s.order]
        lam = root**2
        first, other = _of_first(lam[0], s), _of_second(lam[1], s, y)
        weights, change = _lagrange(lam[0], s)
        w0, w1, w2 = weights
        d1 = w1 * change[0]
        d11 = w2 * change[0] ** 2 + w1 * change[1]
        value = s.constant + first[0] + w0 @ other[0]
        slope = jnp.stack([first[1] + d1 @ other[0], w0 @ other[1]])
        bend = jnp.stack([first[2] + d11 @ other[0], d1 @ other[1], d1 @ other[1], w0 @ other[2]]).reshape(2, 2)
        gradient = 2 * root * slope
        hessian = 4 * root * root[:, None] * bend + 2 * jnp.diag(slope)
        back = jnp.argsort(s.order)
        return value, (gradient / scale[s.order])[back], _by(hessian, scale[s.order])[back][:, back], None

    return evaluate


def _by(hessian, scale):
    return hessian / scale / scale[:, None]


def _of_first(lam, s: Surface):
    t = s.exact / (1 + lam * s.exact)
    return jnp.sum(jnp.log1p(lam * s.exact)), jnp.sum(t), -jnp.sum(t * t)


def _of_second(lam, s: Surface, y: Reduced):
    """At every node the rest of the criterion and its derivatives in λ₂, (K,) each."""
    t, damp = s.dets / (1 + lam * s.dets), 1 / (1 + lam * s.sigma)
    r = y.within - lam * jnp.sum(y.squares * damp, -1)
    dr = -jnp.sum(y.squares * damp**2, -1)
    d2r = 2 * jnp.sum(y.squares * damp**3 * s.sigma, -1)
    value = jnp.sum(jnp.log1p(lam * s.dets), -1) + s.nu * jnp.log(r)
    return value, jnp.sum(t, -1) + s.nu * dr / r, -jnp.sum(t * t, -1) + s.nu * (d2r / r - (dr / r) ** 2)


def _lagrange(lam, s: Surface):
    """(3, K) the Lagrange polynomials and two derivatives, and how their argument changes with λ₁, twice."""
    tau = lam * s.centre / (1 + lam * s.centre)
    point = jnp.clip(2 * tau / LARGEST - 1, -1, 1)
    k = jnp.arange(s.basis.shape[-1])
    polynomials = jnp.cos(k * jnp.arccos(point))
    dtau = s.centre / (1 + lam * s.centre) ** 2
    d2tau = -2 * s.centre * dtau / (1 + lam * s.centre)
    return polynomials @ s.basis, (2 / LARGEST * dtau, 2 / LARGEST * d2tau)
