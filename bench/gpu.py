"""What only a GPU can tell, in ten minutes: python bench/gpu.py writes data/results/gpu.json.

The networks of Stable Diffusion 1.x, SDXL and Flux in full size, with random weights: evaluations a
second and their share of the matrix products' measured ceiling, by batch, precision and
compilation; what rounding makes; CUDA graphs; and whether the numbers are those of the CPU.

    python bench/gpu.py --tiny    # all of it that needs no card, in small, into _build/bench
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from models import STABLE_DIFFUSION, ceiling, fill, operations, timed
from torch import Tensor

from conjure_lib.process import generator
from conjure_tools.loading import shipped

ROOT = Path(__file__).resolve().parent.parent
RECORD = shipped("results") / "gpu.json"
TRIAL = ROOT / "_build" / "bench" / "gpu-tiny.json"
BUDGET = 600.0  # seconds, after which no other measurement is begun
BATCHES = (1, 4, 16, 64)
LONGEST = 2.0  # seconds that a call may take at the ceiling
CALLS = 5  # of which the median is taken, after one
SDXL = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
FLUX = {"guidance_embeds": True}  # the rest are the defaults: 19 + 38 blocks, 24 heads of 128
Row = dict[str, Any]
Inputs = Callable[[int], dict[str, Tensor]]


@dataclass(frozen=True)
class Architecture:
    """A network by its class and settings, and what a call of n rows is told."""

    name: str
    kind: type
    config: Mapping[str, Any]
    inputs: Inputs


def unet_inputs(side: int, tokens: int, width: int, pooled: int = 0) -> Inputs:
    """x (n, 4, side, side), t and hidden states; with ``pooled`` what SDXL is told besides."""

    def make(n: int) -> dict[str, Any]:
        told: dict[str, Any] = {
            "sample": _random(n, 4, side, side),
            "timestep": torch.full((n,), 501.0),
            "encoder_hidden_states": _random(n, tokens, width),
        }
        if pooled:
            told["added_cond_kwargs"] = {
                "text_embeds": _random(n, pooled),
                "time_ids": torch.tensor([[1024.0, 1024, 0, 0, 1024, 1024]]).expand(n, 6),
            }
        return told

    return make


def flux_inputs(side: int, channels: int, tokens: int, width: int, pooled: int) -> Inputs:
    """Packed x (n, side², channels), t in [0, 1] and the two texts, with their places."""

    def make(n: int) -> dict[str, Any]:
        places = torch.zeros(side * side, 3)
        places[:, 1:] = torch.cartesian_prod(torch.arange(side), torch.arange(side))
        return {
            "hidden_states": _random(n, side * side, channels),
            "timestep": torch.full((n,), 0.5),
            "guidance": torch.full((n,), 3.5),
            "pooled_projections": _random(n, pooled),
            "encoder_hidden_states": _random(n, tokens, width),
            "txt_ids": torch.zeros(tokens, 3),
            "img_ids": places,
        }

    return make


def architectures(tiny: bool) -> list[Architecture]:
    """The three, in full or as small as their classes allow."""
    unet, flux = diffusers.UNet2DConditionModel, diffusers.FluxTransformer2DModel
    if not tiny:
        return [
            Architecture("Stable Diffusion 1.x", unet, STABLE_DIFFUSION, unet_inputs(64, 77, 768)),
            Architecture("SDXL", unet, SDXL, unet_inputs(128, 77, 2048, 1280)),
            Architecture("Flux", flux, FLUX, flux_inputs(64, 64, 512, 4096, 768)),
        ]
    small = {"block_out_channels": (8, 16), "norm_num_groups": 4, "cross_attention_dim": 16}
    small |= {"layers_per_block": 1, "sample_size": 8, "attention_head_dim": 4}
    blocks = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    added = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
    added |= {"projection_class_embeddings_input_dim": 8 + 6 * 8}
    few = {"num_layers": 1, "num_single_layers": 1, "attention_head_dim": 8, "in_channels": 4}
    few |= {"num_attention_heads": 2, "joint_attention_dim": 16, "pooled_projection_dim": 8}
    axes = {"axes_dims_rope": (2, 2, 4), "guidance_embeds": True}
    return [
        Architecture("Stable Diffusion 1.x", unet, small | blocks, unet_inputs(8, 7, 16)),
        Architecture("SDXL", unet, small | blocks | added, unet_inputs(8, 7, 16, 8)),
        Architecture("Flux", flux, few | axes, flux_inputs(4, 4, 7, 16, 8)),
    ]


def build(one: Architecture, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
    """The network on the device, its weights random and of about the usual size."""
    with torch.device("meta"):
        network = one.kind.from_config(one.config)  # type: ignore[attr-defined]
    network = torch.nn.Module.to(network, dtype).to_empty(device=device)
    fill(network)
    if tables := [name for name, _ in network.named_buffers()]:  # which nothing has filled
        raise ValueError(f"{one.name} has tables beside its weights: {', '.join(tables)}")
    found: torch.nn.Module = network.eval().requires_grad_(False)
    return found


def flops(one: Architecture) -> int:
    """Floating-point operations of one evaluation."""
    told = _moved(one.inputs(1), torch.device("meta"), torch.float32)
    return operations(one.kind, one.config, told)


def rate(call: Callable[[], Any], batch: int, work: int, limit: float) -> Row:
    """Evaluations a second of calls of ``batch`` rows, and their share of the ceiling."""
    first, *others = (timed(call)[1]["seconds"] for _ in range(1 + CALLS))
    seconds = float(np.median(others))
    return {
        "batch": batch,
        "first_call_seconds": first,
        "evaluations_per_second": batch / seconds,
        "flops_per_evaluation": work,
        "share_of_ceiling": batch * work / seconds / limit,
    }


@torch.no_grad()
def of_architecture(
    one: Architecture, device: torch.device, dtype: torch.dtype, tiny: bool, limit: float
) -> Iterator[Row]:
    """All that is measured of one network in one precision."""
    network, work = build(one, device, dtype), flops(one)
    shared: Row = {"model": one.name, "dtype": str(dtype).removeprefix("torch.")}
    shared |= {"parameters": sum(p.numel() for p in network.parameters()), "ceiling": limit}
    yield shared | {"part": "rounding", **rounding(one, network, device, dtype)}
    for batch in BATCHES[:2] if tiny else BATCHES:
        if not tiny and batch * work / limit > LONGEST:
            break
        told = _moved(one.inputs(batch), device, dtype)
        try:
            found = rate(lambda told=told: network(**told), batch, work, limit)  # type: ignore[misc]
        except torch.OutOfMemoryError:
            yield shared | {"part": "rate", "batch": batch, "no_memory": True}
            break
        yield shared | {"part": "rate", "compiled": False, **found}
    if dtype != torch.bfloat16:  # to compile takes minutes
        return
    batch = BATCHES[1]
    told = _moved(one.inputs(batch), device, dtype)
    plain = _first(network(**told))
    for way, call in faster(network, told, device, tiny):
        found = rate(call, batch, work, limit)
        found["difference"] = _apart(_first(call()), plain)
        yield shared | {"part": "rate", "compiled": way, **found}


def faster(
    network: Any, told: dict[str, Any], device: torch.device, tiny: bool
) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The same call compiled, and replayed as a CUDA graph where there is CUDA."""
    backend = "eager" if tiny else "inductor"  # in small, that it runs at all
    compiled = torch.compile(network, backend=backend, dynamic=False)
    yield "compile", lambda: compiled(**told)
    if device.type != "cuda":
        return
    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            network(**told)
    torch.cuda.current_stream().wait_stream(side)
    with torch.cuda.graph(graph):
        kept = network(**told)

    def replayed() -> Any:
        graph.replay()
        return kept

    yield "graph", replayed


def rounding(
    one: Architecture, network: torch.nn.Module, device: torch.device, dtype: torch.dtype
) -> Row:
    """Relative differences: of a row alone from the same in a batch, and from another text's.

    Of U-Nets also from the CPU's in float32, with the same weights; Flux would take minutes there.
    """
    rows = one.inputs(4)
    told = _moved(rows, device, dtype)
    together, alone = _first(network(**told))[:1], _first(network(**_rows(told, 1)))
    other = dict(told)
    other["encoder_hidden_states"] = told["encoder_hidden_states"].flip(0)
    found: Row = {"floor": _apart(alone, together)}
    found["texts"] = _apart(_first(network(**other))[:1], together)
    if one.kind is diffusers.UNet2DConditionModel:
        reference = build(one, torch.device("cpu"), torch.float32)
        exact = _first(reference(**_rows(rows, 1)))
        found["from_cpu"] = _apart(alone.cpu(), exact)
    return found


def measure(device: torch.device, tiny: bool, budget: float = BUDGET) -> dict[str, Any]:
    """The record: rows, the device's name, and what was left out for want of time."""
    began, rows, left = time.perf_counter(), [], []
    dtypes = [torch.float32, torch.bfloat16] + ([torch.float16] if device.type == "cuda" else [])
    with _exact_products():
        for dtype in dtypes:
            limit = ceiling(dtype, device, (128,) if tiny else (4096, 8192))
            for one in architectures(tiny):
                if time.perf_counter() - began > budget:
                    left.append(f"{one.name} in {dtype}: no time")
                    continue
                try:
                    rows += list(of_architecture(one, device, dtype, tiny, limit))
                except torch.OutOfMemoryError:
                    left.append(f"{one.name} in {dtype}: no memory")
                torch.compiler.reset()
                if device.type == "cuda":
                    torch.cuda.empty_cache()
                print(f"{one.name}, {dtype}: {time.perf_counter() - began:.0f} s", flush=True)
    return {
        "device": _name(device),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "diffusers": diffusers.__version__,
        "tiny": tiny,
        "seconds": round(time.perf_counter() - began),
        "left_out": left,
        "rows": rows,
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tiny", action="store_true", help="small networks, on the CPU")
    parser.add_argument("--out", type=Path, help="where the record goes")
    options = parser.parse_args(arguments)
    if not options.tiny and not torch.cuda.is_available():
        sys.exit("There is no CUDA card here, and nothing else can tell what this measures.")
    device = torch.device("cpu" if options.tiny else "cuda")
    file = options.out or (TRIAL if options.tiny else RECORD)
    file.parent.mkdir(parents=True, exist_ok=True)
    record = measure(device, options.tiny)
    file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"written: {file}")


def _random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=generator(1, *shape[:2]))


def _moved(told: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Inputs on the device; times and places stay float32, as pipelines send them."""
    if isinstance(told, dict):
        kept = {"timestep", "img_ids", "txt_ids"}
        return {
            k: _moved(v, device, torch.float32 if k in kept else dtype) for k, v in told.items()
        }
    return told.to(device, dtype)


def _rows(told: Any, n: int) -> Any:
    if isinstance(told, dict):
        shared = ("img_ids", "txt_ids")
        return {k: v if k in shared else _rows(v, n) for k, v in told.items()}
    return told[:n]


def _first(output: Any) -> Tensor:
    found: Tensor = output[0]
    return found


def _apart(a: Tensor, b: Tensor) -> float:
    """‖a - b‖ / ‖b‖."""
    a, b = a.double(), b.double()
    return float((a - b).norm() / b.norm())


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


@contextmanager
def _exact_products() -> Iterator[None]:
    """float32 products in float32 inside."""
    places: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    kept = [place.allow_tf32 for place in places]
    for place in places:
        place.allow_tf32 = False
    try:
        yield
    finally:
        for place, value in zip(places, kept, strict=True):
            place.allow_tf32 = value


if __name__ == "__main__":
    main()
