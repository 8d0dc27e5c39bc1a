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


def exact(
    kind: str = "epsilon", widths: tuple[float, float] = (C, C), **changed: Any
) -> cj.GenerativeProcess:
    """N(m, c²) as each family would predict it: ε, v = αε - σx̂_0, or the velocity ε - x̂_0.

    A network of EDM denoises x_0 + σ̂ε, whose σ̂ is σ/α: it is asked for x/α, and ε is what it takes
    off, over σ̂ (Karras et al. 2022).
    """
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
        if kind == "edm":
            z, level = x.double() / alpha, sigma / alpha
            return (z - denoised(z, level, y)) / level
        c = torch.tensor(widths).double()[y][:, None]
        eps = sigma * (x.double() - alpha * MEANS[y]) / (alpha**2 * c**2 + sigma**2)
        if kind == "epsilon":
            return eps
        clean = (x.double() - sigma * eps) / alpha.clamp_min(1e-9)
        return alpha * eps - sigma * clean if kind == "v_prediction" else eps - clean

    def encode(texts: Sequence[str]) -> Tensor:
        return torch.tensor([int(text) for text in texts])

    said: Any = "epsilon" if kind == "edm" else kind
    return cj.GenerativeProcess(predict, encode, scheduler, (3,), kind=said)


def denoised(z: Tensor, level: Tensor, y: Tensor) -> Tensor:
    """E[x_0 | x_0 + level · ε = z] of N(m, C²), what a network of EDM learns."""
    return (C**2 * z + level**2 * MEANS[y]) / (C**2 + level**2)


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


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "edm", "flow"])
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


@pytest.mark.parametrize("sampler", [*SAMPLERS, "own"])
def test_what_the_process_says_that_it_predicts_is_what_the_sampler_takes_it_for(
    sampler: str,
) -> None:
    """Whatever the checkpoint's scheduler says, or does not say: as v a trajectory is the same."""
    ends = []
    for kind in ("epsilon", "v_prediction"):
        process = exact(kind, (0.3, 0.4))
        if sampler == "own":  # not PNDM, which asks for two predictions at its first step
            process.scheduler = diffusers.DDIMScheduler(**from_file({"clip_sample": False}))
        condition, x_T = process.encode(["0", "1"]), process.noise([0, 1], 0)
        path = process.trajectories(condition, x_T, [0, 1], sampler=sampler, steps=20)
        ends.append(path.final)
    torch.testing.assert_close(*ends, rtol=0, atol=2e-3)


@pytest.mark.parametrize("kind", ["epsilon", "flow"])
@pytest.mark.parametrize("window", [(0.0, 3.0), (2.5, 4.0)])
def test_a_window_is_reached_from_noise(kind: str, window: tuple[float, float]) -> None:
    """The states within it are those of a trajectory, also where the steps are even in log-SNR."""
    process = exact(kind, (0.3, 0.5))
    how = {"log_snr": window, "draws": 40, "progress": False}
    fine = cj.distance(process, "0", "1", steps=500, **how)
    few = cj.distance(process, "0", "1", steps=25, spacing="log-snr", **how)
    assert few.value == pytest.approx(fine.value, rel=0.05)


def test_the_plain_sum_takes_no_uneven_steps() -> None:
    process, what = exact(), 'quadrature="sum" counts all steps alike'
    for how in ({"spacing": "log-snr"}, {"spacing": "log-snr", "tolerance": 0.2}):
        with pytest.raises(ValueError, match=what):
            cj.distance(process, "0", "1", quadrature="sum", **how)  # type: ignore[arg-type]
    aimed = cj.distance(process, "0", "1", quadrature="sum", tolerance=0.9)
    np.testing.assert_allclose(np.diff(aimed.timesteps), -(1000 // len(aimed.timesteps)))


@pytest.mark.parametrize("limit", ["clip_sample", "thresholding"])
def test_a_clipped_prediction_is_clipped_or_refused(limit: str) -> None:
    process = exact()
    process.scheduler = diffusers.DDIMScheduler(**from_file({limit: True}))
    clipped = process.sampler(sampler="ddim", steps=5)
    assert clipped.config[limit]
    assert process.sampler(sampler="own", steps=5).config[limit]
    with pytest.raises(ValueError, match=f"EulerDiscreteScheduler has no {limit}, which the"):
        cj.distance(process, "0", "1", sampler="euler")
    if limit == "clip_sample":  # the class that takes uneven steps has none
        with pytest.raises(ValueError, match=f'Multistep.* has no {limit}.*take "ddpm" or "own"'):
            cj.distance(process, "0", "1", spacing="linspace")


def test_of_a_flows_two_steps_one_sees_the_texts_and_knows_no_error() -> None:
    assert np.isnan(cj.distance(exact("flow"), "0", "1", steps=2).quadrature_error)
    assert cj.distance(exact("flow"), "0", "1", steps=3).quadrature_error > 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"use_karras_sigmas": True}, "sets use_karras_sigmas=True.*spacing.* that is made anew"),
        ({"use_beta_sigmas": True}, "sets use_beta_sigmas=True"),
        ({"rescale_betas_zero_snr": True}, "sets rescale_betas_zero_snr=True"),
        ({"timestep_type": "continuous"}, "sets timestep_type=continuous"),
    ],
)
def test_other_times_are_refused_in_one_sentence(changed: dict[str, Any], message: str) -> None:
    process = exact()
    plain = cj.distance(process, "0", "1", draws=1).value
    process.scheduler = diffusers.EulerDiscreteScheduler(**from_file(changed))
    with pytest.raises(ValueError, match=message) as refused:
        cj.distance(process, "0", "1", sampler="euler")
    if "keeps it" in str(refused.value):  # on another schedule, or at times of its own
        assert list(process.samplers) == ["own"]  # the first that fits
        for how in ({}, {"tolerance": 0.5}):
            assert cj.distance(process, "0", "1", draws=1, **how).value > 0  # type: ignore[arg-type]
    else:  # a quarter of log σ is no step
        with pytest.raises(ValueError, match=message):
            cj.distance(process, "0", "1", sampler="own")
    (name,) = changed
    usual = {name: "discrete" if "type" in name else False}
    process.scheduler = type(process.scheduler).from_config(process.scheduler.config, **usual)
    assert cj.distance(process, "0", "1", draws=1).value == plain


def from_file(changed: dict[str, Any]) -> dict[str, Any]:
    """Stable Diffusion v1.4's settings that all classes know, and others."""
    return (
        {k: v for k, v in V14.items() if "beta" in k or "num_" in k} | {"steps_offset": 1} | changed
    )


@pytest.mark.parametrize("sampler", [*SAMPLERS, "own"])
def test_a_schedule_that_other_classes_do_not_read_in_the_settings_is_kept(sampler: str) -> None:
    """CogView3's scheduler shifts the signal-to-noise ratio: all samplers go by its table."""
    process = exact()
    shifted = diffusers.CogVideoXDDIMScheduler(**from_file({"snr_shift_scale": 3.0}))
    bars = shifted.alphas_cumprod.double()
    ratio = V14_BARS / (1 - V14_BARS) / (bars / (1 - bars))
    torch.testing.assert_close(ratio, torch.full_like(ratio, 3.0), rtol=1e-3, atol=0)
    process.scheduler = shifted

    def predict(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        alpha, sigma = bars[t.long()].sqrt()[:, None], (1 - bars[t.long()]).sqrt()[:, None]
        return sigma * (x.double() - alpha * MEANS[y]) / (alpha**2 * C**2 + sigma**2)

    process.predict = predict
    if sampler != "own":
        made = process.sampler(sampler=sampler, steps=10)
        torch.testing.assert_close(made.alphas_cumprod.double(), bars, rtol=1e-3, atol=1e-6)
    found = cj.distance(process, "0", "1", sampler=sampler, draws=8, steps=50)
    low, high = (float((bar / (1 - bar)).log()) for bar in bars[[-1, 0]])
    assert found.value == pytest.approx(divergence(low, high), rel=0.02)
    if sampler in ("ddim", "own"):  # and its states are those of this table
        condition = process.encode(["1"])
        path = process.trajectories(condition, process.noise([0], 0), [0], sampler=sampler, steps=8)
        at, (x, eps) = bars[path.timesteps], (path.states.double(), path.eps.double())
        for s in range(7):
            clean = (x[:, s] - (1 - at[s]).sqrt() * eps[:, s]) / at[s].sqrt()
            following = at[s + 1].sqrt() * clean + (1 - at[s + 1]).sqrt() * eps[:, s]
            torch.testing.assert_close(x[:, s + 1], following, rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (diffusers.DDIMScheduler(rescale_betas_zero_snr=True), "no zero-terminal SNR"),
        (diffusers.EDMEulerScheduler(), "EDMEulerScheduler has no variance-preserving schedule"),
    ],
)
def test_a_schedule_of_another_kind_is_refused_in_one_sentence(
    scheduler: Any, message: str
) -> None:
    process = exact()
    process.scheduler = scheduler
    for sampler in ("ddim", "own"):
        with pytest.raises(ValueError, match=message):
            cj.distance(process, "0", "1", sampler=sampler)


def test_the_checkpoints_own_sampler_takes_no_times_from_elsewhere() -> None:
    process = exact()
    process.scheduler = diffusers.EulerDiscreteScheduler(**from_file({"use_karras_sigmas": True}))
    own: dict[str, Any] = {"sampler": "own", "draws": 1, "steps": 8}
    with pytest.raises(ValueError, match='sampler="own" has times of its own: spacing="log-snr"'):
        cj.distance(process, "0", "1", spacing="log-snr", **own)
    with pytest.raises(ValueError, match=r"log_snr=\(-20.0, 7.0\) reaches beyond"):
        cj.distance(process, "0", "1", log_snr=(-20, 7), **own)
    diffusers_own = diffusers.EulerDiscreteScheduler.from_config(process.scheduler.config)
    found = cj.distance(process, "0", "1", tolerance=0.3, **own)
    diffusers_own.set_timesteps(len(found.timesteps))
    np.testing.assert_array_equal(found.timesteps, diffusers_own.timesteps)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_steps_that_a_sampler_cannot_take_are_named(steps: int) -> None:
    """Runge and Kutta's first three of PNDM ask for four times each."""
    process = exact(skip_prk_steps=False)
    with pytest.raises(ValueError, match=rf"PNDMScheduler cannot take steps={steps} .*take more"):
        process.sampler(sampler="own", steps=steps)
    with pytest.raises(ValueError, match=r"13 times in 4 steps.* of ddim, .*dpm\+\+2m$"):
        process.sampler(sampler="own", steps=4)


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
    one = {"sampler": "ancestral"}
    for wrong in (
        {},
        {"sampler": "ddpm"},
        one | {"weighting": "noise"},
        one | {"pairing": "crossed"},
    ):
        with pytest.raises(ValueError, match="the divergence of the chain that was run"):
            cj.distance(exact(), "0", "1", quadrature="chain", **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("quadrature", ["sum", "chain"])
def test_a_sum_over_all_steps_takes_no_window(quadrature: Any) -> None:
    """It would be the same number in every window, and J of half of one is not."""
    process, how = exact(), {"sampler": "ancestral", "quadrature": quadrature, "draws": 1}
    with pytest.raises(ValueError, match=f'quadrature="{quadrature}" counts all steps'):
        cj.distance(process, "0", "1", log_snr=(-2, 2), **how)
    terms = cj.pair_terms(process, [("0", "1")], sampler="ancestral", log_snr=(-2, 2), draws=1)
    with pytest.raises(ValueError, match="it has no window log_snr"):
        terms.estimates("sde", quadrature)
