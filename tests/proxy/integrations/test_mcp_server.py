"""The MCP server, asked by the SDK's own client over standard input and output and over HTTP."""

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
    """A server on HTTP that was started with somebody's key."""
    app = create_server(ProxyClient(proxy.url, "sk-of-whoever-started-it")).streamable_http_app()
    with serve.run_in_thread(app) as url:
        yield f"{url}/mcp"


def said(result: CallToolResult) -> str:
    assert all(isinstance(part, TextContent) for part in result.content)
    return "".join(part.text for part in result.content if isinstance(part, TextContent))


async def call(client: Client, tool: str, **arguments: Any) -> CallToolResult:
    result = await client.call_tool(tool, arguments)
    assert isinstance(result, CallToolResult)
    return result


async def compressed(client: Client, text: str = TEXT) -> tuple[str, str]:
    """Shorten a text and return what came back and the id in it."""
    result = await call(client, "clara_compress", text=text, question="why did it fail?")
    assert not result.is_error
    assert result.structured_content is not None
    (name,) = result.structured_content["ccr_hashes"]
    assert name in said(result)
    return said(result), name


async def exercise(client: Client) -> None:
    """Do with the server what an agent does."""
    assert [tool.name for tool in (await client.list_tools()).tools] == [
        "clara_expand",
        "clara_compress",
        "clara_savings",
    ]
    shorter, name = await compressed(client)
    assert "ERROR disk full" in shorter
    assert len(shorter) < len(TEXT) / 2
    assert said(await call(client, "clara_expand", id=name)) == TEXT
    assert said(await call(client, "clara_expand", id=name, lines="3-4")) == "\n".join(TEXT.split("\n")[2:4])
    assert "401:2024-01-01 ERROR disk full" in said(await call(client, "clara_expand", id=name, query="disk full"))
    savings = (await call(client, "clara_savings", since="1h", by="mode")).structured_content
    assert savings is not None
    assert {group["group"] for group in savings["groups"]} >= {"extract"}
    for wrong in ({"id": "0" * 16}, {"id": name, "lines": "9-1"}):
        refused = await call(client, "clara_expand", **wrong)
        assert refused.is_error
        assert "no such original" in said(refused) or "lines" in said(refused)
    assert (await call(client, "clara_savings", by="nothing")).is_error


async def test_over_standard_input_and_output(proxy: Proxy) -> None:
    async with by_stdio("--url", f"{proxy.url}/v1", "--key", CLIENT_KEY) as client:
        await exercise(client)


async def test_over_http(endpoint: str) -> None:
    async with by_http(endpoint, CLIENT_KEY) as client:
        await exercise(client)


async def test_over_http_the_servers_own_key_serves_nobody(endpoint: str) -> None:
    async with by_http(endpoint, CLIENT_KEY) as mine:
        _, name = await compressed(mine, f"mine alone\n{TEXT}")
    for key in ("sk-another", None):
        async with by_http(endpoint, key) as other:
            refused = await call(other, "clara_expand", id=name)
            assert refused.is_error
            assert "belongs to another key" in said(refused)


async def test_what_the_key_of_a_request_stored_is_what_stdio_brings_back(proxy: Proxy) -> None:
    chat = {"model": "gpt-4o", "messages": [{"role": "tool", "tool_call_id": "c", "content": TEXT}]}
    (name,) = proxy.post(chat, "/v1/compress").json()["ccr_hashes"]
    async with by_stdio("--url", proxy.url, "--key", CLIENT_KEY) as client:
        assert said(await call(client, "clara_expand", id=name)) == TEXT


async def test_a_proxy_that_is_not_there_is_said_to_be_missing() -> None:
    async with by_stdio("--url", "http://127.0.0.1:9") as client:
        refused = await call(client, "clara_savings")
        assert refused.is_error
        assert "no clara-proxy answers at http://127.0.0.1:9" in said(refused)


async def test_without_an_address_it_runs_a_proxy_of_its_own(tmp_path: Any) -> None:
    (tmp_path / "clara.yaml").write_text(f"data_dir: {tmp_path}/data\n", encoding="utf-8")
    async with by_stdio("--config", str(tmp_path / "clara.yaml"), "--key", CLIENT_KEY) as client:
        _, name = await compressed(client)
        assert said(await call(client, "clara_expand", id=name)) == TEXT


@pytest.mark.parametrize("url", [None, "http://127.0.0.1:9"])
def test_it_does_not_open_this_machines_proxy_to_others(
    url: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLARA_DATA_DIR", str(tmp_path))
    with pytest.raises(typer.Exit):
        mcp(url, http=True, host="0.0.0.0")
    assert "nobody needs a key" in capsys.readouterr().err
