"""Mixtures of χ² (chi-bar-square): the limit of likelihood ratios where the null has variances of zero.

Around the null, likelihoods are those of a normal z in the parameters' tangent space, in the metric of the information
(Self & Liang 1987; Shapiro 1988). What is tested splits into `free` directions without a bound and a cone K, a product
of cones of positive semi-definite matrices (of 1 × 1 ones: half-lines). The likelihood ratio becomes

    |y|² + |P c|²,     y ~ N(0, I) in `free` dimensions,  c ~ N(0, W) in the k dimensions of K,

with P the projection on K in the metric W⁻¹. Its distribution is Σⱼ wⱼ χ² on free + j degrees of freedom, j = 0 … k.
A symmetric matrix S has the coordinates (Sᵢⱼ√2 for i > j, Sᵢᵢ), column by column of its lower triangle.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import betaln, chdtrc

STEPS = 2000  # of the projection, at most
SETTLED = 1e-8  # change of a step, in standard deviations
ANGLES = 4096  # of the quadrature over the boundary of the cone of 2 × 2 matrices
SWEEPS = 500  # of the EM algorithm for the weights
EDGE = 1e-12  # cosines nearer to 0 or 1 count as that


class Simulated(NamedTuple):
    """Draws of the limit. draws : (n,) of the statistic. shares : (n,) its ratio to |y|² + |c|². dimension : free + k.

    weights : (k + 1,), as `closed_weights`, estimated from the draws.
    """

    draws: np.ndarray
    shares: np.ndarray
    dimension: int
    weights: np.ndarray

    def tail(self, statistic: float) -> tuple[float, float]:
        """P(draw ≥ statistic) and its Monte Carlo standard error.

        The length of (y, c) is independent of its direction, so that each direction gives a probability, not a count.
        """
        if statistic <= 0:
            return 1.0, 0.0
        with np.errstate(divide="ignore"):
            each = chdtrc(self.dimension, statistic / self.shares)
        return float(each.mean()), float(each.std() / np.sqrt(len(each)))


def tail(statistic: float, weights: Sequence[float] | np.ndarray, free: int) -> float:
    """P(Σⱼ wⱼ χ² on free + j degrees of freedom ≥ statistic)."""
    if statistic <= 0:
        return 1.0
    return float(sum(w * chdtrc(free + j, statistic) for j, w in enumerate(weights) if free + j))


def size(blocks: Sequence[int]) -> int:
    """k, the dimension of the product of cones of p × p matrices, p in `blocks`."""
    return sum(p * (p + 1) // 2 for p in blocks)


def closed_weights(blocks: Sequence[int], w: np.ndarray) -> np.ndarray | None:
    """(k + 1,) weights of a cone in up to three dimensions, or None for more.

    Of three, two follow from the shares of c in K and in its polar cone, as weights of even and of odd dimensions add
    to one half each (Shapiro 1988).
    """
    k = size(blocks)
    if k > 3:
        return None
    w = _standardised(blocks, w) if k else w
    inside, polar = _inside(blocks, w), _inside(blocks, np.linalg.inv(w))
    return np.array([[1.0], [polar, inside], [polar, 0.5, inside], [polar, 0.5 - inside, 0.5 - polar, inside]][k])


def _inside(blocks: Sequence[int], w: np.ndarray) -> float:
    """P(c ∈ K), up to three dimensions."""
    if 2 in blocks:
        return _inside_matrices(w)
    correlation = w / np.sqrt(np.outer(np.diagonal(w), np.diagonal(w)))
    pairs = np.arcsin(np.clip(correlation[np.triu_indices(len(w), 1)], -1, 1))
    return 0.5 ** len(w) * (1 + 2 / np.pi * pairs.sum())  # Plackett 1954


def _inside_matrices(w: np.ndarray) -> float:
    """P(c is positive semi-definite), 2 × 2: the solid angle within the rays vvᵀ over 4π.

    Along rays r(t) of unit length around an axis a in the cone it is ∮ a·(r × r')/(1 + a·r) dt.
    """
    t = np.pi * np.arange(ANGLES) / ANGLES
    double = np.stack([1 + np.cos(2 * t), np.sqrt(2) * np.sin(2 * t), 1 - np.cos(2 * t)])
    slope = np.stack([-np.sin(2 * t), np.sqrt(2) * np.cos(2 * t), np.sin(2 * t)])
    lower = np.linalg.cholesky(w)
    axis, rays, slopes = (np.linalg.solve(lower, a).T for a in (np.array([1.0, 0, 1]), double, slope))
    axis, lengths = axis / np.linalg.norm(axis), np.linalg.norm(rays, axis=1)
    turned = 2 * np.cross(rays, slopes) @ axis / lengths**2
    return float(abs(np.sum(turned / (1 + rays @ axis / lengths))) / ANGLES / 4)


def simulate(blocks: Sequence[int], w: np.ndarray, free: int, normals: np.ndarray) -> Simulated:
    """The limit by projection of draws. normals : (n, k + free) standard normal ones."""
    k = size(blocks)
    w = _standardised(blocks, w)
    y2 = np.sum(normals[:, k:] ** 2, 1)
    lower = np.linalg.cholesky(w)
    near = np.linalg.solve(lower, project(normals[:, :k] @ lower.T, w, blocks).T).T
    on_cone, all_of_c = np.sum(near**2, 1), np.sum(normals[:, :k] ** 2, 1)
    weights = _mixed(on_cone / all_of_c, k)
    return Simulated(on_cone + y2, (on_cone + y2) / (all_of_c + y2), k + free, weights)


def project(c: np.ndarray, w: np.ndarray, blocks: Sequence[int]) -> np.ndarray:
    """(n, k) the nearest points of K to c (n, k) in the metric W⁻¹.

    Accelerated projected gradients, restarted where they turn back (O'Donoghue & Candès 2015); rows that have settled
    leave.
    """
    metric = np.linalg.inv(w)
    step = 1 / np.linalg.eigvalsh(metric)[-1]
    out = _clipped(c, blocks)
    rows, x, ahead, t = np.arange(len(c)), out, out, np.ones((len(c), 1))
    for _ in range(STEPS):
        new = _clipped(ahead - step * (ahead - c[rows]) @ metric, blocks)
        back = np.sum((ahead - new) * (new - x), 1, keepdims=True) > 0
        grown = np.where(back, 1, (1 + np.sqrt(1 + 4 * t**2)) / 2)
        ahead = new + np.where(back, 0, (t - 1) / grown) * (new - x)
        moving = np.abs(new - x).max(1) > SETTLED
        out[rows] = new
        rows, x, ahead, t = rows[moving], new[moving], ahead[moving], grown[moving]
        if not len(rows):
            break
    return out


def _clipped(c: np.ndarray, blocks: Sequence[int]) -> np.ndarray:
    """The nearest points of K in the metric of the identity: negative eigenvalues become zero."""
    out, start = np.empty_like(c), 0
    for p in blocks:
        part = slice(start, start + p * (p + 1) // 2)
        if p == 1:
            out[:, part] = np.maximum(c[:, part], 0)
        else:
            values, vectors = np.linalg.eigh(matrices(c[:, part], p))
            out[:, part] = coordinates((vectors * np.maximum(values, 0)[:, None]) @ vectors.swapaxes(1, 2))
        start = part.stop
    return out


def coordinates(s: np.ndarray) -> np.ndarray:
    """(…, p(p + 1)/2) of symmetric matrices (…, p, p)."""
    cols, rows = np.triu_indices(s.shape[-1])
    return s[..., rows, cols] * np.where(rows == cols, 1, np.sqrt(2))


def matrices(c: np.ndarray, p: int) -> np.ndarray:
    """The inverse of `coordinates`."""
    cols, rows = np.triu_indices(p)
    out = np.empty((*c.shape[:-1], p, p))
    out[..., rows, cols] = out[..., cols, rows] = c / np.where(rows == cols, 1, np.sqrt(2))
    return out


def _standardised(blocks: Sequence[int], w: np.ndarray) -> np.ndarray:
    """W after congruences S → GSGᵀ, which map the cones to themselves, that bring it near a multiple of the identity.

    With G = B^−½: B is the fixed point of 2 E[C B⁻¹ C]/(p + 1), which is A where the covariance of C is that of A ⊗ A.
    """
    turn, start = np.zeros_like(w), 0
    for p in blocks:
        part = slice(start, start + p * (p + 1) // 2)
        basis = matrices(np.eye(part.stop - start), p)
        b = np.diag(np.sqrt(np.diagonal(np.einsum("aij,ab,bjl->il", basis, w[part, part], basis))))
        for _ in range(20):
            b = 0.5 * b + np.einsum("aij,jk,ab,bkl->il", basis, np.linalg.inv(b), w[part, part], basis) / (p + 1)
        g = np.linalg.inv(np.linalg.cholesky(b))
        turn[part, part] = coordinates(g @ basis @ g.T).T
        start = part.stop
    return turn @ w @ turn.T


def _mixed(cosines: np.ndarray, k: int) -> np.ndarray:
    """(k + 1,) weights from squared cosines |Pc|²/|c|², (n,), by maximum likelihood (EM).

    Given the dimension j they are Beta(j/2, (k − j)/2), with 0 and k at the ends; weights of even and of odd j add to
    one half each.
    """
    low, high = cosines < EDGE, cosines > 1 - EDGE
    a = np.arange(1, k) / 2
    x = np.where(low | high, 0.5, cosines)[:, None]
    inner = np.exp((a - 1) * np.log(x) + (k / 2 - a - 1) * np.log1p(-x) - betaln(a, k / 2 - a))
    density = np.column_stack([low, np.where((low | high)[:, None], 0, inner), high])
    weights = np.full(k + 1, 1 / (k + 1))
    for _ in range(SWEEPS):
        weights = np.mean(weights * density / (density @ weights)[:, None], 0)
        for parity in (weights[::2], weights[1::2]):
            parity *= 0.5 / parity.sum()
    return weights
