"""The metrics of several processes of one proxy: each writes its totals to a file, and any of them adds them all up.

A process that replaces a dead one continues from the totals of that one, so counters never decrease. The figures of the
other processes are at most `WRITE_SECONDS` old.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

from ..stores.background import run_beside
from ..stores.errors import describe
from .metrics import Metrics

WRITE_SECONDS = 1.0  # interval at which a process writes its totals
log = logging.getLogger(__name__)


@asynccontextmanager
async def share_metrics(metrics: Metrics, folder: Path, index: int) -> AsyncGenerator[None]:
    """Share the metrics of the process with this index with those of the others in the block.

    A failure to write is logged; the figures of this process are then old for the others.
    """
    own = folder / f"{index}.json"
    if own.exists():
        metrics.continue_from(own.read_bytes())
    metrics.read_other_totals = lambda: _read_others(folder, own)
    try:
        async with run_beside(_write_periodically(metrics, own)):
            yield
    finally:
        _write(metrics, own)


async def _write_periodically(metrics: Metrics, path: Path) -> None:
    while True:
        _write(metrics, path)
        await asyncio.sleep(WRITE_SECONDS)


def _write(metrics: Metrics, path: Path) -> None:
    new = path.with_suffix(".new")
    try:
        new.write_bytes(metrics.encode_totals())  # some kilobytes
        new.replace(path)
    except OSError as error:
        log.warning("cannot share the metrics of this process: %s", describe(error))


def _read_others(folder: Path, own: Path) -> Iterator[bytes]:
    for path in sorted(folder.glob("*.json")):
        if path != own:
            yield path.read_bytes()
