"""Runs a command behind a proxy of its own, and tells in one line what that saved.

Never behind one that happens to run: that has settings of its own, and may send a key where it was not meant to go. The
invariant: whom the command would have asked without us is asked, with the command's own key, unless a setting says
otherwise; and what is told are this command's requests, and nobody else's.
"""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from uuid import uuid4

from ...config import client_environment, outbound_proxy
from ...config.settings import Settings, build_child_environment
from ..app import create_app
from ..reports.columns import summarize_total
from ..stores.ledger import Ledger, TotalValue
from ..stores.ledger_row import Row
from . import serve

_NO_REQUESTS_HINT = "no request came through the proxy: does the command read OPENAI_BASE_URL or ANTHROPIC_BASE_URL?"


def run_wrapped(command: Sequence[str], settings: Settings) -> int:
    """Run the command; return its exit status, 127 when there is no such command, 128 and more when a signal ended it.

    Raises:
        StartError: something that the proxy needs cannot be opened.
    """
    rows: list[Row] = []
    with _run_proxy(settings, rows) as url:
        pointed = {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_BASE": f"{url}/v1", "ANTHROPIC_BASE_URL": url}
        try:
            status = _run_command(command, build_child_environment(**pointed, **outbound_proxy.build_loopback_bypass()))
        except OSError as error:
            _print_message(f"{command[0]}: {error.strerror}")
            return 127
    _print_message(asyncio.run(_summarize_rows(rows)))
    return status


@contextmanager
def _run_proxy(settings: Settings, rows: list[Row]) -> Generator[str]:
    """Run a proxy as long as the block, and collect its rows; yields its URL."""
    changes: dict[str, object] = {"session": settings.session or f"wrap-{uuid4().hex[:8]}"}
    if "log_level" not in settings.model_fields_set:
        changes["log_level"] = "error"  # the terminal is the command's
    for name, url in client_environment.read_client_upstreams().items():
        if getattr(settings, name) == url:
            _print_message(f"requests go on to {client_environment.redact_url(url)}, as the environment says")
    app = create_app(settings.model_copy(update=changes))
    with serve.run_in_thread(app) as url:
        app.state.services.ledger.hearers.append(rows.append)
        yield url


def _run_command(command: Sequence[str], environment: Mapping[str, str]) -> int:
    # S603: running the user's own command is what this is for.
    with _forward_signals() as children, subprocess.Popen(list(command), env=environment) as child:  # noqa: S603
        children.append(child)
        status = child.wait()
    return 128 - status if status < 0 else status


@contextmanager
def _forward_signals() -> Generator[list["subprocess.Popen[bytes]"]]:
    """Leave an interrupt to the command, which the terminal tells of it, too; hand on what only we are told."""
    children: list[subprocess.Popen[bytes]] = []

    def handed_on(number: int, _: FrameType | None) -> None:
        for child in children:
            child.send_signal(number)

    # Handlers, and not SIG_IGN: a command inherits what is ignored.
    wanted = {signal.SIGINT: _ignore_signal, signal.SIGTERM: handed_on, signal.SIGHUP: handed_on}
    before = {number: signal.getsignal(number) for number in wanted}
    for number, handler in wanted.items():
        if before[number] != signal.SIG_IGN:
            signal.signal(number, handler)
    try:
        yield children
    finally:
        for number, handled in before.items():
            signal.signal(number, handled)


def _ignore_signal(_number: int, _frame: FrameType | None) -> None:
    pass


async def _summarize_rows(rows: Sequence[Row]) -> str:
    """Say what rows add up to, as the ledger adds them up."""
    async with Ledger("sqlite://") as ledger:
        for row in rows:
            ledger.write(row)
        await ledger.flush()
        return _format_summary((await ledger.read_totals("all"))[0] if rows else {})


def _format_summary(total: Mapping[str, TotalValue]) -> str:
    requests, failures = total.get("requests"), total.get("failures")
    if not requests:
        return _NO_REQUESTS_HINT
    asked = "1 request" if requests == 1 else f"{requests:,} requests"
    return f"{summarize_total(total)} {asked}{f', {failures:,} of which came to nothing' if failures else ''}."


def _print_message(text: str) -> None:
    print(f"clara-proxy: {text}", file=sys.stderr)  # noqa: T201
