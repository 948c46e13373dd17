"""The tools for models: what they refuse themselves, and how refusals of the API are told. The API is not there."""

from __future__ import annotations

import httpx
import pytest
from pydantic import ValidationError

from dalang.mcp_server.rest import Refused, Rest, refusal, without_nulls
from dalang.mcp_server.tools import TOOLS
from dalang.stack.ports import free_port


async def test_an_api_that_is_away_is_told() -> None:
    """What was asked may have been taken, so it is not to be repeated blindly."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{free_port()}", trust_env=False) as client:
        with pytest.raises(Refused, match=r"does not answer \(ConnectError\)") as caught:
            await Rest(client, "t").post("/execute", {})
    assert "list_runs" in str(caught.value)


def test_refusals_say_what_to_do() -> None:
    """Every problem with its place, and a hint by what kind of refusal it is."""
    problems = [{"pointer": "/nodes/0", "code": "CYCLE", "message": "a circle"}]
    refused = refusal(422, {"type": "urn:dalang:problem:invalid-plan", "detail": "1 error.", "problems": problems})
    assert (
        str(refused)
        == "1 error. Repair what is listed, each at its JSON Pointer, and call again.\n- /nodes/0 CYCLE: a circle"
    )
    assert refused.details["status"] == 422
    assert refused.details["problems"] == problems
    assert "policy" in str(refusal(403, {"type": "urn:dalang:problem:policy-violation", "detail": "no"}))
    assert str(refusal(502, {})) == "The API answered 502."


def test_nulls_are_left_out() -> None:
    """Also deep inside."""
    assert without_nulls({"a": None, "b": [{"c": None, "d": 0}]}) == {"b": [{"d": 0}]}


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("start_run", {}),
        ("start_run", {"plan": {}, "planName": "x"}),
        ("get_run", {"runId": "latest"}),
        ("get_run", {"runId": "3f0e6f0e-6b5a-4a9e-9d8e-0a4f3c0e8a11", "waitSeconds": 51}),
        ("list_runs", {"status": ["DONE"]}),
        ("decide_task", {"taskId": "3f0e6f0e-6b5a-4a9e-9d8e-0a4f3c0e8a11", "action": "approve", "digest": "x"}),
        ("replan_run", {"runId": "3f0e6f0e-6b5a-4a9e-9d8e-0a4f3c0e8a11"}),
        ("pause_run", {"runId": "3f0e6f0e-6b5a-4a9e-9d8e-0a4f3c0e8a11", "why": "x"}),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_asked(tool: str, arguments: dict[str, object]) -> None:
    """By the model that their schema is made of."""
    with pytest.raises(ValidationError):
        TOOLS[tool].arguments.model_validate(arguments)
