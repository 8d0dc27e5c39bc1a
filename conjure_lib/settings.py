"""The settings that a number rests on: in the folder, and of sense, before anything is computed.

The libraries fill in what a file does not say, and another schedule or another length of text is
another number without a word.
"""

from __future__ import annotations

import inspect
import math
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from conjure_lib import weights
from conjure_lib.sde import Schedule

BETAS = ("beta_start", "beta_end", "beta_schedule")
SHIFTS = ("base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len")
NEEDED = ("num_train_timesteps", *BETAS, "prediction_type", "shift", *SHIFTS)
SPACINGS = ("linspace", "leading", "trailing")


def scheduler(kind: Any, folder: Path) -> Any:
    """The scheduler of class ``kind`` in ``folder``, whose file says all that its schedule is.

    Raises:
        ValueError: a setting is missing, is no number, or they give no schedule.
    """
    file = folder / "scheduler_config.json"
    with weights.reading(folder, kind):
        given = weights.settings(file)
        _check_given(kind, given, file)
    found = weights.reader(kind, folder)
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
    spacing = given.get("timestep_spacing", SPACINGS[0])
    if spacing not in SPACINGS:
        raise ValueError(f"{file}: timestep_spacing must be of {SPACINGS}, not {spacing!r}")


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
