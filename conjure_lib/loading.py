"""From a folder or a repository to a process: weights, revisions, device, and what is shipped."""

from __future__ import annotations

import copy
import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from conjure_lib.adapters import Conditioning, adapt, prediction_of, quiet, warn_if_cut
from conjure_lib.machine import limit_threads
from conjure_lib.names import EMBEDDED as EMBEDDED
from conjure_lib.process import GenerativeProcess

HIDDEN = "encoder_hidden_states"  # diffusers' name of what most families are conditioned by
REVISIONS = {  # of repositories on the Hub
    "CompVis/stable-diffusion-v1-4": "133a221b8aa7292a167afc5127cb63fb5005638b",
    "bert-base-uncased": "86b5e0934494bd15c9632b12f734a8a67f723594",
    "microsoft/resnet-50": "34c2154c194f829b11125337b98c8f5f9965ff19",
}


def load(
    model: str | Path = EMBEDDED,
    *,
    device: str | None = None,
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
) -> GenerativeProcess:
    """Load a model: the embedded one, a pipeline folder, or a repository of the Hugging Face Hub.

    Args:
        model: "emoji-diffusion", a folder in diffusers' layout, or for example
            "CompVis/stable-diffusion-v1-4". Only safetensors are read and no remote code runs.
        device: "cpu", "cuda", "mps"; the best one that is there by default.
        dtype: of the U-Net or transformer; text encoders, autoencoder and everything outside the
            networks are float32 and sums are float64.
        revision: a commit of a Hub repository; pinned in ``REVISIONS`` for known ones.

    Raises:
        FileNotFoundError: there is no such model, or its weights are missing.
        ValueError: the weights are damaged, or the device is not there.
    """
    import diffusers

    limit_threads()
    target = pick_device(device)
    if target.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # PyTorch's default rounds float32 convolutions
    folder = shipped(EMBEDDED) if str(model) == EMBEDDED else Path(model)
    options: dict[str, Any] = {"use_safetensors": True}
    if folder.is_dir():
        _check_files(folder)
        options["local_files_only"] = True
        source, name = str(folder), EMBEDDED if str(model) == EMBEDDED else folder.name
    elif str(model) == EMBEDDED:
        raise FileNotFoundError(f"the embedded model is not at {folder}: clone the repository anew")
    else:
        source = name = str(model)
        options["revision"] = revision or REVISIONS.get(source)
    try:
        with quiet(), warnings.catch_warnings():
            # "dtype" is the name of the future; releases of today and yesterday know this one
            warnings.filterwarnings("ignore", "`torch_dtype` is deprecated", FutureWarning)
            kinds = {"unet": dtype, "transformer": dtype, "default": torch.float32}
            pipeline = diffusers.DiffusionPipeline.from_pretrained(
                source, torch_dtype=kinds, **options
            )
            pipeline.to(target)
    except SafetensorError as error:
        raise ValueError(f"weights of {source!r} are damaged, fetch them again: {error}") from error
    except (OSError, ValueError) as error:
        if folder.is_dir():
            raise FileNotFoundError(f"{source!r} is not a whole pipeline: {error}") from error
        raise FileNotFoundError(
            f"cannot load {source!r}: it is no folder with a diffusers pipeline, and the Hugging "
            f"Face Hub did not give it ({str(error).splitlines()[0]}). The embedded model is "
            f"called {EMBEDDED!r}."
        ) from error
    process = from_pipeline(pipeline, name=name)
    process.revision = options.get("revision")
    return process


def from_pipeline(pipeline: Any, name: str | None = None) -> GenerativeProcess:
    """A process over a loaded diffusers text-to-image pipeline of an adapted family.

    Raises:
        ValueError: the pipeline is of another family, or predicts something else.
    """
    adapter, kind = adapt(pipeline), prediction_of(pipeline)
    network, vae = adapter.network, pipeline.vae
    modules = {k: m for k, m in pipeline.components.items() if isinstance(m, torch.nn.Module)}
    for module in modules.values():
        module.requires_grad_(False).eval()
    dtype = next(network.parameters()).dtype
    tokenizer = adapter.readers[0][0]

    def predict(x: Tensor, t: Tensor, condition: Tensor | Conditioning) -> Tensor:
        if isinstance(condition, Tensor):
            condition = Conditioning({HIDDEN: condition})
        parts = {k: v.to(dtype) if v.is_floating_point() else v for k, v in condition.parts.items()}
        return adapter.call(x.to(dtype), t, Conditioning(parts))

    @torch.no_grad()
    def encode(texts: Sequence[str]) -> Tensor | Conditioning:
        warn_if_cut(texts, adapter.readers)
        with quiet():  # diffusers would say once more what is cut
            parts = [adapter.encode(list(texts[i : i + 64])) for i in range(0, len(texts), 64)]
        whole = Conditioning.cat(parts)
        return whole.parts[HIDDEN] if set(whole.parts) == {HIDDEN} else whole

    @torch.no_grad()
    def decode(latents: Tensor) -> np.ndarray:
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        z = latents.to(vae.dtype) / vae.config.scaling_factor + shift
        pictures = torch.cat([vae.decode(part, return_dict=False)[0] for part in z.split(16)])
        return (pictures.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()

    def lengths(texts: Sequence[str]) -> Tensor:
        tokens = tokenizer(list(texts), truncation=True, max_length=tokenizer.model_max_length)
        return torch.tensor([len(ids) for ids in tokens["input_ids"]])

    return GenerativeProcess(
        predict,
        encode,
        copy.deepcopy(pipeline.scheduler),
        adapter.latent_shape,
        decode,
        lengths if "unet" in modules and "text_encoder_2" not in modules else None,
        kind,
        adapter.sigmas,
        name or type(pipeline).__name__,
        torch.device(pipeline.device),
        modules=modules,
    )


def pick_device(device: str | None = None) -> torch.device:
    """``device``, or the best one that is there.

    Raises:
        ValueError: the device is not there.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available()}
    there["mps"] = torch.backends.mps.is_available()
    if device is None:
        return torch.device(next(d for d in ("cuda", "mps", "cpu") if there[d]))
    try:
        target = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device {device!r} is not a torch device; try 'cpu'") from error
    count = torch.cuda.device_count() if target.type == "cuda" else 1
    if not there.get(target.type, False) or (target.index or 0) >= count:
        names = ", ".join(d for d, is_there in there.items() if is_there)
        raise ValueError(f"device {device!r} is not there; this machine has: {names}")
    return target


def shipped(name: str) -> Path:
    """A folder that travels with the library, such as "results": of data/ in a clone, else packed.

    Its name in the installed package is a Python one: "emoji_diffusion" for "emoji-diffusion".
    """
    here = Path(__file__).resolve().parent
    packaged = here / name.replace("-", "_")
    return packaged if packaged.is_dir() else here.parent / "data" / name


def _check_files(folder: Path) -> None:
    """Compare a pipeline folder with its SHA256SUMS, where it has one."""
    if not (folder / "model_index.json").is_file():
        raise FileNotFoundError(f"{folder} holds no model_index.json: it is no diffusers pipeline")
    sums = folder / "SHA256SUMS"
    for line in sums.read_text().splitlines() if sums.is_file() else ():
        expected, name = line.split(maxsplit=1)
        file = folder / name
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing: fetch the model's folder again")
        if hashlib.sha256(file.read_bytes()).hexdigest() != expected:
            raise ValueError(f"{file} is damaged (its SHA-256 differs): fetch it again")
