"""Names of models that could change a URL, and URLs of private addresses that this process would fetch."""

import ipaddress
from typing import Any

import pytest

from clara_proxy.proxy.http import model_names
from clara_proxy.proxy.protocols.api_errors import ApiError


@pytest.mark.parametrize(
    "name",
    [
        "azure/../../../openai/fine_tuning/jobs?x=1#",
        *("..", "a/..", "../a", "a/./b", "a\\..\\b", "a/%2e%2e/b", "a/%2E./b", "a%252e", "a%2fb", "a%00"),
        *("a?b", "a#b", "a\nb", "a\0", "a\x7f", "a\x9b", "a\u2028b", "x" * 257),
    ],
)
def test_a_name_that_could_change_a_url_is_rejected(name: str) -> None:
    with pytest.raises(ApiError) as caught:
        model_names.validate_model(name)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "invalid_model", "model")


@pytest.mark.parametrize(
    "name",
    [
        *("gpt-4o", "gpt-3.5-turbo", "ft:gpt-4o:org::id", "accounts/fireworks/models/x", "@cf/meta/llama-3", ""),
        *("hf.co/x/y:Q4_K_M", "C:\\models\\x.gguf", "bedrock/arn:aws:bedrock:us-east-1:1:profile/x", "my model"),
        *("a..b/c", "x" * 256, None, 5),
    ],
)
def test_names_in_use_are_accepted(name: object) -> None:
    model_names.validate_model(name)


def build_messages(url: str, kind: str = "image_url") -> list[dict[str, Any]]:
    part: dict[str, Any] = {"type": kind, kind: {"url": url}} if kind == "image_url" else {"type": "x", kind: url}
    return [{"role": "user", "content": [{"type": "text", "text": "look"}, part]}]


PRIVATE_URLS = (
    *("http://127.0.0.1/x", "http://localhost:8765/", "HTTP://LOCALHOST./", "http://10.0.0.1", "https://192.168.1.1/"),
    *(
        "http://169.254.169.254/latest/meta-data",
        "http://metadata.google.internal/",
        "http://printer/",
        "http://nas.lan/",
    ),
    *("http://2130706433/", "http://0177.0.0.1/", "http://0x7f.1/", "http://127.1/", "http://0/", "http://100.64.0.1/"),
    *("http://[::1]/", "http://[::ffff:127.0.0.1]/", "http://[fe80::1%25eth0]/", "http://[fd00::1]/"),
    *("http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::]/", "http://user:pass@10.0.0.1/", " http://127.0.0.1/"),
    *("http:127.0.0.1/", "file:///etc/passwd", "ftp://8.8.8.8/x", "gopher://8.8.8.8/", "http://[::1", "http:///x"),
)


@pytest.mark.parametrize("url", PRIVATE_URLS)
@pytest.mark.parametrize("kind", ["image_url", "file_url", "video_url", "file_id"])
async def test_a_url_of_a_private_address_is_rejected(url: str, kind: str) -> None:
    with pytest.raises(ApiError) as caught:
        await model_names.reject_private_urls(build_messages(url, kind))
    assert (caught.value.status, caught.value.code) == (400, "private_address")
    assert "127" not in caught.value.message


async def test_a_name_that_resolves_to_a_private_address_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(_host: str) -> list[Any]:
        return [ipaddress.ip_address(text) for text in addresses]

    monkeypatch.setattr(model_names, "_resolve", resolve)
    addresses = ["93.184.216.34"]
    await model_names.reject_private_urls(build_messages("https://example.com/a.png"))
    addresses = ["93.184.216.34", "10.0.0.1"]
    with pytest.raises(ApiError):
        await model_names.reject_private_urls(build_messages("https://example.com/a.png"))


@pytest.mark.parametrize("url", ["http://8.8.8.8/a.png", "data:image/png;base64,AAAA", "gs://bucket/x", "file-abc123"])
async def test_public_urls_and_data_are_accepted(url: str) -> None:
    await model_names.reject_private_urls(build_messages(url))


async def test_urls_in_text_are_no_references() -> None:
    text = "http://127.0.0.1/"
    call = {"id": "c", "type": "function", "function": {"name": "get", "arguments": text}}
    messages = [
        {"role": "user", "content": text},
        {"role": "user", "content": [{"type": "text", "text": text}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": text},
    ]
    await model_names.reject_private_urls(messages)
