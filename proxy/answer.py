"""Answers a chat completion: read, shorten, forward, relay, and account for it, whatever happens.

This is the one request path, in the order of the house: steering, adapter, shortening, splice, upstream, relay, ledger.
It owns no pool, no file and no thread; those are the services'.
"""

import logging
from time import perf_counter
from traceback import format_tb

from . import clara_api, headers, latent, relay, shapes, steering
from .auth import owner
from .condense import Condenser
from .errors import ApiError
from .exchange import ClientGone, Exchange, Receive, Scope, Send, UnlessGone, decoded
from .services import Services
from .shapes import Json
from .visit import Visit

_REFRAMED = frozenset({b"accept-encoding", b"content-encoding"})
_AS_IT_CAME = frozenset({b"accept-encoding"})
_ASK_USAGE = b'{"stream_options":{"include_usage":true},'
log = logging.getLogger(__name__)


class ChatCompletions:
    """`POST /v1/chat/completions`, as an ASGI application."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._condenser = Condenser(services.settings, services.shortener, services.auto)
        self._defaults = steering.defaults(services.settings)
        self._limit = services.settings.max_body_mb * 2**20

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, and leave one row in the ledger."""
        exchange = Exchange(scope, receive, send)
        visit = Visit(str(scope["path"]), self._defaults, protocol="chat")
        try:
            visit.steering = steering.read(exchange.headers, self._defaults)
            raw = await exchange.body(self._limit)
            with UnlessGone(exchange):
                await self._answer(exchange, visit, raw)
        except ClientGone:
            visit.outcome = "cancelled"
        except ApiError as error:
            await relay.refuse(exchange, visit, error)
        except Exception as error:  # noqa: BLE001 - what nobody foresaw is logged, and answered in OpenAI's shape, too
            log.error("a request failed: %s\n%s", type(error).__name__, "".join(format_tb(error.__traceback__)))
            await relay.refuse(exchange, visit, ApiError(500, "the proxy failed", code="internal_error"))
        except BaseException:
            visit.outcome = "failed"
            raise
        finally:
            self._services.ledger.write(visit.row())

    async def _answer(self, exchange: Exchange, visit: Visit, raw: bytes) -> None:
        plain = decoded(raw, exchange.headers.get("content-encoding", ""), self._limit)
        body = shapes.parsed(plain)  # what is no JSON object is the upstream's to refuse
        if plain is None or body is None:
            visit.skipped = {"unknown-shape": 1}
            await self._forward(exchange, visit, raw, without=_AS_IT_CAME, usage_is_ours=False)
            return
        visit.model, visit.streamed = str(body.get("model", ""))[:200], body.get("stream") is True
        wanted = visit.steering.mode == "latent" and not visit.steering.bypass and self._services.clara is not None
        if wanted or latent.is_name(visit.model):
            clara = clara_api.local(self._services)
            await latent.answer(exchange, visit, body, clara, self._services.settings.clara_timeout)
            return
        shorter = await self._condenser.condense(visit, plain, body, owner(exchange.headers))
        asks = self._asks_usage(visit, body)
        outgoing = _ASK_USAGE + shorter.lstrip()[1:] if asks else shorter
        visit.overhead = perf_counter() - visit.started
        if self._services.providers.serve(visit.model):
            sent = shapes.parsed(outgoing) or body
            await relay.from_provider(exchange, visit, self._services.providers, sent, strip_usage=asks)
        elif outgoing is plain:
            await self._forward(exchange, visit, raw, without=_AS_IT_CAME, usage_is_ours=False)
        else:
            await self._forward(exchange, visit, outgoing, without=_REFRAMED, usage_is_ours=asks)

    async def _forward(
        self, exchange: Exchange, visit: Visit, body: bytes, *, without: frozenset[bytes], usage_is_ours: bool
    ) -> None:
        settings = self._services.settings
        upward = headers.upward(exchange.raw_headers, key=settings.upstream_api_key, without=without)
        upward.append(("accept-encoding", "identity"))
        url = headers.target(settings.upstream_base_url, exchange.scope)
        visit.overhead = visit.overhead or perf_counter() - visit.started
        async with self._services.chat_upstream.send("POST", url, upward, body) as reply:
            await relay.from_upstream(exchange, visit, reply, strip_usage=usage_is_ours)

    def _asks_usage(self, visit: Visit, body: Json) -> bool:
        """Say whether we ask for the usage of a stream: only where the client said nothing about it."""
        wanted = self._services.settings.stream_usage and visit.mode != "off"
        return wanted and visit.streamed and "stream_options" not in body
