"""Whether one fitted model is a special case of another, and where its random terms lie within the other's."""

from typing import Any, NamedTuple

import numpy as np

from ..core.design import RandomTerm
from ..errors import DataError
from ..fit import Fit
from ..guard import check_independent
from ..refitting import given_theta

SPAN = 1e-8  # of a column's length: what is left of it outside a span
ZERO = 1e-8  # a likelihood ratio below this share of a deviance is rounding


class Undetermined(DataError):
    """The models may be nested; the parts that random terms are compared by do not tell."""


class Placed(NamedTuple):
    """Term `small` of the smaller model within term `large` of the larger one: x_small = x_large @ columns."""

    small: int
    large: int
    columns: np.ndarray


def check_fits(fits: Any, name: str, structured: bool = False) -> None:
    """Raises TypeError for what is no fit, and unless `structured` DataError for one with a residual structure."""
    for fit in fits:
        if not isinstance(fit, Fit):
            raise TypeError(f"{name}() takes fits of lmer() or lm(), not {type(fit).__name__}")
        if not structured:
            check_independent(fit.schema, f"{name}()")


def check_comparable(null: Fit, alt: Fit) -> None:
    """Raises DataError, naming what differs, unless `null` can be a special case of `alt`, the larger model."""
    check_same_data(null, alt)
    check_fixed(null, alt)
    check_structures(null, alt)
    for fit in (null, alt):
        if given_theta(fit) is not None:
            raise DataError(f"theta of {fit.schema.formula!r} was given: it cannot be counted as a parameter")
    if null.df == alt.df:
        text = f"have the same number of parameters, {null.df}: neither is the smaller one"
        raise DataError(f"{_both(null, alt)} {text}")


def check_structures(null: Fit, alt: Fit) -> None:
    """Raises DataError unless the null's residual structure is a special case of the other's: absent, some of its
    factors, or a correlation within an unstructured one."""
    small, large = (None if f.schema.residual is None else f.schema.residual.structure for f in (null, alt))
    if small is not None and (large is None or not small.within(large)):
        text = f"residual={small} is no special case of residual={large}"
        raise DataError(f"{_both(null, alt)} are not nested: {text}")


def check_same_data(one: Fit, other: Fit) -> None:
    """Raises DataError unless both fits have the same rows, response, weights and offset."""
    names = _both(one, other)
    if one.nobs != other.nobs:
        raise DataError(f"{names} were fitted to {one.nobs} and {other.nobs} rows: fit both to the same rows")
    for what in ("y", "weights", "offset"):
        a, b = getattr(one.design, what), getattr(other.design, what)
        if (a is None) != (b is None) or (a is not None and not np.array_equal(a, b)):
            raise DataError(f"{names} differ in {_named(what, one, other)}: a likelihood ratio needs the same")


def check_fixed(null: Fit, alt: Fit) -> None:
    """Raises DataError unless the columns of the null's X lie in the span of the other's."""
    outside = outside_span(null, alt)
    if outside:
        text = f"the larger model's fixed effects do not span {', '.join(outside)}"
        raise DataError(f"{_both(null, alt)} are not nested: {text}")


def check_same_fixed(one: Fit, other: Fit) -> None:
    """Raises DataError unless restricted likelihoods compare: one space of fixed effects, and one coding of it."""
    for a, b in ((one, other), (other, one)):
        outside = outside_span(a, b)
        if outside:
            raise DataError(
                f"{_both(one, other)} have other fixed effects (only {a.schema.formula!r} spans {', '.join(outside)}), "
                "so that their REML criteria do not compare: compare them by ML"
            )
    first, second = (np.log(np.abs(np.diagonal(f.cross_products.basis))).sum() for f in (one, other))
    if abs(first - second) > 1e-6:  # log|X'X|, which is what a coding adds
        raise DataError(
            f"{_both(one, other)} code the same fixed effects in other columns ({_columns(one)}; {_columns(other)}), "
            "which REML criteria depend on: use the same columns and contrasts, or compare by ML"
        )


def outside_span(one: Fit, other: Fit) -> list[str]:
    """Names of the columns of X of one fit that are no combinations of the other's."""
    far = not_spanned(one.design.X, other.design.X)
    return [name for name, is_far in zip(one.schema.fixed_names, far, strict=True) if is_far]


def likelihood_ratio(null: float, alt: float) -> float:
    """The difference of two criteria, zero where it is rounding; DataError where the smaller model has the smaller."""
    zero = ZERO * max(1.0, abs(null))
    if null - alt < -100 * zero:
        raise DataError(
            f"the model with fewer parameters has the larger likelihood (−2 log-likelihood {null:.6g} against "
            f"{alt:.6g}): it is no special case of the other"
        )
    return float(without_rounding(null - alt, null))


def without_rounding(ratio: Any, null: Any) -> np.ndarray:
    """Likelihood ratios, zero where they are rounding beside the criterion of the null."""
    return np.where(ratio < ZERO * np.maximum(1.0, np.abs(null)), 0.0, ratio)


def placed(null: Fit, alt: Fit) -> list[Placed]:
    """Where each random term of the null lies in the other model.

    A term on one grouping factor is a special case of another where the other's columns span its own, and where the
    covariances it allows are among the other's. Raises DataError, naming a term that is none, or Undetermined.
    """
    found = [_place(null, i, alt) for i in range(len(null.design.terms))]
    taken: set[tuple[int, int]] = set()
    for p in found:
        if not alt.design.terms[p.large].template.is_diagonal:
            continue
        used = {(p.large, int(row)) for row in np.nonzero(p.columns)[0]}
        if used & taken:
            raise DataError(_not_nested(null, p.small, alt))
        taken |= used
    return found


def _place(null: Fit, i: int, alt: Fit) -> Placed:
    term, unclear = null.design.terms[i], False
    for j in sorted(range(len(alt.design.terms)), key=lambda j: alt.design.terms[j].p):
        other = alt.design.terms[j]
        if not _same_groups(term, other):
            unclear |= other.p > 1 and _within(term, other)
        elif not not_spanned(term.x, other.x).any():
            columns = _combination(term.x, other.x)
            allowed = _allowed(term, other, columns)
            if allowed:
                return Placed(i, j, columns)
            unclear |= allowed is None
    if unclear:
        text = f"{_both(null, alt)}: it cannot be told whether {null.schema.groups[i].text} is a special case of a term"
        raise Undetermined(f"{text} of the larger model: use bootstrap_lrt(), or lrt(method='chisq') if you know it is")
    raise DataError(_not_nested(null, i, alt))


def _allowed(term: RandomTerm, other: RandomTerm, columns: np.ndarray) -> bool | None:
    """Whether every covariance of the term, turned by its columns (p_other, p), is one of the other; None: unclear."""
    if other.template.is_full:
        return True
    if other.template.is_diagonal:
        axes = (columns != 0).sum(0) == 1
        return bool(axes.all()) and (term.p == 1 or term.template.is_diagonal)
    same = term.template == other.template and np.allclose(columns, np.eye(len(columns)), rtol=0, atol=1e-6)
    return same or None


def _combination(x: np.ndarray, of: np.ndarray) -> np.ndarray:
    """(p_of, p) with x = of @ combination, and zeros where it is zero but for rounding."""
    found = _solved(x, of)
    share = np.abs(found) * np.linalg.norm(of, axis=0)[:, None] / np.linalg.norm(x, axis=0)
    return np.where(share > 1e-7, found, 0)


def not_spanned(x: np.ndarray, of: np.ndarray) -> np.ndarray:
    """(p,) whether each column of x is no combination of the columns `of`."""
    left = x - of @ _solved(x, of)
    return np.linalg.norm(left, axis=0) > SPAN * np.linalg.norm(x, axis=0)


def _solved(x: np.ndarray, of: np.ndarray) -> np.ndarray:
    """(p_of, p) least squares, the columns `of` brought to one length."""
    scale = np.maximum(np.sqrt(np.mean(of**2, 0)), 1e-300)
    return np.linalg.lstsq(of / scale, x, rcond=None)[0] / scale[:, None]


def _same_groups(one: RandomTerm, other: RandomTerm) -> bool:
    """Whether both terms have one grouping factor, with the same correlations between its levels."""
    if one.level_factor is not None or other.level_factor is not None:
        if one.level_factor is None or other.level_factor is None or one.n_levels != other.n_levels:
            return False
        return np.array_equal(one.codes, other.codes) and np.allclose(one.level_factor, other.level_factor)
    return one.n_levels == other.n_levels and _within(one, other)


def _within(one: RandomTerm, other: RandomTerm) -> bool:
    """Whether each level of one lies in a single level of the other."""
    pairs = np.asarray(one.codes, np.int64) * other.n_levels + other.codes
    return len(np.unique(pairs)) == len(np.unique(one.codes))


def _not_nested(null: Fit, i: int, alt: Fit) -> str:
    text = f"{null.schema.groups[i].text} is no special case of a random term of the larger model"
    return f"{_both(null, alt)} are not nested: {text}"


def _both(one: Fit, other: Fit) -> str:
    return f"{one.schema.formula!r} and {other.schema.formula!r}"


def _columns(fit: Fit) -> str:
    names = fit.schema.fixed_names
    return ", ".join(names[:6]) + (", …" if len(names) > 6 else "")


def _named(what: str, one: Fit, other: Fit) -> str:
    if what != "y":
        return what
    if one.schema.response != other.schema.response:
        return f"their responses ({one.schema.response} and {other.schema.response})"
    same = one.schema.index.equals(other.schema.index)
    return "the values of their responses" if same else "the rows that they use"
