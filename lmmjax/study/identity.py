"""A text that two studies have in common if they compute the same: what a store is told apart by."""

import inspect
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from hashlib import sha256
from typing import Any

import numpy as np
import pandas as pd

from ..fit import Fit
from .population import truth_of


def identity(thing: Any) -> str:
    """Functions by name, source and what they enclose; fits by formula, parameters and design; other things by what
    they print, or by their parts."""
    if isinstance(thing, np.ndarray):
        return f"array{thing.shape}:{_digest(np.ascontiguousarray(thing).tobytes())}"
    if isinstance(thing, pd.DataFrame | pd.Series):
        return f"table:{_digest(thing.to_json(orient='split', double_precision=15, default_handler=str).encode())}"
    if isinstance(thing, Fit):
        design = thing.design
        arrays = [design.X, *(a for t in design.terms for a in (t.x, t.codes)), design.weights, design.offset]
        parts = (
            thing.schema.formula,
            thing.reml,
            list(truth_of(thing)),
            [None if a is None else identity(np.asarray(a)) for a in arrays],
        )
        return f"fit:{_digest(repr(parts).encode())}"
    if isinstance(thing, partial):
        return f"partial({identity(thing.func)}, {identity(thing.args)}, {identity(thing.keywords)})"
    if inspect.isfunction(thing):
        return _of_function(thing)
    if inspect.ismethod(thing):
        return f"{_of_function(thing.__func__)} of {identity(thing.__self__)}"
    if is_dataclass(thing) and not isinstance(thing, type):
        own = {f.name: identity(getattr(thing, f.name)) for f in fields(thing)}
        return f"{type(thing).__qualname__}({', '.join(f'{k}={v}' for k, v in own.items())})"
    if isinstance(thing, Mapping):
        return f"{{{', '.join(f'{k!r}: {identity(v)}' for k, v in thing.items())}}}"
    if isinstance(thing, list | tuple):
        return f"[{', '.join(map(identity, thing))}]"
    return repr(thing)


def _of_function(function: Any) -> str:
    try:
        source = inspect.getsource(function).encode()
    except (OSError, TypeError):
        source = function.__code__.co_code
    cells = [identity(c.cell_contents) for c in function.__closure__ or ()]
    rest = f" with {identity([*(function.__defaults__ or ()), *cells])}" if cells or function.__defaults__ else ""
    return f"{function.__qualname__}:{_digest(source)}{rest}"


def _digest(content: bytes) -> str:
    return sha256(content).hexdigest()[:16]
