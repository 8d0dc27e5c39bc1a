"""How many anchors make conjured embeddings agree with the exact distance, and with people."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from scipy.spatial.distance import pdist, squareform
from scipy.stats import spearmanr

import conjure_lib as cj
from conjure_tools import benchmarks

Row = dict[str, Any]
STEPS = (2, 5, 10)
DRAWS = (1, 2, 3, 5)
WIDTHS = (64, 256, 1024, 4096)
SEED = 1  # of the anchors: with the exact distance's own noise they would agree with it too well


def anchors(small: bool) -> list[Row]:
    """All pairs of words of RG-65: embeddings against ten-step distances, for each weighting."""
    process = cj.load()
    try:
        table = benchmarks.load_pairs("rg65")
    except FileNotFoundError as error:
        print(f"anchors are left out: {error}")
        return []
    both = itertools.chain(*zip(table["text1"], table["text2"], strict=True))
    words = list(dict.fromkeys(both))[: 8 if small else 48]
    draws = 2 if small else 3
    pairs = list(itertools.combinations(words, 2))
    terms = cj.pair_terms(process, pairs, draws=draws)
    judged = _judged(table, words)
    embedded = {steps: _by_draw(process, words, steps, max(DRAWS)) for steps in STEPS}
    rows: list[Row] = []
    for weighting in cj.WEIGHTINGS:
        values = terms.by_draw(weighting)
        mean = values.mean(axis=1)
        # to say how far the exact distance agrees with itself
        odd, even = values[:, ::2].mean(axis=1), values[:, 1::2].mean(axis=1)
        shared: Row = {"part": "anchors", "weighting": weighting, "model": process.name}
        shared |= {"prompts": len(words), "exact_draws": draws}
        name = "exact, some draws against the others"
        rows.append({**shared, "case": name, **_agreement(odd, even, judged)})
        for steps, count in itertools.product(STEPS, DRAWS):
            by_step = embedded[steps][:, :count].mean(axis=1)  # (pairs, steps)
            near = by_step @ _weights(process, steps, weighting)
            size: Row = {
                "case": "anchors",
                "steps": steps,
                "draws": count,
                "anchors": steps * count,
            }
            rows.append({**shared, **size, **_agreement(near, mean, judged)})
        for width in WIDTHS if weighting == "sde" else ():
            scorer = cj.Scorer(
                process,
                weighting=weighting,
                steps=5,
                draws=3,
                width=width,
                seed=SEED,
            )
            near = pdist(scorer.encode(words, show_progress_bar=False), "sqeuclidean")
            size = {"case": "hashed", "steps": 5, "draws": 3, "anchors": 15, "width": width}
            rows.append({**shared, **size, **_agreement(near, mean, judged)})
    return rows


def _by_draw(process: cj.GenerativeProcess, words: list[str], steps: int, draws: int) -> np.ndarray:
    """Squared distance of all pairs of words at each anchor alone, (pairs, draws, steps)."""
    # under this rule all anchors count alike, 1 / (draws · steps) each
    alike: Any = {"weighting": "noise", "quadrature": "sum"}
    scorer = cj.Scorer(process, steps=steps, draws=draws, seed=SEED, **alike)
    vectors = scorer.encode(words, show_progress_bar=False)
    parts = vectors.reshape(len(words), draws * steps, -1).swapaxes(0, 1)
    found = np.stack([pdist(part, "sqeuclidean") for part in parts], axis=1)
    return found.reshape(-1, draws, steps) * draws * steps  # without the weight of an anchor


def _weights(process: cj.GenerativeProcess, steps: int, weighting: Any) -> np.ndarray:
    """What each step of an embedding counts: the rule whose weights are the same for all texts."""
    times = process.sampler(sampler="ddim", steps=steps).timesteps
    none = cj.Terms(np.zeros((1, 1, steps, 2)), times, process.schedule)
    return none.weights(weighting, "linear")[0]


def _judged(table: Any, words: list[str]) -> list[tuple[int, int, float]]:
    """The pairs that people have judged, by the positions of their words."""
    known = table[table["text1"].isin(words) & table["text2"].isin(words)]
    columns = (known["text1"].map(words.index), known["text2"].map(words.index), known["score"])
    return list(zip(*columns, strict=True))


def _agreement(
    distances: np.ndarray, exact: np.ndarray, judged: list[tuple[int, int, float]]
) -> Row:
    """Spearman with the exact distance over all pairs, and of minus both with people."""
    i, j, scores = zip(*judged, strict=True)
    return {
        "pairs": len(distances),
        "spearman_exact": float(spearmanr(distances, exact).statistic),
        "spearman_people": float(spearmanr(-squareform(distances)[i, j], scores).statistic),
        "exact_spearman_people": float(spearmanr(-squareform(exact)[i, j], scores).statistic),
        "judged_pairs": len(judged),
    }
