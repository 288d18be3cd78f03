"""Cases bootstrap and jackknife: fits to the same rows, or levels, counted several times or not at all."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..core.batch import minimise_many
from ..core.chunks import chunk_size, in_chunks, lanes, spread
from ..core.criterion import factorise
from ..core.crossprod import CrossProducts
from ..core.estimate import Estimate, at_minimum, estimate, solve
from ..core.namespace import namespace
from ..core.optimize import FAILED, Minimum
from ..core.products import Rows
from ..core.start import column_scale
from ..errors import DataError
from ..fit import Fit
from ..guard import check_independent
from ..precision import in_float64, to_numpy
from ..refitting import given_theta

DEFICIENT = 1e-10  # eigenvalue of XᵀX, relative to the largest, that says that columns depend on each other


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Layout:
    """Rows by level. order : (n,) rows sorted by level. start, size : (ℓ,) where a level's rows begin, how many."""

    order: Any
    start: Any
    size: Any
    longest: int = field(metadata={"static": True})

    def pick(self, key, levels):
        """A random row of each of `levels`, drawn anew for each."""
        within = jax.random.randint(key, levels.shape, 0, self.size[levels])
        return self.order[self.start[levels] + within]


def case_draws(
    fit: Fit,
    statistic: Callable[[Estimate], Any],
    key: jax.Array,
    n: int,
    scheme: tuple[bool, bool],
    memory: int,
    progress: bool,
) -> tuple[Any, np.ndarray]:
    """The statistic of n resamples, stacked, and the status (n,) of their fits.

    scheme : whether levels, and whether rows within levels, are drawn with replacement. A resample whose X has
    dependent columns has the status FAILED and a statistic of NaN. Raises DataError for other than one grouping factor.
    """
    check_one_factor(fit)
    cp = fit.cross_products
    numbers = fit.design.q * (fit.design.p + 1 + sum(t.p for t in fit.design.terms))
    size = chunk_size(n, 8 * (6 * fit.design.n * (fit.design.p + 2) + 6 * numbers + 8 * fit.design.p**2), memory)
    options = statistic, scheme, lanes(numbers, fit.design.p + 1)
    shared = cp.without_rows(), cp.rows, _layout(fit), key, float(fit.reml), given_theta(fit)

    def solve_some(replicates: slice):
        return spread(_solve_chunk, options, shared, np.arange(replicates.start, replicates.stop), size)

    return in_chunks(solve_some, n, size, progress)


def check_one_factor(fit: Fit) -> None:
    """Raises DataError where the levels of one grouping factor are not the independent units of the data."""
    plan = fit.cross_products.plan
    if len(plan.chain) == 1 and not plan.rest:
        return
    if not fit.design.terms:
        raise DataError("a model without random effects has no levels to resample: use kind='residual'")
    names = list(dict.fromkeys(g.group for g in fit.schema.groups))
    if any(t.level_factor is not None for t in fit.design.terms):
        raise DataError(f"levels with known correlations ({', '.join(names)}) are no independent groups to resample")
    raise DataError(
        f"the cases bootstrap is for one grouping factor; this model has {len(names)} ({', '.join(names)}). Crossed "
        "factors leave no independent groups, and copies of an outer level would share the inner levels nested in it: "
        "use kind='parametric' or 'residual'"
    )


def _layout(fit: Fit) -> Layout:
    codes = fit.design.terms[0].codes
    size = np.bincount(codes, minlength=fit.design.terms[0].n_levels)
    order = np.argsort(codes, kind="stable")
    return Layout(order, np.cumsum(size) - size, size, int(size.max()))


def _solve_chunk(shared, replicates, count, statistic: Callable, scheme: tuple[bool, bool], width: int):
    """(statistic, status) of the replicates numbered (size,)."""
    bare, rows, layout, key, reml, theta = shared
    whole = replace(bare, rows=rows)

    def resampled(i) -> CrossProducts:
        return resample(whole, layout, jax.random.fold_in(key, i), *scheme).without_rows()

    def read(cp: CrossProducts, at: Minimum | None):
        if at is None:
            e = solve(cp, reml, None, theta)
        else:
            e = at_minimum(at._replace(extra=factorise(at.x, cp)), column_scale(cp), cp, reml)
        dependent = deficient(cp)
        values = jax.tree.map(lambda a: jnp.where(dependent, jnp.nan, a), statistic(e))
        return values, jnp.where(dependent, FAILED, e.status)

    cps = jax.vmap(resampled)(replicates)
    at = minimise_many(lambda cp: cp, cps, count[0], reml, width) if theta is None else None
    return jax.vmap(read, in_axes=(0, None if at is None else 0))(cps, at)


def resample(cp: CrossProducts, layout: Layout, key, levels: bool, rows: bool) -> CrossProducts:
    """Levels, rows within their levels, or both, drawn with replacement.

    A level drawn twice is two levels with effects of their own; with `rows` each of the two draws its rows anew.
    """
    n_levels, (level_key, row_key) = layout.size.shape[0], jax.random.split(key)
    drawn = jax.random.randint(level_key, (n_levels,), 0, n_levels)
    if not rows:
        return cp.with_case_weights(levels=jnp.bincount(drawn, length=n_levels).astype(cp.dense.dtype))
    if not levels:
        own = jnp.repeat(jnp.arange(n_levels), layout.size, total_repeat_length=layout.order.shape[0])
        times = jnp.bincount(layout.pick(row_key, own), length=layout.order.shape[0])
        return cp.with_case_weights(rows=times.astype(cp.dense.dtype))
    return _two_stages(cp, layout, row_key, drawn)


def _two_stages(cp: CrossProducts, layout: Layout, key, drawn) -> CrossProducts:
    """Each drawn level becomes a level of its own, with room for as many rows as the longest has."""
    grid = jnp.broadcast_to(drawn[:, None], (drawn.shape[0], layout.longest))
    real = np.arange(layout.longest) < layout.size[grid]
    row, codes = layout.pick(key, grid).ravel(), jnp.repeat(jnp.arange(drawn.shape[0]), layout.longest)
    taken = replace(jax.tree.map(lambda a: a[row], kept_rows(cp)), codes=(codes,))
    return replace(cp, rows=taken).with_case_weights(rows=real.ravel().astype(cp.dense.dtype))


def kept_rows(cp: CrossProducts) -> Rows:
    """The rows of a fit's cross-products, which are never a sum."""
    assert cp.rows is not None
    return cp.rows


def deficient(cp: CrossProducts):
    """Whether XᵀX, in an orthonormal basis of the columns of X, has lost rank under case weights."""
    if not cp.p:
        return False
    values = namespace(cp.dense).linalg.eigvalsh(cp.dense[-cp.p :, -cp.p :])
    return ~(values[0] > DEFICIENT * values[-1])


@in_float64
def jackknife(fit: Fit, statistic: Callable[[Estimate], Any]) -> Any:
    """The statistic of the fits that leave out one unit each, stacked over the units.

    A unit is a level of the grouping factor; of nested factors the outermost, whose levels are independent; of crossed
    ones the largest, which is an approximation; without random effects a row. Units that X needs give NaN.
    """
    check_independent(fit.schema, "the jackknife of kind='bca'")
    cp, value = fit.cross_products, jax.jit(statistic)
    chain = len(cp.plan.chain)
    codes = kept_rows(cp).codes[chain - 1] if chain else np.arange(fit.nobs)
    out = []
    for unit in np.unique(codes):
        without = cp.with_case_weights(rows=(codes != unit).astype(float))
        bad = deficient(without)
        left = value(estimate(without, fit.reml, theta=given_theta(fit)))
        out.append(jax.tree.map(lambda a, bad=bad: np.where(bad, np.nan, a), to_numpy(left)))
    return jax.tree.map(lambda *a: np.stack(a), *out)
