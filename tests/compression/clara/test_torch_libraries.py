"""torch's libraries are loaded before its import, which then works as ever."""

import subprocess
import sys

import pytest

SCRIPT = """
import sys
from pathlib import Path
from clara_proxy.compression.models.resources import load_torch_libraries

load_torch_libraries()
assert "torch" not in sys.modules
assert "/libtorch_cpu.so" in Path("/proc/self/maps").read_text()
import torch

load_torch_libraries()  # nothing is left to do
print(torch.ones(2, 2).matmul(torch.ones(2)).sum().item())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems load torch's libraries with its import")
def test_libraries_are_loaded_without_importing_torch() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("4.0\n", "", 0)
