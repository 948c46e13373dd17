"""What a message asks for: which plan, with which inputs; or how a human task is decided. Pure: no I/O.

A message's data parts are objects that are put together; its text goes where text is asked for, and nowhere else: a
text that nobody asked for is refused rather than taken for something.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from a2a.types import Message, Part
from a2a.utils.errors import ContentTypeNotSupportedError, InvalidParamsError
from google.protobuf.json_format import MessageToDict

from dalang.api.a2a.tasks import JSON, TEXT, TEXT_INPUT, is_question
from dalang.canonical import MAX_INTEGER
from dalang.errors import InvalidDocument
from dalang.formats import load_document
from dalang.store.a2a import Skill
from dalang.store.human_tasks import Task as HumanTask

MESSAGE_INPUT = "message"
"""An input of this name that is an object gets the whole message."""
_SHOWN = 20


def invalid(message: str, field: str = "message") -> InvalidParamsError:
    """Return the error that a parameter is wrong."""
    return InvalidParamsError(message=message, data={"errors": [{"field": field, "message": message}]})


def plain(message: Any) -> dict[str, Any]:
    """Return a protobuf message as JSON; numbers that are whole are integers again, which protobuf does not tell."""
    found: dict[str, Any] = _whole(MessageToDict(message))
    return found


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) <= MAX_INTEGER:
        return int(value)
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    return [_whole(item) for item in value] if isinstance(value, list) else value


def content(message: Message) -> tuple[str | None, dict[str, Any]]:
    """Return the text of a message, and its data parts as one object.

    Raises:
        ContentTypeNotSupportedError: a part is a file that is neither text nor JSON, or an address of one.
        InvalidParamsError: a data part is no object.
    """
    texts: list[str] = []
    data: dict[str, Any] = {}
    for at, part in enumerate(message.parts):
        found = _content(part, f"message.parts[{at}]")
        if isinstance(found, str):
            texts.append(found)
        elif isinstance(found, dict):
            data |= found
        else:
            raise invalid("A data part is an object.", f"message.parts[{at}].data")
    return "\n".join(texts) if texts else None, data


def _content(part: Part, field: str) -> Any:
    kind, media = part.WhichOneof("content"), part.media_type.partition(";")[0].strip().lower()
    if kind is None:
        raise invalid("A part has text or data.", field)
    if kind == "url":
        raise ContentTypeNotSupportedError(message="Files are not fetched: send content, or an address as data.")
    if kind == "data" and media in ("", JSON):
        return plain(part)["data"]
    if (kind == "text" and media in ("", "text")) or (media.startswith("text/") and kind != "data"):
        return part.text if kind == "text" else _decoded(part.raw, field)
    if media == JSON and kind in ("text", "raw"):
        return _document(part.text if kind == "text" else part.raw, field)
    raise ContentTypeNotSupportedError(
        message=f"Parts of the type {media or 'application/octet-stream'} are not read; {TEXT} and {JSON} are."
    )


def _decoded(raw: bytes, field: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise invalid("The text is not UTF-8.", field) from None


def _document(text: str | bytes, field: str) -> dict[str, Any]:
    try:
        return load_document(text, name="part.json")
    except InvalidDocument as error:
        raise invalid(str(error.problems[0].message), field) from error


def chosen(skills: Sequence[Skill], wanted: str | None, last: str | None) -> Skill:
    """Return the plan that a message is for.

    That is the one it names by id or name (``metadata.skill``); else that of the context's newest task; else the one
    whose metadata says ``a2a: {default: true}``; else the only one there is.

    Raises:
        InvalidParamsError: there is no such skill, or none was named and there are several.
    """
    if wanted is not None:
        named = [one for one in skills if wanted in (str(one.plan_id), one.name)]
        if not named:
            raise invalid(f"There is no skill {wanted!r}. {_listed(skills)}", "message.metadata.skill")
        return named[0]
    for candidates in ([one for one in skills if str(one.plan_id) == last], _defaults(skills), list(skills)):
        if len(candidates) == 1:
            return candidates[0]
    raise invalid(f"Name the skill in the message's metadata: {{'skill': id or name}}. {_listed(skills)}")


def _defaults(skills: Sequence[Skill]) -> list[Skill]:
    return [one for one in skills if settings_of(one.metadata).get("default") is True]


def settings_of(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what metadata of a plan or node says about A2A."""
    found = metadata.get("a2a")
    if found is False:
        return {"skill": False}
    return found if isinstance(found, Mapping) else {}


def _listed(skills: Sequence[Skill]) -> str:
    if not skills:
        return "No plan is published."
    names = ", ".join(repr(one.name) for one in skills[:_SHOWN])
    return f"There are {names}{' and more' if len(skills) > _SHOWN else ''}."


def properties_of(inputs: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return the properties of a plan's input schema."""
    found = (inputs or {}).get("properties")
    return found if isinstance(found, Mapping) else {}


def text_input(skill: Skill, given: Mapping[str, Any] = {}) -> str | None:
    """Return the input that text goes to: ``text``, or the only one that is a string; None when there is none."""
    if skill.inputs is None:
        return TEXT_INPUT
    known = properties_of(skill.inputs)
    if TEXT_INPUT in known:
        return TEXT_INPUT
    strings = [name for name, one in known.items() if _type(one) == "string" and name not in given]
    return strings[0] if len(strings) == 1 else None


def takes_message(skill: Skill) -> bool:
    """Tell whether a plan asks for the whole message."""
    return bool(_type(properties_of(skill.inputs).get(MESSAGE_INPUT)) == "object")


def _type(schema: Any) -> Any:
    return schema.get("type") if isinstance(schema, Mapping) else None


def run_inputs(skill: Skill, message: Message) -> dict[str, Any]:
    """Return the inputs of the run that a message starts.

    Raises:
        ContentTypeNotSupportedError, InvalidParamsError: as :func:`content`; there is text and nowhere to put it.
    """
    text, given = content(message)
    if text is not None:
        name = text_input(skill, given)
        if name is not None:
            given.setdefault(name, text)
        elif not takes_message(skill):
            strings = [name for name, one in properties_of(skill.inputs).items() if _type(one) == "string"]
            which = f"has several texts as inputs ({', '.join(strings)})" if strings else "takes no text"
            raise invalid(f"The skill {skill.name!r} {which}; send a data part with the inputs.", "message.parts")
    if takes_message(skill):
        given.setdefault(MESSAGE_INPUT, plain(message))
    return given


def decision(message: Message, open_tasks: Sequence[HumanTask]) -> tuple[HumanTask, dict[str, Any]]:
    """Return the human task that a message decides, and the decision: action, values, outputs, inputs, notes, digest.

    A data part says it with these names, and ``humanTask`` where several are open. A text alone is an action
    (``approve``). Where the form asks for ``text``, what is sent is the answer.

    Raises:
        InvalidParamsError: it does not say which task, or what is decided.
    """
    text, given = content(message)
    wanted = given.pop("humanTask", None)
    found = [one for one in open_tasks if wanted in (None, str(one.task_id))]
    if len(found) != 1:
        ids = ", ".join(str(one.task_id) for one in open_tasks[:_SHOWN])
        raise invalid(f"Say in a data part which human task is decided: {{'humanTask': id}}. Open are {ids}.")
    task = found[0]
    word = (text or "").strip().lower()
    if "action" in given:
        if text is not None:
            given.setdefault("notes", text)
    elif is_question(task) and word not in ("reject", "abort") and (text is not None or given):
        given = {
            "action": "answer" if "answer" in task.actions else "approve",
            "values": {**({} if text is None else {TEXT_INPUT: text}), **given},
        }
    elif word in task.actions:
        given = {"action": word, **given}
    else:
        actions = ", ".join(task.actions)
        raise invalid(f"Send one of the actions as text ({actions}), or a data part: {{'action': ..., 'values': ...}}.")
    return task, {"digest": task.digest, **given}
