"""Distances between two distributions that are known by samples: what generated images ask for.

Samples come as x and y of shape (n, d), as many of either. Row i of x and row i of y may share
their noise (the same x_T under two prompts) or not. What is said of an estimate holds either way:

    wasserstein, sliced   never too small on average, and too large by much where n is small
    energy, mmd           unbiased: terms that pair row i with row i are left out, so that the
                          estimate of a distance of zero is as often negative as positive
    coupled               with shared noise at least the wasserstein of the same samples
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.spatial.distance import cdist, pdist
from torch.distributions import MultivariateNormal, kl_divergence

from conjure_lib.inputs import as_numbers, whole

METHODS = ("coupled", "wasserstein", "sliced", "energy", "mmd", "frechet", "jeffreys")
MOST = 1000  # rows that the median distance is taken of
LARGE = 1e75  # whose fourth powers, which the shrinkage of covariances takes, can be summed


def sample_distances(
    x: ArrayLike, y: ArrayLike, *, projections: int = 128, components: int = 8, seed: int = 0
) -> dict[str, np.ndarray]:
    """Every distance of `METHODS` for P pairs of samples.

    Args:
        x, y: (P, n, d), n samples from the first and the second distribution of each pair.
        projections: directions of the sliced distance, the same for all pairs, from ``seed``.
        components: principal components of all samples, to which Gaussians are fitted for
            "frechet" and "jeffreys" as in `baselines.image_gaussian`; at most d are taken.

    Returns:
        Name to (P,), float64. "coupled", "wasserstein", "sliced" and "frechet" are in squared
        units of x, "energy" in units of x, "mmd" in none, "jeffreys" in nats. The last three of
        `METHODS` depend on the other pairs too: through the kernel's width, the median distance
        between samples, and through the principal components.

    Raises:
        ImportError: POT or scikit-learn is not installed.
        ValueError: the shapes differ, n < 2, a value is not finite, a count is below 1, or, for
            "jeffreys", the samples of a distribution do not vary.
    """
    x, y = (as_numbers(name, v).astype(np.float64) for name, v in (("x", x), ("y", y)))
    if x.ndim != 3 or x.shape != y.shape or x.shape[1] < 2 or 0 in x.shape:
        raise ValueError(f"need samples (pairs, n, d) twice, n at least 2: {x.shape}, {y.shape}")
    for name, count in (("projections", projections), ("components", components)):
        whole(name, count)
    whole("seed", seed, 0)
    both = np.concatenate([x, y])  # (2P, n, d)
    if np.abs(both).max() > LARGE:
        raise ValueError(f"x and y must be at most {LARGE:g}: the square of more is not finite")
    lines, width = directions(x.shape[2], projections, seed), median_distance(both)
    fitted = fit_gaussians(principal_components(both, min(components, *both.shape[1:])))
    sides = np.arange(len(both)).reshape(2, -1)
    per_pair = {
        "coupled": lambda a, b: ((a - b) ** 2).sum(1).mean(),
        "wasserstein": wasserstein,
        "sliced": lambda a, b: sliced(a, b, lines),
        "energy": energy,
        "mmd": lambda a, b: mmd(a, b, width),
    }
    found = {
        name: np.array([distance(a, b) for a, b in zip(x, y, strict=True)])
        for name, distance in per_pair.items()
    }
    found |= {
        "frechet": gaussian_frechet(*fitted, *sides),
        "jeffreys": gaussian_jeffreys(*fitted, *sides),
    }
    return {name: as_numbers(f"{name} of the samples", values) for name, values in found.items()}


def wasserstein(x: np.ndarray, y: np.ndarray) -> float:
    """W₂² of the two sets of points: the least mean ‖x_i - y_π(i)‖² over all matchings π."""
    return float(_transport().emd2([], [], cdist(x, y, "sqeuclidean")))


def sliced(x: np.ndarray, y: np.ndarray, lines: np.ndarray) -> float:
    """Mean over the directions, columns of ``lines`` (d, L), of W₂² of the projections."""
    return float(_transport().sliced_wasserstein_distance(x, y, projections=lines) ** 2)


def directions(d: int, count: int, seed: int = 0) -> np.ndarray:
    """Random unit vectors as columns, (d, count)."""
    return np.asarray(_transport().sliced.get_random_projections(d, count, seed))


def energy(x: np.ndarray, y: np.ndarray) -> float:
    """2 E‖X - Y‖ - E‖X - X'‖ - E‖Y - Y'‖ (Székely and Rizzo 2013), unbiased."""
    return float(2 * _mean(cdist(x, y)) - _mean(cdist(x, x)) - _mean(cdist(y, y)))


def mmd(x: np.ndarray, y: np.ndarray, width: float) -> float:
    """Squared maximum mean discrepancy, kernel exp(-‖·‖²/2 width²) (Gretton et al. 2012), unbiased.

    Their U-statistic over pairs of rows (x_i, y_i), which may be dependent within a row.
    """
    pairs = ((x, x), (y, y), (x, y))
    xx, yy, xy = (_mean(np.exp(-cdist(*p, "sqeuclidean") / (2 * width**2))) for p in pairs)
    return float(xx + yy - 2 * xy)


def median_distance(samples: np.ndarray) -> float:
    """The median distance between different samples of any shape (…, d), from a thousand of them.

    Raises:
        ValueError: all samples are equal.
    """
    rows = samples.reshape(-1, samples.shape[-1])
    apart = pdist(rows[:: -(-len(rows) // MOST)])
    if not apart.any():
        raise ValueError("all samples are equal: there is no distance to take the median of")
    return float(np.median(apart[apart > 0]))  # the same sample may stand in several pairs


def principal_components(samples: np.ndarray, components: int) -> np.ndarray:
    """Samples (U, n, width) in the coordinates of the first k components of all, (U, n, k)."""
    rows = samples.reshape(-1, samples.shape[2])
    few_enough(components, min(rows.shape))
    centred = rows - rows.mean(axis=0)
    basis = np.linalg.svd(centred, full_matrices=False)[2][:components]
    return (centred @ basis.T).reshape(*samples.shape[:2], components)


def shrunk_covariance() -> Callable[..., Any]:
    """scikit-learn's covariance after Ledoit and Wolf (2004).

    Raises:
        ImportError: scikit-learn is not there.
    """
    try:
        from sklearn.covariance import ledoit_wolf
    except ImportError as error:
        raise ImportError(
            "covariances are shrunk by scikit-learn, the extra conjure_lib[distributions]: "
            "pip install scikit-learn"
        ) from error
    return ledoit_wolf


def fit_gaussians(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means (U, k) and covariances (U, k, k) of samples (U, n, k), after Ledoit and Wolf (2004)."""
    ledoit_wolf = shrunk_covariance()
    means = samples.mean(axis=1)
    with warnings.catch_warnings(action="ignore"):  # of a single sample, whose covariance is 0
        fitted = [ledoit_wolf(x, assume_centered=True)[0] for x in samples - means[:, None]]
    return means, np.stack(fitted)


def gaussian_frechet(m: np.ndarray, s: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """‖m_i - m_j‖² + tr(s_i + s_j - 2 (s_i s_j)^½), (P,); means (U, k), covariances (U, k, k).

    By hand, since POT takes a pair at a time, and the root of what rounding leaves below 0.
    """
    values, vectors = np.linalg.eigh(s)
    root = (vectors * np.sqrt(values.clip(0))[:, None]) @ vectors.transpose(0, 2, 1)
    cross = np.sqrt(np.linalg.eigvalsh(root[i] @ s[j] @ root[i]).clip(0)).sum(1)
    trace = np.trace(s, axis1=1, axis2=2)
    return (((m[i] - m[j]) ** 2).sum(1) + trace[i] + trace[j] - 2 * cross).clip(0)


def gaussian_jeffreys(m: np.ndarray, s: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """KL(i‖j) + KL(j‖i) in nats, (P,); means (U, k), covariances (U, k, k)."""
    spread = np.linalg.eigvalsh(s)
    if (spread[:, 0] <= 1e-12 * spread[:, -1]).any():  # what rounding leaves of a singular one
        raise ValueError(
            "the samples of a distribution do not vary in every direction, and have no density: "
            "take more of them, fewer components, or 'frechet'"
        )
    p, q = (MultivariateNormal(torch.tensor(m[k]), torch.tensor(s[k])) for k in (i, j))
    return (kl_divergence(p, q) + kl_divergence(q, p)).numpy()


def few_enough(components: int, most: int) -> None:
    if components > most:
        raise ValueError(f"components must be at most {most} here, not {components}")


def _mean(values: np.ndarray) -> float:
    """The mean of (n, n) off the diagonal."""
    n = len(values)
    return float((values.sum() - np.trace(values)) / (n * (n - 1)))


def _transport() -> Any:
    """POT, where it is installed."""
    try:
        import ot
    except ImportError as error:
        raise ImportError(
            "optimal transport is done by POT, the extra conjure_lib[distributions]: "
            "pip install pot"
        ) from error
    return ot
