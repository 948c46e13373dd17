"""The demo agents, alone and together: the example plans are run through the state machine with them."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dalang.demo  # noqa: F401 - registers the agents
from dalang.compilation import compile_plan
from dalang.demo import service, source
from dalang.events import Begin, NodeFailed, NodeSucceeded, Start
from dalang.formats import load_document, to_plan_document
from dalang.importers import import_plans
from dalang.nodes import InvalidInput, NodeContext, NodeFailure, Registration, ToolError, registry
from dalang.plan import Plan
from dalang.program import Program
from dalang.run import Run
from tests.harness import requires_shared, shared_dir

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def context(inputs: dict[str, Any], name: str = "a task", attempt: int = 1, plan: str = "a plan") -> NodeContext:
    return NodeContext("n", name, "agent", "r", "t", inputs, "key", attempt=attempt, run={"plan": plan})


def call(registration: Registration | None, ctx: NodeContext) -> dict[str, Any]:
    assert registration is not None
    result = registration.call(ctx)
    outputs: dict[str, Any] = asyncio.run(result) if inspect.isawaitable(result) else result
    assert json.loads(json.dumps(outputs)) == outputs
    return outputs


def ask(agent: str, **inputs: Any) -> dict[str, Any]:
    return call(registry.agent(agent), context(inputs))


def perform(plan: Plan, inputs: dict[str, Any] | None = None) -> Run:
    """Run a plan in memory: the real state machine, the demo agents, three attempts at what NETWORK_ERROR hits."""
    run = Run(Program(compile_plan(plan)), inputs or {}, {"plan": plan.name})
    nodes = {node.node_id: node for node in plan.all_nodes()}
    run.apply(Begin(), 0)
    while steps := [step for step in run.due(0) if isinstance(step, Start)]:
        for step in steps:
            run.apply(_outcome(nodes[step.node_id], dict(step.inputs), plan.name), 0)
    return run


def _outcome(node: Any, inputs: dict[str, Any], plan: str) -> NodeSucceeded | NodeFailed:
    if node.type in ("noop", "sleep"):
        return NodeSucceeded(node.node_id, inputs)
    if node.type == "python":
        registration = registry.node(node.handler)
    elif node.handler is not None:
        registration = registry.agent(node.handler)
    else:
        registration = registry.find_agent(node.requirements.capabilities)
    for attempt in (1, 2, 3):
        try:
            outputs = call(registration, context(inputs, node.name or node.node_id, attempt, plan))
            return NodeSucceeded(node.node_id, outputs, attempt)
        except NodeFailure as error:
            if error.type != "NETWORK_ERROR" or attempt == 3:
                return NodeFailed(node.node_id, {"type": str(error.type), "message": error.message, "attempt": attempt})
    raise AssertionError


def example(name: str) -> Plan:
    return Plan.model_validate(to_plan_document(load_document((EXAMPLES / name).read_bytes(), name=name)))


def statuses(run: Run) -> dict[str, str]:
    return {node: str(status) for node, status in zip(run.program.ids, run.statuses, strict=True)}


def test_a_feature_is_designed_written_tested_reviewed_and_documented() -> None:
    """What one agent writes the next one works on: eight tests really run, the review finds what is there."""
    design = ask("architect", task="Implement user authentication API with tests")
    assert [operation["name"] for operation in design["api"]["operations"]] == ["register", "log_in", "log_out", "find"]
    written = ask("coder", **design, language="rust")
    compile(written["code"], "x", "exec")
    assert "Python only" in written["note"]
    tested = ask("tester", **written, coverage_threshold=0.8)
    assert (tested["executed"], tested["passed"], tested["failed"], tested["coverage"]) == (True, 8, 0, 1.0)
    reviewed = ask("reviewer", **written)
    assert {finding["rule"] for finding in reviewed["findings"]} == {"compare-true"}
    assert reviewed["approved"]
    assert "### `log_in(self, number: int) -> bool`" in ask("writer", **written)["document"]


def test_refactored_code_is_simpler_and_still_passes_its_tests() -> None:
    """The refactorer changes the coder's text, and the tester executes that text too."""
    written = ask("coder", feature="payment")
    refactored = ask("refactorer", **written)
    assert refactored["changes"]
    assert ask("reviewer", **refactored)["findings"] == []
    assert ask("tester", **refactored)["failed"] == 0


def test_code_that_no_demo_agent_wrote_is_never_executed() -> None:
    """A plan cannot bring code into a worker by the tester, nor by the names of an API."""
    code = "open('/tmp/dalang-demo-was-here', 'w')\n"
    outputs = ask("tester", code=code)
    assert outputs["executed"] is False
    evil = {"entity": 'x"""\nimport os', "operations": [{"name": "a(): pass\nimport os\ndef b", "kind": "create"}]}
    assert "import os" not in ask("coder", api=evil)["code"]
    assert ask("tester", api=evil)["failed"] == 0


def test_a_missed_threshold_fails_the_tester() -> None:
    """coverage_threshold is kept, with the results in the error's details."""
    with pytest.raises(ToolError) as caught:
        ask("tester", feature="order", coverage_threshold=1.5)
    assert caught.value.details["coverage"] == 1.0


@given(st.text(max_size=60))
def test_any_feature_gives_code_that_passes_its_tests(feature: str) -> None:
    """Whatever the words are, the module compiles and works."""
    specification = service.specify(feature)
    assert all(result["passed"] for result in service.run_tests(service.render(specification), specification))


@given(st.text(max_size=60) | st.just("(" * 5000) | st.just("not " * 3000 + "x"))
def test_source_that_is_no_python_fails_the_node_only(code: str) -> None:
    """Reading hostile source ends in metrics or in InvalidInput."""
    for read in (source.metrics, source.findings, source.refactor, source.outline):
        with contextlib.suppress(InvalidInput):
            read(code)


def test_the_planner_returns_a_plan_that_can_be_run() -> None:
    """A goal of three steps is a chain of three agent nodes."""
    outputs = ask("planner", goal="Find a recipe. Buy ${things}; then cook")
    assert outputs["steps"] == ["Find a recipe", "Buy ${things}", "cook"]
    run = perform(Plan.model_validate(outputs["plan"]))
    assert str(run.status) == "COMPLETED"


def test_the_generalist_takes_what_no_other_agent_does() -> None:
    """Without capabilities the generalist is found; it works out small sums and is honest about the rest."""
    found = registry.find_agent([])
    assert found is not None
    assert found.name == "generalist"
    assert ask("generalist", task="Calculate the product of 19 and 5.")["answer"] == "19 × 5 = 95"
    assert "No model is connected" in ask("generalist", task="Tell a joke", n1={})["answer"]


@pytest.mark.parametrize("name", ["feature-development.yaml", "axon-feature.json", "refactoring.yaml", "hello.yaml"])
def test_example_plans_complete(name: str) -> None:
    """Every node of the examples succeeds with the demo agents."""
    run = perform(example(name))
    assert str(run.status) == "COMPLETED"
    assert set(statuses(run).values()) == {"SUCCESS"}


def test_the_feature_workflow_is_about_what_its_name_says() -> None:
    """Axon's form has no feature text; the agents go by the plan's name, and tests run on what was written."""
    facts = perform(example("axon-feature.json")).facts
    bodies = {fact["nodeId"]: fact["body"]["outputs"] for fact in facts if fact["type"] == "NODE_COMPLETED"}
    assert bodies["design_api"]["api"]["entity"] == "user_authentication"
    assert bodies["write_tests"]["passed"] == 8
    assert "log_in" in bodies["write_documentation"]["document"]


@pytest.mark.parametrize(("legacy", "skipped", "attempts"), [(False, {"legacy", "rework"}, 3), (True, {"write"}, 3)])
def test_the_conditions_example_takes_both_ways(legacy: bool, skipped: set[str], attempts: int) -> None:
    """New code is published directly, legacy code after rework; the failed fax is handled, finally runs."""
    run = perform(example("conditions.yaml"), {"legacy": legacy})
    found = statuses(run)
    assert str(run.status) == "COMPLETED"
    assert {node for node, status in found.items() if status == "SKIPPED"} == skipped
    assert found["announce"] == "ERROR"
    assert found["apologise"] == found["summary"] == found["publish"] == "SUCCESS"
    assert run.result is not None
    assert run.result["published"] == "SUCCESS"
    assert run.result["registeredAfter"] == attempts


@requires_shared
def test_agent_plans_complete_with_the_generalist() -> None:
    """Every collected plan of language models can be run offline."""
    folder = shared_dir()
    assert folder is not None
    for document in import_plans("agent-plans", load_document((folder / "agent-plans.json").read_bytes())):
        assert str(perform(Plan.model_validate(document)).status) == "COMPLETED"
