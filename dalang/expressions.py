"""CEL: conditions of edges, input expressions, outputs and policies.

The engine is Google's (``cel-expr-python``, pinned exactly: a new version passes the replay tests first), with the
extensions ``optional`` (``inputs.?a.orValue(1)``), ``strings`` and ``math``. An expression reads ``inputs``, ``nodes``,
``run``, ``outputs`` and ``error``; a variable the context lacks is null. It runs inside a workflow, so it answers the
same in every process and never ends one. What stands between the engine and that promise, all of it observed:

- it sees only the parts of the context that it names, so an evaluation costs time in what it reads;
- these parts are checked first: the engine crashes the process on data nested thousands deep and on integers of
  thousands of digits, cuts texts at U+0000, and refuses a whole variable for one integer past 64 bits anywhere in it;
- answers are taken apart value by value: the engine's own conversion takes a reference from None each time (after some
  thousand evaluations the interpreter aborts) and crashes on an optional in a map;
- map entries come in an order that differs between processes: what shows it is refused, and maps in answers are sorted
  by key; a failure below a quantifier is RUNTIME, because which element fails first is a matter of that order;
- a plain path (``inputs.a.b``) never enters the engine: it keeps the data's own order and its large integers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NoReturn

from cel_expr_python import cel
from cel_expr_python.ext import ext_math, ext_optional, ext_strings

from dalang.cel_source import MAX_SOURCE, VARIABLES, Analysis, ExpressionError, analyse
from dalang.cel_values import (
    MAX_CHARACTERS,
    MAX_DEPTH,
    MAX_VALUES,
    Failure,
    Room,
    Tree,
    encodable,
    error_code,
    json_value,
    part,
    plain_value,
)

__all__ = ["MAX_SOURCE", "VARIABLES", "Expression", "ExpressionError", "compile", "evaluate", "evaluate_condition"]

MAX_ITERATIONS = 10_000
"""Where the engine stops its quantifiers."""
MAX_WORK = 1_000_000_000
"""Iterations times characters: one comparison may look at every character that is read."""


@lru_cache(maxsize=8)
def _environment(variables: tuple[str, ...]) -> Any:
    return cel.NewEnv(
        variables={name: cel.Type.DYN for name in variables},
        extensions=[ext_optional.ExtOptional(), ext_strings.ExtStrings(), ext_math.ExtMath()],
    )


_POSITION = re.compile(r"<input>:(\d+):(\d+): (.*)")
_COMPILE_CODES = (
    ("recursion", "NESTING"),
    ("undeclared reference", "UNKNOWN_NAME"),
    ("no matching overload", "TYPE_MISMATCH"),
    ("comprehension", "TYPE_MISMATCH"),
)
_SENTENCES = {
    "NO_SUCH_KEY": "it names a key that is not there",
    "NO_SUCH_INDEX": "it names an element that the list does not have",
    "TYPE_MISMATCH": "an operation or a selection does not fit the type of its value",
    "DIVISION_BY_ZERO": "it divides by zero",
    "OUT_OF_RANGE": "a number or a time is too large for 64 bits",
    "NO_VALUE": "it takes the value of an optional that has none",
    "NOT_BOOLEAN": "a condition must be true or false",
    "NOT_JSON": "the value is no JSON (a number that is none, bytes, a type, an optional, or a key that is no text)",
    "NOT_READABLE": "it reads what is no JSON, or a text with the character U+0000 or half a surrogate pair",
    "NESTING": f"it reads data nested more than {MAX_DEPTH} deep",
    "TOO_LARGE": f"it reads more than {MAX_VALUES} values or {MAX_CHARACTERS} characters",
    "COST": f"its quantifiers could take more than {MAX_ITERATIONS} steps or look at too much text",
    "RUNTIME": "its evaluation failed",
}


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled expression; equal to another of the same source. Shared between threads and runs."""

    source: str
    variables: tuple[str, ...] = field(compare=False)
    """The variables it reads, in order of first appearance."""
    references: tuple[str, ...] = field(compare=False)
    """The ids of the nodes it reads, in order of first appearance."""
    node_paths: tuple[tuple[str, ...], ...] = field(compare=False)
    """For each read of a node its id and the keys known statically, as ``("a", "outputs", "score")``; no doubles."""
    could_be_boolean: bool = field(compare=False)
    """False if the checker knows that the value is never true or false: a condition that always fails."""
    _program: Any = field(compare=False, repr=False)
    _tree: Tree = field(compare=False, repr=False)
    _path: tuple[str, ...] | None = field(compare=False, repr=False)
    _analysis: Analysis = field(compare=False, repr=False)

    @property
    def paths(self) -> tuple[tuple[str, ...], ...]:
        """Every read: the variable, then the keys known statically, as ``("inputs", "a")``."""
        return self._analysis.paths


@lru_cache(maxsize=8192)
def compile(source: str, variables: tuple[str, ...] = VARIABLES) -> Expression:
    """Return the compiled expression; the same source gives the same object while it is remembered.

    ``variables`` are what it may read; those of policies are others than those of plans.

    Raises ExpressionError: TOO_LONG, SYNTAX, NESTING, UNKNOWN_NAME, TYPE_MISMATCH, NOT_JSON (the value would be an
    optional), and the refusals of :func:`dalang.cel_source.analyse`.
    """
    if len(source) > MAX_SOURCE:
        raise ExpressionError("TOO_LONG", f"An expression has at most {MAX_SOURCE} characters, this one {len(source)}.")
    if not source.isascii() and not encodable(source):
        raise ExpressionError("SYNTAX", "The expression holds half of a surrogate pair.")
    analysis = analyse(source, variables)
    try:
        program = _environment(variables).compile(source)
        kind = program.return_type().name()
    except Exception as error:
        raise _compile_error(str(error), source) from None
    if kind.startswith("optional_type"):
        raise ExpressionError("NOT_JSON", "The value is an optional: say what holds without it, as .orValue(null).")
    nodes = dict.fromkeys(path[1:] for path in analysis.paths if path[0] == "nodes")
    return Expression(
        source=source,
        variables=tuple(dict.fromkeys(path[0] for path in analysis.paths)),
        references=tuple(dict.fromkeys(path[0] for path in nodes)),
        node_paths=tuple(nodes),
        could_be_boolean=kind in ("BOOL", "DYN"),
        _program=program,
        _tree=_tree(analysis.paths),
        _path=analysis.paths[0] if analysis.only_path else None,
        _analysis=analysis,
    )


def evaluate(expression: Expression, context: Mapping[str, Any]) -> Any:
    """Return the value as plain JSON data that shares nothing with ``context`` (variable -> value).

    A uint becomes an integer, a timestamp RFC 3339 in UTC ("2024-05-01T10:00:00.5Z"), a duration seconds ("90s",
    "1.5s"), both to the microsecond. Raises ExpressionError with a code of ``_SENTENCES``.
    """
    try:
        if expression._path is not None:
            return json_value(_follow(expression._path, context), 0)
        return plain_value(*_run(expression, context))
    except Failure as failure:
        _fail(expression, str(failure))


def evaluate_condition(expression: Expression, context: Mapping[str, Any]) -> bool:
    """Return whether the condition holds; raises ExpressionError as :func:`evaluate`, and NOT_BOOLEAN."""
    try:
        if expression._path is not None:
            answer = _follow(expression._path, context)
        else:
            value, kind = _run(expression, context)
            answer = value.plain_value() if kind == "BOOL" else None
        if answer is True or answer is False:
            return answer
        raise Failure("NOT_BOOLEAN")
    except Failure as failure:
        _fail(expression, str(failure))


def _fail(expression: Expression, code: str) -> NoReturn:
    source = expression.source if len(expression.source) <= 200 else expression.source[:200] + "..."
    raise ExpressionError(code, f"The expression `{source}` has no value: {_SENTENCES[code]}.") from None


def _compile_error(text: str, source: str) -> ExpressionError:
    found = _POSITION.search(text)
    code = next((code for words, code in _COMPILE_CODES if words in text), "SYNTAX")
    if found is None or code == "NESTING":
        if code == "NESTING":
            return ExpressionError(code, "Too many brackets, selectors or operators in a row: the engine reads 32.")
        return ExpressionError(code, f"The expression cannot be read: {text[:200]}.")
    line, column, message = int(found[1]), int(found[2]), found[3].removesuffix(" [INVALID_ARGUMENT]")
    position = sum(len(text) for text in source.split("\n")[: line - 1]) + line - 1 + column - 1
    hint = ""
    if code == "UNKNOWN_NAME" and re.search(r"\bnodes\.\w+-", source):
        hint = " (an id with other characters than letters, digits and _ is written nodes['the-id'])"
    message = re.sub(r" \(in container '[^']*'\)", "", message)
    return ExpressionError(code, message + hint, position)


def _tree(paths: tuple[tuple[str, ...], ...]) -> Tree:
    """Return the paths as one tree; a path that is the beginning of another takes it in."""
    root: Tree = {}
    for path in paths:
        level = root
        for key in path[:-1]:
            below = level.setdefault(key, {})
            if below is None:
                break
            level = below
        else:
            level[path[-1]] = None
    return root


def _run(expression: Expression, context: Mapping[str, Any]) -> tuple[Any, str]:
    """Return the engine's answer and its type over the parts of ``context`` that the expression names."""
    room = Room()
    data = {name: part(context.get(name), tree, room) for name, tree in expression._tree.items()}
    if expression._analysis.quantifiers:
        _check_cost(expression._analysis, room)
    try:
        value = expression._program.eval(data=data)
    except Exception as error:
        raise Failure("COST" if "budget" in str(error) else "RUNTIME") from None
    kind = value.type().name()
    if kind == "ERROR":
        code = error_code(value)
        # Which element of a map fails first is a matter of its order: no more can be said than that one did.
        raise Failure("RUNTIME" if expression._analysis.quantifiers and code != "NOT_JSON" else code)
    return value, kind


def _check_cost(analysis: Analysis, room: Room) -> None:
    """Refuse quantifiers whose number of steps could depend on the order of a map, or that take too long.

    The engine counts steps and stops at its limit. Quantifiers stop early, and over a map it depends on the process
    when: so wherever a map is about, the worst case must stay below the limit.
    """
    size = max(room.largest, analysis.commas + 1)
    if analysis.splits:
        size = max(size, MAX_CHARACTERS - room.characters)
    size *= 1 + analysis.sums
    steps = sum(size**level for level in range(1, analysis.quantifier_depth + 1))
    steps *= analysis.quantifiers - analysis.quantifier_depth + 1
    if analysis.quantifiers == 1:
        steps = room.largest_map
    if (room.largest_map > 1 and steps >= MAX_ITERATIONS) or (
        min(steps or size, MAX_ITERATIONS) * (MAX_CHARACTERS - room.characters) > MAX_WORK
    ):
        raise Failure("COST")


def _follow(path: tuple[str, ...], context: Mapping[str, Any]) -> Any:
    """Return what stands at the end of ``path``, with the engine's meaning of a selection."""
    value: Any = context.get(path[0])
    for key in path[1:]:
        if not isinstance(value, Mapping):
            raise Failure("TYPE_MISMATCH")
        if key not in value:
            raise Failure("NO_SUCH_KEY")
        value = value[key]
    return value
