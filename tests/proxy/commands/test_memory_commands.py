"""The commands `ingest`, `ask` and `stores`, and a run that is killed."""

import json
import os
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import httpx
import orjson
import pytest
from typer.testing import CliRunner, Result

from clara_proxy.proxy.commands.cli import app
from clara_proxy.tests import running
from clara_proxy.tests.faulty import FaultyUpstream
from clara_proxy.tests.proxy import issue
from clara_proxy.tests.proxy.commands import shell

MANUAL = "# Manual\n\n## Battery\n\nThe battery lasts nine hours.\x1b[2J\n"
QUESTION = "How long does the battery last?"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory; beside it the folder `docs` with a manual."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "manual.md").write_text(MANUAL, encoding="utf-8")
    return tmp_path / "data"


def run(data: Path, *arguments: str, **environment: str) -> Result:
    variables = {"CLARA_DATA_DIR": str(data), "CLARA_MODEL": "none", **environment}
    return CliRunner().invoke(app, list(arguments), env=variables)


def test_a_store_is_filled_searched_and_deleted(data: Path) -> None:
    docs = str(data.parent / "docs")
    assert run(data, "stores", "list").exit_code == 2  # no memory yet
    result = run(data, "ingest", docs, "--store", "docs", "--json")
    assert result.exit_code == 0, result.output
    assert (summary := json.loads(result.stdout))["added"] == 1
    assert summary["store_name"] == "docs"
    assert "1 unchanged" in run(data, "ingest", docs, "--store", "docs").stdout
    assert json.loads(run(data, "stores", "list", "--json").stdout)[0]["file_counts"] == {"completed": 1}
    assert "manual.md  completed" in run(data, "stores", "show", "docs").stdout
    found = run(data, "stores", "search", "docs", QUESTION)
    assert "[1] manual.md" in found.stdout
    assert "nine hours.?[2J" in found.stdout  # no control characters reach the terminal
    assert run(data, "stores", "search", "docs", "zebra").exit_code == 1
    assert run(data, "stores", "show", "none").exit_code == 1
    assert run(data, "stores", "delete", "docs", "--files", "--yes").stdout == "deleted docs and 1 files\n"
    assert json.loads(run(data, "stores", "list", "--json").stdout) == []


def test_exit_status_tells_failures_from_wrong_arguments(data: Path) -> None:
    (data.parent / "docs" / "broken.pdf").write_text("nothing")
    result = run(data, "ingest", str(data.parent / "docs"), "--store", "docs")
    assert result.exit_code == 1
    assert "broken.pdf: the .pdf file cannot be converted" in result.output
    assert run(data, "ingest", str(data.parent / "none"), "--store", "docs").exit_code == 2
    assert run(data, "ingest", str(data.parent / "docs"), "--store", "docs", "--key", "unknown").exit_code == 2


def test_an_answer_names_its_sources(data: Path, upstream: FaultyUpstream) -> None:
    run(data, "ingest", str(data.parent / "docs"), "--store", "docs")
    events = [{"choices": [{"index": 0, "delta": {"content": piece}}]} for piece in ("Nine ", "hours [1].")]
    upstream.stream_events(*[b"data: %s\n\n" % orjson.dumps(event) for event in events], b"data: [DONE]\n\n")
    url = f"{upstream.url}/v1"
    keys = {"CLARA_UPSTREAM_BASE_URL": url, "OPENAI_BASE_URL": url, "OPENAI_API_KEY": "sk-test"}
    result = run(data, "ask", QUESTION, "--store", "docs", "--model", "gpt-test", **keys)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("Nine hours [1].\n")
    assert "[1] manual.md" in result.stdout
    request = upstream.last_request
    assert request.header_values("authorization") == [b"Bearer sk-test"]
    assert request.json["model"] == "gpt-test"
    assert "nine hours" in request.json["messages"][1]["content"]
    shown = run(data, "ask", QUESTION, "--store", "docs", "--passages", "--json", **keys)
    assert json.loads(shown.stdout)[0]["file"] == "manual.md"
    assert len(upstream.requests) == 1  # the passages alone ask no model
    body = b'{"error": {"message": "no such model"}}'
    head = b"HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    upstream.respond_with(head % len(body) + body)
    refused = run(data, "ask", QUESTION, "--store", "docs", **keys)
    assert refused.exit_code == 1
    assert "status 404: no such model" in refused.output
    without_key = {"OPENAI_API_KEY": "", "OPENAI_BASE_URL": "", "CLARA_UPSTREAM_API_KEY": ""}
    result = run(data, "ask", QUESTION, "--store", "docs", **without_key)  # to OpenAI, which would refuse the passages
    assert result.exit_code == 1
    assert "there is no API key, and nothing was sent" in result.output
    assert "no CLaRa model" in run(data, "ask", QUESTION, "--store", "docs", "--model", "clara", **keys).output


def test_ask_shows_an_extract_where_clara_refuses(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")
    from clara_proxy.tests.compression.clara.heads import write_constant_head  # noqa: PLC0415 - loads torch
    from clara_proxy.tests.compression.clara.tiny import make_checkpoint  # noqa: PLC0415

    (tmp_path / "checkpoint").mkdir()
    folder = make_checkpoint(tmp_path / "checkpoint")
    write_constant_head(folder / "clara" / "compression-4", 0.9)
    run(data, "ingest", str(data.parent / "docs"), "--store", "docs")
    model = {"CLARA_MODEL": str(folder / "clara"), "CLARA_BASE": str(folder / "base"), "CLARA_BACKEND": "cpu"}
    result = run(data, "ask", QUESTION, "--store", "docs", "--model", "clara", **model)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("[not in memory; extracted from the documents]\n")
    assert "nine hours" in result.stdout.partition("[1] manual.md")[0]


def test_owners_are_those_of_requests(data: Path, upstream: FaultyUpstream) -> None:
    key = issue.create_key(data, "team")
    docs = str(data.parent / "docs")
    run(data, "ingest", docs, "--store", "open")
    run(data, "ingest", docs, "--store", "by name", "--key", "team")
    run(data, "ingest", docs, "--store", "by key", "--key", "sk-alice-0123456789")
    assert [store["name"] for store in json.loads(run(data, "stores", "list", "--json").stdout)] == ["open"]
    with issue.run_proxy(upstream.url, data, memory=True) as proxy:
        assert list_names(proxy, key) == ["by name"]
        issue.revoke_key(data, "team")
        deadline = time.monotonic() + running.TIMEOUT
        while httpx.get(f"{proxy.url}/v1/vector_stores").status_code == 401 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert list_names(proxy) == ["open"]
        assert list_names(proxy, "sk-alice-0123456789") == ["by key"]


def list_names(proxy: running.Proxy, key: str = "") -> list[str]:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    answer = httpx.get(f"{proxy.url}/v1/vector_stores", headers=headers)
    return [store["name"] for store in answer.json()["data"]]


def test_a_killed_run_leaves_whole_files_and_the_next_one_continues(data: Path) -> None:
    docs = data.parent / "docs"
    for number in range(300):
        text = "\n\n".join(f"Paragraph {part} of document {number}. " + "A sentence. " * 40 for part in range(8))
        (docs / f"{number}.txt").write_text(text)
    with shell.start(data.parent, "ingest", str(docs), "--store", "docs", CLARA_DATA_DIR=str(data)) as command:
        deadline = time.monotonic() + shell.TIMEOUT
        while count_files(data) < 5:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.killpg(command.process.pid, signal.SIGKILL)
        command.process.wait(shell.TIMEOUT)
    with closing(sqlite3.connect(data / "memory.sqlite3")) as database:
        entries = database.execute("SELECT file_id, status FROM memory_store_files").fetchall()
        chunks = dict(database.execute("SELECT file_id, count(*) FROM memory_chunks GROUP BY file_id"))
        files = {row[0] for row in database.execute("SELECT id FROM memory_files")}
    assert 5 <= len(entries) < 301
    assert {status for _, status in entries} == {"completed"}
    assert {entry[0] for entry in entries} == files == set(chunks)
    assert all(count >= 4 for count in chunks.values() if count > 1)  # the manual has one
    summary = json.loads(run(data, "ingest", str(docs), "--store", "docs", "--json").stdout)
    assert (summary["unchanged"], summary["added"]) == (len(entries), 301 - len(entries))


def count_files(data: Path) -> int:
    try:
        with closing(sqlite3.connect(f"file:{data / 'memory.sqlite3'}?mode=ro", uri=True)) as database:
            return int(database.execute("SELECT count(*) FROM memory_store_files").fetchone()[0])
    except sqlite3.OperationalError:
        return 0  # not created yet


def test_watched_folders_are_ingested_again(data: Path) -> None:
    docs = data.parent / "docs"
    arguments = ("ingest", str(docs), "--store", "docs", "--watch", "--prune")
    with shell.start(data.parent, *arguments, CLARA_DATA_DIR=str(data)) as command:
        command.wait_for_line("watching for changes")
        (docs / "new.md").write_text("A new text.")
        command.wait_for_line("docs: 1 added, 1 unchanged")
        (docs / "manual.md").unlink()
        command.wait_for_line("docs: 1 unchanged, 1 removed")
        command.interrupt()
        assert command.wait() == 130
