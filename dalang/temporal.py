"""Connecting to Temporal: one data converter for every client, worker and replayer, and one clear error.

Large payloads are kept outside of Temporal by a storage driver; **everything that reads or writes payloads needs the
same driver**, or fails with ``TMPRL1105``. With encryption switched on it needs the keys too (``payload_codec.py``).
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client, Interceptor
from temporalio.common import SearchAttributeKey
from temporalio.contrib.pydantic import PydanticPayloadConverter
from temporalio.converter import (
    DataConverter,
    DefaultFailureConverterWithEncodedAttributes,
    EncodingPayloadConverter,
    ExternalStorage,
    StorageDriver,
)
from temporalio.runtime import Runtime
from temporalio.service import RPCError, RPCStatusCode, TLSConfig

from dalang.encryption_keys import SETTING, watched_keys
from dalang.errors import DalangError, Unavailable
from dalang.temporal_tracing import tracing_interceptors

if TYPE_CHECKING:
    from dalang.settings import Settings

RUN_STATUS = SearchAttributeKey.for_keyword("DalangRunStatus")
PLAN = SearchAttributeKey.for_keyword("DalangPlan")
PLAN_VERSION = SearchAttributeKey.for_keyword("DalangPlanVersion")
TENANT = SearchAttributeKey.for_keyword("DalangTenant")
PRIORITY = SearchAttributeKey.for_int("DalangPriority")
SEARCH_ATTRIBUTES = (RUN_STATUS, PLAN, PLAN_VERSION, TENANT, PRIORITY)

_TRANSIENT = {RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.RESOURCE_EXHAUSTED}


class TemporalUnavailable(Unavailable):
    """Temporal does not answer at the configured address, or refuses us; the text says where and what to do."""


class _Sealed(EncodingPayloadConverter):
    """Says what to do where a process without keys meets an encrypted payload."""

    ENCODING = "binary/encrypted"

    @property
    def encoding(self) -> str:
        return self.ENCODING

    def to_payload(self, value: Any) -> Payload | None:
        return None

    def from_payload(self, payload: Payload, type_hint: type | None = None) -> Any:
        raise EncryptedPayload(f"Payloads in this Temporal are encrypted, and this process has no keys: set {SETTING}.")


class EncryptedPayload(DalangError):
    """A payload is encrypted, and this process was given no keys."""


class SharedPayloadConverter(PydanticPayloadConverter):
    """The SDK's pydantic converter, one instance for the whole process: it holds no state but its cache of types.

    With external storage the SDK makes a new data converter for every payload's context, and each made a new payload
    converter, whose cache was empty: building types again took a tenth of a worker's time.
    """

    _only: ClassVar[SharedPayloadConverter | None] = None

    def __new__(cls) -> SharedPayloadConverter:
        """Return the one instance."""
        if cls._only is None:
            made = super().__new__(cls)
            PydanticPayloadConverter.__init__(made)
            made.converters = {**made.converters, _Sealed.ENCODING.encode(): _Sealed()}
            cls._only = made
        return cls._only

    def __init__(self) -> None:
        """Do nothing: the one instance is ready."""


_CONVERTER = DataConverter(payload_converter_class=SharedPayloadConverter)


def data_converter(settings: Settings, driver: StorageDriver | None = None) -> DataConverter:
    """The converter of all processes: pydantic, encryption where it is on, large payloads through ``driver``.

    Raises:
        SettingsError: the keys file is of no use.
    """
    keys = watched_keys(settings)
    converter = _CONVERTER
    if keys is not None:
        from dalang.payload_codec import EncryptingCodec  # loads OpenSSL

        codec, failures = EncryptingCodec(keys), DefaultFailureConverterWithEncodedAttributes
        converter = dataclasses.replace(converter, payload_codec=codec, failure_converter_class=failures)
    if driver is None:
        return converter
    storage = ExternalStorage(drivers=[driver], payload_size_threshold=settings.payload_threshold_bytes)
    return dataclasses.replace(converter, external_storage=storage)


async def connect(
    settings: Settings,
    *,
    interceptors: Sequence[Interceptor] = (),
    storage_driver: StorageDriver | None = None,
    converter: DataConverter | None = None,
    timeout_seconds: float | None = None,
    runtime: Runtime | None = None,
) -> Client:
    """Connect to Temporal, trying for ``temporal_connect_timeout_seconds`` (or ``timeout_seconds``).

    ``converter`` is one that :func:`data_converter` made, in place of ``storage_driver``; ``runtime`` is not the
    process's own, but one that tells its metrics.
    Raises :class:`TemporalUnavailable`: at once when it refuses us, after that time when it does not answer.
    """
    patience = settings.temporal_connect_timeout_seconds if timeout_seconds is None else timeout_seconds
    deadline = time.monotonic() + patience
    pause = 0.05
    converter = converter or data_converter(settings, storage_driver)
    while True:
        try:
            # Connecting answers for the server, this for the namespace: a missing one would fail every later call.
            client = await _connect_once(settings, interceptors, converter, runtime)
            await _check_namespace(client, settings)
        except (RuntimeError, RPCError) as e:
            if isinstance(e, RPCError) and e.status not in _TRANSIENT | {RPCStatusCode.NOT_FOUND}:
                raise TemporalUnavailable(f"Temporal at {settings.temporal_address} refuses us: {e.message}") from e
            if time.monotonic() + pause > deadline:
                raise TemporalUnavailable(_silence(settings, patience, e)) from e
        else:
            return client
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, 2)


async def ensure_search_attributes(client: Client) -> None:
    """Register Dalang's search attributes in the client's namespace; changes nothing where they exist."""
    known = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=client.namespace)
    )
    missing = {
        key.name: IndexedValueType.ValueType(int(key.indexed_value_type))
        for key in SEARCH_ATTRIBUTES
        if key.name not in known.custom_attributes
    }
    if missing:
        request = AddSearchAttributesRequest(namespace=client.namespace, search_attributes=missing)
        await client.operator_service.add_search_attributes(request)


async def _connect_once(
    settings: Settings, interceptors: Sequence[Interceptor], converter: DataConverter, runtime: Runtime | None
) -> Client:
    return await Client.connect(
        settings.temporal_address,
        namespace=settings.temporal_namespace,
        data_converter=converter,
        interceptors=[*interceptors, *tracing_interceptors()],
        runtime=runtime,
        tls=_tls(settings),
        api_key=settings.temporal_api_key or None,
    )


def _tls(settings: Settings) -> bool | TLSConfig:
    """Return how to speak TLS, with whose certificates; or that it is not spoken."""
    files = (settings.temporal_tls_ca_file, settings.temporal_tls_cert_file, settings.temporal_tls_key_file)
    if not any(files) and not settings.temporal_tls_server_name:
        return settings.temporal_tls or bool(settings.temporal_api_key)
    ca, certificate, key = (Path(file).read_bytes() if file else None for file in files)
    return TLSConfig(
        server_root_ca_cert=ca,
        client_cert=certificate,
        client_private_key=key,
        domain=settings.temporal_tls_server_name or None,
    )


async def _check_namespace(client: Client, settings: Settings) -> None:
    request = DescribeNamespaceRequest(namespace=settings.temporal_namespace)
    await client.workflow_service.describe_namespace(request, timeout=timedelta(seconds=5))


def _silence(settings: Settings, patience: float, error: Exception) -> str:
    if isinstance(error, RPCError) and error.status == RPCStatusCode.NOT_FOUND:
        return (
            f"Temporal at {settings.temporal_address} has no namespace {settings.temporal_namespace!r}: create it "
            f"(`temporal operator namespace create -n {settings.temporal_namespace}`) or set DALANG_TEMPORAL_NAMESPACE."
        )
    return (
        f"Temporal does not answer at {settings.temporal_address} (waited {patience:g} s): start it (`dalang up` runs "
        f"one here) or set DALANG_TEMPORAL_ADDRESS. Last answer: {error}"
    )
