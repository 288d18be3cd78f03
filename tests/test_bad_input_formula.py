"""Bad formulas and data: an error of the package that names the culprit, never one of patsy, pandas or Python."""

import numpy as np
import pandas as pd
import patsy
import pytest

from lmmjax.errors import DataError, FormulaError
from lmmjax.formula import build, parse

N = 24


def frame(**columns) -> pd.DataFrame:
    """24 rows with 8 groups; columns given by name replace or join."""
    rng = np.random.default_rng(3)
    base = {
        "y": rng.normal(size=N),
        "x": rng.normal(size=N),
        "g": np.repeat(list("abcdefgh"), 3),
        "k": np.tile([1, 2, 3], 8),
        "f": np.tile(["p", "q"], 12),
        "one": "same",
        "with.dot": 1.0,
    }
    return pd.DataFrame(base | columns)


def spoiled(column: str, value: float, row: int = 4) -> pd.DataFrame:
    d = frame()
    d.loc[row, column] = value
    return d


TEXTS = [
    ("y", "no response"),
    ("~ x + (1|g)", "no response"),
    ("", "no response"),
    ("y ~", "nothing on the right"),
    ("y ~ x ~ z", "more than one '~'"),
    ("y ~ (x ~ z)", "more than one '~'"),
    ("y ~ x + 1|g", r"\(1\|g\) in place of 1\|g"),
    ("y ~ 1 + x|g", "parentheses"),
    ("y ~ x*(1|g)", "cannot be multiplied"),
    ("y ~ x:(1|g)", "cannot be multiplied"),
    ("y ~ (1|g)/x", "cannot be multiplied"),
    ("y ~ x - (1|g)", "cannot be subtracted"),
    ("y ~ (1|)", "grouping factor is missing"),
    ("y ~ (|g)", "left of the bar"),
    ("y ~ (1|a|b)", "more than one bar"),
    ("y ~ (1|a+b)", r"'\+' cannot be part of a grouping factor"),
    ("y ~ (1|a*b)", r"'\*' cannot be part of a grouping factor"),
    ("y ~ (1|a/(b+c))", r"'\+'"),
    ("y ~ (1|a:)", "missing"),
    ("y ~ (0|g)", r"\(0\|g\) has no random effects"),
    ("y ~ (1|g", "unbalanced"),
    ("y ~ (1|g))", "unbalanced"),
    ("y ~ log(x + (1|g)", "unbalanced"),
    ("y ~ 'x", "unclosed quote"),
    ("y ~ `x", "unclosed quote"),
    ("y ~ x +", "term is missing"),
    ("y ~ .", "not supported"),
    ("y ~ . - x + (1|g)", "not supported"),
    ("y ~ 2*x", "numbers besides"),
    ("y ~ x^z", r"'\*\*' requires"),
    ("y ~ x z", "'x z'"),
    ("y ~ in", "'in'"),
    ("y ~ a$b", "a[$]b"),
    ("y ~ x == ", "'x =='"),
    ("y ~ offset(x)*2", "summand of its own"),
    ("y ~ x - offset(z)", "cannot be subtracted"),
    ("y ~ [v for v in x]", "comprehensions"),
    ("y ~ Q(x)", "quotes"),
    (3, "not of type int"),
    (["y ~ x"], "not of type list"),
]


@pytest.mark.parametrize(("text", "match"), TEXTS)
def test_bad_text(text, match):
    with pytest.raises(FormulaError, match=match):
        parse(text)


NAMES = [
    ("y ~ X2 + (1|g)", {}, "'X2' is neither a column"),
    ("y ~ x + (1|G)", {}, "did you mean 'g'"),
    ("yy ~ x", {}, "'yy'.*did you mean 'y'"),
    ("y ~ with", {}, "'with'"),
    ("y ~ lgo(x)", {}, "no function 'lgo'; did you mean 'log'"),
    ("y ~ log(xx)", {}, "'xx'.*did you mean 'x'"),
    ("y ~ x(2)", {}, "'x' is a column of the data, not a function"),
    ("y ~ pd", {}, "'pd'.*of type module"),
    ("y ~ x.nothing", {}, "x.nothing"),
    ("y ~ with_ + x", {}, "'with_'"),
    ("1 ~ x", {}, "'1' is of type int"),
    ("y ~ x", {"weights": "ww"}, "'ww'"),
    ("y ~ x", {"offset": "xx"}, "'xx'"),
    ("y ~ x", {"subset": "kk == 1"}, "'kk'.*did you mean 'k'"),
    ("y ~ f", {"contrasts": "summ"}, "unknown contrast 'summ'; did you mean 'sum'"),
    ("y ~ f", {"contrasts": {"f": "nope"}}, "unknown contrast 'nope'"),
    ("y ~ f", {"contrasts": {"f": 3}}, "unknown contrast 3"),
    ("y ~ f", {"contrasts": {"ff": "sum"}}, "'ff'.*did you mean 'f'"),
    ("y ~ x + (1|g)", {"contrasts": {"g": "sum"}}, "'g'.*do not reach random terms"),
    ("y ~ x + f", {"contrasts": {"x": "sum"}}, "'x': it is numeric"),
    ("y ~ bs(x, df=1)", {}, "bs"),
    ("y ~ C(f, k)", {}, "cannot code"),
    ("y ~ class", {}, "'class' is neither"),
]


@pytest.mark.parametrize(("formula", "options", "match"), NAMES)
def test_unknown_names(formula, options, match):
    with pytest.raises(FormulaError, match=match):
        build(formula, frame(), env=patsy.EvalEnvironment.capture(), **options)


def test_a_name_with_a_dot():
    with pytest.raises(FormulaError, match=r"Q\('size.dot'\)"):
        build("y ~ size.dot", frame(**{"size.dot": 1.0}), env=patsy.EvalEnvironment.capture())


def test_arrays_of_the_caller_must_have_the_rows_of_the_data():
    M1 = np.ones((7, 2))
    for formula in ("y ~ -1 + M1 + (1|g)", "y ~ I(M1 * 2)", "y ~ x + (1|M1)", "M1 ~ x"):
        with pytest.raises(DataError, match="M1.*7 rows.*24|M1.*one column of 24"):
            build(formula, frame(), env=patsy.EvalEnvironment.capture())
    assert len(M1) == 7


DATA = [
    ("y ~ x", frame().head(0), {}, "empty"),
    ("y ~ x", {}, {}, "empty"),
    ("y ~ x", frame(x=np.nan), {}, "'x' .24 rows"),
    ("y ~ x", spoiled("x", np.nan), {"na_action": "raise"}, "missing values in 'x' .1 row"),
    ("y ~ x", frame(), {"na_action": "drop"}, "'drop'"),
    ("y ~ x", spoiled("y", np.inf), {}, "'y' is not finite in 1 row, first in row 4"),
    ("y ~ x", spoiled("x", -np.inf), {}, "'x' is not finite in 1 row, first in row 4"),
    ("y ~ f + (x|g)", spoiled("x", np.inf), {}, "'x' is not finite"),
    ("log(y) ~ x", frame(y=-1.0), {}, r"'log\(y\)' is not finite in 24 rows"),
    ("y ~ sqrt(x)", frame(x=np.r_[-1.0, np.ones(N - 1)]), {}, r"'sqrt\(x\)' is not finite in 1 row"),
    ("y ~ offset(log(x))", frame(x=0.0), {}, r"'log\(x\)' is not finite"),
    ("y ~ x", frame(), {"offset": np.full(N, np.inf)}, "'offset' is not finite"),
    ("y ~ x", frame(), {"weights": np.full(N, np.inf)}, "'weights' is not finite"),
    ("y ~ x", frame(), {"weights": np.r_[-1, np.ones(N - 1)]}, "weights must be positive: 1 row.*row 0"),
    ("y ~ x", frame(), {"weights": np.zeros(N)}, "weights must be positive: 24 rows"),
    ("y ~ x", frame(), {"weights": "k - 1"}, "weights must be positive"),
    ("y ~ x", frame(), {"weights": [1.0, 2.0]}, "weights has 2 values where the data have 24 rows"),
    ("y ~ x", frame(), {"weights": 2.0}, "weights is of type float"),
    ("y ~ x", frame(), {"weights": "f"}, "weights 'f' is not numeric"),
    ("y ~ x", frame(), {"offset": np.ones(25)}, "offset has 25 values"),
    ("y ~ x", frame(), {"offset": np.ones((N, 2))}, "offset has 2 columns"),
    ("y ~ x", frame(), {"subset": [True]}, "subset has 1 value"),
    ("y ~ x", frame(), {"subset": np.arange(N)}, "subset must be true or false"),
    ("y ~ x", frame(), {"subset": "k > 5"}, "leaves no rows"),
    ("y ~ x", frame(), {"subset": "k + 5"}, "true or false"),
    ("y ~ x", frame(), {"subset": True}, "subset is of type bool"),
    ("y ~ x + (1|one)", frame(), {}, "'one' has only one level"),
    ("y ~ one", frame(), {}, "'one' has only one level"),
    ("y ~ x + (one|g)", frame(), {}, "'one' has only one level"),
    ("y ~ f", frame(), {"subset": "f == 'p'"}, "'f' has only one level"),
    ("y ~ x + (1|g:k)", frame(), {}, r"\(1 \| g:k\).*\(=24\) <= number of random effects \(=24\)"),
    ("y ~ x + (0 + factor(k)|g)", frame(), {}, "number of random effects .=24"),
    ("y ~ x + (1|i)", frame(i=np.arange(N)), {}, "'i'"),
    ("y ~ x + factor(g)*k + f", frame().head(2), {}, "only one level|more rows"),
    ("y ~ x + k", frame().head(3), {}, "3 rows for 3 fixed-effects columns"),
    ("f ~ x", frame(), {}, "'f' is not numeric"),
    ("y ~ x", frame(y=np.arange(N) > 3), {}, "'y' is not numeric"),
    ("y ~ x", pd.concat([frame(), frame()[["x"]]], axis=1), {}, "duplicate column names in the data: 'x'"),
    ("y ~ x", {"y": np.ones(4), "x": np.ones(5)}, {}, "'x' has 5 rows, 'y' has 4"),
    ("y ~ x", {"y": np.ones(4), "x": 2.0}, {}, "'x' of the data is of type float"),
    ("y ~ x", [1, 2], {}, "list are no table"),
    ("m ~ x", {"m": np.ones((N, 2)), "x": np.ones(N)}, {}, "'m' has 2 columns"),
    ("y ~ x + (1|m)", {"m": np.ones((N, 2)), "x": np.ones(N), "y": np.ones(N)}, {}, "'m' must be one column"),
    ("y ~ C(k, levels=[1, 2])", frame(), {}, r"C\(k, levels=\[1, 2\]\)"),
    ("y ~ pd.cut(x, [-0.1, 0.1])", frame(), {}, "is missing in .* rows"),
    ("y ~ s", frame(s=[[1]] * N), {}, "'s' cannot be levels"),
    ("y ~ x + (1|s)", frame(s=[{}] * N), {}, "'s' cannot be levels"),
]


@pytest.mark.parametrize(("formula", "data", "options", "match"), DATA)
def test_bad_data(formula, data, options, match):
    with pytest.raises(DataError, match=match):
        build(formula, data, env=patsy.EvalEnvironment.capture(), **options)


def test_missing_in_the_callers_array_is_named():
    v = np.r_[np.nan, np.ones(N - 1)]
    with pytest.raises(DataError, match="'v' .1 row"):
        build("y ~ x + v", frame(), env=patsy.EvalEnvironment.capture(), na_action="raise")
    with pytest.raises(DataError, match="'weights' .1 row"):
        build("y ~ x", frame(), env=patsy.EvalEnvironment.capture(), weights=v, na_action="raise")


def test_lazy_polars_frames_are_refused():
    pl = pytest.importorskip("polars")
    with pytest.raises(DataError, match="collected"):
        build("y ~ x", pl.LazyFrame({"y": [1.0], "x": [2.0]}), env=patsy.EvalEnvironment.capture())
