"""What Temporal's Web UI shows of a run while it goes on."""

from __future__ import annotations

from dalang.workflows.details import current_details
from tests.core.driven import Driven, node


def test_the_details_lead_to_the_page_of_the_run() -> None:
    """To the address that came with the run's input; a run from before there were pages has none."""
    driven = Driven([node("a")])
    told = current_details(driven.run, {"runId": "r1", "pages": "https://dalang.example/ui/runs"})
    assert told.endswith("[Look at it and control it](https://dalang.example/ui/runs/r1)")
    assert "](" not in current_details(driven.run, {"runId": "r1"})
