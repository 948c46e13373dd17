"""The demo agents. Each takes what it finds in its inputs and says in its outputs what it did.

``code`` and ``api`` travel on in the outputs of those who get them, so that a plan whose edges carry only outputs, as
Axon's do, works as well as one that names what it wants.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from dalang.demo import service, source
from dalang.nodes import NodeContext, ToolError, agent

logger = logging.getLogger(__name__)


def _done(ctx: NodeContext, what: str) -> None:
    """Tell people who watch what was done: now, and in the log of the node."""
    ctx.progress(what, 1.0)
    logger.info(what)


def _text(ctx: NodeContext) -> str:
    """Return what the node is about, in words: its feature, goal or task, and else its name."""
    for key in ("feature", "goal", "task", "text"):
        value = ctx.inputs.get(key)
        if isinstance(value, str) and value.strip():
            return value
    return ctx.name


def _specification(ctx: NodeContext) -> dict[str, Any]:
    """Return the specification that came in, else that of the first text that says what it is about."""
    given = ctx.inputs.get("api")
    if isinstance(given, Mapping):
        return service.checked(given)
    specifications = [service.specify(text) for text in (_text(ctx), ctx.name, str(ctx.run.get("plan", "")))]
    return next((found for found in specifications if found["entity"] != "item"), specifications[0])


def _code(ctx: NodeContext) -> str | None:
    value = ctx.inputs.get("code")
    return value if isinstance(value, str) and value.strip() else None


def _passed_on(ctx: NodeContext) -> dict[str, Any]:
    return {key: ctx.inputs[key] for key in ("feature", "api", "code") if key in ctx.inputs}


@agent("architect", capabilities=["api-design", "code-generation"])
async def architect(ctx: NodeContext) -> dict[str, Any]:
    """Derive an API's operations from the words of the feature."""
    specification = _specification(ctx)
    lines = [f"# API: {specification['entity'].replace('_', ' ')}", ""]
    lines += [f"- `{o['method']} {o['path']}`: {o['name'].replace('_', ' ')}" for o in specification["operations"]]
    _done(ctx, f"{len(specification['operations'])} operations")
    return {"feature": _text(ctx), "api": specification, "outline": "\n".join(lines) + "\n"}


@agent("coder", capabilities=["code-generation"])
async def coder(ctx: NodeContext) -> dict[str, Any]:
    """Write the Python module of an API, from its specification or from the words of the feature."""
    specification = _specification(ctx)
    code = service.render(specification)
    name = f"{specification['entity']}.py"
    wanted = ctx.inputs.get("language")
    _done(ctx, f"wrote {name}")
    outputs: dict[str, Any] = {
        **_passed_on(ctx),
        "api": specification,
        "file": name,
        "code": code,
        "diff": source.diff("", code, name),
        "lines": len(code.splitlines()),
    }
    if isinstance(wanted, str) and wanted.lower() != "python":
        outputs["note"] = f"The demo coder writes Python only, not {wanted[:40]}."
    return outputs


@agent("tester", capabilities=["testing"])
async def tester(ctx: NodeContext) -> dict[str, Any]:
    """Run tests of a module that a demo agent wrote; coverage is the share of its operations that are tested."""
    specification = _specification(ctx)
    written = service.render(specification)
    code = _code(ctx) or written
    samples = (source.SAMPLE, source.refactor(source.SAMPLE)[0])
    if code in samples:
        results, operations = service.run_regression(code, source.SAMPLE), ["total", "is_expensive", "is_empty"]
    elif code in (written, source.refactor(written)[0]):
        results = service.run_tests(code, specification)
        operations = [operation["name"] for operation in specification["operations"]]
    else:
        found = source.functions(source.parse(code))
        note = "Not executed: the demo tester runs only what the demo agents wrote. It compiles."
        return {**_passed_on(ctx), "executed": False, "functions": len(found), "note": note}
    passed = sum(result["passed"] for result in results)
    coverage = len({result["operation"] for result in results}) / len(operations)
    _done(ctx, f"{passed} of {len(results)} passed")
    threshold = ctx.inputs.get("coverage_threshold", 0)
    if passed < len(results) or (isinstance(threshold, (int, float)) and coverage < threshold):
        details = {"results": results, "coverage": coverage}
        raise ToolError(f"{passed} of {len(results)} tests passed, coverage {coverage:.0%}", details=details)
    counts = {"total": len(results), "passed": passed, "failed": len(results) - passed, "coverage": coverage}
    return {**_passed_on(ctx), "code": code, "executed": True, **counts, "results": results}


@agent("reviewer", capabilities=["code-review"])
async def reviewer(ctx: NodeContext) -> dict[str, Any]:
    """Review code: a finding costs 0.05 if it is minor and 0.2 if it is major; approved from 0.8."""
    code = _code(ctx) or service.render(_specification(ctx))
    found = source.findings(code)
    majors = sum(finding["severity"] == "major" for finding in found)
    score = max(0.0, round(1 - 0.2 * majors - 0.05 * (len(found) - majors), 2))
    _done(ctx, f"{len(found)} findings, score {score}")
    return {**_passed_on(ctx), "findings": found, "score": score, "approved": score >= 0.8}


@agent("writer", capabilities=["documentation"])
async def writer(ctx: NodeContext) -> dict[str, Any]:
    """Write the Markdown documentation of code."""
    specification = _specification(ctx)
    code = _code(ctx) or service.render(specification)
    document = f"# {specification['entity'].replace('_', ' ').capitalize()}\n\n{source.outline(code)}"
    _done(ctx, f"{len(document.split())} words")
    return {**_passed_on(ctx), "document": document, "format": "markdown", "words": len(document.split())}


@agent("code_analyzer", capabilities=["code-analysis"])
async def code_analyzer(ctx: NodeContext) -> dict[str, Any]:
    """Measure code, or a sample if the node brings none; coverage is not measured, since nothing is executed."""
    code = _code(ctx) or source.SAMPLE
    measured = source.metrics(code)
    _done(ctx, f"complexity {measured['complexity']}")
    return {**_passed_on(ctx), "code": code, "metrics": measured, "hotspots": source.hotspots(code)}


@agent("refactorer", capabilities=["refactoring"])
async def refactorer(ctx: NodeContext) -> dict[str, Any]:
    """Simplify code without changing what it does."""
    before = _code(ctx) or source.SAMPLE
    after, changes = source.refactor(before)
    _done(ctx, f"{len(changes)} changes")
    return {
        **_passed_on(ctx),
        "code": after,
        "changes": changes,
        "diff": source.diff(before, after, "module.py"),
        "before": source.metrics(before),
        "after": source.metrics(after),
    }


@agent("planner", capabilities=["planning"])
async def planner(ctx: NodeContext) -> dict[str, Any]:
    """Split a goal into steps at its sentences, semicolons and ``then``, and return them as a plan too."""
    parts = re.split(r"[;,]?\s+(?:and\s+)?then\s+|(?<=[.!?])\s+|;\s*|\n+", _text(ctx))
    steps = [step.strip(" .,;") for step in parts if step.strip(" .,;")][:50] or [ctx.name]
    nodes = [
        {"nodeId": f"step{n}", "name": step[:80], "type": "agent", "inputs": {"task": step.replace("${", "$${")}}
        for n, step in enumerate(steps, 1)
    ]
    edges = [{"sourceNodeId": f"step{n}", "targetNodeId": f"step{n + 1}"} for n in range(1, len(steps))]
    return {"steps": steps, "plan": {"name": f"plan of {ctx.name}"[:100], "nodes": nodes, "edges": edges}}


_ARITHMETIC = (
    (re.compile(r"\b(product|multiply|multiplied|times)\b", re.I), "×"),
    (re.compile(r"\b(sum|add|plus|total)\b", re.I), "+"),
    (re.compile(r"\b(difference|subtract|minus)\b", re.I), "-"),
)


@agent("generalist")
async def generalist(ctx: NodeContext) -> dict[str, Any]:
    """Answer any task: small sums are worked out, all else is restated; there is no model behind it."""
    task = _text(ctx) if "task" not in ctx.inputs else str(ctx.inputs["task"])
    got = sorted(key for key in ctx.inputs if key not in ("task", "goal", "tool"))
    outputs: dict[str, Any] = {"received": got}
    if isinstance(ctx.inputs.get("tool"), str):
        outputs["tool"] = ctx.inputs["tool"]
    worked_out = _calculate(task)
    if worked_out is not None:
        return {**outputs, "answer": worked_out}
    with_what = f" It had the results of {', '.join(got)}." if got else ""
    answer = f"No model is connected; this demo agent was asked: {task[:500]}{with_what}"
    return {**outputs, "answer": answer}


def _calculate(task: str) -> str | None:
    numbers = [int(number) for number in re.findall(r"(?<![\w.])\d{1,9}(?![\w.]*\w)", task)]
    if len(numbers) != 2:
        return None
    left, right = numbers
    values = {"×": left * right, "+": left + right, "-": left - right}
    sign = next((sign for pattern, sign in _ARITHMETIC if pattern.search(task)), None)
    return None if sign is None else f"{left} {sign} {right} = {values[sign]}"
