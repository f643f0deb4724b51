"""CLaRa that is late: the passage is extracted, the headers say so, and CLaRa's text is there when asked again."""

from concurrent.futures import Future
from pathlib import Path
from typing import Any

import orjson
import pytest

from clara_proxy.compression.clara.jobs import ModelJob
from clara_proxy.compression.models.cost import ModelCost
from clara_proxy.config.settings import Settings
from clara_proxy.tests.conversations import Json
from clara_proxy.tests.proxy.inprocess import FakeReply, InProcessProxy, SentRequest

PROSE = " ".join(
    f"In {1900 + year} the {kind} of the old town was mended by {1000 + 7 * year} people with patience and stone."
    for year, kind in enumerate(["bridge", "mill", "lamp", "gate", "tower", "well", "wall", "quay"] * 6)
)
ANSWER = "The mill of the old town was mended."
LATE = {"x-clara-mode": "answer"}  # the limit is that of `open_proxy`
IN_TIME = {"x-clara-mode": "answer", "x-clara-deadline-ms": "30000"}


class SlowWorker:
    """A worker that replies when the test calls `finish`."""

    def __init__(self) -> None:
        self.futures: list[Future[Any]] = []
        self.is_ready = False

    def submit(self, job: ModelJob, *, deadline: float | None = None, cost: ModelCost | None = None) -> Future[Any]:
        future: Future[Any] = Future()
        self.futures.append(future)
        if self.is_ready:
            future.set_result(FakeReply(ANSWER))
        return future

    def finish(self) -> None:
        self.is_ready = True
        for future in self.futures:
            future.set_result(FakeReply(ANSWER))


def messages() -> list[Json]:
    return [{"role": "user", "content": f"When was the mill mended?\n\n<document>\n{PROSE}\n</document>"}]


def open_proxy(folder: Path, worker: SlowWorker) -> InProcessProxy:
    proxy = InProcessProxy(folder, clara_worker=worker)
    proxy.settings = Settings(data_dir=folder, deadline_ms=60_000, clara_deadline_ms=150)
    return proxy


def send(proxy: InProcessProxy, chat: list[Json], headers: dict[str, str]) -> SentRequest:
    return proxy.send(orjson.dumps({"model": "gpt-4o", "messages": chat}), headers)


def read_headers(sent: SentRequest) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in sent.context.build_response_headers()}


def assert_extracted_late(sent: SentRequest) -> None:
    assert "condensed by a model" not in sent.messages[0]["content"]
    assert (sent.row.engine, sent.row.skipped) == ("extract", '{"late":1}')
    assert sent.row.saved_tokens > 0
    headers = read_headers(sent)
    assert (headers["x-clara-engine"], headers["x-clara-skipped"]) == ("extract", "late=1")


@pytest.mark.parametrize("finishes_early", [True, False])
def test_late_clara_is_said_and_its_text_is_used_when_asked_again(tmp_path: Path, finishes_early: bool) -> None:
    worker = SlowWorker()
    with open_proxy(tmp_path, worker) as proxy:
        assert_extracted_late(send(proxy, messages(), LATE))
        if finishes_early:
            worker.finish()
        else:
            assert_extracted_late(send(proxy, messages(), LATE))
            worker.finish()
        again = send(proxy, messages(), IN_TIME)
    assert f'condensed by a model, quoted: "{ANSWER}"' in again.messages[0]["content"]
    assert (again.row.engine, again.row.skipped) == ("clara", "{}")
    assert len(worker.futures) == 1  # what was late is not computed again


def test_conversation_that_grows_keeps_the_late_form(tmp_path: Path) -> None:
    worker = SlowWorker()
    with open_proxy(tmp_path, worker) as proxy:
        first = send(proxy, messages(), LATE)
        worker.finish()
        more: list[Json] = [{"role": "assistant", "content": "In 1901."}, {"role": "user", "content": "Sure?"}]
        second = send(proxy, [*messages(), *more], IN_TIME)
    assert second.message_bytes.startswith(first.message_bytes)


def test_failed_background_is_tried_again(tmp_path: Path) -> None:
    worker = SlowWorker()
    with open_proxy(tmp_path, worker) as proxy:
        assert_extracted_late(send(proxy, messages(), LATE))
        worker.futures.pop().set_exception(RuntimeError("no memory"))
        worker.is_ready = True
        again = send(proxy, messages(), IN_TIME)
        if again.row.engine == "extract":  # the failure arrived with this request
            again = send(proxy, messages(), IN_TIME)
    assert again.row.engine == "clara"
