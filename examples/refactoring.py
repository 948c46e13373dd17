"""The refactoring workflow of the Axon seed, in Python: ``python examples/refactoring.py`` prints it as YAML."""

from dalang.builder import PlanBuilder, TaskBuilder, custom, refactoring, testing
from dalang.formats import dump_yaml
from dalang.plan import Plan


def refactoring_workflow() -> Plan:
    analyze = (
        TaskBuilder(
            "Analyze Code",
            custom(handler="code_analyzer", config={"metrics": ["complexity", "duplication", "coverage"]}),
        )
        .capability("code-analysis")
        .estimated_duration("10m")
    )
    refactor = (
        TaskBuilder("Refactor Code", refactoring(optimization_level="aggressive"))
        .capability("refactoring")
        .estimated_duration("40m")
    )
    verify = (
        TaskBuilder("Verify Changes", testing(test_type="regression", coverage_threshold=0.9))
        .capability("testing")
        .estimated_duration("20m")
    )
    return (
        PlanBuilder("Refactoring: Improve Code Quality")
        .description("Analyze, refactor, and verify code improvements")
        .priority("medium")
        .timeout("1h")
        .task(analyze, refactor, verify)
        .depends_on(refactor, [analyze])
        .depends_on(verify, [refactor])
        .build()
    )


if __name__ == "__main__":
    print(dump_yaml(refactoring_workflow().wire()), end="")
