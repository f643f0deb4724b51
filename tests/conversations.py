"""Hypothesis strategies for chat requests as agents and people send them, long and short, usual and unusual."""

from random import Random
from typing import Any

import orjson
from hypothesis import strategies as st

Json = dict[str, Any]
FIGURE_WORDS = ["2024-05-01", "E4711", "/var/log/app.log", "0x1f", "3.14", "[1]", "worker-7"]
ODD_WORDS = ["naïve", "漢字", "\\n", '"quoted"', "<MEM0>", "</s>", "{brace}"]
PLAIN_WORDS = [
    "error",
    "warning",
    "request",
    "timeout",
    "user",
    "order",
    "shipped",
    "def",
    "return",
    "None",
    "import",
    "queue",
]
WORDS = [*FIGURE_WORDS, *ODD_WORDS, *PLAIN_WORDS]
words = st.sampled_from(WORDS)
short_line = st.lists(words, min_size=1, max_size=8).map(" ".join)


def _random_lines(seed: int, count: int) -> list[str]:
    """Return lines drawn from a seed; hypothesis itself would need thousands of draws, and seconds, for a long text."""
    random = Random(seed)
    return [" ".join(random.choices(WORDS, k=random.randint(1, 14))) for _ in range(count)]


def _log_text(seed: int, count: int) -> str:
    return "\n".join(
        f"2024-05-01 10:00:{second % 60:02d} INFO {text}" for second, text in enumerate(_random_lines(seed, count))
    )


def _prose_text(seed: int, count: int) -> str:
    lines = _random_lines(seed, 3 * count)
    return "\n\n".join(". ".join(lines[start : start + 3]) + "." for start in range(0, len(lines), 3))


def _json_rows(seed: int, count: int) -> str:
    names = enumerate(_random_lines(seed, count))
    rows = [{"id": seed + index, "name": name, "ok": index % 3 == 0} for index, name in names]
    return orjson.dumps(rows).decode()


def _numbered_passages(seed: int, count: int) -> str:
    return "\n".join(f"[{number}] {text}." for number, text in enumerate(_random_lines(seed, count), start=1))


seeds = st.integers(0, 10**9)
log_text = st.builds(_log_text, seeds, st.integers(30, 120))
json_text = st.builds(_json_rows, seeds, st.integers(10, 60))
long_text = st.one_of(
    log_text,
    json_text,
    st.builds(_prose_text, seeds, st.integers(10, 30)),
    st.builds(_numbered_passages, seeds, st.integers(20, 60)),
)
pasted_text = st.one_of(long_text, long_text, short_line, st.just(""))
FILE_LINES = [f"    order_{number} = queue.take(worker={number % 7}, timeout={number * 3})" for number in range(40)]


def _file_excerpt(start: int, end: int, form: str) -> str:
    return "\n".join(form.format(number, line) for number, line in enumerate(FILE_LINES[start:end], start=start))


# Parts of one file, with or without line numbers, as agents read them repeatedly.
line_number_formats = st.sampled_from(["{1}", "{0:6}\t{1}", "{0}:{1}"])
file_text = st.builds(_file_excerpt, st.integers(0, 30), st.integers(10, 40), line_number_formats)
tool_output = st.one_of(short_line, long_text, file_text, file_text, st.just(""), st.text(max_size=200))
shell_command = st.sampled_from(
    ["grep -rn timeout src", "pytest -q", "cat src/app.py", "tail -f app.log", "curl -s localhost/orders"]
)


MESSAGE_FORMS = ["{ask}", "{ask}\n\n<document>\n{m}\n</document>", "```\n{m}\n```\n\n{ask}", "{ask}\n\n{m}\n\n{ask}"]
TAGGED_FORMS = [
    "<clara:keep>{m}</clara:keep> {ask}",
    "<clara:compress>{m}</clara:compress>\n{ask}",
    "<clara:compress>{ask}</clara:compress><clara:keep></clara:keep>{m}",
    "{ask}<doc>İ{m}</doc><doc>{m}</doc>{ask}<clara:keep>",
]


@st.composite
def user_message(draw: st.DrawFn, *, tags: bool) -> Json:
    """A user message: an instruction, alone or around a passage."""
    ask = draw(short_line) + "?"
    pasted = draw(st.one_of(st.none(), pasted_text))
    form = draw(st.sampled_from(MESSAGE_FORMS + TAGGED_FORMS if tags else MESSAGE_FORMS))
    text = ask if pasted is None else form.format(ask=ask, m=pasted)
    if draw(st.booleans()):
        return {"role": "user", "content": text}
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    return {"role": "user", "content": [{"type": "text", "text": text}, picture]}


@st.composite
def tool_turn(draw: st.DrawFn, number: int) -> list[Json]:
    """An assistant message with calls, and their results."""
    count = draw(st.integers(1, 3))
    calls = [
        {
            "id": f"call_{index}" if number % 2 else f"call_{number}_{index}",  # some servers repeat ids in every reply
            "type": "function",
            "function": {"name": "shell", "arguments": orjson.dumps({"command": draw(shell_command)}).decode()},
        }
        for index in range(count)
    ]
    assistant: Json = {"role": "assistant", "content": draw(st.one_of(st.none(), short_line)), "tool_calls": calls}
    return [assistant, *({"role": "tool", "tool_call_id": call["id"], "content": draw(tool_output)} for call in calls)]


@st.composite
def chats(draw: st.DrawFn, *, tags: bool = True) -> Json:
    """A whole request body; with `tags`, users may write the proxy's tags."""
    messages: list[Json] = [{"role": draw(st.sampled_from(["system", "developer"])), "content": draw(long_text)}]
    for number in range(draw(st.integers(1, 4))):
        messages.append(draw(user_message(tags=tags)))
        for _ in range(draw(st.integers(0, 2))):
            messages += draw(tool_turn(number))
        if draw(st.booleans()):
            messages.append({"role": "assistant", "function_call": {"name": "find", "arguments": "{}"}})
            messages.append({"role": "function", "name": "find", "content": draw(tool_output)})
        messages.append({"role": "assistant", "content": draw(tool_output), "x_unknown": {"kept": [1, None]}})
    messages.append(draw(user_message(tags=tags)))
    body: Json = {"model": draw(st.sampled_from(["gpt-4o", "gpt-4", "some-model"])), "messages": messages, "n": 1}
    if draw(st.booleans()):
        body["tools"] = [{"type": "function", "function": {"name": "shell", "parameters": {"type": "object"}}}]
    return body | {"x_unknown_field": {"a": [1, 2.50, "é"]}}
