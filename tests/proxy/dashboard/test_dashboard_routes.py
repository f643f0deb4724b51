"""The dashboard's addresses: what they give out and what they do not, and that nothing in them is a path or SQL."""

import re
import time
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, get_args

import httpx
import pytest

from clara_proxy.proxy.dashboard import dashboard_routes
from clara_proxy.proxy.stores.ledger_queries import RowFilters
from clara_proxy.proxy.stores.ledger_row import Outcome
from clara_proxy.tests import running
from clara_proxy.tests.faulty import FaultyUpstream
from clara_proxy.tests.proxy.stores.test_ledger_queries import SPECIAL_TEXTS
from clara_proxy.tests.running import CLIENT_KEY, LOG_TEXT, Proxy, short_chat, tool_chat
from clara_proxy.tests.test_docs import read_page, table_rows

SECRET = "quokka-4711"
TEXT = f"{LOG_TEXT}\n2024-01-01 10:00:00 INFO {SECRET}"
FILES = dashboard_routes.load_files()


@pytest.fixture(scope="module")
def keeping(_upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy that keeps texts to be looked at."""
    with running.run_proxy(_upstream.url, tmp_path_factory.mktemp("keeping"), keep_content="passages") as proxy:
        yield proxy


def get(proxy: Proxy, path: str, **query: str) -> httpx.Response:
    return httpx.get(f"{proxy.url}/dashboard{path}", params=query, timeout=running.TIMEOUT, verify=False)


def data(proxy: Proxy, path: str, **query: str) -> Any:
    response = get(proxy, f"/data/{path}", **query)
    assert response.status_code == 200, response.text
    assert response.headers["cache-control"] == "no-store"
    return response.json()


def kept(proxy: Proxy, its_id: str) -> Any:
    """Return a request as soon as its texts are stored, which nobody waits for."""
    deadline = time.monotonic() + running.TIMEOUT
    while not (whole := data(proxy, f"requests/{its_id}"))["kept"]:
        assert time.monotonic() < deadline, "no text was kept"
        time.sleep(0.02)
    return whole


# the page


def test_the_page_and_all_it_is_made_of_may_load_nothing_from_elsewhere(proxy: Proxy) -> None:
    for path in ("", *(f"/assets/{name}" for name in FILES)):
        response = get(proxy, path)
        assert response.status_code == 200
        policy = dict(part.strip().split(" ", 1) for part in response.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["require-trusted-types-for"] == "'script'"
        assert response.headers["x-content-type-options"] == "nosniff"


def test_every_file_that_is_asked_for_is_there_and_needs_nothing_from_elsewhere() -> None:
    page = FILES["page.html"].decode()
    named = set(re.findall(r'(?:src|href)="dashboard/assets/([^"]+)"', page))
    for name, content in FILES.items():
        text = content.decode()
        named |= set(re.findall(r'from "\./([^"]+)"', text))
        assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text), name
    assert named | {"page.html"} == set(FILES)


def test_no_text_can_become_html() -> None:
    page = FILES["page.html"].decode()
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=|javascript:", page)
    for name, content in FILES.items():
        ways = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|eval\(|new Function|srcdoc|\.href ="
        assert not re.search(ways, content.decode()), name


@pytest.mark.parametrize(
    "name",
    [
        "../routes.py",
        "..%2froutes.py",
        "%2e%2e/routes.py",
        "....//routes.py",
        "routes.py",
        "",
        "page.html%00",
        "/etc/passwd",
    ],
)
def test_no_other_file_can_be_had(proxy: Proxy, name: str) -> None:
    assert get(proxy, f"/assets/{name}").status_code == 404


# figures


def test_the_figures_are_the_ledgers(keeping: Proxy) -> None:
    keeping.wait_for_row(keeping.post(tool_chat(), x_clara_project="figures"))
    seen = data(keeping, "overview", span="1h")
    (total,) = httpx.get(f"{keeping.url}/v1/savings", params={"since": "1h"}).json()["groups"]
    for name in ("requests", "received", "sent", "saved", "cost", "saved_cost", "billed_input"):
        assert seen["total"][name] == total[name], name
    assert sum(bar["saved"] for bar in seen["series"]) == total["saved"]
    assert {one["group"] for one in seen["groups"]["project"]} >= {"figures"}
    assert seen["steps"]["received"] - seen["steps"]["left_out"] + seen["steps"]["added"] == total["sent"]
    assert seen["newest"]["requests"] == total["requests"]
    assert data(keeping, "overview", span="all")["total"]["saved"] == total["saved"]


def test_requests_are_listed_filtered_and_shown(keeping: Proxy) -> None:
    row = keeping.wait_for_row(keeping.post(tool_chat(), x_clara_session="mine", x_clara_tag_team="a"))
    keeping.wait_for_row(keeping.post(short_chat(), x_clara_session="other"))
    (listed,) = data(keeping, "requests", label="mine")["rows"]
    assert listed["id"] == row.id
    assert listed["saved_tokens"] == row.saved_tokens > 0
    assert listed["shortened"] == 1
    assert len(data(keeping, "requests", tool="logs", label="mine")["rows"]) == 1
    assert data(keeping, "requests", tool="log", label="mine")["rows"] == []
    whole = data(keeping, f"requests/{row.id}")
    assert whole["tags"] == {"team": "a"}
    assert whole["steps"]["sent"] == row.tokens_sent
    assert whole["passages"][0]["tool"] == "logs"


def test_what_makes_no_sense_is_refused(proxy: Proxy) -> None:
    for path, query in (
        ("overview", {"span": "2h"}),
        ("requests", {"span": "'"}),
        ("requests", {"after": "1~' OR 1=1"}),
        ("requests", {"model": "x" * 201}),
        ("requests", {"label": "a\0b"}),
    ):
        response = get(proxy, f"/data/{path}", **query)
        assert response.status_code == 400, (path, query)
        assert response.json()["error"]["code"] == "invalid_query"
    for name in ("nothing", "..%2f..%2fstats", "' OR ''='", "%00", "req_1'--"):
        assert get(proxy, f"/data/requests/{name}").status_code == 404, name


def test_no_filter_is_sql_or_a_path(proxy: Proxy) -> None:
    proxy.wait_for_row(proxy.post(short_chat(), x_clara_session="there"))
    for text in (*SPECIAL_TEXTS, "../../etc/passwd", "..\\..\\x", "<script>"):
        for field in fields(RowFilters):
            assert data(proxy, "requests", **{field.name: text})["rows"] == [], (field.name, text)
    assert data(proxy, "requests", label="there")["rows"]


# texts


def test_no_text_of_a_conversation_is_given_out_by_default(proxy: Proxy) -> None:
    row = proxy.wait_for_row(proxy.post(tool_chat(TEXT)))
    refused = get(proxy, f"/data/requests/{row.id}/passages/0")
    assert refused.status_code == 403
    assert "CLARA_KEEP_CONTENT" in refused.text
    pages = [get(proxy, f"/data/{path}").text for path in ("overview", "requests", f"requests/{row.id}")]
    assert all(
        SECRET not in page and "INFO request" not in page and CLIENT_KEY not in page for page in (*pages, refused.text)
    )
    assert data(proxy, f"requests/{row.id}")["kept"] == []


@pytest.mark.parametrize("mode", ["extract", "observe"])
def test_kept_texts_are_shown_as_they_came_and_as_they_were_sent(
    keeping: Proxy, upstream: FaultyUpstream, mode: str
) -> None:
    row = keeping.wait_for_row(keeping.post(tool_chat(TEXT), x_clara_mode=mode))
    whole = kept(keeping, row.id)
    assert whole["kept"] == [0]
    shown = data(keeping, f"requests/{row.id}/passages/0")
    came = tool_chat(TEXT)["messages"][2]["content"]
    assert shown["before"] == came
    sent = upstream.last_request.json["messages"][2]["content"]
    assert (came if mode == "observe" else shown["after"]) == sent
    assert "".join(before for _, before, _ in shown["blocks"]) == came
    assert "".join(after for _, _, after in shown["blocks"]) == shown["after"]
    assert any(kind == "left-out" for kind, _, _ in shown["blocks"])
    for at in (1, -1, 10**6):
        assert get(keeping, f"/data/requests/{row.id}/passages/{at}").status_code == 404
    assert CLIENT_KEY not in str(whole) + str(shown)


def test_texts_are_kept_with_the_passage_that_they_are_of(keeping: Proxy) -> None:
    body = tool_chat(TEXT)
    call = {"id": "c2", "type": "function", "function": {"name": "short", "arguments": "{}"}}
    body["messages"][2:2] = [
        {"role": "tool", "tool_call_id": "c2", "content": "ok"},
    ]
    body["messages"][1]["tool_calls"].insert(0, call)
    row = keeping.wait_for_row(keeping.post(body))
    whole = kept(keeping, row.id)
    (at,) = whole["kept"]
    assert whole["passages"][at]["tool"] == "logs"
    assert data(keeping, f"requests/{row.id}/passages/{at}")["before"].startswith(LOG_TEXT[:50])


# words


def test_every_reason_and_outcome_has_words() -> None:
    words = FILES["words.js"].decode()
    table = table_rows(read_page("docs/steering.md").partition("## Why a passage was left alone")[2])
    reasons = {name.strip("` ") for cell in table for name in cell.split(",")} - {"reason", "---"}
    assert len(reasons) > 15
    said = set(re.findall(r'^  "?([\w-]+)"?: "', words, re.MULTILINE))
    assert reasons | set(get_args(Outcome)) <= said
