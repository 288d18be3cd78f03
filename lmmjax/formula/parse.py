"""Formula text to its parts: response, fixed terms, offsets, and lme4's random-effects terms. Sees no data."""

from dataclasses import dataclass
from functools import lru_cache

from patsy.tokens import normalize_token_spacing

from ..errors import FormulaError
from .expression import Expression, expression, translate
from .terms import terms
from .tokens import BARS, Span, Token, tokenise


@dataclass(frozen=True)
class Bar:
    """One term (raw | group), after `||` and `/` are expanded.

    raw : formula text of the raw model matrix.
    group : lme4's name of the grouping factor, as `g`, `a:b` or `c:(b:a)`.
    atoms : the factors whose interaction is the grouping factor, slowest first.
    """

    raw: str
    group: str
    atoms: tuple[Expression, ...]

    @property
    def text(self) -> str:
        """The term as a formula has it, with lme4's spacing."""
        return f"({self.raw} | {self.group})"


@dataclass(frozen=True)
class ParsedFormula:
    """The parts of a formula; `fixed` is what remains on the right for patsy."""

    formula: str
    response: Expression
    fixed: str
    offsets: tuple[Expression, ...]
    bars: tuple[Bar, ...]


def parse(text: str) -> ParsedFormula:
    """Take a formula apart. Raises FormulaError, saying what to write, where the text is not a model formula."""
    if not isinstance(text, str):
        raise FormulaError(f"a formula is a text such as 'y ~ x + (1|g)', not of type {type(text).__name__}")
    return _parse(text)


@lru_cache(maxsize=512)
def _parse(text: str) -> ParsedFormula:
    span = tokenise(translate(text))
    sides = span.split_on("~")
    if len(sides) > 2 or (len(sides) == 2 and len(span.visible("~")) > 1):
        raise FormulaError(f"{text!r} has more than one '~'; a formula reads 'y ~ x + (1|g)'")
    if len(sides) < 2 or not sides[0].tokens:
        raise FormulaError(f"{text!r} has no response; a formula reads 'y ~ x + (1|g)'")
    if not sides[1].tokens:
        raise FormulaError(f"{text!r} has nothing on the right of '~'; for a mean alone write '~ 1'")
    right = _Right()
    right.read(sides[1])
    return ParsedFormula(text, expression(sides[0].text), right.fixed_text(), tuple(right.offsets), tuple(right.bars))


@lru_cache(maxsize=512)
def parse_bars(text: str) -> tuple[Bar, ...]:
    """The random terms of a one-sided formula such as `~ (1|g)`, as in `re_form`; anything else in it is refused."""
    sides = tokenise(translate(text)).split_on("~")
    if len(sides) != 2 or sides[0].tokens or not sides[1].tokens:
        raise FormulaError(f"{text!r} is not a one-sided formula such as '~ (1|g)'")
    right = _Right()
    right.read(sides[1])
    if right.offsets or any(t.factors for t in terms(right.fixed_text())):
        raise FormulaError(f"{text!r} has more than random terms; write '~ (1|g)', or '~ 0' for none")
    return tuple(right.bars)


class _Right:
    """Collects the summands of a right-hand side."""

    def __init__(self) -> None:
        self.fixed: list[str] = []
        self.offsets: list[Expression] = []
        self.bars: list[Bar] = []

    def fixed_text(self) -> str:
        """What patsy is to read; checked here, so that bad text fails in `parse`."""
        text = " ".join(self.fixed) or "1"
        terms(text)
        return text

    def read(self, span: Span) -> None:
        """Sort every summand of `span` into its kind."""
        for sign, summand in _summands(span):
            if summand.visible(*BARS):
                self._read_bars(sign, summand)
            elif summand.unwrap().is_call("offset"):
                self._read_offset(sign, summand.unwrap())
            else:
                _check_fixed(summand)
                self.fixed.append(f"{sign} {summand.text}")

    def _read_bars(self, sign: str, summand: Span) -> None:
        inner = summand.unwrap()
        if not summand.is_wrapped():
            raise FormulaError(_misplaced_bar(summand))
        if sign == "-":
            raise FormulaError(f"- {summand.text}: a random term cannot be subtracted; leave it out of the formula")
        if inner.outer(*BARS):
            self.bars.extend(_bars(inner))
        else:
            self.read(inner)

    def _read_offset(self, sign: str, call: Span) -> None:
        if sign == "-":
            raise FormulaError(f"- {call.text}: an offset cannot be subtracted; write offset(-(…))")
        self.offsets.append(expression(call.text[call.text.index("(") + 1 : -1]))


def _summands(span: Span) -> list[tuple[str, Span]]:
    signs = ["+"]

    def cut(i: int, token: Token) -> bool:
        if token.text not in "+-" or token.kind != "op" or token.depth != span.depth:
            return False
        before = span.tokens[i - 1] if i else None
        if before is not None and before.kind == "op" and before.text not in ")]}":
            return False
        signs.append(token.text)
        return True

    pieces = span.split(cut)
    if not pieces[0].tokens:
        pieces, signs = pieces[1:], signs[1:]
    if not all(piece.tokens for piece in pieces):
        raise FormulaError(f"a term is missing in {span.text!r}: nothing follows the last '{signs[-1]}'")
    return list(zip(signs, pieces, strict=True))


def _misplaced_bar(summand: Span) -> str:
    if summand.outer(*BARS):
        return f"write the random term with parentheses: ({summand.text}) in place of {summand.text}"
    return (
        f"{summand.text}: a random term is a summand of its own and cannot be multiplied or interacted; "
        "slopes go on the left of the bar, as in (x|g)"
    )


def _check_fixed(summand: Span) -> None:
    for i, token in enumerate(summand.tokens):
        following = summand.tokens[i + 1] if i + 1 < len(summand) else None
        if token.opaque:
            continue
        if token.text == "offset" and following is not None and following.call:
            raise FormulaError(f"{summand.text}: offset(…) must be a summand of its own")
        before = summand.tokens[i - 1] if i else None
        if token.text == "." and (before is None or (before.kind == "op" and before.text not in ")]")):
            raise FormulaError("'.' for all other columns is not supported; name the columns, as in 'y ~ x1 + x2'")


def _bars(span: Span) -> list[Bar]:
    sides = span.split_on(*BARS)
    if len(sides) != 2:
        raise FormulaError(f"({span.text}): more than one bar in a term; write one term for each grouping factor")
    raw, group = sides
    if not group.tokens:
        raise FormulaError(f"({span.text}): the grouping factor is missing; write (1|g)")
    if not raw.tokens:
        raise FormulaError(f"({span.text}): nothing stands on the left of the bar; write (1|g) for an intercept")
    if raw.visible(*BARS) or group.visible(*BARS):
        raise FormulaError(f"({span.text}): a bar inside a random term; write the terms side by side, (1|a) + (1|b)")
    _check_fixed(raw)
    double = bool(span.outer("||"))
    texts = _uncorrelated(raw.text) if double else [normalize_token_spacing(raw.text)]
    return [Bar(text, *g) for text in texts for g in _nested(group.unwrap(), span.text) if _has_columns(text, span)]


def _has_columns(raw: str, span: Span) -> bool:
    if not terms(raw):
        raise FormulaError(f"({span.text}) has no random effects: its left side is empty; write (1|g) or drop it")
    return True


def _uncorrelated(raw: str) -> list[str]:
    """lme4's expandDoubleVerts: the intercept and each term alone."""
    return [f"0 + {t.name()}" if t.factors else "1" for t in terms(raw)] or [raw]


_Group = tuple[str, tuple[Expression, ...]]


def _nested(span: Span, term: str) -> list[_Group]:
    """a/b/c as lme4 has it, innermost first: c:(b:a), b:a, a."""
    wrong = span.outer("+", "-", "*", "**")
    if wrong:
        raise FormulaError(
            f"({term}): '{wrong[0].text}' cannot be part of a grouping factor; write (1|a) + (1|b) for two factors, "
            "(1|a:b) for their interaction, (1|a/b) for b within a"
        )
    first, *rest = span.split_on("/")
    found = _nested(first.unwrap(), term) if rest else [_interaction(first, term)]
    for piece in rest:
        found.insert(0, _join(_interaction(piece, term), found[0]))
    return found


def _interaction(span: Span, term: str) -> _Group:
    span = span.unwrap()
    if not span.tokens:
        raise FormulaError(f"({term}): a part of the grouping factor is missing")
    wrong = span.outer("+", "-", "*", "**", "/")
    if wrong:
        raise FormulaError(f"({term}): write the grouping factor without '{wrong[0].text}' inside parentheses")
    pieces = span.split_on(":")
    if len(pieces) == 1:
        atom = expression(span.text)
        return atom.name, (atom,)
    groups = [_interaction(piece, term) for piece in pieces]
    names = [f"({name})" if len(atoms) > 1 else name for name, atoms in groups]
    return ":".join(names), tuple(atom for _, atoms in groups for atom in atoms)


def _join(inner: _Group, outer: _Group) -> _Group:
    names = [f"({name})" if len(atoms) > 1 else name for name, atoms in (inner, outer)]
    return ":".join(names), inner[1] + outer[1]
