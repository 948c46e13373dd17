"""Reading Python source with ``ast``: metrics, findings, an outline, and a refactoring that keeps the meaning.

Nothing here executes the source. Sources come from node inputs: they are limited in size, and what cannot be parsed is
a failure of the node.
"""

from __future__ import annotations

import ast
import difflib
from collections import Counter
from typing import Any

from dalang.nodes import InvalidInput

MAX_SOURCE = 100_000
MAX_DEPTH = 100
_BRANCHES = (ast.If, ast.For, ast.While, ast.ExceptHandler, ast.IfExp, ast.comprehension, ast.And, ast.Or, ast.Assert)

SAMPLE = '''\
"""Prices, as nobody should write them."""

def total(items, seen=[]):
    result = 0
    for item in items:
        if item["active"] == True:
            if item["kind"] == "book":
                result = result + item["price"] * 0.9
            elif item["kind"] == "food":
                result = result + item["price"] * 0.95
            else:
                result = result + item["price"]
        seen.append(item)
    return result

def is_expensive(items):
    if total(items) > 100:
        return True
    else:
        return False

def is_empty(items):
    if len(items) == 0:
        return True
    else:
        return False
'''
"""What is analysed and refactored when a node brings no code of its own."""


def parse(code: str) -> ast.Module:
    """Return the syntax tree of ``code``.

    Raises:
        InvalidInput: it is too long or no Python.
    """
    if len(code) > MAX_SOURCE:
        raise InvalidInput(f"the code is longer than {MAX_SOURCE} characters")
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InvalidInput(f"the code is no Python: {type(error).__name__}: {error}"[:300]) from None
    level, depth = list(ast.iter_child_nodes(tree)), 0
    while level:
        level, depth = [child for node in level for child in ast.iter_child_nodes(node)], depth + 1
        if depth > MAX_DEPTH:
            raise InvalidInput(f"the code is nested deeper than {MAX_DEPTH} levels")
    return tree


def functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Return all functions and methods in the order of the text."""
    found = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    return sorted(found, key=lambda function: function.lineno)


def complexity(tree: ast.AST) -> int:
    """Return the cyclomatic complexity: 1 and one more for each branch."""
    return 1 + sum(isinstance(node, _BRANCHES) for node in ast.walk(tree))


def metrics(code: str) -> dict[str, Any]:
    """Return size, complexity (the largest and the mean of a function) and the share of repeated lines."""
    tree = parse(code)
    per_function = [complexity(function) for function in functions(tree)]
    lines = [line.strip() for line in code.splitlines() if len(line.strip()) > 8]
    repeated = sum(count - 1 for count in Counter(lines).values())
    return {
        "lines": len(code.splitlines()),
        "functions": len(per_function),
        "complexity": max(per_function, default=1),
        "meanComplexity": round(sum(per_function) / len(per_function), 2) if per_function else 1,
        "duplication": round(repeated / len(lines), 3) if lines else 0,
    }


def hotspots(code: str, limit: int = 5) -> list[dict[str, Any]]:
    """Return the most complex functions, the worst first."""
    ranked = sorted(functions(parse(code)), key=lambda function: (-complexity(function), function.lineno))
    return [{"function": f.name, "line": f.lineno, "complexity": complexity(f)} for f in ranked[:limit]]


def findings(code: str) -> list[dict[str, Any]]:
    """Return what a reviewer would say: rule, line, severity (minor or major) and a sentence."""
    tree = parse(code)
    found: list[tuple[int, str, str, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            if not node.name.startswith("_") and ast.get_docstring(node) is None:
                found.append((node.lineno, "docstring", "minor", f"{node.name} has no docstring."))
            if complexity(node) > 6:
                found.append((node.lineno, "complexity", "major", f"{node.name} has complexity {complexity(node)}."))
            if any(isinstance(default, (ast.List, ast.Dict, ast.Set)) for default in node.args.defaults):
                found.append((node.lineno, "mutable-default", "major", f"{node.name} shares a mutable default."))
        elif isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append((node.lineno, "bare-except", "major", "This catches everything, exits too."))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec"):
            found.append((node.lineno, "dynamic-code", "major", f"{node.func.id} runs what it is given."))
        elif isinstance(node, ast.Compare) and _compares_with_true(node):
            found.append((node.lineno, "compare-true", "minor", "A truth value is compared with True."))
    keys = ("line", "rule", "severity", "message")
    return [dict(zip(keys, item, strict=True)) for item in sorted(found)]


def _compares_with_true(node: ast.Compare) -> bool:
    return any(isinstance(other, ast.Constant) and other.value is True for other in node.comparators)


class _Simplify(ast.NodeTransformer):
    """Rewrites what is safe to: comparisons that are compared with True, ``x = x + 1``, ``if`` that returns truth."""

    def __init__(self) -> None:
        self.changes: list[str] = []

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        """``(a == b) == True`` is ``a == b``."""
        self.generic_visit(node)
        plain = len(node.ops) == 1 and isinstance(node.ops[0], ast.Eq) and isinstance(node.left, ast.Compare)
        if plain and _compares_with_true(node):
            self.changes.append(f"line {node.lineno}: comparison with True removed")
            return node.left
        return node

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        """``x = x + n`` with a number n is ``x += n``; other values may be changed in place, so they stay."""
        self.generic_visit(node)
        value = node.value
        if len(node.targets) != 1 or not isinstance(value, ast.BinOp) or not isinstance(value.right, ast.Constant):
            return node
        target = node.targets[0]
        if not isinstance(target, (ast.Name, ast.Attribute)) or ast.unparse(target) != ast.unparse(value.left):
            return node
        if not isinstance(value.right.value, (int, float)):
            return node
        self.changes.append(f"line {node.lineno}: augmented assignment")
        return ast.copy_location(ast.AugAssign(target=target, op=value.op, value=value.right), node)

    def visit_If(self, node: ast.If) -> ast.AST:
        """``if a > b: return True`` with ``else: return False`` is ``return a > b``."""
        self.generic_visit(node)
        if isinstance(node.test, ast.Compare) and _returns(node.body) is True and _returns(node.orelse) is False:
            self.changes.append(f"line {node.lineno}: condition returned directly")
            return ast.copy_location(ast.Return(value=node.test), node)
        return node


def _returns(body: list[ast.stmt]) -> Any:
    if len(body) == 1 and isinstance(body[0], ast.Return) and isinstance(body[0].value, ast.Constant):
        return body[0].value.value
    return None


def refactor(code: str) -> tuple[str, list[str]]:
    """Return ``code`` simplified, and what was changed."""
    simplify = _Simplify()
    tree = ast.fix_missing_locations(simplify.visit(parse(code)))
    return ast.unparse(tree) + "\n", simplify.changes


def diff(before: str, after: str, name: str) -> str:
    """Return the unified diff between two texts."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), f"a/{name}", f"b/{name}", lineterm="")
    return "\n".join(lines)


def outline(code: str) -> str:
    """Return the module's documentation in Markdown: what it says of itself, of its classes and functions."""
    tree = parse(code)
    parts = [ast.get_docstring(tree) or "A module without a word about itself."]
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            parts += [f"## {node.name}", ast.get_docstring(node) or ""]
            parts += [_entry(child) for child in node.body if isinstance(child, ast.FunctionDef)]
        elif isinstance(node, ast.FunctionDef):
            parts.append(_entry(node))
    return "\n\n".join(part for part in parts if part) + "\n"


def _entry(function: ast.FunctionDef) -> str:
    if function.name.startswith("_"):
        return ""
    returns = f" -> {ast.unparse(function.returns)}" if function.returns else ""
    text = ast.get_docstring(function) or "Not documented."
    return f"### `{function.name}({ast.unparse(function.args)}){returns}`\n\n{text}"
