"""The `contrasts=` argument: R's names for patsy's codings, assigned to factors of the fixed part."""

from collections.abc import Iterable, Mapping
from typing import Any

from patsy import ContrastMatrix, Diff, Helmert, Poly, Sum, Treatment
from patsy.desc import Term

from ..errors import FormulaError
from .hints import listed, suggest
from .terms import Factor, RCoding

NAMED = {"sum": Sum, "treatment": Treatment, "helmert": Helmert, "poly": Poly, "diff": Diff}


def contrast_of(spec: Any) -> Any:
    """A patsy contrast from a name ("sum", "contr.sum"), a patsy class or object, or a matrix.

    Where a factor must be coded in full, with no intercept beside it, it gets indicators as in R.
    """
    if isinstance(spec, str):
        name = spec.lower().removeprefix("contr.")
        if name not in NAMED:
            raise FormulaError(f"unknown contrast {spec!r}{suggest(name, NAMED)} (known: {listed(NAMED)})")
        return RCoding(NAMED[name]())
    if isinstance(spec, ContrastMatrix) or getattr(spec, "ndim", 0) == 2:
        return spec
    made = spec() if isinstance(spec, type) else spec
    if not hasattr(made, "code_without_intercept"):
        raise FormulaError(f"unknown contrast {spec!r}; give a name ({listed(NAMED)}) or a patsy contrast")
    return RCoding(made)


def with_contrasts(terms: Iterable[Term], contrasts: Any) -> tuple[Term, ...]:
    """The terms with their factors' contrasts set, from one for all unordered factors or a mapping by factor name.

    Raises FormulaError for an unknown contrast and for a name that is no factor of these terms.
    """
    terms = tuple(terms)
    if contrasts is None:
        return terms
    if not isinstance(contrasts, Mapping):
        shared = contrast_of(contrasts)
        return _replace(terms, lambda f: Factor(f.expression, shared, everywhere=False))
    factors = {f for term in terms for f in term.factors}
    chosen = {f: spec for name, spec in contrasts.items() for f in _matching(name, factors)}
    made = {f: Factor(f.expression, contrast_of(spec)) for f, spec in chosen.items()}
    return _replace(terms, lambda f: made.get(f, f))


def _replace(terms: Iterable[Term], change: Any) -> tuple[Term, ...]:
    return tuple(Term([change(f) for f in term.factors]) for term in terms)


def _matching(name: str, factors: Iterable[Factor]) -> list[Factor]:
    """Factors that are the variable `name`, `C(name, …)` or `factor(name, …)`, or whose text is `name`."""
    found = [f for f in factors if f.expression.column == name or f.name() == name or _is_factor_of(f, name)]
    if not found:
        names = sorted(f.expression.name for f in factors)
        raise FormulaError(
            f"contrasts for {name!r}: it is not a factor of the fixed part"
            f"{suggest(name, names) if isinstance(name, str) else ''} "
            f"(contrasts do not reach random terms; the fixed part has {listed(names) or 'none'})"
        )
    return found


def _is_factor_of(factor: Factor, name: str) -> bool:
    outermost = factor.expression.functions[:1]
    return outermost in (("C",), ("factor",)) and any(name == v for _, v in factor.expression.variables)


def check_reached(factor_types: Mapping[Factor, str], contrasts: Any) -> None:
    """Raises FormulaError if a mapping of contrasts names a numeric variable."""
    if isinstance(contrasts, Mapping):
        for factor, kind in factor_types.items():
            if factor.contrast is not None and kind == "numerical":
                raise FormulaError(
                    f"contrasts for {factor.expression.name!r}: it is numeric, not a factor; write C({factor.name()})"
                )
