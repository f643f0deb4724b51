"""The clients: how each is installed, configured and started, and which tools its model has."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ...config import offline
from ...proxy.protocols.json_types import Json
from .conversation import Call
from .model import (
    Decide,
    Toolset,
    build_files_reply,
    replacing,
    use_named_tools,
    use_shell,
    use_text,
    use_tools,
    writing,
)
from .workspace import EDITS, TASK

SCRIPTS = Path(__file__).parent / "scripts"
KEY = "sk-scripted-0123456789"


class Run(NamedTuple):
    """Where one run of a client takes place; `url` is the server's address without `/v1`."""

    home: Path
    workspace: Path
    packages: Path
    url: str


@dataclass(frozen=True)
class Client:
    """One client with one API. `files` are configuration files relative to the home folder.

    With `wrappable`, `clara-proxy wrap` leads the client to its proxy.
    """

    name: str
    api: str
    source: str  # npm or pip
    packages: tuple[str, ...]
    command: Callable[[Run], list[str]]
    decide: Callable[[Path, bool], Decide]  # of the project, and of whether the model fetches an original
    environment: Callable[[Run], dict[str, str]] = lambda _: {}
    files: Callable[[Run], dict[str, str]] = lambda _: {}
    version_package: str = ""
    wrappable: bool = True
    expandable: bool = True

    @property
    def folder(self) -> str:
        """Return the name of the folder of its packages."""
        return self.packages[0].replace("@", "").replace("/", "_").split("=")[0]


def _with_tools(toolset: Toolset) -> Callable[[Path, bool], Decide]:
    return lambda project, expand: partial(use_tools, toolset=toolset, project=project, expand=expand)


def _with_form(form: str) -> Callable[[Path, bool], Decide]:
    return lambda _project, _expand: partial(build_files_reply, form=form)


def _with_text(fence: str, last: str | None = None) -> Callable[[Path, bool], Decide]:
    return lambda _project, _expand: partial(use_text, fence=fence, last=last)


def _npm(run: Run, *command: str) -> list[str]:
    return [str(run.packages / "node_modules" / ".bin" / command[0]), *command[1:]]


def _node(run: Run, script: str) -> list[str]:
    return ["node", str(run.packages / script), TASK]


def _pip(run: Run, *command: str) -> list[str]:
    return [str(run.packages / "bin" / command[0]), *command[1:]]


def _openai(run: Run) -> dict[str, str]:
    return {"OPENAI_BASE_URL": f"{run.url}/v1", "OPENAI_API_BASE": f"{run.url}/v1", "OPENAI_API_KEY": KEY}


def _anthropic(run: Run) -> dict[str, str]:
    return {"ANTHROPIC_BASE_URL": run.url, "ANTHROPIC_API_KEY": KEY}


def _find_vocabularies() -> str:
    offline.use_bundled_files()
    return os.environ["TIKTOKEN_CACHE_DIR"]


# --- tools ---

CLAUDE_CODE = use_named_tools(
    run=("Bash", "command"),
    read=("Read", "file_path"),
    write=replacing("Edit", "file_path", "old_string", "new_string"),
)
OPENCODE = use_named_tools(
    run=("bash", "command"), read=("read", "filePath"), write=replacing("edit", "filePath", "oldString", "newString")
)
QWEN_CODE = replace(
    use_named_tools(
        run=("run_shell_command", "command"),
        read=("read_file", "file_path"),
        write=replacing("edit", "file_path", "old_string", "new_string"),
    ),
    absolute_paths=True,
)
CONTINUE = use_named_tools(
    run=("Bash", "command"), read=("Read", "filepath"), write=writing("Write", "filepath", "content")
)
SDK = use_named_tools(
    run=("run", "command"), read=("read_file", "path"), write=writing("write_file", "path", "content")
)
_NO_RISK: Json = {"security_risk": "LOW"}  # OpenHands refuses calls without it
OPENHANDS = Toolset(
    run=lambda command: Call("terminal", {"command": command, **_NO_RISK}),
    read=lambda path: Call("file_editor", {"command": "view", "path": path, **_NO_RISK}),
    write=lambda path, seen, new: Call(
        "file_editor", {"command": "str_replace", "path": path, "old_str": seen, "new_str": new, **_NO_RISK}
    ),
    finish=lambda text: Call("finish", {"message": text}),
    absolute_paths=True,
)


def _write_codex_config(run: Run) -> dict[str, str]:
    provider = f'name = "script"\nbase_url = "{run.url}/v1"\nenv_key = "OPENAI_API_KEY"\nwire_api = "responses"\n'
    return {".codex/config.toml": f'model = "gpt-5"\nmodel_provider = "script"\n[model_providers.script]\n{provider}'}


def _write_continue_config(run: Run) -> dict[str, str]:
    model = f'{{name: gpt-4o, provider: openai, model: gpt-4o, apiBase: "{run.url}/v1", apiKey: {KEY}, roles: [chat]}}'
    return {"continue.yaml": f"name: script\nversion: 0.0.1\nschema: v1\nmodels:\n  - {model}\n"}


def _submit(text: str) -> Call:
    return Call("bash", {"command": f"echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT; echo '{text}'"})


CLIENTS = (
    Client(
        "Claude Code",
        "messages",
        "npm",
        ("@anthropic-ai/claude-code",),
        lambda run: _npm(run, "claude", "-p", TASK, "--allowedTools", "Read,Edit,Write,Bash", "--model", "sonnet"),
        _with_tools(CLAUDE_CODE),
        lambda run: _anthropic(run) | {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"},
    ),
    Client(
        "opencode",
        "chat",
        "npm",
        ("opencode-ai",),
        lambda run: _npm(run, "opencode", "run", "--auto", "-m", "script/gpt-4o", TASK),
        _with_tools(OPENCODE),
        lambda run: {"OPENCODE_CONFIG": str(run.home / "opencode.json")},
        lambda run: {"opencode.json": _format_opencode_config(run)},
    ),
    Client(
        "opencode (Anthropic)",
        "messages",
        "npm",
        ("opencode-ai",),
        lambda run: _npm(run, "opencode", "run", "--auto", "-m", "anthropic/claude-sonnet-4-5", TASK),
        _with_tools(OPENCODE),
        lambda run: {"ANTHROPIC_BASE_URL": f"{run.url}/v1", "ANTHROPIC_API_KEY": KEY},
    ),
    Client(
        "Codex",
        "responses",
        "npm",
        ("@openai/codex",),
        lambda run: _npm(
            run, "codex", "exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", TASK
        ),
        _with_tools(use_shell("exec_command", "cmd")),
        lambda run: {"OPENAI_API_KEY": KEY, "CODEX_HOME": str(run.home / ".codex")},
        _write_codex_config,
    ),
    Client(
        "Codex (openai_base_url)",
        "responses",
        "npm",
        ("@openai/codex",),
        lambda run: _npm(
            run,
            "codex",
            "exec",
            "--skip-git-repo-check",
            "--dangerously-bypass-approvals-and-sandbox",
            "-m",
            "gpt-5",
            TASK,
        ),
        _with_tools(use_shell("exec_command", "cmd")),
        lambda run: {"CODEX_API_KEY": KEY, "CODEX_HOME": str(run.home / ".codex")},
        lambda run: {".codex/config.toml": f'openai_base_url = "{run.url}/v1"\n'},
    ),
    Client(
        "aider (whole)",
        "chat",
        "pip",
        ("aider-chat",),
        lambda run: _pip(run, *_build_aider_command("whole")),
        _with_form("whole"),
        _openai,
        expandable=False,
    ),
    Client(
        "aider (diff)",
        "chat",
        "pip",
        ("aider-chat",),
        lambda run: _pip(run, *_build_aider_command("diff")),
        _with_form("diff"),
        _openai,
        expandable=False,
    ),
    Client(
        "OpenHands",
        "chat",
        "pip",
        ("openhands",),
        lambda run: _pip(
            run, "openhands", "--headless", "--override-with-envs", "--exit-without-confirmation", "-t", TASK
        ),
        _with_tools(OPENHANDS),
        lambda run: _openai(run) | {"LLM_MODEL": "openai/gpt-4o", "LLM_API_KEY": KEY},
    ),
    Client(
        "Qwen Code",
        "chat",
        "npm",
        ("@qwen-code/qwen-code",),
        lambda run: _npm(run, "qwen", "--yolo", "--auth-type", "openai", "-p", TASK),
        _with_tools(QWEN_CODE),
        lambda run: _openai(run) | {"OPENAI_MODEL": "gpt-4o"},
    ),
    Client(
        "Continue",
        "chat",
        "npm",
        ("@continuedev/cli",),
        lambda run: _npm(run, "cn", "-p", TASK, "--auto", "--config", str(run.home / "continue.yaml")),
        _with_tools(CONTINUE),
        files=_write_continue_config,
        wrappable=False,
    ),
    Client(
        "mini-swe-agent",
        "chat",
        "pip",
        ("mini-swe-agent",),
        lambda run: _pip(run, "mini", "-y", "--exit-immediately", "-m", "openai/gpt-4o", "-t", TASK),
        _with_tools(
            replace(
                use_shell("bash", "command"),
                finish=_submit,
            )
        ),
        lambda run: _openai(run) | {"MSWEA_CONFIGURED": "true", "MSWEA_COST_TRACKING": "ignore_errors"},
    ),
    Client(
        "gptme",
        "chat",
        "pip",
        ("gptme",),
        lambda run: _pip(run, "gptme", "--non-interactive", "--tool-format", "tool", "-m", "openai/gpt-4o", TASK),
        _with_tools(use_shell("shell", "command")),
        lambda run: _openai(run) | {"TIKTOKEN_CACHE_DIR": _find_vocabularies()},  # else it tries to download them
    ),
    Client(
        "gptme (markdown)",
        "chat",
        "pip",
        ("gptme",),
        lambda run: _pip(run, "gptme", "--non-interactive", "--tool-format", "markdown", "-m", "openai/gpt-4o", TASK),
        _with_text("shell"),
        lambda run: _openai(run) | {"TIKTOKEN_CACHE_DIR": _find_vocabularies()},
        expandable=False,
    ),
    Client(
        "mini-swe-agent (text)",
        "chat",
        "pip",
        ("mini-swe-agent",),
        lambda run: _pip(
            run,
            "mini",
            "-c",
            "mini_textbased.yaml",
            "--model-class",
            "litellm_textbased",
            "-y",
            "--exit-immediately",
            "-m",
            "openai/gpt-4o",
            "-t",
            TASK,
        ),
        _with_text("mswea_bash_command", "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT; echo '{}'"),
        lambda run: _openai(run) | {"MSWEA_CONFIGURED": "true", "MSWEA_COST_TRACKING": "ignore_errors"},
        expandable=False,
    ),
    Client(
        "openai-node", "chat", "npm", ("openai",), lambda run: _node(run, "openai_chat.mjs"), _with_tools(SDK), _openai
    ),
    Client(
        "openai-node (Responses)",
        "responses",
        "npm",
        ("openai",),
        lambda run: _node(run, "openai_responses.mjs"),
        _with_tools(SDK),
        _openai,
    ),
    Client(
        "openai-node (previous_response_id)",
        "responses",
        "npm",
        ("openai",),
        lambda run: _node(run, "openai_stored.mjs"),
        _with_tools(SDK),
        _openai,
    ),
    Client(
        "Vercel AI SDK",
        "responses",
        "npm",
        ("ai", "@ai-sdk/openai", "zod"),
        lambda run: _node(run, "vercel.mjs"),
        _with_tools(SDK),
        _openai,
    ),
    Client(
        "Anthropic SDK toolRunner",
        "messages",
        "npm",
        ("@anthropic-ai/sdk", "zod"),
        lambda run: _node(run, "anthropic_runner.mjs"),
        _with_tools(SDK),
        _anthropic,
    ),
    Client(
        "openai-agents",
        "responses",
        "pip",
        ("openai-agents",),
        lambda run: [*_pip(run, "python"), str(SCRIPTS / "openai_agents.py"), TASK],
        _with_tools(SDK),
        lambda run: _openai(run) | {"OPENAI_AGENTS_DISABLE_TRACING": "1"},
    ),
)


def _build_aider_command(form: str) -> list[str]:
    flags = ["--yes-always", "--no-git", "--no-check-update", "--no-show-model-warnings", "--analytics-disable"]
    model = ["--model", "openai/gpt-4o", "--edit-format", form, "--message", TASK]
    return ["aider", *flags, "--no-detect-urls", "--no-fancy-input", *model, *(edit.path for edit in EDITS)]


def _format_opencode_config(run: Run) -> str:
    provider: Json = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "script",
        "options": {"baseURL": f"{run.url}/v1", "apiKey": KEY},
        "models": {"gpt-4o": {"name": "gpt-4o", "limit": {"context": 128_000, "output": 16_000}}},
    }
    return json.dumps({"$schema": "https://opencode.ai/config.json", "provider": {"script": provider}})
