"""Tokens of a formula with their nesting: what is formula syntax, and what is a Python expression of its own."""

import re
from collections.abc import Callable
from keyword import iskeyword
from typing import NamedTuple

from ..errors import FormulaError

_TOKEN = re.compile(
    r"""\s*(?:
    (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    |(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    |(?P<name>[^\W\d]\w*)
    |(?P<op>\|\||\*\*|//|[<>=!]=|<<|>>|.)
    )""",
    re.VERBOSE | re.DOTALL,
)
_CLOSING = {"(": ")", "[": "]", "{": "}"}
BARS = ("|", "||")


class Token(NamedTuple):
    """One token; `depth` counts the brackets around it, `opaque` says that one of them is not a mere parenthesis."""

    text: str
    kind: str
    start: int
    end: int
    depth: int
    opaque: bool
    call: bool = False


class Span:
    """A run of tokens of one formula, all of the operators at its lowest depth being its own."""

    def __init__(self, source: str, tokens: list[Token]) -> None:
        self.source = source
        self.tokens = tokens

    @property
    def text(self) -> str:
        """The source text from the first token to the last."""
        return self.source[self.tokens[0].start : self.tokens[-1].end] if self.tokens else ""

    @property
    def depth(self) -> int:
        """Depth of the outermost tokens."""
        return self.tokens[0].depth if self.tokens else 0

    def __len__(self) -> int:
        return len(self.tokens)

    def visible(self, *texts: str) -> list[Token]:
        """Tokens of these texts that are formula syntax, at any depth."""
        return [t for t in self.tokens if t.text in texts and not t.opaque and t.kind == "op"]

    def outer(self, *texts: str) -> list[Token]:
        """Tokens of these texts at the span's own depth."""
        return [t for t in self.tokens if t.text in texts and t.depth == self.depth and t.kind == "op"]

    def split(self, cut: Callable[[int, Token], bool]) -> list["Span"]:
        """The spans between the tokens that `cut` picks, those left out."""
        pieces: list[list[Token]] = [[]]
        for i, token in enumerate(self.tokens):
            if cut(i, token):
                pieces.append([])
            else:
                pieces[-1].append(token)
        return [Span(self.source, piece) for piece in pieces]

    def split_on(self, *texts: str) -> list["Span"]:
        """Split at outer tokens of these texts."""
        return self.split(lambda _, t: t.text in texts and t.depth == self.depth and t.kind == "op")

    def unwrap(self) -> "Span":
        """Without the parentheses that enclose all of it, however many."""
        span = self
        while span.is_wrapped():
            span = Span(span.source, span.tokens[1:-1])
        return span

    def is_wrapped(self) -> bool:
        """Whether one pair of mere parentheses encloses all of it."""
        if len(self) < 2 or self.tokens[0].text != "(" or self.tokens[0].call:
            return False
        return self._closes_last(0)

    def is_call(self, name: str) -> bool:
        """Whether it is `name(…)` and nothing else."""
        return len(self) > 2 and self.tokens[0].text == name and self.tokens[1].call and self._closes_last(1)

    def _closes_last(self, opening: int) -> bool:
        depth = self.tokens[opening].depth
        closing = (i for i, t in enumerate(self.tokens) if i > opening and t.depth == depth and t.text in ")]}")
        return next(closing, -1) == len(self) - 1


def tokenise(source: str) -> Span:
    """Tokens of translated formula text. Raises FormulaError on unbalanced brackets and unclosed quotes."""
    tokens: list[Token] = []
    open_brackets: list[Token] = []
    for match in _TOKEN.finditer(source.rstrip()):
        kind, text = str(match.lastgroup), match[str(match.lastgroup)]
        if text in ("'", '"', "`"):
            raise FormulaError(f"unclosed quote {text} in the formula {source.strip()!r}")
        if text in (")", "]", "}"):
            if not open_brackets or _CLOSING[open_brackets.pop().text] != text:
                raise FormulaError(f"unbalanced parentheses in the formula {source.strip()!r}: a {text!r} too many")
        opaque = any(b.call for b in open_brackets)
        call = text in ("[", "{") or (text == "(" and _is_callable(tokens))
        token = Token(text, kind, match.start(kind), match.end(), len(open_brackets), opaque, call)
        tokens.append(token)
        if text in _CLOSING:
            open_brackets.append(token)
    if open_brackets:
        raise FormulaError(f"unbalanced parentheses in the formula {source.strip()!r}: {_CLOSING['(']!r} is missing")
    return Span(source, tokens)


def _is_callable(before: list[Token]) -> bool:
    if not before:
        return False
    last = before[-1]
    return (last.kind == "name" and not iskeyword(last.text)) or last.kind == "string" or last.text in (")", "]")
