"""How a client reaches the proxy: its upstream, variables and arguments, from its environment and configuration files.

Invariants: a value that the user set for the client is never replaced, except an address, to which the proxy forwards
instead. Configuration files are read and never written.
"""

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

import yaml

from ...config.client_environment import ANTHROPIC_DEFAULT_URL
from .clients import GENERIC_ADDRESSES, UPSTREAM_SETTINGS, Address, Api, Client, find_client

CHATGPT_URL = "https://chatgpt.com/backend-api/codex"  # upstream of Codex after a login with ChatGPT
_CLOUD_VARIABLES = ("CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX", "CLAUDE_CODE_USE_FOUNDRY")


class Problem(NamedTuple):
    """A reason why requests do not reach the proxy, and a remedy."""

    result: str
    remedy: str


@dataclass
class Setup:
    """How to start one command; `{url}` stands for the address of the proxy.

    `upstreams` are the addresses that the command would have used, by the name of the proxy's setting.
    """

    command: Sequence[str]
    environment: Mapping[str, str]
    client: Client | None = None
    upstreams: dict[str, str] = field(default_factory=dict[str, str])
    variables: dict[str, str] = field(default_factory=dict[str, str])
    arguments: list[str] = field(default_factory=list[str])
    problems: list[Problem] = field(default_factory=list[Problem])
    named_upstreams: dict[str, str] = field(default_factory=dict[str, str])  # those that the environment names

    def build_command(self, url: str) -> list[str]:
        """Return the command with the arguments that lead it to the proxy at this address."""
        return [self.command[0], *(text.replace("{url}", url) for text in self.arguments), *self.command[1:]]

    def build_variables(self, url: str, anthropic_url: str) -> dict[str, str]:
        """Return the variables to set; `anthropic_url` is the upstream of Anthropic's API."""
        variables = {name: value.replace("{url}", url) for name, value in self.variables.items()}
        if self.client and anthropic_url.rstrip("/") == ANTHROPIC_DEFAULT_URL:
            variables |= {
                name: self.environment.get(name) or value for name, value in self.client.first_party_variables.items()
            }
        return variables

    def describe_source(self, setting: str) -> str:
        """Return what names the upstream of a setting: the environment, or a file of the client."""
        is_file = self.client and self.upstreams.get(setting) not in self.named_upstreams.values()
        return f"the configuration of {self.client.title}" if self.client and is_file else "the environment"

    def set_upstream(self, api: Api, url: str) -> None:
        """Forward requests of this API to `url`."""
        self.upstreams[UPSTREAM_SETTINGS[api]] = url

    def has_argument(self, *texts: str) -> bool:
        """Return True if an argument of the user contains one of the texts."""
        return any(text in argument for argument in self.command[1:] for text in texts)


def prepare(command: Sequence[str], environment: Mapping[str, str]) -> Setup:
    """Return how to start a command so that its requests reach the proxy."""
    client = find_client(command[0]) if command else None
    setup = Setup(command, environment, client)
    for address in (*(client.addresses if client else ()), *GENERIC_ADDRESSES):
        setup.variables[address.variable] = address.value
        if url := _read_address(address, environment):
            setup.upstreams.setdefault(UPSTREAM_SETTINGS[address.api], url)
    setup.named_upstreams = dict(setup.upstreams)
    if client is None:
        return setup
    setup.variables |= {name: environment.get(name) or value for name, value in client.variables.items()}
    if not setup.has_argument(*client.own_arguments):
        setup.arguments += client.arguments
    if client.limit:
        setup.problems.append(Problem(client.limit, client.remedy))
    _ADJUSTMENTS.get(client.command, _adjust_nothing)(setup)
    return setup


def _normalize(url: str) -> str:
    return f"{url.rstrip('/').removesuffix('/v1')}/v1"


def _read_address(address: Address, environment: Mapping[str, Any]) -> str:
    url = str(environment.get(address.variable) or "").rstrip("/")
    if address.has_version or not url:
        return url
    return _normalize(url)  # some clients want the /v1 where others add it


def _adjust_nothing(_setup: Setup) -> None:
    pass


def _adjust_claude(setup: Setup) -> None:
    """Claude Code: `env` in a settings file replaces the environment, and `--settings` replaces the file's value."""
    home = _locate(setup, "CLAUDE_CONFIG_DIR", ".claude")
    values: dict[str, Any] = {}
    for path in (home / "settings.json", Path(".claude/settings.json"), Path(".claude/settings.local.json")):
        values |= _get_table(_read_file(path, json.loads), "env")
    if any({**setup.environment, **values}.get(name) not in (None, "", "0", "false") for name in _CLOUD_VARIABLES):
        remedy = f"unset {', '.join(_CLOUD_VARIABLES)}, in the settings files of Claude Code, too"
        setup.problems.append(Problem("Claude Code sends its requests to a cloud provider", remedy))
    if url := values.get("ANTHROPIC_BASE_URL"):
        setup.set_upstream("anthropic", _normalize(str(url)))
        if setup.has_argument("--settings"):
            remedy = "remove ANTHROPIC_BASE_URL from the settings files, or leave out --settings"
            setup.problems.append(Problem(f"a settings file of Claude Code names the address {url}", remedy))
        else:
            setup.arguments += ["--settings", json.dumps({"env": {"ANTHROPIC_BASE_URL": "{url}"}})]


def _adjust_codex(setup: Setup) -> None:
    """Codex reads its address from its configuration and from `-c`, not from the environment."""
    if setup.has_argument("openai_base_url", "model_provider", "--oss"):
        setup.problems.append(Problem("an argument names the address of Codex", "leave it out"))
        return
    home = _locate(setup, "CODEX_HOME", ".codex")
    settings = _read_file(home / "config.toml", tomllib.loads)
    profile_name = _find_value(setup.command, "-p", "--profile") or str(settings.get("profile") or "")
    profile = _get_table(_get_table(settings, "profiles"), profile_name)
    name = str(profile.get("model_provider") or settings.get("model_provider") or "openai")
    if name == "openai":
        login = _read_file(home / "auth.json", json.loads)
        is_chatgpt = bool(login.get("tokens")) and not login.get("OPENAI_API_KEY")
        url = settings.get("openai_base_url")
        if url or (is_chatgpt and not _is_set(setup, "openai")):
            setup.set_upstream("openai", str(url or CHATGPT_URL))
        setup.arguments += ["-c", 'openai_base_url="{url}/v1"']
    elif url := _get_table(_get_table(settings, "model_providers"), name).get("base_url"):
        setup.set_upstream("openai", str(url))
        setup.arguments += ["-c", f'model_providers.{name}.base_url="{{url}}/v1"']
    else:
        remedy = f"set base_url of [model_providers.{name}] in {home / 'config.toml'}"
        setup.problems.append(Problem(f"the provider {name!r} of Codex has no address", remedy))


def _find_value(command: Sequence[str], *options: str) -> str:
    """Return the value of an option, as in `-m NAME` or `--model=NAME`."""
    for argument, following in zip(command, [*command[1:], ""], strict=True):
        if argument in options:
            return following
        if argument.partition("=")[0] in options:
            return argument.partition("=")[2]
    return ""


def _adjust_aider(setup: Setup) -> None:
    """AIDER_OPENAI_API_BASE replaces the address in a configuration file, which becomes the upstream."""
    for path in (_get_home(setup) / ".aider.conf.yml", Path(".aider.conf.yml")):
        if (url := _read_file(path, yaml.safe_load).get("openai-api-base")) and not _is_set(setup, "openai"):
            setup.set_upstream("openai", str(url))


def _adjust_goose(setup: Setup) -> None:
    """Goose: the environment replaces `config.yaml`; the path of OpenAI's API has a variable of its own."""
    path = _locate(setup, "XDG_CONFIG_HOME", ".config") / "goose" / "config.yaml"
    values = {**_read_file(path, yaml.safe_load), **setup.environment}
    if base_path := str(values.get("OPENAI_BASE_PATH") or ""):
        host = str(values.get("OPENAI_HOST") or "https://api.openai.com").rstrip("/")
        setup.set_upstream("openai", f"{host}/{base_path.strip('/').removesuffix('/chat/completions')}")
        setup.variables["OPENAI_BASE_PATH"] = "v1/chat/completions"
    for address in setup.client.addresses if setup.client else ():
        if not _is_set(setup, address.api) and (url := _read_address(address, values)):
            setup.set_upstream(address.api, url)


def _adjust_openhands(setup: Setup) -> None:
    """OpenHands: LLM_BASE_URL belongs to the API of LLM_MODEL; unset, the generic variables are enough."""
    url = setup.variables.pop("LLM_BASE_URL")
    if setup.environment.get("LLM_BASE_URL"):
        is_anthropic = setup.environment.get("LLM_MODEL", "").startswith("anthropic/")
        setup.variables["LLM_BASE_URL"] = "{url}" if is_anthropic else url
        if is_anthropic:
            setup.upstreams.pop("upstream_base_url")
            setup.set_upstream("anthropic", _normalize(setup.environment["LLM_BASE_URL"]))


def _adjust_opencode(setup: Setup) -> None:
    """Opencode: OPENCODE_CONFIG_CONTENT is merged over its files.

    A provider without a key is left out, because opencode would choose its models by default.
    """
    own = _parse(setup.environment.get("OPENCODE_CONFIG_CONTENT", ""), json.loads)
    configuration = _read_opencode_files(setup, own)
    providers = _get_table(configuration, "provider")
    routed = _list_opencode_providers(setup, providers)
    model = _find_value(setup.command, "-m", "--model") or str(configuration.get("model") or "")
    if (chosen := model.partition("/")[0]) in routed:
        routed = {chosen: routed[chosen]}
    for api, setting in UPSTREAM_SETTINGS.items():
        names = [name for name in routed if routed[name] == api]
        urls = {_read_base_url(providers, name) or setup.upstreams.get(setting, "") for name in names}
        if len(urls) > 1:
            remedy = "choose one with `-m PROVIDER/MODEL`, or with `model` in opencode.json"
            setup.problems.append(Problem(f"opencode has several providers of one API ({', '.join(names)})", remedy))
            routed = {name: routed[name] for name in routed if name not in names}
        elif url := "".join(urls):
            setup.set_upstream(api, url)
    if routed:
        entries = {name: {"options": {"baseURL": "{url}/v1"}} for name in routed}
        content = own | {"provider": _merge(_get_table(own, "provider"), entries)}
        setup.variables["OPENCODE_CONFIG_CONTENT"] = json.dumps(content)


def _read_opencode_files(setup: Setup, own: Mapping[str, Any]) -> dict[str, Any]:
    folder = _locate(setup, "XDG_CONFIG_HOME", ".config") / "opencode"
    paths = [folder / "opencode.json", Path(setup.environment.get("OPENCODE_CONFIG", "")), Path("opencode.json")]
    merged: dict[str, Any] = {}
    for table in (*(_read_file(path, json.loads) for path in paths), own):
        merged = _merge(merged, table)
    return merged


def _list_opencode_providers(setup: Setup, providers: Mapping[str, Any]) -> dict[str, Api]:
    """Return the API of each provider that has a key or an address of its own."""
    keys = _read_file(_locate(setup, "XDG_DATA_HOME", ".local/share") / "opencode" / "auth.json", json.loads)
    listed: dict[str, Api] = {
        api: api for api in UPSTREAM_SETTINGS if api in keys or setup.environment.get(f"{api.upper()}_API_KEY")
    }
    for name in providers:
        if _read_base_url(providers, name):
            listed[name] = "anthropic" if "anthropic" in str(_get_table(providers, name).get("npm", name)) else "openai"
    return listed


def _read_base_url(providers: Mapping[str, Any], name: str) -> str:
    url = _get_table(_get_table(providers, name), "options").get("baseURL", "")
    return url if isinstance(url, str) and url.startswith("http") else ""


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in changes.items():
        merged[name] = _merge(_get_table(base, name), cast("Any", value)) if isinstance(value, dict) else value
    return merged


def _locate(setup: Setup, variable: str, default: str) -> Path:
    """Return the directory that a variable names, else the one of this name in the user's home directory."""
    return Path(setup.environment.get(variable) or _get_home(setup) / default)


def _get_home(setup: Setup) -> Path:
    return Path(setup.environment.get("HOME") or Path.home())


def _is_set(setup: Setup, api: Api) -> bool:
    return UPSTREAM_SETTINGS[api] in setup.upstreams


def _read_file(path: Path, parse: Callable[[str], object]) -> dict[str, Any]:
    try:
        return _parse(path.read_text(encoding="utf-8"), parse)
    except (OSError, UnicodeDecodeError):
        return {}


def _parse(text: str, parse: Callable[[str], object]) -> dict[str, Any]:
    """Return the table in a text; an empty one if it is missing. The client itself reports a damaged file."""
    try:
        value = parse(text)
    except (ValueError, yaml.YAMLError):
        return {}
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _get_table(table: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = table.get(name)
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


_ADJUSTMENTS: Mapping[str, Callable[[Setup], None]] = {
    "aider": _adjust_aider,
    "claude": _adjust_claude,
    "codex": _adjust_codex,
    "goose": _adjust_goose,
    "opencode": _adjust_opencode,
    "openhands": _adjust_openhands,
}
