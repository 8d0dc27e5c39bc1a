"""The page of findings: its figure, its sentences and its tables, from the results of record.

Everything is computed when the book is built, in seconds, and no model is run for it. What is read
off the records, and how, stands in notebooks/studies: findings.py, book_findings.py and claims.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import conjure_lib as cj
from conjure_tools import plots
from conjure_tools.benchmarks import NAMES
from conjure_tools.correlation import left_over
from conjure_tools.fingerprints import weights_hash
from studies import book_findings, claims, findings, records
from studies.book_findings import Finding, FindingsTable, Kept
from studies.pages import bracketed, captioned, show_source

TOGETHER = findings.averaged, findings.learned, findings.over_the_better
SHOWN = (*TOGETHER, findings.share, left_over)  # functions whose code the page shows
COLOURS = {1: plots.PALETTE[0], -1: plots.PALETTE[1], 0: "0.45"}  # by side of zero
KINDS = book_findings.KINDS
GAINS = ("averaged, over the better", "learned, over the better")
EACH = {"sts": "six sentence sets", "words": "four sets of words"}


def put_beside(page: Path) -> None:
    """What book/findings.md includes, and its figure."""
    plots.use_style()
    found = book_findings.kept(weights_hash(cj.load(device="cpu")))
    by_part = book_findings.everything(found.records)
    table = FindingsTable(found.records["findings"]) if "findings" in found.records else None
    draw(page / "images" / "findings.svg", by_part, shares(table) if table else {})
    parts = {
        "answer": answer(table, by_part) if table else records.NOT_MADE,
        "state": state(found),
        "count": count(by_part),
        "list": listed(by_part),
        "sets": by_set(table) if table else "",
        "claims": claimed(claims.every(found.records)),
        "code": str(show_source(*SHOWN).data),
    }
    for name, text in parts.items():
        (page / f"findings_{name}.txt").write_text(text, encoding="utf-8")


# -- in words ---------------------------------------------------------------------------------


def shares(table: FindingsTable) -> dict[str, np.ndarray]:
    """By kind of text, how much of what the distance explains the cosines do too, in per cent."""
    return {kind: 100 * table.share(name) for name, (kind, _) in KINDS.items()}


def answer(table: FindingsTable, by_part: Mapping[str, Sequence[Finding]]) -> str:
    """The first three questions of the page."""
    of = {f.name: f.sentence for f in by_part.get(book_findings.ENCODER, ())}

    def said(*starts: str) -> str:
        return " ".join(
            text for start in starts for name, text in of.items() if name.startswith(start)
        )

    both = "\n".join(f"{level(table, name)} " for name in KINDS)
    return (
        f"**How much of the agreement is the text encoder's?** {both}{said('encoder of')}\n\n"
        f"**What do the pictures add?** {said('conjured beyond', '…', 'training of')}\n\n"
        f"**Is it worth having both?** {said('both averaged', 'both weighted')}\n"
    )


def level(table: FindingsTable, name: str) -> str:
    """How far distance and cosine agree with people, and what of the first is the second's too."""
    kind, _ = KINDS[name]
    ours, cosine = (100 * table.mean(name, s)[0] for s in ("conjured", "text encoder"))
    part = 100 * table.share(name)
    told = "Of the variance of people's ranks that the distance explains, "
    told += f"{bracketed(part, '.0f')} % is explained by that encoder's cosines as well."
    if not part[1] > 0:  # a share of next to nothing
        told = "How much of what the distance explains that encoder's cosines explain as well, "
        told += "these sets cannot tell, for the distance explains too little of some of them."
    return (
        f"On {kind} the conjured distance agrees with people at ρ × 100 = {ours:.1f} (mean of "
        f"{EACH[name]}), the cosine of the model's own text encoder, without any picture, at "
        f"{cosine:.1f}. {told}"
    )


def listed(by_part: Mapping[str, Sequence[Finding]]) -> str:
    """Every finding in a sentence, with its chapter."""
    lines = []
    for part, found in by_part.items():
        lines += [f"**{part}**", ""]
        lines += [f"- {f.sentence} ({{doc}}`../notebooks/{f.chapter}`)" for f in found] + [""]
    return "\n".join(lines)


def count(by_part: Mapping[str, Sequence[Finding]]) -> str:
    """How many intervals leave out zero."""
    sides = [f.side for found in by_part.values() for f in found]
    return (
        f"Of {len(sides)} intervals, {sum(map(abs, sides))} leave out zero; about "
        f"{0.05 * len(sides):.0f} would by chance, were there nothing to find.\n"
    )


def state(found: Kept) -> str:
    """Whether the records are up to date."""
    again = found.again
    wrong = {
        "were made with other weights than those of the model in this book": found.stale,
        "were made anew after the record `findings` was computed from them": found.older,
        "differ from what was computed when this page was made": ("findings",)
        if again and again.stale
        else (),
        "have not been made": found.missing,
    }
    told = [
        f"These records {what}: {', '.join(f'`{name}`' for name in names)}."
        for what, names in wrong.items()
        if names
    ]
    if told:
        end = "What is drawn from them here is stale, or left out. `make records` makes them anew."
        told = ["```{warning}", *told, end, "```", ""]
    now = (
        "People's ratings were not at hand when this page was made: what needs them is as recorded."
    )
    if again:
        now = (
            "When this page was made, every number that needs people's ratings was computed once "
            f"more; the largest difference from the record, in ρ, was {again.worst:.1g}."
        )
    return "\n".join([*told, now]) + "\n"


# -- tables -----------------------------------------------------------------------------------


def by_set(table: FindingsTable) -> str:
    """Set by set: the two, both together, and what they gain."""
    head = [
        "set", "conjured", "text encoder", "both averaged", "gain", "both weighted, gain",
        "partial ρ",
    ]  # fmt: skip
    rows = []
    sets = table.rows[table.rows.index.get_level_values("statistic") == "averaged"].index
    for name, benchmark in [(r[0], r[1]) for r in sets]:
        alone = [
            f"{100 * table.at(name, benchmark, s)[0]:.1f}"
            for s in ("conjured", "text encoder", "averaged")
        ]
        gains = [bracketed(100 * table.at(name, benchmark, s), "+.1f") for s in (*GAINS, "partial")]
        rows.append([NAMES[benchmark], *alone, *gains])
    return captioned("Agreement with people by set, ρ × 100 [95 %].", head, rows)


def claimed(found: Sequence[claims.Claim]) -> str:
    """The paper's claims, its figures, ours, and the verdicts."""
    heads = ["the paper claims", "its own figures", "in this book", "verdict"]
    rows = [
        (c.text, c.theirs, f"{c.ours} ({{doc}}`../notebooks/{c.chapter}`)", c.verdict)
        for c in found
    ]
    return captioned("The paper's claims, and what this book finds.", heads, rows, words=4)


# -- the figure -------------------------------------------------------------------------------


def draw(
    file: Path, by_part: Mapping[str, Sequence[Finding]], explained: Mapping[str, np.ndarray]
) -> None:
    """All findings with their intervals, by part; above them the share of the text encoder."""
    rows = sum(len(found) + 1 for found in by_part.values())
    tall = [len(explained) + 1.2, rows + 1.2]
    figure = Figure(figsize=(7.4, max(0.235 * sum(tall) + 0.5, 3)))  # room for empty axes, too
    top, bottom = figure.subplots(2, height_ratios=tall)
    draw_shares(top, explained)
    draw_findings(bottom, by_part)
    with mpl.rc_context({"svg.hashsalt": "findings"}):  # the same file from the same numbers
        figure.savefig(file, metadata={"Date": None})


def draw_shares(axis: Axes, explained: Mapping[str, np.ndarray]) -> None:
    """Per cent of what the distance explains that the cosines explain too."""
    for y, (value, low, high) in enumerate(explained.values()):
        said = bracketed((value, low, high), ".0f")
        interval(axis, y, value, low, high, plots.PALETTE[2], said)
    title = "Explained by the text encoder too, % of what conjured distances explain"
    labelled(axis, dict(enumerate(explained)), title, {})
    low, high = axis.get_xlim()
    axis.set_xlim(max(-50, min(0, low)), max(100, high))  # what reaches farther is cut, and written


def draw_findings(axis: Axes, by_part: Mapping[str, Sequence[Finding]]) -> None:
    """A row a finding, below the name of its part."""
    y, labels, heads = 0, {}, {}
    for part, found in by_part.items():
        heads[y] = part
        for f in found:
            y += 1
            labels[y] = f.name
            colour, full = COLOURS[f.side], f.side != 0
            interval(axis, y, f.value, f.low, f.high, colour, f.numbers, full)
        y += 1
    axis.axvline(0, color="0.3", linewidth=1, zorder=1)
    labelled(
        axis, labels, "difference or partial correlation: points of ρ × 100, or as named", heads
    )


def interval(
    axis: Axes,
    y: float,
    value: float,
    low: float,
    high: float,
    colour: str,
    said: str,
    full: bool = True,
) -> None:
    """A point with its interval, and the numbers at the right margin."""
    axis.plot([low, high], [y, y], color=colour, linewidth=2, solid_capstyle="butt")
    face = colour if full else "white"
    axis.plot(value, y, "o", ms=6, color=colour, markerfacecolor=face, zorder=3)
    axis.text(1.02, y, said, transform=axis.get_yaxis_transform(), va="center", fontsize=9.5)


def labelled(axis: Axes, labels: Mapping[int, str], title: str, heads: Mapping[int, str]) -> None:
    """Names of the rows at the left margin, those of parts in bold above theirs."""
    every = {**labels, **dict.fromkeys(heads, "")}
    axis.set_yticks(list(labels), list(labels.values()), fontsize=9.5)
    for y, head in heads.items():
        axis.text(-0.02, y, head, transform=axis.get_yaxis_transform(), ha="right", va="center",
                  fontsize=9.5, weight="bold")  # fmt: skip
    axis.set_ylim(max(every, default=0) + 0.7, min(every, default=0) - 0.7)
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    axis.grid(axis="x", color="0.92")
    axis.set_axisbelow(True)
    axis.set_xlabel(title, fontsize=9.5, loc="right")
