"""lmmjax.formula: lme4's syntax, R's order of columns and levels, rows used, and matrices for new data."""

import math

import numpy as np
import pandas as pd
import patsy
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from lmmjax.errors import DataError, FormulaError
from lmmjax.formula import build, parse, parse_bars

N = 48


def frame() -> pd.DataFrame:
    """48 rows: a (12 levels, integer), b within it, c crossed, f and h fixed factors, x and z numbers."""
    rng = np.random.default_rng(7)
    return pd.DataFrame(
        {
            "y": rng.normal(10, 1, N),
            "x": rng.normal(size=N),
            "z": rng.integers(1, 9, N),
            "a": np.repeat(np.arange(12, 0, -1), 4),
            "b": np.tile(["v", "u"], N // 2),
            "c": np.tile(["s", "s", "t", "t"], N // 4),
            "f": rng.permutation(np.repeat(["p", "q", "r"], N // 3)),
            "h": pd.Categorical(
                rng.permutation(np.repeat(["lo", "mid", "hi"], N // 3)), ["lo", "mid", "hi"], ordered=True
            ),
            "e": rng.uniform(1, 2, N),
            "odd name": rng.normal(size=N),
        }
    )


def made(formula, data=None, **options):
    return build(formula, frame() if data is None else data, env=patsy.EvalEnvironment.capture(1), **options)


# ---------------------------------------------------------------------------------------------------------- the text


@pytest.mark.parametrize(
    ("bars", "expected"),
    [
        ("(1|g)", ["(1 | g)"]),
        ("(x|g)", ["(x | g)"]),
        ("( 0+x | g )", ["(0 + x | g)"]),
        ("(-1+x|g)", ["(-1 + x | g)"]),
        ("(1|a:b)", ["(1 | a:b)"]),
        ("(1|a/b)", ["(1 | b:a)", "(1 | a)"]),
        ("(1|a/b/c)", ["(1 | c:(b:a))", "(1 | b:a)", "(1 | a)"]),
        ("(1|(a/b)/c)", ["(1 | c:(b:a))", "(1 | b:a)", "(1 | a)"]),
        ("(1|a/(b:c))", ["(1 | (b:c):a)", "(1 | a)"]),
        ("(1|a:b/c)", ["(1 | c:(a:b))", "(1 | a:b)"]),
        ("(x||g)", ["(1 | g)", "(0 + x | g)"]),
        ("(0+x||g)", ["(0 + x | g)"]),
        ("(x*f||g)", ["(1 | g)", "(0 + x | g)", "(0 + f | g)", "(0 + x:f | g)"]),
        ("(x||a/b)", ["(1 | b:a)", "(1 | a)", "(0 + x | b:a)", "(0 + x | a)"]),
        ("((1|g))", ["(1 | g)"]),
        ("(z + (1|g))", ["(1 | g)"]),
        ("(1|factor(g))", ["(1 | factor(g))"]),
        ("(I(x|z)|`odd name`)", ["(I(x | z) | odd name)"]),
        ("f(a|b)", []),
        ("x[a|b]", []),
    ],
)
def test_bars_expand_as_in_lme4(bars, expected):
    assert [bar.text for bar in parse(f"y ~ x + {bars}").bars] == expected
    assert [bar.text for bar in parse(f"y ~ {bars} + x").bars] == expected


def test_parse_is_hashable_and_cached():
    assert parse("y ~ x + (1|g)") is parse("y ~ x + (1|g)")
    assert hash(parse("y ~ x"))


def test_one_sided_bars():
    assert [bar.text for bar in parse_bars("~(1|g) + (0 + x|h)")] == ["(1 | g)", "(0 + x | h)"]
    assert parse_bars("~0") == ()
    for text in ("y ~ (1|g)", "~x + (1|g)", "(1|g)"):
        with pytest.raises(FormulaError):
            parse_bars(text)


def test_power_and_backticks_spare_strings():
    p = parse("y ~ I(x^2) + Q('a^b') + (u + v)^2 + `c^d`")
    assert p.fixed == "+ I(x**2) + Q('a^b') + (u + v)**2 + Q(\"c^d\")"


# --------------------------------------------------------------------------------------------------------- the columns


@pytest.mark.parametrize(
    ("right", "names"),
    [
        ("x + f", ["Intercept", "x", "f[T.q]", "f[T.r]"]),
        ("x*f", ["Intercept", "x", "f[T.q]", "f[T.r]", "x:f[T.q]", "x:f[T.r]"]),
        ("z:f + x", ["Intercept", "x", "z:f[p]", "z:f[q]", "z:f[r]"]),
        ("0 + f + x", ["f[p]", "f[q]", "f[r]", "x"]),
        ("-1 + x", ["x"]),
        ("x - 1", ["x"]),
        ("h", ["Intercept", "h.Linear", "h.Quadratic"]),
        ("0 + h", ["h[lo]", "h[mid]", "h[hi]"]),
        ("(x + z)^2", ["Intercept", "x", "z", "x:z"]),
        ("I(x^2)", ["Intercept", "I(x ** 2)"]),
        ("`odd name`", ["Intercept", 'Q("odd name")']),
        ("factor(b)", ["Intercept", "factor(b)[T.v]"]),
        ("C(f, Sum)", ["Intercept", "C(f, Sum)[S.p]", "C(f, Sum)[S.q]"]),
        ("1", ["Intercept"]),
        ("0", []),
    ],
)
def test_columns_come_in_the_order_of_r(right, names):
    schema, design = made(f"y ~ {right} + (1|a)")
    assert schema.fixed_names == names
    assert design.X.shape == (N, len(names))
    assert design.X.dtype == design.y.dtype == np.float64


def test_columns_are_what_they_are_called():
    d = frame()
    schema, design = made("y ~ x*f + I(z^2) + log(e)", d)
    column = dict(zip(schema.fixed_names, design.X.T, strict=True))
    assert_allclose(column["x:f[T.r]"], d.x * (d.f == "r"))
    assert_allclose(column["I(z ** 2)"], d.z**2)
    assert_allclose(column["log(e)"], np.log(d.e))
    assert schema.fixed_terms == [
        ("Intercept", (0,)),
        ("x", (1,)),
        ("f", (2, 3)),
        ("I(z ** 2)", (4,)),
        ("log(e)", (5,)),
        ("x:f", (6, 7)),
    ]


def test_same_values_as_patsy():
    d = frame()
    schema, design = made("y ~ f*h*x + center(z)", d)
    theirs = patsy.dmatrix("f*C(h, Poly)*x + center(z)", d, return_type="dataframe")
    ours = pd.DataFrame(design.X, columns=[n.replace("h.", "C(h, Poly).") for n in schema.fixed_names])
    assert set(ours) == set(theirs)
    assert_allclose(ours[list(theirs)], theirs, atol=1e-12)


def test_ordered_factor_has_polynomial_contrasts_in_random_terms_too():
    schema, design = made("y ~ 1 + (h|c) + (0+h|b)")
    assert schema.groups[0].columns == ["Intercept", "h.Linear", "h.Quadratic"]
    assert schema.groups[1].columns == ["h[lo]", "h[mid]", "h[hi]"]
    assert_allclose(np.unique(design.terms[0].x[:, 1].round(12)), [-math.sqrt(0.5), 0, math.sqrt(0.5)], atol=1e-12)


def test_transformed_response_and_its_name():
    d = frame()
    schema, design = made("log(y)/2 ~ x", d)
    assert schema.response == "log(y) / 2"
    assert_allclose(design.y, np.log(d.y) / 2)


def test_a_model_without_fixed_columns():
    schema, design = made("y ~ 0 + (1|a)")
    assert design.X.shape == (N, 0)
    assert schema.fixed_names == []
    X, _, _ = schema.new_data(frame().head(3))
    assert X.shape == (3, 0)


# -------------------------------------------------------------------------------------------------------- rank, offset


def test_dependent_columns_go_from_the_right_as_in_r():
    d = frame().assign(x2=lambda d: 2 * d.x, k=1.0, x3=lambda d: d.x + 1e-3 * d.e, zero=0.0)
    schema, design = made("y ~ x + x2 + k + x3 + zero + z", d)
    assert schema.dropped == ("x2", "k", "zero")
    assert schema.fixed_names == ["Intercept", "x", "x3", "z"]
    assert schema.fixed_terms == [("Intercept", (0,)), ("x", (1,)), ("x3", (2,)), ("z", (3,))]
    assert_array_equal(design.X[:, 3], d.z)
    assert_allclose(schema.new_data(d)[0], design.X)


def test_empty_cells_of_an_interaction_are_dropped():
    d = frame()
    d = d[~((d.f == "q") & (d.c == "t"))]
    schema, design = made("y ~ f*c", d)
    assert schema.dropped == ("f[T.q]:c[T.t]",)
    assert np.linalg.matrix_rank(design.X) == design.p == 5


def test_offsets_add_up():
    d = frame()
    schema, design = made("y ~ offset(e) + x + offset(log(e))", d, offset=d.z)
    assert_allclose(design.offset, d.e + np.log(d.e) + d.z)
    assert schema.array_offset
    schema, design = made("y ~ offset(e) + x", d, offset="z")
    assert_allclose(design.offset, d.e + d.z)
    assert not schema.array_offset
    assert_allclose(schema.new_data(d.head(4))[2], (d.e + d.z).head(4))
    assert made("y ~ x")[1].offset is None


# -------------------------------------------------------------------------------------------------------- the grouping


def test_integer_groups_sort_as_numbers_and_categories_keep_their_order():
    d = frame()
    schema, design = made("y ~ 1 + (1|a) + (1|c)", d.assign(c=pd.Categorical(d.c, ["never", "t", "s"])))
    assert list(schema.groups[0].levels) == list(range(1, 13))
    assert list(schema.groups[1].levels) == ["t", "s"]
    assert_array_equal(schema.groups[0].levels[design.terms[0].codes], d.a)
    assert_array_equal(schema.groups[1].levels[design.terms[1].codes], d.c)
    assert design.terms[0].codes.dtype == np.int32


def test_interactions_vary_the_last_factor_fastest():
    d = frame()
    d = pd.concat([d, d], ignore_index=True)
    schema, design = made("y ~ 1 + (1|c:b:a)", d.assign(c=pd.Categorical(d.c, ["t", "s"])))
    levels = list(schema.groups[0].levels)
    assert levels[:3] == ["t:u:1", "t:u:2", "t:u:3"]
    assert levels[-1] == "s:v:12"
    assert_array_equal(np.array(levels)[design.terms[0].codes], d.c + ":" + d.b + ":" + d.a.astype(str))


def test_nested_factor_names():
    schema, design = made("y ~ 1 + (1|a/b)")
    assert [(g.group, len(g.levels)) for g in schema.groups] == [("b:a", 24), ("a", 12)]
    assert schema.groups[0].levels[0] == "u:1"
    assert [t.template.p for t in design.terms] == [1, 1]


def test_whole_floats_are_labelled_as_in_r():
    schema, _ = made("y ~ 1 + (1|a:b)", frame().astype({"a": float}))
    assert schema.groups[0].levels[0] == "1:u"


@pytest.mark.parametrize(
    ("bars", "order"),
    [
        ("(1|a) + (0+x|a) + (1|c)", ["1a", "xa", "1c"]),
        ("(x||a)", ["1a", "xa"]),
        ("(1|c) + (1|a)", ["1a", "1c"]),
        ("(1|c) + (1|a) + (0+x|a)", ["xa", "1a", "1c"]),  # lme4 reverses ties where it reorders: rev(order(nl))
    ],
)
def test_terms_come_in_the_order_of_lme4(bars, order):
    schema, design = made(f"y ~ 1 + {bars}")
    assert [g.columns[0].replace("Intercept", "1") + g.group for g in schema.groups] == order
    assert [t.n_levels for t in design.terms] == [len(g.levels) for g in schema.groups]


def test_slopes_and_factors_in_random_terms():
    d = frame()
    schema, design = made("y ~ x + (x|a) + (0+f|c) + (f||b)", d)
    columns = {(g.group, g.text): g.columns for g in schema.groups}
    assert columns["a", "(x | a)"] == ["Intercept", "x"]
    assert columns["c", "(0 + f | c)"] == ["f[p]", "f[q]", "f[r]"]
    assert columns["b", "(0 + f | b)"] == ["f[p]", "f[q]", "f[r]"]
    assert_allclose(design.terms[0].x, np.column_stack([np.ones(N), d.x]))


@pytest.mark.parametrize("group", ["factor(a)", "C(a)", "Q('a')", "`a`", "a % 100"])
def test_grouping_expressions(group):
    _, plain = made("y ~ 1 + (1|a)")
    _, design = made(f"y ~ 1 + (1|{group})")
    assert_array_equal(design.terms[0].codes, plain.terms[0].codes)


# ------------------------------------------------------------------------------------------------------ names, callers


def test_names_that_are_no_columns_come_from_the_caller():
    d = frame()
    M1 = np.column_stack([np.ones(N), d.x, d.z])
    base, log = 3, math.log
    schema, design = made("y ~ -1 + M1 + I(z - base) + log(e) + (1|a)", d.drop(columns="x"))
    assert schema.fixed_names[:3] == ["M1[0]", "M1[1]", "M1[2]"]
    assert_allclose(design.X[:, :3], M1)
    assert_allclose(design.X[:, 3], np.log(d.e))  # z - base depends on M1; math.log gives way to the vectorised one
    assert schema.dropped == ("I(z - base)",)
    assert (base, log(1.0)) == (3, 0.0)
    frame_valued = pd.DataFrame(M1, index=range(100, 100 + N))
    assert_allclose(made("y ~ -1 + frame_valued", d)[1].X, frame_valued)


def test_caller_arrays_follow_subset_and_missing_rows():
    d = frame()
    M1 = np.column_stack([np.arange(N), np.arange(N) ** 2.0])
    M1[5, 1] = np.nan
    schema, design = made("y ~ -1 + M1", d, subset=d.z > 2)
    keep = (d.z > 2) & (np.arange(N) != 5)
    assert_array_equal(design.X, M1[keep])
    assert schema.n_dropped == int(d.z[5] > 2)
    with pytest.raises(DataError, match="M1"):
        schema.new_data(d)
    assert_allclose(schema.new_data({"M1": M1[:3]})[0], M1[:3])


def test_a_column_named_as_a_function_is_both():
    d = frame().rename(columns={"x": "log", "z": "C", "e": "I"})
    schema, design = made("y ~ log + log(I) + I(C^2) + C(f)", d)
    assert schema.fixed_names == ["Intercept", "log", "log(I)", "I(C ** 2)", "C(f)[T.q]", "C(f)[T.r]"]
    assert_allclose(design.X[:, 2], np.log(d["I"]))


def test_the_callers_function_wins():
    def sqrt(v):
        return v * 0 + np.arange(N)

    _, design = made("y ~ sqrt(e)")
    assert_array_equal(design.X[:, 1], np.arange(N))
    assert sqrt(0.0).shape == (N,)


def test_expressions_see_series():
    d = frame()
    _, design = made('y ~ f.isin(["p", "q"]) + I((c == "s") * x) + z.clip(2, 5)', d)
    assert_array_equal(design.X[:, 1], d.f.isin(["p", "q"]))
    assert_allclose(design.X[:, 2], (d.c == "s") * d.x)


def test_columns_named_by_python_keywords():
    d = frame().rename(columns={"y": "yield", "x": "class", "f": "lambda_"})
    schema, design = made("log(yield) ~ class*lambda_ + I(class^2) + (class|a)", d)
    assert schema.response == "log(yield)"
    assert schema.fixed_names[:2] == ["Intercept", "class"]
    assert schema.groups[0].columns == ["Intercept", "class"]
    assert_allclose(design.y, np.log(d["yield"]))
    assert_allclose(design.X[:, 4], d["class"] ** 2)


# ------------------------------------------------------------------------------------------------------------ contrasts


@pytest.mark.parametrize(
    ("contrast", "names"),
    [
        ("sum", ["f[S.p]", "f[S.q]"]),
        ("contr.sum", ["f[S.p]", "f[S.q]"]),
        ("treatment", ["f[T.q]", "f[T.r]"]),
        ("helmert", ["f[H.q]", "f[H.r]"]),
        ("poly", ["f.Linear", "f.Quadratic"]),
        ("diff", ["f[D.p]", "f[D.q]"]),
        (patsy.Sum, ["f[S.p]", "f[S.q]"]),
        (patsy.Treatment("r"), ["f[T.p]", "f[T.q]"]),
    ],
)
def test_contrasts_keep_plain_names(contrast, names):
    schema, _ = made("y ~ x + f + (f|c)", contrasts={"f": contrast})
    assert schema.fixed_names == ["Intercept", "x", *names]
    assert schema.groups[0].columns == ["Intercept", "f[T.q]", "f[T.r]"]


def test_one_contrast_for_all_unordered_factors_and_an_explicit_one_wins():
    schema, design = made("y ~ b + C(f, Treatment) + h", contrasts="sum")
    assert schema.fixed_names[1:4] == ["b[S.u]", "C(f, Treatment)[T.q]", "C(f, Treatment)[T.r]"]
    assert schema.fixed_names[4:] == ["h.Linear", "h.Quadratic"]
    assert sorted(set(design.X[:, 1])) == [-1, 1]
    schema, _ = made("y ~ C(f, Treatment)", contrasts={"f": "sum"})
    assert schema.fixed_names[1] == "C(f, Treatment)[T.q]"


def test_full_coding_is_by_indicators_whatever_the_contrast():
    schema, _ = made("y ~ 0 + f + b + x:f", contrasts="sum")
    assert schema.fixed_names == ["f[p]", "f[q]", "f[r]", "b[S.u]", "x:f[p]", "x:f[q]", "x:f[r]"]


# ------------------------------------------------------------------------------------------------------------- the rows


def test_missing_rows_are_counted_and_left_out_everywhere():
    d = frame().astype({"a": object})
    d.index = [f"row{i}" for i in range(N)]
    d.loc["row3", "x"] = np.nan
    d.loc["row4", "a"] = None
    d.loc["row5", "b"] = None  # not in the model
    w = np.arange(1.0, N + 1)
    w[6] = np.nan
    schema, design = made("y ~ x + (1|a)", d, weights=w)
    assert schema.n_dropped == 3
    kept = [f"row{i}" for i in range(N) if i not in (3, 4, 6)]
    assert list(schema.index) == kept
    assert_array_equal(design.weights, np.delete(w, [3, 4, 6]))
    assert_array_equal(design.y, d.y[kept])
    assert_array_equal(schema.groups[0].levels[design.terms[0].codes], d.a[kept])


@pytest.mark.parametrize(
    "subset", ["z > 2", "(z > limit) & (c == 's') | (z > 2)", lambda d: d.z > 2, lambda d: list(d.z > 2)]
)
def test_subset(subset):
    d, limit = frame(), 100
    schema, design = made("y ~ x + (1|a)", d, subset=subset(d) if callable(subset) else subset)
    assert_array_equal(schema.index, d.index[d.z > 2])
    assert_array_equal(design.X[:, 1], d.x[d.z > 2])
    assert schema.n_dropped == 0
    assert limit == 100


def test_subset_drops_levels():
    schema, _ = made("y ~ h + (1|a)", subset="h != 'mid'")
    assert schema.fixed_names == ["Intercept", "h.Linear"]
    schema, _ = made("y ~ 1 + (1|a)", subset="a > 3")
    assert list(schema.groups[0].levels) == list(range(4, 13))


@pytest.mark.parametrize("weights", ["e", "1/e", "`odd name`^2 + 1", "odd name"])
def test_weights_as_text(weights):
    d = frame()
    d["odd name"] = d["odd name"].abs() + 0.1
    expected = {"e": d.e, "1/e": 1 / d.e, "`odd name`^2 + 1": d["odd name"] ** 2 + 1, "odd name": d["odd name"]}
    assert_allclose(made("y ~ x", d, weights=weights)[1].weights, expected[weights])


def test_the_design_does_not_share_memory_with_the_data():
    d = {name: np.array(column) for name, column in frame()[["y", "x", "e", "a"]].items()}
    _, design = made("y ~ 0 + x + (0+x|a)", d, weights=d["e"], offset="e")
    for array in (design.X, design.y, design.weights, design.offset, design.terms[0].x):
        assert not any(np.shares_memory(array, column) for column in d.values())


# -------------------------------------------------------------------------------------------------------- kinds of data


def test_all_kinds_of_tables_agree():
    pl = pytest.importorskip("polars")
    d = frame().drop(columns="h")
    formula = "y ~ x*f + (z|a) + (1|b:c)"
    polars = pl.DataFrame({name: column.to_list() for name, column in d.items()})
    tables = [
        {name: column.to_numpy() for name, column in d.items()},
        {name: column.to_list() for name, column in d.items()},
        polars,
        polars.with_columns(pl.col("f", "b").cast(pl.Categorical)),
        d.astype({"f": object, "b": "category", "a": "Int64", "x": "Float64"}),
    ]
    schema, design = made(formula, d)
    for table in tables:
        other, same = made(formula, table)
        assert other.fixed_names == schema.fixed_names
        assert_array_equal(same.X, design.X)
        for g, h, s, t in zip(other.groups, schema.groups, same.terms, design.terms, strict=True):
            assert list(g.levels) == list(h.levels)
            assert_array_equal(s.codes, t.codes)
            assert_array_equal(s.x, t.x)


def test_polars_enum_keeps_its_order_and_nulls_are_missing():
    pl = pytest.importorskip("polars")
    d = frame()
    table = pl.DataFrame({"y": d.y.to_list(), "z": [None, *d.z.to_list()[1:]], "f": d.f.to_list()})
    table = table.with_columns(pl.col("f").cast(pl.Enum(["r", "q", "p"])))
    schema, design = made("y ~ z + f", table)
    assert schema.fixed_names == ["Intercept", "z", "f[T.q]", "f[T.p]"]
    assert schema.n_dropped == 1
    assert design.n == N - 1


def test_booleans_and_nullable_columns_are_factors_and_numbers():
    d = frame().assign(t=lambda d: d.x > 0, u=lambda d: pd.array(d.z, dtype="Int64"))
    d.loc[2, "u"] = pd.NA
    schema, _ = made("y ~ t + u", d)
    assert schema.fixed_names == ["Intercept", "t[T.True]", "u"]
    assert schema.n_dropped == 1


# ------------------------------------------------------------------------------------------------------------- new data


def test_new_data_gives_back_the_fit():
    d = frame()
    schema, design = made("log(y) ~ center(x)*f + C(z) + h + bs(e, df=4) + offset(e) + (x|a) + (1|b:a) + (h|c)", d)
    X, random, offset = schema.new_data(d.drop(columns="y"))
    assert_allclose(X, design.X)
    assert_allclose(offset, design.offset)
    for (x, codes), term in zip(random, design.terms, strict=True):
        assert_allclose(x, term.x)
        assert_array_equal(codes, term.codes)


def test_new_rows_use_the_transforms_and_levels_of_the_fit():
    d = frame()
    schema, design = made("y ~ center(x) + h + f + (1|a) + (1|b:c)", d, contrasts={"f": "sum"})
    rows = [5, 2, 9]
    some = d.iloc[rows].assign(h=d.h.astype(str).iloc[rows])
    X, random, _ = schema.new_data(some)
    assert_allclose(X, design.X[rows])
    for (_, codes), term in zip(random, design.terms, strict=True):
        assert_array_equal(codes, term.codes[rows])


def test_unseen_groups_have_code_minus_one():
    d = frame()
    d = d[~((d.b == "u") & (d.c == "t"))]
    schema, _ = made("y ~ 1 + (1|a) + (1|b:c)", d)
    new = pd.DataFrame({"a": [1, 99, 12, 3], "b": ["u", "u", "never", "v"], "c": ["s", "t", "s", "t"]})
    _, ((_, a), (_, bc)), _ = schema.new_data(new)
    assert_array_equal(a, [0, -1, 11, 2])
    assert [list(schema.groups[1].levels)[i] if i >= 0 else None for i in bc] == ["u:s", None, None, "v:t"]


def test_groups_are_asked_for_only_if_wanted():
    schema, _ = made("y ~ x + (1|a) + (z|c)")
    new = frame()[["x", "c", "z"]]
    assert schema.new_data(new, groups=False)[1] == [None, None]
    first, second = schema.new_data(new, groups={"c"})[1]
    assert first is None
    assert second[0].shape == (N, 2)
    with pytest.raises(DataError, match="'a'"):
        schema.new_data(new)
    with pytest.raises(FormulaError, match="'d'"):
        schema.new_data(new, groups={"d"})


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"f": ["p", "q", "new"]}, "'f' has the level 'new'"),
        ({"x": [1.0, np.nan, 2.0]}, "missing values in 'x'"),
        ({"x": [1.0, np.inf, 2.0]}, "'x' is not finite"),
        ({"a": [1, None, 2]}, "missing values in 'a'"),
        ({"x": ["1", "2", "3"]}, "'x'|x"),
    ],
)
def test_new_data_that_do_not_fit(change, match):
    schema, _ = made("y ~ x + f + (1|a)")
    new = pd.DataFrame({"x": [1.0, 2, 3], "f": ["p", "q", "r"], "a": [1, 2, 3]} | change)
    with pytest.raises(DataError, match=match):
        schema.new_data(new)


def test_new_data_without_a_column():
    schema, _ = made("y ~ x + f + (1|a)")
    with pytest.raises(DataError, match="no column 'f'"):
        schema.new_data(frame()[["x", "a"]])


def test_the_schema_holds_no_data():
    d = frame()
    M1 = np.random.default_rng(0).normal(size=(N, 2))
    schema, _ = made("y ~ center(x) + M1 + (1|a)", d)
    states = [info.state for info in schema.design_info.factor_infos.values()]
    arrays = [v for s in states for v in s.values() if isinstance(v, (np.ndarray, pd.DataFrame, pd.Series))]
    assert not arrays
    assert not any(isinstance(v, np.ndarray) for v in schema.constants.values())
    assert not any("M1" in s["eval_env"].namespace for s in states if "eval_env" in s)
    assert M1.shape == (N, 2)
