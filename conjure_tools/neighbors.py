"""Meaning spaces compared by who is near whom: NNGS, mutual k-nearest neighbours, and CKA.

    NNGS(X, Y, k) = 1/n Σ_i |N_X(i) ∩ N_Y(i)| / |N_X(i) ∪ N_Y(i)|

over n paired items, N(i) being the k nearest neighbours of item i, itself excluded (Tavares, Ayres
and Smaragdis 2024, arXiv 2411.08687). A space is a table of embeddings or a matrix of distances.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from numbers import Integral
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from scipy.spatial.distance import pdist, squareform
from scipy.stats import hypergeom
from torch import Tensor

from conjure_lib.inputs import as_numbers, finite, one_of, whole
from conjure_lib.integrity import steady

MATRIX = 2048  # items up to which "auto" takes the whole matrix of distances
VECTORS = ("euclidean", "cosine")  # the metrics that are computed here
METRICS = (  # of real numbers: others compare yes and no, or places on a globe
    *VECTORS,
    *("precomputed", "braycurtis", "canberra", "chebyshev", "cityblock", "correlation"),
    *("mahalanobis", "manhattan", "minkowski", "seuclidean", "sqeuclidean"),
)
ROWS = 2**22  # entries of neighbour lists that are compared at a time: bounds the memory
Search = Literal["auto", "matrix", "torch", "faiss"]


@dataclass(frozen=True)
class GraphSimilarity:
    """How far two spaces have the same neighbours.

    Attributes:
        value: NNGS, the mean of ``by_item``, from 0 to 1.
        low, high: its 95 % interval over items. It errs on the wide side, see `nngs`.
        p: share of random pairings of the items that agree at least as well; one-sided.
        chance: what independent spaces have on average, exactly.
        bound: k / (2m - k) with m = n - 1, the published lower bound of ``chance``.
        corrected: (value - chance) / (1 - chance): 0 by chance, 1 for the same neighbours; NaN for
            k = n - 1, where all spaces agree.
        k, n: neighbours, items.
        by_item: (n,), the Jaccard index of each item's two sets.
    """

    value: float
    low: float
    high: float
    p: float
    chance: float
    bound: float
    corrected: float
    k: int
    n: int
    by_item: np.ndarray = field(repr=False)

    def __str__(self) -> str:
        interval = f"[{self.low:.3f}, {self.high:.3f}]"
        return f"{self.value:.3f} {interval}, chance {self.chance:.3f}, p = {self.p:.4f}"


def nngs(
    X: Any,
    Y: Any,
    k: int | float,
    *,
    metric: str = "euclidean",
    search: Search = "auto",
    block: int = 2048,
    permutations: int = 999,
    resamples: int = 1000,
    seed: int = 0,
) -> GraphSimilarity:
    """NNGS of two spaces of the same n items, row i of ``X`` belonging to row i of ``Y``.

    The interval is a bootstrap over the items' influence on the mean, which is what leaving one
    out changes (jackknife), each item's graph repaired exactly. Items drawn with replacement would
    not do: copies are each other's neighbours in both spaces. Nor would the Jaccard indices alone:
    items share neighbours. The jackknife overstates a variance (Efron and Stein 1981).

    Args:
        X, Y: embeddings (n, any width), or distances (n, n) with metric="precomputed".
        k: neighbours, an integer, or a fraction of n below 1 (rounded down).
        metric: "euclidean", "cosine", "precomputed" or, for "matrix", one of the others of
            `METRICS`, as scipy has them (manhattan: its cityblock).
        search, block: see `neighbors`.
        permutations: random pairings behind ``p``; 0 leaves it NaN.
        resamples: of the interval; 0 leaves it NaN.
        seed: of ties, pairings and resamples.

    Raises:
        TypeError: a count that is no integer.
        ValueError: unequal numbers of items, fewer than three, k out of range, a value that is
            masked or not finite, a matrix that holds no distances (not square, not symmetric,
            negative, or not 0 on its diagonal, as similarities are), no such metric or search.

    >>> import numpy as np
    >>> from conjure_tools.neighbors import nngs
    >>> X = np.random.default_rng(0).normal(size=(20, 3))
    >>> nngs(X, X, k=3, permutations=0, resamples=0).value
    1.0
    """
    x, y = _paired(X, Y, metric)
    _check_counts(block=block, permutations=permutations, resamples=resamples, seed=seed)
    n, k = len(x), count_of(k, len(x))
    deep = min(k + 1, n - 1)  # the one beyond steps in where a neighbour is left out
    a, b = (
        _search(s, deep, metric, search, block, 2 * seed + side) for side, s in enumerate((x, y))
    )
    by_item, rng = _jaccard(a[:, :k], b[:, :k]), np.random.default_rng(seed)
    value, expected = float(by_item.mean()), chance(n, k)
    low, high = (value, value) if k == n - 1 else _interval(a, b, value, resamples, rng)
    null = (_moved(b[:, :k], rng.permutation(n)) for _ in range(permutations))
    above = sum(_jaccard(a[:, :k], drawn).mean() >= value - 1e-12 for drawn in null)
    p = (1 + above) / (1 + permutations) if permutations else np.nan
    corrected = (value - expected) / (1 - expected) if k < n - 1 else np.nan
    bound = chance_bound(n, k)
    return GraphSimilarity(value, low, high, p, expected, bound, corrected, k, n, by_item)


def nngs_profile(
    X: Any, Y: Any, *, metric: str = "euclidean", permutations: int = 199, seed: int = 0
) -> pd.DataFrame:
    """NNGS at every k at once: sorting apart, O(n²) time and memory for all k together.

    Item j is among the k nearest of i in both spaces if the larger of its two ranks is at most k,
    so counting these ranks gives every overlap.

    Returns:
        One row for each k = 1 … n - 1: k, value, chance, bound, corrected as in `GraphSimilarity`,
        and null_low, null_high, 95 % of random pairings (NaN without permutations).
    """
    x, y = _paired(X, Y, metric)
    _check_counts(permutations=permutations, seed=seed)
    n, rng = len(x), np.random.default_rng(seed)
    first, second = (_ranks(s, metric, 2 * seed + side) for side, s in enumerate((x, y)))
    ks = np.arange(1, n)
    drawn = np.full((max(permutations, 1), n - 1), np.nan)
    for i in range(permutations):
        order = rng.permutation(n)
        drawn[i] = _curve(first, second[np.ix_(order, order)])
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    value, expected = _curve(first, second), np.array([chance(n, int(k)) for k in ks])
    columns = {"k": ks, "value": value, "chance": expected, "bound": chance_bound(n, ks)}
    columns["corrected"] = (value - expected) / np.where(ks < n - 1, 1 - expected, np.nan)
    return pd.DataFrame(columns | {"null_low": low, "null_high": high})


def mutual_knn(
    X: Any,
    Y: Any,
    k: int | float,
    *,
    metric: str = "euclidean",
    search: Search = "auto",
    block: int = 2048,
    seed: int = 0,
) -> float:
    """Mean share of k nearest neighbours in common (Huh et al. 2024); arguments as `nngs`.

    By chance it is k / (n - 1).
    """
    x, y = _paired(X, Y, metric)
    _check_counts(block=block, seed=seed)
    k = count_of(k, len(x))
    a, b = (_search(s, k, metric, search, block, 2 * seed + side) for side, s in enumerate((x, y)))
    return float(_shared(a, b).mean())


def chance(n: int, k: int) -> float:
    """Mean Jaccard index of two independent sets of k among the m = n - 1 other items, exactly.

    Their overlap is hypergeometric, Hyp(m, k, k). With items paired at random this is the mean of
    NNGS whatever the two graphs are.

    Raises:
        TypeError, ValueError: k is not a whole number from 1 to n - 1.
    """
    _check_k(n, k)
    m = n - 1
    overlap = np.arange(max(0, 2 * k - m), k + 1)
    return float((hypergeom(m, k, k).pmf(overlap) * overlap / (2 * k - overlap)).sum())


def chance_bound(n: int, k: Any) -> Any:
    """H(k) = k / (2m - k), the Jaccard index at the mean overlap k²/m; k may be an array.

    A lower bound of `chance`: the index is convex in the overlap (Jensen). Errors as `chance`.
    """
    for one in np.ravel(k):
        _check_k(n, one)
    return k / (2 * (n - 1) - k)


def _check_k(n: int, k: Any) -> None:
    if whole("k", k) >= whole("n", n, 2):
        raise ValueError(f"k must be from 1 to n - 1 = {n - 1}, not {k}")


def count_of(k: int | float, n: int) -> int:
    """k neighbours among n items as a number, from a number or a fraction of n.

    Raises:
        ValueError: k is not from 1 to n - 1, nor a fraction below 1 that gives such a number.
    """
    if isinstance(k, Integral) and not isinstance(k, bool):
        found = int(k)
    elif isinstance(k, float | np.floating) and 0 < k < 1:
        found = int(k * n + 1e-9)  # so that 0.29 of 100 is 29
    else:
        raise ValueError(f"k must be an integer or a fraction between 0 and 1, not {k!r}")
    if not 1 <= found <= n - 1:
        raise ValueError(f"k = {k} of {n} items is {found}: it must be from 1 to {n - 1}")
    return found


# -- neighbours -----------------------------------------------------------------------------


def neighbors(
    X: Any,
    k: int | float,
    *,
    metric: str = "euclidean",
    search: Search = "auto",
    block: int = 2048,
    ties: int = 0,
) -> np.ndarray:
    """The k nearest other items of each item, nearest first: (n, k) row numbers.

    Args:
        X, k, metric: as in `nngs`.
        search: "matrix" sorts all distances (scipy); "torch" goes through blocks of
            ``block`` × ``block`` distances, on a GPU where there is one, and holds only one of them
            beside ``X`` (which may be a memory map) and the answer; "faiss" needs that package and
            a copy of ``X``. "auto": "matrix" for small n and for metrics that only it has, then
            faiss if it is installed, else torch.
        ties: items at the same distance (in blocks, the same in float32) come in an order drawn by
            lot from this number, another one for each row. Were they taken in the order of the
            rows, two spaces full of ties would seem to agree. (faiss has an order of its own.)

    Raises:
        ValueError: as `nngs`.
    """
    x = _space("X", X, metric)
    _check_counts(block=block, ties=ties)
    return _search(x, count_of(k, len(x)), metric, search, block, ties)


def _search(x: np.ndarray, k: int, metric: str, search: str, block: int, ties: int) -> np.ndarray:
    one_of("search", search, get_args(Search))
    vectors = metric in VECTORS
    if search == "auto" and vectors and len(x) > MATRIX:
        search = "faiss" if find_spec("faiss") else "torch"
    if search in ("auto", "matrix"):
        return _sorted(x, metric, ties)[:, :k]
    if not vectors:
        raise ValueError(f"search={search!r} knows euclidean and cosine, not {metric!r}")
    unit = metric == "cosine"
    return _with_faiss(x, k, unit) if search == "faiss" else _in_blocks(x, k, unit, block, ties)


def _sorted(x: np.ndarray, metric: str, ties: int) -> np.ndarray:
    """All other items of each item by distance: (n, n - 1)."""
    if metric == "precomputed":
        distance = x.astype(float)  # a copy
    elif metric in VECTORS:
        rows = x.astype(float)
        rows = _unit(rows) if metric == "cosine" else rows
        distance = squareform(pdist(rows, "sqeuclidean"))  # exact where it ties
    else:
        name = "cityblock" if metric == "manhattan" else metric
        distance = as_numbers(f"{metric} distance", squareform(pdist(x.astype(float), name)))
    np.fill_diagonal(distance, np.inf)
    order, (place, offset) = distance.argsort(axis=1), _lots(len(x), ties)
    level = np.take_along_axis(distance, order, axis=1)
    tied = (level[:, 1:] == level[:, :-1]).any(axis=1)
    order[tied] = np.lexsort((place ^ offset[tied, None], distance[tied]))
    return order[:, :-1]


def _lots(n: int, ties: int) -> tuple[np.ndarray, np.ndarray]:
    """Places (n,) of the items and offsets (n,) of the rows: in row i, j's lot is place ^ offset.

    Flipping the same bits of all numbers shuffles them, so every row has an order of its own.
    """
    rng = np.random.default_rng(ties)
    return rng.permutation(n), rng.integers(2 ** (n - 1).bit_length(), size=n)


def _unit(rows: Any) -> Any:
    """Rows (n, w) at length one, array or tensor: their distances sort like 1 - cosine."""
    return rows / (rows * rows).sum(1)[:, None] ** 0.5


@steady
def _in_blocks(x: np.ndarray, k: int, unit: bool, block: int, ties: int) -> np.ndarray:
    """Neighbours by squared distances in float32, one block of them at a time: (n, k)."""
    device, starts = "cuda" if torch.cuda.is_available() else "cpu", range(0, len(x), block)
    place, offset = (torch.from_numpy(lots).to(device) for lots in _lots(len(x), ties))
    item, found = torch.argsort(place), np.empty((len(x), k), np.int64)

    part = _fine(x, unit, block, device)
    for start in starts:
        own, rows = part(start), slice(start, start + block)
        best = torch.empty(len(own), 0, dtype=torch.int64, device=device)
        for other in starts:
            near = _keys(own, part(other), place[other : other + block], start == other)
            near = near.bitwise_xor_(offset[rows, None])  # of the lots alone: they are lower bits
            near = near.topk(min(k, near.shape[1]), largest=False, sorted=False).values
            best = torch.cat([best, near], dim=1)
            best = best.topk(min(k, best.shape[1]), largest=False).values
        lots = (best & 0xFFFFFFFF) ^ offset[rows, None]
        found[rows] = item[lots].cpu().numpy()
    return found


def _fine(x: np.ndarray, unit: bool, block: int, device: str) -> Callable[[int], Tensor]:
    """From the first row of a block to its rows in float32, about the mean and in a fitting unit.

    The mean goes in float64: far from the origin, small distances would be rounded away.
    """

    def part(start: int) -> Tensor:
        rows = torch.from_numpy(np.array(x[start : start + block])).to(device).double()
        return _unit(rows) if unit else rows

    starts = range(0, len(x), block)
    mean = torch.stack([part(start).sum(0) for start in starts]).sum(0) / len(x)
    largest = max(float((part(start) - mean).abs().max()) for start in starts)
    scale = 2.0 ** -np.frexp(largest)[1]
    return lambda start: ((part(start) - mean) * scale).float()


def _keys(own: Tensor, other: Tensor, place: Tensor, same: bool) -> Tensor:
    """Integers (a, b) that sort like the distances of own (a, w) to other (b, w), then like place.

    The bits of a float32 that is not negative, read as an integer, sort like the number.
    """
    square = torch.addmm(other.square().sum(1), own, other.T, alpha=-2)
    square.add_(own.square().sum(1)[:, None]).clamp_(min=0)
    if same:
        square.fill_diagonal_(torch.inf)
    return square.view(torch.int32).to(torch.int64).bitwise_left_shift_(32).bitwise_or_(place)


def _with_faiss(x: np.ndarray, k: int, unit: bool) -> np.ndarray:
    """Neighbours by an exact index of faiss: (n, k)."""
    import faiss

    rows = _fine(x, unit, len(x), "cpu")(0).numpy()
    index = faiss.IndexFlatL2(rows.shape[1])
    index.add(rows)
    found = index.search(rows, k + 1)[1]
    others = found != np.arange(len(x))[:, None]
    others[others.all(axis=1), -1] = False  # an item behind its copies
    return found[others].reshape(len(x), k)


# -- overlaps -------------------------------------------------------------------------------


def _shared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Which entries of a (n, p) stand in the same row of b (n, q) too: (n, p), bool."""
    n, found = len(a), np.empty(a.shape, bool)
    step = max(1, ROWS // (a.shape[1] + b.shape[1]))
    for start in range(0, n, step):
        rows = slice(start, start + step)
        shift = n * np.arange(len(a[rows]))[:, None]
        found[rows] = np.isin(a[rows] + shift, b[rows] + shift)
    return found


def _jaccard(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Jaccard index of each row of a (n, k) with that of b (n, k): (n,)."""
    overlap = _shared(a, b).sum(axis=1)
    return overlap / (2 * a.shape[1] - overlap)


def _moved(b: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The neighbours b (n, k) after item i has been called order[i]."""
    moved = np.empty_like(b)
    moved[order] = order[b]
    return moved


def _interval(
    a: np.ndarray, b: np.ndarray, value: float, resamples: int, rng: np.random.Generator
) -> tuple[float, float]:
    """95 % interval from resampled influences; a and b (n, k + 1), nearest first.

    By hand: a mean is resampled about another value, and with the generator of the permutations.
    """
    if not resamples:
        return np.nan, np.nan
    left, n = _left_out(a, b), len(a)
    influence = np.sqrt(n * (n - 1)) * (left.mean() - left)  # the variance of its mean: jackknife's
    means = [influence[rng.integers(n, size=n)].mean() for _ in range(resamples)]
    low, high = value + np.quantile(means, [0.025, 0.975])
    return max(0.0, float(low)), min(1.0, float(high))


def _left_out(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """NNGS of the n - 1 others when each item is left out, (n,); a and b (n, k + 1).

    Where it was a neighbour, the one beyond steps in.
    """
    n, k = len(a), a.shape[1] - 1
    near_a, next_a, near_b, next_b = a[:, :k], a[:, k:], b[:, :k], b[:, k:]
    also_b, also_a = _shared(near_a, near_b), _shared(near_b, near_a)
    overlap = also_b.sum(axis=1, keepdims=True)
    gain_a, gain_b = _shared(next_a, near_b), _shared(next_b, near_a)
    both = also_b * (gain_b.astype(int) + (next_a == next_b) - 1)
    without_a, without_b = overlap + gain_a + both, overlap + gain_b  # (n, k), (n, 1)
    jaccard = overlap / (2 * k - overlap)
    change_a = without_a / (2 * k - without_a) - jaccard
    change_b = (without_b / (2 * k - without_b) - jaccard) * ~also_a  # the others are in change_a
    change = np.bincount(near_a.ravel(), change_a.ravel(), n)
    change += np.bincount(near_b.ravel(), change_b.ravel(), n)
    return (jaccard.sum() - jaccard[:, 0] + change) / (n - 1)


def _ranks(x: np.ndarray, metric: str, ties: int) -> np.ndarray:
    """Rank 1 … n - 1 of j among the neighbours of i, and n on the diagonal: (n, n)."""
    order, n = _sorted(x, metric, ties), len(x)
    ranks = np.full((n, n), n)
    np.put_along_axis(ranks, order, np.arange(1, n)[None], axis=1)
    return ranks


def _curve(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """NNGS for k = 1 … n - 1 from two matrices of ranks, (n - 1,)."""
    n = len(first)
    worse = np.maximum(first, second) + (n + 1) * np.arange(n)[:, None]
    counts = np.bincount(worse.ravel(), minlength=n * (n + 1)).reshape(n, n + 1)
    overlap = counts[:, 1:n].cumsum(axis=1)
    return (overlap / (2 * np.arange(1, n) - overlap)).mean(axis=0)


# -- centred kernel alignment ---------------------------------------------------------------


def cka(
    X: Any,
    Y: Any,
    kernel: Literal["linear", "rbf"] = "linear",
    *,
    unbiased: bool = False,
    bandwidth: float = 1.0,
) -> float:
    """Centred kernel alignment of embeddings (n, any width) of the same n items.

    HSIC(K, L) / √(HSIC(K, K) HSIC(L, L)) (Kornblith et al. 2019), n × n matrices in memory.

    Args:
        kernel: "linear", ⟨x, x'⟩; "rbf", exp(-‖x - x'‖² / 2σ²).
        unbiased: HSIC₁ of Song et al. (2012), which is 0 on average for independent spaces where
            the plain one grows with the widths; needs n > 3.
        bandwidth: σ in units of the median distance between two items.

    Raises:
        ValueError: as `nngs`; an unknown kernel; a space in which nothing varies.

    >>> import numpy as np
    >>> from conjure_tools.neighbors import cka
    >>> X = np.random.default_rng(0).normal(size=(20, 3))
    >>> round(cka(X, 2 * X), 6)
    1.0
    """
    spaces = _paired(X, Y, "euclidean")
    finite("bandwidth", bandwidth)
    if unbiased and len(spaces[0]) < 4:
        raise ValueError("the unbiased version needs four items or more")
    K, L = (_centred(_gram(s.astype(float), kernel, bandwidth), unbiased) for s in spaces)
    norms = np.linalg.norm(K) * np.linalg.norm(L)
    if not norms > 0:
        raise ValueError("all items of a space are the same: nothing varies")
    return float((K * L).sum() / norms)


def _gram(x: np.ndarray, kernel: str, bandwidth: float) -> np.ndarray:
    if kernel == "linear":
        x = x - x.mean(axis=0)
        return x @ x.T
    if kernel != "rbf":
        raise ValueError(f"kernel must be 'linear' or 'rbf', not {kernel!r}")
    square = squareform(pdist(x, "sqeuclidean"))
    sigma = bandwidth**2 * np.median(square[np.triu_indices(len(x), 1)])
    if not sigma > 0:
        raise ValueError("bandwidth and the median distance of the items must be positive")
    return np.exp(-square / (2 * sigma))


def _centred(K: np.ndarray, unbiased: bool) -> np.ndarray:
    """K less its row and column means; for the unbiased HSIC over entries off the diagonal."""
    n = len(K)
    if not unbiased:
        return K - K.mean(axis=0) - K.mean(axis=1, keepdims=True) + K.mean()
    K = K - np.diag(np.diag(K))
    rows, total = K.sum(axis=0) / (n - 2), K.sum() / ((n - 1) * (n - 2))
    K = K - rows - rows[:, None] + total
    return K - np.diag(np.diag(K))


# -- input ----------------------------------------------------------------------------------


def _paired(X: Any, Y: Any, metric: str) -> tuple[np.ndarray, np.ndarray]:
    x, y = _space("X", X, metric), _space("Y", Y, metric)
    if len(x) != len(y):
        raise ValueError(f"the spaces must have the same items: {len(x)} and {len(y)} are not")
    tables = isinstance(X, pd.DataFrame) and isinstance(Y, pd.DataFrame)
    if tables and not X.index.equals(Y.index):
        raise ValueError("the rows of X and Y are named otherwise: sort one by the other's index")
    return x, y


def _space(name: str, X: Any, metric: str) -> np.ndarray:
    """X as a matrix of float32, if it is that, or float64; ValueError if it is no space."""
    one_of("metric", metric, METRICS)
    x = as_numbers(name, X)
    if x.ndim != 2 or len(x) < 3 or not x.shape[1]:
        raise ValueError(f"{name} must be a matrix of three rows or more, not of shape {x.shape}")
    if metric in (*VECTORS, "precomputed"):
        x = _scaled(x)
    if metric == "precomputed":
        _check_distances(name, x)
    if metric == "cosine" and not all((row != 0).any() for row in x):
        raise ValueError(f"an item of {name} is the zero vector, which has no cosine")
    return x


def _scaled(x: np.ndarray) -> np.ndarray:
    """``x`` in a unit, a power of two, in which no square overflows and the largest is not lost."""
    exponent = int(np.frexp(max(abs(float(x.min())), abs(float(x.max()))))[1])
    return x if abs(exponent) <= 40 else np.ldexp(x, -exponent)


def _check_distances(name: str, x: np.ndarray) -> None:
    """Raise ValueError where a matrix cannot be one of distances."""
    if x.shape[0] != x.shape[1]:
        raise ValueError(f"{name} must be a square matrix, as of distances, not {x.shape}")
    rounding = 1e-6 * np.abs(x).max()
    if not np.allclose(x, x.T, rtol=1e-5, atol=rounding):
        raise ValueError(f"{name} must be symmetric: row i, column j differs from j, i")
    if np.abs(np.diag(x)).max() > rounding:
        raise ValueError(
            f"{name} must be 0 on its diagonal, as distances are: of similarities take, say, the "
            "largest one less each"
        )
    if x.min() < -rounding:
        i, j = np.unravel_index(x.argmin(), x.shape)
        raise ValueError(f"{name} holds a negative distance, at row {i}, column {j}")


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        whole(name, count, int(name == "block"))
