"""Steps and draws by a tolerance: against closed forms, and a spy that counts predictions."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from test_clock import V14, V14_BARS, divergence, exact
from torch import Tensor

import conjure_lib as cj
from conjure_lib.sde import Schedule
from conjure_lib.spending import spend
from conjure_tools import cli

LAWS = ((0.4, 0.3), (-0.6, 0.5), (-0.5, 0.9), (0.4, 0.3))  # means and widths, in one dimension


def scattered() -> cj.GenerativeProcess:
    """Normal laws of unequal widths: Δε depends on x, so that draws scatter."""
    laws = torch.tensor(LAWS).double()

    def predict(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        bars = V14_BARS[t.long()][:, None]
        m, c = laws[y, :1], laws[y, 1:]
        return (1 - bars).sqrt() * (x.double() - bars.sqrt() * m) / (bars * c**2 + 1 - bars)

    def encode(texts: Sequence[str]) -> Tensor:
        return torch.tensor([int(text) if text else 3 for text in texts])

    return cj.GenerativeProcess(predict, encode, diffusers.PNDMScheduler(**V14), (1,))


def true_divergence(one: int, two: int) -> float:
    """J of two of LAWS between both ends of the schedule."""

    def at(bar: float) -> float:
        (m, c), (n, d) = LAWS[one], LAWS[two]
        v, w = bar * c**2 + 1 - bar, bar * d**2 + 1 - bar
        return ((v - w) ** 2 + bar * (m - n) ** 2 * (v + w)) / (2 * v * w)

    return at(float(V14_BARS[0])) - at(float(V14_BARS[-1]))


def test_steps_are_added_where_the_error_is_theirs() -> None:
    """Of equal widths all draws agree: four of them, and as many steps as it takes."""
    process, truth = exact(), divergence(*exact().schedule.window)
    taken = []
    for tolerance in (0.2, 0.05, 0.01):
        found = cj.distance(process, "0", "1", steps=3, draws=1, tolerance=tolerance)
        assert found.spent is not None and found.spent.met and len(found.by_draw) == 4
        assert found.value == pytest.approx(truth, rel=tolerance)
        assert found.quadrature_error <= tolerance * found.value
        taken.append(len(found.timesteps))
    assert taken[0] < taken[1] < taken[2]
    # every grid on the way was made, and paid for
    assert found.spent.evaluations == 16 * sum(
        3 * 2**n for n in range(int(math.log2(taken[-1] / 3)) + 1)
    )


def test_draws_are_added_where_the_error_is_theirs() -> None:
    process, truth = scattered(), true_divergence(0, 1)
    before = process.evaluations
    found = cj.distance(process, "0", "1", steps=40, tolerance=0.05, budget=10**6)
    assert found.spent is not None and found.spent.met
    assert found.spent.evaluations == process.evaluations - before
    assert len(found.timesteps) == 40 and len(found.by_draw) > 100
    assert found.spent.evaluations == 4 * 40 * len(found.by_draw)  # none of them twice
    assert math.hypot(found.stderr, found.quadrature_error) <= 0.05 * found.value
    assert abs(found.value - truth) < 3 * 0.05 * truth
    assert "predictions, tolerance met" in str(found)


def test_it_is_the_estimate_of_these_steps_and_draws() -> None:
    """For any batch, and whatever other pairs there are."""
    process, how = scattered(), {"tolerance": 0.1, "steps": 5, "progress": False}
    alone = cj.distance(process, "0", "1", **how)
    again = cj.distances(process, [("2", "0"), ("0", "1"), ("1", "1")], batch_size=7, **how)
    steps, draws = len(alone.timesteps), len(alone.by_draw)
    plain = cj.distance(process, "0", "1", steps=steps, draws=draws, spacing="log-snr")
    assert plain.spent is None
    for found in (again[1], plain):
        np.testing.assert_allclose(found.by_draw, alone.by_draw, rtol=1e-5)
        np.testing.assert_allclose(found.by_step, alone.by_step, rtol=1e-5)
        assert found.quadrature_error == pytest.approx(alone.quadrature_error, rel=1e-4)
    assert again[1].spent == alone.spent
    assert (again[2].value, again[2].spent.met) == (0, True)  # type: ignore[union-attr]
    apart = {(len(e.timesteps), len(e.by_draw)) for e in again}
    assert len(apart) == 3  # each as its own errors ask


@pytest.mark.parametrize(
    ("more", "price"),
    [({}, 4), ({"guidance": 2.0}, 6), ({"pairing": "crossed"}, 2),
     ({"pairing": "crossed", "guidance": 2.0}, 4)],
)  # fmt: skip
def test_what_was_spent_is_what_a_spy_counts(more: dict[str, Any], price: int) -> None:
    process, rows = scattered(), []
    predict = process.predict

    def spy(x: Tensor, t: Tensor, y: Any) -> Tensor:
        rows.append(len(x))
        return predict(x, t, y)

    process.predict = spy
    budget = price * 5 * 70 + 3
    found = cj.distance(process, "0", "1", steps=5, tolerance=0.001, budget=budget, **more)
    assert found.spent is not None and not found.spent.met
    assert found.spent.evaluations == sum(rows) <= budget
    assert found.spent.evaluations > budget / 3
    assert str(found).endswith(f"{sum(rows):,} predictions, tolerance not met")


def test_a_budget_buys_what_it_can() -> None:
    """Draws up to the last; a finer grid with all of its first draws, or not at all."""
    process = scattered()
    found = cj.distance(process, "0", "1", steps=40, tolerance=0.01, budget=4 * 40 * 23 + 159)
    assert found.spent is not None and found.spent.evaluations == 4 * 40 * 23
    assert len(found.by_draw) == 23
    coarse = cj.distance(exact(), "0", "1", steps=3, draws=4, tolerance=0.01, budget=4 * 3 * 4 + 95)
    assert coarse.spent is not None and coarse.spent.evaluations == 48
    assert len(coarse.timesteps) == 3


def test_out_of_reach_what_is_left_lessens_the_larger_error() -> None:
    found = cj.distance(scattered(), "0", "1", tolerance=1e-6, budget=20_000)
    assert found.spent is not None and not found.spent.met
    assert 19_000 < found.spent.evaluations <= 20_000
    assert 0.1 < found.quadrature_error / found.stderr < 2


def test_a_spacing_that_is_given_is_kept() -> None:
    """Even times need a number of steps that divides the schedule, and so go to the next one."""
    found = cj.distance(exact(), "0", "1", steps=8, spacing="leading", tolerance=0.05)
    strides = -np.diff(found.timesteps)
    assert (strides == strides[0]).all() and 1000 % len(found.timesteps) == 0
    even = cj.distance(exact(), "0", "1", steps=8, tolerance=0.05)
    assert even.timesteps[0] == 999 and even.timesteps[-1] == 0


def test_the_divergence_of_a_chain_has_no_error_of_steps() -> None:
    how = {"sampler": "ancestral", "quadrature": "chain", "tolerance": 0.1, "steps": 5}
    found = cj.distance(scattered(), "0", "1", **how)
    assert found.spent is not None and found.spent.met and len(found.timesteps) == 5


def test_stopping_early_biases_little() -> None:
    """Draws that scatter log-normally by 45 %, whose small sums look sure of themselves."""
    rng = np.random.default_rng(0)
    size = math.log(1 + 0.45**2)
    z = np.exp(rng.normal(-size / 2, math.sqrt(size), (300, 400)))
    schedule = Schedule(V14_BARS)

    def make(pairs: Sequence[Any], sampling: cj.Sampling) -> cj.Terms:
        rows = z[np.ix_([int(a) for a, _ in pairs], list(sampling.numbers))]
        times = torch.linspace(999, 0, sampling.steps).round().long()
        flat = schedule.coefficients(times)[0].numpy() ** 2  # ‖Δv‖² = 1
        return cj.Terms(
            rows[..., None, None] * np.stack([flat, flat], 1), times, schedule, sampling
        )

    pairs = [(str(i), "") for i in range(len(z))]
    begin = cj.Sampling(steps=30, draws=4, spacing="log-snr")
    ways = {"weighting": "sde", "quadrature": "linear"}
    parts = spend(make, pairs, begin, {}, tolerance=0.1, budget=10**6, **ways)
    found = [terms.estimates("sde", "linear")[0] for terms, _ in parts]
    low, high = schedule.window
    truth = math.log((1 + math.exp(high)) / (1 + math.exp(low)))  # ∫ α² dλ
    off = np.array([e.value / truth - 1 for e in found])
    assert all(spent.met for _, spent in parts)
    assert min(len(e.by_draw) for e in found) >= 4
    assert -0.03 < off.mean() < 0.01
    assert np.mean(abs(off) < 0.1) > 0.6 and np.sqrt(np.mean(off**2)) < 0.125


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"tolerance": 5}, "tolerance must be a share, such as 0.05, not 5"),
        ({"tolerance": 0}, "tolerance must be a share"),
        ({"tolerance": math.nan}, "tolerance must be a finite number"),
        ({"tolerance": 0.1, "draws": [0, 2]}, "tolerance adds draws: say with how many"),
        ({"tolerance": 0.1, "noise": np.zeros((5, 1))}, "tolerance adds draws: say with how many"),
        ({"tolerance": 0.1, "budget": 100}, "budget=100 does not pay for the first 200 noise"),
        ({"tolerance": 0.1, "budget": 0}, "budget must be at least 1"),
        ({"budget": 20_000}, "budget=20000 is spent for a tolerance: give one"),
        ({"budget": 400}, "budget=400 is spent for a tolerance: give one"),
        ({"budget": "many"}, "budget='many' is spent for a tolerance"),
    ],
)
def test_what_cannot_be_met_is_said_before_any_work(how: dict[str, Any], message: str) -> None:
    process = scattered()
    with pytest.raises(ValueError, match=message):
        cj.distance(process, "0", "1", **how)
    assert process.evaluations == 0


def test_a_tolerance_in_a_shell(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", "snow leopard", "bengal tiger", "--steps", "2", "--device", "cpu"]
    assert cli.main([*words, "--tolerance", "0.9", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["met"] is True and record["tolerance"] == 0.9
    assert record["spacing"] == "log-snr" and record["draws"] >= 5
    assert record["unet_evaluations"] >= 4 * record["steps"] * record["draws"]
    assert cli.main([*words, "--tolerance", "0.01", "--budget", "50"]) == 0
    out = capsys.readouterr().out
    assert "40 noise predictions" in out and "; tolerance not met" in out
