"""A request without changes arrives byte for byte; in a compressed one every other value is equal as JSON."""

import gzip
import json
import subprocess
import zlib
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from shutil import which
from typing import Any

import httpx
import orjson
import pytest

from clara_proxy.config import zstd
from clara_proxy.proxy.http.body_budget import BodyBudget
from clara_proxy.proxy.http.content_encoding import decode_body
from clara_proxy.tests import running
from clara_proxy.tests.faulty import FaultyUpstream
from clara_proxy.tests.running import LOG_TEXT, Proxy, short_chat, tool_chat

PLAIN = orjson.dumps(short_chat())
UNUSUAL_BODIES = {
    "whitespace": b' \r\n\t{ "messages" : [ {"content":"hi" ,"role":\n"user"} ],  "model":"gpt-4o" } \n\n',
    "key order and unknown fields": b'{"zz":1,"messages":[{"x":{},"role":"user","content":""}],"a":null,"model":"m"}',
    "escapes": rb'{"model":"gpt\u002d4o","messages":[{"role":"user","content":"\u0041\/\u00e9\ud83d\ude00"}]}',
    "numbers": b'{"model":"m","messages":[],"seed":123456789012345678901234567890,"top_p":1.0e-0,"n":-0.0}',
    "duplicate keys": b'{"model":"a","model":"b","messages":[],"messages":[{"role":"user","content":"hi"}]}',
    "lone surrogate": rb'{"model":"m","messages":[{"role":"user","content":"\ud800"}]}',
    "not a number": b'{"model":"m","messages":[{"role":"user","content":"hi"}],"top_p":NaN,"n":Infinity}',
    "invalid JSON": b'{"model":"m","messages":[',
    "an array": b'[{"model":"m"}]',
    "a string": b'"messages"',
    "null": b"null",
    "an empty body": b"",
    "no model": b'{"messages":[{"role":"user","content":"hi"}]}',
    "a model that is an array": b'{"model":["a?"],"messages":[{"role":"user","content":"hi"}]}',
    "no messages": b'{"model":"m"}',
    "messages that are an object": b'{"model":"m","messages":{"role":"user"}}',
    "an unknown role": b'{"model":"m","messages":[{"role":"oracle","content":"hi"}]}',
    "strange contents": b'{"model":1,"messages":[{"role":"user","content":7},{"role":"tool","content":[{"text":1}]}]}',
    "strange calls": b'{"model":"m","tools":3,"messages":[{"role":"assistant","tool_calls":[1,{"function":[]}]}]}',
    "not UTF-8": b'{"model":"m","messages":[{"role":"user","content":"\xff\xfe"}]}',
    "a byte order mark": b"\xef\xbb\xbf" + PLAIN,
    "deeply nested": b'{"model":"m","x":' + b"[" * 900 + b"]" * 900 + b"}",
    "nested beyond all parsers": b'{"model":"m","x":' + b"[" * 9000 + b"]" * 9000 + b"}",
    "binary data": bytes(range(256)),
}


def parse_losslessly(text: bytes) -> Any:
    """Parse JSON with numbers as decimals, and with all values of a repeated key."""

    def group(pairs: list[tuple[str, Any]]) -> dict[str, list[Any]]:
        return {key: [value for name, value in pairs if name == key] for key, _ in pairs}

    return json.loads(text.decode(), object_pairs_hook=group, parse_float=Decimal, parse_int=Decimal)


@pytest.fixture(scope="module")
def small_proxy(_upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with running.run_proxy(_upstream.url, tmp_path_factory.mktemp("small"), max_body_mb=1) as proxy:
        yield proxy


@pytest.mark.parametrize("name", UNUSUAL_BODIES)
def test_a_body_arrives_as_it_was_sent(proxy: Proxy, upstream: FaultyUpstream, name: str) -> None:
    answer = proxy.post(UNUSUAL_BODIES[name])
    assert answer.status_code == 200, answer.text
    assert upstream.last_request.body == UNUSUAL_BODIES[name]
    assert upstream.last_request.header_values("content-length") == [b"%d" % len(UNUSUAL_BODIES[name])]
    assert answer.headers["x-clara-tokens-saved"] == "0"


def test_passive_modes_forward_the_body_unchanged(proxy: Proxy, upstream: FaultyUpstream) -> None:
    body = json.dumps(tool_chat(), indent=3).encode()
    for header, value in (("x_clara_mode", "off"), ("x_clara_bypass", "true"), ("x_clara_mode", "observe")):
        assert proxy.post(body, **{header: value}).status_code == 200
        assert upstream.last_request.body == body


def test_observe_mode_reports_possible_savings(proxy: Proxy, upstream: FaultyUpstream) -> None:
    body = tool_chat()
    observe_answer = proxy.post(body, x_clara_mode="observe")
    answer = proxy.post(body)
    assert int(observe_answer.headers["x-clara-would-save"]) == int(answer.headers["x-clara-tokens-saved"]) > 1000
    assert observe_answer.headers["x-clara-tokens-after"] == observe_answer.headers["x-clara-tokens-before"]
    row = proxy.wait_for_row(observe_answer)
    assert row.saved_tokens == 0
    assert row.would_send == int(answer.headers["x-clara-tokens-after"])


def test_a_bypassed_request_is_not_compressed(proxy: Proxy, upstream: FaultyUpstream) -> None:
    answer = proxy.post(tool_chat(), x_clara_bypass="yes", x_clara_mode="extract")
    assert answer.headers["x-clara-mode"] == "off"
    assert answer.headers["x-clara-skipped"] == "bypass=1"


def test_only_the_passage_differs(proxy: Proxy, upstream: FaultyUpstream) -> None:
    before = b'{ "x":[1.50,null,18446744073709551617] ,"model":"gpt-4o","messages":[\n'
    before += b'{"role":"user","content":"why \\u0041 \\ud83d?"},{"role":"assistant","content":null,"tool_calls":'
    before += b'[{"id":"c1","type":"function","function":{"name":"logs","arguments":"{ }"}}]},'
    before += b'{"role":"tool","tool_call_id":"c1","content" : '
    after = (
        b' ,"extra":"\\/","seed":1e400}\n] ,"temperature":1.0,"y":1,"y":{"z":0.1000000000000000055511151231257827}}\r\n'
    )
    answer = proxy.post(before + orjson.dumps(LOG_TEXT) + after)
    arrived = parse_losslessly(upstream.last_request.body)
    expected = parse_losslessly(before + orjson.dumps(LOG_TEXT) + after)
    compressed = arrived["messages"][0][2]["content"]
    assert 0 < len(compressed[0]) < len(LOG_TEXT) / 2
    expected["messages"][0][2]["content"] = compressed
    assert arrived == expected
    assert int(answer.headers["x-clara-tokens-saved"]) > 1000
    assert answer.headers["x-clara-engine"] == "extract"


def test_a_streamed_request_is_asked_for_usage_without_other_changes(proxy: Proxy, upstream: FaultyUpstream) -> None:
    body = b' { "model":"gpt-4o","stream":true,"seed":18446744073709551617,"messages":[{"role":"user","content":"hi"}]}'
    assert proxy.post(body).status_code == 200
    assert upstream.last_request.body == b'{"stream_options":{"include_usage":true},' + body.lstrip()[1:]


def compress_raw(data: bytes) -> bytes:
    """Compress without zlib's header, as some clients do for `deflate`."""
    encoder = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return encoder.compress(data) + encoder.flush()


ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstd.compress,
}


@pytest.mark.parametrize("encoding", ENCODERS)
def test_an_encoded_body_arrives_as_it_was_sent(proxy: Proxy, upstream: FaultyUpstream, encoding: str) -> None:
    encoded = ENCODERS[encoding](PLAIN)
    answer = proxy.post(encoded, content_encoding=encoding)
    assert upstream.last_request.body == encoded
    assert upstream.last_request.header_values("content-encoding") == [encoding.encode()]
    assert int(answer.headers["x-clara-tokens-before"]) > 0


@pytest.mark.parametrize("encoding", ENCODERS)
def test_an_encoded_body_is_compressed_too(proxy: Proxy, upstream: FaultyUpstream, encoding: str) -> None:
    answer = proxy.post(ENCODERS[encoding](orjson.dumps(tool_chat())), content_encoding=encoding.upper())
    assert int(answer.headers["x-clara-tokens-saved"]) > 1000
    assert upstream.last_request.json["model"] == "gpt-4o"
    assert upstream.last_request.header_values("content-encoding") == []


def test_a_body_in_an_unknown_encoding_is_forwarded_unchanged(proxy: Proxy, upstream: FaultyUpstream) -> None:
    answer = proxy.post(b"\x0b\x02\x80hi", content_encoding="br")
    assert answer.headers["x-clara-skipped"] == "unknown-shape=1"
    assert upstream.last_request.body == b"\x0b\x02\x80hi"
    assert upstream.last_request.header_values("content-encoding") == [b"br"]


INVALID_ENCODINGS = {
    "invalid gzip": ("gzip", b"certainly not"),
    "truncated gzip": ("gzip", gzip.compress(PLAIN)[:-9]),
    "truncated deflate": ("deflate", compress_raw(PLAIN)[:-9]),
    "invalid deflate": ("deflate", b"\xff\xff\xff"),
    "invalid zstd": ("zstd", b"certainly not"),
    "truncated zstd": ("zstd", zstd.compress(PLAIN * 50)[:-9]),
    "empty": ("gzip", b""),
}


@pytest.mark.parametrize("name", INVALID_ENCODINGS)
def test_an_invalid_encoding_is_rejected(proxy: Proxy, upstream: FaultyUpstream, name: str) -> None:
    encoding, body = INVALID_ENCODINGS[name]
    answer = proxy.post(body, content_encoding=encoding)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert answer.json()["error"]["code"] == "invalid_encoding"
    assert not upstream.requests
    row = proxy.wait_for_row(answer)
    assert (row.outcome, row.status, row.cost) == ("rejected", 400, 0.0)


@pytest.mark.parametrize("data", [PLAIN, orjson.dumps(tool_chat()), b"{}", b'{"model":"x"}' * 9000])
async def test_raw_deflate_is_read(data: bytes) -> None:
    with BodyBudget(2**30).reserve() as reservation:
        assert await decode_body(compress_raw(data), "deflate", len(data), reservation) == data
        assert await decode_body(zlib.compress(data, 0), "deflate", len(data), reservation) == data
        twice = gzip.compress(zlib.compress(data))
        assert await decode_body(twice, "Deflate, x-gzip", len(data) + 99, reservation) == data
        assert await decode_body(gzip.compress(data), "br, gzip", len(data), reservation) is None


def test_a_raw_deflate_body_is_compressed_too(proxy: Proxy, upstream: FaultyUpstream) -> None:
    answer = proxy.post(compress_raw(orjson.dumps(tool_chat())), content_encoding="deflate")
    assert int(answer.headers["x-clara-tokens-saved"]) > 1000
    assert upstream.last_request.json["model"] == "gpt-4o"


@pytest.mark.parametrize("encoding", ENCODERS)
def test_a_decompression_bomb_is_rejected(small_proxy: Proxy, upstream: FaultyUpstream, encoding: str) -> None:
    answer = small_proxy.post(ENCODERS[encoding](b" " * 30_000_000), content_encoding=encoding)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_too_large"
    assert not upstream.requests


def test_a_body_over_the_size_limit_is_rejected(small_proxy: Proxy, upstream: FaultyUpstream) -> None:
    overhead = len(orjson.dumps(short_chat(x="")))
    assert small_proxy.post(orjson.dumps(short_chat(x="x" * (2**20 - overhead)))).status_code == 200
    assert len(upstream.last_request.body) == 2**20
    answer = small_proxy.post(orjson.dumps(short_chat(x="x" * (2**20 - overhead + 1))))
    assert answer.status_code == 413
    assert small_proxy.wait_for_row(answer).outcome == "rejected"
    assert len(upstream.requests) == 1


def test_twenty_megabytes_arrive(proxy: Proxy, upstream: FaultyUpstream) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "QUJD" * 5_000_000}}
    body = orjson.dumps(short_chat(messages=[{"role": "user", "content": [picture]}]))
    assert proxy.post(body).status_code == 200
    assert upstream.last_request.body == body


@pytest.mark.skipif(which("curl") is None, reason="curl is not installed")
def test_curl_sends_a_large_body_after_100_continue(proxy: Proxy, upstream: FaultyUpstream, tmp_path: Path) -> None:
    file = tmp_path / "body.json"
    file.write_bytes(orjson.dumps(short_chat(x="x" * 3_000_000)))
    command = ["curl", "-sS", "--fail", "-H", "expect: 100-continue", "-H", "content-type: application/json"]
    url = f"{proxy.url}/v1/chat/completions"
    result = subprocess.run([*command, "--data-binary", f"@{file}", url], capture_output=True, check=True, timeout=60)
    assert orjson.loads(result.stdout)["choices"][0]["message"]["content"] == "the disk is full"
    assert upstream.last_request.body == file.read_bytes()
    assert upstream.last_request.header_values("expect") == []


def test_a_chunked_body_arrives_whole(proxy: Proxy, upstream: FaultyUpstream) -> None:
    answer = httpx.post(f"{proxy.url}/v1/chat/completions", content=iter([PLAIN[:10], PLAIN[10:]]))
    assert answer.status_code == 200
    assert upstream.last_request.body == PLAIN
    assert upstream.last_request.header_values("transfer-encoding") == []


def test_growing_conversations_are_forwarded_as_those_of_a_new_client(proxy: Proxy, upstream: FaultyUpstream) -> None:
    """What is remembered of a client's parsed messages does not change what is forwarded."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": "Find the fault. 🔎"}]
    for turn in range(6):
        call = {"id": f"c{turn}", "type": "function", "function": {"name": "logs", "arguments": f'{{"turn": {turn}}}'}}
        messages += [
            {"role": "user", "content": f"why did step {turn} fail?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": f"c{turn}", "content": f"{LOG_TEXT}\nERROR {turn} disk full"},
        ]
        branch = [*messages, {"role": "user", "content": "go on"}]
        for conversation, write in ((messages, orjson.dumps), (branch, orjson.dumps), (messages, json.dumps)):
            text = write({"model": "gpt-4o", "messages": conversation, "n": 1})
            body = text.encode() if isinstance(text, str) else text
            for key in ("one", f"another-{turn}-{len(body)}"):
                proxy.post(body, authorization=f"Bearer {key}", x_clara_retrieve="none")
            first, second = (request.body for request in upstream.requests[-2:])
            assert first == second
            assert len(first) < len(body) / 2
