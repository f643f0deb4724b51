"""Recorded conversations of real agents, turn by turn: what was forwarded before never changes, and it all adds up."""

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
WINDOW = 128_000
COUNTED = get_token_counter(MODEL)


@pytest.fixture
def proxy(tmp_path: Path) -> Generator[InProcessProxy]:
    with InProcessProxy(tmp_path) as made:
        yield made


def sizes(messages: list[Json]) -> list[int]:
    return [sum(map(COUNTED.count, chat.iter_content_texts(message))) for message in messages]


def replayed(proxy: InProcessProxy, conversation: Json, style: JsonStyle, asked: dict[str, str]) -> tuple[int, int]:
    """Send every turn; returns tokens received and sent, summed over the turns.

    What was compared in an earlier turn is compared as bytes only, unless an epoch has ended since.
    """
    messages: list[Json] = conversation["messages"]
    body: Json = {"model": MODEL, "tools": conversation.get("tools") or []}
    received = sent = compared = 0
    saved, head = 0, b"["
    for index, message in enumerate(messages):
        if message["role"] != "assistant" or index == 0:
            continue
        turn = proxy.send(style(body | {"messages": messages[:index]}), asked)
        if turn.context.prompt_diff is not None and turn.context.prompt_diff.is_rewritten:
            compared, saved, head = 0, 0, b"["
        assert turn.message_bytes.startswith(head), f"{conversation['id']}: prefix broken at {index}"
        saved += compare(
            messages[compared:index], orjson.loads(b"[" + turn.message_bytes[len(head) :].lstrip(b", \n") + b"]")
        )
        assert turn.row.saved_tokens == saved
        assert accounting.find_inconsistencies(turn.row) == []
        compared, head = index, turn.message_bytes
        received, sent = received + turn.row.tokens_received, sent + turn.row.tokens_sent
    return received, sent


def compare(before: list[Json], after: list[Json]) -> int:
    """Compare messages with what was forwarded for them, and return how many tokens fewer there are."""
    assert run.is_structure_kept(before, after)
    both = list(zip(before, after, strict=True))
    saved = [many - few for many, few in zip(sizes(before), sizes(after), strict=True)]
    assert all(one == other or fewer > 0 for (one, other), fewer in zip(both, saved, strict=True))
    return sum(saved)


@pytest.mark.parametrize("style", JSON_STYLES)
def test_the_bundled_sample(proxy: InProcessProxy, style: JsonStyle) -> None:
    figures = [replayed(proxy, one, style, {}) for one in run.read_conversations()]
    assert len(figures) == 3
    assert sum(sent for _, sent in figures) < sum(received for received, _ in figures)


def test_what_ends_an_epoch_is_shortened_once_and_then_stays(proxy: InProcessProxy) -> None:
    proxy.settings = proxy.settings.model_copy(update={"epoch_share": 0.1})
    proxy.restart()
    conversation = max(run.read_conversations(), key=lambda one: len(orjson.dumps(one["messages"])))
    assert sum(sizes(conversation["messages"])) > 0.1 * WINDOW
    received, sent = replayed(proxy, conversation, JSON_STYLES[1], {})
    assert sent < received


@pytest.mark.skipif(not RECORDED.exists(), reason=f"needs {RECORDED.name} in ../shared/data")
def test_every_recorded_trajectory(proxy: InProcessProxy) -> None:
    figures = [
        replayed(proxy, one, JSON_STYLES[1], {"x-clara-retrieve": "url" if number % 2 else "none"})
        for number, one in enumerate(run.read_conversations(RECORDED))
    ]
    assert len(figures) >= 50
    assert sum(sent for _, sent in figures) < sum(received for received, _ in figures)


def test_over_http_with_the_real_client(tmp_path: Path) -> None:
    script = run.RecordedScript()
    upstream = ScriptedUpstream(script)
    chosen = list(run.read_conversations())[:2]
    with serve.run_in_thread(upstream) as upstream_url:
        settings = Settings(upstream_base_url=f"{upstream_url}/v1", data_dir=tmp_path, log_level="warning")
        with (
            serve.run_in_thread(create_app(settings)) as url,
            OpenAI(base_url=f"{url}/v1", api_key="sk-test") as client,
        ):
            shown = [run.replay_conversation(client, one, script, upstream, max_turns=25) for one in chosen]
    for one in shown:
        assert one.turns > 0
        assert (one.prefix_breaks, one.different_answers, one.structure_changes) == (0, 0, 0)
    assert sum(one.sent for one in shown) < sum(one.received for one in shown)
    assert all(name.startswith("x-clara-") is False for arrived in upstream.headers for name in arrived)
