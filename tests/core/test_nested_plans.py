"""Plans in plans: every problem has its place in the outermost document, and bodies take one form."""

from __future__ import annotations

from typing import Any

import pytest

from dalang.compilation import compile_plan
from dalang.nesting import MAX_DEPTH, child_run_id, embedded_plans, names_stored_plans
from dalang.plan import Plan
from dalang.plan_containers import MAX_ELEMENTS, tolerated
from dalang.program import Program
from dalang.validation import validate

NOOP = {"nodeId": "a", "type": "noop"}
BODY = {"nodes": [NOOP]}


def plan_of(*nodes: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": "p", "nodes": list(nodes), **more}


def a_plan(body: Any = BODY, **more: Any) -> dict[str, Any]:
    return {"nodeId": "n", "type": "plan", "plan": body, **more}


def a_map(items: Any = "${inputs.x}", body: Any = BODY, more: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"nodeId": "n", "type": "map", "map": {"items": items, "body": body, **(more or {})}}


def a_loop(until: str = "true", body: Any = BODY, most: Any = 2, **more: Any) -> dict[str, Any]:
    return {"nodeId": "n", "type": "loop", "loop": {"body": body, "until": until, "maxIterations": most}, **more}


N = "/nodes/0"
CASES: list[tuple[dict[str, Any], str, str]] = [
    ({"nodeId": "n", "type": "plan"}, f"{N}/plan", "MISSING_FIELD"),
    ({"nodeId": "n", "type": "map"}, f"{N}/map", "MISSING_FIELD"),
    ({"nodeId": "n", "type": "loop"}, f"{N}/loop", "MISSING_FIELD"),
    (a_plan("x"), f"{N}/plan", "WRONG_TYPE"),
    (a_plan({}), f"{N}/plan", "MISSING_FIELD"),
    (a_plan({"planId": "x"}), f"{N}/plan/planId", "BAD_VALUE"),
    (a_plan({"name": 5}), f"{N}/plan/name", "WRONG_TYPE"),
    (a_plan({"name": "x", "verzion": "1"}), f"{N}/plan/verzion", "UNKNOWN_FIELD"),
    (a_plan({"name": "x", "planId": "6d8a1d1c-2f5c-5c0e-9a53-0f1b6f3f0c11"}), f"{N}/plan", "MISSING_FIELD"),
    (a_plan(NOOP), f"{N}/plan", "BAD_VALUE"),
    (a_plan({"nodes": []}), f"{N}/plan/nodes", "NO_NODES"),
    (a_plan({"nodes": [NOOP, NOOP]}), f"{N}/plan/nodes/1/nodeId", "DUPLICATE_NODE_ID"),
    (a_plan({"nodes": [{**NOOP, "type": "nope"}]}), f"{N}/plan/nodes/0/type", "UNKNOWN_NODE_TYPE"),
    (a_plan({**BODY, "inputs": {"type": "nope"}}), f"{N}/plan/inputs/type", "BAD_INPUT_SCHEMA"),
    (a_plan({**BODY, "outputs": {"x": "${nodes.n.outputs}"}}), f"{N}/plan/outputs/x", "UNKNOWN_NODE"),
    (a_plan(retryPolicy={"maxAttempts": 2}), f"{N}/retryPolicy", "WITHOUT_EFFECT"),
    (a_plan(timeouts={"startToClose": "1s"}), f"{N}/timeouts", "WITHOUT_EFFECT"),
    (a_plan(handler="f"), f"{N}/handler", "WITHOUT_EFFECT"),
    ({**NOOP, "plan": BODY}, f"{N}/plan", "WITHOUT_EFFECT"),
    (a_map(5), f"{N}/map/items", "WRONG_TYPE"),
    (a_map("abc"), f"{N}/map/items", "BAD_INPUT"),
    (a_map([0] * (MAX_ELEMENTS + 1)), f"{N}/map/items", "BAD_INPUT"),
    (a_map("${nodes.x.outputs}"), f"{N}/map/items", "UNKNOWN_NODE"),
    (a_map("${outputs}"), f"{N}/map/items", "WRONG_VARIABLE"),
    (a_map(more={"maxConcurrency": 0}), f"{N}/map/maxConcurrency", "BAD_VALUE"),
    (a_map(more={"toleratedFailures": "many"}), f"{N}/map/toleratedFailures", "BAD_VALUE"),
    (a_map(more={"toleratedFailures": "101%"}), f"{N}/map/toleratedFailures", "BAD_VALUE"),
    (a_map(more={"toleratedFailures": -1}), f"{N}/map/toleratedFailures", "BAD_VALUE"),
    (a_map(more={"concurrency": 1}), f"{N}/map/concurrency", "UNKNOWN_FIELD"),
    (a_map(body={"type": "noop", "inputz": {}}), f"{N}/map/body/inputz", "UNKNOWN_FIELD"),
    (a_map(body={"type": "http"}), f"{N}/map/body/inputs", "MISSING_INPUT"),
    (a_map(body={"type": "noop", "inputs": {"x": "${nodes.n.outputs.x}"}}), f"{N}/map/body/inputs/x", "UNKNOWN_NODE"),
    (a_map() | {"inputs": {"item": 1}}, f"{N}/inputs/item", "BAD_INPUT"),
    (a_loop(inputs={"previous": 1}), f"{N}/inputs/previous", "BAD_INPUT"),
    (a_loop(most=0), f"{N}/loop/maxIterations", "BAD_VALUE"),
    (a_loop("outputs."), f"{N}/loop/until", "BAD_EXPRESSION"),
    (a_loop("nodes.n.status == 'x'"), f"{N}/loop/until", "WRONG_VARIABLE"),
    (a_loop("iteration + 1"), f"{N}/loop/until", "NOT_BOOLEAN"),
    (a_loop(body={"type": "loop", "loop": {}}), f"{N}/loop/body/loop/body", "MISSING_FIELD"),
    ({**NOOP, "inputs": {"x": "${iteration}"}}, f"{N}/inputs/x", "WRONG_VARIABLE"),
]


@pytest.mark.parametrize(("node", "pointer", "code"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_a_problem_is_told_at_its_place(node: dict[str, Any], pointer: str, code: str) -> None:
    """With its code and its place in the outermost document."""
    report = validate(plan_of(node), node_types=[])
    assert (pointer, code) in [(one.pointer, one.code) for one in report.errors], report.problems
    assert not report.ok


def test_all_problems_of_all_depths_are_told_at_once() -> None:
    """A problem outside hides none inside."""
    deep = a_map(body={"nodes": [{**NOOP, "typo": 1}]})
    report = validate(plan_of({"nodeId": "x", "type": "nope"}, a_plan({"nodes": [deep]}), version=1.0), node_types=[])
    assert {one.pointer for one in report.errors} == {
        "/version",
        "/nodes/0/type",
        "/nodes/1/plan/nodes/0/map/body/nodes/0/typo",
    }


def test_a_message_that_names_another_place_names_it_in_the_outermost_document() -> None:
    """Two nodes of a sub-plan with one id."""
    (problem,) = validate(plan_of(a_plan({"nodes": [NOOP, NOOP]}))).errors
    assert "/nodes/0/plan/nodes/0;" in problem.message


def test_depth_is_bounded() -> None:
    """The plan that is one too deep is refused where it stands."""
    body: dict[str, Any] = BODY
    for _ in range(MAX_DEPTH - 2):
        body = {"nodes": [a_plan(body)]}
    assert validate(plan_of(a_plan(body))).ok
    (problem,) = validate(plan_of(a_plan({"nodes": [a_plan(body)]}))).errors
    assert (problem.code, problem.pointer) == ("NESTED_TOO_DEEP", "/nodes/0" + "/plan/nodes/0" * 7 + "/plan")


def test_nodes_of_all_plans_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is one for the whole document."""
    monkeypatch.setattr("dalang.validation.MAX_NODES", 100)
    many = {"nodes": [{"nodeId": f"n{at}", "type": "noop"} for at in range(51)]}
    problems = validate(plan_of(a_plan(many), a_plan(many) | {"nodeId": "m"})).errors
    assert [(one.code, one.pointer) for one in problems] == [("TOO_MANY_NODES", "/nodes/1/plan/nodes")]


def test_bodies_take_one_form() -> None:
    """However they were written, they are the same plan with the same digest."""
    written = a_plan({"nodes": [{**NOOP, "priority": "high", "requirements": {"estimatedDurationMs": 60000}}]})
    full = a_plan(
        {
            "name": "n",
            "version": "1.0.0",
            "nodes": [{**NOOP, "priority": 1, "requirements": {"estimatedDuration": "1m"}}],
        }
    )
    assert validate(plan_of(written)).require().digest() == validate(plan_of(full)).require().digest()
    again = validate(plan_of(written)).require()
    assert validate(again).require().digest() == again.digest()


def test_the_plans_within_a_plan() -> None:
    """A map over a plan runs a plan of one node, which runs that plan; what is only named is not there yet."""
    plan = validate(plan_of(a_map(body=BODY), a_loop(body={"name": "stored"}) | {"nodeId": "l"})).require()
    around, inner = embedded_plans(plan)
    assert ([node.type for node in around.nodes], inner.name) == (["plan"], "n")
    assert names_stored_plans(plan)
    assert not names_stored_plans(around)


def test_one_node_of_a_program_stands_for_every_element() -> None:
    """The program of a map's run has as many nodes as there are elements, however small its document is."""
    plan = validate(plan_of(a_map(body={"type": "noop", "inputs": {"x": "${inputs.item}"}}))).require()
    body = compile_plan(plan)["nodes"][0]["container"]["body"]
    program = Program({**body, "repeat": 10_000})
    assert (program.ids[0], program.ids[-1], program.first_finally) == ("0", "9999", 10_000)
    assert program.inputs_template(0) is program.inputs_template(9_999)
    for count in (-1, MAX_ELEMENTS + 1, "3", 2.5):
        with pytest.raises(ValueError, match="repeated"):
            Program({**body, "repeat": count})


def test_an_unvalidated_plan_compiles_to_the_same_program() -> None:
    """What tests and importers make without validation is no other program."""
    document = plan_of(a_plan({"nodes": [NOOP]}), a_map(body={"type": "noop"}) | {"nodeId": "m"})
    assert compile_plan(Plan.model_validate(document)) == compile_plan(validate(document).require())


@pytest.mark.parametrize(
    ("tolerance", "elements", "may_fail"),
    [(0, 5, 0), (3, 2, 3), ("10%", 200, 20), ("10%", 19, 1), ("0.5%", 1000, 5), ("100%", 7, 7), ("33.333%", 3, 0)],
)
def test_tolerated_failures(tolerance: int | str, elements: int, may_fail: int) -> None:
    """A share is rounded down."""
    assert tolerated(tolerance, elements) == may_fail


def test_the_id_of_a_run_below_a_node() -> None:
    """It follows from where it is, and any text as the run's id gives one."""
    one = child_run_id("6d8a1d1c-2f5c-5c0e-9a53-0f1b6f3f0c11", "n", 0, 0)
    assert one == child_run_id("6d8a1d1c-2f5c-5c0e-9a53-0f1b6f3f0c11", "n", 0, 0)
    others = [child_run_id("6d8a1d1c-2f5c-5c0e-9a53-0f1b6f3f0c11", *rest) for rest in (("m", 0, 0), ("n", 1, 0))]
    assert len({one, *others, child_run_id("no uuid", "n", 0, 0)}) == 4
