"""``dalang provenance`` on a real stack."""

from __future__ import annotations

import re

import pytest

from dalang import __version__
from tests.cli.conftest import Dalang
from tests.harness import ROOT

pytestmark = pytest.mark.usefixtures("here")


def test_it_walks_back_to_the_inputs_and_forward_to_the_outputs(dalang: Dalang) -> None:
    """The tree of the example is what its page shows; from the middle it goes both ways; others' forms are written."""
    run = dalang("run", ROOT / "examples/provenance.yaml", "--json").json["runId"]
    shown = re.search(r"```text\n(publish@1.*?)```", (ROOT / "docs/provenance.md").read_text(), flags=re.S)
    assert shown is not None
    expected = sorted(shown[1].replace("0.1.0", __version__).splitlines())
    assert sorted(line.rstrip() for line in dalang("provenance", run, "publish").out.splitlines()) == expected
    assert "to\n    └── publish@1 SUCCESS" in dalang("provenance", run, "draft").out
    whole = dalang("provenance", run).out
    assert "outputs of run" in whole
    assert "${nodes.publish.outputs.body}" in whole
    assert len(dalang("provenance", run, "--json").json["executions"]) == 3
    assert "wasDerivedFrom" in dalang("provenance", run, "--format", "prov").json
    lineage = dalang("provenance", run, "--format", "openlineage").json
    assert [one["eventType"] for one in lineage].count("COMPLETE") == 4
