"""Where nodes may send requests: by default to the public internet, else where the operator says."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dalang.egress import Egress, Refused, kind_of, read_rule

DEFAULT = Egress()
CLOSED = (
    "127.0.0.1 127.255.0.3 ::1 0.0.0.0 0.1.2.3 :: 10.1.2.3 172.16.0.1 172.31.255.255 192.168.1.1 100.64.0.1 fd00::1"
    " 169.254.169.254 169.254.170.2 100.100.100.200 168.63.129.16 192.0.0.192 fd00:ec2::254 169.254.1.1 fe80::1"
    " fe80::1%eth0 fec0::1 224.0.0.1 239.1.2.3 ff02::1 255.255.255.255 240.0.0.1 192.0.2.1 198.18.0.1 203.0.113.9"
    " ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:1.1.1.1 ::127.0.0.1 64:ff9b::7f00:1"
    " 64:ff9b::a9fe:a9fe 64:ff9b::101:101 64:ff9b:1::7f00:1 2002:7f00:1:: 2002:a9fe:a9fe::1"
    " 2001:0:53aa:64c:0:fbff:80ff:fffe 2001:db8::1 100::1 4000::1"
)
ODD = "2130706433 0x7f000001 0177.0.0.1 127.1 127.0.0.0x1 010.0.0.1 1.2.3.4.5 0x.0x.0 127.0.0.1.. 256.1.1.1"
NO_RULES = ("", "a b", "http://x", "10.0.0.1/8", "x:0", "x:70000", "*", "*.", "127.1", "x/8", "[::1")


def refusal(rules: Egress, address: str, port: int = 80, host: str | None = None) -> str:
    """What is said of an address, and of the name it belongs to; empty when it may be called."""
    try:
        rules.check_address(host or address, ip_address(address), port)
    except Refused as refused:
        return str(refused)
    return ""


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.215.14", "172.15.0.1", "172.32.0.1", "2606:4700::1111"])
def test_the_public_internet_is_allowed(address: str) -> None:
    assert refusal(DEFAULT, address) == ""
    assert refusal(DEFAULT, address, host="www.example.com") == ""


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.255.0.3",
        "::1",
        "0.0.0.0",
        "0.1.2.3",
        "::",
        "10.1.2.3",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "100.64.0.1",
        "fd00::1",
        "169.254.169.254",
        "169.254.170.2",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "fd00:ec2::254",
        "169.254.1.1",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "224.0.0.1",
        "239.1.2.3",
        "ff02::1",
        "255.255.255.255",
        "240.0.0.1",
        "192.0.2.1",
        "198.18.0.1",
        "203.0.113.9",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:1.1.1.1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b::101:101",
        "64:ff9b:1::7f00:1",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "2001:0:53aa:64c:0:fbff:80ff:fffe",
        "2001:db8::1",
        "100::1",
        "4000::1",
    ],
)
def test_everything_else_is_refused(address: str) -> None:
    """Whatever the name; the operator reads what to set."""
    for host in (address, "innocent.example.com"):
        said = refusal(DEFAULT, address, 8080, host)
        assert "DALANG_EGRESS_ALLOW" in said, said
        assert "8080" in said


@given(st.ip_addresses(v=4))
def test_an_address_inside_of_another_is_never_better_than_itself(inner: object) -> None:
    """Allowing the disguise does not allow what is disguised."""
    rules = Egress.of(["public", "::ffff:0:0/96", "64:ff9b::/96", "2002::/16"])
    number = int(inner)  # type: ignore[call-overload]
    plain = refusal(rules, str(inner)) == ""
    for disguise in ((0xFFFF << 32) | number, (0x64FF9B << 96) | number, (0x2002 << 112) | (number << 80)):
        assert (refusal(rules, str(ip_address(disguise))) == "") == plain


@given(st.ip_addresses())
def test_only_what_is_global_is_allowed_by_default(address: object) -> None:
    """Python's own tables agree, as far as they go."""
    found = ip_address(str(address))
    if kind_of(found) is None:
        assert found.is_global
        assert not found.is_multicast
        assert not found.is_reserved


@pytest.mark.parametrize(
    "host",
    [
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.1",
        "127.0.0.0x1",
        "010.0.0.1",
        "1.2.3.4.5",
        "0x.0x.0",
        "127.0.0.1..",
        "256.1.1.1",
    ],
)
def test_odd_spellings_are_refused_before_anything_resolves_them(host: str) -> None:
    with pytest.raises(Refused):
        Egress.of(["public", "localhost"]).check_host("http", host, 80)


def test_only_http_leaves() -> None:
    for scheme in ("ftp", "file", "gopher", "unix", ""):
        with pytest.raises(Refused):
            DEFAULT.check_host(scheme, "example.com", 80)
    assert DEFAULT.check_host("https", "example.com", 443) is None
    assert DEFAULT.check_host("https", "1.1.1.1", 443) == ip_address("1.1.1.1")


def test_what_is_allowed_is_all_that_is_allowed() -> None:
    """Without `public` the internet is closed."""
    rules = Egress.of(["127.0.0.1", "10.1.0.0/16:8080", "[::1]:9000", "fd00:1::/32"])
    assert refusal(rules, "127.0.0.1", 5) == ""
    assert refusal(rules, "127.0.0.1", 5, "tricky.example.com") == ""
    assert refusal(rules, "10.1.2.3", 8080) == ""
    assert refusal(rules, "::1", 9000) == ""
    assert refusal(rules, "fd00:1::5", 1) == ""
    for address, port in (("127.0.0.2", 5), ("10.1.2.3", 80), ("10.2.0.1", 8080), ("::1", 80), ("1.1.1.1", 80)):
        assert refusal(rules, address, port), address


def test_a_name_allows_what_it_stands_for_but_not_the_machine_itself() -> None:
    """Names of a private network resolve to private addresses; one that points at loopback or metadata is an attack."""
    rules = Egress.of(["vault.corp", "*.svc.cluster.local", "localhost:8500"])
    assert refusal(rules, "10.3.4.5", 443, "vault.corp") == ""
    assert refusal(rules, "10.3.4.5", 443, "VAULT.corp.") == ""
    assert refusal(rules, "10.96.0.9", 80, "shop.default.svc.cluster.local") == ""
    assert refusal(rules, "1.1.1.1", 80, "vault.corp") == ""
    assert refusal(rules, "127.0.0.1", 8500, "localhost") == ""
    for address, host, port in (
        ("127.0.0.1", "vault.corp", 443),
        ("169.254.169.254", "vault.corp", 443),
        ("100.100.100.200", "vault.corp", 443),
        ("10.3.4.5", "svc.cluster.local", 443),
        ("10.3.4.5", "evilsvc.cluster.local", 443),
        ("10.3.4.5", "10.3.4.5", 443),
        ("127.0.0.1", "localhost", 80),
        ("127.0.0.1", "127.0.0.1", 8500),
        ("1.1.1.1", "example.com", 80),
    ):
        assert refusal(rules, address, port, host), host


def test_deny_wins() -> None:
    rules = Egress.of(
        ["public", "127.0.0.1", "::ffff:0:0/96"], ["1.1.0.0/16", "*.evil.example", "bad.example:443", "127.0.0.1:5432"]
    )
    assert "1.1.0.0/16" in refusal(rules, "1.1.1.1")
    assert "1.1.0.0/16" in refusal(rules, "::ffff:1.1.1.1")
    assert refusal(rules, "127.0.0.1", 5432)
    assert refusal(rules, "127.0.0.1", 80) == ""
    assert refusal(rules, "9.9.9.9", 80, "a.evil.example")
    assert refusal(rules, "9.9.9.9", 443, "bad.example")
    assert refusal(rules, "9.9.9.9", 80, "bad.example") == ""
    for host in ("A.EVIL.example", "a.evil.example."):
        with pytest.raises(Refused):
            rules.check_host("https", host, 443)
    assert refusal(Egress.of(["0.0.0.0/0"], ["public"]), "1.1.1.1")
    assert refusal(Egress.of(["0.0.0.0/0"], ["public"]), "10.0.0.1") == ""


def test_behind_a_proxy_names_are_judged_as_names() -> None:
    rules = Egress.of(["api.example.com"], proxy="http://proxy:3128")
    rules.check_behind_proxy("api.example.com", 443)
    with pytest.raises(Refused, match="other"):
        rules.check_behind_proxy("other.example.com", 443)
    Egress.of(["public"], proxy="http://proxy:3128").check_behind_proxy("other.example.com", 443)


@pytest.mark.parametrize("text", NO_RULES)
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_rule(text)
