"""The contract of every CLaRa backend: the same results alone and together, cancellation, deadlines, unloading.

A tiny random checkpoint in this process, and the same behind another proxy.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

from clara_proxy.compression.clara.async_engine import ClaraAnswer, ClaraBackend, LocalClara, LocalModelConfig
from clara_proxy.compression.clara.exceptions import ClaraError, DeadlineError, UnknownRateError
from clara_proxy.compression.clara.jobs import ModelJob
from clara_proxy.compression.worker import WorkerLimits
from clara_proxy.proxy.commands import serve
from clara_proxy.proxy.http.exchange import Receive, Scope, Send
from clara_proxy.proxy.http.remote_clara import RemoteClara
from clara_proxy.tests import running
from clara_proxy.tests.compression.clara.tiny import make_checkpoint
from clara_proxy.tests.running import Proxy

UNREACHABLE_URL = "http://127.0.0.1:9/v1"
DOCUMENTS = ["the fox", "a bridge of stone over the river", "the lamp, 1931", "answering 🙂", "x y z " * 30]
SECONDS = 60.0


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def machine(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """Another machine with the model."""
    local: dict[str, Any] = {"model": str(checkpoint / "clara"), "base": str(checkpoint / "base"), "backend": "cpu"}
    with running.run_proxy(UNREACHABLE_URL, tmp_path_factory.mktemp("data"), **local, api_key="secret") as proxy:
        yield proxy


def make_config(checkpoint: Path) -> LocalModelConfig:
    return LocalModelConfig(str(checkpoint / "clara"), None, str(checkpoint / "base"), "cpu", None, None)


def open_local(checkpoint: Path, machine: Proxy) -> ClaraBackend:
    return LocalClara(make_config(checkpoint), WorkerLimits())


def open_remote(checkpoint: Path, machine: Proxy) -> ClaraBackend:
    return RemoteClara(make_config(checkpoint), machine.url, "secret", 256)


@pytest_asyncio.fixture(params=[open_local, open_remote], ids=["local", "remote"])
async def clara(request: pytest.FixtureRequest, checkpoint: Path, machine: Proxy) -> AsyncGenerator[ClaraBackend]:
    backend: ClaraBackend = request.param(checkpoint, machine)
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


@pytest_asyncio.fixture
async def expected(checkpoint: Path) -> list[ClaraAnswer]:
    """The answers of the jobs, one at a time, in this process."""
    backend = LocalClara(make_config(checkpoint), WorkerLimits())
    answers = [await backend.run_job(job, SECONDS) for job in make_jobs()]
    await backend.aclose()
    return answers


async def test_jobs_at_once_equal_one_at_a_time(clara: ClaraBackend, expected: list[ClaraAnswer]) -> None:
    answers = await asyncio.gather(*(clara.run_job(job, SECONDS) for job in make_jobs()))
    for answer, single in zip(answers, expected, strict=True):
        assert answer._replace(usage=single.usage) == single
    assert any(answer.usage.tokens for answer in answers)


async def test_stream_and_embeddings_agree(clara: ClaraBackend) -> None:
    answer = await clara.answer(DOCUMENTS[:2], "the fox?", 8, SECONDS)
    pieces = [piece async for piece in clara.stream(DOCUMENTS[:2], "the fox?", 8, SECONDS)]
    assert "".join(piece for piece in pieces[:-1] if isinstance(piece, str)) == answer.text
    assert isinstance(pieces[-1], ClaraAnswer)
    assert (pieces[-1].tokens, pieces[-1].document_tokens) == (answer.tokens, answer.document_tokens)
    vectors = await clara.embed(["the fox", "the river", "the fox"], SECONDS)
    assert vectors[0] == pytest.approx(vectors[2])
    assert sum(value * value for value in vectors[1]) == pytest.approx(1.0)


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
    with pytest.raises(ClaraError, match="k = 9"):
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
    with pytest.raises(ClaraError, match=words):
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
