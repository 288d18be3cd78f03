"""Pictures of data, of regressions by level and of inference: what is drawn is what was given, and nothing overlaps."""

from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

import lmmjax as lj

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

plots = lj.plots


@pytest.fixture(autouse=True)
def closed():
    yield
    pyplot.close("all")


@pytest.fixture(scope="module")
def sleep():
    return lj.datasets.load("sleepstudy").assign(half=lambda d: np.where(d["Days"] < 5, "early", "late"))


@pytest.fixture(scope="module")
def irrigation():
    return lj.datasets.load("irrigation")


@pytest.fixture(scope="module")
def regressions(sleep):
    return lj.lm_list("Reaction ~ Days | Subject", sleep)


@pytest.fixture(scope="module")
def profile(sleep):
    return lj.profile(lj.lm("Reaction ~ Days", sleep))


@pytest.fixture(scope="module")
def power_table():
    columns = {"subjects": [20, 10, 10, 20], "power": [0.7, 0.4, 0.2, 0.6], "test": ["F", "F", "LRT", "LRT"]}
    return pd.DataFrame(columns).assign(lower=lambda d: d["power"] - 0.05, upper=lambda d: d["power"] + 0.05)


def bootstrap_test():
    draws = np.random.default_rng(1).chisquare(1, 300)
    return SimpleNamespace(draws=draws, statistic=3.1, p_value=0.08, share_zero=0.0)


def boxes(figure) -> list:
    """Where everything that is written stands: titles, labels, ticks in view, legends."""
    figure.canvas.draw()
    found = [*figure.texts, figure._suptitle, figure._supxlabel, figure._supylabel]
    for ax in figure.axes:
        found += [ax.title, ax.xaxis.label, ax.yaxis.label]
        for axis, limits in ((ax.xaxis, sorted(ax.get_xlim())), (ax.yaxis, sorted(ax.get_ylim()))):
            found += [t.label1 for t in axis.get_major_ticks() if limits[0] <= t.get_loc() <= limits[1]]
        found += [ax.get_legend()] if ax.get_legend() else []
    shown = {id(t): t for t in found if t is not None and t.get_visible() and getattr(t, "get_text", lambda: "x")()}
    return [t.get_window_extent() for t in shown.values()]


PICTURES = {
    "series": lambda c, ax: plots.series(c.sleep, "Days", "Reaction", "Subject", ax=ax),
    "series_by": lambda c, ax: plots.series(c.sleep, "Days", "Reaction", "Subject", by="half", log=True, ax=ax),
    "slopes": lambda c, ax: plots.slopes(c.regressions, ax=ax),
    "slopes_by": lambda c, ax: plots.slopes(c.regressions, by={s: s > "340" for s in c.regressions.coef.index}, ax=ax),
    "box": lambda c, ax: plots.box(c.sleep, "Reaction", "Subject", ax=ax),
    "pairs": lambda c, ax: plots.pairs(c.sleep, ax=ax),
    "signal_to_noise": lambda c, ax: plots.signal_to_noise(c.sleep, "Reaction", "Subject", ax=ax),
    "jitter": lambda c, ax: plots.jitter(c.irrigation, "yield", "field", "variety", "irrigation", ax=ax),
    "interaction": lambda c, ax: plots.interaction(c.irrigation, "yield", "irrigation", "variety", ax=ax),
    "profile_pairs": lambda c, ax: plots.profile_pairs(c.profile, ax=ax),
    "bootstrap": lambda c, ax: plots.bootstrap(bootstrap_test(), ax=ax),
    "power": lambda c, ax: plots.power(c.power_table, "subjects", by="test", ax=ax),
}


@pytest.mark.parametrize("name", PICTURES)
def test_nothing_overlaps_and_axes_may_be_given(name, sleep, irrigation, regressions, profile, power_table):
    context = SimpleNamespace(
        sleep=sleep, irrigation=irrigation, regressions=regressions, profile=profile, power_table=power_table
    )
    own = np.ravel(np.asarray(PICTURES[name](context, None), dtype=object))
    figure = own[0].figure
    found, inside = boxes(figure), figure.bbox
    assert all(0 <= b.x0 and b.x1 <= inside.x1 + 0.5 and 0 <= b.y0 and b.y1 <= inside.y1 + 0.5 for b in found)
    assert not any(a.overlaps(b) for a, b in combinations(found, 2))
    given = pyplot.figure().subplots(1, len(own), squeeze=False)[0]
    drawn = PICTURES[name](context, given if len(own) > 1 else given[0])
    assert list(np.ravel(np.asarray(drawn, dtype=object))) == list(given)
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in given)


def test_series_are_the_rows_of_each_subject(sleep):
    shuffled = sleep.sample(frac=1, random_state=3)
    axes = plots.series(shuffled, "Days", "Reaction", "Subject", most=7)
    assert [ax.get_title() for ax in axes[:2]] == ["Subject 308", "Subject 309"]
    assert len(axes) == 7
    assert axes[0].figure.get_suptitle() == "11 of 18 panels are left out: most chooses"
    (line,) = axes[1].lines
    assert_array_equal(line.get_xdata(), range(10))
    assert_array_equal(line.get_ydata(), sleep[sleep["Subject"] == "309"]["Reaction"])
    assert axes[0].get_ylim() == axes[6].get_ylim()
    early, late = plots.series(sleep, "Days", "Reaction", "Subject", by="half", log=True)
    assert [early.get_title(), late.get_title(), len(late.lines)] == ["half early", "half late", 18]
    assert early.get_yscale() == "log"


def test_slopes_are_the_coefficients(regressions):
    group = pd.Series(np.where(regressions.coef.index > "340", "b", "a"), regressions.coef.index, name="arm")
    ax = plots.slopes(regressions, by=group)
    for line, part in zip(ax.lines, ("a", "b"), strict=True):
        own = regressions.coef[group == part]
        assert_array_equal(np.transpose(line.get_data()), own[["Intercept", "Days"]])
    assert ax.get_legend().get_title().get_text() == "arm"
    assert ax.get_xlabel() == "Intercept, effect on Reaction"
    with pytest.raises(lj.DataError, match="no group in by= for the levels '308'"):
        plots.slopes(regressions, by=group.drop("308"))
    with pytest.raises(lj.DataError, match="no coefficients of 'days'; did you mean 'Days'"):
        plots.slopes(regressions, y="days")


def test_boxes_have_the_medians_of_their_groups(irrigation):
    ax = plots.box(irrigation, "yield", "irrigation")
    groups = irrigation.groupby("irrigation", observed=True)["yield"]
    assert [t.get_text() for t in ax.get_xticklabels()] == [f"{k}\n(n = 4)" for k in ("i1", "i2", "i3", "i4")]
    drawn = [line.get_ydata()[0] for line in ax.lines if line.get_color() == "C1"]
    assert_allclose(drawn, groups.median())


def test_pairs_are_columns_against_columns(sleep):
    axes = plots.pairs(sleep)
    assert axes.shape == (2, 2)
    assert_array_equal(axes[1, 0].lines[0].get_xdata(), sleep["Reaction"])
    assert_array_equal(axes[1, 0].lines[0].get_ydata(), sleep["Days"])
    both = axes[1, 1].get_shared_x_axes().get_siblings(axes[1, 1])
    assert sum(bar.get_height() for one in both for bar in one.patches) == len(sleep)
    assert axes[0, 0].get_ylim() == axes[0, 1].get_ylim()
    assert axes[0, 0].get_xlim() == axes[1, 0].get_xlim()
    with pytest.raises(lj.DataError, match="needs two columns of numbers, not 'Days'"):
        plots.pairs(sleep, ["Days"])


def test_signal_to_noise_is_the_mean_over_the_sd():
    data = pd.DataFrame({"y": [1.0, 3, 2, 2, 5, 9, 7], "plot": list("aabbccd")})
    ax = plots.signal_to_noise(data, "y", "plot", bins=4)
    assert ax.get_title() == "y in 2 levels of plot, 2 without"
    edges = [bar.get_x() for bar in ax.patches]
    assert edges[0] == pytest.approx(2 / np.sqrt(2))
    assert edges[-1] + ax.patches[-1].get_width() == pytest.approx(7 / np.sqrt(8))
    with pytest.raises(lj.DataError, match="no level of 'plot' has two different values of 'y'"):
        plots.signal_to_noise(data.iloc[[2, 3]], "y", "plot")


def test_jitter_keeps_every_value_and_is_the_same_again(irrigation):
    first, again, other = (
        plots.jitter(irrigation, "yield", "irrigation", "variety", seed=seed).lines for seed in (0, 0, 1)
    )
    values = np.sort(np.concatenate([line.get_ydata() for line in first]))
    assert_array_equal(values, np.sort(irrigation["yield"]))
    places = np.concatenate([line.get_xdata() for line in first])
    assert np.abs(places - places.round()).max() <= 0.1
    assert_array_equal(first[0].get_xdata(), again[0].get_xdata())
    assert (first[0].get_xdata() != other[0].get_xdata()).any()
    with pytest.raises(lj.DataError, match="'Subject' has 18 levels, and there are 10 markers"):
        plots.jitter(lj.datasets.load("sleepstudy"), "Reaction", "Subject", shape="Subject")


def test_an_interaction_plot_has_the_means_of_the_cells(irrigation):
    holed = irrigation[~((irrigation["irrigation"] == "i2") & (irrigation["variety"] == "v1"))]
    lines = plots.interaction(holed, "yield", "irrigation", "variety").lines
    means = holed.groupby(["variety", "irrigation"], observed=False)["yield"].mean()
    assert [line.get_label() for line in lines] == ["v1", "v2"]
    assert_allclose(np.concatenate([line.get_ydata() for line in lines]), means)
    assert np.isnan(lines[0].get_ydata()[1])


def test_power_curves_are_sorted_with_their_bands(power_table):
    ax = plots.power(power_table, "subjects", by="test")
    assert_array_equal(ax.lines[0].get_data(), [[10, 20], [0.4, 0.7]])
    assert_array_equal(ax.lines[1].get_data(), [[10, 20], [0.2, 0.6]])
    band = ax.collections[0].get_paths()[0].vertices
    assert {0.35, 0.75} <= set(band[:, 1].round(9))
    with pytest.raises(lj.DataError, match="the table has no column 'x'"):
        plots.power(power_table)


def test_a_bootstrap_histogram_has_all_draws_and_the_observed_value():
    test = bootstrap_test()
    ax = plots.bootstrap(test)
    assert sum(bar.get_height() for bar in ax.patches) == 300
    assert ax.lines[0].get_xdata()[0] == test.statistic
    assert ax.get_title() == "observed 3.1, p = 0.08\n300 draws"
    with pytest.raises(TypeError, match="not float"):
        plots.bootstrap(3.0)


def test_a_bootstrap_has_a_panel_for_each_number(sleep):
    result = lj.bootstrap(lj.lm("Reaction ~ Days", sleep), lambda e: {"beta": e.beta, "sigma": e.sigma}, n=50)
    axes = plots.bootstrap(result, most=2)
    assert [ax.get_xlabel() for ax in axes] == ["beta[0]", "beta[1]"]
    assert axes[0].figure.get_suptitle() == "1 of 3 numbers are left out: most chooses"
    slopes = np.asarray(result.draws["beta"])[:, 1]
    assert axes[1].patches[0].get_x() == pytest.approx(slopes.min())
    assert axes[1].lines[0].get_xdata()[0] == pytest.approx(float(result.observed["beta"][1]))
    assert sum(bar.get_height() for bar in axes[1].patches) == 50


# ------------------------------------------------------------------------------------------------- profile contours


def contours(axes) -> list[np.ndarray]:
    """(points, 2) of each contour of one panel."""
    return [np.transpose(line.get_data()) for line in axes.lines[2:]]


@pytest.mark.parametrize("copies", [1, 50])
def test_contours_of_coefficients_are_those_of_the_residual_sum_of_squares(sleep, copies):
    """The deviance of a linear model with both coefficients held is n log(rss) and a constant.

    The interpolation is exact for a quadratic deviance: its error, 2.8 % of the excess at 95 %, falls as 1/n.
    """
    data = pd.concat([sleep] * copies, ignore_index=True)
    (panel,) = plots.profile_pairs(lj.profile(lj.lm("Reaction ~ Days", data), ["Intercept", "Days"]))
    assert [panel.get_xlabel(), panel.get_ylabel()] == ["Intercept", "Days"]
    X, y = np.column_stack([np.ones(len(data)), data["Days"]]), data["Reaction"].to_numpy()
    least = np.sum((y - X @ np.linalg.lstsq(X, y)[0]) ** 2)
    for level, points in zip((0.5, 0.8, 0.95), contours(panel), strict=True):
        assert len(points) > 100
        rss = np.sum((y - points @ X.T) ** 2, 1)
        assert_allclose(len(y) * np.log(rss / least), stats.chi2.ppf(level, 2), rtol=0.03 / copies)


def test_contours_of_variances_are_those_of_the_deviance():
    """In a balanced one-way layout the deviance with both standard deviations held has a closed form."""
    data = lj.datasets.load("Dyestuff")
    result = lj.profile(lj.lmer("Yield ~ 1 + (1 | Batch)", data, reml=False), ["sd_Intercept|Batch", "sigma"])
    (panel,) = plots.profile_pairs(result, levels=(0.3, 0.5))
    means = data.groupby("Batch", observed=True)["Yield"].mean()
    within = np.sum((data["Yield"] - data["Batch"].map(means).astype(float)) ** 2)
    between = 5 * np.sum((means - means.mean()) ** 2)

    def deviance(sd: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        total = sigma**2 + 5 * sd**2
        return 24 * np.log(sigma**2) + within / sigma**2 + 6 * np.log(total) + between / total

    least = deviance(*result.estimate)
    for level, points in zip((0.3, 0.5), contours(panel), strict=True):
        assert len(points) > 100
        assert_allclose(deviance(*points.T) - least, stats.chi2.ppf(level, 2), rtol=0.05)


def test_a_contour_that_meets_a_bound_is_left_out():
    """The profile of this variance ends at zero before it reaches the 99 % region."""
    fit = lj.lmer("Yield ~ 1 + (1 | Batch)", lj.datasets.load("Dyestuff"), reml=False)
    (panel,) = plots.profile_pairs(lj.profile(fit, ["sd_Intercept|Batch", "sigma"]), levels=(0.5, 0.99))
    assert [len(points) > 0 for points in contours(panel)] == [True, False]
    with pytest.raises(lj.DataError, match="a pair needs the profiles of two parameters"):
        plots.profile_pairs(lj.profile(fit, ["sigma"]))


@pytest.mark.parametrize(
    ("draw", "part"),
    [
        (lambda d: plots.box(d, "reaction", "Subject"), "no column 'reaction'; did you mean 'Reaction'"),
        (lambda d: plots.box(d, "half", "Subject"), "the column 'half' is not numeric"),
        (lambda d: plots.series(d, "Days", "Days", "Subject", log=True), "'Days' has values of zero or less"),
        (lambda d: plots.box(d.assign(Reaction=np.nan), "Reaction", "Subject"), "no row is left"),
    ],
)
def test_bad_columns_are_named(sleep, draw, part):
    with pytest.raises(lj.DataError, match=part):
        draw(sleep)
