"""Joins written as a boolean over edge ids: ``(build && test) || !edges['ci-skip']``.

``!`` binds tighter than ``&&``, that tighter than ``||``. An id that is no identifier is written ``edges['any-id']``.
A join is decided in three values (Kleene): an edge that is not resolved leaves it open only while it still matters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dalang.cel_source import ExpressionError, Token, tokenize

MAX_JOIN = 10_000
"""The longest join, in characters; a node has at most some hundred edges."""

_Term = str | tuple[str, tuple["_Term", ...]]  # an edge id, or ("!" | "&&" | "||", terms)


@dataclass(frozen=True, slots=True)
class JoinExpression:
    """A parsed join; equal to another of the same source."""

    source: str
    edges: tuple[str, ...] = field(compare=False)
    """The ids of the edges it names, in order of first appearance."""
    _term: _Term = field(compare=False, repr=False)

    def decide(self, states: Mapping[str, bool | None]) -> bool | None:
        """Return whether the join is met, or None while that is open.

        ``states`` says of each edge True (live), False (dead or blocked) or None (not resolved, as one it lacks).
        """
        return _decide(self._term, states)


def parse_join(source: str) -> JoinExpression:
    """Return the join; raises ExpressionError TOO_LONG, SYNTAX or NESTING, with the position."""
    if len(source) > MAX_JOIN:
        raise ExpressionError("TOO_LONG", f"A join has at most {MAX_JOIN} characters, this one {len(source)}.")
    parser = _Parser(tokenize(source), len(source))
    term = parser.any_of()
    if parser.index < len(parser.tokens):
        raise parser.error("an operator")
    return JoinExpression(source, tuple(parser.edges), term)


def _decide(term: _Term, states: Mapping[str, bool | None]) -> bool | None:
    if isinstance(term, str):
        return states.get(term)
    operator, terms = term
    if operator == "!":
        value = _decide(terms[0], states)
        return None if value is None else not value
    decisive = operator == "||"
    answer: bool | None = not decisive
    for each in terms:
        value = _decide(each, states)
        if value is decisive:
            return decisive
        if value is None:
            answer = None
    return answer


class _Parser:
    """Recursive descent; the tokenizer has bounded how deep the brackets go."""

    def __init__(self, tokens: list[Token], size: int) -> None:
        self.tokens = tokens
        self.size = size
        self.index = 0
        self.edges: dict[str, None] = {}

    def any_of(self) -> _Term:
        terms = [self.all_of()]
        while self.take("||"):
            terms.append(self.all_of())
        return terms[0] if len(terms) == 1 else ("||", tuple(terms))

    def all_of(self) -> _Term:
        terms = [self.one()]
        while self.take("&&"):
            terms.append(self.one())
        return terms[0] if len(terms) == 1 else ("&&", tuple(terms))

    def one(self) -> _Term:
        negated = False
        while self.take("!"):
            negated = not negated
        if self.take("("):
            term = self.any_of()
            self.need(")")
        else:
            term = self.edge()
        return ("!", (term,)) if negated else term

    def edge(self) -> str:
        name = self.next("name", "an edge's id")
        if name == "edges" and self.take("["):
            name = self.next("string", "an edge's id in quotes")
            self.need("]")
        self.edges[name] = None
        return name

    def take(self, operator: str) -> bool:
        token = self.tokens[self.index] if self.index < len(self.tokens) else None
        found = token is not None and token.kind == "op" and token.text == operator
        self.index += found
        return found

    def need(self, operator: str) -> None:
        if not self.take(operator):
            raise self.error(f"`{operator}`")

    def next(self, kind: str, expected: str) -> str:
        if self.index >= len(self.tokens) or self.tokens[self.index].kind != kind:
            raise self.error(expected)
        self.index += 1
        return self.tokens[self.index - 1].text

    def error(self, expected: str) -> ExpressionError:
        position = self.tokens[self.index].start if self.index < len(self.tokens) else self.size
        return ExpressionError("SYNTAX", f"The join is missing {expected} at position {position}.", position)
