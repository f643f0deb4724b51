"""`compress` for Python programs: the invariants of the proxy, without a server and from any thread."""

from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from functools import partial
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from openai.types.chat import ChatCompletionMessage

from clara_proxy.compression.policy import compute_kind_target
from clara_proxy.compression.tokens import get_token_counter
from clara_proxy.config.settings import Settings
from clara_proxy.proxy.runtime.in_process import compress, compress_passage, compress_text
from clara_proxy.tests.conversations import Json, chats
from clara_proxy.tests.proxy.inprocess import InProcessProxy
from clara_proxy.tests.running import LOG_TEXT, short_chat, tool_chat

LONG_DEADLINE = Settings(deadline_ms=60_000)
count = get_token_counter("gpt-4o").count


def test_a_long_tool_output_is_compressed() -> None:
    chat = tool_chat()
    result = compress(chat["messages"], custom_settings=LONG_DEADLINE)
    assert result.messages[:2] == chat["messages"][:2]
    assert "ERROR disk full" in result.messages[2]["content"]
    assert "/v1/retrieve" not in result.messages[2]["content"]
    saved = count(chat["messages"][2]["content"]) - count(result.messages[2]["content"])
    assert result.tokens_saved == result.tokens_before - result.tokens_after == saved > 5000
    assert result.skipped == {"too-short": 1}
    assert chat == tool_chat()


def test_ratio_and_query_are_applied() -> None:
    messages = tool_chat()["messages"]
    assert compress(messages, ratio=40).tokens_after < compress(messages, ratio=4).tokens_after
    line = "2024-01-01 10:00:17 INFO request 137"
    assert line in compress(messages, ratio=20, query="what became of request 137?").messages[2]["content"]
    assert line not in compress(messages, ratio=20, query="is the disk full?").messages[2]["content"]


def test_tokens_of_tools_are_counted() -> None:
    tool = {"type": "function", "function": {"name": "logs", "parameters": {"type": "object"}}}
    with_tools, without = (compress(short_chat()["messages"], tools=tools) for tools in ([tool], []))
    assert with_tools.tokens_before > without.tokens_before
    assert with_tools.messages == without.messages == short_chat()["messages"]


def test_message_objects_of_clients_are_accepted() -> None:
    messages = tool_chat()["messages"]
    message = ChatCompletionMessage.model_validate(messages[1])
    result = compress([messages[0], message, messages[2]])
    assert result.messages[1]["tool_calls"] == messages[1]["tool_calls"]
    assert result.tokens_saved > 5000


@pytest.mark.parametrize("ratio", [0, 0.5, 1001, float("nan")])
def test_an_invalid_ratio_is_a_value_error(ratio: float) -> None:
    with pytest.raises(ValueError, match="ratio"):
        compress([], ratio=ratio)


def test_invalid_messages_are_rejected() -> None:
    with pytest.raises(ValueError, match="role"):
        compress([{"content": "x"}])
    with pytest.raises(TypeError):
        compress([{"role": "user", "content": object()}])


async def test_it_works_inside_a_running_event_loop() -> None:
    assert compress(tool_chat()["messages"]).tokens_saved > 5000


def test_it_works_from_many_threads() -> None:
    with ThreadPoolExecutor(8) as threads:
        conversations: list[list[Json]] = [
            tool_chat(f"thread {number}\n{LOG_TEXT}")["messages"] for number in range(16)
        ]
        results = list(threads.map(partial(compress, custom_settings=LONG_DEADLINE), conversations))
    assert all(result.tokens_saved > 5000 for result in results)


def test_passive_modes_change_nothing() -> None:
    for mode in ("off", "observe"):
        result = compress(tool_chat()["messages"], custom_settings=Settings(mode=mode))
        assert result.messages == tool_chat()["messages"]
        assert result.tokens_saved == 0


@settings(max_examples=10)
@given(chats())
def test_the_result_is_that_of_the_proxy(tmp_path_factory: pytest.TempPathFactory, chat: Json) -> None:
    folder: Path = tmp_path_factory.mktemp("same")
    before = deepcopy(chat)
    result = compress(chat["messages"], model=chat["model"], tools=chat.get("tools", ()), custom_settings=LONG_DEADLINE)
    assert chat == before
    with InProcessProxy(folder) as proxy:
        sent = proxy.send(orjson.dumps(chat), {"x-clara-retrieve": "none"})
    assert result.messages == sent.messages
    assert (result.tokens_before, result.tokens_saved) == (sent.row.tokens_received, sent.row.saved_tokens)


def test_a_text_is_compressed_to_an_excerpt() -> None:
    text = f"{LOG_TEXT}\nERROR disk full"
    excerpt = compress_text(text, "disk", 8, "gpt-4o", 100)
    assert excerpt is not None
    assert (excerpt.tokens_before, excerpt.tokens_after) == (count(text), count(excerpt.text))
    assert "ERROR disk full" in excerpt.text
    assert compress_text(text, "disk", 8, "gpt-4o", 10**6) is None


def test_without_a_ratio_a_passage_gets_the_size_of_its_kind() -> None:
    log = "\n".join(f"2024-05-01T10:{n // 60:02d}:{n % 60:02d}Z INFO request {n} took {n * 7} ms" for n in range(900))
    outcome, tokens = compress_passage(log, "what failed?", None, "gpt-4o")
    target = compute_kind_target("log", tokens)
    assert target is not None
    assert outcome.tokens < min(1.2 * target, tokens / 4)
    code = "\n\n".join(f"def handle_{n}(self, request):\n    return self.workers[{n}].run(request)" for n in range(90))
    outcome, tokens = compress_passage(code, "", None, "gpt-4o")
    assert (outcome.text, outcome.reason, outcome.tokens, outcome.compressor) == (None, "all-signal", tokens, "code")
    outcome, tokens = compress_passage(code, "", 4, "gpt-4o")
    assert outcome.tokens < tokens / 3
