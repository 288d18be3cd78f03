"""Pictures: what is drawn is what the fit has, labels say what it is, and nothing overlaps."""

from itertools import combinations

import numpy as np
import pytest
from scipy import signal, stats

import lmmjax as lj

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

plots = lj.plots


@pytest.fixture(scope="module")
def fit():
    return lj.lmer("Reaction ~ Days + (Days|Subject)", lj.datasets.load("sleepstudy"))


@pytest.fixture(autouse=True)
def closed():
    yield
    pyplot.close("all")


def labels(ax) -> str:
    return f"{ax.get_title()} | {ax.get_xlabel()} | {ax.get_ylabel()}"


def texts(ax):
    """Everything written: title, labels and the ticks that are in view."""
    found = [ax.title, ax.xaxis.label, ax.yaxis.label]
    for axis, limits in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
        found += [t.label1 for t in axis.get_major_ticks() if limits[0] <= t.get_loc() <= limits[1]]
    return [t for t in found if t.get_text()]


@pytest.mark.parametrize(
    "draw",
    [
        lambda fit, ax: plots.qq(fit, ax=ax),
        lambda fit, ax: plots.qq(fit, "Subject", ax=ax),
        lambda fit, ax: plots.residuals(fit, ax=ax),
        lambda fit, ax: plots.scale_location(fit, ax=ax),
        lambda fit, ax: plots.caterpillar(fit, ax=ax),
    ],
)
def test_pictures_are_labelled_and_nothing_overlaps(fit, draw):
    own = draw(fit, None)
    assert "Reaction" in labels(own)
    own.figure.canvas.draw()
    boxes = [t.get_window_extent() for t in texts(own)]
    inside = own.figure.bbox
    assert all(inside.x0 <= b.x0 and b.x1 <= inside.x1 and inside.y0 <= b.y0 and b.y1 <= inside.y1 for b in boxes)
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    given = pyplot.figure().subplots()
    assert draw(fit, given) is given


def test_quantiles_are_those_of_scipy(fit):
    values = fit.resid()
    points, line = plots.qq(values).lines
    expected = stats.probplot(values, fit=False)
    np.testing.assert_array_equal(points.get_ydata(), expected[1])
    assert np.corrcoef(points.get_xdata(), expected[0])[0, 1] > 0.9999
    assert line.get_slope() == pytest.approx(stats.iqr(values) / stats.iqr(stats.norm.ppf([0.25, 0.75])) / 2)
    scaled = plots.qq(fit).lines[0]
    np.testing.assert_allclose(scaled.get_ydata() * fit.sigma, np.sort(values))
    effects = plots.qq(fit, "Subject")
    assert [t.get_text() for t in effects.get_legend().get_texts()] == ["Intercept", "Days"]


def test_residuals_are_where_they_belong(fit):
    (_, points, means) = plots.residuals(fit, "scaled").lines
    np.testing.assert_array_equal(points.get_xdata(), fit.fitted)
    np.testing.assert_array_equal(points.get_ydata(), fit.resid("scaled"))
    assert np.mean(means.get_ydata()) == pytest.approx(np.mean(fit.resid("scaled")))
    spread = plots.scale_location(fit).lines[0]
    np.testing.assert_allclose(spread.get_ydata() ** 2, np.abs(fit.resid("scaled")))


def test_a_caterpillar_is_sorted_and_names_its_levels(fit):
    ax = plots.caterpillar(fit, "Subject", "Days", level=0.5)
    effects = fit.ranef(cond_var=True)
    days = effects["Subject"]["Days"].sort_values()
    np.testing.assert_array_equal(ax.lines[1].get_xdata(), days)
    assert [t.get_text() for t in ax.get_yticklabels()] == days.index.astype(str).tolist()
    widths = np.array([np.ptp(s[:, 0]) for s in ax.collections[0].get_segments()])
    sd = np.sqrt(effects.cond_var["Subject"][:, 1, 1])
    np.testing.assert_allclose(np.sort(widths), 2 * stats.norm.ppf(0.75) * np.sort(sd))
    assert ax.get_title() == "Days by Subject"


def test_bad_input_names_the_culprit(fit):
    with pytest.raises(lj.DataError, match="no grouping factor 'subject'; did you mean 'Subject'"):
        plots.qq(fit, "subject")
    with pytest.raises(lj.DataError, match="no effects of 'days'; did you mean 'Days'"):
        plots.caterpillar(fit, column="days")
    with pytest.raises(lj.DataError, match="has no random effects"):
        plots.caterpillar(lj.lm("Reaction ~ Days", lj.datasets.load("sleepstudy")))


@pytest.fixture(scope="module")
def idata():
    """Two chains of an autoregression, and effects; a name with a level of a nested factor is long."""
    arviz = pytest.importorskip("arviz", reason="the extra `bayes`")
    noise = np.random.default_rng(6).normal(size=(2, 500))
    sigma = 3 + signal.lfilter([1], [1, -0.8], noise)
    effects = np.random.default_rng(7).normal(size=(2, 500, 12, 2))
    levels, columns = [f"class {i}:school {i % 3}" for i in range(12)], ["Intercept", "Days"]
    dims = {"b_class:school": ["class:school", "class_column"], "beta": ["column"]}
    draws = {"b_class:school": effects, "beta": effects[:, :, 0], "sigma": sigma}
    coords = {"class:school": levels, "class_column": columns, "column": columns}
    return arviz.from_dict(posterior=draws, coords=coords, dims=dims)


DRAWS = [plots.trace, plots.acf, plots.density]


@pytest.mark.parametrize("draw", DRAWS)
def test_all_parameters_are_drawn_in_one_call(idata, draw):
    import arviz

    axes = draw(idata, most=99)
    titles = [ax.get_title().replace("\n", " ") for ax in axes]
    assert titles[:3] == ["beta[Intercept]", "beta[Days]", "sigma"]
    assert sorted(titles) == sorted(arviz.summary(idata, kind="stats").index)
    assert axes[0].figure.get_suptitle() == ""
    some = draw(idata, most=8)
    assert len(some) == 8
    figure = some[0].figure
    assert figure.get_suptitle() == "19 of 27 parameters are left out: var_names and most choose"
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["chain 0", "chain 1"]
    figure.canvas.draw()
    written = [t for ax in some for t in texts(ax)] + figure.texts + figure.legends[0].get_texts()
    boxes = [t.get_window_extent() for t in written]
    assert all(0 <= b.x0 and b.x1 <= figure.bbox.x1 and 0 <= b.y0 and b.y1 <= figure.bbox.y1 for b in boxes)
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))


def test_what_is_drawn_is_in_the_draws(idata):
    sigma = idata.posterior["sigma"].values
    (ax,) = plots.trace(idata, "sigma")
    for line, chain in zip(ax.lines, sigma, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), chain)
    (ax,) = plots.acf(idata, "sigma", lags=3)
    for line, chain in zip(ax.lines, sigma, strict=True):
        z = chain - chain.mean()
        expected = [np.sum(z[lag:] * z[: len(z) - lag]) / np.sum(z**2) for lag in range(4)]
        np.testing.assert_allclose(line.get_ydata(), expected)
    (ax,) = plots.density(idata, ["sigma"])
    for line, chain in zip(ax.lines, sigma, strict=True):
        grid, height = line.get_data()
        assert np.trapezoid(height, grid) == pytest.approx(1, abs=0.01)
        assert np.trapezoid(grid * height, grid) == pytest.approx(chain.mean(), abs=0.05)


@pytest.mark.parametrize("draw", DRAWS)
def test_axes_may_be_given(idata, draw):
    given = pyplot.figure().subplots(1, 2)
    assert list(draw(idata, "beta", ax=given)) == list(given)
    assert not given[0].figure.legends
    with pytest.raises(ValueError, match="2 axes for 1 parameters: sigma"):
        draw(idata, "sigma", ax=given)


@pytest.mark.parametrize("draw", DRAWS)
def test_bad_draws_name_the_culprit(idata, draw):
    with pytest.raises(lj.DataError, match="the posterior has no 'sigmas' but .*; did you mean 'sigma'"):
        draw(idata, ["beta", "sigmas"])
    with pytest.raises(lj.DataError, match="Dataset without a posterior: give what lj.gibbs or lj.nuts returned"):
        draw(idata.posterior)
    with pytest.raises(ValueError, match="most=0"):
        draw(idata, most=0)
