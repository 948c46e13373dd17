"""Templates: the inputs and outputs of a plan, whose strings may hold expressions as ``${...}``.

A string that is exactly ``${expression}`` becomes the value with its type. In a longer string each expression is put
in as text: strings as they are, null as nothing (what GitHub Actions does), all else as compact JSON with sorted
keys. ``$${`` stands for the two characters ``${``. Keys of objects are no templates. Braces and quotes inside an
expression are the expression's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dalang.canonical import pointer
from dalang.cel_source import ExpressionError, end_of_embedded
from dalang.cel_values import MAX_DEPTH
from dalang.expressions import Expression, compile, evaluate

_OPENING = re.compile(r"\$?\$\{")


@dataclass(frozen=True, slots=True)
class _Text:
    """A string with expressions in it; ``whole`` if it is one expression and nothing else."""

    place: str
    parts: tuple[str | Expression, ...]
    whole: bool

    def render(self, context: Mapping[str, Any]) -> Any:
        try:
            if self.whole:
                (expression,) = self.parts
                assert isinstance(expression, Expression)
                return evaluate(expression, context)
            return "".join(part if isinstance(part, str) else _as_text(evaluate(part, context)) for part in self.parts)
        except ExpressionError as error:
            raise error.at(self.place) from None


@dataclass(frozen=True, slots=True)
class Template:
    """A compiled tree; what holds no expression in it is taken over as it stands, and must not be changed."""

    expressions: tuple[tuple[str, Expression], ...]
    """(JSON Pointer of the string, expression) in the order of the tree."""
    _root: Any

    def render(self, context: Mapping[str, Any], without: Collection[str] = ()) -> Any:
        """Return the tree with its expressions evaluated, of an object without some keys.

        Raises ExpressionError with ``pointer``.
        """
        root = self._root
        if without and isinstance(root, _Object):
            root = _Object(tuple((key, item) for key, item in root.items if key not in without))
        return _render(root, context)


@dataclass(frozen=True, slots=True)
class _Object:
    items: tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True)
class _Array:
    items: tuple[Any, ...]


def compile_template(value: Any) -> Template | None:
    """Return the template of a JSON ``value``, or None if no string in it holds ``${``: it is used as it is.

    Raises ExpressionError with ``pointer``: what :func:`dalang.expressions.compile` refuses; SYNTAX for a ``${`` that
    is never closed; NESTING for a tree deeper than ``MAX_DEPTH``.
    """
    expressions: list[tuple[str, Expression]] = []
    root = _compile(value, (), expressions)
    return Template(tuple(expressions), root) if isinstance(root, _Text | _Object | _Array) else None


def _compile(value: Any, steps: tuple[str | int, ...], expressions: list[tuple[str, Expression]]) -> Any:
    """Return a node of the template, or ``value`` itself if there is nothing to do in it."""
    if isinstance(value, str):
        return _compile_text(value, steps, expressions) if "${" in value else value
    if not isinstance(value, Mapping | list | tuple):
        return value
    if len(steps) >= MAX_DEPTH:
        raise ExpressionError("NESTING", f"The data is nested more than {MAX_DEPTH} deep.", None, pointer(*steps[:10]))
    entries: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, Mapping) else enumerate(value)
    compiled = [(key, _compile(item, (*steps, key), expressions)) for key, item in entries]
    if not any(isinstance(item, _Text | _Object | _Array) for _, item in compiled):
        return value
    return _Object(tuple(compiled)) if isinstance(value, Mapping) else _Array(tuple(item for _, item in compiled))


def _compile_text(text: str, steps: tuple[str | int, ...], expressions: list[tuple[str, Expression]]) -> _Text:
    place = pointer(*steps)
    parts: list[str | Expression] = []
    index = 0
    while (opening := _OPENING.search(text, index)) is not None:
        if opening.start() > index:
            parts.append(text[index : opening.start()])
        index = opening.end()
        if len(opening[0]) == 3:
            parts.append("${")
            continue
        end = end_of_embedded(text, index)
        if end < 0:
            raise ExpressionError("SYNTAX", "`${` is not closed by `}`; a literal `${` is `$${`.", index - 2, place)
        try:
            expression = compile(text[index:end].strip(" \t\r\n"))
        except ExpressionError as error:
            raise error.at(place) from None
        expressions.append((place, expression))
        parts.append(expression)
        index = end + 1
    if index < len(text):
        parts.append(text[index:])
    return _Text(place, tuple(parts), whole=len(parts) == 1 and isinstance(parts[0], Expression))


def _render(node: Any, context: Mapping[str, Any]) -> Any:
    if isinstance(node, _Text):
        return node.render(context)
    if isinstance(node, _Object):
        return {key: _render(item, context) for key, item in node.items}
    if isinstance(node, _Array):
        return [_render(item, context) for item in node.items]
    return node


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
