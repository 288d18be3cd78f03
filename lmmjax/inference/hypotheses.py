"""The linear hypotheses of types I, II and III about the terms of a model's fixed part, as rows L of Lβ = 0.

No coding of the factors enters: all is said of X̄, in which every factor has an indicator for each level, and of β in
treatment coding, X_t, as lmerTest does. With X = QR and V = QᵀX̄, a function w of QᵀXβ is wV on the coefficients of X̄,
wV_t on those of X_t, wR on β. A term is contained in another that has its numeric variables and all its factors.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..formula import Schema
from ..formula.matrices import independent_columns

RANK = 1e-8  # singular values below this share of the largest are zero


class _Coding(NamedTuple):
    """of_term : V of each term's columns of X̄, (p, c). treatment : V_t (p, p). owner : (p,) the term of each column."""

    of_term: dict[str, np.ndarray]
    treatment: np.ndarray
    owner: np.ndarray


def hypotheses(schema: Schema, X: np.ndarray, kind: int) -> dict[str, np.ndarray]:
    """L (k, p) of each term but the intercept, by name, with independent rows. X : (n, p).

    kind : 1, each term after those before it; 2, after all that do not contain it; 3, with the terms that contain it
    averaged over their levels, SAS's estimable functions where cells are empty (Goodnight 1976). Terms that the others
    determine are not there.
    """
    if not X.shape[1]:
        return {}
    q, r = np.linalg.qr(X)
    terms = {t.name(): t for t in schema.design_info.terms}
    terms = {name: terms[name] for name, _ in schema.fixed_terms}
    coding = _coding(schema, q, terms)
    containing = {n: [m for m in terms if _contains(schema, terms[m], terms[n])] for n in terms if terms[n].factors}
    make = {1: _sequential, 2: _partial, 3: _averaged}[kind if len(containing) > 1 else 1]  # as lmerTest
    found = {name: make(name, coding, containing) for name in containing if name in coding.owner}
    back = np.linalg.solve(coding.treatment, r)
    return {name: L @ back for name, L in found.items()}


def _contains(schema: Schema, larger: Any, smaller: Any) -> bool:
    numeric = [{f for f in t.factors if not _is_categorical(schema, f)} for t in (larger, smaller)]
    return numeric[0] == numeric[1] and set(smaller.factors) < set(larger.factors)


def _is_categorical(schema: Schema, factor: Any) -> bool:
    return isinstance(schema.rows.memo[factor], pd.Categorical)


def _coding(schema: Schema, q: np.ndarray, terms: dict[str, Any]) -> _Coding:
    made = {name: _indicators(schema, term.factors, len(q)) for name, term in terms.items()}
    of_term = {name: q.T @ columns for name, (columns, _) in made.items()}
    whole = np.concatenate([*of_term.values()], 1)
    first = np.concatenate([is_first for _, is_first in made.values()])
    owner = np.repeat([*terms], [v.shape[1] for v in of_term.values()])
    # Within a term the cells without a first level come first: these are the columns of treatment coding.
    order = np.lexsort([first, np.repeat(np.arange(len(terms)), [v.shape[1] for v in of_term.values()])])
    chosen = np.sort(order[independent_columns(whole[:, order])])
    return _Coding(of_term, whole[:, chosen], owner[chosen])


def _indicators(schema: Schema, factors: Sequence[Any], n: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, c) products of the columns of a term's factors, categories as indicators; (c,) which have a first level."""
    out, first = np.ones((n, 1)), np.zeros(1, bool)
    for factor in factors:
        value = schema.rows.memo[factor]
        if _is_categorical(schema, factor):
            columns, base = np.eye(len(value.categories))[value.codes], np.arange(len(value.categories)) == 0
        else:
            columns = np.asarray(value, float).reshape(n, -1)
            base = np.zeros(columns.shape[1], bool)
        out = (columns[:, :, None] * out[:, None, :]).reshape(n, -1)  # the first factor varies fastest, as in R
        first = (base[:, None] | first).ravel()
    return out, first


def _sequential(name: str, coding: _Coding, containing: dict[str, list[str]]) -> np.ndarray:
    names = list(dict.fromkeys(coding.owner))
    return _after(coding, name, names[: names.index(name)])


def _partial(name: str, coding: _Coding, containing: dict[str, list[str]]) -> np.ndarray:
    if not containing[name]:
        return np.eye(len(coding.owner))[coding.owner == name]
    return _after(coding, name, [m for m in coding.owner if m != name and m not in containing[name]])


def _after(coding: _Coding, name: str, before: Sequence[str]) -> np.ndarray:
    """The term adjusted for those before it, and not for others: rows of a triangular factor, unit on its diagonal."""
    is_before, own = np.isin(coding.owner, before), coding.owner == name
    order = np.lexsort([~own, ~is_before])
    rows = np.linalg.qr(coding.treatment[:, order])[1][is_before.sum() :][: own.sum()]
    out = np.zeros_like(rows)
    out[:, order] = rows / np.diagonal(rows[:, is_before.sum() :])[:, None]
    return out


def _averaged(name: str, coding: _Coding, containing: dict[str, list[str]]) -> np.ndarray:
    """Functions without coefficients on terms that do not contain this one, orthogonal to those of the containing ones
    alone."""
    v, above = coding.of_term, containing[name]
    nothing = np.zeros((len(coding.owner), 0))
    free = _null(np.concatenate([nothing, *(v[m] for m in v if m != name and m not in above)], 1).T)
    own, higher = free @ v[name], free @ np.concatenate([nothing, *(v[m] for m in above)], 1)
    alone = _null(own.T) @ higher
    # Those alone have no coefficients on the term itself.
    chosen = _null(alone @ higher.T) if len(alone) else np.eye(len(free))
    return _echelon(chosen @ free @ coding.treatment, np.linalg.norm(coding.treatment, axis=0))


def _null(a: np.ndarray) -> np.ndarray:
    """(r, c) orthonormal rows x with a x = 0, for a (k, c) whose rows may have any units."""
    lengths = np.linalg.norm(a, axis=1, keepdims=True)
    a = a / np.where(lengths > 0, lengths, 1)
    _, sizes, rows = np.linalg.svd(a, full_matrices=True)
    return rows[int(np.sum(sizes > RANK * sizes.max(initial=0))) :]


def _echelon(L: np.ndarray, units: np.ndarray) -> np.ndarray:
    """The reduced row echelon form of L (k, p): a basis that does not depend on how the span was written.

    units : (p,) of the columns, by which pivots are compared.
    """
    pivots: list[int] = []
    L = L / units
    L = L / np.abs(L).max(initial=RANK)
    for column in range(L.shape[1]):
        row = len(pivots)
        if row == len(L):
            break
        best = row + int(np.argmax(np.abs(L[row:, column])))
        if abs(L[best, column]) <= RANK:
            continue
        L[[row, best]] = L[[best, row]]
        L[row] /= L[row, column]
        others = np.arange(len(L)) != row
        L[others] -= np.outer(L[others, column], L[row])
        pivots.append(column)
    L = L[: len(pivots)] * units
    return L / L[np.arange(len(pivots)), pivots][:, None]
