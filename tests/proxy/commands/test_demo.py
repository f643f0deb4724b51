"""The demo without torch: it must not show failed requests of its own."""

import subprocess
import sys

WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from clara_proxy.proxy.commands.cli import main; main()"


def test_demo_without_torch_has_no_failed_requests() -> None:
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "demo", "--turns", "2"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "COLUMNS": "200"},
    )
    assert result.returncode == 0, result.stderr
    assert "With the extra [clara] installed" in result.stdout
    assert "[1] hobbies.txt: User likes hiking" in result.stdout
    assert "(none)" not in result.stdout
    (total,) = [line.split() for line in result.stdout.splitlines() if line.split()[:1] == ["total"]]
    assert total[-1] == "0"  # failed
