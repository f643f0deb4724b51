"""LiteLLM: a callback that compresses the messages of every chat in the process of the caller.

    litellm.callbacks = [ClaraCallback(ratio=4)]                          # in a program
    callbacks: clara_proxy.proxy.integrations.litellm_callback.callback   # in LiteLLM's proxy, under litellm_settings

It stores no originals, so markers have no hash; to fetch originals back, let LiteLLM's `headroom` guardrail call a
running proxy. It fails open: messages of an unknown format are sent unchanged. LiteLLM calls such hooks for
asynchronous requests only.
"""

import asyncio
from typing import Any

from litellm.integrations.custom_logger import CustomLogger
from litellm.types.utils import CallTypes  # pyright: ignore[reportMissingTypeStubs]

from ..protocols.json_types import is_array
from ..runtime.in_process import compress

CHAT_CALL_TYPES = frozenset({CallTypes.completion, CallTypes.acompletion})


class ClaraCallback(CustomLogger):
    """Compresses chat messages; `ratio` is the compression ratio, by default chosen by the content of each passage."""

    def __init__(self, ratio: float | None = None) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self._ratio = ratio

    async def async_pre_call_deployment_hook(
        self, kwargs: dict[str, Any], call_type: CallTypes | None
    ) -> dict[str, Any] | None:
        """Return the call with compressed messages, or None to leave it unchanged."""
        messages: object = kwargs.get("messages")
        if call_type not in CHAT_CALL_TYPES or not is_array(messages):
            return None
        tools, model = kwargs.get("tools") or (), str(kwargs.get("model", ""))
        try:
            result = await asyncio.to_thread(compress, messages, model=model, ratio=self._ratio, tools=tools)
        except (TypeError, ValueError):  # the provider reports malformed messages
            return None
        return {**kwargs, "messages": result.messages} if result.tokens_saved > 0 else None


callback = ClaraCallback()
