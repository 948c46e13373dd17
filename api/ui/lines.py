"""Where in a text the place is that a JSON Pointer names, so that a problem stands at its line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import yaml

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_LINE = re.compile(r"^Line (\d+)")


def lines_of(text: str, pointers: Iterable[str]) -> dict[str, int]:
    """Return the line (from 1) of each pointer, or of the nearest place above it, in a YAML or JSON text.

    Nothing for a text that cannot be read: its problem names the line itself (:func:`line_told`).
    """
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
    except (yaml.YAMLError, RecursionError):
        return {}
    finally:
        loader.dispose()
    return {} if root is None else {pointer: _line(root, pointer) for pointer in pointers}


def line_told(message: str) -> int | None:
    """Return the line that the message of a text that cannot be read begins with."""
    found = _LINE.match(message)
    return int(found[1]) if found else None


def _line(node: Any, pointer: str) -> int:
    line = node.start_mark.line + 1
    for step in pointer.split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        if isinstance(node, yaml.MappingNode):
            pair = next((pair for pair in node.value if pair[0].value == key), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and key.isdecimal() and int(key) < len(node.value):
            node = node.value[int(key)]
            line = node.start_mark.line + 1
        else:
            break
    return int(line)
