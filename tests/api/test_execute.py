"""Starting runs and following them to their end."""

from __future__ import annotations

import pytest

from tests.api.world import Api, chain


@pytest.mark.usefixtures("working")
async def test_a_plan_is_executed_to_its_end(api: Api) -> None:
    """A plan in the body runs to COMPLETED, and everything about it can be read."""
    run_id = await api.execute(chain("noop", "api-test-echo", "noop"), inputs={"feature": "login"})
    run = await api.ended(run_id)
    assert run["status"] == "COMPLETED"
