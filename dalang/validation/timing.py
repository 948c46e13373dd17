"""Durations, retries, the critical path, and requirements: what can be said about a run before it runs."""

from __future__ import annotations

from collections.abc import Sequence

from dalang.durations import MAX_DURATION_MS, format_duration, parse_duration
from dalang.graph import critical_path
from dalang.plan import Node, RetryPolicy, Timeouts
from dalang.validation.report import Problems, Steps
from dalang.validation.structure import Draft, NodeAt


def check_timing(draft: Draft, problems: Problems) -> None:
    """Check the durations of every node, and the critical path against the plan's timeout."""
    for node in draft.nodes:
        if node.model is not None:
            _check_durations(node, node.model, problems)
            if node.model.retry_policy is not None:
                _check_retries(node, (*node.steps, "retryPolicy"), node.model.retry_policy, problems)
            undo = node.model.compensation
            if undo is not None:
                _check_timeouts(node, (*node.steps, "compensation", "timeouts"), undo.timeouts, problems)
                if undo.retry_policy is not None:
                    _check_retries(node, (*node.steps, "compensation", "retryPolicy"), undo.retry_policy, problems)
    timeout = draft.head.timeout
    if timeout is not None and _sensible(("timeout",), timeout, None, problems):
        _check_critical_path(draft, timeout, problems)


def _sensible(steps: Steps, ms: int, node: str | None, problems: Problems, *, zero: bool = False) -> bool:
    """Tell whether a duration is one: given in milliseconds it has not been checked for its length."""
    if ms > MAX_DURATION_MS:
        problems.error("BAD_DURATION", steps, "A duration is at most ten years.", node)
        return False
    if ms == 0 and not zero:
        problems.error(
            "ZERO_DURATION", steps, "0 leaves no time for anything; leave the field out for its default.", node
        )
        return False
    return True


def _check_durations(node: NodeAt, model: Node, problems: Problems) -> None:
    _check_timeouts(node, (*node.steps, "timeouts"), model.timeouts, problems)
    estimate = model.requirements.estimated_duration
    if estimate is not None:
        _sensible((*node.steps, "requirements", "estimatedDuration"), estimate, node.id, problems, zero=True)


def _check_timeouts(node: NodeAt, steps: Steps, timeouts: Timeouts, problems: Problems) -> None:
    start, total, beat = timeouts.start_to_close, timeouts.schedule_to_close, timeouts.heartbeat
    for name, value in (("startToClose", start), ("scheduleToClose", total), ("heartbeat", beat)):
        if value is not None:
            _sensible((*steps, name), value, node.id, problems)
    if start and total and total < start:
        message = (
            f"`scheduleToClose` ({format_duration(total)}, all attempts) is shorter than `startToClose`"
            f" ({format_duration(start)}, one attempt), which is never reached."
        )
        problems.warning("DURATION_ORDER", (*steps, "scheduleToClose"), message, node.id)
    if start and beat and beat > start:
        message = (
            f"`heartbeat` ({format_duration(beat)}) is longer than `startToClose` ({format_duration(start)}), so"
            " it never tells that a worker is gone."
        )
        problems.warning("DURATION_ORDER", (*steps, "heartbeat"), message, node.id)


def _check_retries(node: NodeAt, steps: Steps, policy: RetryPolicy, problems: Problems) -> None:
    _sensible((*steps, "initialDelay"), policy.initial_delay, node.id, problems, zero=True)
    _sensible((*steps, "maxDelay"), policy.max_delay, node.id, problems, zero=True)
    if policy.max_attempts > 1 and not policy.retry_on:
        message = (
            f"`maxAttempts` is {policy.max_attempts}, but `retryOn` is empty: no error will be worth another attempt."
        )
        problems.warning("NO_RETRY_ON", (*steps, "retryOn"), message, node.id)
    if policy.max_delay < policy.initial_delay:
        message = (
            f"`maxDelay` ({format_duration(policy.max_delay)}) is shorter than `initialDelay`"
            f" ({format_duration(policy.initial_delay)}); the delay is `initialDelay` each time."
        )
        problems.warning("DURATION_ORDER", (*steps, "maxDelay"), message, node.id)


def _estimate(model: Node | None) -> int:
    """Return how long a node takes at least, as far as the plan says it, in milliseconds."""
    if model is None:
        return 0
    estimate = model.requirements.estimated_duration or 0
    duration = model.inputs.get("duration") if model.type in ("sleep", "timer") else None
    if isinstance(duration, str) and "${" not in duration:
        try:
            return max(estimate, parse_duration(duration))
        except ValueError:
            return estimate
    return estimate


def _check_critical_path(draft: Draft, timeout: int, problems: Problems) -> None:
    numbers = [number for number, node in enumerate(draft.nodes) if not node.is_finally]
    estimates = {number: _estimate(draft.nodes[number].model) for number in numbers}
    if not draft.is_acyclic or sum(estimates.values()) <= timeout:
        return
    pairs = [(edge.source, edge.target) for edge in draft.edges if edge.source in estimates]
    longest = critical_path(numbers, pairs, lambda number: estimates[number])
    if longest.length > timeout:
        message = (
            f"The longest chain of estimated durations takes {format_duration(round(longest.length))}"
            f" ({draft.path(longest.path)}), but the timeout of the run is {format_duration(timeout)}; raise `timeout`,"
            " or it will be cancelled before it can end."
        )
        problems.warning("CRITICAL_PATH", ("timeout",), message)


def check_requirements(draft: Draft, agents: Sequence[frozenset[str]], problems: Problems) -> None:
    """Report nodes whose capabilities no agent has; one with a handler goes to that agent whatever it requires.

    What a ``runtime-hub`` node requires is for the hub to find.
    """
    known = tuple(dict.fromkeys(name for agent in agents for name in sorted(agent)))
    answers: dict[frozenset[str], bool] = {}
    for node in draft.nodes:
        model = node.model
        if model is None or (model.type == "agent" and model.handler) or model.type == "runtime-hub":
            continue
        declared = model.descriptor.capabilities if model.descriptor else ()
        wanted = frozenset((*model.requirements.capabilities, *declared))
        if not wanted and model.type != "agent":
            continue
        if wanted not in answers:
            answers[wanted] = any(wanted <= agent for agent in agents)
        if answers[wanted]:
            continue
        steps = (*node.steps, "requirements", "capabilities")
        problems.warning("UNMET_REQUIREMENTS", steps, _unmet(wanted, known, bool(agents), problems), node.id)


def _unmet(wanted: frozenset[str], known: Sequence[str], any_agent: bool, problems: Problems) -> str:
    if not any_agent:
        return "No agent is registered that could take this node."
    lacking = sorted(wanted.difference(known))
    if not lacking:
        return f"No one agent has all of {', '.join(sorted(wanted))}, so the node would fail; register one that has."
    hint = problems.hint(lacking[0], known) or "; register one that has it."
    return f"No agent has the capability `{lacking[0]}`{hint}"
