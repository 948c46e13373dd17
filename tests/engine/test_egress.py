"""The client of nodes against real servers on loopback: it connects to what was judged, and to nothing else."""

from __future__ import annotations

import contextlib
import datetime
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dalang.activities.egress import EgressRefused, enforcing, http_client, refusal_within
from dalang.activities.failures import classify
from dalang.egress import Address, Egress
from dalang.settings import Settings, SettingsError
from dalang.trust import trusted
from tests.engine.kit import Engine, body_of

HERE = Egress.of(["127.0.0.1"])
NAME = "service.test"


class Service(BaseHTTPRequestHandler):
    """Answers the Host header it was sent; redirects to what ``to`` says; as a proxy it answers for everybody."""

    def do_GET(self) -> None:
        self.server.seen.append(self.path)  # type: ignore[attr-defined]
        _, _, to = self.path.partition("?to=")
        self.send_response(302 if to else 200)
        if to:
            self.send_header("location", to)
        self.send_header("set-cookie", "session=1; Path=/")
        text = f"{self.headers['host']}{self.headers.get('cookie', '')}".encode()
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *words: Any) -> None:
        """Say nothing."""


def serving(tls: ssl.SSLContext | None = None) -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        server.seen = []  # type: ignore[attr-defined]
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def service() -> Iterator[ThreadingHTTPServer]:
    yield from serving()


def resolver(*answers: str) -> Callable[[str, int], Awaitable[list[Address]]]:
    """A resolver that answers one after the other, each with addresses separated by blanks."""
    left = list(answers)

    async def resolve(host: str, port: int) -> list[Address]:
        return [ip_address(one) for one in left.pop(0).split()]

    return resolve


async def test_a_name_is_resolved_once_and_its_address_is_the_one_that_is_called(service: ThreadingHTTPServer) -> None:
    """A second answer would be another one (DNS rebinding); the Host header is the name's."""
    url = f"http://{NAME}:{service.server_port}/"
    async with http_client(rules=HERE, resolve=resolver("127.0.0.1")) as client:
        answer = await client.get(url)
    assert answer.text == f"{NAME}:{service.server_port}"
    async with http_client(rules=HERE, resolve=resolver("127.0.0.1", "127.0.0.2")) as client:
        await client.get(url, headers={"connection": "close"})
        with pytest.raises(EgressRefused, match=r"127\.0\.0\.2"):
            await client.get(url, headers={"connection": "close"})
    assert len(service.seen) == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("answer", ["127.0.0.1 169.254.169.254", "10.0.0.1 127.0.0.1"])
async def test_one_address_that_is_refused_refuses_the_name(service: ThreadingHTTPServer, answer: str) -> None:
    """Who mixes them hopes that another is taken at the second try."""
    async with http_client(rules=HERE, resolve=resolver(answer)) as client:
        with pytest.raises(EgressRefused, match="DALANG_EGRESS_ALLOW"):
            await client.get(f"http://{NAME}:{service.server_port}/")
    assert service.seen == []  # type: ignore[attr-defined]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "127.1", "2130706433", "0"])
async def test_by_default_the_machine_itself_is_out_of_reach(service: ThreadingHTTPServer, host: str) -> None:
    """However it is spelled; the system's own resolver is asked here."""
    async with http_client(rules=Egress()) as client:
        with pytest.raises(EgressRefused):
            await client.get(f"http://{host}:{service.server_port}/")
    assert service.seen == []  # type: ignore[attr-defined]


async def test_cookies_of_one_node_are_not_sent_for_another(service: ThreadingHTTPServer) -> None:
    """One client serves nodes of many runs and tenants; who wants a session says so."""
    url = f"http://127.0.0.1:{service.server_port}/"
    async with http_client(rules=HERE) as shared, http_client(rules=HERE, cookies={}) as own:
        for client, kept in ((shared, False), (own, True)):
            await client.get(url)
            assert (await client.get(url)).text.endswith("session=1") is kept
        assert (await shared.get(url, headers={"cookie": "mine=1"})).text.endswith("mine=1")


async def test_a_redirect_is_judged_too(service: ThreadingHTTPServer) -> None:
    port = service.server_port
    async with http_client(rules=HERE, follow_redirects=True) as client:
        followed = await client.get(f"http://127.0.0.1:{port}/a?to=http://127.0.0.1:{port}/b")
        assert followed.url.path == "/b"
        for target in (f"http://127.0.0.2:{port}/c", "http://169.254.169.254/latest/meta-data"):
            with pytest.raises(EgressRefused):
                await client.get(f"http://127.0.0.1:{port}/a?to={target}")


async def test_the_next_address_is_tried_when_one_does_not_answer(service: ThreadingHTTPServer) -> None:
    """Both were judged before."""
    rules = Egress.of(["127.0.0.0/8"])
    async with http_client(rules=rules, resolve=resolver("127.0.0.2 127.0.0.1")) as client:
        assert (await client.get(f"http://{NAME}:{service.server_port}/")).status_code == 200


async def test_a_name_that_nobody_knows_is_an_error_of_the_connection() -> None:
    """And so worth another attempt."""

    async def unknown(host: str, port: int) -> list[Address]:
        raise OSError("no such name")

    async with http_client(rules=HERE, resolve=unknown) as client:
        with pytest.raises(httpx.ConnectError, match="no such name"):
            await client.get(f"http://{NAME}/")


async def test_proxies_of_the_environment_are_not_used(
    service: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would resolve names themselves, and reach what this machine may not."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    async with http_client(rules=HERE) as client:
        assert (await client.get(f"http://127.0.0.1:{service.server_port}/")).status_code == 200


async def test_the_operators_proxy_is_asked_for_what_is_allowed(service: ThreadingHTTPServer) -> None:
    """Its own address needs no rule."""
    rules = Egress.of(["api.example.com"], proxy=f"http://127.0.0.1:{service.server_port}")
    async with http_client(rules=rules) as client:
        assert (await client.get("http://api.example.com/x")).text == "api.example.com"
        for url in ("http://other.example.com/", "http://10.0.0.1/", "http://169.254.169.254/", "http://127.1/"):
            with pytest.raises(EgressRefused):
                await client.get(url)
    assert service.seen == ["http://api.example.com/x"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["transport", "proxy", "mounts", "trust_env"])
def test_no_option_leads_around_the_rules(name: str) -> None:
    with pytest.raises(TypeError, match=name):
        http_client(**{name: None})


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for the name alone, which is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public, private = folder / "cert.pem", folder / "key.pem"
    public.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    return public, private


async def test_the_certificate_must_be_the_names(tmp_path: Path) -> None:
    """Although an address is called: the server is told the name (SNI), and must prove it."""
    public, private = certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(public, private)
    told: list[str] = []
    context.sni_callback = lambda socket, name, context: told.append(name)
    for server in serving(context):
        trusting = ssl.create_default_context(cafile=str(public))
        async with http_client(rules=HERE, resolve=resolver("127.0.0.1"), verify=trusting) as client:
            assert (await client.get(f"https://{NAME}:{server.server_port}/")).status_code == 200
            assert told == [NAME]
            with pytest.raises(httpx.ConnectError, match="verif"):
                await client.get(f"https://127.0.0.1:{server.server_port}/")


async def test_clients_share_what_is_trusted_and_read_it_when_they_need_it(
    tmp_path: Path, service: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both kinds of client trust whom the environment names, and no one else; without TLS nothing is read."""
    public, private = certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(public, private)
    for server in serving(context):
        for name, trust in ((str(public), True), ("", False)):
            monkeypatch.setenv("SSL_CERT_FILE", name)
            shared = trusted.__wrapped__()
            async with http_client(rules=HERE, resolve=resolver(*["127.0.0.1"] * 3), verify=shared) as client:
                assert (await client.get(f"http://{NAME}:{service.server_port}/")).status_code == 200
                assert "_real" not in vars(shared)
                with contextlib.nullcontext() if trust else pytest.raises(httpx.ConnectError, match="verif"):
                    assert (await client.get(f"https://{NAME}:{server.server_port}/")).status_code == 200
            with httpx.Client(verify=shared) as plain, pytest.raises(httpx.ConnectError, match="verif"):
                plain.get(f"https://127.0.0.1:{server.server_port}/")


async def test_a_refusal_that_a_library_wraps_is_found_again() -> None:
    """Libraries make errors of a connection of it, which would be tried again."""
    try:
        try:
            raise EgressRefused("no")
        except EgressRefused as refused:
            raise RuntimeError("connection error") from refused
    except RuntimeError as error:
        wrapped = ExceptionGroup("several", [ValueError("x"), error])
    payload = classify(wrapped)
    assert (payload.type, payload.retryable, payload.message) == ("POLICY_VIOLATION", False, "no")
    assert refusal_within(ValueError("x")) is None


async def test_a_node_that_calls_the_metadata_service_fails_for_good(shared_engine: Engine) -> None:
    """Not tried again, nothing to undo, and the operator reads what to set."""
    for url in ("http://169.254.169.254/latest/meta-data", "http://127.0.0.2:1/"):
        end = await (
            await shared_engine.start({"nodes": [{"nodeId": "a", "type": "http", "inputs": {"url": url}}]})
        ).end()
        error = body_of(end, "NODE_FAILED", "a")["error"]
        assert (error["type"], error["retryable"], error["attempt"]) == ("POLICY_VIOLATION", False, 1)
        assert error["noEffect"] is True
        assert "DALANG_EGRESS_ALLOW" in error["message"]


def test_the_rules_of_the_process_hold_in_the_block_only() -> None:
    with enforcing(Egress()):
        with enforcing(HERE):
            inside = http_client()
        clients = (inside, http_client())
    rules = [client._transport._rules for client in clients]  # type: ignore[attr-defined]
    assert rules == [HERE, Egress()]


def test_settings_are_read_and_refused() -> None:
    """A rule that cannot be read would silently allow, or refuse, something else."""
    found = Settings.of({"egress_allow": "public, 127.0.0.1:8500", "egress_deny": "*.evil.example"}).egress
    assert found == Egress.of(["public", "127.0.0.1:8500"], ["*.evil.example"])
    assert Settings().egress == Egress()
    with pytest.raises(SettingsError, match=r"DALANG_EGRESS_DENY.*10\.0\.0\.1/8"):
        Settings.of({"egress_deny": "10.0.0.1/8"})
