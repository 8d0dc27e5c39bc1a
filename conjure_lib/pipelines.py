"""A pipeline of diffusers as a process: whether it is adapted, which options it takes."""

from __future__ import annotations

import copy
import inspect
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conjure_lib.adapters import HIDDEN, OWN_GUIDANCE, Adapter, apart, encoders
from conjure_lib.capture import OFF, UNUSED, Conditioning, network_name
from conjure_lib.inputs import as_numbers, whole
from conjure_lib.integrity import evaluating, quiet
from conjure_lib.machine import check_memory
from conjure_lib.process import GenerativeProcess
from conjure_lib.reading import TEXTS, Reader, UnreadWarning, quoted, warn_unread
from conjure_lib.sde import Prediction
from conjure_lib.similarity import HELD

GIVEN = ("self", "prompt", "num_inference_steps", "latents", "generator", "output_type")  # by us
CLOCKS = ("sigmas", "timesteps", "denoising_start", "denoising_end")  # the sampler has its own
IDLE = ("eta", "return_dict", "num_images_per_prompt", "guidance_rescale")  # have no part in it
BESIDE = (  # what a class is told besides a text, where it makes no pictures from texts alone
    *("controlnet", "control_image", "adapter", "mask_image", "strength", "image_guidance_scale"),
    *("noise_level", "audio_end_in_s", "audio_length_in_s"),
)
CLIP = 77  # tokens that its encoders have room for
ENDLESS = 1 << 30  # tokens that are read where nothing is cut
POOLED = ("added_cond_kwargs.text_embeds", "added_cond_kwargs.time_ids")  # one for all of a text


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
    >>> from conjure_tools.loading import open_pipeline, shipped
    >>> pipeline = open_pipeline(shipped("emoji-diffusion"))  # any pipeline of diffusers
    >>> cj.from_pipeline(pipeline, "mine").name
    'mine'
    """
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
        source=(from_pipeline, pipeline, {**options, "long_prompts": long_prompts}),
    )


# -- what fits ----------------------------------------------------------------------------------


def check_family(kind: type | str) -> None:
    """Refuse a pipeline's class that cannot be asked, before anything of it is fetched.

    Raises:
        ValueError: says why, and what to do instead.
    """
    name = kind if isinstance(kind, str) else kind.__name__
    known = hasattr(kind, "from_pretrained") and hasattr(kind, "enable_model_cpu_offload")
    reason = _against(kind) if known else "diffusers has no such pipeline"
    if reason:
        raise ValueError(
            f"{name} is not adapted: {reason}. A GenerativeProcess can also be made by hand, of "
            "functions that predict and encode"
        )


def _against(kind: Any) -> str:
    """Why a class is not adapted; empty where it may be."""
    takes = inspect.signature(kind.__call__).parameters
    parts = inspect.signature(kind.__init__).parameters
    free = ("self", "prompt", "args", "kwargs")
    needed = [k for k, p in takes.items() if p.default is p.empty and k not in free]
    ends = ("prior", "transformer", "unet", "decoder")
    networks = [p for p in parts if p.endswith(ends)]
    if "num_frames" in takes:
        return "it makes films"
    if "prompt" not in takes or "num_inference_steps" not in takes:
        return "it makes no pictures from a text"
    needed += [p for p in (*parts, *takes) if p in BESIDE]
    if needed:
        beside = ", ".join(dict.fromkeys(needed))
        return f"it needs {beside} beside a text; load the model's pipeline for texts"
    if not {"vae", "movq", "vqgan"} & set(parts):
        return "it draws pixels and no latents"
    if len(networks) != 1 or networks[0] not in ("unet", "transformer") or "scheduler" not in parts:
        return f"of {', '.join(networks) or 'no network'} no single one follows a scheduler"
    return ""


def prediction_of(pipeline: Any) -> Prediction:
    """What the network of ``pipeline`` predicts, as its scheduler's settings say.

    Raises:
        ValueError: something that has no noise prediction, such as "sample", or whose schedule
            is of another kind, such as EDM's.
    """
    config, name = pipeline.scheduler.config, type(pipeline.scheduler).__name__
    kind = config.get("prediction_type", "epsilon")
    if is_flow(name, config):
        return "flow"
    if kind not in ("epsilon", "v_prediction"):
        raise ValueError(f"{type(pipeline).__name__} predicts {kind!r}, which is not adapted")
    check_scheduler(type(pipeline.scheduler))
    return kind


def is_flow(name: str, config: Mapping[str, Any]) -> bool:
    """Whether a scheduler's class and settings are those of a flow."""
    told = "base_shift" in config or config.get("prediction_type") == "flow_prediction"
    return told or "FlowMatch" in name


def check_scheduler(kind: Any) -> None:
    """Raises ValueError: the schedule of a scheduler's class is of another kind, such as EDM's."""
    known = isinstance(kind, type) and hasattr(kind, "set_timesteps")
    if known and "FlowMatch" not in kind.__name__ and not hasattr(kind(), "alphas_cumprod"):
        raise ValueError(f"{kind.__name__} has no variance-preserving schedule: it is not adapted")


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


# -- what is read of a text ---------------------------------------------------------------------


def readers_of(adapter: Adapter) -> list[Reader]:
    """The tokenizers whose encoder is loaded, with the room that the pipeline gives each."""
    pipeline, found = adapter.pipeline, []
    most = inspect.signature(type(pipeline).__call__).parameters.get("max_sequence_length")
    limit = adapter.options.get("max_sequence_length") or getattr(most, "default", None)
    small = getattr(pipeline, "_text_preprocessing", None)
    for end in encoders(pipeline):
        name = f"tokenizer{end}"
        own = getattr(pipeline, name, None) or getattr(pipeline, "processor", None)
        tokenizer = getattr(own, "tokenizer", own)  # a processor of texts and pictures has one
        if tokenizer is None:
            continue
        room = tokenizer.model_max_length
        room = room if room <= CLIP or limit is None else limit
        prepare = partial(_prepared, small) if small else str
        found.append(Reader(name, tokenizer, room, prepare))
    return found


def _prepared(small: Any, text: str) -> str:
    """What some pipelines make of a caption before they read it."""
    return str(small(text, clean_caption=False)[0])


def warn_cut(adapter: Adapter, readers: Sequence[Reader], texts: Sequence[str]) -> None:
    """Warn of long texts whose last word changes nothing of what the network is told.

    A pipeline that puts a text into a frame, or has a limit of its own, reads less of it than its
    tokenizers have room for. So a text that fills a quarter of such a room is told once more
    without its last word; the room of CLIP, which is known, is left out.
    """
    rooms = [(reader.room, reader(texts)) for reader in readers if reader.length > CLIP]
    for i, text in enumerate(texts):
        shorter = text.rstrip().rpartition(" ")[0]
        if not shorter or not any(room < 4 * len(rows[i]) <= 4 * room for room, rows in rooms):
            continue
        whole, less = (adapter.told([one]).rows[0] for one in (text, shorter))
        if whole.form is less.form and apart(whole, less) == 0:
            warnings.warn(
                f"the network is told nothing of the end of {quoted(text)}: the pipeline cuts it",
                UnreadWarning,
                stacklevel=4,
            )


def in_pieces(
    adapter: Adapter, readers: Sequence[Reader], wanted: object = True
) -> tuple[list[Reader], Any]:
    """Readers to which no text is too long, and in place of ``encode`` what reads texts in pieces.

    The hidden states of the pieces are strung together; the rest is that of the first piece.

    Raises:
        TypeError: it is not True that this is ``wanted``, but "no", say, or 1.
        ValueError: the network is told more than hidden states and what one piece can give.
    """
    if wanted is not True:
        raise TypeError(f"long_prompts must be True or False, not {wanted!r}")
    shapes, name = adapter.plain.shapes, type(adapter.pipeline).__name__
    if set(shapes) - {HIDDEN, *POOLED} or HIDDEN not in shapes:
        more = ", ".join(sorted(shapes))
        raise ValueError(f"{name} reads no long prompts: its network is told {more}")
    window = min(readers, key=lambda reader: reader.room)

    def told(texts: Sequence[str]) -> Conditioning:
        return Conditioning.cat([_strung(adapter, pieces(window, text)) for text in texts])

    return [replace(reader, length=ENDLESS) for reader in readers], told


def _strung(adapter: Adapter, several: Sequence[str]) -> Conditioning:
    """Pieces of one text as one row."""
    found = [adapter.encode([one]) for one in several]
    first = found[0].rows[0]
    if len(found) == 1:
        return found[0]
    hidden = torch.cat([one.rows[0].parts[HIDDEN] for one in found], dim=1)
    return adapter.formed(first.form.tree, first.form.shared, [{**first.parts, HIDDEN: hidden}])


def pieces(reader: Reader, text: str) -> list[str]:
    """``text`` in pieces that there is room for, cut between words where that can be."""
    (row,), found, first = reader([text]), [], 0
    while len(row) - first > reader.room:
        last = first + reader.room
        words = [i for i in range(first + 1, last + 1) if row[i][1] > row[i - 1][2]]
        last = words[-1] if words else last
        found.append(text[row[first][1] : row[last - 1][2]])
        first = last
    return [*found, text[row[first][1] :] if found else text]
