"""A pipeline from one file of weights, as models are often passed on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from conjure_lib.adapters import encoders
from conjure_lib.capture import UNUSED, network_name
from conjure_tools import weights
from conjure_tools.hub import from_hub

TEXTS = ("cond_stage_model.", "conditioner.", "text_encoders.")  # what encoders are called there


def open_file(
    file: Path,
    config: str | Path | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    text_dtype: torch.dtype | str = torch.float32,
) -> Any:
    """The diffusers pipeline of a single file of weights, see :func:`conjure_lib.load`.

    Raises:
        FileNotFoundError, ValueError: as :func:`conjure_lib.load`.
    """
    import diffusers

    if file.suffix != ".safetensors":
        raise ValueError(f"{file} is no .safetensors file: other weights are not read")
    folder = Path(config) if config is not None else _settings_of(file)
    index = weights.index_of(folder)
    kind = getattr(diffusers, index["_class_name"])
    if not hasattr(kind, "from_single_file"):
        raise ValueError(f"diffusers reads no {kind.__name__} from a single file")
    unused = {part: None for part in UNUSED if part in index}
    with weights.reading(file, kind):
        how: dict[str, Any] = {"torch_dtype": torch.float32, "local_files_only": True}
        pipeline = kind.from_single_file(str(file), config=str(folder), **how, **unused)
        for part in (
            getattr(pipeline, network_name(pipeline)),
            pipeline.vae,
            *encoders(pipeline).values(),
        ):
            if lacking := [name for name, weight in part.named_parameters() if weight.is_meta]:
                raise ValueError(f"it lacks {len(lacking)} weights, such as {lacking[0]}")
    for encoder in encoders(pipeline).values():
        encoder.to(_stored(file) if text_dtype == "auto" else text_dtype)
    getattr(pipeline, network_name(pipeline)).to(dtype)
    return pipeline


def _stored(file: Path) -> torch.dtype:
    """The precision that a file has its text encoders in; float32 where it says nothing of them."""
    with safe_open(file, "pt") as found:
        own = [k for k in found.keys() if k.startswith(TEXTS) and k.endswith(".weight")]  # noqa: SIM118
        dtype: torch.dtype = found.get_tensor(own[0]).dtype if own else torch.float32
    return dtype


def _settings_of(file: Path) -> Path:
    """The folder of settings that diffusers names for such weights, without any weights."""
    import diffusers
    from diffusers.loaders.single_file_utils import (
        fetch_diffusers_config,
        load_single_file_checkpoint,
    )
    from huggingface_hub import snapshot_download

    with weights.reading(file, diffusers.DiffusionPipeline):
        found = fetch_diffusers_config(load_single_file_checkpoint(str(file)))
    name, kinds = found["pretrained_model_name_or_path"], ["*.json", "*.txt", "*.model"]

    def fetch(commit: str | None, local: bool) -> str:
        how: dict[str, Any] = {"revision": commit, "local_files_only": local}
        return str(snapshot_download(name, allow_patterns=kinds, **how))

    try:
        return from_hub(name, None, fetch)
    except (FileNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"{file} holds weights alone, and the settings of {name}, which it is like, cannot be "
            "fetched: name a folder of its family, as config=…"
        ) from error
