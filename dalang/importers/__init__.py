"""Importers: documents of other systems as plans, found by the format's name.

An importer is a pure function from a parsed document to the wire forms of one or more plans; whatever is wrong with the
document is reported as :class:`~dalang.errors.InvalidDocument` with pointers into it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from dalang.errors import InvalidDocument, Problem
from dalang.importers.agent_plans import import_agent_plans
from dalang.importers.wfformat import import_wfformat

IMPORTERS: Mapping[str, Callable[..., list[dict[str, Any]]]] = {
    "wfformat": import_wfformat,
    "agent-plans": import_agent_plans,
}
"""The formats by name; an importer's keyword arguments are its options."""


def import_plans(format_name: str, document: Mapping[str, Any], **options: Any) -> list[dict[str, Any]]:
    """Return the plans, in wire form, that ``document`` holds in the format ``format_name``.

    Options: ``time_scale`` (wfformat), ``select`` (agent-plans); None means not given.

    Raises:
        InvalidDocument: UNKNOWN_FORMAT, UNKNOWN_OPTION, or what the importer finds wrong.
    """
    importer = IMPORTERS.get(format_name)
    if importer is None:
        _refuse("UNKNOWN_FORMAT", f"There is no importer {format_name!r}; there are {', '.join(IMPORTERS)}.")
    options = {name: value for name, value in options.items() if value is not None}
    known = set(inspect.signature(importer).parameters) - {"document"}
    for name in options:
        if name not in known:
            has = ", ".join(sorted(known))
            _refuse("UNKNOWN_OPTION", f"The importer {format_name} has no option {name}; it has {has}.")
    return importer(document, **options)


def _refuse(code: str, message: str) -> NoReturn:
    raise InvalidDocument([Problem(pointer="", code=code, message=message)], "import")
