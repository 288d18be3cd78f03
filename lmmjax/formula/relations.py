"""relmat= and covariance=: what is known of the covariance between a factor's levels, and between a term's columns."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ..core.covariance import Template
from ..errors import DataError, FormulaError
from .hints import listed
from .values import labels

ASYMMETRY = 1e-8  # relative
TEMPLATES = {
    "full": Template.full,
    "diagonal": Template.diagonal,
    "compound_symmetry": Template.compound_symmetry,
    "ar1": Template.ar1,
}


def by_group(argument: Any, name: str, groups: set[str]) -> Mapping[str, Any]:
    """The argument `name` as a dict by grouping factor. Raises FormulaError for a key that no term has."""
    if argument is None:
        return {}
    if not isinstance(argument, Mapping):
        raise FormulaError(f"{name} must be a dict by grouping factor, such as {{{sorted(groups)[0]!r}: …}}")
    for key in argument:
        if key not in groups:
            raise FormulaError(f"{name} has {key!r}, but no random term is grouped by it: {', '.join(sorted(groups))}")
    return argument


def template_of(wanted: Any, text: str, p: int) -> Template:
    """The template of a term with p columns: a name, a Template, or a function p ↦ Template."""
    if isinstance(wanted, str):
        if wanted not in TEMPLATES:
            raise FormulaError(f"covariance {wanted!r} of {text}: known are {', '.join(TEMPLATES)}, or a core.Template")
        wanted = TEMPLATES[wanted]
    template = wanted if isinstance(wanted, Template) else wanted(p)
    if template.p != p:
        raise FormulaError(f"the covariance of {text} has {template.p} columns; the term has {p}")
    return template


def level_factor(matrix: Any, group: str, levels: pd.Index) -> np.ndarray:
    """Lower-triangular L (ℓ, ℓ) with LLᵀ = the part of the matrix that belongs to `levels`.

    matrix : a DataFrame labelled by levels, which may have more of them, or an array in the order of the levels.
    Raises DataError where labels are missing or the matrix is not symmetric and positive definite.
    """
    what = f"relmat[{group!r}]"
    if isinstance(matrix, pd.DataFrame):
        wanted = labels(levels)
        rows, columns = (labels(pd.Index(axis)) for axis in (matrix.index, matrix.columns))
        for names in (rows, columns):
            missing = pd.Index(wanted).difference(pd.Index(names))
            if len(missing):
                raise DataError(f"{what} has no row and column for {len(missing)} levels: {listed(missing)}")
            if not pd.Index(names).is_unique:
                raise DataError(f"{what} has a label twice")
        matrix = matrix.to_numpy()[np.ix_(pd.Index(rows).get_indexer(wanted), pd.Index(columns).get_indexer(wanted))]
    a = np.asarray(matrix, dtype=float)
    if a.shape != (len(levels),) * 2:
        raise DataError(f"{what} has shape {a.shape}; {group!r} has {len(levels)} levels: label it by a DataFrame")
    if not np.isfinite(a).all() or np.abs(a - a.T).max() > ASYMMETRY * np.abs(a).max():
        raise DataError(f"{what} must be finite and symmetric")
    try:
        return np.linalg.cholesky((a + a.T) / 2)
    except np.linalg.LinAlgError:
        text = f"{what} is not positive definite: levels that are copies of each other must be one level"
        raise DataError(text) from None
