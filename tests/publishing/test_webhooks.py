"""Events reach webhooks: all of them, in order, signed, whatever a receiver does."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable

import httpx
import jsonschema
import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http_event

from dalang.activities.egress import http_client
from dalang.egress import Egress
from dalang.publishing import publisher
from dalang.publishing.webhooks import Webhooks
from dalang.store.dead_letters import list_dead_letters, redeliver
from dalang.store.engine import system_transaction
from dalang.store.subscriptions import pause_subscription, resume_subscription
from dalang.webhook_signatures import new_secret
from tests.harness import PATIENCE, ROOT
from tests.publishing.kit import SOURCE, Site, numbers
from tests.publishing.receiver import Received, Receiver, status
from tests.store.world import fact

Receiving = Callable[..., Awaitable[Receiver]]


async def test_every_event_comes_once_in_order_and_signed(site: Site, receiving: Receiving) -> None:
    """A CloudEvent that the public library reads, in a request that Standard Webhooks accepts."""
    receiver = await receiving()
    subscription = await site.subscribe(receiver.url, payloads=True)
    async with site.publishing():
        run, head = await site.run(3)
        await site.more(run, 3, head)
        got = await receiver.until(6)
        await site.settled(subscription)
    assert numbers(got, run) == [1, 2, 3, 4, 5, 6]
    receiver.verified(site.secret)
    event = from_http_event(HTTPMessage({**got[1].headers}, got[1].body))
    assert (event.get_type(), event.get_source(), event.get_id()) == ("NODE_STARTED", SOURCE, f"{run.run_id}/0/2")
    assert event.get_subject() == f"runs/{run.run_id}/nodes/a"
    assert event.get_extension("tenant") == "acme"
    data = event.get_data()
    assert isinstance(data, dict)
    assert data["payload"] == {"inputs": {"n": 2}}
    assert data["planName"] == "deploy"
    found = await site.again(subscription)
    assert (found.delivered, found.failures, found.last_error) == (6, 0, None)


async def test_the_example_receives(site: Site) -> None:
    """examples/webhook_receiver.py prints each event once, and takes nothing that is not signed."""
    command = [sys.executable, str(ROOT / "examples/webhook_receiver.py"), "0"]
    process = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, "SECRET": site.secret}, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        url = (await process.stdout.readline()).decode().split()[-1]
        subscription = await site.subscribe(url)
        async with site.publishing():
            run, head = await site.run(2)
            lines = [(await process.stdout.readline()).decode().split() for _ in range(2)]
            await site.world.rows_changed("UPDATE event_publications SET sent_seq = 0, due_at = now()")
            await site.settled(subscription)
            site.secret = new_secret()
            stranger = await site.subscribe(url, name="stranger", max_attempts=1)
            await site.more(run, 1, head)
            async with asyncio.timeout(PATIENCE):
                while (found := await site.again(stranger)).failures == 0:
                    await asyncio.sleep(0.02)
            last = (await process.stdout.readline()).decode().split()
    finally:
        process.kill()
        await process.wait()
    assert [line[1:] for line in (*lines, last)] == [
        ["PLAN_STARTED", f"runs/{run.run_id}"],
        *[["NODE_STARTED", f"runs/{run.run_id}/nodes/a"]] * 2,
    ]
    assert found.last_error == "HTTP 401"


async def test_a_failure_holds_up_its_run_and_no_other(site: Site, receiving: Receiving) -> None:
    ill: set[str] = set()
    failures = 0

    async def answer(request: Received) -> bytes:
        nonlocal failures
        failures += request.number[0] in ill
        return status(503 if request.number[0] in ill else 204)

    receiver = await receiving(answer)
    subscription = await site.subscribe(receiver.url)
    sick = await site.world.run()
    ill.add(str(sick.run_id))
    async with site.publishing():
        await site.more(sick, 3)
        well, _ = await site.run(3)
        got = await receiver.until(3)
        assert numbers(got, well) == [1, 2, 3]
        async with asyncio.timeout(PATIENCE):
            while failures < 3:
                await asyncio.sleep(0.02)
        progress = await site.progress(subscription)
        assert (progress.waiting_runs, progress.failing_runs, progress.waiting_events) == (1, 1, 3)
        ill.clear()
        got = await receiver.until(6)
    assert numbers(got, sick) == [1, 2, 3]
    assert [one.number[2] for one in receiver.got if one.number[0] == str(sick.run_id)][:2] == [1, 1]
    assert (await site.again(subscription)).last_error == "HTTP 503"


async def test_what_fails_too_often_is_a_dead_letter_and_the_next_is_told(site: Site, receiving: Receiving) -> None:
    bad = True

    async def answer(request: Received) -> bytes:
        return status(500 if bad and request.number[2] == 2 else 200)

    receiver = await receiving(answer)
    subscription = await site.subscribe(receiver.url, max_attempts=3)
    async with site.publishing():
        run, _ = await site.run(4)
        got = await receiver.until(3)
        assert numbers(got, run) == [1, 3, 4]
        await site.settled(subscription)
        async with system_transaction(site.engine) as conn:
            (dead,) = await list_dead_letters(conn, subscription.subscription_id, after=None, limit=10)
        assert (dead.seq, dead.attempts, dead.error, dead.type) == (2, 3, "HTTP 500", "NODE_STARTED")
        bad = False
        async with system_transaction(site.engine) as conn:
            assert await redeliver(conn, subscription.subscription_id, [(run.run_id, 0, 2)]) == 1
        got = await receiver.until(4)
        assert numbers(got, run) == [1, 3, 4, 2]
        assert (await site.settled(subscription)).dead_letters == 0


async def test_what_a_receiver_may_do(site: Site, receiving: Receiving) -> None:
    """Silence, a closed connection, rubbish, a redirect and a late answer are failures; two answers are one."""
    ways = iter(["close", "rubbish", "redirect", "late", "twice"])

    async def answer(request: Received) -> bytes | None:
        way = next(ways, "fine")
        if way == "late":
            await asyncio.sleep(3)
        if way == "redirect":
            return status(302, "location: http://127.0.0.1:9/\r\n")
        return {"close": None, "rubbish": b"rubbish 2\r\n\r\n", "twice": status(200) * 2}.get(way, status(200))

    receiver = await receiving(answer)
    subscription = await site.subscribe(receiver.url)
    async with site.publishing({"webhook": Webhooks(lambda: httpx.AsyncClient(trust_env=False), 2)}):
        await site.run(3)
        await receiver.until_got(7)
        await site.settled(subscription)
    assert [one.number[2] for one in receiver.got] == [1, 1, 1, 1, 1, 2, 3]
    found = await site.again(subscription)
    assert (found.delivered, found.failures) == (3, 4)


async def test_an_event_that_waited_too_long_is_tried_once(site: Site, receiving: Receiving) -> None:
    """So what gathered while a receiver was away for days does not hold it up for days more."""

    async def answer(_request: Received) -> bytes:
        return status(500)

    receiver = await receiving(answer)
    subscription = await site.subscribe(receiver.url, give_up_ms=1)
    async with site.publishing():
        await site.run(3)
        await receiver.until_got(3)
        assert (await site.settled(subscription)).dead_letters == 3
    assert [one.number[2] for one in receiver.got] == [1, 2, 3]


async def test_retry_after_is_kept_to(site: Site, receiving: Receiving) -> None:
    """Within what the subscription gives up after; nonsense is passed over."""
    asks = iter(["3600", "soon", "0"])

    async def answer(_request: Received) -> bytes:
        return status(429, f"retry-after: {next(asks)}\r\n")

    receiver = await receiving(answer)
    subscription = await site.subscribe(receiver.url)
    async with site.publishing():
        await site.run(1)
        await receiver.until_got(1)
        async with asyncio.timeout(PATIENCE):
            while (await site.progress(subscription)).failing_runs == 0:
                await asyncio.sleep(0.02)
        due = "SELECT extract(epoch FROM due_at - now())::float FROM event_publications"
        assert 3500 < (await site.world.rows(due))[0][0] <= 3600
        async with system_transaction(site.engine) as conn:
            await resume_subscription(conn, subscription.subscription_id, "test")
        await receiver.until_got(3)


async def test_too_many_dead_letters_pause(site: Site, receiving: Receiving, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing more is given up: the rest waits until somebody looks."""
    monkeypatch.setattr(publisher, "MAX_DEAD_LETTERS", 2)

    async def answer(_request: Received) -> bytes:
        return status(500)

    receiver = await receiving(answer)
    subscription = await site.subscribe(receiver.url, max_attempts=1)
    async with site.publishing():
        await site.run(5)
        async with asyncio.timeout(PATIENCE):
            while (found := await site.again(subscription)).paused_at is None:
                await asyncio.sleep(0.02)
            while await site.world.rows("SELECT 1 FROM event_publications WHERE claim IS NOT NULL"):
                await asyncio.sleep(0.02)
    assert (found.paused_by, found.paused_reason) == ("publisher", "It has 2 dead letters.")
    progress = await site.progress(subscription)
    assert (progress.dead_letters, progress.waiting_events) == (2, 3)


async def test_workers_call_only_what_the_operator_allows(site: Site, receiving: Receiving) -> None:
    """The rules hold at each connection, whatever was checked when the subscription was made."""
    receiver = await receiving()
    subscription = await site.subscribe(receiver.url, max_attempts=1)
    async with site.publishing({"webhook": Webhooks(lambda: http_client(rules=Egress()))}):
        await site.run(1)
        async with asyncio.timeout(PATIENCE):
            while (found := await site.again(subscription)).failures == 0:
                await asyncio.sleep(0.02)
    assert "is refused: 127.0.0.1 is this machine" in str(found.last_error)
    assert receiver.got == []


async def test_gone_pauses_and_nothing_is_lost(site: Site, receiving: Receiving) -> None:
    gone = True

    async def answer(request: Received) -> bytes:
        return status(410 if gone else 204)

    receiver = await receiving(answer)
    subscription = await site.subscribe(receiver.url)
    async with site.publishing():
        run, head = await site.run(2)
        await receiver.until_got(1)
        async with asyncio.timeout(PATIENCE):
            while (found := await site.again(subscription)).paused_at is None:
                await asyncio.sleep(0.02)
        assert (found.paused_by, found.paused_reason) == ("publisher", "Its receiver: HTTP 410.")
        await site.more(run, 2, head)
        gone = False
        async with system_transaction(site.engine) as conn:
            await resume_subscription(conn, subscription.subscription_id, "test")
        assert numbers(await receiver.until(4), run) == [1, 2, 3, 4]


async def test_a_pause_holds_everything_and_loses_nothing(site: Site, receiving: Receiving) -> None:
    receiver = await receiving()
    subscription = await site.subscribe(receiver.url)
    other = await receiving()
    await site.subscribe(other.url)
    async with system_transaction(site.engine) as conn:
        await pause_subscription(conn, subscription.subscription_id, "test", "maintenance")
    async with site.publishing():
        run, _ = await site.run(3)
        await other.until(3)
        assert receiver.got == []
        assert (await site.progress(subscription)).waiting_events == 3
        async with system_transaction(site.engine) as conn:
            await resume_subscription(conn, subscription.subscription_id, "test")
        assert numbers(await receiver.until(3), run) == [1, 2, 3]


async def test_secrets_that_only_workers_know(site: Site, receiving: Receiving) -> None:
    """The database holds the reference; while the secret is missing, nothing goes out unsigned."""
    receiver = await receiving()
    secret, site.secret = site.secret, "secret://pager"
    subscription = await site.subscribe(receiver.url)
    known: dict[tuple[str, str], str] = {}
    target = Webhooks(lambda: httpx.AsyncClient(trust_env=False), reveal=lambda *name: known.get(name))
    async with site.publishing({"webhook": target}):
        await site.run(1)
        async with asyncio.timeout(PATIENCE):
            while (found := await site.again(subscription)).failures == 0:
                await asyncio.sleep(0.02)
        assert found.last_error == "it cannot be signed: there is no secret 'pager'"
        assert receiver.got == []
        known["acme", "pager"] = secret
        await receiver.until(1)
    receiver.verified(secret)


async def test_only_what_is_wanted(site: Site, receiving: Receiving) -> None:
    """By tenant, type, plan and a CEL filter that may look into payloads that are not sent."""
    receivers = [await receiving() for _ in range(4)]
    by_type, by_plan, by_filter, of_other = receivers
    await site.subscribe(by_type.url, types=["PLAN_STARTED"])
    await site.subscribe(by_plan.url, plans=["other"])
    made = await site.subscribe(by_filter.url, filter="event.data.payload.inputs.n == 3")
    await site.subscribe(of_other.url, tenant="zeta")
    async with site.publishing():
        run, _ = await site.run(4)
        other, _ = await site.run(1, plan_name="other")
        await by_type.until(2)
        await by_plan.until(1)
        await by_filter.until(1)
        await site.settled(made)
    assert {one.event["type"] for one in by_type.taken} == {"PLAN_STARTED"}
    assert [one.number[0] for one in by_plan.taken] == [str(other.run_id)]
    assert [one.number for one in by_filter.taken] == [(str(run.run_id), 0, 3)]
    assert "payload" not in by_filter.taken[0].event["data"]
    assert of_other.got == []


async def test_marquez_is_told_in_its_own_form(site: Site, receiving: Receiving) -> None:
    """With the format openlineage: a RunEvent for what begins and ends, and nothing for the rest."""
    schema = json.loads((ROOT / "tests/schemas/openlineage.json").read_text())
    receiver = await receiving()
    target = {"url": receiver.url, "format": "openlineage"}
    subscription = await site.subscribe(receiver.url, target=target, payloads=True)
    async with site.publishing():
        run = await site.world.run()
        facts = [
            fact(1, "PLAN_VALIDATED", None),
            fact(2, "PLAN_STARTED", None),
            fact(3, "NODE_STARTED", "a"),
            fact(4, "NODE_FAILED", "a", {"error": {"message": "it broke"}}),
        ]
        await site.world.flush(run, facts, {"epoch": 0, "seq": 0, "hash": ""})
        got = await receiver.until(3)
        await site.settled(subscription)
    events = [json.loads(one.body) for one in got]
    for event in events:
        jsonschema.validate(event, schema)
    assert [(one["eventType"], one["job"]["name"]) for one in events] == [
        ("START", "deploy"),
        ("START", "deploy.a"),
        ("FAIL", "deploy.a"),
    ]
    assert events[0]["run"]["runId"] == str(run.run_id)
    assert events[2]["run"]["facets"]["errorMessage"]["message"] == "it broke"
    assert got[0].headers["content-type"].startswith("application/json")
