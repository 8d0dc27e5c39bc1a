"""Quadrature in log-SNR: against integrals that scipy does, and the model's own fine grids."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from scipy.integrate import quad

import conjure_lib as cj
from conjure_lib.sde import FlowSchedule, Schedule

ROOT = Path(__file__).parents[1]
BARS = DDPMScheduler(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
).alphas_cumprod.double()
VP, FLOW = Schedule(BARS), FlowSchedule()
Curve = Callable[[float], float]


def gaussian(c: float) -> Curve:
    """E‖Δε‖² of N(m1, c²) and N(m2, c²), |m1 - m2| = 1, at a log-SNR."""
    return lambda x: math.exp(x) / (1 + c**2 * math.exp(x)) ** 2


def mixture(x: float) -> float:
    """The same for two mixtures of two normal laws on the line, by a sum over a fine grid."""
    alpha, sigma = 1 / math.sqrt(1 + math.exp(-x)), 1 / math.sqrt(1 + math.exp(x))
    at = np.linspace(-9, 9, 6001)
    laws = (((-1.2, 0.3, 0.5), (0.7, 0.15, 0.5)), ((0.9, 0.2, 0.3), (-0.6, 0.4, 0.7)))
    found = []
    for law in laws:
        density, slope = np.zeros_like(at), np.zeros_like(at)
        for mean, c, share in law:
            v = alpha**2 * c**2 + sigma**2
            here = share * np.exp(-((at - alpha * mean) ** 2) / 2 / v) / math.sqrt(2 * math.pi * v)
            density, slope = density + here, slope - here * (at - alpha * mean) / v
        found.append((density, slope / np.maximum(density, 1e-300)))
    (p, score_p), (q, score_q) = found
    return float(((p + q) / 2 * sigma**2 * (score_p - score_q) ** 2).sum() * (at[1] - at[0]))


CURVES: dict[str, Curve] = {
    "gaussian 1": gaussian(1.0),
    "gaussian 0.3": gaussian(0.3),
    "gaussian 0.1": gaussian(0.1),
    "mixture": mixture,
}
SHIFTED = [3 * s / (1 + 2 * s) for s in np.linspace(1, 0.003, 10)]  # as Stable Diffusion 3 has them
CLOCKS: dict[str, tuple[Schedule | FlowSchedule, list[float]]] = {
    "leading": (VP, [901 - 100 * k for k in range(10)]),
    "log-snr": (VP, [999, 875, 724, 538, 330, 153, 52, 14, 3, 0]),
    "trailing": (VP, [999 - 100 * k for k in range(10)]),
    "linspace": (VP, [999 - 111 * k for k in range(10)]),
    "flow": (FLOW, [1000 * s for s in SHIFTED]),
    "flow, even times": (FLOW, np.linspace(1000, 1, 10).tolist()),
    "flow, to a tenth": (FLOW, np.linspace(1000, 100, 10).tolist()),
}


def log_snr(schedule: Schedule | FlowSchedule, t: float) -> float:
    """log(α²/σ²), written out for both families."""
    if schedule is FLOW:
        return 2 * math.log((1000 - t) / t) if t < 1000 else -math.inf
    bar = float(BARS[int(t)])
    return math.log(bar / (1 - bar))


def terms_of(schedule: Any, times: list[float], curve: Curve, draws: int = 1) -> cj.Terms:
    """One pair whose E‖Δε‖² is the curve."""
    nodes = [log_snr(schedule, t) for t in times]
    at = np.array([curve(x) if math.isfinite(x) else 0.0 for x in nodes])
    return cj.Terms(
        np.tile(at[:, None], (1, draws, 1, 2)), torch.tensor(times), schedule, cj.Sampling()
    )


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("clock", CLOCKS)
def test_ten_steps_are_within_their_error_of_the_integral(clock: str, name: str) -> None:
    (schedule, times), curve = CLOCKS[clock], CURVES[name]
    ends = (999, 0) if schedule is VP else (999, 1)
    low, high = (log_snr(schedule, t) for t in ends)
    truth = quad(curve, low, high, limit=200, points=[0.0, 2.0, 4.6])[0]
    (found,) = terms_of(schedule, times, curve).estimates()
    gap = abs(found.value - truth)
    if (clock, name) == ("trailing", "gaussian 0.1"):
        # half of J lies beyond t = 99, where nothing is seen: an error of the value's own size is
        # told, and it is seven eighths of the true one, as Sampling.spacing says
        assert 0.8 * found.value < found.quadrature_error
        assert 0.85 * gap < found.quadrature_error < gap
        return
    assert gap < max(0.05 * truth, found.quadrature_error)
    if clock == "log-snr":  # which puts the steps where they are needed
        assert found.value == pytest.approx(truth, rel=0.05)
        assert found.quadrature_error < 0.25 * truth


@pytest.mark.parametrize("weighting", cj.WEIGHTINGS)
@pytest.mark.parametrize("quadrature", ["log-snr", "linear"])
@pytest.mark.parametrize("schedule", [VP, FLOW])
def test_many_steps_are_the_integral(weighting: Any, quadrature: Any, schedule: Any) -> None:
    """Over log-SNR for "sde", a mean over time for the others, under g = 1 and under no weight."""
    times = list(range(999, -1, -9)) if schedule is VP else np.geomspace(999, 1, 100).tolist()
    low, high = log_snr(schedule, 999), log_snr(schedule, 0 if schedule is VP else 1)
    curve = gaussian(0.5)
    if weighting == "sde":
        truth = quad(curve, low, high)[0]
    else:
        every = np.arange(1, 1000, 0.1) if schedule is FLOW else np.arange(1000.0)
        nodes = np.array([log_snr(schedule, t) for t in every])
        factor = 1 + np.exp(nodes) if weighting == "score" and schedule is VP else 1.0
        if weighting == "score" and schedule is FLOW:
            factor = (1000 / every) ** 2
        truth = np.trapezoid(np.array([curve(x) for x in nodes]) * factor, every) / np.ptp(every)
    (found,) = terms_of(schedule, times, curve).estimates(weighting, quadrature)
    assert found.value == pytest.approx(truth, rel=0.03)


@pytest.mark.parametrize("quadrature", ["log-snr", "linear", "sum"])
def test_steps_and_draws_are_parts_of_the_value(quadrature: Any) -> None:
    rng = np.random.default_rng(0)
    terms = terms_of(VP, CLOCKS["leading"][1], gaussian(0.3), draws=5)
    terms.squares[:] *= rng.lognormal(sigma=0.3, size=terms.squares.shape)
    (found,) = terms.estimates("sde", quadrature)
    assert found.by_step.sum() == pytest.approx(found.value, rel=1e-12)
    assert found.by_draw.mean() == pytest.approx(found.value, rel=1e-12)
    doubled = cj.Terms(7 * terms.squares, terms.timesteps, terms.schedule)
    assert doubled.estimates("sde", quadrature)[0].value == pytest.approx(7 * found.value)


def test_the_weights_are_the_derivative_of_the_value() -> None:
    times, curve = CLOCKS["leading"][1], gaussian(0.3)
    terms = terms_of(VP, times, curve)
    (weights,) = terms.weights()
    for s in range(10):
        moved = []
        for sign in (1, -1):
            squares = terms.squares.copy()
            squares[:, :, s] *= 1 + sign * 1e-5
            moved.append(cj.Terms(squares, terms.timesteps, VP).estimates()[0].value)
        slope = (moved[0] - moved[1]) / (2e-5 * terms.squares[0, 0, s, 0])
        assert weights[s] == pytest.approx(slope, rel=1e-4, abs=1e-6)


def test_the_standard_error_is_how_far_a_value_scatters() -> None:
    """Over 4,000 sets of four noisy draws, though the weights are made of the same draws."""
    rng = np.random.default_rng(1)
    terms = terms_of(VP, CLOCKS["leading"][1], gaussian(0.3))
    noise = rng.gamma(20, 1 / 20, (4000, 4, 10, 1))
    found = cj.Terms(terms.squares[:, :1] * noise, terms.timesteps, VP).estimates()
    scatter = np.std([e.value for e in found])
    told = math.sqrt(np.mean([e.stderr**2 for e in found]))
    assert told == pytest.approx(scatter, rel=0.05)


@pytest.mark.parametrize("tiny", [0.0, 1e-300, 1e-12])
def test_terms_that_vanish_spoil_nothing(tiny: float) -> None:
    """At one step, at all but one, or at all: no more than straight lines would make of it."""
    times, curve = CLOCKS["leading"][1], gaussian(0.3)
    whole = terms_of(VP, times, curve)
    for gone in ([4], list(range(9)), list(range(1, 10)), list(range(10))):
        squares = whole.squares.copy()
        squares[:, :, gone] = tiny
        (found,) = cj.Terms(squares, whole.timesteps, VP).estimates()
        assert math.isfinite(found.value) and math.isfinite(found.quadrature_error)
        linear = cj.Terms(squares, whole.timesteps, VP).estimates("sde", "linear")[0].value
        assert 0 <= found.value <= 1.5 * linear + 1e-290
        assert found.by_step.sum() == pytest.approx(found.value)
    (nothing,) = cj.Terms(0 * whole.squares, whole.timesteps, VP).estimates()
    assert nothing.value == 0 and not nothing.by_step.any()


def test_a_window_counts_what_lies_in_it() -> None:
    times = list(range(999, -1, -9))
    for low, high in ((-3.0, 1.0), (1.0, 5.0)):
        terms = terms_of(VP, times, gaussian(0.3))
        inside = cj.Terms(terms.squares, terms.timesteps, VP, cj.Sampling(log_snr=(low, high)))
        truth = quad(gaussian(0.3), low, high)[0]
        assert inside.estimates()[0].value == pytest.approx(truth, rel=2e-3)


FINE = {  # ∫ ‖Δε‖² dλ by the trapezoid rule over 200 steps of ddim, draws 0 to 5; ten random pairs
    ("sickness", "poverty"): 38.383,
    ("burial", "grass"): 77.559,
    ("elevator", "purse"): 123.469,
    ("grade", "chest"): 26.053,
    ("terrible", "friend"): 8.769,
    ("maker", "baseball"): 34.159,
    ("appoint", "add"): 46.031,
    ("company", "elect"): 30.575,
    ("buddy", "ball"): 45.680,
    ("yard", "obtain"): 22.615,
}


def test_ten_steps_of_the_embedded_model_are_within_their_error_of_two_hundred() -> None:
    found = cj.distances(cj.load(device="cpu"), list(FINE), draws=6, progress=False)
    near = [
        abs(e.value - fine) < max(0.05 * fine, e.quadrature_error)
        for e, fine in zip(found, FINE.values(), strict=True)
    ]
    assert sum(near) >= 9
    ratio = [e.value / fine for e, fine in zip(found, FINE.values(), strict=True)]
    assert np.mean(ratio) == pytest.approx(1, abs=0.05)
    summed = cj.distances(
        cj.load(device="cpu"), list(FINE), draws=6, progress=False, quadrature="sum"
    )
    assert np.mean([e.value / f for e, f in zip(summed, FINE.values(), strict=True)]) > 1.5


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_pages_weights_are_pythons() -> None:
    code = (ROOT / "web" / "src" / "schedule.js").as_uri()
    ways = [[901 - 100 * k for k in range(10)], [751, 501, 251, 1], [1]]
    script = (
        f'import {{ termWeights }} from "{code}"; import {{ readFileSync }} from "node:fs";'
        'const { bars, ways } = JSON.parse(readFileSync(0, "utf8"));'
        "const of = (w) => ways.map((t) => termWeights({ alphaBar: bars }, t, w));"
        'console.log(JSON.stringify(["sde", "score", "noise"].map(of)));'
    )
    given = json.dumps({"bars": BARS.tolist(), "ways": ways})
    done = subprocess.run(
        ["node", "--input-type=module", "-e", script],
        input=given, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for weighting, found in zip(cj.WEIGHTINGS, json.loads(done.stdout), strict=True):
        for times, weights in zip(ways, found, strict=True):
            terms = cj.Terms(np.zeros((1, 1, len(times), 2)), torch.tensor(times), VP)
            np.testing.assert_allclose(weights, terms.weights(weighting, "linear")[0], rtol=1e-9)


@pytest.mark.parametrize("quadrature", ["log-snr", "linear", "sum"])
@pytest.mark.parametrize("weighting", cj.WEIGHTINGS)
def test_parts_sum_to_every_other_view(weighting: Any, quadrature: Any) -> None:
    rng = np.random.default_rng(4)
    times = torch.tensor(CLOCKS["leading"][1])
    terms = cj.Terms(rng.exponential(size=(3, 4, len(times), 2)), times, VP)
    parts = terms.parts(weighting, quadrature)
    np.testing.assert_allclose(parts.sum((2, 3)), terms.by_draw(weighting, quadrature))
    for part, one in zip(parts, terms.estimates(weighting, quadrature), strict=True):
        np.testing.assert_allclose(part.sum((1, 2)), one.by_draw)
        np.testing.assert_allclose(part.sum(2).mean(0), one.by_step)
        assert part.sum() / 4 == pytest.approx(one.value)
