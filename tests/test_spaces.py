"""The spaces of one model: what must be exact in them, and the statistics that compare them."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial.distance import squareform
from scipy.stats import kstest, spearmanr

import conjure_lib as cj
from conjure_tools.fingerprints import weights_hash
from studies import comparison, spaces

FEW = ["boy", "lad", "coast", "smile"]
PAIRS = list(combinations(FEW, 2))
Made = tuple[pd.DataFrame, dict[str, object], Path]


@pytest.fixture(scope="module")
def made(random_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Every space over four words, from a small random model, and the folder of its runs."""
    folder = tmp_path_factory.mktemp("spaces")
    table, notes = spaces.make(random_folder, folder, FEW, report=lambda _: None)
    return table, notes, folder


def terms(process: cj.GenerativeProcess, pairs: object = PAIRS, **settings: object) -> np.ndarray:
    """‖Δε‖² (P, draws, S, 2) of three steps and two draws."""
    options = {"steps": 3, "draws": 2, "progress": False} | settings
    return cj.pair_terms(process, pairs, **options).squares


# -- the record -------------------------------------------------------------------------------


def test_record_holds_each_pair_once_in_every_space(made: Made) -> None:
    table, notes, _ = made
    assert list(table) == ["space", "kind", "weighting", "text1", "text2", "distance", "stderr"]
    assert set(table["weighting"]) == {"", *cj.WEIGHTINGS}
    for _, part in table.groupby(["space", "weighting"]):
        assert sorted(zip(part["text1"], part["text2"], strict=True)) == sorted(PAIRS)
        assert part["distance"].nunique() > 1  # a constant space would rank nothing
    assert np.isfinite(table["distance"]).all() and (table["distance"] >= 0).all()
    assert table["space"].nunique() >= 24
    assert notes["words"] == FEW and len(notes["runs"]) >= 15
    assert notes["unet_evaluations"] > sum(r["unet_evaluations"] for r in notes["runs"].values())


def test_finished_spaces_are_not_made_again(
    made: Made, random_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a finished run was made again")

    monkeypatch.setattr("conjure_tools.runs.pair_terms", refuse)
    table, _, folder = made
    only = ["ddim", "random conditioning"]
    again, _ = spaces.make(random_folder, folder, FEW, only=only)
    kept = table[table["space"].isin([*only, "relabelled"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(again, kept)


def test_foreign_words_are_refused(random_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="banana"):
        spaces.make(random_folder, tmp_path, ["boy", "banana"])


# -- the processes ----------------------------------------------------------------------------


def test_relabelling_is_conditioning_on_the_other_word(
    made: Made, process: cj.GenerativeProcess, random_folder: Path
) -> None:
    assert len(set(spaces.derangement(FEW))) == len(FEW)
    assert not set(zip(spaces.derangement(FEW), FEW, strict=True)) & {(w, w) for w in FEW}
    model = cj.load(random_folder, device="cpu")
    rows = model.encode(spaces.derangement(FEW))
    other = spaces.conditioned(model, "others", FEW, rows)
    expected = terms(other, steps=spaces.STEPS).mean((1, 2, 3))
    table = made[0].query("space == 'relabelled' and weighting == 'noise'")
    found = table.set_index(["text1", "text2"])["distance"].loc[PAIRS]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_conditioning_of_other_texts_stays(process: cj.GenerativeProcess) -> None:
    own = process.encode(["boy", "coast", ""])
    other = spaces.conditioned(process, "zeros", ["boy"], torch.zeros_like(own[:1]))
    told = other.encode(["coast", "boy", ""])
    assert not told[1].any()
    torch.testing.assert_close(told[[0, 2]], own[[1, 2]], rtol=1e-5, atol=1e-5)
    assert other.name != process.name and weights_hash(other) == weights_hash(process)


def test_random_rows_have_the_mean_and_covariance_of_the_words() -> None:
    own = torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(1))
    drawn = torch.cat([spaces.random_rows(own, seed) for seed in range(3000)]).flatten(1)
    torch.testing.assert_close(drawn.mean(0), own.flatten(1).mean(0), atol=0.05, rtol=0)
    torch.testing.assert_close(drawn.T.cov(), own.flatten(1).T.cov(), atol=0.1, rtol=0)
    assert torch.equal(spaces.random_rows(own, 1), spaces.random_rows(own, 1))


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_untrained_changes_one_network(process: cj.GenerativeProcess, part: str) -> None:
    fresh = spaces.untrained("emoji-diffusion", part)
    same = {
        name: all(
            torch.equal(a, b)
            for a, b in zip(
                module.state_dict().values(),
                fresh.modules[name].state_dict().values(),
                strict=True,
            )
        )
        for name, module in process.modules.items()
    }
    assert [name for name, equal in same.items() if not equal] == [part]
    assert weights_hash(fresh) != weights_hash(process)


@pytest.mark.parametrize(("name", "twin"), [("ddim", "euler"), ("ddpm", "euler-ancestral")])
def test_two_names_of_one_process(process: cj.GenerativeProcess, name: str, twin: str) -> None:
    pairs = [("boy", "coast")]
    first, second = (terms(process, pairs, sampler=s) for s in (name, twin))
    np.testing.assert_allclose(first, second, rtol=1e-3)


def test_a_sampler_that_ignores_the_text_is_refused_and_guidance_starts_from_it(
    process: cj.GenerativeProcess,
) -> None:
    with pytest.raises(ValueError, match="guidance=0 .* makes every distance 0"):
        terms(process, guidance=0.0)
    shared = spaces.elsewhere(process, FEW, draws=2, steps=3)[
        "states of the empty prompt"
    ].terms.squares
    errors = []
    for w in (0.1, 0.01):
        weak = terms(process, guidance=w) / w**2
        errors.append(np.abs(weak.mean(3) / shared.mean(3) - 1).max())
    assert errors[1] < 0.2 * errors[0] < 0.2


# -- the model without the processes ----------------------------------------------------------


def test_states_of_the_empty_prompt_give_conjured_embeddings(process: cj.GenerativeProcess) -> None:
    run = spaces.elsewhere(process, FEW, draws=2, steps=3)["states of the empty prompt"]
    vectors = cj.Scorer(process, weighting="sde", draws=2, steps=3, quadrature="sum").encode(FEW)
    expected = [float(((vectors[i] - vectors[j]) ** 2).sum()) for i, j in index_pairs()]
    np.testing.assert_allclose(run.distances("sde")["distance"], expected, rtol=1e-4)


def test_states_of_noise_lie_on_no_path(process: cj.GenerativeProcess) -> None:
    run = spaces.elsewhere(process, FEW, draws=2, steps=3)["states of noise"]
    x = torch.randn((3, *process.latent_shape), generator=cj.process.generator(0, 1))[2:]
    at = torch.tensor([int(run.terms.timesteps[2])])
    a, b = (process.eps(x, at, process.encode([w])) for w in FEW[:2])
    assert run.terms.squares[0, 1, 2, 0] == pytest.approx(float((a - b).square().sum()), rel=1e-4)


def index_pairs() -> list[tuple[int, int]]:
    return list(combinations(range(len(FEW)), 2))


# -- comparing spaces -------------------------------------------------------------------------


def random_matrix(rng: np.random.Generator, n: int = 12) -> np.ndarray:
    """Distances between n random points."""
    x = rng.normal(size=(n, 3))
    return np.linalg.norm(x[:, None] - x, axis=-1)


def test_resemblance_is_spearman_over_the_pairs() -> None:
    rng = np.random.default_rng(0)
    first = random_matrix(rng)
    second = first + 0.5 * random_matrix(rng)
    found = comparison.resemblance(first, second, resamples=200, permutations=199)
    expected = spearmanr(squareform(first, checks=False), squareform(second, checks=False))
    assert found["value"] == pytest.approx(expected.statistic)
    assert found["low"] < found["value"] < found["high"] and found["p"] == 1 / 200
    same = comparison.resemblance(first, first**2, resamples=50, permutations=99)
    assert same["value"] == pytest.approx(1) and same["low"] == pytest.approx(1)
    assert same["p"] == 1 / 100


def test_unrelated_spaces_pass_the_test_as_often_as_they_should() -> None:
    rng, found = np.random.default_rng(1), []
    for seed in range(120):
        first, second = random_matrix(rng, 10), random_matrix(rng, 10)
        found.append(
            comparison.resemblance(first, second, resamples=20, permutations=59, seed=seed)["p"]
        )
    assert kstest(found, "uniform").pvalue > 0.01


def test_interval_of_resemblance_covers() -> None:
    rng, inside = np.random.default_rng(2), 0
    for seed in range(60):  # the truth of independent spaces is zero
        first, second = random_matrix(rng, 20), random_matrix(rng, 20)
        found = comparison.resemblance(first, second, resamples=100, permutations=1, seed=seed)
        inside += found["low"] <= 0 <= found["high"]
    assert inside >= 50


def test_a_space_that_does_not_vary_resembles_nothing() -> None:
    flat = np.ones((6, 6)) - np.eye(6)
    found = comparison.resemblance(flat, random_matrix(np.random.default_rng(3), 6))
    assert np.isnan(list(found.values())).all()


def test_separation_counts_which_pairs_are_nearer() -> None:
    matrix, groups = random_matrix(np.random.default_rng(4)).round(1), list("aaaabbbbcccc")
    pairs = list(combinations(range(12), 2))
    inside = [matrix[p] for p in pairs if groups[p[0]] == groups[p[1]]]
    across = [matrix[p] for p in pairs if groups[p[0]] != groups[p[1]]]
    nearer = [(a < b) + (a == b) / 2 for a in inside for b in across]
    assert any(a == b for a in inside for b in across)  # ties count half
    assert comparison.separation(matrix, groups) == pytest.approx(np.mean(nearer))


def test_agreement_finds_pairs_in_either_order_and_compares_with_the_base(made: Made) -> None:
    table = made[0].query("weighting == 'noise' and space in ['ddim', 'ddpm']")
    chosen = [("lad", "boy"), ("boy", "coast"), ("smile", "lad"), ("train", "boy")]
    pairs = pd.DataFrame(chosen, columns=["text1", "text2"]).assign(score=[3.0, 1.0, 2.0, 9.0])
    known = table.query("space == 'ddpm'").set_index(["text1", "text2"])["distance"]
    distance = [known["boy", "lad"], known["boy", "coast"], known["lad", "smile"]]
    base, other = comparison.agreement(table, pairs, resamples=50).to_dict("records")
    assert other["pairs"] == 3 and base["difference"] == 0
    assert other["spearman"] == pytest.approx(-spearmanr(distance, [3, 1, 2]).statistic)
    few = comparison.agreement(table, pairs[:2], resamples=50)
    assert few["spearman"].isna().all()
