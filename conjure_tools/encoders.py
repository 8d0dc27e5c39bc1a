"""Models of transformers beside the pipelines: of texts and pictures, from a folder or the Hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from conjure_lib.engine import chunks
from conjure_lib.integrity import evaluating, quiet, steady
from conjure_tools.hub import from_hub

FILES = ("*.json", "*.txt", "*.model", "model.safetensors", "model-*-of-*.safetensors")


def encoder_folder(source: str | Path) -> Path:
    """The folder of a transformers model, fetched from the Hub if it is a repository.

    Raises:
        FileNotFoundError: there is neither.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder

    def fetch(commit: str | None, local: bool) -> str:
        from huggingface_hub import snapshot_download

        return snapshot_download(
            str(source),
            revision=commit,
            local_files_only=local,
            allow_patterns=list(FILES),
            ignore_patterns=["*/*"],
        )

    with quiet():
        return from_hub(str(source), None, fetch)


def hidden_states(
    model: Any, tokenizer: Any, texts: Sequence[str], room: int, batch_size: int
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """The last hidden states of texts, a batch of like lengths at a time, for little padding.

    Args:
        room: tokens beyond which a text is cut.

    Yields:
        Which texts they are; what is no padding, (n, tokens); the states, (n, tokens, width); on
        the CPU.
    """
    options = {"padding": True, "truncation": True, "max_length": room, "return_tensors": "pt"}
    by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    batches = list(chunks(by_length, batch_size))
    for rows in tqdm(batches, desc="embeddings", unit="batch", delay=2):
        tokens = tokenizer([texts[i] for i in rows], **options).to(model.device)
        told = {name: tokens[name] for name in ("input_ids", "attention_mask")}
        with evaluating(model):
            found = steady(model.__call__)(**told).last_hidden_state
        yield list(rows), tokens["attention_mask"].cpu(), found.cpu()
