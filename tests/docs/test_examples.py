"""Every plan in ``examples/`` runs on the real engine: validated, stored, run by a worker, verified."""

from __future__ import annotations

import asyncio
import runpy
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from typing import Any

import pytest
import uvicorn

import dalang.demo  # noqa: F401 - registers the agents that the examples need
from dalang.api.app import create_app
from dalang.formats import load_document
from dalang.loading import load_plan
from dalang.plan import Plan
from dalang.rehearsal import load_options, rehearse
from dalang.settings import Settings
from dalang.stack.ports import free_ports
from dalang.store.engine import system_transaction
from dalang.store.pools import put_pool
from dalang.validation import inputs_problems, with_input_defaults
from tests.engine.kit import Engine, body_of, engine
from tests.harness import ROOT

EXAMPLES = ROOT / "examples"
OPTIONS = {
    path.name for end in ("options", "patch", "policy", "servers", "models") for path in EXAMPLES.glob(f"*-{end}.yaml")
}
PLANS = sorted(
    path.name for path in EXAMPLES.iterdir() if path.suffix in (".yaml", ".json") and path.name not in OPTIONS
)
WAITING = {
    "a2a.yaml",
    "agents.yaml",
    "budget.yaml",
    "decisions.yaml",
    "event.yaml",
    "callback.yaml",
    "circuit-breaker.yaml",
    "human-approval.yaml",
    "human-escalation.yaml",
    "runtime-hub.yaml",
    "container.yaml",
    "llm.yaml",
    "llm-review.yaml",
    "mcp.yaml",
    "secret.yaml",
    "session.yaml",
}
"""They wait for somebody, or need him: each has a test of its own, here, or in a file for people or agents,
or its page runs it."""

POOL = {"tenant_id": "", "rate": None, "burst": None, "description": "", "updated_by": "test"}
SPAN = ("NODE_STARTED", "NODE_COMPLETED")


@pytest.fixture
async def running(settings: Settings) -> AsyncIterator[Engine]:
    async with engine(settings.model_copy(update={"wasm_dir": str(EXAMPLES / "modules")})) as ready:
        yield ready


@pytest.fixture
def shop() -> Iterator[str]:
    """The service of ``examples/service.py`` on a port of its own."""
    with serving(0) as address:
        yield address


@contextmanager
def serving(port: int) -> Iterator[str]:
    """Serve the shop."""
    handler = runpy.run_path(str(EXAMPLES / "service.py"))["Shop"]
    handler.log_message = lambda *_: None
    with ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


async def run(running: Engine, name: str, inputs: dict[str, Any]) -> dict[str, Any]:
    plan: Plan = load_plan((EXAMPLES / name).read_bytes(), name=name).require()
    assert not inputs_problems(plan, inputs)
    started = await running.start_plan(plan, dict(with_input_defaults(plan, inputs)))
    ended = await started.end()
    assert ended["run"]["status"] == "COMPLETED", ended["run"]["error_message"]
    assert await running.chain_problem(started.run_id) is None
    return ended


async def test_every_example_is_run(running: Engine, shop: str) -> None:
    """Each ends COMPLETED with nothing but its defaults, and its chain of events verifies."""
    for name in PLANS:
        if name in WAITING:
            continue
        inputs = {"service": shop} if name == "http.yaml" else {}
        ended = await run(running, name, inputs)
        statuses = {node["status"] for node in ended["nodes"].values()}
        assert statuses <= {"SUCCESS", "SKIPPED", "ERROR"}, name


@pytest.mark.parametrize(
    ("item", "statuses", "attempts"),
    [
        ("lamp", {"stock": "SUCCESS", "order": "SUCCESS", "sold_out": "SKIPPED", "unknown": "SKIPPED"}, 3),
        ("chair", {"stock": "SUCCESS", "order": "SKIPPED", "sold_out": "SUCCESS", "unknown": "SKIPPED"}, 3),
        ("unicorn", {"stock": "ERROR", "order": "SKIPPED", "sold_out": "SKIPPED", "unknown": "SUCCESS"}, 3),
    ],
)
async def test_the_http_example_takes_each_way(
    running: Engine, shop: str, item: str, statuses: dict[str, str], attempts: int
) -> None:
    """503 is tried again, 404 goes to the error edge, and what was found decides what is done."""
    ended = await run(running, "http.yaml", {"service": shop, "item": item})
    assert {name: node["status"] for name, node in ended["nodes"].items()} == statuses
    assert ended["nodes"]["stock"]["attempt"] == attempts
    outputs = ended["result"]["outputs"]
    assert (outputs["order"] is not None, outputs["text"] is not None) == (item == "lamp", item != "lamp")


async def test_both_ways_through_the_conditions_example(running: Engine) -> None:
    """Legacy code is reworked before it is published."""
    ended = await run(running, "conditions.yaml", {"legacy": True})
    assert ended["nodes"]["rework"]["status"] == "SUCCESS"
    assert ended["nodes"]["write"]["status"] == "SKIPPED"


async def test_the_limits_example_takes_turns(running: Engine) -> None:
    """With a pool of one: one import at a time in the region, and the one with another key beside them."""
    async with system_transaction(running.db) as conn:
        await put_pool(conn, {**POOL, "name": "staging-db", "size": 1.0})
    plan = load_plan((EXAMPLES / "limits.yaml").read_bytes(), name="limits.yaml").require()
    ended = await (
        await running.start_plan(plan, dict(with_input_defaults(plan, {"seconds": 0.1})), limits=["staging-db"])
    ).end()
    assert ended["run"]["status"] == "COMPLETED"
    spans = {
        node: tuple(row["at"] for row in ended["events"] if row["node_id"] == node and row["type"] in SPAN)
        for node in ("customers", "orders", "archive")
    }
    first, second = sorted((spans["customers"], spans["orders"]))
    assert first[1] <= second[0], "one after the other"
    assert spans["archive"][0] < first[1], "beside the first"


async def test_the_budget_example_goes_on_with_more(running: Engine) -> None:
    """It is paused before its third node begins."""
    plan = load_plan((EXAMPLES / "budget.yaml").read_bytes(), name="budget.yaml").require()
    started = await running.start_plan(plan, {})
    await started.until("PLAN_PAUSED")
    assert set((await started.stored())["nodes"]) == {"first", "second"}
    answer = await started.handle.execute_update("raise_budget", {"nodes": 5, "operator": "kim"})
    assert answer["status"] == "RUNNING"
    assert (await started.end())["run"]["status"] == "COMPLETED"


async def test_the_decisions_example_goes_on_as_an_operator_says(running: Engine) -> None:
    """Declined, the card is replaced; the seat that was reserved stays."""
    plan = load_plan((EXAMPLES / "decisions.yaml").read_bytes(), name="decisions.yaml").require()
    started = await running.start_plan(plan, {})
    await started.until("PLAN_PAUSED")
    await started.handle.execute_update("retry_node", {"nodeId": "charge", "inputs": {"card": "4242"}})
    ended = await started.end()
    assert ended["result"]["outputs"] == {"receipt": "paid 12A"}


@pytest.mark.parametrize(
    ("inputs", "statuses"),
    [
        ({"address": "nowhere"}, ["COMPENSATED", "COMPENSATED", "FAILED", "SKIPPED"]),
        ({"card": "0000"}, ["COMPENSATED", "FAILED", "SKIPPED", "SKIPPED"]),
    ],
)
async def test_the_compensation_example_undoes_what_was_done(
    running: Engine, inputs: dict[str, Any], statuses: list[str]
) -> None:
    """Without an address the payment goes back, then the seat; a declined card was never charged."""
    plan = load_plan((EXAMPLES / "compensation.yaml").read_bytes(), name="compensation.yaml").require()
    ended = await (await running.start_plan(plan, dict(with_input_defaults(plan, inputs)))).end()
    assert ended["run"]["status"] == "FAILED"
    assert [ended["nodes"][node]["status"] for node in ("reserve", "charge", "parcel", "mail")] == statuses
    released = body_of(ended, "NODE_COMPENSATED", "reserve")["undoOutputs"]
    assert released == {"released": "12A"}
    if "address" in inputs:
        assert body_of(ended, "NODE_COMPENSATED", "charge")["undoOutputs"]["refunded"] == "paid 12A"


@pytest.mark.parametrize(("amount", "shipped"), [(120, "SUCCESS"), (80, "SKIPPED")])
async def test_the_event_example_goes_on_when_the_payment_comes(running: Engine, amount: int, shipped: str) -> None:
    """A payment for another order is not its own; what was paid decides what is done."""
    plan = load_plan((EXAMPLES / "event.yaml").read_bytes(), name="event.yaml").require()
    started = await running.start_plan(plan, {"order": "B-7", "patience": "1h"})
    await started.handle.signal(
        "external_event", {"name": "payment", "correlationKey": "B-8", "payload": {"amount": 1}}
    )
    await started.until("NODE_WAITING", "payment")
    payload = {"name": "payment", "correlationKey": "B-7", "payload": {"amount": amount}}
    await started.handle.execute_update("external_event", payload)
    ended = await started.end()
    assert ended["run"]["status"] == "COMPLETED"
    assert ended["nodes"]["ship"]["status"] == shipped


async def test_the_event_example_without_a_payment(running: Engine) -> None:
    """The timeout is an error of the node, which its error edge takes."""
    plan = load_plan((EXAMPLES / "event.yaml").read_bytes(), name="event.yaml").require()
    ended = await (await running.start_plan(plan, {"order": "B-7", "patience": "100ms"})).end()
    assert {name: node["status"] for name, node in ended["nodes"].items()} == {
        "payment": "ERROR",
        "cancel": "SUCCESS",
        "ship": "SKIPPED",
        "short": "SKIPPED",
    }


async def test_the_callback_example_is_called_back(settings: Settings, shop: str) -> None:
    """The service calls the API of this machine, which lets the run go on."""
    (port,) = free_ports(1)
    settings = Settings.of({**settings.model_dump(exclude={"api_url", "public_url"}), "api_port": port})
    server = uvicorn.Server(uvicorn.Config(create_app(settings), host="127.0.0.1", port=port, log_config=None))
    serving = asyncio.create_task(server.serve())
    async with engine(settings) as running:
        ended = await run(running, "callback.yaml", {"service": shop, "film": "wayang"})
    server.should_exit = True
    await serving
    assert ended["result"]["outputs"] == {"link": "/films/wayang.mp4", "job": 1}


async def test_the_circuit_breaker_example_waits_for_its_service(settings: Settings) -> None:
    """Nobody serves: after five failures all wait, and when somebody does they go on."""
    (port,) = free_ports(1)
    inputs = {"service": f"http://127.0.0.1:{port}"}
    plan = load_plan((EXAMPLES / "circuit-breaker.yaml").read_bytes(), name="circuit-breaker.yaml").require()
    async with engine(Settings.of({**settings.model_dump(), "breaker_open_seconds": 5})) as running:
        started = await running.start_plan(plan, inputs)
        for node in plan.nodes:
            await started.until("NODE_QUEUED", node.node_id)
        with serving(port):
            ended = await started.end()
    assert ended["run"]["status"] == "COMPLETED"
    assert sorted(ended["result"]["outputs"]["orders"]) == [1, 2, 3]
    assert 5 <= len(ended["attempts"]) <= 12, "without a breaker they would have failed 18 times"


def test_the_rehearsal_example_is_rehearsed() -> None:
    """Its options fit its plan, the review sends back as often as they say, and the coders are what is scarce."""
    plan = load_plan((EXAMPLES / "rehearsal.yaml").read_bytes(), name="rehearsal.yaml").require()
    summary = rehearse(plan, load_options(load_document((EXAMPLES / "rehearsal-options.yaml").read_bytes())))
    assert summary.scenario.warnings == ()
    assert summary.ends["COMPLETED"] > 0.9
    assert {node.node_id: node.run for node in summary.nodes}["rework"] == pytest.approx(0.25, abs=0.06)
    assert summary.bottleneck is not None
    assert summary.bottleneck.name == "agent coder"


def test_there_are_plans() -> None:
    """A suffix that is not looked for would hide an example."""
    known = {*PLANS, *OPTIONS, "README.md", *(path.name for path in EXAMPLES.glob("*.py"))}
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} == known
    assert "hello.yaml" in PLANS
