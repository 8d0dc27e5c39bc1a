"""Whether a number is one, and what it depends on: surroundings, overflow, fingerprints."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from conjure_lib.reading import Reader, quoted

HUGE = 1e15  # the squares of larger numbers, summed over a latent, overflow in float32
AUTOCASTS = ("cpu", "cuda")  # devices whose surroundings may be in another precision


def steady(call: Callable[..., Any]) -> Callable[..., Any]:
    """``call`` without the autocast and the gradients of whoever calls it."""
    if hasattr(call, "steady"):
        return call

    @wraps(call)
    def alone(*given: Any, **named: Any) -> Any:
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            for kind in AUTOCASTS:
                if torch.is_autocast_enabled(kind):
                    stack.enter_context(torch.autocast(kind, enabled=False))
            return call(*given, **named)

    alone.steady = True  # type: ignore[attr-defined]
    return alone


def sound(values: Any) -> Tensor:
    """Which of n rows hold neither NaN nor a number whose squares overflow in float32, (n,).

    Args:
        values: a tensor (n, …), or a conditioning of n rows.
    """
    parts = [p for p in getattr(values, "parts", {"": values}).values() if p.is_floating_point()]
    rows = torch.ones(len(values), dtype=torch.bool)
    return torch.stack([(p.abs() < HUGE).reshape(len(p), -1).all(1) for p in parts] or [rows]).all(
        0
    )


def check_sound(fine: Any, when: Sequence[Any], texts: Sequence[str] | None = None) -> None:
    """Raise ValueError, with the prompt and the time, at the first False of ``fine`` (n, S).

    ``when`` (S,) are timesteps or what comes before them, ``texts`` (n,) the prompts of the rows.
    """
    bad = ~torch.as_tensor(fine).cpu()
    if not bool(bad.any()):
        return
    at = int(bad.any(0).nonzero()[0])
    row = int(bad[:, at].nonzero()[0])
    whose = f"row {row}" if texts is None else quoted(texts[row])
    what = (
        when[at] if isinstance(when[at], str) else f"the noise prediction at timestep {when[at]:g}"
    )
    raise ValueError(
        f"{what} for {whose} is not finite, or too large to be squared: a guidance nearer to 1, or "
        "a network in float32, may help; otherwise weights of the model are damaged"
    )


# -- what a number depends on ------------------------------------------------------------------


def told_of(
    networks: Mapping[str, torch.nn.Module], readers: Sequence[Reader], scheduler: Any
) -> dict[str, Any]:
    """Hashes of the networks' state and of the tokenizers, and the scheduler's settings."""
    config = {k: v for k, v in dict(scheduler.config).items() if k[0] != "_"}
    told = {
        "state": _hash_of({k: _state(m) for k, m in networks.items()}),
        "tokenizers": _hash_of([[r.name, r.length, _reading(r.tokenizer)] for r in readers]),
        "scheduler": config,
    }
    return json.loads(json.dumps(told, default=lambda v: getattr(v, "tolist", v.__repr__)()))


def weights_hash(modules: Mapping[str, torch.nn.Module]) -> str:
    """SHA-256 over every weight of the networks."""
    digest = hashlib.sha256()
    for part, module in sorted(modules.items()):
        for key, weight in sorted(module.state_dict().items()):
            digest.update(f"{part}/{key}/{weight.dtype}/{tuple(weight.shape)}".encode())
            digest.update(weight.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _state(network: torch.nn.Module) -> dict[str, Any]:
    """Of every module its class and its plain attributes: all that is set besides the weights."""
    told = {}
    for name, module in network.named_modules():
        # what is None is switched off, or was never set; what is private is the libraries' own,
        # save for adapters, which have it under these names
        kept = {k: v for k, v in vars(module).items() if k[0] != "_" and v is not None}
        kept |= {k: getattr(module, k, None) for k in ("active_adapters", "disable_adapters")}
        kept.pop("training")
        told[name] = [type(module).__name__, {k: _plainly(v) for k, v in kept.items()}]
    return told


def _plainly(value: Any) -> Any:
    """``value`` as JSON has it; of anything else its class."""
    if isinstance(value, bool | int | float | str | None):
        return value
    if isinstance(value, Mapping):  # a configuration keeps its origin under such names
        return {str(k): _plainly(v) for k, v in value.items() if str(k)[:1] != "_"}
    if isinstance(value, list | tuple):
        return [_plainly(v) for v in value]
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if isinstance(value, torch.dtype):
        return str(value)
    return type(value).__name__


def _reading(tokenizer: Any) -> list[Any]:
    """What decides how a tokenizer reads: vocabulary, rules, special tokens, length."""
    told = [tokenizer.get_vocab(), tokenizer.special_tokens_map, tokenizer.model_max_length]
    told += [getattr(tokenizer, "bpe_ranks", None), getattr(tokenizer, "do_lower_case", None)]
    if (rules := getattr(tokenizer, "backend_tokenizer", None)) is not None:
        rules = json.loads(rules.to_str())
        told.append({k: v for k, v in rules.items() if k not in ("truncation", "padding")})
    if (pieces := getattr(tokenizer, "sp_model", None)) is not None:
        told.append(pieces.serialized_model_proto().hex())
    return told


def _hash_of(told: Any) -> str:
    items = json.dumps(_keyed(told), sort_keys=True, default=str)
    return hashlib.sha256(items.encode()).hexdigest()


def _keyed(told: Any) -> Any:
    """The same with keys that JSON can sort."""
    if isinstance(told, Mapping):
        return {str(k): _keyed(v) for k, v in told.items()}
    return [_keyed(v) for v in told] if isinstance(told, list | tuple) else told
