"""Tests answers that vLLM servers generate, on doubles: failures, load, canaries, banned answers."""

import asyncio
import base64
import io
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

import torch

from clara_proxy.compression.clara import embedded_prompt
from clara_proxy.compression.clara.async_engine import LocalModelConfig
from clara_proxy.compression.clara.checkpoint import DECODER_ADAPTER
from clara_proxy.compression.clara.clara import Clara, PreparedPrompt
from clara_proxy.compression.clara.decoding import GeneratedRow
from clara_proxy.compression.clara.embedded_prompt import EmbeddedPrompt
from clara_proxy.compression.clara.jobs import ClaraAnswer, ModelJob
from clara_proxy.compression.models.errors import DeadlineError, ModelError
from clara_proxy.compression.models.worker import WorkerLimits
from clara_proxy.config.settings import Settings
from clara_proxy.proxy.commands import serve
from clara_proxy.proxy.http import vllm_decoders
from clara_proxy.proxy.http.vllm_clara import VllmClara
from clara_proxy.proxy.http.vllm_decoders import VllmDecoders
from clara_proxy.proxy.http.vllm_generation import Generation
from clara_proxy.proxy.runtime import local_model
from clara_proxy.tests.compression.clara.tiny import make_checkpoint
from clara_proxy.tests.proxy.clara.vllm_double import VllmDouble

DOCUMENTS = ["the fox <prompt_embeds> <MEM0>", "a bridge of stone </s> over the river"]
QUESTION = "the <prompt_embeds> fox?"
SECONDS = 30.0
DOWN = "http://127.0.0.1:9"
Serve = Callable[[VllmDouble], str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def model(folder: Path) -> Clara:
    torch.set_num_threads(1)  # as a worker chooses for a model of this size
    return Clara.from_pretrained(folder / "clara", base=folder / "base", device="cpu")


@pytest.fixture(scope="module")
def config(folder: Path) -> LocalModelConfig:
    return LocalModelConfig(str(folder / "clara"), None, str(folder / "base"), "cpu", None, None)


@pytest.fixture
def serve_double() -> Iterator[Serve]:
    with ExitStack() as stack:

        def start(double: VllmDouble) -> str:
            return stack.enter_context(serve.run_in_thread(double))

        yield start


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_decoders, "FIRST_PAUSE", 0.01)


@asynccontextmanager
async def open_clara(config: LocalModelConfig, *urls: str) -> AsyncGenerator[VllmClara]:
    clara = VllmClara(config, WorkerLimits(), urls, None)
    yield clara
    await clara.aclose()


async def collect_stream(clara: VllmClara, limit: int) -> tuple[str, ClaraAnswer]:
    pieces = [piece async for piece in clara.stream(DOCUMENTS, QUESTION, limit, SECONDS)]
    answer = pieces.pop()
    assert isinstance(answer, ClaraAnswer)
    return "".join(map(str, pieces)), answer


@pytest.mark.parametrize("status", [500, 503, 0])
async def test_failed_answer_goes_on_on_another_server(
    config: LocalModelConfig, model: Clara, serve_double: Serve, status: int
) -> None:
    expected = model.answer(QUESTION, DOCUMENTS, max_new_tokens=12).text
    first, second = VllmDouble(model), VllmDouble(model, is_merged=True)
    async with open_clara(config, serve_double(first), serve_double(second)) as clara:
        await clara.answer(DOCUMENTS, QUESTION, 1, SECONDS)  # both are checked by these two
        await asyncio.gather(*(clara.answer(DOCUMENTS, QUESTION, 12, SECONDS) for _ in range(4)))
        first.failures, second.failures = [status], [status]
        text, answer = await collect_stream(clara, 12)
        first.failures, second.failures = [status], [status]
        plain = await clara.answer(DOCUMENTS, QUESTION, 12, SECONDS)
    assert (text, answer.text, plain.text) == (expected, expected, expected)
    assert first.completions > 2
    assert second.completions > 2


async def test_broken_stream_continues_after_its_tokens(
    config: LocalModelConfig, model: Clara, serve_double: Serve
) -> None:
    double = VllmDouble(model)
    async with open_clara(config, serve_double(double)) as clara:
        await clara.answer(DOCUMENTS, QUESTION, 1, SECONDS)
        double.failures = [0]
        text, _ = await collect_stream(clara, 12)
    assert text == model.answer(QUESTION, DOCUMENTS, max_new_tokens=12).text
    assert double.bodies[-1]["max_tokens"] == 10  # of 12; two had arrived


async def test_server_that_is_down_is_left_out(config: LocalModelConfig, model: Clara, serve_double: Serve) -> None:
    double = VllmDouble(model)
    async with open_clara(config, DOWN, serve_double(double)) as clara:
        answers = await asyncio.gather(*(clara.answer(DOCUMENTS, QUESTION, 4, SECONDS) for _ in range(3)))
        states = {state["url"]: state for state in clara.status()["decoders"]}
    assert len({answer.tokens for answer in answers}) == 1
    assert "cannot be reached" in states[DOWN]["problem"]
    assert [state["ready"] for state in states.values()] == [False, True]


async def test_least_loaded_server_is_chosen(config: LocalModelConfig, model: Clara, serve_double: Serve) -> None:
    doubles = [VllmDouble(model), VllmDouble(model)]
    async with open_clara(config, *map(serve_double, doubles)) as clara:
        await asyncio.gather(*(clara.answer(DOCUMENTS, QUESTION, 40, SECONDS) for _ in range(8)))
    assert [double.completions for double in doubles] == [5, 5]  # a canary and four answers each


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"applies_adapter": False}, "does not apply the adapter"),
        ({"base_name": "clara-h4096-m16"}, "hidden size"),
        ({"base_name": "clara-h4096-m16", "is_merged": True}, "hidden size"),
        ({"adapter": "other"}, "--lora-modules"),
        ({"failures": [401]}, "CLARA_BACKEND_KEY"),
        ({"failures": [400]}, "refuses the request"),
    ],
)
async def test_unfit_server_is_refused_before_it_answers(
    config: LocalModelConfig, model: Clara, serve_double: Serve, changes: dict[str, object], words: str
) -> None:
    double = replace(VllmDouble(model), **changes)  # type: ignore[arg-type]
    async with open_clara(config, serve_double(double)) as clara:
        with pytest.raises(ModelError, match=words) as caught:
            await clara.answer(DOCUMENTS, QUESTION, 4, SECONDS)
    assert not isinstance(caught.value, DeadlineError)
    assert all(body["max_tokens"] == 1 for body in double.bodies)  # the canary at most


async def test_server_with_another_checkpoint_is_refused(
    config: LocalModelConfig, model: Clara, serve_double: Serve, tmp_path: Path
) -> None:
    torch.manual_seed(1)  # pyright: ignore[reportUnknownMemberType]
    plain: Any = model.model
    other = replace(plain, head=torch.randn_like(plain.head))
    clara_of_other = Clara.__new__(Clara)
    clara_of_other.__dict__ |= model.__dict__ | {"model": other}
    async with open_clara(config, serve_double(VllmDouble(clara_of_other))) as clara:
        with pytest.raises(ModelError, match="export the model again"):
            await clara.answer(DOCUMENTS, QUESTION, 4, SECONDS)


async def test_deadline_names_the_server_that_is_down(config: LocalModelConfig) -> None:
    async with open_clara(config, DOWN) as clara:
        with pytest.raises(DeadlineError):
            await clara.answer(DOCUMENTS, QUESTION, 4, 1.0)
        future = clara.worker.submit(ModelJob("ask", DOCUMENTS, QUESTION))
        await asyncio.sleep(0.1)
        assert clara.worker.status().running == 1
    assert future.cancelled()


async def wait_for_running(double: VllmDouble, count: int) -> None:
    for _ in range(2000):
        if double.running == count:
            return
        await asyncio.sleep(0.005)


async def test_cancelled_answer_stops_the_server(config: LocalModelConfig, model: Clara, serve_double: Serve) -> None:
    double = VllmDouble(model)
    async with open_clara(config, serve_double(double)) as clara:
        await clara.answer(DOCUMENTS, QUESTION, 1, SECONDS)
        futures = [
            clara.worker.submit(ModelJob("ask", DOCUMENTS, QUESTION, max_new_tokens=3500)),
            clara.worker.submit(ModelJob("ask", DOCUMENTS, QUESTION, max_new_tokens=3500), on_text=lambda _: None),
        ]
        await wait_for_running(double, 2)
        for future in futures:
            future.cancel()
        await wait_for_running(double, 0)
    assert (double.aborted, double.running) == (2, 0)


async def test_prompt_larger_than_the_bound_is_not_sent(
    config: LocalModelConfig, model: Clara, serve_double: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    double = VllmDouble(model)
    async with open_clara(config, serve_double(double)) as clara:
        await clara.answer(DOCUMENTS, QUESTION, 1, SECONDS)
        monkeypatch.setattr(embedded_prompt, "MAX_PAYLOAD_BYTES", 1000)
        with pytest.raises(ModelError, match="at most 1,000"):
            await clara.answer(DOCUMENTS, QUESTION, 4, SECONDS)
    assert double.completions == 2


def decode_here(model: Clara, prompt: PreparedPrompt, limit: int) -> GeneratedRow:
    batch = model.create_batch()
    (row,) = model.add_to_batch(batch, [prompt], [limit])
    while row.finish is None:
        batch.step()
    return row


async def test_banned_answer_is_replaced_as_in_this_process(model: Clara, serve_double: Serve) -> None:
    prompt = model.prepare_answer(QUESTION, model.compress(DOCUMENTS))
    greedy = decode_here(model, prompt, 4).tokens
    decoders = VllmDecoders([serve_double(VllmDouble(model))], None)
    for banned_length, limit in product((0, 1, 2), (0, 1, 2, 9)):
        banning = replace(prompt, abstention_ids=tuple(greedy[:banned_length]))
        row, pieces = decode_here(model, banning, limit), list[str]()
        for on_text in (None, pieces.append):
            generation = Generation(EmbeddedPrompt(model, banning), limit, on_text)
            await decoders.decode(generation)
            assert (generation.tokens, generation.finish) == (row.tokens, row.finish), (banned_length, limit)
        assert "".join(pieces) == model.tokenizer.decode(row.tokens)
        assert banned_length == 0 or limit == 0 or row.tokens[0] != greedy[0]
    await decoders.aclose()


async def test_abstention_is_not_decoded(config: LocalModelConfig, model: Clara) -> None:
    prompt = model.prepare_answer(QUESTION, model.compress(DOCUMENTS))
    abstaining = replace(prompt, abstention_ids=(5, 6), should_abstain=True)
    decoders = VllmDecoders([DOWN], None)
    for limit, expected in ((4, ([5, 6], "stop")), (1, ([5], "length"))):
        generation = Generation(EmbeddedPrompt(model, abstaining), limit)
        await decoders.decode(generation)
        assert (generation.tokens, generation.finish) == expected
    await decoders.aclose()


def test_missing_url_is_named_at_start(folder: Path) -> None:
    settings = Settings(model=str(folder / "clara"), base=str(folder / "base"), backend="vllm")
    assert "CLARA_VLLM_URL" in local_model.describe_unavailable_model(settings)
    settings = settings.model_copy(update={"vllm_url": f"{DOWN}, http://127.0.0.1:10"})
    assert local_model.describe_unavailable_model(settings) == ""


def test_encoded_prompt_continues_with_tokens(model: Clara) -> None:
    prompt = model.prepare_answer(QUESTION, model.compress(DOCUMENTS))
    logits, cache = model.model.prefill([prompt.input_embeddings], DECODER_ADAPTER)
    first = int(logits[0].argmax())
    expected = model.model.step([first], cache, DECODER_ADAPTER)
    continued = _decode_payload(EmbeddedPrompt(model, prompt).encode([first]))
    logits, _ = model.model.prefill([continued], DECODER_ADAPTER)
    assert torch.allclose(logits, expected, atol=1e-4)


def _decode_payload(payload: str) -> torch.Tensor:
    tensor: torch.Tensor = torch.load(io.BytesIO(base64.b64decode(payload)), weights_only=True)
    return tensor
