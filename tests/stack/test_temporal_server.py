"""The embedded Temporal server, and connecting to it."""

import urllib.error
import urllib.request
from pathlib import Path

import pytest
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client

from dalang.settings import Settings
from dalang.stack.ports import LOOPBACK, free_port
from dalang.stack.temporal_server import TemporalPorts, TemporalServer
from dalang.temporal import SEARCH_ATTRIBUTES, TemporalUnavailable, connect, ensure_search_attributes


async def client_of(server: TemporalServer) -> Client:
    return await connect(Settings(temporal_address=server.address))


async def test_runs_outlive_stop_and_kill(home: Path) -> None:
    """Kept data means: the run that was started before is found after either way to end."""
    server = TemporalServer(home, TemporalPorts.free(), retention_days=9)
    await server.start()
    try:
        handle = await (await client_of(server)).start_workflow("Any", id="kept", task_queue="nobody")
        for end in (server.stop, server.kill):
            await end()
            await server.start()
            description = await (await client_of(server)).get_workflow_handle("kept").describe()
            assert description.run_id == handle.result_run_id
        answer = await (await client_of(server)).workflow_service.describe_namespace(
            DescribeNamespaceRequest(namespace="default")
        )
        assert answer.config.workflow_execution_retention_ttl.ToTimedelta().days == 9
    finally:
        await server.stop()


async def test_the_http_api_refuses_everybody(home: Path) -> None:
    """A page in a browser on this machine could otherwise terminate runs."""
    server = TemporalServer(home, TemporalPorts.free(), durable=False)
    await server.start()
    try:
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://{LOOPBACK}:{server.ports.http}/api/v1/namespaces", timeout=5)
        assert refused.value.code == 403
    finally:
        await server.stop()


async def test_a_cut_off_first_start_is_begun_anew(home: Path) -> None:
    """A database file without tables would never become one with tables."""
    (home / "temporal").mkdir()
    (home / "temporal" / "temporal.db").touch()
    server = TemporalServer(home, TemporalPorts.free(), durable=False)
    await server.start()
    await server.stop()


async def test_search_attributes_are_registered_once(temporal_client: Client) -> None:
    """Registering them again changes nothing, and they can be searched by."""
    await ensure_search_attributes(temporal_client)
    await ensure_search_attributes(temporal_client)
    for key in SEARCH_ATTRIBUTES:
        value = "987654" if key.indexed_value_type.name == "INT" else '"none"'
        assert [run async for run in temporal_client.list_workflows(f"{key.name} = {value}")] == []


async def test_a_silent_temporal_is_named_after_the_time_given() -> None:
    """The error names the address and the setting."""
    port = free_port()
    with pytest.raises(TemporalUnavailable, match=rf"127\.0\.0\.1:{port} \(waited 0.3 s\).*DALANG_TEMPORAL_ADDRESS"):
        await connect(Settings(temporal_address=f"127.0.0.1:{port}"), timeout_seconds=0.3)


async def test_a_missing_namespace_is_named(temporal_address: str) -> None:
    """Connecting would succeed, and every later call fail."""
    settings = Settings(temporal_address=temporal_address, temporal_namespace="nowhere")
    with pytest.raises(TemporalUnavailable, match="no namespace 'nowhere'"):
        await connect(settings, timeout_seconds=0.1)
