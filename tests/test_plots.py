"""Pictures: what is drawn is what the fit has, labels say what it is, and nothing overlaps."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

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
