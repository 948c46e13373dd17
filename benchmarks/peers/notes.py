"""What a reader of the figures must know; it stands in the file of results, and longer in docs/peers.md."""

NOTES = [
    "Every subject alone, started anew in each round in an order of its own, warmed up with 100 nodes; start-up is not "
    "counted. At most 50 nodes at once. That each step ran exactly once, and that the subject's own records have every "
    "node, was looked at after each run.",
    "Wall time is what the caller waits; processor time is that of all processes of the subject, of its server and of "
    "PostgreSQL, until everything is stored.",
    "One PostgreSQL for all, every commit confirmed by the disk (fsync). Temporal's development server keeps histories "
    "in SQLite, which confirms at checkpoints only (synchronous=NORMAL: survives every crash of processes, a power cut "
    "may cost the last moments); rows with 'SQLite full' confirm every commit there too, rows 'no disk' nowhere.",
    "Dalang: the product's worker as set up; hashed, chained events and the read model are stored before the result is "
    "there. Durable nodes: each an activity, at least once. Light nodes "
    "(execution: local): up to 1,024 nodes, two seconds in one activity; a crash repeats those, under the same keys.",
    "Temporal by hand: the workflow of benchmarks/interpreter.py, one activity for each node, at least once; history "
    "only, no read model.",
    "Prefect: own server on PostgreSQL, one task for each node in the thread pool, persist_result (a flow tried again "
    "skips finished tasks by their result files). States reach the server behind the run: they do not count in the "
    "time, their processing counts in the processor time. Logs to the API are off.",
    "DBOS: one workflow, async steps by asyncio.gather level by level (steps must begin in one fixed order); one row "
    "of PostgreSQL for each step, at least once for the step, its result once. Pool of 50 connections.",
    "Absurd: one task, a step for each node, level by level; one checkpoint in PostgreSQL for each.",
    "Dagster: one job, in process, one op after the other; events of each op in PostgreSQL; measured once.",
    "LangGraph: StateGraph, AsyncPostgresSaver over a pool; one checkpoint for each super-step and one write for each "
    "node. sync: before the next super-step; async: while it runs (a crash may repeat it); exit: at the end only, a "
    "crash repeats everything. unlocked: with the checkpointer's lock lifted as in their open change #7269.",
]
