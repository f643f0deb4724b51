"""An MCP server with tools for agents: fetch omitted text back, compress a text, query the savings, use vector stores.

It is stateless; every tool calls a running proxy over HTTP. Invariant: a call uses the API key of its client. Over HTTP
that is the key of the request, never the server's own; over standard input and output, with a single client, it is the
key that the server was started with.
"""

from importlib.metadata import version
from typing import Annotated, Any

import aiohttp
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import CallToolResult, TextContent
from pydantic import Field

from .mcp_memory import add_memory_tools

MODEL = "gpt-4o"  # its vocabulary counts the tokens of texts to compress
REQUEST_TIMEOUT = aiohttp.ClientTimeout(total=120)
INSTRUCTIONS = (
    "Texts compressed by clara-proxy may contain markers such as [812 of 900 lines left out; clara_expand"
    " 3f9a0c27b1de4f60]. clara_expand returns the omitted text; use `query` or `lines` to get only a part of it."
)

Id = Annotated[str, Field(description="The hexadecimal id in the marker.")]
About = Annotated[str | None, Field(description="Return only lines about this.")]
Lines = Annotated[str | None, Field(description="Return only these lines, such as 10-20.")]
Text = Annotated[str, Field(description="The text to compress.")]
Question = Annotated[str, Field(description="The question that the compressed text should answer.")]
Ratio = Annotated[
    float | None,
    Field(
        ge=1,
        le=1000,
        description="Compression ratio; 4 keeps a quarter of the tokens. Default: depends on the content.",
    ),
]
Since = Annotated[str, Field(description="Start of the period: 30m, 24h, 7d or 2w ago, or a date such as 2026-01-31.")]
By = Annotated[str, Field(description="One row per all, model, day, mode, tool, project, user, session or tag.")]


class ProxyClient:
    """A client of the proxy at `url`; `key` is used over standard input and output, where requests carry no key."""

    def __init__(self, url: str, key: str | None) -> None:
        self._url = url.rstrip("/").removesuffix("/v1")
        self._key = key

    async def call_proxy(self, context: Context, method: str, path: str, **request: Any) -> dict[str, Any]:
        """Send a request with the API key of the context's client. Raises ToolError with the error of the proxy."""
        try:
            async with (
                aiohttp.ClientSession(timeout=REQUEST_TIMEOUT, headers=self._build_headers(context)) as session,
                session.request(method, self._url + path, **request) as reply,
            ):
                body: dict[str, Any] = await reply.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise ToolError(f"no clara-proxy responds at {self._url}: {type(error).__name__}") from None
        if reply.status >= 400:
            raise ToolError(str(body.get("error", {}).get("message", f"status {reply.status}")))
        return body

    def _build_headers(self, context: Context) -> dict[str, str]:
        request = context.request_context.request
        if request is not None:
            authorization = request.headers.get("authorization")
            return {"authorization": str(authorization)} if authorization else {}
        return {"authorization": f"Bearer {self._key}"} if self._key else {}


def create_server(client: ProxyClient) -> MCPServer:
    """Return the server; call its `run`, or serve its `streamable_http_app()`."""
    server = MCPServer("clara-proxy", version=version("clara-proxy"), instructions=INSTRUCTIONS, log_level="WARNING")

    @server.tool(structured_output=False)
    async def clara_expand(context: Context, id: Id, query: About = None, lines: Lines = None) -> str:  # noqa: A002
        """Return the text that a marker with this id left out, or a part of it."""
        part = {name: value for name, value in (("query", query), ("lines", lines)) if value}
        answer = await client.call_proxy(context, "POST", "/v1/retrieve", json={"hash": id, **part})
        return str(answer["original_content"])

    @server.tool(structured_output=False)
    async def clara_compress(
        context: Context, text: Text, question: Question = "", ratio: Ratio = None
    ) -> CallToolResult:
        """Compress a long text to its most relevant verbatim parts; its markers can be expanded."""
        answer = await client.call_proxy(context, "POST", "/v1/compress", json=_build_chat(text, question, ratio))
        figures = ("tokens_before", "tokens_after", "tokens_saved", "ccr_hashes", "skip_reason")
        compressed = TextContent(type="text", text=answer["messages"][-1]["content"])
        return CallToolResult(content=[compressed], structured_content={name: answer[name] for name in figures})

    @server.tool(structured_output=True)
    async def clara_savings(context: Context, since: Since = "30d", by: By = "all") -> dict[str, Any]:
        """Return the tokens received, sent and saved by the proxy since then, and their cost."""
        return await client.call_proxy(context, "GET", "/v1/savings", params={"since": since, "by": by})

    add_memory_tools(server, client.call_proxy)
    return server


def _build_chat(text: str, question: str, ratio: float | None) -> dict[str, Any]:
    """Return a chat with the text as a tool output, the kind of message that the proxy compresses."""
    messages = [{"role": "user", "content": question}] if question else []
    config = {"mode": "ccr"} | ({} if ratio is None else {"target_ratio": 1 / ratio})
    return {
        "model": MODEL,
        "messages": [*messages, {"role": "tool", "tool_call_id": "text", "content": text}],
        "config": config,
    }
