"""The builder: the DSL of the Axon seed and what Dalang adds to it, as documents and as validated plans."""

from __future__ import annotations

import runpy
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from dalang.builder import (
    NodeBuilder,
    PlanBuilder,
    TaskBuilder,
    WorkflowBuilder,
    custom,
    development,
    documentation,
    refactoring,
    review,
    testing,
)
from dalang.errors import ErrorType, InvalidDocument
from dalang.formats import load_document
from dalang.plan import Callback, FailurePolicy, Node, Plan, RetryPolicy, Timeouts, with_derived_ids
from dalang.plan_human import Escalation, HumanTask, OnExpiry

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_a_task_has_the_defaults_of_axon() -> None:
    """A task of a task type is an agent node of 300 s, 1 core and 512 MB, with the type's parameters as inputs."""
    assert TaskBuilder("Design API", development(language="rust", scope=["src"])).capability("x").document() == {
        "nodeId": "design_api",
        "name": "Design API",
        "type": "agent",
        "inputs": {"task": "Design API", "language": "rust", "scope": ["src"]},
        "metadata": {"taskType": "Development"},
        "requirements": {
            "estimatedDuration": "5m",
            "resources": {"cpuCores": 1, "memoryMb": 512, "gpu": 0},
            "capabilities": ["x"],
        },
    }


def test_every_task_type_of_axon_has_a_function() -> None:
    """Enum names may be written as in Rust."""
    types = [
        review(review_type="Comprehensive"),
        testing(test_type="Unit", coverage_threshold=0.9),
        documentation(format="Markdown"),
        refactoring(optimization_level="Aggressive"),
        custom(handler="h", config={"a": 1}),
    ]
    assert [dict(kind.inputs) for kind in types] == [
        {"review_type": "comprehensive"},
        {"test_type": "unit", "coverage_threshold": 0.9},
        {"format": "markdown"},
        {"optimization_level": "aggressive"},
        {"config": {"a": 1}},
    ]
    assert types[-1].handler == "h"


def test_a_node_can_say_everything_that_the_model_knows() -> None:
    """Every method ends in the field of the model that it is named for."""
    node = (
        NodeBuilder("Call it", "http", node_id="call")
        .description("d")
        .handler("h")
        .input("url", "http://x")
        .input({"method": "GET"})
        .capability("a")
        .capability("b", "c")
        .estimated_duration(timedelta(minutes=2))
        .resources(cpu_cores=2, memory_mb=100, gpu=True)
        .priority("high")
        .timeout("30s")
        .timeouts(heartbeat="5s")
        .retry(5, backoff="FIXED", initial_delay="2s", max_delay="4s", multiplier=1.5, jitter=True, on=["TIMEOUT"])
        .callback(timeout="2h")
        .join("any")
        .input_port("url", type="string", required=True)
        .output_port("body", default_value="")
        .metadata(team="x")
        .build()
    )
    assert (node.node_id, node.name, node.type, node.description, node.handler) == ("call", "Call it", "http", "d", "h")
    assert node.inputs == {"url": "http://x", "method": "GET"}
    assert node.requirements.capabilities == ("a", "b", "c")
    assert node.requirements.estimated_duration == 120_000
    assert node.requirements.resources is not None
    assert node.requirements.resources.model_dump() == {"cpu_cores": 2, "memory_mb": 100, "gpu": 1}
    assert node.priority == 1
    assert node.callback == Callback(timeout="2h")
    assert NodeBuilder("a", "http").callback().build().callback == Callback()
    assert node.timeouts == Timeouts(start_to_close="30s", heartbeat="5s")
    assert node.retry_policy is not None
    assert node.retry_policy.retry_on == (ErrorType.TIMEOUT,)
    assert (node.retry_policy.max_attempts, node.retry_policy.initial_delay, node.retry_policy.jitter) == (
        5,
        2000,
        True,
    )
    assert node.join == "any"
    assert node.descriptor is not None
    assert node.descriptor.inputs[0].required
    assert node.metadata == {"team": "x"}


def test_a_node_names_pools_and_sticks_to_its_agent() -> None:
    """Pools add up by name, each with its amount and key."""
    node = NodeBuilder("n", "agent").pool("openai", 800).pool("db", key="${inputs.region}").sticky()
    read = Node.model_validate(node.document()).requirements
    assert {name: (need.amount, need.key) for name, need in read.pools.items()} == {
        "openai": (800, None),
        "db": (1, "${inputs.region}"),
    }
    assert read.sticky


def test_a_human_node_can_say_everything_that_the_model_knows() -> None:
    """What it asks, whom, and until when."""
    node = (
        NodeBuilder("Approve", "human")
        .ask(
            "Deploy?",
            description="**Look**",
            group="ops",
            candidates=["ann", "bob"],
            form={"properties": {"level": {"type": "integer"}}},
            quorum=2,
            four_eyes=True,
            priority="high",
        )
        .due("4h", reminder=timedelta(hours=1), on_expiry="reject")
        .escalate("boss", after="2h")
        .build()
    )
    assert node.task == HumanTask(
        title="Deploy?",
        description="**Look**",
        candidate_group="ops",
        candidates=("ann", "bob"),
        form={"properties": {"level": {"type": "integer"}}},
        quorum=2,
        four_eyes=True,
        priority=1,
        due="4h",
        reminder="1h",
        on_expiry=OnExpiry.REJECT,
        escalation=Escalation(after="2h", to="boss"),
    )
    assert NodeBuilder("x", "human").ask(assignee="ann").document()["task"] == {"assignee": "ann"}


def test_a_plan_can_say_everything_that_the_model_knows() -> None:
    """Settings, edges with ports, mappings and conditions, and finally nodes end in the plan."""
    a, b = NodeBuilder("A", "noop"), NodeBuilder("B", "noop")
    document = (
        PlanBuilder("p", version="2.0.0")
        .description("d")
        .priority(3)
        .timeout(timedelta(hours=2))
        .max_retries(2)
        .max_in_flight(4)
        .failure_policy(FailurePolicy.CONTINUE)
        .inputs({"type": "object"})
        .outputs({"x": "${nodes.a.outputs.x}"})
        .metadata(team="x")
        .task(a, b)
        .node("c", type="noop", name="C", inputs={"n": 1}, after=[a, "b"], retry_policy=RetryPolicy(max_attempts=1))
        .edge(a, b, port="error", target_port="in", condition="error.retryable", edge_id="e")
        .edge("a", "c", mapping={"x": "y"})
        .finally_(NodeBuilder("Z", "noop"), Node(node_id="y", type="noop"))
        .document()
    )
    plan = Plan.model_validate(document)
    assert (plan.version, plan.priority, plan.timeout, plan.max_retries, plan.max_in_flight) == (
        "2.0.0",
        3,
        7_200_000,
        2,
        4,
    )
    assert plan.failure_policy is FailurePolicy.CONTINUE
    assert [node.node_id for node in plan.all_nodes()] == ["a", "b", "c", "z", "y"]
    assert [(edge.source_node_id, edge.target_node_id) for edge in plan.edges] == [
        ("a", "c"),
        ("b", "c"),
        ("a", "b"),
        ("a", "c"),
    ]
    assert plan.edges[2].model_dump(exclude={"mapping"}) == {
        "edge_id": "e",
        "source_node_id": "a",
        "source_port": "error",
        "target_node_id": "b",
        "target_port": "in",
        "condition": "error.retryable",
    }
    assert plan.edges[3].mapping == {"x": "y"}
    assert plan.nodes[2].retry_policy == RetryPolicy(max_attempts=1)


def test_an_unknown_field_of_a_node_is_a_type_error() -> None:
    """A misspelt keyword is told at once, with the names there are."""
    with pytest.raises(TypeError, match="no field 'input'"):
        PlanBuilder("p").node("a", type="noop", input={})


def test_documents_do_not_share_state_with_the_builder() -> None:
    """What a builder has given away does not change when it is used further."""
    node = NodeBuilder("a", "noop").input("x", 1)
    before = node.document()
    node.input("x", 2).capability("y")
    assert before["inputs"] == {"x": 1}
    assert "requirements" not in before


@pytest.mark.parametrize(
    ("script", "function"),
    [("feature_development", "feature_development"), ("refactoring", "refactoring_workflow")],
)
def test_the_examples_in_python_and_in_yaml_are_the_same_plan(script: str, function: str) -> None:
    """The seed's workflows, built in Python, have the digests of their YAML files."""
    built = runpy.run_path(str(EXAMPLES / f"{script}.py"))[function]()
    document = load_document((EXAMPLES / f"{script.replace('_', '-')}.yaml").read_bytes())
    assert built.digest() == with_derived_ids(Plan.model_validate(document)).digest()


@pytest.mark.parametrize("script", ["feature_development.py", "refactoring.py"])
def test_the_python_examples_print_yaml(script: str) -> None:
    """Run as a program, an example prints its plan."""
    printed = subprocess.run([sys.executable, EXAMPLES / script], capture_output=True, check=True).stdout
    assert load_document(printed)["nodes"]


def test_build_refuses_with_every_problem() -> None:
    """A plan that does not validate is not built; all its problems are told."""
    builder = (
        WorkflowBuilder("w")
        .task(NodeBuilder("a", "noop"), NodeBuilder("b", "noop"), NodeBuilder("c", "sleep").input("duration", 3))
        .depends_on("a", ["b"])
        .depends_on("b", ["a"])
        .depends_on("b", ["ghost"])
    )
    with pytest.raises(InvalidDocument) as caught:
        builder.build()
    assert len(caught.value.problems) >= 2


def test_build_returns_a_plan_with_ids() -> None:
    """A valid plan comes back with what the document left out filled in."""
    plan = PlanBuilder("p").node("a", type="noop").node("b", type="noop", after="a").build()
    assert plan.plan_id is not None
    assert plan.edges[0].edge_id == "a->b"


def test_a_plan_that_changes_by_itself() -> None:
    """Evaluators and the planner are written as in YAML."""
    plan = (
        PlanBuilder("judged")
        .task(NodeBuilder("judge", "noop").evaluator())
        .planner(handler="demo-planner", max_replans=2)
        .build()
    )
    assert plan.nodes[0].evaluator
    assert plan.planner is not None
    assert (plan.planner.type, plan.planner.handler, plan.max_replans) == ("agent", "demo-planner", 2)
