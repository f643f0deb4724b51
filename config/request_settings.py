"""Defaults of the `x-clara-*` request headers."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings

from .setting_types import (
    Mode,
    RetrieveMode,
    RoleList,
    accept_yaml_false,
)


class RequestSettings(BaseSettings):
    """What the proxy does with a request that does not say so in a header."""

    mode: Annotated[Mode, accept_yaml_false("off")] = Field(default="auto", description="Default of `x-clara-mode`.")
    auto: Literal["prune"] | None = Field(
        default=None,
        description="With `prune`, the mode `auto` means `prune`, by the pruner of `CLARA_PRUNER`; by default"
        " `extract`, or `answer` with a CLaRa model and a GPU.",
    )
    ratio: float | None = Field(
        default=None,
        ge=1,
        le=1000,
        description="Default of `x-clara-ratio`: how many times smaller a passage becomes. Without it, a tool"
        " output gets the size for its kind of content (up to 400 tokens all of it), any other passage a third.",
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
