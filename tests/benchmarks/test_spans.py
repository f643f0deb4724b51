"""Spans: parts of tool outputs used by later turns."""

from typing import Any

from clara_proxy.benchmarks import spans
from clara_proxy.benchmarks.spans import Span

Json = dict[str, Any]


def assistant(text: str, **arguments: str) -> Json:
    calls = [{"id": "1", "type": "function", "function": {"name": "shell", "arguments": _format_arguments(arguments)}}]
    return {"role": "assistant", "content": text, "tool_calls": calls if arguments else []}


def _format_arguments(arguments: dict[str, str]) -> str:
    return "{" + ",".join(f'"{name}":"{value}"' for name, value in arguments.items()) + "}"


def tool_output(text: str) -> Json:
    return {"role": "tool", "tool_call_id": "1", "content": text}


def find(*messages: Json) -> list[tuple[str, int, int]]:
    return [(span.text, span.source_message, span.first_use) for span in spans.find_spans(messages)]


def test_a_used_piece_counts_once_for_its_first_source() -> None:
    messages = (
        {"role": "user", "content": "fix it"},
        tool_output("src/store.py: read_all"),
        tool_output("src/store.py: read_all"),
        assistant("Now src/store.py", command="grep read_all"),
        assistant("again src/store.py and read_all"),
    )
    assert find(*messages) == [("src/store.py", 1, 3), ("read_all", 1, 3)]


def test_a_piece_of_earlier_text_is_no_span() -> None:
    task = {"role": "user", "content": "fix src/store.py"}
    assert find(task, tool_output("src/store.py"), assistant("src/store.py")) == []
    assert find(assistant("src/store.py"), tool_output("src/store.py"), assistant("src/store.py again")) == []


def test_plain_words_are_no_spans_but_whole_lines_are() -> None:
    assert find(tool_output("several words"), assistant("several words")) == [("several words", 0, 1)]
    assert find(tool_output("several words and more"), assistant("these several words")) == []
    assert find(tool_output("    return the best of them"), assistant("", new="x\\n  return the best of them\\n")) == [
        ("return the best of them", 0, 1)
    ]


def test_a_span_without_forwarded_text_before_its_use_is_lost() -> None:
    span = Span("read_all", 1, 3)
    assert not spans.is_lost(span, ["", "read_all", "", "read_all"])
    assert not spans.is_lost(span, ["", "", "a read_all", ""])
    assert spans.is_lost(span, ["", "", "", "read_all"])


def test_a_line_contains_blanks_and_a_token_does_not() -> None:
    assert Span("several words", 0, 1).is_line
    assert not Span("src/store.py", 0, 1).is_line
