"""The clients that `wrap` and `doctor` know, as data. `{url}` stands for the address of the proxy, without `/v1`.

`docs/clients/README.md` says which of them really ran through the proxy; the others follow their documentation.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

Api = Literal["openai", "anthropic"]
UPSTREAM_SETTINGS: Mapping[Api, str] = MappingProxyType(
    {"openai": "upstream_base_url", "anthropic": "anthropic_base_url"}
)


class Address(NamedTuple):
    """An environment variable with the base URL of an API; `has_version` if its value ends in `/v1`."""

    variable: str
    api: Api
    has_version: bool = True

    @property
    def value(self) -> str:
        """Return the value that leads to the proxy."""
        return "{url}/v1" if self.has_version else "{url}"


GENERIC_ADDRESSES = (
    Address("OPENAI_BASE_URL", "openai"),
    Address("OPENAI_API_BASE", "openai"),
    Address("ANTHROPIC_BASE_URL", "anthropic", has_version=False),
)


@dataclass(frozen=True)
class Client:
    """What a client needs so that its requests reach the proxy.

    `apis` are those that it speaks. `addresses` come before the generic ones. `variables` are set unless the user has
    set them; `first_party_variables` only if the upstream is Anthropic itself. `arguments` follow the command unless an
    argument of the user contains one of `own_arguments`. `limit` says why a client cannot be routed, and `remedy` what
    to do instead.
    """

    command: str
    title: str
    install: str
    apis: tuple[Api, ...] = ("openai",)
    addresses: tuple[Address, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict[str, str])
    first_party_variables: Mapping[str, str] = field(default_factory=dict[str, str])
    arguments: tuple[str, ...] = ()
    own_arguments: tuple[str, ...] = ()
    limit: str = ""
    remedy: str = ""


_BOTH: tuple[Api, ...] = ("openai", "anthropic")
_CLIENTS = (
    Client(
        "claude",
        "Claude Code",
        "npm install -g @anthropic-ai/claude-code",
        ("anthropic",),
        # Behind another host, Claude Code loads all MCP tools at once and assumes a context window of 200,000 tokens.
        first_party_variables={"ENABLE_TOOL_SEARCH": "true", "_CLAUDE_CODE_ASSUME_FIRST_PARTY_BASE_URL": "1"},
    ),
    Client("codex", "Codex", "npm install -g @openai/codex"),  # its arguments depend on its configuration
    Client("opencode", "opencode", "npm install -g opencode-ai", _BOTH),  # so does its variable
    Client(
        "aider",
        "aider",
        "pip install aider-chat",
        _BOTH,
        (Address("AIDER_OPENAI_API_BASE", "openai"),),  # beats a configuration file, which OPENAI_API_BASE does not
        own_arguments=("--openai-api-base",),
    ),
    Client(
        "openhands",
        "OpenHands",
        "uv tool install openhands",
        _BOTH,
        (Address("LLM_BASE_URL", "openai"),),
        arguments=("--override-with-envs",),
        own_arguments=("--override-with-envs",),
    ),
    Client("qwen", "Qwen Code", "npm install -g @qwen-code/qwen-code"),
    Client("gptme", "gptme", "pip install gptme", _BOTH),
    Client("mini", "mini-swe-agent", "pip install mini-swe-agent", _BOTH),
    Client(
        "goose",
        "goose",
        "see its documentation",
        _BOTH,
        (
            Address("OPENAI_HOST", "openai", has_version=False),
            Address("ANTHROPIC_HOST", "anthropic", has_version=False),
        ),
    ),
    Client(
        "crush",
        "Crush",
        "npm install -g @charmland/crush",
        _BOTH,
        (
            Address("OPENAI_API_ENDPOINT", "openai"),
            Address("ANTHROPIC_API_ENDPOINT", "anthropic", has_version=False),
        ),
    ),
    Client(
        "copilot",
        "GitHub Copilot CLI",
        "npm install -g @github/copilot",
        limit="Copilot's own models cannot be routed",
        remedy="with a provider's key, set COPILOT_PROVIDER_BASE_URL to the address of `clara-proxy serve`",
    ),
    Client(
        "cn",
        "Continue",
        "npm install -g @continuedev/cli",
        limit="Continue reads its address from config.yaml only",
        remedy="set apiBase there to the address of `clara-proxy serve`",
    ),
    Client(
        "gemini",
        "Gemini CLI",
        "npm install -g @google/gemini-cli",
        limit="Gemini CLI speaks Google's own API, which the proxy does not support",
        remedy="use the model gemini/... through a client of the OpenAI API",
    ),
    Client(
        "cursor-agent",
        "Cursor CLI",
        "see its documentation",
        limit="Cursor CLI sends its requests to Cursor's own servers",
        remedy="use a client that sends them to the provider",
    ),
)
CLIENTS: Mapping[str, Client] = MappingProxyType({client.command: client for client in _CLIENTS})


def find_client(executable: str) -> Client | None:
    """Return the client that a command starts, by the name of its file."""
    name = Path(executable).name.lower()
    return CLIENTS.get(name) or CLIENTS.get(name.rpartition(".")[0])  # claude.exe, codex.cmd
