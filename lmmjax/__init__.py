"""lmmjax: linear mixed models on JAX, with lme4's formulas. `import lmmjax as lj`."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# No module may have the name of a public function: importing it would hide the function.
_HOME = {
    "lmer": "fit",
    "lm": "fit",
    "Fit": "fit",
    "refit": "refitting",
    "refit_many": "refitting",
    "BatchFit": "refitting",
    "simulate": "refitting",
    "bootstrap": "inference.bootstrap",
    "bootstrap_lrt": "inference.bootstrap_lrt",
    "predict_interval": "inference.prediction",
    "drop_one": "inference.compare",
    "anova": "inference.compare",
    "influence": "diagnostics.influence",
    "vcov_cr": "diagnostics.influence",
    "cross_validate": "diagnostics.influence",
    "float64": "precision",
    "enable_compilation_cache": "cache",
    **dict.fromkeys(
        ("ConvergenceWarning", "DataError", "DroppedWarning", "FormulaError", "LmmError", "PrecisionWarning"),
        "errors",
    ),
}
_MODULES = ("core", "datasets")
__all__ = [*_HOME, *_MODULES]

if TYPE_CHECKING:
    from . import core as core
    from . import datasets as datasets
    from .cache import enable_compilation_cache as enable_compilation_cache
    from .diagnostics.influence import cross_validate as cross_validate
    from .diagnostics.influence import influence as influence
    from .diagnostics.influence import vcov_cr as vcov_cr
    from .errors import ConvergenceWarning as ConvergenceWarning
    from .errors import DataError as DataError
    from .errors import DroppedWarning as DroppedWarning
    from .errors import FormulaError as FormulaError
    from .errors import LmmError as LmmError
    from .errors import PrecisionWarning as PrecisionWarning
    from .fit import Fit as Fit
    from .fit import lm as lm
    from .fit import lmer as lmer
    from .inference.bootstrap import bootstrap as bootstrap
    from .inference.bootstrap_lrt import bootstrap_lrt as bootstrap_lrt
    from .inference.compare import anova as anova
    from .inference.compare import drop_one as drop_one
    from .inference.prediction import predict_interval as predict_interval
    from .precision import float64 as float64
    from .refitting import BatchFit as BatchFit
    from .refitting import refit as refit
    from .refitting import refit_many as refit_many
    from .refitting import simulate as simulate


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first used (PEP 562)."""
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
