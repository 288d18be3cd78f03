"""A text that two studies have in common if they compute the same: what a store is told apart by."""

import inspect
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from hashlib import sha256
from typing import Any

import jax
import numpy as np
import pandas as pd

from ..fit import Fit
from .population import truth_of

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # in the text of a function


def identity(thing: Any) -> str:
    """Functions by name, source and what they refer to; fits by formula, parameters and design; other things by what
    they print, or by their parts."""
    if isinstance(thing, np.ndarray):
        return f"array{thing.shape}:{_digest(np.ascontiguousarray(thing).tobytes())}"
    if isinstance(thing, pd.DataFrame | pd.Series):
        return f"table:{_digest(thing.to_json(orient='split', double_precision=15, default_handler=str).encode())}"
    if isinstance(thing, Fit):
        leaves, tree = jax.tree.flatten(thing.design.replace(y=None))
        parts = (
            thing.schema.formula,
            thing.reml,
            list(truth_of(thing)),
            [identity(np.asarray(a)) for a in leaves],
            str(tree),
        )
        return f"fit:{_digest(_ADDRESS.sub('', repr(parts)).encode())}"
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
    if (function.__module__ or "").startswith("lmmjax."):  # a study knows the version
        return f"{function.__module__}.{function.__qualname__}"
    try:
        source = inspect.getsource(function).encode()
    except (OSError, TypeError):
        source = function.__code__.co_code
    used = {**inspect.getclosurevars(function).nonlocals, **inspect.getclosurevars(function).globals}
    rest = [*(function.__defaults__ or ()), {name: _reference(value, function) for name, value in used.items()}]
    return f"{function.__qualname__}:{_digest(source)} with {identity(rest)}"


def _reference(value: Any, user: Any) -> Any:
    """What a function refers to: functions of its own module by what they are, other things of modules by name."""
    if inspect.ismodule(value):
        return value.__name__
    if inspect.isfunction(value) and value is not user and value.__module__ == user.__module__:
        return _of_function(value)
    if inspect.isroutine(value) or inspect.isclass(value):
        return f"{value.__module__}.{value.__qualname__}"
    return value


def _digest(content: bytes) -> str:
    return sha256(content).hexdigest()[:16]
