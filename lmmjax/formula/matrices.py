"""Model matrices: patsy builds them, their columns go into R's order of terms."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from patsy import DesignInfo, EvalEnvironment, NAAction, PatsyError, build_design_matrices
from patsy.build import design_matrix_builders
from patsy.desc import Term

from ..errors import DataError, FormulaError, LmmError
from .frame import Rows
from .terms import Factor, reason

# Missing rows are gone by now; what turns NaN under a transform is to be reported, not dropped.
_COMPLETE = NAAction(on_NA="raise", NA_types=[])
TOLERANCE = 1e-7


@dataclass(frozen=True)
class Matrix:
    """How to build one model matrix for any data.

    info : patsy's DesignInfo, with the state of the fit (not picklable).
    order : positions in patsy's columns of the columns here, by term in R's order.
    terms : (term name, positions here) pairs.
    """

    info: DesignInfo
    order: np.ndarray
    terms: tuple[tuple[str, tuple[int, ...]], ...]

    @cached_property
    def names(self) -> list[str]:
        """patsy's names of the columns."""
        names = self.info.column_names
        return [names[i] for i in self.order]

    @property
    def p(self) -> int:
        """Number of columns."""
        return len(self.order)

    @property
    def factors(self) -> Iterable[Factor]:
        """The factors that new data must provide."""
        return self.info.factor_infos

    def keep(self, columns: Sequence[int]) -> "Matrix":
        """The same matrix with some of its columns."""
        place = {c: i for i, c in enumerate(columns)}
        terms = [(name, tuple(place[c] for c in cols if c in place)) for name, cols in self.terms]
        return replace(self, order=self.order[list(columns)], terms=tuple(t for t in terms if t[1]))


def fit_matrices(termlists: Sequence[Sequence[Term]], rows: Rows) -> list[tuple[Matrix, np.ndarray]]:
    """A `Matrix` and its (n, p) values for each list of terms; equal lists are built once.

    Raises FormulaError or DataError for factors that cannot be evaluated or have one level.
    """
    unique = list(dict.fromkeys(tuple(ts) for ts in termlists))
    infos = _design_infos(unique, rows)
    for info in infos:
        _remember_levels(info)
    made = [_ordered(info, ts) for info, ts in zip(infos, unique, strict=True)]
    built = dict(zip(unique, zip(made, build(made, rows), strict=True), strict=True))
    return [built[tuple(ts)] for ts in termlists]


def _design_infos(termlists: list[tuple[Term, ...]], rows: Rows) -> list[DesignInfo]:
    env = EvalEnvironment([rows.constants])
    try:
        return design_matrix_builders([list(ts) for ts in termlists], lambda: iter([rows]), env, _COMPLETE)
    except LmmError:
        raise
    except Exception as err:  # patsy meets a wrong contrast object with whatever Python raises
        raise FormulaError(f"cannot code the model matrix: {reason(err)}") from err


def _remember_levels(info: DesignInfo) -> None:
    for fi in info.factor_infos.values():
        if fi.type == "categorical":
            fi.state["levels"] = pd.Index(fi.categories)
            if len(fi.categories) < 2:
                raise DataError(
                    f"the factor {fi.factor.name()!r} has only one level in the rows used, {fi.categories[0]!r}; "
                    "a factor needs two or more: leave it out of the formula"
                )


def _ordered(info: DesignInfo, terms: tuple[Term, ...]) -> Matrix:
    """R's order is by degree, then as written, which is how `terms` come; patsy puts factors before numbers."""
    order: list[int] = []
    positions = []
    for term in terms:
        where = info.term_slices[term]
        columns = range(where.start, where.stop)
        positions.append((term.name(), tuple(range(len(order), len(order) + len(columns)))))
        order.extend(columns)
    return Matrix(info, np.array(order, dtype=int), tuple(positions))


def build(matrices: Sequence[Matrix], rows: Rows) -> list[np.ndarray]:
    """(n, p) float64 values of each matrix on `rows`. Raises DataError for levels that the fit does not have."""
    varying = [m.info for m in matrices if m.info.factor_infos]
    try:
        values = iter(build_design_matrices(varying, rows, _COMPLETE)) if varying else iter(())
    except PatsyError as err:
        raise DataError(reason(err)) from err
    return [_columns(m, next(values)) if m.info.factor_infos else np.ones((rows.n, m.p)) for m in matrices]


def _columns(matrix: Matrix, values: np.ndarray) -> np.ndarray:
    values = np.asarray(values)
    in_order = matrix.p == values.shape[1] and bool((np.diff(matrix.order) == 1).all())
    return values if in_order else np.ascontiguousarray(values[:, matrix.order])


def independent_columns(X: np.ndarray) -> list[int]:
    """Columns of X (n, p) that do not depend on kept columns to their left.

    A column depends if its residual is shorter than 1e-7 of the column, the tolerance of R's `qr`.
    """
    p = X.shape[1]
    if _clearly_independent(X):
        return list(range(p))
    basis = np.empty((X.shape[0], 0))
    kept = []
    for j in range(p):
        residual = X[:, j]
        for _ in range(2):  # once more for the rounding of the first projection
            residual = residual - basis @ (basis.T @ residual)
        length = float(np.linalg.norm(residual))
        if length >= TOLERANCE * float(np.linalg.norm(X[:, j])) and length > 0:
            basis = np.column_stack([basis, residual / length])
            kept.append(j)
    return kept


def _clearly_independent(X: np.ndarray) -> bool:
    """Whether the scaled cross-products alone, good to about 1e-7 in length, leave no doubt."""
    gram = X.T @ X
    scale = np.sqrt(np.diagonal(gram))
    if not (scale > 0).all() or not np.isfinite(scale).all():
        return X.shape[1] == 0
    try:
        factor = np.linalg.cholesky(gram / np.outer(scale, scale))
    except np.linalg.LinAlgError:
        return False
    return bool((np.diagonal(factor) > 1e-4).all())
