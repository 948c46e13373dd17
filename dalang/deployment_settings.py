"""Settings of how Dalang is deployed: which build a worker is, and by which profile Temporal is reached."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

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
