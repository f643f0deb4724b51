"""The Responses tool `file_search` on stores of the proxy: its search, and the request without it.

The proxy searches with the question of the user, instead of the model, and adds the passages to the user's message. The
tool and the calls of earlier replies do not reach the upstream: it does not have these stores.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from ..http.json_body import build_validation_error
from ..protocols import json_codec
from ..protocols.api_errors import ApiError
from ..protocols.json_types import Json, is_array, is_object
from ..stores.memory_schema import VectorStore
from ..stores.memory_store import MemoryNotFoundError
from . import filters, passages
from .filters import Comparison, Compound
from .insertion import StoreQuery
from .service import Memory

CALL_ID_PREFIX = "fs_clara_"
INCLUDE_RESULTS = "file_search_call.results"
_TOOL_TYPE, _CALL_TYPE = "file_search", "file_search_call"


class RankingOptions(BaseModel):
    """`score_threshold` from 0 to 1; `ranker` is ignored."""

    score_threshold: float = Field(default=0, ge=0, le=1)


class FileSearchTool(BaseModel):
    """The tool as a client offers it."""

    vector_store_ids: list[str] = Field(min_length=1)
    filters: Comparison | Compound | None = None
    max_num_results: int = Field(default=passages.DEFAULT_PASSAGES, ge=1, le=50)
    ranking_options: RankingOptions | None = None


@dataclass(frozen=True, slots=True)
class FileSearch:
    """A search by the proxy; `tools` are the client's, and a reply repeats them."""

    query: StoreQuery
    tools: list[Any]
    includes_results: bool


async def find_file_search(memory: Memory, owner: str, body: Json) -> FileSearch | None:
    """Return the search of a parsed body, or None if the tool is not offered or its stores are not the owner's.

    Raises:
        ApiError: 400 for an invalid tool, 404 if only some of its stores exist here.
    """
    tools, include = body.get("tools"), body.get("include")
    offered = [tool for tool in (tools if is_array(tools) else ()) if _is_file_search(tool)]
    if not offered or not is_array(tools):
        return None
    names = [name for tool in offered for name in _list_names(tool)]
    stores, missing = await _find_stores(memory, owner, names)
    if not stores:
        return None
    if missing:
        raise ApiError(404, f"there is no vector store {missing[0]}", param="tools", code="not_found")
    try:
        tool = FileSearchTool.model_validate({**offered[0], "vector_store_ids": names})
        accepts = None if tool.filters is None else filters.build_condition(tool.filters)
    except ValidationError as error:
        raise build_validation_error(error, prefix=("tools", str(tools.index(offered[0])))) from None
    except ValueError as error:
        raise ApiError(400, str(error), param="filters", code="invalid_request") from None
    ranking, condition = tool.ranking_options or RankingOptions(), tool.filters
    query = StoreQuery(
        tuple(stores),
        tool.max_num_results,
        "" if condition is None else condition.model_dump_json(),
        accepts,
        ranking.score_threshold,
    )
    return FileSearch(query, tools, is_array(include) and INCLUDE_RESULTS in include)


def remove_file_search(body: Json, *, remove_tool: bool) -> Json:
    """Return a body without the proxy's own calls and their citations and, with `remove_tool`, without the tool.

    Returns the same object if there is nothing to remove.
    """
    changes: Json = {}
    items = body.get("input")
    if is_array(items) and any(_is_own_call(item) for item in items):
        changes["input"] = _remove_calls(items)
    if not remove_tool:
        return json_codec.merge(body, changes) if changes else body
    tools, include, choice = body.get("tools"), body.get("include"), body.get("tool_choice")
    changes["tools"] = [tool for tool in (tools if is_array(tools) else ()) if not _is_file_search(tool)]
    if is_array(include):
        changes["include"] = [name for name in include if name != INCLUDE_RESULTS]
    if is_object(choice) and is_array(allowed := choice.get("tools")):
        changes["tool_choice"] = json_codec.merge(
            choice, {"tools": [tool for tool in allowed if not _is_file_search(tool)]}
        )
    changed = json_codec.merge(body, changes)
    if not changes["tools"] or _is_file_search(choice) or changes.get("tool_choice", {}).get("tools") == []:
        changed.pop("tool_choice", None)
    for name in ("tools", "include"):
        if changed.get(name) == []:
            del changed[name]
    return changed


def build_call(call_id: str, question: str, hits: Sequence[Json] | None) -> Json:
    """Return the output item of a search; with `hits`, its results."""
    results = None if hits is None else [
        {
            "file_id": hit["file_id"],
            "filename": hit["name"],
            "score": round(hit["score"], 4),
            "attributes": hit["attributes"],
            "text": hit["text"],
        }
        for hit in sorted(hits, key=lambda hit: -hit["score"])
    ]  # fmt: skip
    return {"id": call_id, "type": _CALL_TYPE, "status": "completed", "queries": [question], "results": results}


async def _find_stores(memory: Memory, owner: str, names: Sequence[str]) -> tuple[list[VectorStore], list[str]]:
    stores: dict[str, VectorStore] = {}
    missing: list[str] = []
    for name in names:
        try:
            store = await memory.store.get_store(owner, name)
            stores[store.id] = store
        except MemoryNotFoundError:
            missing.append(name)
    return list(stores.values()), missing


def _remove_calls(items: Sequence[Any]) -> list[Any]:
    """Return items without the proxy's own calls, and without the citations in the replies behind them."""
    kept: list[Any] = []
    is_behind_call = False
    for item in items:
        if _is_own_call(item):
            is_behind_call = True
            continue
        is_behind_call = is_behind_call and not (is_object(item) and item.get("role") == "user")
        kept.append(_remove_citations(item) if is_behind_call else item)
    return kept


def _remove_citations(item: Any) -> Any:
    if not is_object(item) or not is_array(content := item.get("content")):
        return item
    return json_codec.merge(item, {"content": [_remove_annotations(part) for part in content]})


def _remove_annotations(part: Any) -> Any:
    if not is_object(part) or not is_array(annotations := part.get("annotations")):
        return part
    others = [entry for entry in annotations if not (is_object(entry) and entry.get("type") == "file_citation")]
    return json_codec.merge(part, {"annotations": others})


def _list_names(tool: Json) -> list[str]:
    names = tool.get("vector_store_ids")
    return [name for name in names if isinstance(name, str)] if is_array(names) else []


def _is_file_search(tool: object) -> bool:
    return is_object(tool) and tool.get("type") == _TOOL_TYPE


def _is_own_call(item: object) -> bool:
    return is_object(item) and str(item.get("id")).startswith(CALL_ID_PREFIX)
