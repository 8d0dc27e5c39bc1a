"""Other models beside ours, from a folder or the Hub: encoders of sentences, and of pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from conjure_lib.integrity import steady
from conjure_tools import weights
from conjure_tools.baselines import Pairs, cosines, unique
from conjure_tools.encoders import encoder_folder, hidden_states
from conjure_tools.loading import pick_device

Features = Callable[[np.ndarray], np.ndarray]  # pictures (n, height, width, 3) to (n, …)
WORD_PIECES = 256  # what all-MiniLM-L6-v2 reads of a text


def clip_features(name: str | Path = "openai/clip-vit-large-patch14") -> Features:
    """A function of pictures (n, height, width, 3) in [0, 1] to their features (n, d).

    CLIP's image embeddings (Radford et al. 2021) or, for "facebook/dinov2-base", the class tokens
    of DINOv2 (Oquab et al. 2023), behind the checkpoint's own preparation of pictures.
    """
    processor, model = _pretrained(name, "AutoImageProcessor")

    @steady
    def features(pictures: np.ndarray) -> np.ndarray:
        images = list((pictures * 255).round().astype(np.uint8))
        pixels = processor(images=images, return_tensors="pt")["pixel_values"].to(model.device)
        found = getattr(model, "get_image_features", model)(pixel_values=pixels)
        return getattr(found, "pooler_output", found).cpu().numpy()  # before version 5: a tensor

    return features


def sentence_cosine(folder_or_name: str | Path, pairs: Pairs) -> np.ndarray:
    """Cosine of the sentence embeddings of an encoder, from a folder or a Hub repository.

    They are last hidden states averaged over what is not padding (Reimers and Gurevych 2019), as
    "sentence-transformers/all-MiniLM-L6-v2" has them. Texts are cut at 256 word pieces, as it cuts
    them. By hand, since SentenceTransformer.encode, which gives
    the same, loads past the checks of `conjure_tools.weights`.
    """
    prompts, index = unique(pairs)
    tokenizer, model = _pretrained(folder_or_name, "AutoTokenizer", ("pooler",))
    room = min(WORD_PIECES, tokenizer.model_max_length, model.config.max_position_embeddings)
    vectors = torch.empty(len(prompts), model.config.hidden_size, dtype=torch.float64)
    for rows, mask, hidden in hidden_states(model, tokenizer, prompts, room, 64):
        vectors[rows] = torch.einsum("nt,ntw->nw", mask.double(), hidden.double())
    return cosines(vectors, index, prompts)


def _pretrained(source: str | Path, reader: str, unread: Sequence[str] = ()) -> tuple[Any, Any]:
    """A transformers model on the best device, and its tokenizer or image processor before it."""
    import transformers

    folder = encoder_folder(source)
    model = weights.pretrained(transformers.AutoModel, folder, unread=unread)
    read = weights.reader(getattr(transformers, reader), folder)
    return read, model.to(pick_device())
