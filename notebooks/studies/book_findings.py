"""What the book has found, across its chapters: findings with intervals, read off the records.

No model is run for them and no rating is needed, so the page of findings is made in seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from conjure_lib import Weighting
from studies import clusters, comparison, findings, probes, probes_page, records
from studies.ablations import DIFFERENCE
from studies.findings import KEYS, MEANS, RESAMPLES, WEIGHTING, Numbers, combined, mean_of
from studies.mcse.data import EVERY, REAL, SHUFFLED
from studies.mcse.page import Study
from studies.mcse.trainings import SIMCSE, Plan
from studies.pages import bracketed
from studies.records import Overlay, Record, matching, texts_of

PATHS: Weighting = "sde"  # what chapters 7, 8 and 10 show by default
NEIGHBOURS, TIES = 5, 10  # of NNGS: the k of chapter 12's map, and orders of what is tied

ENCODER = "Text encoder and pictures"
SPEECH = "Nouns and other words"
SETTINGS = "Settings of the algorithm"
PROCESS = "Process and weights"
OTHERS = "Other distances, other tests"
PARTS = (ENCODER, SPEECH, SETTINGS, PROCESS, OTHERS)
KINDS = {"sts": ("sentences", "05_sts"), "words": ("single words", "06_part_of_speech")}


# -- the records of the page ------------------------------------------------------------------


@dataclass(frozen=True)
class Kept:
    """Records by name, and what is wrong with them."""

    records: Mapping[str, Record]
    missing: tuple[str, ...]
    stale: tuple[str, ...]  # made with other weights than those of the model
    older: tuple[str, ...]  # made anew since 'findings' was computed from them
    again: Overlay | None  # 'findings' computed once more, where the ratings are at hand


def kept(weights: str) -> Kept:
    """All records that findings are read off, held against the weights of a model (their hash)."""
    there = {name: records.opened(name) for name in SOURCES}
    found = {n: replace(one, name=records.NOTES.get(n, n)) for n, one in there.items() if one}
    stale = tuple(one.name for one in found.values() if one.checked(weights).stale)
    older: tuple[str, ...] = ()
    again = None
    if mine := found.get("findings"):
        was, now = mine.notes["from"], findings.source_hashes()
        older = tuple(n for n in was | now if now.get(n) != was.get(n))
        again = computed_again(mine)
    return Kept(found, tuple(n for n in there if n not in found), stale, older, again)


def computed_again(record: Record) -> Overlay | None:
    """The values of 'findings' computed now, in ρ; None where the ratings are not at hand."""
    try:
        fresh, _ = findings.measured_table(0)
    except FileNotFoundError as error:
        print(f"The record “findings” is taken as it is: {error}")
        return None
    return record.overlay(fresh, KEYS, "value", per=lambda rows: 1.0)


# -- findings ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """A number of the book with its interval, and what it says above, below and about zero."""

    part: str
    name: str
    chapter: str
    value: float  # ρ × 100, or what the name says
    low: float
    high: float
    above: str
    below: str
    what: str  # cannot be told from zero

    @property
    def side(self) -> int:
        """1 where the whole interval lies above zero, -1 where it lies below, else 0."""
        return int(self.low > 0) - int(self.high < 0)

    @property
    def numbers(self) -> str:
        """The value and its interval."""
        small = max(abs(self.low), abs(self.high)) < 1  # else all would be read as zero
        return bracketed((self.value, self.low, self.high), "+.2f" if small else "+.1f")

    @property
    def sentence(self) -> str:
        """What the interval allows to say."""
        about = f"{self.what} is not distinguishable from zero"
        return f"{(about, self.above, self.below)[self.side]}: {self.numbers}."


Heads = tuple[str, str, str]
"""How sentences begin: above zero, below zero, and of what cannot be told from zero."""


def finding(
    part: str, name: str, chapter: str, numbers: Any, heads: Heads, times: float = 100
) -> list[Finding]:
    """A list with one finding, or with none where it was not measured."""
    value, low, high = (float(times * number) for number in numbers)
    if not np.isfinite([value, low, high]).all():
        return []
    return [Finding(part, name, chapter, value, low, high, *heads)]


def heads_of_gap(where: str, one: str, other: str) -> Heads:
    """Of a difference in agreement with people."""
    return (
        f"{where}, {one} agrees better with people than {other}",
        f"{where}, {one} agrees less well with people than {other}",
        f"{where}, the difference in agreement with people between {one} and {other}",
    )


def beyond(where: str, given: str) -> Heads:
    """Of a partial correlation."""
    return (
        f"{where}, the conjured distance knows something of people's ratings beyond {given}",
        f"{where}, what the conjured distance has beyond {given} runs against people's ratings",
        f"{where}, what the conjured distance knows of people's ratings beyond {given}",
    )


def together(where: str, how: str) -> Heads:
    """Of text encoder and conjured distance together."""
    both = f"text encoder and conjured distance together, {how},"
    return (
        f"{where}, {both} agree better with people than the better of the two alone",
        f"{where}, {both} agree less well with people than the better of the two alone",
        f"{where}, what {both} gain over the better of the two alone",
    )


# -- from the record 'findings' ---------------------------------------------------------------


class FindingsTable:
    """The record 'findings', by its keys."""

    def __init__(self, record: Record) -> None:
        self.rows = record.table.set_index(KEYS)[["value", "low", "high"]].sort_index()

    def at(self, table: str, benchmark: str, statistic: str, group: str = "") -> Numbers:
        """Value, low and high, (3,); NaN where it was left out."""
        key = (table, benchmark, group, statistic)
        return self.rows.loc[key].to_numpy(float) if key in self.rows.index else np.full(3, np.nan)

    def of_sets(self, table: str, statistic: str) -> Numbers:
        """The rows of the sets that a mean is taken over, (m, 3)."""
        return np.stack([self.at(table, name, statistic) for name in MEANS[table]])

    def mean(self, table: str, statistic: str) -> Numbers:
        """Their mean, (3,)."""
        return mean_of(self.of_sets(table, statistic))

    def share(self, table: str) -> Numbers:
        """`findings.share` over sets, each as heavy as what the distance explains of it, ρ²."""
        explained = self.of_sets(table, "conjured")[:, 0] ** 2
        return combined(self.of_sets(table, "share"), explained / explained.sum())


def of_people(record: Record) -> list[Finding]:
    """Text encoder and pictures, on sentences and on words; nouns and other words."""
    table, found = FindingsTable(record), []
    for name, (kind, chapter) in KINDS.items():
        where = f"On {kind}"
        alone = "the conjured distance", "the cosine of the model's own text encoder"
        said = {
            "less text encoder": ("conjured less text encoder", heads_of_gap(where, *alone)),
            "partial": ("conjured beyond the cosines", beyond(where, "both cosines")),
            "averaged, over the better": (
                "both averaged less the better",
                together(where, "their ranks averaged"),
            ),
            "learned, over the better": (
                "both weighted less the better",
                together(where, "with weights learned on other sets"),
            ),
        }
        for statistic, (title, heads) in said.items():
            numbers = table.mean(name, statistic)
            found += finding(ENCODER, f"{title}: {kind}", chapter, numbers, heads)
    twin = beyond("On RG-65", "both cosines and U-Nets that were never trained")
    numbers = table.at("spaces", "rg65", "partial, twin too")
    found += finding(ENCODER, "… beyond untrained U-Nets too: RG-65", "09_processes", numbers, twin)
    return found + of_speech(table)


def of_speech(table: FindingsTable) -> list[Finding]:
    """Nouns less verbs and less adjectives: of the distance, and of what it has beyond cosines."""
    found = []
    what = {"conjured": "agreement with people", "partial": "agreement beyond both cosines"}
    for statistic, measure in what.items():
        for pos, other in {"V": "verbs", "A": "adjectives"}.items():
            numbers = nouns_less(table, statistic, pos)
            where, mine = "In SimLex-999", f"the conjured distance has {{}} {measure} on nouns"
            heads = (
                f"{where}, {mine.format('more')} than on {other}",
                f"{where}, {mine.format('less')} than on {other}",
                f"{where}, the difference between nouns and {other} in {measure}",
            )
            name = f"nouns less {other}" + ", beyond the cosines" * (statistic == "partial")
            found += finding(SPEECH, name, "06_part_of_speech", numbers, heads)
    return found


def nouns_less(table: FindingsTable, statistic: str, pos: str) -> Numbers:
    """The difference between two parts of speech of SimLex-999, whose pairs are others."""
    pair = [table.at("words", "simlex999", statistic, group) for group in ("N", pos)]
    return combined(np.stack(pair), [1, -1])


# -- from the records of the other chapters ---------------------------------------------------


def differences(
    part: str,
    chapter: str,
    where: str,
    said: Mapping[str, tuple[str, str, str]],
    of: Callable[[str], Numbers],
) -> list[Finding]:
    """Differences in agreement with people; ``said`` are the name of each and its two sides."""
    return [
        one
        for key, (name, this, other) in said.items()
        for one in finding(part, name, chapter, of(key), heads_of_gap(where, this, other))
    ]


READERS = {
    "untrained": (
        "training of the U-Net: SimLex-999",
        "a U-Net trained on pictures",
        "one of random weights behind the same text encoder",
    ),
    "scratch": (
        "encoder of a language model: SimLex-999",
        "a model whose text encoder comes from a language model",
        "one whose text encoder learned from the captions alone",
    ),
}
"""Arms of the record 'encoders' that "distilled" is compared with."""


def of_readers(record: Record) -> list[Finding]:
    """What training adds to the U-Net, and a language model to the text encoder."""
    less = partial(distilled_less, record)
    return differences(ENCODER, "11_limits", "On SimLex-999", READERS, less)


def distilled_less(record: Record, model: str, benchmark: str = "simlex999") -> Numbers:
    """How much better the arm "distilled" agrees with people, (3,); NaN where unknown."""
    at = {"benchmark": benchmark, "model": model, "group": "", "method": WEIGHTING}
    numbers = matching(record.table, **at)[DIFFERENCE].to_numpy(float)
    return -numbers[0, [0, 2, 1]] if len(numbers) else np.full(3, np.nan)


CHOICES = {
    ("weighting", "noise", "noise"): ("sde", "with the weighting `noise`", "with `sde`"),
    ("steps", "20", PATHS): ("10", "of 20 steps", "of 10"),
    ("draws", "1", PATHS): ("10", "of one draw", "of ten"),
    ("sampler", "ddpm", PATHS): ("ddim", "with the sampler `ddpm`", "with `ddim`"),
    ("guidance", "7.5", PATHS): ("1", "with guidance 7.5", "without guidance"),
    ("pairing", "crossed", PATHS): ("same", "with the pairing `crossed`", "with `same`"),
}
"""Study, value and weighting of the record 'ablations'; what was there before; both in words."""


def of_choices(record: Record) -> list[Finding]:
    """What single choices change in the agreement with people, mean over the sets of chapter 7."""
    found, where = [], "On the pairs of the ablations"
    for (what, new, weighting), (old, this, that) in CHOICES.items():
        heads = heads_of_gap(where, f"the distance {this}", f"that {that}")
        numbers = mean_of(choice(record, what, new, weighting))
        found += finding(SETTINGS, f"{what} {new} less {old}", "07_ablations", numbers, heads)
    return found


def choice(record: Record, study: str, value: str, weighting: str) -> Numbers:
    """Differences from the base run, a row a set, (m, 3): of the most draws that were made."""
    rows = matching(record.table, study=study, value=value, weighting=weighting)
    last = rows.sort_values("draws", kind="stable").groupby("benchmark").last()
    return last[DIFFERENCE].to_numpy(float)


SPACES = {
    "states of noise": (
        "states of noise less own path: RG-65",
        "the model asked at states of noise, where no process has been,",
        "the model asked along its process",
    ),
    "untrained U-Net": (
        "untrained U-Net less trained: RG-65",
        "a U-Net that was never trained",
        "the trained one behind the same text encoder",
    ),
    "untrained text encoder": (
        "untrained text encoder less trained: RG-65",
        "the model with a text encoder that was never trained",
        "the model with its own",
    ),
    "random conditioning": (
        "told by lot less by encoder: RG-65",
        "the model that is told by lot what each word means",
        "the model that its text encoder tells",
    ),
}


def of_spaces(record: Record) -> list[Finding]:
    """How other processes and other weights agree with people; and whose neighbours are near."""
    less = partial(by_process, record)
    found = differences(PROCESS, "09_processes", "On RG-65", SPACES, less)
    return found + of_neighbours(record)


def by_process(record: Record, space: str) -> Numbers:
    """The difference from the model's own process, (3,); the mean over spaces of that name."""
    rows = pd.DataFrame(record.notes["agreement"])
    mine = rows["space"].str.startswith(space) & rows["weighting"].isin(["", WEIGHTING])
    return rows.loc[mine, DIFFERENCE].mean().to_numpy(float)


def of_neighbours(record: Record) -> list[Finding]:
    """Whether near neighbours by conjured distance are of one group, beyond chance."""
    space = comparison.matrices(record.table, record.notes["words"], WEIGHTING)[comparison.BASE]
    group = np.array([record.notes["groups"][word] for word in record.notes["words"]])
    theirs = (group[:, None] != group).astype(float)
    near = "near neighbours by conjured distance"
    heads = (
        f"Beyond chance, {near} are of one group of words (NNGS × 100)",
        f"Less than by chance, {near} are of one group of words (NNGS × 100)",
        f"How far {near} are of one group of words, beyond chance (NNGS × 100),",
    )
    numbers = comparison.beyond_chance(space, theirs, NEIGHBOURS, TIES)
    return finding(OTHERS, "neighbours of one group (NNGS × 100)", "12_nngs", numbers, heads)


def of_matrix(record: Record) -> list[Finding]:
    """How well clusters find groups of words, beside those of the text encoder."""
    groups = clusters.Words(record.notes["groups"])
    at = {frozenset(pair): i for i, pair in enumerate(texts_of(record.table))}
    order = record.table.iloc[[at[frozenset(pair)] for pair in groups.pairs]]
    mine, cosine = f"conjured, {PATHS}", order["text_encoder_last"].to_numpy(float)
    matrices = {clusters.TEXT: 1 - cosine, mine: order[PATHS].to_numpy(float)}
    made = clusters.clusterings(groups, matrices, halves=200, shuffles=1, seed=0)
    row = made.score([clusters.TEXT, mine]).loc[mine]
    value, wide = row["less text encoder"], row["± "]
    find = "clusters of conjured distances find groups of words {} clusters of the cosine do"
    heads = (
        f"By the adjusted Rand index × 100, {find.format('better than')}",
        f"By the adjusted Rand index × 100, {find.format('less well than')}",
        "The difference between clusters of conjured distances and of the cosine in finding groups "
        "of words (adjusted Rand index × 100)",
    )
    name = "clusters less text encoder's (Rand × 100)"
    numbers = [value, value - wide, value + wide]
    return finding(OTHERS, name, "08_distance_matrices", numbers, heads)


def of_distances(record: Record) -> list[Finding]:
    """Energy distance of heaps of pictures beside the distance of the paths, mean over the sets."""
    found, rows = [], record.table[record.table["method"] == "energy"]
    rows = rows[rows["images"] == rows["images"].max()]
    said = {
        "common": ("same noise", "from the same noise"),
        "independent": ("other noise", "each from noise of its own"),
    }
    for start, (name, how) in said.items():
        numbers = mean_of(rows.loc[rows["start"] == start, DIFFERENCE].to_numpy(float))
        heaps = f"the energy distance of two heaps of pictures, {how},"
        heads = heads_of_gap("On pairs of words", heaps, "the conjured distance")
        title = f"pictures of {name} less paths"
        found += finding(OTHERS, title, "10_other_distances", numbers, heads)
    return found


def scored_answers(record: Record) -> probes_page.Answers:
    """The scored probes."""
    return probes_page.Answers(probes.load_probes(), record.table, WEIGHTING)


def of_probes(record: Record) -> list[Finding]:
    """Right answers of the conjured distance and of its text encoder, on controls and on limits."""
    asked, found = scored_answers(record), []
    two = ("shipped", WEIGHTING), ("shipped", "text_encoder_last")
    for kind, among in {"controls": probes_page.CONTROLS, "limits": asked.limits}.items():
        numbers = probes_page.paired(asked, *two, among, RESAMPLES)
        where, mine = f"On the {kind} among the probes", "the conjured distance is right {} than"
        heads = (
            f"{where}, {mine.format('more often')} its text encoder's cosine (per cent)",
            f"{where}, {mine.format('less often')} its text encoder's cosine (per cent)",
            f"{where}, the difference in right answers (per cent) between the conjured distance "
            "and its text encoder's cosine",
        )
        name = f"probes less text encoder's: {kind} (%)"
        found += finding(OTHERS, name, "11_limits", numbers, heads, times=1)
    return found


def right(asked: probes_page.Answers, among: Sequence[str]) -> Numbers:
    """Share of right answers of the conjured distance, with Wilson's interval, (3,)."""
    rows = asked.results.loc[("shipped", WEIGHTING)].loc[list(among), ["right", "items"]].sum()
    return np.array([rows["right"] / rows["items"], *probes.wilson(rows["right"], rows["items"])])


GROUNDED = {
    (REAL, SIMCSE): ("real less none", "real pictures", "without pictures"),
    (REAL, SHUFFLED): ("real less shuffled", "real pictures", "with shuffled pictures"),
    (EVERY, SIMCSE): ("conjured less none", "conjured pictures", "without pictures"),
}


def of_grounding(record: Record) -> list[Finding]:
    """What pictures teach a sentence encoder, on STS-B: the wider ends over seeds and pairs."""
    study, found = Study(Plan(), record), []
    for (kind, against), (name, one, other) in GROUNDED.items():
        if (row := study.difference(kind, "stsb", against)) is not None:
            low, high = min(row["low"], row["pairs_low"]), max(row["high"], row["pairs_high"])
            one, other = f"a sentence encoder grounded in {one}", f"one trained {other}"
            heads, numbers = heads_of_gap("On STS-B", one, other), [row["value"], low, high]
            found += finding(OTHERS, f"grounding, {name}: STS-B", "13_mcse", numbers, heads)
    return found


SOURCES: dict[str, Callable[[Record], list[Finding]]] = {
    "findings": of_people,
    "encoders": of_readers,
    "ablations": of_choices,
    "spaces": of_spaces,
    "matrix": of_matrix,
    "distances_agreement": of_distances,
    "probes": of_probes,
    "grounding": of_grounding,
}
"""Records, and what reads findings off them."""


def everything(found: Mapping[str, Record]) -> dict[str, list[Finding]]:
    """Findings by part, in the order of the page."""
    each = [one for name, read in SOURCES.items() if name in found for one in read(found[name])]
    return {part: here for part in PARTS if (here := [f for f in each if f.part == part])}
