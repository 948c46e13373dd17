"""Nothing that opens anything is in the repository: every file that git keeps is looked at."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.harness import ROOT

PATTERNS = {
    "a private key": r"-----BEGIN (?:RSA |EC |DSA |OPENSSH |PGP |ENCRYPTED )?PRIVATE KEY(?: BLOCK)?-----\s*[\w+/=]{20}",
    "a key of AWS": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a token of GitHub": r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{50,})",
    "a token of GitLab": r"\bglpat-[A-Za-z0-9_-]{20,}",
    "a token of Slack": r"\bxox[abeoprs]-[0-9A-Za-z-]{20,}",
    "a key of a model provider": r"\bsk-(?:proj-|ant-)?[A-Za-z0-9_-]{32,}",
    "a key of Google": r"\bAIza[0-9A-Za-z_-]{35}\b",
    "a key of Stripe": r"\b[rs]k_live_[0-9A-Za-z]{20,}",
    "a token of a package index": r"\bpypi-[A-Za-z0-9_-]{50,}|\bnpm_[A-Za-z0-9]{36}\b",
    "a JSON web token": r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{20,}",
    "a token of Dalang": r"\bdalang_(?!test_|token_)[A-Za-z0-9_-]{43}\b",
    "a password in an address": r"\b[a-z][a-z0-9+]{2,}://[^\s:/@\"'{}$<>]+:(?!\.\.\.|password@|pw@|[a-z]{1,12}@)[^\s/@\"'{}$<>]{8,}@(?!localhost|127\.|127\b)[\w.-]+\.(?!example\b)[a-z]{2,}",
}
_SAMPLES = {
    "a private key": "-----BEGIN PRIVATE KEY-----\n" + "MC4CAQAwBQYDK2VwBCIEIA" + "x" * 20,
    "a key of AWS": "AKIA" + "Q7" * 8,
    "a token of GitHub": "ghp_" + "a1" * 18,
    "a token of GitLab": "glpat-" + "a1" * 10,
    "a token of Slack": "xoxb-" + "12" * 12,
    "a key of a model provider": "sk-proj-" + "a1" * 20,
    "a key of Google": "AIza" + "a1" * 17 + "b",
    "a key of Stripe": "sk_live_" + "a1" * 12,
    "a token of a package index": "pypi-" + "a1" * 30,
    "a JSON web token": ".".join(("eyJ" + "a1" * 8, "eyJ" + "b2" * 8, "c3" * 16)),
    "a token of Dalang": "dalang_" + "a1" * 21 + "b",
    "a password in an address": "postgresql://shop:" + "Hunter22-really" + "@db.shop.com/x",
}
SKIPPED = (".lock", ".svg", ".png", ".ico", ".woff2")


def findings(text: str) -> list[tuple[str, int]]:
    """Return what a text holds, and in which lines."""
    found = [(what, one.start()) for what, pattern in PATTERNS.items() for one in re.finditer(pattern, text)]
    return [(what, text.count("\n", 0, at) + 1) for what, at in found]


@pytest.mark.parametrize("what", PATTERNS)
def test_what_is_looked_for_is_found(what: str) -> None:
    """Samples are put together here, or they would be findings themselves."""
    assert what in [one for one, _ in findings(f"x = {_SAMPLES[what]!s} # y\n")]


def test_no_file_holds_a_secret() -> None:
    """Where this fails the secret is to be revoked, not only removed: it is in the history."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no checkout of git")
    found = []
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if not path.is_file() or name.endswith(SKIPPED) or path.is_symlink():
            continue
        text = path.read_bytes().decode("utf-8", "replace")
        found += [f"{name}:{line}: {what}" for what, line in findings(text)]
    assert found == []
