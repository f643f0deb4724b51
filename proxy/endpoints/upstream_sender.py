"""Sends the bodies of one client's request upstream, with its headers."""

import logging
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from ..access import authentication
from ..http import headers
from ..http.exchange import Exchange
from ..http.relay import Reply
from ..protocols import json_types, offload
from ..protocols.protocol import ProtocolAdapter
from ..runtime.services import Services

_DROPPED_WHEN_REWRITTEN = frozenset({b"accept-encoding", b"content-encoding"})
_DROPPED_WHEN_UNCHANGED = frozenset({b"accept-encoding"})
_IDENTITY = (("accept-encoding", "identity"),)
_USAGE_PREFIX = b'{"stream_options":{"include_usage":true},'  # of a body with the field added by the proxy
_REFUSAL_STATUSES = frozenset({400, 422})
log = logging.getLogger(__name__)


class UpstreamSender:
    """Sends bodies upstream with the headers of one client's request. The client's key goes to its upstream only.

    Bodies that ask for usage on the proxy's behalf come with `usage_refusals`: the base URLs of upstreams that have
    refused to be asked. An upstream that refuses gets the body again without that field, and is not asked again.
    """

    def __init__(
        self,
        services: Services,
        adapter: ProtocolAdapter,
        exchange: Exchange,
        *,
        through_litellm: bool = False,
        usage_refusals: set[str] | None = None,
        is_shadow: bool = False,
    ) -> None:
        self._services, self._adapter, self._exchange = services, adapter, exchange
        self._through_litellm = through_litellm
        self._usage_refusals = usage_refusals
        settings = services.settings
        self._base_url = settings.anthropic_base_url if adapter.is_anthropic else settings.upstream_base_url
        self._request_count = 0
        self._is_shadow = is_shadow
        self._accepts_usage = False  # a round has succeeded, so a later refusal has another reason

    def __call__(self, body: bytes) -> AbstractAsyncContextManager[Reply]:
        """Send a body that the proxy has written."""
        if self._through_litellm:
            return self._send_to_litellm(body)
        if self._usage_refusals is not None and body.startswith(_USAGE_PREFIX):
            return self._send_with_usage(body, self._usage_refusals)
        return self._send_upstream(body, _DROPPED_WHEN_REWRITTEN)

    @asynccontextmanager
    async def _send_to_litellm(self, body: bytes) -> AsyncGenerator[Reply]:
        fields = await offload.run_for(len(body), json_types.parse_object, body)
        async with self._services.providers.send(fields or {}) as reply:
            yield reply

    def send_unchanged(self, body: bytes) -> AbstractAsyncContextManager[Reply]:
        """Send the client's own body, in its own encoding."""
        return self._send_upstream(body, _DROPPED_WHEN_UNCHANGED)

    @asynccontextmanager
    async def _send_with_usage(self, body: bytes, refusals: set[str]) -> AsyncGenerator[Reply]:
        """Send a body that asks for usage, and if it is refused, the body without that field."""
        if self._base_url not in refusals:
            async with self._send_upstream(body, _DROPPED_WHEN_REWRITTEN) as reply:
                if reply.status not in _REFUSAL_STATUSES or self._accepts_usage:
                    self._accepts_usage = self._accepts_usage or reply.status < 400
                    yield reply
                    return
        async with self._send_upstream(b"{" + body[len(_USAGE_PREFIX) :], _DROPPED_WHEN_REWRITTEN) as reply:
            if reply.status < 400 and self._base_url not in refusals:
                refusals.add(self._base_url)
                log.info("the upstream refuses stream_options; from now on streams are not asked for their usage")
            yield reply

    def _send_upstream(self, body: bytes, excluded: frozenset[bytes]) -> AbstractAsyncContextManager[Reply]:
        upstream_headers = authentication.build_upstream_headers(
            self._exchange,
            self._services.settings,
            is_anthropic=self._adapter.is_anthropic,
            excluded=excluded,
            added=_IDENTITY,
        )
        upstream_headers = self._renew_idempotency_key(upstream_headers)
        url = headers.build_upstream_url(self._base_url, self._exchange.scope)
        return self._services.chat_upstream.send("POST", url, upstream_headers, body)

    def _renew_idempotency_key(self, upstream_headers: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        """Give shadow checks and further requests keys of their own: else an upstream would repeat its first reply."""
        self._request_count += 1
        if self._request_count == 1 and not self._is_shadow:
            return upstream_headers
        suffix = "shadow" if self._is_shadow else self._request_count
        return tuple(
            [
                (name, f"{value}-{suffix}" if name.lower().endswith("idempotency-key") else value)
                for name, value in upstream_headers
            ]
        )
