"""Whatever is started in Temporal says whose it is, and ids of two tenants never meet."""

from __future__ import annotations

import ast
from uuid import uuid4

from dalang.scheduling import identity
from tests.harness import ROOT

STARTS = {"start_workflow", "start_child_workflow", "create_schedule"}
STARTS |= {"ScheduleActionStartWorkflow"}


def test_nothing_is_started_without_its_tenant() -> None:
    """Every call that starts a workflow or makes a schedule gives search attributes; there are at least four."""
    calls, without = 0, []
    for folder in ("dalang", "workflows", "activities", "api"):
        for path in (ROOT / folder).glob("**/*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call):
                    continue
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                if name not in STARTS or (name == "create_schedule" and path.parts[-2] == "api"):
                    continue  # the API's own is a row of the table
                calls += 1
                if not {one.arg for one in node.keywords} & {"search_attributes", "typed_search_attributes"}:
                    without.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert (calls >= 4, without) == (True, [])


def test_schedules_of_two_tenants_never_meet() -> None:
    """A tenant's name may hold what parts names; the key of the row tells them apart all the same."""
    assert identity("a/b", "c", uuid4()) != identity("a", "b/c", uuid4())
