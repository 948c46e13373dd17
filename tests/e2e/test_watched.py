"""What operators see of a run that went through an API and two workers: traces, lines, metrics, health."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from dalang.settings import Settings
from dalang.stack import ports
from dalang.stack.private_files import make_home
from dalang.stack.supervisor import stack
from tests.e2e.collector import Outside, Seen, outside
from tests.harness import LOOPBACK_ALLOWED, PATIENCE, ROOT, Servers

SECRET = "hunter2-and-more"
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def plan(address: str) -> dict[str, Any]:
    """Two requests, the first of which fails once, and between them a wait in which workers change."""
    retry = {"maxAttempts": 3, "backoffStrategy": "FIXED", "initialDelayMs": 10, "jitter": False}
    return {
        "name": "watched",
        "nodes": [
            {
                "nodeId": "first",
                "type": "http",
                "inputs": {"url": f"{address}/ill-once?key={{{{secret://shop-token}}}}"},
                "retryPolicy": retry,
            },
            {"nodeId": "wait", "type": "event", "inputs": {"name": "go", "timeout": "10m"}},
            {"nodeId": "second", "type": "http", "inputs": {"url": f"{address}/well"}},
        ],
        "edges": [
            {"sourceNodeId": "first", "targetNodeId": "wait"},
            {"sourceNodeId": "wait", "targetNodeId": "second"},
        ],
    }


@dataclass
class Watched:
    """What was seen."""

    run_id: str
    outside: Outside
    worker: dict[str, str]
    numbers: dict[str, float]
    api: dict[str, str]
    snapshot: dict[str, Any]
    health: dict[str, Any]
    live: int
    lines: dict[str, list[str]]

    def spans(self, name: str) -> list[Seen]:
        """The spans of our trace with this name."""
        return [one for one in self.outside.spans.values() if (one.trace, one.name) == (TRACE, name)]


@pytest.fixture
async def watched(servers: Servers, superuser: asyncpg.Connection) -> AsyncIterator[Watched]:
    home = make_home(Path(tempfile.mkdtemp(prefix="dalang-watched-")))
    database = await servers.create_database(superuser)
    first, second = ports.free_ports(2)
    with outside() as it, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DALANG_SECRET_SHOP_TOKEN", SECRET)
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", it.address)
        patch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=of%20ours")
        settings = Settings.load(
            home=home,
            running_stack=False,
            database_url=database.url,
            migration_database_url=database.owner_url,
            temporal_address=servers.temporal_address,
            egress_allow=LOOPBACK_ALLOWED,
            task_queue=f"watched-{uuid.uuid4().hex[:8]}",
            api_port=first,
            worker_metrics_port=f"{second}",
            log_format="json",
        )
        async with stack(settings, ("worker", "api")) as running:
            headers = {"Authorization": f"Bearer {settings.read_token()}"}
            async with httpx.AsyncClient(base_url=running.settings.api_url, headers=headers, timeout=30) as client:
                traced = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
                begun = await client.post("/orchestrator/execute", json={"plan": plan(it.address)}, headers=traced)
                run_id = begun.json()["runId"]
                await _until(client, f"/orchestrator/runs/{run_id}/nodes/wait", "RUNNING", "AWAITING_EVENT", "WAITING")
                await running.stop("worker")
                await running.start("worker")
                sent = await client.post(f"/orchestrator/runs/{run_id}/events", json={"name": "go"})
                assert sent.is_success, sent.text
                await _until(client, f"/orchestrator/runs/{run_id}", "COMPLETED")
                of_worker = f"http://127.0.0.1:{second}"
                text = (await client.get(f"{of_worker}/metrics")).text
                found = Watched(
                    run_id,
                    it,
                    _families(text),
                    dict(_numbers(text)),
                    _families((await client.get("/metrics")).text),
                    (await client.get("/orchestrator/metrics")).json(),
                    (await client.get(f"{of_worker}/health/ready")).json(),
                    (await client.get(f"{of_worker}/health/live")).status_code,
                    {},
                )
        # They send what is left of traces before they end.
        for name in ("worker", "api"):
            found.lines[name] = (home / "logs" / f"{name}.log").read_text().splitlines()
        yield found
    shutil.rmtree(home, ignore_errors=True)


async def _until(client: httpx.AsyncClient, path: str, *statuses: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            response = await client.get(path)
            if response.is_success and response.json()["status"] in statuses:
                return
            await asyncio.sleep(0.05)


def _families(text: str) -> dict[str, str]:
    """Return what is exported, by the names that queries use, and of what type it is."""
    endings = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "summary": ["", "_sum", "_count"]}
    found = {}
    for family in text_string_to_metric_families(text):
        for ending in endings.get(family.type, [""]):
            found[family.name + ending] = family.type
    return found


def check_one_trace_from_the_callers_request_to_the_services(watched: Watched) -> None:
    """The second request is of another worker than the one that began the run, and of the same trace."""
    for path in ("/ill-once", "/well"):
        sent = watched.outside.calls[path][-1]["traceparent"].split("-")
        assert sent[1] == TRACE
        chain = watched.outside.chain(sent[2])
        assert chain[:3] == ["GET", "RunActivity:http", "StartActivity:http"]
        assert chain[-3:] == ["StartWorkflow:PlanRun", "POST /orchestrator/execute", CALLER]
    assert watched.outside.headers["x-key"] == "of ours"


def check_spans_tell_what_they_are_about(watched: Watched) -> None:
    """By attributes; what failed is marked, and the address of nobody is told in full."""
    attempts = watched.spans("RunActivity:http")
    about = [
        {name.removeprefix("dalang."): value for name, value in one.attributes.items() if name.startswith("dalang.")}
        for one in attempts
    ]
    common = {"run_id": watched.run_id, "plan": "watched", "tenant": "default"}
    assert sorted(about, key=lambda one: (one["node_id"], one["attempt"])) == [
        {**common, "node_id": "first", "attempt": 1},
        {**common, "node_id": "first", "attempt": 2},
        {**common, "node_id": "second", "attempt": 1},
    ]
    failed = [one for one in attempts if one.failed]
    assert [one.attributes["error.type"] for one in failed] == ["NETWORK_ERROR"]
    assert {one.attributes["http.response.status_code"] for one in watched.spans("GET")} == {200, 503}
    (request,) = watched.spans("POST /orchestrator/execute")
    assert request.attributes["dalang.run_id"] == watched.run_id
    assert (request.service, request.attributes["http.response.status_code"]) == ("dalang-api", 202)
    assert {one.service for one in attempts} == {"dalang-worker"}
    assert SECRET not in repr(watched.outside.spans)
    assert "ill-once" not in repr(watched.outside.spans)


def check_every_line_is_an_object_with_fields(watched: Watched) -> None:
    """Of worker and API, from the first line to the last; the secret in an address is masked."""
    for lines in watched.lines.values():
        assert SECRET not in "\n".join(lines)
    worker, api = ([json.loads(line) for line in watched.lines[name]] for name in ("worker", "api"))
    (failed,) = [line for line in worker if line["message"].startswith("attempt 1 of node first failed")]
    about = {"run": watched.run_id, "node": "first", "attempt": 1, "tenant": "default", "trace": TRACE}
    assert {name: failed.get(name) for name in about} == about
    assert "/ill-once?key=*** answered 503" in failed["error"]
    (ended,) = [line for line in worker if line["message"] == "the run ended COMPLETED"]
    assert (ended["run"], ended["tenant"], ended["trace"]) == (watched.run_id, "default", TRACE)
    (asked,) = [line for line in api if line.get("route") == "/orchestrator/execute"]
    assert (asked["logger"], asked["tenant"], asked["trace"], asked["status"]) == (
        "dalang.access",
        "default",
        TRACE,
        202,
    )
    assert asked["request"]
    assert asked["run"] == watched.run_id
    assert any(line.get("run") == watched.run_id for line in api)
    assert not [line for line in api if line.get("route") == "/health/ready"]


def check_a_worker_tells_of_its_parts(watched: Watched) -> None:
    """On the port of its metrics."""
    parts = ("database", "migrations", "temporal", "workers", "backlog", "storing", "publisher", "leases", "keys")
    assert watched.health == {"status": "ready", "checks": dict.fromkeys(parts, "ok")}
    assert watched.live == 200


def check_metrics_count_what_was_done(watched: Watched) -> None:
    """By the second of the workers: one request, two nodes that ended, and what stands in the tables of all."""
    expected = {
        'dalang_activities_total{outcome="completed",type="http"}': 1,
        'dalang_activity_seconds_count{type="http"}': 1,
        'dalang_activities_in_flight{type="http"}': 0,
        'dalang_events_recorded_total{type="PLAN_COMPLETED"}': 1,
        'dalang_events_recorded_total{type="NODE_COMPLETED"}': 2,
        'dalang_runs{status="COMPLETED",tenant="default"}': 1,
        'dalang_usage_today{measure="nodes",tenant="default"}': 3,
    }
    assert {name: watched.numbers.get(name) for name in expected} == expected
    stored = watched.numbers['dalang_flushes_total{outcome="stored"}']
    assert stored == watched.numbers["dalang_flush_lag_seconds_count"] > 0
    assert watched.numbers["dalang_flush_bytes_total"] > 100 * stored
    assert not [name for name in watched.numbers if watched.run_id in name]


def check_the_snapshot_is_axons(watched: Watched) -> None:
    """By its names."""
    numbers = watched.snapshot
    assert numbers.pop("total_execution_time") == pytest.approx(numbers.pop("avg_workflow_duration_ms"), abs=1)
    assert numbers == {
        "workflows_executed": 1,
        "workflows_succeeded": 1,
        "workflows_failed": 0,
        "tasks_executed": 3,
        "tasks_retried": 1,
    }


def _numbers(text: str) -> Iterator[tuple[str, float]]:
    """Return every sample by its name and labels."""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            yield (f"{sample.name}{{{labels}}}" if labels else sample.name), sample.value


def check_the_docs_list_every_metric(watched: Watched) -> None:
    """And no other; those of the SDK stand in its own docs."""
    text = (ROOT / "docs" / "observability.md").read_text()
    listed = set(re.findall(r"`(dalang_\w+)`", text.partition("## Metrics")[2].partition("## Health")[0]))
    exported = {name for name in (watched.worker | watched.api) if name.startswith("dalang_")}
    assert listed == {re.sub("_(bucket|sum|count)$", "", name) if _is_part(name) else name for name in exported}
    assert any(name.startswith("temporal_") for name in watched.worker)


def check_alerts_and_dashboard_ask_for_what_is_exported(watched: Watched) -> None:
    """In PromQL that parses; ``up`` is Prometheus's own."""
    exported = (watched.worker | watched.api).keys() | {"up"}
    board = json.loads((ROOT / "deploy/grafana/dalang.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    assert len(queries) > 30
    rules = _alerts()
    for query in queries + [rule["expr"] for rule in rules]:
        asked = _asked_for(re.sub(r"\$__rate_interval", "5m", query))
        assert asked, query
        assert asked <= exported, query


def test_every_alert_has_a_runbook() -> None:
    """At the address that it names; and no runbook is without its alert."""
    headings = re.findall(r"^## (\w+)$", (ROOT / "docs/runbooks.md").read_text(), re.MULTILINE)
    assert headings == [rule["alert"] for rule in _alerts()]
    for rule in _alerts():
        assert rule["annotations"]["runbook_url"] == f"docs/runbooks.md#{rule['alert'].lower()}"
        assert rule.keys() <= {
            "alert",
            "expr",
            "for",
            "labels",
            "annotations",
        }  # Prometheus refuses what it does not know
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert "for" not in rule or promql_parser.parse_duration(rule["for"])
        assert rule["annotations"]["summary"]


def _is_part(name: str) -> bool:
    return name.endswith(("_seconds_bucket", "_seconds_sum", "_seconds_count"))


def _alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _asked_for(expression: str) -> set[str]:
    """Return the metrics that a PromQL expression asks for; raises if it is none."""
    names: set[str] = set()

    def visit(node: Any) -> None:
        selector = getattr(node, "vector_selector", node)
        if isinstance(selector, promql_parser.VectorSelector):
            names.add(selector.name)

    promql_parser.walk(promql_parser.parse(expression), visit)
    return names


def test_a_run_is_seen(watched: Watched, subtests: pytest.Subtests) -> None:
    """One test, since test processes share no fixtures, and this one starts an API and two workers."""
    for check in (
        check_one_trace_from_the_callers_request_to_the_services,
        check_spans_tell_what_they_are_about,
        check_every_line_is_an_object_with_fields,
        check_a_worker_tells_of_its_parts,
        check_metrics_count_what_was_done,
        check_the_snapshot_is_axons,
        check_the_docs_list_every_metric,
        check_alerts_and_dashboard_ask_for_what_is_exported,
    ):
        with subtests.test(check.__name__):
            check(watched)
