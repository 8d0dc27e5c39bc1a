"""The settings that a number rests on: in the folder, and of sense, before anything is computed.

The libraries fill in what a file does not say, and another schedule or another length of text is
another number without a word.
"""

from __future__ import annotations

import inspect
import math
import re
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
