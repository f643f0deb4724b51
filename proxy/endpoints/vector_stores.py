"""`/v1/vector_stores` in the shapes of OpenAI, kept and searched by the proxy."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from ..memory import filters
from ..memory.filters import Comparison, Compound
from ..protocols.api_errors import ApiError
from ..stores.memory_schema import ChunkHit, VectorStore
from .memory_common import Paging, build_page, read_json, use_memory

Metadata = Annotated[dict[str, str], Field(max_length=16)]
router = APIRouter(prefix="/v1/vector_stores", tags=["memory"])


class ExpiresAfter(BaseModel):
    """When a store expires: so many days after its last use."""

    anchor: Literal["last_active_at"] = "last_active_at"
    days: int = Field(ge=1, le=365)


class StaticChunking(BaseModel):
    """Sizes in tokens."""

    max_chunk_size_tokens: int = Field(default=200, ge=20, le=4096)
    chunk_overlap_tokens: int = Field(default=0, ge=0)


class ChunkingStrategy(BaseModel):
    """`auto`, or `static` with sizes."""

    type: Literal["auto", "static"] = "auto"
    static: StaticChunking = StaticChunking()

    @property
    def sizes(self) -> tuple[int, int]:
        """Return the largest size of a chunk and the overlap, which is at most half of it."""
        size = self.static.max_chunk_size_tokens
        return size, min(self.static.chunk_overlap_tokens, size // 2)


class CreateStore(BaseModel):
    """A new vector store."""

    name: str | None = None
    file_ids: list[str] = []
    metadata: Metadata | None = None
    expires_after: ExpiresAfter | None = None
    chunking_strategy: ChunkingStrategy = ChunkingStrategy()


class UpdateStore(BaseModel):
    """Changes of a vector store."""

    name: str | None = None
    metadata: Metadata | None = None
    expires_after: ExpiresAfter | None = None


class RankingOptions(BaseModel):
    """`score_threshold` from 0 to 1; `ranker` is accepted and ignored."""

    ranker: str | None = None
    score_threshold: float = Field(default=0, ge=0, le=1)


class SearchRequest(BaseModel):
    """A search; `rewrite_query` is accepted and ignored."""

    query: str | list[str]
    filters: Comparison | Compound | None = None
    max_num_results: int = Field(default=10, ge=1, le=50)
    ranking_options: RankingOptions = RankingOptions()
    rewrite_query: bool = False


@router.post("")
async def create_store(request: Request) -> dict[str, Any]:
    """Create a vector store, with files if `file_ids` names some."""
    async with use_memory(request) as (memory, owner):
        body = await read_json(request, CreateStore)
        for file_id in body.file_ids:
            await memory.store.get_file(owner, file_id)
        days = None if body.expires_after is None else body.expires_after.days
        store = await memory.store.create_store(owner, body.name or "", body.metadata, days)
        for file_id in body.file_ids:
            await memory.store.attach_file(owner, store.id, file_id, chunking=body.chunking_strategy.sizes)
            memory.indexer.submit(owner, store.id, file_id)
        return serialize_store(await memory.store.get_store(owner, store.id))


@router.get("")
async def list_stores(request: Request, paging: Annotated[Paging, Query()]) -> dict[str, Any]:
    """List vector stores."""
    async with use_memory(request) as (memory, owner):
        return build_page(await memory.store.list_stores(owner), serialize_store, paging)


@router.get("/{store_id}")
async def get_store(request: Request, store_id: str) -> dict[str, Any]:
    """Describe a vector store."""
    async with use_memory(request) as (memory, owner):
        return serialize_store(await memory.store.get_store(owner, store_id))


@router.post("/{store_id}")
async def update_store(request: Request, store_id: str) -> dict[str, Any]:
    """Change the name, the metadata or the expiry of a vector store."""
    async with use_memory(request) as (memory, owner):
        body = await read_json(request, UpdateStore)
        changes: dict[str, Any] = {}
        if "name" in body.model_fields_set:
            changes["name"] = body.name or ""
        if "metadata" in body.model_fields_set:
            changes["metadata"] = body.metadata or {}
        if "expires_after" in body.model_fields_set:
            changes["expires_days"] = None if body.expires_after is None else body.expires_after.days
        return serialize_store(await memory.store.update_store(owner, store_id, **changes))


@router.delete("/{store_id}")
async def delete_store(request: Request, store_id: str) -> dict[str, Any]:
    """Delete a vector store; its files stay."""
    async with use_memory(request) as (memory, owner):
        deleted = await memory.store.delete_store(owner, store_id)
        return {"id": deleted, "object": "vector_store.deleted", "deleted": True}


@router.post("/{store_id}/search")
async def search(request: Request, store_id: str) -> dict[str, Any]:
    """Return the passages that fit a question, best first."""
    async with use_memory(request) as (memory, owner):
        body = await read_json(request, SearchRequest)
        store = await memory.store.get_store(owner, store_id)
        try:
            accepts = None if body.filters is None else filters.build_condition(body.filters)
        except ValueError as error:
            raise ApiError(400, str(error), param="filters", code="invalid_request") from None
        queries = [body.query] if isinstance(body.query, str) else body.query
        hits = await memory.search.search(store, "\n".join(queries), body.max_num_results, accepts=accepts)
        await memory.store.touch(store.id)
        threshold = body.ranking_options.score_threshold
        return {
            "object": "vector_store.search_results.page",
            "search_query": queries,
            "data": [serialize_hit(hit) for hit in hits if hit.score >= threshold],
            "has_more": False,
            "next_page": None,
        }


def serialize_hit(hit: ChunkHit) -> dict[str, Any]:
    """Return a passage as OpenAI's API does."""
    return {
        "file_id": hit.file_id,
        "filename": hit.name,
        "score": round(hit.score, 4),
        "attributes": hit.attributes,
        "content": [{"type": "text", "text": hit.text}],
    }


def serialize_counts(counts: dict[str, int]) -> dict[str, int]:
    """Return the number of files by status, and in total."""
    statuses = ("in_progress", "completed", "failed", "cancelled")
    return {status: counts.get(status, 0) for status in statuses} | {"total": sum(counts.values())}


def serialize_store(store: VectorStore) -> dict[str, Any]:
    """Return a vector store as OpenAI's API does."""
    counts = serialize_counts(dict(store.file_counts))
    expires = store.expires
    return {
        "id": store.id,
        "object": "vector_store",
        "created_at": int(store.created),
        "name": store.name,
        "usage_bytes": store.usage_bytes,
        "file_counts": counts,
        "status": "in_progress" if counts["in_progress"] else "completed",
        "expires_after": None if store.expires_days is None else ExpiresAfter(days=store.expires_days).model_dump(),
        "expires_at": None if expires is None else int(expires),
        "last_active_at": int(store.last_active),
        "metadata": store.metadata,
    }
