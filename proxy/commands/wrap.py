"""The command `clara-proxy wrap`: runs another command behind a temporary proxy and prints the savings in one line.

A proxy that already runs is never used: its settings differ, and it may send API keys to another upstream. Invariant:
requests go to the upstream that the command would have used by itself, with the command's own API key, unless a setting
says otherwise; and the summary counts the requests of this command only.
"""

import asyncio
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from uuid import uuid4

from ...config import client_environment, outbound_proxy
from ...config.settings import Settings, build_child_environment
from ..app import create_app
from ..reports.columns import format_requests, summarize_total
from ..stores.ledger import Ledger, TotalValue
from ..stores.ledger_row import Row
from . import clients, serve
from .client_setup import Setup

COMMAND_NOT_FOUND, CANNOT_EXECUTE = 127, 126
_NO_REQUESTS = "the proxy received no requests"


def run_wrapped(setup: Setup, settings: Settings) -> int:
    """Run the command and return its exit status, 128 + N if signal N ended it.

    Like a shell's, the status is 127 if the command does not exist, and 126 if it cannot be executed.

    Raises:
        StartupError: the proxy cannot start.
    """
    command = setup.command
    if shutil.which(command[0]) is None and not Path(command[0]).exists():
        client = clients.find_client(command[0])
        hint = f"; install it with: {client.install}" if client else ""
        _print_message(f"{command[0]}: command not found{hint}")
        return COMMAND_NOT_FOUND
    rows: list[Row] = []
    for problem in setup.problems:
        _print_message(f"{problem.result}; {problem.remedy}")
    for name, url in setup.upstreams.items():
        if getattr(settings, name) == url:
            source = setup.describe_source(name)
            _print_message(f"requests are forwarded to {client_environment.redact_url(url)}, as {source} says")
    with _run_proxy(settings, rows) as url:
        variables = setup.build_variables(url, settings.anthropic_base_url)
        environment = build_child_environment(**variables, **outbound_proxy.build_loopback_bypass())
        try:
            status = _run_command(setup.build_command(url), environment)
        except OSError as error:
            is_missing = isinstance(error, FileNotFoundError)  # it, or the interpreter that its first line names
            _print_message(f"{command[0]}: {'command not found' if is_missing else error.strerror}")
            return COMMAND_NOT_FOUND if is_missing else CANNOT_EXECUTE
    _print_message(asyncio.run(_summarize_rows(rows, setup)))
    return status


@contextmanager
def _run_proxy(settings: Settings, rows: list[Row]) -> Generator[str]:
    """Run a proxy for the duration of the block and append its ledger rows to `rows`; yields its URL."""
    changes: dict[str, object] = {"session": settings.session or f"wrap-{uuid4().hex[:8]}"}
    if "log_level" not in settings.model_fields_set:
        changes["log_level"] = "error"  # the terminal belongs to the command
    app = create_app(settings.model_copy(update=changes))
    with serve.run_in_thread(app) as url:
        app.state.services.ledger.observers.append(rows.append)
        yield url


def _run_command(command: Sequence[str], environment: Mapping[str, str]) -> int:
    # S603: running the user's own command is the purpose.
    with _forward_signals() as children, subprocess.Popen(list(command), env=environment) as child:  # noqa: S603
        children.append(child)
        status = child.wait()
    return 128 - status if status < 0 else status


@contextmanager
def _forward_signals() -> Generator[list["subprocess.Popen[bytes]"]]:
    """Ignore SIGINT, which the terminal also sends to the children; forward SIGTERM and SIGHUP to them."""
    children: list[subprocess.Popen[bytes]] = []

    def forward(number: int, _: FrameType | None) -> None:
        for child in children:
            child.send_signal(number)

    # Not SIG_IGN, because a child process would inherit it.
    handlers = {signal.SIGINT: _ignore_signal, signal.SIGTERM: forward, signal.SIGHUP: forward}
    previous = {number: signal.getsignal(number) for number in handlers}
    for number, handler in handlers.items():
        if previous[number] != signal.SIG_IGN:
            signal.signal(number, handler)
    try:
        yield children
    finally:
        for number, previous_handler in previous.items():
            signal.signal(number, previous_handler)


def _ignore_signal(_number: int, _frame: FrameType | None) -> None:
    pass


async def _summarize_rows(rows: Sequence[Row], setup: Setup) -> str:
    """Return the totals of the rows in one sentence, added up by the ledger."""
    async with Ledger("sqlite://") as ledger:
        for row in rows:
            ledger.write(row)
        await ledger.flush()
        return _format_summary((await ledger.read_totals("all"))[0]) if rows else _describe_no_requests(setup)


def _describe_no_requests(setup: Setup) -> str:
    if setup.client is None:
        return f"{_NO_REQUESTS}; the command must read OPENAI_BASE_URL or ANTHROPIC_BASE_URL from its environment"
    return f"{_NO_REQUESTS}; run `clara-proxy doctor {setup.client.command}`"


def _format_summary(total: Mapping[str, TotalValue]) -> str:
    requests, failures = total.get("requests"), total.get("failures")
    count = format_requests(requests if isinstance(requests, int) else 0)
    remedy = "; run `clara-proxy doctor` to check the upstream and the key" if failures == requests else ""
    return f"{summarize_total(total)} {count}{f', {failures:,} failed' if failures else ''}{remedy}."


def _print_message(text: str) -> None:
    print(f"clara-proxy: {text}", file=sys.stderr)  # noqa: T201
