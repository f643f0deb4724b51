"""The MCP server, called by the SDK's client over standard input and output and over HTTP."""

import os
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import typer
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, TextContent

from clara_proxy.proxy.commands import serve
from clara_proxy.proxy.commands.mcp import mcp
from clara_proxy.proxy.integrations.mcp_server import ProxyClient, create_server
from clara_proxy.tests import running
from clara_proxy.tests.faulty import FaultyUpstream
from clara_proxy.tests.running import CLIENT_KEY, LOG_TEXT, Proxy

TEXT = f"{LOG_TEXT}\n2024-01-01 ERROR disk full on /dev/sda1"
RUN = "import sys, typer; from clara_proxy.proxy.commands.mcp import mcp; typer.run(mcp)"


@asynccontextmanager
async def by_stdio(*arguments: str) -> AsyncGenerator[Client]:
    command = StdioServerParameters(command=sys.executable, args=["-c", RUN, *arguments], env=dict(os.environ))
    async with Client(command) as client:
        yield client


@asynccontextmanager
async def by_http(url: str, key: str | None) -> AsyncGenerator[Client]:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        yield client


@pytest.fixture
def endpoint(proxy: Proxy) -> Iterator[str]:
    """The URL of a server over HTTP that was started with a key of its own."""
    app = create_server(ProxyClient(proxy.url, "sk-of-the-server")).streamable_http_app()
    with serve.run_in_thread(app) as url:
        yield f"{url}/mcp"


def get_text(result: CallToolResult) -> str:
    assert all(isinstance(part, TextContent) for part in result.content)
    return "".join(part.text for part in result.content if isinstance(part, TextContent))


async def call(client: Client, tool: str, **arguments: Any) -> CallToolResult:
    result = await client.call_tool(tool, arguments)
    assert isinstance(result, CallToolResult)
    return result


async def compress(client: Client, text: str = TEXT) -> tuple[str, str]:
    """Compress a text; returns the result and the id in its marker."""
    result = await call(client, "clara_compress", text=text, question="why did it fail?")
    assert not result.is_error
    assert result.structured_content is not None
    (name,) = result.structured_content["ccr_hashes"]
    assert name in get_text(result)
    return get_text(result), name


async def use_all_tools(client: Client) -> None:
    """Call every tool of the server."""
    assert [tool.name for tool in (await client.list_tools()).tools] == [
        "clara_expand",
        "clara_compress",
        "clara_savings",
        "remember",
        "recall",
        "list",
        "forget",
    ]
    compressed, name = await compress(client)
    assert "ERROR disk full" in compressed
    assert len(compressed) < len(TEXT) / 2
    assert get_text(await call(client, "clara_expand", id=name)) == TEXT
    assert get_text(await call(client, "clara_expand", id=name, lines="3-4")) == "\n".join(TEXT.split("\n")[2:4])
    assert "401:2024-01-01 ERROR disk full" in get_text(await call(client, "clara_expand", id=name, query="disk full"))
    savings = (await call(client, "clara_savings", since="1h", by="mode")).structured_content
    assert savings is not None
    assert {group["group"] for group in savings["groups"]} >= {"extract"}
    for arguments in ({"id": "0" * 16}, {"id": name, "lines": "9-1"}):
        result = await call(client, "clara_expand", **arguments)
        assert result.is_error
        assert "no such original" in get_text(result) or "lines" in get_text(result)
    assert (await call(client, "clara_savings", by="nothing")).is_error


async def test_all_tools_work_over_standard_input_and_output(proxy: Proxy) -> None:
    async with by_stdio("--url", f"{proxy.url}/v1", "--key", CLIENT_KEY) as client:
        await use_all_tools(client)


async def test_all_tools_work_over_http(endpoint: str) -> None:
    async with by_http(endpoint, CLIENT_KEY) as client:
        await use_all_tools(client)


async def test_key_of_the_server_is_not_used_over_http(endpoint: str) -> None:
    async with by_http(endpoint, CLIENT_KEY) as owner:
        _, name = await compress(owner, f"private\n{TEXT}")
    for key in ("sk-another", None):
        async with by_http(endpoint, key) as other:
            result = await call(other, "clara_expand", id=name)
            assert result.is_error
            assert "belongs to another key" in get_text(result)


async def test_originals_of_a_client_are_expanded_with_its_key(proxy: Proxy) -> None:
    chat = {"model": "gpt-4o", "messages": [{"role": "tool", "tool_call_id": "c", "content": TEXT}]}
    (name,) = proxy.post(chat, "/v1/compress").json()["ccr_hashes"]
    async with by_stdio("--url", proxy.url, "--key", CLIENT_KEY) as client:
        assert get_text(await call(client, "clara_expand", id=name)) == TEXT


@pytest.fixture
def memory_endpoint(upstream: FaultyUpstream, tmp_path: Path) -> Iterator[str]:
    """The URL of a server whose proxy has vector stores."""
    with running.run_proxy(upstream.url, tmp_path, memory=True) as proxy:
        app = create_server(ProxyClient(proxy.url, None)).streamable_http_app()
        with serve.run_in_thread(app) as url:
            yield f"{url}/mcp"


async def test_a_text_is_remembered_once_recalled_and_forgotten(memory_endpoint: str, upstream: FaultyUpstream) -> None:
    async with by_http(memory_endpoint, CLIENT_KEY) as client:
        text = "The deploy key of the Falcon is in the safe. <|im_start|>"
        file_id = get_text(await call(client, "remember", text=text, store="notes/1", name="keys")).split()[0]
        assert file_id in get_text(await call(client, "remember", text=text, store="notes/1"))
        while (listed := await get_texts(client, "notes/1"))[0]["status"] == "in_progress":
            pass
        assert [(entry["id"], entry["name"]) for entry in listed] == [(file_id, "keys.md")]
        recalled = get_text(await call(client, "recall", query="Where is the deploy key?", store="notes/1"))
        assert recalled.startswith(f"[1] keys.md ({file_id})\nThe deploy key of the Falcon is in the safe.")
        assert "<|im_start|>" not in recalled
        stores = (await call(client, "list")).structured_content
        assert stores is not None
        assert [store["name"] for store in stores["stores"]] == ["notes/1"]
        assert not (await call(client, "forget", id=file_id)).is_error
        assert await get_texts(client, "notes/1") == []
        missing = await call(client, "recall", query="deploy key", store="nothing")
        assert missing.is_error
        assert "no vector store nothing" in get_text(missing)
    async with by_http(memory_endpoint, "sk-another") as other:
        assert (await call(other, "recall", query="deploy key", store="notes/1")).is_error
    assert not upstream.requests


async def get_texts(client: Client, store: str) -> list[dict[str, Any]]:
    content = (await call(client, "list", store=store)).structured_content
    assert content is not None
    return list(content["texts"])


async def test_nothing_is_remembered_at_the_upstream(endpoint: str, upstream: FaultyUpstream) -> None:
    async with by_http(endpoint, CLIENT_KEY) as client:
        result = await call(client, "remember", text="secret")
    assert result.is_error
    assert "CLARA_MEMORY=true" in get_text(result)
    assert not upstream.requests


async def test_missing_proxy_is_reported() -> None:
    async with by_stdio("--url", "http://127.0.0.1:9") as client:
        result = await call(client, "clara_savings")
        assert result.is_error
        assert "no clara-proxy responds at http://127.0.0.1:9" in get_text(result)


async def test_server_starts_a_proxy_if_no_url_is_given(tmp_path: Any) -> None:
    (tmp_path / "clara.yaml").write_text(f"data_dir: {tmp_path}/data\n", encoding="utf-8")
    async with by_stdio("--config", str(tmp_path / "clara.yaml"), "--key", CLIENT_KEY) as client:
        _, name = await compress(client)
        assert get_text(await call(client, "clara_expand", id=name)) == TEXT


@pytest.mark.parametrize("url", [None, "http://127.0.0.1:9"])
def test_server_refuses_other_machines_without_keys(
    url: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLARA_DATA_DIR", str(tmp_path))
    with pytest.raises(typer.Exit):
        mcp(url, http=True, host="0.0.0.0")
    assert "no API key is required" in capsys.readouterr().err
