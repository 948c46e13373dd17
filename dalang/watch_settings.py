"""Settings of what operators watch: logs, metrics, traces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field, field_validator

TRACES_PATH = "/v1/traces"


class WatchSettings(BaseModel):
    """The part of :class:`~dalang.settings.Settings` that says what a process tells of itself."""

    node_log_lines: int = Field(
        default=1_000,
        ge=0,
        le=100_000,
        description="So many lines of what a handler logs are kept for people to look at, of each attempt "
        "(`dalang logs`); they are in the worker's own log all the same. 0: none.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Least severe level logged."
    )
    log_format: Literal["auto", "text", "json"] = Field(
        default="auto", description="Form of log lines (`docs/observability.md`); `auto`: `json` in production."
    )
    worker_metrics_port: str = Field(
        default="",
        pattern=r"^(\d{1,5}(-\d{1,5})?)?$",
        description="Port of a worker's metrics and health (`docs/observability.md`). A range, as `9464-9473`, is for "
        "several workers on one host: each takes the first that is free. Empty: none.",
    )
    worker_metrics_host: str = Field(
        default="127.0.0.1", description="Address that port listens on; it asks nobody for a token."
    )
    otel_endpoint: str = Field(
        default="",
        description="Where traces are sent by OTLP over HTTP, `http://collector:4318/v1/traces` (`pip install "
        "'dalang[otel]'`). Default: what `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` or `OTEL_EXPORTER_OTLP_ENDPOINT` says; "
        "empty, or with `OTEL_SDK_DISABLED` or `OTEL_TRACES_EXPORTER=none`: nothing is traced.",
    )
    otel_headers: str = Field(
        default="",
        repr=False,
        description="Headers sent with them: `name=value,name=value`. Default: `OTEL_EXPORTER_OTLP_TRACES_HEADERS`, "
        "`OTEL_EXPORTER_OTLP_HEADERS`.",
    )
    otel_service_name: str = Field(
        default="",
        description="`service.name` of traces. Default: `OTEL_SERVICE_NAME`, else `dalang-api` and `dalang-worker`.",
    )
    otel_resource_attributes: str = Field(
        default="",
        description="More that is said of this process: `name=value,name=value`. Default: `OTEL_RESOURCE_ATTRIBUTES`.",
    )
    otel_sample_ratio: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Share of the traces that begin here that are recorded; of others the caller decides. Default: "
        "from `OTEL_TRACES_SAMPLER` and its `_ARG`.",
    )

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @field_validator("worker_metrics_port")
    @classmethod
    def _ports(cls, value: str) -> str:
        if value and not all(0 < number < 65536 for number in ports_in(value)):
            raise ValueError("must be a port, or two with a dash: 9464-9473")
        return value

    @property
    def worker_metrics_ports(self) -> range:
        """The ports that a worker may take for its metrics, the first that is free; none: it has no metrics."""
        return ports_in(self.worker_metrics_port)


def ports_in(text: str) -> range:
    """Return the ports of ``9464`` or ``9464-9473``."""
    if not text:
        return range(0)
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def from_otel(variables: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings that the standard variables of OpenTelemetry mean; what is not set is left out."""

    def told(*names: str) -> str:
        return next((variables[name] for name in names if variables.get(name)), "")

    off = told("OTEL_SDK_DISABLED").lower() == "true" or told("OTEL_TRACES_EXPORTER") not in ("", "otlp")
    endpoint, base = told("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), told("OTEL_EXPORTER_OTLP_ENDPOINT")
    if not endpoint and base:
        endpoint = base.rstrip("/") + TRACES_PATH
    found: dict[str, Any] = {
        "otel_endpoint": "" if off else endpoint,
        "otel_headers": told("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"),
        "otel_service_name": told("OTEL_SERVICE_NAME"),
        "otel_resource_attributes": told("OTEL_RESOURCE_ATTRIBUTES"),
    }
    sampler = told("OTEL_TRACES_SAMPLER").removeprefix("parentbased_")
    ratio = {"always_on": "1", "always_off": "0", "traceidratio": told("OTEL_TRACES_SAMPLER_ARG") or "1"}.get(sampler)
    return {name: value for name, value in {**found, "otel_sample_ratio": ratio}.items() if value}
