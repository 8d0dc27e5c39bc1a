"""Whether the parts of a pipeline are of one model: said before a tensor's shape does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from conjure_lib.adapters import encoders
from conjure_lib.capture import UNUSED, network_name
from conjure_lib.machine import check_memory
from conjure_lib.similarity import HELD


def check_parts(pipeline: Any, options: Mapping[str, Any]) -> None:
    """Refuse parts of different models, before a tensor's shape does in words of its own.

    Raises:
        ValueError: a part is not there, or does not fit another.
        MemoryError: a picture of these ``options``, height and width, would not fit in memory.
    """
    name = type(pipeline).__name__
    sides = [options.get(side) or 0 for side in ("height", "width")]
    if all(sides) and pipeline._execution_device.type == "cpu":  # others say so themselves
        config = getattr(pipeline, network_name(pipeline)).config
        latents = math.prod(sides) / getattr(pipeline, "vae_scale_factor", 8) ** 2
        need = 4.0 * HELD * latents * int(config.get("in_channels", 4))
        check_memory(f"a picture of {sides[0]}×{sides[1]} pixels", need)
    texts = ("tokenizer", "text_encoder")
    optional = {p for p in pipeline._optional_components if not p.startswith(texts)}
    optional |= {*UNUSED, "tokenizer_3", "text_encoder_3"}
    for part in sorted(pipeline.components.keys() - optional):
        if pipeline.components[part] is None:
            raise ValueError(f"this {name} has no {part}")
    for end, encoder in encoders(pipeline).items():
        tokenizer: Any = getattr(pipeline, f"tokenizer{end}", None)
        size = len(tokenizer) if hasattr(tokenizer, "__len__") else 0
        rows = getattr(encoder.config, "vocab_size", None)
        if rows and size > rows:  # fewer are usual: tables are filled up, T5's to 32,128
            raise ValueError(
                f"tokenizer{end} of this {name} knows {size} tokens and text_encoder{end} {rows}: "
                "they are of different models"
            )
    if getattr(pipeline, "unet", None) is not None:
        _check_unet(pipeline, pipeline.unet.config)


def _check_unet(pipeline: Any, config: Any) -> None:
    name, channels = type(pipeline).__name__, config.in_channels
    size = config.get("sample_size", 1)
    sides = size if isinstance(size, list | tuple) else (size, size)
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise ValueError(
            f"sample_size in the config.json of {config.get('_name_or_path')} must be one "
            f"positive whole number, or two, not {size!r}"
        )
    latents = getattr(getattr(pipeline, "vae", None), "config", {}).get("latent_channels", channels)
    if channels != latents:
        raise ValueError(
            f"the network of this {name} takes {channels} channels, and its latents have {latents}:"
            " networks with further inputs, such as those for inpainting, are not adapted"
        )
    widths = [getattr(one.config, "hidden_size", 0) for one in encoders(pipeline).values()]
    takes, gives = config.get("cross_attention_dim"), sum(widths)
    if isinstance(takes, int) and takes != gives and config.get("encoder_hid_dim") is None:
        raise ValueError(
            f"the U-Net of this {name} takes texts of width {takes}, and its text encoders give "
            f"{gives}: they are of different models"
        )
