"""Responses of any length: their bytes, and their pieces."""

import asyncio

import pytest

from clara_proxy.proxy.http.exchange import PIECE_BYTES, Exchange, Message


async def send_body(length: int) -> list[Message]:
    messages: list[Message] = []

    async def receive() -> Message:
        raise NotImplementedError

    async def send(message: Message) -> None:
        messages.append(message)

    await Exchange({"type": "http", "headers": []}, receive, send).send_response(200, [], b"a" * length)
    return messages


@pytest.mark.parametrize("length", [0, 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES])
def test_a_response_is_complete_and_in_pieces_of_a_bounded_size(length: int) -> None:
    start, *bodies = asyncio.run(send_body(length))
    assert start["headers"] == [(b"content-length", b"%d" % length)]
    assert sum(len(message["body"]) for message in bodies) == length
    assert max(len(message["body"]) for message in bodies) <= PIECE_BYTES
    assert [message["more_body"] for message in bodies] == [True] * (len(bodies) - 1) + [False]
