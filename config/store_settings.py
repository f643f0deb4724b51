"""Settings of files that agents read, of pruning, the stores, the caches and the compressor threads."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings

from .setting_types import (
    NameList,
    accept_yaml_false,
    require_scheme,
    validate_encryption_keys,
)

FILE_READING_TOOLS = (
    "read_file,view,view_file,open_file,str_replace_editor,str_replace_based_edit_tool,open,read,cat,edit,goto,"
    "scroll_up,scroll_down"
)


class StoreSettings(BaseSettings):
    """What stays verbatim, what is kept, where and for how long."""

    protected_tools: NameList = Field(
        default="", validate_default=True, description="Tools whose output is never compressed."
    )
    file_tools: NameList = Field(
        default=FILE_READING_TOOLS,
        validate_default=True,
        description="Tools that read files; their output stays verbatim until it is old.",
    )
    epoch_share: float = Field(
        default=0.75,
        gt=0,
        le=1,
        description="Share of the model's context window after which older history is compressed, too.",
    )
    epoch_price: float | None = Field(
        default=None,
        ge=0,
        description="When to prune stale tool outputs to their first line: once re-reading them from the "
        "provider's cache has cost as much as one cache rewrite. The value is (write - read) / "
        "read of the cache prices; 0 never prunes. Unset, it follows from the model's own prices and is at "
        "least 11.5.",
    )
    window: int = Field(
        default=128_000, ge=1000, description="Context window, in tokens, of models without a known window."
    )
    originals_ttl: int = Field(
        default=86_400,
        ge=60,
        description="Minimum number of seconds for which an original can be fetched back; it is deleted up to a tenth "
        "later.",
    )
    originals_url: Annotated[
        str | None, require_scheme("sqlite", "postgresql", "postgres", "redis", "rediss", "unix")
    ] = Field(
        default=None,
        repr=False,
        description="Store of the originals: `postgresql://...`, `redis://...` or `sqlite:///PATH`; by "
        "default a file in the data directory. Replicas share one store.",
    )
    originals_mb: int = Field(
        default=1024,
        ge=1,
        description="Size limit of the originals, in MiB; when the store is full, passages are forwarded unchanged.",
    )
    originals_key: Annotated[NameList, AfterValidator(validate_encryption_keys)] = Field(
        default="",
        validate_default=True,
        repr=False,
        description="Encryption keys for originals, 32 bytes in base64 each; the first one encrypts, all of "
        "them decrypt.",
    )
    response_cache: Annotated[Literal["off", "exact", "semantic"], accept_yaml_false("off")] = Field(
        default="off",
        description="Answer a repeated request from stored answers: `exact` for an equal request, `semantic` also for a"
        " single question in other spelling; see [cache.md](cache.md).",
    )
    response_cache_ttl: int = Field(
        default=3600, ge=1, description="Seconds for which the response cache keeps an answer."
    )
    response_cache_mb: int = Field(
        default=256, ge=1, description="Size limit of the response cache, in MiB; the oldest answers are deleted first."
    )
    response_cache_url: Annotated[
        str | None, require_scheme("sqlite", "postgresql", "postgres", "redis", "rediss", "unix")
    ] = Field(
        default=None,
        repr=False,
        description="Store of the response cache: `postgresql://...`, `redis://...` or `sqlite:///PATH`; by default a "
        "file in the data directory. Replicas share one store.",
    )
    keep_content: Literal["none", "passages"] = Field(
        default="none",
        description="Text that the dashboard may show and training may use: `none`, or `passages` for each "
        "compressed passage before and after, with its question. It is stored with the originals "
        "and expires with them.",
    )
    ledger_url: Annotated[str | None, require_scheme("sqlite", "postgresql", "postgres")] = Field(
        default=None,
        repr=False,
        description="Database of the ledger: `postgresql://...` or `sqlite:///PATH`; by default a file in the"
        " data directory.",
    )
    ledger_days: int | None = Field(
        default=None, ge=1, description="Days after which ledger rows and totals are deleted; by default they are kept."
    )
    memory: bool = Field(
        default=False,
        description="Keep `/v1/files` and `/v1/vector_stores` here instead of forwarding them to the upstream.",
    )
    memory_url: Annotated[str | None, require_scheme("sqlite", "postgresql", "postgres")] = Field(
        default=None,
        repr=False,
        description="Database of files and vector stores: `postgresql://...` or `sqlite:///PATH`; by default a file in "
        "the data directory.",
    )
    memory_latents: bool = Field(
        default=False,
        description="Have CLaRa compress passages as files are indexed, instead of at the first question to `clara`.",
    )
    memory_index_mb: int = Field(
        default=256,
        ge=0,
        description="Memory for the indexes of vector stores, in MiB; 100,000 passages take 40. A store that does not "
        "fit is read again for each search.",
    )
    workers: int = Field(default=2, ge=1, le=64, description="Compressor threads of each process.")
    queue: int = Field(
        default=256,
        ge=1,
        description="Passages that may wait for a compressor thread; further ones are forwarded unchanged.",
    )
    cache_mb: int = Field(default=64, ge=0, description="Memory for the cache of compressed passages, in MiB.")
    shadow_rate: float = Field(
        default=0,
        ge=0,
        le=1,
        description="Share of compressed requests that are sent a second time, without compression, to compare the "
        "answers; each costs a full request.",
    )
    stream_usage: bool = Field(default=True, description="Request the token usage of streams if the client did not.")
