"""The feature development workflow of the Axon seed, in Python: ``python examples/feature_development.py`` prints."""

from datetime import timedelta

from dalang.builder import PlanBuilder, TaskBuilder, development, documentation, review, testing
from dalang.formats import dump_yaml
from dalang.plan import Plan


def feature_development() -> Plan:
    design = (
        TaskBuilder("Design API", development(language="rust", scope=["src/api"]))
        .capability("code-generation", "api-design")
        .estimated_duration(timedelta(minutes=30))
    )
    implement = (
        TaskBuilder("Implement API", development(language="rust", scope=["src/api"]))
        .capability("code-generation")
        .estimated_duration("1h")
    )
    test = (
        TaskBuilder("Write Tests", testing(test_type="unit", coverage_threshold=0.8))
        .capability("testing")
        .estimated_duration("30m")
    )
    code_review = (
        TaskBuilder("Code Review", review(review_type="comprehensive"))
        .capability("code-review")
        .estimated_duration("15m")
    )
    document = (
        TaskBuilder("Write Documentation", documentation(format="markdown"))
        .capability("documentation")
        .estimated_duration("10m")
    )
    return (
        PlanBuilder("Feature: User Authentication")
        .description("Implement user authentication API with tests and documentation")
        .priority("high")
        .timeout("2h")
        .task(design, implement, test, code_review, document)
        .depends_on(implement, [design])
        .depends_on(test, [implement])
        .depends_on(code_review, [test])
        .depends_on(document, [implement])  # in parallel with the tests
        .build()
    )


if __name__ == "__main__":
    print(dump_yaml(feature_development().wire()), end="")
