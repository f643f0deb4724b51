"""An upstream double that answers chat completions at once with constant bytes, to measure the overhead of proxies.

    python -m clara_proxy.benchmarks.double --port N

It is an asyncio protocol on httptools, several times cheaper a request than an ASGI server. It does not check keys,
count tokens or support pipelined requests. Run it in its own process.
"""

import argparse
import asyncio
import re
from typing import NamedTuple, cast

import httptools
import orjson
import uvloop

CHUNK_COUNT = 20
MODEL = "double"
# Quotes inside a JSON string are escaped, so these patterns match only keys, at any depth.
_STREAM_PATTERN = re.compile(rb'"stream"\s*:\s*true')
_USAGE_PATTERN = re.compile(rb'"include_usage"\s*:\s*true')
_ANSWER_TEXT = "The build fails because the second worker reads its port before the first has written it to the file."
_ANSWER_WORDS = _ANSWER_TEXT.split()
_USAGE_COUNTS = {"prompt_tokens": 250, "completion_tokens": CHUNK_COUNT, "total_tokens": 250 + CHUNK_COUNT}


class Answer(NamedTuple):
    """The bytes of one answer. The first write is immediate; each later one follows in the next loop iteration."""

    first_write: bytes
    later_writes: tuple[bytes, ...] = ()


def _encode_body(kind: str, choices: list[dict[str, object]], **more: object) -> bytes:
    head = {"id": "chatcmpl-double", "object": kind, "created": 1_700_000_000, "model": MODEL}
    return orjson.dumps({**head, "choices": choices, **more})


def _build_answer(status: str, body: bytes) -> Answer:
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return Answer(head.encode() + body)


def _encode_chunk(data: bytes) -> bytes:
    event = b"data: " + data + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(event), event)


def _encode_delta(delta: dict[str, str], finish: str | None = None) -> bytes:
    return _encode_chunk(_encode_body("chat.completion.chunk", [{"index": 0, "delta": delta, "finish_reason": finish}]))


def build_plain_answer() -> Answer:
    """Return a chat completion with `usage`, about 500 bytes."""
    message = {"role": "assistant", "content": _ANSWER_TEXT}
    choice: dict[str, object] = {"index": 0, "message": message, "finish_reason": "stop"}
    return _build_answer("200 OK", _encode_body("chat.completion", [choice], usage=_USAGE_COUNTS))


def build_streamed_answer(*, with_usage: bool) -> Answer:
    """Return a stream of twenty SSE chunks, a usage chunk if `with_usage`, and `[DONE]`."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    words = [_encode_delta({"content": f"{word} "}) for word in _ANSWER_WORDS[: CHUNK_COUNT - 2]]
    tail = [_encode_delta({}, "stop")]
    if with_usage:
        tail.append(_encode_chunk(_encode_body("chat.completion.chunk", [], usage=_USAGE_COUNTS)))
    end = _encode_chunk(b"[DONE]") + b"0\r\n\r\n"
    return Answer(head + _encode_delta({"role": "assistant", "content": ""}), (*words, *tail, end))


PLAIN = build_plain_answer()
STREAM = build_streamed_answer(with_usage=False)
STREAM_USAGE = build_streamed_answer(with_usage=True)
MODELS_ANSWER = _build_answer("200 OK", orjson.dumps({"object": "list", "data": [{"id": MODEL, "object": "model"}]}))
NOT_FOUND_ANSWER = _build_answer(
    "404 Not Found", b'{"error": {"message": "no such route", "type": "invalid_request_error"}}'
)


def choose_answer(method: bytes, path: bytes, body: bytes) -> Answer:
    """Return the answer to a request. The body is searched, not parsed, for speed: 200 KB take microseconds."""
    if path.endswith(b"/models"):
        return MODELS_ANSWER
    if method != b"POST" or not path.endswith(b"/chat/completions"):
        return NOT_FOUND_ANSWER
    if not _STREAM_PATTERN.search(body):
        return PLAIN
    return STREAM_USAGE if _USAGE_PATTERN.search(body) else STREAM


class UpstreamProtocol(asyncio.Protocol):
    """One connection. The parser calls the on_* methods."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._path = b""
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own class does not inherit from it

    def data_received(self, data: bytes) -> None:
        """Feed the parser, and close the connection if the data is not HTTP."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def on_message_begin(self) -> None:
        """Reset the state for a new request."""
        self._path, self._body = b"", []

    def on_url(self, url: bytes) -> None:
        """Collect the URL, which may arrive in pieces."""
        self._path += url

    def on_body(self, body: bytes) -> None:
        """Collect the body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Answer the request."""
        path = self._path.partition(b"?")[0]
        answer = choose_answer(self._parser.get_method(), path, b"".join(self._body))
        self._transport.write(answer.first_write)
        self._write_next(answer.later_writes, 0)

    def _write_next(self, writes: tuple[bytes, ...], index: int) -> None:
        if self._transport.is_closing():
            return
        if index:
            self._transport.write(writes[index - 1])
        if index < len(writes):
            self._loop.call_soon(self._write_next, writes, index + 1)
        elif not self._parser.should_keep_alive():
            self._transport.close()


async def serve(port: int) -> None:
    """Serve on 127.0.0.1:`port` until cancelled."""
    server = await asyncio.get_running_loop().create_server(UpstreamProtocol, "127.0.0.1", port, backlog=1024)
    async with server:
        await server.serve_forever()


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="Answer chat completions with constant bytes.")
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
