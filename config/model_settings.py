"""Settings of the local models: CLaRa and a pruner."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings

from .setting_types import (
    accept_yaml_false,
    require_scheme,
    validate_backend,
    validate_keep_alive,
    validate_urls,
)


class ModelSettings(BaseSettings):
    """The models, their devices, number formats and limits."""

    model: str | None = Field(
        default=None,
        description="Local CLaRa or PISCO model: a directory or a hub repository such as `apple/CLaRa-7B-Instruct` or "
        "`naver/pisco-mistral`; `none` disables it. By default `clara-nano` from the package, if the extra `[clara]` "
        "is installed.",
    )
    subfolder: str | None = Field(
        default=None, description="Compression rate of the checkpoint, for example `compression-16`."
    )
    base: str | None = Field(
        default=None, description="Location of CLaRa's base model, if it differs from the checkpoint's own entry."
    )
    backend: Annotated[str, AfterValidator(validate_backend)] = Field(
        default="auto",
        description="Device for CLaRa: `auto`, `cuda`, `mps` or `cpu`; `mlx` for Apple's GPUs without torch; `vllm` to "
        "generate on the servers of `CLARA_VLLM_URL`; or the URL of a clara-proxy on another machine, which then does "
        "CLaRa's work.",
    )
    vllm_url: Annotated[str | None, AfterValidator(validate_urls)] = Field(
        default=None,
        description="vLLM servers that generate CLaRa's answers with `CLARA_BACKEND=vllm`: URLs, separated by commas.",
    )
    backend_key: str | None = Field(
        default=None, repr=False, description="API key of that other clara-proxy, or of the vLLM servers."
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
    latents_url: Annotated[
        str | None, require_scheme("redis", "rediss", "unix", "postgresql", "postgres", "postgresql+asyncpg")
    ] = Field(
        default=None,
        repr=False,
        description="Database in which proxies share compressed documents: `redis://...`, with memory of its own apart "
        "from the originals, or `postgresql://...`, of at most `CLARA_LATENTS_DISK_MB`.",
    )
    abstention_threshold: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Score above which CLaRa's answer counts as not in memory and the text is extracted instead, if "
        "the checkpoint has an abstention head; by default the head's own, and `1` never abstains.",
    )
    latents_memory_mb: int = Field(
        default=256, ge=0, description="Memory for compressed documents that were used lately, in MiB."
    )
    latents_disk_mb: int = Field(
        default=8192, ge=0, description="Disk space for compressed documents, in MiB; the least recently used go first."
    )
    quantized_disk_mb: int = Field(
        default=16384,
        ge=0,
        description="Disk space for quantized weights, in MiB, so that a model is quantized once; 0 keeps none.",
    )
    keep_alive: Annotated[float, AfterValidator(validate_keep_alive)] = Field(
        default=900,
        description="Seconds without work after which CLaRa is unloaded: 0 after each answer, -1 never.",
    )
    clara_deadline_ms: int = Field(
        default=30_000,
        ge=1,
        description="Time limit for a passage in the modes `answer`, `summary` and `prune`, without "
        "`x-clara-deadline-ms`; a late passage is extracted, and the model goes on for when it is asked again.",
    )
    clara_timeout: float = Field(default=120, gt=0, description="Time limit for an answer by CLaRa, in seconds.")
    clara_queue: int = Field(default=256, ge=1, description="Requests that may wait for CLaRa; further ones get a 429.")
    pruner: str | None = Field(
        default=None,
        description="Pruner of the mode `prune`: a directory or a hub repository of `clara-proxy models list`.",
    )
    pruner_threshold: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Probability above which the pruner keeps a word, a sentence or a line if no ratio is asked for; "
        "by default the model's own.",
    )
    api_key: str | None = Field(
        default=None, repr=False, description="API key for CLaRa's own endpoints; without it they are open."
    )
