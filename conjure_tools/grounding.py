"""MCSE: sentence embeddings by contrast, grounded in images, real or conjured.

Zhang, Mosbach, Adelani, Hedderich and Klakow (NAACL 2022). h is the raw [CLS] of a text encoder
under dropout, h' that of a second pass over the same text, v the vector of an image:

    L_text = InfoNCE(head(h), head(h'))                          (SimCSE, Gao et al. 2021)
    L_mm   = ½ InfoNCE(p(h), q(v)) + ½ InfoNCE(p(h'), q(v))      (text to image)
    L      = L_text + λ L_mm                                     (L_text without images)

The heads are thrown away: what is kept is the encoder, and the embedding of a text is its h. The
image side may be any frozen vectors: features of photographs, latents of pictures, or what a
diffusion model conjures for the text (:meth:`conjure_lib.Scorer.encode`), which needs no pairs.

Training is transformers' Trainer, which needs accelerate, the extra ``mcse``.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset, SequentialSampler
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, CLIPTextModel

try:
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
except (ImportError, RuntimeError) as error:  # which says nothing of accelerate
    raise ImportError(
        "MCSE is trained by transformers' Trainer, which needs accelerate, the extra "
        "conjure-lib[mcse]: pip install accelerate"
    ) from error

from conjure_lib import EMBEDDED
from conjure_lib.integrity import raw
from conjure_lib.process import generator
from conjure_tools.encoders import encoder_folder, hidden_states
from conjure_tools.folders import claim
from conjure_tools.hardware import half_pays
from conjure_tools.loading import pick_device, shipped
from conjure_tools.weights import pretrained, reader

TEMPERATURE = 0.05
WIDTH = 256  # of the space in which texts meet images
LENGTH = 32  # tokens of a training text


# -- the objective ----------------------------------------------------------------------------


def info_nce(queries: Tensor, keys: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """-1/n Σ_i log(exp(cos(q_i, k_i)/τ) / Σ_j exp(cos(q_i, k_j)/τ)) of (n, d) and (n, d)."""
    cosine = F.cosine_similarity(queries[:, None].float(), keys[None].float(), dim=-1)  # (n, n)
    return F.cross_entropy(cosine / temperature, torch.arange(len(cosine), device=cosine.device))


def projection(inputs: int, outputs: int) -> nn.Module:
    """A head: linear, then tanh."""
    return nn.Sequential(nn.Linear(inputs, outputs), nn.Tanh())


class Mcse(nn.Module):
    """A text encoder and the heads that it is trained through.

    Args:
        encoder: a transformers model of texts, such as BERT; its dropout makes the two views.
        image_width: of the image vectors; None for SimCSE, which sees none.
        weight: λ. At 0 images are passed over: SimCSE on the batches of its grounded twin.
    """

    def __init__(
        self,
        encoder: Any,
        image_width: int | None = None,
        *,
        weight: float = 0.01,
        temperature: float = TEMPERATURE,
    ) -> None:
        super().__init__()
        width = int(encoder.config.hidden_size)
        self.encoder, self.weight, self.temperature = encoder, weight, temperature
        self.head = projection(width, width)
        if image_width is not None:  # last, so that the same seed gives the same encoder and head
            self.text_head = projection(width, WIDTH)
            self.image_head = projection(image_width, WIDTH)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, image: Tensor | None = None
    ) -> dict[str, Tensor]:
        """loss, its part text and, with images (n, image_width), its part image; scalars."""
        twice = {"attention_mask": torch.cat([attention_mask] * 2)}
        h = self.encoder(torch.cat([input_ids] * 2), **twice).last_hidden_state[:, 0]  # (2n, w)
        first, second = self.head(h).chunk(2)
        text_loss = info_nce(first, second, self.temperature)
        if image is None or not self.weight:
            return {"loss": text_loss, "text": text_loss}
        v = self.image_head(image)
        one, two = (info_nce(x, v, self.temperature) for x in self.text_head(h).chunk(2))
        image_loss = (one + two) / 2
        loss = text_loss + self.weight * image_loss
        return {"loss": loss, "text": text_loss, "image": image_loss}


# -- data -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Corpus:
    """Texts and, where there are any, the vectors of their images (n, d).

    Raises:
        ValueError: no texts, a blank one, or images that are not finite or not one for each.
    """

    texts: Sequence[str]
    images: Tensor | None = None

    def __post_init__(self) -> None:
        if not len(self.texts):
            raise ValueError("the corpus is empty: it holds no text")
        if blank := [i for i, text in enumerate(self.texts) if not text.strip()]:
            raise ValueError(f"text {blank[0]} of the corpus is blank")
        if self.images is not None and len(self.images) != len(self.texts):
            raise ValueError(f"{len(self.texts)} texts have {len(self.images)} images")
        if self.images is not None and not torch.isfinite(self.images).all():
            raise ValueError("a number in the vectors of the images is not finite")


class Batches(Dataset[dict[str, Tensor]]):
    """Every batch of a training, in order: step to batch, a function of the seed and the step.

    Within an epoch of as many steps as both corpora have batches, every step number that
    floor(#text batches / #paired batches) divides takes a paired batch, in place of one of text.
    Either corpus goes through one random order after another.

    Args:
        text: the corpus of texts, None for training on the pairs only.
        paired: the corpus with images, None for SimCSE on texts.

    Raises:
        ValueError: no corpus, or too few texts to be read at all.
    """

    def __init__(
        self,
        tokenizer: Any,
        text: Corpus | None,
        paired: Corpus | None,
        *,
        epochs: int = 3,
        batch_size: int = 64,
        length: int = LENGTH,
        seed: int = 0,
    ) -> None:
        if text is None and paired is None:
            raise ValueError("there is no corpus to train on")
        self.tokenizer, self.corpora = tokenizer, (text, paired)
        self.batch_size, self.length, self.seed = batch_size, length, seed
        counts = [math.ceil(len(c.texts) / batch_size) if c else 0 for c in self.corpora]
        self.counts, self.epoch, self.steps = counts, sum(counts), epochs * sum(counts)
        self.interval = counts[0] // counts[1] if all(counts) else 1
        if all(counts) and self.interval < 2:
            raise ValueError(
                f"{counts[0]} batches of text and {counts[1]} paired ones: with fewer than twice "
                "as many every step is paired and no text is read; give more texts, or None"
            )
        self._orders: dict[int, tuple[int, Tensor]] = {}

    def __len__(self) -> int:
        return self.steps

    def source(self, step: int) -> tuple[int, int]:
        """Which corpus a step reads (0 text, 1 paired), and how many batches of it came before."""
        if not all(self.counts):
            return int(not self.counts[0]), step
        epoch, i = divmod(step, self.epoch)
        paired = math.ceil(self.epoch / self.interval)  # in an epoch
        before = math.ceil(i / self.interval)  # paired ones in this epoch
        if i % self.interval == 0:
            return 1, epoch * paired + before
        return 0, epoch * (self.epoch - paired) + i - before

    def rows(self, step: int) -> tuple[Corpus, Tensor]:
        """The corpus of a step and the rows of it that the batch holds."""
        which, k = self.source(step)
        corpus = self.corpora[which]
        assert corpus is not None
        turn, at = divmod(k, self.counts[which])
        if self._orders.get(which, (-1,))[0] != turn:
            order = torch.randperm(len(corpus.texts), generator=generator(self.seed, which, turn))
            self._orders[which] = turn, order
        first = at * self.batch_size
        return corpus, self._orders[which][1][first : first + self.batch_size]

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        if not 0 <= step < self.steps:
            raise IndexError(step)
        corpus, rows = self.rows(step)
        texts = [corpus.texts[i] for i in rows.tolist()]
        options = {"padding": True, "truncation": True, "max_length": self.length}
        tokens = self.tokenizer(texts, return_tensors="pt", **options)
        batch = {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}
        return batch if corpus.images is None else batch | {"image": corpus.images[rows].float()}


# -- training ---------------------------------------------------------------------------------


class _Training(Trainer):  # type: ignore[misc]
    """transformers' loop over :class:`Batches`, with a measurement of our own."""

    measure: Callable[[], float] | None = None
    control: Any

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)  # its batches are in order already

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **options: Any) -> Tensor:
        if not inputs["input_ids"].numel():
            raise ValueError(f"the batch of step {self.state.global_step} is empty")
        loss: Tensor = model(**inputs)["loss"]
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss of step {self.state.global_step} is {loss.item()}: training stops; the "
                f"last checkpoint in {self.args.output_dir} is from before"
            )
        return loss

    def evaluate(self, *args: Any, **options: Any) -> dict[str, float]:
        assert self.measure is not None
        found = {"eval_measure": self.measure()}
        self.log(found)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        return found


class _MeasureLast(TrainerCallback):  # type: ignore[misc]
    """The last step is measured too, whatever divides it."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if args.eval_strategy != "no" and state.global_step >= state.max_steps:
            control.should_evaluate = True


def train(
    model: nn.Module,
    batches: Batches,
    folder: str | Path,
    *,
    learning_rate: float = 3e-5,
    measure: Callable[[], float] | None = None,
    every: int = 125,
    seed: int = 0,
    bf16: bool = False,
) -> dict[str, Any]:
    """Train ``model`` in place, or go on from the last whole checkpoint in ``folder``.

    AdamW without weight decay, learning rate falling linearly to 0, gradients clipped at 1: as the
    authors do. A run that was killed and started again ends as one that was not (on one device,
    with one version of torch). The global random state is set to ``seed``.

    Args:
        measure: what is to be large, such as the correlation on a development set; taken of the
            model as it stands. The model ends as it was where this was largest, at the end without.
        every: steps between checkpoints, and between measurements.
        bf16: let the network run in bfloat16, where this machine is faster in it than in float32;
            losses stay in float32.

    Returns:
        steps, measured (step to value), best_step (None without ``measure``), loss at the end.

    Raises:
        FloatingPointError: a loss is not finite.
        ValueError: a batch is empty; ``folder`` holds a training with other settings; or more
            than one GPU is in sight, over which a batch would be split.
    """
    folder = Path(folder)
    _claim(folder, model, batches, learning_rate=learning_rate, every=every, seed=seed, bf16=bf16)
    device = pick_device()
    timing = {"eval_strategy": "steps" if measure else "no", "eval_steps": every}
    args = TrainingArguments(
        output_dir=str(folder),
        max_steps=len(batches),
        per_device_train_batch_size=1,  # an item is a batch
        learning_rate=learning_rate,
        lr_scheduler_type="linear",
        weight_decay=0.0,
        max_grad_norm=1.0,
        seed=seed,
        bf16=bf16 and half_pays(device),
        use_cpu=device.type == "cpu",
        save_strategy="steps",
        save_steps=every,
        save_total_limit=1,  # and the best one
        load_best_model_at_end=measure is not None,
        metric_for_best_model="measure" if measure else None,
        greater_is_better=True if measure else None,
        logging_steps=every,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=not sys.stderr.isatty(),  # in a file or a notebook a bar is noise
        **timing,
    )
    if args.n_gpu > 1:
        raise ValueError("a batch would be split over several GPUs: set CUDA_VISIBLE_DEVICES=0")
    trainer = _Training(
        model,
        args,
        data_collator=lambda items: items[0],
        train_dataset=batches,
        eval_dataset=batches if measure else None,  # asked for, never read
        callbacks=[_MeasureLast()],
    )
    trainer.measure = measure
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=_last_checkpoint(folder))
    model.eval()
    history = trainer.state.log_history
    return {
        "steps": trainer.state.global_step,
        "measured": {h["step"]: h["eval_measure"] for h in history if "eval_measure" in h},
        "best_step": trainer.state.best_global_step if measure else None,
        "loss": next((h["loss"] for h in reversed(history) if "loss" in h), None),
    }


def _claim(folder: Path, model: nn.Module, batches: Batches, **settings: Any) -> None:
    """Note in ``folder`` what is trained there, or compare with the note that is there."""
    note = {
        **settings,
        "model": type(model).__name__,
        "weight": getattr(model, "weight", None),
        "temperature": getattr(model, "temperature", None),
        "encoder": _hash_of(getattr(model, "encoder", nn.Identity()).state_dict()),
        "steps": len(batches),
        "batch_size": batches.batch_size,
        "length": batches.length,
        "batches": batches.seed,
        "tokenizer": _hash_of(dict(enumerate(sorted(batches.tokenizer.get_vocab().items())))),
        "corpus": _hash_of(
            {i: c and [list(c.texts), c.images] for i, c in enumerate(batches.corpora)}
        ),
    }
    file = folder / "settings.json"
    if not file.exists() and any(folder.glob("checkpoint-*")):
        raise ValueError(f"{folder} holds checkpoints of something else: choose another folder")
    claim(file, note, "a training")


def _hash_of(parts: dict[Any, Any]) -> str:
    """SHA-256 of named texts, numbers and tensors."""
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Tensor):
            add([str(value.dtype), *value.shape])
            digest.update(raw(value))
        elif isinstance(value, list | tuple):
            digest.update(b"[%d" % len(value))
            for one in value:
                add(one)
        else:
            digest.update(json.dumps(value).encode() + b",")

    for name, value in sorted(parts.items()):
        add([name, value])
    return digest.hexdigest()


def _last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end, which is its trainer_state.json."""
    found = []
    for file in folder.glob("checkpoint-*/trainer_state.json"):
        try:
            found.append((json.loads(file.read_text())["global_step"], str(file.parent)))
        except ValueError:  # cut off
            continue
    return max(found)[1] if found else None


# -- encoders and their embeddings ------------------------------------------------------------


def load_encoder(name: str | Path = EMBEDDED, *, seed: int = 0) -> tuple[Any, Any]:
    """A text encoder to be trained, and its tokenizer.

    Args:
        name: "emoji-diffusion" for a small one, see :func:`small_encoder`; or a folder or a
            repository of the Hugging Face Hub, such as "bert-base-uncased" or "roberta-base".
        seed: of the weights of the small one.

    Raises:
        FileNotFoundError, ValueError: as :func:`conjure_tools.weights.pretrained`.
    """
    if str(name) != EMBEDDED:
        source = encoder_folder(name)
        found = pretrained(AutoModel, source, unread=("pooler",))
        return found, reader(AutoTokenizer, source)
    folder = shipped(EMBEDDED)
    tokenizer = reader(AutoTokenizer, folder / "tokenizer")
    clip = pretrained(CLIPTextModel, folder / "text_encoder")
    table = clip.get_input_embeddings().weight.detach().float()
    return small_encoder(table, seed=seed, pad=tokenizer.pad_token_id), tokenizer


def small_encoder(table: Tensor, *, seed: int = 0, layers: int = 2, pad: int = 0) -> BertModel:
    """A BERT of ``layers`` fresh layers over a token table (vocabulary, width) that stays as it is.

    The weights are those of ``seed``, whatever was drawn before.
    """
    config = BertConfig(
        vocab_size=len(table),
        hidden_size=table.shape[1],
        num_hidden_layers=layers,
        num_attention_heads=max(1, table.shape[1] // 32),
        intermediate_size=4 * table.shape[1],
        max_position_embeddings=LENGTH,
        initializer_range=1 / math.sqrt(table.shape[1]),
        pad_token_id=pad,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = BertModel(config, add_pooling_layer=False)
    words = model.get_input_embeddings().weight
    words.requires_grad_(False).copy_(table)
    return model


def embed(encoder: Any, tokenizer: Any, texts: Sequence[str], *, batch_size: int = 128) -> Tensor:
    """The raw [CLS] of each text, (n, width) float32; texts are cut where the encoder ends."""
    room = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
    result = torch.empty(len(texts), int(encoder.config.hidden_size))
    for rows, _, hidden in hidden_states(encoder, tokenizer, texts, room, batch_size):
        result[rows] = hidden[:, 0].float()
    return result


def alignment(first: Tensor, second: Tensor) -> float:
    """Mean squared distance between the unit vectors of like texts, (n, d) and (n, d)."""
    x, y = F.normalize(first.double(), dim=1), F.normalize(second.double(), dim=1)
    return float((x - y).square().sum(1).mean())


def uniformity(vectors: Tensor) -> float:
    """log of the mean of exp(-2 ‖x - y‖²) over all pairs of the unit vectors (n, d)."""
    x = F.normalize(vectors.double(), dim=1)
    return float(torch.pdist(x).square().mul(-2).exp().mean().log())
