"""The headers of requests. Clients repeat theirs, so what is computed of equal headers is computed once.

Only pure functions of the headers belong here: nothing that depends on stored keys, on the time or on the body.
"""

from collections.abc import Callable, Hashable, Iterable, MutableMapping
from functools import lru_cache
from typing import Any, Concatenate, ParamSpec, TypeVar

_KNOWN_HEADERS = 256  # requests with different headers
_SCOPE_KEY = "clara_proxy.headers"
_LENGTH = b"content-length"
P = ParamSpec("P")
Result = TypeVar("Result")


class RequestHeaders:
    """The headers of a request in their order, with repetitions, but without the length of its body.

    `by_name` has the last value of a repeated header. Names are in lower case.
    """

    def __init__(self, raw: tuple[tuple[bytes, bytes], ...]) -> None:
        self.raw = raw
        self.by_name = dict(raw)
        self._results = dict[Hashable, Any]()

    def derive(
        self, function: Callable[Concatenate["RequestHeaders", P], Result], *args: P.args, **kwargs: P.kwargs
    ) -> Result:
        """Return `function(self, ...)`, computed once for equal positional arguments.

        The function is pure, and callers must not modify its result. An error is raised again.
        """
        key = (function, *args)
        try:
            result: Result = self._results[key]
        except KeyError:
            result = self._results[key] = function(self, *args, **kwargs)
        return result


def find_headers(scope: MutableMapping[str, Any]) -> RequestHeaders:
    """Return the headers of an ASGI scope; those of equal requests are the same object."""
    headers = scope["headers"]
    stored = scope.get(_SCOPE_KEY)
    if stored is not None and stored[0] is headers:
        known: RequestHeaders = stored[1]
        return known
    known = _get_known(tuple([(name, value) for name, value in headers if name != _LENGTH]))
    scope[_SCOPE_KEY] = headers, known
    return known


def replace_headers(scope: MutableMapping[str, Any], headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Replace the headers of a scope, except the length of the body."""
    scope["headers"] = [*headers, *(pair for pair in scope["headers"] if pair[0] == _LENGTH)]


@lru_cache(_KNOWN_HEADERS)
def _get_known(raw: tuple[tuple[bytes, bytes], ...]) -> RequestHeaders:
    return RequestHeaders(raw)
