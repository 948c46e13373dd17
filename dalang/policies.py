"""Policies: rules of the operator about which runs may start and which nodes may begin (``docs/policy.md``).

A policy is a YAML document of CEL rules, tried from the top: the first one whose condition holds decides, and what no
rule decides is ``default`` (allow). A rule that cannot be evaluated denies: whoever wrote ``plan.metadata.team`` wants
to hear about plans that have none, not to let them through.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dalang.canonical import pointer
from dalang.errors import InvalidDocument, Problem
from dalang.expressions import Expression, ExpressionError, compile, evaluate_condition
from dalang.formats import load_document

VARIABLES = ("tenant", "plan", "run", "node", "inputs", "requester", "roles")
"""What a rule can read."""
RUN, NODE = "run", "node"
DEFAULT = "default"
"""Stands for the rule's name where no rule decided against something."""
MAX_RULES = 1_000
MAX_TEXT = 500
_EFFECTS = ("deny", "allow")
_RULE_FIELDS = ("name", "applies", "when", "effect", "message")


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether something may begin; ``rule`` is what decided it, None where nothing had to.

    ``away`` says that a policy service could not be asked.
    """

    allowed: bool
    rule: str | None = None
    message: str = ""
    away: bool = False

    def data(self) -> dict[str, Any]:
        """Return the decision as data of an event."""
        told: dict[str, Any] = {"effect": "allow" if self.allowed else "deny", "rule": self.rule}
        return {**told, **({"away": True} if self.away else {})}


ALLOWED = Decision(True)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; without a condition it always holds."""

    name: str
    applies: tuple[str, ...]
    when: Expression | None
    effect: str
    message: str

    def decide(self, subject: Mapping[str, Any]) -> Decision | None:
        """Return what the rule decides about ``subject``, or None where its condition does not hold."""
        try:
            holds = self.when is None or evaluate_condition(self.when, subject)
        except ExpressionError as error:
            return Decision(False, self.name, f"The rule cannot be evaluated ({error.code}), so it denies.")
        if not holds:
            return None
        return Decision(self.effect == "allow", self.name, self.message)


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules in their order, and what holds when none decides."""

    rules: tuple[Rule, ...] = ()
    default: str = "allow"

    def decide(self, applies: str, subject: Mapping[str, Any]) -> Decision:
        """Return what is decided about a run, or a node, with these variables."""
        for rule in self.rules:
            decision = rule.decide(subject) if applies in rule.applies else None
            if decision is not None:
                return decision
        return ALLOWED if self.default == "allow" else Decision(False, DEFAULT, "No rule allows it.")


def read_policy(data: bytes | str) -> Policy:
    """Return the policy of a YAML or JSON document.

    Raises:
        InvalidDocument: with all its problems.
    """
    return _Reader().policy(load_document(data))


class _Reader:
    """Reads a policy and gathers what is wrong with it."""

    def __init__(self) -> None:
        self._problems: list[Problem] = []

    def policy(self, document: Mapping[str, Any]) -> Policy:
        self._known(document, ("rules", "default"))
        default = self._one_of(document.get("default", "allow"), _EFFECTS, ("default",))
        listed = document.get("rules")
        rules: list[Rule] = []
        if not isinstance(listed, list):
            self._wrong(("rules",), "WRONG_TYPE", "`rules` is a list of rules.")
        elif len(listed) > MAX_RULES:
            self._wrong(("rules",), "TOO_LARGE", f"There are at most {MAX_RULES} rules.")
        else:
            rules = [self._rule(raw, number) for number, raw in enumerate(listed)]
            self._unique(rules)
        if self._problems:
            raise InvalidDocument(self._problems, "policy")
        return Policy(tuple(rules), default)

    def _rule(self, raw: Any, number: int) -> Rule:
        place: tuple[str | int, ...] = ("rules", number)
        if not isinstance(raw, dict):
            self._wrong(place, "WRONG_TYPE", "A rule is an object with a name, an effect and a condition.")
            raw = {"name": "", "effect": "deny"}
        self._known(raw, _RULE_FIELDS, place)
        applies = raw.get("applies", [RUN, NODE])
        applies = applies if isinstance(applies, list) else [applies]
        return Rule(
            name=self._text(raw, "name", place, required=True),
            applies=tuple(self._one_of(one, (RUN, NODE), (*place, "applies")) for one in applies),
            when=self._condition(raw.get("when"), (*place, "when")),
            effect=self._one_of(raw.get("effect"), _EFFECTS, (*place, "effect")),
            message=self._text(raw, "message", place),
        )

    def _condition(self, source: Any, place: tuple[str | int, ...]) -> Expression | None:
        if source is None:
            return None
        if not isinstance(source, str):
            self._wrong(place, "WRONG_TYPE", "A condition is a CEL expression in a text.")
            return None
        try:
            condition = compile(source, VARIABLES)
        except ExpressionError as error:
            self._wrong(place, error.code, error.message)
            return None
        if not condition.could_be_boolean:
            self._wrong(place, "NOT_BOOLEAN", "A condition must be true or false.")
        return condition

    def _text(self, raw: Mapping[str, Any], name: str, place: tuple[str | int, ...], required: bool = False) -> str:
        value = raw.get(name)
        if value is None and not required:
            return ""
        if not isinstance(value, str) or not value or len(value) > MAX_TEXT:
            self._wrong((*place, name), "BAD_VALUE", f"`{name}` is a text of 1 to {MAX_TEXT} characters.")
            return ""
        return value

    def _one_of(self, value: Any, words: tuple[str, ...], place: tuple[str | int, ...]) -> str:
        if value not in words:
            self._wrong(place, "BAD_VALUE", f"It is {' or '.join(words)}.")
            return words[0]
        return str(value)

    def _unique(self, rules: list[Rule]) -> None:
        seen = set[str]()
        for number, rule in enumerate(rules):
            if rule.name and rule.name in seen:
                self._wrong(("rules", number, "name"), "DUPLICATE", f"Another rule is called {rule.name!r}.")
            seen.add(rule.name)

    def _known(self, raw: Mapping[str, Any], names: tuple[str, ...], place: tuple[str | int, ...] = ()) -> None:
        for name in raw:
            if name not in names:
                self._wrong(
                    (*place, name), "UNKNOWN_FIELD", f"There is no field `{name}`; there are {', '.join(names)}."
                )

    def _wrong(self, place: tuple[str | int, ...], code: str, message: str) -> None:
        self._problems.append(Problem(pointer=pointer(*place), code=code, message=message))


def denied_by(decision: Decision, what: str) -> str:
    """Return the sentence that tells somebody that ``what`` was denied."""
    said = f": {decision.message}" if decision.message else "."
    return f"The policy rule {decision.rule!r} denies {what}{said}"


def unreadable(problems: tuple[Problem, ...]) -> str:
    """Return all problems of a policy, one a line."""
    return "\n  ".join(f"{one.pointer or '/'}: {one.message} ({one.code})" for one in problems)
