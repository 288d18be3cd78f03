"""One scalar random-effects term, many responses: an eigendecomposition once, then a function of one variable each.

With A = ZᵀP_X Z = U diag(s) Uᵀ, η = UᵀZᵀP_X y, r₀ = yᵀP_X y and λ = θ²,

    r²(λ) = r₀ − Σ λη²/(1 + λs) = r_w + Σ η²/(s(1 + λs)),    log|L|²|R_X|² = log|XᵀX| + Σ log(1 + λs),

and log|L|² = Σ log(1 + λg) with g the diagonal of ZᵀZ. Equal eigenvalues, which balanced designs have, are one.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .compile import jit
from .criterion import residual_df
from .crossprod import CrossProducts
from .optimize import CONVERGED, DIVERGED, FAILED
from .products import Response

MOST_LEVELS = 1500  # up to which the eigendecomposition is cheap
GRID, BEYOND = 32, 8  # cells of λ that are searched for the lowest: with the typical, and with the least eigenvalue
BLOCK = 256  # responses whose minima are searched for together, where nothing else is wanted of them
EQUAL = 1e-13  # eigenvalues this close, relative to the largest, are the same
ZERO = 1e-11


class Curve(NamedTuple):
    """The criterion Σ c log(1 + λd) + ν log r²(λ) + constant of a model.

    values, times : (K,) distinct s and how often each occurs. dets, counts : (K',) the d and c.
    """

    values: Any
    times: Any
    dets: Any
    counts: Any
    constant: Any
    nu: Any


class Spectrum(NamedTuple):
    """What all responses share. inverse : (p, p) (XᵀX)⁻¹. rotation : (ℓ, j) UᵀZᵀ's nonzero directions.

    eigenvalues, members : (j,), (j, K) which of the curve's distinct values each is.
    """

    inverse: Any
    rotation: Any
    eigenvalues: Any
    members: Any
    curve: Curve


def applies(cp: CrossProducts) -> bool:
    """Whether the model has a single scalar term, of few levels and without case weights of levels."""
    plan = cp.plan
    scalar = len(plan.templates) == 1 and plan.templates[0].filled and len(plan.chain) == 1 and plan.chain[0].p == 1
    return scalar and plan.chain[0].n_levels <= MOST_LEVELS and cp.stages[0].multiplicity is None


def spectrum(cp: CrossProducts, reml: bool) -> Spectrum | None:
    """The eigendecomposition, on the host; None where X explains Z. The levels may be correlated: Z stands for ZL."""
    gram, border, dense = _products(cp)
    inverse = np.linalg.inv(dense)
    s, u = np.linalg.eigh(gram - border @ inverse @ border.T)
    kept = s > ZERO * np.max(np.diagonal(gram))
    if not kept.any():
        return None
    s, u = s[kept], u[:, kept]
    values, members = _distinct(s)
    own, which = (values, members) if reml else _distinct(_eigenvalues(gram, cp))
    nu = float(residual_df(cp, reml))
    log_x = np.linalg.slogdet(dense)[1] + 2 * np.sum(np.log(abs(np.diagonal(cp.basis))))
    constant = reml * log_x - float(cp.log_weights) + nu * (1 + np.log(2 * np.pi / nu))
    return Spectrum(inverse, u, s, members, Curve(values, members.sum(0), own, which.sum(0), constant, nu))


def _products(cp: CrossProducts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ZᵀZ (ℓ, ℓ), ZᵀX (ℓ, p) and XᵀX (p, p)."""
    dense, q = np.asarray(cp.dense), cp.plan.q_rest
    if q:
        return dense[:q, :q], dense[:q, q:], dense[q:, q:]
    stage = cp.stages[0]
    return np.diag(stage.gram[:, 0, 0]), np.asarray(stage.border[:, 0]), dense


def _eigenvalues(gram: np.ndarray, cp: CrossProducts) -> np.ndarray:
    """(ℓ,) eigenvalues of ZᵀZ, which is diagonal unless levels are correlated; sorted."""
    return np.linalg.eigvalsh(gram) if cp.plan.q_rest else np.sort(np.diagonal(gram))


def _distinct(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(K,) distinct values of a sorted (j,) array, and the (j, K) indicators of which is which."""
    group = np.cumsum(np.diff(values, prepend=values[0]) > EQUAL * values[-1])
    members = np.eye(group[-1] + 1)[group]
    return values @ members / members.sum(0), members


def minimise(responses: Response, spectrum: Spectrum, cp: CrossProducts):
    """For responses with a leading axis B: θ (B, 1), β (B, p), σ, criterion and status (B,), all at the global optimum.

    The lowest of a grid of λ brackets the optimum, which safeguarded Newton steps then find to rounding.
    """
    w, curve = spectrum, spectrum.curve
    zy, xy = responses.zy[0][..., 0], responses.dense
    solved = xy @ w.inverse
    projected = zy - solved @ cp.stages[0].border[:, 0].T  # ZᵀP_X y
    eta = projected @ w.rotation
    squares = eta**2 @ w.members  # (B, K)
    within = responses.yy - jnp.sum(solved * xy, -1) - squares @ (1 / curve.values)
    lam, iterations = _search(squares / curve.values, within, curve)
    value, slope, _ = _expand(lam, squares / curve.values, within, curve)
    prss = _prss(lam, squares / curve.values, within, curve)[0]
    effects = (lam[:, None] * eta / (1 + lam[:, None] * w.eigenvalues)) @ w.rotation.T
    basis_beta = solved - effects @ cp.stages[0].border[:, 0] @ w.inverse + responses.shift
    beta = jax.scipy.linalg.solve_triangular(cp.basis, basis_beta.T).T
    far = (lam >= _cells(curve)[-1]) & (slope < 0)
    status = jnp.where(jnp.isfinite(value), jnp.where(far, DIVERGED, CONVERGED), FAILED)
    return jnp.sqrt(lam)[:, None], beta, jnp.sqrt(prss / curve.nu), value + curve.constant, status, iterations


def improvements(parts, curve: Curve):
    """(B,) how far the minimum of the criterion lies below its value at λ = 0, not negative.

    parts : (B, K + 1) Σ η²/s over the eigenvalues that are equal, and r_w. For y ~ N(Xβ, σ²I) these are σ² times
    independent χ² variables on `times` and n − p − Σ times degrees of freedom.
    """
    single = len(curve.values) == len(curve.dets) == 1 and np.allclose(curve.values, curve.dets, rtol=ZERO)
    return _improvements_of_one(parts, curve) if single else _improvements(parts, curve)


def _improvements_of_one(parts, curve: Curve):
    """Where s and d are one number, as in balanced designs: 1/(1 + λs) = cr_w/((ν − c)Σ η²/s) is 1/F, but at most 1."""
    (share, within), c = parts.T, curve.counts[0]
    t = np.minimum(1, c * within / ((curve.nu - c) * share))
    return np.maximum(curve.nu * np.log((within + share) / (within + share * t)) + c * np.log(t), 0)


@jit
def _improvements(parts, curve: Curve):
    shares, within = parts[:, :-1], parts[:, -1]
    bracket = _bracket(shares, within, curve)

    def of_block(members):
        own = [a[members] for a in bracket]
        return jax.lax.cond(jnp.all(own[-1]), lambda: 0 * within[members], lambda: below_zero(own, members))

    def below_zero(own, members):
        start, low, high, done = own
        some = shares[members], within[members], curve
        lam, _ = _descend(start, low, high, done, *some)
        return jnp.maximum(_expand(0 * lam, *some)[0] - _expand(lam, *some)[0], 0)

    # Where the minimum is at zero, as half of them are, there is no search: those stand together.
    blocks = jnp.argsort(bracket[-1]).reshape(-1, min(BLOCK, len(within)))
    return jnp.zeros_like(within).at[blocks.ravel()].set(jax.lax.map(of_block, blocks).ravel())


def _cells(w: Curve):
    """(GRID + BEYOND + 1,) values of λ from 0 up: even in λs̄/(1 + λs̄), on to GRID/min s, then very large."""
    share = jnp.arange(GRID) / GRID
    typical = jnp.sum(w.values * w.times) / jnp.sum(w.times)
    inside = share / (1 - share) / typical
    last = inside[-1]
    beyond = last * (GRID / (w.values[0] * last)) ** (jnp.arange(1, BEYOND + 1) / BEYOND)
    return jnp.concatenate([inside, beyond, 1e14 / typical[None]])


def _prss(lam, shares, within, w: Curve):
    """r²(λ) and its first two derivatives; shares : (B, K) Σ η²/s."""
    t = 1 / (1 + lam[:, None] * w.values)
    first, second = shares * t, shares * t * t * w.values
    return within + jnp.sum(first, -1), -jnp.sum(second, -1), 2 * jnp.sum(second * t * w.values, -1)


def _expand(lam, shares, within, w: Curve):
    """The criterion (without its constant) and its first two derivatives in λ, (B,) each."""
    r, dr, d2r = _prss(lam, shares, within, w)
    t = w.dets / (1 + lam[:, None] * w.dets)
    value = jnp.sum(w.counts * jnp.log1p(lam[:, None] * w.dets), -1) + w.nu * jnp.log(r)
    slope = jnp.sum(w.counts * t, -1) + w.nu * dr / r
    return value, slope, -jnp.sum(w.counts * t * t, -1) + w.nu * (d2r / r - (dr / r) ** 2)


def _search(shares, within, w: Curve):
    """(B,) minimising λ and the Newton steps it took."""
    start, low, high, done = _bracket(shares, within, w)
    return _descend(start, low, high, done, shares, within, w)


def _bracket(shares, within, w: Curve):
    """(B,) a start, bounds below and above the lowest minimum on the grid, and whether it is at zero."""
    cells = _cells(w)
    damped = 1 / (1 + cells[:-1, None] * w.values)  # (cells, K)
    logs = jnp.sum(w.counts * jnp.log1p(cells[:-1, None] * w.dets), -1)
    best = jnp.argmin(logs + w.nu * jnp.log(within[:, None] + shares @ damped.T), -1)
    low, high = cells[jnp.maximum(best - 1, 0)], cells[best + 1]
    at_zero = _expand(0 * low, shares, within, w)[1] >= 0
    done = (best == 0) & at_zero | ~jnp.isfinite(within)
    start = jnp.where(done, 0.0, jnp.where(best > 0, cells[best], 0.5 * cells[1]))
    return start, low, high, done


def _descend(start, low, high, done, shares, within, w: Curve):
    """(B,) minimising λ by safeguarded Newton steps, and how many."""

    def unfinished(carry):
        return ~jnp.all(carry[3]) & (carry[4] < 100)

    def step(carry):
        lam, low, high, done, count, used = carry
        _, slope, curvature = _expand(lam, shares, within, w)
        low, high = jnp.where(slope < 0, lam, low), jnp.where(slope < 0, high, lam)
        newton = lam - slope / curvature
        inside = (curvature > 0) & (newton > low) & (newton < high)
        middle = jnp.where(low > 0, jnp.sqrt(low * high), 0.5 * high)
        new = jnp.where(inside, newton, jnp.where(slope == 0, lam, middle))
        small = abs(new - lam) <= 4e-16 * lam
        settled = inside & (slope * slope <= 1e-15 * w.nu * curvature)  # twice the Newton decrement
        return (
            jnp.where(done, lam, new),
            low,
            high,
            done | small | settled,
            count + 1,
            jnp.where(done, used, count + 1),
        )

    zero = jnp.zeros((), int)
    carry = (start, low, high, done, zero, jnp.zeros(low.shape, int))
    lam, _, _, _, _, used = jax.lax.while_loop(unfinished, step, carry)
    return lam, used
