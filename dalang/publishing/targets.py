"""The targets that a process can send to, made from its settings."""

from __future__ import annotations

import ssl
from importlib.util import find_spec
from typing import Any
from urllib.parse import parse_qsl, unquote

from dalang.activities.egress import http_client
from dalang.activities.secrets import Vault
from dalang.publishing.kafka import Kafka
from dalang.publishing.nats import Nats
from dalang.publishing.target import MissingTarget, Target
from dalang.publishing.webhooks import Webhooks
from dalang.settings import PREFIX, Settings, SettingsError
from dalang.store.subscriptions import KAFKA, NATS, WEBHOOK


def targets(settings: Settings) -> dict[str, Target]:
    """Return what can be sent to; nothing is connected before it is needed.

    Raises:
        SettingsError: an address of a broker cannot be read.
    """
    made: dict[str, Target] = {WEBHOOK: Webhooks(http_client, reveal=Vault.of(settings).value)}
    made[KAFKA] = _broker("KAFKA_URL", settings.kafka_url, "aiokafka", KAFKA, lambda url: Kafka(*kafka_options(url)))
    made[NATS] = _broker("NATS_URL", settings.nats_url, "nats", NATS, lambda url: Nats(*nats_options(url)))
    return made


def kafka_options(url: str) -> tuple[list[str], dict[str, Any]]:
    """Return servers and options of ``kafka://[user:password@]host:port[,host:port][?tls=true&mechanism=...&ca=...]``.

    Raises:
        ValueError: it is no such address.
    """
    user, password, servers, query = _parts(url, ("kafka",), ("tls", "mechanism", "ca"))
    tls = query.get("tls", "true" if "ca" in query else "false") == "true"
    options: dict[str, Any] = {"security_protocol": ("SASL_" if user else "") + ("SSL" if tls else "PLAINTEXT")}
    if options["security_protocol"] == "PLAINTEXT":
        del options["security_protocol"]
    if tls:
        options["ssl_context"] = ssl.create_default_context(cafile=query.get("ca"))
    if user:
        options["sasl_mechanism"] = query.get("mechanism", "PLAIN")
        options["sasl_plain_username"], options["sasl_plain_password"] = user, password
    return servers, options


def nats_options(url: str) -> tuple[list[str], dict[str, Any]]:
    """Return servers and options of ``nats://[user:password@]host:port[,host:port][?ca=...]``.

    ``tls://`` is for TLS.

    Raises:
        ValueError: it is no such address.
    """
    scheme = url.partition("://")[0]
    user, password, servers, query = _parts(url, ("nats", "tls"), ("ca",))
    options: dict[str, Any] = {}
    if user:
        options |= {"user": user, "password": password} if password else {"token": user}
    if scheme == "tls" or "ca" in query:
        options["tls"] = ssl.create_default_context(cafile=query.get("ca"))
    return [f"nats://{one}" for one in servers], options


def _parts(url: str, schemes: tuple[str, ...], known: tuple[str, ...]) -> tuple[str, str, list[str], dict[str, str]]:
    scheme, _, rest = url.partition("://")
    places, _, query = rest.partition("?")
    who, _, hosts = places.rpartition("@")
    user, _, password = who.partition(":")
    servers = [one for one in hosts.rstrip("/").split(",") if one]
    options = dict(parse_qsl(query))
    if scheme not in schemes or not all(one.rpartition(":")[2].isdigit() for one in servers) or not servers:
        raise ValueError(f"it looks like {schemes[0]}://host:port,host:port")
    unknown = options.keys() - set(known)
    if unknown:
        raise ValueError(f"it takes no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return unquote(user), unquote(password), servers, options


def _broker(setting: str, url: str, library: str, extra: str, make: Any) -> Target:
    if not url:
        return MissingTarget(f"no worker knows where it is: {PREFIX}{setting} is not set")
    if find_spec(library) is None:
        return MissingTarget(f"the library is missing: pip install 'dalang[{extra}]'")
    try:
        target: Target = make(url)
    except (ValueError, OSError) as error:
        raise SettingsError(f"{PREFIX}{setting}: {error}") from None
    return target
