"""The criteria are densities: ML of y, REML of a basis of the residual space, for every elimination plan."""

import numpy as np
import pytest
from core_cases import (
    ALL,
    FEW,
    QUICK,
    SEEDS,
    build,
    close,
    dense_criterion,
    dense_deviance,
    float64,  # noqa: F401
    products,
    random_theta,
    singular_theta,
)
from hypothesis import given
from hypothesis import strategies as st

from lmmjax.core import criterion, deviance

REML, ML = True, False


@pytest.mark.parametrize("name", ALL)
@QUICK
@given(seed=SEEDS, weights=st.booleans(), offset=st.booleans(), orthonormal=st.booleans())
def test_criterion_is_the_density_at_its_best_sigma(name, seed, weights, offset, orthonormal):
    design = build(name, seed, weights, offset)
    cp = products(name, design, orthonormal)
    for theta in (random_theta(design, seed), singular_theta(design, seed), np.zeros(design.n_theta)):
        for reml in (REML, ML):
            close(criterion(theta, cp, reml), dense_criterion(design, theta, reml), 1e-11)


@pytest.mark.parametrize("name", FEW)
@QUICK
@given(seed=SEEDS, sigma=st.floats(0.2, 5), orthonormal=st.booleans())
def test_deviance_is_the_density_at_any_sigma(name, seed, sigma, orthonormal):
    design = build(name, seed)
    theta = random_theta(design, seed)
    cp = products(name, design, orthonormal)
    for reml in (REML, ML):
        close(deviance(theta, sigma, cp, reml), dense_deviance(design, theta, sigma, reml), 1e-11)
