"""The servers that `clients` compares: relays with different HTTP clients, and one answer behind framework layers.

    python -m clara_proxy.benchmarks.relays NAME --port N [--upstream URL]

They import nothing from the proxy. A relay posts each request upstream and returns the status, headers and body; it
does not map errors and has no timeout.
"""

import argparse
import importlib
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Protocol, cast

import aiohttp
import httpx
import uvicorn
from fastapi import FastAPI
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

_HOP_BY_HOP = {b"connection", b"keep-alive", b"transfer-encoding"}
_CLIENT_HEADERS = _HOP_BY_HOP | {b"host", b"content-length"}  # the HTTP clients add these
PATH = "/v1/chat/completions"
_ANSWER_BODY = b'{"id": "chatcmpl-constant", "choices": [{"message": {"content": "' + b"x" * 420 + b'"}}]}'


class Forward(Protocol):
    """A relay's HTTP client."""

    async def __call__(self, headers: list[tuple[str, str]], body: bytes, send: Send) -> None:
        """Post `body` upstream, and send the response to the ASGI server."""


async def _read_body(receive: Receive) -> bytes:
    chunks: list[bytes] = []
    while True:
        message = await receive()
        chunks.append(message.get("body", b""))
        if not message.get("more_body"):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _send_start(send: Send, status: int, headers: Headers) -> None:
    end_to_end = [(name, value) for name, value in headers if name.lower() not in _HOP_BY_HOP]
    await send({"type": "http.response.start", "status": status, "headers": end_to_end})


async def _send_chunk(send: Send, body: bytes, *, more: bool) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


def create_aiohttp_forward(url: str) -> Forward:
    """Return a client on aiohttp."""
    sessions: list[aiohttp.ClientSession] = []  # the first request creates the session: it needs the running loop

    def session() -> aiohttp.ClientSession:
        if not sessions:
            connector, jar = aiohttp.TCPConnector(limit=0), aiohttp.DummyCookieJar()
            timeout = aiohttp.ClientTimeout(total=None)
            sessions.append(
                aiohttp.ClientSession(connector=connector, cookie_jar=jar, auto_decompress=False, timeout=timeout)
            )
        return sessions[0]

    async def forward(headers: list[tuple[str, str]], body: bytes, send: Send) -> None:
        async with session().post(url, data=body, headers=headers, allow_redirects=False) as response:
            await _send_start(send, response.status, response.raw_headers)
            if response.content_length is not None:
                await _send_chunk(send, await response.read(), more=False)
                return
            async for chunk in response.content.iter_any():
                await _send_chunk(send, chunk, more=True)
            await _send_chunk(send, b"", more=False)

    return forward


def create_httpx_forward(url: str, package: str) -> Forward:
    """Return a client with the httpx interface; `package` is httpx, httpx2 or httpx_aiohttp."""
    names = {"httpx": ("httpx", "AsyncClient"), "httpx2": ("httpx2", "AsyncClient")}
    source, name = names.get(package, ("httpx_aiohttp", "HttpxAiohttpClient"))
    interface = importlib.import_module("httpx2" if package == "httpx2" else "httpx")
    limits = interface.Limits(max_connections=None, max_keepalive_connections=None)
    client = cast(httpx.AsyncClient, getattr(importlib.import_module(source), name)(limits=limits, timeout=None))

    async def forward(headers: list[tuple[str, str]], body: bytes, send: Send) -> None:
        response = await client.send(client.build_request("POST", url, headers=headers, content=body), stream=True)
        try:
            await _send_start(send, response.status_code, response.headers.raw)
            if "content-length" in response.headers:
                await _send_chunk(send, b"".join([chunk async for chunk in response.aiter_raw()]), more=False)
                return
            async for chunk in response.aiter_raw():
                await _send_chunk(send, chunk, more=True)
            await _send_chunk(send, b"", more=False)
        finally:
            await response.aclose()

    return forward


def create_relay(forward: Forward) -> App:
    """Return an ASGI app that relays each request through a client."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in scope["headers"]
            if name not in _CLIENT_HEADERS
        ]
        await forward(headers, await _read_body(receive), send)

    return app


# --- one constant answer behind framework layers ---


async def answer_raw(_scope: Scope, receive: Receive, send: Send) -> None:
    """Answer as a plain ASGI application."""
    await _read_body(receive)
    await _send_start(
        send, 200, [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(_ANSWER_BODY))]
    )
    await _send_chunk(send, _ANSWER_BODY, more=False)


class Endpoint:
    """A plain ASGI endpoint; Starlette's Route calls a class without a Request or a Response object."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request."""
        await answer_raw(scope, receive, send)


class PathInterceptor:
    """A plain ASGI application that answers one path and passes all other requests to `app`."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request or pass it on."""
        await (answer_raw if scope["path"] == PATH else self._app)(scope, receive, send)


async def _answer_request(request: Request) -> Response:
    await request.body()
    return Response(_ANSWER_BODY, media_type="application/json")


async def _call_next(request: Request, call_next: RequestResponseEndpoint) -> Response:
    return await call_next(request)


def create_fastapi_route() -> FastAPI:
    """Return an app with a FastAPI route on the raw Request."""
    app = FastAPI()
    app.add_api_route(PATH, _answer_request, methods=["POST"])
    return app


def create_fastapi_asgi_route() -> FastAPI:
    """Return a FastAPI app with a Starlette Route to an ASGI class."""
    return FastAPI(routes=[Route(PATH, Endpoint(), methods=["POST"])])


def create_fastapi_middleware() -> FastAPI:
    """Return the FastAPI route behind one middleware with Request and Response objects."""
    app = create_fastapi_route()
    app.add_middleware(BaseHTTPMiddleware, dispatch=_call_next)
    return app


CLIENTS = ("aiohttp", "httpx", "httpx2", "httpx_aiohttp")
LAYERS: dict[str, Callable[[], App]] = {
    "raw ASGI": lambda: answer_raw,
    "raw ASGI in front of FastAPI": lambda: PathInterceptor(create_fastapi_route()),
    "Route with an ASGI class in FastAPI": create_fastapi_asgi_route,
    "FastAPI route, raw Request": create_fastapi_route,
    "the same behind BaseHTTPMiddleware": create_fastapi_middleware,
}


def main() -> None:
    """Serve one app with one worker until interrupted."""
    parser = argparse.ArgumentParser(description="Serve a bare relay, or a constant answer behind a framework layer.")
    parser.add_argument("name", choices=[*CLIENTS, *LAYERS])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", default="", help="URL to which a relay posts")
    options = parser.parse_args()
    if options.name in LAYERS:
        app = LAYERS[options.name]()
    elif options.name == "aiohttp":
        app = create_relay(create_aiohttp_forward(options.upstream))
    else:
        app = create_relay(create_httpx_forward(options.upstream, options.name))
    uvicorn.run(app, port=options.port, loop="uvloop", http="httptools", access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
