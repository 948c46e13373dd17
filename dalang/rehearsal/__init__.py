"""Rehearsal: what a plan would do, before it costs anything.

:func:`rehearse` drives the state machine of real runs (``dalang.run``) with a virtual clock, many times: durations,
outcomes, failures and lost workers are drawn, agents and pools are limited, and what comes of it is summed up. The same
plan, options and seed give the same answer everywhere: rehearsal number n has the seed ``seed + n``.

Modules: ``options`` (what is assumed, as given), ``assumptions`` (what nobody gave), ``scenario`` (a plan made ready),
``attempts`` (one node), ``simulation`` (one rehearsal), ``summary`` (many); ``dalang.admission`` (what is scarce).
"""

from __future__ import annotations

from collections.abc import Callable

from dalang.plan import Plan
from dalang.rehearsal.options import Options, load_options
from dalang.rehearsal.scenario import Scenario, prepare
from dalang.rehearsal.simulation import Trace, rehearse_once
from dalang.rehearsal.summary import Summary, Tally, trace_wire

__all__ = [
    "Options",
    "Scenario",
    "Summary",
    "Trace",
    "load_options",
    "prepare",
    "rehearse",
    "rehearse_once",
    "trace_wire",
]


def rehearse(
    plan: Plan,
    options: Options | None = None,
    *,
    budget: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Summary:
    """Rehearse a valid plan as often as ``options`` ask for.

    A plan in which nothing is left to chance is rehearsed once. ``budget`` bounds what is computed, in ends of nodes
    and attempts; when it is used up no further rehearsal begins. ``progress`` is told after each how many there were.

    Raises:
        InvalidDocument: the options name what the plan has not, or the inputs are not what it asks for.
    """
    options = options or Options()
    scenario = prepare(plan, options)
    tally = Tally(scenario)
    steps, drew = 0, True
    for number in range(options.runs):
        trace = rehearse_once(scenario, options.seed + number)
        tally.add(trace)
        steps += trace.steps
        if progress is not None:
            progress(number + 1)
        if number == 0:
            drew = trace.drew
        if not drew or (budget is not None and steps >= budget):
            break
    median, worst = (rehearse_once(scenario, seed) for seed in tally.extremes())
    complete = not drew or len(tally.lengths) == options.runs
    return tally.summary(median, worst, random=drew, complete=complete)
