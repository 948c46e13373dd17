"""A workflow task of a wide run waits a moment before it answers, so that more nodes have ended when the next begins.

Temporal begins a task as soon as one activity has ended, and whatever ends during a task waits for the next one. Where
many short nodes are in flight, tasks so follow one another with a few ends each, and every task costs the server as
much as several activities do. A few milliseconds more for one that brought little spare it a third of them. Nothing of
this is in a history: what is asked for, and in which order, stays the same, and a replay does not wait.
"""

from __future__ import annotations

import time

from temporalio import workflow

WIDE = 16
"""So many nodes in flight make it likely that more of them end at once."""
SECONDS = 0.005


def wait_for_more(came: int, in_flight: int) -> None:
    """Wait a moment if few of many have ended: ``came`` now, ``in_flight`` are still at work."""
    if in_flight >= WIDE and 0 < came < in_flight / 2 and not workflow.unsafe.is_replaying():
        time.sleep(SECONDS)  # in the thread of this task; other runs have threads of their own
