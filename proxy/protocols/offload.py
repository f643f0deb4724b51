"""Runs work on large bodies in threads of its own, so that neither the event loop nor other threads wait for it.

Threads share the interpreter: a call of a C function, such as parsing JSON, still holds it. So `request_json` and
`BodyBudget` bound what such a call may take.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

INLINE_BYTES = 2**19  # a body of this size takes a few milliseconds to parse and to write
_BYTES_PER_OBJECT = 100  # Python code that walks through an object takes as long as parsing so many bytes
_WORKERS = 2
_executor = ThreadPoolExecutor(_WORKERS, thread_name_prefix="large-body")

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def measure_work(text: bytes) -> int:
    """Return the work that a JSON text makes, in bytes: a body of many small objects makes more than a long string.

    The objects of a text that makes too much work anyway are not counted.
    """
    return len(text) + (_BYTES_PER_OBJECT * text.count(b"{") if len(text) <= INLINE_BYTES else 0)


async def run_for(
    work: int, function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Result:
    """Return `function(...)`, whose work is measured in bytes. If there is much of it, it runs in a thread.

    The thread has the context of the request, such as the owner of its texts.
    """
    if work <= INLINE_BYTES:
        return function(*args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(
        _executor, partial(copy_context().run, partial(function, *args, **kwargs))
    )
