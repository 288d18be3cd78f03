"""A model's matrices from other rows, and from a pickle: patsy's own objects cannot be written down."""

import copyreg
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd
from patsy import EvalEnvironment

from ..core.design import Design
from .build import OFFSET, WEIGHTS, build
from .expression import CALL
from .schema import Schema
from .scope import FUNCTIONS


def rebuild(schema: Schema, data: pd.DataFrame) -> tuple[Schema, Design]:
    """The model on other data: see `Schema.frame` for what it needs.

    Transforms, contrasts and levels are found anew, as `build` finds them. Raises FormulaError and DataError.
    """
    return _built(schema.formula, data, _namespace(schema), schema.arguments, schema.options)


def _built(formula: str, data: pd.DataFrame, namespace: Any, arguments: Any, options: Any) -> tuple[Schema, Design]:
    columns = {name: data[value] if value in (WEIGHTS, OFFSET) else value for name, value in arguments.items()}
    return build(formula, data, env=EvalEnvironment([namespace]), **columns, **options)


def _namespace(schema: Schema) -> dict[str, Any]:
    """The caller's variables that the formula uses, without those that every formula knows."""
    names = {identifier.removeprefix(CALL): value for identifier, value in schema.constants.items()}
    return {name: value for name, value in names.items() if FUNCTIONS.get(name) is not value}


def _pickled(schema: Schema) -> tuple[Callable, tuple]:
    parts = schema.formula, schema.frame, _namespace(schema), dict(schema.arguments), dict(schema.options)
    return _unpickled, (parts, schema.n_dropped)


def _unpickled(parts: tuple, n_dropped: int) -> Schema:
    return replace(_built(*parts)[0], n_dropped=n_dropped)


copyreg.pickle(Schema, _pickled)
