"""Diffusers' text-to-image families behind one call: what the network is told, and what it says.

A family differs from another in what conditions its network, in how the network is called, in the
meaning of its output, and in how its scheduler is set. One function a family, one dictionary.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conjure_lib.reading import Reader
from conjure_lib.sde import Prediction

UNUSED = ("safety_checker", "feature_extractor", "image_encoder")  # parts that no process runs


@dataclass(frozen=True)
class Conditioning:
    """What a network is told of n texts: named tensors, each (n, …)."""

    parts: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.parts.values())))

    def __getitem__(self, rows: Any) -> Conditioning:
        """The rows of a slice, a list or a tensor of indexes; repeated ones are repeated."""
        return Conditioning({name: part[rows] for name, part in self.parts.items()})

    @classmethod
    def cat(cls, several: Sequence[Conditioning]) -> Conditioning:
        """All rows of several, in order."""
        names = several[0].parts
        return cls({name: torch.cat([one.parts[name] for one in several]) for name in names})


@dataclass(frozen=True)
class Adapter:
    """A family's ways.

    Attributes:
        network: the U-Net or transformer.
        call: its output of x (n, *latent_shape), t (n,) and a conditioning; shaped like x.
        encode: texts to their conditioning; the empty text is the unconditional one.
        latent_shape: of one latent.
        readers: all tokenizers that a text goes through, and how many tokens each has room for.
        sigmas: steps to the σ that the scheduler is set to, where the pipeline sets them itself.
    """

    network: torch.nn.Module
    call: Callable[[Tensor, Tensor, Conditioning], Tensor]
    encode: Callable[[list[str]], Conditioning]
    latent_shape: tuple[int, ...]
    readers: Sequence[Reader]
    sigmas: Callable[[int], np.ndarray] | None = None


def family_of(kind: type | str) -> Callable[[Any], Adapter]:
    """The adapter of a pipeline's class, or of its name where there is no such class.

    Raises:
        ValueError: the class is not adapted.
    """
    own = kind if isinstance(kind, str) else kind.__name__
    names = {own} if isinstance(kind, str) else {cls.__name__ for cls in kind.__mro__}
    for name, family in FAMILIES.items():
        if name in names:
            return family
    raise ValueError(f"{own} is not adapted; these are: {', '.join(sorted(FAMILIES))}")


def adapt(pipeline: Any) -> Adapter:
    """The adapter of a loaded pipeline, found by its class.

    Raises:
        ValueError: a pipeline of another kind, or whose parts do not fit together.
    """
    family = family_of(type(pipeline))
    optional = (*UNUSED, "tokenizer_3", "text_encoder_3")
    for part in sorted(pipeline.components.keys() - set(optional)):
        if pipeline.components[part] is None:
            raise ValueError(f"this {type(pipeline).__name__} has no {part}")
    network = getattr(pipeline, "unet", None)
    if network is not None and network.config.get("time_cond_proj_dim") is not None:
        raise ValueError("networks with an embedded guidance scale (LCM) are not adapted")
    adapter = family(pipeline)
    _check_fit(pipeline, adapter.latent_shape[0])
    return adapter


def _check_fit(pipeline: Any, channels: int) -> None:
    """Refuse parts of different models, before a tensor's shape does in words of its own."""
    name, latents = type(pipeline).__name__, pipeline.vae.config.latent_channels
    if channels != latents:
        raise ValueError(
            f"the network of this {name} takes {channels} channels, and its latents have {latents}:"
            " networks with further inputs, such as those for inpainting, are not adapted"
        )
    ends = [end for end in ("", "_2", "_3") if getattr(pipeline, f"text_encoder{end}", None)]
    encoders = {end: getattr(pipeline, f"text_encoder{end}") for end in ends}
    for end, encoder in encoders.items():
        size, rows = len(getattr(pipeline, f"tokenizer{end}")), encoder.config.vocab_size
        if size > rows:  # fewer are usual: tables are filled up, T5's from 32,100 to 32,128
            raise ValueError(
                f"tokenizer{end} of this {name} knows {size} tokens and text_encoder{end} {rows}: "
                "they are of different models"
            )
    config = getattr(getattr(pipeline, "unet", None), "config", {})
    takes, gives = (
        config.get("cross_attention_dim"),
        sum(encoder.config.hidden_size for encoder in encoders.values()),
    )
    if isinstance(takes, int) and takes != gives and config.get("encoder_hid_dim_type") is None:
        raise ValueError(
            f"the U-Net of this {name} takes texts of width {takes}, and its text encoders give "
            f"{gives}: they are of different models"
        )


def prediction_of(pipeline: Any) -> Prediction:
    """What the network of ``pipeline`` predicts, as its scheduler's settings say.

    Raises:
        ValueError: something that has no noise prediction, such as "sample", or whose schedule
            is of another kind, such as EDM's.
    """
    config, name = pipeline.scheduler.config, type(pipeline.scheduler).__name__
    if "base_shift" in config or "FlowMatch" in name:
        return "flow"
    kind = config.get("prediction_type", "epsilon")
    if kind not in ("epsilon", "v_prediction"):
        raise ValueError(f"{type(pipeline).__name__} predicts {kind!r}, which is not adapted")
    if not hasattr(pipeline.scheduler, "alphas_cumprod"):
        raise ValueError(f"{name} has no variance-preserving schedule: it is not adapted")
    return kind


def _stable_diffusion(pipeline: Any) -> Adapter:
    """Stable Diffusion 1.x and 2.x: hidden states of one text encoder."""
    unet = pipeline.unet

    def call(x: Tensor, t: Tensor, condition: Conditioning) -> Tensor:
        return unet(x, t, **condition.parts, return_dict=False)[0]

    def encode(texts: list[str]) -> Conditioning:
        hidden = pipeline.encode_prompt(texts, unet.device, 1, False)[0]
        return Conditioning({"encoder_hidden_states": hidden})

    return Adapter(unet, call, encode, _shape(unet), _readers(pipeline))


def _stable_diffusion_xl(pipeline: Any) -> Adapter:
    """Stable Diffusion XL: two text encoders, the pooled vector of the second, and the sizes."""
    unet = pipeline.unet
    shape = _shape(unet)
    pixels = tuple(side * pipeline.vae_scale_factor for side in shape[1:])
    width = pipeline.text_encoder_2.config.projection_dim
    time_ids = pipeline._get_add_time_ids(
        pixels, (0, 0), pixels, dtype=unet.dtype, text_encoder_projection_dim=width
    ).to(unet.device)

    def call(x: Tensor, t: Tensor, condition: Conditioning) -> Tensor:
        parts = dict(condition.parts)
        added = {"text_embeds": parts.pop("text_embeds"), "time_ids": time_ids.expand(len(x), -1)}
        return unet(x, t, **parts, added_cond_kwargs=added, return_dict=False)[0]

    def encode(texts: list[str]) -> Conditioning:
        hidden, _, pooled, _ = pipeline.encode_prompt(
            texts, device=unet.device, do_classifier_free_guidance=False
        )
        if pipeline.config.force_zeros_for_empty_prompt:  # the pipeline's own unconditional input
            kept = torch.tensor([float(text != "") for text in texts]).to(hidden)
            hidden, pooled = hidden * kept[:, None, None], pooled * kept[:, None]
        return Conditioning({"encoder_hidden_states": hidden, "text_embeds": pooled})

    return Adapter(unet, call, encode, shape, _readers(pipeline))


def _stable_diffusion_3(pipeline: Any) -> Adapter:
    """Stable Diffusion 3: two CLIPs and, where loaded, T5; the pooled vectors of the CLIPs."""
    transformer = pipeline.transformer

    def call(x: Tensor, t: Tensor, condition: Conditioning) -> Tensor:
        return transformer(x, timestep=t, **condition.parts, return_dict=False)[0]

    def encode(texts: list[str]) -> Conditioning:
        hidden, _, pooled, _ = pipeline.encode_prompt(
            texts, None, None, device=transformer.device, do_classifier_free_guidance=False
        )
        return Conditioning({"encoder_hidden_states": hidden, "pooled_projections": pooled})

    readers = _readers(pipeline, tokenizer_3=256)
    return Adapter(transformer, call, encode, _shape(transformer), readers)


def _flux(pipeline: Any) -> Adapter:
    """Flux: T5's hidden states, CLIP's pooled vector, packed latents, an embedded guidance scale.

    The embedded scale, 3.5 as in the pipeline, is an input of a distilled network: it is no
    classifier-free guidance, and does not cancel by itself.
    """
    transformer = pipeline.transformer
    side = pipeline.default_sample_size
    shape = (transformer.config.in_channels // 4, side, side)
    embedded = 3.5 if transformer.config.guidance_embeds else None

    def call(x: Tensor, t: Tensor, condition: Conditioning) -> Tensor:
        n, channels, height, width = x.shape
        packed = pipeline._pack_latents(x, n, channels, height, width)
        ids = pipeline._prepare_latent_image_ids(n, height // 2, width // 2, x.device, x.dtype)
        texts = torch.zeros(condition.parts["encoder_hidden_states"].shape[1], 3).to(ids)
        output = transformer(
            hidden_states=packed,
            timestep=t.to(x.dtype) / 1000,
            guidance=None if embedded is None else torch.full((n,), embedded, device=x.device),
            txt_ids=texts,
            img_ids=ids,
            return_dict=False,
            **condition.parts,
        )[0]
        scale = pipeline.vae_scale_factor
        return pipeline._unpack_latents(output, height * scale, width * scale, scale)

    def encode(texts: list[str]) -> Conditioning:
        hidden, pooled, _ = pipeline.encode_prompt(texts, texts, device=transformer.device)
        return Conditioning({"encoder_hidden_states": hidden, "pooled_projections": pooled})

    def sigmas(steps: int) -> np.ndarray:
        return np.linspace(1.0, 1 / steps, steps)

    return Adapter(transformer, call, encode, shape, _readers(pipeline, tokenizer_2=512), sigmas)


def _pixart(pipeline: Any) -> Adapter:
    """PixArt-α and PixArt-Σ: T5's hidden states and their mask; the learned variance is left.

    Captions are read as they stand, as the pipeline does with ``clean_caption=False``.
    """
    transformer = pipeline.transformer
    shape = _shape(transformer)

    def call(x: Tensor, t: Tensor, condition: Conditioning) -> Tensor:
        added: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if transformer.config.sample_size == 128:
            height, width = (side * pipeline.vae_scale_factor for side in x.shape[2:])
            added["resolution"] = torch.tensor([[height, width]]).repeat(len(x), 1).to(x)
            added["aspect_ratio"] = torch.tensor([[height / width]]).repeat(len(x), 1).to(x)
        output = transformer(
            x, timestep=t, added_cond_kwargs=added, return_dict=False, **condition.parts
        )[0]
        return output[:, : x.shape[1]]

    def encode(texts: list[str]) -> Conditioning:
        hidden, mask, _, _ = pipeline.encode_prompt(
            texts, do_classifier_free_guidance=False, device=transformer.device
        )
        return Conditioning({"encoder_hidden_states": hidden, "encoder_attention_mask": mask})

    room = 300 if "Sigma" in type(pipeline).__name__ else 120
    small = [replace(one, prepare=_small) for one in _readers(pipeline, tokenizer=room)]
    return Adapter(transformer, call, encode, shape, small)


FAMILIES: dict[str, Callable[[Any], Adapter]] = {
    "StableDiffusionPipeline": _stable_diffusion,
    "StableDiffusionXLPipeline": _stable_diffusion_xl,
    "StableDiffusion3Pipeline": _stable_diffusion_3,
    "FluxPipeline": _flux,
    "PixArtAlphaPipeline": _pixart,
    "PixArtSigmaPipeline": _pixart,
}


def _readers(pipeline: Any, **room: int) -> list[Reader]:
    """The tokenizers whose encoder is loaded, with the room that the pipeline gives each."""
    found = []
    for number in ("", "_2", "_3"):
        if getattr(pipeline, f"text_encoder{number}", None) is not None:
            name = f"tokenizer{number}"
            tokenizer = getattr(pipeline, name)
            found.append(Reader(name, tokenizer, room.get(name, tokenizer.model_max_length)))
    return found


def _small(text: str) -> str:
    """What PixArt's pipelines make of a caption before they read it."""
    return text.lower().strip()


def _shape(network: Any) -> tuple[int, ...]:
    size = network.config.sample_size
    sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise ValueError(
            f"sample_size in the config.json of {network.config.get('_name_or_path')} must be one "
            f"positive whole number, or two, not {size!r}"
        )
    return (network.config.in_channels, *sides)


_using: dict[str | int, tuple[int, Callable[[], None]]] = {}
_counting = threading.Lock()


@contextmanager
def _while_used(key: str | int, change: Callable[[], Callable[[], None]]) -> Iterator[None]:
    """``change`` a state that threads share, for as long as any of them needs it changed.

    The first to come changes it, and the last to leave calls what ``change`` returned.
    """
    with _counting:
        users, undo = _using[key] if key in _using else (0, change())
        _using[key] = users + 1, undo
    try:
        yield
    finally:
        with _counting:
            users, undo = _using.pop(key)
            if users > 1:
                _using[key] = users - 1, undo
            else:
                undo()


def quiet() -> AbstractContextManager[None]:
    """Neither log lines nor progress bars of diffusers and transformers."""
    return _while_used("quiet", _silence)


def _silence() -> Callable[[], None]:
    import diffusers
    import transformers

    loggings = (diffusers.utils.logging, transformers.utils.logging)
    kept = [(logging.get_verbosity(), logging.is_progress_bar_enabled()) for logging in loggings]
    for logging in loggings:
        logging.set_verbosity(logging.CRITICAL)  # what fails is raised
        logging.disable_progress_bar()

    def undo() -> None:
        for logging, (verbosity, bars) in zip(loggings, kept, strict=True):
            logging.set_verbosity(verbosity)
            if bars:
                logging.enable_progress_bar()

    return undo


@contextmanager
def evaluating(*networks: torch.nn.Module) -> Iterator[None]:
    """Without dropout: networks that are being trained are in eval mode inside, and not after."""

    def change(network: torch.nn.Module) -> Callable[[], None]:
        training = [module for module in network.modules() if module.training]
        for module in training:
            module.training = False

        def undo() -> None:
            for module in training:
                module.training = True

        return undo

    with ExitStack() as stack:
        for network in networks:
            stack.enter_context(_while_used(id(network), partial(change, network)))
        yield
