"""Installs clients, runs them against the scripted upstream, directly or through a proxy, and compares the results."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, NamedTuple

from .clients import SCRIPTS, Client, Run
from .model import EXPAND_TOOL
from .upstream import ScriptedUpstream, run_upstream
from .workspace import build_expected_files, create_workspace

Way = Literal["direct", "serve", "wrap"]
TIMEOUT_S = 120
_TRACES = (EXPAND_TOOL.encode(), b" left out]", b" left out;", b"<clara:")
_NO_REQUESTS = "the proxy received no requests"
_FRAME = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07]*\x07)|[│┃║▌]")  # escape sequences and drawn lines
_ANSWER = re.compile(r"The check fails with:.{0,40}?(?=\S).*?changed\.", re.DOTALL)


class Setup(NamedTuple):
    """A client, the folder of its packages, and a folder for its runs."""

    client: Client
    packages: Path
    scratch: Path


class Outcome(NamedTuple):
    """What one run of a client left behind."""

    status: int
    answer: str
    files: dict[str, str]
    unreached: bool
    traces: list[str]
    refusals: list[str]
    breaks: int
    requests: int
    tokens: int
    expansions: int
    seconds: float

    def list_problems(self, direct: "Outcome | None") -> list[str]:
        """Return the differences from a direct run; for the direct run itself, what its script did not reach."""
        problems = [f"trace in {trace}" for trace in self.traces]
        problems += ["the proxy received no requests"] if self.unreached else []
        problems += [f"refused: {refusal[:200]}" for refusal in self.refusals]
        expected = build_expected_files()
        problems += [f"{path} is damaged" for path, text in expected.items() if self.files.get(path) != text]
        if direct is None:
            return [*problems, *([] if self.answer else [f"no answer (exit status {self.status})"])]
        if self.files.keys() != direct.files.keys():
            problems.append(f"other files: {sorted(self.files.keys() ^ direct.files.keys())}")
        if self.answer != direct.answer:
            problems.append(f"another answer: {self.answer[:200]!r}")
        if self.status != direct.status:
            problems.append(f"exit status {self.status} instead of {direct.status}")
        if self.breaks > direct.breaks:
            problems.append(f"{self.breaks} prompts do not continue the one before instead of {direct.breaks}")
        return problems


# --- installing ---


def install(client: Client, packages: Path) -> Path:
    """Install a client's packages unless they are there, and return their folder."""
    folder = packages / client.source / client.folder
    if not (folder / ".installed").exists():
        folder.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        (_install_npm if client.source == "npm" else _install_pip)(client, folder)
        (folder / ".installed").write_text(f"{time.monotonic() - start:.0f} s\n", encoding="utf-8")
    if client.source == "npm":
        for script in SCRIPTS.glob("*.mjs"):  # modules are searched from the script's folder
            shutil.copy(script, folder)
    return folder


def _install_npm(client: Client, folder: Path) -> None:
    names = [package if "@" in package[1:] else f"{package}@latest" for package in client.packages]
    options = ["--prefix", str(folder), "--no-audit", "--no-fund", "--loglevel", "error"]
    subprocess.run(["npm", "install", *options, *names], check=True)
    for script in ("install.cjs", "postinstall.mjs"):  # newer versions of npm do not run them
        file = folder / "node_modules" / client.packages[0] / script
        if file.exists():
            subprocess.run(["node", file.name], cwd=file.parent, check=True)


def _install_pip(client: Client, folder: Path) -> None:
    python = os.environ.get("AGENTS_PYTHON", sys.executable)  # OpenHands needs Python 3.12
    subprocess.run([python, "-m", "venv", str(folder)], check=True)
    subprocess.run([str(folder / "bin" / "pip"), "install", "--quiet", *client.packages], check=True)


def read_version(client: Client, folder: Path) -> str:
    """Return the version of a client's first package."""
    if client.source == "npm":
        text = (folder / "node_modules" / client.packages[0] / "package.json").read_text(encoding="utf-8")
        return str(json.loads(text)["version"])
    code = f"import importlib.metadata as m; print(m.version({client.packages[0]!r}))"
    return subprocess.check_output([str(folder / "bin" / "python"), "-c", code], text=True).strip()


# --- running ---


def run_client(setup: Setup, way: Way, *, expand: bool = False) -> Outcome:
    """Run a client on a fresh project with a fresh home, and return what it left behind."""
    folder = setup.scratch / setup.client.folder / f"{setup.client.api}-{way}{'-expand' if expand else ''}"
    shutil.rmtree(folder, ignore_errors=True)
    home, workspace = folder / "home", folder / "project"
    for path in (home, workspace):
        path.mkdir(parents=True)
    create_workspace(workspace)
    with run_upstream(setup.client.decide(workspace, expand)) as upstream:
        if way == "serve":
            with _serve(upstream.url, folder) as url:
                return _run(setup, Run(home, workspace, setup.packages, url), [], upstream)
        prefix = [*_CLARA_PROXY, "wrap", "--"] if way == "wrap" else []
        return _run(setup, Run(home, workspace, setup.packages, upstream.url), prefix, upstream)


_CLARA_PROXY = [str(Path(sys.executable).with_name("clara-proxy"))]


def _run(setup: Setup, run: Run, prefix: list[str], upstream: ScriptedUpstream) -> Outcome:
    client, folder = setup.client, run.home.parent
    for path, text in client.files(run).items():
        (run.home / path).parent.mkdir(parents=True, exist_ok=True)
        (run.home / path).write_text(text, encoding="utf-8")
    base = {"PATH": os.environ["PATH"], "HOME": str(run.home), "LANG": "C.UTF-8", "TERM": "dumb", "NO_COLOR": "1"}
    base |= {"CLARA_DATA_DIR": str(folder / "data"), "COLUMNS": "400"} | _find_registry_settings()
    environment = base | client.environment(run)
    output = folder / "output.txt"
    start = time.monotonic()
    with output.open("wb") as file:
        process = subprocess.Popen(
            [*prefix, *client.command(run)],
            cwd=run.workspace, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            start_new_session=True,
        )  # fmt: skip
        try:
            status = process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            status = -1
        finally:
            _kill_session(process)
    seconds = time.monotonic() - start
    _save_requests(upstream, folder / "requests.jsonl")
    text = _FRAME.sub(" ", output.read_text(encoding="utf-8", errors="replace"))
    answers = [" ".join(answer.split()) for answer in _ANSWER.findall(text)]
    bodies = [json.dumps(request.body) for request in upstream.requests]
    return Outcome(
        status=status,
        answer=answers[-1] if answers else "",
        files=_read_files(run.workspace),
        unreached=bool(prefix) and _NO_REQUESTS in text,
        traces=_find_traces([output, *_list_files(run.home), *_list_files(run.workspace)], folder),
        refusals=upstream.refusals,
        breaks=upstream.count_breaks(),
        requests=len(upstream.requests),
        tokens=upstream.tokens,
        expansions=int(bool(bodies) and any("call_original" in body for body in bodies)),
        seconds=seconds,
    )


def _find_registry_settings() -> dict[str, str]:
    return {name: os.environ[name] for name in ("NPM_CONFIG_REGISTRY", "PIP_INDEX_URL") if name in os.environ}


def _kill_session(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _save_requests(upstream: ScriptedUpstream, path: Path) -> None:
    lines = [json.dumps({"path": request.path, "body": request.body}) for request in upstream.requests]
    path.write_text("\n".join([*lines, *map(json.dumps, upstream.other_paths)]) + "\n", encoding="utf-8")


def _list_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _read_files(workspace: Path) -> dict[str, str]:
    """Return the project's files, without what a client keeps for itself in folders that begin with a dot."""
    return {
        str(path.relative_to(workspace)): path.read_text(encoding="utf-8", errors="replace")
        for path in _list_files(workspace)
        if not any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(workspace).parts)
    }


def _find_traces(files: list[Path], folder: Path) -> list[str]:
    """Return the files that name the hidden tool or hold a marker."""
    return [str(file.relative_to(folder)) for file in files if any(trace in file.read_bytes() for trace in _TRACES)]


@contextmanager
def _serve(upstream: str, folder: Path) -> Generator[str]:
    """Run `clara-proxy serve` in front of the upstream; yields its URL."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = int(sock.getsockname()[1])
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8"}
    urls = {"CLARA_UPSTREAM_BASE_URL": f"{upstream}/v1", "CLARA_ANTHROPIC_BASE_URL": f"{upstream}/v1"}
    environment |= {"CLARA_DATA_DIR": str(folder / "data"), "CLARA_MODEL": "none", **urls}
    with (folder / "proxy.log").open("wb") as log:
        process = subprocess.Popen(
            [*_CLARA_PROXY, "serve", "--port", str(port)], env=environment, cwd=folder, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(process, url)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(20)
        finally:
            _kill_session(process)


def _wait_until_ready(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("clara-proxy does not start") from None
            time.sleep(0.05)
