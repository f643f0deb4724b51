"""A ledger row in the words of OpenTelemetry's GenAI conventions. Pure; knows no library of theirs.

What is ours has names that begin with `clara.`. Which provider answered is told as far as a row shows it: by the
protocol and by the prefix of the model's name, as the conventions allow for proxies. The invariant: nothing here is
content, and no value breaks an encoder.
"""

from typing import NamedTuple

from ..stores.ledger_row import Row
from .label_names import replace_surrogates

CLARA_PROVIDER = "clara"  # as a provider: what was asked was answered here
AttributeValue = str | int | float | bool
_CHAT_PROTOCOLS = frozenset({"chat", "responses", "messages"})
_OPERATION_BY_PATH = {
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
    "/embed": "embeddings",
    "/compress": "chat",
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
    """What was asked of a model, and of whose."""

    name: str
    provider: str


def classify_operation(row: Row) -> Operation | None:
    """Return what a row asked of a model; None for one that asked none, such as a list of models or a count."""
    name = "chat" if row.protocol in _CHAT_PROTOCOLS else _OPERATION_BY_PATH.get(row.path)
    return None if name is None else Operation(name, _detect_provider(row))


def classify_error(row: Row) -> str | None:
    """Return the kind of a row's error: the status, or how it ended where that tells nothing; None if it is none."""
    if row.outcome in {"ok", "served", "cancelled"}:
        return None
    return str(row.status) if row.status >= 400 else row.outcome


def build_attributes(row: Row, what: Operation | None) -> dict[str, AttributeValue]:
    """Return the attributes of a row's span; what is not known is left out."""
    known: dict[str, AttributeValue | None] = {
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
    if what is not None:
        known |= _build_genai_attributes(row, what)
    return {name: value for name, value in known.items() if value is not None}


def _build_genai_attributes(row: Row, what: Operation) -> dict[str, AttributeValue | None]:
    return {
        "gen_ai.operation.name": what.name,
        "gen_ai.provider.name": what.provider,
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
