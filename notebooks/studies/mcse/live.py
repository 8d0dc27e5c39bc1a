"""One small training of an encoder on pairs of captions and vectors, as chapter 13 runs it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor, nn

import conjure_lib as cj
from conjure_lib import EMBEDDED
from conjure_tools.grounding import Batches, Corpus, Mcse, embed, load_encoder, train
from conjure_tools.loading import shipped
from conjure_tools.plots import PALETTE
from studies.mcse import data
from studies.mcse.student import Student
from studies.mcse.trainings import spearman_rho
from training.pictures import load_sample

OWN = {
    EMBEDDED: "a small BERT of two fresh layers over the token table of the embedded model's text "
    "encoder, a table that is not trained"
}
"""What an encoder that is trained here is, in words."""


@dataclass(frozen=True)
class Pairs:
    """Captions, some of them held out, and vectors (captions, width) of several kinds for each."""

    captions: list[str]
    held_out: list[str]
    images: dict[str, Tensor]


def pairs(
    process: cj.GenerativeProcess, count: int, held_out: int, anchors: int, batch_size: int
) -> Pairs:
    """Pictures of the emoji that come with the book: real, shuffled and conjured vectors."""
    emoji = load_sample(shipped("emoji-sample"))
    every, latents = data.emoji_pairs(emoji, count + held_out, process.modules["vae"])
    real = data.standardised(latents)
    conjured = data.conjured_embeddings(process, every, anchors, batch_size)
    shuffled = data.control_data(real[:count])[data.SHUFFLED][1]
    images = {
        "real": real,
        "shuffled": torch.cat([shuffled, real[count:]]),
        "conjured": data.standardised(conjured),
    }
    return Pairs(every[:count], every[count:], images)


@dataclass(frozen=True)
class Training:
    """Settings of the small training."""

    encoder: str
    epochs: int
    learning_rate: float
    seed: int

    def _run(self, model: nn.Module, tokenizer: Any, corpus: Corpus, faster: float = 1) -> None:
        """Train a model in place."""
        batches = Batches(tokenizer, None, corpus, epochs=self.epochs, seed=self.seed)
        rate = faster * self.learning_rate
        with tempfile.TemporaryDirectory() as folder:
            train(
                model, batches, folder, learning_rate=rate, every=10**6, seed=self.seed, bf16=True
            )

    def grounded(self, found: Pairs, kind: str, weight: float) -> tuple[Mcse, Any]:
        """An encoder trained on the captions with one kind of vectors, and its tokenizer."""
        vectors = found.images[kind]
        encoder, tokenizer = load_encoder(self.encoder, seed=self.seed)
        torch.manual_seed(self.seed)
        model = Mcse(encoder, vectors.shape[1], weight=weight)
        self._run(model, tokenizer, Corpus(found.captions, vectors[: len(found.captions)]))
        return model, tokenizer

    def distilled(self, encoder: Any, tokenizer: Any, found: Pairs) -> Student:
        """A student of the conjured embeddings; its head starts from nothing and learns faster."""
        vectors = found.images["conjured"]
        torch.manual_seed(self.seed)
        student = Student(encoder, vectors.shape[1])
        corpus = Corpus(found.captions, vectors[: len(found.captions)])
        self._run(student, tokenizer, corpus, faster=3)
        return student


@torch.no_grad()
def rank_of_own(model: Mcse, tokenizer: Any, found: Pairs, kind: str) -> np.ndarray:
    """For each held-out caption, the share of held-out images nearer to it than its own."""
    device = next(model.text_head.parameters()).device
    text = model.text_head(embed(model.encoder, tokenizer, found.held_out).to(device))
    image = model.image_head(found.images[kind][len(found.captions) :].to(device))
    cosine = torch.cosine_similarity(text[:, None], image[None], dim=-1).cpu()
    return np.asarray((cosine > cosine.diag()[:, None]).double().mean(1))


def facts(found: Pairs, training: Training, ranks: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """How often a held-out caption finds its own among the nearest tenth."""
    return {
        "n_pairs": len(found.captions),
        "n_held": len(found.held_out),
        "encoder_said": OWN.get(training.encoder, training.encoder),
        "steps_live": training.epochs * -(-len(found.captions) // 64),
        **{f"tenth_{name}": 100 * (rank < 0.1).mean() for name, rank in ranks.items()},
    }


def draw_retrieval(ranks: Mapping[str, np.ndarray]) -> None:
    """Captions that have met their own image, over the share of images looked at."""
    _, axis = plt.subplots(figsize=(5.4, 3.2))
    share = np.linspace(0, 1, 101)
    for (name, rank), colour in zip(ranks.items(), PALETTE, strict=False):
        axis.plot(100 * share, 100 * np.array([(rank <= s).mean() for s in share]), color=colour)
        axis.plot([], [], color=colour, label=name)
    axis.plot([0, 100], [0, 100], color="0.6", linewidth=1, label="chance")
    axis.set(xlabel="images looked at, nearest first (%)", ylabel="captions with their own (%)")
    axis.legend(title="trained on", loc="lower right")
    plt.show()


@dataclass(frozen=True)
class Imitation:
    """Squared distances of all pairs of held-out captions, by the student and by its teacher."""

    learned: np.ndarray
    wanted: np.ndarray

    def facts(self, price: Mapping[str, float]) -> dict[str, Any]:
        """How well the student ranks, and what a pair takes."""
        return {
            "live_student": 100 * spearman_rho(self.learned, self.wanted),
            "n_live_pairs": f"{len(self.learned):,}",
            "ratio": price["ratio"],
            "per_pair": price["evaluations_per_pair"],
            "teacher_ms": 1000 * price["teacher_seconds"],
            "student_ms": 1000 * price["student_seconds"],
        }


def imitation(student: Student, tokenizer: Any, found: Pairs) -> Imitation:
    """The student on captions that it never saw."""
    texts = found.held_out
    distinct = sorted({text: i for i, text in enumerate(texts)}.values())
    written = student.encode(tokenizer, [texts[i] for i in distinct])
    taught = found.images["conjured"][len(found.captions) :][distinct]
    learned, wanted = (torch.pdist(v).square().numpy() for v in (written, taught))
    return Imitation(learned, wanted)


def next_to_each_other(texts: Sequence[str]) -> list[tuple[str, str]]:
    """The texts, paired off in their order."""
    return list(zip(texts[::2], texts[1::2], strict=False))
