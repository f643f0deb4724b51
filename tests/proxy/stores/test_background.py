"""Tasks beside a block: whatever they clean up is done when the block has ended."""

import asyncio

import pytest

from clara_proxy.proxy.stores.background import run_beside


async def test_leaving_the_block_waits_for_the_cleanup() -> None:
    steps: list[str] = []

    async def query() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.01)
            steps.append("connection closed")

    with pytest.raises(LookupError):
        async with run_beside(query()):
            await asyncio.sleep(0)
            raise LookupError
    steps.append("database closed")
    assert steps == ["connection closed", "database closed"]


async def test_work_that_has_failed_does_not_fail_the_block() -> None:
    async def fail() -> None:
        raise OSError

    async with run_beside(fail()):
        await asyncio.sleep(0)
