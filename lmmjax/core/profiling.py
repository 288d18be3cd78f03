"""The ML deviance minimised with one standard deviation, correlation, coefficient or σ held: points of its profile.

The deviance depends on a term's T through TTᵀ only, so it is evaluated in all entries of T, which need not be
triangular. With its columns in the order that puts the held ones first, a = σT = PᵀL has L₁₁ for the standard
deviation of column i, and (L₂₁, L₂₂) = r (ρ, √(1 − ρ²)) for the correlation of columns i and j: each constraint is an
affine chart w ↦ a. Charts are data, so that one compiled function serves every parameter of a model.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import block_diag

from .compile import jit
from .covariance import Template
from .crossprod import CrossProducts
from .information import deviance_expansion
from .linalg import solve_upper
from .namespace import namespace
from .optimize import newton
from .plan import term_slices
from .products import Response
from .rectify import SINGULAR, column_norms
from .start import column_scale

FAR = 5.0  # the diagonal of T at a second start, in units where each column of Z has root mean square one


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Chart:
    """(w, log σ) ↦ (θ, σ), θ = (linear w + offset)/σ^power.

    linear : (M, m). offset, power : (M,), power 1 for entries of T and 0 for parameters of a function. free : (m + 1,)
    which coordinates move, log σ the last. positive : (m + 1,) which must not change their sign. far : (m + 1,) a
    second start. scale : (M,) of the columns of Z.
    """

    linear: Any
    offset: Any
    power: Any
    free: Any
    positive: Any
    far: Any
    scale: Any

    def __call__(self, w):
        """(M + 1,) θ and σ at w (m + 1,)."""
        xp = namespace(w)
        sigma = xp.exp(w[-1])
        return xp.append((self.linear @ w[:-1] + self.offset) / sigma**self.power, sigma)


def squared(cp: CrossProducts) -> CrossProducts:
    """The same cross-products for T of which every entry is a parameter."""
    templates = tuple(Template.square(t.p) if t.is_full else t for t in cp.plan.templates)
    return replace(cp.without_rows(), plan=replace(cp.plan, templates=templates).take(slice(0)))


@jit
def minimise_on(chart: Chart, start, cp: CrossProducts):
    """The least ML deviance on a chart, from `start` (m + 1,); cp is `squared`.

    Returns one array: the deviance, the optimiser's status, w (m + 1,) and β̂ (p,) there.
    """

    def evaluate(w):
        at = chart(w)
        value, slope, curvature, (_, inverse), _ = deviance_expansion(at[:-1], at[-1], cp, False)
        turn = jax.jacfwd(chart)(w)
        gradient = slope @ turn
        hessian = turn.T @ curvature @ turn + jax.hessian(lambda w: slope @ chart(w))(w)
        held = jnp.diag(jnp.where(chart.free, 0.0, 1.0))
        hessian = jnp.where(chart.free & chart.free[:, None], hessian, held)
        solved = -inverse[-1, cp.plan.q_rest : -1] / inverse[-1, -1]
        beta = solve_upper(cp.basis, (solved + cp.response.shift)[:, None])[:, 0]
        outside = jnp.any(chart.positive & (w < 0))
        return jnp.where(outside, np.inf, value), jnp.where(chart.free, gradient, 0), hessian, beta

    def retry(w):
        theta, moved = chart(w)[:-1], jnp.any(chart.linear != 0, 1)
        vanished = column_norms(theta * chart.scale, chart.scale, cp.plan) < SINGULAR
        return jnp.any(vanished & moved), jnp.where(chart.free & (np.arange(len(w)) < len(w) - 1), chart.far, w)

    found = newton(evaluate, start, retry)
    return jnp.concatenate([jnp.stack([found.value, found.status.astype(start.dtype)]), found.x, found.extra])


@dataclass(frozen=True)
class Space:
    """The parameters of a fit as charts; NumPy only.

    templates : those of the fit. cp : its cross-products, `squared`. theta, sigma : its ML estimate, with φ of a
    residual structure behind θ, whose charts are φ itself.
    """

    templates: tuple[Template, ...]
    cp: CrossProducts
    theta: Any
    sigma: float

    def chart(
        self,
        term: int = -1,
        columns: tuple[int, ...] = (),
        value: float = 0.0,
        sigma: bool = False,
        phi: int | None = None,
    ) -> Chart:
        """The chart on which columns (i,) of a term have the standard deviation `value`, columns (i, j) the
        correlation `value`, or φ[phi] is `value`; or on which σ stays where the start has it."""
        axes = [_axes(t, columns if k == term else ()) for k, t in enumerate(self.templates)]
        linear = block_diag(np.zeros((0, 0)), *axes, np.eye(len(self._phi)))
        offset, positive = np.zeros(len(linear)), np.zeros(linear.shape[1] + 1, bool)
        far = np.concatenate([*map(_far, self.templates), self._phi, [0.0]])
        if phi is not None:
            row, column = (n - len(self._phi) + phi for n in linear.shape)
            offset[row], linear[row, column] = value, 0
        if columns:
            first = term_slices(self.templates)[term].start
            _hold(linear, offset, positive, far, first, self.templates[term], columns, value)
        free = np.append((linear != 0).any(0), not sigma)
        return Chart(self._unit[:, None] * linear, offset, self._power, free, positive, far, self._scale)

    def start(self, term: int = -1, columns: tuple[int, ...] = ()) -> np.ndarray:
        """(m + 1,) the ML estimate on the charts of these columns."""
        parts, scale = [np.zeros(0)], self._scale
        of_squares = term_slices(self.cp.plan.templates)
        for k, (t, s, wide) in enumerate(zip(self.templates, term_slices(self.templates), of_squares, strict=True)):
            if not t.is_full:
                parts.append(self.theta[s] * scale[wide])
                continue
            order, (rows, cols) = _order(t.p, columns if k == term else ()), t.fn.indices
            factor = np.linalg.qr(t(self.theta[s])[order].T).R.T
            factor = factor * np.where(np.diag(factor) < 0, -1, 1)
            if k == term and len(columns) == 2:
                factor[1, 0] = np.hypot(*factor[1, :2])
            parts.append(factor[rows, cols] * scale[wide][: t.p][order][rows])
        return np.concatenate([*parts, self._phi, [np.log(self.sigma)]])

    def unit(self, term: int, column: int) -> float:
        """The standard deviation that adds σ² to the mean variance of the rows."""
        return float(self.sigma / self._scale[term_slices(self.cp.plan.templates)[term]][column])

    @cached_property
    def _power(self) -> np.ndarray:
        parts = [np.full(t.n_theta, float(t.filled)) for t in self.cp.plan.templates]
        return np.concatenate([*parts, np.zeros(len(self._phi))])

    @property
    def _phi(self) -> np.ndarray:
        return self.theta[sum(t.n_theta for t in self.templates) :]

    @cached_property
    def _scale(self) -> np.ndarray:
        return column_scale(self.cp)

    @cached_property
    def _unit(self) -> np.ndarray:
        return self.sigma**self._power / self._scale


def _order(p: int, first: tuple[int, ...]) -> np.ndarray:
    return np.array([*first, *(i for i in range(p) if i not in first)])


def _axes(template: Template, first: tuple[int, ...]) -> np.ndarray:
    """(entries of T, coordinates) of a term: those of L, with the columns `first` in its first rows."""
    if not template.is_full:
        return np.eye(template.n_theta)
    p, (rows, cols) = template.p, template.fn.indices
    out = np.zeros((p * p, len(rows)))
    out[cols * p + _order(p, first)[rows], np.arange(len(rows))] = 1
    return out


def _far(template: Template) -> np.ndarray:
    return FAR * np.array(template.start) if template.filled else np.array(template.start)


def _hold(linear, offset, positive, far, first: int, template: Template, columns: tuple[int, ...], value: float):
    """Writes the constraint into a chart whose entries are still zeros and ones."""
    if len(columns) == 1:
        at = first if template.is_full else first + columns[0]
        offset += value * linear[:, at]
        linear[:, at] = 0
    else:
        at, last = first + 1, first + template.p  # (L₂₁, L₂₂) = r (ρ, √(1 − ρ²))
        linear[:, at] = value * linear[:, at] + np.sqrt((1 - value) * (1 + value)) * linear[:, last]
        linear[:, last], far[at] = 0, FAR
        positive[[first, at]] = True


@dataclass(frozen=True)
class HeldColumn:
    """Cross-products in which column j of X has a given coefficient, in the shapes of those where it is free.

    cp : with column j the last one of the basis. In `at(b)` y has moved by its coefficient, and a column that is
    orthogonal to all else, y included, stands in its place.
    """

    cp: CrossProducts
    order: np.ndarray

    @classmethod
    def of(cls, cp: CrossProducts, j: int) -> "HeldColumn":
        """Column j of X, NumPy only."""
        order = np.append(np.delete(np.arange(cp.p), j), j)
        return cls(cp.with_fixed(np.eye(cp.p)[:, order]), order)

    def at(self, value: float) -> CrossProducts:
        """With the coefficient `value`."""
        cp, y, x = self.cp, self.cp.response, self.cp.dense[:, -1]
        shift = np.append(y.shift[:-1], cp.basis[-1, -1] * value)
        back = y.shift[-1] - shift[-1]
        zy = tuple(a + s.border[..., -1] * back for a, s in zip(y.zy, cp.stages, strict=True))
        yy = y.yy + back * (2 * y.dense[-1] + back * x[-1])
        keep = np.arange(len(x)) < len(x) - 1
        dense = np.where(keep, y.dense + x * back, 0)
        stages = tuple(replace(s, border=np.append(s.border[..., :-1], 0 * s.border[..., -1:], -1)) for s in cp.stages)
        alone = np.where(keep & keep[:, None], cp.dense, np.diag(np.where(keep, 0.0, 1.0)))
        return replace(cp, stages=stages, dense=alone, response=Response(zy, dense, yy, shift))

    def coefficients(self, beta: np.ndarray, value: float) -> np.ndarray:
        """(p,) in the order of X."""
        return beta[np.argsort(self.order)]


@dataclass(frozen=True)
class HeldColumnOfRows:
    """The same where rows are whitened for each φ: no column stays orthogonal then, and the held one is left out.

    cp : without column j of X. column : (N,) it, in the positions of the rows.
    """

    cp: CrossProducts
    column: np.ndarray
    j: int

    @classmethod
    def of(cls, cp: CrossProducts, j: int) -> "HeldColumnOfRows":
        """Column j of X, NumPy only."""
        assert cp.unwhitened is not None
        column = cp.unwhitened.rows.X[:, -cp.p :] @ cp.basis[:, j]
        return cls(cp.with_fixed(np.delete(np.eye(cp.p), j, 1)), column, j)

    def at(self, value: float) -> CrossProducts:
        """With the coefficient `value`."""
        y = self.cp.response
        return replace(self.cp, response=replace(y, placed=y.placed - value * self.column))

    def coefficients(self, beta: np.ndarray, value: float) -> np.ndarray:
        """(p,) in the order of X."""
        return np.insert(beta, self.j, value)
