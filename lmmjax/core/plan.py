"""The order in which the random effects are eliminated, read off the grouping factors once per design.

Terms on one grouping factor are one block per level. A chain of factors, each nested in the next, is eliminated level
by level and stays block-diagonal; whatever crosses the chain is left for one dense factorisation.
"""

from dataclasses import dataclass, field, replace
from itertools import pairwise, permutations
from typing import Any

import jax
import numpy as np

from .covariance import Template
from .design import RandomTerm
from .residual import Residual

# A dense rank update costs about 1/50 of a sparse one per entry, and its border must fit in memory.
DENSE_ADVANTAGE = 50
DENSE_BORDER_LIMIT = 2**27


@dataclass(frozen=True)
class Factor:
    """A grouping factor: the positions of its terms in the design, its levels and its columns per level."""

    terms: tuple[int, ...]
    n_levels: int
    p: int

    @property
    def q(self) -> int:
        """Random effects of all its terms."""
        return self.n_levels * self.p


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Crossing:
    """Where the levels of a chain factor meet the columns of the rest, kept sparsely.

    An entry is a (level, rest column) pair that occurs in the data; there are N of them, grouped by rest factor.
    meeting : per rest factor (n,), which (level, rest level) pair each row belongs to.
    level, column : (N,). first, second, cell : all unordered pairs of entries within a level and the row-major cell of
    the q_R × q_R matrix that their product updates, sorted by cell.
    up : (N,) the entry of the next chain factor that this one feeds; None at the end of the chain.
    n_meetings : distinct (level, rest level) pairs per rest factor (static).
    """

    meeting: tuple[Any, ...]
    level: Any
    column: Any
    first: Any
    second: Any
    cell: Any
    up: Any
    n_meetings: tuple[int, ...] = field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Plan:
    """What is eliminated when. Two designs whose plans have equal sizes share every compiled function.

    templates : T(θ) of each term, in the design's order. chain, rest : Factors (all three static).
    parents : for each chain factor but the last, (ℓ,) the level of the next factor that holds each level.
    crossings : a Crossing per chain factor, or () where the rest is empty or kept as a dense border.
    n_phi : parameters of the residual structure, which stand behind θ (static).
    """

    templates: tuple[Template, ...] = field(metadata={"static": True})
    chain: tuple[Factor, ...] = field(metadata={"static": True})
    rest: tuple[Factor, ...] = field(metadata={"static": True})
    parents: tuple[Any, ...] = ()
    crossings: tuple[Crossing, ...] = ()
    n_phi: int = field(default=0, metadata={"static": True})

    @property
    def n_theta(self) -> int:
        """Number of covariance parameters m."""
        return sum(t.n_theta for t in self.templates)

    @property
    def q_rest(self) -> int:
        """Random effects left for the dense factorisation."""
        return sum(f.q for f in self.rest)

    @property
    def dense_border(self) -> bool:
        """Whether the chain meets the rest in a dense border rather than in sparse entries."""
        return bool(self.rest) and not self.crossings

    @property
    def filled(self) -> np.ndarray:
        """(m + k,) whether each θ is an entry of its T, in whose columns a criterion is even; no φ is."""
        return np.concatenate([*(np.full(t.n_theta, t.filled) for t in self.templates), np.zeros(self.n_phi, bool)])

    def take(self, rows) -> "Plan":
        """The plan for a chunk of the rows (a slice or index array), whose cross-products then add to the others'."""
        if not self.crossings:
            return self
        cut = (replace(c, meeting=tuple(m[rows] for m in c.meeting)) for c in self.crossings)
        return replace(self, crossings=tuple(cut))

    def theta_slices(self) -> list[slice]:
        """Which part of θ belongs to each term."""
        return term_slices(self.templates)


def term_slices(templates: tuple[Template, ...]) -> list[slice]:
    """Which part of θ belongs to each template."""
    stops = np.cumsum([0, *(t.n_theta for t in templates)])
    return [slice(int(a), int(b)) for a, b in pairwise(stops)]


def make_plan(terms: tuple[RandomTerm, ...], residual: Residual | None = None) -> Plan:
    """Chooses the elimination order that leaves the smallest dense rest.

    Only codes, level counts and templates are looked at. Several grouping factors need concrete codes (the search runs
    on the host); one factor does not. residual : a factor of which it correlates rows of different
    levels is left for the dense factorisation, as whitening mixes these rows; looked at on the host, too.
    """
    templates, n_phi = tuple(t.template for t in terms), 0 if residual is None else residual.n_phi
    groups = _group_terms(terms)
    mixed = tuple(f for f in groups if _mixes(terms[f.terms[0]], residual))  # blocks of no factor's own
    groups = [f for f in groups if f not in mixed]
    if len(groups) <= 1:
        return Plan(templates, tuple(groups), mixed, n_phi=n_phi)
    codes = {f: np.asarray(terms[f.terms[0]].codes) for f in groups}
    chain = _longest_chain(groups, codes)
    rest = tuple(f for f in groups if f not in chain) + mixed
    parents = parents_of(chain, [np.asarray(t.codes) for t in terms])
    correlated = residual is not None and residual.correlation is not None
    sparse = rest and not mixed and not correlated and not _prefer_dense(chain, rest, codes)
    crossings = _crossings(chain, rest, codes) if sparse else ()
    return Plan(templates, chain, rest, parents, crossings, n_phi)


def parents_of(chain: tuple[Factor, ...], codes: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    """The level of the next chain factor that holds each level; codes : (n,) of each term."""
    return tuple(_parent(codes[a.terms[0]], codes[b.terms[0]], a.n_levels) for a, b in pairwise(chain))


def _group_terms(terms: tuple[RandomTerm, ...]) -> list[Factor]:
    """Terms on one grouping factor become one Factor, whose template is block-diagonal."""
    found: list[list[int]] = []
    for i, term in enumerate(terms):
        for members in found:
            if _same_factor(terms[members[0]], term):
                members.append(i)
                break
        else:
            found.append([i])
    return [Factor(tuple(m), terms[m[0]].n_levels, sum(terms[i].p for i in m)) for m in found]


def _mixes(term: RandomTerm, residual: Residual | None) -> bool:
    """Whether rows of different levels are correlated, by the levels' own correlations or by the residuals'."""
    if term.level_factor is not None or residual is None or residual.correlation is None:
        return term.level_factor is not None
    rows, group = residual.occupied
    return not _nested(group, np.asarray(term.codes)[rows], int(group.max()) + 1)


def _same_factor(a, b) -> bool:
    if a.level_factor is not b.level_factor:
        return False
    return a.codes is b.codes or (a.n_levels == b.n_levels and np.array_equal(a.codes, b.codes))


def _parent(inner: np.ndarray, outer: np.ndarray, n_levels: int) -> np.ndarray:
    """(ℓ_inner,) the outer level of each inner one, which must be unique; levels without rows go to 0."""
    parent = np.zeros(n_levels, np.int32)
    parent[inner] = outer
    return parent


def _nested(inner: np.ndarray, outer: np.ndarray, n_levels: int) -> bool:
    return bool(np.array_equal(_parent(inner, outer, n_levels)[inner], outer))


def _longest_chain(groups: list[Factor], codes: dict[Factor, np.ndarray]) -> tuple[Factor, ...]:
    """The sequence of nested factors with the most columns; the earlier term wins a tie."""
    below = {f: {g for g in groups if g != f and _nested(codes[f], codes[g], f.n_levels)} for f in groups}
    chains = [
        c
        for size in range(1, len(groups) + 1)
        for c in permutations(groups, size)
        if all(b in below[a] for a, b in pairwise(c))
    ]
    return max(chains, key=lambda c: sum(f.q for f in c))


def _prefer_dense(chain: tuple[Factor, ...], rest: tuple[Factor, ...], codes: dict[Factor, np.ndarray]) -> bool:
    q_rest = sum(f.q for f in rest)
    if sum(f.q for f in chain) * q_rest > DENSE_BORDER_LIMIT:
        return False
    met = sum(_meetings_per_level(codes[chain[0]], codes[f], chain[0].n_levels, f) for f in rest)
    return DENSE_ADVANTAGE * float(np.sum(np.square(met, dtype=float))) >= q_rest**2 * chain[0].n_levels


def _meetings_per_level(lead: np.ndarray, other: np.ndarray, n_levels: int, factor: Factor) -> np.ndarray:
    """(ℓ,) how many columns of `factor` each lead level meets."""
    pairs = np.unique(lead.astype(np.int64) * factor.n_levels + other)
    return np.bincount(pairs // factor.n_levels, minlength=n_levels) * factor.p


def _crossings(chain, rest, codes) -> tuple[Crossing, ...]:
    out: list[Crossing] = []
    up_key = None
    for factor in reversed(chain):  # the outer factor first: its entries are what the inner ones feed
        crossing, up_key = _crossing(factor, rest, codes, up_key)
        out.append(crossing)
    return tuple(reversed(out))


def _crossing(factor, rest, codes, outer):
    """One factor's Crossing, and what the next inner factor needs to find its entries: (codes, sorted keys, order)."""
    q_rest = sum(f.q for f in rest)
    offsets = np.cumsum([0, *(f.q for f in rest)])
    meeting, levels, columns = [], [], []
    for r, offset in zip(rest, offsets[:-1], strict=True):
        key = codes[factor].astype(np.int64) * r.n_levels + codes[r]
        met, index = np.unique(key, return_inverse=True)
        meeting.append(index.astype(np.int32))
        levels.append(np.repeat(met // r.n_levels, r.p))
        columns.append((offset + (met % r.n_levels)[:, None] * r.p + np.arange(r.p)).ravel())
    level, column = np.concatenate(levels), np.concatenate(columns)
    first, second, cell = _pairs_within(level, column, q_rest)
    up = None
    if outer is not None:
        parent = _parent(codes[factor], outer["codes"], factor.n_levels)
        up = outer["order"][np.searchsorted(outer["keys"], parent[level].astype(np.int64) * q_rest + column)]
        up = up.astype(np.int32)
    keys = level.astype(np.int64) * q_rest + column
    order = np.argsort(keys)
    inner = {"codes": codes[factor], "keys": keys[order], "order": order}
    sizes = tuple(len(m) // r.p for m, r in zip(levels, rest, strict=True))
    level, column, first, second = (a.astype(np.int32) for a in (level, column, first, second))
    return Crossing(tuple(meeting), level, column, first, second, cell, up, sizes), inner


def _pairs_within(level: np.ndarray, column: np.ndarray, q_rest: int):
    """All pairs (a, b) of entries in one level with column a ≥ column b, sorted by cell = column_a q_R + column_b."""
    order = _stable_order(column, q_rest)
    order = order[_stable_order(level[order], int(level.max()) + 1)]
    counts = np.bincount(level)
    start = np.repeat(np.cumsum(counts) - counts, counts)  # (N,) first entry of the own level
    partners = np.arange(len(order)) - start + 1
    first = np.repeat(np.arange(len(order)), partners)
    second = np.arange(len(first)) - np.repeat(np.cumsum(partners) - partners, partners) + start[first]
    first, second = order[first], order[second]
    by_cell = _stable_order(column[second], q_rest)
    by_cell = by_cell[_stable_order(column[first[by_cell]], q_rest)]
    first, second = first[by_cell], second[by_cell]
    cell = column[first].astype(np.int64) * q_rest + column[second]
    return first, second, cell.astype(np.int32 if q_rest**2 < 2**31 else np.int64)


def _stable_order(keys: np.ndarray, n_keys: int) -> np.ndarray:
    """argsort of small integers; 16 bits make NumPy count instead of compare."""
    return np.argsort(keys.astype(np.uint16) if n_keys <= 2**16 else keys, kind="stable")
