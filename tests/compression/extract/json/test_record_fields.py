"""Severity of JSON records: the few worst ones of a field are found, whatever its scale."""

import json

import pytest

from clara_proxy.compression.extract.json.record_fields import find_severe_values


def find_values(key: str, values: list[object]) -> list[str]:
    text = json.dumps([{key: value, "text": "checked"} for value in values])
    return [text[offset:].split(",")[0] for offset in find_severe_values(text)]


@pytest.mark.parametrize(
    ("key", "values", "worst"),
    [
        ("severity", [1] * 30 + [2], '"severity": 2'),
        ("level", ["note", "warning"] * 20 + ["error"], '"level": "error"'),
        ("Severity", ["LOW", "MEDIUM"] * 20 + ["CRITICAL"], '"Severity": "CRITICAL"'),
        ("Action", ["run", "output", "pass"] * 20 + ["fail"], '"Action": "fail"'),
        ("PRIORITY", ["6"] * 30 + ["3"], '"PRIORITY": "3"'),
    ],
)
def test_the_worst_severity_is_found(key: str, values: list[object], worst: str) -> None:
    assert find_values(key, values) == [worst]


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("severity", ["error"] * 40),
        ("severity", ["warning", "error"] * 20),
        ("type", ["Identifier", "Literal"] * 20 + ["error"]),
        ("status", [200] * 40 + [500]),
        ("level", ["error", "info"]),
    ],
)
def test_many_alike_few_values_and_other_words_are_no_severity(key: str, values: list[object]) -> None:
    assert find_values(key, values) == []
