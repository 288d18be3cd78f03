"""The array layer: pure functions and frozen pytrees, safe under jit, grad, hessian and vmap."""

import importlib
from typing import TYPE_CHECKING, Any

from .covariance import Template
from .criterion import Profiled, criterion, deviance, expansion, profile
from .crossprod import CrossProducts, cross_products
from .design import Design, RandomTerm
from .effects import conditional_variances, linear_predictor
from .estimate import Estimate, estimate
from .information import information, theta_sigma_hessian, variance_information
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
    "gibbs_kernel",
    "indicator",
    "information",
    "khatri_rao",
    "linear_predictor",
    "make_plan",
    "profile",
    "random_matrix",
    "relative_factor",
    "simulate",
    "term_matrix",
    "theta_sigma_hessian",
    "variance_information",
]

# Loaded when first asked for: scipy.sparse and the batches cost a new process more time than a fit that was kept.
_HOME = {
    **dict.fromkeys(("Estimates", "estimate_many"), "batch"),
    "estimate_designs": "designs",
    "gibbs_kernel": "gibbs",
    **dict.fromkeys(
        ("cholesky_blocks", "indicator", "khatri_rao", "random_matrix", "relative_factor", "term_matrix"), "matrices"
    ),
}

if TYPE_CHECKING:
    from .batch import Estimates as Estimates
    from .batch import estimate_many as estimate_many
    from .designs import estimate_designs as estimate_designs
    from .gibbs import gibbs_kernel as gibbs_kernel
    from .matrices import cholesky_blocks as cholesky_blocks
    from .matrices import indicator as indicator
    from .matrices import khatri_rao as khatri_rao
    from .matrices import random_matrix as random_matrix
    from .matrices import relative_factor as relative_factor
    from .matrices import term_matrix as term_matrix


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
