"""What the paper claims, and what the records of this book have to say to each claim.

The rule is one for all. A claim is put as numbers that should lie above zero; it *holds* where the
whole 95 % interval of each does, holds *in part* where that of some does, and is *not confirmed*
where none does. What no record can answer could not be tested here. Figures of the paper come from
data/published, ours from the records.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from conjure_tools.benchmarks import NAMES, STS
from studies import ablations_page, book_findings, probes_page, sentences
from studies.book_findings import FindingsTable
from studies.findings import WEIGHTING, Numbers, combined
from studies.pages import bracketed
from studies.records import Record, matching, published

UNTESTED = "could not be tested here"
METHOD = "Conjuring similarity (SD v1.4)"
COLUMNS = {"stsb": "STS-B", "sickr": "SICK-R", "avg7": "mean of seven"}
SPOKEN = {"V": "verbs", "A": "adjectives"}
ABSTRACT = ("abstract", "mathematics", "metaphor")  # what the paper says cannot be pictured


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, its figures, ours, and the numbers that decide."""

    text: str
    theirs: str
    ours: str
    chapter: str
    decided_by: tuple[tuple[float, float, float], ...] = ()  # value, low, high, above 0 if true

    @property
    def verdict(self) -> str:
        """By the rule of this module."""
        clear = [low > 0 for _, low, _ in self.decided_by]
        if not clear:
            return UNTESTED
        return "holds" if all(clear) else "in part" if any(clear) else "not confirmed"


def claim_of(text: str, theirs: str, ours: str, chapter: str, numbers: Sequence[Numbers]) -> Claim:
    """A claim, decided by some numbers (3,); by none where one of them is not known."""
    rows = [(float(v), float(low), float(high)) for v, low, high in numbers]
    known = np.isfinite(rows).all() if rows else False
    return Claim(text, theirs, ours, chapter, tuple(rows) if known else ())


# -- the paper's figures ----------------------------------------------------------------------


def printed(row: str, *benchmarks: str) -> str:
    """What the paper prints for a method, such as "STS-B 70.3, mean of seven 65.4"."""
    every = published()
    rows = every[(every["paper"] == "conjuring") & (every["row"] == row)].set_index("benchmark")
    named = benchmarks or tuple(COLUMNS)
    return ", ".join(f"{COLUMNS[b]} {rows.loc[b, 'spearman']:.1f}" for b in named)


def printed_beside(row: str, *benchmarks: str) -> str:
    """The method's figures, and those of another row."""
    return f"{printed(METHOD, *benchmarks)}; {row}: {printed(row, *benchmarks)}"


# -- by record --------------------------------------------------------------------------------


def of_findings(record: Record) -> list[Claim]:
    """What people's ratings decide."""
    table = FindingsTable(record)

    def each(statistic: str) -> list[Numbers]:
        """One row for each of the seven sets."""
        return [100 * table.at("sts", name, statistic) for name in STS]

    def mean(statistic: str) -> str:
        rows = each(statistic)
        clear = sum(row[1] > 0 for row in rows)
        whole = bracketed(100 * table.mean("sts", statistic), "+.1f")
        return f"{whole}, mean of six sets; above zero on {clear} of {len(rows)}"

    shown = {COLUMNS[n]: 100 * table.at("sts", n, "conjured") for n in ("stsb", "sickr")}
    agree = ", ".join(f"{n} {bracketed(v, '.1f')}" for n, v in shown.items())
    chapter = "05_sts"
    found = [
        claim_of(
            "The order of conjured distances agrees with people's on the seven sentence sets.",
            printed(METHOD), agree, chapter, each("conjured"),
        )
    ]  # fmt: skip
    readings = {
        "first timestep": ("Initial timestep prediction", "the first timestep alone"),
        "final outputs": ("Direct output comparison", "a comparison of the final outputs"),
    }
    for kind, (row, what) in readings.items():
        said = f"The whole of both paths agrees better with people than {what}."
        numbers = each(f"less {kind}")
        found.append(claim_of(said, printed_beside(row), mean(f"less {kind}"), chapter, numbers))
    found.append(
        claim_of(
            "It agrees better with people than the cosine of its own text encoder.",
            "3 of 7 sets, by a reviewer's count",
            mean("less text encoder"), chapter, each("less text encoder"),
        )
    )  # fmt: skip
    return [*found, on_speech(table)]


def on_speech(table: FindingsTable) -> Claim:
    """Nouns before other words."""
    less = {o: 100 * book_findings.nouns_less(table, "conjured", p) for p, o in SPOKEN.items()}
    ours = ", ".join(f"less {other} {bracketed(row, '+.1f')}" for other, row in less.items())
    text = "It agrees better with people on nouns than on verbs and adjectives."
    return claim_of(text, "no figure found", f"nouns {ours}", "06_part_of_speech", [*less.values()])


def on_simcse() -> list[Claim]:
    """A comparison that rests on a figure of another column, by the papers' own figures."""
    quoted = sentences.quoted_figures()
    lead = float(quoted["method"]["stsb"] - quoted["official"]["stsb"])
    official = f"SimCSE's own paper has {quoted['official']['stsb']:.2f}: a lead of {lead:+.2f}"
    text = "On STS-B it agrees better with people than SimCSE-BERT."
    theirs = printed_beside("SimCSE-BERT", "stsb")
    return [claim_of(text, theirs, official, "05_sts", [np.full(3, lead)])]


def on_encoders(record: Record) -> list[Claim]:
    """The text encoder as a bottleneck."""
    less = {
        NAMES[name]: 100 * book_findings.distilled_less(record, "scratch", name)
        for name in ("rg65", "simlex999")
    }
    ours = ", ".join(f"{name} {bracketed(row, '+.1f')}" for name, row in less.items())
    text = "The text encoder is a bottleneck: with a poorer one, agreement with people falls."
    ours = f"encoder from a language model less one from captions: {ours}"
    return [claim_of(text, "stated as a limit", ours, "11_limits", [*less.values()])]


def on_probes(record: Record) -> list[Claim]:
    """What cannot be pictured."""
    asked = book_findings.scored_answers(record)
    easy, hard = (book_findings.right(asked, among) for among in (probes_page.CONTROLS, ABSTRACT))
    gap = 100 * combined(np.stack([easy, hard]), [1, -1])
    shares = f"{100 * easy[0]:.0f} % of the controls, {100 * hard[0]:.0f} % of the abstract probes"
    text = "What cannot be pictured, abstractions above all, is beyond it."
    ours = f"right on {shares}: {bracketed(gap, '+.1f')} points"
    return [claim_of(text, "stated as a limit", ours, "11_limits", [gap])]


def on_spaces(record: Record) -> list[Claim]:
    """Meaning as a matter of the process."""
    what = {"random conditioning": "told by lot", "states of noise": "at states of noise"}
    less = {
        said: -100 * book_findings.by_process(record, space)[[0, 2, 1]]
        for space, said in what.items()
    }
    ours = ", ".join(f"{said} {bracketed(row, '+.1f')}" for said, row in less.items())
    text = (
        "Meaning belongs to the process and not to the weights: the same model with a random "
        "process means nothing."
    )
    ours = f"agreement that its process has more than the model {ours}"
    return [claim_of(text, "stated", ours, "09_processes", [*less.values()])]


def of_ablations(record: Record) -> list[Claim]:
    """Three draws above five."""
    rows = matching(record.table, study="draws", value="5", weighting=WEIGHTING)
    share = rows["falls"].to_numpy(float)
    names = rows["benchmark"].replace(NAMES | ablations_page.LABELS)
    said = "; ".join(f"{name}: {100 * x:.0f} %" for name, x in zip(names, share, strict=True))
    text = "Three draws agree better with people than five."
    ours = f"five are below three in this share of choices of the draws ({said})"
    # a difference that lies on one side in 97.5 % of choices has an interval on that side
    numbers = [np.array([x - 0.5, x - 0.975, x]) for x in share]
    return [claim_of(text, "read off a figure", ours, "07_ablations", numbers)]


def untested() -> list[Claim]:
    """What no record answers."""
    row, llama = "LLaMA-33B trajectories", "it needs a language model of that size"
    return [
        claim_of(
            "It reaches this level with Stable Diffusion v1.4.", printed(METHOD, "avg7"),
            "it needs that model: the profile `gpu` of the chapter", "05_sts", [],
        ),
        claim_of("It comes near the trajectories of a large language model.",
              printed_beside(row, "avg7"), llama, "05_sts", []),
        claim_of(
            "Where and when two texts differ can be seen in the pictures.", "figures",
            "no record: explanations are put to the test each time the chapter is made",
            "08_distance_matrices", [],
        ),
    ]  # fmt: skip


BY_RECORD: Mapping[str, Callable[[Record], list[Claim]]] = {
    "findings": of_findings,
    "spaces": on_spaces,
    "encoders": on_encoders,
    "probes": on_probes,
    "ablations": of_ablations,
}


def every(found: Mapping[str, Record]) -> list[Claim]:
    """All claims that the records at hand can speak to, and those that none can."""
    tested = [one for name, read in BY_RECORD.items() if name in found for one in read(found[name])]
    return tested + on_simcse() + untested()
