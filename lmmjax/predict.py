"""Predictions from a schema and an estimate, with the policy for new levels."""

from typing import Any

import numpy as np

from .core.design import Design
from .core.effects import linear_predictor
from .core.estimate import Estimate
from .errors import DataError, FormulaError
from .formula import GroupTerm, Schema, parse_bars
from .formula.terms import terms


def predict(
    schema: Schema, design: Design, estimate: Estimate, newdata: Any, re_form: str | None, allow_new_levels: bool
) -> np.ndarray:
    """(rows,) predicted means; see `Fit.predict`."""
    masks = _columns_used(schema, re_form)
    used = [b * m for b, m in zip(estimate.b, masks, strict=True)]
    if newdata is None:
        return linear_predictor(design, estimate.beta, used)
    groups = {g.group for g, m in zip(schema.groups, masks, strict=True) if m.any()}
    X, parts, offset = schema.new_data(newdata, groups=groups)
    if schema.array_offset:
        raise DataError("the offset was an array, which newdata cannot hold: put offset(column) in the formula")
    eta = X @ estimate.beta if offset is None else X @ estimate.beta + offset
    for g, b, part in zip(schema.groups, used, parts, strict=True):
        if part is not None:
            x, codes = part
            _check_levels(g, codes, allow_new_levels)
            eta = eta + np.where(codes < 0, 0.0, (x * b[codes]).sum(-1))
    return eta


def _check_levels(group: GroupTerm, codes: np.ndarray, allowed: bool) -> None:
    unseen = np.flatnonzero(codes < 0)
    if len(unseen) and not allowed:
        raise DataError(
            f"newdata has {len(unseen)} rows (first: row {unseen[0]}) with levels of {group.group!r} that are not "
            "in the fit; allow_new_levels=True predicts them with a random effect of zero"
        )


def _columns_used(schema: Schema, re_form: str | None) -> list[np.ndarray]:
    """Per term a (pᵢ,) mask of the columns that `re_form` keeps."""
    if re_form is None:
        return [np.ones(len(g.columns)) for g in schema.groups]
    keep = [np.zeros(len(g.columns)) for g in schema.groups]
    bars = parse_bars(re_form)
    if not bars and "".join(re_form.split()) != "~0":
        raise FormulaError(f"re_form={re_form!r} names no random terms: write '~0' for none or, say, '~(1|g)'")
    for bar in bars:
        wanted = _names(bar.raw)
        hits = [i for i, g in enumerate(schema.groups) if g.group == bar.group and wanted & _terms(g).keys()]
        missing = wanted - {t for i in hits for t in _terms(schema.groups[i])}
        if not hits or missing:
            raise FormulaError(f"re_form term {bar.text} is not part of the model's random effects")
        for i in hits:
            for term in wanted & _terms(schema.groups[i]).keys():
                keep[i][list(_terms(schema.groups[i])[term])] = 1.0
    return keep


def _terms(group: GroupTerm) -> dict[str, tuple[int, ...]]:
    return dict(group.matrix.terms)


def _names(raw: str) -> set[str]:
    return {t.name() for t in terms(raw)}
