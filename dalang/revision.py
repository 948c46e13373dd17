"""From a plan and a patch, or a whole new plan, to the next revision of a run's plan: validated, compiled, compared.

Pure: what the run makes of it - whether something of it has already happened - is asked afterwards (``revising.py``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dalang.errors import Problem
from dalang.patching import Patched, apply_patch
from dalang.plan import Plan
from dalang.plan_diff import plan_diff
from dalang.validation import Report, validate

_ITEM = re.compile(r"/(nodes|finally|edges)/(\d+)(/.*)?", re.DOTALL)
_FIELD = re.compile(r"/([^/]+)(/.*)?", re.DOTALL)
_FIXED = {
    "name": "a run stays with its plan; run another plan as a run of its own",
    "planId": "a run stays with its plan; run another plan as a run of its own",
    "inputs": "the run has its inputs already",
}


@dataclass(frozen=True)
class Revision:
    """A valid next revision. ``places`` leads from ``nodes/<id>`` and ``edges/<id>`` to where the request has them."""

    plan: Plan
    diff: Mapping[str, Any]
    places: Mapping[str, str]
    warnings: tuple[Problem, ...]


def revise(
    document: Mapping[str, Any], request: Mapping[str, Any], check: Callable[[Mapping[str, Any]], Report] = validate
) -> tuple[Revision | None, tuple[Problem, ...]]:
    """Return the revision that ``request`` (with ``patch`` or ``plan``) makes of a plan, or all problems.

    ``check`` validates a plan. Pointers lead into the request: ``/patch/addNodes/0/type``, ``/plan/nodes/3``.
    """
    if "plan" in request:
        return _whole(document, request["plan"], check)
    patched = apply_patch(document, request.get("patch"))
    if patched.problems:
        return None, tuple(_below("/patch", problem) for problem in patched.problems)
    report = check(patched.document)
    located = [_below("/patch", _in_patch(problem, patched)) for problem in report.problems]
    if report.plan is None:
        return None, tuple(problem for problem in located if problem.severity == "error")
    new = report.plan.wire()
    places = {f"{kind}/{key}": "/patch" + place for (kind, key), place in patched.places.items()}
    for number, edge in enumerate(new.get("edges", ())):
        place = patched.places.get(("edges", number))
        if place is not None:
            places[f"edges/{edge['edgeId']}"] = "/patch" + place
    for (kind, key), place in patched.places.items():
        if kind == "inputs":
            places[f"nodes/{key}"] = "/patch" + place
    warnings = tuple(one for one in located if one.severity == "warning" and one.pointer != "/patch")
    return Revision(report.plan, plan_diff(document, new), places, warnings), ()


def _whole(
    document: Mapping[str, Any], plan: Any, check: Callable[[Mapping[str, Any]], Report]
) -> tuple[Revision | None, tuple[Problem, ...]]:
    if isinstance(plan, Mapping) and plan.get("name") == document["name"]:
        plan = {"planId": document["planId"], **plan}
    report = check(plan)
    problems = [_below("/plan", problem) for problem in report.problems]
    if report.plan is None:
        return None, tuple(problem for problem in problems if problem.severity == "error")
    new = report.plan.wire()
    fixed = [
        Problem(pointer=f"/plan/{name}", code="BAD_VALUE", message=f"`{name}` cannot change: {why}.")
        for name, why in _FIXED.items()
        if new.get(name) != document.get(name)
    ]
    if fixed:
        return None, tuple(fixed)
    places = {f"nodes/{node['nodeId']}": f"/plan/nodes/{number}" for number, node in enumerate(new.get("nodes", ()))}
    for number, node in enumerate(new.get("finally", ())):
        places[f"nodes/{node['nodeId']}"] = f"/plan/finally/{number}"
    for number, edge in enumerate(new.get("edges", ())):
        places[f"edges/{edge['edgeId']}"] = f"/plan/edges/{number}"
    return Revision(report.plan, plan_diff(document, new), places, tuple(problems)), ()


def _below(root: str, problem: Problem) -> Problem:
    return problem.model_copy(update={"pointer": root + problem.pointer})


def _in_patch(problem: Problem, patched: Patched) -> Problem:
    """Return the problem of the resulting plan where the patch made it; else at the patch, saying where it is."""
    place = _place(problem.pointer, patched)
    if place is not None:
        return problem.model_copy(update={"pointer": place})
    message = (
        problem.message if not problem.pointer else f"In the resulting plan, at {problem.pointer}: {problem.message}"
    )
    return problem.model_copy(update={"pointer": "", "message": message})


def _place(pointer: str, patched: Patched) -> str | None:
    item = _ITEM.fullmatch(pointer)
    if item is None:
        name = _FIELD.fullmatch(pointer)
        place = patched.places.get(("set", name[1])) if name else None
        return None if name is None or place is None else place + (name[2] or "")
    kind, number, rest = item[1], int(item[2]), item[3] or ""
    entry = patched.document[kind][number]
    if kind == "edges":
        place = patched.places.get(("edges", number)) or patched.places.get(("edges", entry.get("edgeId", "")))
        return None if place is None else place + rest
    node_id = entry.get("nodeId", "")
    if rest.startswith("/inputs") and ("inputs", node_id) in patched.places:
        return patched.places["inputs", node_id] + rest.removeprefix("/inputs")
    place = patched.places.get(("nodes", node_id))
    return None if place is None else place + rest
