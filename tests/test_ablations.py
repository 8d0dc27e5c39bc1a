"""The studies of the ablations chapter, against what simulation and construction say."""

from __future__ import annotations

import numpy as np
import pytest

from studies import ablations


@pytest.fixture
def cells() -> np.ndarray:
    """Values (pairs, draws, timesteps) with a pair, a draw and a timestep effect, and noise."""
    rng = np.random.default_rng(1)
    shape = (30, 12, 10)
    pair, draw = rng.normal(size=(30, 1, 1)), rng.normal(size=(1, 12, 1))
    profile = rng.normal(size=(30, 1, 10)) + 3 * rng.normal(size=(1, 1, 10))
    return 2 * pair + draw + profile + 0.5 * rng.normal(size=shape)


@pytest.mark.parametrize("method", ["random half", "stratified"])
def test_variance_of_chosen_timesteps_is_what_choosing_them_gives(
    cells: np.ndarray, method: str
) -> None:
    rng, steps = np.random.default_rng(2), cells.shape[2]

    def chosen() -> np.ndarray:
        if method == "random half":
            return rng.permutation(steps)[: steps // 2]
        return np.arange(0, steps, 2) + rng.integers(2, size=steps // 2)

    def one() -> float:
        values = [cells[:, k, chosen()].mean(axis=1) for k in range(cells.shape[1])]
        return ablations.interaction(np.stack(values, axis=1))

    simulated = [one() for _ in range(1000)]
    error = np.std(simulated) / np.sqrt(len(simulated))
    assert abs(ablations.per_draw(method, cells, cells) - np.mean(simulated)) < 4 * error


def test_independent_noise_is_what_unpaired_draws_give(cells: np.ndarray) -> None:
    rng, values = np.random.default_rng(3), cells.mean(axis=2)
    simulated = [
        ablations.interaction(np.stack([rng.permutation(row) for row in values]))
        for _ in range(1000)
    ]
    error = np.std(simulated) / np.sqrt(len(simulated))
    assert abs(ablations.per_draw("independent", cells, cells) - np.mean(simulated)) < 4 * error


def test_opposite_errors_cancel_in_a_couple(cells: np.ndarray) -> None:
    mean = cells.mean(axis=1, keepdims=True)
    assert ablations.per_draw("antithetic", cells, 2 * mean - cells) < 1e-20
    same = ablations.per_draw("antithetic", cells, cells)
    assert same == pytest.approx(2 * ablations.per_draw("common", cells, cells))


def test_weights_learned_from_noise_help_only_where_they_were_learned() -> None:
    rng = np.random.default_rng(4)
    inside, outside = [], []
    for _ in range(40):
        curve, human = rng.gamma(2, size=(65, 10)), rng.normal(size=65)
        fitted = curve @ ablations.learned_weights(curve, human)
        held = ablations.held_out(curve, human, ablations.learned_weights, halvings=5)[0]
        inside.append(ablations.rank_correlations(-fitted[None], human)[0])
        outside.append(ablations.rank_correlations(-held[None], human)[0])
    assert np.mean(inside) > 0.15
    assert abs(np.mean(outside)) < 4 * np.std(outside) / np.sqrt(len(outside))


def test_learned_weights_find_the_timestep_that_matters() -> None:
    rng = np.random.default_rng(5)
    curve = rng.gamma(2, size=(400, 10))
    human = -curve[:, 3] + 0.1 * rng.normal(size=400)
    weights = ablations.learned_weights(curve, human)
    assert weights.argmax() == 3 and weights[3] > 0.8
    assert np.array_equal(ablations.best_single(curve, human), np.eye(10)[3])
    assert np.array_equal(ablations.learned_weights(curve, curve.sum(axis=1)), np.full(10, 0.1))
