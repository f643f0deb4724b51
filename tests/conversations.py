"""Strategies for hypothesis: chat requests as agents and people send them, long and short, odd and plain."""

from typing import Any

import orjson
from hypothesis import strategies as st

Json = dict[str, Any]
FIGURES = ["2024-05-01", "E4711", "/var/log/app.log", "0x1f", "3.14", "[1]", "worker-7"]
ODD = ["naïve", "漢字", "\\n", '"quoted"', "<MEM0>", "</s>", "{brace}"]
PLAIN = [
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
words = st.sampled_from([*FIGURES, *ODD, *PLAIN])
line = st.lists(words, min_size=1, max_size=14).map(" ".join)
prose = st.lists(line, min_size=1, max_size=6).map(lambda lines: ". ".join(lines) + ".")
log = st.lists(line, min_size=30, max_size=120).map(
    lambda lines: "\n".join(f"2024-05-01 10:00:{at % 60:02d} INFO {text}" for at, text in enumerate(lines))
)
row = st.fixed_dictionaries({"id": st.integers(0, 10**9), "name": line, "ok": st.booleans()})
json_text = st.lists(row, min_size=10, max_size=60).map(lambda found: orjson.dumps(found).decode())
long_text = st.one_of(log, json_text, st.lists(prose, min_size=10, max_size=30).map("\n\n".join))
output = st.one_of(line, log, json_text, long_text, st.just(""), st.text(max_size=200))
command = st.sampled_from(
    ["grep -rn timeout src", "pytest -q", "cat src/app.py", "tail -f app.log", "curl -s localhost/orders"]
)


@st.composite
def user_message(draw: st.DrawFn) -> Json:
    """An instruction, alone or around material."""
    ask = draw(line) + "?"
    material = draw(st.one_of(st.none(), long_text))
    form = draw(
        st.sampled_from(
            [
                "{ask}",
                "{ask}\n\n<document>\n{m}\n</document>",
                "```\n{m}\n```\n\n{ask}",
                "{ask}\n\n{m}\n\n{ask}",
                "<clara:keep>{m}</clara:keep> {ask}",
                "<clara:compress>{m}</clara:compress>\n{ask}",
            ]
        )
    )
    text = ask if material is None else form.format(ask=ask, m=material)
    if draw(st.booleans()):
        return {"role": "user", "content": text}
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    return {"role": "user", "content": [{"type": "text", "text": text}, picture]}


@st.composite
def tool_turn(draw: st.DrawFn, number: int) -> list[Json]:
    """An assistant's calls and their answers."""
    count = draw(st.integers(1, 3))
    calls = [
        {
            "id": f"call_{number}_{at}",
            "type": "function",
            "function": {"name": "shell", "arguments": orjson.dumps({"command": draw(command)}).decode()},
        }
        for at in range(count)
    ]
    asked: Json = {"role": "assistant", "content": draw(st.one_of(st.none(), line)), "tool_calls": calls}
    return [asked, *({"role": "tool", "tool_call_id": call["id"], "content": draw(output)} for call in calls)]


@st.composite
def chats(draw: st.DrawFn) -> Json:
    """A whole request body."""
    messages: list[Json] = [{"role": draw(st.sampled_from(["system", "developer"])), "content": draw(long_text)}]
    for number in range(draw(st.integers(1, 4))):
        messages.append(draw(user_message()))
        for _ in range(draw(st.integers(0, 2))):
            messages += draw(tool_turn(number))
        messages.append({"role": "assistant", "content": draw(output), "x_unknown": {"kept": [1, None]}})
    messages.append(draw(user_message()))
    body: Json = {"model": draw(st.sampled_from(["gpt-4o", "gpt-4", "some-model"])), "messages": messages, "n": 1}
    if draw(st.booleans()):
        body["tools"] = [{"type": "function", "function": {"name": "shell", "parameters": {"type": "object"}}}]
    return body | {"x_unknown_field": {"a": [1, 2.50, "é"]}}
