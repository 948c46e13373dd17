"""``dalang agents`` on a real API."""

from __future__ import annotations

import pytest

from dalang.commands.agents import Kind, Status
from dalang.store.agents import AgentKind, AgentStatus
from tests.cli.conftest import Dalang

pytestmark = pytest.mark.usefixtures("here")


def test_kinds_and_statuses_are_those_of_the_server() -> None:
    """The command line does not load the server to show its help."""
    assert {str(one) for one in Kind} == {str(one) for one in AgentKind}
    assert {str(one) for one in Status} == {str(one) for one in AgentStatus}


def test_register_list_show_drain_remove(dalang: Dalang) -> None:
    """What people read, and what programs read."""
    made = dalang(
        "agents", "register", "ada", "--capability", "coding=0.9", "--capability", "testing", "--max-tasks", 2,
        "--label", "team=a", "--json",
    )  # fmt: skip
    assert made.json["capabilities"] == {"coding": 0.9, "testing": 1}
    assert made.json["labels"] == {"team": "a"}
    listed = dalang("agents", "list", "--status", "idle")
    assert listed.out.splitlines()[1].split() == ["ada", "poll", "Idle", "0/2", "coding,", "testing"]
    assert "1 agents: 0 working, 1 idle" in listed.err
    assert dalang("agents", "list", "--json").json["statistics"]["totalAgents"] == 1
    shown = dalang("agents", "show", "ada").out
    assert "coding 0.9, testing 1" in shown
    assert "after 30 s of silence" in shown
    assert "is Draining" in dalang("agents", "drain", "ada").out
    assert "is Idle" in dalang("agents", "drain", "ada", "--undo").out
    assert "removed" in dalang("agents", "remove", "ada").out
    assert dalang("agents", "show", "ada").code == 1
    assert "register" in dalang("agents", "list").err


def test_wrong_usage(dalang: Dalang) -> None:
    """Is told before anything is asked."""
    assert dalang("agents", "register", "ada", "--capability", "coding=well").code == 2
    assert dalang("agents", "register", "ada", "--label", "x").code == 2
    queue = dalang("agents", "register", "q", "--kind", "taskQueue", "--task-queue", "go", "--json")
    assert queue.code in (0, 1)
