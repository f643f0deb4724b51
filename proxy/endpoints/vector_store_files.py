"""`/v1/vector_stores/{id}/files` and `/file_batches` in the shapes of OpenAI."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from ..memory.service import Memory
from ..protocols.api_errors import ApiError
from ..stores.memory_schema import StoreFile
from .memory_common import Paging, build_page, read_json, use_memory
from .vector_stores import ChunkingStrategy, serialize_counts

Status = Literal["in_progress", "completed", "failed", "cancelled"]
router = APIRouter(prefix="/v1/vector_stores/{store_id}", tags=["memory"])


class StoreFilePaging(Paging):
    """A page of files of one status."""

    filter: Status | None = None


class AttachFile(BaseModel):
    """A file to add to a store."""

    file_id: str
    attributes: dict[str, str | float | bool] | None = Field(default=None, max_length=16)
    chunking_strategy: ChunkingStrategy = ChunkingStrategy()


class UpdateAttributes(BaseModel):
    """New attributes of a file."""

    attributes: dict[str, str | float | bool] | None = Field(max_length=16)


class CreateBatch(BaseModel):
    """Files to add to a store: ids with common options, or files with their own."""

    file_ids: list[str] = Field(default=[], max_length=2000)
    files: list[AttachFile] = Field(default=[], max_length=2000)
    attributes: dict[str, str | float | bool] | None = Field(default=None, max_length=16)
    chunking_strategy: ChunkingStrategy = ChunkingStrategy()


@router.post("/files")
async def attach_file(request: Request, store_id: str) -> dict[str, Any]:
    """Add a file to a vector store; it is indexed in the background."""
    async with use_memory(request) as (memory, owner):
        body = await read_json(request, AttachFile)
        return serialize_entry(await _attach(memory, owner, store_id, body))


@router.get("/files")
async def list_store_files(
    request: Request, store_id: str, paging: Annotated[StoreFilePaging, Query()]
) -> dict[str, Any]:
    """List the files of a vector store."""
    async with use_memory(request) as (memory, owner):
        entries = await memory.store.list_store_files(owner, store_id, paging.filter)
        return build_page(entries, serialize_entry, paging)


@router.get("/files/{file_id}")
async def get_store_file(request: Request, store_id: str, file_id: str) -> dict[str, Any]:
    """Describe a file of a vector store."""
    async with use_memory(request) as (memory, owner):
        return serialize_entry(await memory.store.get_store_file(owner, store_id, file_id))


@router.post("/files/{file_id}")
async def update_attributes(request: Request, store_id: str, file_id: str) -> dict[str, Any]:
    """Replace the attributes of a file."""
    async with use_memory(request) as (memory, owner):
        body = await read_json(request, UpdateAttributes)
        return serialize_entry(await memory.store.set_attributes(owner, store_id, file_id, body.attributes or {}))


@router.delete("/files/{file_id}")
async def detach_file(request: Request, store_id: str, file_id: str) -> dict[str, Any]:
    """Remove a file from a vector store; the file itself stays."""
    async with use_memory(request) as (memory, owner):
        await memory.store.detach_file(owner, store_id, file_id)
        return {"id": file_id, "object": "vector_store.file.deleted", "deleted": True}


@router.get("/files/{file_id}/content")
async def get_text(request: Request, store_id: str, file_id: str) -> dict[str, Any]:
    """Return the text of a file, as it was indexed."""
    async with use_memory(request) as (memory, owner):
        await memory.store.get_store_file(owner, store_id, file_id)
        text = await memory.store.read_text(owner, file_id)
        data = [] if text is None else [{"type": "text", "text": text}]
        return {"object": "vector_store.file_content.page", "data": data, "has_more": False, "next_page": None}


@router.post("/file_batches")
async def create_batch(request: Request, store_id: str) -> dict[str, Any]:
    """Add several files to a vector store."""
    async with use_memory(request) as (memory, owner):
        body = await read_json(request, CreateBatch)
        files = body.files or [
            AttachFile(file_id=file_id, attributes=body.attributes, chunking_strategy=body.chunking_strategy)
            for file_id in body.file_ids
        ]
        if not files:
            raise ApiError(400, "file_ids or files must name a file", param="file_ids", code="invalid_request")
        for file in files:
            await memory.store.get_file(owner, file.file_id)
        batch_id = memory.store.make_batch_id()
        entries = [await _attach(memory, owner, store_id, file, batch_id) for file in files]
        return serialize_batch(batch_id, entries)


@router.get("/file_batches/{batch_id}")
async def get_batch(request: Request, store_id: str, batch_id: str) -> dict[str, Any]:
    """Describe a batch."""
    async with use_memory(request) as (memory, owner):
        return serialize_batch(batch_id, await memory.store.list_batch(owner, store_id, batch_id))


@router.get("/file_batches/{batch_id}/files")
async def list_batch_files(
    request: Request, store_id: str, batch_id: str, paging: Annotated[Paging, Query()]
) -> dict[str, Any]:
    """List the files of a batch."""
    async with use_memory(request) as (memory, owner):
        entries = await memory.store.list_batch(owner, store_id, batch_id)
        return build_page(entries, serialize_entry, paging)


@router.post("/file_batches/{batch_id}/cancel")
async def cancel_batch(request: Request, store_id: str, batch_id: str) -> dict[str, Any]:
    """Cancel the files of a batch that are not indexed yet."""
    async with use_memory(request) as (memory, owner):
        await memory.store.cancel_batch(owner, store_id, batch_id)
        return serialize_batch(batch_id, await memory.store.list_batch(owner, store_id, batch_id))


def serialize_entry(entry: StoreFile) -> dict[str, Any]:
    """Return a file of a vector store as OpenAI's API does."""
    error = {"code": "unsupported_file", "message": entry.error} if entry.status == "failed" else None
    sizes = {"max_chunk_size_tokens": entry.max_tokens, "chunk_overlap_tokens": entry.overlap_tokens}
    return {
        "id": entry.file_id,
        "object": "vector_store.file",
        "created_at": int(entry.created),
        "vector_store_id": entry.store_id,
        "status": entry.status,
        "last_error": error,
        "usage_bytes": entry.usage_bytes,
        "attributes": entry.attributes,
        "chunking_strategy": {"type": "static", "static": sizes},
    }


def serialize_batch(batch_id: str, entries: list[StoreFile]) -> dict[str, Any]:
    """Return a batch as OpenAI's API does."""
    counts: dict[str, int] = {}
    for entry in entries:
        counts[entry.status] = counts.get(entry.status, 0) + 1
    is_cancelled = counts.get("cancelled", 0) > 0
    return {
        "id": batch_id,
        "object": "vector_store.file_batch",
        "created_at": int(min(entry.created for entry in entries)),
        "vector_store_id": entries[0].store_id,
        "status": "in_progress" if counts.get("in_progress") else "cancelled" if is_cancelled else "completed",
        "file_counts": serialize_counts(counts),
    }


async def _attach(memory: Memory, owner: str, store_id: str, file: AttachFile, batch_id: str = "") -> StoreFile:
    entry = await memory.store.attach_file(
        owner, store_id, file.file_id, file.attributes, file.chunking_strategy.sizes, batch_id
    )
    memory.indexer.submit(owner, entry.store_id, file.file_id)
    return entry
