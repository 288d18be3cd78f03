"""Every response of a batch against lme4's fit of that response alone: never above it, and no lower than is true.

The responses and lme4's criteria (the least that any of its optimisers found) are in `reference/batch_reference.json`;
half of the responses have no random effects, so that many optima lie on the boundary.
"""

import json
from functools import cache
from typing import Any

import numpy as np
import pytest
import references
from catalogue import dataset

import lmmjax as lj

MODELS = json.loads((references.BUNDLED.parent / "batch_reference.json").read_text(encoding="utf-8"))["models"]
KINDS = {"REML": True, "ML": False}
CONVERGED = 0

every = pytest.mark.parametrize("kind", KINDS)
models = pytest.mark.parametrize("name", MODELS)


@cache
def fitted(name: str, kind: str) -> tuple["lj.Fit", "lj.BatchFit", np.ndarray]:
    """The model fitted to its first response, the batch of all, and the responses, (8, n)."""
    entry = MODELS[name]
    Y = np.array(entry["responses"])
    response = entry["formula"].split()[0]
    columns: dict[str, Any] = {k: np.array(v, dtype=float) for k, v in (entry["columns"] or {}).items()}
    data = dataset("bundled", entry["dataset"]).assign(**columns, **{response: Y[0]})
    fit = lj.lmer(entry["formula"], data, KINDS[kind], weights=entry["weights"], offset=entry["offset"])
    return fit, lj.refit_many(fit, Y), Y


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
@models
def test_what_is_reported_is_what_the_estimates_give(name, kind):
    fit, batch, Y = fitted(name, kind)
    with lj.float64():
        for i, y in enumerate(Y):
            at = lj.core.profile(batch.theta[i], fit.cross_products.with_response(y), fit.reml)
            assert batch.criterion[i] == pytest.approx(float(at.criterion), rel=1e-10)
            assert batch.sigma[i] == pytest.approx(float(at.sigma), rel=1e-7)
            np.testing.assert_allclose(batch.beta[i], at.beta, rtol=0, atol=1e-7 * float(at.sigma))


@models
def test_the_references_hold_boundary_optima(name):
    """Were every optimum inside, the comparison would not try what is hard."""
    _, batch, _ = fitted(name, "ML")
    assert np.any(batch.theta[4:].min(axis=1) < 1e-4)
