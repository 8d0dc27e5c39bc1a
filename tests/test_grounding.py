"""MCSE: the objective against plain loops, training that a kill does not change, its measures."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
)

from conjure_tools.grounding import (
    Batches,
    Corpus,
    Mcse,
    alignment,
    embed,
    info_nce,
    load_encoder,
    train,
    uniformity,
)

WORDS = [
    "a",
    "cat",
    "dog",
    "tree",
    "house",
    "red",
    "blue",
    "sits",
    "stands",
    "under",
    "over",
    "the",
]
SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of whole words."""
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    found = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    found.pre_tokenizer = pre_tokenizers.Whitespace()
    found.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=found, unk_token="[UNK]", model_max_length=16, **names
    )


def random_encoder(kind: str = "bert", seed: int = 0) -> Any:
    """A random BERT or RoBERTa of width 16, with dropout."""
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": len(SPECIAL) + len(WORDS),
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "pad_token_id": 0,
        "initializer_range": 0.3,
    }
    if kind == "bert":
        return BertModel(BertConfig(max_position_embeddings=16, **sizes))
    return RobertaModel(RobertaConfig(max_position_embeddings=20, **sizes))


def sentences(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(2, 7))) for _ in range(count)]


def vectors(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# -- the objective ----------------------------------------------------------------------------


def plain_info_nce(queries: Tensor, keys: Tensor, temperature: float) -> float:
    """The formula in a double loop over Python's numbers."""

    def cosine(x: list[float], y: list[float]) -> float:
        dot = sum(a * b for a, b in zip(x, y, strict=True))
        return dot / math.sqrt(sum(a * a for a in x) * sum(b * b for b in y))

    total = 0.0
    for i, q in enumerate(queries.tolist()):
        chances = [math.exp(cosine(q, k) / temperature) for k in keys.tolist()]
        total -= math.log(chances[i] / sum(chances))
    return total / len(queries)


@pytest.mark.parametrize("temperature", [0.05, 0.7])
def test_info_nce_is_the_formula(temperature: float) -> None:
    q, k = vectors(7, 5), vectors(7, 5, seed=1)
    expected = plain_info_nce(q, k, temperature)
    assert float(info_nce(q, k, temperature)) == pytest.approx(expected, rel=1e-5)
    assert float(info_nce(3 * q, k / 2, temperature)) == pytest.approx(expected, rel=1e-5)
    assert float(info_nce(k, q, temperature)) != pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_the_loss_is_its_formulas(tokenizer: PreTrainedTokenizerFast, kind: str) -> None:
    encoder, weight = random_encoder(kind), 0.3
    model = Mcse(encoder, 6, weight=weight).train()
    corpus = Corpus(sentences(5), vectors(5, 6))
    batch = Batches(tokenizer, None, corpus, batch_size=5)[0]
    torch.manual_seed(3)
    with torch.no_grad():
        found = model(**batch)

    torch.manual_seed(3)  # the same dropout
    ids, mask = (torch.cat([batch[k]] * 2) for k in ("input_ids", "attention_mask"))
    h = encoder(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0].detach()

    def head(part: Any, x: Tensor) -> Tensor:
        return torch.tanh(x @ part[0].weight.T + part[0].bias).detach()

    first, second = h[:5], h[5:]
    assert not torch.allclose(first, second)  # dropout makes two views
    text = plain_info_nce(head(model.head, first), head(model.head, second), 0.05)
    v = head(model.image_head, batch["image"])
    image = sum(plain_info_nce(head(model.text_head, x), v, 0.05) for x in (first, second)) / 2
    assert float(found["text"]) == pytest.approx(text, rel=1e-4)
    assert float(found["image"]) == pytest.approx(image, rel=1e-4)
    assert float(found["loss"]) == pytest.approx(text + weight * image, rel=1e-4)


def test_without_weight_or_images_it_is_simcse(tokenizer: PreTrainedTokenizerFast) -> None:
    batch = Batches(tokenizer, None, Corpus(sentences(4), vectors(4, 6)))[0]
    encoder = random_encoder()
    torch.manual_seed(1)
    unweighted = Mcse(encoder, 6, weight=0.0)
    torch.manual_seed(1)
    blind = Mcse(encoder)  # the head of a seed does not depend on the images
    found = []
    for model, images in ((unweighted, True), (unweighted, False), (blind, False)):
        torch.manual_seed(2)
        inputs = {k: v for k, v in batch.items() if images or k != "image"}
        found.append(model.train()(**inputs)["loss"].item())
    assert found[0] == found[1] == found[2]


# -- batches ----------------------------------------------------------------------------------


def plain_schedule(text: int, paired: int, epochs: int) -> Iterator[str]:
    """Which corpus each step reads, as the authors' loop has it."""
    for _ in range(epochs):
        for step in range(text + paired):
            yield "paired" if step % (text // paired) == 0 else "text"


def test_paired_batches_come_as_often_as_published(tokenizer: PreTrainedTokenizerFast) -> None:
    text, paired = Corpus(sentences(70)), Corpus(sentences(20, seed=1), vectors(20, 3))
    batches = Batches(tokenizer, text, paired, batch_size=8, epochs=3)  # 9 and 3 batches
    assert len(batches) == 3 * 12
    kinds = ["paired" if "image" in batches[s] else "text" for s in range(len(batches))]
    assert kinds == list(plain_schedule(9, 3, 3))
    seen: dict[str, list[int]] = {"text": [], "paired": []}
    for step, kind in enumerate(kinds):
        corpus, rows = batches.rows(step)
        assert corpus is (paired if kind == "paired" else text)
        seen[kind] += rows.tolist()
    for rows, size in ((seen["text"], 70), (seen["paired"], 20)):
        for first in range(0, len(rows), size):  # one order after another, each with every text
            part = rows[first : first + size]
            assert len(set(part)) == len(part)
        assert rows[:size] != sorted(rows[:size]) and rows[:size] != rows[size : 2 * size]


def test_a_batch_holds_its_texts_and_their_images(tokenizer: PreTrainedTokenizerFast) -> None:
    corpus = Corpus(sentences(30), vectors(30, 3))
    batches = Batches(tokenizer, None, corpus, batch_size=8, seed=5, length=6)
    again = Batches(tokenizer, None, corpus, batch_size=8, seed=5, length=6)
    other = Batches(tokenizer, None, corpus, batch_size=8, seed=6, length=6)
    for step in (9, 0, 3):  # in any order
        _, rows = batches.rows(step)
        batch, twin = batches[step], again[step]
        assert all(torch.equal(batch[k], twin[k]) for k in batch)
        assert corpus.images is not None
        assert torch.equal(batch["image"], corpus.images[rows])
        for i, ids in zip(rows.tolist(), batch["input_ids"], strict=True):
            said = tokenizer.decode(ids, skip_special_tokens=True)
            assert said == " ".join(corpus.texts[i].split()[:4])  # and [CLS] and [SEP]
        assert not torch.equal(other.rows(step)[1], rows)
    with pytest.raises(IndexError):
        batches[len(batches)]


def test_texts_only(tokenizer: PreTrainedTokenizerFast) -> None:
    batches = Batches(tokenizer, Corpus(sentences(20)), None, batch_size=8, epochs=2)
    assert len(batches) == 6
    assert [len(batches[s]["input_ids"]) for s in range(6)] == [8, 8, 4] * 2
    assert all("image" not in batches[s] for s in range(6))


def test_what_cannot_be_trained_on_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match="the corpus is empty"):
        Corpus([])
    with pytest.raises(ValueError, match="text 1 of the corpus is blank"):
        Corpus(["a cat", " "])
    with pytest.raises(ValueError, match="2 texts have 3 images"):
        Corpus(["a", "b"], vectors(3, 2))
    with pytest.raises(ValueError, match="not finite"):
        Corpus(["a"], torch.tensor([[1.0, math.nan]]))
    with pytest.raises(ValueError, match="no corpus"):
        Batches(tokenizer, None, None)
    few, pairs = Corpus(sentences(8)), Corpus(sentences(8), vectors(8, 2))
    with pytest.raises(ValueError, match="no text is read"):
        Batches(tokenizer, few, pairs, batch_size=4)


# -- training ---------------------------------------------------------------------------------


class KilledError(Exception):
    """Stands for SIGKILL between two steps."""


class Killed(Batches):
    """Batches of which one is never delivered."""

    at = -1

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        if step == self.at:
            raise KilledError
        return super().__getitem__(step)


def fit(
    tokenizer: PreTrainedTokenizerFast, folder: Path, killed_at: int = -1, every: int = 4
) -> tuple[Mcse, dict[str, Any]]:
    model = Mcse(random_encoder(), 3, weight=0.5)
    text, paired = Corpus(sentences(40)), Corpus(sentences(16, seed=1), vectors(16, 3))
    batches = Killed(tokenizer, text, paired, batch_size=8, epochs=2, seed=1)  # 14 steps
    batches.at = killed_at
    measured = iter([0.2, 0.9, 0.1, 0.3] if killed_at < 0 else [0.2, 0.9])
    done = len(list(folder.glob("checkpoint-*")))
    if done:  # a measurement is a function of the step, also after a kill
        measured = iter([0.1, 0.3])
    found = train(
        model, batches, folder, learning_rate=1e-2, measure=lambda: next(measured), every=every
    )
    return model, found


def same(first: Mcse, second: Mcse) -> bool:
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_a_kill_changes_nothing(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    whole, found = fit(tokenizer, tmp_path / "whole")
    with pytest.raises(KilledError):
        fit(tokenizer, tmp_path / "broken", killed_at=10)
    unfinished = tmp_path / "broken" / "checkpoint-12"  # killed while it was written
    unfinished.mkdir()
    (unfinished / "model.safetensors").write_bytes(b"half")
    resumed, again = fit(tokenizer, tmp_path / "broken")
    assert same(whole, resumed)
    assert found == again
    assert found["measured"] == {4: 0.2, 8: 0.9, 12: 0.1, 14: 0.3}
    assert (found["steps"], found["best_step"]) == (14, 8)


def test_the_best_checkpoint_is_what_is_left(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    best, _ = fit(tokenizer, tmp_path / "best")
    with pytest.raises(KilledError):
        fit(tokenizer, tmp_path / "stopped", killed_at=9)
    states = sorted((tmp_path / "stopped").glob("checkpoint-*/trainer_state.json"))
    assert [json.loads(s.read_text())["global_step"] for s in states][-1] == 8
    from safetensors.torch import load_file

    at_8 = load_file(tmp_path / "stopped/checkpoint-8/model.safetensors")
    assert all(torch.equal(p, at_8[k]) for k, p in best.named_parameters())


def test_a_finished_training_is_not_repeated(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    first, found = fit(tokenizer, tmp_path)
    second, again = fit(tokenizer, tmp_path, killed_at=0)  # reads no batch
    assert same(first, second) and found == again


def test_another_training_does_not_go_on_from_this_one(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    batches = Batches(tokenizer, None, Corpus(sentences(8), vectors(8, 3)), batch_size=4)
    train(Mcse(random_encoder(), 3), batches, tmp_path, every=2)
    with pytest.raises(ValueError, match="a training with another weight: "):
        train(Mcse(random_encoder(), 3, weight=0.5), batches, tmp_path, every=2)
    with pytest.raises(ValueError, match="another learning_rate, seed: "):
        train(Mcse(random_encoder(), 3), batches, tmp_path, every=2, learning_rate=1e-3, seed=1)
    others = (
        Corpus(sentences(8)[::-1], vectors(8, 3)),
        Corpus(sentences(8), vectors(8, 3) + 1e-6),
    )
    for corpus in others:
        with pytest.raises(ValueError, match="a training with another corpus: "):
            other = Batches(tokenizer, None, corpus, batch_size=4)
            train(Mcse(random_encoder(), 3), other, tmp_path, every=2)
    encoder = random_encoder()
    next(encoder.parameters()).data[0] += 1
    with pytest.raises(ValueError, match="a training with another encoder: "):
        train(Mcse(encoder, 3), batches, tmp_path, every=2)


@pytest.mark.parametrize("name", ["settings.json", "checkpoint-3/trainer_state.json"])
def test_a_folder_of_something_else_is_left_as_it_is(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text('{"global_step": 3}')
    batches = Batches(tokenizer, None, Corpus(sentences(8), vectors(8, 3)), batch_size=4)
    with pytest.raises(ValueError, match="choose another folder"):
        train(Mcse(random_encoder(), 3), batches, tmp_path)
    assert (tmp_path / name).read_text() == '{"global_step": 3}'


def test_training_learns_the_pairs(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    texts = [
        f"{c} {n} {v}" for c in ("red", "blue") for n in WORDS[1:5] for v in ("sits", "stands")
    ]
    paired = Corpus(texts, vectors(16, 8))
    model = Mcse(random_encoder(), 8, weight=1.0)
    batches = Batches(tokenizer, None, paired, batch_size=16, epochs=60)

    def loss() -> float:
        with torch.no_grad():
            return float(model.eval()(**batches[0])["image"])

    before = loss()
    found = train(model, batches, tmp_path, learning_rate=1e-2, every=1000)
    assert loss() < before / 2
    assert found["best_step"] is None and found["measured"] == {}


@pytest.mark.parametrize("fault", ["nan", "empty"])
def test_a_loss_that_is_not_finite_or_an_empty_batch_stops_and_keeps_the_checkpoint(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, fault: str
) -> None:
    class Broken(Batches):
        def __getitem__(self, step: int) -> dict[str, Tensor]:
            batch = super().__getitem__(step)
            if step != 5:
                return batch
            if fault == "empty":
                return {name: values[:0] for name, values in batch.items()}
            return batch | {"image": batch["image"] * math.nan}

    paired = Corpus(sentences(16), vectors(16, 3))
    model = Mcse(random_encoder(), 3, weight=0.5)
    batches = Broken(tokenizer, None, paired, batch_size=4, epochs=2)
    said = "the loss of step 5 is nan" if fault == "nan" else "the batch of step 5 is empty"
    with pytest.raises(FloatingPointError if fault == "nan" else ValueError, match=said):
        train(model, batches, tmp_path, every=2)
    assert {p.name for p in tmp_path.glob("checkpoint-*")} == {"checkpoint-4"}
    assert all(torch.isfinite(p).all() for p in model.parameters())


# -- encoders and measures --------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_an_embedding_is_the_raw_first_state_of_its_text_alone(
    tokenizer: PreTrainedTokenizerFast, kind: str
) -> None:
    encoder = random_encoder(kind).train()
    texts = [*sentences(7), " ".join(WORDS * 3)]  # the last is cut
    found = embed(encoder, tokenizer, texts, batch_size=3)
    assert encoder.training
    encoder.eval()
    for text, row in zip(texts, found, strict=True):
        tokens = tokenizer(text, truncation=True, max_length=16, return_tensors="pt")
        with torch.no_grad():
            state = encoder(tokens.input_ids, attention_mask=tokens.attention_mask)
        torch.testing.assert_close(row, state.last_hidden_state[0, 0], atol=1e-5, rtol=1e-4)


def test_the_small_encoder_keeps_its_table_and_its_seed() -> None:
    encoder, tokenizer = load_encoder(seed=3)
    twin, _ = load_encoder(seed=3)
    other, _ = load_encoder(seed=4)
    texts = ["a red cat", "a blue house under a tree"]
    assert torch.equal(embed(encoder, tokenizer, texts), embed(twin, tokenizer, texts))
    assert not torch.allclose(embed(encoder, tokenizer, texts), embed(other, tokenizer, texts))
    table = encoder.get_input_embeddings().weight
    assert not table.requires_grad and table.std() == pytest.approx(1, abs=0.05)
    assert all(p.requires_grad for p in encoder.parameters() if p is not table)


def test_an_encoder_comes_from_a_folder(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    random_encoder().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    encoder, read = load_encoder(tmp_path)
    texts = sentences(3)
    expected = embed(random_encoder(), tokenizer, texts)
    torch.testing.assert_close(embed(encoder, read, texts), expected)


def test_alignment_and_uniformity_are_their_formulas() -> None:
    x, y = vectors(9, 4).double(), vectors(9, 4, seed=1).double()
    unit = [[v / math.hypot(*row) for v in row] for row in x.tolist()]
    other = [[v / math.hypot(*row) for v in row] for row in y.tolist()]
    apart = [math.dist(a, b) ** 2 for a, b in zip(unit, other, strict=True)]
    assert alignment(x, y) == pytest.approx(sum(apart) / 9)
    closeness = [
        math.exp(-2 * math.dist(unit[i], unit[j]) ** 2) for i in range(9) for j in range(i)
    ]
    assert uniformity(x) == pytest.approx(math.log(sum(closeness) / 36))
    assert alignment(x, 5 * x) == pytest.approx(0)
    assert uniformity(torch.ones(4, 3)) == pytest.approx(0)
