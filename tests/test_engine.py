"""The schedule of many pairs: same numbers within any memory, full batches, one compiled shape."""

from __future__ import annotations

import itertools
import math
import shutil
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

import conjure_lib as cj
from conjure_lib import engine
from conjure_tools import runs
from conjure_tools.hardware import compile_network

WORDS = [f"word {i}" for i in range(24)]
MATRIX = list(itertools.combinations(WORDS, 2))  # 276 pairs
BYTES = 5 * 4 * 4 * 2 + 4 * 4  # of a word: five steps of four numbers, twice, and its condition


class Toy(torch.nn.Module):
    """A model that depends on x, on t and on the word, and remembers how many rows it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.linspace(0.5, 1.5, 4))
        self.asked: list[int] = []

    def forward(self, x: Tensor, t: Tensor, m: Tensor) -> Tensor:
        return torch.tanh(self.weight * x * m) + t[:, None] / 1000 * m


def toy() -> tuple[cj.GenerativeProcess, Toy]:
    """A process of latents (4,) over a :class:`Toy`."""
    network = Toy().requires_grad_(False)

    def predict(x: Tensor, t: Tensor, m: Tensor) -> Tensor:
        network.asked.append(len(x))
        return network(x, t, m)

    def encode(texts: Sequence[str]) -> Tensor:
        vectors = [np.random.default_rng([ord(c) for c in w + "."]).normal(size=4) for w in texts]
        return torch.tensor(np.array(vectors), dtype=torch.float32)

    scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    process = cj.GenerativeProcess(predict, encode, scheduler, (4,), modules={"unet": network})
    return process, network


def terms(process: cj.GenerativeProcess, pairs: Sequence[tuple[str, str]], **changed: object):
    settings = {"steps": 5, "draws": 2, "batch_size": 16, "progress": False} | changed
    return cj.pair_terms(process, pairs, **settings).squares


@pytest.mark.parametrize("changed", [{}, {"guidance": 2.0}, {"pairing": "crossed"}])
@pytest.mark.parametrize("prompts", [2, 5, 8, 23])
def test_no_memory_budget_changes_a_number(prompts: int, changed: dict[str, object]) -> None:
    pairs = [*MATRIX, ("word 3", "word 3"), ("word 7", "word 2")]
    process, _ = toy()
    whole = terms(process, pairs, **changed)
    size = BYTES + (5 * 4 * 4 if "guidance" in changed else 0)
    parts = terms(process, pairs, memory=prompts * size, **changed)
    np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-9)


def test_no_more_prompts_are_held_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    held, kept, before = [], engine._trajectories, []

    def watched(process: cj.GenerativeProcess, condition: Tensor, *rest: object) -> object:
        held.append(len(condition))
        assert not any(paths() for paths in before)  # those of the group before are gone
        paths = kept(process, condition, *rest)
        before.append(weakref.ref(paths))
        return paths

    monkeypatch.setattr(engine, "_trajectories", watched)
    process, _ = toy()
    terms(process, MATRIX, memory=10 * BYTES, draws=1)
    assert max(held) <= 10 and len(held) > 5
    # squares of 5 prompts a side: 10 off the diagonal, 5 on it, each with its own trajectories
    assert process.evaluations == 5 * (sum(held) + 2 * len(MATRIX))
    assert sum(held) < len(MATRIX) / 1.5  # a walk row by row starts one trajectory a pair
    held.clear()
    terms(process, MATRIX, memory=1000 * BYTES, draws=1)
    assert held == [24]


def test_pairs_that_share_nothing_are_started_once_in_any_memory() -> None:
    pairs = [(f"left {i}", f"right {i}") for i in range(50)]
    process, _ = toy()
    terms(process, pairs, memory=7 * BYTES, draws=1)
    assert process.evaluations == 5 * (100 + 2 * 50)


@pytest.mark.parametrize("draws", [1, 5])
def test_batches_are_full(draws: int) -> None:
    process, network = toy()
    terms(process, MATRIX, draws=draws)
    terms(process, MATRIX[:1], draws=draws)
    rows = 5 * draws * (24 + 2 * 276) + 5 * draws * (2 + 2)
    assert sum(network.asked) == process.evaluations == rows
    # one short batch a trajectory's step, one at the end of the pairs, one a network call
    calls = [math.ceil(n / 16) for n in (24, 2 * 276 * 5 * draws, 2 * draws, 2 * 5 * draws)]
    if draws == 1:
        assert len(network.asked) == 5 * calls[0] + calls[1] + 5 * calls[2] + calls[3]
    assert len(network.asked) <= rows / 16 + 10 * (draws + 1) + 2


def test_tiles_walk_the_matrix_in_squares() -> None:
    pairs = list(itertools.combinations(range(24), 2))
    order = engine.tiled(pairs, 6)
    assert sorted(order) == list(range(276))
    first = [pairs[row] for row in order[: 6 * 5 // 2 + 36]]  # a triangle and the square beside it
    assert {i for pair in first for i in pair} == set(range(12))
    assert engine.tiled([(0, 1), (2, 3), (4, 5)], 2) == [0, 1, 2]


def test_arranged_pairs_need_fewer_trajectories(tmp_path: Path) -> None:
    """Prompts of 36 consecutive pairs: some 36 row by row, two sides of 6 in a square."""
    many = list(itertools.combinations(map(str, range(100)), 2))
    many = pd.DataFrame(many, columns=["text1", "text2"])

    def prompts(table: pd.DataFrame) -> float:
        blocks = [table.iloc[i : i + 36] for i in range(0, len(table), 36)]
        return float(np.mean([len({*block["text1"], *block["text2"]}) for block in blocks]))

    arranged = runs.arranged(many, 36)
    assert sorted(arranged.index) == list(many.index)
    assert prompts(many) > 35 and 12 <= prompts(arranged) < 19

    table = pd.DataFrame(MATRIX, columns=["text1", "text2"]).assign(id=[*map(str, range(276))])
    found = []
    for name, pairs in (("given", table), ("arranged", runs.arranged(table, 36))):
        settings = {"draws": 1, "steps": 5, "block": 36, "report": lambda _: None}
        run = runs.score(toy()[0], pairs, tmp_path / name, **settings)
        found.append(run.distances().set_index("id")["distance"].sort_index())
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4)


# -- one shape -------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")  # of torch's own
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_calls_have_one_shape_and_the_same_numbers() -> None:
    process, network = toy()
    plain = terms(process, MATRIX[:20])
    spent = process.evaluations
    compile_network(process, batch_size=12)
    network.asked.clear()
    compiled = terms(process, MATRIX[:20])
    np.testing.assert_allclose(compiled, plain, rtol=1e-4)
    assert set(network.asked) == {12}
    assert process.evaluations == 2 * spent  # rows that only fill a call up are not counted
    assert runs.provenance(process)["compiled"] is True


def test_what_cannot_be_compiled() -> None:
    process, _ = toy()
    with pytest.raises(ValueError, match="at least 1, not 0"):
        compile_network(process, 0)
    process.modules = {}
    with pytest.raises(ValueError, match="no network that could be compiled"):
        compile_network(process)


# -- embeddings ------------------------------------------------------------------------------


def scorer(width: int | None = None, **changed: object) -> cj.Scorer:
    settings = {"steps": 10, "draws": 6, "weighting": "noise"} | changed
    return cj.Scorer(toy()[0], width=width, **settings)


def test_anchors_are_made_in_batches() -> None:
    one = scorer()
    together = one.encode(WORDS)
    network = one.process.modules["unet"]
    network.asked.clear()
    np.testing.assert_allclose(one.encode(WORDS, batch_size=4), together, rtol=1e-4, atol=1e-5)
    assert max(network.asked) == 4


def test_hashing_keeps_squared_distances_on_average_and_to_within_its_width() -> None:
    """A relative standard deviation of at most √(2/m), over many hashings (seeds)."""
    errors = []
    for seed in range(40):
        # with a seed come other anchors: compare with the same ones, unhashed
        whole, short = (scorer(w, seed=seed).encode(WORDS[:8]).astype(float) for w in (None, 64))
        assert whole.shape == (8, 6 * 10 * 4) and short.shape == (8, 64)
        i, j = np.triu_indices(8, 1)
        full, hashed = (((v[i] - v[j]) ** 2).sum(1) for v in (whole, short))
        errors.append(hashed / full - 1)
    spread = np.std(errors)
    assert abs(np.mean(errors)) < 4 * spread / math.sqrt(40)
    assert 0.3 * math.sqrt(2 / 64) < spread < 1.2 * math.sqrt(2 / 64)


def test_hashed_embeddings_of_two_calls_belong_together() -> None:
    one, two = scorer(32), scorer(32)
    together = one.encode(WORDS)
    np.testing.assert_allclose(two.encode(WORDS[5:9], batch_size=3), together[5:9], rtol=1e-4)
    assert together.dtype == np.float32 and together.flags.c_contiguous
    with pytest.raises(ValueError, match="width must be at least 1, not 0"):
        scorer(0)


def test_a_vector_index_takes_them() -> None:
    faiss = pytest.importorskip("faiss")
    vectors = scorer(128).encode(WORDS)
    index = faiss.IndexFlatL2(128)
    index.add(vectors)
    _, found = index.search(vectors, 3)
    mine = -cj.Scorer.similarity(scorer(), vectors, vectors).numpy()
    np.testing.assert_array_equal(found, np.argsort(mine, axis=1, kind="stable")[:, :3])


@pytest.mark.parametrize("width", [None, 7])
def test_texts_are_embedded_in_portions(monkeypatch: pytest.MonkeyPatch, width: int | None) -> None:
    texts = [f"text {i}" for i in range(9)]
    process, _ = toy()
    held, encode = [], process.encode
    process.encode = lambda some: held.append(len(some)) or encode(some)
    scorer = cj.Scorer(process, steps=3, draws=2, width=width)
    whole = scorer.encode(texts)
    monkeypatch.setattr("conjure_tools.scorer.PORTION", 4)
    held.clear()
    np.testing.assert_allclose(scorer.encode(texts), whole, rtol=1e-5, atol=1e-5)
    assert held[-3:] == [4, 4, 1]
