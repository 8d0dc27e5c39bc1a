"""Sample distances against plain loops, other solvers and closed forms."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.special import gamma, hyp1f1

from conjure_tools.distributions import (
    METHODS,
    directions,
    energy,
    median_distance,
    mmd,
    sample_distances,
    sliced,
    wasserstein,
)
from studies.gaussians import Mixture, gaussian_kl

D, STD_1, STD_2 = 3, 0.7, 1.1
SHIFT = np.array([0.8, -0.4, 0.3])


def draw(
    pairs: int, n: int, *, shared: bool, seed: int = 0, d: int = D
) -> tuple[np.ndarray, np.ndarray]:
    """Samples (pairs, n, d) of N(0, STD_1² I) and of N(SHIFT, STD_2² I)."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(2, pairs, n, d))
    return STD_1 * z[0], SHIFT[:d] + STD_2 * z[0 if shared else 1]


def mean_norm(shift: np.ndarray, variance: float) -> float:
    """E‖Z‖ of Z ~ N(shift, variance I)."""
    d = len(shift)
    scale = math.sqrt(2 * variance) * gamma((d + 1) / 2) / gamma(d / 2)
    return float(scale * hyp1f1(-0.5, d / 2, -(shift @ shift) / (2 * variance)))


def mean_kernel(shift: np.ndarray, variance: float, width: float) -> float:
    """E exp(-‖Z‖²/2 width²) of Z ~ N(shift, variance I)."""
    wide = width**2 + variance
    return float((width**2 / wide) ** (len(shift) / 2) * np.exp(-(shift @ shift) / (2 * wide)))


def within(values: np.ndarray, exact: float) -> bool:
    """Whether the mean of independent estimates is within four standard errors of ``exact``."""
    return abs(values.mean() - exact) < 4 * values.std(ddof=1) / math.sqrt(len(values))


# -- plain loops and other solvers ------------------------------------------------------------


def test_energy_and_mmd_are_what_plain_loops_over_different_rows_give() -> None:
    (x,), (y,) = draw(1, 7, shared=False)
    apart = [(i, j) for i in range(7) for j in range(7) if i != j]

    def mean(f: Callable[[np.ndarray], float], a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean([f(a[i] - b[j]) for i, j in apart]))

    def contrast(f: Callable[[np.ndarray], float]) -> float:
        return 2 * mean(f, x, y) - mean(f, x, x) - mean(f, y, y)

    assert energy(x, y) == pytest.approx(contrast(np.linalg.norm))
    kernel = -contrast(lambda v: math.exp(-(v @ v) / (2 * 1.3**2)))
    assert mmd(x, y, 1.3) == pytest.approx(kernel)


def test_wasserstein_is_the_best_assignment() -> None:
    (x,), (y,) = draw(1, 12, shared=False)
    cost = ((x[:, None] - y) ** 2).sum(-1)
    best = cost[linear_sum_assignment(cost)].mean()
    assert wasserstein(x, y) == pytest.approx(best)


def test_sliced_sorts_along_each_direction() -> None:
    (x,), (y,) = draw(1, 9, shared=False)
    lines = directions(D, 17, seed=3)
    np.testing.assert_allclose((lines**2).sum(0), 1)
    by_hand = [((np.sort(x @ u) - np.sort(y @ u)) ** 2).mean() for u in lines.T]
    assert sliced(x, y, lines) == pytest.approx(np.mean(by_hand))


def test_the_table_holds_the_single_functions() -> None:
    x, y = draw(4, 6, shared=True)
    found = sample_distances(x, y, projections=11, seed=2)
    assert tuple(found) == METHODS
    assert all(v.shape == (4,) and v.dtype == np.float64 for v in found.values())
    width, lines = median_distance(np.concatenate([x, y])), directions(D, 11, seed=2)
    for p in range(4):
        assert found["wasserstein"][p] == wasserstein(x[p], y[p])
        assert found["sliced"][p] == sliced(x[p], y[p], lines)
        assert found["energy"][p] == energy(x[p], y[p])
        assert found["mmd"][p] == mmd(x[p], y[p], width)
        assert found["coupled"][p] == pytest.approx(
            np.mean([np.sum((a - b) ** 2) for a, b in zip(x[p], y[p], strict=True)])
        )


# -- closed forms -----------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [False, True], ids=["independent", "shared"])
def test_energy_and_mmd_are_unbiased_however_the_rows_hang_together(shared: bool) -> None:
    x, y = draw(1500, 4, shared=shared)
    none = np.zeros(D)
    spreads = STD_1**2 + STD_2**2, 2 * STD_1**2, 2 * STD_2**2
    shifts = SHIFT, none, none
    norms = [mean_norm(m, v) for m, v in zip(shifts, spreads, strict=True)]
    kernels = [mean_kernel(m, v, 1.5) for m, v in zip(shifts, spreads, strict=True)]
    assert within(
        np.array([energy(a, b) for a, b in zip(x, y, strict=True)]),
        2 * norms[0] - norms[1] - norms[2],
    )
    assert within(
        np.array([mmd(a, b, 1.5) for a, b in zip(x, y, strict=True)]),
        kernels[1] + kernels[2] - 2 * kernels[0],
    )


def test_many_samples_of_two_gaussians_come_to_the_closed_forms() -> None:
    x, y = draw(1, 1500, shared=False, d=1)
    found = {name: values[0] for name, values in sample_distances(x, y).items()}
    exact = SHIFT[0] ** 2 + (STD_1 - STD_2) ** 2
    for name in ("wasserstein", "sliced", "frechet"):
        assert found[name] == pytest.approx(exact, rel=0.1), name
    p, q = Mixture.gaussian([0.0], STD_1), Mixture.gaussian(SHIFT[:1], STD_2)
    assert found["jeffreys"] == pytest.approx(float(gaussian_kl(p, q) + gaussian_kl(q, p)), rel=0.1)
    assert found["coupled"] == pytest.approx(SHIFT[0] ** 2 + STD_1**2 + STD_2**2, rel=0.1)


def test_a_shift_of_shared_noise_is_found_exactly() -> None:
    (x,), _ = draw(1, 10, shared=True)
    assert wasserstein(x, x + SHIFT) == pytest.approx(SHIFT @ SHIFT)
    lines = directions(D, 5)
    assert sliced(x, x + SHIFT, lines) == pytest.approx(((SHIFT @ lines) ** 2).mean())


@pytest.mark.parametrize("shared", [False, True], ids=["independent", "shared"])
def test_few_independent_samples_make_transport_too_long(shared: bool) -> None:
    found = sample_distances(*draw(150, 8, shared=shared))
    exact = SHIFT @ SHIFT + D * (STD_1 - STD_2) ** 2
    if shared:  # the samples of one shrink or stretch of the noise: their own best matching
        np.testing.assert_allclose(found["wasserstein"], found["coupled"])
        assert within(found["wasserstein"], exact)
    else:
        assert found["wasserstein"].mean() > 1.5 * exact
    assert (found["wasserstein"] <= found["coupled"] * (1 + 1e-12)).all()
    assert (found["sliced"] <= found["wasserstein"] * (1 + 1e-12)).all()


def test_equal_laws_are_at_zero_up_to_what_few_samples_do() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 300, 6, D))
    found = sample_distances(x, y)
    for name in ("energy", "mmd"):
        assert within(found[name], 0) and (found[name] < 0).mean() > 0.3
    for name in ("wasserstein", "sliced", "frechet", "jeffreys"):
        assert (found[name] > 0).all()
    same = sample_distances(x, x)
    for name in ("coupled", "wasserstein", "sliced"):
        assert (same[name] == 0).all(), name
    for name in ("frechet", "jeffreys"):
        np.testing.assert_allclose(same[name], 0, atol=1e-9)


# -- what must not matter, and what is refused -------------------------------------------------


def test_sides_may_be_exchanged_and_rows_reordered() -> None:
    x, y = draw(3, 8, shared=False)
    found, turned = sample_distances(x, y), sample_distances(y, x)
    mixed = sample_distances(x[:, ::-1], y[:, ::-1])
    for name in METHODS:
        np.testing.assert_allclose(turned[name], found[name], rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(mixed[name], found[name], rtol=1e-6, err_msg=name)


def test_gaussians_are_fitted_to_the_principal_components() -> None:
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(2, 2, 50, 20))
    x[..., :2] *= 30
    y[..., :2] *= 30
    wide = sample_distances(x[..., :2], y[..., :2], components=2)
    found = sample_distances(x, y, components=2)
    for name in ("frechet", "jeffreys"):
        np.testing.assert_allclose(found[name], wide[name], rtol=0.1)


def test_the_median_leaves_out_what_stands_twice() -> None:
    points = np.array([[0.0], [1.0], [3.0]])
    assert median_distance(points) == 2.0
    assert median_distance(np.stack([points, points])) == 2.0
    with pytest.raises(ValueError, match="all samples are equal"):
        median_distance(np.ones((4, 2)))


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        (np.zeros((2, 3)), np.zeros((2, 3)), {}, "n at least 2"),
        (np.zeros((2, 3, 1)), np.zeros((2, 4, 1)), {}, "n at least 2"),
        (np.zeros((2, 1, 3)), np.zeros((2, 1, 3)), {}, "n at least 2"),
        (np.zeros((0, 3, 2)), np.zeros((0, 3, 2)), {}, "n at least 2"),
        (np.full((1, 3, 2), np.nan), np.zeros((1, 3, 2)), {}, "not finite"),
        (np.ones((1, 3, 2)), np.zeros((1, 3, 2)), {"projections": 0}, "at least 1"),
        (np.ones((1, 3, 2)), np.zeros((1, 3, 2)), {"components": 0}, "at least 1"),
        (np.ones((1, 2, 2)), 1e200 * np.eye(2)[None], {}, "not finite|no density"),
        (np.ones((1, 3, 2)), np.zeros((1, 3, 2)), {}, "do not vary"),
    ],
)
def test_unusable_samples_are_refused(
    x: np.ndarray, y: np.ndarray, options: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        sample_distances(x, y, **options)


def test_without_pot_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(ImportError, match="pip install pot"):
        sample_distances(*draw(1, 3, shared=True))
    assert math.isfinite(energy(np.eye(3), 2 * np.eye(3)))  # needs SciPy alone


def test_without_scikit_learn_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.covariance", None)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        sample_distances(*draw(1, 3, shared=True))
