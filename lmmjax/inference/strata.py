"""Error strata: a formula with Error(…) becomes arrays, factors, and a subspace of the data for each stratum."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..errors import DataError, FormulaError
from ..formula import Schema, build
from ..formula.expression import translate
from ..formula.hints import listed
from ..formula.parse import ParsedFormula, parse
from ..formula.terms import terms
from ..formula.tokens import tokenise
from .sequential import crossed, indicators, project, subspaces, unit

WITHIN = "Within"  # R's name of the stratum that is left over


class Layout(NamedTuple):
    """What a formula with Error(…) says about data of n rows.

    schema : of the fixed part. y : (n,) response without offset. X : (n, p). factors : (n,) codes and levels of each
    factor, in the fixed part or in Error(). error : the factors of each term of Error(), by its name.
    """

    schema: Schema
    y: np.ndarray
    X: np.ndarray
    factors: dict[str, tuple[np.ndarray, pd.Index]]
    error: dict[str, tuple[str, ...]]


class Stratum(NamedTuple):
    """The span of an orthonormal basis (n, r), or with `rest` what that leaves over, of `df` dimensions."""

    basis: np.ndarray
    rest: bool

    @property
    def df(self) -> int:
        """Dimension."""
        n, r = self.basis.shape
        return n - r if self.rest else r

    def part(self, a: np.ndarray) -> np.ndarray:
        """What of a, (n,) or (n, k), lies in the stratum."""
        return a - project(self.basis, a) if self.rest else project(self.basis, a)


def layout(formula: str, data: Any, **options: Any) -> Layout:
    """The arrays of a model; options are those of `formula.build`.

    Each factor is added to the formula as a random term, which codes it on the rows that are used. What is a factor,
    and what a number, a first model of main effects says.
    """
    parsed, error = _parsed(formula)
    y, inside = parsed.response.label, dict.fromkeys(f for names in error.values() for f in names)
    names = dict.fromkeys([*(f.name() for t in terms(parsed.fixed) for f in t.factors), *inside])
    if inside:  # as random terms these are refused by name where they have one level, or one for each row
        build(f"{y} ~ {' + '.join(f'(1 | {name})' for name in inside)}", data, **options)
    known = build(f"{y} ~ {' + '.join(names) or 1}", data, **options)[0].design_info.factor_infos
    numeric = {f.name() for f, info in known.items() if info.type == "numerical"}
    for name in inside:
        if name in numeric:
            raise FormulaError(f"{name!r} in Error() is numeric; a stratum needs a factor: write C({name})")
    offsets = [f"offset({o.label})" for o in parsed.offsets]
    bars = [f"(1 | {name})" for name in names if name not in numeric]
    schema, design = build(f"{y} ~ {' + '.join([parsed.fixed, *offsets, *bars])}", data, **options)
    coded = zip(schema.groups, design.terms, strict=True)
    factors = {g.bar.atoms[0].label: (np.asarray(t.codes), g.levels) for g, t in coded}
    return Layout(schema, design.y - (0 if design.offset is None else design.offset), design.X, factors, error)


def strata(layout: Layout) -> dict[str, Stratum]:
    """The subspaces of the terms of Error(), after the mean, and of what they leave; the whole where there are none."""
    n, error = len(layout.y), layout.error
    if not error:
        return {WITHIN: Stratum(np.empty((n, 0)), rest=True)}
    coded = [crossed([layout.factors[f][0] for f in names])[0] for names in error.values()]
    mean, *bases = subspaces([np.full((n, 1), n**-0.5), *(unit(indicators(codes)) for codes in coded)])
    for i, (name, basis) in enumerate(zip(error, bases, strict=True)):
        if not basis.shape[1]:
            raise DataError(
                f"the stratum {name!r} of Error() has no degrees of freedom: {listed(list(error)[:i])} before it "
                "determine it; leave it out"
            )
    found = {name: Stratum(basis, rest=False) for name, basis in zip(error, bases, strict=True)}
    taken = np.column_stack([mean, *bases])
    return found if taken.shape[1] == n else found | {WITHIN: Stratum(taken, rest=True)}


def _parsed(formula: Any) -> tuple[ParsedFormula, dict[str, tuple[str, ...]]]:
    """The formula without Error(…), and the factors of each of its terms by name."""
    if not isinstance(formula, str):
        parse(formula)  # which refuses it
    tokens = tokenise(translate(formula)).tokens
    starts = [i for i, t in enumerate(tokens[:-1]) if t.text == "Error" and not t.opaque and tokens[i + 1].call]
    if not starts:
        return _without_bars(parse(formula), 0, formula), {}
    if len(starts) > 1:
        raise FormulaError(f"{formula!r} has more than one Error(); write Error(a + b)")
    source, opening = translate(formula), tokens[starts[0] + 1]
    closing = next(t for t in tokens[starts[0] + 2 :] if t.depth == opening.depth and t.text == ")")
    inner = source[opening.end : closing.start]
    found = {t.name(): tuple(f.name() for f in t.factors) for t in (terms(inner) if inner.strip() else ()) if t.factors}
    if not found:
        raise FormulaError(f"{formula!r}: Error() names no factor; write Error(block), or leave it out")
    bars = " + ".join(f"(1 | {name})" for name in found)
    rest = f"{source[: tokens[starts[0]].start]}({bars}){source[closing.end :]}"
    return _without_bars(parse(rest), len(found), formula), found


def _without_bars(parsed: ParsedFormula, expected: int, formula: str) -> ParsedFormula:
    if len(parsed.bars) > expected:
        raise FormulaError(
            f"{formula!r} has a random term; aov() takes strata as Error(g): for (1|g) use lmer(), or "
            "variance_components_anova()"
        )
    return parsed
