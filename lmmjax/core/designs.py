"""estimate_designs(designs) → Estimates: many small data sets, whose X, codes and sizes differ, in one compiled shape.

Rows are padded with multiplicity zero and levels with levels that have no rows, neither of which changes a criterion.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from .batch import MEMORY, Estimates, OfProblem, kept_of, minimise_many
from .chunks import chunk_size, in_chunks, lanes, spread
from .criterion import factorise
from .crossprod import cross_products
from .design import Design, RandomTerm
from .estimate import Estimate, at_minimum, solve
from .plan import Plan, make_plan, parents_of
from .start import column_scale

ROUND = 8  # rows and levels are padded to multiples of it, so that other data meet the same compilation


def estimate_designs(
    designs: Sequence[Design],
    reml: bool = True,
    keep: Callable[[Estimate], Any] | OfProblem | None = None,
    memory: int = MEMORY,
    progress: bool = False,
) -> Estimates:
    """Fits each of B designs at its own optimum; the other arguments are those of `estimate_many`.

    designs : NumPy designs with the same columns of X, terms and templates; rows, levels, codes and values may differ.
    Factors are eliminated as nested only where they are nested in every design. In what `keep` is given, u and b have
    zeros for the levels that a design lacks. Raises ValueError where the designs differ in more.
    """
    designs = list(designs)
    _check(designs)
    sizes = _sizes(designs)
    plan = _common_plan(designs, sizes[1])
    q, rest = sum(f.q for f in plan.chain + plan.rest), plan.q_rest + designs[0].p + 1
    bytes_each = 8 * (sizes[0] * (4 + designs[0].p + 2 * len(plan.templates)) + 4 * q * rest + 4 * rest**2)
    size = chunk_size(len(designs), bytes_each, memory)
    width = lanes(sum(f.q for f in plan.chain) * rest, rest)

    def fit(rows: slice) -> Estimates:
        return spread(_solve_chunk, (keep, width), (plan, float(reml)), _stack(designs[rows], sizes, plan), size)

    return in_chunks(fit, len(designs), size, progress)


def _check(designs: list[Design]) -> None:
    if not designs:
        raise ValueError("there are no designs to fit")
    first = designs[0]
    for i, d in enumerate(designs):
        if d.p != first.p:
            raise ValueError(f"design {i} has {d.p} columns of X; design 0 has {first.p}")
        if [t.template for t in d.terms] != [t.template for t in first.terms]:
            raise ValueError(f"design {i} has other random-effects terms or templates than design 0")
        if d.residual is not None:
            raise ValueError(f"design {i} has a residual structure: fit such designs one by one")
        if any(t.level_factor is not None for t in d.terms):
            raise ValueError(f"design {i} has correlated levels: fit such designs one by one")


def _sizes(designs: list[Design]) -> tuple[int, tuple[int, ...]]:
    """Rows, and levels per term, to pad to."""
    levels = zip(*([t.n_levels for t in d.terms] for d in designs), strict=True)
    return _round(max(d.n for d in designs)), tuple(_round(max(n)) for n in levels)


def _round(number: int) -> int:
    return -(-number // ROUND) * ROUND


def _common_plan(designs: list[Design], levels: tuple[int, ...]) -> Plan:
    """The plan of all designs side by side, without what differs between them."""
    terms = []
    for i, (term, n) in enumerate(zip(designs[0].terms, levels, strict=True)):
        codes = np.concatenate([np.asarray(d.terms[i].codes, np.int64) + n * k for k, d in enumerate(designs)])
        terms.append(RandomTerm(None, codes, n * len(designs), term.template))
    plan = make_plan(tuple(terms))
    chain, rest = (tuple(replace(f, n_levels=levels[f.terms[0]]) for f in fs) for fs in (plan.chain, plan.rest))
    return Plan(plan.templates, chain, rest)


def _stack(designs: list[Design], sizes: tuple[int, tuple[int, ...]], plan: Plan):
    """The designs padded and stacked, the multiplicities of their rows, and the plan's parents."""
    n, levels = sizes

    def column(of: Callable[[Design], Any]) -> np.ndarray:
        return np.stack([_pad(np.asarray(of(d)), n) for d in designs])

    def term(i: int) -> RandomTerm:
        x, codes = column(lambda d: d.terms[i].x), column(lambda d: d.terms[i].codes)
        return RandomTerm(x, codes, levels[i], plan.templates[i])

    terms = tuple(map(term, range(len(plan.templates))))
    weights, offset = None, None
    if any(d.weights is not None for d in designs):
        weights = column(lambda d: np.ones(d.n) if d.weights is None else d.weights)
        weights = np.where(weights == 0, 1.0, weights)  # of the padding; weights themselves are positive
    if any(d.offset is not None for d in designs):
        offset = column(lambda d: np.zeros(d.n) if d.offset is None else d.offset)
    stacked = Design(column(lambda d: d.X), column(lambda d: d.y), terms, weights, offset)
    parents = [parents_of(plan.chain, [np.asarray(t.codes) for t in d.terms]) for d in designs]
    return stacked, column(lambda d: np.ones(d.n)), tuple(np.stack(p) for p in zip(*parents, strict=True))


def _pad(a: np.ndarray, n: int) -> np.ndarray:
    return np.concatenate([a, np.zeros((n - len(a), *a.shape[1:]), a.dtype)])


def _solve_chunk(shared, batch, count, keep, width: int) -> Estimates:
    plan, reml = shared

    def reduced(design: Design, rows, parents):
        whole = cross_products(design, replace(plan, parents=parents), orthonormal=True)
        return whole.with_case_weights(rows=rows).without_rows()

    cps = jax.vmap(reduced)(*batch)
    if not plan.templates:
        return jax.vmap(lambda cp: kept_of(solve(cp, reml, None, None), cp, keep))(cps)
    at = minimise_many(lambda cp: cp, cps, count[0], reml, width)

    def read(cp, at):
        return kept_of(at_minimum(at._replace(extra=factorise(at.x, cp)), column_scale(cp), cp, reml), cp, keep)

    return jax.lax.map(lambda a: read(*a), (cps, at), batch_size=None if width == 1 else width)
