"""Expressions over the variables of a campaign: arithmetic and comparisons, nothing that has an effect."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping
from typing import Any

import simpleeval

FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "abs": abs,
    "ceil": math.ceil,
    "floor": math.floor,
    "len": len,
    "log2": math.log2,
    "max": max,
    "min": min,
    "round": round,
    "sum": sum,
}


class ExpressionError(ValueError):
    """An expression cannot be read or computed; the message says why."""


def evaluate(text: str, names: Mapping[str, Any]) -> Any:
    """The value of an expression; ExpressionError."""
    try:
        return simpleeval.EvalWithCompoundTypes(functions=dict(FUNCTIONS), names=dict(names)).eval(text)
    except simpleeval.NameNotDefined as error:
        known = ", ".join(f"`{name}`" for name in names) or "none"
        raise ExpressionError(f"there is no variable `{error.name}`; variables are {known}") from error
    except simpleeval.FunctionNotDefined as error:
        known = ", ".join(f"`{name}`" for name in FUNCTIONS)
        raise ExpressionError(f"there is no function `{error.func_name}`; functions are {known}") from error
    except SyntaxError as error:
        raise ExpressionError(f"it is not an expression: {error.msg}") from error
    except (simpleeval.InvalidExpression, ArithmeticError, TypeError, ValueError, LookupError, AttributeError) as error:
        raise ExpressionError(str(error).rstrip(".") or type(error).__name__) from error
    except (RecursionError, MemoryError) as error:
        raise ExpressionError("it is nested too deeply") from error


def names_in(text: str) -> frozenset[str]:
    """Variables that an expression reads; empty for one that cannot be read."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return frozenset()
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return frozenset(node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in called)


def arithmetic(text: str, names: Mapping[str, Any]) -> str:
    """The expression with the values of its variables in their places: `3 + 2 <= 4`."""
    tree = ast.parse(text.strip(), mode="eval")
    return ast.unparse(_Filled(names).visit(tree))


class _Filled(ast.NodeTransformer):
    def __init__(self, names: Mapping[str, Any]) -> None:
        self._names = names

    def visit_Call(self, node: ast.Call) -> ast.AST:
        node.args = [self.visit(argument) for argument in node.args]
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        known = node.id in self._names
        return ast.copy_location(ast.Constant(self._names[node.id]), node) if known else node
