"""Counts the words of a text: what the image of ``container.yaml`` runs. Inputs in a file, outputs in the last line."""

import json
import os
import sys
from pathlib import Path

inputs = json.loads(Path(os.environ["DALANG_INPUTS_FILE"]).read_text(encoding="utf-8"))
if not inputs.get("text"):
    sys.exit("there is no text")
print("counting for", os.environ["DALANG_NODE_ID"])
print(json.dumps({"words": len(inputs["text"].split())}))
