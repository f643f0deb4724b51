"""What is computed of equal headers is computed once, and never for others."""

from typing import Any

import pytest

from clara_proxy.proxy.http.request_headers import RequestHeaders, find_headers, replace_headers

HOST, KEY, LENGTH = (b"host", b"a"), (b"x-api-key", b"k"), (b"content-length", b"3")


def scope(*headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"headers": list(headers)}


def test_equal_headers_share_results_whatever_the_length_of_the_body() -> None:
    calls: list[tuple[bytes, bytes]] = []

    def count(headers: RequestHeaders, limit: int) -> int:
        calls.extend(headers.raw)
        return min(limit, len(headers.raw))

    first, second = scope(HOST, KEY, LENGTH), scope(HOST, KEY, (b"content-length", b"4"))
    assert [find_headers(item).derive(count, 9) for item in (first, second, first)] == [2, 2, 2]
    assert calls == [HOST, KEY]
    assert find_headers(first).derive(count, 1) == 1
    assert find_headers(scope(KEY, HOST)).derive(count, 9) == 2
    assert calls == [HOST, KEY, HOST, KEY, KEY, HOST]


@pytest.mark.parametrize(
    "others", [(HOST,), (HOST, (b"x-api-key", b"l")), (HOST, KEY, KEY), (KEY, HOST), (HOST, (b"x-api-keyk", b""))]
)
def test_other_headers_share_nothing(others: tuple[tuple[bytes, bytes], ...]) -> None:
    assert find_headers(scope(HOST, KEY)) is not find_headers(scope(*others))


def test_replaced_headers_keep_the_length() -> None:
    request_scope = scope(HOST, KEY, LENGTH)
    assert find_headers(request_scope).by_name == {b"host": b"a", b"x-api-key": b"k"}
    replace_headers(request_scope, [HOST])
    assert request_scope["headers"] == [HOST, LENGTH]
    assert find_headers(request_scope).raw == (HOST,)


def test_an_error_is_raised_each_time() -> None:
    def fail(headers: RequestHeaders) -> None:
        raise ValueError(len(headers.raw))

    for _ in range(2):
        with pytest.raises(ValueError, match="1"):
            find_headers(scope(HOST)).derive(fail)
