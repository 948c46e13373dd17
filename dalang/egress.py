"""Where nodes may send requests: the operator's rules, and what they say of one address (``docs/egress.md``).

A plan names the addresses its nodes call, and who writes plans is not who runs the workers: without rules an ``http``
node would be a way to the worker's own machine, to the databases beside it, and to the metadata service that hands out
the credentials of the cloud. So by default only addresses of the public internet are allowed.

Pure: a host name is resolved by who connects (``activities/egress.py``), and each address it stands for is judged here.
A name alone is never trusted, since it may mean something else at the next look; nor is an address that carries another
one inside (IPv4-mapped, NAT64, 6to4, Teredo), which is judged as both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from dalang.errors import ErrorType

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

PUBLIC = "public"
"""The rule that stands for every address of the public internet."""
SCHEMES = {"http": 80, "https": 443}
_HOST = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")
_NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*")

# The tables of IANA for special purposes; kept here, since those of Python differ from release to release.
_KINDS: tuple[tuple[str, tuple[Network, ...]], ...] = tuple(
    (kind, tuple(ip_network(network) for network in networks.split()))
    for kind, networks in (
        # The last three are of Azure, Oracle and Amazon; those of the others are link-local, or shared (Alibaba).
        ("a metadata service", "169.254.169.254 169.254.170.2 100.100.100.200 168.63.129.16 192.0.0.192 fd00:ec2::/32"),
        ("this machine (loopback)", "127.0.0.0/8 ::1"),
        ("unspecified", "0.0.0.0/8 ::"),
        ("link-local", "169.254.0.0/16 fe80::/10 fec0::/10"),
        ("multicast", "224.0.0.0/4 ff00::/8"),
        ("private", "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 100.64.0.0/10 fc00::/7"),
        (
            "an IPv4 address inside an IPv6 one",
            "::ffff:0:0/96 ::/96 64:ff9b::/96 64:ff9b:1::/48 2002::/16 2001::/32",
        ),
        (
            "reserved",
            "192.0.0.0/24 192.0.2.0/24 192.88.99.0/24 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 240.0.0.0/4"
            " 100::/64 2001::/23 2001:db8::/32 3fff::/20 5f00::/16",
        ),
    )
)
_UNICAST = ip_network("2000::/3")
_BY_NAME = frozenset({"private"})
"""Kinds that a rule with a host name allows beside public ones; the others take a rule with their address."""


class Refused(Exception):
    """The operator does not allow this address; the text says why, and what he can set."""

    type = ErrorType.POLICY_VIOLATION


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of the settings: a host (``*.`` for all below it), a network, or ``public``; of one port or all."""

    text: str
    host: str | None = None
    network: Network | None = None
    port: int | None = None

    def fits_host(self, host: str, port: int) -> bool:
        """Tell whether this names the host."""
        if self.host is None or self.port not in (None, port):
            return False
        return host.endswith(self.host[1:]) if self.host.startswith("*") else host == self.host

    def fits_address(self, address: Address, port: int) -> bool:
        """Tell whether this holds the address."""
        if self.host is not None or self.port not in (None, port):
            return False
        if self.network is None:
            return kind_of(address) is None
        return address.version == self.network.version and address in self.network


def read_rule(text: str) -> Rule:
    """Return the rule that ``text`` is.

    Raises:
        ValueError: it is none; the text says what would be one.
    """
    given = text.strip().lower()
    if given == PUBLIC:
        return Rule(given)
    host, port = _split_port(given)
    try:
        return Rule(given, network=ip_network(host), port=port)
    except ValueError as error:
        if "host bits" in str(error):
            raise ValueError(f"{text!r}: {error}, the network is {ip_network(host, strict=False)}") from None
    host = host.rstrip(".")
    if not _HOST.fullmatch(host) or _is_numeric(host):
        raise ValueError(
            f"{text!r} is no rule: give a host (api.example.com, *.example.com), an address or network (10.0.0.0/8), "
            f"each with :port where only that one is meant, or {PUBLIC}"
        )
    return Rule(given, host=host, port=port)


def _split_port(text: str) -> tuple[str, int | None]:
    found = re.fullmatch(r"\[([^\]]*)\](?::(\d+))?", text) or re.fullmatch(r"([^:]*):(\d+)", text)
    if found is None:
        return text, None
    port = None if found[2] is None else int(found[2])
    if port is not None and not 0 < port < 65536:
        raise ValueError(f"{text!r}: {port} is no port")
    return found[1], port


@dataclass(frozen=True, slots=True)
class Egress:
    """What the operator allows. ``deny`` wins; what no rule of ``allow`` fits is refused."""

    allow: tuple[Rule, ...] = (Rule(PUBLIC),)
    deny: tuple[Rule, ...] = ()
    proxy: str = ""

    @classmethod
    def of(cls, allow: Iterable[str], deny: Iterable[str] = (), proxy: str = "") -> Egress:
        """Read the rules; raises ValueError."""
        return cls(tuple(map(read_rule, allow)), tuple(map(read_rule, deny)), proxy)

    def check_host(self, scheme: str, host: str, port: int) -> Address | None:
        """Judge what a URL says, before anything is resolved; return the address if it is one.

        Raises:
            Refused: it is not http, spelled oddly, denied, or an address that is not allowed.
        """
        host = host_name(host)
        if scheme not in SCHEMES:
            raise Refused(f"{scheme}:// is not allowed: nodes speak http and https")
        try:
            address = ip_address(host)
        except ValueError:
            if _is_numeric(host):
                raise Refused(
                    f"{host} is an odd spelling of an address: write it as four decimal numbers, such as 192.0.2.1"
                ) from None
            self._check_denied_host(host, port)
            return None
        self.check_address(host, address, port)
        return address

    def check_address(self, host: str, address: Address, port: int) -> None:
        """Judge an address that ``host`` stands for; it may be the host itself.

        Raises:
            Refused: it is denied, or not allowed.
        """
        host = host_name(host)
        self._check_denied_host(host, port)
        place = f"{host}:{port}" if host == str(address) else f"{host}:{port} (its address {address})"
        faces = _faces(address)
        for face in faces:
            for rule in self.deny:
                if rule.fits_address(face, port):
                    raise Refused(f"{place} is denied by the operator (DALANG_EGRESS_DENY: {rule.text})")
        for face in faces:
            self._check_allowed(host, place, face, port)

    def check_behind_proxy(self, host: str, port: int) -> None:
        """Judge a host that the proxy resolves: a name must be allowed as such, or ``public`` be.

        Raises:
            Refused: it is neither.
        """
        host = host_name(host)
        if not any(rule.text == PUBLIC or rule.fits_host(host, port) for rule in self.allow):
            raise Refused(f"{host}:{port} is not among what the operator allows; {_remedy(host, port)}")

    def _check_denied_host(self, host: str, port: int) -> None:
        for rule in self.deny:
            if rule.fits_host(host, port):
                raise Refused(f"{host}:{port} is denied by the operator (DALANG_EGRESS_DENY: {rule.text})")

    def _check_allowed(self, host: str, place: str, address: Address, port: int) -> None:
        if any(rule.fits_address(address, port) for rule in self.allow):
            return
        kind = kind_of(address)
        if kind is None or kind in _BY_NAME or (host == "localhost" and address.is_loopback):
            if any(rule.fits_host(host, port) for rule in self.allow):
                return
            named = host
        else:
            named = f"[{address}]" if address.version == 6 else str(address)
        why = f"{address} is {kind}" if kind is not None else "it is not among what the operator allows"
        raise Refused(f"{place} is refused: {why}; {_remedy(named, port)}")


def _remedy(host: str, port: int) -> str:
    return f"an operator who wants it allowed adds {host}:{port} to DALANG_EGRESS_ALLOW"


def host_name(host: str) -> str:
    """Return a host as rules are compared with it: lower case, no brackets, no dot at the end, no zone."""
    return host.strip("[]").lower().rstrip(".").partition("%")[0]


def kind_of(address: Address) -> str | None:
    """Return what an address is if it is not one of the public internet."""
    for kind, networks in _KINDS:
        if any(address.version == network.version and address in network for network in networks):
            return kind
    return "reserved" if address.version == 6 and address not in _UNICAST else None


def _faces(address: Address) -> list[Address]:
    """Return the address, and what it carries inside."""
    if isinstance(address, IPv4Address):
        return [address]
    inner: list[IPv4Address] = []
    bits = int(address)
    top = bits >> 32
    if top in (0, 0xFFFF, 0x0064FF9B << 64) and bits > 1:  # compatible, mapped, NAT64
        inner.append(IPv4Address(bits & 0xFFFFFFFF))
    if bits >> 80 == 0x0064FF9B0001:  # NAT64 of a site, with prefixes of any length
        inner += [IPv4Address(bits & 0xFFFFFFFF), IPv4Address((bits >> 48) & 0xFFFFFFFF)]
    if address.sixtofour is not None:
        inner.append(address.sixtofour)
    if address.teredo is not None:
        inner += address.teredo
    return [IPv6Address(bits), *inner]  # without its zone


def _is_numeric(host: str) -> bool:
    """Tell whether a resolver may take the name for an address: 127.1, 0x7f000001, 017700000001, 2130706433."""
    return _NUMERIC.fullmatch(host.rpartition(".")[2]) is not None
