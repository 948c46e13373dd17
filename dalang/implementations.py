"""Which node type carries a node out: its own, or that of the implementation its descriptor names.

A node whose type is built in is what its type says. Any other name is a name for people where the descriptor names an
implementation that can be carried out: the node then runs as that implementation's type. It is a matter of the plan
alone, so it means the same on every machine; where the name is also that of a registered function, validation refuses
the plan rather than choosing.
"""

from __future__ import annotations

import re
from typing import Any

from dalang.nodes import BUILT_IN_TYPES
from dalang.plan import Implementation, Node
from dalang.plan_implementation import CARRIED_OUT

ISOLATED = ("wasm", "container")
"""Node types whose code comes with the node: they need an implementation, and its digest."""
SCHEME = "sha256:"

_DIGEST = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
_MODULE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
_URL = re.compile(r"https?://[^\s/]\S*")
_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"(?P<name>(?:[A-Za-z0-9.-]+(?::\d+)?/)?{_PART}(?:/{_PART})*)(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{{0,127}}))?"
)
_IN_IMAGE = re.compile(r"(.+)@(sha256:[0-9a-f]{64})")


def implementation_of(node: Node) -> Implementation | None:
    """Return what the node's descriptor names."""
    return node.descriptor.implementation if node.descriptor else None


def carried_out_as(node: Node) -> str:
    """Return the node type that carries ``node`` out."""
    implementation = implementation_of(node)
    if node.type in BUILT_IN_TYPES or implementation is None or implementation.type not in CARRIED_OUT:
        return node.type
    return implementation.type


def implementation_document(node: Node) -> dict[str, Any] | None:
    """Return the implementation as a program has it; ``of`` is the name of a node that it carries out instead."""
    implementation = implementation_of(node)
    if implementation is None:
        return None
    document = implementation.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    if implementation.limits is not None and implementation.limits.wall_time is not None:
        document["limits"]["wallTime"] = implementation.limits.wall_time  # a plan writes durations as texts
    return document if carried_out_as(node) == node.type else {**document, "of": node.type}


def sha256_of(digest: str | None) -> str | None:
    """Return the 64 hexadecimal digits of a digest, or None if it is no SHA-256."""
    found = _DIGEST.fullmatch(digest or "")
    return None if found is None else found[1]


def image_reference(coordinate: str, digest: str | None) -> str | None:
    """Return an image as ``name@sha256:...``, the digest from either place; None where it is not said exactly which.

    A tag is dropped: beside a digest it means nothing.
    """
    inside = _IN_IMAGE.fullmatch(coordinate)
    name, given = (inside[1], sha256_of(inside[2])) if inside else (coordinate, sha256_of(digest))
    if inside and digest is not None and sha256_of(digest) != given:
        return None
    found = _IMAGE.fullmatch(name)
    return None if found is None or given is None else f"{found['name']}@{SCHEME}{given}"


def problem_with(implementation: Implementation) -> tuple[str, str] | None:
    """Return the field and the sentence for what is wrong with an implementation that is to be carried out, or None."""
    kind, coordinate, digest = implementation.type, implementation.coordinate, implementation.digest
    if kind == "http":
        if not _URL.fullmatch(coordinate):
            return "coordinate", 'is an address with http:// or https://, such as "https://example.org/score".'
        if digest is not None:
            return "digest", "cannot be checked: a service does not show its code. Leave it out."
    elif kind == "wasm":
        if not _MODULE.fullmatch(coordinate) or len(coordinate) > 500:
            return "coordinate", 'is the name of a file in the operator\'s folder of modules, such as "words.wasm".'
        if sha256_of(digest) is None:
            return "digest", f"is the module's SHA-256, as {SCHEME} and 64 hexadecimal digits (`sha256sum FILE`)."
    elif kind == "container":
        if image_reference(coordinate.partition("@")[0], "0" * 64) is None:
            return "coordinate", 'is an image, such as "registry.example/team/words:1.0", its digest in `digest`.'
        if image_reference(coordinate, digest) is None:
            return "digest", f"is the image's, as {SCHEME} and 64 hexadecimal digits (a tag may be moved)."
    elif kind == "python" and digest is not None and sha256_of(digest) is None:
        return "digest", f"is the SHA-256 of the function's source file, as {SCHEME} and 64 hexadecimal digits."
    return None
