"""The cores that are ours: by affinity, and by the quota of control groups, which torch ignores."""

from __future__ import annotations

import math
import os
from pathlib import Path

from conjure_lib.machine import PROC


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
