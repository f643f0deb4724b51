"""Bounds the memory that request bodies take together, while they are read, unpacked and answered.

A body of up to `FREE_BYTES` is not counted: nearly all are smaller, and connections bound their number.
"""

from threading import Lock
from types import TracebackType
from typing import Self

from ..protocols.api_errors import ApiError

FREE_BYTES = 2**20


class BodyBudget:
    """The bytes that large request bodies may still take."""

    def __init__(self, capacity: int) -> None:
        self.free_bytes = capacity
        self._lock = Lock()  # bodies are unpacked in threads

    def reserve(self) -> "BodyReservation":
        """Return the reservation of one request, which a `with` block releases."""
        return BodyReservation(self)

    def take(self, size: int) -> None:
        """Take some bytes, or return them if `size` is negative.

        Raises:
            ApiError: 503 if there are not as many.
        """
        with self._lock:
            if size > self.free_bytes:
                message = "too many large requests are in progress; try again later"
                raise ApiError(503, message, code="overloaded", headers={"retry-after": "1"})
            self.free_bytes -= size


class BodyReservation:
    """The memory of one request's body."""

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self._size = 0

    def grow_to(self, size: int) -> None:
        """Reserve so many bytes for the body, in all its forms together.

        Raises:
            ApiError: 503 if other bodies take the memory.
        """
        if size > FREE_BYTES and size > self._size:
            self._budget.take(size - self._size)
            self._size = size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._size:
            self._budget.take(-self._size)
            self._size = 0
