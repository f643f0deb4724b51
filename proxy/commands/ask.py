"""The command `clara-proxy ask`: an answer from the passages of a vector store, with its sources.

The question and the passages go to the configured upstream, or, with the model `clara`, to CLaRa on this machine (or at
`CLARA_BACKEND`): then nothing goes to the upstream.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated

import typer

from ...config.extras import describe_install
from . import memory_options, options, vector_stores
from .memory_options import KeyName, StoreName
from .options import AsJson, Config, DataDir, exit_with_error

if TYPE_CHECKING:
    from ...config.settings import Settings
    from ..stores.memory_schema import ChunkHit

MAX_CLARA_TOKENS = 256
DEFAULT_PASSAGES = 6
Question = Annotated[str, typer.Argument(help="The question.", show_default=False)]
Model = Annotated[
    str | None,
    typer.Option(help="Model of the upstream, or clara for the local model. Default: gpt-4o-mini.", show_default=False),
]
Limit = Annotated[int, typer.Option(min=1, max=50, help="Maximum number of passages.")]
Passages = Annotated[bool, typer.Option("--passages", help="Print the passages only; no model is asked.")]


class AnswerError(Exception):
    """No model answered; the message says why."""


def ask(
    question: Question,
    store: StoreName,
    model: Model = None,
    passages: Passages = False,
    limit: Limit = DEFAULT_PASSAGES,
    key: KeyName = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Answer a question from the files of a vector store, and name the sources.

    The passages go to the upstream with OPENAI_API_KEY or CLARA_UPSTREAM_API_KEY; with --model clara they do not.
    """
    settings = options.load_settings(config, data_dir=data_dir)
    from ..memory.question_prompt import DEFAULT_MODEL  # noqa: PLC0415 - slow, and `--help` does not need it
    from ..stores.memory_store import MemoryNotFoundError  # noqa: PLC0415

    try:
        hits = asyncio.run(_find_passages(settings, key, store, question, limit))
    except MemoryNotFoundError as error:
        exit_with_error(f"{error}; {vector_stores.NOT_FOUND_REMEDY}", 1)
    if passages or not hits:
        vector_stores.print_passages(hits, as_json=as_json)
        raise typer.Exit(0 if hits else 1)
    try:
        answer = asyncio.run(_print_answer(settings, model or DEFAULT_MODEL, question, hits, is_shown=not as_json))
    except AnswerError as error:
        exit_with_error(str(error), 1)
    if as_json:
        sources = [vector_stores.describe_passage(number, hit) for number, hit in enumerate(hits, 1)]
        options.print_json({"model": model or DEFAULT_MODEL, "answer": answer, "passages": sources})
        return
    typer.echo("\n\nPassages:")
    for number, hit in enumerate(hits, 1):
        typer.echo(f"  {vector_stores.format_source(number, hit)}")


async def _find_passages(
    settings: "Settings", key: str | None, store: str, question: str, limit: int
) -> "list[ChunkHit]":
    owner = await memory_options.resolve_owner(settings, key)
    async with memory_options.open_database(settings) as memory:
        return await vector_stores.find_passages(memory, owner, store, question, limit)


async def _print_answer(
    settings: "Settings", model: str, question: str, hits: "list[ChunkHit]", *, is_shown: bool
) -> str:
    """Print the answer in pieces, and return it. Raises AnswerError."""
    from ..clara.latent_chat import is_clara_model  # noqa: PLC0415

    stream = _ask_clara if is_clara_model(model) else _ask_upstream
    answer: list[str] = []
    async with aclosing(stream(settings, model, question, hits)) as pieces:
        async for piece in pieces:
            answer.append(piece)
            if is_shown:
                typer.echo(options.replace_unprintable(piece), nl=False)
    return "".join(answer)


async def _ask_clara(settings: "Settings", model: str, question: str, hits: "list[ChunkHit]") -> AsyncGenerator[str]:
    from ...compression.clara.extracted_answers import replace_missing  # noqa: PLC0415
    from ...compression.clara.locate import NANO_NAME  # noqa: PLC0415
    from ...compression.models.errors import ModelError  # noqa: PLC0415
    from ...compression.tokens import get_token_counter  # noqa: PLC0415
    from ..runtime.local_model import create_clara  # noqa: PLC0415

    clara = create_clara(settings, settings.data_dir.expanduser())
    if clara is None:
        raise AnswerError(f"there is no CLaRa model: {describe_install('clara')}, or set CLARA_MODEL")
    if clara.name == NANO_NAME:
        typer.echo("clara-nano is a small model, trained on synthetic facts; check its answer", err=True)
    rate, counter = model.partition("-")[2], get_token_counter(model)
    try:
        documents = [hit.text for hit in hits]
        reader = clara.select_rate(int(rate) if rate else None)
        async with aclosing(reader.stream(documents, question, MAX_CLARA_TOKENS, settings.clara_timeout)) as pieces:
            async for piece in pieces:
                if isinstance(piece, str):
                    yield piece
                elif piece.not_in_memory:
                    yield (await replace_missing(piece, documents, question, MAX_CLARA_TOKENS, counter)).text
    except (ModelError, ImportError) as error:
        raise AnswerError(f"the CLaRa model cannot answer: {error}") from error
    finally:
        await clara.aclose()


async def _ask_upstream(settings: "Settings", model: str, question: str, hits: "list[ChunkHit]") -> AsyncGenerator[str]:
    import orjson  # noqa: PLC0415

    from ...config import client_environment  # noqa: PLC0415
    from ..http import headers  # noqa: PLC0415
    from ..http.upstream import Upstream  # noqa: PLC0415
    from ..memory.question_prompt import build_messages  # noqa: PLC0415
    from ..protocols import sse  # noqa: PLC0415
    from ..protocols.api_errors import ApiError  # noqa: PLC0415

    base_url = settings.upstream_base_url
    key = settings.upstream_api_key or client_environment.read_openai_key(base_url)
    if key is None and base_url == type(settings).model_fields["upstream_base_url"].default:
        raise AnswerError(
            "there is no API key, and nothing was sent; set OPENAI_API_KEY or CLARA_UPSTREAM_API_KEY, "
            "or use --passages, which asks no model"
        )
    url = headers.build_upstream_url(base_url, {"path": "/v1/chat/completions"})
    request_headers = [("content-type", "application/json"), *([("authorization", f"Bearer {key}")] if key else [])]
    body = orjson.dumps({"model": model, "stream": True, "messages": build_messages(question, hits)})
    upstream = Upstream(
        connect_timeout=settings.connect_timeout,
        read_timeout=settings.read_timeout,
        decompress=True,
        proxy=settings.upstream_proxy,
    )
    try:
        async with upstream.send("POST", url, request_headers, body) as reply:
            if reply.status != 200:
                raise AnswerError(_describe_refusal(url, reply.status, await reply.read(), has_key=bool(key)))
            splitter = sse.EventSplitter()
            async for chunk in reply.chunks():
                for event in splitter.feed(chunk):
                    yield _parse_piece(event)
            for event in splitter.flush():
                yield _parse_piece(event)
    except ApiError as error:
        raise AnswerError(f"the upstream {client_environment.redact_url(url)}: {error.message}") from error
    finally:
        await upstream.close()


def _parse_piece(event: bytes) -> str:
    """Return the text in an event of a streamed chat completion. Raises AnswerError for an error event."""
    from ..protocols import sse  # noqa: PLC0415
    from ..protocols.json_types import is_array, is_object  # noqa: PLC0415

    data = sse.parse_data(event)
    error = data.get("error")
    if error:
        raise AnswerError(f"the upstream stopped: {error.get('message') if is_object(error) else error}")
    choices = data.get("choices")
    for choice in choices if is_array(choices) else []:
        delta = choice.get("delta") if is_object(choice) else None
        if is_object(delta) and isinstance(delta.get("content"), str):
            return str(delta["content"])
    return ""


def _describe_refusal(url: str, status: int, body: bytes, *, has_key: bool) -> str:
    import orjson  # noqa: PLC0415

    from ...config import client_environment  # noqa: PLC0415

    try:
        reason = str(orjson.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        reason = ""
    hint = "; set OPENAI_API_KEY or CLARA_UPSTREAM_API_KEY" if status == 401 and not has_key else ""
    return f"{client_environment.redact_url(url)} answered with status {status}{f': {reason}' if reason else ''}{hint}"
