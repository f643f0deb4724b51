"""`clara-proxy eval` against a reader that answers correctly if the answer is in its text."""

import json
import threading
from collections.abc import Generator, Iterator
from contextlib import AsyncExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from clara_proxy.compression.compressor import CompressedPassage, Gap, Task
from clara_proxy.compression.engine import Engine
from clara_proxy.config.settings import Settings
from clara_proxy.proxy.commands import cli
from clara_proxy.proxy.evaluation import methods as evaluation_methods
from clara_proxy.proxy.runtime import services

COUNT = 6
TOWNS = ("Arlen", "Brock", "Corbin", "Dunmore", "Elgin", "Farley")
FILLER = "The council met in the old hall and talked about roads, taxes, the bridge and the weather of the season. "


def make_line(number: int) -> dict[str, Any]:
    fact = f"The mill of {TOWNS[number]} was built by Master {number}73 in winter. "
    return {
        "question": f"Who built the mill of {TOWNS[number]}?",
        "document": FILLER * number + fact + FILLER * (24 - number),
        "answer": f"Master {number}73",
    }


class ReaderServer:
    """A reader at `url`; `requests` counts, and `status` and `error` replace its answers."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self.url = f"http://127.0.0.1:{server.server_port}/v1"
        self.requests: list[dict[str, Any]] = []
        self.status, self.error = 200, ""

    def answer(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.requests.append(body)
        prompt = body["messages"][0]["content"]
        if self.error and (self.status == 401 or len(prompt) > 2000):
            return self.status, {"error": {"message": self.error}}
        if "max_tokens" in body and self.error == "unsupported":
            return 400, {"error": {"message": "Unsupported parameter: 'max_tokens'"}}
        text = prompt.rpartition("\n\nText: ")[2]
        answers = [f"Master {number}73" for number in range(COUNT) if f"Master {number}73" in text]
        reply = answers[0] if answers else "I do not know"
        return 200, {"choices": [{"message": {"content": f" {reply}\nmore"}}], "usage": {"prompt_tokens": 9}}


@contextmanager
def run_reader() -> Generator[ReaderServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["content-length"]))
            assert self.headers["x-clara-mode"] == "off"
            status, reply = state.answer(json.loads(raw))
            content = json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_request(self, code: object = "-", size: object = "-") -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = ReaderServer(server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def reader() -> Iterator[ReaderServer]:
    with run_reader() as state:
        yield state


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "mills.jsonl"
    path.write_text("".join(json.dumps(make_line(number)) + "\n" for number in range(COUNT)))
    return path


def run(data: Path, *arguments: str, model: str = "none") -> Result:
    """Run the command with its output beside the data."""
    out = data.parent / "out"
    environment = {"HOME": str(data.parent), "CLARA_MODEL": model, "CLARA_DATA_DIR": str(data.parent / "data")}
    return CliRunner().invoke(cli.app, ["eval", str(data), "--out", str(out), *arguments], env=environment)


def run_json(data: Path, *arguments: str, model: str = "none") -> dict[tuple[str, float], dict[str, Any]]:
    result = run(data, "--json", *arguments, model=model)
    assert result.exit_code == 0, result.output
    return {(row["method"], row["ratio"]): row for row in json.loads(result.stdout)}


def test_table_of_all_methods_with_a_reader(data: Path, reader: ReaderServer) -> None:
    options = ("--ratios", "4,10", "--reader-url", reader.url, "--reader-model", "m")
    rows = run_json(data, *options)
    assert list(rows) == [("full", 0)] + [
        (name, ratio) for name in ("extract", "bm25", "head-tail") for ratio in (4.0, 10.0)
    ]
    for row in rows.values():
        assert row["questions"] == COUNT
        assert row["em"]["mean"] == row["f1"]["mean"] == row["kept"]["mean"]  # this reader finds what is kept
    assert rows["full", 0]["em"]["mean"] == 1
    assert rows["extract", 4]["em"]["mean"] == rows["bm25", 4]["em"]["mean"] == 1
    cut = rows["head-tail", 10]
    assert cut["f1_difference"]["mean"] == cut["f1"]["mean"] - 1 < 0
    for ratio in (4.0, 10.0):
        assert rows["extract", ratio]["share"] <= 1 / ratio + 0.02
        assert (
            0.5 * rows["extract", ratio]["tokens"] < rows["bm25", ratio]["tokens"] <= rows["extract", ratio]["tokens"]
        )
    assert len(reader.requests) == 1 + COUNT * len(rows)  # one to see if it answers
    table = run(data, *options).stdout
    assert len(reader.requests) == 1 + COUNT * len(rows)  # everything is known
    assert "mills: 6 questions" in table
    assert "extract    10x" in table
    assert "100.0 [100, 100]" in table
    assert "<svg" in (data.parent / "out" / "plot.svg").read_text()


def test_unfinished_evaluation_is_resumed(data: Path, reader: ReaderServer) -> None:
    options = ("--methods", "full,bm25", "--ratios", "4", "--reader-url", reader.url, "--reader-model", "m")
    first = run_json(data, *options)
    records = data.parent / "out" / "records.jsonl"
    lines = records.read_text().splitlines(keepends=True)
    assert len(lines) == 2 * COUNT
    records.write_text("".join(lines[:-2]) + lines[-2][:50])  # interrupted while a line was written
    reader.requests.clear()
    assert {key: row["em"] for key, row in run_json(data, *options).items()} == {
        key: row["em"] for key, row in first.items()
    }
    assert len(reader.requests) == 1 + 2
    reader.requests.clear()
    run_json(data, *options[:-1], "another")
    assert len(reader.requests) == 1 + 2 * COUNT  # another reader is another measurement


def test_limit_measures_a_sample(data: Path) -> None:
    rows = run_json(data, "--limit", "2", "--methods", "full,extract", "--ratios", "2")
    assert {row["questions"] for row in rows.values()} == {2}
    assert all(row["em"] is None for row in rows.values())
    assert "EM" not in run(data, "--limit", "2", "--methods", "full").stdout


def test_reader_that_does_not_work_ends_the_command(data: Path, reader: ReaderServer) -> None:
    options = ("--methods", "full", "--reader-model", "m", "--reader-url")
    reader.status, reader.error = 401, "no such key"
    result = run(data, *options, reader.url)
    assert result.exit_code == 1
    assert f"{reader.url}/chat/completions answered with status 401: no such key" in result.stderr
    assert "resume" in result.stderr
    unreachable = run(data, *options, "http://127.0.0.1:9/v1")
    assert unreachable.exit_code == 1
    assert "http://127.0.0.1:9/v1/chat/completions cannot be used" in unreachable.stderr


def test_refused_text_counts_as_a_wrong_answer(data: Path, reader: ReaderServer) -> None:
    reader.status, reader.error = 400, "the prompt and max_tokens are too long"
    options = ("--methods", "full,extract", "--ratios", "4", "--reader-url", reader.url, "--reader-model", "m")
    rows = run_json(data, *options)
    assert (rows["full", 0]["errors"], rows["extract", 4]["errors"]) == (COUNT, 0)
    assert rows["full", 0]["em"]["mean"] == 0
    assert f"full: the reader refused {COUNT} texts" in run(data, *options).stdout


def test_model_that_reasons_gets_other_limits(data: Path, reader: ReaderServer) -> None:
    reader.error = "unsupported"
    reader.status = 400
    rows = run_json(data, "--methods", "extract", "--ratios", "10", "--reader-url", reader.url, "--reader-model", "m")
    assert rows["extract", 10]["em"]["mean"] == 1
    assert "max_tokens" not in reader.requests[-1]
    assert "temperature" not in reader.requests[-1]


class FirstWords:
    """A compressor that keeps the first words, and records the texts that it gets."""

    name = "prune"

    def __init__(self) -> None:
        self.texts: list[str] = []

    def recognises(self, text: str) -> bool:
        return bool(text)

    def compress(self, task: Task) -> CompressedPassage:
        self.texts.append(task.text)
        words = task.text.split()
        return CompressedPassage((" ".join(words[: task.target // 2]), Gap(1, "words")), len(words), "words")


def test_new_mode_is_measured_without_a_change(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_engines, pruner = services.open_engines, FirstWords()

    def open_more(settings: Settings, folder: Path, stack: AsyncExitStack) -> services.OpenedEngines:
        opened = open_engines(settings, folder, stack)
        engine = Engine(workers=1, queue_limit=9, cache_bytes=0, find_compressor=lambda _: pruner)
        return opened._replace(by_mode=opened.by_mode | {"prune": engine})

    monkeypatch.setattr(evaluation_methods, "open_engines", open_more)
    rows = run_json(data, "--ratios", "4", "--methods", "full,extract,prune")
    assert list(rows) == [("full", 0), ("extract", 4), ("prune", 4)]
    assert rows["prune", 4]["compressors"] == {"prune": COUNT}
    assert rows["prune", 4]["kept"]["mean"] < 1
    documents = [json.loads(line)["document"] for line in data.read_text().splitlines()]
    is_measured = [text in documents for text in pruner.texts]
    assert is_measured == [False, False, *[True] * COUNT]  # the model is loaded, for prose and code, before


def test_text_that_stays_unchanged_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "short.jsonl"
    path.write_text(json.dumps({"question": "Who?", "document": "Ada wrote it.", "answer": "Ada"}))
    output = run(path, "--methods", "extract", "--ratios", "2").stdout
    assert "extract 2x: 1 texts unchanged (" in output


def test_clara_answers_from_its_memories(data: Path) -> None:
    pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")
    options = ("--limit", "1", "--ratios", "10", "--methods", "extract,latent", "--reader-model", "clara")
    rows = run_json(data, *options, model="clara-nano")
    assert list(rows) == [("extract", 10), ("latent", 4), ("latent", 16)]
    for row in rows.values():
        assert row["em"] is not None
    assert rows["latent", 16]["model"] == "clara-nano"
    assert rows["latent", 16]["kept"] is None
    assert rows["latent", 16]["tokens"] < rows["latent", 4]["tokens"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--methods", "full,zip"), "unknown method 'zip' (--methods); available: full, extract, bm25, head-tail"),
        (("--ratios", "4,one"), "invalid ratios '4,one'"),
        (("--ratios", "1"), "invalid ratios"),
        (("--reader-url", "http://x/v1"), "--reader-model"),
        (("--reader-model", "clara"), "needs a CLaRa model"),
    ],
)
def test_invalid_options_are_named(data: Path, arguments: tuple[str, ...], words: str) -> None:
    result = run(data, *arguments)
    assert result.exit_code == 2
    assert words in result.stderr


def test_invalid_line_is_named(data: Path) -> None:
    data.write_text(data.read_text() + "{}\n")
    result = run(data)
    assert result.exit_code == 2
    assert f"{data}, line {COUNT + 1}: no text in" in result.stderr
