"""Conjured similarity in the conventions of sentence-transformers and of mteb: larger is closer."""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from conjure_lib import Quadrature, Weighting
from conjure_lib.engine import chunks
from conjure_lib.inputs import as_numbers, as_pairs, as_prompts, as_text, whole
from conjure_lib.integrity import check_sound, sound
from conjure_lib.machine import check_memory
from conjure_lib.process import GenerativeProcess, as_process, generator
from conjure_lib.sampling import Sampling, Settings, check_settings
from conjure_lib.similarity import (
    call_bytes,
    check_reach,
    distances,
)
from conjure_lib.terms import Terms
from conjure_tools.fingerprints import fingerprint
from conjure_tools.unread import warn_alike

WIDEST = 2**20  # numbers of an embedding that any model may be given
PORTION = 1024  # texts whose conditions are held at a time
RUN = uuid.uuid4().hex
UNUSED: dict[str, tuple[Any, ...]] = {  # settings of sentence-transformers, as they change nothing
    "precision": (None, "float32"),
    "output_value": (None, "sentence_embedding"),
    "apply_softmax": (None, False),
} | dict.fromkeys(
    ("prompt", "prompt_name", "truncate_dim", "activation_fn", "device", "pool", "chunk_size"),
    (None,),
)
NO_MEANING = {
    "prompt_name": "is given, and there are no named prompts here",
    "truncate_dim": "would cut distances: hash them into fewer numbers, Scorer(…, width=…)",
    "device": "is given, and a process has its own: conjure_lib.load(…, device=…)",
}


class _Card:
    """Where an evaluator of sentence-transformers leaves what it has measured."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}

    def set_evaluation_metrics(
        self, evaluator: Any, metrics: Mapping[str, float], epoch: int = 0, step: int = 0
    ) -> None:
        self.metrics |= metrics


class ScorerSettings(Settings, total=False):
    """What a :class:`Scorer` takes by name."""

    weighting: Weighting
    quadrature: Quadrature
    width: int | None


class Scorer:
    """Similarity of texts by the images that they conjure.

    ``predict`` and ``rank`` follow CrossEncoder: minus the distance, exactly. ``encode``,
    ``similarity`` and ``similarity_pairwise`` follow SentenceTransformer: conjured embeddings, an
    approximation. ``settings`` are those of :func:`conjure_lib.pair_terms`. The evaluators of
    sentence-transformers take a scorer for either of the two. Where a function of theirs compares
    embeddings by their cosine, which says little of conjured ones, hand it :meth:`similarity`, as
    in ``util.paraphrase_mining(scorer, texts, score_function=scorer.similarity)``.

    Args:
        width: length of an embedding; anchors · latent dimensions where not given, which for Stable
            Diffusion is half a million numbers a text. With a width m these are hashed into m
            (Weinberger et al. 2009): a squared distance keeps its value on average, with a
            standard deviation of at most √(2/m) of it.

    >>> import conjure_lib as cj
    >>> process = cj.load()
    >>> scorer = cj.Scorer(process, steps=2, draws=1)
    >>> int(scorer.predict([("cat", "car"), ("cat", "cat")]).argmax())
    1
    >>> scorer.encode(["cat", "dog"]).shape[0]
    2
    """

    num_labels = 1  # what an evaluator of CrossEncoders asks for
    similarity_fn_name = "euclidean"  # and one of SentenceTransformers: in that order are ours

    def __init__(
        self,
        process: GenerativeProcess,
        *,
        weighting: Weighting = "sde",
        quadrature: Quadrature = "log-snr",
        width: int | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        if width is not None:
            whole("width", width)
        as_process(process)
        sampling = check_settings(weighting=weighting, quadrature=quadrature, **settings)
        check_reach(process, sampling)
        most = len(sampling.numbers) * sampling.steps * math.prod(process.latent_shape)
        if width is not None and width > max(most, WIDEST):
            raise ValueError(
                f"width={width} is more than the {most} numbers that are hashed into it"
            )
        if width is not None:
            check_memory(f"a row of width={width}", 4.0 * width)
        self.process, self.weighting, self.quadrature = process, weighting, quadrature
        self.settings = settings
        self.width = width
        self.model_card_data = _Card()  # asked for by the evaluators of sentence-transformers 6

    @property
    def device(self) -> torch.device:
        """Where the networks are, as sentence-transformers asks."""
        return self.process.device

    def eval(self) -> Scorer:
        """Itself, as sentence-transformers asks: its networks are in eval mode while they run."""
        return self

    @property
    def sampling(self) -> Sampling:
        """What the settings, which may have been changed since, draw."""
        ways: Any = {"weighting": self.weighting, "quadrature": self.quadrature}
        return self.process.settled(check_settings(**ways, **self.settings))

    def predict(
        self,
        inputs: Any,
        *,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        **unknown: Any,
    ) -> Any:
        """Minus the distance of each pair: (P,), or one number for one pair of strings.

        Pairs may come in any shape of :func:`conjure_lib.inputs.as_pairs`.

        Raises:
            TypeError: something that is not a pair of texts; no setting of CrossEncoder's.
            ValueError: a setting of CrossEncoder's that has no meaning here, such as a prompt name;
                no pairs; or as :func:`conjure_lib.pair_terms`.
        """
        _check_unused(unknown)
        single = (
            isinstance(inputs, list | tuple | np.ndarray)
            and len(inputs) == 2
            and all(isinstance(s, str) for s in inputs)
        )
        pairs = as_pairs([inputs] if single else inputs)
        settings: Settings = {**self.settings, "progress": show_progress_bar}
        if batch_size is not None:
            settings["batch_size"] = batch_size
        ways: Any = {"weighting": self.weighting, "quadrature": self.quadrature}
        found = distances(self.process, pairs, **ways, **settings)
        values = np.array([-e.value for e in found])
        if convert_to_tensor:
            return torch.from_numpy(values)[0] if single else torch.from_numpy(values)
        if single:
            return values[0]
        return values if convert_to_numpy else list(values)

    def rank(
        self,
        query: str,
        documents: Any,
        top_k: int | None = None,
        return_documents: bool = False,
        **options: Any,
    ) -> list[dict[str, Any]]:
        """The documents by their similarity to the query: corpus_id, score and, if wanted, text.

        Raises:
            TypeError, ValueError: the query is no text, the documents no list of texts, or top_k
                below 1.
        """
        query, documents = as_text("query", query), as_prompts(documents, "document")
        if top_k is not None:
            whole("top_k", top_k)
        scores = self.predict([(query, document) for document in documents], **options)
        order = np.argsort(-np.asarray(scores), kind="stable")[:top_k]
        text = [{"text": documents[i]} if return_documents else {} for i in order]
        return [
            {"corpus_id": int(i), "score": scores[i], **more}
            for i, more in zip(order, text, strict=True)
        ]

    def encode(
        self,
        inputs: Any,
        *,
        batch_size: int = 64,
        show_progress_bar: bool | None = None,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        normalize_embeddings: bool = False,
        **unknown: Any,
    ) -> Any:
        """Conjured embeddings (n, width): squared Euclidean distance stands in for the distance.

        x comes from one reference set, the trajectories of the empty prompt, in place of the
        pair's own mixture: φ(y) = [√w_i ε(x_i, t_i|y)]_i. N prompts need N evaluations an anchor
        and not N². An approximation; the book measures how close it comes. The rows are what a
        vector index with Euclidean distance takes: float32, contiguous, of one width.

        Raises:
            TypeError: something that is not a text, or not a list of texts; no setting of
                SentenceTransformer's.
            ValueError: no texts, a setting that embeddings cannot have, or a number that is not
                finite, with its text and timestep.
        """
        _check_unused(unknown)
        if normalize_embeddings:
            raise ValueError("the length of a conjured embedding is part of it: not to normalize")
        if refused := {"noise", "pairing"} & self.settings.keys():
            raise ValueError(f"embeddings have no {', '.join(sorted(refused))}")
        whole("batch_size", batch_size)
        prompts = as_prompts([inputs] if isinstance(inputs, str) else inputs)
        self._check_size(len(prompts), batch_size)
        warn_alike(self.process.readers, prompts)
        x, t, weights, keys = self._anchors(batch_size)
        roots = weights.sqrt().float()  # as are the vectors, whose squares are the distance
        if (roots.square()[weights > 0] < torch.finfo(torch.float32).tiny).any():
            raise ValueError(
                f"guidance={self.sampling.guidance:g} is too small for embeddings, "
                "which are float32: take a larger one"
            )
        hashes = [_hashing(*key, x[0].numel(), self.width) for key in keys] if self.width else []
        size = self.width or len(x) * x[0].numel()
        vectors = torch.zeros(len(prompts), size, dtype=torch.float32)
        options: dict[str, Any] = {"desc": "conjured embeddings", "unit": "eval", "delay": 2}
        options |= {"disable": True} if show_progress_bar is False else {}
        with tqdm(total=len(prompts) * len(x), **options) as bar:
            for first in range(0, len(prompts), PORTION):
                some = slice(first, first + PORTION)
                anchors = (x, t, roots, hashes)
                self._embed(prompts[some], vectors[some], *anchors, batch_size, bar)
        if isinstance(inputs, str):
            vectors = vectors[0]
        elif not convert_to_numpy and not convert_to_tensor:
            return list(vectors)
        return vectors.numpy() if convert_to_numpy and not convert_to_tensor else vectors

    encode_query = encode_document = encode  # texts are all of one kind

    def _check_size(self, texts: int, batch_size: int) -> None:
        """Raise MemoryError where the anchors or so many embeddings have no room."""
        draws, steps = len(self.sampling.numbers), self.sampling.steps
        anchors = draws * steps * math.prod(self.process.latent_shape)
        what = f"{texts} embeddings of {draws} draws in {steps} steps"
        what += f" of width={self.width}" if self.width else ""
        kept = texts * (self.width or anchors) + anchors
        kept += 3 * anchors if self.width else 0  # where each number goes, and its sign
        need = 4.0 * kept + call_bytes(self.process, min(batch_size, texts * draws * steps))
        check_memory(f"{what} (batch_size={batch_size})", need)

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
            if not (fine := sound(parts)).all():
                row = int(fine.logical_not().nonzero()[0])
                check_sound(fine[row, None, None], [float(t[a[row]])], [prompts[int(i[row])]])
            if hashes:
                place, sign = (torch.stack([hashes[k][n] for k in a.tolist()]) for n in (0, 1))
                short = torch.zeros(len(rows), vectors.shape[1], dtype=torch.float32)
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
        sampling, process = self.sampling, self.process
        draws, count = sampling.numbers, len(sampling.numbers)
        check_reach(process, sampling)
        empty, seed = process.encode([""]), sampling.seed
        unguided = replace(sampling, guidance=1)  # of the empty prompt it changes no trajectory
        states, times = [], torch.empty(0)
        for some in chunks(draws, batch_size):
            x_T = process.noise(some, seed)
            texts = [""] * len(some)
            condition = empty[[0] * len(some)]
            path = process.trajectories(condition, x_T, some, texts=texts, sampling=unguided)
            states.append(path.states.flatten(0, 1).cpu())
            times = path.timesteps.cpu()
        unknown = Terms(np.zeros((1, 1, len(times), 2)), times, process.schedule, sampling)
        rule: Quadrature = "linear" if self.quadrature == "log-snr" else self.quadrature
        each = torch.tensor(unknown.weights(self.weighting, rule)[0])  # the same for all terms
        each = sampling.guidance**2 * each / count
        keys = [(seed, int(draw), step) for draw in draws for step in range(len(times))]
        return torch.cat(states), times.repeat(count), each.repeat(count), keys

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Minus the squared distance of all embeddings of one set to all of another: (n, m)."""
        first, second = _embeddings(embeddings1, embeddings2)
        mode = "donot_use_mm_for_euclid_dist"  # whose zeros are zeros
        return _finite(-torch.cdist(first, second, compute_mode=mode).square())

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Minus the squared distance of corresponding embeddings: (n,)."""
        first, second = _embeddings(embeddings1, embeddings2)
        if len(first) != len(second):
            raise ValueError(f"{len(first)} embeddings do not correspond to {len(second)}")
        return _finite(-(first - second).square().sum(-1))


def _check_unused(given: Mapping[str, Any]) -> None:
    """Raise where a setting of sentence-transformers is more than its default, which is ours."""
    for name, value in given.items():
        if name not in UNUSED:
            raise TypeError(f"there is no setting {name}")
        if value not in UNUSED[name]:
            raise ValueError(f"{name}={value!r} {NO_MEANING.get(name, 'has no meaning here')}")


def _embeddings(*several: Any) -> list[Tensor]:
    """Sets of embeddings, or single ones, as float64 of one width, (n, width) each."""
    found = []
    for number, e in enumerate(several, 1):
        rows = np.require(
            as_numbers(f"embeddings{number}", e), None, ["C", "W"]
        )  # as torch takes it
        found.append(torch.atleast_2d(torch.from_numpy(rows)))
    first, second = (e.double() for e in found)
    if first.ndim != 2 or first.shape[1:] != second.shape[1:]:
        shapes = f"{tuple(first.shape)} and {tuple(second.shape)}"
        raise ValueError(f"embeddings must be rows of one width, not of shapes {shapes}")
    return [first, second]


def _finite(similarity: Tensor) -> Tensor:
    if not similarity.isfinite().all():
        raise ValueError("embeddings1 and embeddings2 are too large: a square is not finite")
    return similarity


def _hashing(seed: int, draw: int, step: int, size: int, width: int) -> tuple[Tensor, Tensor]:
    """Where each of ``size`` numbers of one anchor goes among ``width``, and its sign, (size,)."""
    chance = generator(seed, draw, step, width)  # a key of four, which no noise has
    place = torch.randint(width, (size,), generator=chance)
    return place, 2 * torch.randint(2, (size,), generator=chance).float() - 1


def _revision(scorer: Scorer) -> str:
    """Sixteen digits that change with all that changes the scorer's numbers."""
    settings, sampling = scorer.settings, scorer.sampling
    told: dict[str, Any] = sampling.told() | {"draws": list(sampling.numbers)}
    told |= {"pairing": settings.get("pairing", "same"), "quadrature": scorer.quadrature}
    if (given := settings.get("noise")) is not None:
        noise = as_numbers("noise", given).astype(np.float32)
        told["noise"] = hashlib.sha256(noise.tobytes()).hexdigest()
    if scorer.process.source is None:  # its functions are anybody's: scores of this run alone
        told["functions"] = [RUN, id(scorer.process.predict), id(scorer.process.encode)]
    told |= {"weighting": scorer.weighting, "process": fingerprint(scorer.process)}
    text = json.dumps(told, sort_keys=True, default=lambda v: np.asarray(v).tolist())
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class _Mteb:
    """What mteb asks of any model, and what it is told where a task is of another kind."""

    kinds: tuple[str, ...]

    def __init__(self, scorer: Scorer) -> None:
        import mteb  # noqa: F401  # where it is missing, that is said here

        self.scorer = scorer

    @property
    def mteb_model_meta(self) -> Any:
        """What mteb keeps scores under, of the scorer and its process as they are now."""
        from mteb.models import ModelMeta

        name = self.scorer.process.name
        name = name if "/" in name else f"conjure_lib/{name}"
        return ModelMeta.create_empty({"name": name, "revision": _revision(self.scorer)})

    def _check(self, task: Any) -> None:
        if task.type not in self.kinds or list(task.modalities) != ["text"]:
            raise ValueError(
                f"{task.name} is a task of the kind {task.type}: MtebScorer takes STS and "
                "MtebReranker takes reranking, of texts, and no others"
            )


class MtebScorer(_Mteb):
    """A `conjure_lib.Scorer` as mteb's STS tasks want a model: the exact distance, pair by pair.

    mteb encodes both columns and then compares rows, where our distance needs both texts at once.
    So the first column becomes (1, 0) throughout, and the second the points of a quarter of the
    unit circle whose cosine with it is 1 - d/d_max: every correlation of mteb's that is one of
    ranks, the main score among them, and Pearson's of the cosine, are those of minus the distance.

    >>> import conjure_lib as cj
    >>> process = cj.load()
    >>> from conjure_tools.scorer import MtebScorer
    >>> model = MtebScorer(cj.Scorer(process))  # for mteb.evaluate(model, mteb.get_task("STS12"))
    >>> model.mteb_model_meta.name
    'conjure_lib/emoji-diffusion'
    """

    kinds = ("STS",)

    def __init__(self, scorer: Scorer) -> None:
        super().__init__(scorer)
        self._first: dict[tuple[str, str, str], list[str]] = {}

    def encode(
        self,
        inputs: Iterable[Mapping[str, list[str]]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        **_: Any,
    ) -> np.ndarray:
        """Points of the plane (n, 2): of the first column, and then of the second.

        Raises:
            ValueError: a task that is no STS, or columns of different lengths.
        """
        self._check(task_metadata)
        texts = [text for batch in inputs for text in batch["text"]]
        place = (task_metadata.name, hf_split, hf_subset)
        first = self._first.pop(place, None)
        if first is None or first == texts:  # the same once more: what came between was stopped
            self._first[place] = texts
            return np.tile([1.0, 0.0], (len(texts), 1))
        if len(first) != len(texts):
            raise ValueError(f"{task_metadata.name} has {len(first)} and {len(texts)} texts")
        distances = -self.scorer.predict(list(zip(first, texts, strict=True)))
        cosine = 1 - distances / (distances.max() or 1)
        return np.stack([cosine, np.sqrt(1 - cosine**2)], axis=1)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """The cosine of every point with every other, (n, m)."""
        first, second = _embeddings(embeddings1, embeddings2)
        return first @ second.T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """The cosine of corresponding points, (n,)."""
        first, second = _embeddings(embeddings1, embeddings2)
        return (first * second).sum(-1)


class MtebReranker(_Mteb):
    """A `conjure_lib.Scorer` as mteb's reranking tasks want a cross-encoder.

    >>> import conjure_lib as cj
    >>> process = cj.load()
    >>> from conjure_tools.scorer import MtebReranker
    >>> model = MtebReranker(cj.Scorer(process))
    >>> model.mteb_model_meta.name
    'conjure_lib/emoji-diffusion'
    """

    kinds = ("Reranking", "Retrieval")  # one of these that comes with documents to rank

    def predict(
        self,
        inputs1: Iterable[Mapping[str, list[str]]],
        inputs2: Iterable[Mapping[str, list[str]]],
        *,
        task_metadata: Any,
        **_: Any,
    ) -> np.ndarray:
        """Minus the distance of each query and its document, (n,).

        Raises:
            ValueError: a task of another kind.
        """
        self._check(task_metadata)
        first, second = (
            [t for batch in side for t in batch["text"]] for side in (inputs1, inputs2)
        )
        return self.scorer.predict(list(zip(first, second, strict=True)))
