"""What a pipeline tells its network, learned by listening to the pipeline's own call.

A pipeline knows how a prompt, x and t become the arguments of its network, and how the network's
output becomes what its scheduler takes. It is called on a stage, a copy of it whose network and
scheduler are listened to. Some steps with an x that is known number by number show which argument
holds x, and in which order, and which one t; all others are the prompt's. From then on the network
is called without the pipeline.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

UNUSED = ("safety_checker", "feature_extractor", "image_encoder", "watermark", "watermarker")
BASE = 128  # of the digits that places are told by: exact in bfloat16
PROBES = 6  # steps of a rehearsal: one as it comes, one of ones, four digits
OFF = {  # what the method does itself, or what would make more of a prompt than is written
    "true_cfg_scale": 1.0,
    "pag_scale": 0.0,
    "clean_caption": False,
    "use_resolution_binning": False,
    "use_kv_cache": False,
    "use_pe": False,
    "prompt_upsampling": False,
    "enable_prompt_rewrite": False,
}
Tree = Any  # nested tuples, lists and dicts of tensors and plain values


@dataclass(frozen=True, eq=False)
class Form:
    """All that a network is told besides what each row brings.

    Attributes:
        tree: the arguments, with a Slot for every tensor.
        shared: the tensors that all rows share, by name.
        shapes: of one row, of every other slot.
    """

    tree: Tree
    shared: Mapping[str, Tensor]
    shapes: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Row:
    """What a network is told of one text: named tensors, each (1, …), and what goes with them."""

    form: Form
    parts: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Conditioning:
    """What a network is told of n texts, which may be of several lengths."""

    rows: Sequence[Row]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Any) -> Conditioning:
        """The rows of a slice, a list or a tensor of indexes; repeated ones are repeated."""
        return Conditioning([self.rows[i] for i in torch.arange(len(self))[rows].tolist()])

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for row in self.rows for part in row.parts.values())

    @classmethod
    def cat(cls, several: Sequence[Conditioning]) -> Conditioning:
        """All rows of several, in order."""
        return cls([row for one in several for row in one.rows])

    def alike(self) -> list[tuple[Form, list[int], dict[str, Tensor]]]:
        """The rows of each form: (form, which they are, their parts (n, …) together)."""
        found: dict[Form, list[int]] = {}
        for i, row in enumerate(self.rows):
            found.setdefault(row.form, []).append(i)
        told = []
        for form, which in found.items():
            parts = {k: torch.cat([self.rows[i].parts[k] for i in which]) for k in form.shapes}
            told.append((form, which, parts))
        return told


# -- the stage ----------------------------------------------------------------------------------


class HeardError(Exception):
    """What was asked for has been heard."""


class _Step(tuple[Tensor, ...]):
    """What a scheduler's step gives, as a tuple and by name."""

    prev_sample = property(lambda self: self[0])


class _Ear:
    """Stands in for a network: asked for anything else, it answers as the network would."""

    def __init__(self, network: Any, hear: Callable[..., Any]) -> None:
        self.__dict__.update(_network=network, _hear=hear)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_network"], name)

    def __call__(self, *given: Any, **named: Any) -> Any:
        tree: dict[int | str, Any] = dict(enumerate(given))
        return self._hear(tree | named)


def rehearse(
    pipeline: Any,
    texts: Sequence[str],
    hear: Callable[[Tree], Any],
    step: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
    *,
    steps: int,
    scheduler: Any = None,
    **options: Any,
) -> tuple[Any, Any]:
    """The pipeline's own call, and what comes of it; the pipeline itself stays as it is.

    Args:
        hear: what answers in the network's place, given its arguments.
        step: what answers in the scheduler's place, given the output, t and x: the next x.

    Returns:
        The pictures, None where the call was cut short, and the scheduler that was set.
    """
    stage, scheduler = copy.copy(pipeline), copy.deepcopy(scheduler or pipeline.scheduler)
    name = network_name(pipeline)
    if "skip_prk_steps" in scheduler.config:  # in which the network is asked several times
        scheduler.register_to_config(skip_prk_steps=True)
    own = scheduler.step

    @wraps(own)
    def stepped(model_output: Any, timestep: Any, sample: Any, *_: Any, **__: Any) -> Any:
        x = step(model_output, timestep, sample) if step else sample
        return _Step((x, x))

    vars(scheduler).update(step=stepped)
    if hasattr(scheduler, "scale_model_input"):
        vars(scheduler).update(scale_model_input=lambda sample, *_, **__: sample)
    silent = dict.fromkeys(part for part in UNUSED if hasattr(pipeline, part))
    vars(stage).update(silent, scheduler=scheduler, maybe_free_model_hooks=lambda: None)
    vars(stage)["_progress_bar_config"] = {"disable": True}
    vars(stage)[name] = _Ear(getattr(pipeline, name), hear)
    known = inspect.signature(type(pipeline).__call__).parameters
    told = {key: value for key, value in (OFF | options).items() if key in known}
    told |= {"num_inference_steps": steps, "generator": torch.Generator().manual_seed(0)}
    pictures = None
    with suppress(HeardError), torch.no_grad():
        pictures = stage(prompt=list(texts), **{k: v for k, v in told.items() if k in known})[0]
    for override in ("step", "scale_model_input"):
        vars(scheduler).pop(override, None)
    return pictures, scheduler


def network_name(pipeline: Any) -> str:
    """What a pipeline calls the network that it asks at every step."""
    return next(n for n in ("unet", "transformer") if getattr(pipeline, n, None) is not None)


# -- arguments as rows --------------------------------------------------------------------------


@dataclass(frozen=True)
class Slot:
    """A tensor among the arguments.

    Its rows, ``block`` of them for each x, are along ``dim``; with None it is all of one row in a
    list, and where it is ``shared`` it is the same for all. One that is ``moving`` holds x or t.
    """

    name: str
    dim: int | None = None
    block: int = 1
    shared: bool = False
    moving: bool = False


@dataclass(frozen=True)
class Each:
    """A list with one entry for each x, all of one form."""

    entry: Tree


def template(one: Tree, two: Tree, name: str = "") -> Tree:
    """The form of arguments, from those of a call for one row and of one for the same row twice."""
    if isinstance(one, Mapping):
        return {key: template(one[key], two[key], f"{name}.{key}".strip(".")) for key in one}
    if isinstance(one, list) and len(one) == 1 and len(two) == 2:
        return Each(template(one[0], two[0], f"{name}.each"))
    if isinstance(one, list | tuple):
        pairs = enumerate(zip(one, two, strict=True))
        return type(one)(template(a, b, f"{name}.{i}") for i, (a, b) in pairs)
    if not isinstance(one, Tensor):
        return one
    doubled = [i for i, (a, b) in enumerate(zip(one.shape, two.shape, strict=True)) if a != b]
    if doubled and two.shape[doubled[0]] == 2 * one.shape[doubled[0]]:
        return Slot(name, doubled[0], one.shape[doubled[0]])
    return Slot(name, shared=not name.count(".each"))


def unfill(form: Tree, tree: Tree, n: int, found: dict[str, Any]) -> Tree:
    """Put all tensors into ``found`` and say what is left.

    What is not shared is n rows (n, …), a list where they are of several shapes.

    Raises:
        ValueError: the network is told more of these texts than of those that the form is from.
    """

    def part(at: Any, own: Any) -> Any:
        if isinstance(at, Each):
            each: list[dict[str, Any]] = [{} for _ in own]
            left = [unfill(at.entry, one, 1, row) for one, row in zip(own, each, strict=True)]
            for name in each[0]:
                several = [row[name] for row in each]
                alike = len({one.shape for one in several}) == 1
                found[name] = torch.stack(several) if alike else several
            return Each(left[0])
        if not isinstance(at, Slot) and isinstance(own, Tensor):
            raise ValueError("the network is told more of some texts than of others")
        if not isinstance(own, Tensor):
            return own
        if not at.moving:
            shape = (n, -1) if at.block > 1 else (n,)
            rows = own if at.dim is None else own.unflatten(at.dim, shape).movedim(at.dim, 0)
            found[at.name] = rows
        return at

    return tree_map(part, _named_as(form, tree), tree)


def _named_as(form: Tree, tree: Tree) -> Tree:
    """The form with the names that a call has: some are told in one call and not in another."""
    if not isinstance(form, Mapping) or not isinstance(tree, Mapping):
        return form
    return {key: _named_as(form.get(key, own), own) for key, own in tree.items()}


def fill(form: Tree, n: int, found: Mapping[str, Tensor]) -> Tree:
    """The arguments of a call for n rows: the inverse of :func:`unfill`."""

    def part(at: Any) -> Any:
        if isinstance(at, Each):
            return [fill(at.entry, 1, {k: v[i] for k, v in found.items()}) for i in range(n)]
        if not isinstance(at, Slot) or at.dim is None:
            return found[at.name] if isinstance(at, Slot) else at
        rows = found[at.name].movedim(0, at.dim)
        return rows.flatten(at.dim, at.dim + 1) if at.block > 1 else rows

    return tree_map(part, form)


def slots(form: Tree) -> list[Slot]:
    """All slots of a form."""
    parts = [slots(at.entry) if isinstance(at, Each) else [at] for at in tree_leaves(form)]
    return [at for some in parts for at in some if isinstance(at, Slot)]


def replaced(form: Tree, new: Mapping[str, Slot]) -> Tree:
    """The form with other slots, by name."""

    def part(at: Any) -> Any:
        if isinstance(at, Each):
            return Each(replaced(at.entry, new))
        return new.get(at.name, at) if isinstance(at, Slot) else at

    return tree_map(part, form)


def rows(form: Tree, tree: Tree) -> int:
    """How many rows arguments have, by the first slot that tells; 0 where none does."""

    def part(at: Any, own: Any) -> int:
        if isinstance(at, Each):
            return len(own)
        told = isinstance(at, Slot) and at.dim is not None and own.ndim > 0
        return own.shape[at.dim] // at.block if told else 0

    return next((n for n in tree_leaves(tree_map(part, _named_as(form, tree), tree)) if n), 0)


# -- where x and t go ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Places:
    """Numbers that are others by their place, times ``scale``: (n, …) to (n, *shape)."""

    shape: tuple[int, ...]
    scale: float
    places: Tensor | None  # None: the first ones

    def __call__(self, x: Tensor) -> Tensor:
        flat, size = x.flatten(1), math.prod(self.shape)
        rows = flat[:, :size] if self.places is None else flat[:, self.places.to(x.device)]
        return (rows if self.scale == 1 else self.scale * rows).reshape(len(x), *self.shape)


def digits(shape: Sequence[int], probe: int) -> Tensor:
    """Ones at the first probe, and then the digits of each number's place, less one each."""
    size = math.prod(shape)
    power = BASE ** max(0, probe - 2)
    places = torch.arange(size) if probe > 1 else torch.zeros(size, dtype=torch.long)
    return (places // power % BASE + 1).reshape(tuple(shape))


def places(got: Sequence[Tensor], shape: Sequence[int], size: int) -> Places | None:
    """Whence the numbers of ``got`` come, what was sent probe after probe; None: from elsewhere.

    Args:
        got: at each probe from the first on.
        shape: of one row of what was got.
        size: how many numbers were sent.
    """
    flat = [one.detach().flatten().double().cpu() for one in got]
    scale = float(flat[0][0]) if len(flat[0]) else 0.0
    if scale == 0 or not math.isfinite(scale) or not bool((flat[0] == scale).all()):
        return None
    told = [one / scale - 1 for one in flat[1:]]
    if any(bool(((d < 0) | (d >= BASE) | (d != d.round())).any()) for d in told):
        return None
    whence = sum((d.long() * BASE**k for k, d in enumerate(told)), torch.zeros(1).long())
    if bool((whence >= size).any()) or len(whence) > size:
        return None
    first = torch.equal(whence, torch.arange(len(whence)))
    return Places(tuple(shape), scale, None if first else whence)


@dataclass(frozen=True)
class Clock:
    """A network's time from the scheduler's: ``start`` + t · ``rate`` / ``length``."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    start: float
    rate: float
    length: int

    def __call__(self, t: Tensor) -> Tensor:
        if (self.start, self.rate) != (0.0, float(self.length)):
            t = self.start + (t if self.rate == 1 else t * self.rate) / self.length
            t = t.to(self.dtype)
        elif self.dtype.is_floating_point:
            t = t.to(self.dtype)
        return t.reshape(-1, *(1 for _ in self.shape)).expand(len(t), *self.shape)


def clock(
    got: Sequence[Tensor], times: Sequence[float], shape: Sequence[int], length: int, near: float
) -> Clock | None:
    """The clock that shows ``got`` at ``times``, to a share ``near``; None where there is none."""
    flat = [one.detach().flatten().double().cpu() for one in got]
    if any(len(one) == 0 or bool((one != one[0]).any()) for one in flat):
        return None
    shown, asked = torch.stack([one[0] for one in flat]), torch.tensor(times).double()
    usual = [(0.0, float(length)), (0.0, 1.0), (1.0, -1.0)]
    rate = float((shown[-1] - shown[0]) / (asked[-1] - asked[0])) * length
    for start, slope in [*usual, (float(shown[0] - rate * asked[0] / length), rate)]:
        if bool(((start + slope * asked / length - shown).abs() <= near * shown.abs().max()).all()):
            return Clock(tuple(shape), got[0].dtype, start, slope, length)
    return None
