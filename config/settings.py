"""The settings of the proxy, frozen once they are read.

Order: defaults < the YAML file < `CLARA_*` in the environment < command line. An invalid value raises `SettingsError`
with the setting's name and the problem. A test compares the table in docs/settings.md with this module.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings import SettingsError as UnreadableError

from . import config_file
from .setting_types import (
    Mode,
    NameList,
    RetrieveMode,
    RoleList,
    accept_yaml_false,
    require_otel_extra,
    require_scheme,
    validate_backend,
    validate_base_url,
    validate_encryption_keys,
    validate_keep_alive,
    validate_origins,
    validate_proxy,
)
from .settings_errors import SettingsError, describe_validation_error, suggest_name

ENV_PREFIX = "CLARA_"
LITELLM_PROVIDERS = (
    "anthropic,azure,azure_ai,bedrock,cohere,databricks,deepseek,fireworks_ai,gemini,groq,mistral,ollama,ollama_chat,"
    "openrouter,perplexity,replicate,sagemaker,together_ai,vertex_ai,watsonx,xai"
)
FILE_READING_TOOLS = (
    "read_file,view,view_file,open_file,str_replace_editor,str_replace_based_edit_tool,open,read,cat,edit,goto,"
    "scroll_up,scroll_down"
)


class LitellmModel(BaseModel):
    """One entry of `models:` in the configuration file: the clients' name of a model, and litellm's.

    `api_key` and `api_base` are passed to litellm; without a key, litellm reads the provider's own variable.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    litellm: str = Field(min_length=1)
    api_key: str | None = Field(default=None, repr=False)
    api_base: str | None = None


class Settings(BaseSettings):
    """All settings. Build them with `load_settings`, or in a test with keyword arguments."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid", env_ignore_empty=True)

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8765, ge=0, le=65535, description="Port to listen on; 0 picks a free port.")
    open: bool = Field(
        default=False,
        description="Allow requests without an API key from other machines, as long as no key exists.",
    )
    require_keys: bool = Field(
        default=False,
        description="Refuse to start, and to serve, without an API key, even with `CLARA_OPEN`. The container sets"
        " it to `true`.",
    )
    cors_origins: Annotated[NameList, AfterValidator(validate_origins)] = Field(
        default="",
        validate_default=True,
        description="Origins whose web pages may send requests, such as `https://app.example.com`; by default only"
        " pages of the proxy itself and, without `CLARA_OPEN`, of this machine.",
    )
    data_dir: Path = Field(default=Path("~/.clara-proxy"), description="Directory for the ledger and the originals.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Lowest level of log records."
    )
    log_format: Literal["text", "json"] = Field(
        default="text",
        description="Log format: `text`, or `json` for one JSON object a record; `json` also logs each "
        "request at level `info`.",
    )
    otel: Annotated[bool, AfterValidator(require_otel_extra)] = Field(
        default=False,
        description="Send spans and GenAI metrics by OTLP over HTTP, configured by OpenTelemetry's own "
        "variables; needs the extra `[otel]`.",
    )

    upstream_base_url: Annotated[str, AfterValidator(validate_base_url)] = Field(
        default="https://api.openai.com/v1",
        description="Base URL for OpenAI-compatible requests.",
    )
    upstream_api_key: str | None = Field(
        default=None, repr=False, description="API key for this upstream; without it, the client's own key is sent."
    )
    anthropic_base_url: Annotated[str, AfterValidator(validate_base_url)] = Field(
        default="https://api.anthropic.com/v1",
        description="Base URL for `/v1/messages` and for requests with an `anthropic-version` header.",
    )
    anthropic_api_key: str | None = Field(
        default=None, repr=False, description="API key for Anthropic's API; without it, the client's own key is sent."
    )
    upstream_proxy: Annotated[str | None, AfterValidator(validate_proxy)] = Field(
        default=None,
        repr=False,
        description="HTTP proxy for upstream connections, `http://HOST:PORT`, or `none`; by default "
        "`HTTPS_PROXY`, `HTTP_PROXY` and `ALL_PROXY` decide. Hosts in `NO_PROXY` are reached "
        "directly.",
    )
    connect_timeout: float = Field(default=10, gt=0, description="Seconds to wait for a connection to the upstream.")
    read_timeout: float = Field(default=600, gt=0, description="Longest silence of the upstream, in seconds.")
    max_body_mb: int = Field(
        default=64, ge=1, description="Largest request body after decompression, in MiB; a larger body gets a 413."
    )
    bodies_mb: int = Field(
        default=256,
        ge=1,
        description="Memory for the request bodies of more than 1 MiB that are in progress, in MiB; a request beyond"
        " it gets a 503.",
    )
    max_connections: int | None = Field(
        default=None,
        ge=1,
        description="Connections of clients at once; a further one gets a 503. By default as many as the limit of open "
        "files allows, at most 4,096.",
    )
    client_timeout: float = Field(
        default=30,
        gt=0,
        description="Seconds for a client to send the headers of a request, and the longest silence within its body.",
    )
    drain_seconds: float = Field(
        default=10,
        ge=0,
        description="Seconds for running requests to finish when the proxy stops; a stream that is cut then ends with "
        "an error event.",
    )
    litellm_providers: NameList = Field(
        default=LITELLM_PROVIDERS,
        validate_default=True,
        description="Model prefixes (`anthropic/...`) that go through litellm; an empty list sends all models"
        " to the upstream. The default applies only to OpenAI's own upstream.",
    )
    models: tuple[LitellmModel, ...] = Field(
        default=(), description="Model names served through litellm: `name`, `litellm`, `api_key`, `api_base`."
    )

    mode: Annotated[Mode, accept_yaml_false("off")] = Field(default="auto", description="Default of `x-clara-mode`.")
    ratio: float | None = Field(
        default=None,
        ge=1,
        le=1000,
        description="Default of `x-clara-ratio`: how many times smaller a passage becomes. Without it, a tool"
        " output gets the size for its kind of content, any other passage a third.",
    )
    budget: int | None = Field(
        default=None, ge=1, description="Default of `x-clara-budget`: most context tokens to send."
    )
    min_tokens: int = Field(
        default=150, ge=1, description="Default of `x-clara-min-tokens`: shorter passages are not compressed."
    )
    roles: RoleList = Field(
        default="tool,user,assistant",
        validate_default=True,
        description="Default of `x-clara-roles`: roles whose text may be compressed.",
    )
    deadline_ms: int = Field(
        default=2000, ge=1, description="Default of `x-clara-deadline-ms`: time limit for counting and compression."
    )
    fail: Literal["open", "closed"] = Field(
        default="open",
        description="Default of `x-clara-fail`: whether a failed compression forwards the original (`open`) "
        "or returns a 503 (`closed`).",
    )
    retrieve: RetrieveMode = Field(
        default="auto",
        description="Default of `x-clara-retrieve`: how omitted text is fetched back. `tool` adds the tool "
        "`clara_expand` to the client's tools, `url` puts a URL into the marker, `auto` is `tool`"
        " if the request has tools, `none` puts no reference into the marker.",
    )
    session: str | None = Field(default=None, description="Default of `x-clara-session`: a label in the ledger.")
    user: str | None = Field(default=None, description="Default of `x-clara-user`: a label in the ledger.")
    project: str | None = Field(default=None, description="Default of `x-clara-project`: a label in the ledger.")

    model: str | None = Field(
        default=None,
        description="Local CLaRa model: a directory or a hub repository such as `apple/CLaRa-7B-Instruct`; "
        "`none` disables it. By default `clara-nano` from the package, if the extra `[clara]` is "
        "installed.",
    )
    subfolder: str | None = Field(
        default=None, description="Compression rate of the checkpoint, for example `compression-16`."
    )
    base: str | None = Field(
        default=None, description="Location of CLaRa's base model, if it differs from the checkpoint's own entry."
    )
    backend: Annotated[str, AfterValidator(validate_backend)] = Field(
        default="auto",
        description="Device for CLaRa: `auto`, `cuda`, `mps` or `cpu`; or the URL of a clara-proxy on another machine, "
        "which then does CLaRa's work.",
    )
    backend_key: str | None = Field(
        default=None, repr=False, description="API key of that other clara-proxy, if it requires one."
    )
    quantization: Annotated[Literal["no", "int8", "int4"] | None, accept_yaml_false("no")] = Field(
        default=None,
        description="Weight format of CLaRa: `int8`, `int4` (needs bitsandbytes) or `no`; by default as the "
        "checkpoint says.",
    )
    dtype: Literal["auto", "fp32", "bf16", "fp16", "int8", "int4"] = Field(
        default="auto",
        description="Number format of CLaRa: `fp32`, `bf16`, `fp16`, or weights in `int8` or `int4`. `auto` is `bf16`, "
        "but `fp32` for a small model on a CPU, and on a CPU that does not compute in `bf16`.",
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        description="Processor threads for CLaRa; by default one for a small model, else one for each physical "
        "core that the process may use.",
    )
    cache: Path | None = Field(
        default=None,
        description="Directory for compressed documents and for downloaded models; by default the data directory, and "
        "the hub client's own cache.",
    )
    latents: Literal["exact", "int8"] = Field(
        default="exact", description="Storage format of compressed documents: `exact`, or `int8` at half the size."
    )
    latents_memory_mb: int = Field(
        default=256, ge=0, description="Memory for compressed documents that were used lately, in MiB."
    )
    latents_disk_mb: int = Field(
        default=8192, ge=0, description="Disk space for compressed documents, in MiB; the least recently used go first."
    )
    keep_alive: Annotated[float, AfterValidator(validate_keep_alive)] = Field(
        default=900,
        description="Seconds without work after which CLaRa is unloaded: 0 after each answer, -1 never.",
    )
    clara_deadline_ms: int = Field(
        default=30_000,
        ge=1,
        description="Time limit for a passage in the modes `answer` and `summary`, without `x-clara-deadline-ms`; a "
        "late passage is extracted, and CLaRa goes on for when it is asked again.",
    )
    clara_timeout: float = Field(default=120, gt=0, description="Time limit for an answer by CLaRa, in seconds.")
    clara_queue: int = Field(default=256, ge=1, description="Requests that may wait for CLaRa; further ones get a 429.")
    api_key: str | None = Field(
        default=None, repr=False, description="API key for CLaRa's own endpoints; without it they are open."
    )

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
    workers: int = Field(default=2, ge=1, le=64, description="Compressor threads.")
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

    @property
    def max_body_bytes(self) -> int:
        """Return the size limit of a request body in bytes."""
        return self.max_body_mb * 2**20


def load_settings(file: Path | None = None, *, defaults: Mapping[str, Any] | None = None, **overrides: Any) -> Settings:
    """Read the settings from `defaults`, the configuration file, the environment and `overrides`, in rising order.

    Overrides of None are ignored. `config_file.find_config_file` chooses the configuration file.

    Raises:
        SettingsError: the file cannot be read, or it has an unknown setting or an invalid value.
    """
    path = config_file.find_config_file(file)
    values = {**(defaults or {}), **(config_file.read_config_file(path) if path else {})}
    variables = {name.upper() for name, value in os.environ.items() if value}  # an empty variable counts as unset
    values = {name: value for name, value in values.items() if ENV_PREFIX + name.upper() not in variables}
    values |= {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**values)
    except ValidationError as error:
        details = error.errors()
        raise SettingsError(
            "; ".join(describe_validation_error(detail, ENV_PREFIX, Settings.model_fields) for detail in details)
        ) from None
    except UnreadableError as error:  # a variable that should hold JSON; the message names the field
        raise SettingsError(str(error)) from None


def find_unknown_variables() -> dict[str, str]:
    """Return the `CLARA_*` variables in the environment that no setting reads, each with a suggestion or ""."""
    variables = [ENV_PREFIX + name.upper() for name in Settings.model_fields] + [config_file.FILE_VARIABLE]
    unknown = sorted(name for name in os.environ if name.startswith(ENV_PREFIX) and name not in variables)
    return {name: suggest_name(name, variables) for name in unknown}


def build_child_environment(**variables: str) -> dict[str, str]:
    """Return this process's environment with more `variables`, for a child process."""
    return {**os.environ, **variables}
