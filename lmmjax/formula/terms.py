"""patsy's terms, made of factors that evaluate on `Rows` and hand patsy what it codes fastest."""

from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from patsy import EvalEnvironment, EvalFactor, ModelDesc, Poly, Treatment
from patsy.builtins import C
from patsy.desc import Term

from ..errors import DataError, FormulaError
from .expression import CALL, Expression, evaluate, expression
from .hints import listed
from .values import array_of, coded, is_array, is_number, recoded

_Box = type(C(()))


def unboxed(value: Any) -> tuple[Any, Any, Any]:
    """(data, contrast, levels) of what `C(…)` returns; other values as they are, with None twice."""
    return (value.data, value.contrast, value.levels) if isinstance(value, _Box) else (value, None, None)


class RCoding:
    """A patsy contrast where a factor is coded with an intercept beside it, indicators where not, as in R."""

    def __init__(self, contrast: Any) -> None:
        self.contrast = contrast

    def code_without_intercept(self, levels: list) -> Any:
        """The contrast's own columns."""
        return self.contrast.code_without_intercept(levels)

    def code_with_intercept(self, levels: list) -> Any:
        """One indicator for each level."""
        return Treatment().code_with_intercept(levels)


ORDERED = RCoding(Poly())


class Factor(EvalFactor):
    """patsy's factor on an `Expression`: a bare column skips patsy's bookkeeping, categories arrive as codes.

    contrast : a patsy contrast used unless the expression names one itself, or None.
    everywhere : whether `contrast` holds for ordered factors too.
    """

    def __init__(self, source: Expression, contrast: Any = None, everywhere: bool = True) -> None:
        self.expression = source
        self.code = source.code
        self.origin = None
        self.contrast = contrast
        self.everywhere = everywhere

    def name(self) -> str:
        """The text as patsy prints it."""
        return self.expression.label

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Factor)
            and self.expression.label == other.expression.label
            and self.contrast is other.contrast
        )

    def __hash__(self) -> int:
        return hash(self.expression.label)

    def memorize_passes_needed(self, state: dict, eval_env: EvalEnvironment) -> int:
        """patsy's protocol; only a stateful transform needs more than the code itself."""
        namespace = eval_env.namespace
        called = (namespace.get(CALL + f) for f in self.expression.functions)
        if any(hasattr(f, "__patsy_stateful_transform__") for f in called):
            return super().memorize_passes_needed(state, eval_env)
        state.update(transforms={}, eval_code=self.code, pass_bins=[])
        return 0

    def _eval(self, code: str, memorize_state: dict, data: Any) -> Any:
        return evaluate(code, self.name(), data, memorize_state["transforms"], data.constants)

    def memorize_finish(self, state: dict, which_pass: int) -> None:
        """patsy's protocol; what a stateful transform refuses is an error of the formula."""
        try:
            super().memorize_finish(state, which_pass)
        except (ValueError, TypeError, ArithmeticError, np.linalg.LinAlgError) as err:
            raise FormulaError(f"cannot evaluate {self.name()!r}: {err}") from err

    def eval(self, memorize_state: dict, data: Any) -> Any:
        """A numeric (n,) or (n, m) array, or a pd.Categorical; evaluated once per `Rows`."""
        if self not in data.memo:
            bare = data.columns.get(self.code)
            value = super().eval(memorize_state, data) if bare is None else bare
            data.memo[self] = self._for_patsy(value, memorize_state, data.n)
        return data.memo[self]

    def _for_patsy(self, value: Any, state: dict, n: int) -> Any:
        boxed = isinstance(value, _Box)
        value, contrast, levels = unboxed(value)
        wanted = state.get("levels", levels)
        value = self._rows(value, n)
        if is_number(value) and not boxed and wanted is None:
            return value
        if value.ndim != 1:
            raise DataError(f"{self.name()!r} has several columns that are not numbers; a factor needs one column")
        return self._categorical(value, contrast, wanted)

    def _rows(self, value: Any, n: int) -> Any:
        if not is_array(value):
            raise FormulaError(f"{self.name()!r} is of type {type(value).__name__}, not a column: it has no rows")
        value = array_of(value)
        value = value.to_numpy() if isinstance(value, pd.DataFrame) else value
        if len(value) != n:
            raise DataError(f"{self.name()!r} has {len(value)} rows where the data have {n}")
        return value

    def _categorical(self, value: Any, contrast: Any, wanted: Any) -> pd.Categorical:
        if wanted is None:
            codes, levels, ordered = coded(value, self.name())
        else:
            levels, ordered = pd.Index(wanted), False
            codes = recoded(value, levels)
        if (codes < 0).any():
            raise DataError(self._stray(value, codes, wanted))
        result = pd.Categorical.from_codes(codes, levels, validate=False)
        result.contrast = self._choose(contrast, ordered)
        return result

    def _stray(self, value: Any, codes: np.ndarray, wanted: Any) -> str:
        stray = pd.unique(pd.Series(value)[codes < 0])
        if pd.isna(stray).any():
            return f"{self.name()!r} is missing in {int((codes < 0).sum())} rows where its columns are not"
        known = listed(pd.Index(wanted))
        return f"{self.name()!r} has the level {listed(stray)}, which is not among the levels of the fit: {known}"

    def _choose(self, explicit: Any, ordered: bool) -> Any:
        if explicit is not None:
            return explicit
        if self.contrast is not None and (self.everywhere or not ordered):
            return self.contrast
        return ORDERED if ordered else None


def memorise(factor: Factor, rows: Any) -> dict:
    """State of a factor's stateful transforms on `rows`, for factors outside a model matrix."""
    state: dict = {}
    for i in range(factor.memorize_passes_needed(state, EvalEnvironment([rows.constants]))):
        factor.memorize_chunk(state, i, rows)
        factor.memorize_finish(state, i)
    return state


@lru_cache(maxsize=512)
def terms(text: str) -> tuple[Term, ...]:
    """The terms of a right-hand side without bars, by degree, then as written, the intercept first.

    Raises FormulaError with patsy's reason where patsy cannot read the text.
    """
    try:
        found = ModelDesc.from_formula("~ " + text).rhs_termlist
    except Exception as err:  # mostly PatsyError, but its tokeniser also asserts
        raise FormulaError(f"cannot read {text.strip()!r} in the formula: {reason(err)}") from err
    made = [Term([Factor(expression(f.code)) for f in term.factors]) for term in found]
    return tuple(sorted(made, key=lambda term: len(term.factors)))


def reason(err: Exception) -> str:
    """patsy's message without its drawing of the place."""
    text = (str(err).splitlines() or ["not a formula"])[0]
    if "numbers besides" in text:
        text += "; arithmetic is written I(2 * x)"
    return text
