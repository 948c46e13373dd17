"""The address that a node's handler hands out, so that somebody ends the node by calling it."""

from __future__ import annotations

from typing import Any

PLACEHOLDER = "{{callbackUrl}}"
"""Stands in the inputs of an ``http`` node for its callback URL, which is a secret and so never recorded."""
HEADER = "Dalang-Callback-Url"
HIDDEN = "***"


def filled_in(value: Any, url: str | None) -> Any:
    """Return ``value`` with the placeholder in its texts replaced by ``url``; keys stay."""
    return value if url is None else _replaced(value, PLACEHOLDER, url)


def hidden(value: Any, url: str | None) -> Any:
    """Return ``value`` without the token of ``url``: who may read a run may not answer for the service."""
    return value if url is None else _replaced(value, url.rpartition("/")[2], HIDDEN)


def _replaced(value: Any, old: str, new: str) -> Any:
    if isinstance(value, str):
        return value.replace(old, new)
    if isinstance(value, dict):
        return {name: _replaced(item, old, new) for name, item in value.items()}
    return [_replaced(item, old, new) for item in value] if isinstance(value, (list, tuple)) else value
