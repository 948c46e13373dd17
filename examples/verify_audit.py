"""Check the export of a run (`dalang audit export`) without Dalang and without its database.

python verify_audit.py run.jsonl --key <public key in base64>, or a file in PEM; may be repeated

Everything but signatures needs the standard library only; these need `cryptography`. Ends with 0 when the run is as it
was written, 1 with the first event that is not, 2 when the file cannot be read, and 3 when all is well as far as it
goes, but no signature could be checked.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


class Tampered(Exception):
    """What was found."""


def sha256(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()


def lines_of(file: Iterable[str]) -> Iterator[dict[str, Any]]:
    for line in file:
        yield json.loads(line)


def check_events(run: dict[str, Any], events: Iterable[dict[str, Any]]) -> tuple[dict[str, tuple[int, int]], int]:
    """Follow the chain; return where each hash stands and how many bodies were erased."""
    places: dict[str, tuple[int, int]] = {}
    last: tuple[tuple[int, int], str] | None = None
    erased = 0
    for line in events:
        hashed = json.loads(line["hashed"])
        epoch, seq = hashed["epoch"], hashed["seq"]
        where = f"event {epoch}.{seq}"
        if (hashed["runId"], hashed["tenantId"]) != (run["runId"], run["tenantId"]):
            raise Tampered(f"{where}: CHANGED, it is of another run")
        previous, own = line["previousHash"], line["hash"]
        if last is not None and last[0][0] == epoch:
            if seq <= last[0][1]:
                raise Tampered(f"{where}: REORDERED, it stands behind event {last[0][0]}.{last[0][1]}")
            if seq != last[0][1] + 1:
                raise Tampered(f"event {epoch}.{last[0][1] + 1}: REMOVED, event {epoch}.{seq} stands in its place")
        elif hashed["type"] != "CHAIN_GAP":  # a new epoch, after a reset, follows any event
            first = 1 if previous == "" else places.get(previous, (0, -1))[1] + 1
            if seq != first:
                raise Tampered(f"event {epoch}.{max(first, 1)}: REMOVED, epoch {epoch} begins with event {seq}")
        if sha256(line["hashed"].encode(), previous.encode()) != own:
            raise Tampered(f"{where}: CHANGED, its hash is not that of its content")
        if last is not None and last[0][0] == epoch and previous != last[1]:
            raise Tampered(f"event {last[0][0]}.{last[0][1]}: CHANGED, the next one follows another hash")
        erased += check_body(where, line, hashed["bodyDigest"])
        last = (epoch, seq), own
        places[own] = epoch, seq
    head = run["head"]
    (epoch, seq), own = last or ((0, 0), "")
    if (head["epoch"], head["seq"]) != (epoch, seq):
        what = "REMOVED" if (head["epoch"], head["seq"]) > (epoch, seq) else "INSERTED"
        raise Tampered(f"event {epoch}.{seq}: what follows was {what}, the head is {head['epoch']}.{head['seq']}")
    if head["hash"] != own:
        raise Tampered(f"event {epoch}.{seq}: HEAD_CHANGED, the head has another hash")
    return places, erased


def check_body(where: str, line: dict[str, Any], digest: str | None) -> int:
    """Compare a body with its salted digest; return 1 if it was erased."""
    if "body" not in line:
        return 1 if digest is not None else 0
    if digest is None:
        raise Tampered(f"{where}: INSERTED, it was written without a body and has one")
    if sha256(bytes.fromhex(line["salt"]), line["body"].encode()) != digest:
        raise Tampered(f"{where}: CHANGED, its body is not the one it had")
    return 0


def check_anchor(run: dict[str, Any], anchor: dict[str, Any], places: dict[str, tuple[int, int]]) -> dict[str, Any]:
    """Follow the proof from the run's head to the root (RFC 9162); return what the anchor says."""
    leaf, document = json.loads(anchor["leaf"]), json.loads(anchor["signed"])
    of_run = (leaf["kind"], leaf["runId"], leaf["tenantId"]) == ("dalang.head", run["runId"], run["tenantId"])
    if not of_run or places.get(leaf["hash"]) != (leaf["epoch"], leaf["seq"]):
        raise Tampered(f"event {leaf['epoch']}.{leaf['seq']}: HEAD_CHANGED, the anchor holds another hash for it")
    if document["kind"] != "dalang.anchor" or document["tenantId"] != run["tenantId"]:
        raise Tampered("the anchor is of another tenant")
    node = hashlib.sha256(b"\x00" + anchor["leaf"].encode()).digest()
    index, last = anchor["index"], document["heads"] - 1
    if not 0 <= index <= last:
        raise Tampered("the run's head is not in the anchor")
    for step in anchor["path"]:
        other = bytes.fromhex(step)
        if last == 0:
            raise Tampered("the proof of the anchor is too long")
        if index % 2 or index == last:
            node = hashlib.sha256(b"\x01" + other + node).digest()
            while index % 2 == 0 and index:
                index, last = index >> 1, last >> 1
        else:
            node = hashlib.sha256(b"\x01" + node + other).digest()
        index, last = index >> 1, last >> 1
    if last != 0 or node.hex() != document["root"]:
        raise Tampered("the run's head is not in the anchor")
    return dict(document)


class Keys:
    """Public keys by id: those that were given, or, failing these, those of the file itself."""

    def __init__(self, given: list[str], found: dict[str, str]) -> None:
        raw = [read_key(one) for one in given] or [base64.b64decode(one) for one in found.values()]
        self.known = {sha256(one)[:32]: one for one in raw}
        self.trusted = bool(given)

    def check(self, what: str, document: str, signature: str | None) -> bool:
        """Check a signature; False: there is no library for it.

        Raises:
            Tampered: it is missing, wrong, or by another key.
        """
        if not signature:
            raise Tampered(f"{what}: UNSIGNED")
        algorithm, key_id, value = signature.split(":")
        if algorithm != "ed25519" or key_id not in self.known:
            raise Tampered(f"{what}: FORGED, it is signed by a key that is not known: {key_id}")
        try:
            from cryptography.exceptions import InvalidSignature
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        except ImportError:
            return False
        try:
            Ed25519PublicKey.from_public_bytes(self.known[key_id]).verify(base64.b64decode(value), document.encode())
        except (InvalidSignature, ValueError):
            raise Tampered(f"{what}: FORGED, the signature is not of it") from None
        return True


def read_key(text: str) -> bytes:
    """Read a public key: base64, or a PEM file, whose last 32 bytes it is."""
    if Path(text).is_file():
        body = [line for line in Path(text).read_text().splitlines() if line and not line.startswith("-----")]
        return base64.b64decode("".join(body))[-32:]
    return base64.b64decode(text)


def verify(file: Iterable[str], given: list[str]) -> tuple[list[str], bool]:
    """Return what is to say, and whether signatures were checked. Raises :class:`Tampered`."""
    lines = list(lines_of(file))
    if not lines or lines[0]["kind"] != "run" or lines[-1] != {"kind": "end", "lines": len(lines)}:
        raise Tampered("the file is not whole")
    run = lines[0]
    places, erased = check_events(run, (line for line in lines if line["kind"] == "event"))
    for line in lines:
        if line["kind"] == "value" and sha256(line["text"].encode()) != line["digest"]:
            raise Tampered(f"the large value {line['digest']}: CHANGED")
    said = [f"run {run['runId']}: {len(places)} events as they were written, {erased} bodies erased"]
    keys = Keys(given, run["keys"])
    if not keys.known:
        return [*said, "nothing is signed"], False
    head = {"kind": "dalang.head", "tenantId": run["tenantId"], "runId": run["runId"], **run["head"]}
    if json.loads(run["signed"]) != head:
        raise Tampered("the head: FORGED, something else was signed")
    checked = keys.check("the head", run["signed"], run["signature"])
    for anchor in (line for line in lines if line["kind"] == "anchor"):
        document = check_anchor(run, anchor, places)
        checked = keys.check(f"anchor {document['number']}", anchor["signed"], anchor["signature"]) and checked
        said.append(f"in anchor {document['number']}, digest {sha256(anchor['signed'].encode())}")
    names = ", ".join(keys.known)
    said.append(f"signed by {names}" if checked else "signatures were not checked: pip install cryptography")
    if not keys.trusted:
        said.append("the key is that of the file itself: compare it with the one you know, or give it with --key")
    return said, checked


def main() -> int:
    parser = argparse.ArgumentParser(description="Check the export of a run.")
    parser.add_argument("file", help="what `dalang audit export` wrote")
    parser.add_argument("--key", action="append", default=[], help="a public key: base64, or a PEM file")
    given = parser.parse_args()
    try:
        with Path(given.file).open(encoding="utf-8", newline="\n") as file:
            said, checked = verify(file, given.key)
    except Tampered as found:
        print(f"TAMPERED: {found}")
        return 1
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"{given.file} cannot be read: {error!r}", file=sys.stderr)
        return 2
    print(*said, sep="\n")
    return 0 if checked else 3


if __name__ == "__main__":
    sys.exit(main())
