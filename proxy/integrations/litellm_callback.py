"""LiteLLM: a callback that shortens the messages of every chat just before they are sent, in this very process.

    litellm.callbacks = [ClaraCallback(ratio=4)]                          # in a program
    callbacks: clara_proxy.proxy.integrations.litellm_callback.callback   # in LiteLLM's proxy, under litellm_settings

Nothing is stored, so that markers name no hash; for originals that can be fetched back let LiteLLM's `headroom`
guardrail ask a running proxy. It fails open: messages that it does not understand are sent as they are. LiteLLM calls
such hooks for asynchronous requests only.
"""

import asyncio
from typing import Any

from litellm.integrations.custom_logger import CustomLogger
from litellm.types.utils import CallTypes  # pyright: ignore[reportMissingTypeStubs]

from ..protocols.json_types import is_array
from ..runtime.in_process import compress

CHAT_CALL_TYPES = frozenset({CallTypes.completion, CallTypes.acompletion})


class ClaraCallback(CustomLogger):
    """`ratio` is how many times smaller a passage should get; without one each gets what its kind deserves."""

    def __init__(self, ratio: float | None = None) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self._ratio = ratio

    async def async_pre_call_deployment_hook(
        self, kwargs: dict[str, Any], call_type: CallTypes | None
    ) -> dict[str, Any] | None:
        """Return the call with shorter messages, or None to leave it as it is."""
        messages: object = kwargs.get("messages")
        if call_type not in CHAT_CALL_TYPES or not is_array(messages):
            return None
        tools, model = kwargs.get("tools") or (), str(kwargs.get("model", ""))
        try:
            done = await asyncio.to_thread(compress, messages, model=model, ratio=self._ratio, tools=tools)
        except (TypeError, ValueError):  # messages of no known shape are the provider's to refuse
            return None
        return {**kwargs, "messages": done.messages} if done.tokens_saved > 0 else None


callback = ClaraCallback()
