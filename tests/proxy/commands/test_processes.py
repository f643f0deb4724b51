"""`clara-proxy ps` and `stop`, and a proxy on a Unix socket, in real processes."""

import json
import os
import signal
from pathlib import Path

import httpx

from clara_proxy.config.settings import Settings
from clara_proxy.proxy.commands import banner, run_files
from clara_proxy.tests.proxy.commands import shell

READY = "ready: OPENAI_BASE_URL="


def test_running_proxy_is_listed_and_stopped(tmp_path: Path) -> None:
    data = {"CLARA_DATA_DIR": str(tmp_path / "data"), "CLARA_UPSTREAM_BASE_URL": "http://me:hunter2@127.0.0.1:1/v1"}
    assert shell.run("stop", **data).returncode == 1
    with shell.start(tmp_path, "serve", "--port", "0", **data) as proxy:
        url = proxy.wait_for_line(READY).partition(READY)[2].partition("/v1")[0]
        listing = shell.run("ps", **data).stdout
        assert f"{proxy.process.pid}  {url}  -> http://127.0.0.1:1/v1  mode auto" in listing
        [entry] = json.loads(shell.run("ps", "--json", **data).stdout)
        assert (entry["pid"], entry["url"]) == (proxy.process.pid, url)
        assert shell.run("stop", "1", **data).returncode == 1
        stopped = shell.run("stop", **data)
        assert (stopped.returncode, stopped.stdout) == (0, f"stopped {proxy.process.pid}\n")
        assert proxy.wait() == -signal.SIGTERM
    assert shell.run("ps", **data).stdout == ""


def test_killed_proxy_is_not_listed_and_its_socket_is_used_again(tmp_path: Path) -> None:
    socket_path = tmp_path / "proxy.sock"
    arguments = ("serve", "--uds", str(socket_path))
    data = {"CLARA_DATA_DIR": str(tmp_path / "data")}
    folder = tmp_path / "data" / "running"
    with shell.start(tmp_path, *arguments, **data) as proxy:
        proxy.wait_for_line(READY)
        assert [entry.url for entry in run_files.find_running(folder)] == [f"unix:{socket_path}"]
        os.kill(proxy.process.pid, signal.SIGKILL)
        proxy.wait()
    assert socket_path.is_socket()
    assert list(run_files.find_running(folder)) == []
    assert list(folder.iterdir()) == []
    with shell.start(tmp_path, *arguments, **data) as proxy:
        proxy.wait_for_line(READY)
        assert socket_path.stat().st_mode & 0o777 == 0o600
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket_path))) as client:
            assert client.get("http://localhost/readyz").json() == {"status": "ready"}
        refused = shell.run(*arguments, **data)
        assert refused.returncode == 1
        assert "--uds" in refused.stderr
        proxy.process.terminate()
        proxy.wait()
    assert not socket_path.exists()


def test_several_proxies_are_stopped_only_on_request(tmp_path: Path) -> None:
    folder = tmp_path / "running"
    entries = [
        run_files.RunningProxy(pid, "http://x", "http://y", "auto", float(-pid)) for pid in (2**22 + 1, 2**22 + 2)
    ]
    with run_files.announce(folder, entries[0]), run_files.announce(folder, entries[1]):
        assert list(run_files.find_running(folder)) == entries[::-1]
        refused = shell.run("stop", CLARA_DATA_DIR=str(tmp_path))
        assert refused.returncode == 2
        assert "--all" in refused.stderr


def test_banner_has_lines_to_copy() -> None:
    settings = Settings(model="none", mode="extract")
    text = banner.render_banner(settings, "http://127.0.0.1:1", "http://upstream/v1", None)
    assert "\n  export OPENAI_BASE_URL=http://127.0.0.1:1/v1\n  export ANTHROPIC_BASE_URL=http://127.0.0.1:1\n" in text
    for fact in ("http://upstream/v1", "extract (no model)", "http://127.0.0.1:1/dashboard"):
        assert fact in text
    assert "export" not in banner.render_banner(settings, "http://localhost", "http://upstream/v1", "/run/x.sock")
