"""The pulp analysis as one HTML page with its pictures: `make demo` ends with it."""

import base64
import io
from html import escape
from pathlib import Path

import matplotlib

import lmmjax as lj

matplotlib.use("agg")
PAGE = Path(__file__).resolve().parent / "figures" / "pulp.html"
STYLE = "body{font:16px/1.5 sans-serif;max-width:46em;margin:2em auto}td,th{padding:.1em .7em;text-align:right}"


def picture(axes, alternative: str) -> str:
    """An <img> that holds a figure."""
    file = io.BytesIO()
    axes.figure.savefig(file, format="png", dpi=110)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{escape(alternative)}" style="max-width:100%">'


pulp = lj.datasets.load("pulp")
fit = lj.lmer("bright ~ 1 + (1 | operator)", pulp)
null = lj.lm("bright ~ 1", pulp)
ratio, exact = lj.lrt(null, fit), lj.exact_rlrt(fit, n=100_000, seed=1)
f_test = lj.aov("bright ~ operator", pulp).table
parts = [
    "<h1>Does the brightness of paper pulp depend on the shift operator?</h1>",
    "<p>Four operators made five sheets each. The operators are a sample, so their effects are random.</p>",
    picture(lj.plots.box(pulp, "bright", "operator"), "brightness by operator"),
    "<h2>The fit</h2>",
    fit.summary()._repr_html_(),
    f"<p>Of the variance, {lj.icc(fit)['estimate'].iloc[0]:.0%} lies between operators (intraclass correlation).</p>",
    "<h2>Intervals by profile likelihood</h2>",
    lj.confint(fit).round(3).to_html(border=0),
    "<h2>Is there a difference between operators?</h2>",
    f"<p>Likelihood ratio {ratio.statistic:.3f}, p = {ratio.p_value:.3f} by the mixture for a variance at zero; "
    f"exact restricted test p = {exact.p_value:.3f} (100,000 draws); analysis of variance:</p>",
    f_test.round(4).to_html(border=0, na_rep=""),
    "<h2>The operators</h2>",
    picture(lj.plots.caterpillar(fit), "effects of the operators with intervals"),
    picture(lj.plots.qq(fit), "normal quantiles of the residuals"),
]
PAGE.parent.mkdir(exist_ok=True)
body = "\n".join(parts)
PAGE.write_text(
    f"<!doctype html><html lang=en><meta charset=utf-8><title>pulp</title><style>{STYLE}</style>{body}</html>\n",
    encoding="utf-8",
)
print(f"One page with pictures: {PAGE}")
