"""Models to measure with: the architecture of Stable Diffusion 1.x, and a stub for a network."""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import conjure_lib as cj
from conjure_lib.process import generator

SCHEDULE = {  # of Stable Diffusion 1.x
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
NAME = "Stable Diffusion 1.x, random weights"
STABLE_DIFFUSION = {"sample_size": 64, "cross_attention_dim": 768}  # the rest are the defaults


def stable_diffusion(
    side: int = 64, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> cj.GenerativeProcess:
    """The U-Net of Stable Diffusion 1.x, 860 million random weights, on latents (4, side, side).

    Texts become random hidden states (77, 768), keyed by the text.
    """
    with torch.device("meta"):
        unet = UNet2DConditionModel(**STABLE_DIFFUSION)
    unet = torch.nn.Module.to(unet, dtype)  # diffusers' own warns of layers that are not there
    unet = unet.to_empty(device=device).eval().requires_grad_(False)
    fill(unet)

    def predict(x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        return unet(x.to(dtype), t, condition.to(dtype), return_dict=False)[0]

    return cj.GenerativeProcess(
        predict,
        _hidden_states(77, 768, device),
        DDIMScheduler(**SCHEDULE),
        (4, side, side),
        name=NAME if side == 64 else f"{NAME}, {side}×{side} latents",
        device=torch.device(device),
        modules={"unet": unet},
    )


def stub() -> cj.GenerativeProcess:
    """No network but a few operations, so that what is around the network shows."""

    def predict(x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        return torch.tanh(x * condition.mean((1, 2))[:, None, None, None])

    return cj.GenerativeProcess(
        predict,
        _hidden_states(4, 8, "cpu"),
        DDIMScheduler(**SCHEDULE),
        (4, 16, 16),
        name="stub, 16×16 latents",
    )


def timed(call: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What ``call`` returns, and the wall and CPU seconds until the device has done its work.

    On a machine that does other work too, CPU seconds are those that can be compared.
    """
    _wait()
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    _wait()
    spent = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    return result, spent


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ceiling(dtype: torch.dtype, device: torch.device, sizes: Sequence[int]) -> float:
    """Floating-point operations a second of products of square matrices, the best of some."""
    clock, best = "seconds" if device.type == "cuda" else "cpu_seconds", 0.0
    for size in sizes:
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        for _ in range(6):  # ten at a time, beside which a launch is nothing
            _, spent = timed(lambda a=a, b=b: [a @ b for _ in range(10)][-1])  # type: ignore[misc]
            best = max(best, 20 * size**3 / spent[clock])
    return best


def flops(process: cj.GenerativeProcess, tokens: int) -> int:
    """Floating-point operations of one evaluation."""
    config: Any = process.modules["unet"].config
    told = {
        "sample": torch.empty(1, *process.latent_shape, device="meta"),
        "timestep": torch.empty(1, device="meta"),
        "encoder_hidden_states": torch.empty(1, tokens, config.cross_attention_dim, device="meta"),
    }
    return operations(UNet2DConditionModel, config, told)


def operations(kind: Any, config: Mapping[str, Any], told: Mapping[str, Any]) -> int:
    """Floating-point operations of a call, counted on a network without weights, on "meta"."""
    with torch.device("meta"):
        copy = kind.from_config(config)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        copy(**told)
    return counter.get_total_flops()


def _hidden_states(tokens: int, width: int, device: str) -> Callable[[Sequence[str]], Tensor]:
    def encode(texts: Sequence[str]) -> Tensor:
        shape = (tokens, width)
        keys = [zlib.crc32(text.encode()) for text in texts]
        return torch.stack([torch.randn(shape, generator=generator(k)) for k in keys]).to(device)

    return encode


@torch.no_grad()
def fill(network: torch.nn.Module) -> None:
    """Weights of about the usual size, all from one block of random numbers, since it is quick."""
    device = next(network.parameters()).device
    block = torch.randn(1 << 20, generator=generator(0)).to(device)
    for name, weight in network.named_parameters():
        if weight.ndim == 1:
            weight.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
            continue
        flat = block.repeat(math.ceil(weight.numel() / len(block)))[: weight.numel()]
        weight.copy_(flat.view_as(weight) / math.sqrt(weight[0].numel()))
