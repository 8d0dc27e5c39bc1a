"""One clock for all samplers: the times that steps lie at, and diffusers' schedulers set to them.

Left to itself each class of diffusers has a spacing of its own, so that one checkpoint would be
asked at other times by every sampler.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from conjure_lib.adapters import quiet
from conjure_lib.sampling import Sampling
from conjure_lib.sde import FlowSchedule, Schedule

OTHER_TIMES = (
    *("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"),
    *("use_flow_sigmas", "rescale_betas_zero_snr"),
)


def scheduler_of(
    name: str, config: Mapping[str, Any], schedule: Schedule | FlowSchedule, sampling: Sampling
) -> Any:
    """A fresh diffusers scheduler of class ``name``, with the timesteps of ``sampling`` set.

    Raises:
        ValueError: the checkpoint's ``config``, the window or the steps do not go with it.
    """
    import diffusers

    _check_window(schedule, sampling)
    leading = sampling.spacing == "leading"
    changed: dict[str, Any] = {"timestep_spacing": "leading"}
    if name == "DDIMScheduler" and not leading:  # which can only take even steps; the same solver
        name, changed = (
            "DPMSolverMultistepScheduler",
            {"solver_order": 1, "algorithm_type": "dpmsolver++"},
        )
    if sampling.sampler == "ancestral":
        changed["variance_type"] = "fixed_large"
    kind = getattr(diffusers, name)
    known = inspect.signature(kind.__init__).parameters
    if "clip_sample" in known and "clip_sample" not in config:  # latents have no bounds
        changed["clip_sample"] = False
    with quiet():  # settings that were unknown as it was loaded are so still
        scheduler = kind.from_config(config, **{k: v for k, v in changed.items() if k in known})
    if not isinstance(schedule, Schedule):
        return scheduler
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
        even = np.linspace(*(sampling.log_snr or schedule.window), steps)
        times = np.sort(schedule.time(even).round())
        times[-1] = T - 1
        times = np.minimum(np.maximum.accumulate(times - rising), T - steps) + rising  # all differ
    return times[::-1].astype(np.int64)


def set_flow(scheduler: Any, schedule: FlowSchedule, sampling: Sampling, **options: Any) -> None:
    """Set the times of a flow: those of its own pipeline, or even in log-SNR from noise itself on.

    Args:
        options: of the scheduler's ``set_timesteps``, as its pipeline gives them.

    Raises:
        ValueError: another spacing.
    """
    if sampling.spacing not in ("leading", "log-snr"):
        raise ValueError(
            'a flow has spacing "leading", the times of its own pipeline, or "log-snr", not '
            f'"{sampling.spacing}"'
        )
    scheduler.set_timesteps(num_inference_steps=sampling.steps, **options)
    if sampling.spacing == "log-snr":
        even = np.linspace(*(sampling.log_snr or schedule.window), sampling.steps - 1)
        times = torch.from_numpy(np.append(schedule.T, schedule.time(even)))
        scheduler.timesteps = times.float()
        scheduler.sigmas = torch.cat([times / schedule.T, torch.zeros(1)]).float()


def check_config(config: Mapping[str, Any]) -> None:
    """Raise ValueError where a checkpoint asks for times, or a schedule, that it cannot have."""
    asked = [name for name in OTHER_TIMES if config.get(name)]
    if config.get("timestep_type", "discrete") != "discrete":
        asked.append("timestep_type")
    if asked:
        raise ValueError(
            f"the checkpoint's scheduler sets {asked[0]}={config[asked[0]]}, and a sampler here "
            f"visits the times of Sampling.spacing: process.scheduler.register_to_config("
            f"{asked[0]}={'discrete' if asked[0] == 'timestep_type' else False!r}) leaves it out"
        )


def _check_window(schedule: Schedule | FlowSchedule, sampling: Sampling) -> None:
    low, high = schedule.window
    if sampling.log_snr and not low <= sampling.log_snr[0] < sampling.log_snr[1] <= high:
        raise ValueError(
            f"log_snr={sampling.log_snr} reaches beyond what the checkpoint was trained on, "
            f"({low:.2f}, {high:.2f})"
        )
