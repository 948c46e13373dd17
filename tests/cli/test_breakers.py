"""``dalang breakers`` on a real stack."""

from __future__ import annotations

import pytest

from dalang.breaker import BreakerState
from dalang.commands.breakers import State
from tests.cli.conftest import Dalang

pytestmark = pytest.mark.usefixtures("here")


def test_states_are_those_of_the_server() -> None:
    """The command line does not load the server to show its help."""
    assert [str(one) for one in State] == [str(one) for one in BreakerState]


def test_open_list_reset(dalang: Dalang) -> None:
    """By key and by id, for people and for programs."""
    assert "No such breaker" in dalang("breakers", "list", "--state", "half_open").err
    key = "http https://shop.example:443"
    made = dalang("breakers", "open", key, "--for", "10m", "--reason", "it moves")
    assert made.out.startswith(f"{key} is OPEN until ")
    listed = dalang("breakers", "list", "-s", "open").out.splitlines()
    assert listed[0].split() == ["BREAKER", "STATE", "FAILURES", "UNTIL", "OPENED", "LAST", "FAILURE", "BY"]
    assert listed[1].startswith(f"{key}  OPEN")
    found = dalang("breakers", "list", "--json").json["items"][0]
    assert (found["key"], found["reason"]) == (key, "it moves")
    assert dalang("breakers", "reset", found["breakerId"]).out == f"{key} is CLOSED\n"
    assert dalang("breakers", "open", "agent coder", "--json").json["state"] == "OPEN"
    assert dalang("breakers", "reset", "agent coder", "--json").json["state"] == "CLOSED"


def test_what_is_wrong_is_told(dalang: Dalang) -> None:
    """What is not there, and what no duration is."""
    gone = dalang("breakers", "reset", "agent nobody")
    assert (gone.code, "no circuit breaker 'agent nobody'" in gone.err) == (1, True)
    assert dalang("breakers", "reset", "3f0e6f0e-6b5a-4a9e-9d8e-0a4f3c0e8a11").code == 1
    assert dalang("breakers", "open", "x", "--for", "8d").code != 0
