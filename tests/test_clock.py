"""The times that samplers visit: one clock, whatever the class and the family."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

import conjure_lib as cj
from conjure_lib import SAMPLERS, SPACINGS

V14: dict[str, Any] = {  # Stable Diffusion v1.4's own scheduler file, which names no spacing
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "skip_prk_steps": True,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "trained_betas": None,
}
C = 0.3  # the standard deviation of the data
MEANS = torch.tensor([[0.9, -0.4, 0.3], [-0.5, 0.8, 0.2]], dtype=torch.float64)
APART = 1.96 + 1.44 + 0.01  # ‖m1 - m2‖²


def exact(kind: str = "epsilon", **changed: Any) -> cj.GenerativeProcess:
    """N(m, C²) as each family would predict it: ε, v = αε - σx̂_0, or the velocity ε - x̂_0."""
    scheduler: Any = diffusers.PNDMScheduler(**V14 | changed)
    if kind == "flow":
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    # between the steps too, as the continuous SDE has it
    logs = torch.cat([torch.zeros(1), V14_BARS.log()]).double()

    def predict(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        if kind == "flow":
            sigma = t.double()[:, None] / 1000
            alpha = 1 - sigma
        else:
            low = t.long()
            share = t.double() - low
            bars = torch.exp(torch.lerp(logs[low + 1], logs[(low + 2).clamp_max(1000)], share))
            alpha, sigma = bars.sqrt()[:, None], (1 - bars).sqrt()[:, None]
        eps = sigma * (x.double() - alpha * MEANS[y]) / (alpha**2 * C**2 + sigma**2)
        if kind == "epsilon":
            return eps
        clean = (x.double() - sigma * eps) / alpha.clamp_min(1e-9)
        return alpha * eps - sigma * clean if kind == "v_prediction" else eps - clean

    def encode(texts: Sequence[str]) -> Tensor:
        return torch.tensor([int(text) for text in texts])

    return cj.GenerativeProcess(predict, encode, scheduler, (3,), kind=kind)  # type: ignore[arg-type]


V14_BARS = diffusers.DDPMScheduler(
    **{k: v for k, v in V14.items() if k[:4] in ("num_", "beta")}
).alphas_cumprod.double()


def divergence(low: float, high: float) -> float:
    """J between two log-SNRs: α²/σ² = e^λ, and KL falls by half of ‖Δm‖² e^λ/(1 + C² e^λ)."""
    here, there = (APART * np.exp(x) / (1 + C**2 * np.exp(x)) for x in (high, low))
    return float(here - there)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [3, 10, 50])
def test_every_sampler_visits_the_same_times(spacing: Any, steps: int) -> None:
    process = exact()
    times = {
        name: process.sampler(sampler=name, steps=steps, spacing=spacing).timesteps.tolist()
        for name in process.samplers
        if name != "own"  # which follows the checkpoint's file
    }
    first = times["ddim"]
    assert all(found == first for found in times.values())
    assert len(set(first)) == steps and first == sorted(first, reverse=True)
    stride = 1000 // steps
    written = {  # as diffusers' documentation has them
        "leading": [k * stride + 1 for k in range(steps)][::-1],
        "trailing": [round(1000 - k * 1000 / steps) - 1 for k in range(steps)],
        "linspace": [round(999 - k * 999 / (steps - 1)) for k in range(steps)],
    }
    if spacing in written:
        assert first == pytest.approx(written[spacing], abs=0)
    else:  # even in log-SNR, but for rounding to whole timesteps at the clean end
        bars = V14_BARS[first]
        gaps = (bars / (1 - bars)).log().diff()[: steps // 2]
        assert (gaps / gaps.mean() - 1).abs().max() < 0.04
        assert first[0] == 999 and first[-1] == 0


@pytest.mark.parametrize("spacing", ["linspace", "log-snr"])
def test_ddim_at_uneven_times_is_ddim(spacing: Any) -> None:
    """x' = α'(x - σε)/α + σ'ε between the times that are visited (Song et al. 2021)."""
    process = exact()
    condition = process.encode(["1"])
    path = process.trajectories(
        condition, process.noise([0], 0), [0], sampler="ddim", steps=8, spacing=spacing
    )
    bars = V14_BARS[path.timesteps]
    for s in range(7):
        x, eps = path.states[:, s].double(), path.eps[:, s].double()
        clean = (x - (1 - bars[s]).sqrt() * eps) / bars[s].sqrt()
        following = bars[s + 1].sqrt() * clean + (1 - bars[s + 1]).sqrt() * eps
        torch.testing.assert_close(path.states[:, s + 1].double(), following, rtol=0, atol=1e-5)


@pytest.mark.parametrize("spacing", ["leading", "log-snr"])
def test_samplers_agree_within_their_errors(spacing: Any) -> None:
    process, found = exact(), {}
    for name in SAMPLERS:
        how = {"sampler": name, "spacing": spacing, "draws": 8, "progress": False}
        found[name] = cj.distance(process, "0", "1", **how)
    truth = divergence(*process.schedule.window)
    for name, estimate in found.items():
        assert abs(estimate.value - truth) < 0.05 * truth, name


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flow"])
def test_one_window_is_one_divergence_in_every_family(kind: str) -> None:
    process = exact(kind)
    low, high = -3.0, 5.0
    how = {"spacing": "log-snr", "log_snr": (low, high), "steps": 12, "draws": 2}
    sampler = next(iter(process.samplers))
    estimate = cj.distance(process, "0", "1", sampler=sampler, progress=False, **how)
    assert estimate.value == pytest.approx(divergence(low, high), rel=0.01)
    half = cj.distance(
        process, "0", "1", sampler=sampler, progress=False, **how | {"log_snr": (low, 1.0)}
    )
    assert half.value == pytest.approx(divergence(low, 1.0), rel=0.01)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"use_karras_sigmas": True}, "sets use_karras_sigmas=True.*register_to_config"),
        ({"use_beta_sigmas": True}, "sets use_beta_sigmas=True"),
        ({"rescale_betas_zero_snr": True}, "sets rescale_betas_zero_snr=True"),
        ({"timestep_type": "continuous"}, "sets timestep_type=continuous"),
    ],
)
def test_other_times_are_refused_in_one_sentence(changed: dict[str, Any], message: str) -> None:
    process = exact()
    process.scheduler.register_to_config(**changed)
    with pytest.raises(ValueError, match=message):
        cj.distance(process, "0", "1")
    name = next(iter(changed))
    process.scheduler.register_to_config(**{name: "discrete" if "type" in name else False})
    assert cj.distance(process, "0", "1", draws=1).value > 0


def test_what_a_window_or_a_spacing_cannot_be() -> None:
    process, flow = exact(), exact("flow")
    with pytest.raises(ValueError, match=r"log_snr=\(-20.0, 7.0\) reaches beyond .* \(-5.3"):
        cj.distance(process, "0", "1", log_snr=(-20, 7))
    with pytest.raises(ValueError, match="a window .low, high., and 7 is not below 3"):
        cj.distance(process, "0", "1", log_snr=(7, 3))
    with pytest.raises(TypeError, match="log_snr must be two numbers"):
        cj.distance(process, "0", "1", log_snr=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="spacing must be one of leading, trailing, linspace, log"):
        cj.distance(process, "0", "1", spacing="even")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='a flow has spacing "leading".* not "trailing"'):
        cj.distance(flow, "0", "1", sampler="euler", spacing="trailing")


# -- the chain that was run ------------------------------------------------------------------


def joint(mean: float, width: float, times: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of (x_T, …, x_0) of the ancestral chain of N(mean, width²) in one dim."""
    bars = [*(float(V14_BARS[t]) for t in times), 1.0]
    size = len(bars)
    centre, noise = np.zeros(size), np.eye(size)  # x = lift · noise + centre, x_T standard normal
    lift = np.zeros((size, size))
    lift[0, 0] = 1
    for s, (bar, after) in enumerate(pairwise(bars)):
        a, b = after / bar, 1 - bar / after  # 1/(1 - β), β
        slope = np.sqrt(1 - bar) / (bar * width**2 + 1 - bar)  # ε(x) = slope (x - √ᾱ m)
        # μ = (x - β/√(1-ᾱ) ε)/√(1-β)
        gain = np.sqrt(a) * (1 - b / np.sqrt(1 - bar) * slope)
        shift = np.sqrt(a) * b / np.sqrt(1 - bar) * slope * np.sqrt(bar) * mean
        centre[s + 1] = gain * centre[s] + shift
        lift[s + 1] = gain * lift[s]
        lift[s + 1, s + 1] = np.sqrt(b)
    return centre, lift @ noise @ lift.T


def brute_force(p: tuple[np.ndarray, np.ndarray], q: tuple[np.ndarray, np.ndarray]) -> float:
    """KL of two normal laws of the whole chain."""
    inverse, apart = np.linalg.inv(q[1]), q[0] - p[0]
    logs = np.linalg.slogdet(q[1])[1] - np.linalg.slogdet(p[1])[1]
    return float((np.trace(inverse @ p[1]) - len(apart) + apart @ inverse @ apart + logs) / 2)


@pytest.mark.parametrize("widths", [(0.3, 0.3), (0.3, 0.5)])
@pytest.mark.parametrize("steps", [2, 5])
def test_the_divergence_of_the_chain_is_that_of_its_joint_laws(
    widths: tuple[float, float], steps: int
) -> None:
    means = (0.4, -0.6)

    def predict(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        bars = V14_BARS[t.long()][:, None]
        m, c = torch.tensor(means).double()[y][:, None], torch.tensor(widths).double()[y][:, None]
        return (1 - bars).sqrt() * (x.double() - bars.sqrt() * m) / (bars * c**2 + 1 - bars)

    process = cj.GenerativeProcess(predict, exact().encode, exact().scheduler, (1,))
    how = {"sampler": "ancestral", "steps": steps, "draws": 4000, "batch_size": 8000}
    estimate = cj.distance(process, "0", "1", quadrature="chain", progress=False, **how)
    times = estimate.timesteps.tolist()
    one, two = (joint(m, c, times) for m, c in zip(means, widths, strict=True))
    truth = brute_force(one, two) + brute_force(two, one)
    assert estimate.quadrature_error == 0
    if widths[0] == widths[1]:  # Δε does not depend on x then
        assert estimate.value == pytest.approx(truth, rel=1e-4)
    else:
        assert abs(estimate.value - truth) < 3.5 * estimate.stderr < 0.1 * truth


def test_a_chain_is_asked_of_what_was_one() -> None:
    for wrong in ({}, {"sampler": "ddpm"}, {"sampler": "ancestral", "weighting": "noise"}):
        with pytest.raises(ValueError, match="the divergence of the chain that was run"):
            cj.distance(exact(), "0", "1", quadrature="chain", **wrong)  # type: ignore[arg-type]
