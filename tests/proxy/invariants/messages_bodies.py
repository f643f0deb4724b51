"""Hypothesis strategies for request bodies of Anthropic's Messages API."""

from hypothesis import strategies as st

from clara_proxy.tests.conversations import shell_command, short_line, tool_output
from clara_proxy.tests.proxy.protocols.messages_upstream import (
    BREAKPOINT,
    CITED,
    IMAGE,
    SHELL_TOOL,
    Json,
    assistant,
    build_body,
    call,
    document,
    result,
    search_result,
    text,
    thinking,
    user,
)


@st.composite
def user_block(draw: st.DrawFn) -> Json:
    """A block of a user message."""
    fields = draw(st.sampled_from([{}, {}, {}, CITED, BREAKPOINT]))
    content = draw(tool_output)
    blocks = [
        text(draw(short_line)),
        document(content, **fields),
        document([text(content), IMAGE], **fields),
        search_result(content, **fields),
    ]
    return draw(st.sampled_from([*blocks, IMAGE]))


@st.composite
def result_content(draw: st.DrawFn) -> object:
    """The content of a tool result, in each of its shapes."""
    content = draw(tool_output)
    return draw(st.sampled_from([content, [text(content)], [text(content), IMAGE, document(content)]]))


@st.composite
def tool_turn(draw: st.DrawFn, number: int) -> list[Json]:
    """An assistant message with calls, and their results, with or without blocks of the user after them."""
    call_ids = [f"toolu_{number}_{index}" for index in range(draw(st.integers(1, 3)))]
    before = draw(st.lists(st.sampled_from([thinking("so be it"), text("I see.")]), max_size=2))
    calls = [call("shell", {"command": draw(shell_command)}, call_id) for call_id in call_ids]
    results = [result(call_id, draw(result_content())) for call_id in call_ids]
    return [assistant(*before, *calls), user([*results, *draw(st.lists(user_block(), max_size=2))])]


@st.composite
def messages_bodies(draw: st.DrawFn) -> Json:
    """A whole request body."""
    messages: list[Json] = []
    for number in range(draw(st.integers(1, 3))):
        messages.append(user(draw(st.one_of(tool_output, st.lists(user_block(), min_size=1, max_size=3)))))
        for repeat in range(draw(st.integers(0, 2))):
            messages += draw(tool_turn(10 * number + repeat))
        messages.append(assistant(*draw(st.lists(st.builds(text, tool_output), max_size=2)), text("So.")))
    messages.append(user(draw(st.one_of(short_line, st.lists(user_block(), min_size=1, max_size=3)))))
    system = draw(st.sampled_from([None, "be brief", [{**text("be brief"), **BREAKPOINT}]]))
    fields: Json = {"x_unknown": [1, 2.50, "é"], **({"system": system} if system else {})}
    if draw(st.booleans()):
        fields["tools"] = [SHELL_TOOL]
    model = draw(st.sampled_from(["claude-sonnet-4-5", "some-model"]))
    return {**fields, **build_body(*messages, model=model), **fields}
