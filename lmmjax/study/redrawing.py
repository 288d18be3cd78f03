"""A replicate whose covariates are drawn anew: its design, and a response from the population's parameters."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from ..core.design import Design, RandomTerm
from ..core.effects import linear_predictor
from ..errors import DataError
from .population import Population


def redrawn(
    population: Population,
    redraw: Callable[[pd.DataFrame, np.random.Generator], pd.DataFrame],
    rng: np.random.Generator,
) -> Design:
    """A design on the data that `redraw` returns, with a response. Levels, coding and transforms are the population's.

    Raises DataError for weights, correlated levels or residuals, and for levels that the population does not have.
    """
    known, schema = population.design, population.schema
    if known.weights is not None or known.residual is not None or any(t.level_factor is not None for t in known.terms):
        raise DataError("redraw= is for independent residuals of equal variance and independent levels")
    X, random, offset = schema.new_data(redraw(schema.frame.copy(), rng))
    terms = []
    for (x, codes), term, group in zip((r for r in random if r), known.terms, schema.groups, strict=True):
        if (codes < 0).any():
            raise DataError(f"redraw= made new levels of {group.group!r}: keep those of the data")
        terms.append(RandomTerm(x, codes, term.n_levels, term.template))
    sigma, templates = population.sigma, population.templates
    b = [sigma * rng.standard_normal((t.n_levels, t.p)) @ root.T for t, root in zip(terms, templates, strict=True)]
    design = Design(X, np.zeros(len(X)), tuple(terms), None, offset)
    return design.replace(y=linear_predictor(design, population.estimate.beta, b) + sigma * rng.standard_normal(len(X)))
