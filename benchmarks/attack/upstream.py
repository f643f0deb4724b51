"""A hostile upstream on loopback: it answers each request with the bytes that an attack has set."""

import socket
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress

import orjson

USAGE = {"prompt_tokens": 40, "completion_tokens": 5, "total_tokens": 45}
COMPLETION = orjson.dumps(
    {
        "id": "c-1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4o",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}],
        "usage": USAGE,
    }
)


def format_response(body: bytes, status: str = "200 OK", content_type: str = "application/json") -> bytes:
    """Return a whole HTTP response."""
    return f"HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def format_stream(pieces: Iterable[bytes]) -> Generator[bytes]:
    """Yield an event stream of these pieces."""
    yield b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    for piece in pieces:
        yield b"%x\r\n%b\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"


class Upstream:
    """The upstream. `answer` returns the pieces of the response to a request's body; `bodies` holds these bodies."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.answer: Callable[[bytes], Iterable[bytes]] = answer_normally
        self.keeps_bodies = True
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []

    def reset(self) -> None:
        """Answer normally from now on, and forget all requests."""
        self.answer = answer_normally
        self.heads, self.bodies, self.keeps_bodies = [], [], True

    def serve(self, client: socket.socket) -> None:
        """Answer the requests of one connection."""
        with client, suppress(OSError, ValueError):
            while True:
                head, body = _read_request(client)
                if self.keeps_bodies:
                    self.heads.append(head)
                    self.bodies.append(body)
                for piece in self.answer(body):
                    client.sendall(piece)


def answer_normally(_: bytes) -> Iterable[bytes]:
    """Answer with a short completion."""
    return [format_response(COMPLETION)]


def _read_request(client: socket.socket) -> tuple[bytes, bytes]:
    """Read one request. Raises ValueError at the end of the connection."""
    received = bytearray()
    while (end := received.find(b"\r\n\r\n")) < 0:
        data = client.recv(65536)
        if not data:
            raise ValueError("the connection has ended")
        received += data
    head, rest = bytes(received[:end]).lower(), received[end + 4 :]
    if b"\r\ntransfer-encoding: chunked" in head:
        while not rest.endswith(b"0\r\n\r\n"):
            rest += client.recv(65536) or b"0\r\n\r\n"
        return head, bytes(rest)
    length = int(head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0] or 0)
    while len(rest) < length:
        data = client.recv(1 << 20)
        if not data:
            raise ValueError("the connection has ended")
        rest += data
    return head, bytes(rest)


@contextmanager
def run_upstream() -> Generator[Upstream]:
    """Run an upstream on a free loopback port, with a thread for each connection."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        upstream = Upstream(listener.getsockname()[1])

        def accept() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    threading.Thread(target=upstream.serve, args=(client,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield upstream
