"""Settings: the only place that reads the environment.

Every setting is an environment variable ``DALANG_<NAME>``. What the environment leaves open comes from
``<home>/stack.json``, which a running ``dalang up`` writes, then from the defaults below: so the command line and a
worker started by hand find the stack of their folder with nothing set. ``python -m dalang.settings`` prints the
table of ``docs/settings.md``.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator

from dalang.breaker import Thresholds
from dalang.deployment_settings import DeploymentSettings
from dalang.egress import Egress, read_rule
from dalang.errors import DalangError
from dalang.outside_settings import OutsideSettings
from dalang.serving_settings import Port, ServingSettings
from dalang.watch_settings import WatchSettings, from_otel

PREFIX = "DALANG_"
SECRET_PREFIX = "DALANG_SECRET_"  # noqa: S105 - the beginning of a name
"""Variables that are no settings, but secrets of nodes (``docs/secrets.md``)."""
DRIVER = "postgresql+asyncpg"
SETTINGS_DOC = Path("docs/settings.md")
AUDIT_KEY = "audit-key.pem"
"""Name of the key file in the home of a stack."""


class SettingsError(DalangError):
    """A setting is missing, unknown or invalid; the text names it and says what would be accepted."""


class Settings(ServingSettings, DeploymentSettings, OutsideSettings, WatchSettings):
    """All settings of all processes; immutable, made by :meth:`load`.

    Built directly it reads nothing but its arguments (tests); units are in the names. Secrets
    (URLs with passwords, keys, the token) are left out of ``repr``.
    """

    # A plain model, not pydantic-settings: that would read the environment in every constructor, and costs the
    # command line 55 ms more at every start.
    model_config = ConfigDict(frozen=True, extra="forbid")

    home: Path = Field(
        default=Path(".dalang"),
        description="Folder of the stack on one machine: its data, logs, secrets and `stack.json`.",
    )

    database_url: str = Field(
        default="",
        repr=False,
        description="Postgres of the workers and API servers, as a role that owns no table and cannot bypass row level "
        "security: `postgresql://dalang_app:...@host:5432/dalang`; a socket folder goes into `?host=`. "
        "Empty: the stack that `dalang up` runs.",
    )
    migration_database_url: str = Field(
        default="",
        repr=False,
        description="The same database as the owner of the tables, for `dalang db upgrade` only.",
    )
    database_pool_size: int = Field(
        default=10, ge=1, le=500, description="Database connections of one process at most."
    )

    temporal_address: str = Field(
        default="127.0.0.1:7233",
        description="`host:port` of Temporal's frontend. Default: the port of `temporal_port` here.",
    )
    temporal_namespace: str = Field(default="default", min_length=1, description="Temporal namespace of all runs.")
    temporal_tls: bool = Field(default=False, description="Connect to Temporal over TLS; implied by an API key.")
    temporal_api_key: str = Field(default="", repr=False, description="API key of Temporal Cloud.")
    temporal_connect_timeout_seconds: float = Field(
        default=30, gt=0, le=3600, description="How long a starting process waits for Temporal to answer."
    )
    temporal_ui_url: str = Field(
        default="",
        description="Address of the Temporal Web UI, for links. Default: the port of `temporal_ui_port` here.",
    )
    task_queue: str = Field(
        default="dalang", min_length=1, description="Temporal task queue of workflows and activities."
    )

    token: str = Field(
        default="", repr=False, description="API token of the command line. Default: the content of `<home>/token`."
    )

    production: bool = Field(
        default=False,
        description="Refuse settings that are for trying out only (`policy_when_away=allow`), and decisions of who "
        "does not prove who he is (`require_authenticated`).",
    )

    audit_key_file: str = Field(
        default="",
        description="PEM file of the Ed25519 keys that sign what runs did (`docs/audit.md`): workers need the private "
        "key, and API servers, which sign what they tell to runs. Default: `<home>/audit-key.pem`, where there is one.",
    )

    require_authenticated: bool | None = Field(
        default=None,
        description="Runs that begin let nobody decide who does not prove who he is: signals and updates that were not "
        "sent by the API count only with an approval token (`docs/human-tasks.md`). Needs the private key of "
        "`audit_key_file` at the API servers. Default: as `production`.",
    )
    redaction_file: str = Field(
        default="",
        description="YAML file of what is not kept in events and logs: `keys`, `paths`, `patterns` (`docs/audit.md`). "
        "Empty: what stands behind keys such as `password`, `token`, `authorization`. Of workers; of API servers for "
        "their logs.",
    )
    audit_anchor_seconds: float = Field(
        default=3600,
        ge=0,
        le=7 * 24 * 3600,
        description="How often what all runs of a tenant have come to is anchored (`docs/audit.md`); 0: never.",
    )
    retention_days: float = Field(
        default=0,
        ge=0,
        le=36_500,
        description="For how many days runs that have ended are kept (`docs/tenancy.md`); 0: for ever. Never shorter "
        "than Temporal keeps them.",
    )
    retention_tenants: tuple[Annotated[str, Field(pattern=r"^[^=]+=\d{1,5}(\.\d+)?$")], ...] = Field(
        default=(),
        description="The same for some tenants: `acme=30,globex=0`.",
    )
    encryption_keys_file: str = Field(
        default="",
        description="File of the keys that payloads in Temporal are encrypted with (`docs/encryption.md`, "
        "`dalang keys new`); read again when it changes. Workers and API servers need the same. Empty: not encrypted.",
    )
    codec_tenants: tuple[str, ...] = Field(
        default=("default",),
        description="Tenants whose tokens may use the codec server, which reads what Temporal holds of all tenants; "
        "`*`: all.",
    )

    node_modules: tuple[str, ...] = Field(
        default=(), description="Python modules, separated by commas, that register node types with `@node`."
    )

    agent_places: int = Field(
        default=0,
        ge=0,
        le=10_000,
        description="Workers register their `@agent` functions for all tenants, each with so many places. 0: they are "
        "not registered, and take as much as comes.",
    )
    max_in_flight: int = Field(
        default=50,
        ge=1,
        le=1000,
        description="Activities of one run at once; more than about 50 makes Temporal slower.",
    )
    max_plan_bytes: int = Field(
        default=19 * 1024 * 1024, ge=1024, le=19 * 1024 * 1024, description="Largest plan that is read, in bytes."
    )
    payload_threshold_bytes: int = Field(
        default=64 * 1024, ge=1024, le=1024 * 1024, description="Payloads from this size on are stored in Postgres."
    )
    history_events_limit: int = Field(
        default=20_000,
        ge=100,
        le=45_000,
        description="History length at which a run continues as new although nodes are still in flight.",
    )

    max_concurrent_activities: int = Field(
        default=200, ge=1, le=10_000, description="Activities of one worker at once."
    )
    max_cached_workflows: int = Field(
        default=1000, ge=1, le=100_000, description="Runs that one worker keeps in memory."
    )
    max_eager_activities: int = Field(
        default=100,
        ge=0,
        le=1000,
        description="Activities per workflow task that start without a trip through the server, and so out of turn; "
        "0: none, for fairness between tenants in Temporal's queue.",
    )
    sticky_timeout_seconds: float = Field(
        default=1,
        gt=0,
        le=60,
        description="How long a run waits for the worker that knows it before any other takes over.",
    )
    graceful_shutdown_seconds: float = Field(
        default=30, ge=0, le=3600, description="Time that running activities get to end after SIGTERM."
    )

    breaker_failure_threshold: int = Field(
        default=5, ge=0, le=10_000, description="Failures in a row that open a circuit breaker; 0: there are none."
    )
    breaker_success_threshold: int = Field(
        default=2, ge=1, le=1000, description="Successes on trial that close it again, and how many try at once."
    )
    breaker_open_seconds: float = Field(
        default=30, ge=0.01, le=86_400, description="How long an open circuit breaker lets nobody try."
    )

    postgres_port: Port = Field(default=54320, description="`dalang up`: port of its PostgreSQL.")
    temporal_port: Port = Field(default=7233, description="`dalang up`: port of its Temporal server.")
    temporal_ui_port: Port = Field(default=8233, description="`dalang up`: port of its Temporal Web UI.")
    temporal_http_port: Port = Field(
        default=7243,
        description="`dalang up`: port of Temporal's HTTP API, which is pinned here and refuses every host.",
    )
    temporal_metrics_port: Port = Field(default=7253, description="`dalang up`: port of the Temporal server's metrics.")
    temporal_retention_days: int = Field(
        default=7, ge=1, le=3650, description="`dalang up`: days that Temporal keeps the history of ended runs."
    )
    postgres_system_user: str = Field(
        default="",
        description="`dalang up` as root: system user of PostgreSQL. Default: `postgres` if it exists, else `nobody`.",
    )

    @classmethod
    def load(cls, *, home: Path | str | None = None, running_stack: bool = True, **overrides: Any) -> Self:
        """Read the environment, then ``<home>/stack.json`` (unless ``running_stack`` is false), then defaults.

        ``overrides`` (command line options) win over everything; a value of None is "not given".
        Raises :class:`SettingsError`.
        """
        given = _from_environment(cls) | {k: v for k, v in overrides.items() if v is not None}
        if home is not None:
            given["home"] = home
        folder = Path(given.get("home", cls.model_fields["home"].default))
        if given.get("temporal_profile"):
            given = _from_profile(given) | given
        if running_stack:
            given = _from_stack_file(folder / "stack.json") | given
        return cls.of(given)

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        """Validate ``values``; raises :class:`SettingsError` that names every bad setting by its variable."""
        try:
            return cls(**values)
        except ValidationError as e:
            problems = (f"{PREFIX}{'.'.join(map(str, x['loc'])).upper()}: {x['msg']}" for x in e.errors())
            raise SettingsError("invalid settings:\n  " + "\n  ".join(problems)) from None

    @field_validator(
        "node_modules",
        "egress_allow",
        "egress_deny",
        "secrets_environment_tenants",
        "codec_tenants",
        "retention_tenants",
        mode="before",
    )
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(x.strip() for x in value.split(",") if x.strip()) if isinstance(value, str) else value

    @field_validator("egress_allow", "egress_deny")
    @classmethod
    def _rules(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            read_rule(text)
        return value

    @field_validator("database_url", "migration_database_url")
    @classmethod
    def _database_url(cls, url: str) -> str:
        scheme, separator, rest = url.partition("://")
        if not url:
            return url
        if not separator or scheme not in {"postgres", "postgresql", DRIVER}:
            raise ValueError("must look like postgresql://user:password@host:port/database")
        return f"{DRIVER}://{rest}"

    @field_validator("temporal_address")
    @classmethod
    def _address(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if not host or not port.isdigit() or "/" in value:
            raise ValueError("must look like host:port, such as 127.0.0.1:7233")
        return value

    @field_validator(
        "api_url",
        "public_url",
        "temporal_ui_url",
        "opa_url",
        "policy_url",
        "egress_proxy",
        "cortex_url",
        "otel_endpoint",
    )
    @classmethod
    def _web_address(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://")
        return value.rstrip("/")

    @field_validator("container_engine")
    @classmethod
    def _engine_address(cls, value: str) -> str:
        if value and not value.startswith(("unix:///", "http://", "https://", "tcp://")):
            raise ValueError("must look like unix:///var/run/docker.sock or http://host:2375")
        return value.rstrip("/")

    @model_validator(mode="before")
    @classmethod
    def _derive(cls, values: dict[str, Any]) -> dict[str, Any]:
        def value(name: str) -> Any:
            return values.get(name, cls.model_fields[name].default)

        values = dict(values)
        if "temporal_address" not in values:
            values["temporal_address"] = f"127.0.0.1:{value('temporal_port')}"
        if not values.get("temporal_ui_url"):
            values["temporal_ui_url"] = f"http://127.0.0.1:{value('temporal_ui_port')}"
        if not values.get("api_url"):
            host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(str(value("api_host")), value("api_host"))  # noqa: S104 - the listening wildcard is no address to call
            scheme = "https" if value("tls_cert_file") else "http"
            values["api_url"] = f"{scheme}://{host}:{value('api_port')}"
        if not values.get("public_url"):
            values["public_url"] = values["api_url"]
        return values

    @model_validator(mode="after")
    def _fit_for_production(self) -> Self:
        if self.production and self.policy_when_away == "allow":
            raise ValueError("policy_when_away=allow is not for production: nodes would begin that nobody allowed")
        return self

    @property
    def log_form(self) -> Literal["text", "json"]:
        """The form of log lines: JSON in production, unless it is said otherwise."""
        if self.log_format == "auto":
            return "json" if self.production else "text"
        return self.log_format

    @property
    def breaker_thresholds(self) -> Thresholds:
        """When circuit breakers open and close."""
        open_ms = round(self.breaker_open_seconds * 1000)
        return Thresholds(max(self.breaker_failure_threshold, 1), self.breaker_success_threshold, open_ms)

    @property
    def egress(self) -> Egress:
        """Where nodes may send requests."""
        return Egress.of(self.egress_allow, self.egress_deny, self.egress_proxy)

    @property
    def authenticated_only(self) -> bool:
        """Whether runs that begin take decisions only from who proves who he is."""
        return self.production if self.require_authenticated is None else self.require_authenticated

    @property
    def audit_keys_path(self) -> Path | None:
        """The file of audit keys; None: nothing is signed."""
        if self.audit_key_file:
            return Path(self.audit_key_file)
        made = self.home / AUDIT_KEY
        return made if made.is_file() else None

    def require_safe_listening(self) -> None:
        """Raise :class:`SettingsError` when the API would show tokens to a network."""
        if self.unsafe_listening:
            raise SettingsError(self.unsafe_listening)

    def require_database_url(self) -> str:
        """The URL of the process role; raises :class:`SettingsError` when there is none."""
        if not self.database_url:
            raise SettingsError(
                f"no database: {PREFIX}DATABASE_URL is not set, and no stack was started in {self.home} (`dalang up`)"
            )
        return self.database_url

    def require_migration_database_url(self) -> str:
        """The URL of the owner role; raises :class:`SettingsError` when there is none."""
        if not self.migration_database_url:
            raise SettingsError(
                f"no owner of the database: set {PREFIX}MIGRATION_DATABASE_URL, or run `dalang up` in {self.home}"
            )
        return self.migration_database_url

    def read_token(self) -> str | None:
        """The command line's API token: the setting, else ``<home>/token``, else None."""
        if self.token:
            return self.token
        try:
            return (self.home / "token").read_text(encoding="utf-8").strip() or None
        except FileNotFoundError:
            return None

    def environment(self) -> dict[str, str]:
        """What a child process needs in its environment to load the same settings (secrets included)."""
        values = self.model_dump(mode="json", exclude_defaults=True)
        values["home"] = str(self.home.absolute())
        return {
            PREFIX + name.upper(): ",".join(value) if isinstance(value, list) else str(value)
            for name, value in values.items()
        }


def environment_variable(name: str) -> str | None:
    """Return a variable that an operator's file names, such as that of a key; None if it is not set, or empty."""
    return os.environ.get(name) or None


def secret_of_environment(name: str) -> str | None:
    """Return the secret ``name`` of the environment: ``shop-token`` is ``DALANG_SECRET_SHOP_TOKEN``."""
    return os.environ.get(SECRET_PREFIX + re.sub(r"[^A-Z0-9]", "_", name.upper())) or None


def _from_environment(cls: type[Settings]) -> dict[str, Any]:
    """The ``DALANG_`` variables; an unknown name is refused, because a typo would silently mean the default."""
    found = from_otel(os.environ)
    for variable, value in os.environ.items():
        if not variable.startswith(PREFIX) or variable.startswith(SECRET_PREFIX) or not value:
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name not in cls.model_fields:
            near = difflib.get_close_matches(name, cls.model_fields, n=1)
            hint = f"; did you mean {PREFIX}{near[0].upper()}?" if near else ""
            raise SettingsError(f"{variable} is not a setting of Dalang{hint}")
        found[name] = value
    return found


def _from_profile(given: dict[str, Any]) -> dict[str, Any]:
    from dalang.temporal_profile import BadProfile, profile_settings

    try:
        name, file = str(given["temporal_profile"]), str(given.get("temporal_config_file") or "")
        return profile_settings(name, file, os.environ)
    except BadProfile as error:
        raise SettingsError(f"DALANG_TEMPORAL_PROFILE: {error}") from None


def _from_stack_file(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as e:
        raise SettingsError(f"{path} cannot be read ({e}); start `dalang up` again, which writes it") from None
    if not isinstance(values, dict):
        raise SettingsError(f"{path} is not a JSON object; start `dalang up` again, which writes it")
    # A file of another version may hold more; what is known still says where the stack is.
    return {k: v for k, v in values.items() if k in Settings.model_fields}


def documentation() -> str:
    """The table of all settings in Markdown, as it stands in ``docs/settings.md``."""
    lines = [
        "# Settings",
        "",
        "Generated by `python -m dalang.settings > docs/settings.md`. Each is an environment variable; what is not set",
        "comes from `<home>/stack.json`, written by a running `dalang up`, then from the default.",
        "",
        "| variable | default | meaning |",
        "| --- | --- | --- |",
    ]
    parts = [*ServingSettings.model_fields, *WatchSettings.model_fields, *OutsideSettings.model_fields]
    for name in [name for name in Settings.model_fields if name not in parts] + parts:
        field = Settings.model_fields[name]
        default = ",".join(field.default) if isinstance(field.default, tuple) else str(field.default)
        lines.append(f"| `{PREFIX}{name.upper()}` | {f'`{default}`' if default else ''} | {field.description} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    import sys

    sys.stdout.write(documentation())
