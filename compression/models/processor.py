"""Properties of the processor: the physical cores that this process may use, and its number formats.

Two threads per core compete for the same arithmetic units. A small model is faster on one thread: handing each of its
short matrix products to several threads takes longer than computing them.
"""

import math
import os
import re
from pathlib import Path

SMALL_HIDDEN_SIZE = 1024  # below, a layer's products take some microseconds each
_BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})  # x86, and ARM's SVE or NEON
_CPU_FOLDER = Path("/sys/devices/system/cpu")
_CGROUP_FOLDER = Path("/sys/fs/cgroup")


def choose_thread_count(hidden_size: int, configured: int | None = None) -> int:
    """Return the configured number of threads, else the default for a model of this hidden size."""
    if configured is not None:
        return configured
    return 1 if hidden_size < SMALL_HIDDEN_SIZE else count_physical_cores()


def count_physical_cores() -> int:
    """Return the number of physical cores that this process may use, bounded by its cgroup's quota; at least 1."""
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # macOS and Windows
        return max(1, os.cpu_count() or 1)
    cores = {_read_text(_CPU_FOLDER / f"cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in allowed}
    return max(1, min(len(cores), _read_cpu_quota() or len(cores)))


def prefers_bfloat16(hidden_size: int) -> bool:
    """Return True if a model of this size is faster in bfloat16 than in float32 on this processor."""
    return hidden_size >= SMALL_HIDDEN_SIZE and has_fast_bfloat16()


def has_fast_bfloat16() -> bool:
    """Return True if the processor multiplies bfloat16 itself; others take several times as long as for float32."""
    match = re.search(r"^(?:flags|Features)\s*:(.*)$", _read_text(Path("/proc/cpuinfo")), re.MULTILINE)
    return match is not None and not _BFLOAT16_FLAGS.isdisjoint(match[1].split())


def _read_cpu_quota() -> int | None:
    """Return the processors that the cgroup grants, rounded up; None without a limit."""
    quota, _, period = _read_text(_CGROUP_FOLDER / "cpu.max").partition(" ")
    if not period:  # version 1 of cgroups
        quota, period = (_read_text(_CGROUP_FOLDER / "cpu" / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    if not (quota.isdecimal() and period.isdecimal() and int(period)):
        return None
    return math.ceil(int(quota) / int(period)) or None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
