"""Run LiteLLM's proxy with its `headroom` guardrail on clara-proxy's `/v1/compress`, before a scripted upstream.

    python -m clara_proxy.benchmarks.litellm_sidecar --litellm PATH

LiteLLM runs in its own process. The upstream fetches an original back with the guardrail's tool, as a model would. The
benchmark fails if the tool output reaches the upstream uncompressed or the original differs from the tool output. It
measures tokens, not time. It is not a test because LiteLLM's proxy is large: run `pip install 'litellm[proxy]'` in a
virtual environment and pass the path of its `litellm` command. The last line is JSON.
"""

import argparse
import contextlib
import http.client
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from pathlib import Path
from typing import Any, NamedTuple

import openai

from ..compression.tokens import get_token_counter
from ..config.settings import Settings
from ..proxy.app import create_app
from ..proxy.commands import serve
from ..proxy.commands.demo.scripted_upstream import ScriptedUpstream
from .servers import find_free_port

RETRIEVE_TOOL = "headroom_retrieve"
KEY = "sk-litellm-0123456789abcdef0123456789abcdef"  # LiteLLM requires a long master key
START_TIMEOUT = 120.0
_MARKER_PATTERN = re.compile(r"/v1/retrieve/([0-9a-f]{16})")
_CONFIG_TEMPLATE = """
model_list:
  - model_name: gpt-4o
    litellm_params: {{model: openai/gpt-4o, api_base: {upstream}/v1, api_key: sk-upstream}}
guardrails:
  - guardrail_name: clara
    litellm_params: {{guardrail: headroom, mode: pre_call, default_on: true, api_base: {clara}, api_key: sk-gateway}}
"""
TOOL_OUTPUT = "\n".join(
    f"2026-01-01 10:{number // 60:02d}:{number % 60:02d} INFO request {number} took {number * 7 % 13} ms"
    for number in range(900)
)


class RequestResult(NamedTuple):
    """The result of one client request.

    `before` and `after` are the tokens of the tool output at the client and at the upstream, `asked` is the number of
    upstream requests, and `whole` is True if the original was fetched back unchanged.
    """

    name: str
    before: int
    after: int
    asked: int
    whole: bool
    answer: str


class ScriptedModel:
    """A model that fetches the first marked original back, and answers with its number of lines."""

    def __init__(self) -> None:
        self.returned_originals: list[str] = []
        self.offered_hashes: list[str] = []

    def __call__(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the answer to the messages of one request."""
        last = messages[-1]
        if str(last.get("tool_call_id", "")).startswith("back"):
            self.returned_originals.append(str(last["content"]))
            return {"role": "assistant", "content": f"{len(str(last['content']).splitlines())} lines"}
        hashes = _MARKER_PATTERN.findall(json.dumps(messages))
        if not hashes:
            return {"role": "assistant", "content": "there is no marker"}
        self.offered_hashes += hashes
        function = {"name": RETRIEVE_TOOL, "arguments": json.dumps({"hash": hashes[0]})}
        call = {"id": f"back{len(self.offered_hashes)}", "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call]}


def build_conversation(original: str) -> list[Any]:
    """Return a chat with `original` as a tool output before the newest turn."""
    call = {"id": "c1", "type": "function", "function": {"name": "logs", "arguments": "{}"}}
    return [
        {"role": "user", "content": "which requests took 12 ms?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": original},
        {"role": "assistant", "content": "Some did."},
        {"role": "user", "content": "and how many lines are there?"},
    ]


@contextlib.contextmanager
def run_litellm(command: str, upstream: str, clara: str, folder: Path) -> Generator[str]:
    """Run LiteLLM's proxy and yield its base URL; its log is `litellm.log` in `folder`.

    Raises:
        RuntimeError: LiteLLM exits or does not become ready in time.
    """
    config = folder / "litellm.yaml"
    config.write_text(_CONFIG_TEMPLATE.format(upstream=upstream, clara=clara), encoding="utf-8")
    port = find_free_port()
    argv = [command, "--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"]
    env = {
        "PATH": str(Path(command).parent) + ":/usr/bin:/bin",
        "HOME": str(folder),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_MASTER_KEY": KEY,
    }
    with (folder / "litellm.log").open("wb") as log:
        process = subprocess.Popen(argv, env=env, stdout=log, stderr=log, cwd=folder)
    try:
        _wait_until_ready(process, f"http://127.0.0.1:{port}/health/liveliness")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(30)


def send_conversation(
    client: openai.OpenAI, upstream: ScriptedUpstream, model: ScriptedModel, *, streamed: bool
) -> RequestResult:
    """Send one conversation through LiteLLM, and return the result for its tool output."""
    name = "streamed" if streamed else "plain"
    original = f"of the {name} request\n{TOOL_OUTPUT}"
    first_body = len(upstream.bodies)
    model.returned_originals.clear()
    if streamed:
        events = client.chat.completions.create(model="gpt-4o", messages=build_conversation(original), stream=True)
        answer = "".join(event.choices[0].delta.content or "" for event in events if event.choices)
    else:
        completion = client.chat.completions.create(model="gpt-4o", messages=build_conversation(original))
        answer = str(completion.choices[0].message.content)
    forwarded = json.loads(upstream.bodies[first_body])["messages"][2]["content"]
    count = get_token_counter("gpt-4o").count
    request_count = len(upstream.bodies) - first_body
    is_unchanged = model.returned_originals == [original]
    return RequestResult(name, count(original), count(forwarded), request_count, is_unchanged, answer)


def _wait_until_ready(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"LiteLLM exited with code {process.returncode}")
        if _is_answering(url):
            return
        time.sleep(0.2)
    raise RuntimeError(f"LiteLLM was not ready within {START_TIMEOUT:.0f} s")


def _is_answering(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except (urllib.error.URLError, http.client.HTTPException, OSError):
        return False


def run_sidecar(command: str) -> list[RequestResult]:
    """Start the upstream, clara-proxy and LiteLLM, and send one plain and one streamed request."""
    model = ScriptedModel()
    upstream = ScriptedUpstream(model)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream_url = stack.enter_context(serve.run_in_thread(upstream))
        settings = Settings(data_dir=folder / "clara", upstream_base_url=f"{upstream_url}/v1", deadline_ms=20_000)
        clara_url = stack.enter_context(serve.run_in_thread(create_app(settings)))
        litellm_url = stack.enter_context(run_litellm(command, upstream_url, clara_url, folder))
        client = stack.enter_context(openai.OpenAI(base_url=litellm_url, api_key=KEY, max_retries=0))
        return [send_conversation(client, upstream, model, streamed=streamed) for streamed in (False, True)]


def main() -> None:
    """Run the requests, print the table, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--litellm", default=shutil.which("litellm"), help="path of the `litellm` command")
    command = parser.parse_args().litellm
    if not command:
        raise SystemExit("litellm is not on the PATH: pip install 'litellm[proxy]', and pass its path with --litellm")
    results = run_sidecar(command)
    print(f"{'request':10} {'tokens':>7} {'sent':>7} {'requests':>9} {'unchanged':>9}  answer")
    for row in results:
        print(f"{row.name:10} {row.before:7} {row.after:7} {row.asked:9} {row.whole!s:>9}  {row.answer}")
    is_ok = all(row.whole and row.after < row.before for row in results)
    print(json.dumps({"benchmark": "litellm_sidecar", "ok": is_ok, "requests": [row._asdict() for row in results]}))
    sys.exit(0 if is_ok else 1)


if __name__ == "__main__":
    main()
