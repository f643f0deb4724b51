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
from ..reports.columns import summarize_total
from ..stores.ledger import Ledger, TotalValue
from ..stores.ledger_row import Row
from . import serve

COMMAND_NOT_FOUND, CANNOT_EXECUTE = 127, 126
_NO_REQUESTS_HINT = (
    "the proxy received no requests; the command must read OPENAI_BASE_URL or ANTHROPIC_BASE_URL from its environment"
)


def run_wrapped(command: Sequence[str], settings: Settings) -> int:
    """Run the command and return its exit status, 128 + N if signal N ended it.

    Like a shell's, the status is 127 if the command does not exist, and 126 if it cannot be executed.

    Raises:
        StartupError: the proxy cannot start.
    """
    if shutil.which(command[0]) is None and not Path(command[0]).exists():
        _print_message(f"{command[0]}: command not found")
        return COMMAND_NOT_FOUND
    rows: list[Row] = []
    with _run_proxy(settings, rows) as url:
        base_urls = {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_BASE": f"{url}/v1", "ANTHROPIC_BASE_URL": url}
        environment = build_child_environment(**base_urls, **outbound_proxy.build_loopback_bypass())
        try:
            status = _run_command(command, environment)
        except OSError as error:
            is_missing = isinstance(error, FileNotFoundError)  # it, or the interpreter that its first line names
            _print_message(f"{command[0]}: {'command not found' if is_missing else error.strerror}")
            return COMMAND_NOT_FOUND if is_missing else CANNOT_EXECUTE
    _print_message(asyncio.run(_summarize_rows(rows)))
    return status


@contextmanager
def _run_proxy(settings: Settings, rows: list[Row]) -> Generator[str]:
    """Run a proxy for the duration of the block and append its ledger rows to `rows`; yields its URL."""
    changes: dict[str, object] = {"session": settings.session or f"wrap-{uuid4().hex[:8]}"}
    if "log_level" not in settings.model_fields_set:
        changes["log_level"] = "error"  # the terminal belongs to the command
    for name, url in client_environment.read_client_upstreams().items():
        if getattr(settings, name) == url:
            _print_message(f"requests are forwarded to {client_environment.redact_url(url)}, as the environment says")
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


async def _summarize_rows(rows: Sequence[Row]) -> str:
    """Return the totals of the rows in one sentence, added up by the ledger."""
    async with Ledger("sqlite://") as ledger:
        for row in rows:
            ledger.write(row)
        await ledger.flush()
        return _format_summary((await ledger.read_totals("all"))[0] if rows else {})


def _format_summary(total: Mapping[str, TotalValue]) -> str:
    requests, failures = total.get("requests"), total.get("failures")
    if not requests:
        return _NO_REQUESTS_HINT
    count = "1 request" if requests == 1 else f"{requests:,} requests"
    return f"{summarize_total(total)} {count}{f', {failures:,} failed' if failures else ''}."


def _print_message(text: str) -> None:
    print(f"clara-proxy: {text}", file=sys.stderr)  # noqa: T201
