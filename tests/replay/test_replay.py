"""Recorded histories replay: what the workflow does is still what it did when they were made."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowHistory
from temporalio.contrib.opentelemetry import TracingInterceptor
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Interceptor, Replayer, UnsandboxedWorkflowRunner, WorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from dalang.workflows.interceptor import GuardInterceptor
from dalang.workflows.plan_run import PlanRun
from dalang.workflows.scheduled_run import ScheduledRun
from tests.replay.plans import PLANS, SCHEDULED
from tests.replay.record import HISTORIES, path_of

FILES = sorted(HISTORIES.glob("*.json"))

# The engine and the pure core come from outside of the sandbox, as in production they come from outside of the
# workflow module; what the sandbox then watches is the workflow's own code.
SANDBOX = SandboxRestrictions.default.with_passthrough_modules(
    "dalang", "cel_expr_python", "rfc8785", "pydantic", "pydantic_core", "yaml"
)


def replayer(runner: WorkflowRunner, *more: Interceptor) -> Replayer:
    return Replayer(
        workflows=[PlanRun, ScheduledRun],
        workflow_runner=runner,
        interceptors=[*more, GuardInterceptor()],
        data_converter=pydantic_data_converter,
    )


def history(path: Path) -> WorkflowHistory:
    return WorkflowHistory.from_json(path.stem, path.read_text())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
async def test_a_recorded_history_replays(path: Path) -> None:
    """Replay finds no difference between the history and what the workflow does now."""
    await replayer(UnsandboxedWorkflowRunner()).replay_workflow(history(path))


@pytest.mark.parametrize("name", ["chain", "retries", "continue-as-new", "human", "map", "scheduled"])
async def test_a_history_that_nobody_traced_replays_with_tracing(name: str) -> None:
    """Traces travel in headers, and are no commands: histories from before it was switched on, or off, replay."""
    tracer = TracerProvider().get_tracer("tests")
    interceptor = TracingInterceptor(tracer, always_create_workflow_spans=True)
    await replayer(UnsandboxedWorkflowRunner(), interceptor).replay_workflow(history(path_of(name, 1)))


@pytest.mark.parametrize(
    "name", ["chain", "retries", "pause", "continue-as-new", "event", "scheduled", "scheduled-cancel"]
)
async def test_a_recorded_history_replays_in_the_sandbox(name: str) -> None:
    """The workflow does nothing that Temporal's sandbox refuses."""
    runner = SandboxedWorkflowRunner(restrictions=SANDBOX)
    await replayer(runner).replay_workflow(history(path_of(name, 1)))


def test_every_plan_has_its_history() -> None:
    """A feature is not done before its history is kept."""
    assert [name for name in (*PLANS, *SCHEDULED) if not path_of(name, 1).exists()] == []


def test_continue_as_new_is_among_the_histories() -> None:
    """At least one history ends by continuing as new and its successor is kept, too."""
    first = history(path_of("continue-as-new", 1))
    assert first.events[-1].event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW
    assert path_of("continue-as-new", 2).exists()


async def test_a_history_of_another_plan_does_not_replay() -> None:
    """The test above can fail: a history whose activity has another name is told apart."""
    text = path_of("agent", 1).read_text()
    changed = re.sub(r'"activityType":\s*\{\s*"name":\s*"agent"', '"activityType": {"name": "noop"', text)
    assert changed != text
    with pytest.raises(Exception, match=r"(?i)nondeterminism"):
        await replayer(UnsandboxedWorkflowRunner()).replay_workflow(WorkflowHistory.from_json("agent", changed))
