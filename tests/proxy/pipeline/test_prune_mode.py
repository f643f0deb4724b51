"""Mode `prune` on the path of a request: engine, reasons, the way back, and failures."""

from collections.abc import Generator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import orjson
import pytest

from clara_proxy.compression import registry
from clara_proxy.compression.models.errors import DeadlineError
from clara_proxy.compression.pruners.compressor import PruneCompressor, PruneOptions
from clara_proxy.compression.pruners.jobs import PruneJob
from clara_proxy.config.settings import Settings
from clara_proxy.proxy.runtime import local_model
from clara_proxy.proxy.stores import accounting
from clara_proxy.tests.proxy.inprocess import InProcessProxy, create_fake_pruner
from clara_proxy.tests.proxy.invariants.cases import add_tools
from clara_proxy.tests.proxy.invariants.compressors import long_chat

PRUNE = {"x-clara-mode": "prune"}
PROSE = " ".join(
    f"The mill of town {n} was mended by patient people, and the engine of pump {n} did not fail." for n in range(60)
)
CODE = "import os\n\n\n" + "\n\n".join(
    f"def step_{n}(self, value):\n    if value is None:\n        return {n}\n    return self.compute(value)"
    for n in range(40)
)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Generator[InProcessProxy]:
    with InProcessProxy(tmp_path_factory.mktemp("words"), pruner=create_fake_pruner(), offer_tool=True) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Generator[InProcessProxy]:
    pruner = create_fake_pruner("swe-pruner")
    with InProcessProxy(tmp_path_factory.mktemp("lines"), pruner=pruner, offer_tool=True) as proxy:
        yield proxy


def chat(text: str) -> bytes:
    return orjson.dumps(add_tools(long_chat(text)))


def test_prose_is_pruned_and_can_be_fetched_back(words: InProcessProxy) -> None:
    sent = words.send(chat(PROSE), PRUNE)
    text = sent.messages[-1]["content"]
    assert (sent.context.engine, sent.row.engine, sent.row.mode_used) == ("pruner", "pruner", "prune")
    assert (b"x-clara-engine", b"pruner") in sent.context.build_response_headers()
    assert 0 < sent.row.tokens_sent < sent.row.tokens_received
    assert accounting.find_inconsistencies(sent.row) == []
    name = text.rsplit("clara_expand ", 1)[1].rstrip("]")
    assert "words left out; clara_expand" in text
    assert words.fetch_original(name) == PROSE
    assert sent.context.model_cost.tokens == 100


def test_structure_is_extracted_with_its_reason(words: InProcessProxy) -> None:
    sent = words.send(chat(""), PRUNE)  # a log
    assert sent.context.engine == "extract"
    assert sent.context.skip_counts["not-prunable"] == 1
    assert orjson.loads(sent.row.skipped)["not-prunable"] == 1
    extracted = words.send(chat(""), {"x-clara-mode": "extract"})
    assert sent.messages == extracted.messages
    assert sent.context.model_cost.tokens == 0


def test_reasons_stay_as_a_conversation_grows(words: InProcessProxy) -> None:
    body = add_tools(long_chat(""))
    first = words.send(orjson.dumps(body), PRUNE)
    body["messages"] += [{"role": "assistant", "content": "Request 9."}, {"role": "user", "content": "Thanks."}]
    second = words.send(orjson.dumps(body), PRUNE)
    assert second.messages[: len(first.messages)] == first.messages
    assert second.context.skip_counts["not-prunable"] == 1


def test_ratio_sets_the_size(words: InProcessProxy) -> None:
    sizes = [words.send(chat(PROSE), {**PRUNE, "x-clara-ratio": ratio}).row.tokens_sent for ratio in ("2", "4", "8")]
    whole = words.send(chat(PROSE), PRUNE).row.tokens_received
    overhead = whole - words.send(chat(PROSE), {**PRUNE, "x-clara-ratio": "1000"}).row.tokens_sent
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] < whole * 0.6
    assert sizes[2] < whole * 0.25
    assert overhead > 0


def test_pruner_of_lines_prunes_code_that_extraction_keeps_whole(words: InProcessProxy, lines: InProcessProxy) -> None:
    kept = words.send(chat(CODE), PRUNE)
    assert kept.context.skip_counts["all-signal"] == 1
    sent = lines.send(chat(CODE), PRUNE)
    text = sent.messages[-1]["content"]
    assert sent.context.engine == "pruner"
    assert "lines left out" in text
    shown = [line for line in text.split("\n") if line and not line.startswith("[")]
    assert set(shown) <= set(CODE.split("\n"))
    prose = lines.send(chat(PROSE), PRUNE)
    assert (prose.context.engine, prose.context.skip_counts["not-prunable"]) == ("extract", 1)


class LatePruner:
    """A worker that misses every deadline."""

    def submit(self, job: PruneJob, *, deadline: float | None = None, cost: object = None) -> "Future[Any]":
        future: Future[Any] = Future()
        future.set_exception(DeadlineError("too late"))
        return future


def test_failed_pruner_is_replaced_by_extraction_except_for_code(tmp_path: Path) -> None:
    pruner = PruneCompressor(LatePruner(), registry.find_compressor, PruneOptions("swe-pruner"))
    with InProcessProxy(tmp_path / "a", pruner=pruner) as proxy:
        code = proxy.send(chat(CODE), PRUNE)
        assert code.messages[-1]["content"] == CODE
        assert (code.context.engine, code.context.skip_counts["failed"]) == ("none", 1)
    pruner = PruneCompressor(LatePruner(), registry.find_compressor, PruneOptions("llmlingua2"))
    with InProcessProxy(tmp_path / "b", pruner=pruner) as proxy:
        prose = proxy.send(chat(PROSE), PRUNE)
        assert (prose.context.engine, prose.context.skip_counts["failed"]) == ("extract", 1)
        assert prose.messages == proxy.send(chat(PROSE), {"x-clara-mode": "extract"}).messages


def test_mode_without_a_pruner_is_rejected(tmp_path: Path) -> None:
    with InProcessProxy(tmp_path) as proxy:
        error, _ = proxy.send_rejected(chat(PROSE), PRUNE)
    assert (error.status, error.code) == (400, "mode_unavailable")
    assert "CLARA_PRUNER" in error.message


def test_auto_prunes_only_if_it_is_asked_to() -> None:
    assert local_model.resolve_auto_mode(Settings(pruner="somebody/pruner")) == "extract"
    assert local_model.resolve_auto_mode(Settings(pruner="somebody/pruner", auto="prune")) == "prune"
