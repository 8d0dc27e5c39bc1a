"""One model, many spaces of meaning: the record 'spaces'.

All pairs of the same words, under one set of weights: other samplers, steps and guidance, other
conditioning, states from elsewhere, and controls. Chapter 09 explains them. Runs are kept,
resumable. About 650,000 noise predictions: three quarters of an hour on a free
core.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from torch import Tensor

import conjure_lib as cj
from conjure_lib.process import generator
from conjure_tools import baselines, benchmarks, runs
from conjure_tools.fingerprints import weights_hash
from studies import other_models
from studies.comparison import BASE, agreement_by_space
from studies.records import Made, work

GROUPS = {
    "people": "boy brother lad magician monk oracle sage serf slave wizard",
    "animals": "bird cock crane rooster",
    "landscape": "coast forest hill mound shore woodland",
    "buildings": "asylum cemetery graveyard madhouse",
    "house and tools": "cord cushion furnace glass implement pillow stove string tool tumbler",
    "jewellery": "gem jewel ring",
    "travel": "automobile car journey ship train voyage",
    "food": "bread cheese food fruit",
    "faces": "frown grin smile",
    "time": "midday midnight noon",
    "writing": "autograph letter signature",
}
"""The 48 words of RG-65 and eight more, in groups like those of Unicode's emoji list. Fixed before
the first run."""
GROUP = {word: group for group, members in GROUPS.items() for word in members.split()}
WORDS = list(GROUP)
STEPS, DRAWS = 5, 2
READ = 10  # draws behind the spaces whose states are shared by all words, which cost little
REFERENCE = "ddim, other noise"  # shares no noise with any other space
UNTRAINED = {"untrained U-Net": "unet", "untrained text encoder": "text_encoder"}
"""Controls, and whose weights are drawn anew in them."""
TWINS = 4  # of each, seeds 0 to 3: for U-Nets those of the model card
IGNORING = "guidance 0: the trajectory ignores the prompt, every distance is exactly zero"


@dataclass(frozen=True)
class Space:
    """How the distances of one space are made: a process and settings of ``runs.score``."""

    kind: str
    process: cj.GenerativeProcess
    settings: dict[str, Any] = field(default_factory=dict)


def record() -> Made:
    """The table 'spaces', and with its notes how each space agrees with people."""
    table, notes = make(cj.EMBEDDED, work("spaces"))
    pairs = benchmarks.load_pairs("rg65")
    notes["agreement"] = agreement_by_space(table, pairs).to_dict("records")
    return {"spaces": table}, notes


def make(
    model: str | Path,
    folder: Path,
    words: Sequence[str] = WORDS,
    *,
    draws: int = DRAWS,
    only: Sequence[str] | None = None,
    batch_size: int = 64,
    report: Callable[[str], None] = print,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Every space over ``words``, one row a pair, and where it is from.

    Args:
        only: names of the spaces that are wanted; all by default.
        batch_size, report: as in ``runs.score``.

    Returns:
        Columns space, kind, weighting ("" where there is none to choose), text1, text2, distance,
        stderr (over draws, NaN where there are none); and notes for the provenance.

    Raises:
        ValueError: a word is not one of WORDS, among which conditioning is exchanged.
    """
    if unknown := set(words) - set(WORDS):
        raise ValueError(f"not among the words of the spaces: {', '.join(sorted(unknown))}")
    spaces, pairs = processes(model), all_pairs(words)
    parts, records = [], {}
    for name, space in chain(spaces.items(), untrained_spaces(model, only)):
        if only is None or name in only:
            settings = {"steps": STEPS, "block": len(pairs)} | space.settings
            settings |= {"batch_size": batch_size, "report": report}
            where = folder / name.replace(" ", "-").replace(",", "")
            run = runs.score(space.process, pairs, where, draws=draws, **settings)
            parts.append(in_rows(name, space.kind, run))
            records[name] = run.record
            if name == BASE:
                parts.append(relabelled(parts[-1], words))
    process = spaces[BASE].process
    before = process.evaluations
    if only is None:
        parts += [in_rows(n, "states", run) for n, run in elsewhere(process, words).items()]
        parts += controls(process, pairs, draws)
    spent = process.evaluations - before
    notes = {
        "words": list(words),
        "groups": {word: GROUP[word] for word in words},
        "reference": REFERENCE,
        "relabelling": dict(zip(words, derangement(words), strict=True)),
        "left_out": [IGNORING],
        "unet_evaluations": spent + sum(r["unet_evaluations"] for r in records.values()),
        "shared_states": {"draws": READ, **process.settled(steps=STEPS).told()},
        "provenance": runs.provenance(process) | {"weights": weights_hash(process)},
        "runs": records,
    }
    table = pd.concat(parts, ignore_index=True)
    return table.astype({"distance": "float32", "stderr": "float32"}), notes


def all_pairs(words: Sequence[str]) -> pd.DataFrame:
    """Each unordered pair once: id, text1, text2."""
    table = pd.DataFrame(combinations(words, 2), columns=["text1", "text2"])
    return table.assign(id=table["text1"] + "/" + table["text2"])


def in_rows(name: str, kind: str, run: runs.Run) -> pd.DataFrame:
    """The distances of a run under every weighting, in the columns of the record."""
    parts = []
    for weighting in cj.WEIGHTINGS:
        found = run.distances(weighting)[["text1", "text2", "distance", "stderr"]]
        parts.append(found.assign(space=name, kind=kind, weighting=weighting))
    return pd.concat(parts)[["space", "kind", "weighting", *parts[0].columns[:4]]]


# -- the processes ----------------------------------------------------------------------------


def processes(model: str | Path) -> dict[str, Space]:
    """The spaces of the trained weights in which every word has a process of its own, by name.

    ``euler`` and ``euler-ancestral`` are not among them: at the timesteps of ``ddim`` and ``ddpm``
    they are the same processes, which chapter 09 shows on a few words.
    """
    process = cj.load(model)
    own = process.encode(WORDS)  # (n, tokens, width)

    def told(name: str, rows: Tensor) -> Space:
        return Space("conditioning", conditioned(process, name, WORDS, rows))

    return {
        BASE: Space("process", process),
        REFERENCE: Space("process", process, {"seed": 1}),
        "ddpm": Space("process", process, {"sampler": "ddpm"}),
        "dpm++2m": Space("process", process, {"sampler": "dpm++2m"}),
        "2 steps": Space("process", process, {"steps": 2}),
        "10 steps": Space("process", process, {"steps": 10}),
        "guidance 3": Space("process", process, {"guidance": 3.0}),
        "guidance 7.5": Space("process", process, {"guidance": 7.5}),
        "guidance -1": Space("process", process, {"guidance": -1.0}),
        "reflected conditioning": told("reflected conditioning", 2 * own.mean(0) - own),
        "random conditioning": told("random conditioning", random_rows(own, 0)),
        "random conditioning, again": told("random conditioning, again", random_rows(own, 1)),
        "crossed pairing": Space("reading", process, {"pairing": "crossed"}),
    }


def untrained_spaces(
    model: str | Path, only: Sequence[str] | None = None
) -> Iterator[tuple[str, Space]]:
    """The controls of which one network has its weights by lot, each loaded when it is asked for.

    Chance has its say in one such network; a range of several says what such networks have.
    """
    for control, part in UNTRAINED.items():
        for seed in range(TWINS):
            name = f"{control}, seed {seed}" if seed else control
            if only is None or name in only:
                yield name, Space("control", untrained(model, part, seed))


def conditioned(
    process: cj.GenerativeProcess, name: str, words: Sequence[str], rows: Tensor
) -> cj.GenerativeProcess:
    """The same model told ``rows`` (n, …) for the n words, and of other texts what it always was.

    Its name keeps its runs apart from those of the model itself.
    """
    place = {word: i for i, word in enumerate(words)}

    def encode(texts: Sequence[str]) -> Tensor:
        return torch.cat([rows[[place[t]]] if t in place else process.encode([t]) for t in texts])

    return replace(process, encode=encode, name=f"{process.name}, {name}", evaluations=0)


def random_rows(own: Tensor, seed: int) -> Tensor:
    """One conditioning for each word by lot: Gaussian, with the mean and covariance of ``own``.

    Rows (n, …) are independent of each other and of the words: any word might as well have had
    any other's.
    """
    n = len(own)
    mixing = torch.randn(n, n, generator=generator(seed, n)).to(own) / (n - 1) ** 0.5
    return own.mean(0) + torch.einsum("ij,j...->i...", mixing, own - own.mean(0))


def untrained(model: str | Path, part: str, seed: int = 0) -> cj.GenerativeProcess:
    """The process of a model, the weights of one network ("unet", "text_encoder") drawn anew."""
    process = cj.load(model)
    network: Any = process.modules[part]
    start = getattr(type(network), "from_config", type(network))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network.load_state_dict(start(network.config).state_dict())
    process.name += f", untrained {part}"
    return process


# -- the model without the processes ----------------------------------------------------------


def elsewhere(
    process: cj.GenerativeProcess, words: Sequence[str], *, draws: int = READ, steps: int = STEPS
) -> dict[str, runs.Run]:
    """Every word's predictions at states that do not depend on the pair, which all words share.

    The states are those of the empty prompt; of a random one of the words in each draw; and
    N(0, I) at every timestep, where no sampler has been.
    """
    numbers, x_T = list(range(draws)), process.noise(range(draws), 0)
    some = np.random.default_rng(0).integers(len(words), size=draws)
    leaders = {"states of the empty prompt": [""] * draws}
    leaders["states of a random word"] = [words[i] for i in some]
    found = {}
    for name, prompts in leaders.items():
        path = process.trajectories(process.encode(prompts), x_T, numbers, steps=steps)
        found[name] = read_at(process, words, path.states, path.timesteps)
    noise = [torch.randn(path.states.shape[1:], generator=generator(0, d)) for d in numbers]
    states = torch.stack(noise).to(path.states)
    return found | {"states of noise": read_at(process, words, states, path.timesteps)}


@torch.no_grad()
def read_at(
    process: cj.GenerativeProcess, words: Sequence[str], states: Tensor, timesteps: Tensor
) -> runs.Run:
    """‖Δε‖² of all pairs of the words at states (draws, S, …), as a run: n predictions a state."""
    condition, pairs = process.encode(words), all_pairs(words)
    terms = np.zeros((len(pairs), *states.shape[:2], 2), np.float32)
    for d, s in np.ndindex(states.shape[:2]):
        x = states[d, s].expand(len(words), *process.latent_shape)
        eps = process.eps(x, timesteps[s].to(x.device).expand(len(words)), condition)
        square = torch.pdist(eps.flatten(1).cpu().double()).square()  # (P,)
        terms[:, d, s] = square[:, None]
    found = cj.Terms(terms, timesteps.cpu(), process.schedule)
    return runs.Run(pairs, found, {"settings": {"quadrature": "log-snr"}})


def derangement(words: Sequence[str]) -> list[str]:
    """The words in an order that leaves none in its place: a cycle through all, by lot."""
    order = np.random.default_rng(0).permutation(len(words))
    return [words[i] for i in np.roll(order, 1)[np.argsort(order)]]


def relabelled(rows: pd.DataFrame, words: Sequence[str]) -> pd.DataFrame:
    """The rows of a space with every word conditioned as another: the same distances, moved."""
    called = dict(zip(derangement(words), words, strict=True))  # whose conditioning, who has it
    moved = rows.assign(text1=rows["text1"].map(called), text2=rows["text2"].map(called))
    place = {word: i for i, word in enumerate(words)}
    swap = moved["text1"].map(place) > moved["text2"].map(place)
    moved.loc[swap, ["text1", "text2"]] = moved.loc[swap, ["text2", "text1"]].to_numpy()
    return moved.assign(space="relabelled", kind="conditioning")


def controls(process: cj.GenerativeProcess, pairs: pd.DataFrame, draws: int) -> list[pd.DataFrame]:
    """Other readings of the model, other models, and no model: one value a pair, no weighting."""
    texts = list(zip(pairs["text1"], pairs["text2"], strict=True))
    text = baselines.text_encoder_cosine
    found = {
        ("initial timestep", "reading"): baselines.initial_timestep(process, texts, draws=draws),
        ("output", "reading"): baselines.direct_output(process, texts, draws=draws, steps=STEPS),
        ("text encoder, last", "control"): text(process, texts) - 1,
        ("text encoder, mean", "control"): text(process, texts, pooling="mean") - 1,
        ("random matrix", "control"): -np.random.default_rng(0).random(len(texts)),
    }
    if name := os.environ.get("CONJURE_MINILM"):
        found["all-MiniLM", "control"] = other_models.sentence_cosine(name, texts) - 1
    else:
        print("CONJURE_MINILM names no folder of all-MiniLM-L6-v2: that space is left out")
    columns = {"weighting": "", "text1": pairs["text1"], "text2": pairs["text2"]}
    return [
        pd.DataFrame({"space": name, "kind": kind, **columns, "distance": -value, "stderr": np.nan})
        for (name, kind), value in found.items()
    ]


def draw_rules(
    made: Mapping[str, Space], words: Sequence[str], sampling: cj.Sampling
) -> list[cj.GenerativeProcess]:
    """What six rules paint under the same words, from one x_T; the two processes made for it."""
    process, led_by = made[BASE].process, dict(zip(WORDS, derangement(WORDS), strict=True))
    with torch.no_grad():
        swapped = process.encode(list(led_by.values()))
    relabelled_ = conditioned(process, "relabelled", WORDS, swapped)
    lottery = made["random conditioning"].process
    rules = {
        "follows the word\n(ddim)": (process, "ddim", sampling.guidance),
        "follows the word\n(ddpm)": (process, "ddpm", sampling.guidance),
        "flees the word": (process, "ddim", -sampling.guidance),
        "told another word": (relabelled_, "ddim", sampling.guidance),
        "told by lot": (lottery, "ddim", sampling.guidance),
        "ignores the word": (process, "ddim", 0.0),
    }
    _, axes = plt.subplots(len(rules), len(words), figsize=(len(words) + 1.5, 7.6))
    for row, (label, (rule, sampler, w)) in zip(axes, rules.items(), strict=True):
        painted = rule.generate(words, sampling=sampling, guidance=w, sampler=sampler)
        for axis, picture, word in zip(row, painted, words, strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            sns.despine(ax=axis, left=True, bottom=True)
            if rule is relabelled_:
                axis.set_xlabel(f"“{led_by[word]}”", fontsize=9.5, labelpad=2)
        row[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9.5)
    for axis, word in zip(axes[0], words, strict=True):
        axis.set_title(f"“{word}”", fontsize=9.5)
    plt.show()
    return [relabelled_, lottery]


def some(
    model: str, words: Sequence[str], *, batch_size: int, only: Sequence[str] | None = None
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """`make` over a few words, whose runs are not kept."""
    how: dict[str, Any] = {"batch_size": batch_size, "only": only, "report": lambda _: None}
    with tempfile.TemporaryDirectory() as folder:
        return make(model, Path(folder), words, **how)
