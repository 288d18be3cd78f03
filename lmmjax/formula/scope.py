"""Where the names of a formula come from: the data, then the caller's variables, then functions known here."""

import builtins
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import patsy.builtins

from ..errors import DataError, FormulaError
from .expression import CALL, Expression
from .frame import Frame
from .hints import suggest
from .values import array_of, is_array

FUNCTIONS = {name: getattr(patsy.builtins, name) for name in patsy.builtins.__all__} | {
    name: getattr(np, name) for name in "log log2 log10 log1p exp expm1 sqrt abs sin cos tan".split()
}
FUNCTIONS |= {"factor": patsy.builtins.C, "np": np}
_SCALAR_MODULES = ("math", "cmath")
_NOTHING = object()


class Scope(NamedTuple):
    """Names resolved: `columns` have the rows of the data, `constants` are functions and single values."""

    columns: dict[str, Any]
    constants: dict[str, Any]


def resolve(expressions: Iterable[Expression], frame: Frame, namespace: Any) -> Scope:
    """Find every name of `expressions`, columns by canonical arrays of frame.n rows.

    namespace : the caller's variables, with `.get(name, default)`.
    Raises FormulaError for a name that is nowhere, DataError for a caller's array with another number of rows.
    """
    scope = Scope({}, {})
    for e in expressions:
        for identifier, name in e.variables:
            if identifier not in scope.columns and identifier not in scope.constants:
                _variable(e, identifier, name, frame, namespace, scope)
        for name in e.functions:
            if CALL + name not in scope.constants:
                scope.constants[CALL + name] = _function(name, frame, namespace)
    return scope


def _variable(e: Expression, identifier: str, name: str, frame: Frame, namespace: Any, scope: Scope) -> None:
    if name in frame:
        scope.columns[identifier] = frame.column(name)
        return
    value = namespace.get(name, _NOTHING)
    if is_array(value) and not isinstance(value, ModuleType):
        if len(value) == frame.n:
            scope.columns[identifier] = array_of(value)
            return
        if e.column is not None:
            raise DataError(
                f"the variable {name!r} has {len(value)} rows where the data have {frame.n}; "
                "an array from outside the data needs one row for each row of the data"
            )
    elif e.column is not None:
        raise FormulaError(_unknown(name, value, frame))
    scope.constants[identifier] = _constant(name, value, frame)


def _constant(name: str, value: Any, frame: Frame) -> Any:
    if value is _NOTHING:
        value = FUNCTIONS.get(name, getattr(builtins, name, _NOTHING))
    if value is _NOTHING:
        raise FormulaError(_unknown(name, value, frame))
    return value


def _unknown(name: str, value: Any, frame: Frame) -> str:
    text = f"{name!r} is neither a column of the data nor an array where lmmjax was called"
    if value is not _NOTHING:
        text += f" (there it is of type {type(value).__name__})"
    return text + suggest(name, frame.names)


def _function(name: str, frame: Frame, namespace: Any) -> Any:
    value = namespace.get(name, _NOTHING)
    scalar_only = name in FUNCTIONS and getattr(value, "__module__", None) in _SCALAR_MODULES
    if callable(value) and not scalar_only:
        return value
    found = FUNCTIONS.get(name, getattr(builtins, name, _NOTHING))
    if found is _NOTHING:
        if name in frame:
            raise FormulaError(f"{name!r} is a column of the data, not a function")
        raise FormulaError(f"there is no function {name!r}{suggest(name, FUNCTIONS)}")
    return found


def resolve_again(expressions: Iterable[Expression], frame: Frame, constants: Mapping[str, Any]) -> dict[str, Any]:
    """Columns for new data: each name that is not one of the fit's constants must be a column of `frame`."""
    columns: dict[str, Any] = {}
    for e in expressions:
        for identifier, name in e.variables:
            if name in frame:
                columns[identifier] = frame.column(name)
            elif identifier not in constants:
                raise DataError(f"the new data have no column {name!r}{suggest(name, frame.names)}")
    return columns
