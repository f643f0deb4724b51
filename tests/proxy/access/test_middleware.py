"""A proxy with keys, as its clients meet it: who is let in where, what goes upstream, and what the ledger says."""

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from clara_proxy.config.settings import LitellmModel
from clara_proxy.proxy.stores.api_keys import KEY_PREFIX
from clara_proxy.tests.faulty import FaultyUpstream
from clara_proxy.tests.proxy import issue
from clara_proxy.tests.proxy.protocols.chat_upstream import run_model as plays_chat
from clara_proxy.tests.proxy.protocols.messages_upstream import run_model as plays
from clara_proxy.tests.proxy.protocols.messages_upstream import text
from clara_proxy.tests.running import LOG_TEXT, TIMEOUT, Proxy, short_chat, tool_chat

CHAT, OTHER, MESSAGES = "/v1/chat/completions", "/v1/embeddings", "/v1/messages"
ADMINS = (
    *("/stats", "/v1/savings", "/metrics", "/dashboard", "/dashboard/data", "/status", "/docs", "/openapi.json"),
    *("/redoc", "/anything", "/", "/stats/", "//v1/models", "/V1/models", "/v1", "/v1x", "/%73tats", "/v1/%73avings"),
)
OPENAIS, ANTHROPICS, THEIRS = "sk-operator-openai", "sk-operator-anthropic", "sk-client-of-their-own"
HI: Any = {"model": "claude-x", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(scope="module")
def keyed(_upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy with keys of its own and one for each upstream."""
    folder = tmp_path_factory.mktemp("keyed")
    with issue.run_proxy(_upstream.url, folder, upstream_api_key=OPENAIS, anthropic_api_key=ANTHROPICS) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def alice(keyed: Proxy) -> str:
    return let_in(keyed, issue.create_key(keyed.folder, "alice", project="search"))


@pytest.fixture(scope="module")
def root(keyed: Proxy, alice: str) -> str:
    return let_in(keyed, issue.create_key(keyed.folder, "root", admin=True))


@pytest.fixture(scope="module")
def bare(_upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Proxy, str]]:
    """A proxy with a key of its own and none for the upstream."""
    folder = tmp_path_factory.mktemp("bare")
    house = LitellmModel(name="house", litellm="openai/x", api_key="sk-house", api_base=f"{_upstream.url}/provider")
    key = issue.create_key(folder, "alice")
    with issue.run_proxy(_upstream.url, folder, models=(house,)) as proxy:
        yield proxy, key


def let_in(proxy: Proxy, key: str) -> str:
    """Return the key once the proxy knows it."""
    issue.wait_until(lambda: ask(proxy, "/v1/retrieve/0123456789abcdef", key, method="GET").status_code == 404)
    return key


def ask(proxy: Proxy, path: str, key: str | None = None, *, method: str = "POST", **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named |= {"authorization": f"Bearer {key}"} if key else {}
    body: dict[str, Any] = {"json": HI if path.startswith(MESSAGES) else short_chat()} if method == "POST" else {}
    return issue.send_request(proxy, path, method=method, headers=named, **body)


def clients(proxy: Proxy, key: str, **more: Any) -> tuple[openai.OpenAI, anthropic.Anthropic]:
    options: dict[str, Any] = {"api_key": key, "max_retries": 0, **more}
    return openai.OpenAI(base_url=f"{proxy.url}/v1", **options), anthropic.Anthropic(base_url=proxy.url, **options)


def credentials(upstream: FaultyUpstream) -> set[tuple[str, str]]:
    names = ("authorization", "x-api-key", "api-key", "x-clara-key", "cookie")
    return {(name, value.decode()) for name in names for value in upstream.last_request.header_values(name)}


def any_of(value: Any) -> Any:
    """Forget a type that depends on arguments that no checker knows."""
    return value


def arrived(upstream: FaultyUpstream) -> bytes:
    """Everything of the latest request that the upstream saw."""
    last = upstream.last_request
    return last.request_line + b"".join(name + b":" + value + b"\n" for name, value in last.headers) + last.body


# who is let in


@pytest.mark.parametrize("path", [CHAT, OTHER, "/v1/responses", "/v1/models", "/v1/compress", "/compress", "/embed"])
@pytest.mark.parametrize("shown", [None, THEIRS, KEY_PREFIX + "0" * 56])
def test_nobody_is_let_in_without_a_key_of_the_proxys(
    keyed: Proxy, alice: str, upstream: FaultyUpstream, path: str, shown: str | None
) -> None:
    answer = ask(keyed, path, shown)
    assert answer.status_code == 401
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    known = shown is not None and shown.startswith(KEY_PREFIX)
    assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key" if known else "key_needed")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert not upstream.requests


def test_signs_of_life_need_no_key(keyed: Proxy, alice: str) -> None:
    for path in ("/livez", "/readyz", "/health"):
        assert ask(keyed, path, method="GET").status_code == 200


def test_a_refusal_leaves_a_row_but_strangers_cannot_fill_the_disk(tmp_path: Path, upstream: FaultyUpstream) -> None:
    key = issue.create_key(tmp_path, "alice", project="search")
    with issue.run_proxy(upstream.url, tmp_path) as proxy:
        for shown, name, project in ((None, "", ""), (key, "alice", "search")):
            answer = ask(proxy, "/stats", shown, method="GET")
            row = proxy.wait_for_row(answer)
            assert (row.outcome, row.status, row.path) == ("rejected", answer.status_code, "/stats")
            assert (row.protocol, row.key, row.project, row.cost) == ("gate", name, project, 0.0)
        long = f"/v1/{'x' * 5000}"
        assert len(proxy.wait_for_row(ask(proxy, long, method="GET")).path) == 200
        made = [ask(proxy, "/stats", method="GET") for _ in range(70)]
        assert {answer.status_code for answer in made} == {401}
        last = proxy.wait_for_row(ask(proxy, "/stats", key, method="GET"))  # who is known is written down still
        assert last.key == "alice"
    rows = [row for row in issue.read_rows(tmp_path) if not row.key]
    assert len(rows) == 60


def test_a_refused_upload_is_answered_although_nobody_reads_it(keyed: Proxy, alice: str) -> None:
    with httpx.Client(timeout=TIMEOUT) as client:
        for _ in range(3):
            answer = client.post(keyed.url + CHAT, content=b"x" * 5_000_000)
            assert answer.status_code == 401
        assert client.get(f"{keyed.url}/livez").status_code == 200


def test_the_real_clients_are_let_in_with_a_key_and_told_apart(
    keyed: Proxy, alice: str, upstream: FaultyUpstream
) -> None:
    made, other = clients(keyed, alice)
    with made, other:
        answer = any_of(made.chat.completions.with_raw_response.create(**short_chat()))
        assert answer.parse().choices[0].message.content == "the disk is full"
        assert credentials(upstream) == {("authorization", f"Bearer {OPENAIS}")}
        row = keyed.wait_for_row(answer)
        assert (row.key, row.project, row.outcome) == ("alice", "search", "ok")
        plays(upstream, lambda _: [text("hello")])
        said = any_of(other.messages.create(**HI))
        assert said.content[0].to_dict()["text"] == "hello"
        assert credentials(upstream) == {("authorization", f"Bearer {ANTHROPICS}")}
        assert KEY_PREFIX.encode() not in arrived(upstream)


def test_a_streamed_answer_and_every_wire_carry_the_keys_name(
    keyed: Proxy, alice: str, upstream: FaultyUpstream
) -> None:
    labels = {"x_clara_session": "wires", "x_clara_project": "mine"}
    streamed = keyed.post(short_chat(stream=True), authorization=f"Bearer {alice}", **labels)
    assert streamed.content.endswith(b"data: [DONE]\n\n")
    for answer in (streamed, ask(keyed, OTHER, alice, **labels)):
        row = keyed.wait_for_row(answer)
        assert (row.key, row.project, row.session, row.outcome) == ("alice", "mine", "wires", "ok")
    body = {"messages": tool_chat()["messages"], "model": "gpt-4o"}
    short = keyed.post(body, "/v1/compress", authorization=f"Bearer {alice}")
    assert keyed.wait_for_row(short).key == "alice"
    keyed.post({"memories": ["a"], "query": "b"}, "/compress", authorization=f"Bearer {alice}", x_clara_session="own")
    assert keyed.wait_for_row("own").key == "alice"


@pytest.mark.parametrize("where", ["authorization", "x-api-key", "api-key", "x-clara-key"])
@pytest.mark.parametrize("path", [CHAT, OTHER, MESSAGES, "/v1/messages/count_tokens", "/v1/responses"])
def test_a_key_never_goes_upstream(keyed: Proxy, alice: str, upstream: FaultyUpstream, path: str, where: str) -> None:
    beside = {"cookie": f"key={alice}", "x-copy": alice, "x-clara-key": alice, "x-fine": "1"}
    body = HI if path.startswith(MESSAGES) else {**short_chat(), "input": "hi"}
    for headers in ({where: alice}, beside | {where: f"Bearer {alice}" if where == "authorization" else alice}):
        answer = issue.send_request(keyed, path, method="POST", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        assert KEY_PREFIX.encode() not in arrived(upstream)
        key = ANTHROPICS if path.startswith(MESSAGES) else OPENAIS
        bearer = list(headers) == ["authorization"] or not path.startswith(MESSAGES)
        assert credentials(upstream) == {("authorization", f"Bearer {key}") if bearer else ("x-api-key", key)}
        assert upstream.last_request.header_values("x-fine") == ([b"1"] if "x-fine" in headers else [])


# the key for the upstream


def test_a_clients_own_key_goes_up_beside_the_proxys(bare: tuple[Proxy, str], upstream: FaultyUpstream) -> None:
    proxy, key = bare
    made, other = clients(proxy, THEIRS, default_headers={"x-clara-key": key})
    with made, other:
        made.chat.completions.create(**short_chat())
        assert credentials(upstream) == {("authorization", f"Bearer {THEIRS}")}
        assert not upstream.last_request.header_values("x-clara-key")
        plays(upstream, lambda _: [text("hello")])
        other.messages.create(**HI)
        assert credentials(upstream) == {("authorization", f"Bearer {THEIRS}")}
        assert key.encode() not in arrived(upstream)


def test_without_any_key_for_the_upstream_nothing_goes_up_and_it_is_said_why(
    bare: tuple[Proxy, str], upstream: FaultyUpstream
) -> None:
    proxy, key = bare
    made, other = clients(proxy, key)
    with made, other:
        with pytest.raises(openai.AuthenticationError, match="CLARA_UPSTREAM_API_KEY") as caught:
            made.chat.completions.create(**short_chat())
        assert caught.value.code == "no_upstream_key"
        with pytest.raises(anthropic.AuthenticationError, match="CLARA_ANTHROPIC_API_KEY"):
            other.messages.create(**HI)
        with pytest.raises(openai.AuthenticationError, match="CLARA_UPSTREAM_API_KEY"):
            made.embeddings.create(model="x", input="hi")
        assert made.models.list().data[0].id == "house"
    assert not upstream.requests


def test_what_asks_no_upstream_with_a_clients_key_needs_none(bare: tuple[Proxy, str], upstream: FaultyUpstream) -> None:
    proxy, key = bare
    answer = proxy.post({**short_chat(), "model": "house"}, authorization=f"Bearer {key}")
    assert answer.status_code == 200, answer.text
    assert upstream.last_request.header_values("authorization") == [b"Bearer sk-house"]
    assert proxy.wait_for_row(answer).key == "alice"
    body = {"messages": tool_chat()["messages"], "model": "gpt-4o"}
    assert proxy.post(body, "/v1/compress", authorization=f"Bearer {key}").status_code == 200


def test_a_key_of_the_proxys_does_for_claras_own_endpoints(tmp_path: Path, upstream: FaultyUpstream) -> None:
    key = issue.create_key(tmp_path, "alice")
    asked = {"memories": ["a"], "query": "b"}
    with issue.run_proxy(upstream.url, tmp_path, api_key="other") as proxy:
        assert proxy.post(asked, "/compress", authorization="Bearer other").status_code == 401
        assert proxy.post(asked, "/compress", authorization=f"Bearer {key}").status_code == 503  # there is no model


# originals


def test_originals_belong_to_the_proxys_key_that_stored_them(
    keyed: Proxy, alice: str, upstream: FaultyUpstream
) -> None:
    bob = let_in(keyed, issue.create_key(keyed.folder, "bob"))
    stored = keyed.post(tool_chat(), authorization=f"Bearer {THEIRS}", x_clara_key=alice, x_clara_retrieve="url")
    assert stored.status_code == 200
    sent = upstream.last_request.json["messages"][-1]["content"]
    (name,) = re.findall(r"/v1/retrieve/([0-9a-f]+)", sent)
    path = f"/v1/retrieve/{name}"
    found = ask(keyed, path, alice, method="GET")
    assert found.json()["original_content"].startswith(LOG_TEXT)
    assert ask(keyed, path, bob, method="GET").status_code == 404
    assert ask(keyed, path, THEIRS, method="GET", x_clara_key=bob).status_code == 404
    assert ask(keyed, path, THEIRS, method="GET", x_clara_key=alice).status_code == 200


# admins


@pytest.mark.parametrize("path", ADMINS)
def test_what_is_not_the_api_is_an_admins(
    keyed: Proxy, alice: str, root: str, upstream: FaultyUpstream, path: str
) -> None:
    assert ask(keyed, path, method="GET").status_code == 401
    refused = ask(keyed, path, alice, method="GET")
    assert (refused.status_code, refused.json()["error"]["type"]) == (403, "permission_error")
    assert "alice" in refused.json()["error"]["message"]
    assert ask(keyed, path, root, method="GET").status_code not in (401, 403)
    assert not upstream.requests


def test_only_an_admin_unloads(keyed: Proxy, alice: str, root: str) -> None:
    assert ask(keyed, "/unload").status_code == 401
    assert ask(keyed, "/unload", alice).status_code == 403
    assert ask(keyed, "/unload", root).status_code == 503  # there is no model


def test_an_admins_key_is_one_for_the_api_too(keyed: Proxy, root: str, upstream: FaultyUpstream) -> None:
    assert keyed.wait_for_row(ask(keyed, CHAT, root)).key == "root"


def test_a_browser_is_asked_for_a_password_and_sends_the_key(keyed: Proxy, alice: str, root: str) -> None:
    asked = issue.send_request(keyed, "/stats")
    assert (asked.status_code, asked.headers["www-authenticate"][:5]) == (401, "Basic")
    assert issue.send_request(keyed, "/stats", auth=("", root)).status_code == 200
    assert issue.send_request(keyed, "/stats", auth=("whoever", root)).status_code == 200
    again = issue.send_request(keyed, "/stats", auth=("", alice))  # so that the browser lets one try another
    assert (again.status_code, again.headers["www-authenticate"][:5]) == (401, "Basic")
    assert issue.send_request(keyed, "/stats", auth=("", "wrong")).status_code == 401


def test_a_password_is_not_for_the_api_nor_for_other_pages(keyed: Proxy, root: str, upstream: FaultyUpstream) -> None:
    signed_in = ("", root)
    assert issue.send_request(keyed, CHAT, method="POST", json=short_chat(), auth=signed_in).status_code == 401
    for headers in ({"origin": "https://evil.com"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
        assert issue.send_request(keyed, "/unload", method="POST", headers=headers, auth=signed_in).status_code == 403
    for own in ({"origin": keyed.url}, {"sec-fetch-site": "same-origin"}, {}):
        assert issue.send_request(keyed, "/unload", method="POST", headers=own, auth=signed_in).status_code == 503
    assert not upstream.requests


# limits


def limited(keyed: Proxy, name: str, **limits: Any) -> str:
    return let_in(keyed, issue.create_key(keyed.folder, name, **limits))


def test_too_many_requests_a_minute_are_told_when_to_come_again(
    keyed: Proxy, root: str, upstream: FaultyUpstream
) -> None:
    key = issue.create_key(keyed.folder, "quick", requests_per_minute=2)
    issue.wait_until(
        lambda: ask(keyed, "/stats", key, method="GET").status_code == 403
    )  # what costs nothing of its minute
    made, other = clients(keyed, key)
    with made, other:
        made.chat.completions.create(**short_chat())
        plays(upstream, lambda _: [text("hello")])
        other.messages.create(**HI)
        heard = len(upstream.requests)
        with pytest.raises(openai.RateLimitError) as caught:
            made.chat.completions.create(**short_chat())
        assert caught.value.code == "rate_limit_exceeded"
        assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60
        with pytest.raises(anthropic.RateLimitError) as theirs:
            other.messages.create(**HI)
        body: Any = theirs.value.body
        assert (body["type"], body["error"]["type"]) == ("error", "rate_limit_error")
        assert "retry-after" in theirs.value.response.headers
        assert len(upstream.requests) == heard
        refused: Any = caught.value.response
        row = keyed.wait_for_row(refused)
        assert (row.key, row.outcome, row.status, row.cost) == ("quick", "rejected", 429, 0.0)
    assert ask(keyed, CHAT, root).status_code == 200  # each has a minute of its own


@pytest.mark.parametrize("budget", [{"tokens_per_day": 12}, {"dollars_per_day": 0.0001}])
def test_a_budget_that_is_gone_is_said_and_not_asked_for_again(
    keyed: Proxy, root: str, upstream: FaultyUpstream, budget: dict[str, Any]
) -> None:
    name = f"poor-{next(iter(budget))[:6]}"
    key = limited(keyed, name, **budget)
    made = openai.OpenAI(base_url=f"{keyed.url}/v1", api_key=key, max_retries=5)
    with made:
        made.chat.completions.create(**short_chat())  # 40 tokens in, 5 out, as the upstream bills
        heard = len(upstream.requests)
        with pytest.raises(openai.RateLimitError, match=f"the key {name} has used its") as caught:
            made.chat.completions.create(**short_chat())
    assert caught.value.code == "insufficient_quota"
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 86_400
    assert len(upstream.requests) == heard
    assert (
        len([row for row in keyed.read_rows() if row.key == name and row.status == 429]) == 1
    )  # the client did not retry
    assert ask(keyed, "/v1/models", key, method="GET").status_code == 429


def test_who_has_a_budget_may_only_do_what_its_rows_tell_the_cost_of(
    keyed: Proxy, alice: str, upstream: FaultyUpstream
) -> None:
    key = limited(keyed, "metered", tokens_per_day=10**6)
    refused = ask(keyed, OTHER, key)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "unmetered")
    assert not upstream.requests
    for path in (CHAT, MESSAGES, "/v1/messages/count_tokens", "/v1/responses", "/v1/compress"):
        assert ask(keyed, path, key).status_code not in (401, 403), path
    assert ask(keyed, "/v1/models", key, method="GET").status_code == 200
    assert ask(keyed, OTHER, alice).status_code == 200


@pytest.mark.parametrize("headers", [{}, {"x_clara_bypass": "true"}, {"x_clara_mode": "off"}], ids=str)
def test_a_stream_counts_against_a_budget_whatever_its_client_says(
    keyed: Proxy, upstream: FaultyUpstream, headers: dict[str, str]
) -> None:
    key = limited(keyed, f"streams-{len(headers)}{'mode' in str(headers)}", tokens_per_day=12)
    plays_chat(upstream, lambda _: {"content": "hello"})
    first = keyed.post(short_chat(stream=True), authorization=f"Bearer {key}", **headers)
    assert first.status_code == 200
    assert '"usage"' not in first.text  # which the client had not asked for
    row = keyed.wait_for_row(first)
    assert (row.billed_input, row.billed_output) == (40, 5)
    assert keyed.post(short_chat(stream=True), authorization=f"Bearer {key}", **headers).status_code == 429


def test_a_budget_does_not_let_a_client_hide_what_it_uses(keyed: Proxy, alice: str, upstream: FaultyUpstream) -> None:
    key = limited(keyed, "hiding", tokens_per_day=10**6)
    hidden = short_chat(stream=True, stream_options={"include_usage": False})
    refused = keyed.post(hidden, authorization=f"Bearer {key}")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "unmetered")
    assert not upstream.requests
    told = short_chat(stream=True, stream_options={"include_usage": True})
    assert keyed.post(told, authorization=f"Bearer {key}").status_code == 200
    assert keyed.post(hidden, authorization=f"Bearer {alice}").status_code == 200


# keys come and go


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_proxy_that_runs_closes_with_the_first_key_and_opens_with_the_last(
    tmp_path: Path, upstream: FaultyUpstream, kind: str, request: pytest.FixtureRequest
) -> None:
    where: Path | str = tmp_path if kind == "sqlite" else request.getfixturevalue("postgres").emptied()
    chosen = {} if kind == "sqlite" else {"ledger_url": where}
    with issue.run_proxy(upstream.url, tmp_path, upstream_api_key=OPENAIS, **chosen) as proxy:
        assert ask(proxy, CHAT, THEIRS).status_code == 200
        assert ask(proxy, "/stats", method="GET").status_code == 200
        key = issue.create_key(where, "alice")
        issue.wait_until(lambda: ask(proxy, CHAT, THEIRS).status_code == 401)
        assert ask(proxy, "/stats", method="GET").status_code == 401
        assert ask(proxy, CHAT, key).status_code == 200
        issue.revoke_key(where, "alice")
        issue.wait_until(lambda: ask(proxy, CHAT, key).status_code == 401)
        assert "revoked" in ask(proxy, CHAT, key).json()["error"]["message"]
        assert ask(proxy, CHAT, THEIRS).status_code == 200


def test_a_key_for_a_proxy_that_has_none_is_refused_and_goes_nowhere(proxy: Proxy, upstream: FaultyUpstream) -> None:
    for headers in ({"authorization": f"Bearer {KEY_PREFIX}{'0' * 56}"}, {"x-clara-key": "anything"}):
        assert issue.send_request(proxy, CHAT, method="POST", json=short_chat(), headers=headers).status_code == 401
    assert not upstream.requests


def test_a_websocket_is_refused(keyed: Proxy, alice: str) -> None:
    headers = {"upgrade": "websocket", "connection": "upgrade", "sec-websocket-version": "13"}
    headers["sec-websocket-key"] = base64.b64encode(b"0" * 16).decode()
    answer = issue.send_request(keyed, "/v1/realtime", headers=headers)
    assert answer.status_code == 403
