"""Bad input that only a fit can see, or that must come through `lmer` and `lm` unchanged; errors name the culprit."""

import sys
from functools import partial

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

import lmmjax as lj
from lmmjax.core.compile import jit

N = 36


def frame(**columns) -> pd.DataFrame:
    """36 rows with 12 groups of 3; columns given by name replace or join."""
    rng = np.random.default_rng(8)
    g = np.repeat(np.arange(12), 3)
    base = {
        "y": 10 + rng.normal(size=12)[g] + rng.normal(size=N),
        "x": rng.normal(size=N),
        "g": [f"g{i:02d}" for i in g],
        "code": g.astype(float),
        "half": np.tile([0.0, 1.0], N // 2),
    }
    return pd.DataFrame(base | columns)


MODEL = "y ~ x + (1|g)"


# --------------------------------------------------------------------------------------------------------- the formula


def test_no_random_term():
    with pytest.raises(lj.FormulaError, match=r"'y ~ x'.*no random-effects term.*\(1 \| g\).*lm\(\)"):
        lj.lmer("y ~ x", frame())


def test_random_term_in_a_linear_model():
    with pytest.raises(lj.FormulaError, match=r"random-effects terms.*lmer\(\)"):
        lj.lm(MODEL, frame())


@pytest.mark.parametrize(
    ("formula", "match"),
    [
        ("y ~ z + (1|g)", "'z'"),
        ("y ~ lgo(x) + (1|g)", "'lgo'; did you mean 'log'"),
        ("y ~ x + 1|g", r"\(1\|g\)"),
        ("~ x + (1|g)", "no response"),
        (7, "int"),
    ],
)
@pytest.mark.parametrize("fit", [lj.lmer, lj.lm])
def test_errors_of_the_formula_pass_through(fit, formula, match):
    with pytest.raises(lj.FormulaError, match=match) as caught:
        fit(formula, frame())
    assert isinstance(caught.value, ValueError)


# ------------------------------------------------------------------------------------------------------------ the data


@pytest.mark.parametrize(
    ("change", "options", "match"),
    [
        ({"x": np.nan}, {}, "'x'"),
        ({"y": np.r_[np.inf, np.ones(N - 1)]}, {}, "'y' is not finite in 1 row"),
        ({}, {"weights": np.r_[-1.0, np.ones(N - 1)]}, "weights must be positive"),
        ({}, {"weights": np.ones(3)}, "weights has 3 values"),
        ({}, {"offset": np.ones(3)}, "offset has 3 values"),
        ({}, {"subset": "x > 100"}, "leaves no rows"),
        ({}, {"na_action": "skip"}, "'skip'"),
        ({"g": "same"}, {}, "'g' has only one level"),
        ({"g": [f"row{i}" for i in range(N)]}, {}, "number of random effects.*'g'"),
        ({"y": "text"}, {}, "'y' is not numeric"),
    ],
)
def test_errors_of_the_data_pass_through(change, options, match):
    with pytest.raises(lj.DataError, match=match):
        lj.lmer(MODEL, frame(**change), **options)


def test_no_rows():
    with pytest.raises(lj.DataError, match="empty"):
        lj.lmer(MODEL, frame().iloc[:0])


@pytest.mark.parametrize("fit", [partial(lj.lmer, MODEL), partial(lj.lm, "y ~ x")])
@pytest.mark.parametrize("value", [0.0, 3.25, -1e300])
def test_constant_response(fit, value):
    with pytest.raises(lj.DataError, match="response 'y' is constant"):
        fit(frame(y=value))


def test_response_that_is_constant_after_a_subset():
    with pytest.raises(lj.DataError, match="'y' is constant"):
        lj.lmer(MODEL, frame(y=np.r_[np.ones(18), np.arange(18.0)]), subset=np.arange(N) < 18)


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("formula", ["y ~ 1 + (1|g)", "y ~ x + (1|g)", "y ~ x + (x|g)"])
def test_response_that_is_constant_within_levels(formula, reml):
    data = frame()
    with pytest.raises(lj.DataError, match="'y'.*constant within"):
        lj.lmer(formula, data.assign(y=np.sin(data["code"])), reml=reml)


@pytest.mark.parametrize("fit", [partial(lj.lmer, MODEL), partial(lj.lm, "y ~ x")])
@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_response_that_the_fixed_effects_explain_exactly(fit, scale):
    data = frame()
    with pytest.raises(lj.DataError, match="explains 'y' exactly"):
        fit(data.assign(y=scale * (3 * data["x"] + 2)))


def test_response_of_fixed_effects_and_levels_only():
    data = frame()
    with pytest.raises(lj.DataError, match="explains 'y' exactly"):
        lj.lmer(MODEL, data.assign(y=3 * data["x"] + np.sin(data["code"])))


def test_a_small_residual_is_no_error():
    data = frame()
    y = 3 * data["x"] + 2 + 1e-5 * data["y"]
    fit, plain = lj.lmer(MODEL, data.assign(y=y)), lj.lmer("y ~ 1 + (1|g)", data)
    assert fit.certificate.optimal
    assert fit.sigma == pytest.approx(1e-5 * lj.lmer(MODEL, data).sigma, rel=1e-6)
    assert plain.certificate.optimal


def test_no_more_rows_than_columns():
    data = frame(f=[f"f{i}" for i in range(N)])
    with pytest.raises(lj.DataError, match="36 rows for 36"):
        lj.lm("y ~ f", data)


def test_as_many_random_effects_as_rows():
    """The irrigation model of the notes with (1|field:variety), refused with lme4's explanation."""
    data = lj.datasets.load("irrigation")
    with pytest.raises(lj.DataError, match=r"field:variety.*=16.*=16"):
        lj.lmer("yield ~ irrigation * variety + (1|field) + (1|field:variety)", data)


def test_slopes_with_one_row_a_level():
    data = frame().groupby("g", as_index=False).first()
    with pytest.raises(lj.DataError, match=r"\(x \| g\)"):
        lj.lmer("y ~ 1 + (x|g)", data)


# ---------------------------------------------------------------------------------------------------- no convergence


@pytest.fixture
def two_iterations(monkeypatch) -> None:
    """An optimiser that gives up at its third evaluation."""
    home = sys.modules["lmmjax.core.estimate"]
    solve = home._packed.__wrapped__
    monkeypatch.setattr(home, "newton", partial(home.newton, max_iterations=2))
    monkeypatch.setattr(home, "_packed", jit(lambda *arguments: solve(*arguments)))  # what is compiled keeps its limit


@pytest.mark.usefixtures("two_iterations")
def test_no_convergence_warns_and_says_what_to_do():
    with pytest.warns(lj.ConvergenceWarning, match=r"iteration limit.*fit\.certificate.*rescale.*simplify") as caught:
        fit = lj.lmer("y ~ x + (x|g)", frame())
    assert caught[0].filename == __file__
    assert not fit.converged
    assert not fit.certificate.optimal
    assert str(fit.certificate).startswith("not shown to be an optimum: stopped at the iteration limit")
    assert "not converged: stopped at the iteration limit" in str(fit.summary())


def test_no_convergence_of_a_refit_warns_at_the_caller(request):
    fit = lj.lmer("y ~ x + (x|g)", frame())
    request.getfixturevalue("two_iterations")
    with pytest.warns(lj.ConvergenceWarning, match="iteration limit") as caught:
        lj.refit(fit, frame()["y"] + frame()["x"] ** 2)
    assert caught[0].filename == __file__


# ------------------------------------------------------------------------------------------------- other number types


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ">f8", "Float64"])
def test_other_floats_are_accepted(dtype):
    data = frame().round(1)
    data = data.astype({"y": np.float32, "x": np.float32}) if dtype == np.float32 else data
    other = data.astype({"y": dtype, "x": dtype})
    fit = lj.lmer(MODEL, other, weights=np.ones(N, dtype=np.float32))
    same = lj.lmer(MODEL, other.astype({"y": float, "x": float}))
    assert fit.loglik == pytest.approx(same.loglik, rel=1e-12)
    assert_allclose(fit.fixef, same.fixef, rtol=1e-10)
    assert fit.design.X.dtype == fit.design.y.dtype == fit.fitted.dtype == np.float64


def test_integers_are_numbers():
    data = frame(y=np.random.default_rng(2).poisson(5, N), x=np.arange(N) % 7)
    fit = lj.lmer(MODEL, data)
    assert_allclose(fit.fixef, lj.lmer(MODEL, data.astype({"y": float, "x": float})).fixef)
