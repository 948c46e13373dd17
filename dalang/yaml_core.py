"""YAML in and out by the core schema of version 1.2, where ``on``, ``yes``, ``1:30`` and ``2026-01-01`` are texts.

Reading is bounded in depth and in what aliases may expand to, refuses what JSON has no value for, and takes no tag that
makes anything but plain data. Writing quotes what readers of YAML 1.1 and of 1.2 would take for different values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NoReturn

import yaml

from dalang.canonical import MAX_DEPTH
from dalang.errors import InvalidDocument, Problem

MAX_ALIAS_VALUES = 100_000
"""How many values the aliases of one YAML document may repeat in all."""

_CORE_TAGS: tuple[tuple[str, str, str], ...] = (
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("merge", r"<<", "<"),
)
_TAG = "tag:yaml.org,2002:"


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    table: dict[str, list[tuple[str, re.Pattern[str]]]] = {"": [(_TAG + "null", re.compile(r"(?:)\Z"))]}
    for name, pattern, first in _CORE_TAGS:
        for character in first:
            table.setdefault(character, []).append((_TAG + name, re.compile(rf"(?:{pattern})\Z")))
    return table


_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _CoreLoader(_Base):  # type: ignore[misc]  # the base is chosen at import: libyaml's parser where there is one
    """Parses YAML into nodes whose plain scalars carry the tags of the core schema."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = _resolvers()


def load_yaml(text: str) -> Any:
    """Return the value of the one YAML document in ``text``.

    Raises:
        InvalidDocument: see :func:`dalang.formats.load_document`.
    """
    loader = _CoreLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            refuse("EMPTY_DOCUMENT", "The document is empty.")
        return _Construction().value(node, 0)
    except yaml.composer.ComposerError as error:
        code = "MULTIPLE_DOCUMENTS" if error.context and "single document" in error.context else "MALFORMED_YAML"
        refuse(code, f"{_mark(error.problem_mark)}: {error.context or ''} {error.problem or ''}".strip() + ".")
    except yaml.MarkedYAMLError as error:
        context = f" ({error.context})" if error.context else ""
        refuse("MALFORMED_YAML", f"{_mark(error.problem_mark or error.context_mark)}: {error.problem}{context}.")
    except yaml.YAMLError as error:
        refuse("MALFORMED_YAML", f"The document cannot be read: {str(error).splitlines()[0]}.")
    except RecursionError:
        refuse("TOO_DEEP", f"The document is nested deeper than {MAX_DEPTH} levels.")
    finally:
        loader.dispose()


def _mark(mark: Any) -> str:
    return "Somewhere" if mark is None else f"Line {mark.line + 1}, column {mark.column + 1}"


class _Construction:
    """Makes values of one document's nodes; counts what its aliases repeat."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._repeated = 0

    def value(self, node: Any, depth: int, repeating: bool = False) -> Any:
        if isinstance(node, yaml.ScalarNode):
            if repeating:
                self._count(node)
            return _scalar(node)
        if depth > MAX_DEPTH:
            refuse("TOO_DEEP", f"{_mark(node.start_mark)}: nested deeper than {MAX_DEPTH} levels.")
        repeating = repeating or id(node) in self._seen
        self._seen.add(id(node))
        if repeating:
            self._count(node)
        if isinstance(node, yaml.SequenceNode):
            _expect(node, "seq")
            return [self.value(child, depth + 1, repeating) for child in node.value]
        _expect(node, "map")
        return self._mapping(node, depth, repeating)

    def _count(self, node: Any) -> None:
        self._repeated += 1
        if self._repeated > MAX_ALIAS_VALUES:
            refuse("ALIAS_LIMIT", f"{_mark(node.start_mark)}: aliases repeat more than {MAX_ALIAS_VALUES} values.")

    def _mapping(self, node: Any, depth: int, repeating: bool) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _TAG + "merge":
                sources = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                for source in sources:
                    value = self.value(source, depth + 1, repeating)
                    if not isinstance(value, dict):
                        refuse("MALFORMED_YAML", f"{_mark(key_node.start_mark)}: << merges mappings only.")
                    merged = value | merged
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                refuse("MALFORMED_YAML", f"{_mark(key_node.start_mark)}: a key is a text, not a list or a mapping.")
            key = key_node.value
            if key in own:
                where = _mark(key_node.start_mark)
                refuse("DUPLICATE_KEY", f"{where}: the key {shown(key)} stands twice in one mapping.")
            own[key] = self.value(value_node, depth + 1, repeating)
        if not merged:
            return own
        return {key: own.get(key, value) for key, value in merged.items()} | own


def _expect(node: Any, kind: str) -> None:
    if node.tag != _TAG + kind:
        refuse("UNSUPPORTED_TAG", f"{_mark(node.start_mark)}: the tag {shown(node.tag)} is not read.")


_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")


def _integer(text: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise ValueError(text)
    prefix = text[:2]
    return int(text[2:], 8) if prefix == "0o" else int(text[2:], 16) if prefix == "0x" else int(text)


def _float(text: str) -> float:
    if "inf" in text.lower() or "nan" in text.lower() or "_" in text:
        raise ValueError(text)
    return float(text)


_SCALARS: Mapping[str, Callable[[str], Any]] = {
    _TAG + "str": str,
    _TAG + "merge": str,
    _TAG + "null": lambda text: None,
    _TAG + "bool": lambda text: {"true": True, "false": False}[text.lower()],
    _TAG + "int": _integer,
    _TAG + "float": _float,
}


def _scalar(node: Any) -> Any:
    construct = _SCALARS.get(node.tag)
    if construct is None:
        where = _mark(node.start_mark)
        refuse("UNSUPPORTED_TAG", f"{where}: the tag {shown(node.tag)} is not read; quote it if it is text.")
    try:
        return construct(node.value)
    except (ValueError, KeyError):
        kind = node.tag[len(_TAG) :]
        refuse("NOT_JSON", f"{_mark(node.start_mark)}: {shown(node.value)} is no {kind} that JSON knows.")


def shown(text: str) -> str:
    """Return ``text`` quoted, and cut where it is long."""
    return repr(text if len(text) <= 60 else text[:59] + "…")


def refuse(code: str, message: str, pointer: str = "") -> NoReturn:
    """Raise InvalidDocument with this one problem."""
    raise InvalidDocument([Problem(pointer=pointer, code=code, message=message)], "document")


_DumperBase: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _PlanDumper(_DumperBase):  # type: ignore[misc]  # see _Base
    """Writes texts so that readers of YAML 1.1 and of 1.2 agree on them, and lines of text as a block."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {
        key: [*_DumperBase.yaml_implicit_resolvers.get(key, []), *_resolvers().get(key, [])]
        for key in {**_DumperBase.yaml_implicit_resolvers, **_resolvers()}
    }

    def ignore_aliases(self, data: Any) -> bool:
        """Write everything in full: an anchor in a plan would puzzle its readers."""
        return True


def _represent_text(dumper: Any, text: str) -> Any:
    return dumper.represent_scalar(_TAG + "str", text, style="|" if "\n" in text and not text[:1].isspace() else None)


_PlanDumper.add_representer(str, _represent_text)


def dump_yaml(document: Mapping[str, Any]) -> str:
    """Return ``document`` as YAML for people: block style, keys in their order, texts of many lines as blocks."""
    text: str = yaml.dump(
        dict(document), Dumper=_PlanDumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=110
    )
    return text
