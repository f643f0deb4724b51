"""Background tasks of a block, such as the regular deletion of expired entries."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def run_beside(work: Coroutine[Any, Any, None]) -> AsyncGenerator[None]:
    """Run a coroutine beside the block; leaving the block cancels it and waits until it has ended.

    Only then may a database that it uses be closed: a cancelled query still closes its own connection, and a driver
    whose thread has stopped would never answer.
    """
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
