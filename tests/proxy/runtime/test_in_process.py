"""`compress` for Python programs: the laws of the proxy, without a server and from any thread."""

from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from functools import partial
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from openai.types.chat import ChatCompletionMessage

from clara_proxy.compression.tokens import get_token_counter
from clara_proxy.config.settings import Settings
from clara_proxy.proxy.runtime.in_process import compress, compress_text
from clara_proxy.tests.conversations import Json, chats
from clara_proxy.tests.proxy.inprocess import InProcessProxy
from clara_proxy.tests.running import LOG_TEXT, short_chat, tool_chat

PATIENT = Settings(deadline_ms=60_000)
count = get_token_counter("gpt-4o").count


def test_a_long_output_becomes_shorter() -> None:
    chat = tool_chat()
    done = compress(chat["messages"], custom_settings=PATIENT)
    assert done.messages[:2] == chat["messages"][:2]
    assert "ERROR disk full" in done.messages[2]["content"]
    assert "/v1/retrieve" not in done.messages[2]["content"]
    saved = count(chat["messages"][2]["content"]) - count(done.messages[2]["content"])
    assert done.tokens_saved == done.tokens_before - done.tokens_after == saved > 5000
    assert done.skipped == {"too-short": 1}
    assert chat == tool_chat()


def test_ratio_and_query_are_followed() -> None:
    messages = tool_chat()["messages"]
    assert compress(messages, ratio=40).tokens_after < compress(messages, ratio=4).tokens_after
    line = "2024-01-01 10:00:17 INFO request 137"
    assert line in compress(messages, ratio=20, query="what became of request 137?").messages[2]["content"]
    assert line not in compress(messages, ratio=20, query="is the disk full?").messages[2]["content"]


def test_tools_on_offer_are_counted() -> None:
    tool = {"type": "function", "function": {"name": "logs", "parameters": {"type": "object"}}}
    with_tools, without = (compress(short_chat()["messages"], tools=tools) for tools in ([tool], []))
    assert with_tools.tokens_before > without.tokens_before
    assert with_tools.messages == without.messages == short_chat()["messages"]


def test_the_objects_of_a_client_are_messages_too() -> None:
    messages = tool_chat()["messages"]
    said = ChatCompletionMessage.model_validate(messages[1])
    done = compress([messages[0], said, messages[2]])
    assert done.messages[1]["tool_calls"] == messages[1]["tool_calls"]
    assert done.tokens_saved > 5000


@pytest.mark.parametrize("ratio", [0, 0.5, 1001, float("nan")])
def test_a_ratio_that_makes_no_sense_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="ratio"):
        compress([], ratio=ratio)


def test_what_are_no_messages_is_refused() -> None:
    with pytest.raises(ValueError, match="role"):
        compress([{"content": "x"}])
    with pytest.raises(TypeError):
        compress([{"role": "user", "content": object()}])


async def test_inside_a_running_event_loop() -> None:
    assert compress(tool_chat()["messages"]).tokens_saved > 5000


def test_from_many_threads_at_once() -> None:
    with ThreadPoolExecutor(8) as threads:
        chosen: list[list[Json]] = [tool_chat(f"of thread {at}\n{LOG_TEXT}")["messages"] for at in range(16)]
        done = list(threads.map(partial(compress, custom_settings=PATIENT), chosen))
    assert all(one.tokens_saved > 5000 for one in done)


def test_modes_that_change_nothing_change_nothing() -> None:
    for mode in ("off", "observe"):
        done = compress(tool_chat()["messages"], custom_settings=Settings(mode=mode))
        assert done.messages == tool_chat()["messages"]
        assert done.tokens_saved == 0


@settings(max_examples=10, deadline=None)
@given(chats())
def test_it_does_what_the_proxy_does(tmp_path_factory: pytest.TempPathFactory, chat: Json) -> None:
    folder: Path = tmp_path_factory.mktemp("same")
    before = deepcopy(chat)
    done = compress(chat["messages"], model=chat["model"], tools=chat.get("tools", ()), custom_settings=PATIENT)
    assert chat == before
    with InProcessProxy(folder) as proxy:
        sent = proxy.send(orjson.dumps(chat), {"x-clara-retrieve": "none"})
    assert done.messages == sent.messages
    assert (done.tokens_before, done.tokens_saved) == (sent.row.tokens_received, sent.row.saved_tokens)


def test_an_excerpt_of_a_text() -> None:
    text = f"{LOG_TEXT}\nERROR disk full"
    found = compress_text(text, "disk", 8, "gpt-4o", 100)
    assert found is not None
    assert (found.tokens_before, found.tokens_after) == (count(text), count(found.text))
    assert "ERROR disk full" in found.text
    assert compress_text(text, "disk", 8, "gpt-4o", 10**6) is None
