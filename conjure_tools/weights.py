"""Models, tokenizers and schedulers, from a folder: complete and of sense, or refused.

Only safetensors are read: nothing is unpickled, and no code that a checkpoint brings is run. The
libraries fill in what a file of settings does not say, and another schedule or another length of
text is another number without a word: so the settings that a number rests on must be there.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import json
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from conjure_lib.integrity import first_line, quiet
from conjure_lib.pipelines import check_family, check_scheduler
from conjure_lib.sde import Schedule

LOADED = "LOADED_SHA256"  # a file beside a model: the hash that its weights have once loaded
SETTINGS = tuple(f"{of}config.json" for of in ("", "generation_", "scheduler_", "tokenizer_"))
NAME = re.compile(r"[^.]+?(?:\.(\w+))?(?:-\d+-of-\d+)?\.safetensors")  # with its variant

BETAS = ("beta_start", "beta_end", "beta_schedule")
SHIFTS = ("base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len")
NEEDED = ("num_train_timesteps", *BETAS, "prediction_type", "shift", *SHIFTS)
OWN_SPACINGS = ("linspace", "leading", "trailing")  # of diffusers, the default first


def pretrained(
    kind: Any,
    folder: Path,
    *,
    dtype: torch.dtype | str = torch.float32,
    variant: str | None = None,
    unread: Sequence[str] = (),
    **more: Any,
) -> Any:
    """A model of class ``kind``, of diffusers or transformers, that is complete: in eval mode.

    Args:
        variant: of the weights' files, such as "fp16", where there are several.
        unread: parts of the model that the caller does not use, and that a checkpoint of another
            class need not have: ("pooler",).
        more: of the class's own ``from_pretrained``: quantization_config, device_map.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: weights are damaged, missing, unexpected or of another shape; or pickled.
    """
    there = _variants(folder)
    if variant not in there and None not in there:
        names = " or ".join(f"variant={name!r}" for name in sorted(map(str, there)))
        raise ValueError(f"{folder} holds a variant of its weights alone: say {names}")
    variant = variant if variant in there else None
    how: dict[str, Any] = {"use_safetensors": True, "local_files_only": True, "variant": variant}
    if kind.__module__.startswith("transformers."):  # what mismatches is told, and refused below
        how |= {"dtype": dtype, "ignore_mismatched_sizes": True}
    else:
        how["torch_dtype"] = dtype
    with reading(folder, kind):
        _check_shards(folder, variant)
        model, found = kind.from_pretrained(str(folder), output_loading_info=True, **how, **more)
    _check_complete(model, found, folder, unread)
    _check_floating(model, folder, variant)
    return model.eval()


def reader(kind: Any, folder: Path) -> Any:
    """What has no weights: a tokenizer, a processor of images or a scheduler of class ``kind``.

    Raises:
        ValueError: its files are missing or cannot be read.
    """
    with reading(folder, kind):
        found = kind.from_pretrained(str(folder), local_files_only=True)
    special = getattr(found, "all_special_ids", None)
    if special is not None and len(found) <= len(set(special)) + 1:  # T5 makes one up
        raise ValueError(f"{folder} holds no vocabulary for {kind.__name__}: fetch it again")
    return found


def settings_in(file: Path) -> dict[str, Any]:
    """What a JSON file of settings says.

    Raises:
        ValueError: it is no JSON, or names no settings.
    """
    try:
        found = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no JSON, fetch it again: {first_line(error)}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file} must name settings, and holds a {type(found).__name__}")
    return found


def check_sums(folder: Path) -> None:
    """Compare a folder's files with its SHA256SUMS, where it has one.

    Raises:
        FileNotFoundError: a file of the list is missing.
        ValueError: a file differs, or a line is no checksum.
    """
    sums = folder / "SHA256SUMS"
    lines = sums.read_text("utf-8", "replace").splitlines() if sums.is_file() else []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        parsed = re.fullmatch(r"([0-9a-fA-F]{64})[ \t]+\*?(.+?)\s*", line)
        if parsed is None:
            raise ValueError(f"{sums}, line {number}: no SHA-256 and a file, but {line!r}")
        file = folder / parsed[2]
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing: fetch the model's folder again")
        if hashlib.sha256(file.read_bytes()).hexdigest() != parsed[1].lower():
            raise ValueError(f"{file} is damaged (its SHA-256 differs): fetch it again")


def check_variant(folder: Path, variant: str | None) -> None:
    """Raises ValueError: no part of a pipeline's folder has weights of this variant."""
    files = folder.glob("*/*.safetensors")
    there = {parsed[1] for parsed in map(NAME.fullmatch, (f.name for f in files)) if parsed}
    if variant not in {None, *there}:
        names = ", ".join(sorted(repr(name) for name in there - {None})) or "none"
        raise ValueError(f"{folder} has no weights of variant={variant!r}; its variants: {names}")


def loaded_hash(parts: Mapping[str, Any]) -> str:
    """SHA-256 over the weights of the networks among ``parts`` in float32, by name."""
    digest = hashlib.sha256()
    networks = {name: part for name, part in parts.items() if isinstance(part, torch.nn.Module)}
    for name, network in sorted(networks.items()):
        for key, weight in sorted(network.state_dict().items()):
            digest.update(f"{name}/{key}/{tuple(weight.shape)}".encode())
            digest.update(weight.detach().float().cpu().flatten().numpy())
    return digest.hexdigest()


def check_loaded(folder: Path, parts: Mapping[str, Any]) -> None:
    """Compare what was loaded in float32 with the hash that the folder names, where it does.

    Raises:
        ValueError: they differ.
    """
    file = folder / LOADED
    if file.is_file() and file.read_text("utf-8", "replace").strip() != loaded_hash(parts):
        raise ValueError(
            f"the weights of {folder} are not those that were trained, once they are loaded with "
            f"{releases()}: its files were changed, or these releases misread them"
        )


def releases() -> str:
    """What is installed: "diffusers 0.42.1, torch 2.13.0, transformers 5.23.0"."""
    names = ("diffusers", "torch", "transformers")
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


def _variants(folder: Path) -> set[str | None]:
    """The variants of a folder's weights, such as "fp16"; None for the plain ones."""
    names = sorted(file.name for file in folder.iterdir())
    found = {parsed[1] for parsed in map(NAME.fullmatch, names) if parsed}
    if not found:
        pickled = [n for n in names if n.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl"))]
        why = f", and {pickled[0]} is a pickle, which could run anything" if pickled else ""
        raise FileNotFoundError(
            f"{folder} holds no weights as safetensors{why}: fetch it, or another revision, again"
        )
    return found


@contextmanager
def reading(folder: Path, kind: Any) -> Iterator[Any]:
    """Silent; what goes wrong inside becomes a ValueError that names the folder."""
    given: dict[str, Any] = {}
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of names that releases change
            for file in filter(Path.is_file, (folder / name for name in SETTINGS)):
                given |= settings_in(file)  # others, such as data_config.json, hold what they like
            yield kind
    except MemoryError:
        raise
    except Exception as error:  # whatever the libraries raise at a file that they did not write
        told = first_line(error).split(" If you want")[0]  # random weights in their place
        names = [f"{k}={v!r}" for k, v in given.items() if isinstance(v, str) and repr(v) in told]
        names += [f"{k}={v!r}" for k, v in given.items() if v and f" {v} " in f" {told} "]
        named = f" ({', '.join(dict.fromkeys(names))})" if names else ""
        raise ValueError(
            f"{folder} cannot be read as {kind.__name__}, fetch it again: "
            f"{type(error).__name__}: {told}{named}"
        ) from error


def _check_complete(
    model: Any, found: Mapping[str, Any], folder: Path, unread: Sequence[str]
) -> None:
    """Refuse what the libraries' own reports of loading tell of, and they at most log."""
    own = {name.split(".")[0] for name in [*model.state_dict(), *dict(model.named_buffers())]}
    classes = getattr(model.config, "architectures", None) or [type(model).__name__]
    lacking, beyond = set(found["missing_keys"]), set(found["unexpected_keys"])
    if type(model).__name__ not in classes:  # BertModel of a BertForMaskedLM: heads stay behind
        lacking = {key for key in lacking if key.split(".")[0] not in unread}
        beyond = {key for key in beyond if key.split(".")[0] in own}
    other = {key for key, *_ in found["mismatched_keys"]}
    faults = {"missing": lacking, "unexpected": beyond, "of another shape": other}
    told = "; ".join(f"{_some(keys)} {fault}" for fault, keys in faults.items() if keys)
    told += "; ".join(map(str, found.get("error_msgs") or ()))
    if told:
        raise ValueError(
            f"{folder} is no complete {type(model).__name__} for {releases()}: {told}. Fetch it "
            "again, or install the releases that its weights were saved with"
        )


def _check_shards(folder: Path, variant: str | None) -> None:
    """Refuse an index of which a file is missing, also where a whole file would do instead."""
    for index in sorted(folder.glob("*.safetensors.index*.json")):
        if set(index.name.split(".")[1:]) - {"safetensors", "index", "json"} != {variant} - {None}:
            continue
        named = settings_in(index).get("weight_map")
        files = named.values() if isinstance(named, dict) else [named]
        if lacking := {str(file) for file in files if not (folder / str(file)).is_file()}:
            raise FileNotFoundError(f"{index} names {_some(lacking)}, which is not there")


def _check_floating(model: torch.nn.Module, folder: Path, variant: str | None) -> None:
    """Refuse weights that are stored as integers: they were rounded, or are of another kind."""
    counts = {"position_ids"} | {  # which older releases stored
        name.split(".")[-1]
        for name, buffer in model.named_buffers()
        if not buffer.dtype.is_floating_point
    }
    for file in sorted(folder.glob("*.safetensors")):
        if (NAME.fullmatch(file.name) or [None, ""])[1] != variant:
            continue
        with safe_open(file, "pt") as stored:
            kinds = {key: str(stored.get_slice(key).get_dtype()) for key in stored.keys()}  # noqa: SIM118
        other = {k for k, v in kinds.items() if "F" not in v and k.split(".")[-1] not in counts}
        if other:
            raise ValueError(
                f"{file} stores {_some(other)} as {kinds[min(other)]}, and weights are floating "
                "numbers: fetch it again"
            )


def _some(keys: set[str]) -> str:
    listed = sorted(keys)
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return ", ".join(listed[:3]) + more


# -- settings ----------------------------------------------------------------------------------


def scheduler(kind: Any, folder: Path) -> Any:
    """The scheduler of class ``kind`` in ``folder``, whose file says all that its schedule is.

    Raises:
        ValueError: a setting is missing, is no number, or they give no schedule.
    """
    file = folder / "scheduler_config.json"
    with reading(folder, kind):
        given = settings_in(file)
        _check_given(kind, given, file)
    found = reader(kind, folder)
    kinds = (kind, *kind._get_compatibles())  # files tell of their siblings' settings too
    known = set().union(*(inspect.signature(one.__init__).parameters for one in kinds))
    odd = sorted(name for name in given.keys() - known if not name.startswith("_"))
    if odd and (hasattr(found, "alphas_cumprod") or "shift" in known):  # others are refused anyway
        warnings.warn(f"{file}: no scheduler like {kind.__name__} knows {odd}", stacklevel=2)
    told = ", ".join(f"{k}={v!r:.60}" for k, v in given.items() if "beta" in k and v is not None)
    try:
        steps = Schedule.of(found).T if hasattr(found, "alphas_cumprod") else None
    except ValueError as error:
        raise ValueError(f"{file}: {told} give no schedule: {error}") from error
    if steps not in (None, given["num_train_timesteps"]):
        raise ValueError(
            f"{file}: {told} are {steps} steps, and num_train_timesteps is "
            f"{given['num_train_timesteps']}"
        )
    return found


def _check_given(kind: Any, given: Mapping[str, Any], file: Path) -> None:
    """Refuse by name what is missing of a schedule's settings, and what is no number."""
    optional = set(() if given.get("use_dynamic_shifting") else SHIFTS)
    optional |= set(() if given.get("trained_betas") is None else BETAS)
    if re.match(r"0\.[0-8]\.", str(given.get("_diffusers_version"))):
        optional.add("prediction_type")  # which was always epsilon then, as in v1.4's own file
    known = inspect.signature(kind.__init__).parameters.keys() - optional
    if lacking := [name for name in NEEDED if name in known and given.get(name) is None]:
        raise ValueError(
            f"{file} does not say {', '.join(lacking)}, and the defaults of diffusers are another "
            "model's"
        )
    for name in known.intersection(NEEDED).difference(("beta_schedule", "prediction_type")):
        whole = name == "num_train_timesteps"
        if not _number(given[name], whole) or given[name] <= 0:
            what = "whole number" if whole else "number"
            raise ValueError(f"{file}: {name} must be a positive {what}, not {given[name]!r}")
    spacing = given.get("timestep_spacing", OWN_SPACINGS[0])
    if spacing not in OWN_SPACINGS:
        raise ValueError(f"{file}: timestep_spacing must be of {OWN_SPACINGS}, not {spacing!r}")


def _number(value: Any, whole: bool) -> bool:
    kinds = int if whole else int | float
    return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)


def check_tokenizers(folder: Path, parts: Mapping[str, Any]) -> None:
    """Compare how long a text each tokenizer lets through with what its encoder has room for.

    Raises:
        ValueError: no room for a text or more than there are positions; no token to fill up with.
    """
    from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

    for name, encoder in parts.items():
        if encoder is None or not name.startswith("text_encoder"):
            continue
        part = name.replace("text_encoder", "tokenizer")
        tokenizer, file = parts.get(part), folder / part / "tokenizer_config.json"
        if tokenizer is None:
            raise ValueError(f"{folder} has {name} and no {part}")
        if tokenizer.pad_token_id is None:
            raise ValueError(f"{file} names no pad_token, which short texts are filled up with")
        length, most = tokenizer.model_max_length, _positions(encoder)
        least = int(tokenizer.num_special_tokens_to_add()) + 1
        if not _number(length, whole=True) or not least <= length <= most:
            given = "is not there" if length == VERY_LARGE_INTEGER else f"is {length!r}"
            raise ValueError(
                f"{file}: model_max_length {given}, and must be a whole number from {least}, the "
                f"tokens of a text of one, to {most}, the positions of {name}"
            )


def _positions(encoder: Any) -> float:
    """How many tokens an encoder can read; T5, whose positions are relative, has no limit."""
    limit = getattr(encoder.config, "max_position_embeddings", None)
    return limit if isinstance(limit, int) else math.inf


def index_of(folder: Path) -> dict[str, Any]:
    """The parts of a pipeline folder, which must be of an adapted family."""
    import diffusers

    file = folder / "model_index.json"
    if not file.is_file():
        raise FileNotFoundError(f"{folder} holds no model_index.json: it is no diffusers pipeline")
    index = settings_in(file)
    name = index.get("_class_name")
    if not isinstance(name, str):
        raise ValueError(f"{file} must name a class of diffusers as _class_name, not {name!r}")
    with quiet():  # a class is imported as it is asked for
        kind = getattr(diffusers, name, None)
    check_family(kind if isinstance(kind, type) else name)
    scheduler = index.get("scheduler")
    if isinstance(scheduler, list) and len(scheduler) == 2:
        check_scheduler(getattr(diffusers, str(scheduler[1]), None))
    return index
