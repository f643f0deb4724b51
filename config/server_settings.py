"""Settings of the server, the upstreams and litellm."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_settings import BaseSettings

from .setting_types import (
    NameList,
    require_otel_extra,
    validate_base_url,
    validate_origins,
    validate_proxy,
)

LITELLM_PROVIDERS = (
    "anthropic,azure,azure_ai,bedrock,cohere,databricks,deepseek,fireworks_ai,gemini,groq,mistral,ollama,ollama_chat,"
    "openrouter,perplexity,replicate,sagemaker,together_ai,vertex_ai,watsonx,xai"
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


class ServerSettings(BaseSettings):
    """Where the proxy listens, who may use it, and where it forwards to."""

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8765, ge=0, le=65535, description="Port to listen on; 0 picks a free port.")
    processes: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Processes that serve the port. A process uses one core; `CLARA_WORKERS` sets the compressor"
        " threads of each.",
    )
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
