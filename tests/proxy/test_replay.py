"""Recorded conversations of agents, turn by turn: the forwarded prefix never changes, and every row adds up."""

from collections.abc import Generator
from pathlib import Path

import orjson
import pytest
from openai import OpenAI

from clara_proxy.compression.tokens import get_token_counter
from clara_proxy.config.settings import Settings
from clara_proxy.proxy.app import create_app
from clara_proxy.proxy.commands import serve
from clara_proxy.proxy.commands.demo import run
from clara_proxy.proxy.commands.demo.scripted_upstream import ScriptedUpstream
from clara_proxy.proxy.protocols import chat
from clara_proxy.proxy.stores import accounting
from clara_proxy.tests.conversations import Json
from clara_proxy.tests.proxy.inprocess import JSON_STYLES, InProcessProxy, JsonStyle

RECORDED = Path(__file__).resolve().parents[3] / "shared" / "data" / "trajectories.jsonl.gz"
MODEL = "gpt-4o"
CONTEXT_WINDOW = 128_000  # tokens
COUNTER = get_token_counter(MODEL)


@pytest.fixture
def proxy(tmp_path: Path) -> Generator[InProcessProxy]:
    with InProcessProxy(tmp_path) as proxy:
        yield proxy


def count_tokens(messages: list[Json]) -> list[int]:
    """Return the tokens of each message's texts."""
    return [sum(map(COUNTER.count, chat.iter_content_texts(message))) for message in messages]


def replay(proxy: InProcessProxy, conversation: Json, style: JsonStyle, headers: dict[str, str]) -> tuple[int, int]:
    """Send every turn and return the tokens received and sent, summed over the turns.

    Messages of earlier turns are compared as bytes only, unless a pruning point has changed them.
    """
    messages: list[Json] = conversation["messages"]
    body: Json = {"model": MODEL, "tools": conversation.get("tools") or []}
    received_tokens = sent_tokens = compared = 0
    saved_tokens, prefix = 0, b"["
    for index, message in enumerate(messages):
        if message["role"] != "assistant" or index == 0:
            continue
        sent = proxy.send(style(body | {"messages": messages[:index]}), headers)
        if sent.context.prompt_diff is not None and sent.context.prompt_diff.is_rewritten:
            compared, saved_tokens, prefix = 0, 0, b"["
        message_bytes = sent.message_bytes
        assert message_bytes.startswith(prefix), f"{conversation['id']}: prefix broken at {index}"
        new_messages = orjson.loads(b"[" + message_bytes[len(prefix) :].lstrip(b", \n") + b"]")
        saved_tokens += compare_messages(messages[compared:index], new_messages)
        assert sent.row.saved_tokens == saved_tokens
        assert accounting.find_inconsistencies(sent.row) == []
        compared, prefix = index, message_bytes
        received_tokens, sent_tokens = received_tokens + sent.row.tokens_received, sent_tokens + sent.row.tokens_sent
    return received_tokens, sent_tokens


def compare_messages(before: list[Json], after: list[Json]) -> int:
    """Check that only texts differ and that each change saves tokens; return the tokens saved."""
    assert run.is_structure_kept(before, after)
    pairs = zip(before, after, count_tokens(before), count_tokens(after), strict=True)
    changes = [(message == new_message, tokens - new_tokens) for message, new_message, tokens, new_tokens in pairs]
    assert all(is_equal or saved > 0 for is_equal, saved in changes)
    return sum(saved for _, saved in changes)


@pytest.mark.parametrize("style", JSON_STYLES, ids=["blanks", "compact", "indented"])
def test_bundled_conversations_keep_their_prefix(proxy: InProcessProxy, style: JsonStyle) -> None:
    totals = [replay(proxy, conversation, style, {}) for conversation in run.read_conversations()]
    assert len(totals) == 3
    assert sum(sent for _, sent in totals) < sum(received for received, _ in totals)


def test_pruning_point_changes_messages_once(proxy: InProcessProxy) -> None:
    proxy.settings = proxy.settings.model_copy(update={"epoch_share": 0.1})
    proxy.restart()
    conversation = max(run.read_conversations(), key=lambda item: len(orjson.dumps(item["messages"])))
    assert sum(count_tokens(conversation["messages"])) > 0.1 * CONTEXT_WINDOW
    received, sent = replay(proxy, conversation, JSON_STYLES[1], {})
    assert sent < received


@pytest.mark.skipif(not RECORDED.exists(), reason=f"needs {RECORDED.name} in ../shared/data")
def test_recorded_conversations_keep_their_prefix(proxy: InProcessProxy) -> None:
    totals = [
        replay(proxy, conversation, JSON_STYLES[1], {"x-clara-retrieve": "url" if number % 2 else "none"})
        for number, conversation in enumerate(run.read_conversations(RECORDED))
    ]
    assert len(totals) >= 50
    assert sum(sent for _, sent in totals) < sum(received for received, _ in totals)


def test_replay_over_http_with_the_real_client(tmp_path: Path) -> None:
    script = run.RecordedScript()
    upstream = ScriptedUpstream(script)
    conversations = list(run.read_conversations())[:2]
    with serve.run_in_thread(upstream) as upstream_url:
        settings = Settings(upstream_base_url=f"{upstream_url}/v1", data_dir=tmp_path, log_level="warning")
        with (
            serve.run_in_thread(create_app(settings)) as url,
            OpenAI(base_url=f"{url}/v1", api_key="sk-test") as client,
        ):
            results = [
                run.replay_conversation(client, conversation, script, upstream, max_turns=25)
                for conversation in conversations
            ]
    for result in results:
        assert result.turns > 0
        assert (result.prefix_breaks, result.different_answers, result.structure_changes) == (0, 0, 0)
    assert sum(result.sent for result in results) < sum(result.received for result in results)
    assert not [name for headers in upstream.headers for name in headers if name.startswith("x-clara-")]
