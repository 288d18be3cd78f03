"""Tests reject what is true as often as they say: a small share of the benchmark `calibration`, with its seeds."""

import json
from typing import Any

import numpy as np
import pytest
import references
from scipy.special import fdtr

N = 2000


@pytest.fixture(scope="module")
def calibration() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(references.ROOT))
        yield pytest.importorskip("benchmarks.calibration", reason="benchmarks/ is not in this copy")


def standard_errors(p: np.ndarray, alpha: float) -> float:
    """How many Monte Carlo standard errors the rejection rate lies above alpha."""
    assert np.isfinite(p).all()
    return (np.mean(p <= alpha) - alpha) / np.sqrt(alpha * (1 - alpha) / len(p))


@pytest.fixture(scope="module")
def of_irrigation(calibration: Any) -> dict[str, np.ndarray]:
    return calibration.models.of_fixed_effects(calibration.SPLIT_PLOT, calibration.IRRIGATION, N)


@pytest.mark.parametrize("alpha", (0.05, 0.01))
def test_kenward_roger_holds_its_level_in_the_split_plot(of_irrigation: Any, alpha: float) -> None:
    assert abs(standard_errors(of_irrigation["F, Kenward-Roger"], alpha)) < 3


def test_tests_that_take_the_variances_for_known_do_not(of_irrigation: Any) -> None:
    """Four degrees of freedom between the fields, and three of them tested: χ² rejects four times too often."""
    for method, least in (("LRT, χ²", 30), ("Wald χ²", 25), ("F, residual df", 10)):
        assert standard_errors(of_irrigation[method], 0.05) > least, method


@pytest.fixture(scope="module")
def of_pulp(calibration: Any) -> dict[str, np.ndarray]:
    return calibration.models.of_one_variance(calibration.ONE_VARIANCE[0], N)


@pytest.mark.parametrize("alpha", (0.05, 0.01))
@pytest.mark.parametrize("method", ("RLRT, exact", "LRT, bootstrap"))
def test_simulated_null_distributions_of_a_variance_hold_their_level(of_pulp: Any, method: str, alpha: float) -> None:
    assert abs(standard_errors(of_pulp[method], alpha)) < 3


def test_chi_squared_is_conservative_for_a_variance(of_pulp: Any) -> None:
    """And even its mixture, with four levels."""
    assert standard_errors(of_pulp["RLRT, χ²"], 0.05) < -5
    assert standard_errors(of_pulp["RLRT, mixture"], 0.05) < -2


def test_the_estimated_variance_is_zero_as_often_as_it_should_be(of_pulp: Any) -> None:
    """By REML iff F on 3 and 16 degrees of freedom is at most 1."""
    share = fdtr(3, 16, 1.0)
    assert abs(np.mean(of_pulp["RLRT, mixture"] == 1) - share) < 3 * np.sqrt(share * (1 - share) / N)


def test_the_documentation_shows_the_committed_rates(calibration: Any) -> None:
    from benchmarks.harness import Row

    folder = references.ROOT / "benchmarks" / "results"
    rows = [Row(**r) for r in json.loads((folder / "calibration.json").read_text(encoding="utf-8"))["rows"]]
    for page, kinds in calibration.TABLES.items():
        text = (references.ROOT / "docs" / page).read_text(encoding="utf-8")
        for kind in kinds:
            assert calibration.replaced(text, kind, calibration.table(rows, kind)) == text
