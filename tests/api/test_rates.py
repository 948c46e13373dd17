"""How often a token may ask."""

from __future__ import annotations

import pytest
from fastapi import FastAPI

from dalang.api.rates import Rates, TooManyRequests
from tests.api.world import Api, problem


def test_a_bucket_fills_steadily() -> None:
    """Ten seconds' worth at once, then as much as comes in; each token has its own."""
    at = 0.0
    rates = Rates(2, lambda: at)
    for _ in range(20):
        rates.take("a")
    with pytest.raises(TooManyRequests) as refused:
        rates.take("a")
    assert refused.value.seconds == 0.5
    rates.take("b")
    at = 0.5
    rates.take("a")
    with pytest.raises(TooManyRequests):
        rates.take("a")


async def test_who_asks_too_often_is_told_when_to_ask_again(app: FastAPI, api: Api) -> None:
    """429 with Retry-After, by REST and A2A; others are served."""
    app.state.services.tokens._rates = Rates(0.1)
    await api.get("/orchestrator/runs")
    answer = await api("GET", "/orchestrator/runs")
    assert problem(answer, 429)["type"] == "urn:dalang:problem:too-many-requests"
    assert 1 <= int(answer.headers["retry-after"]) <= 10
    await api.get("/orchestrator/runs", as_=("globex", "viewer"))
    assert "error" in (await api("POST", "/a2a", json={"jsonrpc": "2.0", "id": 1, "method": "GetTask"})).json()
