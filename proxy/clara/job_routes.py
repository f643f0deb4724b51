"""`POST /clara/jobs`: CLaRa's work for another clara-proxy with this one as its CLARA_BACKEND."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import ExitStack, aclosing
from time import perf_counter
from typing import Any, Literal

import orjson
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from starlette.types import Receive, Scope, Send

from ...compression.clara.async_engine import ClaraBackend
from ...compression.clara.jobs import ClaraAnswer, ModelJob
from ...compression.compressor import ModelUsage
from ..access import authentication
from ..http import json_body
from ..http.request_context import RequestContext
from ..protocols.api_errors import ApiError
from ..runtime.services import get_services
from .clara_routes import ModelChoice, measure_bytes, record_request, require_clara_key, select_clara
from .local_clara import map_clara_errors

Piece = str | ClaraAnswer
router = APIRouter(tags=["clara"], dependencies=[Depends(require_clara_key)])


class JobRequest(BaseModel):
    """One job: texts, a task, and its time limit in seconds."""

    kind: Literal["generate", "answer", "ask", "paraphrase"]
    documents: list[str]
    question: str = ""
    k: int | None = Field(default=None, ge=1)
    template: int | str = 0
    max_new_tokens: int = Field(default=128, ge=1, le=4096)
    seconds: float | None = Field(default=None, gt=0)


class JobsRequest(ModelChoice):
    """Jobs of another clara-proxy; with `stream`, one job of the kind "ask" whose text is sent as it is written."""

    jobs: list[JobRequest] = Field(min_length=1, max_length=64)
    stream: bool = False


@router.post("/clara/jobs", response_model=dict[str, Any])
async def run_jobs(request: Request, response: Response) -> dict[str, Any] | Response:
    """Run jobs for another clara-proxy with this one as its CLARA_BACKEND; each job succeeds or fails by itself.

    With `stream`, the response has one JSON object a line: `{"piece": text}`, and the result at the end.
    """
    services = get_services(request)
    with ExitStack() as stack:
        context = stack.enter_context(record_request(request, services))
        body = await json_body.read_json(request, services.settings.max_body_bytes, services.bodies, JobsRequest)
        size = measure_bytes([text for job in body.jobs for text in job.documents])
        output = sum(job.max_new_tokens for job in body.jobs)
        await authentication.reserve_local(request.scope, context, size, output)
        clara = select_clara(services, body)
        limit = services.settings.clara_timeout
        with json_body.cancel_on_disconnect(request):
            if body.stream:
                pieces, first = await _open_stream(clara, body.jobs, limit)
                return JobStreamResponse(_encode_stream(pieces, first, context), context, stack.pop_all())
            results = await asyncio.gather(*(_run_job(clara, job, limit) for job in body.jobs))
        _record_answers(context, [result for result in results if isinstance(result, ClaraAnswer)])
    response.headers["x-clara-engine"] = context.engine
    return {"results": [_encode_answer(result) if isinstance(result, ClaraAnswer) else result for result in results]}


class JobStreamResponse(StreamingResponse):
    """A response of JSON objects, one a line; the request is recorded when the last one is sent."""

    def __init__(self, lines: AsyncIterator[bytes], context: RequestContext, recording: ExitStack) -> None:
        headers = {"x-clara-engine": context.engine}
        super().__init__(lines, media_type="application/x-ndjson", headers=headers)
        self._recording = recording

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        with self._recording:
            await super().__call__(scope, receive, send)


async def _run_job(clara: ClaraBackend, job: JobRequest, limit: float) -> ClaraAnswer | dict[str, Any]:
    """Return the answer of a job, or its error."""
    try:
        with map_clara_errors():
            return await clara.run_job(
                ModelJob(job.kind, job.documents, job.question, job.k, job.template, job.max_new_tokens),
                min(job.seconds or limit, limit),
            )
    except ApiError as error:
        return _encode_error(error)


async def _open_stream(
    clara: ClaraBackend, jobs: list[JobRequest], limit: float
) -> tuple[AsyncGenerator[Piece], Piece]:
    """Return the pieces of a job's answer and the first of them: an error before it still gets its own status."""
    (job, *more) = jobs
    if more or job.kind != "ask":
        raise ApiError(400, "stream is for one job of the kind 'ask'", param="stream")
    pieces = clara.stream(job.documents, job.question, job.max_new_tokens, min(job.seconds or limit, limit))
    return pieces, await anext(pieces)


async def _encode_stream(pieces: AsyncGenerator[Piece], piece: Piece, context: RequestContext) -> AsyncIterator[bytes]:
    async with aclosing(pieces):
        try:
            with map_clara_errors():
                while isinstance(piece, str):
                    if piece:
                        yield orjson.dumps({"piece": piece}) + b"\n"
                    piece = await anext(pieces)
        except ApiError as error:
            context.record_error(error)
            yield orjson.dumps(_encode_error(error)) + b"\n"
            return
    _record_answers(context, [piece])
    yield orjson.dumps({**_encode_answer(piece), "usage": list(piece.usage)}) + b"\n"


def _encode_answer(answer: ClaraAnswer) -> dict[str, Any]:
    """Return the fields of an answer; older versions know no `not_in_memory`, so that it is sent only if it is set."""
    fields = answer._asdict()
    return fields if answer.not_in_memory else {name: fields[name] for name in fields if name != "not_in_memory"}


def _encode_error(error: ApiError) -> dict[str, Any]:
    return {"error": {"code": error.code, "message": error.message}}


def _record_answers(context: RequestContext, answers: list[ClaraAnswer]) -> None:
    tokens = sum(answer.usage.tokens for answer in answers)
    context.model_cost = ModelUsage(tokens, sum(answer.usage.gpu_seconds for answer in answers))
    context.received_tokens = sum(answer.document_tokens for answer in answers)
    context.saved_tokens = context.received_tokens - sum(answer.memory_tokens for answer in answers)
    context.compressor_seconds = perf_counter() - context.start_time
