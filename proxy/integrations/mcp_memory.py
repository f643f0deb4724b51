"""The tools of the MCP server on vector stores of the proxy: remember, recall, list and forget."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Annotated, Any

import aiohttp
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field

from ..memory.passages import neutralize_special_tokens

PAGE_SIZE = 1000
CallProxy = Callable[..., Awaitable[dict[str, Any]]]
# With this header a proxy without memory refuses the request, instead of passing it to the upstream.
_HEADERS: Mapping[str, str] = {"x-clara-store": "any"}

Text = Annotated[str, Field(min_length=1, description="The text to keep.")]
Name = Annotated[str | None, Field(max_length=200, description="A name for the text, shown as its source.")]
Store = Annotated[str, Field(min_length=1, max_length=200, description="The name of the vector store.")]
Query = Annotated[str, Field(min_length=1, description="What to find.")]
Limit = Annotated[int, Field(ge=1, le=50, description="The largest number of passages.")]
OptionalStore = Annotated[str | None, Field(description="List the texts of this store. Default: list the stores.")]
FileId = Annotated[str, Field(pattern=r"^file-[\w-]+$", description="The id of the text, as `list` returns it.")]


def add_memory_tools(server: MCPServer, call_proxy: CallProxy) -> None:
    """Add the tools to a server; `call_proxy` sends a request with the key of the client."""

    @server.tool(structured_output=False)
    async def remember(context: Context, text: Text, store: Store = "memory", name: Name = None) -> str:
        """Keep a text in a vector store, to be found by `recall`; the same text is kept once."""
        store_id = await _find_store(call_proxy, context, store)
        if store_id is None:
            created = await _call(call_proxy, context, "POST", "/v1/vector_stores", json={"name": store})
            store_id = str(created["id"])
        digest = sha256(text.encode("utf-8", "replace")).hexdigest()
        entries = await _list(call_proxy, context, f"/v1/vector_stores/{store_id}/files")
        if known := [entry["id"] for entry in entries if entry["attributes"].get("digest") == digest]:
            return f"{known[0]} is in {store} already."
        form = aiohttp.FormData({"purpose": "user_data"})
        form.add_field("file", text.encode("utf-8", "replace"), filename=_build_file_name(name))
        file = await _call(call_proxy, context, "POST", "/v1/files", data=form)
        entry = {"file_id": file["id"], "attributes": {"digest": digest}}
        await _call(call_proxy, context, "POST", f"/v1/vector_stores/{store_id}/files", json=entry)
        return f"{file['id']} is kept in {store}."

    @server.tool(structured_output=False)
    async def recall(context: Context, query: Query, store: Store = "memory", limit: Limit = 5) -> str:
        """Return the passages of a vector store that fit a query, best first, with their sources."""
        store_id = await _get_store(call_proxy, context, store)
        body = {"query": query, "max_num_results": limit}
        found = await _call(call_proxy, context, "POST", f"/v1/vector_stores/{store_id}/search", json=body)
        passages = [
            f"[{number}] {hit['filename']} ({hit['file_id']})\n" + "".join(part["text"] for part in hit["content"])
            for number, hit in enumerate(found["data"], 1)
        ]
        return neutralize_special_tokens("\n\n".join(passages)) or f"Nothing in {store} fits this query."

    @server.tool(name="list", structured_output=True)
    async def list_memory(context: Context, store: OptionalStore = None) -> dict[str, Any]:
        """List the vector stores, or the texts in one of them."""
        if not store:
            stores = await _list(call_proxy, context, "/v1/vector_stores")
            return {"stores": [_pick(entry, "name", "id", "file_counts", "expires_at") for entry in stores]}
        store_id = await _get_store(call_proxy, context, store)
        names = {file["id"]: file["filename"] for file in await _list(call_proxy, context, "/v1/files")}
        entries = await _list(call_proxy, context, f"/v1/vector_stores/{store_id}/files")
        return {"texts": [{"id": entry["id"], "name": names.get(entry["id"])} | _pick(entry, "status", "created_at")
                          for entry in entries]}  # fmt: skip

    @server.tool(structured_output=False)
    async def forget(context: Context, id: FileId) -> str:  # noqa: A002
        """Delete a text from every vector store."""
        await _call(call_proxy, context, "DELETE", f"/v1/files/{id}")
        return f"{id} is deleted."


async def _call(call_proxy: CallProxy, context: Context, method: str, path: str, **request: Any) -> dict[str, Any]:
    return await call_proxy(context, method, path, headers=_HEADERS, **request)


async def _list(call_proxy: CallProxy, context: Context, path: str) -> list[dict[str, Any]]:
    """Return all entries of a list, page by page."""
    entries: list[dict[str, Any]] = []
    parameters: dict[str, Any] = {"limit": PAGE_SIZE}
    while True:
        page = await _call(call_proxy, context, "GET", path, params=parameters)
        entries += page["data"]
        if not page["has_more"]:
            return entries
        parameters["after"] = page["last_id"]


async def _find_store(call_proxy: CallProxy, context: Context, name_or_id: str) -> str | None:
    """Return the id of the store with this id, or of the oldest with this name; None without a match."""
    stores = await _list(call_proxy, context, "/v1/vector_stores")
    matches = [store["id"] for store in stores if name_or_id in (store["id"], store["name"])]
    return None if not matches else name_or_id if name_or_id in matches else str(matches[-1])


async def _get_store(call_proxy: CallProxy, context: Context, name_or_id: str) -> str:
    store_id = await _find_store(call_proxy, context, name_or_id)
    if store_id is None:
        raise ToolError(f"there is no vector store {name_or_id}")
    return store_id


def _build_file_name(name: str | None) -> str:
    """Return the file name of a text; its suffix makes it plain text."""
    return f"{name or datetime.now(UTC).strftime('note %Y-%m-%d %H:%M:%S')}.md"


def _pick(entry: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: entry[name] for name in names}
