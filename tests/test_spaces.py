"""The spaces of one model: what must be exact in them, and the statistics that compare them."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import PNDMScheduler
from scipy.spatial.distance import squareform
from scipy.stats import kstest, spearmanr

import conjure_lib as cj
from conjure_tools import correlation
from conjure_tools.fingerprints import weights_hash
from conjure_tools.runs import Run
from studies import clusters, comparison, samplers, spaces, spaces_page, spaces_sentences
from studies.records import ROOT, Record

FEW = ["boy", "lad", "coast", "smile"]
PAIRS = list(combinations(FEW, 2))
Made = tuple[pd.DataFrame, dict[str, Any], Path]
Rows = list[tuple[float, float, float]]


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
    assert table["space"].nunique() >= 30
    assert notes["words"] == FEW and len(notes["runs"]) >= 21
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
    quadrature = made[1]["runs"]["ddim"]["settings"]["quadrature"]
    how: dict[str, Any] = {"steps": spaces.STEPS, "draws": spaces.DRAWS, "weighting": "noise"}
    found = cj.distances(other, PAIRS, quadrature=quadrature, **how)
    expected = [one.value for one in found]
    table = made[0].query("space == 'relabelled' and weighting == 'noise'")
    relabelled = table.set_index(["text1", "text2"])["distance"].loc[PAIRS]
    np.testing.assert_allclose(relabelled, expected, rtol=1e-4)


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


def test_several_networks_by_lot_one_a_seed(random_folder: Path, made: Made) -> None:
    drawn = dict(spaces.untrained_spaces(random_folder))
    assert len({weights_hash(space.process) for space in drawn.values()}) == len(drawn)
    assert len(drawn) == len(spaces.UNTRAINED) * spaces.TWINS and spaces.TWINS > 2
    again = dict(spaces.untrained_spaces(random_folder, ["untrained U-Net, seed 2"]))
    assert list(again) == ["untrained U-Net, seed 2"]
    third = drawn["untrained U-Net, seed 2"].process
    assert weights_hash(again["untrained U-Net, seed 2"].process) == weights_hash(third)
    assert set(drawn) <= set(made[0]["space"])


def test_networks_by_lot_are_those_of_the_model_card(random_folder: Path) -> None:
    card = pytest.importorskip("training.card")
    if not hasattr(card, "twins"):
        pytest.skip("the card has one untrained network")
    theirs = [weights_hash(twin) for twin in card.twins(random_folder)]
    drawn = [s.process for n, s in spaces.untrained_spaces(random_folder) if "U-Net" in n]
    assert [weights_hash(process) for process in drawn] == theirs


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
    found = spaces.elsewhere(process, FEW, draws=2, steps=3)["states of the empty prompt"]
    run = replace(found, record={"settings": {"quadrature": "sum"}})
    assert isinstance(run, Run)
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
    assert clusters.separation(squareform(matrix), np.array(groups)) == pytest.approx(
        np.mean(nearer)
    )


def test_agreement_finds_pairs_in_either_order_and_compares_with_the_base(made: Made) -> None:
    table = made[0].query("weighting == 'noise' and space in ['ddim', 'ddpm']")
    chosen = [("lad", "boy"), ("boy", "coast"), ("smile", "lad"), ("train", "boy")]
    pairs = pd.DataFrame(chosen, columns=["text1", "text2"]).assign(score=[3.0, 1.0, 2.0, 9.0])
    known = table.query("space == 'ddpm'").set_index(["text1", "text2"])["distance"]
    distance = [known["boy", "lad"], known["boy", "coast"], known["lad", "smile"]]
    base, other = comparison.agreement_by_space(table, pairs, resamples=50).to_dict("records")
    assert other["pairs"] == 3 and base["difference"] == 0
    assert other["spearman"] == pytest.approx(-spearmanr(distance, [3, 1, 2]).statistic)
    few = comparison.agreement_by_space(table, pairs[:2], resamples=50)
    assert few["spearman"].isna().all()


def test_intervals_of_agreement_know_which_pairs_share_a_word() -> None:
    rng = np.random.default_rng(3)
    words = list("abcdefghijkl")
    pairs = pd.DataFrame(list(combinations(words, 2)), columns=["text1", "text2"])
    level = dict(zip(words, rng.normal(size=12), strict=True))
    both = pairs["text1"].map(level) + pairs["text2"].map(level)
    table = pairs.assign(space="ddim", weighting="noise", distance=-both + rng.normal(size=66))
    pairs["score"] = both + rng.normal(size=66)
    (row,) = comparison.agreement_by_space(table, pairs, resamples=300).to_dict("records")
    texts = pairs[["text1", "text2"]].to_numpy()
    how: dict[str, Any] = {"resamples": 300}
    aware = correlation.spearman(-table["distance"], pairs["score"], texts=texts, **how)
    naive = correlation.spearman(-table["distance"], pairs["score"], **how)
    assert (row["low"], row["high"]) == (aware.low, aware.high)
    assert aware.high - aware.low > naive.high - naive.low


def test_how_much_more_alike_is_a_paired_difference() -> None:
    rng = np.random.default_rng(6)
    truth = random_matrix(rng, 25)
    near, far = (truth + noise * random_matrix(rng, 25) for noise in (0.1, 2.0))
    value, low, high = comparison.more_alike(far, near, truth, resamples=200)
    upper = np.triu_indices(25, 1)
    one, other = (spearmanr(m[upper], truth[upper]).statistic for m in (far, near))
    assert value == pytest.approx(one - other)
    assert low < value < high < 0
    assert comparison.more_alike(near, near, truth, resamples=20) == (0, 0, 0)
    back = comparison.more_alike(near, far, truth, resamples=200)
    assert back == pytest.approx((-value, -high, -low))


# -- what the chapter computes and says -------------------------------------------------------


def test_names_of_one_process_are_found_by_their_distances() -> None:
    one, times = np.array([1.0, 2.0, 3.0]), (9.0, 5.0)
    found = samplers.Names(
        {"a": one, "b": 1.2 * one, "c": one * (1 + 1e-6), "d": 1.2 * one},
        dict.fromkeys("abcd", times),
    )
    assert found.groups == [["a", "c"], ["b", "d"]]
    said = found.facts()["names_sentence"].data
    assert said == (
        "4 names are 2 processes: `c` and `a`; `d` and `b` agree to 1e-06 of a distance. "
        "All of them visit the timesteps 9, 5."
    )
    other = replace(found, visited={**found.visited, "b": (8.0, 5.0)})
    assert "Not all of them visit" in other.facts()["names_sentence"].data


def test_names_of_the_embedded_model(process: cj.GenerativeProcess) -> None:
    found = samplers.by_name(process, ["boy", "coast"], 64, steps=3)
    home = {name: group[0] for group in found.groups for name in group}
    assert home["euler"] == "ddim" and home["euler-ancestral"] == "ddpm"
    assert len({home[name] for name in ("ddim", "ddpm", "ancestral", "dpm++2m")}) == 4


def test_a_sampler_that_is_refused_is_left_out(
    process: cj.GenerativeProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    own = PNDMScheduler.from_config(process.scheduler.config)
    found = samplers.by_name(replace(process, scheduler=own), ["boy", "coast"], 64)
    assert "own" not in found.distances and "ddim" in found.distances
    assert "`own` is left out: PNDMScheduler asks" in capsys.readouterr().out


def test_a_guidance_that_fades_leaves_the_squared_scale(process: cj.GenerativeProcess) -> None:
    found = samplers.fading(process, FEW[:3], [0.03, 0.003], "noise", 64)
    assert found.least == 0.003
    assert found.gap(0.003).max() < 0.3 * found.gap(0.03).max() < 0.3
    fall = np.log(found.distances[0.03] / found.distances[0.003]) / np.log(10)
    np.testing.assert_allclose(fall, 2, atol=0.2)


def asked(made: Made, **changed: Any) -> spaces_page.SpacesCompared:
    """The spaces of a small random model, with rows of agreement changed by space."""
    overlay = Record("spaces", made[0], made[1]).overlay(made[0].iloc[:0], spaces_page.KEY)
    found = spaces_page.Found(made[0], made[1], True, 0, overlay)
    compared = spaces_page.compared_spaces(found, "noise", 30, 19)
    result = compared.result.copy()
    for column, values in changed.items():
        for name, value in values.items():
            result.loc[name, column] = value
    return replace(compared, result=result)


def differing(name: str, *rows: tuple[float, float, float]) -> dict[str, dict[str, float]]:
    """Differences from `ddim` of the networks by lot of a control, with their intervals."""
    names = [f"{name}, seed {seed}" if seed else name for seed in range(len(rows))]
    columns = ("difference", "difference_low", "difference_high")
    return {
        column: dict(zip(names, values, strict=True))
        for column, values in zip(columns, zip(*rows, strict=True), strict=True)
    }


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([(-0.1, -0.2, 0.1)] * 4, "cannot be told from any of them"),
        ([(-0.1, -0.2, 0.1)], "the trained one cannot be told from the untrained one"),
        ([(-0.3, -0.4, -0.1)], "agrees better than the untrained one"),
        ([(-0.3, -0.4, -0.1)] * 4, "agrees better than each of them"),
        ([(0.3, 0.1, 0.4)] * 4, "agrees less than each of them"),
        ([(-0.3, -0.4, -0.1), *[(-0.1, -0.2, 0.1)] * 3], "agrees better than one of the four"),
        (
            [(-0.3, -0.4, -0.1), (0.3, 0.1, 0.4), *[(-0.1, -0.2, 0.1)] * 2],
            "agrees better than one and less than one of the four",
        ),
    ],
)
def test_the_trained_network_is_set_against_each_untrained_one(
    made: Made, rows: Rows, said: str
) -> None:
    compared = asked(made, **differing("untrained U-Net", *rows))
    more = compared.twins(spaces_sentences.UNET)[len(rows) :]
    compared = replace(compared, result=compared.result.drop(index=more))
    found = spaces_sentences.trained_less(compared, spaces_sentences.UNET)
    assert said in found
    values = [-100 * value for value, _, _ in rows]
    ends = spaces_sentences.ends(np.array(values), "+.0f")
    assert f"(trained less untrained {ends}, intervals within [" in found


def test_a_mean_over_networks_by_lot_has_students_interval(made: Made) -> None:
    names = [f"untrained U-Net, seed {seed}" if seed else "untrained U-Net" for seed in range(4)]
    rho = dict(zip(names, (0.5, 0.6, 0.5, 0.6), strict=True))
    said = spaces_sentences.agreed_by_lot(asked(made, spearman=rho), spaces_sentences.UNET)
    assert said == "50 to 60 (mean over such networks 55 [46, 64])"  # t of 3 is 3.182, s/2 = 2.887


def test_what_was_not_measured_is_not_said(made: Made) -> None:
    found = asked(made)  # no pair of RG-65 is among these words
    said = {
        name: getattr(text, "data", str(text))
        for name, text in spaces_sentences.facts(found).items()
    }
    assert not [name for name, text in said.items() if "nan" in text]
    assert "(not measured)" in said["answer_lots"] and "not compared" in said["controls"]
    assert "agrees better" not in " ".join(said.values())
    assert spaces_sentences.moral(found) == ""


def test_the_moral_follows_the_numbers(made: Made) -> None:
    better, same = [(-0.3, -0.4, -0.1)] * 4, [(-0.1, -0.2, 0.1)] * 4

    def moral(unet: Rows, reader: Rows) -> str:
        rows = [differing("untrained U-Net", *unet), differing("untrained text encoder", *reader)]
        columns = {column: rows[0][column] | rows[1][column] for column in rows[0]}
        return spaces_sentences.moral(asked(made, **columns))

    assert "it is the text encoder that must" in moral(same, better)
    assert "it is the U-Net that must" in moral(better, same)
    assert "both networks" in moral(better, better)
    assert "do not settle" in moral(same, same)


def test_the_figures_and_the_table_show_every_space(made: Made) -> None:
    found = asked(made)
    table = spaces_page.everything_asked(found)
    assert len(table.data) == made[0]["space"].nunique()
    spaces_page.draw_spaces(found)
    labels = {text.get_text() for text in plt.gcf().axes[0].get_yticklabels()}
    homes = {name.split(", seed ")[0] for name in made[0]["space"]}
    assert labels == {spaces_page.LABELS.get(name, name) for name in homes}
    spaces_page.draw_map(found)
    assert len(plt.gca().get_yticklabels()) == len(spaces_page.MAP)
    plt.close("all")


def test_every_number_that_the_chapter_quotes_of_the_spaces_is_there(made: Made) -> None:
    path = ROOT / "notebooks" / "09_processes.ipynb"
    cells = nbformat.read(path, as_version=4).cells
    text = " ".join(cell.source for cell in cells if cell.cell_type == "markdown")
    quoted = {name.split(":")[0] for name in re.findall(r"\{glue:\w+\}`([\w:.-]+)`", text)}
    code = " ".join(cell.source for cell in cells if cell.cell_type == "code")
    found = asked(made)
    told = {**spaces_sentences.facts(found), **spaces_sentences.map_facts(found)}
    told |= dict.fromkeys(["n_words", "fresh_sentence", "record_evaluations", "names_sentence"])
    told |= dict.fromkeys(["evaluations", "seconds", "device", "model"])  # of `pages.cost`
    said = {name.replace("_", "-") for name in told}
    of_cells = re.findall(r"^ +(\w+)=", code, re.MULTILINE)
    assert quoted <= said | {name.replace("_", "-") for name in of_cells}
    assert said <= quoted
