"""Watches the stores of a running proxy, so that a store that fails is seen before its data are missed.

A request never waits for this: stores are checked at intervals, and `/readyz` and `/metrics` return the last result.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from ..stores.errors import describe

CHECK_INTERVAL = 2.0  # seconds
CHECK_SECONDS = 2.0  # for the answer of one store
log = logging.getLogger(__name__)

Check = Callable[[], Awaitable[None]]


class StoreHealth:
    """The health of stores. Each check raises an exception while its store fails.

    `problems` holds the reason by the name of each store that fails.
    """

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self._checks = checks
        self.problems: dict[str, str] = {}

    @property
    def store_states(self) -> dict[str, bool]:
        """Return by name whether each store works."""
        return {name: name not in self.problems for name in self._checks}

    async def watch(self) -> None:
        """Check all stores at every interval. It runs until it is cancelled."""
        while True:
            await self.check_all()
            await asyncio.sleep(CHECK_INTERVAL)

    async def check_all(self) -> None:
        """Check all stores once, and log each change."""
        for name, check in self._checks.items():
            problem = await _find_problem(check)
            if problem and problem != self.problems.get(name):
                log.error("the %s failed: %s", name, problem)
            elif not problem and name in self.problems:
                log.warning("the %s works again", name)
            if problem:
                self.problems[name] = problem
            else:
                self.problems.pop(name, None)


async def _find_problem(check: Check) -> str:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await check()
    except TimeoutError:
        return f"no answer within {CHECK_SECONDS:g} s"
    except Exception as error:  # noqa: BLE001 - of any driver
        return describe(error)
    return ""
