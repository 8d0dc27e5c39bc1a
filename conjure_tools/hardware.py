"""For work that takes long: a compiled network, the fast precision, memory refused in time."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from conjure_lib.machine import limit_threads, memory
from conjure_lib.process import GenerativeProcess

Result = TypeVar("Result")
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


def fitting(call: Callable[[int], Result], batch_size: int) -> tuple[Result, int]:
    """``call(batch_size)``, halved as often as memory runs out; and the size that was left."""
    while True:
        try:
            return call(batch_size), batch_size
        except (RuntimeError, MemoryError) as error:
            if batch_size == 1 or not _out_of_memory(error):
                raise
        batch_size //= 2
        warnings.warn(f"out of memory: going on with batch_size {batch_size}", stacklevel=3)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _out_of_memory(error: BaseException) -> bool:
    kinds = (MemoryError, torch.OutOfMemoryError)
    text = str(error).lower()
    said = ("out of memory", "can't allocate memory", "bad_alloc", "could not create a primitive")
    return isinstance(error, kinds) or any(words in text for words in said)


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


def compile_network(process: GenerativeProcess, batch_size: int = 64, *, tf32: bool = True) -> None:
    """Compile the network for calls of ``batch_size`` rows; pays in runs of minutes and more.

    Every evaluation is still made, in other kernels: numbers agree to rounding. A call with fewer
    rows is filled up and one with more is cut, so that there is one shape to compile. On CUDA the
    calls are replayed as graphs, and ``tf32`` lets float32 products be rounded to ten bits, for the
    whole program.

    Raises:
        ValueError: there is no network to compile.
    """
    if process.network is None:
        raise ValueError(f"{process.name} has no network that could be compiled")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    cuda, predict, source = process.device.type == "cuda", process.predict, process.source
    if cuda and tf32:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    process.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    process.network.compile(mode="reduce-overhead" if cuda else None, dynamic=False)

    def one_shape(x: Tensor, t: Tensor, condition: Any) -> Tensor:
        parts = []
        for first in range(0, len(x), batch_size):
            rows = torch.arange(first, first + batch_size).clamp_max(len(x) - 1)  # the last, often
            if cuda:  # what an earlier graph returned was kept elsewhere
                torch.compiler.cudagraph_mark_step_begin()
            output = predict(x[rows], t.expand(len(x))[rows], condition[rows])
            parts.append(output[: len(x) - first].float().clone())
        return torch.cat(parts)

    one_shape.compiled = True  # type: ignore[attr-defined]
    process.predict, process.source = one_shape, source  # of which a copy is, as yet, not compiled


def is_compiled(process: GenerativeProcess) -> bool:
    """Whether :func:`compile_network` was called."""
    return hasattr(process.predict, "compiled")
