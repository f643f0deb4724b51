"""`/v1/files` in the shapes of OpenAI, kept by the proxy."""

from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import Field
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from ..http import json_body
from ..protocols.api_errors import ApiError
from ..runtime.services import get_services
from ..stores.memory_schema import StoredFile
from .memory_common import Paging, build_page, use_memory

router = APIRouter(prefix="/v1/files", tags=["memory"])


class FilePaging(Paging):
    """A page of files of one purpose."""

    limit: int = Field(default=100, ge=1, le=10_000)
    purpose: str | None = None


@router.post("")
async def upload(request: Request) -> dict[str, Any]:
    """Store a file: a form with the fields `file` and `purpose`."""
    async with use_memory(request) as (memory, owner):
        name, content, purpose = await _read_form(request)
        return serialize_file(await memory.store.add_file(owner, name, content, purpose))


@router.get("")
async def list_files(request: Request, paging: Annotated[FilePaging, Query()]) -> dict[str, Any]:
    """List files."""
    async with use_memory(request) as (memory, owner):
        files = await memory.store.list_files(owner, paging.purpose)
        return build_page(files, serialize_file, paging)


@router.get("/{file_id}")
async def get_file(request: Request, file_id: str) -> dict[str, Any]:
    """Describe a file."""
    async with use_memory(request) as (memory, owner):
        return serialize_file(await memory.store.get_file(owner, file_id))


@router.get("/{file_id}/content", response_class=Response)
async def get_content(request: Request, file_id: str) -> Response:
    """Return the bytes of a file."""
    async with use_memory(request) as (memory, owner):
        content = await memory.store.read_content(owner, file_id)
    headers = {"content-disposition": "attachment", "x-content-type-options": "nosniff"}
    return Response(content, media_type="application/octet-stream", headers=headers)


@router.delete("/{file_id}")
async def delete_file(request: Request, file_id: str) -> dict[str, Any]:
    """Delete a file, also from every vector store."""
    async with use_memory(request) as (memory, owner):
        await memory.store.delete_file(owner, file_id)
        return {"id": file_id, "object": "file", "deleted": True}


def serialize_file(file: StoredFile) -> dict[str, Any]:
    """Return a file as OpenAI's API does."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": int(file.created),
        "expires_at": None,
        "filename": file.name,
        "purpose": file.purpose,
        "status": "processed",
    }


async def _read_form(request: Request) -> tuple[str, bytes, str]:
    """Return name, content and purpose of an uploaded file.

    Raises:
        ApiError: 400 for another body, 413 for a larger one than `CLARA_MAX_BODY_MB`.
    """
    limit = get_services(request).settings.max_body_bytes
    body = await json_body.read_body(request, limit, get_services(request).bodies)
    message = "send a form (multipart/form-data) with the fields file and purpose"
    if body is None or not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise ApiError(400, message, code="invalid_request")

    async def stream() -> AsyncGenerator[bytes]:
        yield body

    try:
        form = await MultiPartParser(request.headers, stream(), max_files=1, max_part_size=limit).parse()
    except (MultiPartException, KeyError) as error:
        raise ApiError(400, f"{message}: {error}", code="invalid_request") from None
    try:
        file, purpose = form.get("file"), form.get("purpose")
        if not isinstance(file, UploadFile):
            raise ApiError(400, message, param="file", code="invalid_request")
        name = (file.filename or "file").replace("\0", "")[:500]
        return name, await file.read(), purpose if isinstance(purpose, str) else "assistants"
    finally:
        await form.close()
