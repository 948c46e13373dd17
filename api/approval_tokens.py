"""Approval tokens: for approvers who work with the ``temporal`` command line, where nobody asks who they are."""

from __future__ import annotations

import json
import shlex
import time
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends

from dalang import wire
from dalang.api.auth import Decider
from dalang.api.bodies import body_schema, small_body
from dalang.api.human_tasks import found_task
from dalang.api.noticing import actor_of
from dalang.api.services import Service
from dalang.api.task_decisions import check_open, noticed
from dalang.api.task_schemas import ApprovalToken, ApprovalTokenRequest
from dalang.authority import Approval, approval_token
from dalang.errors import Conflict

router = APIRouter(prefix="/orchestrator/human-tasks", tags=["human tasks"])

TokenBody = Annotated[ApprovalTokenRequest, Depends(small_body(ApprovalTokenRequest, optional=True))]


@router.post(
    "/{taskId}/approval-token",
    openapi_extra=body_schema("application/json", model=ApprovalTokenRequest, required=False),
)
async def issue_approval_token(who: Decider, taskId: UUID, body: TokenBody, it: Service) -> ApprovalToken:
    """Get what lets you decide one task, as it is shown now, by a signal of the `temporal` command line."""
    async with it.transaction(who.tenant_id) as conn:
        task = await found_task(conn, who, taskId)
    with noticed(who, taskId, "approval token", it):
        check_open(who, task, body.digest or task.digest)
    if it.launcher.keys.own_id is None:
        raise Conflict("There is no private key here (DALANG_AUDIT_KEY_FILE) that could sign an approval token.")
    until = round(time.time() * 1000) + body.valid_for
    approval = Approval(
        who.tenant_id, str(task.run_id), str(task.task_id), task.digest, who.subject, tuple(who.groups), until
    )
    about = {"what": "approval token", "taskId": approval.task, "runId": approval.run_id, "until": until}
    await it.system.acted(who.tenant_id, actor_of(who), about)
    token = approval_token(it.launcher.keys, approval)
    settings = it.settings
    signal = ["temporal", "workflow", "signal", "--address", settings.temporal_address]
    signal += ["--namespace", settings.temporal_namespace]
    signal += ["--workflow-id", f"{wire.WORKFLOW_ID_PREFIX}{task.run_id}", "--name", wire.SIGNAL_COMPLETE_TASK]
    given = {"taskId": approval.task, "approvalToken": token}
    return ApprovalToken(
        token=token,
        task_id=task.task_id,
        run_id=task.run_id,
        subject=who.subject,
        digest=task.digest,
        expires_at=datetime.fromtimestamp(until / 1000, UTC),
        commands={
            action: shlex.join([*signal, "--input", json.dumps({"action": action, **given})]) for action in task.actions
        },
    )
