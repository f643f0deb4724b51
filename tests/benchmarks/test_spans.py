from typing import Any

from clara_proxy.benchmarks import spans
from clara_proxy.benchmarks.spans import Span

Json = dict[str, Any]


def said(text: str, **arguments: str) -> Json:
    calls = [{"id": "1", "type": "function", "function": {"name": "shell", "arguments": _written(arguments)}}]
    return {"role": "assistant", "content": text, "tool_calls": calls if arguments else []}


def _written(arguments: dict[str, str]) -> str:
    return "{" + ",".join(f'"{name}":"{value}"' for name, value in arguments.items()) + "}"


def output(text: str) -> Json:
    return {"role": "tool", "tool_call_id": "1", "content": text}


def found(*messages: Json) -> list[tuple[str, int, int]]:
    return [(one.text, one.source_message, one.first_use) for one in spans.find_spans(messages)]


def test_what_an_assistant_uses_of_an_output_counts_once_and_for_its_source() -> None:
    messages = (
        {"role": "user", "content": "fix it"},
        output("src/store.py: read_all"),
        output("src/store.py: read_all"),
        said("Now src/store.py", command="grep read_all"),
        said("again src/store.py and read_all"),
    )
    assert found(*messages) == [("src/store.py", 1, 3), ("read_all", 1, 3)]


def test_what_was_known_before_is_no_span() -> None:
    task = {"role": "user", "content": "fix src/store.py"}
    assert found(task, output("src/store.py"), said("src/store.py")) == []
    assert found(said("src/store.py"), output("src/store.py"), said("src/store.py again")) == []


def test_plain_words_are_no_spans_and_whole_lines_are() -> None:
    assert found(output("several words"), said("several words")) == [("several words", 0, 1)]
    assert found(output("several words and more"), said("these several words")) == []
    assert found(output("    return the best of them"), said("", new="x\\n  return the best of them\\n")) == [
        ("return the best of them", 0, 1)
    ]


def test_a_span_is_lost_when_nothing_forwarded_before_its_use_holds_it() -> None:
    span = Span("read_all", 1, 3)
    assert not spans.is_lost(span, ["", "read_all", "", "read_all"])
    assert not spans.is_lost(span, ["", "", "a read_all", ""])
    assert spans.is_lost(span, ["", "", "", "read_all"])


def test_a_line_is_more_than_a_token() -> None:
    assert Span("several words", 0, 1).is_line
    assert not Span("src/store.py", 0, 1).is_line
