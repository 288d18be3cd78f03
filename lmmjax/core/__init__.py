"""The array layer: pure functions and frozen pytrees, safe under jit, grad, hessian and vmap."""

from .covariance import Template
from .criterion import Profiled, criterion, deviance, expansion, profile
from .crossprod import CrossProducts, cross_products
from .design import Design, RandomTerm
from .effects import conditional_variances, linear_predictor
from .estimate import Estimate, estimate
from .information import theta_sigma_hessian
from .matrices import cholesky_blocks, indicator, khatri_rao, random_matrix, relative_factor, term_matrix
from .optimize import STATUS
from .plan import Plan, make_plan
from .simulate import simulate
from .start import default_start

__all__ = [
    "STATUS",
    "CrossProducts",
    "Design",
    "Estimate",
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
