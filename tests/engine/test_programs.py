"""Programs on their way: read once, handed on as they came."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from temporalio import workflow
from temporalio.common import RawValue
from temporalio.contrib.pydantic import PydanticPayloadConverter

from dalang import worker_memory
from dalang.compilation import compile_plan
from dalang.plan import Plan, with_derived_ids
from dalang.program import ProgramCache
from dalang.program_columns import read_in_columns
from dalang.workflows import programs
from dalang.workflows.plan_run import PlanRun


def test_the_sdk_leaves_a_program_as_it_came() -> None:
    """A program of 18 MB is not read at each continue-as-new, only to be written again."""
    definition = workflow._Definition.must_from_class(PlanRun)
    assert definition.arg_types is not None
    assert definition.arg_types[0] is RawValue
    assert len(definition.arg_types) == 2


def test_a_payload_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """All runs of a plan in a worker have one program, whichever brings it."""
    read: list[str] = []

    def counting(text: str) -> dict[str, Any] | None:
        read.append(text)
        return read_in_columns(text)

    monkeypatch.setattr(programs, "read_in_columns", counting)
    plan = with_derived_ids(Plan.model_validate({"name": "read once", "nodes": [{"nodeId": "n", "type": "noop"}]}))
    document = compile_plan(plan)
    converter = PydanticPayloadConverter()
    payloads = [converter.to_payloads([document])[0] for _ in range(2)]
    first, second = (programs.program_of(RawValue(one)) for one in payloads)
    assert first is second
    assert len(read) == 1
    assert (first.ids, list(first.types), first.document["policy"]) == (["n"], ["noop"], document["policy"])
    assert programs.program_of(None, first.digest) is first


def test_other_payloads_are_no_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes under another encoding are another value, whatever is held under their digest."""
    monkeypatch.setattr(workflow, "payload_converter", PydanticPayloadConverter)
    payload = PydanticPayloadConverter().to_payloads([b"{}"])[0]
    with pytest.raises(TypeError):
        programs.program_of(RawValue(payload))


async def test_what_executions_left_is_freed_while_a_large_program_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of a worker does not grow with each continue-as-new of a large program; others cost no search."""
    kept, collected = ProgramCache(), asyncio.Event()
    monkeypatch.setattr(programs, "_kept", kept)
    monkeypatch.setattr(programs, "LARGE", 3)
    monkeypatch.setattr(worker_memory, "TIDY_SECONDS", 0.001)
    monkeypatch.setattr(worker_memory.gc, "collect", collected.set)
    converter = PydanticPayloadConverter()
    monkeypatch.setattr(workflow, "payload_converter", lambda: converter)
    tidying = asyncio.create_task(worker_memory.tidy_for_ever())
    for name, count in (("small", 2), ("large", 3)):
        nodes = [{"nodeId": f"n{at}", "type": "noop"} for at in range(count)]
        plan = with_derived_ids(Plan.model_validate({"name": name, "nodes": nodes}))
        assert not collected.is_set()
        programs.program_of(RawValue(converter.to_payloads([compile_plan(plan)])[0]))
        await asyncio.sleep(0.02)
    await asyncio.wait_for(collected.wait(), 30)
    tidying.cancel()
    collected.clear()
    seldom = worker_memory.Tidying(1 << 40)
    seldom.step()
    assert collected.is_set()
    collected.clear()
    seldom.step()
    assert not collected.is_set()  # that would be more than its share of the time
