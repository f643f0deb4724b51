"""Runs a command behind the proxy: finds a proxy or starts one, points the command at it, and tells what it saved."""

import asyncio
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from uuid import uuid4

from ...config.settings import Settings, child_environment
from ..app import create_app
from . import savings, serve


def wrapped(command: Sequence[str], settings: Settings) -> int:
    """Run the command; return its exit status, 127 when there is no such command."""
    since = time.time()
    with _proxy(settings) as url:
        pointed = {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_BASE": f"{url}/v1", "ANTHROPIC_BASE_URL": url}
        try:
            # S603: running the user's own command is what this is for.
            status = subprocess.run(list(command), env=child_environment(**pointed), check=False).returncode  # noqa: S603
        except OSError as error:
            print(f"clara-proxy: {command[0]}: {error.strerror}", file=sys.stderr)  # noqa: T201
            return 127
        time.sleep(0.3)  # a proxy that somebody else runs writes its ledger every quarter of a second
    print(_saved(settings, since), file=sys.stderr)  # noqa: T201
    return status


def _saved(settings: Settings, since: float) -> str:
    """Tell what was saved since then; a proxy that was found running may keep its ledger somewhere else."""
    began = datetime.fromtimestamp(since, UTC).isoformat()
    try:
        return asyncio.run(savings.told(settings.data_dir.expanduser(), began, "model", "table", settings.ledger_url))
    except ValueError as error:
        return f"clara-proxy: {error}"


@contextmanager
def _proxy(settings: Settings) -> Generator[str]:
    """Yield the URL of a proxy: the one that runs where the settings say, or one that runs as long as the block."""
    found = f"http://{settings.host}:{settings.port}"
    if _answers(found):
        yield found
        return
    session = settings.session or f"wrap-{uuid4().hex[:8]}"
    with serve.running(create_app(settings.model_copy(update={"session": session}))) as url:
        yield url


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/livez", timeout=1) as answer:  # noqa: S310 - our own loopback address
            return bool(answer.status == 200)
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False
