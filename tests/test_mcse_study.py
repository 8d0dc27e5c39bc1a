"""The study of grounding on the smallest scale: controls, photographs, trainings, the table."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import stats
from transformers import BertConfig, BertModel, ConvNextImageProcessor, ResNetConfig, ResNetModel

import conjure_lib as cj
from conjure_tools import benchmarks
from conjure_tools.grounding import Batches, Corpus, load_encoder
from studies import records
from studies.mcse import data as data_of
from studies.mcse import student as distilled
from studies.mcse import study as grounding
from studies.mcse import trainings as study
from training.pictures import load_sample

ROOT = Path(__file__).resolve().parents[1]


# -- images -----------------------------------------------------------------------------------


def test_controls_keep_numbers_and_lose_pictures() -> None:
    images = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    found = data_of.control_data(images)
    shuffled, noise = found[data_of.SHUFFLED][1], found[data_of.RANDOM][1]
    rows = {tuple(row) for row in images.tolist()}
    assert {tuple(row) for row in shuffled.tolist()} == rows
    assert not {tuple(row) for row in noise.tolist()} & rows
    assert (shuffled == images).all(1).sum() < 5
    for column in range(5):
        assert torch.equal(noise[:, column].sort().values, images[:, column].sort().values)


def test_standardising_keeps_the_shape_of_the_cloud() -> None:
    images = 3 + 7 * torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    found = data_of.standardised(images)
    torch.testing.assert_close(found.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    assert float(found.std()) == pytest.approx(1, rel=1e-2)
    ratio = torch.pdist(found) / torch.pdist(images)
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))


def test_pairs_of_emoji_and_what_is_conjured_for_them(process: cj.GenerativeProcess) -> None:
    emoji = load_sample(ROOT / "data/emoji-sample")
    captions, latents = data_of.emoji_pairs(emoji, 10, process.modules["vae"])
    again, same = data_of.emoji_pairs(emoji, 10, process.modules["vae"])
    assert captions == again and torch.equal(latents, same)
    size = math.prod(process.latent_shape)
    assert latents.shape == (10, size)
    texts = ["a red heart", "a cat", "a cat"]
    made = data_of.images_of(process, texts, captions[:2], latents[:2], anchors=2, steps=2)
    embeddings = made["embeddings"]
    assert embeddings.shape == (5, 2 * size) and made["pictures"].shape == (2, size)
    torch.testing.assert_close(embeddings[1], embeddings[2], atol=1e-4, rtol=1e-4)
    kinds = data_of.kinds_of(made, 3)
    assert all(len(captions_of) == 2 for _, captions_of in kinds.values())
    of_texts, of_captions = kinds[data_of.EVERY]
    assert of_texts is not None
    torch.testing.assert_close(torch.cat([of_texts, of_captions]), data_of.standardised(embeddings))
    torch.testing.assert_close(kinds[data_of.EMBEDDINGS][1], of_captions)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Three photographs of different sizes, captions in both formats, a small random ResNet."""
    rng = np.random.default_rng(0)
    for i, (width, height) in enumerate([(40, 30), (30, 50), (64, 64)]):
        pixels = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.jpg")
    lines = [f"{i}.jpg#{k}\tcaption {k} of {i} ." for i in range(3) for k in range(5)]
    (tmp_path / "captions.token").write_text("\n".join(lines) + "\n")
    coco = {
        "images": [{"id": 10 + i, "file_name": f"{i}.jpg"} for i in range(3)],
        "annotations": [{"image_id": 10 + i, "caption": f"caption\n0 of {i}"} for i in (2, 0, 1)],
    }
    (tmp_path / "captions.json").write_text(json.dumps(coco))
    (tmp_path / "names.txt").write_text("0\n2\n")
    (tmp_path / "texts.txt").write_text("one sentence\n\nanother sentence\n")
    torch.manual_seed(0)
    sizes = {"embedding_size": 4, "hidden_sizes": [4, 6], "depths": [1, 1]}
    ResNetModel(ResNetConfig(layer_type="basic", **sizes)).save_pretrained(tmp_path / "resnet")
    ConvNextImageProcessor(size={"shortest_edge": 32}).save_pretrained(tmp_path / "resnet")
    return tmp_path


def test_photographs_and_one_caption_of_each(photographs: Path) -> None:
    resnet = str(photographs / "resnet")
    found = data_of.photo_data(
        photographs / "texts.txt",
        photographs / "captions.token",
        photographs,
        photographs / "names.txt",
        photographs / "work",
        resnet,
    )
    assert found.texts == ["one sentence", "another sentence"]
    assert [c.split()[-2] for c in found.captions] == ["0", "2"]
    assert set(found.images) == {data_of.REAL, data_of.SHUFFLED, data_of.RANDOM}
    features = found.images[data_of.REAL][1]
    assert features.shape == (2, 6) and not torch.allclose(features[0], features[1])

    whole = data_of.photo_data(
        None, photographs / "captions.json", photographs, None, photographs / "all", resnet
    )
    assert whole.captions == [f"caption 0 of {i}" for i in (2, 0, 1)]
    torch.testing.assert_close(whole.images[data_of.REAL][1][[1, 0]], features)
    with pytest.raises(ValueError, match="other photographs"):
        data_of.photo_features([Path("x.jpg")], photographs / "all/photos.safetensors", resnet)
    with pytest.raises(ValueError, match="no caption"):
        data_of.one_caption_each(photographs / "captions.token", {"7"})


# -- trainings and the table ------------------------------------------------------------------


def small_sets(name: str, *, split: str | None = None) -> pd.DataFrame:
    """SimLex-999 cut short under two names, on STS-B's scale from 0 to 5."""
    rows = WHOLE.iloc[:40] if name == "simlex999" else WHOLE.iloc[40:60]
    return rows.assign(score=rows["score"] / 2).reset_index(drop=True)


WHOLE = benchmarks.load_pairs("simlex999")
WORDS = WHOLE["text1"].drop_duplicates().tolist()[200:]
PLAN = study.Plan(
    epochs=1,
    batch_size=4,
    every=4,
    seeds=2,
    weights=dict.fromkeys((data_of.REAL, data_of.SHUFFLED, data_of.EVERY), (1.0,)),
    sets=("simlex999", "stsb"),
    bf16=False,
    anchors=2,
    student_epochs=1,
    held_out=8,
    resamples=30,
)


@dataclass(frozen=True)
class Done:
    """A finished study of one word texts with random images."""

    folder: Path
    data: data_of.Data
    runs: list[dict[str, Any]]
    students: list[dict[str, Any]]
    table: pd.DataFrame
    held: pd.DataFrame
    notes: dict[str, Any]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, process: cj.GenerativeProcess) -> Iterator[Done]:
    folder = tmp_path_factory.mktemp("study")
    vectors = torch.randn(36, 4, generator=torch.Generator().manual_seed(0))
    kinds: data_of.Images = {data_of.EVERY: (vectors[:24], vectors[24:])}
    kinds |= {data_of.REAL: (None, vectors[24:])} | data_of.control_data(vectors[24:])
    data = data_of.Data(WORDS[:24], WORDS[24:36], kinds, WORDS[36:44])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmarks, "load_pairs", small_sets)
        found = study.all_runs(PLAN, data, folder)
        held, students, notes = distilled.distillation(PLAN, data, found, process, folder)
        table = grounding.table_of(PLAN, found)
        yield Done(folder, data, found, students, table, held, notes)


def test_pairs_are_embedded_once_and_put_in_their_places() -> None:
    asked: list[str] = []

    def embedding(texts: Any) -> torch.Tensor:
        asked.extend(texts)
        return torch.tensor([[float(len(t))] for t in texts])

    pairs = pd.DataFrame({"text1": ["a", "bb", "a"], "text2": ["bb", "a", "ccc"]})
    first, second = study.embed_pairs(embedding, pairs)
    assert (first.flatten().tolist(), second.flatten().tolist()) == ([1, 2, 1], [2, 1, 3])
    assert sorted(asked) == ["a", "bb", "ccc"]


def test_the_student_writes_vectors() -> None:
    encoder, tokenizer = load_encoder()
    student = distilled.Student(encoder, 6).eval()
    images = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    batches = Batches(tokenizer, None, Corpus(WORDS[:5], images), batch_size=5)
    rows = batches.rows(0)[1]
    written = student.encode(tokenizer, [WORDS[i] for i in rows])
    apart = [float((w - v).square().sum()) for w, v in zip(written, images[rows], strict=True)]
    assert student(**batches[0])["loss"].item() == pytest.approx(np.mean(apart), rel=1e-4)


def test_the_setting_of_the_paper_runs(
    photographs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole command on a random BERT of width 16 and a random ResNet: texts and photographs."""
    _, tokenizer = load_encoder()
    tokenizer.save_pretrained(photographs / "bert")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(tokenizer), intermediate_size=32, **sizes)
    BertModel(config).save_pretrained(photographs / "bert")
    (photographs / "texts.txt").write_text("\n".join(f"a sentence of {w}" for w in WORDS[:70]))
    monkeypatch.setattr(benchmarks, "load_pairs", small_sets)
    monkeypatch.setattr(grounding, "work", lambda study: photographs / "work")
    names = {"encoder": "bert", "features": "resnet", "captions": "captions.token", "photos": ""}
    options = [f"--{name}={photographs / file}" for name, file in names.items()]
    command = ["grounding.py", *options, f"--texts={photographs / 'texts.txt'}", "--seeds=1"]
    monkeypatch.setattr("sys.argv", command)
    grounding.main()
    table = pd.read_parquet(next((photographs / "work").glob("bert-*/table.parquet")))
    means = table[table["study"] == "mean"]
    kinds = {study.UNTRAINED, study.SIMCSE, data_of.REAL, data_of.SHUFFLED, data_of.RANDOM}
    assert set(means["kind"]) == kinds and set(means["benchmark"]) == set(benchmarks.STS)
    assert set(means["weight"]) == {0.0, 0.01}
    runs = [json.loads(f.read_text()) for f in (photographs / "work").glob("*/*/run.json")]
    assert {run["steps"] for run in runs if run["kind"] != study.UNTRAINED} == {3 * (2 + 1)}
    assert "table.parquet" in capsys.readouterr().out


def test_finished_trainings_are_read_and_not_repeated(
    done: Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a finished training was started again")

    monkeypatch.setattr(study, "train", never)
    monkeypatch.setattr(distilled, "train", never)
    assert len(done.runs) == 2 * 5
    assert study.all_runs(PLAN, done.data, done.folder) == done.runs
    again = distilled.student_run(PLAN, done.data, Path(), 1, done.folder / "student-1")
    assert again == done.students[1]
    assert not list(done.folder.glob("*/checkpoint-*"))
    noted = json.loads((done.folder / "student-1/settings.json").read_text("utf-8"))
    assert noted["learning_rate"] == PLAN.student_learning_rate != PLAN.learning_rate


def test_the_table_holds_differences_within_seeds(done: Done) -> None:
    human = small_sets("simlex999")["score"]
    value = {
        (r["kind"], r["seed"]): stats.spearmanr(r["similarities"]["simlex999"], human).statistic
        for r in done.runs
    }
    of_set = done.table[done.table["benchmark"] == "simlex999"]
    for row in of_set[of_set["study"] == "run"].itertuples():
        assert row.value == pytest.approx(value[row.kind, row.seed])
    gaps = of_set[of_set["study"] == "difference"]
    assert set(zip(gaps["kind"], gaps["against"], strict=True)) == {
        (data_of.REAL, study.SIMCSE),
        (data_of.SHUFFLED, study.SIMCSE),
        (data_of.EVERY, study.SIMCSE),
        (data_of.REAL, data_of.SHUFFLED),
        (data_of.EVERY, data_of.SHUFFLED),
    }
    for row in gaps.itertuples():
        apart = [value[row.kind, s] - value[row.against, s] for s in range(2)]
        assert row.value == pytest.approx(np.mean(apart))
        expected = stats.ttest_1samp(apart, 0).confidence_interval(0.95)
        assert (row.low, row.high) == pytest.approx(tuple(expected))
        assert row.pairs_low <= row.pairs_high
    assert {"alignment", "uniformity"} <= set(done.table["study"])
    dev = done.table[done.table["benchmark"] == study.DEV]
    best = [max(r["measured"].values()) for r in done.runs]
    assert dev["value"].tolist() == pytest.approx(best)


def test_a_condition_differs_from_simcse_by_its_images_alone(done: Done) -> None:
    first = {r["kind"]: r["similarities"]["simlex999"] for r in done.runs if r["seed"] == 0}
    assert len({tuple(s) for s in first.values()}) == len(first)
    folder = done.folder / "again"
    again = study.one_run(PLAN, done.data, data_of.REAL, 0.0, 0, folder)  # no weight: SimCSE
    assert again["similarities"]["simlex999"] == first[study.SIMCSE]


def test_weights_that_were_kept_are_those_that_were_tested(done: Done) -> None:
    pairs = small_sets("simlex999")
    for run in done.runs[:3]:
        keys = run["kind"], run["weight"], run["seed"]
        found = distilled.by_encoder(PLAN, study.place(done.folder, *keys), pairs)
        np.testing.assert_allclose(found, run["similarities"]["simlex999"], atol=1e-5)


def test_students_are_compared_with_algorithm_1(done: Done, process: cj.GenerativeProcess) -> None:
    pairs = distilled.held_out_pairs(PLAN, done.data)
    assert pairs["group"].value_counts().tolist() == [4, 4]
    assert set(pairs["text1"]) | set(pairs["text2"]) >= set(done.data.held_out)
    student, tokenizer = distilled.open_student(PLAN, done.data, done.folder / "student-0", 0)
    for row, close in zip(pairs.itertuples(), done.students[0]["held_out"], strict=True):
        x, y = student.encode(tokenizer, [row.text1, row.text2])
        assert close == pytest.approx(-float((x - y).square().sum()), rel=1e-3, abs=1e-6)
    exact = cj.distances(process, records.texts_of(pairs), draws=2, weighting="noise")
    human = [-e.value for e in exact]
    rows = done.held[(done.held["study"] == "teacher") & (done.held["benchmark"] == "all")]
    for row in rows[rows["kind"] == "student"].itertuples():
        found = stats.spearmanr(done.students[row.seed]["held_out"], human).statistic
        assert row.value == pytest.approx(found)
    draws = np.array([e.by_draw for e in exact])
    between = stats.spearmanr(draws[:, 0], draws[:, 1]).statistic
    assert rows[rows["kind"] == "another draw"]["value"].item() == pytest.approx(between)
    vectors = cj.Scorer(process, weighting="noise", steps=2, draws=1).encode(
        [*pairs["text1"], *pairs["text2"]]
    )
    apart = ((vectors[:8] - vectors[8:]) ** 2).sum(1)
    found = rows[rows["kind"] == "conjured embeddings"]["value"].item()
    assert found == pytest.approx(stats.spearmanr(-apart, human).statistic)
    speed = done.notes["speed"]
    assert 0 < speed["evaluations_per_pair"] <= 80 and speed["ratio"] > 1
