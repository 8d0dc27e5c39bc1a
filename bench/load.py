"""How much a busy machine slows a comparison: OpenMP's own way to wait against the library's.

    python bench/load.py                # as the machine is: best once quiet, once at work
    python bench/load.py --busy 2       # beside two processes that do nothing but compute
    python bench/load.py --quota 0.5    # in a control group with half a core (Linux, as root)

Ways are measured in turn, each in a process of its own, and given as ratios to the library's in
the same round; wall clock, without loading.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WAYS: dict[str, dict[str, str]] = {
    "conjure_lib": {},
    "OpenMP by itself": {"KMP_BLOCKTIME": "200"},  # its default, so that nothing else is set
    "asleep at once": {"OMP_WAIT_POLICY": "passive"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
WORK = """
import json, time, conjure_lib as cj
process = cj.load(device="cpu")
cj.distance(process, "a cat", "a dog", steps=2, draws=1)
wall, cpu = time.perf_counter(), time.process_time()
cj.distance(process, "snow leopard", "bengal tiger", progress=False)
print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]))
"""


def main() -> None:
    """Measure every way in every round, and print the medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--busy", type=int, default=0, help="processes that compute beside")
    parser.add_argument("--quota", type=float, help="cores that the process is allowed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {vars(options)}")
    rounds = []
    with busy(options.busy), limited(options.quota) as prefix:
        for _ in range(options.rounds):
            rounds.append({way: measured(WAYS[way], prefix) for way in options.ways})
            print({way: round(wall, 2) for way, (wall, _) in rounds[-1].items()}, flush=True)
    for way in options.ways:
        wall, cpu = (statistics.median(found[way][i] for found in rounds) for i in (0, 1))
        ratio = statistics.median(found[way][0] / found[options.ways[0]][0] for found in rounds)
        print(f"{way:18s} {wall:6.2f} s, {cpu:6.2f} s of CPU, {ratio:5.2f} times {options.ways[0]}")


def measured(way: dict[str, str], prefix: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds of one distance in a fresh process."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "KMP_"))}
    command = [*prefix, sys.executable, "-c", WORK]
    environment = kept | {"PYTHONPATH": str(ROOT)} | way
    found = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
    wall, cpu = json.loads(found.stdout)
    return wall, cpu


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Beside ``count`` processes that compute."""
    command = [sys.executable, "-c", "while True: pass"]
    beside = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for one in beside:
            one.kill()
            one.wait()


@contextmanager
def limited(cores: float | None) -> Iterator[list[str]]:
    """What to write before a command to run it with a quota of ``cores``."""
    if cores is None:
        yield []
        return
    base = Path("/sys/fs/cgroup")
    version_2 = (base / "cgroup.controllers").is_file()
    group = (base if version_2 else base / "cpu") / f"conjure-load-{os.getpid()}"
    group.mkdir()
    try:
        if version_2:
            (group / "cpu.max").write_text(f"{round(cores * 100_000)} 100000")
        else:
            (group / "cpu.cfs_quota_us").write_text(f"{round(cores * 100_000)}")
        yield ["sh", "-c", f'echo $$ > {group / "cgroup.procs"} && exec "$@"', "sh"]
    finally:
        group.rmdir()


if __name__ == "__main__":
    main()
