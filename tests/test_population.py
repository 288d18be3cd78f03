"""Models from parameters: they are what was given, their draws have the laws they should have, and copies agree."""

import pickle
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import lmmjax as lj
from lmmjax.formula import rebuild


def sleep() -> pd.DataFrame:
    return lj.datasets.load("sleepstudy")


def square(x):
    return x**2


FITS: dict[str, Callable[[], lj.Fit]] = {
    "vector": lambda: lj.lmer("Reaction ~ Days + (Days | Subject)", sleep()),
    "transforms": lambda: lj.lmer(
        "np.log(Reaction) ~ center(Days) + square(Days) + (1 | Subject)", sleep(), reml=False
    ),
    "diagonal": lambda: lj.lmer("Reaction ~ Days + (Days || Subject)", sleep()),
    "nested": lambda: lj.lmer("strength ~ 1 + (1 | batch/cask)", lj.datasets.load("Pastes")),
    "crossed": lambda: lj.lmer("diameter ~ 1 + (1 | plate) + (1 | sample)", lj.datasets.load("Penicillin")),
    "weights": lambda: lj.lmer("Reaction ~ Days + (1 | Subject)", sleep(), weights=np.linspace(1, 2, 180)),
    "offset": lambda: lj.lmer("Reaction ~ Days + offset(2 * Days) + (1 | Subject)", sleep(), weights="Days + 1"),
    "subset": lambda: lj.lmer("Reaction ~ C(Days) + (1 | Subject)", sleep(), subset="Days > 5", contrasts="sum"),
    "template": lambda: lj.lmer("Reaction ~ Days + (Days | Subject)", sleep(), covariance={"Subject": "ar1"}),
    "ar1": lambda: lj.lmer("Reaction ~ Days + (1 | Subject)", sleep(), residual=lj.ar1("Days", "Subject")),
    "gls": lambda: lj.gls("Reaction ~ Days", sleep(), lj.cs("Subject") * lj.var_ident("Subject")),
    "lm": lambda: lj.lm("Reaction ~ Days", sleep()),
}
fits = pytest.mark.parametrize("make", FITS.values(), ids=FITS.keys())


@fits
def test_a_pickled_fit_is_the_fit(make) -> None:
    fit = make()
    again = pickle.loads(pickle.dumps(fit))
    assert again.summary().text == fit.summary().text
    assert_array_equal(lj.simulate(again, 2, seed=3), lj.simulate(fit, 2, seed=3))
    assert_array_equal(lj.refit(again, fit.design.y[::-1]).fixef, lj.refit(fit, fit.design.y[::-1]).fixef)
    assert list(again.schema.index) == list(fit.schema.index)
    assert again.schema.n_dropped == fit.schema.n_dropped


@fits
def test_a_rebuilt_design_is_the_design(make) -> None:
    fit = make()
    schema, design = rebuild(fit.schema, fit.schema.frame)
    assert schema.fixed_names == fit.schema.fixed_names
    assert_array_equal(design.X, fit.design.X)
    assert_array_equal(design.y, fit.design.y)
    for a, b in ((design.weights, fit.design.weights), (design.offset, fit.design.offset)):
        assert (a is None) == (b is None)
        assert a is None or np.array_equal(a, b)
    for one, other in zip(design.terms, fit.design.terms, strict=True):
        assert_array_equal(one.codes, other.codes)
        assert_array_equal(one.x, other.x)


@fits
def test_at_its_own_estimates_a_fit_draws_the_same(make) -> None:
    fit = make()
    population = lj.with_parameters(fit, {})
    assert isinstance(population, lj.Population)
    for one, other in zip(population.templates, fit.templates, strict=True):
        assert_allclose(one @ one.T, other @ other.T, rtol=1e-7, atol=1e-9)
    if make is not FITS["template"]:  # whose T may have the other sign
        assert_allclose(lj.simulate(population, 3, seed=1), lj.simulate(fit, 3, seed=1), rtol=1e-7)


def test_parameters_are_what_was_given() -> None:
    wanted = {"Intercept": 250.0, "Days": -3.0, "sd_Intercept|Subject": 20.0, "sd_Days|Subject": 0.0, "sigma": 5.0}
    wanted["cor_Days.Intercept|Subject"] = 0.0
    made = lj.make_lmer("Reaction ~ Days + (Days | Subject)", sleep().drop(columns="Reaction"), wanted)
    assert made.truth.to_dict() == pytest.approx(wanted)
    assert made.fixef.to_dict() == {"Intercept": 250.0, "Days": -3.0}
    assert made.sigma == 5
    assert "Population" in repr(made)
    changed = lj.with_parameters(made, {"sd_Days|Subject": 4.0, "cor_Days.Intercept|Subject": -1.0})
    covariance = changed.templates[0] @ changed.templates[0].T * 25
    assert_allclose(covariance, [[400, -80], [-80, 16]], atol=1e-9)


def test_draws_have_the_covariance_of_the_parameters() -> None:
    """20,000 responses against V from the parameters, cell by cell."""
    data = {"x": [0.0, 1, 2, 0, 1, 2], "g": [0, 0, 0, 1, 1, 1], "t": [0, 1, 2, 0, 1, 2]}
    given = {"Intercept": 1, "x": 2, "sd_Intercept|g": 2, "sd_x|g": 1, "cor_x.Intercept|g": 0.5, "sigma": 1.5}
    made = lj.make_lmer("y ~ x + (x | g)", data, given | {"Phi|g": 0.6}, residual=lj.ar1("t", "g"))
    y = lj.simulate(made, 20_000, seed=4)
    z = np.column_stack([np.ones(3), np.arange(3)])
    block = z @ np.array([[4, 1], [1, 1]]) @ z.T + 2.25 * 0.6 ** np.abs(np.subtract.outer(range(3), range(3)))
    v = np.kron(np.eye(2), block)
    error = np.sqrt((v**2 + np.outer(np.diag(v), np.diag(v))) / len(y))
    assert np.abs((np.cov(y.T) - v) / error).max() < 4.5
    assert np.abs((y.mean(0) - 1 - 2 * np.array(data["x"])) / np.sqrt(np.diag(v) / len(y))).max() < 4


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"Day": 1}, "no parameter 'Day'; .* did you mean 'Days'"),
        ({"sigma": 0}, "sigma=0.0: give a positive"),
        ({"sigma": np.nan}, "give a finite number"),
        ({"sd_Days|Subject": -1}, "no standard deviation"),
        ({"cor_Days.Intercept|Subject": 1.2}, "no correlation"),
    ],
)
def test_bad_parameters(change: dict, text: str) -> None:
    with pytest.raises(lj.DataError, match=text):
        lj.with_parameters(FITS["vector"](), change)


def test_parameters_that_are_absent_or_cannot_be() -> None:
    with pytest.raises(lj.DataError, match="without a value: 'sd_Intercept|g', 'sigma'"):
        lj.make_lmer("y ~ 1 + (1 | g)", {"g": [1, 1, 2, 2]}, {"Intercept": 0})
    three = {"a": np.arange(30) % 2, "b": np.arange(30) % 3, "g": np.repeat(np.arange(6), 5)}
    given = {"Intercept": 0, "sigma": 1} | {f"sd_{c}|g": 1 for c in ("Intercept", "a", "b")}
    given |= {"cor_a.Intercept|g": 0.9, "cor_b.Intercept|g": 0.9, "cor_b.a|g": -0.9}
    with pytest.raises(lj.DataError, match="not positive semi-definite"):
        lj.make_lmer("y ~ 1 + (a + b | g)", three, given)
    with pytest.raises(lj.DataError, match="cannot have the covariance"):
        lj.with_parameters(FITS["template"](), {"sd_Days|Subject": 1.0, "sd_Intercept|Subject": 20.0})


# ------------------------------------------------------------------------------------------------------------- extend


def test_more_levels_leave_the_first_rows_alone() -> None:
    fit = FITS["vector"]()
    larger, smaller = lj.extend(fit, along="Subject", n=40), lj.extend(fit, along="Subject", n=7)
    assert (larger.nobs, smaller.nobs) == (400, 70)
    assert len(larger.schema.groups[0].levels) == 40
    drawn = lj.simulate(fit, 4, seed=2)
    assert_allclose(lj.simulate(larger, 4, seed=2)[:, :180], drawn, rtol=1e-9)
    assert_allclose(lj.simulate(smaller, 4, seed=2), drawn[:, :70], rtol=1e-9)
    assert_allclose(larger.truth, lj.with_parameters(fit, {}).truth, rtol=1e-9)


def test_levels_nested_in_copies_are_new() -> None:
    pastes = lj.datasets.load("Pastes")
    for formula in ("strength ~ 1 + (1 | batch/cask)", "strength ~ 1 + (1 | batch) + (1 | sample)"):
        larger = lj.extend(lj.lmer(formula, pastes), along="batch", n=25)
        assert sorted(len(g.levels) for g in larger.schema.groups) == [25, 75]
        assert larger.nobs == 150
    only = lj.extend(lj.lmer("strength ~ 1 + (1 | batch) + (1 | sample)", pastes), along="sample", n=45)
    assert sorted(len(g.levels) for g in only.schema.groups) == [10, 45]


def test_terms_that_change_places_keep_their_parameters() -> None:
    fit = FITS["crossed"]()
    larger = lj.extend(fit, along="sample", n=30)
    assert [g.group for g in larger.schema.groups] == ["sample", "plate"] != [g.group for g in fit.schema.groups]
    assert_allclose(larger.truth[fit_names(fit)], lj.with_parameters(fit, {}).truth[fit_names(fit)], rtol=1e-9)


def fit_names(fit: lj.Fit) -> list[str]:
    return [*(f"sd_Intercept|{g.group}" for g in fit.schema.groups), "sigma", *fit.fixef.index]


def test_longer_series_and_fuller_groups() -> None:
    fit = FITS["vector"]()
    longer = lj.extend(fit, along="Days", n=14)
    days = longer.schema.frame.groupby("Subject", observed=True)["Days"]
    assert (days.max() == 13).all()
    assert (days.nunique() == 14).all()
    assert lj.extend(fit, along="Days", n=4).nobs == 72
    fuller = lj.extend(fit, within=["Subject", "Days"], n=3)
    assert (fuller.schema.frame.groupby(["Subject", "Days"], observed=True).size() == 3).all()
    assert (lj.extend(fit, within="Subject", n=6).schema.frame.groupby("Subject", observed=True).size() == 6).all()
    residual = lj.extend(FITS["ar1"](), along="Subject", n=20)
    assert residual.nobs == 200
    assert_allclose(residual.phi, FITS["ar1"]().phi, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"n": 3}, ValueError, "either along= or within="),
        ({"along": "Subject", "within": "Days", "n": 3}, ValueError, "either along= or within="),
        ({"along": "Subject", "n": 0}, ValueError, "n=0"),
        ({"along": "Subjekt", "n": 3}, lj.DataError, "no column 'Subjekt'.*did you mean 'Subject'"),
        ({"along": "Days", "n": 1}, lj.DataError, "cannot be told apart"),
    ],
)
def test_bad_extensions(arguments: dict, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        lj.extend(FITS["vector"](), **arguments)


def test_columns_that_cannot_grow_and_get_lost() -> None:
    three = lj.lmer("y ~ arm + (1 | g)", arms().assign(arm=lambda d: np.array(list("aabbcc"))[d["g"]]))
    with pytest.raises(lj.DataError, match=r"fixed effects 'arm\[T.c\]' cannot be estimated"):
        lj.extend(three, along="g", n=4)
    with pytest.raises(lj.DataError, match="neither a grouping factor of the model nor a number"):
        lj.extend(lj.lmer("y ~ arm + (1 | g)", arms()), along="arm", n=4)
    uneven = arms().assign(dose=np.tile([0.0, 1, 3, 4], 6))
    with pytest.raises(lj.DataError, match="not in equal steps"):
        lj.extend(lj.lmer("y ~ dose + (1 | g)", uneven), along="dose", n=9)


def arms() -> pd.DataFrame:
    g = np.repeat(np.arange(6), 4)
    return pd.DataFrame({"y": np.sin(np.arange(24.0)) + g, "arm": np.array(["a", "b"])[g % 2], "g": g})


# ------------------------------------------------------------------------------------------------ ready-made designs


@pytest.mark.parametrize(
    ("made", "sizes", "columns"),
    [
        (lambda: lj.designs.one_way(groups=3, size=[2, 3, 4]), [3], ["Intercept"]),
        (
            lambda: lj.designs.one_way(groups=6, treatments=3, effect=2.0),
            [6],
            {"treatment[T.t2]": 1.0, "treatment[T.t3]": 2.0},
        ),
        (lambda: lj.designs.paired(9, effect=0.5), [9], {"treatment[T.t2]": 0.5}),
        (lambda: lj.designs.nested(4, 3, 2), [12, 4], ["Intercept"]),
        (lambda: lj.designs.crossed(5, 4, 2), [5, 4], ["Intercept"]),
        (
            lambda: lj.designs.split_plot(6, 2, 3, interaction=2.0),
            [6],
            {"whole[T.w2]:sub[T.s2]": 1.0, "whole[T.w2]:sub[T.s3]": 2.0},
        ),
        (lambda: lj.designs.longitudinal(8, 4, arms=2, effect=0.3), [8], {"time:arm[T.a2]": 0.3, "arm[T.a2]": 0.0}),
        (lambda: lj.designs.longitudinal(8, 4, sd_slope=0, rho=0.4), [8], {"time": 0.0}),
    ],
)
def test_designs(made, sizes: list[int], columns) -> None:
    population = made()
    assert [len(g.levels) for g in population.schema.groups] == sizes
    values = columns if isinstance(columns, dict) else {}
    assert set(columns) <= set(population.fixef.index)
    assert {name: population.fixef[name] for name in values} == values


def test_bad_designs() -> None:
    with pytest.raises(ValueError, match="groups=0"):
        lj.designs.one_way(groups=0)
    with pytest.raises(ValueError, match="one for each of the 6 groups"):
        lj.designs.one_way(groups=6, size=[1, 2])
    with pytest.raises(lj.DataError, match="no standard deviation"):
        lj.designs.paired(sd=-1)
