"""Quantisers of diffusers: whether one can run here, before a weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from conjure_lib.adapters import first_line

EXAMPLE = '{"quant_method": "bitsandbytes", "load_in_8bit": true}'


def fitting(config: Any, dtype: torch.dtype, device_map: Any) -> Any:
    """``config``, a configuration of diffusers or its settings, if it can be used here.

    Raises:
        ValueError: it names no quantiser, whose library is missing, or wants another device.
    """
    from diffusers.quantizers.auto import DiffusersAutoQuantizer

    try:
        known = dict(config) if isinstance(config, Mapping) else config
        quantiser = DiffusersAutoQuantizer.from_config(known)
        quantiser.validate_environment(torch_dtype=dtype, device_map=device_map)
    except Exception as error:  # each has its own
        raise ValueError(
            f"quantization_config cannot be used here: {first_line(error)}. It is of the network "
            f"alone: a configuration of diffusers, or settings such as {EXAMPLE}"
        ) from error
    return known
