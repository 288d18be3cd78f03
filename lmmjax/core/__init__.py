"""The array layer: pure functions and frozen pytrees, safe under jit, grad, hessian and vmap."""

import importlib
from typing import TYPE_CHECKING, Any

from .batch import Estimates, estimate_many
from .covariance import Template
from .criterion import Profiled, criterion, deviance, expansion, profile
from .crossprod import CrossProducts, cross_products
from .design import Design, RandomTerm
from .designs import estimate_designs
from .effects import conditional_variances, linear_predictor
from .estimate import Estimate, estimate
from .information import theta_sigma_hessian
from .optimize import STATUS
from .plan import Plan, make_plan
from .simulate import simulate
from .start import default_start

__all__ = [
    "STATUS",
    "CrossProducts",
    "Design",
    "Estimate",
    "Estimates",
    "Plan",
    "Profiled",
    "RandomTerm",
    "Template",
    "cholesky_blocks",
    "conditional_variances",
    "criterion",
    "cross_products",
    "default_start",
    "deviance",
    "estimate",
    "estimate_designs",
    "estimate_many",
    "expansion",
    "indicator",
    "khatri_rao",
    "linear_predictor",
    "make_plan",
    "profile",
    "random_matrix",
    "relative_factor",
    "simulate",
    "term_matrix",
    "theta_sigma_hessian",
]

if TYPE_CHECKING:
    from .matrices import cholesky_blocks as cholesky_blocks
    from .matrices import indicator as indicator
    from .matrices import khatri_rao as khatri_rao
    from .matrices import random_matrix as random_matrix
    from .matrices import relative_factor as relative_factor
    from .matrices import term_matrix as term_matrix


def __getattr__(name: str) -> Any:
    """The matrices for reading need scipy.sparse, which is loaded when they are first asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(".matrices", __name__), name)
