"""Conjured similarity in the conventions of sentence-transformers and of mteb: larger is closer."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from conjure_lib.process import GenerativeProcess, check_prompts, generator
from conjure_lib.sde import Weighting, term_weights
from conjure_lib.similarity import check_counts, check_weighting, chunks, distances, pair_terms

PORTION = 1024  # texts whose conditions are held at a time


class _Card:
    """Where an evaluator of sentence-transformers leaves what it has measured."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}

    def set_evaluation_metrics(
        self, evaluator: Any, metrics: Mapping[str, float], epoch: int = 0, step: int = 0
    ) -> None:
        self.metrics |= metrics


class Scorer:
    """Similarity of texts by the images that they conjure.

    ``predict`` and ``rank`` follow CrossEncoder: minus the distance, exactly. ``encode``,
    ``similarity`` and ``similarity_pairwise`` follow SentenceTransformer: conjured embeddings, an
    approximation. ``settings`` are those of :func:`conjure_lib.pair_terms`.

    Args:
        width: length of an embedding; anchors · latent dimensions where not given, which for Stable
            Diffusion is half a million numbers a text. With a width m these are hashed into m
            (Weinberger et al. 2009): a squared distance keeps its value on average, with a
            standard deviation of at most √(2/m) of it.
    """

    def __init__(
        self,
        process: GenerativeProcess,
        *,
        weighting: Weighting = "sde",
        width: int | None = None,
        **settings: Any,
    ) -> None:
        check_weighting(weighting)
        if width is not None and width < 1:
            raise ValueError(f"an embedding has at least 1 number, not {width}")
        if unknown := settings.keys() - inspect.signature(pair_terms).parameters.keys():
            raise TypeError(f"there is no setting {', '.join(sorted(unknown))}")
        self.process, self.weighting, self.settings = process, weighting, settings
        self.width = width
        self.model_card_data = _Card()  # asked for by the evaluators of sentence-transformers 6

    def predict(
        self,
        sentences: Sequence[Any],
        *,
        prompt_name: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
    ) -> Any:
        """Minus the distance of each pair: (P,), or one number for one pair of strings.

        Raises:
            TypeError: something that is not a pair of texts.
            ValueError: a prompt name was given, which these models have none of.
        """
        if prompt_name is not None:
            raise ValueError(f"there are no named prompts here, and so no {prompt_name!r}")
        single = len(sentences) == 2 and all(isinstance(s, str) for s in sentences)
        pairs = [_pair(p) for p in ([sentences] if single else sentences)]
        settings = self.settings | {"progress": show_progress_bar}
        if batch_size is not None:
            settings["batch_size"] = batch_size
        found = distances(self.process, pairs, weighting=self.weighting, **settings)
        values = np.array([-e.value for e in found])
        if convert_to_tensor:
            return torch.from_numpy(values)[0] if single else torch.from_numpy(values)
        if single:
            return values[0]
        return values if convert_to_numpy else list(values)

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        **options: Any,
    ) -> list[dict[str, Any]]:
        """The documents by their similarity to the query: corpus_id, score and, if wanted, text."""
        scores = self.predict([(query, document) for document in documents], **options)
        order = np.argsort(-np.asarray(scores), kind="stable")[:top_k]
        text = [{"text": documents[i]} if return_documents else {} for i in order]
        return [
            {"corpus_id": int(i), "score": scores[i], **more}
            for i, more in zip(order, text, strict=True)
        ]

    def encode(
        self,
        sentences: str | Sequence[str],
        *,
        batch_size: int = 64,
        show_progress_bar: bool | None = None,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        normalize_embeddings: bool = False,
    ) -> Any:
        """Conjured embeddings (n, width): squared Euclidean distance stands in for the distance.

        x comes from one reference set, the trajectories of the empty prompt, in place of the
        pair's own mixture: φ(y) = [√w_i ε(x_i, t_i|y)]_i. N prompts need N evaluations an anchor
        and not N². An approximation; the book measures how close it comes. The rows are what a
        vector index with Euclidean distance takes: float32, contiguous, of one width.

        Raises:
            ValueError: no texts, or a setting that embeddings cannot have.
        """
        if normalize_embeddings:
            raise ValueError("the length of a conjured embedding is part of it: not to normalize")
        if refused := {"noise", "pairing"} & self.settings.keys():
            raise ValueError(f"embeddings have no {', '.join(sorted(refused))}")
        prompts = check_prompts([sentences] if isinstance(sentences, str) else sentences)
        if not prompts:
            raise ValueError("no texts were given")
        x, t, weights, keys = self._anchors(batch_size)
        hashes = [_hashing(*key, x[0].numel(), self.width) for key in keys] if self.width else []
        vectors = torch.zeros(len(prompts), self.width or len(x) * x[0].numel())
        options: dict[str, Any] = {"desc": "conjured embeddings", "unit": "eval", "delay": 2}
        options |= {"disable": True} if show_progress_bar is False else {}
        with tqdm(total=len(prompts) * len(x), **options) as bar:
            for first in range(0, len(prompts), PORTION):
                some = slice(first, first + PORTION)
                anchors = (x, t, weights.sqrt().float(), hashes)
                self._embed(prompts[some], vectors[some], *anchors, batch_size, bar)
        vectors = vectors[0] if isinstance(sentences, str) else vectors
        return vectors.numpy() if convert_to_numpy and not convert_to_tensor else vectors

    def _embed(
        self,
        prompts: Sequence[str],
        vectors: Tensor,
        x: Tensor,
        t: Tensor,
        roots: Tensor,
        hashes: Sequence[tuple[Tensor, Tensor]],
        batch_size: int,
        bar: Any,
    ) -> None:
        """Fill ``vectors`` (n, width), zeros so far, with the embeddings of some prompts."""
        condition = self.process.encode(prompts)
        for rows in chunks(list(np.ndindex(len(prompts), len(x))), batch_size):
            i, a = (torch.tensor(side) for side in zip(*rows, strict=True))
            at = x[a].to(self.process.device), t[a].to(self.process.device)
            parts = roots[a, None] * self.process.eps(*at, condition[i]).flatten(1).cpu()
            if hashes:
                place, sign = (torch.stack([hashes[k][n] for k in a.tolist()]) for n in (0, 1))
                short = torch.zeros(len(rows), vectors.shape[1])
                vectors.index_add_(0, i, short.scatter_add_(1, place, sign * parts))
            else:
                vectors.view(len(prompts), len(x), -1)[i, a] = parts
            bar.update(len(rows))

    def _anchors(
        self, batch_size: int
    ) -> tuple[Tensor, Tensor, Tensor, list[tuple[int, int, int]]]:
        """x (A, *latent_shape) and t (A,) of the anchors, on the CPU, weight (A,) and key of each.

        A = draws · steps; a key is (seed, draw, step).
        """
        options: dict[str, Any] = {"steps": 10, "guidance": 1.0, "sampler": "ddim", "seed": 0}
        options |= {k: v for k, v in self.settings.items() if k in options}
        given = self.settings.get("draws", 5)
        draws = list(range(given)) if isinstance(given, int | np.integer) else list(given)
        process, count = self.process, len(draws)
        check_counts(options["steps"], count, batch_size)
        empty, seed = process.encode([""]), int(options["seed"])
        scale = float(options.pop("guidance")) ** 2  # of the empty prompt it changes no trajectory
        states, times = [], torch.empty(0)
        for some in chunks(draws, batch_size):
            x_T = process.noise(some, seed)
            path = process.trajectories(empty[[0] * len(some)], x_T, some, **options)
            states.append(path.states.flatten(0, 1).cpu())
            times = path.timesteps.cpu()
        each = term_weights(process.schedule, times, self.weighting)
        keys = [(seed, int(draw), step) for draw in draws for step in range(len(times))]
        return torch.cat(states), times.repeat(count), (scale * each / count).repeat(count), keys

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Minus the squared distance of all embeddings of one set to all of another: (n, m)."""
        first, second = (torch.atleast_2d(torch.as_tensor(e)) for e in (embeddings1, embeddings2))
        mode = "donot_use_mm_for_euclid_dist"  # whose zeros are zeros
        return -torch.cdist(first.double(), second.double(), compute_mode=mode).square()

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Minus the squared distance of corresponding embeddings: (n,)."""
        first, second = (torch.atleast_2d(torch.as_tensor(e)) for e in (embeddings1, embeddings2))
        return -(first - second).square().sum(-1)


def _hashing(seed: int, draw: int, step: int, size: int, width: int) -> tuple[Tensor, Tensor]:
    """Where each of ``size`` numbers of one anchor goes among ``width``, and its sign, (size,)."""
    chance = generator(seed, draw, step, width)  # a key of four, which no noise has
    place = torch.randint(width, (size,), generator=chance)
    return place, 2.0 * torch.randint(2, (size,), generator=chance) - 1


def _pair(pair: Any) -> tuple[str, str]:
    if isinstance(pair, str) or len(pair) != 2:
        raise TypeError(f"expected pairs of texts, not {pair!r}")
    return pair[0], pair[1]


class MtebScorer:
    """A :class:`Scorer` as mteb's STS tasks want a model: the exact distance, pair by pair.

    mteb encodes both columns and then compares rows, where our distance needs both texts at once:
    ``encode`` therefore hands out row numbers, and ``similarity_pairwise`` looks the texts up. Read
    "spearman" of the result; its "cosine_spearman" compares row numbers and means nothing.
    """

    def __init__(self, scorer: Scorer) -> None:
        from mteb.models import ModelMeta

        self.scorer = scorer
        self.texts: list[str] = []
        name = scorer.process.name
        name = name if "/" in name else f"conjure_lib/{name}"
        self.mteb_model_meta = ModelMeta.create_empty(
            {"name": name, "revision": scorer.process.weights_hash()[:16]}
        )

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
