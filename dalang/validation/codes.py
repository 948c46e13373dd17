"""The codes of problems and what each means; ``docs/plan-reference.md`` prints them. A code keeps its meaning."""

from __future__ import annotations

from typing import NamedTuple


class Code(NamedTuple):
    """What a code means; ``severity`` is error, warning, or both where it depends on the case."""

    severity: str
    meaning: str


CODES: dict[str, Code] = {
    # The shape of the document
    "NOT_AN_OBJECT": Code("error", "The document, or the inputs of a run, is no object."),
    "NOT_JSON": Code(
        "error", "A value is no JSON that every reader reads alike: NaN, an integer past 2^53, U+0000, too deep."
    ),
    "WRONG_TYPE": Code("error", "A field has a value of another type than it takes."),
    "BAD_VALUE": Code("error", "A field has a value of the right type that it does not take."),
    "BAD_DURATION": Code("error", "A duration cannot be read, or is longer than ten years."),
    "ZERO_DURATION": Code("error", "A duration is 0 where nothing could ever be done in it."),
    "MISSING_FIELD": Code("error", "A field that must be there is not."),
    "UNKNOWN_FIELD": Code("error", "There is no such field; it would have no effect."),
    "FEATURE_UNAVAILABLE": Code(
        "error", "The plan uses what only a later version of Dalang has; it is refused, never run without it."
    ),
    "TOO_MANY_NODES": Code("error", "The plan has more nodes than a plan may have."),
    "TOO_MANY_EDGES": Code("error", "The plan has more edges than a plan may have."),
    "TOO_MANY_PROBLEMS": Code("both", "There are more problems than are listed."),
    # The graph
    "NO_NODES": Code("error", "The plan has no node."),
    "NO_ROOT": Code("error", "Every node has an incoming edge, so none could start."),
    "DUPLICATE_NODE_ID": Code("error", "Two nodes have one nodeId; `finally` nodes count too."),
    "DUPLICATE_EDGE_ID": Code("error", "Two edges have one edgeId; the ids that are derived count too."),
    "UNKNOWN_NODE": Code("error", "An edge or an expression names a node that is not in the plan."),
    "SELF_LOOP": Code("error", "An edge leads from a node to itself."),
    "CYCLE": Code("error", "Nodes wait for each other in a circle; the message gives the path."),
    "FINALLY_EDGE": Code("error", "An edge connects a `finally` node with a node that is none."),
    "NESTED_TOO_DEEP": Code("error", "Plans are nested deeper in each other than they may be."),
    "WITHOUT_EFFECT": Code("error", "A field has no meaning for the node's type; it would have no effect."),
    "UNKNOWN_PLAN": Code("error", "A node names a stored plan, or a version of one, that is not there."),
    "RECURSIVE_PLAN": Code("error", "A stored plan is in itself, directly or by way of others."),
    "ORPHAN": Code("warning", "A node has no edge while others have: it starts at once and nothing waits for it."),
    # Patches of a running run's plan
    "UNKNOWN_EDGE": Code("error", "A patch names an edge that is not in the plan."),
    "ORPHANED_EDGE": Code("error", "A patch removes a node and leaves an edge to or from it."),
    "IMMUTABLE": Code("error", "A revision changes what has started or finished in the run."),
    # Types, ports, inputs of the built-in types
    "UNKNOWN_NODE_TYPE": Code("error", "The type is neither built in nor registered."),
    "NOT_INTERRUPTIBLE": Code("error", "`interruptible: true` on a node that only waits, or is a run of its own."),
    "NOT_LOCAL": Code("error", "`execution: local` on a node that cannot be run together with others."),
    "UNKNOWN_HANDLER": Code("error", "A python node names a function that is not registered."),
    "BAD_IMPLEMENTATION": Code("error", "A node's implementation does not say what to run, or not exactly which."),
    "AMBIGUOUS_IMPLEMENTATION": Code(
        "error", "A node's type is a registered function, and its descriptor names another implementation."
    ),
    "DUPLICATE_PORT": Code("error", "Two inputs, or two outputs, of a node have one name."),
    "RESERVED_PORT": Code("error", "An output is called success or error, which are the names of the fixed ports."),
    "UNKNOWN_PORT_TYPE": Code("warning", "A port's type is no JSON type; only a port of the same type meets it."),
    "UNKNOWN_PORT": Code("error", "An edge uses a port, or maps a key, that the node's descriptor does not declare."),
    "PORT_TYPE_MISMATCH": Code("error", "An edge connects ports whose types cannot meet."),
    "BAD_DEFAULT": Code("error", "A port's defaultValue is not of the port's type."),
    "MISSING_INPUT": Code(
        "error", "An input that the node, or the run, needs is not given, and no edge could bring it."
    ),
    "BAD_INPUT": Code("error", "An input of a built-in node type has a value that the type refuses."),
    "CALLBACK_OF_NOBODY": Code("error", "`callback` stands on a node of a type that asks nobody for anything."),
    "ENDLESS_FINALLY": Code("error", "A `finally` node waits without a timeout: the run might never end."),
    "IGNORED_INPUT": Code("warning", "An input looks like a misspelt one: the type would ignore it."),
    # Human nodes
    "TASK_WITHOUT_PERSON": Code("error", "A node that is not of type human has the field `task`."),
    "BAD_TASK": Code("error", "Fields of a human node's task contradict each other."),
    "BAD_FORM": Code("error", "The form of a task is no JSON Schema (Draft 2020-12) that Dalang can check."),
    "IGNORED_FIELD": Code("warning", "A field has no effect on a node of this type."),
    # Expressions and joins
    "BAD_EXPRESSION": Code("error", "An expression does not compile."),
    "WRONG_VARIABLE": Code("error", "An expression reads a variable that has no value where it stands."),
    "NOT_BOOLEAN": Code("error", "A condition is never true or false."),
    "REFERENCE_NOT_UPSTREAM": Code(
        "error", "An expression reads a node that need not have ended when the expression is evaluated."
    ),
    "UNKNOWN_NODE_PART": Code("error", "An expression reads of a node something else than status, outputs or error."),
    "UNKNOWN_OUTPUT": Code("warning", "An expression reads an output that the node's descriptor does not declare."),
    "UNKNOWN_INPUT": Code("both", "There is no such input of the run in the plan's `inputs` schema."),
    "UNKNOWN_JOIN": Code("error", "A join is neither one of the four words nor a boolean over edge ids."),
    "BAD_JOIN": Code("error", "A join's boolean cannot be read."),
    "JOIN_UNKNOWN_EDGE": Code("error", "A join names an edge that does not lead into the node."),
    "BAD_SECRET": Code("error", "A reference to a secret is badly written, or stands where nothing resolves it."),
    # Undoing
    "BAD_COMPENSATION": Code("error", "A compensation has a node type that does no work: a wait, or a container."),
    "BAD_PLANNER": Code("error", "The planner has a node type that does no work: a wait, or a container."),
    "FINALLY_EVALUATOR": Code("error", "A `finally` node is an evaluator; the plan does not change any more then."),
    "NO_PLANNER": Code("warning", "Something asks for another plan, or bounds how often, and nobody could make one."),
    "FINALLY_UNDO": Code("error", "A `finally` node has a compensation or is a pivot; it runs after the undo."),
    "PIVOT_COMPENSATION": Code("warning", "A pivot has a compensation, which runs only when it did not succeed."),
    "NOTHING_TO_UNDO": Code("warning", "What the plan says about undoing has no effect."),
    # The inputs of a run
    "BAD_INPUT_SCHEMA": Code("error", "The plan's `inputs` is no JSON Schema (Draft 2020-12) that Dalang can check."),
    "INVALID_INPUT": Code("error", "An input of the run is not what the plan's schema asks for."),
    "TOO_LARGE": Code("error", "The inputs of the run are larger than they may be."),
    "SCHEMA_TOO_COSTLY": Code("error", "Checking the inputs against the schema takes too many steps."),
    # Time and requirements
    "DURATION_ORDER": Code("warning", "A duration makes another one pointless."),
    "NO_RETRY_ON": Code("warning", "Several attempts are allowed, but no error is worth another attempt."),
    "CRITICAL_PATH": Code("warning", "The longest chain of estimated durations does not fit in the plan's timeout."),
    "LARGER_THAN_POOL": Code("warning", "A node asks for more of a pool than it, or a quota, has. The API says so."),
    "UNKNOWN_POOL": Code("warning", "A node names a pool that is not there: nothing limits it. The API says so."),
    "UNMET_REQUIREMENTS": Code("warning", "No registered agent has all the capabilities that the node requires."),
}
