"""How long the state machine takes to drive a run from start to end, without Temporal and without a database.

    python benchmarks/state_machine.py [--nodes 1000 10000 100000] [--save]

A layered plan with five edges per node: plain ones, key ports, conditions, mappings, error edges, three joins. Nodes
succeed in the order in which they started; 1 in 50 fails. Reach: 10,000 nodes under a second. What an event costs must
not depend on the size of the plan: us/event is one figure for all sizes, but for caches and the garbage collector.
"""

from __future__ import annotations

import gc
import json
import sys
from collections import deque
from pathlib import Path
from time import process_time
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.results import Row, arguments, row, save
from dalang.compilation import compile_plan
from dalang.events import Begin, NodeFailed, NodeSucceeded, Start
from dalang.plan import Plan
from dalang.program import Program
from dalang.run import Run

EDGES_PER_NODE = 5
LAYER = 100
JOINS = ("allLive", "allLive", "any", "allDone")


def layered_plan(nodes: int) -> Plan:
    """Return a plan of ``nodes`` nodes in layers of 100, each node with five edges from the layer before it."""
    edges: list[dict[str, Any]] = []
    for target in range(LAYER, nodes):
        layer = (target // LAYER - 1) * LAYER
        for step in range(EDGES_PER_NODE):
            edge: dict[str, Any] = {"edgeId": f"e{len(edges)}", "targetNodeId": f"n{target}"}
            edge["sourceNodeId"] = f"n{layer + (target * 7 + step * 13) % LAYER}"
            if step == 1:
                edge["condition"] = "outputs.score > 1"
            elif step == 2:
                edge |= {"sourcePort": "value", "targetPort": "value"}
            elif step == 3:
                edge["mapping"] = {"score": "points"}
            elif step == 4:
                edge["sourcePort"] = "error"
            edges.append(edge)
    documents = [{"nodeId": f"n{number}", "type": "noop", "join": JOINS[number % 4]} for number in range(nodes)]
    return Plan.model_validate({"name": "layers", "failurePolicy": "continue", "nodes": documents, "edges": edges})


def drive(program: Program) -> tuple[float, int, Run]:
    """Return (CPU seconds, events, the run) of one run from Begin to its end."""
    run = Run(program, {}, {}, 50)
    under_way: deque[str] = deque()
    events = 0
    began = process_time()
    run.apply(Begin(), 0)
    while True:
        under_way.extend(step.node_id for step in run.due(events) if isinstance(step, Start))
        run.facts.clear()
        if not under_way:
            break
        node = under_way.popleft()
        events += 1
        if events % 50 == 0:
            run.apply(NodeFailed(node, {"type": "TOOL_ERROR", "message": "bad luck"}), events)
        else:
            run.apply(NodeSucceeded(node, {"score": events % 4, "value": events}), events)
    return process_time() - began, events, run


def main() -> None:
    """Measure and print one line per size."""
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    options = parser.parse_args()
    rows: list[Row] = []
    print("   nodes    edges  index s   events    run s  us/event snapshot s restore s")
    for nodes in options.nodes:
        document = json.loads(json.dumps(compile_plan(layered_plan(nodes))))
        began = process_time()
        program = Program(document)
        indexed = process_time() - began
        gc.collect()
        driven = [drive(program) for _ in range(options.rounds)]
        seconds, events, run = min(driven, key=lambda measured: measured[0])
        rows.append(row(f"{nodes:,} nodes", "an event", "CPU µs", [1e6 * took / count for took, count, _ in driven]))
        began = process_time()
        snapshot = json.dumps(run.snapshot())
        taken = process_time() - began
        began = process_time()
        Run.restore(program, {}, json.loads(snapshot))
        restored = process_time() - began
        print(
            f"{nodes:>8} {len(program.edge_ids):>8} {indexed:>8.3f} {events:>8} {seconds:>8.3f}"
            f" {seconds / events * 1e6:>9.1f} {taken:>10.3f} {restored:>9.3f}"
        )
        rows.append(row(f"{nodes:,} nodes", "snapshot", "CPU s", taken))
        rows.append(row(f"{nodes:,} nodes", "restore", "CPU s", restored))
    if options.save:
        note = "Five edges a node. Processor time, on a machine that did much else besides."
        save("state_machine", "The state machine alone", rows, [note])


if __name__ == "__main__":
    main()
