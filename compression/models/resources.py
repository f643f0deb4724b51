"""Measures and releases memory: this process's, and that of an accelerator.

Importing this module loads neither torch nor MLX; until one is loaded, no device memory is in use.
"""

import ctypes
import gc
import mmap
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

_MEMINFO, _CGROUPS, _CGROUP_ROOT = Path("/proc/meminfo"), Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
# The files of a control group with its limit and its use, and the lines of its statistics with cached files.
_VERSION_2_FILES = ("memory.max", "memory.current", ("inactive_file", "active_file"))
_M_MMAP_THRESHOLD, _MAPPED_BYTES = -3, 2**20  # an option of glibc's mallopt, and its value
_MADV_PAGEOUT = 21  # an advice of Linux since 5.4
_TORCH_LIBRARIES = ("libc10.so", "libtorch_cpu.so")  # those that call nothing of Python
_VERSION_1_FILES = ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))


def resident_bytes() -> int | None:
    """Return this process's resident bytes; None on systems without `/proc`."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else None


def memory_limit() -> int | None:
    """Return the most bytes that this process may ever use: the machine's memory, or its control group's limit."""
    limits = [limit for limit, _ in _read_group_limits()]
    total = _read_meminfo("MemTotal")
    return min([*limits, *([] if total is None else [total])], default=None)


def available_bytes() -> int | None:
    """Return the bytes that this process can still get, within the limits of its control groups; None if unknown."""
    free = [limit - used for limit, used in _read_group_limits()]
    available = _read_meminfo("MemAvailable")
    return min([*free, *([] if available is None else [available])], default=None)


def _read_meminfo(name: str) -> int | None:
    with suppress(OSError):
        for line in _MEMINFO.read_text(encoding="ascii").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return None


def _read_group_limits() -> list[tuple[int, int]]:
    """Return limit and use in bytes of this process's control groups and of their parents, if limited."""
    folders: list[tuple[Path, str, str, tuple[str, str]]] = []
    with suppress(OSError):
        for line in _CGROUPS.read_text(encoding="ascii").splitlines():
            _, controllers, path = line.split(":", 2)
            version_2 = controllers == ""
            if version_2 or "memory" in controllers.split(","):
                root = _CGROUP_ROOT if version_2 else _CGROUP_ROOT / "memory"
                limit_name, use_name, cache_names = _VERSION_2_FILES if version_2 else _VERSION_1_FILES
                inner = root / path.lstrip("/")
                folders += [
                    (folder, limit_name, use_name, cache_names)
                    for folder in (inner, *inner.parents)
                    if folder.is_relative_to(root)
                ]
    limits: list[tuple[int, int]] = []
    for folder, limit_file, use_file, cache_names in dict.fromkeys(folders):
        with suppress(OSError, ValueError):  # "max" is no limit
            limit, used = (int((folder / name).read_text(encoding="ascii")) for name in (limit_file, use_file))
            limits.append((limit, max(0, used - _read_file_cache(folder, cache_names))))
    return limits


def _read_file_cache(folder: Path, names: Sequence[str]) -> int:
    """Return the bytes of cached files that a control group can give back."""
    with suppress(OSError, ValueError):
        lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
        return sum(int(size) for name, size in map(str.split, lines) if name in names)
    return 0


def device_bytes(device: str) -> int:
    """Return the bytes of the tensors on a device; 0 for the CPU, as they are part of the process."""
    if device == "mlx" and "mlx.core" in sys.modules:
        import mlx.core as mx  # noqa: PLC0415 - loaded already

        return mx.get_active_memory() if mx.default_device() != mx.cpu else 0
    if "torch" not in sys.modules or device.startswith(("cpu", "auto", "mlx")) or not device:
        return 0
    import torch  # noqa: PLC0415 - loaded already

    return torch.cuda.memory_allocated(device) if device.startswith("cuda") else torch.mps.current_allocated_memory()


def load_torch_libraries() -> None:
    """Load torch's large libraries without Python's interpreter lock, which the import of torch holds for 0.1 to 0.4 s.

    The import finds them loaded. Nothing happens where torch is missing or has other files.
    """
    spec = find_spec("torch") if sys.platform == "linux" and "torch" not in sys.modules else None
    if spec is None or spec.origin is None:
        return
    folder = Path(spec.origin).parent / "lib"
    dlopen = ctypes.CDLL(None).dlopen  # a call releases the lock; `ctypes.CDLL` of a path does not
    dlopen.argtypes, dlopen.restype = (ctypes.c_char_p, ctypes.c_int), ctypes.c_void_p
    for name in _TORCH_LIBRARIES:
        dlopen(os.fsencode(folder / name), os.RTLD_NOW | os.RTLD_LOCAL)


def set_thread_count(count: int) -> None:
    """Set the number of threads that torch computes with, if it is loaded; MLX chooses its own."""
    if "torch" in sys.modules:
        import torch  # noqa: PLC0415 - loaded already

        torch.set_num_threads(count)


def release_memory() -> None:
    """Return unreferenced memory to the device and to the system."""
    gc.collect()
    if "torch" in sys.modules:
        import torch  # noqa: PLC0415 - loaded already

        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if torch.backends.mps.is_available():
            torch.mps.empty_cache()
    if "mlx.core" in sys.modules:
        import mlx.core as mx  # noqa: PLC0415 - loaded already

        mx.clear_cache()
    if sys.platform == "linux":
        # glibc keeps freed tensors of up to 32 MiB until this call, which other C libraries lack.
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def release_mapped_pages(address: int, size: int) -> None:
    """Take pages of mapped files out of this process's memory until they are read again; contents never change."""
    page = mmap.PAGESIZE
    start, end = -(-address // page) * page, (address + size) // page * page
    if sys.platform == "linux" and end > start:
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_PAGEOUT)


def map_large_blocks() -> None:
    """Have blocks of more than 1 MiB leave the process when they are freed.

    glibc raises that limit with each large block that is freed, up to 32 MiB, and keeps smaller ones in its heaps.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)
