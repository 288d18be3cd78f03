"""Columns as arrays, whatever they came as: numbers and other values as ndarrays, categories as pd.Categorical."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..errors import DataError


def array_of(value: Any) -> Any:
    """The canonical form of a column or array-like: ndarray, pd.Categorical, or a pd.DataFrame left as it is.

    Nullable and string extension columns become plain arrays, with NaN or None where a value is missing.
    """
    if isinstance(value, np.ma.MaskedArray):
        return np.ma.filled(value.astype(float), np.nan)
    if isinstance(value, np.ndarray):
        return value.astype(object) if value.dtype.kind in "US" else value
    if isinstance(value, (pd.Categorical, pd.DataFrame)):
        return value
    if isinstance(value, (list, tuple, range)):
        value = pd.Series(list(value)) if not any(isinstance(v, (list, tuple)) for v in value) else np.asarray(value)
        return array_of(value)
    if isinstance(value, (pd.Series, pd.Index, pd.api.extensions.ExtensionArray)):
        return _from_pandas(value)
    return array_of(np.asarray(value))


def _from_pandas(value: Any) -> Any:
    dtype = value.dtype
    if isinstance(dtype, np.dtype):
        return value.to_numpy()
    if isinstance(dtype, pd.CategoricalDtype):
        return getattr(value, "array", value) if not isinstance(value, pd.CategoricalIndex) else value._values
    if pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_bool_dtype(dtype) and pd.isna(value).any():
        return value.to_numpy(dtype=float, na_value=np.nan)
    if pd.api.types.is_bool_dtype(dtype) and not pd.isna(value).any():
        return value.to_numpy(dtype=bool)
    return np.asarray(value.to_numpy())


def is_array(value: Any) -> bool:
    """Whether a caller's variable can be a column: it has rows."""
    if isinstance(value, (list, tuple, range)):
        return True
    return hasattr(value, "__array__") and bool(getattr(value, "shape", ()))


def is_number(value: Any) -> bool:
    """Whether a canonical column is numeric, in patsy's sense: booleans are not."""
    return isinstance(value, np.ndarray) and value.dtype.kind in "iuf"


def missing(value: Any) -> np.ndarray | None:
    """(n,) mask of missing values, or None where the type has none; inf is not missing."""
    if isinstance(value, pd.Categorical):
        return value.codes == -1
    if isinstance(value, pd.DataFrame):
        return value.isna().to_numpy().any(axis=1)
    kind = value.dtype.kind
    if kind in "iub":
        return None
    mask = np.isnan(value) if kind in "fc" else pd.isna(value)
    return mask.any(axis=1) if mask.ndim > 1 else mask


def take(value: Any, keep: np.ndarray | None) -> Any:
    """Rows of a canonical column; all of them where `keep` is None."""
    if keep is None:
        return value
    return value[keep].reset_index(drop=True) if isinstance(value, pd.DataFrame) else value[keep]


def as_series(value: Any) -> Any:
    """What an expression sees: a pd.Series on a plain range index, so that `.str`, `.dt` and `.map` work."""
    return value if getattr(value, "ndim", 1) != 1 else pd.Series(value, copy=False)


class Coded(NamedTuple):
    """A factor: (n,) codes into `levels`, every one of which occurs; `ordered` as pandas means it."""

    codes: np.ndarray
    levels: pd.Index
    ordered: bool = False


def coded(value: Any, name: str) -> Coded:
    """Codes and sorted levels of a canonical column; a Categorical keeps its order and loses unused categories.

    Raises DataError naming `name` for values that cannot be levels.
    """
    if isinstance(value, pd.Categorical):
        return _used(value.codes, value.categories, bool(value.ordered))
    if value.ndim != 1:
        raise DataError(f"the factor {name!r} needs one column, not an array of shape {value.shape}")
    try:
        codes, levels = pd.factorize(value, sort=True)
    except TypeError as err:
        raise DataError(f"the values of the factor {name!r} cannot be levels: {err}") from err
    return Coded(codes, pd.Index(levels))


def _used(codes: np.ndarray, levels: pd.Index, ordered: bool) -> Coded:
    seen = np.bincount(codes[codes >= 0], minlength=len(levels)) > 0
    if seen.all():
        return Coded(codes, levels, ordered)
    rank = np.append(np.cumsum(seen) - 1, -1)  # the last entry is for code -1
    return Coded(rank[codes], levels[seen], ordered)


def recoded(value: Any, levels: pd.Index) -> np.ndarray:
    """(n,) codes of a canonical column in given levels, -1 where a value is not among them."""
    if isinstance(value, pd.Categorical):
        rank = np.append(levels.get_indexer(value.categories), -1)
        return rank[value.codes]
    return levels.get_indexer(pd.Index(value))


def labels(levels: pd.Index) -> np.ndarray:
    """Level names as an object array of str; whole floats without their `.0`, as R prints them."""
    if levels.dtype.kind == "f":
        return np.array([f"{v:.15g}" for v in levels], dtype=object)
    return np.array([str(v) for v in levels], dtype=object)
