"""Plans with other plans in them, and runs that begin from what others came to."""

from __future__ import annotations

from tests.replay.acts import (
    cancel_by_signal,
    pause_and_resume,
    raise_budget,
    resume_next_day,
)
from tests.replay.recorded import (
    BEGINNING,
    SUB,
    Recorded,
    edge,
    node,
)

STRUCTURE: dict[str, Recorded] = {
    "sub-plan": Recorded(
        {
            "nodes": [node("a", "plan", plan={**SUB, "outputs": {"x": "${nodes.i.outputs.x}"}}, inputs={"x": 1})],
            "outputs": {"x": "${nodes.a.outputs.x}"},
        },
        below="a",
    ),
    "sub-plan-failed": Recorded({"nodes": [node("a", "plan", plan={"nodes": [node("i", "t-fail")]})]}, below="a"),
    "sub-plan-cancel": Recorded(
        {"nodes": [node("a", "plan", plan={"nodes": [node("i", "t-hang")]})]}, cancel_by_signal, below="a"
    ),
    "sub-plan-pause": Recorded(
        {
            "nodes": [
                node("a", "plan", plan={"nodes": [node("i", "sleep", inputs={"duration": "1s"})]}),
            ]
        },
        pause_and_resume,
        below="a",
    ),
    "map": Recorded(
        {
            "nodes": [
                node(
                    "a",
                    "map",
                    map={
                        "items": "${inputs.numbers}",
                        "toleratedFailures": 1,
                        "maxConcurrency": 2,
                        "body": {"type": "t-needs", "inputs": {"x": "${inputs.item}"}},
                    },
                )
            ]
        },
        inputs={"numbers": [2, 3, 1, 4]},
        below="a",
    ),
    "map-of-plans": Recorded({"nodes": [node("a", "map", map={"items": [1, 2], "body": SUB})]}, below="a"),
    "loop": Recorded(
        {
            "nodes": [
                node(
                    "a",
                    "loop",
                    loop={
                        "body": {"type": "t-value", "inputs": {"n": "${inputs.iteration}"}},
                        "until": "outputs.n == 2",
                        "maxIterations": 5,
                    },
                )
            ]
        },
        below="a",
    ),
    "redrive": Recorded(
        {"nodes": [node("a", "t-value", inputs={"x": 1}), node("b", "t-value")], "edges": [edge("a", "b")]},
        state={
            "keyRoot": "first",
            "seed": {
                "snapshot": {**BEGINNING, "statuses": "FA", "edges": "1", "outputs": [[0, {"x": 1}]]},
                "raised": [],
                "facts": [["a", {"status": "SUCCESS"}, {"inputs": {"x": 1}, "outputs": {"x": 1}}]],
                "data": {"redriveOf": "first", "rootRunId": "first"},
            },
        },
    ),
    "budget": Recorded(
        {
            "nodes": [node("a", "t-uses"), node("b", "t-uses")],
            "edges": [edge("a", "b")],
            "budget": {"tokens": 10, "wallTime": "30m"},
        },
        raise_budget,
    ),
    "budget-of-the-day": Recorded(
        {"nodes": [node("a")]},
        resume_next_day,
        state={"over": {"measure": "tokens", "limit": 5, "spent": 5, "until": 4_102_444_800_000}},
    ),
    "undo-terminated": Recorded(
        {
            "nodes": [node("a", compensation={"type": "noop"}), node("b", compensation={"type": "noop"})],
            "edges": [edge("a", "b")],
            "finally": [node("f")],
        },
        state={
            "keyRoot": "first",
            "seed": {
                "snapshot": {
                    **BEGINNING,
                    "statuses": "FJA",
                    "edges": "1",
                    "ending": "CANCELLED",
                    "reason": "it hangs",
                    "effects": [
                        [0, [{"generation": 0, "inputs": {}, "unsure": 1, "outputs": {}}]],
                        [1, [{"generation": 1, "inputs": {}, "unsure": 1}]],
                    ],
                },
                "raised": [],
                "facts": [["a", {"status": "SUCCESS"}, None], ["b", {"status": "CANCELLED"}, None]],
                "data": {"undoOf": "first", "rootRunId": "first"},
            },
        },
    ),
}
