"""Queries about plans, nodes, events, attempts, bodies and tokens."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from dalang.canonical import compact_json
from dalang.errors import Conflict, NotFound
from dalang.plan import Node, Plan, derived_plan_id
from dalang.store import events, nodes, plans, references, retention, tokens
from dalang.store.engine import system_transaction, transaction
from dalang.store.tables import run_events
from tests.store.world import START, TENANT, World, begun, ended, fact, other_run, tamper


def plan(version: str = "1.0.0", name: str = "deploy", **changes: Any) -> Plan:
    return Plan(name=name, version=version, nodes=(Node(node_id="a", type="noop"),), **changes)


async def put(world: World, what: Plan, tenant: str = TENANT) -> tuple[plans.StoredPlan, bool]:
    async with transaction(world.engine, tenant) as conn:
        return await plans.put_plan(conn, tenant, what, created_by="alice")


async def test_a_stored_version_never_changes(world: World) -> None:
    """The same content again is what is there; other content under the same version is a conflict."""
    first, new = await put(world, plan(priority=1000, timeout="2h", metadata={"x": 1.5}))
    assert new
    again, new = await put(world, plan(priority=1000, timeout="2h", metadata={"x": 1.5}))
    assert (again, new) == (first, False)
    with pytest.raises(Conflict, match="never changes"):
        await put(world, plan(description="other"))
    assert Plan.model_validate(first.document).digest() == first.digest
    assert (first.node_count, first.edge_count, first.plan_id) == (1, 0, derived_plan_id("deploy"))
    assert (await put(world, plan(description="other"), "other"))[1], "of another tenant it is another plan"


async def test_without_a_version_the_highest_is_meant(world: World) -> None:
    """Precedence is that of semantic versions, not of texts or of time."""
    versions = ["draft", "1.9.0", "1.10.0-rc.1", "1.10.0", "1.2.0"]
    for version in versions:
        await put(world, plan(version))
    plan_id = derived_plan_id("deploy")
    async with transaction(world.engine, TENANT) as conn:
        highest = await plans.get_plan(conn, TENANT, plan_id)
        named = await plans.find_plan(conn, TENANT, "deploy")
        assert highest is not None
        assert (highest.version, highest) == ("1.10.0", named)
        listed = [one.version for one in await plans.list_versions(conn, TENANT, plan_id)]
        assert listed == ["1.10.0", "1.10.0-rc.1", "1.9.0", "1.2.0", "draft"]
        exact = await plans.find_plan(conn, TENANT, "deploy", "1.9.0")
        assert exact is not None
        assert await plans.get_document(conn, TENANT, exact.digest) == exact.document
        assert await plans.get_document(conn, "other", exact.digest) is None
        assert await plans.get_plan(conn, TENANT, plan_id, "3") is None
        assert await plans.get_plan(conn, "other", plan_id) is None
        assert await plans.find_plan(conn, TENANT, "nothing") is None


def test_versions_sort_as_the_specification_says() -> None:
    """The example of semver.org, section 11, and what is beside the specification."""
    order = [
        *("draft", "latest"),
        *("1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11"),
        *("1.0.0-rc.1", "1.0.0", "1.0.0.1", "v1.0.1", "1.2", "1.10", "2.0.0", "10.0.0", "9" * 60),
    ]
    for lower, higher in pairwise(order):
        assert plans.version_order(lower) < plans.version_order(higher), (lower, higher)
    assert plans.version_order("1.2") == plans.version_order("1.2.0+build")


@given(
    st.lists(st.integers(0, 10**12), min_size=1, max_size=5), st.lists(st.integers(0, 10**12), min_size=1, max_size=5)
)
def test_versions_of_numbers_sort_as_their_numbers(one: list[int], other: list[int]) -> None:
    """Whatever the count of digits."""

    def key(numbers: list[int]) -> list[int]:
        return numbers + [0] * (3 - len(numbers))

    texts = [plans.version_order(".".join(map(str, numbers))) for numbers in (one, other)]
    assert (texts[0] < texts[1]) == (key(one) < key(other))


async def test_plans_are_listed_by_name_in_pages(world: World) -> None:
    """Each plan once, in its highest version."""
    for name in ("b", "a", "c_1"):
        await put(world, plan("1.0.0", name))
        await put(world, plan("2.0.0", name))
    async with transaction(world.engine, TENANT) as conn:
        first = await plans.list_plans(conn, TENANT, limit=2)
        rest = await plans.list_plans(conn, TENANT, limit=2, cursor=first.cursor)
        assert [(one.name, one.version) for one in (*first.items, *rest.items)] == [
            ("a", "2.0.0"),
            ("b", "2.0.0"),
            ("c_1", "2.0.0"),
        ]
        assert rest.cursor is None
        assert [one.name for one in (await plans.list_plans(conn, TENANT, text="C_")).items] == ["c_1"]
        assert await plans.count_plans(conn, TENANT) == 3


async def test_nodes_are_listed_counted_and_found(world: World) -> None:
    """By id, by status, in pages, and those with attempts left."""
    run, _ = await world.whole()
    async with transaction(world.engine, TENANT) as conn:
        assert [node.node_id for node in await nodes.list_nodes(conn, TENANT, run.run_id)] == ["a", "b", "c"]
        page = await nodes.list_nodes(conn, TENANT, run.run_id, after="a", limit=1)
        assert [(node.node_id, node.status, node.attempt) for node in page] == [("b", "FAILED", 1)]
        skipped = await nodes.list_nodes(conn, TENANT, run.run_id, statuses=["SKIPPED"])
        assert [(node.node_id, node.skip_reason) for node in skipped] == [("c", "upstreamFailed")]
        counts = await nodes.count_nodes_by_status(conn, TENANT, run.run_id)
        assert counts == {"SUCCESS": 1, "FAILED": 1, "SKIPPED": 1}
        assert await nodes.list_nodes(conn, "other", run.run_id) == []
        assert await nodes.list_retryable_nodes(conn, TENANT, run.run_id) == []
    other = await world.run()
    failed = [fact(5, "NODE_FAILED", "a", {"error": {}}, status="FAILED", attempt=2)]
    await world.flush(other, [*begun(), *failed])
    async with transaction(world.engine, TENANT) as conn:
        assert [node.node_id for node in await nodes.list_retryable_nodes(conn, TENANT, other.run_id)] == ["a"]


async def test_a_node_shows_what_went_in_and_out(world: World) -> None:
    """Values in events, in bodies beside them, and as whole bodies elsewhere."""
    run, _ = await world.whole()
    async with transaction(world.engine, TENANT) as conn:
        a, b = [await nodes.get_node(conn, TENANT, run.run_id, node) for node in "ab"]
        assert await nodes.get_node(conn, TENANT, run.run_id, "nothing") is None
        assert await nodes.get_node(conn, "other", run.run_id, "a") is None
        large = await references.put_body(conn, TENANT, compact_json({"report": "x" * 10}))
        whole = await references.put_body(conn, TENANT, compact_json({"outputs": {"all": 1}}))
    async with transaction(world.engine, "other") as conn:
        theirs = await references.put_body(conn, "other", compact_json({"secret": 1}))
    assert a is not None
    assert b is not None
    assert (a.inputs, a.outputs, a.error) == ({"x": 1}, {"y": 2.5}, None)
    assert (b.outputs, b.error["message"]) == (None, "broken")
    other = await world.run()
    facts = [
        *begun(),
        fact(5, "NODE_COMPLETED", "a", {"outputs": {"part": large, "foreign": theirs}}, status="SUCCESS"),
        fact(6, "NODE_COMPLETED", "b", whole, status="SUCCESS"),
        fact(7, "PLAN_COMPLETED", None, whole, status="COMPLETED"),
    ]
    await world.flush(other, facts, status="COMPLETED")
    async with transaction(world.engine, TENANT) as conn:
        a, b = [await nodes.get_node(conn, TENANT, other.run_id, node) for node in "ab"]
    assert a is not None
    assert b is not None
    assert a.outputs == {"part": {"report": "x" * 10}, "foreign": theirs}, "another tenant's body stays a reference"
    assert b.outputs == {"all": 1}
    assert (await world.get(other)).outputs == {"all": 1}


async def test_a_second_generation_starts_from_nothing(world: World) -> None:
    """A node that runs again has no outputs, one attempt, and new times; its first row was made by its first event."""
    run, head = await world.whole()
    again = [fact(9, "NODE_STARTED", "b", status="RUNNING", generation=1, maxAttempts=2)]
    await world.flush(run, again, head, status="RUNNING")
    async with transaction(world.engine, TENANT) as conn:
        node = await nodes.get_node(conn, TENANT, run.run_id, "b")
    assert node is not None
    assert (node.generation, node.attempt, node.max_attempts, node.error, node.inputs) == (1, 1, 2, None, None)
    assert node.started_at == datetime.fromtimestamp((START + 9000) / 1000, UTC)
    assert node.created_at < node.started_at
    assert node.completed_at is None
    assert (await world.get(run)).status == "RUNNING", "the status the workflow reports wins"


async def test_a_run_has_not_ended_before_its_last_facts_are_there(world: World) -> None:
    """Who waits for the end reads nodes next; a batch made after the end may still be of facts from before it."""
    run = await world.run()
    head = await world.flush(run, begun(), status="FAILED", counts={"SUCCESS": 1, "FAILED": 1, "SKIPPED": 1})
    early = await world.get(run)
    assert (early.status, early.completed_at) == ("RUNNING", None)
    await world.flush(run, ended(), head, status="FAILED")
    late = await world.get(run)
    assert late.status == "FAILED"
    assert late.completed_at is not None


async def test_events_are_read_on_from_where_one_was(world: World) -> None:
    """In order across epochs, with bodies on request, without what was superseded on request."""
    run, _ = await world.whole()
    async with transaction(world.engine, TENANT) as conn:
        hash_ = (await conn.execute(select(run_events.c.hash).where(run_events.c.seq == 7))).scalar_one()
    await world.flush(run, [fact(8, "X")], {"epoch": 0, "seq": 7, "hash": hash_}, current=True)
    async with transaction(world.engine, TENANT) as conn:
        all_ = await events.list_events(conn, TENANT, run.run_id)
        assert [event.id for event in all_] == [f"0.{seq}" for seq in range(1, 9)] + ["1.8"]
        assert [event.superseded for event in all_[6:]] == [False, True, False]
        rest = await events.list_events(conn, TENANT, run.run_id, after=(0, 7), superseded=False)
        assert [event.id for event in rest] == ["1.8"]
        [two] = await events.list_events(conn, TENANT, run.run_id, after=(0, 1), limit=1, bodies=True, resolved=True)
        assert (two.body, two.data) == ({"inputs": {"feature": "login"}}, {"status": "RUNNING"})
        assert all_[1].body is None
        assert all_[1].body_digest is not None
        of_a = await events.list_events(conn, TENANT, run.run_id, node_id="a")
        assert [event.type for event in of_a] == ["NODE_STARTED", "NODE_COMPLETED"]
        assert await events.list_events(conn, "other", run.run_id) == []


async def test_a_failed_attempt_is_kept_once(world: World) -> None:
    """Reports are repeated, come late, and hold errors that cannot be stored."""
    run = await world.run()
    when = datetime(2027, 1, 1, tzinfo=UTC)
    async with transaction(world.engine, TENANT) as conn:
        for attempt, error in ((2, {"message": "\x00"}), (1, {"message": "x"}), (1, {"message": "again"})):
            place = {"generation": 0, "attempt": attempt, "ended_at": when + timedelta(seconds=attempt)}
            await nodes.record_attempt(conn, TENANT, run.run_id, "a", error=error, worker="w", **place)  # type: ignore[arg-type]
        gone = {"generation": 0, "attempt": 1, "ended_at": when, "error": {}}
        await nodes.record_attempt(conn, TENANT, other_run(), "a", **gone)  # type: ignore[arg-type]
        found = await nodes.list_attempts(conn, TENANT, run.run_id, node_id="a")
        assert [(one.attempt, one.worker) for one in found] == [(1, "w"), (2, "w")]
        assert found[0].error == {"message": "x"}
        assert "could not be stored" in found[1].error["message"]
        assert await nodes.list_attempts(conn, "other", run.run_id) == []


async def test_bodies_stay_as_long_as_a_run_refers_to_them(world: World, intruder: AsyncEngine) -> None:
    """One content is one row; it is deleted some time after nobody refers to it."""
    run = await world.run()
    async with transaction(world.engine, TENANT) as conn:
        kept = await references.put_body(conn, TENANT, compact_json({"a": 1}))
        assert await references.put_body(conn, TENANT, compact_json({"a": 1})) == kept
        await references.put_body(conn, TENANT, compact_json({"b": 2}))
    await world.flush(run, [fact(1, "X", "a", {"outputs": {"deep": [kept]}})])
    async with transaction(world.engine, TENANT) as conn:
        assert await references.delete_unreferenced_bodies(conn, 60) == 0
    await tamper(intruder, "UPDATE bodies SET touched_at = now() - interval '1 hour'")
    async with transaction(world.engine, TENANT) as conn:
        assert await references.delete_unreferenced_bodies(conn, 60) == 1
        assert await references.resolve(conn, TENANT, [kept, {"$ref": "#/x"}]) == [{"a": 1}, {"$ref": "#/x"}]


async def test_finished_runs_go_and_leave_their_heads(world: World, intruder: AsyncEngine) -> None:
    """Only what has ended, of one tenant or all, some at a time; a late flush of one is refused."""
    run, head = await world.whole()
    going, theirs = await world.run(), await world.run(tenant_id="other")
    await world.flush(going, begun())
    await tamper(
        intruder, "UPDATE execution_runs SET status = 'FAILED', completed_at = now() WHERE tenant_id = 'other'"
    )
    await tamper(
        intruder, "UPDATE execution_runs SET completed_at = now() - interval '1 day' WHERE completed_at > now()"
    )
    async with system_transaction(world.engine) as conn:
        assert await retention.delete_finished_runs(conn, datetime(2000, 1, 1, tzinfo=UTC)) == 0
        soon = datetime.now(UTC) + timedelta(days=1)
        assert await retention.delete_finished_runs(conn, soon, tenant_id=TENANT) == 1
        assert await retention.delete_finished_runs(conn, soon, tenant_id=TENANT) == 0
        left = await retention.get_retired_run(conn, TENANT, run.run_id)
        assert left is not None
        assert ({"epoch": left.head_epoch, "seq": left.head_seq, "hash": left.head_hash}, left.status) == (
            head,
            "FAILED",
        )
        assert await retention.get_retired_run(conn, "other", run.run_id) is None
    assert {row[0] for row in await world.rows("SELECT run_id FROM execution_runs")} == {going.run_id, theirs.run_id}
    assert await world.rows("SELECT DISTINCT run_id FROM run_events") == [(going.run_id,)]
    with pytest.raises(NotFound):
        await world.flush(run, [fact(9, "X")], head, current=True)
    with pytest.raises(Conflict):
        async with transaction(world.engine, TENANT) as conn:
            await retention.erase_bodies(conn, TENANT, going.run_id)


async def test_a_token_is_known_by_its_hash_only(world: World) -> None:
    """It is valid until it expires or is revoked, for its tenant and roles."""
    async with transaction(world.engine, TENANT) as conn:
        plain, made = await tokens.create_token(conn, TENANT, "alice", ["viewer", "admin", "viewer"], name="laptop")
        assert made.roles == ("admin", "viewer")
        found = await tokens.verify_token(conn, plain)
        assert found is not None
        assert (found.tenant_id, found.subject, found.name, found.token_id) == (
            TENANT,
            "alice",
            "laptop",
            made.token_id,
        )
        assert await tokens.verify_token(conn, plain + "x") is None
        assert await tokens.verify_token(conn, "\ud800") is None
        assert (await tokens.list_tokens(conn, TENANT)).items[0].last_used_at is not None
        past = datetime(2000, 1, 1, tzinfo=UTC)
        expired, _ = await tokens.create_token(conn, TENANT, "bob", ["viewer"], expires_at=past)
        assert await tokens.verify_token(conn, expired) is None
        assert not await tokens.revoke_token(conn, "other", made.token_id)
        assert await tokens.revoke_token(conn, TENANT, made.token_id)
        assert not await tokens.revoke_token(conn, TENANT, made.token_id)
        assert await tokens.verify_token(conn, plain) is None
        await tokens.ensure_token(conn, plain, TENANT, "alice", ["viewer"])
        assert await tokens.verify_token(conn, plain) is None, "revoked stays revoked"
        assert (await tokens.list_tokens(conn, "other")).items == []
        with pytest.raises(ValueError, match="roles are"):
            await tokens.create_token(conn, TENANT, "x", ["root"])
    assert plain not in str(await world.rows("SELECT * FROM api_tokens"))


async def test_a_token_made_elsewhere_is_ensured_once(world: World) -> None:
    """`dalang up` brings its token at every start."""
    token = "local-" + uuid4().hex
    for _ in range(2):
        async with transaction(world.engine, TENANT) as conn:
            await tokens.ensure_token(conn, token, TENANT, "local", ["admin"])
            assert len((await tokens.list_tokens(conn, TENANT)).items) == 1
            found = await tokens.verify_token(conn, token)
            assert found is not None
            assert isinstance(found.token_id, UUID)
