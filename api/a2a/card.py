"""The agent card: what everybody may know, and for who has a token the skills of his tenant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from a2a.types import AgentCard
from google.protobuf.json_format import ParseDict

from dalang import __version__
from dalang.api.a2a.inputs import properties_of, settings_of, takes_message, text_input
from dalang.api.a2a.tasks import JSON, TEXT
from dalang.store.a2a import Skill

RPC_PATH, REST_PATH = "/a2a", "/a2a/rest"
MAX_DESCRIPTION = 2_000
_DESCRIPTION = (
    "Runs durable plans of agents, tools, services and people. Each published plan is a skill, each run is a task: it "
    "survives crashes, asks people where its plan says so (input-required), and undoes its effects when cancelled."
)
_ANY = {
    "id": "run-plan",
    "name": "Run a published plan",
    "description": "Runs a plan of the caller's tenant. The extended card (which needs a token) lists them, each as a "
    "skill; a message names one in its metadata: {'skill': id or name}.",
    "tags": ["orchestration", "workflow", "durable"],
    "inputModes": [JSON, TEXT],
    "outputModes": [JSON, TEXT],
}


def card(public_url: str, skills: Sequence[Skill] | None = None, tenant: str = "") -> AgentCard:
    """Return the card for everybody; or, with ``skills``, that for callers of ``tenant``."""
    kinds = (("JSONRPC", RPC_PATH), ("HTTP+JSON", REST_PATH))
    document = {
        "name": "Dalang",
        "description": _DESCRIPTION,
        "version": __version__,
        "supportedInterfaces": [
            {
                "url": public_url + path,
                "protocolBinding": binding,
                "protocolVersion": version,
                **({"tenant": tenant} if tenant and version == "1.0" else {}),
            }
            for version in ("1.0", "0.3")
            for binding, path in kinds
        ],
        "capabilities": {"streaming": True, "pushNotifications": True, "extendedAgentCard": True},
        "securitySchemes": {
            "bearer": {"httpAuthSecurityScheme": {"scheme": "bearer", "description": "A token: `dalang token create`."}}
        },
        "securityRequirements": [{"schemes": {"bearer": {"list": []}}}],
        "defaultInputModes": [JSON, TEXT],
        "defaultOutputModes": [JSON, TEXT],
        "skills": [_ANY] if not skills else [_skill(one) for one in skills],
    }
    return ParseDict(document, AgentCard())


def published(skills: Sequence[Skill]) -> list[Skill]:
    """Return the plans that are skills: all but those whose metadata says ``a2a: false``."""
    return [one for one in skills if settings_of(one.metadata).get("skill") is not False]


def _skill(skill: Skill) -> dict[str, Any]:
    said = settings_of(skill.metadata)
    return {
        "id": str(skill.plan_id),
        "name": skill.name,
        "description": _description(skill)[:MAX_DESCRIPTION],
        "tags": _texts(said.get("tags")) or ["plan"],
        "examples": _texts(said.get("examples")),
        "inputModes": [JSON, TEXT] if text_input(skill) is not None or takes_message(skill) else [JSON],
        "outputModes": [JSON, TEXT],
    }


def _description(skill: Skill) -> str:
    sentence = skill.description or f"Runs the plan {skill.name}, version {skill.version}."
    required = (skill.inputs or {}).get("required")
    names = required if isinstance(required, list) else []
    told = [_input(name, one, name in names) for name, one in properties_of(skill.inputs).items()]
    return f"{sentence} Inputs: {', '.join(told)}." if told else sentence


def _input(name: str, schema: Any, required: bool) -> str:
    kind = schema.get("type") if isinstance(schema, dict) else None
    about = [kind] if isinstance(kind, str) else []
    return f"{name} ({', '.join([*about, 'required' if required else 'optional'])})"


def _texts(given: Any) -> list[str]:
    return [one for one in given if isinstance(one, str)][:20] if isinstance(given, list) else []
