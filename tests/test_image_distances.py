"""The record of sample distances: what is generated, kept, compared and counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DDIMScheduler
from scipy.stats import spearmanr
from torch import Tensor

import conjure_lib as cj
from conjure_tools import baselines
from conjure_tools.distributions import METHODS, energy, sample_distances
from studies import image_distances as distances

SHAPE = (2, 3, 3)
TEXTS = ["a", "ab", "abcd", "b"]


@pytest.fixture
def process() -> cj.GenerativeProcess:
    """Exact predictions of N(m, ¼ I), where m grows with the length of the text."""
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False)
    schedule = cj.Schedule.of(scheduler)

    def encode(texts: list[str]) -> Tensor:
        return torch.tensor([[0.3 * len(text) + 0.01 * ord(text[0])] for text in texts])

    def predict(x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        alpha, sigma = (c.float().view(-1, 1, 1, 1) for c in schedule.coefficients(t))
        away = x - alpha * condition.view(-1, 1, 1, 1)
        return sigma * away / (0.25 * alpha**2 + sigma**2)

    return cj.GenerativeProcess(predict, encode, scheduler, SHAPE)


@pytest.fixture
def pairs() -> pd.DataFrame:
    rows = [("p1", "a", "ab", 3.0), ("p2", "a", "abcd", 1.0), ("p3", "b", "a", 9.0),
            ("p4", "ab", "b", 5.0)]  # fmt: skip
    return pd.DataFrame(rows, columns=["id", "text1", "text2", "score"])


def test_latents_depend_on_the_text_and_the_draw_alone(
    process: cj.GenerativeProcess, tmp_path: Path
) -> None:
    few = distances.latents(process, TEXTS, 2, tmp_path / "few")
    more = distances.latents(process, TEXTS[::-1], 3, tmp_path / "more")
    assert few.shape == (4, 2, 2, 18) and few.dtype == np.float32
    np.testing.assert_allclose(few, more[::-1, :, :2], atol=1e-5)
    start = process.noise([distances.OTHER + 1], 0)
    path = process.trajectories(process.encode(["ab"]), start, [0], steps=distances.STEPS)
    np.testing.assert_allclose(few[1, 1, 1], path.final.flatten(), atol=1e-5)


def test_what_is_generated_is_kept(process: cj.GenerativeProcess, tmp_path: Path) -> None:
    first = distances.latents(process, TEXTS, 2, tmp_path)
    before = process.evaluations
    assert before == 4 * 2 * 2 * distances.STEPS
    next(tmp_path.rglob("draw-1001.npy")).unlink()
    np.testing.assert_array_equal(distances.latents(process, TEXTS, 2, tmp_path), first)
    assert process.evaluations - before == 4 * distances.STEPS
    distances.latents(process, TEXTS[1:], 2, tmp_path)  # other texts: nothing is mistaken for them
    assert process.evaluations - before == 4 * distances.STEPS + 3 * 4 * distances.STEPS


def test_the_tables_hold_what_the_library_gives(
    process: cj.GenerativeProcess, pairs: pd.DataFrame, tmp_path: Path
) -> None:
    table, agreed, notes = distances.make(
        process, {"toy": pairs}, tmp_path, images=4, draws=2, resamples=50, report=lambda _: None
    )
    assert notes["evaluations"] == process.evaluations
    values = table.set_index(["method", "start", "images", "id"])["value"].sort_index()
    texts = [(row.text1, row.text2) for row in pairs.itertuples()]
    direct = baselines.direct_output(process, texts, draws=4)
    np.testing.assert_allclose(values["coupled", "common", 4][pairs["id"]], -direct, rtol=1e-4)

    kept = distances.latents(process, TEXTS, 4, tmp_path / "toy")
    own = {text: energy(*kept[i].astype(float)) for i, text in enumerate(TEXTS)}
    null = [(own[a] + own[b]) / 2 for a, b in texts]
    np.testing.assert_allclose(values["energy", "null", 4][pairs["id"]], null, atol=1e-9)
    i, j = ([TEXTS.index(text) for text in side] for side in zip(*texts, strict=True))
    for start, (a, b) in distances.STARTS.items():
        found = sample_distances(kept[i, a], kept[j, b])
        for method in METHODS:
            np.testing.assert_allclose(values[method, start, 4][pairs["id"]], found[method])
    rest = values["sliced", "independent", 4] - values["sliced", "null", 4]
    np.testing.assert_allclose(values["sliced", "less null", 4], rest)

    how: dict[str, Any] = {"steps": distances.STEPS, "draws": 1}  # and the default quadrature
    path = [e.value for e in cj.distances(process, texts, **how)]
    np.testing.assert_allclose(values["sde", "common", 1][pairs["id"]], path, rtol=1e-4)
    assert set(agreed["start"]) == {"common", "independent", "less null"}
    row = agreed.set_index(["method", "start", "images"]).loc["coupled", "common", 4]
    assert row["spearman"] == pytest.approx(spearmanr(direct, pairs["score"]).statistic)
    reference = agreed.set_index(["method", "start", "images"]).loc["sde", "common", 2]
    assert row["difference"] == pytest.approx(row["spearman"] - reference["spearman"])
    assert reference["difference"] == 0


def test_cost_counts_what_is_spent(process: cj.GenerativeProcess, pairs: pd.DataFrame) -> None:
    texts = [(row.text1, row.text2) for row in pairs.itertuples()]
    cj.distances(process, texts, steps=distances.STEPS, draws=3)
    assert distances.image_cost(pairs, "sde", 3) * len(pairs) == process.evaluations
    before = process.evaluations
    baselines.direct_output(process, texts, draws=6)
    assert distances.image_cost(pairs, "energy", 6) * len(pairs) == process.evaluations - before
