"""Map a ledger row to span attributes of OpenTelemetry's GenAI conventions. Pure; imports no OpenTelemetry library.

The proxy's own attributes begin with `clara.`. The provider is derived from the protocol and the prefix of the model's
name, as the conventions allow for proxies. Invariant: no attribute holds content, and every value can be encoded.
"""

from typing import NamedTuple

from ..stores.ledger_row import Row
from .label_names import replace_surrogates

CLARA_PROVIDER = "clara"  # the provider of requests that the local model answers
AttributeValue = str | int | float | bool
_CHAT_PROTOCOLS = frozenset({"chat", "responses", "messages"})
_OPERATION_BY_PATH = {
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
    "/embed": "embeddings",
    "/compress": "chat",
    "/clara/jobs": "chat",
}
_PROVIDER_BY_PREFIX = {
    "anthropic": "anthropic",
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "bedrock": "aws.bedrock",
    "cohere": "cohere",
    "deepseek": "deepseek",
    "gemini": "gcp.gemini",
    "groq": "groq",
    "mistral": "mistral_ai",
    "perplexity": "perplexity",
    "vertex_ai": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}


class Operation(NamedTuple):
    """The kind of a model call and the provider that served it."""

    name: str
    provider: str


def classify_operation(row: Row) -> Operation | None:
    """Return the model call of a row; None if it called no model (a list of models, a token count)."""
    name = "chat" if row.protocol in _CHAT_PROTOCOLS else _OPERATION_BY_PATH.get(row.path)
    return None if name is None else Operation(name, _detect_provider(row))


def classify_error(row: Row) -> str | None:
    """Return the error type of a row: its status if that is 400 or more, else its outcome; None for no error."""
    if row.outcome in {"ok", "served", "cancelled"}:
        return None
    return str(row.status) if row.status >= 400 else row.outcome


def build_attributes(row: Row, operation: Operation | None) -> dict[str, AttributeValue]:
    """Return the attributes of a row's span; unknown values are omitted."""
    attributes: dict[str, AttributeValue | None] = {
        "http.response.status_code": row.status or None,
        "error.type": classify_error(row),
        "clara.request.id": row.id,
        "clara.protocol": row.protocol,
        "clara.mode.asked": row.mode_asked,
        "clara.mode": row.mode_used,
        "clara.engine": row.engine,
        "clara.outcome": row.outcome,
        "clara.tokens.received": row.tokens_received,
        "clara.tokens.sent": row.tokens_sent,
        "clara.tokens.saved": row.saved_tokens,
        "clara.tokens.fetched_back": row.fetched_back_tokens,
        "clara.cost.dollars": row.cost,
        "clara.saved.dollars": row.saved_cost,
        "clara.overhead.seconds": row.overhead_ms / 1000,
        "clara.compressor.seconds": row.compressor_seconds,
        "clara.shadow_of": row.shadow_of or None,
    }
    if operation is not None:
        attributes |= _build_genai_attributes(row, operation)
    return {name: value for name, value in attributes.items() if value is not None}


def _build_genai_attributes(row: Row, operation: Operation) -> dict[str, AttributeValue | None]:
    return {
        "gen_ai.operation.name": operation.name,
        "gen_ai.provider.name": operation.provider,
        "gen_ai.request.model": replace_surrogates(row.model) or None,
        "gen_ai.request.stream": row.streamed,
        "gen_ai.usage.input_tokens": row.billed_input,
        "gen_ai.usage.output_tokens": row.billed_output,
        "gen_ai.usage.reasoning.output_tokens": row.billed_reasoning,
        "gen_ai.usage.cache_read.input_tokens": row.billed_cache_read,
        "gen_ai.usage.cache_creation.input_tokens": row.billed_cache_write,
    }


def _detect_provider(row: Row) -> str:
    if row.mode_used == "latent":
        return CLARA_PROVIDER
    if row.protocol == "messages":
        return "anthropic"
    return _PROVIDER_BY_PREFIX.get(row.model.partition("/")[0], "openai") if "/" in row.model else "openai"
