"""A real vLLM in an environment of its own, serving an exported checkpoint on this machine's CPU."""

import os
import subprocess
import time
import urllib.request
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ..compression.clara.export import export_checkpoint
from ..compression.clara.loading import ModelSource
from .servers import find_free_port

START_SECONDS = 240.0


@contextmanager
def run_vllm(
    command: Path, source: ModelSource, folder: Path, options: Sequence[str] = (), *, merge: bool = False
) -> Generator[str]:
    """Export a checkpoint to an empty `folder`, serve it in float32 with the `vllm` command, and yield the URL.

    Raises `RuntimeError` with the end of its log if it does not start.
    """
    export_checkpoint(source, "vllm", folder / "export", merge=merge)
    port = find_free_port()
    environment = {
        "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(folder),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
    }
    arguments = ["--dtype", "float32", "--enforce-eager", "--port", str(port), *options]
    log_path = folder / "vllm.log"
    with log_path.open("wb") as log:
        server = subprocess.Popen(
            ["sh", folder / "export" / "start.sh", *arguments], env=environment, stdout=log, stderr=log
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(url, server, log_path)
            yield url
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _wait_until_ready(url: str, server: "subprocess.Popen[bytes]", log_path: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and server.poll() is None:
        with suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=2):
            return
        time.sleep(0.5)
    tail = log_path.read_text(encoding="utf-8", errors="replace")[-2000:]
    raise RuntimeError(f"vLLM did not start: {tail}")
