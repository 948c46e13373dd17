"""Real plans end to end: recorded scientific workflows and plans that language models made for agents.

Through the API, on a real worker: every node succeeds, no node starts before those it depends on have ended - read from
the recorded events, not from what the engine says of itself - and the chain of events is intact.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from dalang.commands.client import ApiClient
from dalang.commands.plan_files import imported
from dalang.commands.watching import follow
from dalang.plan import Plan
from dalang.settings import Settings
from dalang.stack.ports import free_port
from dalang.stack.postgres import drop_database
from dalang.stack.private_files import make_home
from dalang.stack.supervisor import stack
from tests.harness import LOOPBACK_ALLOWED, Servers, requires_shared, shared_dir

pytestmark = requires_shared
SHARED = shared_dir() or Path("shared")
INSTANCES = sorted(path.name for path in (SHARED / "instances").glob("*.json"))
TIME_SCALES = {"blast-chameleon-small-001.json": 0.001, "srasearch-chameleon-10a-001.json": 0.001}
"""The small ones really wait for some milliseconds; the others have sleeps of 0 s."""
AGENT_PLANS = (
    [task["id"] for task in json.loads((SHARED / "agent-plans.json").read_text())["tasks"]]
    if (SHARED / "agent-plans.json").is_file()
    else []
)


@pytest.fixture(scope="module")
async def client(
    servers: Servers, superuser: asyncpg.Connection, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ApiClient]:
    """A client of a real API with a real worker, which has the demo agents."""
    database = await servers.create_database(superuser)
    settings = Settings(
        home=make_home(tmp_path_factory.mktemp("stack") / "home"),
        database_url=database.url,
        migration_database_url=database.owner_url,
        temporal_address=servers.temporal_address,
        egress_allow=LOOPBACK_ALLOWED,
        task_queue=f"e2e-{uuid.uuid4().hex[:12]}",
        api_port=free_port(),
        node_modules=("dalang.demo",),
        graceful_shutdown_seconds=1,
    )
    async with stack(settings, ("worker", "api")) as running:
        made = ApiClient(running.settings.api_url, running.settings.read_token(), home=settings.home)
        yield made
        made.close()
    await drop_database(superuser, database.name)


@pytest.mark.parametrize("name", INSTANCES)
def test_recorded_workflows(client: ApiClient, name: str) -> None:
    """An instance of WfCommons completes in the order of its dependencies."""
    [(_, found)] = imported(str(SHARED / "instances" / name), "wfformat", time_scale=TIME_SCALES.get(name, 0.0))
    run_and_check(client, found.require())


@pytest.mark.parametrize("name", AGENT_PLANS)
def test_agent_plans(client: ApiClient, name: str) -> None:
    """A plan that a model made completes in the order of its dependencies."""
    [(_, found)] = imported(str(SHARED / "agent-plans.json"), "agent-plans", select=[name])
    run_and_check(client, found.require())


def run_and_check(client: ApiClient, plan: Plan) -> None:
    """Run ``plan`` and read from its events that it was run as it says."""
    run_id = client.post("/execute", {"plan": plan.wire()})["runId"]
    events = list(follow(client, run_id))
    run = client.get(f"/runs/{run_id}")
    assert run["status"] == "COMPLETED", run["error"]
    assert run["nodeStatusCounts"] == {"SUCCESS": len(plan.nodes)}
    started, completed = places(events, "NODE_STARTED"), places(events, "NODE_COMPLETED")
    assert set(started) == set(completed) == {node.node_id for node in plan.nodes}
    for edge in plan.edges:
        assert completed[edge.source_node_id] < started[edge.target_node_id], edge.edge_id
    verified = client.get(f"/runs/{run_id}/verify")
    assert verified["valid"], verified["finding"]
    assert verified["events"] == len(events)


def places(events: list[dict[str, Any]], kind: str) -> dict[str, tuple[int, int]]:
    """Where each node's event of this kind stands; it has exactly one."""
    found = [(event["nodeId"], (event["epoch"], event["seq"])) for event in events if event["type"] == kind]
    assert len(dict(found)) == len(found)
    return dict(found)
