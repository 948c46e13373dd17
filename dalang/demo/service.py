"""The Python module that the demo coder writes for a feature, and its tests.

A specification is ``{"entity": "user_session", "operations": [{"name": "log_in", "kind": "change"}]}``. It comes from
the inputs of a node, so only names that are plain identifiers ever reach the text. Code is executed only when it is,
letter for letter, what the demo agents write or bring along: a plan cannot bring code of its own into a worker.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Mapping
from typing import Any

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_NOISE_WORDS = """
    a add an and api build by change code create define design develop document documentation feature for from fix
    implement improve in into it its make new of on or our quality refactor refactoring review support system test tests
    that the their then to unit up use users verify we with write service changes analyze
"""
_NOISE = frozenset(_NOISE_WORDS.split())
_VOCABULARY: Mapping[str, tuple[tuple[str, str], ...]] = {
    "authentication": (("register", "create"), ("log_in", "change"), ("log_out", "change"), ("find", "read")),
    "login": (("register", "create"), ("log_in", "change"), ("log_out", "change"), ("find", "read")),
    "payment": (("authorize", "create"), ("capture", "change"), ("refund", "change"), ("find", "read")),
    "order": (("place", "create"), ("ship", "change"), ("cancel", "change"), ("find", "read")),
    "upload": (("begin", "create"), ("finish", "change"), ("abort", "change"), ("find", "read")),
    "notification": (("send", "create"), ("acknowledge", "change"), ("find", "read")),
}
_DEFAULT_OPERATIONS = (("create", "create"), ("find", "read"), ("archive", "change"))
_METHODS = {"create": "POST", "read": "GET", "change": "POST"}


def specify(text: str) -> dict[str, Any]:
    """Return the specification of the service that ``text``, a feature in words, is about."""
    words = [word for word in re.findall(r"[a-z]+", text.lower()) if word not in _NOISE]
    topic = next((word for word in words if word.rstrip("s") in _VOCABULARY), None)
    operations = _VOCABULARY[topic.rstrip("s")] if topic else _DEFAULT_OPERATIONS
    if topic:
        at = words.index(topic)
        words = words[max(0, at - 1) : at + 1]
    entity = "_".join(dict.fromkeys(words[:2])) or "item"
    return checked({"entity": entity[:40], "operations": [{"name": name, "kind": kind} for name, kind in operations]})


def checked(specification: Any) -> dict[str, Any]:
    """Return ``specification`` reduced to what may go into code; whatever is no name or no kind is left out."""
    given = specification if isinstance(specification, Mapping) else {}
    entity = given.get("entity")
    operations: dict[str, str] = {}
    listed = given.get("operations")
    for operation in listed[:20] if isinstance(listed, list) else ():
        if isinstance(operation, Mapping) and _is_name(operation.get("name")) and operation.get("kind") in _METHODS:
            operations[operation["name"]] = operation["kind"]
    if "create" not in operations.values():
        operations = dict(_DEFAULT_OPERATIONS)
    entity = str(entity) if _is_name(entity) else "item"
    path = "/" + entity.replace("_", "-") + "s"
    return {
        "entity": entity,
        "operations": [
            {"name": name, "kind": kind, "method": _METHODS[kind], "path": _path(path, name, kind)}
            for name, kind in operations.items()
        ],
    }


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(_NAME.fullmatch(value)) and not keyword.iskeyword(value)


def _path(base: str, name: str, kind: str) -> str:
    return (
        base if kind == "create" else f"{base}/{{id}}" if kind == "read" else f"{base}/{{id}}/{name.replace('_', '-')}"
    )


def render(specification: Mapping[str, Any]) -> str:
    """Return the Python source of the service of a :func:`checked` specification."""
    entity = specification["entity"]
    words = entity.replace("_", " ")
    name = "".join(part.capitalize() for part in entity.split("_")) + "Service"
    parts = [
        f'"""An in-memory service for {words}s, written by the demo coder."""\n',
        "from __future__ import annotations\n\n",
        f'class {name}:\n    """Keeps every {words} by its number."""\n',
        "    def __init__(self) -> None:\n        self._records = {}\n        self._last = 0\n",
    ]
    for operation in specification["operations"]:
        parts.append(_BODIES[operation["kind"]](operation["name"], words))
    return "\n".join(parts)


def _create(name: str, words: str) -> str:
    return (
        f"    def {name}(self, **fields) -> int:\n"
        f'        """Keep a new {words} and return its number."""\n'
        "        self._last = self._last + 1\n"
        "        self._records[self._last] = {**fields, 'state': 'new'}\n"
        "        return self._last\n"
    )


def _read(name: str, words: str) -> str:
    return (
        f"    def {name}(self, number: int) -> dict:\n"
        f'        """Return the {words} with this number; KeyError when there is none."""\n'
        "        return dict(self._records[number])\n"
    )


def _change(name: str, words: str) -> str:
    return (
        f"    def {name}(self, number: int) -> bool:\n"
        f'        """Mark the {words} as {name}; tell whether that changed anything."""\n'
        "        record = self._records[number]\n"
        f"        if (record['state'] == '{name}') == True:\n"
        "            return False\n"
        f"        record['state'] = '{name}'\n"
        "        return True\n"
    )


_BODIES: Mapping[str, Callable[[str, str], str]] = {"create": _create, "read": _read, "change": _change}


def run_tests(code: str, specification: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Execute ``code``, which the caller knows to be of this module's making, and return what each test found."""
    namespace = _executed(code)
    service = next(value for key, value in namespace.items() if key.endswith("Service"))
    results = []
    creates = [operation["name"] for operation in specification["operations"] if operation["kind"] == "create"]
    for operation in specification["operations"]:
        name, kind = operation["name"], operation["kind"]
        for case, check in _CASES[kind].items():
            instance = service()
            passed = check(instance, getattr(instance, name), getattr(instance, creates[0]))
            results.append({"test": f"test_{name}_{case}", "operation": name, "passed": bool(passed)})
    return results


def run_regression(code: str, original: str) -> list[dict[str, Any]]:
    """Execute both texts, known as in :func:`run_tests`, and tell where the functions of both agree on prices."""
    after, before = _executed(code), _executed(original)
    results = []
    for name in ("total", "is_expensive", "is_empty"):
        for number, items in enumerate(_BASKETS):
            same = after[name](list(items)) == before[name](list(items))
            results.append({"test": f"test_{name}_of_basket_{number}", "operation": name, "passed": same})
    return results


_BASKETS: tuple[tuple[dict[str, Any], ...], ...] = (
    (),
    ({"active": True, "kind": "book", "price": 50}, {"active": False, "kind": "toy", "price": 900}),
    ({"active": True, "kind": "food", "price": 80}, {"active": True, "kind": "toy", "price": 40}),
)


def _executed(code: str) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "demo_code"}
    exec(compile(code, "demo_code.py", "exec"), namespace)  # noqa: S102 - text of our own making, see the module
    return namespace


def _raises_key_error(call: Callable[[], object]) -> bool:
    try:
        call()
    except KeyError:
        return True
    return False


_CASES: Mapping[str, Mapping[str, Callable[[Any, Any, Any], bool]]] = {
    "create": {
        "counts_from_one": lambda service, call, create: call(name="x") == 1 and call(name="y") == 2,
        "keeps_the_fields": lambda service, call, create: service._records[call(name="x")]["name"] == "x",
    },
    "read": {
        "returns_the_record": lambda service, call, create: call(create(name="x"))["name"] == "x",
        "refuses_an_unknown_number": lambda service, call, create: _raises_key_error(lambda: call(99)),
    },
    "change": {
        "changes_once": lambda service, call, create: [call(create()), call(1)] == [True, False],
        "refuses_an_unknown_number": lambda service, call, create: _raises_key_error(lambda: call(99)),
    },
}
