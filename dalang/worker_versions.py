"""Which build of which deployment a worker is, as Temporal is told (``docs/changing-the-workflow.md``)."""

from __future__ import annotations

from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.worker import WorkerDeploymentConfig

from dalang.settings import Settings


def deployment_config(settings: Settings) -> WorkerDeploymentConfig | None:
    """Return what a worker says of its build to Temporal; None where workers are not versioned."""
    if not settings.worker_deployment:
        return None
    pinned = settings.worker_versioning == "pinned"
    return WorkerDeploymentConfig(
        version=WorkerDeploymentVersion(settings.worker_deployment, settings.build_id),
        use_worker_versioning=True,
        default_versioning_behavior=VersioningBehavior.PINNED if pinned else VersioningBehavior.AUTO_UPGRADE,
    )
