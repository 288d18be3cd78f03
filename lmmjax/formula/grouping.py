"""Grouping factors: levels in lme4's order, codes for the fit and for new data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..errors import DataError, FormulaError
from .expression import Expression, evaluate
from .frame import Rows
from .hints import plural
from .terms import unboxed
from .values import Coded, array_of, coded, is_array, labels, recoded


@dataclass(frozen=True)
class Grouping:
    """A grouping factor of the fit: an interaction of atoms, each with its levels.

    atoms : expressions, the slowest varying first.
    atom_levels : levels of each atom.
    seen : for the second and later atoms, the sorted combinations with those before that occur, as level of the
        interaction so far times the atom's number of levels plus the atom's level.
    levels : level names; the values themselves for one atom, "x:y" for an interaction.
    """

    atoms: tuple[Expression, ...]
    atom_levels: tuple[pd.Index, ...]
    seen: tuple[np.ndarray, ...]
    levels: pd.Index

    def codes(self, rows: Rows) -> np.ndarray:
        """(n,) int32 level of each row of new data, -1 where the fit has no such level."""
        parts = [recoded(_value(atom, rows), lv) for atom, lv in zip(self.atoms, self.atom_levels, strict=True)]
        result = parts[0]
        for part, lv, seen in zip(parts[1:], self.atom_levels[1:], self.seen, strict=True):
            key = result.astype(np.int64) * len(lv) + part
            at = np.minimum(np.searchsorted(seen, key), len(seen) - 1)
            result = np.where((result >= 0) & (part >= 0) & (seen[at] == key), at, -1)
        return result.astype(np.int32)


def fit_grouping(atoms: Sequence[Expression], rows: Rows) -> tuple[Grouping, np.ndarray]:
    """The grouping factor made of `atoms`, the first varying slowest, and its (n,) int32 codes. Every level occurs."""
    parts = [_coded(atom, rows) for atom in atoms]
    codes, names, seen = parts[0].codes, None, []
    for part in parts[1:]:
        names = labels(parts[0].levels) if names is None else names
        key = codes.astype(np.int64) * len(part.levels) + part.codes
        codes, found = pd.factorize(key, sort=True)
        before, last = np.divmod(found, len(part.levels))
        names = names[before] + ":" + labels(part.levels)[last]
        seen.append(found)
    levels = parts[0].levels if names is None else pd.Index(names)
    return Grouping(tuple(atoms), tuple(p.levels for p in parts), tuple(seen), levels), codes.astype(np.int32)


def _coded(atom: Expression, rows: Rows) -> Coded:
    if ("group", atom) not in rows.memo:
        result = coded(_value(atom, rows), atom.name)
        gaps = int((result.codes < 0).sum())
        if gaps:
            raise DataError(f"the grouping factor {atom.name!r} is missing in {plural(gaps, 'row')}")
        rows.memo["group", atom] = result
    return rows.memo["group", atom]


def _value(atom: Expression, rows: Rows) -> Any:
    value = rows.columns.get(atom.code)
    if value is None:
        value, _, levels = unboxed(evaluate(atom.code, atom.label, rows, rows.constants))
        if not is_array(value):
            raise FormulaError(f"the grouping factor {atom.name!r} is of type {type(value).__name__}, not a column")
        value = array_of(value)
        value = value if levels is None else pd.Categorical(value, categories=levels)
    if value.ndim != 1 or len(value) != rows.n:
        raise DataError(f"the grouping factor {atom.name!r} must be one column of {rows.n} rows, not {value.shape}")
    return value


def lme4_order(n_levels: Sequence[int]) -> list[int]:
    """Terms by decreasing number of levels, as in lme4's mkReTrms: as written if that holds, else ties reversed."""
    if all(a >= b for a, b in zip(n_levels, n_levels[1:], strict=False)):
        return list(range(len(n_levels)))
    return sorted(range(len(n_levels)), key=lambda i: n_levels[i])[::-1]
