"""Which part is ill, since when, and what that means for the process."""

from __future__ import annotations

import asyncio
import contextlib

from dalang import health
from dalang.health import Check, Health, Ill, round_check, storing_check, summary
from dalang.metrics import FLUSHES, NODES_FAILED, PROCESS, ROUNDS, rounds, storing
from dalang.wire import Fact


async def test_each_part_is_asked_by_itself(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """One that hangs, or breaks with what may be a secret, is ill and holds up no other."""
    monkeypatch.setattr(health, "CHECK_SECONDS", 0.05)
    wrong: dict[str, BaseException | None] = {"vital": None, "beside": None}

    def check(name: str, vital: bool = False) -> Check:
        async def ask() -> None:
            error = wrong[name]
            if isinstance(error, TimeoutError):
                await asyncio.sleep(60)
            if error is not None:
                raise error

        return Check(name, ask, f"mend {name}", vital)

    made = Health([check("vital", vital=True), check("beside")])
    first = await made.parts()
    assert (made.overall(first), summary(first)) == ("ready", {"vital": "ok", "beside": "ok"})
    assert [(part.detail, part.remedy) for part in first] == [("", ""), ("", "")]

    wrong["beside"] = ValueError("postgresql://user:password@host")
    second = await made.parts()
    assert (made.overall(second), summary(second)) == ("ailing", {"vital": "ok", "beside": "ill"})
    assert (second[1].detail, second[1].remedy) == ("ValueError", "mend beside")
    assert second[0].since == first[0].since
    assert second[1].since > first[1].since
    assert (await made.parts())[1].since == second[1].since

    wrong["vital"], wrong["beside"] = TimeoutError(), Ill("two events wait")
    third = await made.parts()
    assert made.overall(third) == "notReady"
    assert [part.detail for part in third] == ["no answer within 0.05 s", "two events wait"]


async def test_a_loop_that_stands_is_ill() -> None:
    """It fails, or is late; it is well again once it has gone round."""
    made = Health([round_check("test-loop", "look at it")])
    assert summary(await made.parts()) == {"test-loop": "ok"}  # it has not begun
    loop = rounds("test-loop", 5)
    assert summary(await made.parts()) == {"test-loop": "ok"}
    loop.failed(ConnectionError("host"))
    (part,) = await made.parts()
    assert (part.state, part.detail.endswith(": ConnectionError")) == ("ill", True)
    loop.went()
    assert summary(await made.parts()) == {"test-loop": "ok"}
    loop.at -= 60
    assert summary(await made.parts()) == {"test-loop": "ill"}
    del ROUNDS["test-loop"]


async def test_an_event_that_is_not_stored_makes_storing_ill() -> None:
    """As long as it waits; a batch that was not stored counts as such, and none of its events."""
    made = Health([storing_check()])
    error = {"type": "POLICY_VIOLATION", "message": "no"}
    facts: list[Fact] = [{"seq": 1, "type": "NODE_FAILED", "at": 1_000, "nodeId": "n", "body": {"error": error}}]

    def counted() -> tuple[float, ...]:
        stored, failed = (FLUSHES.labels(one)._value.get() for one in ("stored", "failed"))
        return stored, failed, NODES_FAILED.labels("POLICY_VIOLATION")._value.get()

    before = counted()
    with contextlib.suppress(ConnectionError), storing(facts):
        assert summary(await made.parts()) == {"storing": "ill"}
        assert (PROCESS.get_sample_value("dalang_flush_oldest_seconds") or 0) > 1e6
        raise ConnectionError
    with storing(facts):
        pass
    assert summary(await made.parts()) == {"storing": "ok"}
    assert [now - then for now, then in zip(counted(), before, strict=True)] == [1, 1, 1]
