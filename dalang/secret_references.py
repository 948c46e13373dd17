"""References to secrets in a plan's inputs: ``secret://name`` as a whole text, ``{{secret://name}}`` within one.

Only what the plan itself writes is a reference. A text that comes from elsewhere - outputs of another node, inputs of
the run, an answer of a service - and happens to read ``secret://...`` stays that text: otherwise whoever can put words
into an output could have any secret of the tenant sent to himself. So the compiled plan carries, for each node, the
places in its inputs where the plan writes references, with the names it writes there (``*`` for the parts that are
expressions, as in ``secret://${inputs.region}-token``), and a worker resolves these and no others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from dalang.canonical import pointer
from dalang.cel_source import end_of_embedded

SCHEME = "secret://"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_EMBEDDED = re.compile(r"\{\{secret://([^{}]*)\}\}")
_HOLE = "\x00"
_WRITTEN_NAME = re.compile(r"[A-Za-z0-9\x00][A-Za-z0-9._\x00-]{0,127}")
MAX_DEPTH = 200

Places = Mapping[str, list[str]]
"""From the JSON Pointer of a text to the patterns of the names that it may refer to."""


class BadReference(ValueError):
    """What is written is no reference to a secret; the text says how to write one."""


def written_places(inputs: Any) -> dict[str, list[str]]:
    """Return where a plan's ``inputs`` refer to secrets; what is badly written is left out."""
    found = {}
    for steps, text in texts_with_scheme(inputs):
        try:
            found[pointer(*steps)] = patterns_of(text)
        except BadReference:
            continue
    return found


def texts_with_scheme(value: Any) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Go through all texts that hold ``secret://``, with the steps that lead to them."""
    waiting: list[tuple[tuple[str | int, ...], Any]] = [((), value)]
    while waiting:
        steps, one = waiting.pop()
        if isinstance(one, str):
            if SCHEME in one:
                yield steps, one
        elif len(steps) < MAX_DEPTH:
            if isinstance(one, Mapping):
                waiting += [((*steps, str(key)), item) for key, item in one.items()]
            elif isinstance(one, list | tuple):
                waiting += [((*steps, at), item) for at, item in enumerate(one)]


def patterns_of(text: str) -> list[str]:
    """Return the names that a text of a plan refers to, with ``*`` for its expressions.

    Raises:
        BadReference: ``secret://`` stands in it otherwise than as a reference.
    """
    plain = _without_expressions(text)
    names = [plain.removeprefix(SCHEME)] if plain.startswith(SCHEME) else _EMBEDDED.findall(plain)
    if len(names) != plain.count(SCHEME):
        raise BadReference("within a text, a secret is written {{secret://name}}")
    for name in names:
        if not _WRITTEN_NAME.fullmatch(name):
            shown = name.replace(_HOLE, "${...}")[:100]
            raise BadReference(f"{shown!r} is no name of a secret: letters, digits, '.', '_' and '-', at most 128")
    return list(dict.fromkeys(name.replace(_HOLE, "*") for name in names))


def _without_expressions(text: str) -> str:
    parts, index = [], 0
    while (start := text.find("${", index)) >= 0:
        end = end_of_embedded(text, start + 2)
        if end < 0 or text[start - 1 : start] == "$":
            parts.append(text[index : start + 2])
            index = start + 2
            continue
        parts += [text[index:start], _HOLE]
        index = end + 1
    return "".join((*parts, text[index:]))


def nodes_given_otherwise(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return the nodes of the plan ``after`` that refer to secrets and are not, word for word, nodes of ``before``.

    Who writes plans may send a secret anywhere. A planner is asked by what nodes put out, and may be a model that was
    talked into it: it may move nodes that are given secrets, and neither write nor change one.
    """
    known = _nodes(before)
    return [
        name
        for name, node in _nodes(after).items()
        if known.get(name) != node and next(texts_with_scheme(node), None) is not None
    ]


def _nodes(plan: Mapping[str, Any]) -> dict[str, Any]:
    return {node["nodeId"]: node for part in ("nodes", "finally") for node in plan.get(part) or ()}


def names_in(inputs: Any, places: Places) -> list[str]:
    """Return the names of the secrets that ``inputs`` refer to at ``places``."""
    names: dict[str, None] = {}
    _replaced(inputs, places, lambda name: names.setdefault(name, None))
    return list(names)


def revealed(inputs: Mapping[str, Any], places: Places, values: Mapping[str, str]) -> dict[str, Any]:
    """Return ``inputs`` with the references at ``places`` replaced by their values; they themselves stay."""
    found: dict[str, Any] = _replaced(inputs, places, values.__getitem__)
    return found


def _replaced(value: Any, places: Places, of: Any) -> Any:
    by_steps = {tuple(_steps(place)): patterns for place, patterns in places.items()}

    def go(one: Any, steps: tuple[str, ...], depth: int) -> Any:
        if isinstance(one, str):
            patterns = by_steps.get(steps)
            return one if patterns is None else _with_values(one, patterns, of)
        if depth >= longest:
            return one
        if isinstance(one, Mapping):
            return {key: go(item, (*steps, key), depth + 1) for key, item in one.items()}
        if isinstance(one, list | tuple):
            return [go(item, (*steps, str(at)), depth + 1) for at, item in enumerate(one)]
        return one

    longest = max(map(len, by_steps), default=0)
    return go(value, (), 0)


def _with_values(text: str, patterns: list[str], of: Any) -> str:
    def value(name: str, written: str) -> str:
        fits = NAME.fullmatch(name) and any(_fits(name, pattern) for pattern in patterns)
        return str(of(name) or "") if fits else written

    if text.startswith(SCHEME):
        return value(text.removeprefix(SCHEME), text)
    return _EMBEDDED.sub(lambda found: value(found[1], found[0]), text)


def _fits(name: str, pattern: str) -> bool:
    return re.fullmatch("[A-Za-z0-9._-]*".join(map(re.escape, pattern.split("*"))), name) is not None


def _steps(place: str) -> list[str]:
    return [step.replace("~1", "/").replace("~0", "~") for step in place.split("/")[1:]]
