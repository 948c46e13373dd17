"""The activity ``admit``: asks for leases for the nodes of a run and gives back those of nodes that have ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid5

from temporalio import activity

from dalang.activities.patience import beating, outlasting
from dalang.leasing import Leasing
from dalang.store.leases import Ask, Asker
from dalang.wire import ADMIT, AdmitInput


class Admissions:
    """Asks for leases. One per worker process, so that what many runs ask for at once is decided together."""

    def __init__(self, leasing: Leasing) -> None:
        self._leasing = leasing

    @activity.defn(name=ADMIT)
    async def admit(self, request: Any) -> dict[str, Any]:
        """Return how each ask stands: WAITING, GRANTED or REFUSED. Asking again changes nothing."""
        wanted: AdmitInput = request
        workflow_id = activity.info().workflow_id
        assert workflow_id is not None
        run_id = UUID(wanted["runId"])
        asker = Asker(wanted["tenantId"], run_id, workflow_id)
        asks = [_ask(run_id, one) for one in wanted["asks"]]
        done = [lease_id(run_id, one["nodeId"], one["ask"]) for one in wanted["done"]]
        async with beating():
            found = await outlasting(lambda: self._leasing.ask(asker, asks, done))
        return {"leases": [self._leasing.wire_form(one) for one in found]}


def lease_id(run_id: UUID, node_id: str, ask: int) -> UUID:
    """Return the id of a node's n-th ask: the same whoever computes it, however often."""
    return uuid5(run_id, f"lease:{ask}:{node_id}")


def _ask(run_id: UUID, one: Mapping[str, Any]) -> Ask:
    return Ask(
        lease_id(run_id, one["nodeId"], one["ask"]),
        one["nodeId"],
        one["ask"],
        one["amounts"],
        tuple(one["capabilities"]),
        one["priority"],
        one["rank"],
        one["sticky"],
        one["lastsMs"],
    )
