"""Regular expressions of schemas, by the linear-time engine that CEL brings (RE2): no input makes it backtrack.

What it does not have, lookaround and back-references, and large repetitions, which are slow, are refused.
"""

from __future__ import annotations

import re
from functools import lru_cache

from dalang.expressions import ExpressionError, evaluate
from dalang.expressions import compile as compile_expression

MAX_PATTERN = 1000
"""The longest pattern, in characters."""
MAX_WEIGHT = 5000
"""The largest pattern with its repetitions written out, in single characters, roughly."""

_MATCHES = compile_expression("inputs.text.matches(inputs.pattern)")
_REPEAT = re.compile(r"\{(\d{1,4})(?:,(\d{0,4}))?\}")
_CLASS = re.compile(r"\[\^?\]?(?:\\.|\[:\w+:\]|[^\]\\])*\]", re.DOTALL)
_NAMED_CLASS = re.compile(r"\\[pP](?:\{[^}]*\}|.)", re.DOTALL)


def is_pattern(pattern: str) -> bool:
    """Tell whether ``pattern`` can be matched here."""
    if len(pattern) > MAX_PATTERN or weight(pattern) > MAX_WEIGHT:
        return False
    try:
        evaluate(_MATCHES, {"inputs": {"text": "", "pattern": pattern}})
    except ExpressionError:
        return False
    return True


def matches(pattern: str, text: str) -> bool:
    """Tell whether ``pattern`` is found in ``text``; in a text of more than a million characters it never is."""
    try:
        return evaluate(_MATCHES, {"inputs": {"text": text, "pattern": pattern}}) is True
    except ExpressionError:
        return False


@lru_cache(maxsize=1024)
def weight(pattern: str) -> int:
    """Return about how many single characters ``pattern`` is when its repetitions are written out.

    >>> weight("[0-9]{4}-(ab){10}")
    101
    """
    sizes, last, index = [0], 0, 0
    while index < len(pattern):
        char = pattern[index]
        repeat = _REPEAT.match(pattern, index) if char == "{" else None
        if repeat is not None:
            times = max(int(repeat[1]), int(repeat[2] or 0), 1)
            sizes[-1] += last * (times - 1)
            last *= times
            index = repeat.end()
        elif char == "(":
            sizes.append(2)
            index += 1
        elif char == ")" and len(sizes) > 1:
            last = sizes.pop()
            sizes[-1] += last
            index += 1
        else:
            last, index = _atom(pattern, index)
            sizes[-1] += last
    return sum(sizes)


def _atom(pattern: str, index: int) -> tuple[int, int]:
    """Return the weight of the character, escape or class at ``index``, and where it ends."""
    named = _NAMED_CLASS.match(pattern, index)
    if named is not None:
        return 300, named.end()
    if pattern[index] == "\\":
        return 2, index + 2
    found = _CLASS.match(pattern, index)
    if found is not None:
        return (300 if re.search(r"\\[pP]", found[0]) else 20 if found[0].startswith("[^") else 19), found.end()
    return 1, index + 1
