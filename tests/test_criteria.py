"""AICc and conditional AIC: closed forms, and what refits to changed responses spend."""

import numpy as np
import pytest
from catalogue import Model, dataset

import lmmjax as lj
from lmmjax.inference.criteria import aicc, caic


def spent(fit: lj.Fit) -> float:
    """ρ as `caic` has it, from its definition."""
    weights = np.ones(fit.nobs) if fit.design.weights is None else fit.design.weights
    squares = weights * fit.resid() ** 2 / fit.sigma**2
    return (caic(fit) - np.sum(np.log(2 * np.pi * fit.sigma**2 / weights) + squares)) / 2 - 1


def refitted(fit: lj.Fit) -> float:
    """tr ∂ŷ/∂y by refits to responses changed in one row."""
    step = 1e-3 * fit.sigma

    def mean(i: int, change: float) -> float:
        return lj.refit(fit, fit.design.y + change * np.eye(fit.nobs)[i]).fitted[i]

    return sum(mean(i, step) - mean(i, -step) for i in range(fit.nobs)) / (2 * step)


@pytest.mark.parametrize("reml", [True, False], ids=["REML", "ML"])
@pytest.mark.parametrize("name", ["dyestuff", "sleep_weights", "penicillin_weights_offset"])
def test_caic_counts_what_refits_spend(name, reml):
    """R's cAIC4 1.0 counts 5.3929 for dyestuff by REML, where refits spend 5.3476."""
    fit = Model("bundled", name).fit(reml)
    assert spent(fit) == pytest.approx(refitted(fit), rel=1e-6)


def test_conditional_likelihood_as_caic4():
    """−2 log p(y | b̂) of the REML fit of Dyestuff by cAIC4 1.0."""
    fit = Model("bundled", "dyestuff").fit(True)
    assert caic(fit) - 2 * (spent(fit) + 1) == pytest.approx(2 * 157.17713983707, rel=1e-9)


def test_a_given_theta_leaves_the_hat_matrix():
    """Balanced, one way: β takes 1, and each of a − 1 contrasts of groups shrinks by nθ²/(1 + nθ²)."""
    fit = lj.lmer("Yield ~ 1 + (1|Batch)", dataset("bundled", "Dyestuff"), theta=[0.8])
    assert spent(fit) == pytest.approx(1 + 5 * (5 * 0.64) / (1 + 5 * 0.64), rel=1e-12)


def test_a_theta_on_the_boundary_does_not_move():
    fit = Model("bundled", "dyestuff2").fit(False)
    assert fit.is_singular
    assert spent(fit) == pytest.approx(1, rel=1e-9)
    linear = lj.lm("Yield ~ 1", dataset("bundled", "Dyestuff2"))
    assert caic(fit) == pytest.approx(linear.aic, rel=1e-9)
    assert caic(linear) == linear.aic


def test_covariances_of_a_function():
    """A template whose θ does not scale it: the same model as independent effects of one variance."""
    data = dataset("bundled", "Machines")
    cells = lj.lmer("score ~ Machine + (1|Worker:Machine)", data)
    scalar = lj.core.Template(lambda theta: theta[0] * np.eye(3), (1.0,))
    same = lj.lmer("score ~ Machine + (0 + Machine|Worker)", data, covariance={"Worker": scalar})
    assert caic(same) == pytest.approx(caic(cells), rel=1e-8)


def test_aicc():
    fit = Model("bundled", "dyestuff").fit(False)
    assert aicc(fit) == pytest.approx(fit.aic + 2 * 3 * 4 / (30 - 3 - 1))
    few = {"x": [1.0, 2, 3, 4], "y": [1.0, 3, 2, 5]}
    assert aicc(lj.lm("y ~ x", few)) == np.inf
    assert lj.aicc is aicc
    assert lj.caic is caic
