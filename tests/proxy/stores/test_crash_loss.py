"""The count of received rows: exact after a crash; a disk without space neither kills nor fails the process."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clara_proxy.proxy.stores.crash_loss import RowCounter, find_crashed_runs

CUT_PROGRAM = """
import os, pathlib, sys
from clara_proxy.proxy.stores.crash_loss import RowCounter
counter = RowCounter(pathlib.Path(sys.argv[1]))
os.truncate(next(pathlib.Path(sys.argv[1]).iterdir()), 0)  # shared memory without a block behind it, as on a full disk
counter.count_row()
"""


def test_a_count_without_a_block_on_the_disk_does_not_kill_the_process(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", CUT_PROGRAM, str(tmp_path)], check=True, timeout=60)
    assert [run.received_rows for run in find_crashed_runs(tmp_path)] == [1]


def test_a_full_disk_does_not_fail_the_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = RowCounter(tmp_path)

    def raise_full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", raise_full)
        counter.count_row()
    counter.count_row()
    counter.leave_file()
    assert [run.received_rows for run in find_crashed_runs(tmp_path)] == [2]
