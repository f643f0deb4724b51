"""A proxy with keys: admitted and rejected requests, upstream credentials and ledger rows."""

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from clara_proxy.config.server_settings import LitellmModel
from clara_proxy.proxy.stores.api_keys import KEY_PREFIX
from clara_proxy.tests.faulty import FaultyUpstream
from clara_proxy.tests.proxy import issue
from clara_proxy.tests.proxy.protocols.chat_upstream import run_model as plays_chat
from clara_proxy.tests.proxy.protocols.messages_upstream import run_model as plays
from clara_proxy.tests.proxy.protocols.messages_upstream import text
from clara_proxy.tests.running import LOG_TEXT, TIMEOUT, Proxy, short_chat, tool_chat

CHAT, OTHER, MESSAGES = "/v1/chat/completions", "/v1/embeddings", "/v1/messages"
ADMIN_PATHS = (
    *("/stats", "/v1/savings", "/metrics", "/dashboard", "/dashboard/data", "/status", "/docs", "/openapi.json"),
    *("/redoc", "/anything", "/", "/stats/", "//v1/models", "/V1/models", "/v1", "/v1x", "/%73tats", "/v1/%73avings"),
)
OPENAI_KEY, ANTHROPIC_KEY, CLIENT_KEY = "sk-operator-openai", "sk-operator-anthropic", "sk-client-of-their-own"
HI: Any = {"model": "claude-x", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(scope="module")
def keyed(_upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy with keys of its own and one for each upstream."""
    folder = tmp_path_factory.mktemp("keyed")
    with issue.run_proxy(_upstream.url, folder, upstream_api_key=OPENAI_KEY, anthropic_api_key=ANTHROPIC_KEY) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def alice(keyed: Proxy) -> str:
    return wait_for_key(keyed, issue.create_key(keyed.folder, "alice", project="search"))


@pytest.fixture(scope="module")
def root(keyed: Proxy, alice: str) -> str:
    return wait_for_key(keyed, issue.create_key(keyed.folder, "root", admin=True))


@pytest.fixture(scope="module")
def bare(_upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Proxy, str]]:
    """A proxy with a key of its own and none for the upstream."""
    folder = tmp_path_factory.mktemp("bare")
    model = LitellmModel(name="own-model", litellm="openai/x", api_key="sk-own", api_base=f"{_upstream.url}/provider")
    key = issue.create_key(folder, "alice")
    with issue.run_proxy(_upstream.url, folder, models=(model,)) as proxy:
        yield proxy, key


def wait_for_key(proxy: Proxy, key: str) -> str:
    """Wait until the proxy knows the key, and return the key."""
    issue.wait_until(lambda: send(proxy, "/v1/retrieve/0123456789abcdef", key, method="GET").status_code == 404)
    return key


def send(proxy: Proxy, path: str, key: str | None = None, *, method: str = "POST", **headers: str) -> httpx.Response:
    all_headers = {name.replace("_", "-"): value for name, value in headers.items()}
    all_headers |= {"authorization": f"Bearer {key}"} if key else {}
    body: dict[str, Any] = {"json": HI if path.startswith(MESSAGES) else short_chat()} if method == "POST" else {}
    return issue.send_request(proxy, path, method=method, headers=all_headers, **body)


def clients(proxy: Proxy, key: str, **more: Any) -> tuple[openai.OpenAI, anthropic.Anthropic]:
    options: dict[str, Any] = {"api_key": key, "max_retries": 0, **more}
    return openai.OpenAI(base_url=f"{proxy.url}/v1", **options), anthropic.Anthropic(base_url=proxy.url, **options)


def credentials(upstream: FaultyUpstream) -> set[tuple[str, str]]:
    names = ("authorization", "x-api-key", "api-key", "x-clara-key", "cookie")
    return {(name, value.decode()) for name in names for value in upstream.last_request.header_values(name)}


def as_any(value: Any) -> Any:
    """Return the value with the type Any, for type checkers."""
    return value


def received_bytes(upstream: FaultyUpstream) -> bytes:
    """Return all bytes of the latest request to the upstream."""
    last = upstream.last_request
    return last.request_line + b"".join(name + b":" + value + b"\n" for name, value in last.headers) + last.body


# admission


@pytest.mark.parametrize("path", [CHAT, OTHER, "/v1/responses", "/v1/models", "/v1/compress", "/compress", "/embed"])
@pytest.mark.parametrize("presented", [None, CLIENT_KEY, KEY_PREFIX + "0" * 56])
def test_requests_without_a_key_of_the_proxy_are_rejected(
    keyed: Proxy, alice: str, upstream: FaultyUpstream, path: str, presented: str | None
) -> None:
    answer = send(keyed, path, presented)
    assert answer.status_code == 401
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    has_prefix = presented is not None and presented.startswith(KEY_PREFIX)
    assert (error["type"], error["code"]) == (
        "authentication_error",
        "invalid_api_key" if has_prefix else "key_needed",
    )
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert not upstream.requests


def test_health_checks_need_no_key(keyed: Proxy, alice: str) -> None:
    for path in ("/livez", "/readyz", "/health"):
        assert send(keyed, path, method="GET").status_code == 200


def test_rejections_leave_rows_but_cannot_fill_the_disk(tmp_path: Path, upstream: FaultyUpstream) -> None:
    key = issue.create_key(tmp_path, "alice", project="search")
    with issue.run_proxy(upstream.url, tmp_path) as proxy:
        for presented, name, project in ((None, "", ""), (key, "alice", "search")):
            answer = send(proxy, "/stats", presented, method="GET")
            row = proxy.wait_for_row(answer)
            assert (row.outcome, row.status, row.path) == ("rejected", answer.status_code, "/stats")
            assert (row.protocol, row.key, row.project, row.cost) == ("gate", name, project, 0.0)
        long = f"/v1/{'x' * 5000}"
        assert len(proxy.wait_for_row(send(proxy, long, method="GET")).path) == 200
        answers = [send(proxy, "/stats", method="GET") for _ in range(70)]
        assert {answer.status_code for answer in answers} == {401}
        last = proxy.wait_for_row(send(proxy, "/stats", key, method="GET"))  # a known key still leaves a row
        assert last.key == "alice"
    rows = [row for row in issue.read_rows(tmp_path) if not row.key]
    assert len(rows) == 60


def test_a_rejected_upload_is_answered_without_reading_it(keyed: Proxy, alice: str) -> None:
    with httpx.Client(timeout=TIMEOUT) as client:
        for _ in range(3):
            answer = client.post(keyed.url + CHAT, content=b"x" * 5_000_000)
            assert answer.status_code == 401
        assert client.get(f"{keyed.url}/livez").status_code == 200


def test_real_clients_authenticate_with_a_key(keyed: Proxy, alice: str, upstream: FaultyUpstream) -> None:
    openai_client, anthropic_client = clients(keyed, alice)
    with openai_client, anthropic_client:
        answer = as_any(openai_client.chat.completions.with_raw_response.create(**short_chat()))
        assert answer.parse().choices[0].message.content == "the disk is full"
        assert credentials(upstream) == {("authorization", f"Bearer {OPENAI_KEY}")}
        row = keyed.wait_for_row(answer)
        assert (row.key, row.project, row.outcome) == ("alice", "search", "ok")
        plays(upstream, lambda _: [text("hello")])
        message = as_any(anthropic_client.messages.create(**HI))
        assert message.content[0].to_dict()["text"] == "hello"
        assert credentials(upstream) == {("authorization", f"Bearer {ANTHROPIC_KEY}")}
        assert KEY_PREFIX.encode() not in received_bytes(upstream)


def test_rows_of_all_protocols_have_the_keys_name(keyed: Proxy, alice: str, upstream: FaultyUpstream) -> None:
    labels = {"x_clara_session": "protocols", "x_clara_project": "mine"}
    streamed = keyed.post(short_chat(stream=True), authorization=f"Bearer {alice}", **labels)
    assert streamed.content.endswith(b"data: [DONE]\n\n")
    for answer in (streamed, send(keyed, OTHER, alice, **labels)):
        row = keyed.wait_for_row(answer)
        assert (row.key, row.project, row.session, row.outcome) == ("alice", "mine", "protocols", "ok")
    body = {"messages": tool_chat()["messages"], "model": "gpt-4o"}
    short = keyed.post(body, "/v1/compress", authorization=f"Bearer {alice}")
    assert keyed.wait_for_row(short).key == "alice"
    keyed.post({"memories": ["a"], "query": "b"}, "/compress", authorization=f"Bearer {alice}", x_clara_session="own")
    assert keyed.wait_for_row("own").key == "alice"


@pytest.mark.parametrize("where", ["authorization", "x-api-key", "api-key", "x-clara-key"])
@pytest.mark.parametrize("path", [CHAT, OTHER, MESSAGES, "/v1/messages/count_tokens", "/v1/responses"])
def test_a_key_of_the_proxy_is_never_sent_upstream(
    keyed: Proxy, alice: str, upstream: FaultyUpstream, path: str, where: str
) -> None:
    other_headers = {"cookie": f"key={alice}", "x-copy": alice, "x-clara-key": alice, "x-fine": "1"}
    body = HI if path.startswith(MESSAGES) else {**short_chat(), "input": "hi"}
    for headers in ({where: alice}, other_headers | {where: f"Bearer {alice}" if where == "authorization" else alice}):
        answer = issue.send_request(keyed, path, method="POST", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        assert KEY_PREFIX.encode() not in received_bytes(upstream)
        key = ANTHROPIC_KEY if path.startswith(MESSAGES) else OPENAI_KEY
        bearer = list(headers) == ["authorization"] or not path.startswith(MESSAGES)
        assert credentials(upstream) == {("authorization", f"Bearer {key}") if bearer else ("x-api-key", key)}
        assert upstream.last_request.header_values("x-fine") == ([b"1"] if "x-fine" in headers else [])


# the key for the upstream


def test_a_clients_upstream_key_is_forwarded_without_the_proxys_key(
    bare: tuple[Proxy, str], upstream: FaultyUpstream
) -> None:
    proxy, key = bare
    openai_client, anthropic_client = clients(proxy, CLIENT_KEY, default_headers={"x-clara-key": key})
    with openai_client, anthropic_client:
        openai_client.chat.completions.create(**short_chat())
        assert credentials(upstream) == {("authorization", f"Bearer {CLIENT_KEY}")}
        assert not upstream.last_request.header_values("x-clara-key")
        plays(upstream, lambda _: [text("hello")])
        anthropic_client.messages.create(**HI)
        assert credentials(upstream) == {("authorization", f"Bearer {CLIENT_KEY}")}
        assert key.encode() not in received_bytes(upstream)


def test_without_an_upstream_key_nothing_is_sent_and_the_error_says_why(
    bare: tuple[Proxy, str], upstream: FaultyUpstream
) -> None:
    proxy, key = bare
    openai_client, anthropic_client = clients(proxy, key)
    with openai_client, anthropic_client:
        with pytest.raises(openai.AuthenticationError, match="CLARA_UPSTREAM_API_KEY") as caught:
            openai_client.chat.completions.create(**short_chat())
        assert caught.value.code == "no_upstream_key"
        with pytest.raises(anthropic.AuthenticationError, match="CLARA_ANTHROPIC_API_KEY"):
            anthropic_client.messages.create(**HI)
        with pytest.raises(openai.AuthenticationError, match="CLARA_UPSTREAM_API_KEY"):
            openai_client.embeddings.create(model="x", input="hi")
        assert openai_client.models.list().data[0].id == "own-model"
    assert not upstream.requests


def test_requests_without_an_upstream_need_no_upstream_key(bare: tuple[Proxy, str], upstream: FaultyUpstream) -> None:
    proxy, key = bare
    answer = proxy.post({**short_chat(), "model": "own-model"}, authorization=f"Bearer {key}")
    assert answer.status_code == 200, answer.text
    assert upstream.last_request.header_values("authorization") == [b"Bearer sk-own"]
    assert proxy.wait_for_row(answer).key == "alice"
    body = {"messages": tool_chat()["messages"], "model": "gpt-4o"}
    assert proxy.post(body, "/v1/compress", authorization=f"Bearer {key}").status_code == 200


def test_a_key_of_the_proxy_is_valid_for_claras_endpoints(tmp_path: Path, upstream: FaultyUpstream) -> None:
    key = issue.create_key(tmp_path, "alice")
    body = {"memories": ["a"], "query": "b"}
    with issue.run_proxy(upstream.url, tmp_path, api_key="other") as proxy:
        assert proxy.post(body, "/compress", authorization="Bearer other").status_code == 401
        assert proxy.post(body, "/compress", authorization=f"Bearer {key}").status_code == 503  # there is no model


# originals


def test_originals_belong_to_the_key_that_stored_them(keyed: Proxy, alice: str, upstream: FaultyUpstream) -> None:
    bob = wait_for_key(keyed, issue.create_key(keyed.folder, "bob"))
    stored = keyed.post(tool_chat(), authorization=f"Bearer {CLIENT_KEY}", x_clara_key=alice, x_clara_retrieve="url")
    assert stored.status_code == 200
    sent = upstream.last_request.json["messages"][-1]["content"]
    (name,) = re.findall(r"/v1/retrieve/([0-9a-f]+)", sent)
    path = f"/v1/retrieve/{name}"
    answer = send(keyed, path, alice, method="GET")
    assert answer.json()["original_content"].startswith(LOG_TEXT)
    assert send(keyed, path, bob, method="GET").status_code == 404
    assert send(keyed, path, CLIENT_KEY, method="GET", x_clara_key=bob).status_code == 404
    assert send(keyed, path, CLIENT_KEY, method="GET", x_clara_key=alice).status_code == 200


# admin keys


@pytest.mark.parametrize("path", ADMIN_PATHS)
def test_paths_outside_the_api_need_an_admin_key(
    keyed: Proxy, alice: str, root: str, upstream: FaultyUpstream, path: str
) -> None:
    assert send(keyed, path, method="GET").status_code == 401
    refused = send(keyed, path, alice, method="GET")
    assert (refused.status_code, refused.json()["error"]["type"]) == (403, "permission_error")
    assert "alice" in refused.json()["error"]["message"]
    assert send(keyed, path, root, method="GET").status_code not in (401, 403)
    assert not upstream.requests


def test_only_an_admin_key_unloads_the_model(keyed: Proxy, alice: str, root: str) -> None:
    assert send(keyed, "/unload").status_code == 401
    assert send(keyed, "/unload", alice).status_code == 403
    assert send(keyed, "/unload", root).status_code == 503  # there is no model


def test_an_admin_key_is_valid_for_the_api(keyed: Proxy, root: str, upstream: FaultyUpstream) -> None:
    assert keyed.wait_for_row(send(keyed, CHAT, root)).key == "root"


def test_a_browser_sends_the_key_as_its_password(keyed: Proxy, alice: str, root: str) -> None:
    answer = issue.send_request(keyed, "/stats")
    assert (answer.status_code, answer.headers["www-authenticate"][:5]) == (401, "Basic")
    assert issue.send_request(keyed, "/stats", auth=("", root)).status_code == 200
    assert issue.send_request(keyed, "/stats", auth=("any", root)).status_code == 200
    again = issue.send_request(keyed, "/stats", auth=("", alice))  # so that the browser asks for another password
    assert (again.status_code, again.headers["www-authenticate"][:5]) == (401, "Basic")
    assert issue.send_request(keyed, "/stats", auth=("", "wrong")).status_code == 401


def test_a_password_is_rejected_for_the_api_and_other_origins(
    keyed: Proxy, root: str, upstream: FaultyUpstream
) -> None:
    signed_in = ("", root)
    assert issue.send_request(keyed, CHAT, method="POST", json=short_chat(), auth=signed_in).status_code == 401
    for headers in ({"origin": "https://evil.com"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
        assert issue.send_request(keyed, "/unload", method="POST", headers=headers, auth=signed_in).status_code == 403
    for own in ({"origin": keyed.url}, {"sec-fetch-site": "same-origin"}, {}):
        assert issue.send_request(keyed, "/unload", method="POST", headers=own, auth=signed_in).status_code == 503
    assert not upstream.requests


# limits


def create_limited_key(keyed: Proxy, name: str, **limits: Any) -> str:
    return wait_for_key(keyed, issue.create_key(keyed.folder, name, **limits))


def test_too_many_requests_a_minute_get_a_retry_time(keyed: Proxy, root: str, upstream: FaultyUpstream) -> None:
    key = issue.create_key(keyed.folder, "quick", requests_per_minute=2)
    issue.wait_until(
        lambda: send(keyed, "/stats", key, method="GET").status_code == 403
    )  # this does not count against the limit
    openai_client, anthropic_client = clients(keyed, key)
    with openai_client, anthropic_client:
        openai_client.chat.completions.create(**short_chat())
        plays(upstream, lambda _: [text("hello")])
        anthropic_client.messages.create(**HI)
        request_count = len(upstream.requests)
        with pytest.raises(openai.RateLimitError) as caught:
            openai_client.chat.completions.create(**short_chat())
        assert caught.value.code == "rate_limit_exceeded"
        assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60
        with pytest.raises(anthropic.RateLimitError) as anthropic_error:
            anthropic_client.messages.create(**HI)
        body: Any = anthropic_error.value.body
        assert (body["type"], body["error"]["type"]) == ("error", "rate_limit_error")
        assert "retry-after" in anthropic_error.value.response.headers
        assert len(upstream.requests) == request_count
        refused: Any = caught.value.response
        row = keyed.wait_for_row(refused)
        assert (row.key, row.outcome, row.status, row.cost) == ("quick", "rejected", 429, 0.0)
    assert send(keyed, CHAT, root).status_code == 200  # each key has its own limit


@pytest.mark.parametrize("budget", [{"tokens_per_day": 12}, {"dollars_per_day": 0.0001}])
def test_a_spent_budget_is_a_429_that_clients_do_not_retry(
    keyed: Proxy, root: str, upstream: FaultyUpstream, budget: dict[str, Any]
) -> None:
    name = f"poor-{next(iter(budget))[:6]}"
    key = create_limited_key(keyed, name, **budget)
    openai_client = openai.OpenAI(base_url=f"{keyed.url}/v1", api_key=key, max_retries=5)
    with openai_client:
        openai_client.chat.completions.create(**short_chat())  # the upstream bills 40 input and 5 output tokens
        request_count = len(upstream.requests)
        with pytest.raises(openai.RateLimitError, match=f"the key '{name}' has used up its budget") as caught:
            openai_client.chat.completions.create(**short_chat())
    assert caught.value.code == "insufficient_quota"
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 86_400
    assert len(upstream.requests) == request_count

    def count_refusals() -> int:
        return len([row for row in keyed.read_rows() if row.key == name and row.status == 429])

    issue.wait_until(lambda: count_refusals() > 0)
    assert count_refusals() == 1  # the client did not retry
    assert send(keyed, "/v1/models", key, method="GET").status_code == 429


def test_a_key_with_a_budget_may_only_use_metered_paths(keyed: Proxy, alice: str, upstream: FaultyUpstream) -> None:
    key = create_limited_key(keyed, "metered", tokens_per_day=10**6)
    refused = send(keyed, OTHER, key)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "unmetered")
    assert not upstream.requests
    for path in (CHAT, MESSAGES, "/v1/messages/count_tokens", "/v1/responses", "/v1/compress"):
        assert send(keyed, path, key).status_code not in (401, 403), path
    assert send(keyed, "/v1/models", key, method="GET").status_code == 200
    assert send(keyed, OTHER, alice).status_code == 200


@pytest.mark.parametrize("headers", [{}, {"x_clara_bypass": "true"}, {"x_clara_mode": "off"}], ids=str)
def test_a_stream_always_counts_against_the_budget(
    keyed: Proxy, upstream: FaultyUpstream, headers: dict[str, str]
) -> None:
    key = create_limited_key(keyed, f"streams-{len(headers)}{'mode' in str(headers)}", tokens_per_day=12)
    plays_chat(upstream, lambda _: {"content": "hello"})
    first = keyed.post(short_chat(stream=True), authorization=f"Bearer {key}", **headers)
    assert first.status_code == 200
    assert '"usage"' not in first.text  # the client did not request it
    row = keyed.wait_for_row(first)
    assert (row.billed_input, row.billed_output) == (40, 5)
    assert keyed.post(short_chat(stream=True), authorization=f"Bearer {key}", **headers).status_code == 429


def test_a_client_with_a_budget_cannot_hide_its_usage(keyed: Proxy, alice: str, upstream: FaultyUpstream) -> None:
    key = create_limited_key(keyed, "hiding", tokens_per_day=10**6)
    hidden = short_chat(stream=True, stream_options={"include_usage": False})
    refused = keyed.post(hidden, authorization=f"Bearer {key}")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "unmetered")
    assert not upstream.requests
    visible = short_chat(stream=True, stream_options={"include_usage": True})
    assert keyed.post(visible, authorization=f"Bearer {key}").status_code == 200
    assert keyed.post(hidden, authorization=f"Bearer {alice}").status_code == 200


# changes of keys


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_the_first_key_closes_a_running_proxy_and_the_last_opens_it(
    tmp_path: Path, upstream: FaultyUpstream, kind: str, request: pytest.FixtureRequest
) -> None:
    where: Path | str = tmp_path if kind == "sqlite" else request.getfixturevalue("postgres").reset_database()
    options = {} if kind == "sqlite" else {"ledger_url": where}
    with issue.run_proxy(upstream.url, tmp_path, upstream_api_key=OPENAI_KEY, **options) as proxy:
        assert send(proxy, CHAT, CLIENT_KEY).status_code == 200
        assert send(proxy, "/stats", method="GET").status_code == 200
        key = issue.create_key(where, "alice")
        issue.wait_until(lambda: send(proxy, CHAT, CLIENT_KEY).status_code == 401)
        assert send(proxy, "/stats", method="GET").status_code == 401
        assert send(proxy, CHAT, key).status_code == 200
        issue.revoke_key(where, "alice")
        issue.wait_until(lambda: send(proxy, CHAT, key).status_code == 401)
        assert "revoked" in send(proxy, CHAT, key).json()["error"]["message"]
        assert send(proxy, CHAT, CLIENT_KEY).status_code == 200


def test_a_key_is_rejected_and_not_forwarded_if_the_proxy_has_no_keys(proxy: Proxy, upstream: FaultyUpstream) -> None:
    for headers in ({"authorization": f"Bearer {KEY_PREFIX}{'0' * 56}"}, {"x-clara-key": "anything"}):
        assert issue.send_request(proxy, CHAT, method="POST", json=short_chat(), headers=headers).status_code == 401
    assert not upstream.requests


def test_a_websocket_is_rejected(keyed: Proxy, proxy: Proxy, alice: str, upstream: FaultyUpstream) -> None:
    headers = {"upgrade": "websocket", "connection": "upgrade", "sec-websocket-version": "13"}
    headers["sec-websocket-key"] = base64.b64encode(b"0" * 16).decode()
    for server, path in ((keyed, "/v1/realtime"), (proxy, "/v1/responses"), (keyed, "/v1/responses?model=gpt-5")):
        answer = issue.send_request(server, path, headers=headers)
        assert answer.status_code == 426
        assert answer.json()["error"]["code"] == "no_websocket"
    assert not upstream.requests
