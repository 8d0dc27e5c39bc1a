"""The machine: how many threads there are and how they wait, and the memory that is free.

Imported before torch, whose OpenMP reads the environment once, as it is loaded.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

PROC = Path("/proc/self")
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # what a user may have set


def settle() -> None:
    """Let OpenMP's threads sleep while they wait; to be called before torch is loaded.

    Threads that spin while they wait take the cores from those that they wait for, wherever
    something else runs too (bench/load.py measures it). What the user has set stays.
    """
    if not any(name in os.environ for name in WAITING):
        os.environ["OMP_WAIT_POLICY"] = "passive"
        os.environ["GOMP_SPINCOUNT"] = "1000"  # microseconds: sleeping at once costs a fifth


def limit_threads() -> None:
    """No more threads than the cores that are ours: torch by itself knows nothing of a quota.

    What the user has set stays: OMP_NUM_THREADS, or a number that is not torch's own choice,
    which is the number of visible cores, or half of it where each runs two threads.
    """
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        from conjure_tools.cores import cores, visible

        if torch.get_num_threads() in (visible(), visible() // 2):
            torch.set_num_threads(min(torch.get_num_threads(), cores()))


def check_memory(what: str, need: float) -> None:
    """Raise MemoryError where ``what`` needs more bytes than are free here: before the work."""
    free, _ = memory()
    if free and need > free:
        raise MemoryError(
            f"{what} would need {need / 2**30:,.1f} GiB of memory, and {free / 2**30:,.1f} GiB are "
            "free here: take less"
        )


def memory(proc: Path = PROC) -> tuple[int, int]:
    """Bytes that are free for this process, and that it has; 0 and 0 where the system is silent."""

    def number(file: Path, name: str) -> int:
        return int(re.findall(rf"^{name}:?\s*(\d+)", file.read_text(), re.MULTILINE)[0])

    try:
        free = 1024 * number(proc.parent / "meminfo", "MemAvailable")
        used = 1024 * number(proc / "status", "VmData")
    except (OSError, IndexError):  # no Linux
        return 0, 0
    group = Path("/sys/fs/cgroup")  # as a container sees its own
    try:
        most, taken = (number(group / f"memory.{name}", "") for name in ("max", "current"))
        free = min(free, max(0, most - taken + number(group / "memory.stat", "inactive_file")))
    except (OSError, IndexError):  # no limit
        pass
    return free, used
