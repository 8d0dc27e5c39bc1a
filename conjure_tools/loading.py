"""From a name or a folder to a process: which device, which parts, and what is shipped."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import conjure_lib
from conjure_lib import EMBEDDED
from conjure_lib.capture import UNUSED
from conjure_lib.integrity import first_line, quiet
from conjure_lib.machine import limit_threads
from conjure_lib.pipelines import check_options, from_pipeline
from conjure_lib.process import GenerativeProcess
from conjure_tools import weights
from conjure_tools.hub import REVISIONS, from_hub
from conjure_tools.single_file import open_file
from conjure_tools.weights import index_of

PLAIN = {"dtype": torch.float32}
QUANTISER = '{"quant_method": "bitsandbytes", "load_in_8bit": true}'  # settings, for example
DTYPES = ("float32", "float16", "bfloat16", "float64")


def load(
    model: str | Path | Any = EMBEDDED,
    *,
    device: str | None = None,
    dtype: torch.dtype | str = torch.float32,
    text_dtype: torch.dtype | str = torch.float32,
    revision: str | None = None,
    variant: str | None = None,
    config: str | Path | None = None,
    quantization_config: Any = None,
    device_map: Any = None,
    long_prompts: bool = False,
    **options: Any,
) -> GenerativeProcess:
    """Load a model: the embedded one, a pipeline, its folder or file, or a repository of the Hub.

    Args:
        model: "emoji-diffusion", a folder in diffusers' layout, or for example
            "CompVis/stable-diffusion-v1-4". Only safetensors are read and no remote code runs. A
            pipeline of diffusers is taken as it is, where and in what precision it is: compiled,
            quantised, offloaded or with LoRA.
        device: "cpu", "cuda", "mps"; the best one that is there by default.
        dtype: of the U-Net or transformer, one of ``DTYPES``; the autoencoder and everything
            outside the networks are float32 and sums are float64.
        text_dtype: of the text encoders, one of ``DTYPES``, or "auto" for that of their files.
        revision: a commit of a Hub repository; pinned for known ones.
        variant: of the weights' files, such as "fp16", where there are several.
        config: of a single file of weights, the folder of a pipeline of its family, of which the
            settings and tokenizers are taken; fetched from the Hub where it is not given.
        quantization_config: of the U-Net or transformer, one of diffusers, or its settings.
        device_map: of the networks, as accelerate has it, such as "auto", in place of a device.
        long_prompts: as :func:`from_pipeline` has it.
        options: of the pipeline's own call, such as ``height`` and ``width``, likewise.

    Raises:
        FileNotFoundError: there is no such model, or something of it is missing.
        ValueError: a part is damaged or incomplete, or does not fit the others; the model is of a
            family that is not adapted; the device is not there, or the dtype is none.
        TypeError: the model is neither a name nor a folder nor a pipeline; an unknown option.

    >>> import conjure_lib as cj
    >>> process = cj.load()
    >>> process.name
    'emoji-diffusion'
    """
    given = (device, variant, revision, config, quantization_config, device_map)
    if hasattr(model, "components") and hasattr(model, "scheduler"):
        asked = {str(one).removeprefix("torch.") for one in (dtype, text_dtype)}
        if any(one is not None for one in given) or asked != {"float32"}:
            raise ValueError(
                "device, dtype, revision, variant and the like are of models that are loaded by "
                "name: set them on the pipeline itself"
            )
        return from_pipeline(model, long_prompts=long_prompts, **options)
    if not isinstance(model, str | os.PathLike):
        raise TypeError(
            f"model must be a name, a folder or a pipeline of diffusers, not {type(model).__name__}"
        )
    if not str(model).strip():
        raise ValueError(f"model is empty: name one, such as {EMBEDDED!r}, or a folder")
    limit_threads()
    if device is not None and device_map is not None:
        raise ValueError("device and device_map both say where the networks go: give one of them")
    target = pick_device(device)
    how: dict[str, Any] = {"dtype": pick_dtype(dtype)}
    how["text_dtype"] = "auto" if text_dtype == "auto" else pick_dtype(text_dtype)
    of_folder = {"variant": variant, "device_map": device_map}
    if quantization_config is not None:
        of_folder["quantization_config"] = quantiser(quantization_config, how["dtype"], device_map)
    if target.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # PyTorch's default rounds float32 convolutions
    name = str(model)
    folder = shipped(EMBEDDED) if name == EMBEDDED else Path(name)
    local, commit = folder.exists(), None
    if local and revision is not None:
        raise ValueError(
            f"revision is of repositories on the Hub, and {folder} is a folder: leave out "
            f"revision={revision!r}"
        )
    if folder.is_file():
        if refused := [k for k, v in of_folder.items() if v is not None]:
            raise ValueError(f"a single file has no {', '.join(refused)}: leave that out")
        pipeline = open_file(folder, config, **how)
        check_options(type(pipeline), options)
    else:
        if config is not None:
            raise ValueError(f"config is of a single file of weights, and {name} is none")
        if not local:
            folder, commit = pipeline_folder(name, revision, variant, options)
        import diffusers

        check_options(getattr(diffusers, index_of(folder)["_class_name"]), options)
        with quiet():
            pipeline = open_pipeline(folder, **how, **of_folder)
    with quiet():
        pipeline = pipeline.to(target) if device_map is None else pipeline
    shown = folder.name if local and name != EMBEDDED else name
    process = from_pipeline(pipeline, shown, long_prompts=long_prompts, **options)
    for network in process.modules.values():
        network.requires_grad_(False)
    process.revision = commit
    return process


def open_pipeline(
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    text_dtype: torch.dtype | str = torch.float32,
    variant: str | None = None,
    quantization_config: Any = None,
    device_map: Any = None,
) -> Any:
    """The diffusers pipeline of a folder, every part of it complete, on the CPU.

    Args:
        dtype: of the U-Net or transformer; what else there is, is float32.
        text_dtype: of the text encoders; "auto" is that of their files.
        variant: of the weights' files, such as "fp16", where there are several.
        quantization_config: of the U-Net or transformer.
        device_map: where the networks go, in place of the CPU.

    Raises:
        FileNotFoundError, ValueError: as :func:`load`.
    """
    import diffusers

    index = index_of(folder)
    weights.check_sums(folder)
    weights.check_variant(folder, variant)
    known = (folder / weights.LOADED).is_file()  # a hash of the weights in float32
    how = {"variant": variant} | ({} if device_map is None else {"device_map": device_map})
    quantized = {} if quantization_config is None else {"quantization_config": quantization_config}
    asked: dict[str, Any] = {p: {"dtype": dtype, **quantized} for p in ("unet", "transformer")}
    asked |= {p: {"dtype": text_dtype} for p in index if p.startswith("text_encoder")}
    parts: dict[str, Any] = {}
    for part, entry in ((p, e) for p, e in index.items() if isinstance(e, list)):
        unused = part in UNUSED or entry == [None, None]
        options = how | PLAIN | ({} if known else asked.get(part, {}))
        parts[part] = None if unused else _part(folder, part, entry, options)
    weights.check_tokenizers(folder, parts)
    if known:
        weights.check_loaded(folder, parts)
        for part in [p for p in asked.keys() & parts.keys() if asked[p] != PLAIN]:
            parts[part] = _part(folder, part, index[part], how | asked[part])
    with weights.reading(folder, getattr(diffusers, index["_class_name"])) as kind:
        return kind.from_pretrained(str(folder), local_files_only=True, **parts)


def _part(folder: Path, part: str, entry: list[Any], options: Mapping[str, Any]) -> Any:
    """One part of a pipeline, of the library and class that its index names.

    ``options`` are those of :func:`weights.pretrained`, where the part has weights.
    """
    import diffusers
    import transformers

    library, name = entry if len(entry) == 2 else (None, entry)
    module = {"diffusers": diffusers, "transformers": transformers}.get(str(library))
    kind = getattr(module, str(name), None)
    base: type = torch.nn.Module
    if part == "scheduler":
        base = diffusers.SchedulerMixin
    elif "tokenizer" in part:
        base = transformers.PreTrainedTokenizerBase
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise ValueError(
            f"{folder / 'model_index.json'}: {part} is to be {name!r} of {library!r}, which is no "
            f"{base.__name__} in {weights.releases()}"
        )
    if not (folder / part).is_dir():
        raise FileNotFoundError(f"{folder / part} is missing: fetch the model's folder again")
    if part == "scheduler":
        return weights.scheduler(kind, folder / part)
    if base is not torch.nn.Module:
        return weights.reader(kind, folder / part)
    return weights.pretrained(kind, folder / part, **options)


def pick_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """A dtype that networks compute in, of itself or of its name.

    Raises:
        ValueError: it is none of ``DTYPES``.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES or not isinstance(dtype, str | torch.dtype):
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
    found: torch.dtype = getattr(torch, name)
    return found


def pick_device(device: str | None = None) -> torch.device:
    """``device``, or the best one that is there.

    Raises:
        ValueError: the device is not there.
    """
    there = {"cpu": 1}
    best = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if best is not None:
        there[best.type] = torch.accelerator.device_count()
    if device is None:
        return best or torch.device("cpu")
    try:
        target = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device {device!r} is not a torch device; try 'cpu'") from error
    if (target.index or 0) >= there.get(target.type, 0):
        raise ValueError(f"device {device!r} is not there; this machine has: {', '.join(there)}")
    return target


def shipped(name: str) -> Path:
    """A folder that travels with the library, such as "results": of data/ in a clone, else packed.

    Its name in the installed package is a Python one: "emoji_diffusion" for "emoji-diffusion".
    """
    here = Path(conjure_lib.__file__).resolve().parent
    packaged = here / name.replace("-", "_")
    return packaged if packaged.is_dir() else here.parent / "data" / name


def pipeline_folder(
    name: str, revision: str | None, variant: str | None, call: Mapping[str, Any]
) -> tuple[Path, str | None]:
    """The folder of a pipeline, and its commit; its family is looked at before the weights come.

    Args:
        call: options of the pipeline's own call, which it must have.

    Raises:
        FileNotFoundError, ValueError, TypeError: as :func:`conjure_lib.load`.
    """
    if name == EMBEDDED:
        folder = shipped(EMBEDDED)
        raise FileNotFoundError(f"the embedded model is not at {folder}: clone the repository anew")

    def fetch(commit: str | None, local: bool) -> str:
        import diffusers
        from huggingface_hub import hf_hub_download

        options: dict[str, Any] = {"revision": commit, "local_files_only": local}
        index = index_of(Path(hf_hub_download(name, "model_index.json", **options)).parent)
        check_options(getattr(diffusers, index["_class_name"]), call)
        options |= {part: None for part in UNUSED if part in index}  # which need not come
        download = diffusers.DiffusionPipeline.download
        return str(download(name, use_safetensors=True, variant=variant, **options))

    with quiet():
        folder = from_hub(name, revision, fetch)
    return folder, REVISIONS.get(name) if revision is None else revision


def quantiser(config: Any, dtype: torch.dtype, device_map: Any) -> Any:
    """``config``, a configuration of diffusers or its settings, if it can be used here.

    Raises:
        ValueError: it names no quantiser, whose library is missing, or wants another device.
    """
    from diffusers.quantizers.auto import DiffusersAutoQuantizer

    try:
        known = dict(config) if isinstance(config, Mapping) else config
        found = DiffusersAutoQuantizer.from_config(known)
        found.validate_environment(torch_dtype=dtype, device_map=device_map)
    except Exception as error:  # each has its own
        raise ValueError(
            f"quantization_config cannot be used here: {first_line(error)}. It is of the network "
            f"alone: a configuration of diffusers, or settings such as {QUANTISER}"
        ) from error
    return known
