"""The Scorer as suites of evaluation want a model: mteb's STS tasks."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from conjure_lib.inputs import as_numbers
from conjure_lib.scorer import Scorer

RUN = uuid.uuid4().hex


def _revision(scorer: Scorer) -> str:
    """Sixteen digits that change with all that changes the scorer's numbers."""
    settings, sampling = scorer.settings, scorer.sampling
    told: dict[str, Any] = sampling.told() | {"draws": list(sampling.numbers)}
    told |= {"pairing": settings.get("pairing", "same"), "quadrature": scorer.quadrature}
    if (given := settings.get("noise")) is not None:
        noise = as_numbers("noise", given).astype(np.float32)
        told["noise"] = hashlib.sha256(noise.tobytes()).hexdigest()
    if scorer.process.twin is None:  # functions that nothing is known of: scores of this run alone
        told["functions"] = [RUN, id(scorer.process.predict), id(scorer.process.encode)]
    told |= {"weighting": scorer.weighting, "process": scorer.process.fingerprint()}
    text = json.dumps(told, sort_keys=True, default=lambda v: np.asarray(v).tolist())
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class MtebScorer:
    """A `conjure_lib.Scorer` as mteb's STS tasks want a model: the exact distance, pair by pair.

    mteb encodes both columns and then compares rows, where our distance needs both texts at once:
    ``encode`` therefore hands out row numbers, and ``similarity_pairwise`` looks the texts up. Read
    "spearman" of the result; its "cosine_spearman" compares row numbers and means nothing.
    """

    def __init__(self, scorer: Scorer) -> None:
        import mteb  # noqa: F401  # where it is missing, that is said here

        self.scorer = scorer
        self.texts: list[str] = []

    @property
    def mteb_model_meta(self) -> Any:
        """What mteb keeps scores under: of the scorer and its process as they are now."""
        from mteb.models import ModelMeta

        name = self.scorer.process.name
        name = name if "/" in name else f"conjure_lib/{name}"
        return ModelMeta.create_empty({"name": name, "revision": _revision(self.scorer)})

    def encode(self, inputs: Iterable[Mapping[str, list[str]]], **_: Any) -> np.ndarray:
        """Row numbers from 1 on and their squares, (n, 2); the texts are kept.

        The squares only keep the comparisons that mteb makes by itself from being constant.
        """
        first = len(self.texts) + 1
        for batch in inputs:
            self.texts += batch["text"]
        rows = np.arange(first, len(self.texts) + 1, dtype=np.float64)
        return np.stack([rows, rows**2], axis=1)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Similarity of every row with every other, (n, m)."""
        first, second = self._look_up(embeddings1), self._look_up(embeddings2)
        found = self.scorer.predict([(a, b) for a in first for b in second], convert_to_tensor=True)
        return found.reshape(len(first), len(second))

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Similarity of corresponding rows, (n,)."""
        first, second = self._look_up(embeddings1), self._look_up(embeddings2)
        return self.scorer.predict(list(zip(first, second, strict=True)), convert_to_tensor=True)

    def _look_up(self, rows: Any) -> list[str]:
        return [self.texts[int(i) - 1] for i in np.atleast_2d(rows)[:, 0]]
