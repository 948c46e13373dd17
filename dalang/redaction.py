"""Redaction: fields that are not kept. What a rule names is replaced by ``[redacted]`` before an event is stored.

Rules name fields by key at any depth, by path from the parts of an event's body (inputs, outputs, error ...), or texts
by a pattern. Without a file of the operator's (``DALANG_REDACTION_FILE``) the keys below hold: what opens things.
What runs go by is not touched: nodes get the true values. What is stored is what was hashed, so the chain verifies; the
salted digest of the original fact stands beside it. See ``docs/audit.md``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

from dalang.errors import InvalidDocument, Problem

REDACTED = "[redacted]"
DEFAULT_KEYS = (
    *("authorization", "proxyauthorization", "password", "passwd", "passphrase", "secret", "clientsecret"),
    *("secretkey", "privatekey", "accesskey", "apikey", "token", "accesstoken", "refreshtoken", "idtoken"),
    *("authtoken", "cookie", "setcookie", "credentials"),
)
"""Keys as they are compared: in small letters, without ``-`` and ``_``."""
_NOT_SECRET = re.compile(
    r"(?i:(?:bearer|basic|token|apikey) )?(?:(?:\{\{secret://[^{}]*\}\}|\*\*\*|\[redacted\])[:;, ]?)+|secret://\S+"
)
"""The name of a secret is none, and what is hidden already is hidden."""
_KEPT = ("form",)
"""A part of a body that says what is asked for, and holds no answers: its keys are names of fields."""
_FIELDS = ("defaults", "keys", "paths", "patterns")
MAX_RULES = 1_000


class Redaction:
    """The rules of one installation."""

    def __init__(
        self, keys: Iterable[str] = DEFAULT_KEYS, paths: Iterable[str] = (), patterns: Iterable[str] = ()
    ) -> None:
        """Raises re.error for a pattern that is none."""
        self._keys = frozenset(map(_plain, keys))
        self._paths = tuple(tuple(path.split(".")) for path in paths)
        texts = tuple(patterns)
        self._pattern = re.compile("|".join(f"(?:{one})" for one in texts)) if texts else None
        names, written = ("|".join(_spelled(key, form) for key in sorted(self._keys)) for form in (str, _in_json))
        first = "".join(map(re.escape, sorted({_in_json(key[:1])[:1] for key in self._keys})))
        self._named = re.compile(f'"(?=[-_{first}])[-_]*(?:{written})[-_]*"', re.IGNORECASE) if names else None
        said = rf"(?i)(?<![\w-])({names})([\"']?\s*[:=]\s*)(\"[^\"]*\"|'[^']*'|(?:(?:Bearer|Basic) )?[^\s\"',;&}}\])]+)"
        self._said = re.compile(said) if names else None

    @classmethod
    def read(cls, document: Any) -> Self:
        """Return the rules of an operator's file.

        Raises:
            InvalidDocument: it has problems, all of which are named.
        """
        problems: list[Problem] = []
        given = document if isinstance(document, Mapping) else {}
        if not isinstance(document, Mapping):
            problems.append(_problem("", f"It is an object with {', '.join(_FIELDS)}."))
        problems += [_problem(f"/{name}", "There is no such field.") for name in given if name not in _FIELDS]
        lists = {name: _texts(given, name, problems) for name in ("keys", "paths", "patterns")}
        if not isinstance(given.get("defaults", True), bool):
            problems.append(_problem("/defaults", "It is true or false."))
        for at, pattern in enumerate(lists["patterns"]):
            try:
                if re.compile(pattern).match(""):
                    problems.append(_problem(f"/patterns/{at}", "It fits the empty text, and so everything."))
            except re.error as error:
                problems.append(_problem(f"/patterns/{at}", f"It is no regular expression: {error}."))
        if problems:
            raise InvalidDocument(problems, "redaction rules")
        defaults = DEFAULT_KEYS if given.get("defaults", True) else ()
        return cls((*defaults, *lists["keys"]), lists["paths"], lists["patterns"])

    def __call__(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the body of an event without what is not kept."""
        rest = {part: value for part, value in body.items() if part not in _KEPT}
        return {**body, **self._value(rest, self._paths)}

    def text(self, text: str) -> str:
        """Return a text without what a pattern fits."""
        return text if self._pattern is None else self._pattern.sub(REDACTED, text)

    def line(self, line: str) -> str:
        """Return a line of a log without what a pattern fits, and what stands behind a key: ``password=...``."""
        line = self.text(line)
        return line if self._said is None else self._said.sub(_hidden, line)

    def passes(self, text: str) -> bool:
        """Tell whether a small value, as JSON, surely holds nothing that is not kept: it need not be looked through."""
        return not (self._paths or self._pattern) and (self._named is None or self._named.search(text) is None)

    def concerns(self, encoded: bytes) -> bool:
        """Tell whether a large value, as compact JSON, may hold what is not kept: then it is not kept at all."""
        text = encoded.decode()
        if self._paths or (self._pattern is not None and self._pattern.search(text)):
            return True
        return self._named is not None and self._named.search(text) is not None

    def _value(self, value: Any, paths: Sequence[tuple[str, ...]]) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            made = {key: self._field(str(key), item, paths) for key, item in value.items()}
            return made if any(made[key] is not item for key, item in value.items()) else value
        if isinstance(value, list):
            items = [self._field(str(at), item, paths) for at, item in enumerate(value)]
            return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
        return value

    def _field(self, key: str, value: Any, paths: Sequence[tuple[str, ...]]) -> Any:
        inner = [rest for path in paths for rest in _below(path, key)] if paths else ()
        if () in inner:
            return REDACTED
        if _plain(key) in self._keys and _is_secret(value):
            return REDACTED
        return self._value(value, [path for path in inner if path])


def _spelled(key: str, form: Callable[[str], str]) -> str:
    """Return the pattern of a key's spellings; of "İ" alone small letters are two characters, and it is one as well."""
    return "[-_]*".join(re.escape(form(one)) for one in key).replace("[-_]*\u0307", "[-_]*\u0307?")


def _in_json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _hidden(found: re.Match[str]) -> str:
    return found[0] if "***" in found[3] else f"{found[1]}{found[2]}{REDACTED}"


def is_withheld(value: Any) -> bool:
    """Tell whether something was taken out of a value, so that nothing can go on from it."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            if REDACTED in item:
                return True
        elif isinstance(item, Mapping):
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
    return False


def _below(path: tuple[str, ...], key: str) -> list[tuple[str, ...]]:
    """Return what is left of a path behind ``key``; ``*`` is any key, ``**`` any number of keys."""
    if path[0] == "**":
        return [path, *(_below(path[1:], key) if len(path) > 1 else [()])]
    return [path[1:]] if path[0] in ("*", key) else []


def _is_secret(value: Any) -> bool:
    """Tell whether the value of such a key opens something: numbers count things, and the name of a secret is none."""
    if isinstance(value, str):
        return bool(value) and _NOT_SECRET.fullmatch(value) is None
    return isinstance(value, (Mapping, list)) and bool(value)


def _plain(key: str) -> str:
    return key.replace("-", "").replace("_", "").lower()


def _texts(given: Mapping[str, Any], name: str, problems: list[Problem]) -> list[str]:
    found = given.get(name, [])
    if not isinstance(found, list) or not all(isinstance(one, str) and one for one in found):
        problems.append(_problem(f"/{name}", "It is a list of texts."))
        return []
    if len(found) > MAX_RULES:
        problems.append(_problem(f"/{name}", f"It has more than {MAX_RULES} entries."))
        return []
    return found


def _problem(pointer: str, message: str) -> Problem:
    return Problem(pointer=pointer, code="BAD_VALUE", message=message)
