"""The machine: the cores and the memory that are ours, how many threads there are, how they wait.

Imported before torch, whose OpenMP reads the environment once, as it is loaded.
"""

from __future__ import annotations

import math
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

    usual = torch.get_num_threads() in (visible(), visible() // 2)
    if usual and "OMP_NUM_THREADS" not in os.environ:
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


def cores() -> int:
    """Cores that this process may use: by its affinity and by the CPU quota of its cgroups."""
    return max(1, math.ceil(min(visible(), _quota(PROC))))


def visible() -> int:
    """Cores of the machine, or of this process's affinity."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quota(proc: Path) -> float:
    """The smallest quota, in cores, of the process's cgroups and those above; inf for none."""
    try:
        groups = [line.split(":", 2)[1:] for line in (proc / "cgroup").read_text().splitlines()]
        mounts = [line.split(" - ") for line in (proc / "mountinfo").read_text().splitlines()]
    except OSError:  # no Linux
        return math.inf
    quotas = [math.inf]
    for before, after in mounts:
        root, mount = before.split()[3:5]
        kind, _, options = after.split(maxsplit=2)
        for controllers, path in groups:
            both = [kind, *controllers.split(",")], options.split(",")
            if both[0] == ["cgroup2", ""] or all("cpu" in names for names in both):
                quotas += _quotas(Path(mount), os.path.relpath(path, root))
    return min(quotas)


def _quotas(mount: Path, inside: str) -> list[float]:
    """Quotas of the group ``inside`` a mounted hierarchy and of all above it, up to the mount.

    A container may see its own group as the mount, under a path that only the host knows.
    """
    group = mount / inside if (mount / inside).is_dir() and ".." not in inside else mount
    found = []
    for folder in (group, *group.parents):
        try:
            if (folder / "cpu.max").is_file():
                quota, period = (folder / "cpu.max").read_text().split()
            else:
                quota = (folder / "cpu.cfs_quota_us").read_text().strip()
                period = (folder / "cpu.cfs_period_us").read_text()
            if quota not in ("max", "-1"):
                found.append(int(quota) / int(period))
        except (OSError, ValueError):
            pass  # the root of a hierarchy has no quota
        if folder == mount:
            break
    return found
