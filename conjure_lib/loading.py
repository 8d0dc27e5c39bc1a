"""From a name or a folder to a process: which device, which parts, and what is shipped."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conjure_lib import EMBEDDED, weights
from conjure_lib.adapters import (
    HIDDEN,
    OWN_GUIDANCE,
    Adapter,
    check_family,
    check_scheduler,
    evaluating,
    prediction_of,
    quiet,
    readers_of,
)
from conjure_lib.capture import OFF, UNUSED, Conditioning
from conjure_lib.inputs import as_numbers, whole
from conjure_lib.machine import limit_threads
from conjure_lib.process import GenerativeProcess
from conjure_lib.reading import TEXTS, warn_unread

GIVEN = ("self", "prompt", "num_inference_steps", "latents", "generator", "output_type")  # by us
CLOCKS = ("sigmas", "timesteps", "denoising_start", "denoising_end")  # the sampler has its own
IDLE = ("eta", "return_dict", "num_images_per_prompt", "guidance_rescale")  # have no part in it
PLAIN = {"dtype": torch.float32}
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
        from conjure_tools.quantisers import fitting

        of_folder["quantization_config"] = fitting(quantization_config, how["dtype"], device_map)
    if target.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # PyTorch's default rounds float32 convolutions
    name = str(model)
    folder = shipped(EMBEDDED) if name == EMBEDDED else Path(name)
    local, commit = folder.exists(), None
    if local and revision is not None:
        from conjure_tools.hub import no_revision

        no_revision(folder, revision)
    if folder.is_file():
        if refused := [k for k, v in of_folder.items() if v is not None]:
            raise ValueError(f"a single file has no {', '.join(refused)}: leave that out")
        from conjure_tools.single_file import open_file

        pipeline = open_file(folder, config, **how)
        check_options(type(pipeline), options)
    else:
        if config is not None:
            raise ValueError(f"config is of a single file of weights, and {name} is none")
        if not local:
            from conjure_tools.hub import pipeline_folder

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


def index_of(folder: Path) -> dict[str, Any]:
    """The parts of a pipeline folder, which must be of an adapted family."""
    import diffusers

    file = folder / "model_index.json"
    if not file.is_file():
        raise FileNotFoundError(f"{folder} holds no model_index.json: it is no diffusers pipeline")
    index = weights.settings_in(file)
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


def from_pipeline(
    pipeline: Any, name: str | None = None, *, long_prompts: bool = False, **options: Any
) -> GenerativeProcess:
    """A process over a loaded diffusers text-to-image pipeline.

    The pipeline stays as it is: its networks are in eval mode only while the process runs them.
    How its network is called is learned from its own call, see :mod:`conjure_lib.capture`.

    Args:
        long_prompts: read texts beyond the encoder's window in pieces, whose hidden states are
            strung together; otherwise they are cut, with a warning. For U-Nets that are told hidden
            states and, of the first piece, a pooled one: Stable Diffusion and SDXL.
        options: of the pipeline's own call, such as ``height``, ``width``, ``negative_prompt``,
            ``max_sequence_length`` or the ``guidance_scale`` that a distilled network is told.

    Raises:
        ValueError: the pipeline's call is of another kind, its network predicts something else, or
            its parts do not fit together.
        TypeError: the pipeline's call has no such option.

    >>> import conjure_lib as cj
    >>> from conjure_lib.loading import open_pipeline, shipped
    >>> pipeline = open_pipeline(shipped("emoji-diffusion"))  # any pipeline of diffusers
    >>> cj.from_pipeline(pipeline, "mine").name
    'mine'
    """
    from conjure_tools.parts import check_parts
    from conjure_tools.unread import warn_cut

    check_family(type(pipeline))
    check_options(type(pipeline), options)
    check_parts(pipeline, options)
    pipeline = copy.copy(pipeline)  # with the parts that it has now, whatever is put in their place
    kind = prediction_of(pipeline)
    modules = {  # compiled or not
        k: getattr(m, "_orig_mod", m)
        for k, m in pipeline.components.items()
        if isinstance(m, torch.nn.Module) and k not in UNUSED
    }

    @contextmanager
    def alone() -> Iterator[None]:
        """One at a time: tokenizers hold a state, and so may the networks that encode."""
        with TEXTS, quiet(), evaluating(*modules.values()):
            yield

    with torch.no_grad(), alone():
        adapter = Adapter(pipeline, options)
    readers, told = readers_of(adapter), adapter.encode
    if long_prompts:
        from conjure_tools.long_prompts import in_pieces

        readers, told = in_pieces(adapter, readers, long_prompts)

    def predict(x: Tensor, t: Tensor, condition: Tensor | Conditioning) -> Tensor:
        with evaluating(adapter.network):
            return adapter(x, t, condition)

    def encode(texts: Sequence[str]) -> Tensor | Conditioning:
        warn_unread(readers, texts)
        with alone():  # quietly, as diffusers would say once more what is cut
            warn_cut(adapter, readers, texts)
            whole = told(texts)
        plain = {row.form for row in whole.rows} == {adapter.plain}
        plain = plain and adapter.plain.shapes.keys() == {HIDDEN}
        return torch.cat([row.parts[HIDDEN] for row in whole.rows]) if plain else whole

    def decode(latents: Tensor) -> np.ndarray:
        with alone():
            parts = [adapter.decode(part) for part in latents.split(16)]
        return as_numbers("a picture", np.concatenate(parts))

    def prepare(scheduler: Any, steps: int) -> Any:
        with alone():
            return adapter.set(scheduler, steps)

    return GenerativeProcess(
        predict,
        encode,
        copy.deepcopy(pipeline.scheduler),
        adapter.latent_shape,
        decode,
        kind=kind,
        prepare=prepare,
        name=name or type(pipeline).__name__,
        device=torch.device(pipeline._execution_device),
        modules=modules,
        readers=readers,
        source=(pipeline, {**options, "long_prompts": long_prompts}),
    )


def remade(pipeline: Any, options: Mapping[str, Any], kept: Mapping[str, Any]) -> GenerativeProcess:
    """A process over a pipeline that was copied or unpickled, with what was ``kept`` of it."""
    return dataclasses.replace(from_pipeline(pipeline, **options), **kept)


def check_options(kind: type, options: Mapping[str, Any]) -> None:
    """Refuse what the call of a pipeline of this class lacks, or what would change nothing.

    Raises:
        TypeError: there is no such option, or it is of what is done here in the pipeline's place.
        ValueError: height without width, or guidance of the pipeline's own.
    """
    takes = inspect.signature(kind.__call__).parameters
    given, ours = {k: v for k, v in options.items() if v is not None}, {*GIVEN, *CLOCKS, *IDLE}
    if unknown := sorted(k for k in given if k not in takes.keys() - ours or "callback" in k):
        raise TypeError(f"{kind.__name__} has no option {', '.join(unknown)} that could be set")
    if len(one := given.keys() & {"height", "width"}) == 1:
        raise ValueError(f"{min(one)} alone is what pipelines pass over: give height and width")
    for side in sorted(given.keys() & {"height", "width"}):
        whole(side, given[side])
    for name in given.keys() - {"guidance_scale"}:
        off = (OFF[name],) if name in OFF else (takes[name].default, False)
        if re.search("guidance|cfg|pag_|skip_layer", name) and given[name] not in off:
            raise ValueError(OWN_GUIDANCE.format(f"{name}={given[name]!r}"))


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
    here = Path(__file__).resolve().parent
    packaged = here / name.replace("-", "_")
    return packaged if packaged.is_dir() else here.parent / "data" / name
