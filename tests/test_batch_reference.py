"""Every response of a batch against lme4's fit of that response alone: never above it, and no lower than is true.

The responses and lme4's criteria (the least that any of its optimisers found) are in `reference/batch_reference.json`;
half of the responses have no random effects, so that many optima lie on the boundary.
"""

from functools import cache
from typing import Any

import numpy as np
import pytest
import references
from catalogue import dataset
from core_cases import float64  # noqa: F401
from patsy import EvalEnvironment

from lmmjax.core import CrossProducts, Design, Estimates, cross_products, estimate_many, profile
from lmmjax.formula import build

MODELS = references.bundled("batch_reference.json")["models"]
KINDS = {"REML": True, "ML": False}
CONVERGED = 0

every = pytest.mark.parametrize("kind", KINDS)
models = pytest.mark.parametrize("name", MODELS)


@cache
def design_of(name: str) -> Design:
    """The model's design with its first response."""
    entry = MODELS[name]
    columns: dict[str, Any] = {k: np.array(v, dtype=float) for k, v in (entry["columns"] or {}).items()}
    response = {entry["formula"].split()[0]: np.array(entry["responses"][0])}
    data = dataset("bundled", entry["dataset"]).assign(**columns, **response)
    options = {"weights": entry["weights"], "offset": entry["offset"]}
    return build(entry["formula"], data, env=EvalEnvironment.capture(), **options)[1]


@cache
def fitted(name: str, kind: str) -> tuple[CrossProducts, Estimates, np.ndarray]:
    """The model's cross-products as the formula layer has them, the fits of all responses, and these, (8, n)."""
    cp, Y = cross_products(design_of(name), orthonormal=True), np.array(MODELS[name]["responses"])
    return cp, estimate_many(cp, Y, KINDS[kind]), Y


@every
@models
def test_never_above_lme4(name, kind):
    lme4 = np.array(MODELS[name][kind])
    _, batch, _ = fitted(name, kind)
    tolerance = 1e-8 * np.maximum(1, np.abs(lme4))
    assert np.all(batch.criterion <= lme4 + tolerance), (batch.criterion - lme4) / tolerance
    # Lower would be a better optimum than lme4's best, which no response here has, or a criterion that is not true.
    assert np.all(batch.criterion >= lme4 - tolerance), (batch.criterion - lme4) / tolerance
    assert np.all(batch.status == CONVERGED)


@every
@pytest.mark.parametrize("name", ["sleep_weights", "penicillin_weights", "machines"])
def test_what_is_reported_is_what_the_estimates_give(name, kind):
    cp, batch, Y = fitted(name, kind)
    for i, y in enumerate(Y):
        at = profile(batch.theta[i], cp.with_response(y), KINDS[kind])
        assert batch.criterion[i] == pytest.approx(float(at.criterion), rel=1e-10)
        assert batch.sigma[i] == pytest.approx(float(at.sigma), rel=1e-7)
        np.testing.assert_allclose(batch.beta[i], at.beta, rtol=0, atol=1e-7 * float(at.sigma))


@models
def test_the_references_hold_boundary_optima(name):
    """Were every optimum inside, the comparison would not try what is hard."""
    _, batch, _ = fitted(name, "ML")
    assert np.any(batch.theta[4:].min(axis=1) < 1e-4)
