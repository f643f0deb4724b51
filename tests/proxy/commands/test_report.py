"""`clara-proxy report` and `replay` in a terminal and through a pipe."""

import asyncio
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from clara_proxy.config import prices
from clara_proxy.proxy.commands import cli, report
from clara_proxy.proxy.stores.accounting import apply_bill
from clara_proxy.proxy.stores.ledger import GROUPINGS, Ledger, ledger_url
from clara_proxy.proxy.stores.ledger_row import Row
from clara_proxy.proxy.stores.usage import Usage
from clara_proxy.tests.running import tool_chat

MAIN = "from clara_proxy.proxy.commands.cli import main; main()"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data directory with two requests: a billed one with a very long session name, and a rejected one."""

    async def write() -> None:
        ledger = Ledger(ledger_url(tmp_path))
        await ledger.start()
        row = Row("a", time.time(), model="gpt-4o", mode_used="extract", tokens_received=9_000, tokens_sent=4_000)
        bill, baseline = Usage(4_000, 10, None, 0), Usage(9_000, 10, None, 0)
        ledger.write(apply_bill(row._replace(session="s" * 5_000), bill, prices.find_price("gpt-4o"), baseline))
        ledger.write(apply_bill(Row("b", time.time(), outcome="rejected", status=400), None, None))
        await ledger.stop()

    asyncio.run(write())
    return tmp_path


def run_in_terminal(columns: int, *arguments: str) -> list[str]:
    """Run a command in a terminal of this width and return the lines it prints."""
    terminal, command_end = pty.openpty()
    fcntl.ioctl(command_end, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
    with subprocess.Popen(
        [sys.executable, "-c", MAIN, *arguments],
        stdin=command_end,
        stdout=command_end,
        stderr=subprocess.PIPE,
        env=environment,
    ) as running:
        os.close(command_end)
        output = bytearray()
        try:
            while more := os.read(terminal, 65_536):
                output += more
        except OSError:  # Linux raises it when the other end is closed
            pass
        finally:
            os.close(terminal)
        assert running.wait() == 0, running.stderr
    return output.decode().replace("\r\n", "\n").splitlines()


def test_report_in_a_terminal_has_one_line_per_row(folder: Path) -> None:
    lines = run_in_terminal(80, "report", "--by", "session", "--data-dir", str(folder))
    table = [line for line in lines if not line.startswith("not shown")]
    assert max(map(len, table)) <= 80
    (row,) = [line for line in lines if "sss" in line]
    assert "…" in row
    assert row.split()[1:6] == ["1", "9,000", "4,000", "5,000", "55.6"]
    assert "not shown: " in "\n".join(lines)
    assert lines[-1] == "Saved 5,000 of 9,000 tokens (55.6 %), $0.0125 net."


def test_wide_and_piped_reports_have_all_columns(folder: Path) -> None:
    arguments = ("report", "--by", "session", "--data-dir", str(folder))
    wide = run_in_terminal(80, *arguments, "--wide")
    piped = CliRunner().invoke(cli.app, arguments)
    assert piped.exit_code == 0
    assert wide == piped.output.splitlines()
    assert "not shown" not in piped.output
    assert "compressor" in piped.output
    assert "…" not in piped.output


def test_help_names_every_grouping() -> None:
    assert set(GROUPINGS) | {"tag:NAME"} == set(report.GROUPING_NAMES.replace(" or ", ", ").split(", "))
    result = CliRunner().invoke(cli.app, ["report", "--help"], env={"COLUMNS": "300", "TERM": "dumb"})
    assert report.GROUPING_NAMES in result.output


def test_replay_prints_the_cost_at_list_price(tmp_path: Path) -> None:
    requests = [tool_chat(), tool_chat(model="no-such-model")]
    (tmp_path / "all.jsonl").write_bytes(b"\n".join(map(orjson.dumps, requests)))
    result = CliRunner().invoke(cli.app, ["replay", str(tmp_path), "--by", "model", "--format", "json"])
    group = next(entry for entry in orjson.loads(result.stdout)["groups"] if entry["group"] == "gpt-4o")
    price = prices.find_price("gpt-4o")
    assert price is not None
    assert price.input is not None
    received, sent = (f"${group[name] * price.input:,.4f}" for name in ("received", "sent"))
    expected = f"without the provider's cache: {received} received, {sent} sent (1 without a price)."
    assert expected in result.stderr
    (tmp_path / "all.jsonl").write_bytes(orjson.dumps(requests[1]))
    result = CliRunner().invoke(cli.app, ["replay", str(tmp_path)])
    assert "$" not in result.stderr
    assert "no list price" in result.stderr
