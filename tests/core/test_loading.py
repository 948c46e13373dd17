"""From bytes to a validated plan, in every form that is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dalang.formats import dump_yaml
from dalang.importers import import_plans
from dalang.loading import load_plan
from dalang.validation import validate
from tests.core.test_validation import GOOD
from tests.harness import ROOT, requires_shared, shared_dir

OTHERS = ("-options", "-patch", "-policy", "-servers", "-models")
"""What names of documents end with that are no plans."""
EXAMPLES = sorted(
    path
    for path in (ROOT / "examples").glob("*")
    if path.suffix in (".yaml", ".json") and not path.stem.endswith(OTHERS)
)


def test_every_form_gives_one_plan() -> None:
    """YAML, JSON, bytes, text and parsed data are the same plan with the same digest."""
    forms: list[Any] = [GOOD, json.dumps(GOOD), json.dumps(GOOD).encode(), dump_yaml(GOOD)]
    assert len({load_plan(form).require().digest() for form in forms}) == 1
    assert load_plan(dump_yaml(GOOD), name="plan.yaml", node_types=[]).problems == ()


@pytest.mark.parametrize(
    ("data", "code"),
    [(b"\xff", "NOT_TEXT"), ("", "EMPTY_DOCUMENT"), ("a: [", "MALFORMED_YAML"), ("- 1", "NOT_AN_OBJECT")],
)
def test_what_cannot_be_read_is_a_report_too(data: Any, code: str) -> None:
    """A document that cannot be read is refused like a plan, not by an exception."""
    report = load_plan(data)
    assert [problem.code for problem in report.problems] == [code]
    assert report.plan is None


def test_the_name_decides_about_json() -> None:
    """A .json file is JSON."""
    assert not load_plan("name: p", name="plan.json").ok


def test_pointers_into_an_axon_workflow_lead_to_its_tasks() -> None:
    """A problem of the converted plan points to the task, or the dependencies, that it came from."""
    task = {"task_type": {"Custom": {"handler": "x"}}, "requirements": {"capabilities": ["a"]}}
    tasks = [{"id": "a", **task}, {"id": "b", **task, "priority": "urgent"}, {"id": "c", **task, "input": {"x": "${"}}]
    workflow: dict[str, Any] = {"name": "w", "tasks": tasks, "dependencies": {"a": ["a"]}}
    found = {(p.pointer, p.code) for p in load_plan(workflow).problems}
    assert ("/tasks/1", "BAD_VALUE") in found
    assert ("/tasks/2", "BAD_EXPRESSION") in found
    assert ("/dependencies", "SELF_LOOP") in found
    workflow["tasks"] = {str(item.pop("id")): item for item in tasks}
    assert ("/tasks/b", "BAD_VALUE") in {(p.pointer, p.code) for p in load_plan(workflow).problems}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_are_valid(path: Path) -> None:
    """Every example is accepted."""
    report = load_plan(path.read_bytes(), name=path.name)
    assert report.ok, report.problems


def test_there_are_examples() -> None:
    """The test above has something to look at."""
    assert len(EXAMPLES) >= 3


@requires_shared
def test_the_instances_are_valid_after_import() -> None:
    """The public workflow instances become plans that validation accepts, and so do the agents' plans."""
    folder = shared_dir()
    assert folder is not None
    plans = [
        plan
        for path in sorted((folder / "instances").glob("*.json"))
        for plan in import_plans("wfformat", json.loads(path.read_text()))
    ]
    plans += import_plans("agent-plans", json.loads((folder / "agent-plans.json").read_text()))
    assert len(plans) > 6
    refused = {plan["name"]: report.errors for plan in plans if not (report := validate(plan)).ok}
    assert refused == {}
