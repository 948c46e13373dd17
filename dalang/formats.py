"""Documents in and out: YAML and JSON texts to plain data and back, and the forms of the seeds to Dalang's own.

YAML is read by the core schema of YAML 1.2, where ``on``, ``yes``, ``1:30`` and ``2026-01-01`` are texts, so that a
plan means the same in YAML as in JSON. Everything that comes in is bounded: bytes, depth, and what aliases expand to.
Whatever is wrong with a text is an :class:`~dalang.errors.InvalidDocument` that says where, never another exception.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from dalang.axon import from_axon
from dalang.canonical import MAX_DEPTH, find_unsafe
from dalang.errors import InvalidDocument
from dalang.foreign import foreign_format
from dalang.plan import MAX_BYTES
from dalang.plan_base import PRIORITY_WORDS
from dalang.yaml_core import dump_yaml, load_yaml, refuse, shown

__all__ = ["dump_json", "dump_yaml", "load_document", "to_plan_document"]


def load_document(data: bytes | str, *, name: str | None = None) -> dict[str, Any]:
    """Read one YAML or JSON document, an object, from ``data``.

    JSON is some twenty times faster to read: 100,000 nodes take one second, in YAML twenty.

    ``name`` is the file's name, if there is one: ``.json`` allows JSON only. Keys of YAML mappings are always texts
    (``404:`` is ``"404"``), anchors, aliases and merge keys work within limits.

    Raises:
        InvalidDocument: TOO_LARGE, NOT_TEXT, MALFORMED_JSON, MALFORMED_YAML, DUPLICATE_KEY, MULTIPLE_DOCUMENTS,
            UNSUPPORTED_TAG, ALIAS_LIMIT, TOO_DEEP, NOT_JSON, EMPTY_DOCUMENT or NOT_AN_OBJECT.
    """
    text = _text(data)
    if text.isspace() or not text:
        refuse("EMPTY_DOCUMENT", "The document is empty.")
    if name is not None and name.lower().endswith(".py"):
        refuse("NOT_A_PLAN", "A plan in Python is a program: let it print `json.dumps(plan.wire())`, and give that.")
    only_json = name is not None and name.lower().endswith(".json")
    braced = text.lstrip()[:1] in ("{", "[")
    value = _json_or_flow(text, only_json) if only_json or braced else load_yaml(text)
    if not isinstance(value, dict):
        refuse("NOT_AN_OBJECT", f"The document is {_kind(value)}; a plan is an object with a name and nodes.")
    unsafe = find_unsafe(value)
    if unsafe is not None:
        pointer, reason = unsafe
        refuse("TOO_DEEP" if "deeper" in reason else "NOT_JSON", f"The value {reason}.", pointer)
    return value


def _text(data: bytes | str) -> str:
    if len(data) > MAX_BYTES:
        refuse("TOO_LARGE", f"The document is larger than {MAX_BYTES // 2**20} MiB.")
    if isinstance(data, str):
        try:
            if not data.isascii() and len(data.encode()) > MAX_BYTES:
                refuse("TOO_LARGE", f"The document is larger than {MAX_BYTES // 2**20} MiB.")
        except UnicodeEncodeError:
            refuse("NOT_TEXT", "The document holds a lone surrogate, which is no Unicode text.")
        text = data
    else:
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            line, byte = data.count(b"\n", 0, error.start) + 1, data[error.start]
            refuse("NOT_TEXT", f"Line {line}: the document is not UTF-8 (byte {error.start} is {byte:#04x}).")
    text = text.removeprefix("\ufeff")
    at = text.find("\x00")
    if at >= 0:
        refuse("NOT_TEXT", f"{_where(text, at)}: the document holds the character U+0000.")
    return text


def _json_or_flow(text: str, only_json: bool) -> Any:
    """Read JSON; where the name does not insist on it, a YAML flow mapping such as ``{name: x}`` will do too."""
    try:
        return _load_json(text)
    except InvalidDocument as error:
        if only_json or error.problems[0].code != "MALFORMED_JSON":
            raise
        try:
            return load_yaml(text)
        except InvalidDocument as other:
            if other.problems[0].code == "MALFORMED_YAML":
                raise error from None
            raise


class _Duplicate(Exception):
    def __init__(self, key: str) -> None:
        self.key = key


def _load_json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except _Duplicate as duplicate:
        where = _find_duplicate(text, duplicate.key)
        refuse("DUPLICATE_KEY", f"{where}: the key {shown(duplicate.key)} stands twice in one object.")
    except json.JSONDecodeError as error:
        refuse("MALFORMED_JSON", f"Line {error.lineno}, column {error.colno}: {error.msg}.")
    except RecursionError:
        refuse("TOO_DEEP", f"The document is nested deeper than {MAX_DEPTH} levels.")
    except ValueError as error:
        reason = "an integer has too many digits" if "digits" in str(error) else str(error)
        refuse("NOT_JSON", f"The document is no JSON: {reason}.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _Duplicate(key)
            seen.add(key)
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]]', re.DOTALL)


def _find_duplicate(text: str, key: str) -> str:
    """Say where ``key`` stands for the second time in one object; the text is known to parse."""
    open_objects: list[set[str]] = []
    for token in _JSON_TOKEN.finditer(text):
        first = token[0][0]
        if first in "{[":
            open_objects.append(set())
        elif first in "}]":
            open_objects.pop()
        elif re.compile(r"\s*:").match(text, token.end()):
            found = json.loads(token[0], strict=False)
            if found == key and found in open_objects[-1]:
                return _where(text, token.start())
            open_objects[-1].add(found)
    return "Somewhere"  # pragma: no cover - the parser has met it, so the scan does too


def _where(text: str, at: int) -> str:
    return f"Line {text.count(chr(10), 0, at) + 1}, column {at - text.rfind(chr(10), 0, at)}"


def _kind(value: Any) -> str:
    return {list: "a list", str: "a text", bool: "a boolean", type(None): "null"}.get(type(value), "a number")


def dump_json(document: Mapping[str, Any]) -> str:
    """Return ``document`` as indented JSON with a final newline."""
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_plan_document(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``document``, in any form that is recognised, as a plan in Dalang's wire form; it is not validated yet.

    Recognised: Dalang's own and Wayang's ``nodes`` and ``edges`` (``metadata.resources`` and ``metadata.priority`` of a
    node count where the node says nothing else), and Axon's ``tasks`` and ``dependencies``.

    Raises:
        InvalidDocument: an Axon workflow is wrong, or the document is in a form that is imported (IMPORT_NEEDED), not
            loaded, or that is not known here (FOREIGN_FORMAT, NOT_A_PLAN).
    """
    foreign = foreign_format(document)
    if foreign is not None:
        here = "its own plans, and those of Wayang and Axon; `--from` imports others (docs/importing.md)"
        refuse("FOREIGN_FORMAT", f"This looks like {foreign}. Dalang reads {here}.")
    if "nodes" in document:
        nodes = document["nodes"]
        if not isinstance(nodes, list):
            return dict(document)
        return {**document, "nodes": [_from_wayang(node) for node in nodes]}
    if "tasks" in document and "workflow" not in document:
        if isinstance(document["tasks"], list) and any(map(_is_agent_plan, document["tasks"])):
            refuse(
                "IMPORT_NEEDED", "This looks like a collection of agents' plans: import it as agent-plans.", "/tasks"
            )
        return from_axon(document)
    if isinstance(document.get("workflow"), Mapping):
        refuse("IMPORT_NEEDED", "This looks like a WfFormat instance: import it as wfformat.", "/workflow")
    if isinstance(document.get("plan"), Mapping) and "nodes" in document["plan"]:
        refuse("NOT_A_PLAN", "This is a request that holds a plan; give what stands in `plan`.", "/plan")
    return dict(document)


def _is_agent_plan(task: Any) -> bool:
    return isinstance(task, Mapping) and isinstance(task.get("nodes"), list) and "task_type" not in task


def _from_wayang(node: Any) -> Any:
    """Read Wayang's hints in a node's metadata into what Dalang has fields for; the metadata stays."""
    metadata = node.get("metadata") if isinstance(node, dict) else None
    if not isinstance(metadata, dict) or not ("resources" in metadata or "priority" in metadata):
        return node
    node = dict(node)
    hint = metadata.get("resources")
    requirements = node.get("requirements", {})
    if isinstance(hint, dict) and isinstance(requirements, dict) and "resources" not in requirements:
        names = {"cpu": "cpuCores", "memory": "memoryMb", "gpu": "gpu"}
        resources = {names[key]: value for key, value in hint.items() if key in names and _is_number(value)}
        if resources:
            node["requirements"] = {**requirements, "resources": resources}
    priority = metadata.get("priority")
    is_word = isinstance(priority, str) and priority.lower() in PRIORITY_WORDS
    if "priority" not in node and (is_word or (_is_number(priority) and isinstance(priority, int))):
        node["priority"] = priority
    return node


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
