"""One Python expression of a formula: the names it needs, and its value. Sees text, then a namespace; never a frame."""

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from keyword import iskeyword, kwlist
from tokenize import TokenError
from types import CodeType
from typing import Any, cast

import numpy as np
from patsy.tokens import normalize_token_spacing

from ..errors import FormulaError, LmmError

CALL = "_call_"
QUOTED = "_column_"
_R_SYNTAX = re.compile(r"""(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|`(?P<name>[^`]*)`|(?P<power>\^)""")
_BINDING = (ast.Lambda, ast.ListComp, ast.GeneratorExp, ast.DictComp, ast.SetComp, ast.NamedExpr)


# Python's keywords that no expression needs, and that are names of columns: `yield` above all.
_KEYWORDS = sorted(set(kwlist) - set("and or not in is if else for lambda True False None".split()))
_RESERVED = re.compile(
    rf"""(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?<![\w.])(?P<name>{"|".join(_KEYWORDS)})(?!\w)"""
)


def translate(text: str) -> str:
    """R's spellings in Python's: ``^`` becomes ``**`` and a backticked name ``Q("name")``; strings stay untouched."""

    def python(match: re.Match) -> str:
        if match["string"]:
            return match["string"]
        return "**" if match["power"] else f"Q({_quote(match['name'])})"

    return _R_SYNTAX.sub(python, text.replace("\n", " "))


def _quote(name: str) -> str:
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


@dataclass(frozen=True)
class Expression:
    """A Python expression over columns, ready to evaluate.

    label : the text as patsy prints it, the name of the factor.
    code : Python source in which a called function f reads `_call_f` and a quoted column is an identifier, so that a
        column and a function of one name do not meet.
    variables : (identifier in `code`, name of the column or variable) pairs.
    functions : names that are called.
    """

    label: str
    code: str
    variables: tuple[tuple[str, str], ...]
    functions: tuple[str, ...]

    @property
    def column(self) -> str | None:
        """The name, when the expression is one name and nothing else."""
        return self.variables[0][1] if self.variables and self.code == self.variables[0][0] else None

    @property
    def name(self) -> str:
        """What messages and grouping factors call it: a quoted name without its quotes."""
        return self.column or self.label


@lru_cache(maxsize=1024)
def expression(text: str) -> Expression:
    """Read one expression. Raises FormulaError where it is not a Python expression patsy could evaluate."""
    source = translate(text).strip()
    try:
        tree = ast.parse(_RESERVED.sub(lambda m: m["string"] or f"Q({_quote(m['name'])})", source), mode="eval")
        label = normalize_token_spacing(source)
    except (SyntaxError, ValueError, TokenError, AssertionError) as err:
        raise FormulaError(
            f"cannot read {text!r} in the formula: {getattr(err, 'msg', err)} (an unusual column name is written "
            'Q("name") or in backticks)'
        ) from err
    names = _Names()
    code = ast.unparse(names.visit(tree))
    return Expression(label, code, tuple(names.variables.items()), tuple(names.functions))


class _Names(ast.NodeTransformer):
    """Collects the names of an expression and renames calls and quoted columns."""

    def __init__(self) -> None:
        self.variables: dict[str, str] = {}
        self.functions: dict[str, None] = {}

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, _BINDING):
            raise FormulaError("lambda, comprehensions and := are not supported in a formula: define a function first")
        return super().visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Name) and node.func.id == "Q":
            return self._column(node)
        func = node.func
        if isinstance(func, ast.Name):
            self.functions[func.id] = None
            func = ast.Name(CALL + func.id, ast.Load())
        else:
            func = self.visit(func)
        args = [self.visit(a) for a in node.args]
        keywords = [ast.keyword(k.arg, self.visit(k.value)) for k in node.keywords]
        return ast.Call(func, args, keywords)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        self.variables[node.id] = node.id
        return node

    def _column(self, node: ast.Call) -> ast.AST:
        if len(node.args) != 1 or not isinstance(node.args[0], ast.Constant) or not isinstance(node.args[0].value, str):
            raise FormulaError('Q() takes one column name in quotes, as in Q("odd name")')
        name = node.args[0].value
        identifier = name if name.isidentifier() and not iskeyword(name) else QUOTED + name.encode().hex()
        self.variables[identifier] = name
        return ast.Name(identifier, ast.Load())


@lru_cache(maxsize=1024)
def _compiled(code: str) -> CodeType:
    return compile(code, "<formula>", "eval")


class _Chain:
    """The first of several namespaces that has the name."""

    def __init__(self, *namespaces: Any) -> None:
        self.namespaces = namespaces

    def __getitem__(self, key: str) -> Any:
        for namespace in self.namespaces:
            try:
                return namespace[key]
            except KeyError:
                continue
        raise KeyError(key)


def evaluate(code: str, label: str, *namespaces: Any) -> Any:
    """Value of `code`; earlier namespaces win. Raises FormulaError naming `label` if it cannot be evaluated."""
    try:
        with np.errstate(all="ignore"):
            return eval(_compiled(code), {}, cast(Mapping, _Chain(*namespaces)))
    except LmmError:
        raise
    except Exception as err:
        raise FormulaError(f"cannot evaluate {label!r}: {type(err).__name__}: {err}") from err
