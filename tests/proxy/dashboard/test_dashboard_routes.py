"""The dashboard routes: their data, their privacy, and hostile paths and filters."""

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
PAGES = {name for name in FILES if name.endswith(".html")}


@pytest.fixture(scope="module")
def storing_proxy(_upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy that stores texts."""
    with running.run_proxy(_upstream.url, tmp_path_factory.mktemp("storing"), keep_content="passages") as proxy:
        yield proxy


def get(proxy: Proxy, path: str, **query: str) -> httpx.Response:
    return httpx.get(f"{proxy.url}/dashboard{path}", params=query, timeout=running.TIMEOUT, verify=False)


def get_data(proxy: Proxy, path: str, **query: str) -> Any:
    response = get(proxy, f"/data/{path}", **query)
    assert response.status_code == 200, response.text
    assert response.headers["cache-control"] == "no-store"
    return response.json()


def wait_for_texts(proxy: Proxy, request_id: str) -> Any:
    """Return a request once its texts are stored; they are stored after the response."""
    deadline = time.monotonic() + running.TIMEOUT
    while not (request := get_data(proxy, f"requests/{request_id}"))["kept"]:
        assert time.monotonic() < deadline, "no text was stored"
        time.sleep(0.02)
    return request


# page


def test_page_and_assets_forbid_other_origins(proxy: Proxy) -> None:
    for path in ("", *(f"/assets/{name}" for name in FILES)):
        response = get(proxy, path)
        assert response.status_code == 200
        policy = dict(part.strip().split(" ", 1) for part in response.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["require-trusted-types-for"] == "'script'"
        assert response.headers["x-content-type-options"] == "nosniff"


def test_every_referenced_asset_exists_and_is_local() -> None:
    references = {
        name for page in PAGES for name in re.findall(r'(?:src|href)="dashboard/assets/([^"]+)"', FILES[page].decode())
    }
    for name, content in FILES.items():
        text = content.decode()
        references |= set(re.findall(r'from "\./([^"]+)"', text))
        assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text), name
    assert references | PAGES == set(FILES)


def test_assets_never_create_html_from_text() -> None:
    for page in PAGES:
        text = FILES[page].decode()
        assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=|javascript:", text)
    for name, content in FILES.items():
        patterns = (
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|eval\(|new Function|srcdoc|\.href ="
        )
        assert not re.search(patterns, content.decode()), name


@pytest.mark.parametrize(
    "name",
    [
        "../dashboard_routes.py",
        "..%2fdashboard_routes.py",
        "%2e%2e/dashboard_routes.py",
        "....//dashboard_routes.py",
        "dashboard_routes.py",
        "",
        "page.html%00",
        "/etc/passwd",
    ],
)
def test_other_files_are_not_served(proxy: Proxy, name: str) -> None:
    assert get(proxy, f"/assets/{name}").status_code == 404


# data


def test_overview_equals_the_totals_of_the_ledger(storing_proxy: Proxy) -> None:
    storing_proxy.wait_for_row(storing_proxy.post(tool_chat(), x_clara_project="figures"))
    overview = get_data(storing_proxy, "overview", span="1h")
    (total,) = httpx.get(f"{storing_proxy.url}/v1/savings", params={"since": "1h"}).json()["groups"]
    for name in ("requests", "received", "sent", "saved", "cost", "saved_cost", "billed_input"):
        assert overview["total"][name] == total[name], name
    assert sum(bar["saved"] for bar in overview["series"]) == total["saved"]
    assert {one["group"] for one in overview["groups"]["project"]} >= {"figures"}
    assert overview["steps"]["received"] - overview["steps"]["left_out"] + overview["steps"]["added"] == total["sent"]
    assert overview["newest"]["requests"] == total["requests"]
    assert get_data(storing_proxy, "overview", span="all")["total"]["saved"] == total["saved"]


def test_requests_can_be_listed_filtered_and_read(storing_proxy: Proxy) -> None:
    row = storing_proxy.wait_for_row(storing_proxy.post(tool_chat(), x_clara_session="mine", x_clara_tag_team="a"))
    storing_proxy.wait_for_row(storing_proxy.post(short_chat(), x_clara_session="other"))
    (summary,) = get_data(storing_proxy, "requests", label="mine")["rows"]
    assert summary["id"] == row.id
    assert summary["saved_tokens"] == row.saved_tokens > 0
    assert len(get_data(storing_proxy, "requests", tool="logs", label="mine")["rows"]) == 1
    assert get_data(storing_proxy, "requests", tool="log", label="mine")["rows"] == []
    request = get_data(storing_proxy, f"requests/{row.id}")
    assert request["tags"] == {"team": "a"}
    assert request["steps"]["sent"] == row.tokens_sent
    assert request["passages"][0]["tool"] == "logs"


def test_invalid_queries_are_rejected(proxy: Proxy) -> None:
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


def test_hostile_filters_match_nothing(proxy: Proxy) -> None:
    proxy.wait_for_row(proxy.post(short_chat(), x_clara_session="there"))
    for text in (*SPECIAL_TEXTS, "../../etc/passwd", "..\\..\\x", "<script>"):
        for field in fields(RowFilters):
            assert get_data(proxy, "requests", **{field.name: text})["rows"] == [], (field.name, text)
    assert get_data(proxy, "requests", label="there")["rows"]


# texts


def test_texts_are_not_served_by_default(proxy: Proxy) -> None:
    row = proxy.wait_for_row(proxy.post(tool_chat(TEXT)))
    response = get(proxy, f"/data/requests/{row.id}/passages/0")
    assert response.status_code == 403
    assert "CLARA_KEEP_CONTENT" in response.text
    pages = [get(proxy, f"/data/{path}").text for path in ("overview", "requests", f"requests/{row.id}")]
    assert all(
        SECRET not in page and "INFO request" not in page and CLIENT_KEY not in page for page in (*pages, response.text)
    )
    assert get_data(proxy, f"requests/{row.id}")["kept"] == []


@pytest.mark.parametrize("mode", ["extract", "observe"])
def test_stored_texts_are_served_before_and_after(storing_proxy: Proxy, upstream: FaultyUpstream, mode: str) -> None:
    row = storing_proxy.wait_for_row(storing_proxy.post(tool_chat(TEXT), x_clara_mode=mode))
    request = wait_for_texts(storing_proxy, row.id)
    assert request["kept"] == [0]
    passage = get_data(storing_proxy, f"requests/{row.id}/passages/0")
    original = tool_chat(TEXT)["messages"][2]["content"]
    assert passage["before"] == original
    sent = upstream.last_request.json["messages"][2]["content"]
    assert (original if mode == "observe" else passage["after"]) == sent
    assert "".join(before for _, before, _ in passage["blocks"]) == original
    assert "".join(after for _, _, after in passage["blocks"]) == passage["after"]
    assert any(kind == "left-out" for kind, _, _ in passage["blocks"])
    for position in (1, -1, 10**6):
        assert get(storing_proxy, f"/data/requests/{row.id}/passages/{position}").status_code == 404
    assert CLIENT_KEY not in str(request) + str(passage)


def test_texts_are_stored_with_their_passage(storing_proxy: Proxy) -> None:
    body = tool_chat(TEXT)
    call = {"id": "c2", "type": "function", "function": {"name": "short", "arguments": "{}"}}
    body["messages"][2:2] = [
        {"role": "tool", "tool_call_id": "c2", "content": "ok"},
    ]
    body["messages"][1]["tool_calls"].insert(0, call)
    row = storing_proxy.wait_for_row(storing_proxy.post(body))
    request = wait_for_texts(storing_proxy, row.id)
    (position,) = request["kept"]
    assert request["passages"][position]["tool"] == "logs"
    assert get_data(storing_proxy, f"requests/{row.id}/passages/{position}")["before"].startswith(LOG_TEXT[:50])


# labels


def test_every_reason_and_outcome_has_a_label() -> None:
    labels = FILES["labels.js"].decode()
    rows = table_rows(read_page("docs/steering.md").partition("## Why was a passage left unchanged?")[2])
    reasons = {name.strip("` ") for cell in rows for name in cell.split(",")} - {"skip reason", "---"}
    assert len(reasons) > 15
    names = set(re.findall(r'^  "?([\w-]+)"?: "', labels, re.MULTILINE))
    assert reasons | set(get_args(Outcome)) <= names
