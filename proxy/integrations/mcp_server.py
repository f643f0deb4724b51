"""An MCP server: agents fetch back what was left out, shorten texts, and see what was saved.

It holds nothing itself; every tool asks a running proxy by HTTP. The invariant: what is asked is asked in the name of
whoever asks. Over HTTP that is the key of the request and never the server's own; over standard input and output, where
there is just one client, it is the key that the server was started with.
"""

from importlib.metadata import version
from typing import Annotated, Any

import aiohttp
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import CallToolResult, TextContent
from pydantic import Field

MODEL = "gpt-4o"  # whose vocabulary counts the tokens of a text that is for nobody in particular
REQUEST_TIMEOUT = aiohttp.ClientTimeout(total=120)
INSTRUCTIONS = (
    "Texts that went through clara-proxy may hold markers such as [812 of 900 lines left out; clara_expand"
    " 3f9a0c27b1de4f60]. clara_expand brings back what was left out; ask for a part by `query` or `lines` where that is"
    " enough."
)

Id = Annotated[str, Field(description="The hexadecimal id in the marker.")]
About = Annotated[str | None, Field(description="Only the lines about this.")]
Lines = Annotated[str | None, Field(description="Only these lines, as in 10-20.")]
Text = Annotated[str, Field(description="The text to shorten.")]
Question = Annotated[str, Field(description="What the text is wanted for.")]
Ratio = Annotated[
    float | None, Field(ge=1, le=1000, description="How many times smaller; by default, as its kind allows.")
]
Since = Annotated[str, Field(description="7d, 24h, 30m or a date.")]
By = Annotated[str, Field(description="all, model, day, mode, tool, project, user, session or tag.")]


class ProxyClient:
    """The running proxy at `url`; `key` is that of a client who has none of their own to show."""

    def __init__(self, url: str, key: str | None) -> None:
        self._url = url.rstrip("/").removesuffix("/v1")
        self._key = key

    async def call_proxy(self, context: Context, method: str, path: str, **request: Any) -> dict[str, Any]:
        """Ask the proxy in the name of this context's client. Raises ToolError with what the proxy has to object."""
        try:
            async with (
                aiohttp.ClientSession(timeout=REQUEST_TIMEOUT, headers=self._build_headers(context)) as session,
                session.request(method, self._url + path, **request) as reply,
            ):
                answer: dict[str, Any] = await reply.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise ToolError(f"no clara-proxy answers at {self._url}: {type(error).__name__}") from None
        if reply.status >= 400:
            raise ToolError(str(answer.get("error", {}).get("message", f"status {reply.status}")))
        return answer

    def _build_headers(self, context: Context) -> dict[str, str]:
        request = context.request_context.request
        if request is not None:
            shown = request.headers.get("authorization")
            return {"authorization": str(shown)} if shown else {}
        return {"authorization": f"Bearer {self._key}"} if self._key else {}


def create_server(gateway: ProxyClient) -> MCPServer:
    """Make the server; `run` it, or serve its `streamable_http_app()`."""
    made = MCPServer("clara-proxy", version=version("clara-proxy"), instructions=INSTRUCTIONS, log_level="WARNING")

    @made.tool(structured_output=False)
    async def clara_expand(context: Context, id: Id, query: About = None, lines: Lines = None) -> str:  # noqa: A002
        """Return the text that was left out where a marker names this id, whole or in part."""
        asked = {name: value for name, value in (("query", query), ("lines", lines)) if value}
        answer = await gateway.call_proxy(context, "POST", "/v1/retrieve", json={"hash": id, **asked})
        return str(answer["original_content"])

    @made.tool(structured_output=False)
    async def clara_compress(
        context: Context, text: Text, question: Question = "", ratio: Ratio = None
    ) -> CallToolResult:
        """Shorten a long text to its parts that matter, verbatim; its markers can be expanded."""
        answer = await gateway.call_proxy(context, "POST", "/v1/compress", json=_build_chat(text, question, ratio))
        figures = ("tokens_before", "tokens_after", "tokens_saved", "ccr_hashes", "skip_reason")
        shorter = TextContent(type="text", text=answer["messages"][-1]["content"])
        return CallToolResult(content=[shorter], structured_content={name: answer[name] for name in figures})

    @made.tool(structured_output=True)
    async def clara_savings(context: Context, since: Since = "30d", by: By = "all") -> dict[str, Any]:
        """Say what this proxy has received, sent, saved and paid for since then."""
        return await gateway.call_proxy(context, "GET", "/v1/savings", params={"since": since, "by": by})

    return made


def _build_chat(text: str, question: str, ratio: float | None) -> dict[str, Any]:
    """Return the text as a tool's output, because that is what tools' outputs are shortened for."""
    asked = [{"role": "user", "content": question}] if question else []
    config = {"mode": "ccr"} | ({} if ratio is None else {"target_ratio": 1 / ratio})
    return {
        "model": MODEL,
        "messages": [*asked, {"role": "tool", "tool_call_id": "text", "content": text}],
        "config": config,
    }
