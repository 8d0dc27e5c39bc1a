"""The conjured distance, distilled into a text encoder: part of the record of `study`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import conjure_lib as cj
from conjure_tools import baselines, benchmarks, correlation, runs
from conjure_tools.grounding import (
    Batches,
    Corpus,
    embed,
    load_encoder,
    train,
)
from studies.mcse.data import EVERY, WEIGHTING, Data
from studies.mcse.trainings import (
    SIMCSE,
    Plan,
    chosen_weight,
    embed_pairs,
    finish,
    finished_training,
    open_encoder,
    place,
    rounded,
    save_weights,
    settings,
    spearman_rho,
)
from studies.records import texts_of

TURNS = 3  # in which teacher and student are timed


class Student(nn.Module):
    """A text encoder with a linear head that learns to write a conjured embedding.

    Squared distances between its outputs then stand in for the conjured distance, at the price of
    encoding either text.
    """

    def __init__(self, encoder: Any, image_width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(int(encoder.config.hidden_size), image_width)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, image: Tensor
    ) -> dict[str, Tensor]:
        """loss: mean over the batch of the squared distance from the vectors ``image`` (n, d)."""
        h = self.encoder(input_ids, attention_mask=attention_mask).last_hidden_state[:, 0]
        return {"loss": (self.head(h).float() - image).square().sum(1).mean()}

    @torch.no_grad()
    def encode(self, tokenizer: Any, texts: Sequence[str]) -> Tensor:
        """The outputs for texts, (n, image_width)."""
        device = self.head.weight.device
        return self.head(embed(self.encoder, tokenizer, texts).to(device)).cpu()


def distillation(
    plan: Plan,
    data: Data,
    found: Sequence[dict[str, Any]],
    process: cj.GenerativeProcess,
    folder: Path,
) -> tuple[pd.DataFrame, list[dict[str, Any]], dict[str, Any]]:
    """Rows of the study "teacher" and of the students' agreement with people; their trainings; and
    the record of the teacher's run and the speed of both."""
    weight = chosen_weight(found, EVERY)
    starts = [place(folder, EVERY, weight, seed) for seed in range(plan.seeds)]
    places = [folder / f"student-{seed}" for seed in range(plan.seeds)]
    students = [
        student_run(plan, data, start, seed, where)
        for seed, (start, where) in enumerate(zip(starts, places, strict=True))
    ]
    pairs = held_out_pairs(plan, data)
    exact = runs.score(process, pairs, folder / "teacher", draws=2, report=lambda _: None)
    others = {
        "conjured embeddings": by_embeddings(process, pairs, plan.anchors),
        "text encoder of the model": baselines.text_encoder_cosine(process, texts_of(pairs)),
        "before": by_encoder(plan, starts[0], pairs),
        SIMCSE: by_encoder(plan, place(folder, SIMCSE, 0.0, 0), pairs),
    }
    rows = against_teacher(plan, exact, pairs, [s["held_out"] for s in students], others)
    rows += with_people(plan, students)
    student, tokenizer = open_student(plan, data, places[0], 0)
    price = speed(process, student, tokenizer, texts_of(pairs))
    return pd.DataFrame(rows), students, {"teacher": exact.record, "speed": price}


def student_run(plan: Plan, data: Data, start: Path, seed: int, folder: Path) -> dict[str, Any]:
    """Distil the conjured embeddings into the encoder that was left in ``start``, or read it.

    Returns:
        what training gives, and minus the student's distances: of every set under
        "similarities", of the held-out pairs under "held_out".
    """
    if found := finished_training(folder):
        return found
    began = time.process_time()
    encoder, tokenizer = open_encoder(plan, start, seed)
    torch.manual_seed(seed)
    images = conjured(data)
    student = Student(encoder, images.shape[1])
    corpus = Corpus(data.texts + data.captions, images)
    options = {"epochs": plan.student_epochs, "batch_size": plan.batch_size, "seed": seed}
    batches = Batches(tokenizer, None, corpus, **options)
    faster = settings(plan, seed) | {"learning_rate": plan.student_learning_rate}
    found = train(student, batches, folder, **faster)
    tables = {name: benchmarks.load_pairs(name) for name in plan.sets}
    found["similarities"] = {k: closeness(student, tokenizer, t) for k, t in tables.items()}
    found["held_out"] = closeness(student, tokenizer, held_out_pairs(plan, data))
    save_weights(student, folder)
    return finish(folder, found | {"seed": seed, "cpu_seconds": time.process_time() - began})


def conjured(data: Data) -> Tensor:
    """The conjured embeddings of the texts, then of the captions."""
    of_texts, of_captions = data.images[EVERY]
    assert of_texts is not None
    return torch.cat([of_texts, of_captions])


def open_student(plan: Plan, data: Data, folder: Path, seed: int) -> tuple[Student, Any]:
    """The student of ``folder``, and its tokenizer."""
    encoder, tokenizer = load_encoder(plan.encoder, seed=seed)
    student = Student(encoder, conjured(data).shape[1])
    student.load_state_dict(load_file(folder / "weights.safetensors"), strict=False)
    return student.eval(), tokenizer


def closeness(student: Student, tokenizer: Any, pairs: pd.DataFrame) -> list[float]:
    """Minus the squared distance between the student's vectors of each pair."""
    first, second = embed_pairs(lambda texts: student.encode(tokenizer, texts), pairs)
    return rounded(-(first - second).square().sum(1))


def held_out_pairs(plan: Plan, data: Data) -> pd.DataFrame:
    """id, text1, text2 and group: half from STS-B's test set, half of held-out texts at random."""
    count = plan.held_out // 2
    sts = runs.stratified(benchmarks.load_pairs("stsb"), count).assign(group="STS-B, test")
    order = np.random.default_rng(0).permutation(len(data.held_out))
    own = [data.held_out[i] for i in order]
    ours = pd.DataFrame({"text1": own[::2], "text2": own[1::2]})
    ours["id"] = [f"held-out-{i:04d}" for i in range(len(ours))]
    both = pd.concat([sts, ours.assign(group="glosses and captions")], ignore_index=True)
    return both[["id", "text1", "text2", "group"]]


def by_embeddings(process: cj.GenerativeProcess, pairs: pd.DataFrame, anchors: int) -> np.ndarray:
    """Minus the squared distances between conjured embeddings: what the student learns from."""
    scorer = cj.Scorer(process, weighting=WEIGHTING, steps=anchors, draws=1)
    vectors = embed_pairs(lambda t: scorer.encode(t, convert_to_tensor=True), pairs)
    return scorer.similarity_pairwise(*vectors).numpy()


def by_encoder(plan: Plan, folder: Path, pairs: pd.DataFrame) -> np.ndarray:
    """Cosines by the encoder that a training of the first seed has left."""
    encoder, tokenizer = open_encoder(plan, folder, 0)
    vectors = embed_pairs(lambda texts: embed(encoder, tokenizer, texts), pairs)
    return torch.cosine_similarity(*vectors).numpy()


def against_teacher(
    plan: Plan,
    exact: runs.Run,
    pairs: pd.DataFrame,
    students: Sequence[Sequence[float]],
    others: dict[str, np.ndarray],
) -> list[dict[str, Any]]:
    """Spearman's ρ of everything with the distance of Algorithm 1, by group of held-out pairs.

    "another draw" is that distance itself from one draw, against another: no student can be asked
    for more.
    """
    by_draw = exact.by_draw(WEIGHTING)
    named = [("student", seed, np.array(found)) for seed, found in enumerate(students)]
    named += [(name, -1, values) for name, values in others.items()]
    rows = []
    for group in ("", *dict.fromkeys(pairs["group"])):
        at = (pairs["group"] == group).to_numpy() if group else np.ones(len(pairs), bool)
        target = -by_draw[at].mean(1)
        cells = [(kind, seed, values[at], target) for kind, seed, values in named]
        cells.append(("another draw", -1, -by_draw[at, 0], -by_draw[at, 1]))
        for kind, seed, values, wanted in cells:
            found = correlation.spearman(values, wanted, resamples=5 * plan.resamples)
            rows.append({
                "study": "teacher", "kind": kind, "seed": seed, "benchmark": group or "all",
                "value": found.value, "low": found.low, "high": found.high, "pairs": found.pairs,
            })  # fmt: skip
    return rows


def with_people(plan: Plan, students: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Agreement of the students with people."""
    rows = []
    for name in plan.sets:
        human = benchmarks.load_pairs(name)["score"]
        rows += [
            {"study": "run", "kind": "student", "seed": s["seed"], "benchmark": name,
             "value": spearman_rho(s["similarities"][name], human), "pairs": len(human)}
            for s in students
        ]  # fmt: skip
    return rows


def speed(
    process: cj.GenerativeProcess,
    student: Student,
    tokenizer: Any,
    pairs: Sequence[tuple[str, str]],
    *,
    few: int = 8,
    batch_size: int = 64,
) -> dict[str, float]:
    """Seconds a pair by Algorithm 1 (ten steps, two draws) and by the student, taken in turns.

    The first ``few`` pairs by Algorithm 1, all of them by the student; the ratio is the median of
    those of the turns.
    """
    texts, some = [text for pair in pairs for text in pair], pairs[:few]
    seconds, before = [], process.evaluations
    for _ in range(TURNS):
        began = time.perf_counter()
        cj.distances(process, some, draws=2, weighting=WEIGHTING, batch_size=batch_size)
        between = time.perf_counter()
        student.encode(tokenizer, texts)
        ended = time.perf_counter()
        seconds.append([(between - began) / len(some), (ended - between) / len(pairs)])
    by_turn = np.array(seconds)
    return {
        "teacher_seconds": float(np.median(by_turn[:, 0])),
        "student_seconds": float(np.median(by_turn[:, 1])),
        "ratio": float(np.median(by_turn[:, 0] / by_turn[:, 1])),
        "evaluations_per_pair": (process.evaluations - before) / (len(some) * TURNS),
    }
