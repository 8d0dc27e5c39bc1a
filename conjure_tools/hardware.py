"""For work that takes long: the precision that is fast, and memory that is refused in time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import nn

from conjure_lib.machine import limit_threads, memory

GAIN = 0.95  # of the time in float32: a gain below that of chance changes no numbers


@contextmanager
def within_memory(device: torch.device | str = "cpu") -> Iterator[None]:
    """Lets Linux refuse memory that is not there, where it would kill the process that uses it.

    What is refused is an error, and a smaller batch may follow. GPUs refuse by themselves.
    """
    free, used = memory()
    if "cpu" not in str(device) or not free:
        yield
        return
    import resource

    before, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = [used + free * 9 // 10, *(b for b in (before, hard) if b != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_DATA, (min(limit), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, hard))


def half_pays(device: torch.device | str = "cpu") -> bool:
    """Whether ``device`` trains faster in bfloat16 than in float32; a CPU is measured, once.

    CPUs without instructions for bfloat16 are up to twenty times slower in it.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return kind == "cpu" and _measured()


@cache
def _measured() -> bool:
    """The same small network in both precisions, in turn, for about a second."""
    limit_threads()
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        flat = (nn.Flatten(2), nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64))
        network = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.SiLU(), *flat)
        x = torch.randn(8, 64, 8, 8)
        spent: dict[bool, list[float]] = {False: [], True: []}
        began = time.perf_counter()
        while len(spent[True]) < 4 or (time.perf_counter() - began < 1 and len(spent[True]) < 40):
            for half, times in spent.items():
                start = time.process_time()
                with torch.autocast("cpu", torch.bfloat16, enabled=half):
                    y = network(x)
                y.float().square().mean().backward()
                times.append(time.process_time() - start)
    return min(spent[True][1:]) < GAIN * min(spent[False][1:])  # the first ones prepare


def autocast() -> torch.autocast:
    """The precision of a training on the CPU: bfloat16 where it is faster, else float32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=half_pays())
