"""Kafka: one record per event in binary mode: key the run, value the event's data, and the rest as headers ``ce_*``.

The producer is idempotent, and events of a run are sent in batches, each when the one before is stored: so a repetition
by the client is stored once, and nothing overtakes. After a failure the producer is made anew, since nobody knows what
became of its last batch; what it may have stored comes again then, with the same id.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from dalang.cloud_events import MAX_EVENT_BYTES, CloudEvent, binary
from dalang.publishing.target import Failure, Sent
from dalang.store.subscriptions import Subscription

if TYPE_CHECKING:
    from aiokafka import AIOKafkaProducer

CONNECT_SECONDS = 10.0
SEND_SECONDS = 8.0
STOP_SECONDS = 2.0
BATCH_BYTES = 3 * MAX_EVENT_BYTES
"""Below the 1 MB that brokers take."""


class Kafka:
    """Sends by one producer, made when it is first needed and again when it failed."""

    at_once = 100

    def __init__(
        self, servers: Sequence[str], options: Mapping[str, Any] | None = None, seconds: float = SEND_SECONDS
    ) -> None:
        self._servers = list(servers)
        self._options = dict(options or {})
        self._seconds = seconds
        self._producer: AIOKafkaProducer | None = None
        self._starting = asyncio.Lock()
        self._ending: set[asyncio.Task[None]] = set()

    async def send(self, subscription: Subscription, events: Sequence[CloudEvent]) -> Sent:
        """Send in batches, each when the one before is stored."""
        from aiokafka.errors import (
            KafkaError,
            MessageSizeTooLargeError,
            RecordListTooLargeError,
            TopicAuthorizationFailedError,
        )

        count, topic = 0, subscription.target["topic"]
        producer = None
        try:
            producer = await self._started()
            async with asyncio.timeout(self._seconds):  # the library itself would try for ever
                while count < len(events):
                    count += await _send_batch(producer, topic, events[count:])
        except (MessageSizeTooLargeError, RecordListTooLargeError):
            return Sent(count, Failure("the event is larger than the broker takes", refused=True))
        except TopicAuthorizationFailedError:
            return Sent(count, Failure(f"the broker does not let us write to {topic}", away=True))
        except (KafkaError, OSError, TimeoutError) as error:
            self._forget(producer)
            return Sent(count, Failure(f"Kafka does not answer: {type(error).__name__}", away=True))
        except asyncio.CancelledError:
            self._forget(producer)  # it would go on with what nobody waits for
            raise
        return Sent(count)

    async def close(self) -> None:
        """Stop the producer."""
        self._forget(self._producer)
        await asyncio.gather(*self._ending, return_exceptions=True)

    async def _started(self) -> AIOKafkaProducer:
        from aiokafka import AIOKafkaProducer

        async with self._starting:
            if self._producer is None:
                logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it says each failure many times a second
                producer = AIOKafkaProducer(
                    bootstrap_servers=self._servers,
                    client_id="dalang",
                    enable_idempotence=True,
                    acks="all",
                    max_batch_size=BATCH_BYTES,
                    request_timeout_ms=round(SEND_SECONDS * 1000),
                    **self._options,
                )
                try:
                    async with asyncio.timeout(CONNECT_SECONDS):
                        await producer.start()
                except BaseException:
                    self._end(producer)
                    raise
                self._producer = producer
            return self._producer

    def _forget(self, producer: AIOKafkaProducer | None) -> None:
        if producer is not None and self._producer is producer:
            self._producer = None
            self._end(producer)

    def _end(self, producer: AIOKafkaProducer) -> None:
        """Stop a producer in the background: the next one need not wait for it."""
        task = asyncio.create_task(_stop(producer))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


async def _stop(producer: AIOKafkaProducer) -> None:
    """End a producer with what it was about to send: its ``stop`` would wait for that as long as nobody takes it."""
    producer._closed = True
    with suppress(Exception):  # it is of no use any more, whatever it says
        async with asyncio.timeout(STOP_SECONDS):
            await producer._sender.close()
    with suppress(Exception):
        async with asyncio.timeout(STOP_SECONDS):
            await producer.client.close()


async def _send_batch(producer: AIOKafkaProducer, topic: str, events: Sequence[CloudEvent]) -> int:
    """Send as many of the events as one batch holds, all of one run, and wait until they are stored."""
    from aiokafka.partitioner import DefaultPartitioner

    batch, count = producer.create_batch(), 0
    key = str(events[0]["partitionkey"]).encode()
    for event in events:
        attributes, value = binary(event)
        headers = [("content-type", event["datacontenttype"].encode())]
        headers += [(f"ce_{name}", str(text).encode()) for name, text in attributes.items()]
        if batch.append(key=key, value=value, timestamp=None, headers=headers) is None:
            break
        count += 1
    batch.close()
    partitions = sorted(await producer.partitions_for(topic))
    partition = DefaultPartitioner()(key, partitions, partitions)
    await (await producer.send_batch(batch, topic, partition=partition))
    return count
