"""Diffusers' text-to-image pipelines behind one call: what the network is told, and what it says.

No family has code of its own: :mod:`conjure_lib.capture` asks the pipeline.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from conjure_lib import capture
from conjure_lib.capture import (
    Clock,
    Conditioning,
    Form,
    HeardError,
    Places,
    Row,
    Tree,
    rehearse,
)
from conjure_lib.integrity import first_line, raw

HIDDEN = "encoder_hidden_states"  # diffusers' name of what most families are conditioned by
OWN_GUIDANCE = "{} changes no distance: leave it out, and give guidance=… with the steps and draws"
DAMAGED = "weights of its text encoder, perhaps, are damaged"
GUIDED = 4.0  # any scale at which a pipeline asks for the empty prompt too
TRIALS = ["a", "a red fox on the sea"]  # texts of two lengths


class _UnclearError(ValueError):
    """Why a call shows nothing."""


class Adapter:
    """A pipeline's ways, learned from it.

    Attributes:
        network: the U-Net or transformer.
        latent_shape: of one x, as the pipeline's scheduler has it.
        together: whether texts can be encoded several at a time: none then changes another.
    """

    latent_shape: tuple[int, ...]

    def __init__(self, pipeline: Any, options: Mapping[str, Any]) -> None:
        """Learn them; ``options`` are of the pipeline's own call, such as height and width.

        Raises:
            ValueError: the pipeline's call is of another kind; says in what.
        """
        self.pipeline, self.options = pipeline, dict(options)
        self.network: torch.nn.Module = getattr(pipeline, capture.network_name(pipeline))
        self.dtype = dtype_of(self.network)
        self.mixed = any(dtype_of(one) != self.dtype for one in encoders(pipeline).values())
        self._forms: dict[str, Form] = {}
        self._set: dict[str, Any] = {}
        self._learn()
        alone, again = (self.told(TRIALS[:1]).rows[0] for _ in range(2))
        if apart(alone, again) > 0:
            raise ValueError(
                f"{type(pipeline).__name__} is not adapted: what its network is told of a text "
                "changes from call to call"
            )
        self.plain = alone.form
        self.together = self._is_the_same_in_company(alone)

    def _is_the_same_in_company(self, alone: Row) -> bool:
        try:
            first = self.told(TRIALS).rows[0]
        except ValueError:  # such as a mask, which a text alone does without
            return False
        return first.form is alone.form and all(
            torch.allclose(part.float(), first.parts[name].float(), atol=1e-3)
            for name, part in alone.parts.items()
        )

    def __call__(self, x: Tensor, t: Tensor, condition: Tensor | Conditioning) -> Tensor:
        """The network's output of x (n, *latent_shape), t (n,) and n rows; shaped like x."""
        if isinstance(condition, Tensor):
            return self._ask(x, t, self.plain, {HIDDEN: condition})
        told = condition.alike()
        if len(told) == 1:
            return self._ask(x, t, *told[0][::2])
        output = torch.empty_like(x)
        for form, which, parts in told:
            output[which] = self._ask(x[which], t[which], form, parts).to(x)
        return output

    def _ask(self, x: Tensor, t: Tensor, form: Form, parts: Mapping[str, Tensor]) -> Tensor:
        found = {name: self._cast(part) for name, part in parts.items()} | dict(form.shared)
        for name, way in self.moving.items():
            found[name] = way(x.to(self.dtype) if isinstance(way, Places) else t.to(x.device))
        return self.heard(_first(self._call(capture.fill(form.tree, len(x), found))))

    def _call(self, tree: Tree) -> Any:
        if getattr(self.network, "is_cache_enabled", False):
            raise _UnclearError("its network reuses what it said at other steps: disable_cache()")
        given = [tree[key] for key in tree if isinstance(key, int)]
        return self.network(*given, **{k: v for k, v in tree.items() if not isinstance(k, int)})

    def _cast(self, part: Tensor) -> Tensor:
        """A text encoder of another precision than the network is read in the network's."""
        return part.to(self.dtype) if self.mixed and part.is_floating_point() else part

    # -- what the pipeline tells ------------------------------------------------------------------

    def encode(self, texts: Sequence[str]) -> Conditioning:
        """What the network is told of texts; the empty one is the pipeline's unconditional one."""
        written, size = [text for text in texts if text], 64 if self.together else 1
        told = [self.told(written[i : i + size]) for i in range(0, len(written), size)]
        rows = iter(Conditioning.cat(told).rows)
        empty = self.unconditional().rows if len(written) < len(texts) else ()
        return Conditioning([next(rows) if text else empty[0] for text in texts])

    def told(self, texts: Sequence[str]) -> Conditioning:
        """What the network is told of texts, without guidance."""
        return self._read(self._first_call(texts), len(texts))

    def unconditional(self) -> Conditioning:
        """What guidance compares with: what else the network is told with guidance on, one row."""
        name = "guidance_scale" if "guidance_scale" in self.options else "true_cfg_scale"
        calls: list[Tree] = []

        def hear(tree: Tree) -> Any:
            calls.append(tree)
            return _repeated(self.answer, capture.rows(self.form, tree))

        for negative in ({}, {"negative_prompt": ""}):
            calls.clear()
            options = negative | self.options | {name: GUIDED}
            self._run(TRIALS[:1], hear, _stop, **options)
            if sum(capture.rows(self.form, tree) for tree in calls) > 1:
                break
        else:
            return self.told([""])  # guidance is none of this pipeline's ways
        every = Conditioning.cat(
            [self._read(tree, capture.rows(self.form, tree)) for tree in calls]
        )
        own = self.told(TRIALS[:1]).rows[0]
        return Conditioning([max(every.rows, key=partial(apart, own))])

    def decode(self, x: Tensor) -> np.ndarray:
        """Latents (n, *latent_shape) as the pipeline's pictures (n, height, width, 3)."""
        told = _repeated(self.answer, len(x))
        hear, step = lambda _: told, lambda _output, _t, sample: x.to(sample)
        return np.asarray(self._run(TRIALS[:1] * len(x), hear, step, output_type="np")[0])

    def set(self, scheduler: Any, steps: int) -> Any:
        """A copy of ``scheduler`` with its times set as the pipeline sets them."""
        key = f"{type(scheduler).__name__} {sorted(scheduler.config.items(), key=str)} {steps}"
        if key not in self._set:
            self._set[key] = self._run(TRIALS[:1], _stop, steps=steps, scheduler=scheduler)[1]
        return copy.deepcopy(self._set[key])

    def _first_call(self, texts: Sequence[str]) -> Tree:
        calls: list[Tree] = []

        def hear(tree: Tree) -> Any:
            calls.append(tree)
            raise HeardError

        self._run(texts, hear)
        return calls[0]

    def _read(self, tree: Tree, n: int) -> Conditioning:
        found: dict[str, Any] = {}
        left = capture.unfill(self.form, tree, n, found)
        shared = {s.name: found.pop(s.name) for s in capture.slots(left) if s.shared}
        rows = [{name: part[i][None] for name, part in found.items()} for i in range(n)]
        return self.formed(left, shared, rows)

    def formed(
        self, left: Tree, shared: Mapping[str, Tensor], rows: Sequence[Mapping[str, Tensor]]
    ) -> Conditioning:
        """Rows with the forms that they have; equal forms are one object."""
        digest, found = hashlib.sha256(repr(left).encode()), []
        for name, one in sorted(shared.items()):
            digest.update(f"{name} {one.dtype} {tuple(one.shape)}".encode())
            digest.update(raw(one))
        for parts in rows:
            shapes = {name: tuple(part.shape[1:]) for name, part in parts.items()}
            key = f"{digest.hexdigest()} {shapes}"
            found.append(Row(self._forms.setdefault(key, Form(left, shared, shapes)), parts))
        return Conditioning(found)

    def _run(self, texts: Sequence[str], *given: Any, **options: Any) -> tuple[Any, Any]:
        """The pipeline's own call, listened to."""
        try:
            told = {"steps": 2} | self.options | options
            if isinstance(told.get("negative_prompt"), str):  # beside a list, one for each text
                told["negative_prompt"] = [told["negative_prompt"]] * len(texts)
            return rehearse(self.pipeline, texts, *given, **told)
        except (MemoryError, torch.OutOfMemoryError, _UnclearError):
            raise
        except Exception as error:  # whatever a pipeline raises at parts that do not fit it
            raise ValueError(
                f"{type(self.pipeline).__name__} is not adapted: its own call fails "
                f"({type(error).__name__}: {first_line(error)})"
            ) from error

    # -- what is learned --------------------------------------------------------------------------

    def _learn(self) -> None:
        """Find at which guidance the network is asked once a step, and what that shows."""
        options, reason = self.options, ""
        own = options.get("guidance_scale")  # which a distilled network may be told
        for scale in ({}, {"guidance_scale": 1.0}, {"guidance_scale": 0.0}):
            if scale and own is not None:
                raise ValueError(OWN_GUIDANCE.format(f"guidance_scale={own!r}"))
            self.options = options | scale
            try:
                return self._listen(*self._probe())
            except _UnclearError as unclear:
                reason = str(unclear)
        raise ValueError(f"{type(self.pipeline).__name__} is not adapted: {reason}")

    def _probe(self) -> tuple[list[Tree], list[Tensor], list[float]]:
        """The arguments of the network, what the scheduler got and t, at steps of a known x."""
        calls: list[Tree] = []
        outputs: list[Tensor] = []
        times: list[float] = []

        def hear(tree: Tree) -> Any:
            calls.append(tree)
            if len(calls) != len(outputs) + 1:
                raise _UnclearError(
                    "it asks its network several times a step, also without guidance"
                )
            if not outputs:  # of its own accord, for the shape of what it says
                self.answer = self._call(tree_map_only(Tensor, self._cast, tree))
            shape = _first(self.answer).shape
            return _repeated(self.answer, shape[0], capture.digits(shape, len(outputs)))

        def step(output: Tensor, t: Any, x: Tensor) -> Tensor:
            self.latent_shape = tuple(x.shape[1:])
            outputs.append(output)
            times.append(float(t))
            if len(outputs) == capture.PROBES:
                raise HeardError
            return capture.digits(x.shape, len(outputs)).to(x)

        self._run(TRIALS[:1], hear, step, steps=capture.PROBES)
        return calls, outputs, times

    def _listen(self, calls: list[Tree], outputs: list[Tensor], times: list[float]) -> None:
        """Learn what the arguments and the output of a call are."""
        try:
            self.form = capture.template(calls[0], self._first_call(TRIALS[:1] * 2))
        except (StopIteration, ValueError) as error:
            raise _UnclearError("for two texts its network is not told twice as much") from error
        found: list[dict[str, Tensor]] = [{} for _ in calls]
        left = [
            capture.unfill(self.form, tree, 1, own) for tree, own in zip(calls, found, strict=True)
        ]
        if any(repr(one) != repr(left[0]) for one in left):
            raise _UnclearError("arguments that are no tensors change from step to step")
        self.moving: dict[str, Places | Clock] = {}
        new = {}
        for slot in capture.slots(self.form):
            told = [own[slot.name] for own in found]
            if not all(one.isfinite().all() for one in told):
                raise ValueError(f"{slot.name} that it tells its network is not finite: {DAMAGED}")
            if all(torch.equal(told[0], one) for one in told):
                continue
            shape = () if slot.shared else told[0].shape[1:]
            self.moving[slot.name] = self._way(told, times, shape, slot.name)
            dim = 0 if slot.shared else slot.dim
            new[slot.name] = replace(slot, moving=True, dim=dim, shared=False)
        if [type(way) for way in self.moving.values()].count(Places) != 1:
            raise _UnclearError("its network is not told x once, as it is")
        self.form = capture.replaced(self.form, new)
        heard = capture.places(outputs[1:], self.latent_shape, _first(self.answer).numel())
        if heard is None or outputs[0].numel() != np.prod(self.latent_shape):
            raise _UnclearError("what its scheduler takes is not the network's output alone")
        self.heard = heard

    def _way(
        self, told: list[Tensor], times: list[float], shape: Sequence[int], name: str
    ) -> Places | Clock:
        near = 1e-5 if self.dtype == torch.float32 else 1e-2
        length = self.pipeline.scheduler.config.num_train_timesteps
        way = capture.places(told[1:], shape, int(np.prod(self.latent_shape)))
        if found := way or capture.clock(told, times, shape, length, near):
            return found
        raise _UnclearError(f"its network's argument {name!r} is neither x nor t nor the prompt's")


def _stop(*_: Any) -> Any:
    raise HeardError


def _first(output: Any) -> Tensor:
    """A network's output as one tensor (n, …)."""
    value = output if isinstance(output, Tensor) else output[0]
    return torch.stack(list(value)) if isinstance(value, list | tuple) else value


def _repeated(output: Any, n: int, content: Tensor | None = None) -> Any:
    """A network's output for one row n times over, with other numbers in it."""
    first = _first(output)
    value: Any = (first if content is None else content.to(first)).expand(n, *first.shape[1:])
    if isinstance(output, Tensor):
        return value
    if isinstance(output[0], list | tuple):
        value = list(value)
    if isinstance(output, tuple):
        return (value, *output[1:])
    return type(output)(**{**output, next(iter(output)): value})


def apart(own: Row, other: Row) -> float:
    """How far the numbers of two rows are from each other; infinite for other lengths."""
    if own.form.shapes != other.form.shapes:
        return float("inf")
    pairs = [(part, other.parts[name]) for name, part in own.parts.items()]
    return sum(float((a.double() - b.double()).square().sum()) for a, b in pairs)


def dtype_of(network: torch.nn.Module) -> torch.dtype:
    """What a network computes in; where its weights are stored otherwise, it says so itself."""
    own = getattr(network, "dtype", None)
    return own if isinstance(own, torch.dtype) else next(network.parameters()).dtype


def encoders(pipeline: Any) -> dict[str, Any]:
    """The text encoders of a pipeline that are there, by what follows "text_encoder"."""
    parts = pipeline.components.items()
    found = {k.removeprefix("text_encoder"): m for k, m in parts if k.startswith("text_encoder")}
    return {end: m for end, m in found.items() if isinstance(m, torch.nn.Module)}
