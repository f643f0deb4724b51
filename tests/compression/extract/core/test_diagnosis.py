"""Lines that matter if something is wrong: remedies, settings related to a failure, boilerplate."""

import pytest

from clara_proxy.compression.extract.core import diagnosis
from clara_proxy.compression.extract.core.lines import find_line_spans

REPORT = """Installing dependencies
JAVA_OPTS: -Xmx512m
Last State: OOMKilled
memory: 256Mi
check  ok
Fix the upstream dependency conflict, or retry
this command with --force or --legacy-peer-deps
Hint: rerun with a larger heap
A complete log of this run can be found in:
/root/.npm/_logs/debug-0.log
sha256:0b8e7d0d3f0a4c5b6e7f8a9b0c1d2e3f4a5b6c7d8e9f0a1b2c3d4e5f60718293"""


def read_lines(indices: list[int], text: str) -> list[str]:
    return [text.split("\n")[index] for index in sorted(set(indices))]


def test_remedies_include_the_rest_of_their_sentence() -> None:
    remedies = read_lines(diagnosis.find_remedies(REPORT, find_line_spans(REPORT)), REPORT)
    assert remedies == REPORT.split("\n")[5:8]


def test_many_lines_like_remedies_are_none() -> None:
    text = "\n".join(f"Run the step {index} of the plan" for index in range(20))
    assert diagnosis.find_remedies(text, find_line_spans(text)) == []


@pytest.mark.parametrize(
    ("failure", "setting"),
    [
        ("java.lang.OutOfMemoryError", "options: -Xms1g"),
        ("write failed: no space left on device", "sizeLimit: 1Gi"),
        ("connect: connection refused", "db_host: 10.0.0.7"),
        ("open /data: permission denied", "runAsUser: 1000"),
    ],
)
def test_settings_are_related_to_the_failure(failure: str, setting: str) -> None:
    text = f"name: api\n{setting}\n{failure}\ncolor: red"
    assert read_lines(diagnosis.find_related_settings(text, find_line_spans(text)), text) == [setting]
    calm = text.replace(failure, "all is well")
    assert diagnosis.find_related_settings(calm, find_line_spans(calm)) == []


def test_boilerplate_is_where_a_log_is_and_digests() -> None:
    assert read_lines(diagnosis.find_boilerplate(REPORT, find_line_spans(REPORT)), REPORT) == REPORT.split("\n")[8:]
