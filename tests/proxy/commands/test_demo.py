"""The demonstration where torch is not installed: it must show no request that failed of its own making."""

import subprocess
import sys

WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from clara_proxy.proxy.commands.cli import main; main()"


def test_without_torch_it_asks_nothing_that_cannot_be_answered() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "demo", "--turns", "2"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stderr
    assert "With the extra [clara] installed" in done.stdout
    assert "(none)" not in done.stdout
    (total,) = [line.split() for line in done.stdout.splitlines() if line.split()[:1] == ["total"]]
    assert total[-1] == "0"  # came to nothing
