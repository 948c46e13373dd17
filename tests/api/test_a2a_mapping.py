"""What A2A says, in our words, and ours in its: pure functions, without a stack."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from a2a.types import Message, TaskArtifactUpdateEvent, TaskState
from a2a.utils.errors import ContentTypeNotSupportedError, InvalidParamsError
from google.protobuf.json_format import MessageToDict, ParseDict

from dalang.api.a2a.card import card, published
from dalang.api.a2a.inputs import chosen, content, decision, run_inputs
from dalang.api.a2a.tasks import STATES, artifacts_of, question, status_of, statuses_of
from dalang.api.a2a.updates import updates_of
from dalang.event_types import EventType
from dalang.human_task import form_problem, with_form_defaults
from dalang.statuses import RUN_ENDS, RunStatus
from dalang.store.a2a import Skill
from dalang.store.events import Event
from dalang.store.human_tasks import Task
from dalang.validation.input_schema import schema_problems

NOW = datetime(2026, 11, 22, 9, 30, tzinfo=UTC)
RUN = UUID(int=1)
TEXT = {"type": "string"}


def said(*parts: Any, **more: Any) -> Message:
    """A message with these parts; a text is a text part."""
    made = [{"text": one} if isinstance(one, str) else one for one in parts]
    return ParseDict({"messageId": "m", "role": "ROLE_USER", "parts": made, **more}, Message())


def skill(name: str = "plan", inputs: Any = None, **a2a: Any) -> Skill:
    return Skill(uuid4(), "1.0.0", name, None, inputs, {"a2a": a2a} if a2a else {})


def schema(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def data(value: Any) -> dict[str, Any]:
    return {"data": value, "mediaType": "application/json"}


def human(**more: Any) -> Task:
    values: dict[str, Any] = {name: None for name in Task.__dataclass_fields__}
    values |= {"task_id": uuid4(), "node_id": "ask", "kind": "approval", "title": "May I?", "digest": "d" * 64}
    return Task(**{**values, "actions": ["approve", "reject", "edit"], "created_at": NOW, **more})


@pytest.mark.parametrize(
    ("inputs", "parts", "expected"),
    [
        (None, ["hello"], {"text": "hello"}),
        (None, ["hello", "world"], {"text": "hello\nworld"}),
        (schema(text=TEXT, other=TEXT), ["hello"], {"text": "hello"}),
        (schema(topic=TEXT, count={"type": "integer"}), ["hello"], {"topic": "hello"}),
        (schema(topic=TEXT, style=TEXT), ["hello", {"data": {"style": "dry"}}], {"style": "dry", "topic": "hello"}),
        (
            schema(a={}, b={}),
            [{"data": {"a": 1, "b": 1.5}}, {"data": {"b": [2, {"c": 3}]}}],
            {"a": 1, "b": [2, {"c": 3}]},
        ),
        (schema(text=TEXT), ["hello", {"data": {"text": "given"}}], {"text": "given"}),
        (schema(n={}), [{"text": '{"n": 7}', "mediaType": "application/json"}], {"n": 7}),
        (schema(n={}), [{"raw": "eyJuIjogN30=", "mediaType": "application/json"}], {"n": 7}),
        (schema(text=TEXT), [{"raw": "aMOp", "mediaType": "text/markdown; charset=utf-8"}], {"text": "hé"}),
    ],
)
def test_parts_become_inputs(inputs: Any, parts: list[Any], expected: dict[str, Any]) -> None:
    """Data is put together, text goes where text is asked for; whole numbers are integers."""
    found = run_inputs(skill(inputs=inputs), said(*parts))
    assert found == expected
    assert {key: type(one) for key, one in found.items()} == {key: type(one) for key, one in expected.items()}


def test_the_whole_message_for_who_asks_for_it() -> None:
    """An input `message` that is an object; text needs no place of its own then."""
    asks = skill(inputs=schema(message={"type": "object"}, a=TEXT, b=TEXT))
    found = run_inputs(asks, said("hello", contextId="c"))
    expected = {"messageId": "m", "contextId": "c", "role": "ROLE_USER", "parts": [{"text": "hello"}]}
    assert found == {"message": expected}


@pytest.mark.parametrize("inputs", [schema(a=TEXT, b=TEXT), schema(n={"type": "integer"}), schema()])
def test_text_that_nobody_asks_for_is_refused(inputs: Any) -> None:
    with pytest.raises(InvalidParamsError, match="data part"):
        run_inputs(skill(inputs=inputs), said("hello"))


@pytest.mark.parametrize(
    "part",
    [
        {"url": "https://example.com/a.txt", "mediaType": "text/plain"},
        {"raw": "AAAA", "mediaType": "image/png"},
        {"raw": "AAAA"},
        {"text": "x", "mediaType": "image/svg+xml"},
        {"data": {}, "mediaType": "text/plain"},
    ],
)
def test_media_types_that_are_not_read(part: dict[str, Any]) -> None:
    with pytest.raises(ContentTypeNotSupportedError):
        content(said(part))


@pytest.mark.parametrize(
    "part",
    [{}, {"data": 7}, {"raw": "/w==", "mediaType": "text/plain"}, {"text": "[1]", "mediaType": "application/json"}],
)
def test_parts_that_hold_something_else(part: dict[str, Any]) -> None:
    with pytest.raises(InvalidParamsError):
        content(said(part))


def test_the_skill_is_the_one_that_is_named_or_the_only_one_that_can_be_meant() -> None:
    """Named, of the context, the default, the only one; else what there is is said."""
    one, two, three = skill("one"), skill("two", default=True), skill("three")
    all_of_them = [one, two, three]
    assert chosen(all_of_them, "three", None) is three
    assert chosen(all_of_them, str(one.plan_id), str(three.plan_id)) is one
    assert chosen(all_of_them, None, str(three.plan_id)) is three
    assert chosen(all_of_them, None, None) is two
    assert chosen([one], None, str(uuid4())) is one
    for skills, name in (([one, three], None), ([], None), (all_of_them, "four")):
        with pytest.raises(InvalidParamsError, match=r"skill|published"):
            chosen(skills, name, None)
    assert published([skill("no", skill=False), one]) == [one]


@pytest.mark.parametrize(
    ("form", "parts", "expected"),
    [
        (None, [" Approve "], {"action": "approve"}),
        (None, ["reject", {"data": {"notes": "no"}}], {"action": "reject", "notes": "no"}),
        (
            None,
            [{"data": {"action": "edit", "outputs": {"n": 1}}}, "since"],
            {"action": "edit", "outputs": {"n": 1}, "notes": "since"},
        ),
        (schema(text=TEXT), ["blue"], {"action": "approve", "values": {"text": "blue"}}),
        (schema(text=TEXT), ["reject"], {"action": "reject"}),
        (
            schema(text=TEXT, n={}),
            [{"data": {"text": "blue", "n": 1}}],
            {"action": "approve", "values": {"text": "blue", "n": 1}},
        ),
    ],
)
def test_messages_decide(form: Any, parts: list[Any], expected: dict[str, Any]) -> None:
    """By a word, by data, or by the answer to a form that asks for text; always with what was shown."""
    task = human(form=form)
    found, given = decision(said(*parts), [task])
    assert (found, given) == (task, {"digest": "d" * 64, **expected})


def test_what_a_handler_asks_is_answered_by_what_is_sent() -> None:
    """Its form is the message's; `reject` declines."""
    task = human(kind="input", actions=["answer", "reject"], form=schema(seat=TEXT))
    assert "form" in question(task)[1]["data"]
    assert decision(said({"data": {"seat": "aisle"}}), [task])[1]["action"] == "answer"
    assert decision(said({"data": {"seat": "aisle"}}), [task])[1]["values"] == {"seat": "aisle"}
    assert decision(said("reject"), [task])[1]["action"] == "reject"


@pytest.mark.parametrize(
    ("form", "values"),
    [
        (None, {"type": "object"}),
        (schema(channel=TEXT), schema(channel=TEXT)),
        ({"$id": "urn:x", **schema(a={"$ref": "#/$defs/b"}), "$defs": {"b": TEXT}}, schema(a={"$ref": "#/$defs/b"})),
        (schema(a={"$ref": "#/properties/b"}, b=TEXT), {"type": "object"}),
    ],
)
def test_a_decision_is_asked_for_with_the_form_of_a_decision(form: Any, values: Any) -> None:
    """Whoever fills it in need not know what a decision is; what was shown is what is decided."""
    task = human(form=form)
    asked = question(task)[1]["data"]["form"]
    assert not schema_problems(asked)
    assert (asked["properties"]["values"], asked["required"]) == (values, ["action"])
    filled = with_form_defaults(asked, {"action": "approve", "values": {"channel": "blog"}})
    assert form_problem(asked, filled, "approve") is None
    given = {"action": "approve", "values": {"channel": "blog"}, "digest": task.digest}
    assert decision(said({"data": filled}), [human(), task]) == (task, given)
    assert form_problem(asked, {**filled, "action": "retry"}, "approve")


@pytest.mark.parametrize("text", ["yes", "approved!", "no, do not approve", ""])
def test_a_doubt_is_never_an_approval(text: str) -> None:
    for parts in ([text], [{"data": {"channel": "blog"}}]):
        with pytest.raises(InvalidParamsError, match="approve, reject, edit"):
            decision(said(*parts), [human(form=schema(channel=TEXT))])


def test_of_several_tasks_one_is_named() -> None:
    one, two = human(), human()
    with pytest.raises(InvalidParamsError, match=str(two.task_id)):
        decision(said("approve"), [one, two])
    found, given = decision(said("approve", {"data": {"humanTask": str(two.task_id)}}), [one, two])
    assert (found, given["action"]) == (two, "approve")


def test_every_status_of_a_run_is_a_state() -> None:
    """The ends are ends, and who narrows a list to a state gets all statuses that can be in it."""
    assert set(STATES) == set(RunStatus)
    ends = {TaskState.TASK_STATE_COMPLETED, TaskState.TASK_STATE_FAILED, TaskState.TASK_STATE_CANCELED}
    assert {STATES[one] for one in RUN_ENDS} == ends
    for state in {*STATES.values(), TaskState.TASK_STATE_AUTH_REQUIRED}:
        assert statuses_of(state)
    assert statuses_of(TaskState.TASK_STATE_REJECTED) == []


@pytest.mark.parametrize(
    ("nodes", "state"), [({"ask"}, "AUTH_REQUIRED"), ({"other"}, "INPUT_REQUIRED"), (set(), "INPUT_REQUIRED")]
)
def test_what_is_asked_says_which_state(nodes: set[str], state: str) -> None:
    status = status_of(RUN, "c", RunStatus.AWAITING_HITL, NOW, questions=[human()], auth_nodes=frozenset(nodes))
    assert status["state"] == f"TASK_STATE_{state}"
    assert status["message"]["parts"][0] == {"text": "May I?"}
    shown = status["message"]["parts"][1]["data"]
    assert shown.keys() == {"humanTask", "kind", "title", "actions", "form", "digest"}
    assert shown["actions"] == ["approve", "reject", "edit"]
    assert status["timestamp"] == "2026-11-22T09:30:00.000Z"


@pytest.mark.parametrize(
    ("outputs", "modes", "parts"),
    [
        (None, (), []),
        ({}, (), []),
        ({"text": "done"}, (), [[{"text": "done", "mediaType": "text/plain"}]]),
        ({"n": 1}, (), [[data({"n": 1})]]),
        ({"n": 1}, ("text/plain",), [[{"text": '{"n":1}', "mediaType": "text/plain"}]]),
        ({"n": 1}, ("text/plain", "application/json"), [[data({"n": 1})]]),
        (
            {"artifacts": [{"parts": [{"text": "a"}]}], "n": 1},
            (),
            [[{"text": "a"}], [{"data": {"n": 1}, "mediaType": "application/json"}]],
        ),
        ({"artifacts": []}, (), []),
        (
            {"artifacts": [{"parts": 7}]},
            (),
            [[data({"artifacts": [{"parts": 7}]})]],
        ),
        (
            {"artifacts": [{"parts": [{"no": 1}]}]},
            (),
            [[data({"artifacts": [{"parts": [{"no": 1}]}]})]],
        ),
    ],
)
def test_outputs_are_artifacts(outputs: Any, modes: tuple[str, ...], parts: list[Any]) -> None:
    """One with all of them, or those that the plan made itself."""
    found = artifacts_of(outputs, modes)
    assert [one["parts"] for one in found] == parts
    assert len({one["artifactId"] for one in found}) == len(found)


def event(kind: EventType, seq: int, node: str | None = None, **data: Any) -> Event:
    at = NOW + timedelta(seconds=seq)
    return Event(RUN, 0, seq, kind, node, at, data, None, "", "", False, at, None, None)


def test_events_are_told_as_updates() -> None:
    """Statuses of the run and what its nodes do; the artifact before the end; the rest is not told."""
    told = [
        (event(EventType.PLAN_VALIDATED, 1, status="VALIDATED"), ["TASK_STATE_SUBMITTED"]),
        (event(EventType.PLAN_STARTED, 2, status="RUNNING"), ["TASK_STATE_WORKING"]),
        (event(EventType.NODE_STARTED, 3, "a", status="RUNNING"), ["TASK_STATE_WORKING"]),
        (event(EventType.NODE_SKIPPED, 4, "b", status="SKIPPED"), []),
        (event(EventType.PLAN_CANCEL_REQUESTED, 5), []),
        (event(EventType.PLAN_COMPLETED, 6, status="COMPLETED"), ["artifact", "TASK_STATE_COMPLETED"]),
    ]
    status = RunStatus.PENDING
    for one, expected in told:
        updates, status = updates_of(one, "c", status, outputs={"n": 1})
        again, _ = updates_of(one, "c", status, outputs={"n": 1})
        assert [
            "artifact" if isinstance(update, TaskArtifactUpdateEvent) else MessageToDict(update)["status"]["state"]
            for update in updates
        ] == expected
        assert all(update.metadata["eventId"] == one.id for update in updates if hasattr(update, "status"))
        if status in RUN_ENDS:
            assert again == updates, "the same for every stream"
    assert status == RunStatus.COMPLETED


def test_a_question_that_was_answered_is_not_asked_again() -> None:
    """A stream that is late tells what was asked when it was."""
    asks = event(EventType.PLAN_AWAITING_HITL, 10, status="AWAITING_HITL")
    old = human(title="Before", completed_at=NOW + timedelta(seconds=5))
    now = human(title="Now", created_at=NOW + timedelta(seconds=9), completed_at=NOW + timedelta(seconds=20))
    later = human(title="Later", created_at=NOW + timedelta(seconds=21))
    [update], _ = updates_of(asks, "c", RunStatus.RUNNING, tasks=[later, now, old])
    assert [part.text for part in update.status.message.parts if part.text] == ["Now"]  # type: ignore[union-attr]


def test_the_card_of_a_tenant() -> None:
    """Skills say what they take; interfaces of 1.0 carry the tenant."""
    one = skill("one", schema(n={"type": "integer"}) | {"required": ["n"]}, tags=["a", 7], examples=["x"])
    found = MessageToDict(card("https://dalang.example", [one, skill("two")], "acme"))
    first, second = found["skills"]
    assert first["description"].endswith("Inputs: n (integer, required).")
    assert (first["tags"], first["examples"], first["inputModes"]) == (["a"], ["x"], ["application/json"])
    assert second["inputModes"] == ["application/json", "text/plain"]
    assert {one.get("tenant") for one in found["supportedInterfaces"]} == {"acme", None}
