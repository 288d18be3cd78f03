"""Formula text and a table become a Schema (names) and a Design (arrays); patsy builds every model matrix."""

from .again import rebuild
from .build import build
from .parse import Bar, ParsedFormula, parse, parse_bars
from .schema import GroupTerm, Schema

__all__ = ["Bar", "GroupTerm", "ParsedFormula", "Schema", "build", "parse", "parse_bars", "rebuild"]
