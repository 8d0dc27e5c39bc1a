"""The one training loop of the recipe: cosine schedule, moving average, checkpoints, resume."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from conjure_tools.folders import write_whole

Loss = Callable[[int, torch.Generator], Tensor]


def save_atomically(tensors: dict[str, Tensor], file: Path) -> None:
    """Write a safetensors file so that a kill leaves the old one or the new one, never half."""
    plain = {k: v.contiguous() for k, v in tensors.items()}
    write_whole(file, lambda path: save_file(plain, path))


def train(
    model: nn.Module,
    loss: Loss,
    folder: Path,
    *,
    steps: int,
    learning_rate: float,
    seed: int = 0,
    warmup: int = 100,
    ema: float = 0.0,
    checkpoint_every: int = 200,
    evaluate: Callable[[int], dict[str, float]] | None = None,
    evaluate_every: int = 500,
) -> None:
    """Minimise ``loss(step, generator)`` over the trainable weights of ``model``, in place.

    The generator of a step is seeded by (seed, step) alone, so that a resumed run sees the same
    data as an undisturbed one. ``folder`` gets ``checkpoint.safetensors`` (weights, their moving
    average, the optimizer's moments) and ``log.jsonl`` (step, loss, seconds, measurements). At the
    end the model holds the moving average where ``ema`` > 0: by hand, since diffusers' EMAModel,
    which decays alike from the second step on, keeps its averages in a list without names and
    counts its own steps, and a checkpoint holds both by name and resumes at any step. The rate
    rises, then falls along a cosine to a fiftieth: by hand too, as a function of the step alone,
    where a scheduler of torch or transformers has a state of its own to be kept and resumed.

    Raises:
        FloatingPointError: the loss is not finite; the last checkpoint stays as it is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: p for k, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(
        weights.values(), learning_rate, betas=(0.9, 0.99), weight_decay=1e-3, fused=True
    )
    average = {k: p.detach().clone() for k, p in weights.items()}
    checkpoint, log_file = folder / "checkpoint.safetensors", folder / "log.jsonl"
    start = _resume(checkpoint, weights, average, optimizer) if checkpoint.exists() else 0
    bar = tqdm(range(start, steps), initial=start, total=steps, desc=folder.name, mininterval=5)
    smoothed, began = None, time.time()
    model.train()
    warmup = max(1, min(warmup, steps // 10))
    for step in bar:
        progress = (step - warmup) / max(1, steps - warmup)
        scale = min(1.0, (step + 1) / warmup) * (
            0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * max(0.0, progress)))
        )
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * scale
        value = loss(step, torch.Generator().manual_seed(seed * 1_000_003 + step))
        if not torch.isfinite(value):
            raise FloatingPointError(f"{folder.name}: the loss of step {step} is {value.item()}")
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(list(weights.values()), 1.0)
        optimizer.step()
        decay = min(ema, (1 + step) / (10 + step))
        with torch.no_grad():
            for key, weight in weights.items():
                average[key].lerp_(weight, 1 - decay)
        smoothed = value.item() if smoothed is None else 0.98 * smoothed + 0.02 * value.item()
        last = step + 1 == steps
        if (step + 1) % 50 == 0 or last:
            record = {"step": step + 1, "loss": smoothed, "seconds": time.time() - began}
            if evaluate and ((step + 1) % evaluate_every == 0 or last):
                record |= _measure(model, weights, average, evaluate, step, ema)
            with log_file.open("a") as log:
                log.write(json.dumps(record) + "\n")
            bar.set_postfix({k: f"{v:.4g}" for k, v in record.items() if k != "step"})
        if (step + 1) % checkpoint_every == 0 or last:
            _checkpoint(checkpoint, weights, average, optimizer, step + 1)
    if ema:
        _assign(weights, average)
    model.eval()


def _assign(weights: dict[str, nn.Parameter], values: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for key, weight in weights.items():
            weight.copy_(values[key])


def _measure(model, weights, average, evaluate, step, ema) -> dict[str, float]:  # type: ignore[no-untyped-def]
    """Measure with the moving average in place, then put the weights back."""
    kept = {k: p.detach().clone() for k, p in weights.items()}
    if ema:
        _assign(weights, average)
    model.eval()
    with torch.no_grad():
        measured = evaluate(step)
    model.train()
    _assign(weights, kept)
    return measured


def _checkpoint(file, weights, average, optimizer, step) -> None:  # type: ignore[no-untyped-def]
    tensors = {"step": torch.tensor(step)}
    for key, weight in weights.items():
        state = optimizer.state[weight]
        tensors |= {
            f"weight/{key}": weight.detach(),
            f"average/{key}": average[key],
            f"m/{key}": state["exp_avg"],
            f"v/{key}": state["exp_avg_sq"],
        }
    save_atomically(tensors, file)


def _resume(file, weights, average, optimizer) -> int:  # type: ignore[no-untyped-def]
    tensors = load_file(file)
    _assign(weights, {k: tensors[f"weight/{k}"] for k in weights})
    step = int(tensors["step"])
    for key, weight in weights.items():
        average[key].copy_(tensors[f"average/{key}"])
        optimizer.state[weight] = {
            "step": torch.tensor(float(step)),
            "exp_avg": tensors[f"m/{key}"],
            "exp_avg_sq": tensors[f"v/{key}"],
        }
    return step
