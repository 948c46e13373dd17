"""Kafka and NATS get every event, in order per run, also when a broker dies or hangs in between."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_kafka_event

from dalang.publishing.kafka import Kafka
from dalang.publishing.nats import Nats, subject_of
from dalang.publishing.targets import kafka_options, nats_options
from tests.harness import PATIENCE
from tests.publishing.brokers import KafkaCluster, NatsServer, nats_client, nats_messages, requires_nats
from tests.publishing.kit import SOURCE, Site

TOPIC = "execution-events"


@pytest.fixture
async def kafka() -> AsyncIterator[KafkaCluster]:
    cluster = await KafkaCluster().start()
    yield cluster
    await cluster.kill()


@pytest.fixture(scope="module")
async def shared_kafka() -> AsyncIterator[KafkaCluster]:
    """For tests that leave it alive; each has a topic of its own."""
    cluster = await KafkaCluster().start()
    yield cluster
    await cluster.kill()


@pytest.fixture
async def nats(tmp_path: Path) -> AsyncIterator[NatsServer]:
    server = await NatsServer(tmp_path / "nats").start()
    async with nats_client(server) as client:
        await client.jetstream().add_stream(name="DALANG", subjects=["dalang.events.>"])
    yield server
    await server.kill()


def kafka_target(cluster: KafkaCluster) -> dict[str, Any]:
    return {"kafka": Kafka(*kafka_options(cluster.url), 1.0)}


def nats_target(server: NatsServer) -> dict[str, Any]:
    return {"nats": Nats(*nats_options(server.url))}


def by_run(ids: list[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for one in ids:
        run, _, seq = one.split("/")
        found.setdefault(run, []).append(int(seq))
    return found


async def test_kafka_gets_the_seeds_topic_keyed_by_run(site: Site, shared_kafka: KafkaCluster) -> None:
    """In binary mode: the value is Wayang's ExecutionEvent, the public library reads the headers."""
    subscription = await site.subscribe(kind="kafka", target={"topic": TOPIC}, payloads=True)
    async with site.publishing(kafka_target(shared_kafka)):
        runs = [(await site.run(5))[0] for _ in range(4)]
        records = await shared_kafka.records(TOPIC, 20)
        await site.settled(subscription)
    ids = [json.loads(one.value)["eventId"] for one in records]
    assert by_run(ids) == {str(run.run_id): [1, 2, 3, 4, 5] for run in runs}
    assert len({one.partition for one in records}) > 1, "runs are spread over partitions"
    one = records[0]
    headers = {name: value for name, value in one.headers}
    event = from_kafka_event(KafkaMessage(headers, one.key, one.value))
    assert (event.get_id(), event.get_source(), event.get_type()) == (ids[0], SOURCE, "PLAN_STARTED")
    assert (event.get_extension("tenant"), one.key.decode()) == ("acme", ids[0].split("/")[0])
    value = json.loads(one.value)
    assert {"eventId", "eventType", "runId", "planId", "nodeId", "timestamp", "payload"} <= value.keys()


async def test_kafka_that_hangs_or_dies_loses_nothing(site: Site, kafka: KafkaCluster) -> None:
    """First its processes stop answering and go on; then they are killed, and another cluster takes the rest."""
    subscription = await site.subscribe(kind="kafka", target={"topic": TOPIC})
    async with site.publishing(kafka_target(kafka)):
        run, head = await site.run(3)
        await kafka.records(TOPIC, 3)
        assert kafka._process is not None
        os.kill(kafka._process.pid, signal.SIGSTOP)
        head = await site.more(run, 3, head)
        await asyncio.sleep(0.3)  # something is on its way now, and nobody answers
        os.kill(kafka._process.pid, signal.SIGCONT)
        before = by_run([json.loads(one.value)["eventId"] for one in await kafka.records(TOPIC, 6)])
        assert before == {str(run.run_id): [1, 2, 3, 4, 5, 6]}
        await site.settled(subscription)
        await kafka.kill()
        await site.more(run, 3, head)
        async with asyncio.timeout(PATIENCE):
            while not (found := await site.again(subscription)).failures:
                await asyncio.sleep(0.05)
        assert "Kafka does not answer" in str(found.last_error)
        assert (await site.progress(subscription)).dead_letters == 0
    await kafka.start()
    async with site.publishing(kafka_target(kafka)):
        after = by_run([json.loads(one.value)["eventId"] for one in await kafka.records(TOPIC, 3)])
        assert after == {str(run.run_id): [7, 8, 9]}


@requires_nats
async def test_nats_stores_each_event_once_under_its_subject(site: Site, nats: NatsServer) -> None:
    """A publisher that died after sending sends again; the stream knows the event by its id."""
    subscription = await site.subscribe(kind="nats", target={"subject": "dalang.events"})
    async with site.publishing(nats_target(nats)):
        run, _ = await site.run(4)
        await site.settled(subscription)
        await site.world.rows_changed("UPDATE event_publications SET sent_seq = 1, due_at = now()")
        await site.settled(subscription)
        messages = await nats_messages(nats, "DALANG", 4)
    assert [one.headers["Nats-Msg-Id"] for one in messages] == [f"{run.run_id}/0/{seq}" for seq in range(1, 5)]
    assert [one.subject for one in messages[:2]] == [
        "dalang.events.acme.PLAN_STARTED",
        "dalang.events.acme.NODE_STARTED",
    ]
    assert json.loads(messages[0].data)["specversion"] == "1.0"
    async with nats_client(nats) as client:
        assert (await client.jetstream().stream_info("DALANG")).state.messages == 4
    assert (await site.again(subscription)).delivered == 7


@requires_nats
async def test_nats_that_is_killed_loses_nothing(site: Site, nats: NatsServer) -> None:
    subscription = await site.subscribe(kind="nats", target={"subject": "dalang.events"})
    async with site.publishing(nats_target(nats)):
        run, head = await site.run(3)
        await site.settled(subscription)
        await nats.kill()
        other, _ = await site.run(3)
        await site.more(run, 3, head)
        async with asyncio.timeout(PATIENCE):
            while not (found := await site.again(subscription)).failures:
                await asyncio.sleep(0.02)
        assert "NATS does not answer" in str(found.last_error)
        await nats.start()
        await site.settled(subscription)
        messages = await nats_messages(nats, "DALANG", 9)
    ids = by_run([one.headers["Nats-Msg-Id"] for one in messages])
    assert ids == {str(run.run_id): [1, 2, 3, 4, 5, 6], str(other.run_id): [1, 2, 3]}
    assert (await site.progress(subscription)).dead_letters == 0


@requires_nats
async def test_a_stream_that_is_missing_is_waited_for(site: Site, nats: NatsServer) -> None:
    """It says which subject nobody takes."""
    subscription = await site.subscribe(kind="nats", target={"subject": "elsewhere"})
    async with site.publishing(nats_target(nats)):
        await site.run(2)
        async with asyncio.timeout(PATIENCE):
            while not (found := await site.again(subscription)).failures:
                await asyncio.sleep(0.02)
        assert found.last_error == "no stream takes the subject elsewhere.acme.PLAN_STARTED"
        async with nats_client(nats) as client:
            await client.jetstream().add_stream(name="ELSE", subjects=["elsewhere.>"])
        await site.settled(subscription)


async def test_all_tenants_in_one_topic(site: Site, shared_kafka: KafkaCluster) -> None:
    await site.subscribe(kind="kafka", target={"topic": "all"}, all_tenants=True, tenant="operator")
    async with site.publishing(kafka_target(shared_kafka)):
        await site.run(1)
        await site.run(1, tenant_id="zeta")
        records = await shared_kafka.records("all", 2)
    assert sorted(dict(one.headers)["ce_tenant"] for one in records) == [b"acme", b"zeta"]


@pytest.mark.parametrize(
    ("tenant", "subject"),
    [("acme", "p.acme.X"), ("a.b c*>", "p.a=2e=b=20=c=2a==3e=.X"), ("é", "p.=e9=.X"), ("", "p.=.X")],
)
def test_subjects_hold_any_tenant(tenant: str, subject: str) -> None:
    assert subject_of("p", tenant, "X") == subject


def test_addresses_of_brokers() -> None:
    """What the settings say is what the libraries are given."""
    assert kafka_options("kafka://a:9092,b:9093") == (["a:9092", "b:9093"], {})
    servers, options = kafka_options("kafka://us%40er:pw@a:9092?mechanism=SCRAM-SHA-512&tls=true")
    assert servers == ["a:9092"]
    assert (options["security_protocol"], options["sasl_mechanism"]) == ("SASL_SSL", "SCRAM-SHA-512")
    assert (options["sasl_plain_username"], options["sasl_plain_password"]) == ("us@er", "pw")
    assert nats_options("nats://u:p@a:4222,b:4222") == (
        ["nats://a:4222", "nats://b:4222"],
        {"user": "u", "password": "p"},
    )
    assert nats_options("nats://t@a:4222")[1] == {"token": "t"}
    for wrong in ("kafka://", "http://a:1", "kafka://a", "kafka://a:1?mecanism=x"):
        with pytest.raises(ValueError, match=r"it (looks like|takes no)"):
            kafka_options(wrong)
