"""The contract of every CLaRa backend: the same results alone and together, cancellation, deadlines, unloading.

A tiny random checkpoint in this process, in torch and MLX, the same behind another proxy, and the same decoded by
vLLM: a double of it, or the real one with `CLARA_TEST_VLLM`, the path of its command (`benchmarks/vllm.py`). The
reference's golden checkpoints, if they are present, in the same places; the real vLLM has no kernels for their heads.
"""

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import ExitStack, aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

from clara_proxy.benchmarks.vllm_server import run_vllm
from clara_proxy.compression.clara.async_engine import ClaraBackend, LocalClara, LocalModelConfig
from clara_proxy.compression.clara.clara import Clara
from clara_proxy.compression.clara.exceptions import UnknownRateError
from clara_proxy.compression.clara.jobs import ClaraAnswer, ModelJob
from clara_proxy.compression.clara.model_source import ModelSource
from clara_proxy.compression.models.errors import DeadlineError, ModelError
from clara_proxy.compression.models.worker import WorkerLimits
from clara_proxy.proxy.commands import serve
from clara_proxy.proxy.http.exchange import Receive, Scope, Send
from clara_proxy.proxy.http.remote_clara import RemoteClara
from clara_proxy.proxy.http.vllm_clara import VllmClara
from clara_proxy.tests import running
from clara_proxy.tests.compression.clara.conftest import GOLDEN
from clara_proxy.tests.compression.clara.golden_cases import FILES, read_cases
from clara_proxy.tests.compression.clara.tiny import make_checkpoint
from clara_proxy.tests.proxy.clara.vllm_double import VllmDouble
from clara_proxy.tests.running import Proxy

UNREACHABLE_URL = "http://127.0.0.1:9/v1"
DOCUMENTS = ["the fox", "a bridge of stone over the river", "the lamp, 1931", "answering 🙂", "x y z " * 30]
SECONDS = 60.0
HEAD_SIZE = 32  # vLLM's kernels have no smaller one
CHECKPOINTS = sorted(str(folder.relative_to(GOLDEN / "checkpoints")) for folder in GOLDEN.glob("checkpoints/*/*")) or [
    "absent"
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"), HEAD_SIZE)


class Machines:
    """Other machines with a model, each started when it is first asked for."""

    def __init__(self, stack: ExitStack, make_folder: Callable[[str], Path]) -> None:
        self._stack, self._make_folder = stack, make_folder
        self._proxies: dict[str, Proxy] = {}
        self._vllm_urls: dict[str, str] = {}

    def find_proxy(self, config: LocalModelConfig) -> Proxy:
        """Return a proxy with the model of this configuration."""
        if config.model not in self._proxies:
            local: dict[str, Any] = {"model": config.model, "base": config.base, "backend": "cpu"}
            proxy = running.run_proxy(UNREACHABLE_URL, self._make_folder("data"), **local, api_key="secret")
            self._proxies[config.model] = self._stack.enter_context(proxy)
        return self._proxies[config.model]

    def find_vllm(self, config: LocalModelConfig) -> str:
        """Return the URL of a vLLM server, or of its double."""
        if config.model not in self._vllm_urls:
            command = None if Path(config.model).is_relative_to(GOLDEN) else os.environ.get("CLARA_TEST_VLLM")
            if command:
                source = ModelSource(Path(config.model), base=Path(config.base or ""))
                server = self._stack.enter_context(run_vllm(Path(command), source, self._make_folder("vllm")))
                self._vllm_urls[config.model] = server.url
            else:
                double = VllmDouble(Clara.from_pretrained(config.model, base=config.base, device="cpu"))
                self._vllm_urls[config.model] = self._stack.enter_context(serve.run_in_thread(double))
        return self._vllm_urls[config.model]


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    with ExitStack() as stack:
        yield Machines(stack, tmp_path_factory.mktemp)


@pytest.fixture(scope="module")
def machine(checkpoint: Path, machines: Machines) -> Proxy:
    """Another machine with the model."""
    return machines.find_proxy(make_config(checkpoint))


def make_config(checkpoint: Path) -> LocalModelConfig:
    return LocalModelConfig(str(checkpoint / "clara"), None, str(checkpoint / "base"), "cpu", None, None)


def open_local(config: LocalModelConfig, machines: Machines) -> ClaraBackend:
    return LocalClara(config, WorkerLimits())


def open_mlx(config: LocalModelConfig, machines: Machines) -> ClaraBackend:
    return LocalClara(replace(config, device="mlx"), WorkerLimits())


def open_remote(config: LocalModelConfig, machines: Machines) -> ClaraBackend:
    return RemoteClara(config, machines.find_proxy(config).url, "secret", 256)


def open_vllm(config: LocalModelConfig, machines: Machines) -> ClaraBackend:
    return VllmClara(config, WorkerLimits(), [machines.find_vllm(config)], None)


# Each backend, and its largest difference from the reference in an embedding of length 1. Tokens must be equal.
BACKENDS: dict[str, tuple[Callable[[LocalModelConfig, Machines], ClaraBackend], float]] = {
    "local": (open_local, 1e-5),
    "mlx": (open_mlx, 1e-5),
    "remote": (open_remote, 1e-5),
    "vllm": (open_vllm, 1e-5),
}


@pytest_asyncio.fixture(params=list(BACKENDS))
async def clara(request: pytest.FixtureRequest, checkpoint: Path, machines: Machines) -> AsyncGenerator[ClaraBackend]:
    backend = BACKENDS[request.param][0](make_config(checkpoint), machines)
    yield backend
    await backend.aclose()


def make_jobs() -> list[ModelJob]:
    jobs: list[ModelJob] = []
    for n in range(32):
        group = DOCUMENTS[n % 4 : n % 4 + 2]
        match n % 4:
            case 0:
                jobs.append(ModelJob("generate", group, f"what about {n}?", max_new_tokens=4 + n % 5))
            case 1:
                jobs.append(ModelJob("answer", group, f"what about {n}?", k=1, max_new_tokens=6))
            case 2:
                jobs.append(ModelJob("paraphrase", group, template=n % 13, max_new_tokens=5))
            case _:
                jobs.append(ModelJob("ask", group, f"what about {n}?", max_new_tokens=6))
    return jobs


@pytest.fixture(scope="module")
def expected(checkpoint: Path) -> list[ClaraAnswer]:
    """The answers of the jobs, one at a time, in this process."""

    async def answer_jobs() -> list[ClaraAnswer]:
        backend = LocalClara(make_config(checkpoint), WorkerLimits())
        answers = [await backend.run_job(job, SECONDS) for job in make_jobs()]
        await backend.aclose()
        return answers

    return asyncio.run(answer_jobs())


async def test_jobs_at_once_equal_one_at_a_time(clara: ClaraBackend, expected: list[ClaraAnswer]) -> None:
    answers = await asyncio.gather(*(clara.run_job(job, SECONDS) for job in make_jobs()))
    for answer, single in zip(answers, expected, strict=True):
        assert answer._replace(usage=single.usage) == single
    assert any(answer.usage.tokens for answer in answers)


@pytest.mark.parametrize("backend", list(BACKENDS))
@pytest.mark.parametrize("checkpoint_name", CHECKPOINTS)
async def test_goldens_are_reproduced(checkpoint_name: str, backend: str, machines: Machines) -> None:
    """All questions of a checkpoint's goldens are asked at once; texts and tokens equal the reference's."""
    if not GOLDEN.is_dir():
        pytest.skip("no golden folder ../shared/clara-format")
    cases = [case for path in FILES for case in read_cases(path) if case.record["checkpoint"] == checkpoint_name]
    asked = [case for case in cases if case.is_lossless()]
    embedded = [pair for case in cases for pair in case.list_embeddings() if pair[0]]  # the API refuses an empty text
    folder, base = GOLDEN / "checkpoints" / checkpoint_name, GOLDEN / "base" / "tiny-mistral"
    open_backend, tolerance = BACKENDS[backend]
    clara = open_backend(LocalModelConfig(str(folder), None, str(base), "cpu", None, None), machines)
    try:
        answers = await asyncio.gather(*(clara.run_job(job, SECONDS) for case in asked for job in case.make_jobs()))
        embeddings = await clara.embed([text for text, _ in embedded], SECONDS)
    finally:
        await clara.aclose()
    assert [answer.text for answer in answers] == [text for case in asked for text in case.record.get("outputs", [])]
    tokens = [row for case in asked if "new_token_ids" in case.arrays for row in case.tokens]
    assert [list(answer.tokens) for answer in answers] == tokens
    assert np.abs(np.array(embeddings) - np.array([vector for _, vector in embedded])).max() < tolerance


async def test_stream_and_embeddings_agree(clara: ClaraBackend) -> None:
    # A server under load may send several tokens in one piece.
    answer = await clara.answer(DOCUMENTS[:2], "the fox?", 24, SECONDS)
    pieces = [piece async for piece in clara.stream(DOCUMENTS[:2], "the fox?", 24, SECONDS)]
    texts = [piece for piece in pieces[:-1] if isinstance(piece, str)]
    assert "".join(texts) == answer.text
    assert len(texts) > 2
    assert isinstance(pieces[-1], ClaraAnswer)
    assert (pieces[-1].tokens, pieces[-1].document_tokens) == (answer.tokens, answer.document_tokens)
    vectors = await clara.embed(["the fox", "the river", "the fox"], SECONDS)
    assert vectors[0] == pytest.approx(vectors[2])
    assert sum(value * value for value in vectors[1]) == pytest.approx(1.0)


async def test_stream_that_is_left_ends(clara: ClaraBackend) -> None:
    stream = clara.stream(DOCUMENTS, "long?", 3000, SECONDS)
    async with aclosing(stream):
        assert isinstance(await anext(stream), str)
    assert (await clara.answer(DOCUMENTS[:1], "short?", 3, SECONDS)).tokens


async def test_stream_fails_with_the_problem(clara: ClaraBackend) -> None:
    with pytest.raises(DeadlineError):
        [piece async for piece in clara.stream(DOCUMENTS, "long?", 4000, 0.2)]
    with pytest.raises(ModelError, match="no room for a memory"):
        [piece async for piece in clara.stream(DOCUMENTS[:1], "why? " * 1000, 4, SECONDS)]


async def test_cancelled_job_ends_and_others_go_on(clara: ClaraBackend) -> None:
    long = clara.worker.submit(ModelJob("generate", DOCUMENTS, "long?", max_new_tokens=3000))
    short = clara.run_job(ModelJob("generate", DOCUMENTS[:1], "short?", max_new_tokens=3), SECONDS)
    task = asyncio.ensure_future(short)
    await asyncio.sleep(0.05)
    long.cancel()
    assert (await task).tokens
    assert long.cancelled()


async def test_deadline_is_kept(clara: ClaraBackend) -> None:
    with pytest.raises(DeadlineError):
        await clara.run_job(ModelJob("generate", DOCUMENTS, "long?", max_new_tokens=4000), 0.2)
    assert (await clara.run_job(ModelJob("generate", DOCUMENTS[:1], "short?", max_new_tokens=3), SECONDS)).tokens


async def test_errors_name_the_problem(clara: ClaraBackend) -> None:
    with pytest.raises(ModelError, match="k = 9"):
        await clara.run_job(ModelJob("answer", DOCUMENTS[:2], "why?", k=9), SECONDS)
    with pytest.raises(UnknownRateError, match="128"):
        await clara.select_rate(128).run_job(ModelJob("generate", DOCUMENTS[:1], "why?"), SECONDS)


async def test_unloaded_model_is_loaded_again(clara: ClaraBackend) -> None:
    first = await clara.run_job(make_jobs()[0], SECONDS)
    clara.unload()
    for _ in range(400):
        if not clara.worker.status().loaded:
            break
        await asyncio.sleep(0.05)
    assert (await clara.run_job(make_jobs()[0], SECONDS)).tokens == first.tokens


class FailingMachine:
    """A machine that fails a number of times and then answers."""

    def __init__(self, failures: int) -> None:
        self.failures, self.requests, self._lock = failures, 0, threading.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        await receive()
        is_job = scope["path"] == "/clara/jobs"
        with self._lock:
            self.requests += is_job
            fails = is_job and self.requests <= self.failures
        result = ClaraAnswer("yes", "stop", 1, 1, 1, 1, 1, 0, 0, usage=(5, 0.5), tokens=(1,))._asdict()  # type: ignore[arg-type]
        body: Any = {"error": {"code": "overloaded", "message": "later"}} if fails else {"results": [result]}
        content = httpx.Response(200, json=body).content
        status = 503 if fails else 200
        await send(
            {"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]}
        )
        await send({"type": "http.response.body", "body": content})


async def test_request_to_an_overloaded_machine_is_repeated(checkpoint: Path) -> None:
    machine = FailingMachine(2)
    with serve.run_in_thread(machine) as url:
        clara = RemoteClara(make_config(checkpoint), url, None, 256)
        answer = await clara.run_job(ModelJob("ask", ["a"], "b?"), SECONDS)
        await clara.aclose()
    assert (answer.text, answer.usage.tokens, machine.requests) == ("yes", 5, 3)


async def test_jobs_that_arrive_together_travel_together(checkpoint: Path, machine: Proxy) -> None:
    clara = RemoteClara(make_config(checkpoint), machine.url, "secret", 256)
    before = len(await asyncio.to_thread(machine.read_rows))
    await asyncio.gather(*(clara.run_job(job, SECONDS) for job in make_jobs()[:8]))
    await clara.aclose()
    assert len(await asyncio.to_thread(machine.read_rows)) == before + 1


@pytest.mark.parametrize(("key", "words"), [("wrong", "CLARA_BACKEND_KEY"), (None, "CLARA_BACKEND_KEY")])
async def test_refused_key_is_named(checkpoint: Path, machine: Proxy, key: str | None, words: str) -> None:
    clara = RemoteClara(make_config(checkpoint), machine.url, key, 256)
    with pytest.raises(ModelError, match=words):
        await clara.run_job(ModelJob("ask", ["a"], "b?"), SECONDS)
    await clara.aclose()


async def test_machine_that_cannot_be_reached_is_named_at_the_deadline(checkpoint: Path) -> None:
    clara = RemoteClara(make_config(checkpoint), "http://127.0.0.1:9", None, 256)
    with pytest.raises(DeadlineError):
        await clara.run_job(ModelJob("ask", ["a"], "b?"), 0.3)
    await clara.aclose()


def test_light_proxy_answers_with_the_model_of_the_other(
    machine: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running.run_proxy(UNREACHABLE_URL, tmp_path, model=None, backend=machine.url, backend_key="secret") as light:
        body = {"memories": DOCUMENTS[:2], "query": "the fox?", "max_new_tokens": 8}
        mine = httpx.post(f"{light.url}/compress", json=body, timeout=60).json()
        theirs = httpx.post(
            f"{machine.url}/compress", json=body, headers={"authorization": "Bearer secret"}, timeout=60
        ).json()
        wanted: Callable[[dict[str, Any]], Any] = lambda reply: {**reply, "latency_ms": 0}  # noqa: E731
        assert wanted(mine) == wanted(theirs)
        chat = light.post({"model": "clara", "messages": [{"role": "user", "content": "the fox?"}], "max_tokens": 4})
        assert chat.status_code == 200
        assert httpx.get(f"{light.url}/status").json()["backend"] == machine.url
