"""Printed summaries: line by line what lme4 prints, the digits of the lecture notes, R's format(), the HTML form."""

import os
import re
from functools import cache
from html.parser import HTMLParser

import numpy as np
import pytest
import references
from catalogue import Model, dataset, patsy_names

import lmmjax as lj
from lmmjax.tables import format_numbers

SUMMARIES = references.bundled()["summaries"]
PRINTED = references.bundled("inference_reference.json")["printed"]


@cache
def fitted(name: str, reml: bool = True) -> lj.Fit:
    """A model of the bundled reference."""
    return Model("bundled", name).fit(reml)


# ------------------------------------------------------------------------------------------------ R's lines, normalised


def as_ours(lines: list[str], fit: lj.Fit, coef_names: list[str]) -> list[str]:
    """R's printed lines with our names, and without what is R's own.

    Left out: the class after the title, the Data line, breaks at width 80, blanks at the ends of lines, blanks inside
    the formula, everything after the coefficients. Names change, and with them the width of the column they stand in.
    """
    text = "\n".join(line.rstrip() for line in lines)
    text = re.sub(r" +\['lmerMod'\]", "", text)
    text = re.sub(r"\n +Data: \w+", "", text)
    text = re.sub(r"(Formula:|groups:)\n", lambda m: m[1] + (" " if m[1] == "Formula:" else "  "), text)
    head, random, fixed = re.split(r"\n(?=Random effects:|Fixed effects:)", text)
    random = _renamed(random, "Name", "Variance", {"(Intercept)": "Intercept"})
    fixed = _renamed(fixed.split("\noptimizer")[0].rstrip(), "", "Estimate", patsy_names(fit, coef_names))
    return _spaceless_formula([*head.splitlines(), *random.splitlines(), *fixed.splitlines()])


def _renamed(block: str, column: str, following: str, names: dict[str, str]) -> str:
    """A table with other names in the column that ends where `following` begins; the first line is its title."""
    title, header, *lines = block.splitlines()
    start = header.index(column) if column else 0
    stop = re.search(rf" *{following}", header).start() if not column else header.index(following) - 1
    if not column:  # right-aligned headers: the names fill what the longest of them needs
        stop = max(map(len, names))
    rows = [line for line in [header, *lines] if not line.startswith("Number of obs") and line]
    cells = [row[start:stop].strip() for row in rows]
    cells = [names.get(cell, cell) for cell in cells]
    width = max(map(len, cells))
    rows = [row[:start] + cell.ljust(width) + row[stop:] for row, cell in zip(rows, cells, strict=True)]
    return "\n".join([title, *(row.rstrip() for row in rows), *(line for line in lines if line.startswith("Number"))])


def _spaceless_formula(lines: list[str]) -> list[str]:
    return [line.replace(" ", "") if line.startswith("Formula:") else line for line in lines]


@pytest.mark.parametrize("name", SUMMARIES)
def test_lines_are_those_of_lme4(name):
    printed = SUMMARIES[name]
    reml = printed["kind"] == "REML"
    fit = fitted(printed["model"], reml)
    r = Model("bundled", printed["model"]).r(reml)
    ours = _spaceless_formula([line for line in str(fit.summary()).splitlines() if line])
    theirs = [line for line in as_ours(printed["polished"], fit, r["coef_names"]) if line]
    if r["singular"]:
        assert ours.pop().startswith("boundary (singular) fit: ")
    if printed["model"] == "irrigation_full_sum":  # σ̂² is 2.1075 exactly: the last bit decides whether 2.107 or 2.108
        assert fit.sigma**2 == pytest.approx(2.1075, rel=1e-9)
        ours = [line.replace(" 2.108 ", " 2.107 ") for line in ours]
    assert ours == theirs


def lmertest_lines() -> list[tuple[str, bool, str, list[str]]]:
    """(model, whether REML, ddf, lines) of what lmerTest prints."""
    printed = {k: v for k, v in SUMMARIES.items() if "lmerTest" in v}
    found = [(v["model"], v["kind"] == "REML", "satterthwaite", v["lmerTest"]) for v in printed.values()]
    return found + [(name, True, "kenward-roger", lines) for name, lines in PRINTED.items()]


@pytest.mark.parametrize(
    ("name", "reml", "ddf", "lines"), lmertest_lines(), ids=lambda v: v if isinstance(v, str) else ""
)
def test_coefficients_are_printed_as_by_lmertest(name, reml, ddf, lines):
    fit = fitted(name, reml)
    names = patsy_names(fit, Model("bundled", name).r(reml)["coef_names"])
    start = lines.index("Fixed effects:")
    stop = next((i for i, line in enumerate(lines) if line.startswith("Correlation")), len(lines))
    theirs = [line.replace("‘", "'").replace("’", "'").rstrip() for line in lines[start:stop] if line]
    ours = str(fit.summary(ddf)).splitlines()
    assert ours[0].startswith(lines[0].replace(" .", ".").removesuffix("[").rstrip())  # R breaks the line at width 80
    ours = ours[ours.index("Fixed effects:") :]
    for one, other in zip(ours, theirs, strict=True):
        first, *rest = other.split()
        assert one.split() == [names.get(first, first), *rest]


def test_sections_are_apart():
    text = str(fitted("pulp_sum").summary())
    sections = text.split("\n\n")
    assert [s.split(":")[0].split(" fit")[0] for s in sections] == [
        "Linear mixed model",
        "REML criterion at convergence",
        "Scaled residuals",
        "Random effects",
        "Fixed effects",
    ]
    assert repr(fitted("pulp_sum")) == text
    assert not any(line.endswith(" ") for line in text.splitlines())


# --------------------------------------------------------------------------------------------- the digits of the notes


def numbers(text: str) -> list[str]:
    """All numbers in a text, as printed."""
    return re.findall(r"(?<![\w.])-?\d+\.\d+", text)


def test_pulp():
    fit = fitted("pulp_sum")
    text = str(fit.summary())
    for digits in ("18.6", "0.06808", "0.2609", "0.10625", "0.3260", "60.4000", "0.1494", "404.2"):
        assert digits in numbers(text)
    for digits in ("-1.4666", "-0.7595", "-0.1244", "0.6281", "1.6012"):
        assert digits in numbers(text)
    null = lj.lm("bright ~ 1", dataset("bundled", "pulp"))
    ml = fitted("pulp_sum", reml=False)
    assert f"{2 * (ml.loglik - null.loglik):.6f}" == "2.568371"


def as_arm_displays(fit: lj.Fit, ml: lj.Fit) -> list[str]:
    """AIC, DIC and deviance of a REML fit as R's arm::display prints them: the deviance is that of the ML refit."""
    return [f"{v:.1f}" for v in (fit.aic, fit.dic, ml.deviance)]


def test_irrigation():
    fit, ml = fitted("irrigation_full_sum"), fitted("irrigation_full_sum", reml=False)
    assert [f"{v:.2f}" for v in fit.varcorr["sdcor"]] == ["4.02", "1.45"]
    assert as_arm_displays(fit, ml) == ["76.5", "80.7", "68.6"]
    assert fit.fixef.tolist() == pytest.approx([40.225, -1.425, -0.425, -0.825, -0.375, 0.075, 0.275, 0.175], abs=1e-9)
    se = np.sqrt(np.diag(fit.vcov))
    assert [f"{v:.2f}" for v in se] == ["1.47", "2.54", "2.54", "2.54", "0.36", "0.63", "0.63", "0.63"]


def test_eggs():
    fit = fitted("eggs")
    assert [f"{v:.2f}" for v in fit.varcorr["sdcor"]] == ["0.06", "0.08", "0.08", "0.08"]
    assert fit.varcorr["group"].tolist() == ["Lab:Technician:Sample", "Lab:Technician", "Lab", "Residual"]
    assert as_arm_displays(fit, fitted("eggs", reml=False)) == ["-54.2", "-73.3", "-68.8"]
    assert [f"{fit.fixef.iloc[0]:.2f}", f"{np.sqrt(fit.vcov.iloc[0, 0]):.2f}"] == ["0.39", "0.04"]


def test_psid(monkeypatch):
    if "LMMJAX_DATA_DIR" not in os.environ:
        monkeypatch.setenv("LMMJAX_DATA_DIR", str(references.shared_data("psid.csv").parent))
    data = lj.datasets.load("psid")
    data["cyear"] = data["year"] - 78
    fit = lj.lmer("log(income) ~ cyear*sex + age + educ + (cyear|person)", data, contrasts={"sex": "sum"})
    intercept, slope, residual = fit.varcorr["sdcor"][fit.varcorr["name2"].isna()]
    (correlation,) = fit.varcorr["sdcor"][fit.varcorr["name2"].notna()]
    found = [f"{v:.3f}" for v in (intercept, slope, correlation, residual)]
    assert found == ["0.531", "0.049", "0.187", "0.684"]
    assert [f"{v:.3f}" for v in fit.fixef] == ["7.249", "0.072", "-0.575", "0.011", "0.104", "0.013"]
    assert [f"{v:.3f}" for v in np.sqrt(np.diag(fit.vcov))] == ["0.540", "0.006", "0.061", "0.014", "0.021", "0.006"]
    ml = lj.lmer(fit.schema.formula, data, reml=False, contrasts={"sex": "sum"})
    assert as_arm_displays(fit, ml) == ["3842.5", "3748.4", "3785.5"]


# ------------------------------------------------------------------------------------------------- tables of a summary


def test_coefficients_and_varcorr_of_a_summary():
    fit = fitted("sleep_slope")
    summary = fit.summary()
    assert list(summary.coefficients) == ["estimate", "se", "t"]
    assert summary.coefficients["estimate"].tolist() == fit.fixef.tolist()
    assert np.allclose(summary.coefficients["t"], fit.fixef / np.sqrt(np.diag(fit.vcov)), rtol=1e-14)
    assert list(summary.varcorr) == ["group", "name1", "name2", "vcov", "sdcor"]


MACHINES = """
Random effects:
 Groups   Name        Variance Std.Dev. Corr
 Worker   (Intercept) 16.6405  4.0793
          MachineB    34.5467  5.8776    0.48
          MachineC    13.6150  3.6899   -0.37  0.30
 Residual              0.9246  0.9616
"""


def test_correlations_stand_beside_their_group():
    names = {"(Intercept)": "Intercept", "MachineB": "Machine[T.B]", "MachineC": "Machine[T.C]"}
    block = str(fitted("machines_slope").summary()).split("\n\n")[3].splitlines()
    assert block[:-1] == _renamed(MACHINES.strip(), "Name", "Variance", names).splitlines()


def test_no_fixed_effects():
    text = str(fitted("sleep_p0").summary())
    assert "Fixed effects" not in text
    assert text.endswith("Number of obs: 180, groups:  Subject, 18")


def test_linear_model():
    text = str(lj.lm("bright ~ 1", dataset("bundled", "pulp")))
    assert text.startswith("Linear model\nFormula: bright ~ 1")
    assert "Number of obs: 20" in text
    assert "groups" not in text.replace("Groups", "")


# ----------------------------------------------------------------------------------------------------------------- HTML


class Tags(HTMLParser):
    """Reads HTML, keeps its text, and complains about tags that do not close."""

    VOID = {"br", "hr"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.cells.append(data.strip())


@pytest.mark.parametrize("name", ["sleep_slope", "dyestuff2", "sleep_p0", "machines_slope"])
def test_html(name):
    fit, tags = fitted(name), Tags()
    html = fit._repr_html_()
    tags.feed(html)
    tags.close()
    assert tags.open == []
    assert html == fit.summary()._repr_html_()
    shown = " ".join(tags.cells)
    body = [line for line in str(fit.summary()).splitlines() if "esiduals" not in line]
    at = next(i for i, line in enumerate(body) if line.startswith("Random effects"))
    for number in numbers("\n".join(body[at:])):
        assert number in tags.cells or number in shown
    assert ("boundary" in shown) == fit.is_singular


def test_html_escapes():
    data = dataset("bundled", "pulp").assign(x=np.arange(20.0))
    html = lj.lm("bright ~ I(x < 5)", data)._repr_html_()
    assert "x &lt; 5" in html
    assert "x < 5" not in html


# --------------------------------------------------------------------------------------------------------- R's format()

FORMATTED = """
1 2 3 => 1 2 3
0.068079 0.10625 => 0.06808 0.10625
612.0898 35.07165 654.9410 => 612.09 35.07 654.94
60.4 => 60.4
404.1993 => 404.2
251.4051 10.46729 => 251.41 10.47
1e-10 1 => 1e-10 1e+00
1.5e-8 => 1.5e-08
123456789 => 123456789
1e5 => 1e+05
100000 1 => 1e+05 1e+00
0 0 => 0 0
0 13.81 => 0.00 13.81
-1.5 22.25 => -1.50 22.25
0.00001234 => 1.234e-05
1234.5678 0.001 => 1234.568 0.001
99999.5 => 1e+05
9999.5 => 10000
0.99995 => 1
3.14159e10 2 => 3.142e+10 2.000e+00
-0.00003 5e-5 => -3e-05 5e-05
1e-4 => 1e-04
2.379365 -3.649206 8.347822 0.002095238 => 2.379365 -3.649206 8.347822 0.002095
0.3875 0.04296459 => 0.38750 0.04296
1e100 => 1e+100
12345.678 => 12346
0.30000000000000004 => 0.3
33.333333 1e6 => 3.333e+01 1.000e+06
150000 2.5 => 1.5e+05 2.5e+00
123456.7 => 123457
"""


@pytest.mark.parametrize("line", FORMATTED.strip().splitlines())
def test_numbers_are_formatted_as_by_r(line):
    """The right sides are R 4.2.2's format(c(…), digits = 4)."""
    values, expected = (side.split() for side in line.split("=>"))
    assert format_numbers([float(v) for v in values]) == expected


def test_numbers_that_are_missing_or_none():
    assert format_numbers([np.nan, 1.25]) == ["", "1.25"]
    assert format_numbers([]) == []
