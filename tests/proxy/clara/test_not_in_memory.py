"""Answers that an abstention head refuses: the documents are extracted, and headers and ledger say so."""

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

from clara_proxy.compression.clara.async_engine import LocalModelConfig
from clara_proxy.compression.clara.extracted_answers import LABEL
from clara_proxy.compression.clara.jobs import ClaraAnswer, ModelJob
from clara_proxy.compression.clara.locate import HEAD_FILE
from clara_proxy.compression.tokens import get_token_counter
from clara_proxy.config.settings import Settings
from clara_proxy.proxy.http.remote_clara import RemoteClara
from clara_proxy.proxy.runtime import local_model
from clara_proxy.tests import faulty, running
from clara_proxy.tests.compression.clara.heads import write_constant_head
from clara_proxy.tests.compression.clara.tiny import make_checkpoint
from clara_proxy.tests.faulty import FaultyUpstream
from clara_proxy.tests.running import CLIENT_KEY, Proxy, tool_chat

KINDS = "bridge mill lamp gate tower well wall quay school inn barn forge dam ferry market chapel stable kiln road hall"
FACTS = [
    f"In {1900 + year} the {kind} of the old town was mended by {1000 + 7 * year} people with patience and stone."
    for year, kind in enumerate(KINDS.split())
]
QUESTION = "When was the tower mended?"
CHAT = [{"role": "user", "content": f"<documents>{' '.join(FACTS)}</documents>\n{QUESTION}"}]
FACT = FACTS[4]
SECONDS = 60.0


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_checkpoint(tmp_path_factory.mktemp("checkpoint"))
    write_constant_head(folder / "clara" / "compression-4", 0.9)
    return folder


@pytest.fixture(scope="module")
def upstream() -> Iterator[FaultyUpstream]:
    with faulty.run_upstream() as server:
        yield server


@pytest.fixture(scope="module")
def proxy(checkpoint: Path, upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    model: dict[str, Any] = {"model": str(checkpoint / "clara"), "base": str(checkpoint / "base"), "backend": "cpu"}
    with running.run_proxy(upstream.url, tmp_path_factory.mktemp("data"), **model) as server:
        yield server


def check_extract(text: str, max_tokens: int) -> None:
    assert text.startswith(LABEL)
    assert FACT in text
    assert get_token_counter("clara").count(text) <= max_tokens


def check_row(proxy: Proxy, request_id: str) -> None:
    (row,) = [row for row in proxy.read_rows() if row.id == request_id]
    assert (row.engine, row.mode_used, row.outcome) == ("extract", "latent", "served")
    assert "not-in-memory" in row.skipped
    assert row.compressor_tokens > 0  # the model has read the prompt


@pytest.mark.parametrize("is_streamed", [False, True])
def test_chat_with_clara_gets_an_extract(proxy: Proxy, is_streamed: bool) -> None:
    messages: Any = CHAT
    with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key=CLIENT_KEY, max_retries=0) as client:
        create: Any = client.chat.completions.with_raw_response.create
        raw: Any = create(model="clara", messages=messages, max_tokens=90, stream=is_streamed)
        reply: Any = raw.parse()
        if is_streamed:
            choices = [chunk.choices[0] for chunk in reply if chunk.choices]
            text, finish = "".join(choice.delta.content or "" for choice in choices), choices[-1].finish_reason
        else:
            text, finish = reply.choices[0].message.content, reply.choices[0].finish_reason
            assert reply.usage.completion_tokens == get_token_counter("clara").count(text)
    check_extract(text, 90)
    assert finish == "stop"
    assert (raw.headers["x-clara-engine"], raw.headers["x-clara-skipped"]) == ("extract", "not-in-memory=1")
    check_row(proxy, raw.headers["x-clara-request-id"])


@pytest.mark.parametrize("is_streamed", [False, True])
def test_response_of_clara_gets_an_extract(proxy: Proxy, is_streamed: bool) -> None:
    with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key=CLIENT_KEY, max_retries=0) as client:
        options: Any = {"model": "clara", "input": CHAT[0]["content"], "max_output_tokens": 90, "stream": is_streamed}
        create: Any = client.responses.with_raw_response.create
        raw: Any = create(**options)
        reply: Any = raw.parse()
        if is_streamed:
            events = list(reply)
            deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
            reply = events[-1].response
            assert deltas == reply.output_text
    check_extract(reply.output_text, 90)
    assert reply.status == "completed"
    assert raw.headers["x-clara-skipped"] == "not-in-memory=1"
    check_row(proxy, raw.headers["x-clara-request-id"])


def test_compress_endpoint_gets_an_extract_of_the_wanted_size(proxy: Proxy) -> None:
    body = {"memories": FACTS, "query": QUESTION, "max_new_tokens": 70}
    reply = httpx.post(f"{proxy.url}/compress", json=body, timeout=SECONDS)
    check_extract(reply.json()["answer"], 70)
    assert reply.json()["not_in_memory"] is True
    assert reply.headers["x-clara-engine"] == "extract"
    tiny = httpx.post(f"{proxy.url}/compress", json=body | {"max_new_tokens": 5}, timeout=SECONDS).json()
    assert LABEL.startswith(tiny["answer"])
    assert get_token_counter("clara").count(tiny["answer"]) <= 5


def test_mode_answer_forwards_an_extract(proxy: Proxy, upstream: FaultyUpstream) -> None:
    extracted = proxy.post(tool_chat("\n\n".join(FACTS * 2)), x_clara_mode="extract")
    sent = upstream.requests[-1].body
    reply = proxy.post(tool_chat("\n\n".join(FACTS * 2)), x_clara_mode="answer")
    assert reply.headers["x-clara-engine"] == extracted.headers["x-clara-engine"] == "extract"
    assert reply.headers["x-clara-tokens-after"] == extracted.headers["x-clara-tokens-after"]
    assert upstream.requests[-1].body == sent
    assert "not-in-memory=1" in reply.headers["x-clara-skipped"]
    row = proxy.wait_for_row(reply)
    assert (row.mode_used, row.engine) == ("answer", "extract")
    assert "not-in-memory" in row.skipped


@pytest.fixture
async def remote(proxy: Proxy) -> AsyncIterator[RemoteClara]:
    clara = RemoteClara(LocalModelConfig("clara", None, None, "auto", None, None), proxy.url, None, 8)
    yield clara
    await clara.aclose()


async def test_remote_model_says_so(remote: RemoteClara) -> None:
    answer = await remote.run_job(ModelJob("ask", FACTS[:2], QUESTION, max_new_tokens=8), SECONDS)
    assert (answer.text, answer.not_in_memory) == ("", True)
    pieces = [piece async for piece in remote.stream(FACTS[:2], QUESTION, 8, SECONDS)]
    assert isinstance(pieces[-1], ClaraAnswer)
    assert ("".join(map(str, pieces[:-1])), pieces[-1].not_in_memory) == ("", True)


async def test_threshold_of_one_and_a_missing_head_change_nothing(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "bare")
    (tmp_path / "bare" / "clara" / "compression-4" / HEAD_FILE).unlink()
    answers = list[ClaraAnswer]()
    for folder, threshold in ((checkpoint, None), (checkpoint, 1.0), (tmp_path / "bare", None)):
        model = Settings(
            model=str(folder / "clara"), base=str(folder / "base"), backend="cpu", abstention_threshold=threshold
        )
        clara = local_model.create_clara(model, tmp_path)
        assert clara is not None
        answers.append(await clara.answer(FACTS[:2], QUESTION, 6, SECONDS))
        expected = 0.5 if threshold is None and folder == checkpoint else threshold
        assert clara.status()["abstention_threshold"] == expected
        await clara.aclose()
    assert [answer.not_in_memory for answer in answers] == [True, False, False]
    assert answers[1].text == answers[2].text != ""
