"""extend(fit): the same model with more groups, longer series or more rows in each group, or with fewer."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from ..core.design import Design
from ..errors import DataError
from ..fit import Fit
from ..formula import Schema, rebuild
from ..formula.hints import listed, suggest
from ..guard import check_counts
from .population import Population, at_parameters, truth_of

EQUAL = 1e-6  # differences of steps, relative, that count as none


def extend(
    fit: Fit, along: str | None = None, within: str | Sequence[str] | None = None, n: int = 0, seed: Any = 0
) -> Population:
    """The model of a fit, or of a `Population`, at its parameters in a data set of another size.

    along : a grouping factor, which gets n levels: the first n, or copies of all in turn with their rows and covariates
    (levels nested in a copied one are new as well); or a number in equal steps, such as a time, which gets n values,
    new ones by copies of the rows of the last. within : columns, of which each combination gets n rows, copied in turn.
    Existing rows stay first, so that replicate i of a seed draws the same numbers for them whatever n is.
    seed : of the response that it holds. Raises DataError for other columns, and where fixed-effects columns get lost;
    ValueError for n < 1, or unless one of along and within is given.
    """
    return _rebuilt(fit, _data(fit, along, within, n), seed)


def sized(fit: Fit, along: str | None, within: str | Sequence[str] | None, n: int, room: int) -> Population:
    """As `extend` to n, but in the arrays of the larger size `room`, so that all sizes compile once.

    Its replicates have the rows of the smaller size only. Raises as `extend`.
    """
    _checked(fit, _data(fit, along, within, n))
    larger = extend(fit, along, within, room)
    data = larger.schema.frame
    if along is None:
        place = data.groupby(names_of(within), observed=True).cumcount()
    else:
        place = pd.Series(pd.factorize(data[along], sort=True)[0])
    return replace(larger, present=(place < n).to_numpy())


def room_for(fit: Fit, along: str | None, largest: int) -> int:
    """A size for `sized` that is larger than all, where there can be one: then all lack rows, and compile alike."""
    return largest + (along is None or along in _grouping(fit))


def _data(fit: Fit, along: str | None, within: str | Sequence[str] | None, n: int) -> pd.DataFrame:
    """The table of another size. Raises as `extend`."""
    present_size(fit, along, within)
    check_counts(n=(n, 1))
    if any(t.level_factor is not None for t in fit.design.terms):
        raise DataError("levels with known correlations (relmat) cannot be copied: build the larger model by make_lmer")
    data = fit.schema.frame
    if along is None:
        return _within(data, names_of(within), n)
    if along in _grouping(fit):
        return _levels(data, along, [g for g in _grouping(fit) if g != along], n)
    return _values(data, along, n)


def present_size(fit: Fit, along: str | None, within: str | Sequence[str] | None) -> int:
    """How many levels or values `along` has, or most rows a combination of `within`. Raises as `extend`."""
    if (along is None) == (within is None):
        raise ValueError("give either along= or within=")
    data, names = fit.schema.frame, names_of(within if along is None else along)
    for name in names:
        if name not in data:
            raise DataError(f"no column {name!r} in the model; it has {listed(data.columns)}{suggest(name, data)}")
    return int(data[along].nunique() if along is not None else data.groupby(names, observed=True).size().max())


def names_of(columns: str | Sequence[str] | None) -> list[str]:
    """One name or several, as a list."""
    return [columns] if isinstance(columns, str) else list(columns or ())


def _grouping(fit: Fit) -> list[str]:
    """Columns that random terms and residual structures are grouped by."""
    atoms = [a.name for g in fit.schema.groups for a in g.grouping.atoms]
    structure = fit.schema.residual
    parts = () if structure is None else structure.structure.parts
    return list(dict.fromkeys([*atoms, *(p.by for p in parts if p.by is not None)]))


def _levels(data: pd.DataFrame, along: str, others: list[str], n: int) -> pd.DataFrame:
    """With n levels of `along`; of the other grouping factors those nested in it are copied with it."""
    codes, known = pd.factorize(data[along], sort=True)
    nested = [g for g in others if data.groupby(g, observed=True)[along].nunique().max() == 1]
    nested = [g for g in nested if data[g].nunique() > len(known)]
    rows, copies = [], []
    for first in range(0, n, len(known)):
        taken = np.flatnonzero(codes < n - first)
        rows.append(taken)
        copies.append(np.full(len(taken), first // len(known)))
    row, copy = np.concatenate(rows), np.concatenate(copies)
    larger = data.iloc[row].reset_index(drop=True)
    for name in [along, *nested]:
        larger[name] = _named(data[name].iloc[row], copy)
    return larger


def _named(values: pd.Series, copy: np.ndarray) -> pd.Categorical:
    """Levels told apart by the number of their copy, those of the first copy before all others."""
    codes, known = pd.factorize(values, sort=True)
    names = [f"{known[c]}" if not k else f"{known[c]}#{k + 1}" for c, k in zip(codes, copy, strict=True)]
    order = np.lexsort((codes, copy))
    return pd.Categorical(names, list(dict.fromkeys(names[i] for i in order)))


def _values(data: pd.DataFrame, along: str, n: int) -> pd.DataFrame:
    """With n values of a number."""
    if not pd.api.types.is_numeric_dtype(data[along]):
        raise DataError(
            f"{along!r} is neither a grouping factor of the model nor a number: it cannot be extended along"
        )
    known = np.sort(data[along].unique())
    if n <= len(known):
        return data[data[along].isin(known[:n])].reset_index(drop=True)
    steps = np.diff(known)
    if not len(steps) or np.ptp(steps) > EQUAL * steps.max():
        raise DataError(f"the values of {along!r} are not in equal steps: what follows {known[-1]} is not known")
    last = data[data[along] == known[-1]]
    more = [last.assign(**{along: known[-1] + k * steps[-1]}) for k in range(1, n - len(known) + 1)]
    return pd.concat([data, *more], ignore_index=True)


def _within(data: pd.DataFrame, names: list[str], n: int) -> pd.DataFrame:
    """With n rows in each combination of the values of the columns."""
    groups = data.groupby(names, observed=True, sort=False).indices.values()
    taken = [np.resize(np.sort(rows), n) for rows in groups]
    kept = np.sort(np.concatenate([rows[:n] for rows in map(np.sort, groups)]))
    more = np.concatenate([t[len(rows) :] for t, rows in zip(taken, groups, strict=True)])
    return data.iloc[np.concatenate([kept, more])].reset_index(drop=True)


def _rebuilt(fit: Fit, data: pd.DataFrame, seed: Any) -> Population:
    """The model of `fit` on other data, at its parameters."""
    schema, design = _checked(fit, data)
    return at_parameters(schema, design, truth_of(fit), fit.reml, seed)


def _checked(fit: Fit, data: pd.DataFrame) -> tuple[Schema, Design]:
    schema, design = rebuild(fit.schema, data)
    lost = [name for name in fit.schema.fixed_names if name not in schema.fixed_names]
    if lost or schema.dropped:
        raise DataError(f"with these rows the fixed effects {listed(lost or schema.dropped)} cannot be estimated")
    return schema, design
