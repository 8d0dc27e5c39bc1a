"""The text encoder: a token table and two causal layers, distilled from a sentence encoder.

Stable Diffusion takes its words from CLIP; ours come from all-MiniLM-L6-v2 (Apache-2.0), in the
same class that Stable Diffusion uses, ``transformers.CLIPTextModel``:

1. *Token table.* Each token of the vocabulary is encoded alone, the vectors are centred and
   projected on their first 192 principal components. The table is never trained again.
2. *Layers.* Two causal transformer layers learn to write the teacher's embedding of the whole
   text at the end-of-text token and at every padding token behind it. The texts are captions
   and the lemmas, definitions and examples of WordNet; no benchmark text is read.

All of it is frozen afterwards: the U-Net learns to read it, as in Stable Diffusion.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm
from transformers import AutoModel, AutoTokenizer, CLIPTextConfig, CLIPTextModel

from conjure_tools.hardware import autocast
from conjure_tools.weights import pretrained, reader
from training.loop import save_atomically, train
from training.pictures import Emoji, caption, compose

WIDTH = 192  # keeps about 90 % of the variance of the teacher's token vectors
LENGTH = 32  # tokens of a prompt, [CLS] and [SEP] included


def build_tokenizer(teacher: Path):  # type: ignore[no-untyped-def]
    """The teacher's own WordPiece tokenizer, cut and padded at 32 tokens."""
    tokenizer = reader(AutoTokenizer, teacher)
    tokenizer.model_max_length = LENGTH
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def build(vocabulary: int, sep: int, cls: int, pad: int) -> CLIPTextModel:
    """A fresh text encoder with a frozen token table of zeros."""
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=6,
        max_position_embeddings=LENGTH,
        hidden_act="gelu",
        bos_token_id=cls,
        eos_token_id=sep,
        pad_token_id=pad,
    )
    model = CLIPTextModel(config)
    table = model.get_input_embeddings().weight
    table.requires_grad_(False)
    table.zero_()
    return model


@torch.no_grad()
def teach(teacher: Path, ids: Sequence[list[int]], pad: int, batch: int = 256) -> Tensor:
    """The teacher's unit-length sentence embeddings (n, 384): mean over tokens, normalised."""
    model = pretrained(AutoModel, teacher)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    result = torch.empty(len(ids), model.config.hidden_size)
    for first in tqdm(range(0, len(ids), batch), desc="teacher", mininterval=5):
        rows = order[first : first + batch]
        tokens = pad_ids([ids[i] for i in rows], max(len(ids[i]) for i in rows), pad)
        mask = torch.tensor(
            [[1] * len(ids[i]) + [0] * (tokens.shape[1] - len(ids[i])) for i in rows]
        )
        with autocast():
            hidden = model(input_ids=tokens, attention_mask=mask).last_hidden_state.float()
        pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        result[rows] = F.normalize(pooled, dim=-1)
    return result


def pad_ids(ids: Sequence[list[int]], length: int, pad: int) -> Tensor:
    """Lists of token ids to one tensor (n, length)."""
    return torch.tensor([row + [pad] * (length - len(row)) for row in ids])


def principal_axes(vectors: Tensor, width: int) -> tuple[Tensor, Tensor, float]:
    """Mean (d,), basis (d, width) and the kept fraction of the variance of ``vectors`` (n, d)."""
    mean = vectors.mean(0)
    values, basis = torch.linalg.eigh(torch.cov((vectors - mean).double().T))
    kept = float(values[-width:].sum() / values.sum())
    return mean, basis[:, -width:].flip(1).float(), kept


def _wordnet_entries(folder: Path) -> Iterator[tuple[list[str], str]]:
    """(lemmas, gloss) of every synset in the data files of WordNet 3.0."""
    for part in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"data.{part}").read_text(encoding="utf-8").splitlines():
            if line.startswith("  "):  # the licence at the head of each file
                continue
            data, _, gloss = line.partition(" | ")
            fields = data.split()
            lemmas = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
            yield [re.sub(r"\(.*\)$", "", lemma).replace("_", " ") for lemma in lemmas], gloss


def wordnet_lemmas(folder: Path) -> list[str]:
    """Every lemma of WordNet of one or two words, each once, no names of people and places."""
    lemmas = (lemma for entry, _ in _wordnet_entries(folder) for lemma in entry)
    return [w for w in dict.fromkeys(lemmas) if w.islower() and w.count(" ") < 2 and len(w) > 2]


def wordnet_texts(folder: Path) -> list[str]:
    """Lemmas, definitions and examples of WordNet, each once."""
    texts: list[str] = []
    for lemmas, gloss in _wordnet_entries(folder):
        definition, *examples = gloss.split('"')
        texts += (
            lemmas + [definition.strip(" ;:")] + [e for e in examples if len(e.strip(" ;,")) > 3]
        )
    return [t for t in dict.fromkeys(texts) if t.strip()]


def sample_texts(texts: Sequence[str], count: int = 140_000, seed: int = 7) -> list[str]:
    """``count`` of the texts, chosen once."""
    rng = np.random.default_rng(seed)
    return [texts[i] for i in rng.choice(len(texts), min(len(texts), count), replace=False)]


def train_text_encoder(
    teacher: Path, texts: Iterable[str], folder: Path, steps: int, batch: int = 128
) -> tuple[CLIPTextModel, object, float]:
    """Distil (or resume); returns model, tokenizer and the variance that the table keeps."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(teacher)
    pad, cls, sep = tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id
    torch.manual_seed(2)
    model = build(len(tokenizer), sep, cls, pad)
    cache = folder / "targets.safetensors"
    texts = list(dict.fromkeys(texts))
    ids = tokenizer(texts, truncation=True, max_length=LENGTH)["input_ids"]
    if not cache.exists():
        alone = teach(teacher, [[cls, k, sep] for k in range(len(tokenizer))], pad)
        mean, basis, kept = principal_axes(alone, WIDTH)
        table = (alone - mean) @ basis
        whole = teach(teacher, ids, pad)
        mean, basis, _ = principal_axes(whole, WIDTH)
        save_atomically(
            {
                "table": table / table.std(),
                "targets": F.normalize((whole - mean) @ basis, dim=-1).half(),
                "kept": torch.tensor(kept),
            },
            cache,
        )
    cached = load_file(cache)
    model.get_input_embeddings().weight.data.copy_(cached["table"])
    targets = cached["targets"]
    if len(targets) != len(ids):
        raise ValueError(f"{cache} was made for other texts: delete it, and {folder} with it")
    held_out = range(0, len(ids), 500)  # never trained on

    def error(rows: Sequence[int]) -> Tensor:
        tokens = pad_ids([ids[i] for i in rows], LENGTH, pad)
        hidden = model(input_ids=tokens).last_hidden_state  # (n, 32, 192)
        after = torch.tensor([[p >= len(ids[i]) - 1 for p in range(LENGTH)] for i in rows])
        cosine = F.cosine_similarity(hidden, targets[list(rows)].float()[:, None], dim=-1)
        return 1 - (cosine * after).sum(1).div(after.sum(1)).mean()

    def loss(step: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(ids), (batch,), generator=generator).tolist()
        return error([i for i in rows if i % 500])

    train(
        model,
        loss,
        folder,
        steps=steps,
        learning_rate=2e-3,
        seed=2,
        ema=0.995,
        evaluate=lambda step: {"held_out": float(error(held_out))},
    )
    return model.requires_grad_(False), tokenizer, float(cached["kept"])


def near_words(
    teacher: Path, emoji: Sequence[Emoji], words: Sequence[str], cache: Path, least: float = 0.35
) -> list[Emoji]:
    """Emoji with the ``words`` whose picture they are: those that the teacher puts next to them.

    Each word that is a single token goes to the two emoji whose names have the largest cosine with
    it, where that is at least ``least``; and each emoji gets the twelve words nearest to its name,
    of any length, where their cosine is at least 0.6. So most common words have a picture, and
    words of near meaning have near pictures.
    """
    if not cache.exists():
        tokenizer = build_tokenizer(teacher)
        pad = tokenizer.pad_token_id
        ids = tokenizer(list(words), truncation=True)["input_ids"]
        names = teach(teacher, tokenizer([e.name for e in emoji])["input_ids"], pad)
        cosine = names @ teach(teacher, ids, pad).T  # (emoji, words)
        near: list[list[str]] = []
        for row in cosine:
            best = row.topk(12)
            near.append([words[int(i)] for i in best.indices[best.values >= 0.6]])
        for k in (k for k, row in enumerate(ids) if len(row) == 3):
            best = cosine[:, k].topk(2)
            for i in best.indices[best.values >= least].tolist():
                near[i].append(words[k])
        cache.write_text(json.dumps([list(dict.fromkeys(n)) for n in near]), encoding="utf-8")
    found = json.loads(cache.read_text(encoding="utf-8"))
    return [replace(one, near=tuple(n)) for one, n in zip(emoji, found, strict=True)]


def caption_texts(emoji: Sequence[Emoji], count: int, seed: int = 3) -> list[str]:
    """``count`` captions of random pictures, and every name and keyword once."""
    rng = np.random.default_rng(seed)
    texts = [caption(p, emoji, rng) for p in compose(count, len(emoji), rng)]
    return texts + [word for e in emoji for word in (e.name, *e.keywords)]
