"""Circuit breakers: what opens and closes them, who passes, and what never happens in whatever order things come."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from dalang.breaker import (
    LEAST_WAIT_MS,
    Breaker,
    BreakerState,
    Outcome,
    Thresholds,
    Trial,
    Verdict,
    asked,
    closed,
    heard,
    opened,
)
from tests.effort import tries

LIMITS = Thresholds(failures=3, successes=2, open_ms=1000)
FRESH = Breaker()
CLOSED, OPEN, HALF_OPEN = BreakerState
FAILED, ANSWERED, UNKNOWN = Outcome


def after(*outcomes: Outcome, breaker: Breaker = FRESH, at: int = 0) -> Breaker:
    for outcome in outcomes:
        breaker = heard(breaker, LIMITS, outcome, None, at)
    return breaker


def ask(breaker: Breaker, at: int, name: str = "t", lasts: int = 100) -> tuple[Breaker, Verdict]:
    return asked(breaker, LIMITS, Trial(name, at, at + lasts))


def test_so_many_failures_in_a_row_open_it() -> None:
    assert after(FAILED, FAILED).state is CLOSED
    assert after(FAILED, FAILED, ANSWERED, FAILED, FAILED).state is CLOSED
    assert after(FAILED, UNKNOWN, FAILED, FAILED, at=5) == Breaker(OPEN, 3, 0, 1005, (), 5, 1)


def test_an_open_one_lets_nobody_pass_until_its_time_and_then_a_few_on_trial() -> None:
    breaker = after(FAILED, FAILED, FAILED)
    breaker, verdict = ask(breaker, 999)
    assert verdict == Verdict(wait_until=1000)
    breaker, verdict = ask(breaker, 1000, "a")
    assert (breaker.state, verdict.trial) == (HALF_OPEN, Trial("a", 1000, 1100))
    breaker, _ = ask(breaker, 1001, "b")
    breaker, verdict = ask(breaker, 1002, "c")
    assert verdict == Verdict(wait_until=1002 + LEAST_WAIT_MS)
    breaker = heard(breaker, LIMITS, ANSWERED, "a", 1003)
    assert (breaker.state, breaker.successes) == (HALF_OPEN, 1)
    assert heard(breaker, LIMITS, ANSWERED, "b", 1004) == closed(breaker)
    assert heard(breaker, LIMITS, FAILED, "b", 1004) == opened(breaker, 1004, 2004)
    assert heard(breaker, LIMITS, UNKNOWN, "b", 1004) == replace(breaker, trials=())


def test_what_began_before_is_old_news() -> None:
    breaker = after(FAILED, FAILED, FAILED)
    assert after(FAILED, ANSWERED, UNKNOWN, breaker=breaker) == breaker
    breaker, _ = ask(breaker, 1000, "a")
    assert after(FAILED, ANSWERED, UNKNOWN, breaker=breaker) == breaker
    assert heard(breaker, LIMITS, FAILED, "somebody", 1001) == breaker


def test_a_trial_that_is_never_heard_of_loses_its_place() -> None:
    breaker = after(FAILED, FAILED, FAILED)
    breaker, _ = ask(breaker, 1000, "a", lasts=10)
    breaker, _ = ask(breaker, 1000, "b", lasts=5000)
    assert ask(breaker, 1009, "c")[1].trial is None
    breaker, verdict = ask(breaker, 1010, "c")
    assert verdict.trial is not None
    assert [one.trial_id for one in breaker.trials] == ["b", "c"]
    assert heard(breaker, LIMITS, FAILED, "a", 1011) == breaker


def test_who_waits_for_a_place_asks_less_often_the_longer_the_trials_take() -> None:
    breaker = after(FAILED, FAILED, FAILED)
    for name in "ab":
        breaker, _ = ask(breaker, 1000, name, lasts=100_000)
    waits = [(ask(breaker, at)[1].wait_until or 0) - at for at in (1001, 1700, 1900, 9000)]
    assert waits == [LEAST_WAIT_MS, 700, 900, LIMITS.open_ms]


@settings(max_examples=tries(200), deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 3))
def test_whatever_the_order(seed: int, failures: int, successes: int) -> None:
    """Attempts overlap, get lost and are told twice: counts and places stay in their bounds, and it closes in the end.

    While it is OPEN nobody passes, in HALF_OPEN never more than so many at once, and it closes only by so many
    successes of those who passed on trial since it opened last.
    """
    rnd, limits = Random(seed), Thresholds(failures, successes, 100)
    breaker, at = Breaker(), 0
    flying: list[tuple[str | None, int]] = []
    since_opened = 0
    for number in range(300):
        at += rnd.randint(0, 30)
        before = breaker
        if rnd.random() < 0.5:
            breaker, verdict = asked(breaker, limits, Trial(str(number), at, at + rnd.choice((5, 500))))
            if verdict.wait_until is None:
                flying.append((verdict.trial.trial_id if verdict.trial else None, at))
                assert (verdict.trial is None) == (before.state is CLOSED)
                assert before.until is None or at >= before.until
            else:
                assert at < verdict.wait_until
        elif flying:
            told = flying[rnd.randrange(len(flying))]
            if rnd.random() < 0.9:
                flying.remove(told)
            outcome = rnd.choice(list(Outcome))
            counts = told[0] in [one.trial_id for one in breaker.trials]
            since_opened += counts and outcome is ANSWERED
            breaker = heard(breaker, limits, outcome, told[0], at)
        if breaker.openings > before.openings:
            since_opened = 0
        if before.state is HALF_OPEN and breaker.state is CLOSED:
            assert since_opened == successes
        assert (breaker.state is OPEN) == (breaker.until is not None)
        assert len(breaker.trials) <= (successes if breaker.state is HALF_OPEN else 0)
        assert 0 <= breaker.successes < (successes if breaker.state is HALF_OPEN else 1)
        assert breaker.state is not CLOSED or breaker.failures < failures
        assert len({one.trial_id for one in breaker.trials}) == len(breaker.trials)
    for _ in range(successes if breaker.state is not CLOSED else 0):
        at += 1000
        breaker, verdict = asked(breaker, limits, Trial(f"last-{at}", at, at + 1))
        assert verdict.trial is not None
        breaker = heard(breaker, limits, ANSWERED, verdict.trial.trial_id, at)
        if breaker.state is CLOSED:
            break
    assert breaker.state is CLOSED
