"""Human tasks in the state machine: who may decide, what follows, what time does, and what is refused."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from dalang.canonical import digest
from dalang.events import (
    AlarmRang,
    Begin,
    CancelRequested,
    Event,
    NodeFailed,
    NodeSucceeded,
    PauseRequested,
    ResumeRequested,
    RetryRequested,
    SkipRequested,
    Start,
    TaskClaimed,
    TaskDecided,
    TaskDelegated,
    TaskReleased,
    TimedOut,
)
from dalang.human_task import OpenTask, task_id
from dalang.run import Run
from dalang.statuses import ImpossibleMove, UnacceptableContent
from tests.core.driven import edge, node, program

HOUR = 3_600_000
ABOUT = {"id": "7b0c7f04-3a39-4c87-a3f2-3b1c3f3a0a11", "createdBy": "sue"}


def human(node_id: str = "h", *, inputs: dict[str, Any] | None = None, **task: Any) -> dict[str, Any]:
    return {"nodeId": node_id, "type": "human", "inputs": inputs or {}, "task": task}


class Asked:
    """A run that has begun, at a time that the test moves; ``inputs`` are those of every node that was started."""

    def __init__(self, nodes: list[dict[str, Any]], edges: list[dict[str, Any]] | None = None, **more: Any) -> None:
        self.engine = more.pop("engine", 2)
        self.run = Run(program(nodes, edges, **more), {}, ABOUT)
        self.run.engine = self.engine
        self.at = 0
        self.inputs: dict[str, Any] = {}
        self.facts: list[Any] = []
        self.do(Begin())

    def do(self, *events: Event) -> Asked:
        for event in events:
            self.run.apply(event, self.at)
            self._due()
        return self

    def _due(self) -> None:
        for step in self.run.due(self.at):
            if isinstance(step, Start):
                self.inputs[step.node_id] = step.inputs
        self.facts += self.run.facts
        self.run.facts = []
        snapshot = json.loads(json.dumps(self.run.snapshot()))
        self.run = Run.restore(self.run.program, {}, snapshot)
        self.run.engine = self.engine

    def later(self, ms: int) -> Asked:
        """Let time pass, ringing each alarm when it is due."""
        end = self.at + ms
        while (alarm := self.run.next_alarm) is not None and alarm <= end:
            self.at = alarm
            self.do(AlarmRang())
        self.at = end
        return self

    def task(self, node_id: str = "h") -> OpenTask:
        (found,) = [task for task in self.run.tasks.values() if task.node == node_id]
        return found

    def decide(self, action: str, operator: str = "ann", node_id: str = "h", **more: Any) -> Asked:
        return self.do(TaskDecided(self.task(node_id).id, action, operator, **more))

    def refused(self, action: str, operator: str = "ann", node_id: str = "h", **more: Any) -> str:
        return self.refusal(TaskDecided(self.task(node_id).id, action, operator, **more))

    def refusal(self, event: Event) -> str:
        before = json.dumps(self.run.snapshot())
        with pytest.raises(ImpossibleMove) as refusal:
            self.run.apply(event, self.at)
        assert json.dumps(self.run.snapshot()) == before
        assert str(self.run.refusal(event, self.at)) == str(refusal.value)
        return str(refusal.value)

    def status(self, node_id: str = "h") -> str:
        return str(self.run.statuses[self.run.program.index[node_id]])

    def types(self, node_id: str | None = None) -> list[str]:
        return [fact["type"] for fact in self.facts if fact.get("nodeId") == node_id]

    def fact(self, kind: str) -> Any:
        (found,) = [fact for fact in self.facts if fact["type"] == kind]
        return found

    @property
    def end(self) -> str:
        return str(self.run.status)


def review(**task: Any) -> Asked:
    """review(human) -> deploy."""
    return Asked([human(inputs={"what": "1.2"}, **task), node("deploy")], [edge("h", "deploy")])


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


# -- the run -------------------------------------------------------------------------------------------------------


def test_parallel_tasks_let_the_others_go_on() -> None:
    """The run awaits people only when nothing else moves; a decision starts nothing again."""
    asked = Asked([human("h1"), human("h2"), node("a"), node("b")], [edge("a", "b"), edge("h1", "b")])
    assert asked.end == "RUNNING"
    asked.do(NodeSucceeded("a", {}))
    assert asked.end == "AWAITING_HITL"
    asked.decide("approve", node_id="h1")
    assert asked.end == "RUNNING"
    assert asked.types("a") == ["NODE_STARTED", "NODE_COMPLETED"]
    asked.do(NodeSucceeded("b", {}))
    assert asked.end == "AWAITING_HITL"
    asked.decide("approve", node_id="h2")
    assert asked.end == "COMPLETED"


def test_people_hold_no_slot() -> None:
    """Not even where the plan is sequential."""
    asked = Asked([human("h1"), human("h2"), node("a"), node("b")], maxInFlight=1)
    assert (len(asked.run.tasks), list(asked.inputs)) == (2, ["a"])


def test_pause_and_resume_while_people_are_asked() -> None:
    """Tasks may be decided while the run is paused; resume never decides one."""
    asked = review().do(PauseRequested())
    assert asked.end == "PAUSED"
    asked.do(ResumeRequested())
    assert asked.end == "AWAITING_HITL"
    assert "is AWAITING_HITL" in asked.refusal(ResumeRequested())
    asked.do(PauseRequested()).decide("approve")
    assert (asked.end, asked.status("deploy")) == ("PAUSED", "PENDING")
    asked.do(ResumeRequested())
    assert "deploy" in asked.inputs


@pytest.mark.parametrize("end", [CancelRequested("op", "enough"), TimedOut()])
def test_the_end_cancels_open_tasks(end: Event) -> None:
    """A cancel and the run's timeout close tasks before the end, and finally nodes run."""
    asked = Asked([human("h1"), human("h2", due="1h")], **{"finally": [node("f")]})
    asked.do(end)
    kinds = [fact["type"] for fact in asked.facts]
    assert kinds.count("HITL_TASK_CANCELLED") == 2
    assert asked.run.tasks == {}
    assert asked.run.next_alarm is None
    asked.do(NodeSucceeded("f", {}))
    assert asked.end == "CANCELLED"
    assert [fact["type"] for fact in asked.facts][-1] == "PLAN_CANCELLED"


def test_a_failure_elsewhere_cancels_open_tasks() -> None:
    """Under failFast nobody is asked about a run that has failed."""
    asked = Asked([human(), node("a")]).do(NodeFailed("a", {"type": "TOOL_ERROR"}))
    assert (asked.status(), asked.end) == ("CANCELLED", "FAILED")
    assert asked.types("h")[-2:] == ["HITL_TASK_CANCELLED", "NODE_CANCELLED"]


def test_people_in_finally_nodes() -> None:
    """A human node among them is waited for, and knows who had a hand in the rest."""
    asked = Asked([human()], **{"finally": [human("f", fourEyes=True)]}).decide("approve")
    assert (asked.end, asked.task("f").excluded) == ("AWAITING_HITL", ["sue", "ann"])
    asked.decide("approve", "bob", "f")
    assert asked.end == "COMPLETED"


# -- failures ------------------------------------------------------------------------------------------------------

FAILED = {"type": "TOOL_ERROR", "message": "out of paper", "attempt": 3}


def escalating(**more: Any) -> Asked:
    """a -> b, c beside; ``a`` has failed."""
    plan = {"failurePolicy": "escalate", **more}
    return Asked([node("a", inputs={"x": 1}), node("b"), node("c")], [edge("a", "b")], **plan).do(
        NodeFailed("a", FAILED)
    )


def test_escalate_asks_and_goes_on() -> None:
    """The task shows inputs and error; the run is not held, and awaits people when the rest has ended."""
    asked = escalating()
    created = asked.fact("HITL_TASK_CREATED")
    assert created["data"]["actions"] == ["retry", "skip", "abort"]
    assert "status" not in created["data"]
    assert created["body"] == {
        "title": "a failed",
        "description": "out of paper",
        "context": {"x": 1},
        "error": FAILED,
        "excluded": [],
    }
    assert asked.end == "RUNNING"
    asked.do(NodeSucceeded("c", {}))
    assert asked.end == "AWAITING_HITL"


def test_deciding_to_retry() -> None:
    """With inputs it is other work; the run completes, and nobody is asked any more."""
    asked = escalating().decide("retry", node_id="a", inputs={"x": 2}, notes="typo")
    assert asked.inputs["a"] == {"x": 2}
    assert asked.types("a")[-3:] == ["HITL_TASK_COMPLETED", "NODE_RETRY_REQUESTED", "NODE_STARTED"]
    asked.do(NodeSucceeded("a", {}), NodeSucceeded("b", {}), NodeSucceeded("c", {}))
    assert asked.end == "COMPLETED"


def test_deciding_to_skip() -> None:
    """With outputs the edges light; what the ports require has to be there."""
    ports = {"outputs": [{"name": "y", "required": True}]}
    asked = Asked([node("a", descriptor=ports), node("b")], [edge("a", "b")], failurePolicy="escalate").do(
        NodeFailed("a", FAILED)
    )
    assert "the required output y is missing" in asked.refused("skip", node_id="a", outputs={"x": 1})
    assert "skip takes no inputs" in asked.refused("skip", node_id="a", inputs={})
    asked.decide("skip", node_id="a", outputs={"y": 1})
    assert asked.inputs["b"] == {"y": 1}


def test_deciding_to_abort() -> None:
    """It is what failFast would have done, with the error that was asked about."""
    asked = escalating().decide("abort", node_id="a")
    assert [asked.status(name) for name in "ab"] == ["FAILED", "SKIPPED"]
    assert asked.run.error == FAILED
    assert str(asked.run.ending) == "FAILED"


@pytest.mark.parametrize("event", [RetryRequested("a", None, "ann"), SkipRequested("a", None, "ann")])
def test_operators_decide_such_failures_as_well(event: Event) -> None:
    """retry_node and skip_node close the task with their action."""
    asked = escalating().do(event)
    data = asked.fact("HITL_TASK_COMPLETED")["data"]
    assert (data["action"], data["completedBy"]) == ("retry" if isinstance(event, RetryRequested) else "skip", "ann")
    assert asked.run.tasks == {}


@pytest.mark.parametrize("action", ["HUMAN_REVIEW", "ESCALATE"])
@pytest.mark.parametrize("policy", ["failFast", "continue", "pause", "escalate"])
def test_a_handler_that_wants_a_person_asks_one(action: str, policy: str) -> None:
    """Whatever the policy, and without holding the run."""
    asked = Asked([node("a"), node("b")], failurePolicy=policy)
    asked.do(NodeFailed("a", {**FAILED, "suggestedAction": action}))
    assert (asked.end, len(asked.run.tasks)) == ("RUNNING", 1)


def test_runs_of_the_first_engine_version_are_held_instead() -> None:
    """What a history was made with is what it is replayed with."""
    asked = Asked([node("a"), node("b")], engine=1)
    asked.do(NodeFailed("a", {**FAILED, "suggestedAction": "ESCALATE"}))
    assert (asked.end, asked.run.tasks) == ("PAUSED", {})


def test_pause_and_a_task_at_once() -> None:
    """A failure that holds the run is decided by an operator, one that is asked about by its task; each by itself."""
    asked = Asked([node("a"), node("b"), node("c")], failurePolicy="pause")
    asked.do(NodeFailed("a", {**FAILED, "suggestedAction": "ESCALATE"}), NodeFailed("b", FAILED))
    assert asked.end == "PAUSED"
    assert "retries or skips b" in asked.refusal(ResumeRequested())
    asked.do(SkipRequested("b"))
    assert asked.end == "RUNNING"
    asked.do(PauseRequested(), ResumeRequested())
    asked.decide("skip", node_id="a").do(NodeSucceeded("c", {}))
    assert asked.end == "COMPLETED"


def test_abort_suggested_ends_the_run_under_escalate() -> None:
    """ABORT wants nobody asked."""
    asked = Asked([node("a"), node("b")], failurePolicy="escalate")
    asked.do(NodeFailed("a", {**FAILED, "suggestedAction": "ABORT"}))
    assert str(asked.run.ending) == "FAILED"


def test_cancel_while_failures_are_asked_about() -> None:
    """The task is cancelled and the run keeps the error it was about."""
    asked = escalating().do(CancelRequested("op", "enough"))
    assert asked.types("a")[-1] == "HITL_TASK_CANCELLED"
    assert asked.run.error == FAILED


def test_a_rejected_or_expired_node_is_asked_about_again() -> None:
    """Under escalate its failure raises a task; retrying it asks the first question again, with a new task."""
    asked = Asked(
        [node("a"), human(title="${nodes.a.outputs.t}", due="1h")], [edge("a", "h")], failurePolicy="escalate"
    )
    asked.do(NodeSucceeded("a", {"t": "Look"}))
    first = asked.task().id
    asked.decide("reject")
    assert asked.task().kind == "failure"
    asked.decide("retry")
    task = asked.task()
    assert (task.kind, task.title, task.id) == ("approval", "Look", task_id(ABOUT["id"], "h", 0, 2))
    assert task.id != first
    asked.later(HOUR).decide("retry").decide("approve")
    assert asked.end == "COMPLETED"


def test_skip_and_retry_of_a_node_that_waits_for_a_person_are_refused() -> None:
    """It is in flight; only its task is decided."""
    asked = review()
    assert "is AWAITING_HITL" in asked.refusal(SkipRequested("h"))
    assert "is AWAITING_HITL" in asked.refusal(RetryRequested("h"))
    assert "is AWAITING_HITL" in asked.refusal(NodeSucceeded("h", {}))


def test_what_cannot_be_recorded_is_not_asked() -> None:
    """NaN from a worker of another language would stop the run from ever being stored."""
    asked = Asked([node("a"), human()], [edge("a", "h")]).do(NodeSucceeded("a", {"x": float("nan")}))
    assert asked.fact("NODE_FAILED")["body"]["error"]["details"] == {"code": "NOT_JSON"}
    asked = Asked([node("a")], failurePolicy="escalate").do(NodeFailed("a", {**FAILED, "details": {"x": float("nan")}}))
    assert len(asked.run.tasks) == 1


def test_skip_with_outputs_fills_the_ports() -> None:
    """Skipping with outputs takes ports' defaults, and is refused for what is missing; not so in older runs."""
    ports = {"outputs": [{"name": "x", "required": True}, {"name": "y", "defaultValue": 5}]}
    nodes = [node("b"), node("a", descriptor=ports), node("c")]
    edges = [edge("b", "a"), edge("a", "c")]
    asked = Asked(nodes, edges)
    assert "the required output x is missing" in asked.refusal(SkipRequested("a", {}))
    asked.do(SkipRequested("a", {"x": 1}))
    assert asked.inputs["c"] == {"x": 1, "y": 5}
    old = Asked(nodes, edges, engine=1).do(SkipRequested("a", {}))
    assert old.inputs["c"] == {}


def test_10000_open_tasks_are_cancelled_within_a_workflow_task() -> None:
    """Raised, restored and cancelled in linear time, due dates and reminders included."""
    nodes = [human(f"h{number}", due="2h", reminder="1h") for number in range(10_000)]
    run = Run(program(nodes), {}, ABOUT)
    run.apply(Begin(), 0)
    run.due(0)
    assert (len(run.tasks), str(run.status)) == (10_000, "AWAITING_HITL")
    run = Run.restore(run.program, {}, run.snapshot())
    began = time.perf_counter()
    run.apply(CancelRequested("op", "enough"), 1)
    assert time.perf_counter() - began < 5  # it took 36 s with a scan of all alarms for each
    assert str(run.status) == "CANCELLED"
