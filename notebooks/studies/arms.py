"""Whose is the meaning, the text encoder's or the pictures': the records 'probes' and 'encoders'.

The arms are U-Nets of the recipe in training/, from the same random weights, on the same pictures
in the same order, for as many steps; they differ in who reads the captions. Everything is
resumable. On one CPU core an arm takes about half an hour.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoTokenizer

import conjure_lib as cj
from conjure_tools import baselines, benchmarks, correlation, runs, weights
from conjure_tools.fingerprints import weights_hash
from conjure_tools.loading import shipped
from studies import other_models, records, spaces
from studies.probes import (
    POOLINGS,
    PROBES,
    by_similarity,
    by_spelling,
    load_probes,
    probe_texts,
    read_probes,
    score_probes,
)
from studies.records import ROOT, Made
from training import text_encoder, unet
from training.loop import save_atomically
from training.pictures import Emoji, Picture, fetched_emoji
from training.sources import TEACHER, WORDNET

MODEL = shipped(cj.EMBEDDED)
TRAINING = ROOT / "_training"  # the recipe's own caches: read where they are there
ARMS = {
    "distilled": "reads with the shipped text encoder, frozen",
    "scratch": "learns to read from the captions, together with the U-Net",
}
STEPS, BATCH, SCENES = 3000, 32, 8000
RATE = 1e-3
DRAWS = {"probes": 3, "rg65": 5, "simlex999": 2}


def probe_record() -> Made:
    """The table 'probes', of the arms that are trained for it if need be."""
    train_missing()
    table, notes = probe_table(records.work("arms"), STEPS)
    return {"probes": table}, notes


def agreement_record() -> Made:
    """The table 'encoders', likewise."""
    train_missing()
    table, notes = agreement_of_models(records.work("arms"), STEPS)
    return {"encoders": table}, notes


def train_missing() -> None:
    """Train those arms that are not trained yet."""
    folders = {name: records.work("arms") / f"{name}-{STEPS}" for name in ARMS}
    missing = [n for n, f in folders.items() if not (f / "weights.safetensors").is_file()]
    if missing:
        seen = recipe(TRAINING, records.work("arms"))
        for name in missing:
            train_arm(name, *seen, folder=folders[name], steps=STEPS)


# -- the arms ---------------------------------------------------------------------------------


class Joint(nn.Module):
    """A U-Net behind a text encoder, as one network from token ids (n, 32) to v."""

    def __init__(self, network: nn.Module, reader: nn.Module) -> None:
        super().__init__()
        self.unet, self.text_encoder = network, reader

    def forward(self, x: Tensor, t: Tensor, ids: Tensor) -> Any:
        return self.unet(x, t, self.text_encoder(input_ids=ids).last_hidden_state)


def named_emoji(training: Path, work: Path) -> tuple[Path, list[Emoji]]:
    """The folder of the recipe's sources, and the emoji with their names and keywords."""
    sources = training / "sources" if (training / "sources").is_dir() else work / "sources"
    return sources, fetched_emoji(sources)


def recipe(training: Path, work: Path) -> tuple[list[Emoji], list[Picture], Tensor]:
    """Emoji, pictures and their scaled latents, as they were for the shipped model.

    Caches of the recipe in ``training`` are read; what is not there is made in ``work``.
    """
    work.mkdir(parents=True, exist_ok=True)
    sources, emoji = named_emoji(training, work)
    words = text_encoder.wordnet_lemmas(sources / WORDNET)
    emoji = text_encoder.near_words(sources / TEACHER, emoji, words, work / "near_words.json")
    vae: Any = cj.load(device="cpu").modules["vae"]
    pictures = unet.picture_set(len(emoji), SCENES)
    kept = [f for f in (training / "latents.safetensors",) if f.is_file()]
    cache = next(iter(kept), work / "latents.safetensors")
    latents = unet.encode_pictures(vae, emoji, pictures, cache)
    return emoji, pictures, latents * vae.config.scaling_factor


def train_arm(
    name: str,
    emoji: Sequence[Emoji],
    pictures: Sequence[Picture],
    latents: Tensor,
    *,
    folder: Path,
    steps: int,
    batch: int = BATCH,
) -> None:
    """Train an arm, or go on; its finished weights come to ``folder``/weights.safetensors."""
    if (folder / "weights.safetensors").is_file():
        return
    tokenizer = weights.reader(AutoTokenizer, MODEL / "tokenizer")
    start: Any = None
    reader: Any = cj.load(device="cpu").modules["text_encoder"]
    if name != "distilled":  # the ids pass the place of the reader, and are read in Joint
        torch.manual_seed(5)  # as `train_unet` does before it builds its own
        start = Joint(unet.build(), fresh_reader(tokenizer))
        reader = passed_on
    network = unet.train_unet(
        emoji,
        pictures,
        latents,
        reader,
        tokenizer,
        folder,
        steps,
        batch=batch,
        learning_rate=RATE,
        start=start,
    )
    whole = network if start else Joint(network, nn.Identity())
    save_atomically(dict(whole.state_dict()), folder / "weights.safetensors")


def passed_on(input_ids: Tensor) -> SimpleNamespace:
    """A text encoder that reads nothing: its hidden states are the ids."""
    return SimpleNamespace(last_hidden_state=input_ids)


def fresh_reader(tokenizer: Any) -> Any:
    """The architecture of the shipped text encoder with random weights, the token table too."""
    with torch.random.fork_rng():
        torch.manual_seed(6)
        ends = tokenizer.sep_token_id, tokenizer.cls_token_id, tokenizer.pad_token_id
        model = text_encoder.build(len(tokenizer), *ends)
        table = model.get_input_embeddings().weight
        table.data.normal_(std=0.02)  # transformers' own, which `build` overwrote with zeros
    return model.requires_grad_(True)


def load_arm(folder: Path, name: str) -> cj.GenerativeProcess:
    """The process of a finished arm: the shipped one with the weights that the arm has learned."""
    learned, process = load_file(folder / "weights.safetensors"), cj.load()
    for part in ("unet",) if name == "distilled" else ("unet", "text_encoder"):
        start = f"{part}."
        process.modules[part].load_state_dict(
            {k.removeprefix(start): v for k, v in learned.items() if k.startswith(start)}
        )
    process.name = f"arm {name}"
    return process


def random_start() -> cj.GenerativeProcess:
    """The shipped model with the random U-Net that every training starts from."""
    process = spaces.untrained(cj.EMBEDDED, "unet", seed=5)
    process.name = "U-Net untrained"
    return process


def models(work: Path, steps: int) -> Iterator[tuple[str, cj.GenerativeProcess]]:
    """The shipped model, the untrained one and the arms that are trained, by name."""
    yield "shipped", cj.load()
    yield "untrained", random_start()
    for name in ARMS:
        folder = work / f"{name}-{steps}"
        if (folder / "weights.safetensors").is_file():
            yield name, load_arm(folder, name)
        else:
            print(f"the arm {name} is not trained: it is left out")


def training_curves(work: Path, steps: int) -> dict[str, Any]:
    """What each finished arm was trained with, and its loss every fifty steps."""
    found = {}
    for name, what in ARMS.items():
        log = work / f"{name}-{steps}" / "log.jsonl"
        if log.is_file():
            lines = [json.loads(line) for line in log.read_text().splitlines()]
            by_step = {line["step"]: line for line in lines}  # a resumed run repeats some
            found[name] = {"what": what, "steps": steps, "batch": BATCH, "learning_rate": RATE}
            found[name]["curve"] = [by_step[step] for step in sorted(by_step)]
    return found


# -- the probes -------------------------------------------------------------------------------


def probe_table(work: Path, steps: int) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table 'probes', and where it is from: every probe under every method of every model."""
    table, parts = load_probes(), []
    notes: dict[str, Any] = {"probes_sha256": hashlib.sha256(PROBES.read_bytes()).hexdigest()}
    notes["runs"] = {}
    parts.append(by_spelling(table))
    if teacher := os.environ.get("CONJURE_MINILM"):
        cosine = other_models.sentence_cosine(teacher, probe_texts(table))
        parts.append(by_similarity(table, cosine).assign(model="", method="minilm"))
    else:
        print("CONJURE_MINILM names no folder of all-MiniLM-L6-v2: it is left out of the probes")
    version = notes["probes_sha256"][:12]  # other probes are another run
    for name, process in models(work, steps):
        folder = work / f"probes-{version}-{name}-{weights_hash(process)[:12]}"
        scored, notes["runs"][name] = score_probes(process, table, folder, draws=DRAWS["probes"])
        if name not in ("untrained", "distilled"):  # theirs is the shipped text encoder
            scored = pd.concat([scored, read_probes(process, table)])
        parts.append(scored.assign(model=name))
    columns = ["model", "method", "id", "closer", "farther", "margin", "stderr"]
    return pd.concat(parts, ignore_index=True)[columns], notes


# -- agreement with people --------------------------------------------------------------------


def agreement_of_models(work: Path, steps: int) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table 'encoders': Spearman of every model and method on RG-65 and SimLex-999.

    ``difference`` is to the arm "distilled" under the same method, from the same resamples; the
    text encoder of that arm is the shipped one.
    """
    parts: list[pd.DataFrame] = []
    notes: dict[str, Any] = {"arms": training_curves(work, steps), "runs": {}}
    named = words_of(named_emoji(TRAINING, work)[1])
    loaded = dict(models(work, steps))
    for benchmark in ("rg65", "simlex999"):
        pairs = benchmarks.load_pairs(benchmark)
        values: dict[tuple[str, str], np.ndarray] = {}
        for name, process in loaded.items():
            folder = work / f"{benchmark}-{name}-{weights_hash(process)[:12]}"
            if name == "shipped":  # scored already, where the record 'words' was made
                folder = records.work("people") / benchmark
            found, run = similarities(process, pairs, folder, DRAWS[benchmark])
            notes["runs"][f"{name} {benchmark}"] = run.record
            values |= {(name, method): similarity for method, similarity in found.items()}
        parts.append(compared(pairs, values, groups_of(pairs, named)).assign(benchmark=benchmark))
    return pd.concat(parts, ignore_index=True), notes


def similarities(
    process: cj.GenerativeProcess,
    pairs: pd.DataFrame,
    folder: Path,
    draws: int,
    *,
    steps: int = runs.DRAWN.steps,
    report: Callable[[str], None] = print,
) -> tuple[dict[str, np.ndarray], runs.Run]:
    """Minus the three distances and the two cosines of the text encoder, each (P,)."""
    run = runs.score(process, pairs, folder, draws=draws, steps=steps, report=report)
    found: dict[str, np.ndarray] = {}
    for weighting in cj.WEIGHTINGS:
        found[weighting] = -run.by_draw(weighting)[:, :draws].mean(axis=1)
    texts = records.texts_of(pairs)
    for method, pooling in POOLINGS.items():
        found[method] = baselines.text_encoder_cosine(process, texts, pooling=pooling)
    return found, run


def words_of(emoji: Sequence[Emoji]) -> set[str]:
    """Every word of the names and keywords."""
    texts = [text for one in emoji for text in (one.name, *one.keywords)]
    return {word for text in texts for word in re.findall(r"[a-z]+", text.lower())}


def groups_of(pairs: pd.DataFrame, named: set[str]) -> dict[str, np.ndarray]:
    """Group to row numbers: all (""), by part of speech, by whether emoji have both words."""
    both = pairs["text1"].isin(named) & pairs["text2"].isin(named)
    groups = {"": np.arange(len(pairs)), "named": np.flatnonzero(both)}
    groups["not named"] = np.flatnonzero(~both)
    parts = pairs.groupby("pos").indices if pairs["pos"].nunique() > 1 else {}
    return groups | {str(k): v for k, v in parts.items()}


def compared(
    pairs: pd.DataFrame,
    values: dict[tuple[str, str], np.ndarray],
    groups: dict[str, np.ndarray],
    resamples: int = 10_000,
) -> pd.DataFrame:
    """Rows model, method, group, spearman and its difference from the arm "distilled"."""
    human, texts, rows = pairs["score"].to_numpy(float), correlation.both_texts(pairs), []
    for (model, method), value in values.items():
        reference = values.get(("distilled", method))
        for group, at in groups.items():
            how: Any = {"resamples": resamples}
            how["texts"] = None if texts is None else texts[at]
            found = correlation.spearman(value[at], human[at], **how)
            row = {"model": model, "method": method, "group": group, "pairs": len(at)}
            row |= {"spearman": found.value, "low": found.low, "high": found.high}
            if reference is not None:
                less = correlation.paired_bootstrap(value[at], reference[at], human[at], **how)
                row |= {"difference": less.value}
                row |= {"difference_low": less.low, "difference_high": less.high}
            rows.append(row)
    return pd.DataFrame(rows)
