"""A real vLLM in an environment of its own, serving an exported checkpoint on this machine's CPU."""

import os
import subprocess
import time
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..compression.clara.export import export_checkpoint
from ..compression.clara.model_source import ModelSource
from .servers import Server, find_free_port, kill_session

START_SECONDS = 240.0


@contextmanager
def run_vllm(command: Path, source: ModelSource, folder: Path, *, merge: bool = False) -> Generator[Server]:
    """Export a checkpoint to an empty `folder`, and serve it in float32 with the `vllm` command.

    Raises `RuntimeError` with the end of its log if it does not start.
    """
    export_checkpoint(source, "vllm", folder / "export", merge=merge)
    port, started = find_free_port(), time.perf_counter()
    environment = {
        "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(folder),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
    }
    argv = ["sh", str(folder / "export" / "start.sh"), "--dtype", "float32", "--enforce-eager", "--port", str(port)]
    log_path = folder / "vllm.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(argv, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(url, process, log_path)
            yield Server("vllm", url, process, time.perf_counter() - started)
        finally:
            kill_session(process)


def _wait_until_ready(url: str, process: "subprocess.Popen[bytes]", log_path: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=2):
            return
        time.sleep(0.5)
    tail = log_path.read_text(encoding="utf-8", errors="replace")[-2000:]
    raise RuntimeError(f"vLLM did not start: {tail}")
