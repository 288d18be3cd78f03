"""lmmjax: linear mixed models on JAX, with lme4's formulas. `import lmmjax as lj`."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# No module may have the name of a public function: importing it would hide the function.
_HOME = {
    "lmer": "models",
    "lm": "models",
    "gls": "models",
    "Fit": "fit",
    **dict.fromkeys(("ar1", "car1", "cs", "un", "toeplitz", "var_ident", "var_power"), "formula.residual"),
    "refit": "refitting",
    "refit_many": "refitting",
    "BatchFit": "refitting",
    "simulate": "refitting",
    "bootstrap": "inference.bootstrap",
    "bootstrap_lrt": "inference.bootstrap_lrt",
    "predict_interval": "inference.prediction",
    "linear_test": "inference.wald",
    "kr_compare": "inference.wald",
    "anova": "inference.anova",
    "lrt": "inference.compare",
    "ranova": "inference.compare",
    "drop_one": "inference.dropping",
    "aicc": "inference.criteria",
    "caic": "inference.criteria",
    "exact_rlrt": "inference.exact",
    "exact_lrt": "inference.exact",
    "profile": "inference.profile",
    "confint": "inference.confint",
    "emmeans": "inference.means",
    "aov": "inference.classical",
    "variance_components_anova": "inference.mean_squares",
    "model_tables": "inference.classical",
    "lm_list": "inference.lm_list",
    "welch_test": "inference.welch",
    "ranef_intervals": "inference.effects",
    "shrinkage": "inference.effects",
    "icc": "inference.effects",
    "r2": "diagnostics.r2",
    "influence": "diagnostics.influence",
    "vcov_cr": "diagnostics.influence",
    "cross_validate": "diagnostics.influence",
    "identifiability": "diagnostics.identifiability",
    "gibbs": "bayes.gibbs",
    "nuts": "bayes.numpyro_model",
    "numpyro_model": "bayes.numpyro_model",
    "priors": "bayes.model",
    "compare_posterior": "bayes.posterior",
    "posterior_predictive": "bayes.posterior",
    **dict.fromkeys(("HalfT", "InverseGamma", "InverseWishart", "Normal", "Priors"), "bayes.priors"),
    "Study": "study.study",
    "Sample": "study.sample",
    **dict.fromkeys(("Estimates", "Interval", "Test"), "study.analyses"),
    **dict.fromkeys(("make_lmer", "with_parameters", "Population"), "study.population"),
    "extend": "study.extending",
    **dict.fromkeys(("Power", "SampleSize", "power", "power_curve", "sample_size"), "study.power"),
    "float64": "precision",
    "enable_compilation_cache": "cache",
    **dict.fromkeys(
        (
            "ConvergenceWarning",
            "DataError",
            "DroppedWarning",
            "FormulaError",
            "LmmError",
            "PrecisionWarning",
            "StudyWarning",
        ),
        "errors",
    ),
}
_MODULES = {"core": "core", "datasets": "datasets", "designs": "study.designs", "plots": "plots"}
__all__ = [*_HOME, *_MODULES]

if TYPE_CHECKING:
    from . import core as core
    from . import datasets as datasets
    from . import plots as plots
    from .bayes.gibbs import gibbs as gibbs
    from .bayes.model import priors as priors
    from .bayes.numpyro_model import numpyro_model as numpyro_model
    from .bayes.numpyro_model import nuts as nuts
    from .bayes.posterior import compare_posterior as compare_posterior
    from .bayes.posterior import posterior_predictive as posterior_predictive
    from .bayes.priors import HalfT as HalfT
    from .bayes.priors import InverseGamma as InverseGamma
    from .bayes.priors import InverseWishart as InverseWishart
    from .bayes.priors import Normal as Normal
    from .bayes.priors import Priors as Priors
    from .cache import enable_compilation_cache as enable_compilation_cache
    from .diagnostics.identifiability import identifiability as identifiability
    from .diagnostics.influence import cross_validate as cross_validate
    from .diagnostics.influence import influence as influence
    from .diagnostics.influence import vcov_cr as vcov_cr
    from .diagnostics.r2 import r2 as r2
    from .errors import ConvergenceWarning as ConvergenceWarning
    from .errors import DataError as DataError
    from .errors import DroppedWarning as DroppedWarning
    from .errors import FormulaError as FormulaError
    from .errors import LmmError as LmmError
    from .errors import PrecisionWarning as PrecisionWarning
    from .errors import StudyWarning as StudyWarning
    from .fit import Fit as Fit
    from .formula.residual import ar1 as ar1
    from .formula.residual import car1 as car1
    from .formula.residual import cs as cs
    from .formula.residual import toeplitz as toeplitz
    from .formula.residual import un as un
    from .formula.residual import var_ident as var_ident
    from .formula.residual import var_power as var_power
    from .inference.anova import anova as anova
    from .inference.bootstrap import bootstrap as bootstrap
    from .inference.bootstrap_lrt import bootstrap_lrt as bootstrap_lrt
    from .inference.classical import aov as aov
    from .inference.classical import model_tables as model_tables
    from .inference.compare import lrt as lrt
    from .inference.compare import ranova as ranova
    from .inference.confint import confint as confint
    from .inference.criteria import aicc as aicc
    from .inference.criteria import caic as caic
    from .inference.dropping import drop_one as drop_one
    from .inference.effects import icc as icc
    from .inference.effects import ranef_intervals as ranef_intervals
    from .inference.effects import shrinkage as shrinkage
    from .inference.exact import exact_lrt as exact_lrt
    from .inference.exact import exact_rlrt as exact_rlrt
    from .inference.lm_list import lm_list as lm_list
    from .inference.mean_squares import variance_components_anova as variance_components_anova
    from .inference.means import emmeans as emmeans
    from .inference.prediction import predict_interval as predict_interval
    from .inference.profile import profile as profile
    from .inference.wald import kr_compare as kr_compare
    from .inference.wald import linear_test as linear_test
    from .inference.welch import welch_test as welch_test
    from .models import gls as gls
    from .models import lm as lm
    from .models import lmer as lmer
    from .precision import float64 as float64
    from .refitting import BatchFit as BatchFit
    from .refitting import refit as refit
    from .refitting import refit_many as refit_many
    from .refitting import simulate as simulate
    from .study import designs as designs
    from .study.analyses import Estimates as Estimates
    from .study.analyses import Interval as Interval
    from .study.analyses import Test as Test
    from .study.extending import extend as extend
    from .study.population import Population as Population
    from .study.population import make_lmer as make_lmer
    from .study.population import with_parameters as with_parameters
    from .study.power import Power as Power
    from .study.power import SampleSize as SampleSize
    from .study.power import power as power
    from .study.power import power_curve as power_curve
    from .study.power import sample_size as sample_size
    from .study.sample import Sample as Sample
    from .study.study import Study as Study


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first used (PEP 562)."""
    if name in _MODULES:
        return importlib.import_module(f".{_MODULES[name]}", __name__)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
