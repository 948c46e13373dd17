"""The plans whose histories are kept: every node type and every control of the workflow, each as small as it can be.

A plan here never changes; a new feature gets a new entry, and ``python -m tests.replay.record`` its history.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from dalang.authority import run_authority
from tests.engine.kit import noop_chain
from tests.replay.acts import (
    answer_questions,
    ask_about_failures,
    bad_requests,
    call_back,
    cancel_by_signal,
    cancel_by_temporal,
    cancel_twice,
    cancel_when_asked,
    decide_by_update,
    early_late_repeated,
    interrupt_and_cancel,
    interrupt_and_resume,
    interrupt_between_attempts,
    open_breaker,
    open_breaker_and_cancel,
    pause_and_resume,
    pause_while_queued,
    prove_who_decides,
    replan,
    retry_and_resolve_the_undo,
    retry_then_skip,
    signals_at_once,
    vote_by_signal,
)
from tests.replay.agent_acts import agent_that_asks, agent_that_remembers, agents_at_work
from tests.replay.recorded import (
    API_KEYS,
    ENDPOINT,
    FLAKY,
    JUDGED,
    RESOURCES,
    REVIEW,
    UNDO,
    Recorded,
    carried,
    edge,
    needs,
    node,
    wants,
)
from tests.replay.structure_plans import STRUCTURE

PLANS: dict[str, Recorded] = {
    "agents": Recorded(
        {
            "nodes": [
                node("s", "sleep", inputs={"duration": "2s"}),
                node("asks", "agent", **wants("h-asks")),
                node("queue", "of-theirs", **wants("h-queue")),
                node("hangs", "of-theirs", **wants("h-queue")),
            ],
            "edges": [edge("s", "asks"), edge("asks", "queue"), edge("queue", "hangs")],
        },
        agents_at_work,
        state={"limits": ["capability:h-asks", "capability:h-queue"]},
    ),
    "leases": Recorded(
        {
            "failurePolicy": "continue",
            "nodes": [
                node("a", "t-flaky", **FLAKY, **needs(desk=1)),
                node("b", "t-value", requirements={"pools": {"desk": {"key": "${inputs.n}"}}}),
                node("c", "t-value", **needs(desk=1)),
                node("d", "t-value", **needs(desk=2)),
                node("e", "t-value"),
            ],
            "edges": [edge("e", "c", mapping={})],
        },
        inputs={"n": 1},
        state={"limits": ["desk"]},
        pools={"desk": 1},
    ),
    "leases-paused": Recorded(
        {
            "nodes": [
                node("s", "sleep", inputs={"duration": "300ms"}),
                node("a", "t-hang", timeouts={"startToClose": "3s"}, retryPolicy={"maxAttempts": 1}, **needs(seat=1)),
                node("b", "t-value", **needs(seat=1)),
            ],
            "edges": [edge("s", "b")],
            "failurePolicy": "continue",
        },
        pause_while_queued,
        state={"limits": ["seat"]},
        pools={"seat": 1},
    ),
    "leases-left-alone": Recorded(
        {"nodes": [node("a", "t-flaky", inputs={"failures": 1, "retry_after": 0.2}, **FLAKY, **needs(bench=1))]},
        state={"limits": ["bench"]},
        pools={"bench": 1},
    ),
    "llm": Recorded(
        {
            "planner": {"type": "llm", "inputs": {"model": "openai-compatible:good"}},
            "nodes": [
                node("write", "llm", inputs={"model": "openai-compatible:rate-limit-briefly-once", "prompt": "Tea."}),
                node(
                    "judge",
                    "llm",
                    evaluator=True,
                    inputs={"model": "openai-compatible:good", "prompt": "Long? ${nodes.write.outputs.text}"},
                ),
                node("publish"),
            ],
            "edges": [edge("write", "judge"), edge("judge", "publish")],
        }
    ),
    "leases-cancelled": Recorded(
        {"nodes": [node("a", "t-hang", **needs(chair=1)), node("b", "t-value", **needs(chair=1))]},
        cancel_by_signal,
        state={"limits": ["chair"]},
        pools={"chair": 1},
    ),
    "replan": Recorded(
        {
            "timeout": "1h",
            "nodes": [node("a"), node("s", "sleep", inputs={"duration": "3s"}), node("z")],
            "edges": [edge("a", "s"), edge("s", "z")],
        },
        replan,
    ),
    "planner": Recorded(
        {**JUDGED, "planner": {"handler": "t-planner", "inputs": {"way": "badly-first"}}}, state={"historyLimit": 30}
    ),
    "planner-fails": Recorded({**JUDGED, "planner": {"handler": "t-planner", "inputs": {"way": "fail"}}}),
    "auto-fix": Recorded({"planner": {"handler": "t-planner"}, "nodes": [node("a", "t-fixable", inputs={"x": 1})]}),
    "chain": Recorded(noop_chain(5)),
    "stored-further-apart": Recorded(
        {
            "nodes": [node(f"n{i}", "noop") for i in range(100)],
            "edges": [edge(f"n{i}", f"n{i + 8}") for i in range(92)],
        }
    ),
    "stored-after-a-delay": Recorded(
        {"nodes": [node("s", "sleep", inputs={"duration": "1s"}), node("a")], "edges": [edge("s", "a")]},
        delay=timedelta(seconds=1),
    ),
    "data": Recorded(
        {
            "nodes": [node("a", "t-value", inputs={"x": "${inputs.n + 1}"}), node("b", "t-value")],
            "edges": [edge("a", "b", mapping={"x": "y"}, condition="outputs.x > 1")],
            "outputs": {"y": "${nodes.b.outputs.y}"},
        },
        inputs={"n": 1},
    ),
    "retries": Recorded(
        {
            "nodes": [
                node("fixed", "t-flaky", retryPolicy={"backoffStrategy": "FIXED", "initialDelayMs": 10}),
                node("linear", "t-flaky", retryPolicy={"backoffStrategy": "LINEAR", "initialDelayMs": 10}),
                node("jitter", "t-flaky", retryPolicy={"jitter": True, "initialDelayMs": 10}),
            ]
        }
    ),
    "error-edge": Recorded(
        {
            "nodes": [node("a", "t-fail"), node("handler"), node("after")],
            "edges": [edge("a", "handler", sourcePort="error"), edge("a", "after")],
        }
    ),
    "fail-fast": Recorded(
        {
            "nodes": [node("a", "t-fail"), node("b", "t-hang"), node("c")],
            "edges": [edge("b", "c")],
            "finally": [node("f")],
        }
    ),
    "continue": Recorded(
        {
            "failurePolicy": "continue",
            "nodes": [node("a", "t-fail"), node("b"), node("d")],
            "edges": [edge("a", "d"), edge("b", "d")],
        }
    ),
    "joins": Recorded(
        {
            "nodes": [node("a"), node("b", "t-fail"), node("any", join="any"), node("done", join="allDone")],
            "failurePolicy": "continue",
            "edges": [edge("a", "any"), edge("b", "any"), edge("a", "done"), edge("b", "done")],
        }
    ),
    "sleep": Recorded({"nodes": [node("s", "sleep", inputs={"duration": "50ms"})]}),
    "agent": Recorded({"nodes": [node("a", "agent", requirements={"capabilities": ["t-testing"]})]}),
    "http": Recorded(
        {"nodes": [node("a", "http", inputs={"url": "http://127.0.0.1:9/"}, retryPolicy={"maxAttempts": 1})]}
    ),
    "implementations": Recorded(
        {
            "failurePolicy": "continue",
            "nodes": [
                node("a", "score", **carried("python", "t-value"), inputs={"x": 1}),
                node("b", "score", **carried("http", "http://127.0.0.1:9/"), retryPolicy={"maxAttempts": 1}),
                node("c", "score", **carried("wasm", "no.wasm", digest="0" * 64)),
                node("d", "container", **carried("container", "words", digest="0" * 64), **RESOURCES),
                node("e", "runtime-hub", inputs={"url": "http://127.0.0.1:9"}, retryPolicy={"maxAttempts": 1}),
            ],
        }
    ),
    "python": Recorded({"nodes": [node("a", "python", handler="t-value", inputs={"x": 1})]}),
    "time-out": Recorded({"nodes": [node("a", "t-hang", timeouts={"startToClose": "100ms"}, **FLAKY)]}),
    "interrupt": Recorded(
        {
            "nodes": [node("a", "t-saves"), node("b"), node("s", "sleep", inputs={"duration": "1s"})],
            "edges": [edge("a", "b")],
        },
        interrupt_and_resume,
    ),
    "interrupt-cancel": Recorded({"nodes": [node("a", "t-saves"), node("b", "t-hang")]}, interrupt_and_cancel),
    "interrupt-retrying": Recorded(
        {
            "nodes": [
                node(
                    "a",
                    "t-saves",
                    inputs={"failing": True},
                    retryPolicy={"backoffStrategy": "FIXED", "initialDelayMs": 1_000, "maxAttempts": 5},
                )
            ]
        },
        interrupt_between_attempts,
    ),
    "run-time-out": Recorded({"timeout": "200ms", "nodes": [node("a", "t-hang")]}),
    "signals-at-once": Recorded({"nodes": [node("a", "sleep", inputs={"duration": "1s"}), node("b")]}, signals_at_once),
    "pause": Recorded({"nodes": [node("a", "sleep", inputs={"duration": "1s"}), node("b")]}, pause_and_resume),
    "cancel-signal": Recorded({"nodes": [node("a", "t-hang")]}, cancel_by_signal),
    "cancel-temporal": Recorded({"nodes": [node("a", "t-hang")]}, cancel_by_temporal),
    "bad-requests": Recorded({"nodes": [node("a", "sleep", inputs={"duration": "1s"})]}, bad_requests),
    "continue-as-new": Recorded(
        {
            "nodes": [*noop_chain(20)["nodes"], node("s", "sleep", inputs={"duration": "2s"})],
            "edges": noop_chain(20)["edges"],
            "timeout": "1h",
        },
        state={"historyLimit": 60},
    ),
    "decisions": Recorded(
        {
            "failurePolicy": "pause",
            "nodes": [node("a", "t-needs", inputs={"x": 1}), node("b")],
            "edges": [edge("a", "b")],
        },
        retry_then_skip,
    ),
    "timer": Recorded(
        {
            "nodes": [
                node("t", "timer", inputs={"duration": "50ms"}),
                node("past", "timer", inputs={"until": "2026-01-01T00:00:00Z"}),
                node("b"),
            ],
            "edges": [edge("t", "b"), edge("past", "b")],
        }
    ),
    "event": Recorded(
        {
            "nodes": [
                node("g", "sleep", inputs={"duration": "200ms"}),
                node("a", "event", inputs={"name": "x"}),
                node("b", "event", inputs={"name": "x", "timeout": "1h"}),
                node("late", "event", inputs={"name": "y", "timeout": "100ms"}),
                node("c"),
            ],
            "edges": [edge("g", "a"), edge("a", "b"), edge("late", "c", sourcePort="error")],
        },
        early_late_repeated,
    ),
    "callback": Recorded(
        {
            "nodes": [
                node("early", "t-flaky", inputs={"failures": 1}, callback={}, retryPolicy={"initialDelayMs": 1500}),
                node("late", "t-value", callback={"timeout": "1h"}),
                node("failed", "t-value", callback={}),
                node("nobody", "t-value", callback={"timeout": "100ms"}),
                node("b"),
            ],
            "edges": [
                edge("late", "b", sourcePort="n"),
                edge("failed", "b", sourcePort="error"),
                edge("nobody", "b", sourcePort="error"),
            ],
        },
        call_back,
    ),
    "event-continue-as-new": Recorded(
        {
            "nodes": [*noop_chain(20)["nodes"], node("a", "event", inputs={"name": "x", "timeout": "2s"})],
            "edges": noop_chain(20)["edges"],
            "failurePolicy": "continue",
        },
        state={"historyLimit": 60},
    ),
    "fallback": Recorded(
        {
            "nodes": [node("a", "t-fail", inputs={"action": "FALLBACK"}, fallback={"x": 1}), node("b")],
            "edges": [edge("a", "b")],
        }
    ),
    "undo": Recorded(
        {
            "nodes": [node("a", "t-value", **UNDO), node("b", "t-value", **UNDO), node("c", "t-fail", **UNDO)],
            "edges": [edge("a", "c"), edge("b", "c")],
            "finally": [node("f")],
        }
    ),
    "undo-cancel": Recorded(
        {
            "nodes": [
                node("a", **UNDO),
                node("b", "t-hang", compensation={"type": "t-flaky", "retryPolicy": {"initialDelayMs": 10}}),
            ],
            "edges": [edge("a", "b")],
        },
        cancel_twice,
    ),
    "undo-continue-as-new": Recorded(
        {
            "nodes": [*({**one, **UNDO} for one in noop_chain(12)["nodes"]), node("c", "t-fail")],
            "edges": [*noop_chain(12)["edges"], edge("n11", "c")],
        },
        state={"historyLimit": 40},
    ),
    "undo-below": Recorded(
        {
            "nodes": [
                node("a", "plan", plan={"nodes": [node("x", "t-value", **UNDO)]}),
                node("b", "t-fail"),
            ],
            "edges": [edge("a", "b")],
        },
    ),
    "undo-task": Recorded(
        {
            "nodes": [
                node("a", compensation={"type": "t-needs", "inputs": {"x": 1}}),
                node("b", "t-fail"),
            ],
            "edges": [edge("a", "b")],
        },
        retry_and_resolve_the_undo,
    ),
    "human": Recorded(
        {
            "nodes": [node("a", "t-value", inputs={"x": 1}), node("h", "human", task=REVIEW), node("b")],
            "edges": [edge("a", "h"), edge("h", "b")],
        },
        decide_by_update,
    ),
    "questions": Recorded(
        {
            "nodes": [
                node("a", "t-asks", inputs={"failures": 1}, retryPolicy={"initialDelayMs": 10}),
                node("b", "t-asks"),
                node("c"),
            ],
            "edges": [edge("b", "c", sourcePort="error")],
        },
        answer_questions,
    ),
    "questions-elsewhere": Recorded(
        {
            "nodes": [
                node("asks", "of-theirs", **wants("h-inquires")),
                node("odd", "of-theirs", **wants("h-inquires")),
            ],
            "edges": [edge("asks", "odd")],
        },
        agent_that_asks,
        state={"limits": ["capability:h-inquires"]},
    ),
    "human-votes": Recorded(
        {
            "nodes": [node("h", "human", task={"quorum": 2}), node("g", "human"), node("no")],
            "edges": [edge("h", "g"), edge("g", "no", sourcePort="rejected")],
        },
        vote_by_signal,
    ),
    "human-time": Recorded(
        {
            "nodes": [
                node("h", "human", task={"due": "900ms", "reminder": "300ms", "onExpiry": "skip"}),
                node("g", "human", task={"due": "900ms", "escalation": {"after": "300ms", "to": "boss"}}),
                node("handle"),
            ],
            "edges": [edge("g", "handle", sourcePort="error")],
        }
    ),
    "human-cancel": Recorded({"nodes": [node("h", "human")], "finally": [node("f")]}, cancel_when_asked),
    "escalate": Recorded(
        {
            "failurePolicy": "escalate",
            "nodes": [node("a", "t-needs", inputs={"x": 1}, **FLAKY), node("b", "t-fail", inputs={}), node("c")],
            "edges": [edge("a", "c")],
        },
        ask_about_failures,
    ),
    "invalid-condition": Recorded(
        {"nodes": [node("a"), node("b")], "edges": [edge("a", "b", condition="outputs.missing > 1")]}
    ),
    **STRUCTURE,
}


PLANS["circuit-breaker"] = Recorded(
    {"nodes": [node("a", "t-flaky", inputs=ENDPOINT, retryPolicy={"initialDelayMs": 2_000})]}, open_breaker
)
PLANS["circuit-breaker-cancel"] = Recorded(
    {"nodes": [node("a", "t-flaky", inputs=ENDPOINT, retryPolicy={"initialDelayMs": 2_000})]},
    open_breaker_and_cancel,
)
PLANS["memory"] = Recorded({"nodes": [node("a", "t-value", name="Remember", memory={"episodes": 1})]})


PLANS["authority"] = Recorded(
    {
        "nodes": [node("a", "human"), node("b", "human", task={"candidateGroup": "ops"}), node("c")],
        "edges": [edge("a", "b"), edge("b", "c", sourcePort="rejected")],
    },
    prove_who_decides,
    state={"authority": run_authority(API_KEYS, True)},
)
PLANS["memory-elsewhere"] = Recorded(
    {
        "nodes": [
            node("a", "agent", **wants("h-remembers"), memory={"episodes": 2}),
            node("b", "agent", **wants("h-remembers"), memory={"session": {"repository": "r"}}),
        ],
        "edges": [edge("a", "b")],
    },
    agent_that_remembers,
    state={"limits": ["capability:h-remembers"]},
)
PLANS["stored-at-the-end"] = Recorded({"nodes": [node("a"), node("b")], "edges": [edge("a", "b")]})
PLANS["segments"] = Recorded(
    {
        "execution": "local",
        "failurePolicy": "continue",
        "nodes": [
            node("a"),
            node("f", "t-flaky", retryPolicy={"initialDelayMs": 10, "maxDelayMs": 20}),
            node("after"),
            node("b", inputs={"x": "${nodes.a.outputs}"}),
            node("bad", "t-flaky", inputs={"type": "TOOL_ERROR"}),
            node("handler", "t-value"),
            node("s", "sleep", inputs={"duration": "100ms"}),
            node("last"),
        ],
        "edges": [
            edge("a", "f"),
            edge("f", "after"),
            edge("a", "b"),
            edge("a", "bad"),
            edge("bad", "handler", sourcePort="error", mapping={"type": "kind"}),
            edge("b", "s"),
            edge("s", "last"),
        ],
    }
)
PLANS["segments-folded"] = PLANS["segments"]  # what goes to and fro is folded, and so are batches of facts
PLANS["segment-within-the-task"] = Recorded(
    {
        "execution": "local",
        "nodes": [node("a"), node("b", "t-value", inputs={"value": 1}, timeouts={"startToClose": "2s"}), node("c")],
        "edges": [edge("a", "b"), edge("b", "c")],
    }
)


@dataclass(frozen=True)
class Scheduled:
    """A plan that a schedule starts, whether the scheduled workflow is cancelled, and the schedule's inputs."""

    plan: dict[str, Any]
    cancel: bool = False
    inputs: dict[str, Any] = field(default_factory=dict)


SCHEDULED: dict[str, Scheduled] = {
    "scheduled": Scheduled({"nodes": [node("a")]}),
    "scheduled-cancel": Scheduled({"nodes": [node("a", "t-hang")]}, cancel=True),
    "scheduled-failed": Scheduled({"nodes": [node("a", "t-fail")]}),
    "scheduled-invalid": Scheduled(
        {"nodes": [node("a")], "inputs": {"properties": {"n": {"type": "integer"}}}}, inputs={"n": "x"}
    ),
}
"""What is kept of ``ScheduledRun``; the runs that it starts are like all others."""
