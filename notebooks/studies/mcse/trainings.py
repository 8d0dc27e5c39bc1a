"""One training of the `study`, tested; and the plan of all of them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from conjure_lib import EMBEDDED
from conjure_tools import benchmarks
from conjure_tools.folders import write_whole
from conjure_tools.grounding import (
    Batches,
    Corpus,
    Mcse,
    alignment,
    embed,
    load_encoder,
    train,
    uniformity,
)
from studies.ablations import rank_correlations
from studies.mcse.data import EMBEDDINGS, EVERY, PICTURES, RANDOM, REAL, SHUFFLED, Data
from studies.records import short_hash

UNTRAINED, SIMCSE = "untrained", "SimCSE"
DEV = "stsb-dev"
WEIGHTS = {
    REAL: (0.01, 0.1, 1.0),
    SHUFFLED: (0.01, 0.1, 1.0),
    RANDOM: (1.0,),
    PICTURES: (1.0,),
    EMBEDDINGS: (1.0,),
    EVERY: (0.01, 0.1, 1.0),
}
"""The λ of every kind of image; the paper has 0.01."""
Embedding = Callable[[Sequence[str]], Tensor]


@dataclass(frozen=True)
class Plan:
    """Sizes and settings of the study; the defaults are those of the record."""

    encoder: str = EMBEDDED
    texts: int = 2560
    pairs: int = 1280
    epochs: int = 2
    batch_size: int = 64
    learning_rate: float = 3e-4
    every: int = 60  # steps between checkpoints
    seeds: int = 5
    weights: Mapping[str, tuple[float, ...]] = field(default_factory=lambda: WEIGHTS)
    sets: tuple[str, ...] = ("stsb", "sickr", *benchmarks.WORDS)
    bf16: bool = True
    anchors: int = 4  # of a conjured embedding
    steps: int = 5  # of the sampler that conjures a picture
    student_epochs: int = 8
    student_learning_rate: float = 1e-3  # its head starts from nothing
    held_out: int = 200  # texts; and pairs that student and teacher are compared on
    resamples: int = 400

    def jobs(self) -> Iterator[tuple[str, float, int]]:
        """Kind of image, weight λ and seed of every training."""
        for seed in range(self.seeds):
            yield from ((kind, 0.0, seed) for kind in (UNTRAINED, SIMCSE))
            yield from ((kind, w, seed) for kind, ws in self.weights.items() for w in ws)

    def key(self, model: str) -> str:
        """What the trainings depend on, with the weights of the diffusion model, in 12 digits."""
        parts = {
            k: v for k, v in asdict(self).items() if k not in ("seeds", "weights", "resamples")
        }
        return short_hash([parts, model])


def full(encoder: str, seeds: int, *, texts: bool) -> Plan:
    """The setting of the paper: λ is 0.01 with a corpus of texts, 0.05 on pairs alone."""
    return Plan(
        encoder=encoder,
        epochs=3,
        learning_rate=3e-5,
        every=125,
        seeds=seeds,
        weights=dict.fromkeys((REAL, SHUFFLED, RANDOM), (0.01,) if texts else (0.05,)),
        sets=benchmarks.STS,
        bf16=False,
    )


def all_runs(plan: Plan, data: Data, folder: Path) -> list[dict[str, Any]]:
    """Every training of the plan."""
    bar = tqdm(list(plan.jobs()), desc="trainings", unit="run")
    return [one_run(plan, data, k, w, s, place(folder, k, w, s)) for k, w, s in bar]


def place(folder: Path, kind: str, weight: float, seed: int) -> Path:
    """The folder of one training."""
    return folder / f"{kind.replace(' ', '-')}-{weight:g}-{seed}"


def one_run(
    plan: Plan, data: Data, kind: str, weight: float, seed: int, folder: Path
) -> dict[str, Any]:
    """Train and test one encoder, or read what was found; its weights stay in ``folder``.

    Returns:
        kind, weight, seed, what :func:`conjure_tools.grounding.train` gives, and what
        :func:`tested` does.
    """
    if found := finished_training(folder):
        return found
    began = time.process_time()
    encoder, tokenizer = load_encoder(plan.encoder, seed=seed)

    def embedding(texts: Sequence[str]) -> Tensor:
        return embed(encoder, tokenizer, texts)

    found = {"kind": kind, "weight": weight, "seed": seed}
    measure = on_development_set(embedding)
    if kind == UNTRAINED:
        found["measured"] = {0: measure()} if measure else {}
    else:
        of_texts, of_captions = data.images.get(kind, (None, None))
        torch.manual_seed(seed)
        width = None if of_captions is None else of_captions.shape[1]
        model = Mcse(encoder, width, weight=weight)
        text = Corpus(data.texts, of_texts) if data.texts else None
        options = {"epochs": plan.epochs, "batch_size": plan.batch_size, "seed": seed}
        batches = Batches(tokenizer, text, Corpus(data.captions, of_captions), **options)
        found |= train(model, batches, folder, measure=measure, **settings(plan, seed))
    found |= tested(plan.sets, embedding)
    save_weights(encoder, folder)
    return finish(folder, found | {"cpu_seconds": time.process_time() - began})


def settings(plan: Plan, seed: int) -> dict[str, Any]:
    """The settings of a training that the plan holds."""
    return {
        "learning_rate": plan.learning_rate, "every": plan.every, "bf16": plan.bf16, "seed": seed
    }  # fmt: skip


def embed_pairs(
    embedding: Callable[[Sequence[str]], Tensor], pairs: pd.DataFrame
) -> tuple[Tensor, Tensor]:
    """Embeddings of text1 and of text2, (P, width) each, every text embedded once."""
    texts = list(dict.fromkeys([*pairs["text1"], *pairs["text2"]]))
    place, vectors = {text: i for i, text in enumerate(texts)}, embedding(texts)
    first, second = (vectors[[place[t] for t in pairs[c]]] for c in ("text1", "text2"))
    return first, second


def on_development_set(embedding: Embedding) -> Callable[[], float] | None:
    """Measures agreement with people on STS-B's development set, where it is at hand."""
    try:
        pairs = benchmarks.load_pairs("stsb", split="dev")
    except FileNotFoundError:
        print("STS-B is not at hand: the last checkpoint counts, and not the best one")
        return None

    def measure() -> float:
        cosine = torch.cosine_similarity(*embed_pairs(embedding, pairs))
        return spearman_rho(cosine.numpy(), pairs["score"])

    return measure


def spearman_rho(predicted: Any, human: Any) -> float:
    """Spearman's ρ of (P,) and (P,)."""
    return float(rank_correlations(np.asarray(predicted)[None], np.asarray(human))[0])


def tested(sets: Sequence[str], embedding: Embedding) -> dict[str, Any]:
    """By set: similarities of the pairs, and alignment and uniformity of the sentences."""
    found: dict[str, Any] = {"similarities": {}, "geometry": {}}
    for name in sets:
        pairs = benchmarks.load_pairs(name)
        first, second = embed_pairs(embedding, pairs)
        found["similarities"][name] = rounded(torch.cosine_similarity(first, second))
        if name in benchmarks.STS:
            like = torch.tensor((pairs["score"] >= 4).to_numpy())
            found["geometry"][name] = {
                "alignment": alignment(first[like], second[like]),
                "uniformity": uniformity(torch.cat([first, second]).unique(dim=0)),
            }
    return found


def rounded(values: Tensor) -> list[float]:
    """Seven digits, which is what single precision has."""
    return [float(f"{value:.7g}") for value in values.tolist()]


def save_weights(model: Any, folder: Path) -> None:
    """What training can have changed: not the frozen token table."""
    folder.mkdir(parents=True, exist_ok=True)
    trained = {k: p.detach().cpu() for k, p in model.named_parameters() if p.requires_grad}
    save_file(trained, folder / "weights.safetensors")


def finished_training(folder: Path) -> dict[str, Any] | None:
    """What a finished training has found."""
    file = folder / "run.json"
    return json.loads(file.read_text("utf-8")) if file.is_file() else None


def finish(folder: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Keep what was found, and drop the checkpoints."""
    write_whole(folder / "run.json", lambda part: part.write_text(json.dumps(found), "utf-8"))
    for checkpoint in folder.glob("checkpoint-*"):
        rmtree(checkpoint)
    return json.loads(json.dumps(found))


def open_encoder(plan: Plan, folder: Path, seed: int) -> tuple[Any, Any]:
    """The encoder that a training has left in ``folder``, and its tokenizer."""
    encoder, tokenizer = load_encoder(plan.encoder, seed=seed)
    encoder.load_state_dict(load_file(folder / "weights.safetensors"), strict=False)
    return encoder.eval(), tokenizer


def chosen_weight(found: Sequence[dict[str, Any]], kind: str) -> float:
    """The λ with the best mean on the development set; the largest where that is not at hand."""
    best: dict[float, list[float]] = {}
    for run in found:
        if run["kind"] == kind:
            best.setdefault(run["weight"], []).append(max(run["measured"].values(), default=0.0))
    return max(best, key=lambda w: (np.mean(best[w]), w))
