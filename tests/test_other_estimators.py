"""Relatives of the divergence, on normal laws for which all of them are known."""

from __future__ import annotations

import math
from collections.abc import Sequence

import diffusers
import numpy as np
import pytest
import torch
from test_clock import V14, V14_BARS
from torch import Tensor

import conjure_lib as cj

pytest.importorskip("studies")
from studies import other_estimators

MEANS = torch.tensor([[[[0.9, -0.4]]], [[[-0.5, 0.8]]], [[[0.2, 0.1]]]])  # the last: no text
C = 0.5
HIGH, LOW = (float(V14_BARS[t] / (1 - V14_BARS[t])) for t in (0, 999))


def process(widths: Sequence[float] = (C, C, C)) -> cj.GenerativeProcess:
    """N(m, C²) for each text, exactly; C is one of ``widths`` a text."""

    def predict(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        bars = V14_BARS[t.long()].view(-1, 1, 1, 1)
        squares = torch.tensor(widths)[y].view(-1, 1, 1, 1) ** 2
        eps = (1 - bars).sqrt() * (x - bars.sqrt() * MEANS[y]) / (bars * squares + 1 - bars)
        return eps.float()

    def encode(texts: Sequence[str]) -> Tensor:
        return torch.tensor([int(text) if text else 2 for text in texts])

    return cj.GenerativeProcess(predict, encode, diffusers.PNDMScheduler(**V14), (1, 1, 2))


def jeffreys(i: int, j: int) -> float:
    """J between both ends of the window: ‖Δm‖² SNR / (1 + C² SNR), less what is left at the end."""
    apart = float((MEANS[i] - MEANS[j]).square().sum())
    return apart * (HIGH / (1 + C**2 * HIGH) - LOW / (1 + C**2 * LOW))


def test_three_estimators_of_one_divergence() -> None:
    exact, draws, steps = process(), 400, 20
    found = other_estimators.asked(
        exact, ["0", "1", "0"], draws=draws, steps=steps, batch_size=4000
    )
    assert exact.evaluations == 2 * (1 + 2 * 3) * draws * steps
    table, (name,) = found.pair_table(), found.pair_table().index
    assert name == "0, 1"
    truth = jeffreys(0, 1)
    library = cj.distance(
        exact, "0", "1", draws=4, steps=steps, spacing="log-snr", quadrature="linear"
    )
    assert table.loc[name, "paths"] == pytest.approx(library.value, rel=1e-4)
    assert table.loc[name, "paths"] == pytest.approx(truth, rel=0.02)
    assert table.loc[name, "MINDE"] == pytest.approx(truth, rel=0.02)  # Δε knows no x here
    excess = found.of_pairs("excess loss")[0]
    error = excess.std(ddof=1) / math.sqrt(draws)
    assert abs(excess.mean() - truth) < 4 * error + 0.05 * truth and error < 0.1 * truth


def test_what_a_picture_tells_of_its_text() -> None:
    """For laws of one width KL(p_y‖p_∅), half of their Jeffreys divergence."""
    draws = 400
    found = other_estimators.asked(process(), ["0", "1"], draws=draws, steps=20, batch_size=4000)
    table = found.text_table()
    for i, text in enumerate(("0", "1")):
        truth = jeffreys(i, 2) / 2
        assert table.loc[text, "squares"] == pytest.approx(truth, rel=0.02)
        assert table.loc[text, "on the path"] == pytest.approx(truth, rel=0.02)
        error = found.of_texts("excess loss")[i].std(ddof=1) / math.sqrt(draws)
        assert abs(table.loc[text, "excess loss"] - truth) < 4 * error + 0.03 * truth


def test_maps_add_up_and_what_is_steady_is_told() -> None:
    """Δε is the same at every x of these laws: all of it is steady, and both maps show it."""
    found = other_estimators.asked(process(), ["0", "1"], draws=3, steps=12)
    ours, theirs = found.maps()
    assert ours.shape == theirs.shape == (1, 2)
    assert ours.sum() == pytest.approx(found.pair_table()["paths"].iloc[0], rel=1e-4)
    np.testing.assert_allclose(found.steady_share(), 1, rtol=1e-4)
    assert found.facts()["steady"] == pytest.approx(100, rel=1e-4)


def test_estimators_are_said_beside_the_paths_with_their_errors() -> None:
    found = other_estimators.asked(process(), ["0", "1"], draws=3, steps=12)
    table = other_estimators.estimators_beside_paths(found).data
    assert list(table.index) == ["paths", "MINDE", "excess loss", "sum of m", "difference of m"]
    assert table.loc["MINDE", "times the paths"] == "1.00 (1.00 to 1.00)"
    # both texts share their noise, which cancels between the halves of laws of one width …
    assert (table["error, %"].iloc[:3] == "0").all()
    unlike = other_estimators.asked(process((0.5, 1.5, 0.5)), ["0", "1"], draws=3, steps=12)
    for kind, error in (
        other_estimators.estimators_beside_paths(unlike).data["error, %"].iloc[:3].items()
    ):
        draws = unlike.of_pairs(str(kind))[0]  # … and of no others
        assert int(error) == round(100 * draws.std(ddof=1) / math.sqrt(3) / draws.mean()) > 0
    assert table.loc["paths", "ρ × 100 with the paths"] == ""
    assert table.loc["sum of m", "ρ × 100 with the paths"] == "not defined"  # one pair has no rank
    told = found.of_texts("on the path").mean(1)
    assert found.told("most") == f"“{told.argmax()}” ({told.max():.1f} ± 0.0 nats)"
    assert found.told("least").startswith(f"“{told.argmin()}” ({told.min():.1f} ")
