"""Ledger rows as attributes of the GenAI conventions: operation, provider, usage, and no content."""

from typing import Any

import pytest

from clara_proxy.config.prices import Price
from clara_proxy.proxy.stores.accounting import apply_bill
from clara_proxy.proxy.stores.ledger_row import Outcome, Row
from clara_proxy.proxy.stores.usage import Usage
from clara_proxy.proxy.watch.genai_attributes import (
    CLARA_PROVIDER,
    Operation,
    build_attributes,
    classify_error,
    classify_operation,
)


def row(**values: Any) -> Row:
    defaults: dict[str, Any] = {
        "id": "req_1",
        "at": 1.0,
        "protocol": "chat",
        "path": "/v1/chat/completions",
        "model": "gpt-4o",
    }
    return Row(**(defaults | values))


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({}, "chat"),
        ({"protocol": "responses", "path": "/v1/responses"}, "chat"),
        ({"protocol": "messages", "path": "/v1/messages"}, "chat"),
        ({"protocol": "passthrough", "path": "/v1/completions"}, "text_completion"),
        ({"protocol": "passthrough", "path": "/v1/embeddings"}, "embeddings"),
        ({"protocol": "clara", "path": "/embed"}, "embeddings"),
        ({"protocol": "clara", "path": "/compress"}, "chat"),
        ({"protocol": "passthrough", "path": "/v1/models"}, None),
        ({"protocol": "count_tokens", "path": "/v1/messages/count_tokens"}, None),
        ({"protocol": "retrieve", "path": "/v1/retrieve"}, None),
        ({"protocol": "compress", "path": "/v1/compress"}, None),
    ],
)
def test_model_calls_are_operations(values: dict[str, str], name: str | None) -> None:
    operation = classify_operation(row(**values))
    assert (operation.name if operation is not None else None) == name


@pytest.mark.parametrize(
    ("values", "provider"),
    [
        ({}, "openai"),
        ({"model": "anthropic/claude-x"}, "anthropic"),
        ({"model": "bedrock/claude-x"}, "aws.bedrock"),
        ({"model": "someone/llama"}, "openai"),
        ({"model": "gemini"}, "openai"),
        ({"protocol": "messages"}, "anthropic"),
        ({"mode_used": "latent", "model": "clara"}, CLARA_PROVIDER),
    ],
)
def test_provider_is_derived_from_protocol_and_model(values: dict[str, str], provider: str) -> None:
    assert classify_operation(row(**values)) == Operation("chat", provider)


@pytest.mark.parametrize(
    ("outcome", "status", "kind"),
    [
        ("ok", 200, None),
        ("served", 200, None),
        ("cancelled", 0, None),
        ("rejected", 429, "429"),
        ("upstream_error", 503, "503"),
        ("upstream_error", 200, "upstream_error"),
        ("failed", 0, "failed"),
    ],
)
def test_failed_requests_have_an_error_type(outcome: Outcome, status: int, kind: str | None) -> None:
    assert classify_error(row(outcome=outcome, status=status)) == kind


def test_usage_is_the_billed_one() -> None:
    price = Price(input=1e-6, output=2e-6, cache_read=1e-7)
    billed = apply_bill(row(tokens_received=900, tokens_sent=500, status=200), Usage(510, 20, 5, 256, 0), price)
    attributes = build_attributes(billed, classify_operation(billed))
    assert attributes["gen_ai.usage.input_tokens"] == 510
    assert attributes["gen_ai.usage.output_tokens"] == 20
    assert attributes["gen_ai.usage.reasoning.output_tokens"] == 5
    assert attributes["gen_ai.usage.cache_read.input_tokens"] == 256
    assert attributes["clara.tokens.saved"] == 400
    assert attributes["clara.cost.dollars"] == billed.cost
    assert attributes["gen_ai.request.model"] == "gpt-4o"


def test_unknown_values_are_omitted() -> None:
    unknown = row()
    attributes = build_attributes(unknown, classify_operation(unknown))
    assert not [name for name in attributes if name.startswith("gen_ai.usage.")]
    assert {"error.type", "clara.cost.dollars", "http.response.status_code"}.isdisjoint(attributes)


def test_client_labels_are_omitted_and_values_encodable() -> None:
    secret = "secret-label"
    labelled = row(
        session=secret, user=secret, project=secret, tags=f'{{"a": "{secret}"}}', key=secret, model="a\ud800b"
    )
    attributes = build_attributes(labelled, classify_operation(labelled))
    assert secret not in str(attributes)
    assert str(attributes["gen_ai.request.model"]).encode().decode() == "a?b"
