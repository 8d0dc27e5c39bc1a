"""What the numbers of a process depend on, which runs and records are kept with."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from functools import partial
from types import FunctionType
from typing import Any

import torch

from conjure_lib.integrity import raw
from conjure_lib.process import GenerativeProcess

COMPILED = "_orig_mod."  # where torch.compile puts what it compiles
IDLE = ("training", "forward", "gradient_checkpointing")  # change no prediction


def fingerprint(process: GenerativeProcess) -> dict[str, Any]:
    """All of a process that changes a number, as JSON holds it.

    weights and state (of the networks: adapters and their scale, FreeU, quantisation, …) and
    tokenizers are hashes; the scheduler is its class and settings, and the options of the call are
    as given.
    """
    networks = {k: m for k, m in process.modules.items() if k != "vae"}
    tokenizers = [[r.name, r.length, _reading(r.tokenizer)] for r in process.readers]
    settings = {k: v for k, v in dict(process.scheduler.config).items() if k[0] != "_"}
    told = {
        "weights": weights_hash(process),
        "state": _hash_of({k: _state(m) for k, m in networks.items()}),
        "tokenizers": _hash_of(tokenizers),
        "prediction": process.kind,
        "scheduler": {"class": type(process.scheduler).__name__, **settings},
        "latent_shape": list(process.latent_shape),
        "dtype": process.dtype,
    }
    options = {} if process.source is None else process.source[-1]
    if options := {k: v for k, v in options.items() if v is not None and v is not False}:
        told["options"] = options
    return json.loads(json.dumps(told, default=lambda v: getattr(v, "tolist", v.__repr__)()))


def weights_hash(process: GenerativeProcess) -> str:
    """SHA-256 over every weight of the networks, as loaded: what a record names them by."""
    digest = hashlib.sha256()
    for part, module in sorted(process.modules.items()):
        for key, weight in sorted(module.state_dict().items()):
            name = key.replace(COMPILED, "")
            digest.update(f"{part}/{name}/{weight.dtype}/{tuple(weight.shape)}".encode())
            digest.update(raw(_offloaded(module, key) if weight.is_meta else weight))
    return digest.hexdigest()


def _offloaded(network: torch.nn.Module, key: str) -> torch.Tensor:
    """A weight that accelerate keeps elsewhere until it is used."""
    owner, _, name = key.rpartition(".")
    hook: Any = network.get_submodule(owner)._hf_hook
    maps = [getattr(one, "weights_map", None) for one in getattr(hook, "hooks", [hook])]
    found: torch.Tensor = next(one for one in maps if one is not None)[name]
    return found


def _state(network: torch.nn.Module) -> dict[str, Any]:
    """Of every module its class and its plain attributes: all that is set besides the weights."""
    told = {}
    for place, module in network.named_modules():
        if hasattr(module, COMPILED[:-1]):  # what was compiled follows, under its own name
            continue
        name = f"{place}.".replace(COMPILED, "")[:-1]
        # what is None is switched off, or was never set; what is private is the libraries' own,
        # save for adapters, which have it under these names
        kept = {k: v for k, v in vars(module).items() if k[0] != "_" and v is not None}
        kept |= {k: getattr(module, k, None) for k in ("active_adapters", "disable_adapters")}
        kept = {k: v for k, v in kept.items() if k not in IDLE}
        kept |= {k: v for k, v in (("forward", _way(module)), ("hooks", _hooks(module))) if v}
        told[name] = [type(module).__name__, {k: _plainly(v) for k, v in kept.items()}]
    return told


def _way(module: torch.nn.Module) -> Any:
    """What runs in place of its class's own forward, if anything; None where only hooks do."""
    own: Any = getattr(module.forward, "_torchdynamo_orig_callable", module.forward)
    own = inspect.unwrap(own, stop=lambda f: not isinstance(f, partial))
    return None if getattr(own, "__func__", own) is type(module).forward else own


def _hooks(module: torch.nn.Module) -> list[Any]:
    """Hooks of diffusers, by name, save for those that only move weights; and torch's own."""
    names = getattr(getattr(module, "_diffusers_hook", None), "hooks", {})
    theirs = [name for name in names if "offload" not in name and name != "layer_execution_tracker"]
    own = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    return theirs + [_plainly(hook) for hook in own]


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
    if isinstance(value, FunctionType):  # two of one name may do unlike things
        code, cells = value.__code__, [cell.cell_contents for cell in value.__closure__ or ()]
        plain = [one for one in cells if not isinstance(one, FunctionType)]
        written = f"{code.co_code.hex()} {[c for c in code.co_consts if not hasattr(c, 'co_code')]}"
        return [value.__qualname__, written, _plainly([*plain, value.__defaults__])]
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
