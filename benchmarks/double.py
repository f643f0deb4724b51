"""An upstream double: answers chat completions at once, from constants, so that what a proxy adds can be measured.

A raw asyncio protocol on httptools: several times cheaper a request than an ASGI server. It is not a model of any
provider: it checks no key, counts no token and does not understand pipelined requests. Every answer with the same
flags is the same bytes. Run it in a process of its own: `python -m clara_proxy.benchmarks.double --port N`.
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
# Inside a JSON string a quote is escaped, so these can match keys only, at whatever depth.
_STREAM_PATTERN = re.compile(rb'"stream"\s*:\s*true')
_USAGE_PATTERN = re.compile(rb'"include_usage"\s*:\s*true')
_ANSWER_TEXT = "The build fails because the second worker reads its port before the first has written it to the file."
_ANSWER_WORDS = _ANSWER_TEXT.split()
_USAGE_COUNTS = {"prompt_tokens": 250, "completion_tokens": CHUNK_COUNT, "total_tokens": 250 + CHUNK_COUNT}


class Answer(NamedTuple):
    """One answer as written to the socket: the first write at once, each further one after a turn of the loop."""

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
    """A chat completion with `usage`, about 500 bytes."""
    message = {"role": "assistant", "content": _ANSWER_TEXT}
    choice: dict[str, object] = {"index": 0, "message": message, "finish_reason": "stop"}
    return _build_answer("200 OK", _encode_body("chat.completion", [choice], usage=_USAGE_COUNTS))


def build_streamed_answer(*, with_usage: bool) -> Answer:
    """Twenty SSE chunks, then the usage chunk if asked for, then `[DONE]`."""
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
    """The answer to one request. A body is only searched, never parsed: 200 KB cost microseconds."""
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
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own class does not inherit from it

    def data_received(self, data: bytes) -> None:
        """Feed the parser; what is not HTTP closes the connection."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def on_message_begin(self) -> None:
        """Forget the request before."""
        self._path, self._body = b"", []

    def on_url(self, url: bytes) -> None:
        """Collect the path, which may come in pieces; the query is dropped."""
        self._path += url

    def on_body(self, body: bytes) -> None:
        """Collect the body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Answer."""
        path = self._path.partition(b"?")[0]
        answer = choose_answer(self._parser.get_method(), path, b"".join(self._body))
        self._transport.write(answer.first_write)
        self._write_next(answer.later_writes, 0)

    def _write_next(self, rest: tuple[bytes, ...], at: int) -> None:
        if self._transport.is_closing():
            return
        if at:
            self._transport.write(rest[at - 1])
        if at < len(rest):
            self._loop.call_soon(self._write_next, rest, at + 1)
        elif not self._parser.should_keep_alive():
            self._transport.close()


async def serve(port: int) -> None:
    """Answer on 127.0.0.1:port until cancelled."""
    server = await asyncio.get_running_loop().create_server(UpstreamProtocol, "127.0.0.1", port, backlog=1024)
    async with server:
        await server.serve_forever()


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="Answer chat completions from constants.")
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
