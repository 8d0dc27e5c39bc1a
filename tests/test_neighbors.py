"""NNGS, mutual k-nearest neighbours and CKA against sets, enumeration, definitions and others."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import combinations, permutations
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial.distance import cdist
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from conjure_tools import neighbors as library
from conjure_tools.neighbors import (
    chance,
    chance_bound,
    cka,
    count_of,
    mutual_knn,
    neighbors,
    nngs,
    nngs_profile,
)

QUICK: dict[str, Any] = {"permutations": 0, "resamples": 0}


def pair(n: int = 40, seed: int = 0, noise: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    """Two related spaces of n items, of widths 5 and 7."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 5))
    return x, np.hstack([x, rng.normal(size=(n, 2))]) + noise * rng.normal(size=(n, 7))


def sets(distance: np.ndarray, k: int) -> list[set[int]]:
    """The k nearest others of each item, one item after another; no ties."""
    return [
        set(sorted((j for j in range(len(row)) if j != i), key=row.__getitem__)[:k])
        for i, row in enumerate(distance)
    ]


def naive(x: np.ndarray, y: np.ndarray, k: int, metric: str = "euclidean") -> float:
    """NNGS from its definition."""
    both = [sets(s if metric == "precomputed" else cdist(s, s, metric), k) for s in (x, y)]
    return float(np.mean([len(a & b) / len(a | b) for a, b in zip(*both, strict=True)]))


# NNGS


@pytest.mark.parametrize("k", [1, 2, 7, 20, 38, 39])
@pytest.mark.parametrize("metric", ["euclidean", "cosine", "cityblock"])
def test_nngs_is_its_definition(k: int, metric: str) -> None:
    x, y = pair()
    expected = naive(x, y, k, metric)
    assert nngs(x, y, k, metric=metric, **QUICK).value == pytest.approx(expected, abs=1e-12)
    shared = [
        len(a & b) / k for a, b in zip(*(sets(cdist(s, s, metric), k) for s in (x, y)), strict=True)
    ]
    assert mutual_knn(x, y, k, metric=metric) == pytest.approx(np.mean(shared), abs=1e-12)


def test_nngs_on_a_graph_worked_by_hand() -> None:
    """On a line 0, 1, 3, 7 and, the last moved, 0, 1, 3, -4: N(i) for k = 2 below."""
    x, y = np.array([[0.0], [1], [3], [7]]), np.array([[0.0], [1], [3], [-4]])
    # in x: {1, 2} {0, 2} {1, 0} {2, 1}; in y: {1, 2} {0, 2} {1, 0} {0, 1}
    found = nngs(x, y, 2, **QUICK)
    assert found.by_item.tolist() == [1, 1, 1, 1 / 3]
    assert found.value == (3 + 1 / 3) / 4
    # k = 1: in x 1, 0, 1, 2; in y 1, 0, 1, 0
    assert nngs(x, y, 1, **QUICK).by_item.tolist() == [1, 1, 1, 0]
    assert mutual_knn(x, y, 2) == (3 + 1 / 2) / 4
    assert neighbors(x, 3).tolist() == [[1, 2, 3], [0, 2, 3], [1, 0, 3], [2, 1, 0]]
    # m = 3, k = 2: two sets share 1 of 3 (index 1/3, chance 2/3) or both (index 1, chance 1/3)
    assert found.chance == pytest.approx(2 / 3 * 1 / 3 + 1 / 3)
    assert found.bound == 2 / (2 * 3 - 2)
    assert found.corrected == pytest.approx((found.value - 5 / 9) / (4 / 9))


def test_extremes() -> None:
    x, y = pair()
    for k in (1, 5, 0.5, 39):
        assert nngs(x, 3 * x + 1, k, **QUICK).value == 1
    assert nngs(x, y, 39).value == 1  # all others are neighbours
    whole = nngs(x, y, 39)
    assert (whole.chance, whole.bound, whole.p, whole.low, whole.high) == (1, 1, 1, 1, 1)
    assert np.isnan(whole.corrected)


@pytest.mark.parametrize("k", [0.2, 5])
def test_distances_give_what_embeddings_give(k: float) -> None:
    x, y = pair()
    first, second = nngs(x, y, k), nngs(cdist(x, x), cdist(y, y), k, metric="precomputed")
    assert np.array_equal(first.by_item, second.by_item)
    assert (first.p, first.low, first.high) == (second.p, second.low, second.high)


@pytest.mark.parametrize("change", [np.sqrt, np.square, np.log1p, lambda d: 5 * d, np.float32])
def test_monotone_transformations_change_nothing(change: Callable[..., Any]) -> None:
    x, y = (cdist(s, s) for s in pair())
    before = nngs_profile(x, y, metric="precomputed", permutations=0).value
    after = nngs_profile(change(x), y, metric="precomputed", permutations=0).value
    assert np.array_equal(before, after)


def test_the_profile_is_nngs_at_every_k() -> None:
    x, y = pair(25)
    profile = nngs_profile(x, y, permutations=50)
    assert profile.k.tolist() == list(range(1, 25))
    for row in profile.itertuples():
        single = nngs(x, y, row.k, **QUICK)
        expected = [single.value, single.chance, single.bound, single.corrected]
        found = [row.value, row.chance, row.bound, row.corrected]
        assert found == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert (profile.null_low <= profile.null_high).all()
    assert ((profile.null_low <= profile.chance) & (profile.chance <= profile.null_high)).all()


def test_k_may_be_a_fraction_rounded_down() -> None:
    assert [count_of(k, 100) for k in (1, 99, 0.2, 0.29, 0.999, np.int64(3))] == [
        1, 99, 20, 29, 99, 3,
    ]  # fmt: skip
    x, y = pair()
    assert nngs(x, y, 0.2, **QUICK).k == 8


# Chance


def test_chance_is_the_mean_over_all_sets() -> None:
    for m, k in ((4, 1), (5, 2), (6, 3), (6, 5), (7, 4)):
        fixed = set(range(k))
        drawn = [set(c) for c in combinations(range(m), k)]
        expected = sum(len(fixed & s) / len(fixed | s) for s in drawn) / comb(m, k)
        assert chance(m + 1, k) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_chance_is_the_mean_over_all_pairings_of_the_items(k: int) -> None:
    """Whatever the two graphs are, hubs and all: 120 pairings of five items."""
    x, y = np.array([[0.0], [1], [1.5], [9], [-3]]), np.random.default_rng(0).normal(size=(5, 2))
    values = [nngs(x, y[list(p)], k, **QUICK).value for p in permutations(range(5))]
    assert np.mean(values) == pytest.approx(chance(5, k), abs=1e-12)


def test_the_published_bound_lies_below_and_meets_chance_at_the_end() -> None:
    for n in (5, 30, 200):
        exact = np.array([chance(n, k) for k in range(1, n)])
        bound = chance_bound(n, np.arange(1, n))
        assert (bound[:-1] < exact[:-1]).all()
        assert exact[-1] == pytest.approx(bound[-1]) == pytest.approx(1)
    assert chance(30, 1) == pytest.approx(1 / 29)  # where the bound is half of it
    assert chance_bound(30, 1) == 1 / 57


def test_independent_spaces_are_at_chance() -> None:
    rng = np.random.default_rng(0)
    found = [nngs(rng.normal(size=(30, 4)), rng.normal(size=(30, 6)), 6, permutations=39)
             for _ in range(60)]  # fmt: skip
    values = np.array([f.value for f in found])
    assert abs(values.mean() - found[0].chance) < 4 * values.std() / np.sqrt(len(values))
    assert found[0].bound < values.mean()
    assert np.mean([f.low <= f.chance <= f.high for f in found]) > 0.9
    p = np.array([f.p for f in found])
    assert 0.3 < p.mean() < 0.7 and (p <= 0.1).mean() < 0.25  # about uniform


def test_related_spaces_are_beyond_every_random_pairing() -> None:
    found = nngs(*pair(), 8, permutations=199)
    assert found.p == 1 / 200
    assert found.low > found.chance


# Intervals


@pytest.mark.parametrize("k", [1, 3, 8, 10])
def test_leaving_out_an_item_is_making_its_graphs_anew(k: int) -> None:
    x, y = pair(12)
    a, b = (neighbors(s, k + 1) for s in (x, y))
    for i, value in enumerate(library._left_out(a, b)):
        others = np.delete(np.arange(12), i)
        assert value == pytest.approx(naive(x[others], y[others], k), abs=1e-12)


def test_the_interval_covers_and_that_of_the_jaccard_indices_does_not() -> None:
    """40 samples of a population: their NNGS spreads more than their indices say."""
    found = [nngs(*pair(60, seed), 12, permutations=0, resamples=200) for seed in range(40)]
    values = np.array([f.value for f in found])
    covers = [f.low <= values.mean() <= f.high for f in found]
    assert np.mean(covers) >= 0.9
    width = np.mean([f.high - f.low for f in found]) / 2 / 1.96
    naive_width = np.mean([f.by_item.std(ddof=1) / np.sqrt(60) for f in found])
    assert naive_width < 0.8 * values.std(ddof=1) < width < 2 * values.std(ddof=1)


# Ties


def test_ties_are_reproducible_and_drawn_anew_by_number() -> None:
    x = np.random.default_rng(0).integers(0, 3, size=(60, 2)).astype(float)
    assert np.array_equal(neighbors(x, 5), neighbors(x, 5))
    assert not np.array_equal(neighbors(x, 5), neighbors(x, 5, ties=1))
    assert nngs(x, x[::-1], 5, **QUICK).value == nngs(x, x[::-1], 5, **QUICK).value
    distance = cdist(x, x)
    for row, near in zip(distance, neighbors(x, 5), strict=True):
        others = np.sort(row)[1:]  # the item itself is at zero, as its copies are
        assert np.allclose(row[near], others[:5])


def test_spaces_full_of_ties_do_not_seem_to_agree() -> None:
    same = 1 - np.eye(60)
    values = [nngs(same, same, 6, metric="precomputed", seed=s, **QUICK).value for s in range(40)]
    assert abs(np.mean(values) - chance(60, 6)) < 4 * np.std(values) / np.sqrt(40)
    rows = neighbors(same, 6, metric="precomputed")
    assert len({tuple(sorted(row)) for row in rows.tolist()}) > 30  # an order for each row


def test_an_item_is_no_neighbour_of_itself_among_copies() -> None:
    x = np.zeros((20, 3))
    for search in ("matrix", "torch"):
        found = neighbors(x, 19, search=search, block=8)
        for i, row in enumerate(found.tolist()):
            assert sorted(row) == [j for j in range(20) if j != i]


# Searches


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("block", [7, 64, 1000])
def test_blocks_find_what_the_matrix_finds(metric: str, block: int) -> None:
    x = 30 + np.random.default_rng(0).normal(size=(150, 6))  # far from the origin
    expected = neighbors(x, 9, metric=metric, search="matrix")
    found = neighbors(x, 9, metric=metric, search="torch", block=block)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("block", [16, 50, 200])
def test_ties_are_broken_alike_in_blocks(block: int) -> None:
    x = np.random.default_rng(0).integers(0, 3, size=(75, 3)).astype(np.float32)
    x = np.concatenate([x, -x])  # of mean zero, so that float32 has no rounding to do
    expected = neighbors(x, 12, ties=5)
    assert np.array_equal(neighbors(x, 12, search="torch", block=block, ties=5), expected)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_faiss_finds_what_the_matrix_finds(metric: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of its wrapper, while it is imported
        pytest.importorskip("faiss")
    x = np.random.default_rng(0).normal(size=(150, 6))
    x[100:110] = x[0]  # copies, among which the item itself may be missed
    expected = np.sort(neighbors(x[:100], 9, metric=metric, search="matrix"))
    found = np.sort(neighbors(x[:100], 9, metric=metric, search="faiss"))
    assert np.array_equal(found, expected)
    whole = neighbors(x, 5, metric=metric, search="faiss")
    assert (whole != np.arange(150)[:, None]).all()


def test_large_spaces_are_searched_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "MATRIX", 30)
    monkeypatch.setattr(library, "find_spec", lambda name: None)
    monkeypatch.setattr(library, "_sorted", None)  # would fail
    x, y = pair()
    assert nngs(x, y, 7, block=16, **QUICK).value == pytest.approx(naive(x, y, 7))


def test_overlaps_do_not_depend_on_how_many_rows_are_compared_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, y = pair()
    before = nngs(x, y, 7)
    monkeypatch.setattr(library, "ROWS", 40)
    assert np.array_equal(nngs(x, y, 7).by_item, before.by_item)


class Largest(TorchDispatchMode):
    """Remembers the most numbers that any tensor had which an operation gave."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return result


@pytest.mark.parametrize("n", [200, 400, 800])
def test_memory_of_the_blocked_search_is_bounded_by_the_block(n: int, tmp_path: Path) -> None:
    """The embeddings may stay on disk, and no tensor has more numbers than a block has."""
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (n, 8))
    x[:] = np.random.default_rng(0).normal(size=x.shape)
    with Largest() as largest:
        found = neighbors(x, 4, search="torch", block=40)
    assert largest.numbers == 40 * 40  # whatever n, as long as n is less
    assert np.array_equal(found, neighbors(np.array(x), 4, search="matrix"))


# Centred kernel alignment


def hsic(K: np.ndarray, L: np.ndarray) -> float:
    """tr(KHLH) / (n - 1)², the biased estimate of Gretton et al. (2005)."""
    n = len(K)
    H = np.eye(n) - 1 / n
    return float(np.trace(K @ H @ L @ H) / (n - 1) ** 2)


def hsic_1(K: np.ndarray, L: np.ndarray) -> float:
    """The unbiased estimate, term by term as Song et al. (2012) print it."""
    n, one = len(K), np.ones(len(K))
    K, L = K - np.diag(np.diag(K)), L - np.diag(np.diag(L))
    middle = (one @ K @ one) * (one @ L @ one) / ((n - 1) * (n - 2))
    return float((np.trace(K @ L) + middle - 2 / (n - 2) * (one @ K @ L @ one)) / (n * (n - 3)))


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_cka_is_its_definition(kernel: Any, unbiased: bool) -> None:
    grams = []
    for s in pair():
        square = cdist(s, s) ** 2
        sigma = 0.8 * np.median(cdist(s, s)[np.triu_indices(40, 1)])
        grams.append(s @ s.T if kernel == "linear" else np.exp(-square / (2 * sigma**2)))
    K, L = grams
    measure = hsic_1 if unbiased else hsic
    expected = measure(K, L) / np.sqrt(measure(K, K) * measure(L, L))
    assert cka(*pair(), kernel, unbiased=unbiased, bandwidth=0.8) == pytest.approx(expected)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_cka_is_that_of_another_library(kernel: Any, unbiased: bool) -> None:
    """ckatorch, after the code of Kornblith et al.; its median counts the zeros of the diagonal."""
    reference = pytest.importorskip("ckatorch")
    spaces = [torch.tensor(s) for s in pair(41)]
    if kernel == "linear":
        expected = float(reference.cka_base(*spaces, unbiased=unbiased))
    else:
        grams = [reference.rbf_kernel(s, 0.7 * _median_ratio(s.numpy())) for s in spaces]
        K, L = (reference.center_gram_matrix(g, unbiased) for g in grams)
        expected = float((K * L).sum() / K.norm() / L.norm())
    assert cka(*pair(41), kernel, unbiased=unbiased, bandwidth=0.7) == pytest.approx(expected)


def _median_ratio(s: np.ndarray) -> float:
    """Median distance of two items over that of all entries of the matrix, the lower median."""
    square = cdist(s, s) ** 2
    whole = np.sort(square.ravel())[(square.size - 1) // 2]
    return float(np.sqrt(np.median(square[np.triu_indices(len(s), 1)]) / whole))


def test_cka_does_not_see_rotation_shift_and_scale() -> None:
    x, y = pair()
    turned = x @ np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
    for kernel in ("linear", "rbf"):
        for unbiased in (False, True):
            options: dict[str, Any] = {"kernel": kernel, "unbiased": unbiased}
            assert cka(x, x, **options) == pytest.approx(1)
            assert cka(3 * turned - 7, y, **options) == pytest.approx(cka(x, y, **options))


def test_unbiased_cka_of_independent_spaces_is_zero_on_average_and_the_plain_one_is_not() -> None:
    rng = np.random.default_rng(0)
    drawn = [(rng.normal(size=(30, 40)), rng.normal(size=(30, 50))) for _ in range(60)]
    plain = [cka(x, y) for x, y in drawn]
    unbiased = np.array([cka(x, y, unbiased=True) for x, y in drawn])
    assert min(plain) > 0.4
    assert abs(unbiased.mean()) < 4 * unbiased.std() / np.sqrt(60)


# Bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x, y[:-1], 3, {}), "same items: 40 and 39"),
        (lambda x, y: (x, y, 0, {}), "must be from 1 to 39"),
        (lambda x, y: (x, y, 40, {}), "k = 40 of 40 items is 40: it must be from 1 to 39"),
        (lambda x, y: (x, y, -2, {}), "must be from 1 to 39"),
        (lambda x, y: (x, y, 0.001, {}), "of 40 items is 0"),
        (lambda x, y: (x, y, 1.0, {}), "an integer or a fraction between 0 and 1"),
        (lambda x, y: (x, y, True, {}), "an integer or a fraction"),
        (lambda x, y: (x, y, "5", {}), "an integer or a fraction"),
        (lambda x, y: (np.where(x == x.max(), np.nan, x), y, 3, {}), "not finite"),
        (lambda x, y: (x, np.where(y == y.max(), np.inf, y), 3, {}), "not finite"),
        (lambda x, y: (x[:, 0], y, 3, {}), "matrix of three rows or more"),
        (lambda x, y: (x[:2], y[:2], 1, {}), "matrix of three rows or more"),
        (lambda x, y: (x[:, :0], y, 3, {}), "matrix of three rows or more"),
        (lambda x, y: (x, y, 3, {"metric": "precomputed"}), r"square matrix, .* not \(40, 5\)"),
        (lambda x, y: (x @ y[:, :5].T, x @ x.T, 3, {"metric": "precomputed"}), "symmetric"),
        (lambda x, y: (x * (x > x[:1]), y, 3, {"metric": "cosine"}), "zero vector"),
        (lambda x, y: (x, y, 3, {"metric": "nearness"}), "nearness"),
        (lambda x, y: (x, y, 3, {"search": "magic"}), "one of auto, matrix, torch, faiss"),
        (lambda x, y: (x, y, 3, {"search": "torch", "metric": "cityblock"}), "not 'cityblock'"),
    ],
)
def test_bad_input_is_refused(change: Callable[..., Any], message: str) -> None:
    x, y, k, options = change(*pair())
    with pytest.raises(ValueError, match=message):
        nngs(x, y, k, **options)


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (np.ones((10, 2)), {}, "nothing varies"),
        (np.ones((10, 2)), {"kernel": "rbf"}, "median distance"),
        (pair(10)[0], {"kernel": "cubic"}, "'linear' or 'rbf'"),
        (pair(3)[0], {"unbiased": True}, "four items"),
        (pair(10)[0] * np.nan, {}, "not finite"),
    ],
)
def test_bad_input_of_cka_is_refused(x: np.ndarray, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cka(x, pair(len(x))[1], **options)


@pytest.mark.parametrize("search", ["matrix", "torch"])
@pytest.mark.parametrize("unit", [1e-30, 1e19, 1e30])
def test_neighbours_in_any_unit(search: Any, unit: float) -> None:
    """Squares of such numbers overflow float32, or vanish in it."""
    x = pair(30)[0]
    expected = np.sort(neighbors(x, 4, search="matrix"))
    for rows in (x * unit, (x * unit).astype(np.float32)):
        np.testing.assert_array_equal(np.sort(neighbors(rows, 4, search=search)), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: np.exp(-d), "Y must be 0 on its diagonal, .* of similarities"),
        (lambda d: -d, "Y holds a negative distance, at row"),
        (lambda d: np.ma.masked_greater(d, 3), "Y has masked values"),
        (lambda d: d + 1j, "Y must be rows of numbers"),
        (lambda d: d.astype(str), "Y must be rows of numbers"),
        (lambda d: [[1, 2], [3]], "Y must be rows of numbers"),
    ],
)
def test_what_holds_no_distances_is_refused(change: Callable[..., Any], message: str) -> None:
    x = pair(20)[0]
    apart = np.linalg.norm(x[:, None] - x, axis=2)
    with pytest.raises(ValueError, match=message):
        nngs(apart, change(apart), 3, metric="precomputed")


@pytest.mark.parametrize("name", ["block", "permutations", "resamples", "seed"])
def test_counts_are_integers(name: str) -> None:
    for value in (2.5, True, "3"):
        with pytest.raises(TypeError, match=f"{name} must be a whole number"):
            nngs(*pair(10), 3, **{name: value})
    with pytest.raises(ValueError, match=f"{name} must be at least"):
        nngs(*pair(10), 3, **{name: -1})


def test_tables_whose_rows_are_named_otherwise_are_refused() -> None:
    x, y = map(pd.DataFrame, pair(10))
    with pytest.raises(ValueError, match="sort one by the other's index"):
        nngs(x, y.iloc[::-1], 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("search", ["matrix", "torch", "faiss"])
def test_a_mean_far_from_the_origin_hides_no_distance(search: Any, metric: str, dtype: Any) -> None:
    """Neighbours are those of exact differences, however far away and small the cloud is."""
    if search == "faiss":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pytest.importorskip("faiss")
    x, y = pair(noise=0.1)
    for shift, unit in ((1e8, 1.0), (-1e12, 1.0), (1.0, 1e-9), (1e-20, 1e-27)):
        if dtype == np.float32:  # which itself holds seven digits
            shift = unit * 1e4
        moved = [(shift + unit * s).astype(dtype) for s in (x, y)]
        differences = [(s[:, None].astype(float) - s) / unit for s in moved]
        exact = [(d**2).sum(2) for d in differences]
        if metric == "cosine":
            rows = [
                s.astype(float) / np.linalg.norm(s.astype(float), axis=1)[:, None] for s in moved
            ]
            exact = [((s[:, None] - s) ** 2).sum(2) for s in rows]
            if shift == -1e12:  # angles of 1e-12: rows of length one do not hold them
                continue
        near = [sets(d, 3) for d in exact]
        expected = np.mean([len(a & b) / 3 for a, b in zip(*near, strict=True)])
        found = mutual_knn(*moved, 3, metric=metric, search=search)
        assert found == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("metric", ["jaccard", "hamming", "banana", "haversine", None, 3, cdist])
def test_metrics_of_anything_but_real_numbers_are_refused(metric: Any) -> None:
    for ask in (nngs, nngs_profile, mutual_knn):
        with pytest.raises(ValueError, match="metric must be one of euclidean, cosine, prec"):
            ask(*pair(), *([] if ask is nngs_profile else [3]), metric=metric)
    with pytest.raises(ValueError, match="metric must be one of"):
        neighbors(pair()[0], 3, metric=metric)


@pytest.mark.parametrize("metric", [m for m in library.METRICS if m != "precomputed"])
def test_every_metric_is_that_of_scipy(metric: str) -> None:
    x, _ = pair(30)
    known = {"manhattan": "cityblock"}.get(metric, metric)
    expected = [d.argsort()[1:5].tolist() for d in cdist(x, x, known)]
    assert neighbors(x, 4, metric=metric).tolist() == expected


def test_distances_that_are_no_numbers_are_refused() -> None:
    x = pair()[0]
    x[3] = 1.0  # it has no correlation
    with pytest.raises(ValueError, match="correlation distance is not finite"):
        neighbors(x, 3, metric="correlation")


def test_chance_needs_fewer_neighbours_than_items() -> None:
    for ask in (chance, chance_bound):
        for n, k in ((3, 5), (3, 10), (3, 3), (3, 0), (3, -1)):
            with pytest.raises(ValueError, match="k must be"):
                ask(n, k)
        with pytest.raises(TypeError, match="k must be a whole number"):
            ask(5, 1.5)
    with pytest.raises(ValueError, match="k must be from 1 to n - 1 = 4, not 5"):
        chance_bound(5, np.arange(1, 6))
