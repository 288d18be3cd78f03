"""Formula, data and priors become what every sampler starts from."""

from dataclasses import dataclass
from typing import Any

from patsy import EvalEnvironment

from ..core.crossprod import CrossProducts, cross_products
from ..core.design import Design
from ..errors import FormulaError
from ..formula import Schema, build
from ..guard import check_independent, check_response
from ..precision import in_float64
from .priors import Priors, complete


@dataclass(frozen=True)
class Model:
    """Names (`schema`), arrays (`design`, `cross_products`) and priors for all of it."""

    schema: Schema
    design: Design
    cross_products: CrossProducts
    priors: Priors


@in_float64
def model_of(formula: str, data: Any, priors: Priors | None, env: EvalEnvironment, options: dict[str, Any]) -> Model:
    """The model of a formula.

    env : where names that are no columns are looked up. options : those of `lmer` that concern data; missing values
    are refused unless na_action="omit". Raises FormulaError and DataError as `lmer`, and for priors.
    """
    schema, design = build(formula, data, env=env, **{"na_action": "raise", **options})
    if not design.terms:
        raise FormulaError(f"{formula!r} has no random-effects term: add one such as (1 | g)")
    check_independent(schema, "posterior distributions")
    check_response(schema.response, design.y)
    return Model(schema, design, cross_products(design, orthonormal=True), complete(priors, schema, design))


def priors(formula: str, data: Any, priors: Priors | None = None, **options: Any) -> Priors:
    """The priors that `gibbs` and `nuts` use for a model, defaults included; arguments as there. Made to be printed."""
    return model_of(formula, data, priors, EvalEnvironment.capture(1), options).priors
