"""How the API listens: not in the clear where others read, with TLS that is renewed, believing only its own proxies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from starlette.types import Receive, Scope, Send

from dalang.api import serving
from dalang.api.__main__ import main
from dalang.api.serving import Certificate, make_server
from dalang.settings import Settings, SettingsError
from dalang.stack.ports import free_port


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "dalang.example.com", "fe80::1"])
def test_nobody_listens_to_a_network_in_the_clear(host: str) -> None:
    """Unless there is a certificate, or a proxy that is named."""
    with pytest.raises(SettingsError, match="DALANG_TLS_CERT_FILE") as caught:
        Settings(api_host=host).require_safe_listening()
    assert host in str(caught.value)
    Settings(api_host=host, tls_cert_file="a", tls_key_file="b").require_safe_listening()
    Settings(api_host=host, behind_proxy="10.0.0.5,172.16.0.0/12").require_safe_listening()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
def test_this_machine_may_listen_to_itself(host: str) -> None:
    """As `dalang up` does."""
    Settings(api_host=host).require_safe_listening()


def test_the_process_ends_before_it_listens(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And says what to do, by the names of settings."""
    monkeypatch.setenv("DALANG_DATABASE_URL", "postgresql://a:b@127.0.0.1:1/c")
    monkeypatch.setenv("DALANG_API_HOST", "0.0.0.0")
    assert main() == 2
    said = capsys.readouterr().err
    for name in ("DALANG_TLS_CERT_FILE", "DALANG_TLS_KEY_FILE", "DALANG_BEHIND_PROXY", "DALANG_API_HOST=127.0.0.1"):
        assert name in said


@pytest.mark.parametrize(
    "values",
    [
        {"tls_cert_file": "a"},
        {"tls_key_file": "a"},
        {"behind_proxy": "nginx"},
        {"behind_proxy": "10.0.0.1/8"},
        {"behind_proxy": "*,10.0.0.1"},
    ],
)
def test_half_a_setting_is_refused(values: dict[str, str]) -> None:
    """A certificate without a key; a proxy by a name, which nobody's address would be."""
    with pytest.raises(SettingsError):
        Settings.of(values)


def write_certificate(folder: Path, serial: int) -> tuple[Path, Path]:
    """Write a certificate for 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), serial, now - timedelta(days=1), now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate, private = folder / "tls.crt", folder / "tls.key"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate, private


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer who asks, as the API would see it."""
    if scope["type"] != "http":
        return
    body = json.dumps([scope["client"][0], scope["scheme"]]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


@contextlib.asynccontextmanager
async def served(**values: object) -> AsyncIterator[int]:
    port = free_port()
    server = make_server(Settings(api_port=port, **values), echo)
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield port
    finally:
        server.should_exit = True
        await running


async def serial_at(port: int, server_name: str | None = "localhost") -> int:
    """Shake hands; return the serial number of the certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=server_name or "")
    certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return x509.load_der_x509_certificate(certificate).serial_number


async def test_a_certificate_is_renewed_without_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of a renewal, or a bad one, leaves the old one in use; clients that name no server get it too."""
    monkeypatch.setattr(serving, "LOOK_SECONDS", 0)
    certificate, key = write_certificate(tmp_path, 1)
    async with served(tls_cert_file=str(certificate), tls_key_file=str(key)) as port:
        assert await serial_at(port) == 1
        write_certificate(tmp_path, 2)
        assert await serial_at(port) == 2
        assert await serial_at(port, None) == 2
        certificate.write_text("half of")
        assert await serial_at(port) == 2
        write_certificate(tmp_path, 3)
        assert await serial_at(port) == 3
        trusting = ssl.create_default_context(cafile=str(certificate))
        async with httpx.AsyncClient(verify=trusting) as client:
            assert (await client.get(f"https://localhost:{port}/")).json()[1] == "https"


def test_a_bad_certificate_is_refused_at_the_start(tmp_path: Path) -> None:
    """With the names of both settings."""
    certificate, key = write_certificate(tmp_path, 1)
    other = tmp_path / "other"
    other.mkdir()
    _, another = write_certificate(other, 2)
    for pair in ((certificate, tmp_path / "missing"), (key, key), (certificate, another)):
        with pytest.raises(SettingsError, match="DALANG_TLS_CERT_FILE"):
            Certificate(*map(str, pair))


@pytest.mark.parametrize(
    ("proxies", "seen"),
    [
        ("", ["127.0.0.1", "http"]),
        ("10.0.0.5", ["127.0.0.1", "http"]),
        ("127.0.0.0/8", ["203.0.113.9", "https"]),
    ],
)
async def test_only_proxies_that_are_named_are_believed(proxies: str, seen: list[str]) -> None:
    """Whoever else sends such headers could pass for anybody."""
    headers = {"X-Forwarded-For": "198.51.100.7, 203.0.113.9", "X-Forwarded-Proto": "https"}
    async with served(behind_proxy=proxies) as port, httpx.AsyncClient() as client:
        assert (await client.get(f"http://127.0.0.1:{port}/", headers=headers)).json() == seen
