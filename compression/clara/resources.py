"""How much memory is taken, and how to give it back: this process's, and that of an accelerator.

Importing this loads no torch; without torch loaded there is nothing on any device.
"""

import ctypes
import gc
import os
import sys
from contextlib import suppress
from pathlib import Path


def resident_bytes() -> int | None:
    """Return this process's resident bytes; None where the system does not say."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else None


def device_bytes(device: str) -> int:
    """Return the bytes that tensors take on a device; 0 for the CPU, whose memory is the process's."""
    if "torch" not in sys.modules or device.startswith(("cpu", "auto")) or not device:
        return 0
    import torch  # noqa: PLC0415 - there already

    return torch.cuda.memory_allocated(device) if device.startswith("cuda") else torch.mps.current_allocated_memory()


def release_memory() -> None:
    """Give memory back to the device and to the system, once nothing refers to it any more."""
    gc.collect()
    if "torch" in sys.modules:
        import torch  # noqa: PLC0415 - there already

        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if torch.backends.mps.is_available():
            torch.mps.empty_cache()
    if sys.platform == "linux":
        # glibc keeps freed tensors of up to 32 MiB until it is asked; other C libraries have no such call.
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
