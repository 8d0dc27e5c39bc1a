"""The arms of the chapter on limits, and the probes: what is the same, and what is counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import binomtest
from torch import Tensor, nn

import conjure_lib as cj
from conjure_tools import runs
from conjure_tools.fingerprints import weights_hash
from studies import arms, probes
from training import unet
from training.pictures import load_sample

SCENES = unet.HELD_OUT + 8


@pytest.fixture(scope="module")
def seen() -> tuple[Any, ...]:
    """Emoji, pictures, and latents of no picture."""
    emoji = load_sample(arms.MODEL.parent / "emoji-sample")
    pictures = unet.picture_set(len(emoji), SCENES)
    latents = torch.randn(len(pictures), 16, 8, 8, generator=torch.Generator().manual_seed(0))
    return emoji, pictures, latents


Caught = tuple[nn.Module, Callable[[int, torch.Generator], Tensor]]


@pytest.fixture
def prepare(
    seen: tuple[Any, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Caught]:
    """What the loop of the recipe is given for an arm: the network and its loss."""

    def caught(name: str) -> Caught:
        given: list[Any] = []
        monkeypatch.setattr(
            unet, "train", lambda model, loss, *_, **__: given.extend((model, loss))
        )
        arms.train_arm(name, *seen, folder=tmp_path / name, steps=1, batch=4)
        given[0].requires_grad_(True)
        return given[0], given[1]

    (tmp_path / "distilled").mkdir()
    (tmp_path / "scratch").mkdir()
    return caught


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(17)


def test_arms_start_alike_and_see_the_same(prepare: Callable[[str], Caught]) -> None:
    distilled, its_loss = prepare("distilled")
    scratch, loss = prepare("scratch")
    assert isinstance(scratch, arms.Joint)
    for name, weight in distilled.state_dict().items():
        assert torch.equal(weight, scratch.unet.state_dict()[name]), name
    assert not torch.equal(loss(0, seeded()), its_loss(0, seeded()))
    scratch.text_encoder = cj.load(device="cpu").modules["text_encoder"]
    # with the other reader it is the other arm: the same pictures, captions, noise and timesteps;
    # but its texts are read in the precision of its training
    assert loss(0, seeded()).item() == pytest.approx(its_loss(0, seeded()).item(), rel=1e-3)


def test_only_captions_teach_the_fresh_reader(prepare: Callable[[str], Caught]) -> None:
    scratch, loss = prepare("scratch")
    loss(0, seeded()).backward()
    table = scratch.text_encoder.get_input_embeddings().weight
    assert table.std().item() == pytest.approx(0.02, rel=0.05)
    touched = table.grad.abs().sum(1) > 0
    assert 3 < touched.sum() < 100
    assert all(p.grad.abs().sum() > 0 for p in scratch.unet.parameters() if p.grad is not None)
    shipped = cj.load(device="cpu").modules["text_encoder"]
    for name, weight in shipped.state_dict().items():
        assert weight.shape == scratch.text_encoder.state_dict()[name].shape


def test_a_finished_arm_is_what_was_trained(
    seen: tuple[Any, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unet, "HELD_OUT", 4)
    shipped, untrained = cj.load(device="cpu"), arms.random_start()
    found = {}
    for name in ("distilled", "scratch"):
        folder = tmp_path / f"{name}-2"
        arms.train_arm(name, *seen, folder=folder, steps=2, batch=2)
        before = (folder / "weights.safetensors").stat().st_mtime_ns
        arms.train_arm(name, *seen, folder=folder, steps=2, batch=2)  # nothing is left to do
        assert (folder / "weights.safetensors").stat().st_mtime_ns == before
        found[name] = arms.load_arm(folder, name)
    assert [n for n, _ in arms.models(tmp_path, 2)] == ["shipped", "untrained", *found]
    assert arms.training_curves(tmp_path, 2)["scratch"]["curve"][-1]["step"] == 2
    readers = {n: p.encode(["a dog"]) for n, p in {**found, "shipped": shipped}.items()}
    assert torch.equal(readers["distilled"], readers["shipped"])
    assert not torch.allclose(readers["scratch"], readers["shipped"])
    hashes = {weights_hash(p) for p in (shipped, untrained, *found.values())}
    assert len(hashes) == 4
    torch.manual_seed(5)
    start = unet.build().state_dict()["conv_in.weight"]
    assert torch.equal(untrained.modules["unet"].state_dict()["conv_in.weight"], start)
    # two steps of warm-up move the weights, by little
    moved = found["scratch"].modules["unet"].state_dict()["conv_in.weight"]
    assert 0 < (moved - start).abs().max() < 0.01


# -- the probes -------------------------------------------------------------------------------


def test_the_probes_are_whole_and_spelling_does_not_decide() -> None:
    table = probes.load_probes()
    assert list(table) == ["id", "phenomenon", "anchor", "closer", "farther", "note"]
    assert table["id"].is_unique
    texts = table[["anchor", "closer", "farther"]]
    assert not texts.apply(lambda column: column.str.strip() != column).any(axis=None)
    assert (texts != "").all(axis=None) and (texts.nunique(axis=1) == 3).all()
    assert not texts.duplicated().any()
    counts = table["phenomenon"].value_counts()
    assert (counts == 16).all() and len(counts) == 11
    assert (probes.by_spelling(table).query("method == 'word_overlap'")["margin"] == 0).all()
    words = texts.apply(lambda column: column.str.split().str.len())
    assert (words["closer"] == words["farther"]).all()
    same = table[table["phenomenon"].isin(["order", "place"])]
    for row in same.itertuples():
        assert sorted(row.closer.split()) == sorted(row.farther.split()), row.id
    moved = same["note"].str.contains("change places")
    assert (moved.groupby(same["phenomenon"]).sum() == 8).all()


def test_the_card_names_every_phenomenon() -> None:
    card = probes.PROBES.with_name("README.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in card for name in probes.load_probes()["phenomenon"].unique())


def test_margins_are_the_librarys_distances(process: cj.GenerativeProcess, tmp_path: Path) -> None:
    table = probes.load_probes().iloc[[0, 100]]
    scored, _ = probes.score_probes(
        process, table, tmp_path / "run", draws=2, steps=2, report=lambda _: None
    )
    row = scored.query("method == 'noise'").iloc[1]
    anchor, *others = table.iloc[1][["anchor", "closer", "farther"]]
    near, far = cj.distances(
        process,
        [(anchor, o) for o in others],
        weighting="noise",
        draws=2,
        steps=2,
    )
    assert row["closer"] == pytest.approx(near.value, rel=1e-5)
    assert row["margin"] == pytest.approx(far.value - near.value, rel=1e-4)
    differences = far.by_draw - near.by_draw
    assert row["stderr"] == pytest.approx(abs(np.diff(differences)[0]) / 2, rel=1e-3)


def test_a_text_is_nearest_to_itself_for_the_text_encoder(process: cj.GenerativeProcess) -> None:
    table = pd.DataFrame({"id": ["x", "y"], "anchor": ["a dog", "a cat"]})
    table = table.assign(closer=table["anchor"], farther=["a house", "three cars"])
    read = probes.read_probes(process, table)
    assert (read["margin"] > 0).all() and read["closer"].to_numpy() == pytest.approx(np.ones(4))


@pytest.mark.parametrize(("right", "items"), [(0, 16), (9, 16), (16, 16), (1, 3)])
def test_wilson_is_scipys(right: int, items: int) -> None:
    interval = binomtest(right, items).proportion_ci(method="wilson")
    assert probes.wilson(right, items) == pytest.approx((interval.low, interval.high), abs=1e-9)


def test_accuracy_counts_a_tie_as_a_half() -> None:
    table = pd.DataFrame({"id": list("abcd"), "phenomenon": ["p", "p", "q", "q"]})
    scored = pd.DataFrame(
        {
            "id": list("abcd"), "model": "m", "method": "sde",
            "margin": [1.0, -1.0, 0.0, 2.0], "stderr": [0.6, 0.1, np.nan, 0.5],
        }
    )  # fmt: skip
    found = probes.accuracies(scored, table).set_index("phenomenon")
    assert found["accuracy"].to_dict() == {"": 0.625, "p": 0.5, "q": 0.75}
    assert found["items"].to_dict() == {"": 4, "p": 2, "q": 2}
    assert found["unsure"].to_dict() == {"": 1, "p": 1, "q": 0}


# -- agreement with people --------------------------------------------------------------------


def test_differences_are_to_the_distilled_arm() -> None:
    rng = np.random.default_rng(0)
    pairs = pd.DataFrame({"text1": ["cat", "idea"] * 10, "text2": "dog", "pos": ["N", "V"] * 10})
    pairs["score"] = rng.normal(size=20)
    groups = arms.groups_of(pairs, {"cat", "dog"})
    assert groups["named"].tolist() == groups["N"].tolist() == list(range(0, 20, 2))
    assert groups["not named"].tolist() == list(range(1, 20, 2))
    human = pairs["score"].to_numpy()
    values = {("distilled", "sde"): human, ("scratch", "sde"): -human, ("", "minilm"): human}
    found = arms.compared(pairs, values, groups, resamples=50).set_index(["model", "group"])
    assert found.loc[("scratch", ""), "spearman"] == pytest.approx(-1)
    assert found.loc[("scratch", "V"), "difference"] == pytest.approx(-2)
    assert found.loc[("distilled", "V"), "difference"] == 0
    assert np.isnan(found.loc[("", "V"), "difference"])
    assert set(found.loc["scratch"].index) == {"", "named", "not named", "N", "V"}


def test_similarities_are_minus_the_distances_of_the_first_draws(
    process: cj.GenerativeProcess, tmp_path: Path
) -> None:
    pairs = pd.DataFrame({"id": ["a", "b"], "text1": ["cat", "sun"], "text2": ["dog", "moon"]})
    options: dict[str, Any] = {"steps": 2, "report": lambda _: None}
    runs.score(process, pairs, tmp_path / "run", draws=2, **options)
    found, _ = arms.similarities(process, pairs, tmp_path / "run", 1, **options)
    near = cj.distance(process, "cat", "dog", draws=2, steps=2)  # whose draws share weights
    assert found["sde"][0] == pytest.approx(-near.by_draw[0], rel=1e-5)
    assert set(found) == {*cj.WEIGHTINGS, *probes.POOLINGS}


# -- the records ------------------------------------------------------------------------------


def test_the_record_of_the_probes_names_every_model_and_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = probes.load_probes().iloc[[0, 100]]
    monkeypatch.setattr(arms, "load_probes", lambda: table)
    monkeypatch.setitem(arms.DRAWS, "probes", 1)
    monkeypatch.delenv("CONJURE_MINILM", raising=False)
    found, notes = arms.probe_table(tmp_path, 2)
    assert "arm scratch is not trained" in capsys.readouterr().out
    scored = {*cj.WEIGHTINGS}
    methods = {m: set(part) for m, part in found.groupby("model")["method"]}
    assert methods == {
        "": {"word_overlap", "letter_overlap"},
        "shipped": scored | set(probes.POOLINGS),
        "untrained": scored,
    }
    assert len(found) == 2 * sum(map(len, methods.values()))
    hashes = {run["settings"]["weights"] for run in notes["runs"].values()}
    assert len(hashes) == 2
    again, _ = arms.probe_table(tmp_path, 2)  # from the runs that are there
    pd.testing.assert_frame_equal(found, again)


def test_the_record_of_agreement_shares_the_runs_of_the_words(
    seen: tuple[Any, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = pd.DataFrame(
        {
            "id": list("abc"), "text1": ["cat", "sun", "idea"], "text2": ["dog", "moon", "thought"],
            "score": [2.0, 1.0, 3.0], "pos": "N",
        }
    )  # fmt: skip
    monkeypatch.setattr(arms.benchmarks, "load_pairs", lambda name: pairs)
    monkeypatch.setattr(arms, "named_emoji", lambda *_: (tmp_path, seen[0]))
    monkeypatch.setattr(
        arms, "groups_of", lambda pairs, named: {"": np.arange(3), "named": np.arange(3)}
    )
    monkeypatch.setattr(arms.records, "WORK", tmp_path / "records")
    monkeypatch.setattr(arms, "DRAWS", {"rg65": 1, "simlex999": 1})
    found, notes = arms.agreement_of_models(tmp_path / "work", 2)
    (kept,) = (tmp_path / "records").iterdir()
    assert sorted(f.name for f in kept.iterdir()) == ["rg65", "simlex999"]
    assert notes["arms"] == {}
    assert set(found["model"]) == {"shipped", "untrained"} and len(found) == 2 * 2 * 5 * 2
    assert found["spearman"].between(-1, 1).all()
