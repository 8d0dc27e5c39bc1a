"""A generative process: a diffusion model, its text encoder, a sampler and a guidance scale.

The rest of the library asks it for three things: the conditioning of some texts, the noise
prediction at (x, t), and trajectories.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from conjure_lib import FLOW_SAMPLERS, SAMPLERS
from conjure_lib.inputs import as_numbers, as_prompts, one_of, whole
from conjure_lib.integrity import check_sound, sound, steady
from conjure_lib.reading import Reader
from conjure_lib.sampling import OTHER_TIMES, Sampling, Single, check_times, scheduler_of, set_flow
from conjure_lib.sde import (
    Compared,
    FlowSchedule,
    Prediction,
    Schedule,
    clean_from_eps,
    eps_from_output,
)

BEFORE = ("what the text encoder says", "x_T")  # what a trajectory has before its first step


@dataclass(repr=False)
class GenerativeProcess:
    """One noise-prediction interface over a diffusion model.

    Attributes:
        predict: the network's output at x (n, *latent_shape), t (n,) and a conditioning of n
            rows; shaped like x. ``kind`` says what it means.
        encode: texts to their conditioning, a tensor (n, …) or an ``adapters.Conditioning``; the
            empty text is the unconditional one.
        scheduler: the diffusers scheduler of the checkpoint; samplers take their schedule from it.
        latent_shape: shape of one latent, for Stable Diffusion v1.4 (4, 64, 64).
        decode: latents (n, *latent_shape) to pictures (n, height, width, 3) in [0, 1].
        kind: what ``predict`` predicts: "epsilon", "v_prediction" or "flow".
        prepare: a scheduler and steps to a copy of it whose times are set as the model's pipeline
            sets them.
        name: what the model is called in records.
        revision: the commit of the Hub repository that it was loaded from, where it was.
        modules: the networks that ``predict``, ``encode`` and ``decode`` run, by name.
        readers: the tokenizers that texts go through; what is lost on the way is asked of them.
        evaluations: noise predictions made so far, of one prompt at one x each.
        source: what it was made by and of: ``pipelines.from_pipeline``, the pipeline, options.

    >>> import conjure_lib as cj
    >>> process = cj.load()
    >>> x_T = process.noise([0], seed=0)
    >>> path = process.trajectories(process.encode(["a cat"]), x_T, [0], steps=2)
    >>> tuple(path.final.shape) == (1, *process.latent_shape)
    True
    """

    predict: Callable[[Tensor, Tensor, Any], Tensor]
    encode: Callable[[Sequence[str]], Any]
    scheduler: Any
    latent_shape: tuple[int, ...]
    decode: Callable[[Tensor], np.ndarray] | None = None
    kind: Prediction = "epsilon"
    prepare: Callable[[Any, int], Any] | None = None
    name: str = "process"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    revision: str | None = None
    modules: Mapping[str, torch.nn.Module] = field(default_factory=dict)
    readers: Sequence[Reader] = ()
    evaluations: int = 0
    source: tuple[Callable[..., Any], Any, Mapping[str, Any]] | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        """What runs networks gives the same numbers whatever surrounds it."""
        if name in ("predict", "encode", "decode", "prepare") and value is not None:
            value, self.source = steady(value), None  # of other networks, perhaps
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        shape = "×".join(map(str, self.latent_shape))
        told = f"{self.kind}, latents {shape}, {self.dtype} on {self.device}"
        return f"<{type(self).__name__} {self.name}: {told}>"

    def __reduce__(self) -> Any:
        """What copies and pickles are made of: the pipeline, so that they share no network.

        Raises:
            TypeError: its functions are somebody else's, and so are the networks in them; or a
                network has hooks of diffusers, in which a copy would go on with the original.
        """
        own = [getattr(p, "_diffusers_hook", p) for n in self.modules.values() for p in n.modules()]
        if self.source is None or any(getattr(one, "hooks", None) for one in own):
            raise TypeError(
                f"{self.name} was not made by from_pipeline, or a function of it was replaced, or "
                "its network has hooks of diffusers, as layerwise casting's: it cannot be copied"
            )
        names = ("name", "scheduler", "latent_shape", "kind", "revision", "evaluations")
        return _remade, (*self.source, {name: getattr(self, name) for name in names})

    @property
    def network(self) -> torch.nn.Module | None:
        """The U-Net or transformer, where there is one."""
        return self.modules.get("unet", self.modules.get("transformer"))

    @property
    def schedule(self) -> Schedule | FlowSchedule:
        """The schedule of the checkpoint."""
        if self.kind == "flow":
            return FlowSchedule(self.scheduler.config.num_train_timesteps)
        return Schedule.of(self.scheduler)

    @property
    def samplers(self) -> dict[str, str]:
        """The samplers that fit, and their classes in diffusers; "own" is the checkpoint's."""
        known = FLOW_SAMPLERS if self.kind == "flow" else SAMPLERS
        if any(self.scheduler.config.get(name) for name in OTHER_TIMES):
            known = {}  # with times of Sampling.spacing its noise would be of other sizes
        return known | {"own": type(self.scheduler).__name__}

    @property
    def dtype(self) -> str:
        """What the network computes in, such as "float32"; everything outside it is float32."""
        return str(getattr(self.network, "dtype", torch.float32)).removeprefix("torch.")

    @torch.no_grad()
    def eps(self, x: Tensor, t: Tensor, condition: Any) -> Tensor:
        """Noise prediction ε(x, t|y) in float32; x (n, …), t (n,), condition of n rows."""
        return self.to_eps(self.output(x, t, condition), x, t)

    def output(self, x: Tensor, t: Tensor, condition: Any) -> Tensor:
        """The network's output as float32, shaped like x (n, …); ``kind`` says what it means."""
        self.evaluations += len(x)
        return self.predict(x, t, condition).float()

    def to_eps(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """ε of the network's ``output`` at x (n, …) and timesteps t (n,)."""
        if self.kind == "epsilon":
            return output
        return eps_from_output(output, x, *self.schedule.coefficients(t), self.kind)

    def settled(self, sampling: Sampling | None = None, **single: Unpack[Single]) -> Sampling:
        """The sampling of a result, with the first sampler that fits where it names none.

        Warns of a negative prompt where there is no guidance that it could lead away.
        """
        first, found = next(iter(self.samplers)), Sampling.of(sampling, **single)
        given = {} if self.source is None else self.source[-1]
        idle = [k for k, v in given.items() if "negative" in k and v is not None and str(v)]
        for name in idle if found.guidance == 1 else ():
            warnings.warn(f"{name} changes nothing without guidance", stacklevel=3)
        return replace(found, sampler=first) if found.sampler is None else found

    def sampler(self, sampling: Sampling | None = None, **single: Unpack[Single]) -> Any:
        """A fresh diffusers scheduler, the sampler that is asked for, with its timesteps set.

        Every sampler visits the same times, whatever its class would do by itself.

        Raises:
            ValueError: a sampler that is unknown or does not fit the model, steps outside 1 … the
                length of the schedule, or so many that the checkpoint's spacing leaves out its
                noisiest end; a spacing of "own", or steps that it cannot take.
        """
        sampling = Sampling.of(sampling, **single)
        steps, schedule = sampling.steps, self.schedule
        sampler = next(iter(self.samplers)) if sampling.sampler is None else sampling.sampler
        sampling = replace(sampling, sampler=sampler)
        told = {} if self.kind == "flow" else {"prediction_type": self.kind}  # whatever it says
        check_times(config := {**self.scheduler.config, **told}, schedule, sampling)
        one_of(f"{self.name}'s sampler", sampler, self.samplers)
        if sampler == "own":
            own = copy.deepcopy(self.scheduler)
            own.register_to_config(**told)
            return self._prepared(own, steps)
        if steps > schedule.T:
            raise ValueError(f"steps must lie between 1 and {schedule.T}, not {steps}")
        found = scheduler_of(self.samplers[sampler], config, schedule, sampling)
        if isinstance(schedule, FlowSchedule):
            return set_flow(found, schedule, sampling, self._prepared)
        return found

    def _prepared(self, scheduler: Any, steps: int) -> Any:
        """``scheduler`` with its times set, by the pipeline where there is one."""
        name, others = type(scheduler).__name__, ", ".join(list(self.samplers)[:-1])
        try:
            if self.prepare is not None:
                scheduler = self.prepare(scheduler, steps)
            else:
                scheduler.set_timesteps(steps)
        except ValueError as error:
            why = f"{name} cannot take steps={steps} ({error.__cause__ or error})"
            raise ValueError(f"{why}: take more, or another sampler of {others}") from error
        if len(scheduler.timesteps) != steps:
            raise ValueError(
                f"{name} asks the network {len(scheduler.timesteps)} times in {steps} steps, and "
                f"an estimate needs one prediction a step: choose another sampler of {others}"
            )
        return scheduler

    def noise(self, draws: Sequence[int], seed: int) -> Tensor:
        """x_T of the given draws, (len(draws), *latent_shape), keyed by (seed, draw) alone."""
        shape, dtype = self.latent_shape, torch.float32  # not torch's default, which others change
        each = [torch.randn(shape, generator=generator(seed, d), dtype=dtype) for d in draws]
        return torch.stack(each).to(self.device)

    @torch.no_grad()
    def trajectories(
        self,
        condition: Any,
        x_T: Tensor,
        draws: Sequence[int],
        /,
        *,
        sampling: Sampling | None = None,
        unconditional: Any = None,
        texts: Sequence[str] | None = None,
        progress: bool = False,
        **single: Unpack[Single],
    ) -> Trajectory:
        """Reverse-time trajectories of n (prompt, draw) rows, through diffusers' own scheduler.

        Args:
            condition: n rows, from :attr:`encode`.
            x_T: (n, *latent_shape), standard normal.
            draws: the draw that each row belongs to; a stochastic sampler takes the noise of a
                step from (seed, draw, step), so that all prompts of a draw share it.
            sampling: how they are drawn, or some of its fields singly. Guidance follows
                s(∅) + w (s(y) - s(∅)); at w = 1 the unconditional prediction is not computed.
            unconditional: conditioning of the empty prompt, one row; computed where not given.
            texts: the prompt of each row, for messages.
            progress: a progress bar, where the work takes more than two seconds.

        Raises:
            ValueError: a setting is not usable; or a number is NaN, infinite or too large, with
                the prompt and the timestep where that began.
        """
        sampling = Sampling.of(sampling, **single)
        guidance, scheduler = sampling.guidance, self.sampler(sampling)
        if guidance != 1 and unconditional is None:
            unconditional = self.encode([""])
        size, seen, advance = walking(scheduler, sampling.seed, draws)
        x = x_T.to(self.device, torch.float32) * size
        states, own, guided, fine = [], [], [], [sound(condition).to(x.device), sound(x)]
        times = scheduler.timesteps
        for step, t in enumerate(tqdm(times, desc="denoising", delay=2) if progress else times):
            x_in = seen(x, t)
            t_rows = t.to(self.device).expand(len(x))
            output = output_w = self.output(x_in, t_rows, condition)
            if guidance != 1 and unconditional is not None:
                empty = self.output(x_in, t_rows, unconditional[[0] * len(x)])
                output_w = empty + guidance * (output - empty)
            states.append(x_in)
            own.append(self.to_eps(output, x_in, t_rows))
            guided.append(self.to_eps(output_w, x_in, t_rows))
            x = advance(output_w, step, x)
            fine.append(sound(own[-1]) & sound(x))
        check_sound(torch.stack(fine, dim=1), [*BEFORE, *times.tolist()], texts)
        eps = torch.stack(own, dim=1)
        followed = eps if guidance == 1 else torch.stack(guided, dim=1)
        return Trajectory(times.clone(), torch.stack(states, dim=1), eps, followed, x)

    def generate(
        self, prompts: Sequence[str], *, sampling: Sampling | None = None, **single: Unpack[Single]
    ) -> np.ndarray:
        """One picture a prompt, all from the same x_T: (n, height, width, 3) in [0, 1].

        By default in 25 steps of the first sampler that fits: DDIM, or for a flow Euler.
        """
        if self.decode is None:
            raise ValueError(f"{self.name} has no decoder: it makes no pictures")
        prompts = as_prompts(prompts)
        sampling = self.settled(Sampling(steps=25) if sampling is None else sampling, **single)
        condition = self.encode(prompts)
        x_T = self.noise([0], sampling.seed).expand(len(prompts), *self.latent_shape)
        path = self.trajectories(
            condition, x_T, [0] * len(prompts), sampling=sampling, texts=prompts, progress=True
        )
        return as_numbers("a picture", self.decode(path.final))

    def clean(self, x: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """The denoised view x̂_0 of x (n, …) at timesteps t (n,) under the prediction eps."""
        alpha, sigma = self.schedule.coefficients(t)
        return clean_from_eps(x, eps, alpha, sigma)


def _remade(
    make: Callable[..., GenerativeProcess],
    pipeline: Any,
    options: Mapping[str, Any],
    kept: Mapping[str, Any],
) -> GenerativeProcess:
    """A process over a pipeline that was copied or unpickled, with what was ``kept`` of it."""
    return replace(make(pipeline, **options), **kept)


def as_process(value: Any) -> GenerativeProcess:
    """``value``, if it is a process; TypeError if not."""
    if not isinstance(value, GenerativeProcess):
        name = repr(value) if isinstance(value, str) else "pipe" * hasattr(value, "components")
        raise TypeError(
            f"process must be a loaded model, not a {type(value).__name__}: write process = "
            f"cj.load({name})"
        )
    return value


def walking(
    scheduler: Any, seed: int, draws: Sequence[int]
) -> tuple[float, Callable[[Tensor, Tensor], Tensor], Callable[[Tensor, int, Tensor], Tensor]]:
    """How a sampler goes, its timesteps set: three things that diffusers' samplers do unlike.

    The factor of x_T; what the network sees of x at t; and x after a step, from the network's
    output, the number of the step and x. The noise of a stochastic sampler, for the rows of
    ``draws``, is that of (seed, draw, step).
    """
    takes_noise = "generator" in inspect.signature(scheduler.step).parameters

    def advance(output: Tensor, step: int, x: Tensor) -> Tensor:
        noise = {"generator": [generator(seed, d, step) for d in draws]} if takes_noise else {}
        return scheduler.step(output, scheduler.timesteps[step], x, **noise, return_dict=False)[0]

    # a flow's scheduler has neither: its state is what the network sees
    seen = getattr(scheduler, "scale_model_input", lambda x, t: x)
    return float(getattr(scheduler, "init_noise_sigma", 1.0)), seen, advance


@dataclass(frozen=True, eq=False)
class Trajectory(Compared):
    """Trajectories of n rows over S steps, noisiest first.

    Attributes:
        timesteps: (S,), DDPM steps.
        states: (n, S, *latent_shape), what the network saw.
        eps: (n, S, *latent_shape), the prediction under each row's own prompt, unguided.
        guided: the same after guidance; what the sampler followed.
        final: (n, *latent_shape), the sample.
    """

    timesteps: Tensor
    states: Tensor
    eps: Tensor
    guided: Tensor
    final: Tensor


def generator(*key: int) -> torch.Generator:
    """A generator keyed by integers, such as (seed, draw, step): never global, never positional.

    Raises:
        TypeError, ValueError: a seed, or a draw, that is no integer or is negative.
    """
    names = ("seed", "draw", "step", "width")
    numbers = [whole(name, k, 0) for name, k in zip(names, key, strict=False)]
    first, rest = numbers[:2], numbers[2:]
    # a spawn key, since a longer entropy that ends in zeros would seed like a shorter one
    words = np.random.SeedSequence(first, spawn_key=rest).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(words[0]) << 32 | int(words[1]))
