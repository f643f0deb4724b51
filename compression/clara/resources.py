"""Measures and releases memory: this process's, and that of an accelerator.

Importing this module does not load torch; until torch is loaded, no device memory is in use.
"""

import ctypes
import gc
import os
import sys
from contextlib import suppress
from pathlib import Path


def resident_bytes() -> int | None:
    """Return this process's resident bytes; None on systems without `/proc`."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else None


def device_bytes(device: str) -> int:
    """Return the bytes of the tensors on a device; 0 for the CPU, as they are part of the process."""
    if "torch" not in sys.modules or device.startswith(("cpu", "auto")) or not device:
        return 0
    import torch  # noqa: PLC0415 - loaded already

    return torch.cuda.memory_allocated(device) if device.startswith("cuda") else torch.mps.current_allocated_memory()


def release_memory() -> None:
    """Return unreferenced memory to the device and to the system."""
    gc.collect()
    if "torch" in sys.modules:
        import torch  # noqa: PLC0415 - loaded already

        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if torch.backends.mps.is_available():
            torch.mps.empty_cache()
    if sys.platform == "linux":
        # glibc keeps freed tensors of up to 32 MiB until this call, which other C libraries lack.
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
