"""Human tasks in the state machine: who may decide, what follows, what time does, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from dalang.canonical import digest
from dalang.events import (
    NodeFailed,
    NodeSucceeded,
    RetryRequested,
    SkipRequested,
    TaskClaimed,
    TaskDecided,
    TaskDelegated,
    TaskReleased,
)
from dalang.human_task import task_id
from dalang.statuses import UnacceptableContent
from tests.core.driven import edge, node
from tests.core.human_runs import ABOUT, HOUR, Asked, human, review

# -- decisions -----------------------------------------------------------------------------------------------------


def test_approval_lights_success() -> None:
    """The task shows the node's inputs; approval hands them on with the decision, and keeps who decided."""
    asked = review(title="Deploy?", description="**Look**")
    task = asked.task()
    created = asked.fact("HITL_TASK_CREATED")
    assert (asked.status(), asked.end) == ("AWAITING_HITL", "AWAITING_HITL")
    assert created["data"] == {
        "status": "AWAITING_HITL",
        "task": task_id(ABOUT["id"], "h", 0, 0),
        "taskStatus": "PENDING",
        "kind": "approval",
        "priority": 0,
        "quorum": 1,
        "fourEyes": False,
        "digest": task.digest,
        "actions": ["approve", "reject", "edit"],
    }
    assert created["body"] == {
        "title": "Deploy?",
        "description": "**Look**",
        "context": {"what": "1.2"},
        "excluded": [],
    }
    shown = {"kind": "approval", "title": "Deploy?", "description": "**Look**", "context": {"what": "1.2"}}
    assert task.digest == digest({**shown, "form": None, "error": None, "actions": ["approve", "reject", "edit"]})
    asked.decide("approve", notes="fine")
    outputs = {"what": "1.2", "decision": "approve", "decidedBy": "ann", "notes": "fine"}
    assert asked.inputs["deploy"] == outputs
    completed = asked.fact("HITL_TASK_COMPLETED")
    assert completed["data"] == {
        "task": task.id,
        "taskStatus": "COMPLETED",
        "action": "approve",
        "completedBy": "ann",
    }
    assert completed["body"] == {"decision": {"action": "approve", "notes": "fine"}}
    asked.do(NodeSucceeded("deploy", {}))
    assert asked.end == "COMPLETED"
    assert [kind for kind in asked.types() if "HITL" in kind or "RESUMED" in kind] == [
        "PLAN_AWAITING_HITL",
        "PLAN_RESUMED",
    ]


def test_the_title_is_the_nodes_name_by_default() -> None:
    """A human node without a title is called by its name, else by its id."""
    asked = Asked([{"nodeId": "h", "name": "Look at it", "type": "human"}, {"nodeId": "g", "type": "human"}])
    assert [task.title for task in asked.run.tasks.values()] == ["Look at it", "g"]


def test_edit_changes_the_proposed_outputs() -> None:
    """Edited outputs replace the inputs key by key, form values come over both."""
    asked = review(form={"properties": {"level": {"type": "integer", "default": 2}}, "required": ["level"]})
    asked.decide("edit", outputs={"what": "1.3", "more": 1, "level": 9})
    assert asked.inputs["deploy"] == {
        "what": "1.3",
        "more": 1,
        "level": 2,
        "decision": "edit",
        "decidedBy": "ann",
        "notes": None,
    }


def test_rejection_without_its_port_fails_the_node() -> None:
    """review(human) -> deploy and a rejection: deploy does not run, the failure is a POLICY_VIOLATION."""
    asked = review().decide("reject", notes="too risky")
    error = asked.fact("NODE_FAILED")["body"]["error"]
    assert (error["type"], error["retryable"], error["message"]) == ("POLICY_VIOLATION", False, "rejected by ann")
    assert error["details"] == {"decidedBy": "ann", "notes": "too risky"}
    assert (asked.status("deploy"), asked.end) == ("SKIPPED", "FAILED")


def test_rejection_lights_the_port_rejected_only() -> None:
    """With an edge from ``rejected`` the node succeeds with the decision reject; ``success`` and keys are dead."""
    asked = Asked(
        [human(inputs={"what": 1}), node("deploy"), node("tell"), node("key")],
        [
            edge("h", "deploy"),
            edge("h", "tell", sourcePort="rejected", targetPort="review"),
            edge("h", "key", sourcePort="what"),
        ],
    )
    asked.decide("reject")
    assert asked.inputs["tell"] == {"review": {"what": 1, "decision": "reject", "decidedBy": "ann", "notes": None}}
    assert [asked.status(name) for name in ("h", "deploy", "key")] == ["SUCCESS", "SKIPPED", "SKIPPED"]


def test_approval_never_lights_rejected() -> None:
    """Not even when an output has that name."""
    asked = Asked([human(inputs={"rejected": 1}), node("tell")], [edge("h", "tell", sourcePort="rejected")])
    asked.decide("approve")
    assert asked.status("tell") == "SKIPPED"


def test_a_rejection_can_be_handled_by_an_error_edge() -> None:
    """The failure of a rejected node goes the way of every failure."""
    asked = Asked([human(), node("handle")], [edge("h", "handle", sourcePort="error")]).decide("reject")
    assert (asked.status(), list(asked.inputs)) == ("ERROR", ["handle"])


FORM = {"properties": {"amount": {"type": "integer", "maximum": 10}}, "required": ["amount"]}


@pytest.mark.parametrize(
    ("action", "values", "words"),
    [
        ("approve", None, "values: `amount` is missing."),
        ("approve", {"amount": 11}, "values/amount: This number is at most 10."),
        ("edit", {"amount": "x"}, "values/amount: This is of type integer"),
        ("reject", {"amount": 11}, "at most 10"),
    ],
)
def test_a_form_that_is_not_filled_in_is_refused(action: str, values: Any, words: str) -> None:
    """Every action but a rejection has to satisfy the form; a rejection only as far as it fills it in."""
    asked = review(form=FORM)
    more = {"outputs": {}} if action == "edit" else {}
    assert words in asked.refused(action, values=values, **more)
    event = TaskDecided(asked.task().id, action, "ann", values=values, **more)
    assert isinstance(asked.run.refusal(event), UnacceptableContent)
    asked.decide("reject")


def test_a_hostile_form_costs_a_bounded_time() -> None:
    """References that double at each level are cut off, not worked through in a workflow task."""
    levels: dict[str, Any] = {f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(40)}
    asked = review(form={"properties": {"x": {"$ref": "#/$defs/a0"}}, "$defs": {**levels, "a40": {}}})
    assert "too many steps" in asked.refused("approve", values={"x": 1})


@pytest.mark.parametrize(
    ("action", "more", "words"),
    [
        ("approve", {"outputs": {}}, "approve takes no outputs"),
        ("edit", {}, "an edit gives outputs"),
        ("reject", {"inputs": {}}, "reject takes no inputs"),
        ("retry", {}, "the actions of this task are approve, reject, edit"),
        ("nonsense", {}, "the actions of this task are"),
        ("approve", {"digest": "old"}, "not what was shown"),
    ],
)
def test_decisions_that_do_not_fit(action: str, more: dict[str, Any], words: str) -> None:
    """Each is refused with a reason and changes nothing."""
    assert words in review().refused(action, **more)


def test_required_output_ports_hold_for_decisions() -> None:
    """What a port requires has to come from the person; its defaults are filled in."""
    ports = {"outputs": [{"name": "x", "required": True}, {"name": "y", "defaultValue": 5}]}
    asked = Asked([{**human(), "descriptor": ports}, node("d")], [edge("h", "d")])
    assert "the required output x is missing" in asked.refused("approve")
    asked.decide("edit", outputs={"x": 1})
    assert asked.inputs["d"].items() >= {"x": 1, "y": 5}.items()


def test_a_decided_task_is_decided() -> None:
    """A second decision is refused; one with the same decisionId is the first one again."""
    asked = review()
    task = asked.task()
    asked.decide("approve", digest=task.digest, decision_id="d1")
    facts = len(asked.facts)
    again = TaskDecided(task.id, "approve", "ann", decision_id="d1")
    asked.do(again)
    assert len(asked.facts) == facts
    assert asked.run.task_answer(again) == {"taskId": task.id, "taskStatus": "COMPLETED"}
    assert "is COMPLETED" in asked.refusal(TaskDecided(task.id, "approve", "ann"))
    assert "taken by another" in asked.refusal(TaskDecided(task.id, "reject", "ann", decision_id="d1"))
    assert "no open task" in asked.refusal(TaskDecided("nothing", "reject", "ann"))


# -- who may -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "operator", "groups", "words"),
    [
        ({"assignee": "bob"}, "bob", None, None),
        ({"assignee": "bob"}, "ann", None, "assigned to bob"),
        ({"assignee": "bob", "candidateGroup": "g"}, "ann", ["f", "g"], None),
        ({"assignee": "bob", "candidateGroup": "g"}, "ann", ["f"], "assigned to bob"),
        ({"candidateGroup": "g"}, "ann", ["g"], None),
        ({"candidateGroup": "g"}, "ann", None, None),
        ({"candidateGroup": "g"}, "ann", [], "reserved to members of g"),
        ({"candidates": ["ann", "bob"]}, "ann", [], None),
        ({"candidates": ["eve", "bob"]}, "ann", ["g"], "reserved to eve, bob"),
        ({"fourEyes": True}, "ann", None, None),
        ({"fourEyes": True}, "sue", None, "closed to sue, who started the run"),
        ({}, "sue", None, None),
    ],
)
def test_who_may_decide(task: dict[str, Any], operator: str, groups: list[str] | None, words: str | None) -> None:
    """Assignee, members of the group, candidates; with four eyes nobody who started the run."""
    asked = review(**task)
    if words is None:
        asked.decide("approve", operator, groups=groups)
        assert asked.end == "RUNNING"
    else:
        assert words in asked.refused("approve", operator, groups=groups)


def test_names_are_templates() -> None:
    """Assignee, group and texts are evaluated when the node starts; nothing means that nobody is named."""
    asked = Asked(
        [
            node("who"),
            human(
                assignee="${nodes.who.outputs.name}",
                candidateGroup="${nodes.who.outputs.?group.orValue(null)}",
                title="For ${nodes.who.outputs.name}",
            ),
        ],
        [edge("who", "h")],
    )
    asked.do(NodeSucceeded("who", {"name": "bob"}))
    task = asked.task()
    assert (task.assignee, task.group, task.title) == ("bob", None, "For bob")


@pytest.mark.parametrize(("name", "words"), [(5, "is no name"), ("x" * 201, "is no name")])
def test_a_name_that_is_none_fails_the_node(name: Any, words: str) -> None:
    """Nobody could ever decide such a task."""
    asked = Asked([node("who"), human(assignee="${nodes.who.outputs.name}")], [edge("who", "h")])
    asked.do(NodeSucceeded("who", {"name": name}))
    assert words in asked.fact("NODE_FAILED")["body"]["error"]["message"]


def test_texts_that_raise_fail_the_node() -> None:
    """As inputs that raise do: it fails without starting."""
    asked = Asked([node("who"), human(title="${nodes.who.outputs.name}")], [edge("who", "h")])
    asked.do(NodeSucceeded("who", {}))
    assert "task/title of node h could not be evaluated" in asked.fact("NODE_FAILED")["body"]["error"]["message"]


def test_four_eyes_look_upstream() -> None:
    """Who decided, gave outputs or changed inputs before cannot approve what came of it; others upstream can."""
    asked = Asked(
        [node("a"), human("first"), human("other"), human(fourEyes=True)],
        [edge("a", "first"), edge("first", "h")],
        failurePolicy="pause",
    )
    asked.do(NodeFailed("a", {"type": "TOOL_ERROR"}), RetryRequested("a", {"x": 1}, "rob"))
    asked.do(NodeSucceeded("a", {})).decide("approve", "ann", "first").decide("approve", "bob", "other")
    assert asked.task().excluded == ["sue", "rob", "ann"]
    for name in ("sue", "rob", "ann"):
        assert "four eyes" in asked.refused("approve", name) or "closed to" in asked.refused("approve", name)
    asked.decide("approve", "bob")


def test_four_eyes_count_substituted_outputs() -> None:
    """Who skips a node with outputs has made what is approved."""
    asked = Asked([node("a", join="all"), node("b"), human(fourEyes=True)], [edge("b", "a"), edge("a", "h")])
    asked.do(SkipRequested("a", {"x": 1}, "rob"), NodeSucceeded("b", {}))
    assert asked.task().excluded == ["sue", "rob"]


def test_an_assignee_who_may_not_decide_is_not_asked() -> None:
    """``assignee: ${run.createdBy}`` with four eyes would wait for ever."""
    asked = review(assignee="${run.createdBy}", fourEyes=True)
    assert asked.task().assignee is None


def test_candidates_whom_four_eyes_exclude() -> None:
    """When too few of the candidates are left the node fails at once."""
    asked = review(candidates=["sue", "ann"], quorum=2, fourEyes=True)
    assert "leave only 1" in asked.fact("NODE_FAILED")["body"]["error"]["message"]
    assert asked.end == "FAILED"


# -- several people ------------------------------------------------------------------------------------------------


def test_quorum_takes_different_people() -> None:
    """Two approvals of different people; values are put together in the order of the votes."""
    asked = review(quorum=2)
    assert asked.task().actions == ["approve", "reject"]
    asked.decide("approve", "ann", values={"a": 1, "b": 1})
    voted = asked.fact("HITL_TASK_VOTED")
    assert voted["data"].items() >= {"taskStatus": "PENDING", "operator": "ann", "approvals": 1}.items()
    assert voted["body"] == {"decision": {"action": "approve", "values": {"a": 1, "b": 1}}}
    assert "approved by ann already" in asked.refused("approve", "ann")
    assert "nobody claims it" in asked.refusal(TaskClaimed(asked.task().id, "bob"))
    asked.decide("approve", "bob", values={"b": 2})
    assert asked.inputs["deploy"].items() >= {"a": 1, "b": 2, "decidedBy": "bob"}.items()
    assert asked.fact("HITL_TASK_COMPLETED")["data"]["approvals"] == 2


def test_one_rejection_rejects() -> None:
    """Whatever the others said."""
    asked = review(quorum=3).decide("approve", "ann").decide("reject", "bob")
    assert asked.end == "FAILED"


def test_a_repeated_vote_is_told_what_it_was_told() -> None:
    """A decisionId is remembered for votes, too."""
    asked = review(quorum=2)
    task = asked.task().id
    vote = TaskDecided(task, "approve", "ann", decision_id="v")
    asked.do(vote, TaskDecided(task, "approve", "bob"), vote)
    assert asked.run.task_answer(vote) == {"taskId": task, "taskStatus": "PENDING"}


# -- claim, release, delegate --------------------------------------------------------------------------------------


def test_claim_and_release() -> None:
    """A claimed task is its assignee's, until he gives it back; claiming twice changes nothing."""
    asked = review()
    task = asked.task().id
    asked.do(TaskClaimed(task, "ann"), TaskClaimed(task, "ann"))
    assert asked.types("h")[-1] == "HITL_TASK_CLAIMED"
    assert "assigned to ann" in asked.refusal(TaskClaimed(task, "bob"))
    assert "assigned to ann" in asked.refused("approve", "bob")
    assert "claimed by ann" in asked.refusal(TaskReleased(task, "bob"))
    asked.do(TaskReleased(task, "ann"))
    assert "claimed by nobody" in asked.refusal(TaskReleased(task, "ann"))
    asked.do(TaskClaimed(task, "bob"), TaskReleased(task, "admin", override=True)).decide("approve", "eve")
    assert asked.end == "RUNNING"


def test_release_gives_a_task_back_to_whom_the_plan_asks() -> None:
    """A task that the plan gives to bob does not become anybody's by a claim and a release."""
    asked = review(assignee="bob")
    task = asked.task().id
    asked.do(TaskClaimed(task, "bob"), TaskReleased(task, "bob"))
    assert "assigned to bob" in asked.refused("approve", "ann")


def test_delegate() -> None:
    """To a person, to a group, or to both; by whoever may decide it, or with override."""
    asked = review(assignee="bob", fourEyes=True)
    task = asked.task().id
    assert "assigned to bob" in asked.refusal(TaskDelegated(task, "ann", to="eve"))
    assert "sue may not decide it" in asked.refusal(TaskDelegated(task, "bob", to="sue"))
    assert "is missing" in asked.refusal(TaskDelegated(task, "bob"))
    asked.do(TaskDelegated(task, "bob", to="ann"))
    assert "assigned to ann" in asked.refused("approve", "bob")
    asked.do(TaskDelegated(task, "admin", to_group="legal", override=True))
    told = [fact["data"] for fact in asked.facts if fact["type"] == "HITL_TASK_DELEGATED"][-1]
    assert told == {"task": task, "taskStatus": "PENDING", "group": "legal", "operator": "admin"}
    assert "reserved to members of legal" in asked.refused("approve", "ann", groups=["it"])
    asked.decide("approve", "ann", groups=["legal"])


def test_delegation_keeps_to_the_candidates() -> None:
    """Nobody else gets in by it."""
    asked = review(candidates=["ann", "bob"])
    task = asked.task().id
    assert "eve may not decide it" in asked.refusal(TaskDelegated(task, "ann", to="eve"))
    assert "reserved to ann, bob" in asked.refusal(TaskDelegated(task, "ann", to_group="g"))
    asked.do(TaskDelegated(task, "ann", to="bob"))
    assert "assigned to bob" in asked.refused("approve", "ann")


# -- time ----------------------------------------------------------------------------------------------------------


def test_reminder_escalation_expiry() -> None:
    """Each comes at its time, once; then the node has failed with TIMEOUT."""
    asked = review(assignee="bob", due="4h", reminder="1h", escalation={"after": "2h", "to": "boss"})
    asked.later(2 * HOUR)
    escalated = asked.fact("HITL_TASK_ESCALATED")
    assert escalated["at"] == 2 * HOUR
    assert escalated["data"] == {"task": asked.task().id, "taskStatus": "PENDING", "group": "boss"}
    asked.later(HOUR)
    assert asked.fact("HITL_TASK_REMINDED")["data"]["dueAt"] == 4 * HOUR
    asked.later(HOUR)
    assert asked.fact("HITL_TASK_EXPIRED")["data"].items() >= {"taskStatus": "EXPIRED", "action": "fail"}.items()
    assert asked.fact("NODE_FAILED")["body"]["error"]["type"] == "TIMEOUT"
    assert asked.end == "FAILED"


@pytest.mark.parametrize(
    ("follows", "status", "deploy"), [("fail", "FAILED", "SKIPPED"), ("skip", "SKIPPED", "SKIPPED")]
)
def test_what_follows_expiry(follows: str, status: str, deploy: str) -> None:
    """What the plan declares."""
    asked = review(due="1h", onExpiry=follows).later(HOUR)
    assert (asked.status(), asked.status("deploy")) == (status, deploy)


def test_expiry_as_rejection() -> None:
    """It lights ``rejected``; nobody decided."""
    asked = Asked([human(due="1h", onExpiry="reject"), node("tell")], [edge("h", "tell", sourcePort="rejected")])
    asked.later(HOUR)
    assert asked.inputs["tell"] == {"decision": "reject", "decidedBy": None, "notes": None}


def test_a_decision_at_the_due_time_is_too_late() -> None:
    """Decisions are applied before a timer of the same task: the time decides, not the order (TRAPS 17)."""
    asked = review(due="1h")
    asked.at = HOUR
    assert "is EXPIRED" in asked.refused("approve")
    assert "is EXPIRED" in asked.refusal(TaskClaimed(asked.task().id, "ann"))
    asked.at = HOUR - 1
    asked.decide("approve", decision_id="d")
    again = TaskDecided(next(iter(asked.run._ended_tasks)), "approve", "ann", decision_id="d")
    asked.at = 2 * HOUR
    asked.do(again)
    assert asked.run.next_alarm is None
