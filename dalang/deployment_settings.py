"""Settings of how Dalang is deployed: which build a worker is, and by which profile Temporal is reached."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, Field, model_validator

from dalang import __version__


class DeploymentSettings(BaseModel):
    """The part of :class:`~dalang.settings.Settings` that says what is deployed, and where Temporal is."""

    build_id: str = Field(
        default=__version__,
        min_length=1,
        max_length=200,
        description="What a worker says that it is, in provenance and to Temporal: a version, a commit, the tag of an "
        "image. Default: the version of Dalang.",
    )
    worker_deployment: str = Field(
        default="",
        max_length=200,
        description="Name of the Temporal worker deployment; then workers are versioned by `build_id` "
        "(`docs/changing-the-workflow.md`). Empty: not versioned.",
    )
    worker_versioning: Literal["pinned", "auto-upgrade"] = Field(
        default="auto-upgrade",
        description="Of runs that begin on a versioned worker: they go on with the current build (`auto-upgrade`), or "
        "end on the build they began on (`pinned`).",
    )
    temporal_profile: str = Field(
        default="",
        description="Profile of Temporal's own configuration (`temporal config`, `TEMPORAL_*`) that says where it "
        "is (`docs/temporal-cloud.md`); what is set here goes before that.",
    )
    temporal_config_file: str = Field(
        default="", description="File of that profile. Default: where Temporal's command line keeps it."
    )
    temporal_tls_ca_file: str = Field(
        default="", description="PEM file of the authority that Temporal's certificate is checked by."
    )
    temporal_tls_cert_file: str = Field(default="", description="PEM file of our certificate for Temporal (mTLS).")
    temporal_tls_key_file: str = Field(default="", description="PEM file of its key.")
    temporal_tls_server_name: str = Field(
        default="", description="Name that Temporal's certificate must have, where it is not that of the address."
    )

    @model_validator(mode="after")
    def _whole_certificate(self) -> Self:
        if bool(self.temporal_tls_cert_file) != bool(self.temporal_tls_key_file):
            raise ValueError("temporal_tls_cert_file and temporal_tls_key_file belong together")
        if "." in self.worker_deployment:
            raise ValueError("worker_deployment holds no dot: Temporal writes <deployment>.<build>")
        return self
