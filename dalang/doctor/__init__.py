"""``dalang doctor``: looks at everything a Dalang needs, and says of each part whether it is well and what to do."""

from __future__ import annotations

from dalang.doctor.findings import FAIL, OK, WARN, Finding
from dalang.doctor.rounds import examine

__all__ = ["FAIL", "OK", "WARN", "Finding", "examine"]
