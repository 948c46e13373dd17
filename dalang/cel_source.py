"""The source text of CEL expressions: tokens, what an expression reads, and what Dalang refuses.

The engine compiles a source but does not say what it reads, and the run hands an expression only what it names. So
this module reads the tokens (the lexical part of the CEL specification) and finds every static path from a variable,
``nodes.a.outputs.score`` or ``nodes['a-b'].status``. If it ever read a source differently from the engine, the
expression would see less than it names: it could fail, never see something it should not.

Refused here is what would differ between processes or machines, or end the process: see :func:`analyse`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

VARIABLES = ("inputs", "nodes", "run", "outputs", "error", "undoes", "iteration")
"""What an expression can read; anything else is an UNKNOWN_NAME."""
MAX_SOURCE = 1000
"""The longest source, in characters."""
MAX_NESTING = 32
"""Brackets in brackets, and selectors or operators in a row, as the engine's parser counts them."""
MAX_GROWTH = 16
"""How many times longer than its text ``replace`` and ``join`` may make a result, over the whole expression."""

QUANTIFIERS = frozenset({"all", "exists", "exists_one"})
_CALENDAR = frozenset(
    {"getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear", "getFullYear", "getHours"}
    | {"getMilliseconds", "getMinutes", "getMonth", "getSeconds"}
)
_FIXED_ZONE = re.compile(r"UTC|[+-]?\d\d:\d\d")
_TOKEN = re.compile(
    r"""
      (?P<skip>(?:[\t\n\f\r\ ]+|//[^\n]*)+)
    | (?P<string>(?P<prefix>[bB]?[rR]?)(?:\"{3}|'{3}|"|'))
    | (?P<quoted>`[A-Za-z0-9_.\-/ ]+`)
    | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<number>0[xX][0-9a-fA-F]+[uU]?|(?:\d+\.\d+|\.\d+|\d+)(?:[eE][+-]?\d+)?[uU]?)
    | (?P<op>&&|\|\||[=!<>]=|[-+*/%<>!?:.,()\[\]{}])
    """,
    re.VERBOSE,
)
_SIMPLE_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_ESCAPE = re.compile(r"\\(?:([xX][0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8})|([0-3][0-7]{2})|(.))", re.DOTALL)


class ExpressionError(Exception):
    """An expression cannot be compiled, or its evaluation failed.

    ``code`` is stable and may be stored and compared; ``message`` is one sentence. For run-time errors the sentence
    is made from code and source only, because the engine's own texts differ between processes and a workflow must say
    the same in every replay. ``position`` counts characters of the source from 0. ``pointer`` is the JSON Pointer of
    the template's string that held the expression.
    """

    def __init__(self, code: str, message: str, position: int | None = None, pointer: str | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.position = position
        self.pointer = pointer

    def at(self, pointer: str) -> ExpressionError:
        """Return this error with the place in a template where it happened."""
        return ExpressionError(self.code, self.message, self.position, pointer)


class Token(NamedTuple):
    """One token: ``kind`` is name, quoted, string, bytes, number or op; ``text`` is decoded for strings."""

    kind: str
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Analysis:
    """What a source reads, and what it may cost."""

    paths: tuple[tuple[str, ...], ...]
    """Each use of a variable with the keys that statically follow it, in order of appearance."""
    only_path: bool
    """The whole source is one static path, so that it can be followed without the engine."""
    quantifiers: int
    """How many times all, exists and exists_one are called, and below how deep in each other's arguments."""
    quantifier_depth: int
    commas: int
    sums: int
    """How many ``+`` there are: each may put two lists together."""
    splits: bool
    """Whether ``split`` may make a list as long as a text."""


def end_of_embedded(source: str, start: int) -> int:
    """Return the index of the ``}`` that closes the expression starting at ``start``, or -1 if none does."""
    index, depth = start, 0
    while index < len(source):
        match = _TOKEN.match(source, index)
        if match is None:
            index += 1  # no token of CEL: compiling the expression will say so
        elif match["string"] is not None:
            prefix = match["prefix"].lower()
            index = end_of_string(source, match.end(), match["string"][len(prefix) :], "r" in prefix)
            if index < 0:
                return -1
        else:
            depth += (match[0] == "{") - (match[0] == "}")
            if depth < 0:
                return index
            index = match.end()
    return -1


def _decode(body: str) -> str:
    """Return the text of a CEL string literal's body; what no escape is stays as written (the engine refuses it)."""

    def one(match: re.Match[str]) -> str:
        code, octal, char = match.groups()
        if code:
            point = int(code[1:], 16)
            return chr(point) if point < 0x110000 else ""
        return chr(int(octal, 8)) if octal else _SIMPLE_ESCAPES.get(char, char)

    return _ESCAPE.sub(one, body) if "\\" in body else body


def end_of_string(source: str, start: int, delimiter: str, raw: bool) -> int:
    """Return the index after the literal whose body starts at ``start``, or -1 if it never ends."""
    index, size = start, len(source)
    while index < size:
        if source.startswith(delimiter, index):
            return index + len(delimiter)
        char = source[index]
        if char in "\r\n" and len(delimiter) == 1:
            return -1
        index += 2 if char == "\\" and not raw else 1
    return -1


def tokenize(source: str) -> list[Token]:
    """Return the tokens of ``source`` without white space and comments.

    Raises ExpressionError: SYNTAX for what is no token, NESTING for brackets deeper than the engine reads.
    """
    tokens: list[Token] = []
    index, depth = 0, 0
    while index < len(source):
        match = _TOKEN.match(source, index)
        if match is None:
            raise ExpressionError("SYNTAX", f"The character {source[index]!r} has no meaning here.", index)
        end = match.end()
        kind = match.lastgroup or ""
        if match["string"] is not None:
            prefix = match["prefix"].lower()
            delimiter = match["string"][len(prefix) :]
            body = end
            end = end_of_string(source, body, delimiter, "r" in prefix)
            if end < 0:
                raise ExpressionError("SYNTAX", "A string is not closed.", index)
            text = source[body : end - len(delimiter)]
            text = text if "r" in prefix else _decode(text)
            tokens.append(Token("bytes" if "b" in prefix else "string", text, index, end))
        elif kind == "quoted":
            tokens.append(Token("quoted", match["quoted"][1:-1], index, end))
        elif kind != "skip":
            text = match[0]
            depth += (text in "([{") - (text in ")]}") if kind == "op" else 0
            if depth > MAX_NESTING:
                raise ExpressionError("NESTING", f"Brackets are nested more than {MAX_NESTING} deep.", index)
            tokens.append(Token(kind, text, index, end))
        index = end
    return tokens


def _static_path(tokens: list[Token], index: int) -> tuple[tuple[str, ...], int]:
    """Return the keys of the path whose variable stands at ``index``, and the index after its last selector."""
    keys = [tokens[index].text]
    index += 1
    while index < len(tokens):
        rest = [(t.kind if t.kind in ("name", "quoted", "string") else t.text) for t in tokens[index : index + 4]]
        optional = rest[1:2] == ["?"]
        step = rest[:1] + rest[2:] if optional else rest
        at = index + 1 + optional
        if step[0] == "." and len(step) > 1 and step[1] in ("name", "quoted"):
            if step[2:3] == ["("]:  # a method of the value, not a key
                break
            keys.append(tokens[at].text)
            index = at + 1
        elif step[0] == "[" and step[1:3] == ["string", "]"]:
            keys.append(tokens[at].text)
            index = at + 2
        else:
            break
    return tuple(keys), index


def _check_node(keys: tuple[str, ...], token: Token) -> None:
    if len(keys) < 2:
        raise ExpressionError(
            "NODES_USE",
            "`nodes` is only read by a node's id, as nodes.id.outputs or nodes['the-id'].outputs:"
            " an expression is given the nodes it names and no others.",
            token.start,
        )


def _literal_arguments(tokens: list[Token], index: int) -> list[Token] | None:
    """Return the literal arguments of the call whose ``(`` stands at ``index``, or None if any is no literal."""
    arguments: list[Token] = []
    index += 1
    while index < len(tokens) and tokens[index].text != ")":
        if tokens[index].kind not in ("string", "number"):
            return None
        arguments.append(tokens[index])
        index += 1
        if index < len(tokens) and tokens[index].text == ",":
            index += 1
    return arguments


def _growth(tokens: list[Token], index: int) -> float:
    """Return how many times longer the call of ``replace`` or ``join`` at ``index`` can make its text."""
    name, arguments = tokens[index].text, _literal_arguments(tokens, index + 1)
    if arguments is None:
        return float("inf")
    texts = [token.text for token in arguments if token.kind == "string"]
    if name == "join":
        return 1 + (len(texts[0]) if texts else 0)
    if len(texts) < 2:
        return 1
    return max(1.0, len(texts[1]) / len(texts[0]) if texts[0] else 1 + len(texts[1]))


def _check_call(tokens: list[Token], index: int) -> None:
    """Refuse the method called at ``index`` if its answer is not the same everywhere."""
    token = tokens[index]
    if token.text in ("map", "filter"):
        raise ExpressionError(
            "FORBIDDEN_MACRO",
            f"{token.text}() is not available, because the order of a map's entries differs between processes:"
            " test a collection with all, exists or exists_one, and reshape it in a node of its own.",
            token.start,
        )
    if token.text in _CALENDAR:
        arguments = _literal_arguments(tokens, index + 1)
        if arguments is None or not all(_FIXED_ZONE.fullmatch(argument.text) for argument in arguments):
            raise ExpressionError(
                "TIME_ZONE",
                f"{token.text}() takes no time zone but UTC or an offset like '+02:00', because the rules of named"
                " zones differ between machines.",
                token.start,
            )


def _quantifier_depth(tokens: list[Token]) -> tuple[int, int]:
    """Return how many quantifiers there are and how deep they stand in each other's arguments."""
    count, deepest = 0, 0
    open_brackets: list[bool] = []
    for index, token in enumerate(tokens):
        if token.kind != "op":
            continue
        if token.text in "([{":
            previous = tokens[index - 1] if index else None
            opens = token.text == "(" and previous is not None and previous.text in QUANTIFIERS
            open_brackets.append(bool(opens))
            count += bool(opens)
            deepest = max(deepest, sum(open_brackets))
        elif token.text in ")]}" and open_brackets:
            open_brackets.pop()
    return count, deepest


def analyse(source: str, variables: tuple[str, ...] = VARIABLES) -> Analysis:
    """Return what ``source`` reads of ``variables``.

    Raises ExpressionError: SYNTAX, NESTING (see :func:`tokenize`); NODES_USE for `nodes` without a static id;
    FORBIDDEN_MACRO for `map` and `filter`; TIME_ZONE for named time zones (the machine's tables decide);
    UNBOUNDED for `replace` and `join` that could fill the memory of the worker (the engine has no limit);
    FORBIDDEN for protocol-buffer messages and names with a leading dot, which no plan needs.
    """
    tokens = tokenize(source)
    paths: list[tuple[str, ...]] = []
    growth = 1.0
    index, ends = 0, 0
    while index < len(tokens):
        token = tokens[index]
        previous = tokens[index - 1] if index else None
        following = tokens[index + 1].text if index + 1 < len(tokens) and tokens[index + 1].kind == "op" else ""
        selected = previous is not None and previous.kind == "op" and previous.text == "."
        if token.kind == "op" and token.text == "." and not _follows_operand(previous):
            raise ExpressionError("FORBIDDEN", "A name does not start with a dot.", token.start)
        if token.kind == "name" and following == "{":
            raise ExpressionError("FORBIDDEN", "Messages cannot be built; write a map without a name.", token.start)
        if token.kind == "name" and following == "(":
            _check_call(tokens, index)
            if token.text in ("replace", "join"):
                growth *= _growth(tokens, index)
                if growth > MAX_GROWTH:
                    raise ExpressionError(
                        "UNBOUNDED",
                        f"replace() and join() take literals only, and together may make a text at most {MAX_GROWTH}"
                        " times longer.",
                        token.start,
                    )
        elif token.kind == "name" and token.text in variables and not selected and not _after_optional(tokens, index):
            keys, ends = _static_path(tokens, index)
            if token.text == "nodes":
                _check_node(keys, token)
            paths.append(keys)
            index = ends
            continue
        index += 1
    count, depth = _quantifier_depth(tokens)
    texts = [token.text for token in tokens if token.kind in ("op", "name")]
    return Analysis(
        paths=tuple(paths),
        only_path=len(paths) == 1 and ends == len(tokens) and tokens[0].text in variables and "?" not in texts,
        quantifiers=count,
        quantifier_depth=depth,
        commas=texts.count(","),
        sums=texts.count("+"),
        splits="split" in texts,
    )


def _follows_operand(previous: Token | None) -> bool:
    return previous is not None and (previous.kind != "op" or previous.text in ")]}")


def _after_optional(tokens: list[Token], index: int) -> bool:
    """Return whether the name at ``index`` is the key of an optional selection, ``a.?name``."""
    return index >= 2 and tokens[index - 1].text == "?" and tokens[index - 2].text == "."
