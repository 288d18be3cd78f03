"""build(): a formula and data become a Schema and a Design."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from patsy import EvalEnvironment

from ..core.design import Design, RandomTerm
from ..errors import DataError, FormulaError
from .checks import check_finite, check_size, check_term, check_weights
from .contrasts import check_reached, with_contrasts
from .expression import Expression, expression
from .frame import Frame, Rows, frame_of, vector
from .grouping import fit_grouping, lme4_order
from .matrices import Matrix, fit_matrices, independent_columns
from .parse import ParsedFormula, parse
from .relations import by_group, level_factor, template_of
from .residual import Structure, checked, expressions, fit_residual
from .rows import check_action, complete, select, subset_mask
from .schema import Aliased, GroupTerm, Prepared, Schema
from .scope import resolve
from .terms import Factor, memorise, terms

WEIGHTS, OFFSET = "(weights)", "(offset)"


def build(
    formula: str,
    data: Any,
    *,
    env: EvalEnvironment,
    weights: Any = None,
    offset: Any = None,
    contrasts: Any = None,
    subset: Any = None,
    na_action: str = "omit",
    relmat: Any = None,
    covariance: Any = None,
    residual: Any = None,
    saturated: bool = False,
) -> tuple[Schema, Design]:
    """Turn a formula and data into the arrays of a model and the names that go with them.

    formula : `y ~ x + (x | g)`, lme4's syntax; without a bar there are no random terms.
    data : pandas DataFrame, any table narwhals reads, or a dict of arrays; n₀ rows.
    env : where names that are no columns are looked up.
    weights, offset : (n₀,) arrays, or a text in columns; offsets add to those of the formula.
    contrasts : a coding for all unordered factors of the fixed part, or a dict by factor.
    subset : (n₀,) booleans or a condition as text; na_action : "omit" rows with missing values, or "raise".
    relmat : correlations between levels, by grouping factor. covariance : templates, by grouping factor.
    residual : a `Structure` of the residuals, or None.
    saturated : allow random terms with as many effects as rows, whose variance cannot be told from the residual one.
    Returns the Schema and a Design of float64 NumPy arrays; terms come in lme4's order.
    Raises FormulaError and DataError, naming the culprit.
    """
    check_action(na_action)
    parsed = parse(formula)
    structure = checked(residual)
    frame = frame_of(data)
    if frame.n == 0:
        raise DataError("the data are empty: they have no rows")
    extras = _Extras.read(weights, offset, structure, frame)
    rows, index, n_dropped = _used_rows(parsed, frame, extras, env.namespace, subset, na_action)
    y, w, o, offsets = _vectors(parsed, extras, rows, index)
    fixed, X, aliased, groups, random = _matrices(parsed, contrasts, rows, index, relmat, covariance, saturated)
    fitted, made = fit_residual(structure, rows, index)
    schema = Schema(
        formula=formula,
        response=parsed.response.label,
        groups=groups,
        index=index,
        n_dropped=n_dropped,
        fixed=fixed,
        offsets=offsets,
        array_offset=extras.has_array_offset,
        rows=rows,
        aliased=aliased,
        residual=fitted,
        expressions=tuple(_expressions(parsed, extras)),
        arguments=extras.names,
        options={
            "contrasts": contrasts,
            "relmat": relmat,
            "covariance": covariance,
            "residual": residual,
            "saturated": saturated,
        },
    )
    return schema, Design(X=X, y=y, terms=random, weights=w, offset=o, residual=made)


@dataclass(frozen=True)
class _Extras:
    """The weights and offset arguments: those given as text, and those given as arrays of the data's length.

    residual : the columns of the residual structure. names : by argument its text, or what its array is called.
    """

    texts: dict[str, Expression]
    arrays: dict[str, np.ndarray]
    residual: list[Expression]
    names: dict[str, str]

    @classmethod
    def read(cls, weights: Any, offset: Any, structure: Structure | None, frame: Frame) -> "_Extras":
        texts, arrays, names = {}, {}, {}
        for name, value in ((WEIGHTS, weights), (OFFSET, offset)):
            if isinstance(value, str):
                quoted = f"Q({value!r})" if value in frame and not value.isidentifier() else value
                texts[name] = expression(quoted)
                names[name.strip("()")] = quoted
            elif value is not None:
                arrays[name] = vector(value, name.strip("()"), frame.n)
                names[name.strip("()")] = name
        return cls(texts, arrays, expressions(structure), names)

    @property
    def has_array_offset(self) -> bool:
        return OFFSET in self.arrays


def _expressions(parsed: ParsedFormula, extras: _Extras) -> list[Expression]:
    found = [parsed.response, *parsed.offsets, *extras.texts.values(), *extras.residual]
    for text in (parsed.fixed, *(bar.raw for bar in parsed.bars)):
        found.extend(f.expression for term in terms(text) for f in term.factors)
    found.extend(atom for bar in parsed.bars for atom in bar.atoms)
    return list(dict.fromkeys(found))


def _used_rows(
    parsed: ParsedFormula, frame: Frame, extras: _Extras, namespace: Any, subset: Any, na_action: str
) -> tuple[Rows, pd.Index, int]:
    expressions = _expressions(parsed, extras)
    scope = resolve(expressions, frame, namespace)
    scope.columns.update(extras.arrays)
    names = {identifier: name for e in expressions for identifier, name in e.variables}
    names |= {name: name.strip("()") for name in extras.arrays}
    used = complete(scope.columns, names, subset_mask(subset, frame, namespace), na_action)
    index = frame.index if used.keep is None else frame.index[used.keep]
    return select(scope, used, frame.n), index, used.n_dropped


_Vector = np.ndarray | None


def _vectors(
    parsed: ParsedFormula, extras: _Extras, rows: Rows, index: pd.Index
) -> tuple[np.ndarray, _Vector, _Vector, tuple[Prepared, ...]]:
    """y, weights and the sum of the offsets, each (n,) and checked, and the offsets that have a text."""
    y = _column(parsed.response, "response", rows, index)[1]
    w = rows.columns.get(WEIGHTS)
    if WEIGHTS in extras.texts:
        w = _column(extras.texts[WEIGHTS], "weights", rows, index)[1]
    if w is not None:
        check_finite(w, ["weights"], index)
        check_weights(w, index)
    texts = [*parsed.offsets, *(e for name, e in extras.texts.items() if name == OFFSET)]
    made = [_column(e, "offset", rows, index) for e in texts]
    summands = [values for _, values in made]
    if OFFSET in rows.columns:
        check_finite(rows.columns[OFFSET], ["offset"], index)
        summands.append(rows.columns[OFFSET])
    return y, w, np.sum(summands, axis=0) if summands else None, tuple(prepared for prepared, _ in made)


def _column(source: Expression, what: str, rows: Rows, index: pd.Index) -> tuple[Prepared, np.ndarray]:
    factor = Factor(source)
    prepared = Prepared(factor, memorise(factor, rows))
    values = prepared.values(rows, f"the {what} {source.label!r}")
    check_finite(values, [source.label], index)
    return prepared, values


def _matrices(
    parsed: ParsedFormula, contrasts: Any, rows: Rows, index: pd.Index, relmat: Any, covariance: Any, saturated: bool
) -> tuple[Matrix, np.ndarray, Aliased | None, tuple[GroupTerm, ...], tuple[RandomTerm, ...]]:
    fixed_terms = with_contrasts(terms(parsed.fixed), contrasts)
    (full, X), *raw = fit_matrices([fixed_terms, *(terms(bar.raw) for bar in parsed.bars)], rows)
    check_reached({f: info.type for f, info in full.info.factor_infos.items()}, contrasts)
    check_finite(X, full.names, index)
    fixed, X, aliased = _independent(full, X)
    check_size(rows.n, fixed.p)
    groups, random = [], []
    known = {bar.group for bar in parsed.bars}
    relmat, covariance = by_group(relmat, "relmat", known), by_group(covariance, "covariance", known)
    factors: dict[str, np.ndarray] = {}
    for bar, (matrix, x) in zip(parsed.bars, raw, strict=True):
        grouping, codes = fit_grouping(bar.atoms, rows)
        check_finite(x, matrix.names, index)
        if not matrix.p:
            raise FormulaError(f"term {bar.text} has no columns; write (1|{bar.group}) or leave it out")
        free = saturated or bar.group in relmat
        check_term(bar.text, bar.group, matrix.p, len(grouping.levels), rows.n, free)
        if bar.group in relmat and bar.group not in factors:
            factors[bar.group] = level_factor(relmat[bar.group], bar.group, grouping.levels)
        groups.append(GroupTerm(bar, matrix, grouping))
        template = template_of(covariance.get(bar.group, "full"), bar.text, matrix.p)
        random.append(RandomTerm(x, codes, len(grouping.levels), template, factors.get(bar.group)))
    order = lme4_order([term.n_levels for term in random])
    return fixed, X, aliased, tuple(groups[i] for i in order), tuple(random[i] for i in order)


def _independent(full: Matrix, X: np.ndarray) -> tuple[Matrix, np.ndarray, Aliased | None]:
    """The columns of X (n, p) that are kept, and those that depend on them."""
    kept = independent_columns(X)
    if len(kept) == full.p:
        return full, X, None
    lost = [j for j in range(full.p) if j not in kept]
    coefficients = np.linalg.lstsq(X[:, kept], X[:, lost])[0]
    size = np.sqrt(np.mean(X[:, lost] ** 2, 0))
    aliased = Aliased(full.keep(lost), coefficients, np.where(size > 0, size, 1.0))
    return full.keep(kept), np.ascontiguousarray(X[:, kept]), aliased
