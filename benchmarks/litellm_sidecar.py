"""A real LiteLLM proxy that has its requests shortened by a running clara-proxy, before a scripted upstream.

LiteLLM runs in a process of its own, with its `headroom` guardrail pointed at the proxy's `/v1/compress`; the upstream
asks for an original that a marker names, as a model would, by the guardrail's tool. Not a measurement of time. It fails
unless what reached the upstream was shorter and the original came back whole. LiteLLM's proxy is large, so that this is
no part of the tests: `pip install 'litellm[proxy]'` somewhere and name its command with `--litellm`.
"""

import argparse
import contextlib
import http.client
import json
import re
import shutil
import socket
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

from clara_proxy.compression.tokens import get_token_counter
from clara_proxy.config.settings import Settings
from clara_proxy.proxy.app import create_app
from clara_proxy.proxy.commands import serve
from clara_proxy.proxy.commands.demo.scripted_upstream import ScriptedUpstream

RETRIEVE_TOOL = "headroom_retrieve"
KEY = "sk-litellm-0123456789abcdef0123456789abcdef"  # LiteLLM does not start without one, nor with a short one
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
    f"2026-01-01 10:{at // 60:02d}:{at % 60:02d} INFO request {at} took {at * 7 % 13} ms" for at in range(900)
)


class RequestResult(NamedTuple):
    """What one request came to: tokens of the tool's output as sent by the client and as it reached the upstream."""

    name: str
    before: int
    after: int
    asked: int
    whole: bool
    answer: str


class ScriptedModel:
    """Asks for the first original that a marker names; once it has it, says how many lines it is."""

    def __init__(self) -> None:
        self.returned_originals: list[str] = []
        self.offered_hashes: list[str] = []

    def __call__(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        """Answer one request of the gateway's."""
        last = messages[-1]
        if str(last.get("tool_call_id", "")).startswith("back"):
            self.returned_originals.append(str(last["content"]))
            return {"role": "assistant", "content": f"{len(str(last['content']).splitlines())} lines"}
        found = _MARKER_PATTERN.findall(json.dumps(messages))
        if not found:
            return {"role": "assistant", "content": "nothing was left out"}
        self.offered_hashes += found
        function = {"name": RETRIEVE_TOOL, "arguments": json.dumps({"hash": found[0]})}
        call = {"id": f"back{len(self.offered_hashes)}", "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call]}


def build_conversation(original: str) -> list[Any]:
    """Return a chat whose tool answered with `original`, and that went on, so that the answer is not the last turn."""
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
    """Run LiteLLM's proxy and yield its base URL; its log is in `folder`.

    Raises:
        RuntimeError: it does not come up.
    """
    config = folder / "litellm.yaml"
    config.write_text(_CONFIG_TEMPLATE.format(upstream=upstream, clara=clara), encoding="utf-8")
    port = _find_free_port()
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
    """Send one conversation through the gateway and say what became of its tool output."""
    name = "streamed" if streamed else "plain"
    original = f"of the {name} request\n{TOOL_OUTPUT}"
    first = len(upstream.bodies)
    model.returned_originals.clear()
    if streamed:
        events = client.chat.completions.create(model="gpt-4o", messages=build_conversation(original), stream=True)
        answer = "".join(event.choices[0].delta.content or "" for event in events if event.choices)
    else:
        whole = client.chat.completions.create(model="gpt-4o", messages=build_conversation(original))
        answer = str(whole.choices[0].message.content)
    sent = json.loads(upstream.bodies[first])["messages"][2]["content"]
    count = get_token_counter("gpt-4o").count
    return RequestResult(
        name, count(original), count(sent), len(upstream.bodies) - first, model.returned_originals == [original], answer
    )


def _wait_until_ready(process: subprocess.Popen[bytes], url: str) -> None:
    limit = time.monotonic() + START_TIMEOUT
    while time.monotonic() < limit:
        if process.poll() is not None:
            raise RuntimeError("LiteLLM ended by itself")
        if _is_answering(url):
            return
        time.sleep(0.2)
    raise RuntimeError(f"LiteLLM did not come up within {START_TIMEOUT:.0f} s")


def _is_answering(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except (urllib.error.URLError, http.client.HTTPException, OSError):
        return False


def _find_free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def run_sidecar(command: str) -> list[RequestResult]:
    """Run all three and send one plain and one streamed request."""
    model = ScriptedModel()
    upstream = ScriptedUpstream(model)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        below = stack.enter_context(serve.run_in_thread(upstream))
        settings = Settings(data_dir=folder / "clara", upstream_base_url=f"{below}/v1", deadline_ms=20_000)
        clara = stack.enter_context(serve.run_in_thread(create_app(settings)))
        above = stack.enter_context(run_litellm(command, below, clara, folder))
        client = stack.enter_context(openai.OpenAI(base_url=above, api_key=KEY, max_retries=0))
        return [send_conversation(client, upstream, model, streamed=streamed) for streamed in (False, True)]


def main() -> None:
    """Print what reached the upstream and what came back, and end with one JSON line."""
    parser = argparse.ArgumentParser(description="LiteLLM's headroom guardrail, pointed at clara-proxy.")
    parser.add_argument("--litellm", default=shutil.which("litellm"), help="LiteLLM's command, with its proxy extra")
    command = parser.parse_args().litellm
    if not command:
        raise SystemExit("there is no litellm command: pip install 'litellm[proxy]', and name it with --litellm")
    seen = run_sidecar(command)
    print(f"{'request':10} {'tokens':>7} {'sent':>7} {'requests':>9} {'redeemed':>9}  answer")
    for one in seen:
        print(f"{one.name:10} {one.before:7} {one.after:7} {one.asked:9} {one.whole!s:>9}  {one.answer}")
    good = all(one.whole and one.after < one.before for one in seen)
    print(json.dumps({"benchmark": "litellm_sidecar", "ok": good, "requests": [one._asdict() for one in seen]}))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
