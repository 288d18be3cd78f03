"""Predictions from a schema and an estimate, with the policy for new levels."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .core.design import Design
from .core.effects import linear_predictor
from .core.estimate import Estimate
from .core.residual import Residual
from .errors import DataError, FormulaError
from .formula import GroupTerm, Schema, parse_bars
from .formula.terms import terms
from .precision import float64


def predict(
    schema: Schema, design: Design, estimate: Estimate, newdata: Any, re_form: str | None, allow_new_levels: bool
) -> np.ndarray:
    """(rows,) predicted means; see `Fit.predict`."""
    masks = _columns_used(schema, re_form)
    used = [b * m for b, m in zip(estimate.b, masks, strict=True)]
    if newdata is None:
        return linear_predictor(design, estimate.beta, used)
    groups = {g.group for g, m in zip(schema.groups, masks, strict=True) if m.any()}
    from_series = _from_series(schema, design, estimate, newdata) if re_form is None else 0.0
    X, parts, offset = schema.new_data(newdata, groups=groups)
    if schema.array_offset:
        raise DataError("the offset was an array, which newdata cannot hold: put offset(column) in the formula")
    eta = X @ estimate.beta if offset is None else X @ estimate.beta + offset
    for g, b, part in zip(schema.groups, used, parts, strict=True):
        if part is not None:
            x, codes = part
            _check_levels(g, codes, allow_new_levels)
            eta = eta + np.where(codes < 0, 0.0, (x * b[codes]).sum(-1))
    return eta + from_series


def standardised(structure: Residual, phi: np.ndarray, residuals: np.ndarray, whiten: bool) -> np.ndarray:
    """(n,) residuals over their relative standard deviations; with `whiten` also without their correlations."""
    with float64():
        placed = structure.arrange(residuals[:, None])
        if whiten:
            placed = structure.whiten(phi, placed)[0]
        else:
            placed = placed * np.exp(-np.asarray(structure.log_sd(phi)))[:, None]
        return np.asarray(structure.restore(placed, len(residuals)))[:, 0]


def _from_series(schema: Schema, design: Design, estimate: Estimate, newdata: Any) -> Any:
    """(rows,) R(new, old) R(old, old)⁻¹ (y − fitted): what the residuals of a group tell of its new rows."""
    structure = design.residual
    if structure is None or structure.correlation is None:
        return 0.0
    group, time, at = schema.residual_places(newdata)
    phi, root = estimate.theta[design.n_theta :], 1.0 if design.weights is None else np.sqrt(design.weights)
    residuals = (design.y - linear_predictor(design, estimate.beta, estimate.b)) * root
    with float64():
        placed = jnp.asarray(structure.arrange(residuals[:, None]))
        white, back = jax.vjp(lambda a: structure.whiten(phi, a)[0], placed)
        solved = np.asarray(back(white)[0])[:, 0] * np.exp(np.asarray(structure.log_sd(phi)))  # S R⁻¹ r
        new, old = _pairs(group, structure)
        own = structure.split(phi)
        between = np.asarray(structure.correlation.between(own[0], time[new], np.asarray(structure.time)[old]))
        logs = zip(structure.variances, own[1:], at, strict=True)
        log_sd = sum((np.asarray(v.log_sd(p, a)) for v, p, a in logs), np.zeros(len(group)))
    return np.exp(log_sd) * np.bincount(new, between * solved[old], len(group))


def _pairs(group: np.ndarray, structure: Residual) -> tuple[np.ndarray, np.ndarray]:
    """Every new row with every position of its group that holds a row."""
    held = np.flatnonzero(np.ones(len(structure.rows), bool) if structure.real is None else structure.real)
    held = held[np.argsort(structure.group[held], kind="stable")]
    sizes = np.bincount(structure.group[held], minlength=int(group.max(initial=0)) + 1)
    starts = np.cumsum(sizes) - sizes
    counts = np.where(group < 0, 0, sizes[group])
    new = np.repeat(np.arange(len(group)), counts)
    within = np.arange(len(new)) - np.repeat(np.cumsum(counts) - counts, counts)
    return new, held[starts[group[new]] + within]


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
