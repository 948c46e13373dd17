"""Settings of what workers and API servers reach outside: adapters, policies, brokers, files, secrets."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from dalang.egress import PUBLIC


class OutsideSettings(BaseModel):
    """The part of :class:`~dalang.settings.Settings` that says what is outside, and what of it may be used."""

    runtime_hub_wait_seconds: float = Field(
        default=25,
        ge=0,
        le=600,
        description="How long `POST /runtime-hub/execute` waits for a task's end, at most and by default.",
    )
    policy_file: str = Field(
        default="", description="YAML file of policy rules (`docs/policy.md`); read again when it changes."
    )
    opa_url: str = Field(
        default="",
        description="Document of OPA's Data API that decides: `http://127.0.0.1:8181/v1/data/dalang/decision`.",
    )
    policy_url: str = Field(
        default="", description="Policy service with Wayang's `/policy/validate/{execution,node}`; without that path."
    )
    policy_timeout_seconds: float = Field(
        default=2, gt=0, le=60, description="How long OPA, or the policy service, may take to answer."
    )
    policy_when_away: Literal["deny", "allow"] = Field(
        default="deny",
        description="What holds for nodes while that service does not answer; runs are always denied then.",
    )
    egress_allow: tuple[str, ...] = Field(
        default=(PUBLIC,),
        description="Where nodes may send requests (`docs/egress.md`): `public` for the public internet, hosts "
        "(`api.example.com`, `*.example.com`), addresses and networks (`10.0.0.0/8`), each also with `:port`.",
    )
    egress_deny: tuple[str, ...] = Field(
        default=(), description="Where they may not although the other setting allows it; written the same way."
    )
    egress_proxy: str = Field(
        default="", repr=False, description="HTTP proxy for these requests; those of the environment are not used."
    )
    models_file: str = Field(
        default="", description="YAML file of language models (`docs/llm.md`); read again when it changes."
    )
    secrets_dir: str = Field(
        default="",
        description="Folder of the secrets (`docs/secrets.md`), each a file `<folder>/<tenant>/<name>`, as "
        "Kubernetes mounts them.",
    )
    secrets_environment_tenants: tuple[str, ...] = Field(
        default=("default",),
        description="Tenants that may use the secrets in the environment, `DALANG_SECRET_<NAME>`; `*`: all.",
    )
    artifacts: str = Field(
        default="",
        description="Where files are kept that inputs and outputs refer to (`docs/artifacts.md`): a folder, or "
        "`s3://bucket/prefix?region=...`. Workers and API servers need the same. Default: `<home>/artifacts`.",
    )
    artifact_max_bytes: int = Field(default=1024**3, ge=1024, description="Largest artifact, in bytes.")
    mcp_servers_file: str = Field(
        default="",
        description="YAML or JSON file of the MCP servers that `mcp` nodes may name (`docs/mcp.md`); read again when "
        "it changes. Only programs named here are started.",
    )
    wasm_dir: str = Field(
        default="",
        description="Folder of the WebAssembly modules that `wasm` nodes may run (`docs/implementations.md`).",
    )
    wasm_fuel: int = Field(
        default=100_000_000_000, ge=1, le=2**53 - 1, description="Fuel of one run of a module at most, and by default."
    )
    wasm_memory_mb: float = Field(
        default=256, gt=0, le=4096, description="Memory of one run of a module at most, and by default, in MiB."
    )
    wasm_seconds: float = Field(
        default=60, gt=0, le=86_400, description="Wall time of one run of a module at most, and by default."
    )
    container_engine: str = Field(
        default="",
        description="Docker Engine API that runs `container` nodes (`docs/implementations.md`): "
        "`unix:///var/run/docker.sock` or `http://host:2375`.",
    )
    container_network: str = Field(
        default="none", min_length=1, description="Network of the engine that all containers of nodes are in."
    )
    container_cpus: float = Field(default=4, gt=0, description="Processor cores of one container at most.")
    container_memory_mb: float = Field(default=4096, ge=8, description="Memory of one container at most, in MiB.")
    container_gpus: int = Field(default=0, ge=0, description="Graphics processors of one container at most.")
    repositories_dir: str = Field(
        default="",
        description="Folder of the git repositories that nodes may work in (`memory.session.repository`): those of a "
        "tenant are `<repositories_dir>/<tenant>/<name>`. Empty: none.",
    )
    cortex_url: str = Field(
        default="", description="REST interface of a Cortex (Axon's memory service): `http://127.0.0.1:8081/v3`."
    )
    cortex_token: str = Field(default="", repr=False, description="Bearer token for it.")
    cortex_workspace: str = Field(
        default="default", min_length=1, description="Workspace of the Cortex for tasks, and sessions that name none."
    )
    cortex_timeout_seconds: float = Field(
        default=5, gt=0, le=120, description="How long the Cortex may take to answer."
    )
    event_source: str = Field(
        default="/dalang",
        pattern=r"^[^\s]{1,500}$",
        description="`source` of the CloudEvents that go out (`docs/events.md`).",
    )
    kafka_url: str = Field(
        default="",
        repr=False,
        description="Kafka that subscriptions of kind `kafka` send to: "
        "`kafka://user:password@host:9092,host:9092?tls=true&mechanism=SCRAM-SHA-512&ca=/file.pem`, of which all but "
        "the hosts may be left out.",
    )
    nats_url: str = Field(
        default="",
        repr=False,
        description="NATS that subscriptions of kind `nats` send to: "
        "`nats://user:password@host:4222,host:4222`; `tls://` and `?ca=/file.pem` for TLS.",
    )
