"""Wording shared by the error messages: did-you-mean, and short lists of names."""

from collections.abc import Iterable
from difflib import get_close_matches


def suggest(name: str, candidates: Iterable) -> str:
    """`; did you mean 'x'?` for the candidate closest to `name`, or an empty string."""
    known = [c for c in candidates if isinstance(c, str)]
    folded = {c.lower(): c for c in known}
    close = get_close_matches(name, known, n=1) or get_close_matches(name.lower(), list(folded), n=1)
    dotted = [c for c in known if c.startswith(f"{name}.")]
    if dotted:
        return f"; a name with a dot is written Q({dotted[0]!r}) or in backticks"
    return f"; did you mean {folded.get(close[0].lower(), close[0])!r}?" if close else ""


def listed(names: Iterable, limit: int = 8) -> str:
    """`'a', 'b', … (12 in all)`."""
    shown = [repr(n) for n in names]
    more = f", … ({len(shown)} in all)" if len(shown) > limit else ""
    return ", ".join(shown[:limit]) + more


def plural(count: int, noun: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{count} {noun}" + ("" if count == 1 else "s")
