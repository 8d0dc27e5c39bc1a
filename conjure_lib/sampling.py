"""How trajectories are drawn, said once: the defaults, the checks, and the times of any sampler."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, TypedDict, Unpack, get_args

import numpy as np
import torch
from torch import Tensor

from conjure_lib import QUADRATURES, SPACINGS, WEIGHTINGS, Quadrature, Spacing, Weighting
from conjure_lib.inputs import draw_numbers, finite, listed, one_of, whole
from conjure_lib.integrity import quiet
from conjure_lib.sde import FlowSchedule, Schedule


class Single(TypedDict, total=False):
    """The fields of :class:`Sampling`, as a call takes them singly."""

    steps: int
    draws: int | Sequence[int]
    guidance: float
    sampler: str | None
    seed: int
    spacing: Spacing
    log_snr: tuple[float, float] | None


@dataclass(frozen=True)
class Sampling:
    """What is drawn, and where: trajectories, the times that they visit, the window that counts.

    Attributes:
        steps: S sampler steps, each of which visits one timestep.
        draws: k Monte Carlo draws of x_T (and of the sampler's noise): 0 … k-1, or the numbers
            of the wanted ones.
        guidance: w of classifier-free guidance.
        sampler: a name of ``conjure_lib.SAMPLERS``, or for a flow of ``FLOW_SAMPLERS``; None for
            the first of them, ddim or euler, and what is drawn says which of them it was.
        seed: keys all that is random, with the number of the draw.
        spacing: where the steps lie. "leading", "trailing" and "linspace" are even in time as
            diffusers names them, and the same for every sampler; "log-snr" is even in
            λ = log(α²/σ²), from noise to the end of the window. A flow takes "leading" for the
            times of its own pipeline. "trailing" ends a stride before the clean end, at t = 99 in
            ten steps, and sees nothing of what lies beyond: of two Gaussians with σ = 0.1 it finds
            47 ± 39 nats (steps), and J is 92.
        log_snr: the window of λ that a divergence is taken over, by an integral; all that the
            checkpoint was trained on where it is None. Two models are compared in one window.

    Raises:
        TypeError, ValueError: one is not usable; the message says which and what would be.

    >>> import conjure_lib as cj
    >>> few = cj.Sampling(steps=2, draws=3)
    >>> cj.Sampling.of(few, guidance=7.5).draws
    3
    """

    steps: int = 10
    draws: int | Sequence[int] = 5
    guidance: float = 1.0
    sampler: str | None = None
    seed: int = 0
    spacing: Spacing = "leading"
    log_snr: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        numbers = draw_numbers(self.draws)
        first = range(len(numbers))
        if numbers == (first if isinstance(numbers, range) else [*first]):  # written in one way
            object.__setattr__(self, "draws", len(numbers))
        elif not isinstance(numbers, range):  # a range, however long, is not written out
            object.__setattr__(self, "draws", tuple(numbers))
        object.__setattr__(self, "steps", whole("steps", self.steps))
        object.__setattr__(self, "seed", whole("seed", self.seed, 0))
        object.__setattr__(self, "guidance", finite("guidance", self.guidance))
        one_of("spacing", self.spacing, SPACINGS)
        if self.log_snr is not None:
            object.__setattr__(self, "log_snr", _window(self.log_snr))

    @classmethod
    def of(cls, sampling: Sampling | None = None, **single: Unpack[Single]) -> Sampling:
        """``sampling``, or the default one, with what is given singly in its place.

        Raises:
            TypeError: there is no setting of that name, or ``sampling`` is something else.
        """
        check_known(single)
        if not isinstance(sampling, cls | None):
            raise TypeError(f"sampling must be a Sampling, not {sampling!r:.80}")
        return replace(sampling or DEFAULT, **single)

    @property
    def numbers(self) -> Sequence[int]:
        """The numbers of the draws."""
        return draw_numbers(self.draws)

    def told(self) -> dict[str, Any]:
        """Every field but the draws, which a run adds to, as JSON has it."""
        told = {k: v for k, v in asdict(self).items() if k != "draws"}
        return told | {"log_snr": None if self.log_snr is None else list(self.log_snr)}


def check_known(single: Mapping[str, Any], more: Sequence[str] = ()) -> None:
    """Raise TypeError where a name is neither a field of :class:`Sampling` nor one of ``more``."""
    known = [*(field.name for field in fields(Sampling)), *more]
    if unknown := sorted(set(single) - set(known)):
        raise TypeError(f"there is no setting {', '.join(unknown)}: there are {', '.join(known)}")


def _window(value: Any) -> tuple[float, float]:
    try:
        low, high = (finite("log_snr", bound) for bound in listed(value, "log_snr"))
    except (TypeError, ValueError) as error:
        raise type(error)(f"log_snr must be two numbers, as (-5, 7), not {value!r:.60}") from error
    if not low < high:
        raise ValueError(f"log_snr must be a window (low, high), and {low:g} is not below {high:g}")
    return low, high


DEFAULT = Sampling()

# -- the settings of a call ------------------------------------------------------------------

Pairing = Literal["same", "crossed"]
PAIRINGS: tuple[str, ...] = get_args(Pairing)
OPTIONS = ("sampling", "pairing", "noise", "batch_size", "memory", "progress")


class Settings(Single, total=False):
    """What a call that makes terms takes by name, besides a ``sampling`` or its fields."""

    sampling: Sampling | None
    pairing: Pairing
    noise: Tensor | None
    batch_size: int
    memory: int
    progress: bool | None


def check_settings(
    *,
    weighting: Weighting = "sde",
    quadrature: Quadrature = "log-snr",
    **settings: Unpack[Settings],
) -> Sampling:
    """The sampling of a call with these settings, all of which are checked, without a model.

    Raises:
        TypeError, ValueError: one is not usable; the message says which and what would be.
    """
    check_known(settings, OPTIONS)
    one_of("weighting", weighting, WEIGHTINGS)
    one_of("quadrature", quadrature, QUADRATURES)
    given: dict[str, Any] = dict(settings)
    work = {name: given.pop(name) for name in OPTIONS if name in given}
    sampling = Sampling.of(work.pop("sampling", None), **given)
    work.pop("noise", None)
    check_work(sampling, **work)
    check_rule(weighting, quadrature, sampling, work.get("pairing", "same"))
    return sampling


def check_work(
    sampling: Sampling,
    pairing: Any = "same",
    batch_size: Any = 1,
    memory: Any = 1,
    progress: Any = None,
) -> None:
    """Check how terms are made, and that they can be terms: as :func:`check_settings`."""
    w = sampling.guidance  # a trajectory may have any
    if w == 0:
        raise ValueError(
            "guidance=0 follows no prompt and makes every distance 0: for no guidance take 1"
        )
    if not sys.float_info.min <= w * w <= sys.float_info.max:
        raise ValueError(f"guidance must have a square that float64 holds, not {w:g}")
    one_of("pairing", pairing, PAIRINGS)
    whole("batch_size", batch_size)
    whole("memory", memory)
    if not isinstance(progress, bool | None):
        raise TypeError(f"progress must be True, False or None, not {progress!r}")


def check_rule(weighting: str, quadrature: str, sampling: Sampling, pairing: str = "same") -> None:
    """Raise ValueError where a rule is asked for what it is not: of a chain, or of a window."""
    made = (weighting, sampling.sampler, pairing)
    if quadrature == "chain" and made != ("sde", "ancestral", "same"):
        raise ValueError(
            'quadrature="chain" is the divergence of the chain that was run: it goes with '
            'weighting="sde", sampler="ancestral" and pairing="same"'
        )
    if quadrature in ("sum", "chain") and sampling.log_snr:
        raise ValueError(f'quadrature="{quadrature}" counts all steps: it has no window log_snr')
    if quadrature == "sum" and sampling.spacing == "log-snr":
        raise ValueError('quadrature="sum" counts all steps alike: spacing="log-snr" is not even')


def spacing_for_tolerance(sampler: str | None, quadrature: Quadrature) -> Spacing:
    """Where the steps of a tolerance lie, if nobody says: others never reach the window's end."""
    return "leading" if sampler == "own" or quadrature == "sum" else "log-snr"


# -- one clock: diffusers' classes, left to themselves, each have a spacing of their own ---------

OTHERS = ("karras_sigmas", "exponential_sigmas", "beta_sigmas", "flow_sigmas", "lu_lambdas")
OTHER_TIMES = (*(f"use_{name}" for name in OTHERS), "rescale_betas_zero_snr")


def scheduler_of(
    name: str, config: Mapping[str, Any], schedule: Schedule | FlowSchedule, sampling: Sampling
) -> Any:
    """A fresh diffusers scheduler of class ``name``, with the timesteps of ``sampling`` set.

    Raises:
        ValueError: the steps do not go with it.
    """
    import diffusers

    changed: dict[str, Any] = {"timestep_spacing": "leading"}
    changed["prediction_type"] = config.get("prediction_type")  # also where it is a default
    if name == "DDIMScheduler" and sampling.spacing != "leading":  # it can only take even steps
        name = "DPMSolverMultistepScheduler"  # the same solver
        changed = {"solver_order": 1, "algorithm_type": "dpmsolver++"}
    if sampling.sampler == "ancestral":
        changed["variance_type"] = "fixed_large"
    kind = getattr(diffusers, name)
    known = inspect.signature(kind.__init__).parameters
    for limit in ("clip_sample", "thresholding"):  # latents have none, whatever a class assumes
        changed[limit] = config.get(limit) and limit not in config.get("_use_default_values", ())
        if changed[limit] and limit not in known:
            raise ValueError(
                f'{name} has no {limit}, which the checkpoint sets: take "ddpm" or "own"'
            )
    with quiet():  # settings that were unknown as it was loaded are so still
        scheduler = kind.from_config(config, **{k: v for k, v in changed.items() if k in known})
    if not isinstance(schedule, Schedule):
        return scheduler
    if not torch.allclose(scheduler.alphas_cumprod.double(), schedule.alphas_cumprod, rtol=1e-3):
        betas = schedule.beta_step(torch.arange(schedule.T))  # the settings say it in other words
        scheduler = kind.from_config(scheduler.config, trained_betas=betas.tolist())
    times = times_of(schedule, sampling, int(config.get("steps_offset", 0)))
    if name == "DDIMScheduler":
        scheduler.register_to_config(steps_offset=int(times[-1]))
        scheduler.set_timesteps(sampling.steps)
    elif "Euler" in name:
        scheduler.set_timesteps(sampling.steps)
        alpha, sigma = schedule.coefficients(torch.from_numpy(times))
        scheduler.timesteps = torch.from_numpy(times).float()
        scheduler.sigmas = torch.cat([sigma / alpha, torch.zeros(1)]).float()
    else:
        scheduler.set_timesteps(timesteps=times.tolist())
    return scheduler


def times_of(schedule: Schedule, sampling: Sampling, offset: int = 0) -> np.ndarray:
    """The S timesteps of a spacing, noisiest first, (S,), int64.

    Args:
        offset: of leading spacing, as the checkpoint has it; none where it leads past the end.

    Raises:
        ValueError: so many steps that leading spacing leaves out the noisiest end.
    """
    T, steps = schedule.T, sampling.steps
    rising: np.ndarray = np.arange(steps)
    if sampling.spacing == "leading":
        times: np.ndarray = rising * (T // steps)
        times = times + offset if times[-1] + offset < T else times
        if steps > 1 and times[-1] + T // steps < 0.95 * T:  # the stride is rounded down
            raise ValueError(
                f"{steps} steps reach only timestep {times[-1]} of {T}, where x is not yet noise: "
                "take a number of steps that divides the schedule"
            )
    elif sampling.spacing == "trailing":
        times = (T - rising * T / steps).round()[::-1] - 1
    elif sampling.spacing == "linspace":
        times = np.linspace(0, T - 1, steps).round()
    else:  # even in log-SNR, from noise itself on
        even = np.linspace(*_way_down(schedule, sampling), steps)
        times = np.sort(schedule.time(even).round())
        times[-1] = T - 1
        times = np.minimum(np.maximum.accumulate(times - rising), T - steps) + rising  # all differ
    return times[::-1].astype(np.int64)


def _way_down(schedule: Schedule | FlowSchedule, sampling: Sampling) -> tuple[float, float]:
    """From noise to the end of the window: a trajectory cannot begin within it."""
    return schedule.window[0], (sampling.log_snr or schedule.window)[1]


def set_flow(
    scheduler: Any, schedule: FlowSchedule, sampling: Sampling, prepare: Callable[[Any, int], Any]
) -> Any:
    """The scheduler with the times of its own pipeline, or even in log-SNR from noise itself on.

    Args:
        prepare: a scheduler and steps to one whose times are set as the pipeline sets them.

    Raises:
        ValueError: another spacing; a single step.
    """
    if sampling.steps < 2:
        raise ValueError("a flow needs 2 steps or more: at its first all prompts predict alike")
    if sampling.spacing not in ("leading", "log-snr"):
        raise ValueError(
            'a flow has spacing "leading", the times of its own pipeline, or "log-snr", not '
            f'"{sampling.spacing}"'
        )
    scheduler = prepare(scheduler, sampling.steps)
    if sampling.spacing == "log-snr":
        even = np.linspace(*_way_down(schedule, sampling), sampling.steps - 1)
        times = torch.from_numpy(np.append(schedule.T, schedule.time(even)))
        scheduler.timesteps = times.float()
        scheduler.sigmas = torch.cat([times / schedule.T, torch.zeros(1)]).float()
    return scheduler


def check_times(
    config: Mapping[str, Any], schedule: Schedule | FlowSchedule, sampling: Sampling
) -> None:
    """Raise ValueError where a checkpoint, or a call, asks for times that it cannot have."""
    own, (low, high) = sampling.sampler == "own", schedule.window
    usual = {"timestep_type": "discrete"} | dict.fromkeys(() if own else OTHER_TIMES, False)
    for name, value in usual.items():
        if config.get(name, value) not in (value, None):
            keeps = 'sampler="own" keeps it, and ' if name in OTHER_TIMES else ""
            raise ValueError(
                f"the checkpoint's scheduler sets {name}={config[name]}, and a sampler here visits "
                f"the times of Sampling.spacing, steps of the schedule: {keeps}a process.scheduler "
                f"that is made anew with {name}={value!r} leaves it out"
            )
    if own and sampling.spacing != "leading":
        raise ValueError(f'sampler="own" has times of its own: spacing="{sampling.spacing}" is not')
    if sampling.log_snr and not low <= sampling.log_snr[0] < sampling.log_snr[1] <= high:
        raise ValueError(
            f"log_snr={sampling.log_snr} reaches beyond what the checkpoint was trained on, "
            f"({low:.2f}, {high:.2f})"
        )
