"""Reports, and how problems are collected for them: bounded, errors first."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dalang.canonical import pointer, safe_text
from dalang.errors import InvalidDocument, Problem
from dalang.plan import Plan

MAX_PROBLEMS = 200
"""How many problems a report lists."""
MAX_MESSAGE = 1000
_MAX_HINTS = 40
_MAX_CANDIDATES = 300
_MAX_WORD = 64

Steps = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What validation found. ``plan`` is the plan with all ids filled in, or None if there is an error."""

    plan: Plan | None
    problems: tuple[Problem, ...]
    """Errors first, each kind in the order in which it was found."""

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that refuse the document."""
        return tuple(problem for problem in self.problems if problem.severity == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """The problems that do not."""
        return tuple(problem for problem in self.problems if problem.severity != "error")

    @property
    def ok(self) -> bool:
        """Whether there is a plan that may run."""
        return self.plan is not None

    def require(self) -> Plan:
        """Return the plan.

        Raises:
            InvalidDocument: with every problem, warnings included, if there is an error.
        """
        if self.plan is None:
            raise InvalidDocument(self.problems)
        return self.plan


class Problems:
    """Collects problems; keeps a bounded number of them and counts the rest."""

    def __init__(self, within: Problems | None = None, place: Callable[[Steps], Steps] | None = None) -> None:
        self._within = within
        self._place = place
        self._errors: list[Problem] = []
        self._warnings: list[Problem] = []
        self._dropped = 0
        self._hints = 0

    def below(self, place: Callable[[Steps], Steps]) -> Problems:
        """Return a collector for a document within this one; ``place`` turns its steps into those of this one."""
        return Problems(self, place)

    @property
    def failed(self) -> bool:
        """Whether there is an error."""
        return bool(self._errors)

    def pointer(self, steps: Steps) -> str:
        """Return the JSON Pointer to a place, into the outermost document."""
        return (
            pointer(*steps) if self._within is None or self._place is None else self._within.pointer(self._place(steps))
        )

    def error(self, code: str, steps: Steps, message: str, node: str | None = None, edge: str | None = None) -> None:
        """Take what refuses the document; ``steps`` lead to its place."""
        self._add(self._errors, "error", code, steps, message, node, edge)

    def warning(self, code: str, steps: Steps, message: str, node: str | None = None, edge: str | None = None) -> None:
        """Take what is doubtful."""
        self._add(self._warnings, "warning", code, steps, message, node, edge)

    def _add(
        self,
        kept: list[Problem],
        severity: str,
        code: str,
        steps: Steps,
        message: str,
        node: str | None,
        edge: str | None,
    ) -> None:
        if self._within is not None and self._place is not None:
            tell = self._within.error if severity == "error" else self._within.warning
            tell(code, self._place(steps), message, node, edge)
        if len(kept) >= MAX_PROBLEMS:
            self._dropped += 1
            return
        kept.append(
            Problem(
                pointer=pointer(*steps),
                code=code,
                message=safe_text(message, MAX_MESSAGE),
                severity=severity,
                node_id=node,
                edge_id=edge,
            )
        )

    def hint(self, word: str, candidates: Iterable[str]) -> str:
        """Return ``; did you mean ...?`` with the candidates nearest to ``word``, or nothing."""
        near = self.near(word, candidates)
        return f"; did you mean {' or '.join(f'`{name}`' for name in near)}?" if near else ""

    def near(self, word: str, candidates: Iterable[str]) -> list[str]:
        """Return at most two candidates near to ``word``; bounded in how often and in how much is compared."""
        if self._within is not None:
            return self._within.near(word, candidates)
        if self._hints >= _MAX_HINTS or len(word) > _MAX_WORD:
            return []
        self._hints += 1
        known = [name for name in candidates if len(name) <= _MAX_WORD]
        same = [name for name in known if _plain(name) == _plain(word)]
        if same or len(known) > _MAX_CANDIDATES:
            return same[:2]
        plain = {_plain(name): name for name in reversed(known)}
        return [plain[name] for name in difflib.get_close_matches(_plain(word), plain, n=2, cutoff=0.7)]

    def listed(self) -> tuple[Problem, ...]:
        """Return the problems, errors first, cut at the limit with a last one that says so."""
        found = self._errors + self._warnings
        dropped = self._dropped + max(len(found) - MAX_PROBLEMS, 0)
        if not dropped:
            return tuple(found)
        last = Problem(
            pointer="",
            code="TOO_MANY_PROBLEMS",
            message=f"There are {dropped:,} more problems than the {MAX_PROBLEMS} listed; repair these first.",
            severity="error" if self._errors else "warning",
        )
        return (*found[:MAX_PROBLEMS], last)


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def shown(value: object) -> str:
    """Return a value as it may stand in a message: short."""
    text = repr(value) if not isinstance(value, (dict, list, tuple)) else kind_of(value)
    return text if len(text) <= 80 else text[:79] + "…"


def kind_of(value: object) -> str:
    """Return what JSON calls the kind of ``value``, with its article."""
    if value is None:
        return "null"
    for kinds, name in (
        (bool, "a boolean"),
        (int, "an integer"),
        (float, "a number"),
        (str, "a text"),
        (dict, "an object"),
        ((list, tuple), "a list"),
    ):
        if isinstance(value, kinds):
            return name
    return type(value).__name__
