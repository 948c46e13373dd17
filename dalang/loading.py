"""From bytes, or parsed data, to a validated plan: the formats and the validation in one step.

It stands beside ``validation`` because the layers have ``formats`` above that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from dalang.canonical import pointer
from dalang.errors import InvalidDocument, Problem
from dalang.formats import load_document, to_plan_document
from dalang.validation import Report, validate

_PLACE = re.compile(r"/(nodes|edges)/(\d+)(/.*)?", re.DOTALL)


def load_plan(
    data: bytes | str | Mapping[str, Any],
    *,
    name: str | None = None,
    node_types: Iterable[str] | None = None,
    agents: Iterable[Iterable[str]] | None = None,
) -> Report:
    """Return the report on a plan in any form that is loaded: YAML or JSON, Dalang's, Wayang's or Axon's.

    ``name`` is the file's name, if there is one. ``node_types`` and ``agents`` are those of
    :func:`dalang.validation.validate`. Pointers lead into the document as it was given; of an Axon workflow they lead
    to the task, or to ``dependencies``. Raises nothing.
    """
    try:
        document = data if isinstance(data, Mapping) else load_document(data, name=name)
        converted = to_plan_document(document)
    except InvalidDocument as error:
        return Report(None, error.problems)
    report = validate(converted, node_types=node_types, agents=agents)
    if "nodes" in document or "tasks" not in document:
        return report
    problems = tuple(_in_axon(problem, document) for problem in report.problems)
    return Report(report.plan, problems)


def _in_axon(problem: Problem, document: Mapping[str, Any]) -> Problem:
    found = _PLACE.fullmatch(problem.pointer)
    if found is None:
        return problem
    tasks = document["tasks"]
    if found[1] == "edges":
        place = "/dependencies"
    elif isinstance(tasks, Mapping):
        place = pointer("tasks", list(tasks)[int(found[2])])
    else:
        place = f"/tasks/{found[2]}"
    return problem.model_copy(update={"pointer": place})
