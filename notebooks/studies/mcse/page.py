"""What chapter 13 shows of the study of grounding: figures, and facts for its sentences."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from pandas.io.formats.style import Styler

import conjure_lib as cj
from conjure_lib import EMBEDDED
from conjure_tools import benchmarks
from conjure_tools.fingerprints import weights_hash
from conjure_tools.grounding import embed, load_encoder
from conjure_tools.plots import PALETTE
from studies.mcse.data import EVERY, REAL, SHUFFLED
from studies.mcse.live import Imitation
from studies.mcse.study import make, of_photographs
from studies.mcse.trainings import (
    DEV,
    SIMCSE,
    UNTRAINED,
    Plan,
    full,
    spearman_rho,
    tested,
)
from studies.pages import bracketed
from studies.records import ROOT, Overlay, Record, laid_over, matching, opened, published, work

NAMES = {
    "stsb": "STS-B, test",
    "sickr": "SICK-R, test",
    "simlex999": "SimLex-999",
    "wordsim353": "WordSim-353",
    "rg65": "RG-65",
    "simverb3500": "SimVerb-3500",
    **{name: name.upper() for name in benchmarks.STS if name.startswith("sts1")},
}
TEACHER = {
    "another draw": "Algorithm 1, another draw",
    "conjured embeddings": "conjured embeddings",
    "student": "student",
    "before": "encoder before distillation",
    SIMCSE: "SimCSE encoder",
    "text encoder of the model": "the model's text encoder",
}
"""What is held against Algorithm 1 on pairs that the student never saw."""


@dataclass(frozen=True)
class Photographs:
    """Files of the setting of the paper, below the folder that CONJURE_DATA names."""

    texts: str
    captions: str
    folder: str
    names: str

    def study(self, encoder: str, seeds: int) -> Study:
        """The study of photographs, resumable; empty if its captions are not there."""
        given = Path(os.environ.get("CONJURE_DATA", ROOT))
        if not (given / self.captions).is_file():
            print(f"There is no file {self.captions} in CONJURE_DATA: its study is left out.")
            plan = full(encoder, seeds, texts=bool(self.texts))
            return Study(plan, Record("grounding", pd.DataFrame(), {}), of_record=False)
        names, texts = (given / f if f else None for f in (self.names, self.texts))
        where = texts, given / self.captions, given / self.folder, names
        plan, photos, table, _ = of_photographs(encoder, seeds, *where)
        sizes = [len(photos.texts), len(photos.captions), 0]
        notes = {"texts": sizes, "plan": {"seeds": seeds}}
        return Study(plan, Record("grounding", table, notes), of_record=False)


def study(
    process: cj.GenerativeProcess, seeds: int, recompute: bool, photographs: Photographs, to: str
) -> Study:
    """The study of photographs where there are some, or the record, or that made anew.

    Args:
        to: the encoder that is trained on photographs.
    """
    if photographs.captions:
        return photographs.study(to, seeds)
    plan = Plan(seeds=seeds)
    if recompute:
        table, notes = make(plan, process, work("mcse.study") / plan.key(weights_hash(process)))
        return Study(plan, Record("grounding", table, notes))
    found = opened("grounding")
    if found and process.name == EMBEDDED:
        found.checked(weights_hash(process))
    return Study(plan, found or Record("grounding", pd.DataFrame(), {}))


@dataclass(frozen=True)
class Study:
    """The table of the study (see `studies.mcse.study.table_of`), read for the page.

    Wherever a condition has several λ, it is shown at the one chosen on the development set.
    """

    plan: Plan
    record: Record
    of_record: bool = True  # as opposed to photographs of the reader's

    @property
    def there(self) -> bool:
        """Whether there is anything to show."""
        return len(self.record.table) > 0

    def rows(self, study: str, **where: Any) -> pd.DataFrame:
        """Rows of one part of the table; none where there is no table."""
        table = self.record.table
        return matching(table, study=study, **where) if self.there else table

    @cached_property
    def shown(self) -> list[str]:
        """Test sets, in the order of the page."""
        there = set(self.record.table["benchmark"]) if self.there else set()
        return [name for name in NAMES if name in there]

    @cached_property
    def chosen(self) -> dict[str, float]:
        """λ of each condition."""
        if not self.there:
            return {}
        runs = self.rows("run", benchmark=DEV).dropna(subset="weight")
        mean = runs.groupby(["kind", "weight"])["value"].mean()
        return {kind: mean[kind].idxmax() for kind in mean.index.unique("kind")}

    @cached_property
    def gaps(self) -> pd.DataFrame:
        """Differences from SimCSE."""
        return self.rows("difference", against=SIMCSE)

    @cached_property
    def kinds(self) -> list[str]:
        """Conditions, in the order of the table."""
        return list(dict.fromkeys(self.gaps["kind"])) if self.there else []

    def rho(self, kind: str, benchmark: str) -> float:
        """Mean ρ × 100 over the seeds."""
        if not self.there:
            return np.nan
        at = {"kind": kind, "weight": self.chosen[kind], "benchmark": benchmark}
        return float(100 * self.rows("mean", **at)["value"].iloc[0])

    def difference(self, kind: str, benchmark: str, against: str) -> pd.Series | None:
        """The row of one difference; None where it was not measured."""
        at = {"kind": kind, "weight": self.chosen.get(kind), "benchmark": benchmark}
        rows = self.rows("difference", against=against, **at)
        return rows.iloc[0] if len(rows) else None

    def gap(self, kind: str, benchmark: str, against: str = SIMCSE) -> str:
        """A difference in points with both of its intervals."""
        r = self.difference(kind, benchmark, against)
        if r is None:
            return "(not measured)"
        columns = ("value", "low", "high", "pairs_low", "pairs_high")
        value, *ends = (f"{100 * r[column]:+.2f}" for column in columns)
        return "{} (seeds [{}, {}], pairs [{}, {}])".format(value, *ends)

    def verdict(self, kind: str, benchmark: str, against: str = SIMCSE) -> str:
        """What a condition does to ρ, in words that both intervals allow, and the numbers."""
        r = self.difference(kind, benchmark, against)
        if r is None:
            return f"is not measured here against {against}"
        up, down = min(r["low"], r["pairs_low"]) > 0, max(r["high"], r["pairs_high"]) < 0
        said = "raises ρ" if up else "lowers ρ" if down else "does not clearly change ρ"
        than = "shuffled pictures" if against == SHUFFLED else against
        return f"{said} against {than}: {self.gap(kind, benchmark, against)}"

    def facts(self) -> dict[str, Any]:
        """Sizes, and what the conditions do on STS-B."""
        headline = "(The large study has not been made yet.)"
        if self.there:
            headline = (
                f"On the test set of STS-B, in points of Spearman's ρ × 100, grounding in real "
                f"pictures {self.verdict(REAL, 'stsb')}, and "
                f"{self.verdict(REAL, 'stsb', SHUFFLED)}. Grounding every text in conjured "
                f"embeddings {self.verdict(EVERY, 'stsb')}."
            )
        notes = self.record.notes
        texts, captions, *_ = notes.get("texts") or [self.plan.texts, self.plan.pairs]
        return {
            "headline": headline,
            "n_texts": f"{texts:,}",
            "n_captions": f"{captions:,}",
            "n_seeds": notes["plan"]["seeds"] if notes else self.plan.seeds,
            "rho_untrained": self.rho(UNTRAINED, "stsb"),
            "rho_simcse": self.rho(SIMCSE, "stsb"),
            "gap_real": self.gap(REAL, "stsb"),
            "gap_real_shuffled": self.gap(REAL, "stsb", SHUFFLED),
            "gap_every": self.gap(EVERY, "stsb"),
            **self.clear_facts(),
            **self.geometry_facts(),
            **self.student_facts(),
        }

    def clear_facts(self) -> dict[str, Any]:
        """How many differences both intervals tell from zero, on which side."""
        n = up = down = 0
        if self.there:
            gaps = self.gaps[self.gaps["benchmark"].isin(self.shown)]
            n = len(gaps)
            up = int(((gaps["low"] > 0) & (gaps["pairs_low"] > 0)).sum())
            down = int(((gaps["high"] < 0) & (gaps["pairs_high"] < 0)).sum())
        return {
            "n_gaps": n,
            "n_up": up,
            "n_down": down,
            "by_chance": 0.05 * n,
        }

    def geometry(self, measure: str, kind: str) -> float:
        """Alignment or uniformity on STS-B's test set, mean over the seeds."""
        at = {"benchmark": "stsb", "kind": kind, "weight": self.chosen.get(kind)}
        return float(self.rows(measure, **at)["value"].mean()) if self.there else np.nan

    def geometry_facts(self) -> dict[str, float]:
        """Alignment and uniformity, over the whole set."""
        return {
            "align_whole": self.geometry("alignment", SIMCSE),
            "uniform_whole": self.geometry("uniformity", SIMCSE),
            "align_untrained": self.geometry("alignment", UNTRAINED),
            "uniform_untrained": self.geometry("uniformity", UNTRAINED),
            "align_real": self.geometry("alignment", REAL),
            "uniform_real": self.geometry("uniformity", REAL),
        }

    def with_teacher(self, kind: str, group: str) -> str:
        """Mean ρ × 100 with Algorithm 1 on one group of held-out pairs, and its interval."""
        rows = self.rows("teacher", kind=kind, benchmark=group)
        if not len(rows):
            return "(not measured)"
        r = 100 * rows[["value", "low", "high"]].mean()
        return bracketed(r, ".0f")

    def student_facts(self) -> dict[str, str]:
        """The student of record beside its teacher, and people."""
        groups = {"sts": "STS-B, test", "own": "glosses and captions"}
        kinds = {
            "student": "student",
            "embeddings": "conjured embeddings",
            "draw": "another draw",
            "text": "text encoder of the model",
        }
        people, rows = "(Not measured.)", self.rows("run", kind="student") if self.there else []
        if len(rows):
            mean = 100 * pd.DataFrame(rows).groupby("benchmark")["value"].mean()
            said = [f"{NAMES[n]} {mean[n]:.1f} (SimCSE {self.rho(SIMCSE, n):.1f})"
                    for n in self.shown]  # fmt: skip
            people = f"In ρ × 100, means over the seeds: {'; '.join(said)}."
        return {
            "student_people": people,
            **{f"{k}_{g}": self.with_teacher(kind, group)
               for k, kind in kinds.items() for g, group in groups.items()},
        }  # fmt: skip

    def cost_facts(self) -> dict[str, str]:
        """What the record took."""
        notes, unknown = self.record.notes, "(not known)"
        seconds, predictions = notes.get("cpu_seconds_of_training"), notes.get("evaluations")
        return {
            "record_minutes": f"{seconds / 60:.0f}" if seconds else unknown,
            "record_evaluations": f"{predictions:,}" if predictions else unknown,
        }


def made_anew(study: Study) -> Overlay:
    """One value of the record made anew: the untrained encoder of the first seed on SimLex-999."""
    if not (study.there and study.of_record):
        return laid_over("grounding")
    encoder, tokenizer = load_encoder(study.plan.encoder, seed=0)
    measured = tested(["simlex999"], lambda texts: embed(encoder, tokenizer, texts))
    human = benchmarks.load_pairs("simlex999")["score"]
    value = spearman_rho(measured["similarities"]["simlex999"], human)
    key = {"study": "run", "kind": UNTRAINED, "seed": 0, "benchmark": "simlex999"}
    overlay = study.record.overlay(pd.DataFrame([key | {"value": value}]), list(key), "value")
    stored = overlay.rows["recorded"].iloc[0]
    print(f"untrained, SimLex-999: {value:.5f} here, {stored:.5f} in the record")
    return overlay


# -- figures ----------------------------------------------------------------------------------


def draw_differences(study: Study) -> None:
    """ρ less that of SimCSE, by condition and λ, a panel a test set."""
    if not study.there:
        return
    gaps, shown = study.gaps, study.shown
    order = list(dict.fromkeys(zip(gaps["kind"], gaps["weight"], strict=True)))
    colours = [PALETTE[study.kinds.index(kind)] for kind, _ in order]
    columns = min(3, len(shown))
    lines = -(-len(shown) // columns)
    size = (3 + 2.6 * columns, lines * (0.24 * len(order) + 0.9))
    figure, axes = plt.subplots(lines, columns, figsize=size, sharey=True, squeeze=False)
    y = np.arange(len(order))
    for axis, name in zip(axes.flat, shown, strict=False):
        part = 100 * gaps[gaps["benchmark"] == name].set_index(["kind", "weight"]).loc[
            order, ["value", "low", "high", "pairs_low", "pairs_high"]
        ].astype(float)
        axis.hlines(y, part["pairs_low"], part["pairs_high"], color=colours, lw=1)
        axis.hlines(y, part["low"], part["high"], color=colours, lw=3.5, alpha=0.5)
        axis.scatter(part["value"], y, s=18, color=colours, zorder=3)
        axis.axvline(0, color="0.6", linewidth=1, zorder=0)
        axis.set(title=NAMES[name])
        axis.set_yticks(y, [f"{kind}, λ = {weight:g}" for kind, weight in order])
    axes[0, 0].invert_yaxis()
    for axis in axes.flat[len(shown) :]:
        axis.set_axis_off()
    figure.supxlabel(r"$\rho$ less that of SimCSE, × 100", fontsize=10)
    plt.show()


def draw_sweep(study: Study) -> None:
    """ρ over λ on the development set and on the test set of STS-B."""
    if not study.there:
        return
    _, axes = plt.subplots(1, 2, figsize=(9.6, 3.4))
    swept = [kind for kind in (REAL, SHUFFLED, EVERY) if kind in study.chosen]
    for axis, name in zip(axes, (DEV, "stsb"), strict=True):
        part = study.rows("run", benchmark=name).dropna(subset="weight")
        base = 100 * part[part["kind"] == SIMCSE]["value"]
        axis.axhspan(base.min(), base.max(), color="0.88", zorder=0)
        axis.axhline(base.mean(), color="0.5", linewidth=1)
        for beside, kind in zip((1.0, 0.9, 1.1), swept, strict=False):  # dots, not on each other
            of_kind, colour = part[part["kind"] == kind], PALETTE[study.kinds.index(kind)]
            x = beside * of_kind["weight"]
            axis.plot(x, 100 * of_kind["value"], ".", color=colour, alpha=0.5)
            mean = 100 * of_kind.groupby("weight")["value"].mean()
            axis.plot(mean.index, mean, "-", color=colour, label=kind)
        title = "STS-B, development" if name == DEV else "STS-B, test"
        axis.set(xscale="log", xlabel="λ", ylabel=r"$\rho$ × 100", title=title)
    axes[1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    plt.show()


def draw_geometry(study: Study) -> None:
    """Alignment over uniformity on STS-B, over the whole set."""
    if not study.there:
        return
    table = study.record.table
    of_stsb = table[table["benchmark"] == "stsb"]
    measured = of_stsb.set_index(["study", "kind", "weight", "seed"])["value"].sort_index()
    _, axis = plt.subplots(figsize=(5.6, 3.4))
    for kind, colour in zip((SIMCSE, *study.kinds), ["0.45", *PALETTE], strict=False):
        x, y = (measured[m, kind] for m in ("uniformity", "alignment"))
        size = [10 + 14 * (np.log10(w) + 2 if w else 0) for w in x.index.get_level_values(0)]
        axis.scatter(x, y, s=size, color=colour, alpha=0.7, label=kind, linewidth=0)
    axis.set(xlabel="uniformity", ylabel="alignment")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    plt.show()


def draw_student(study: Study, here: Imitation) -> None:
    """The student of this page beside its teacher, and that of record beside Algorithm 1."""
    rows = study.rows("teacher")
    columns, width = (2, 8.8) if len(rows) else (1, 8.8 if study.there else 4)
    _, axes = plt.subplots(1, columns, figsize=(width, 3.6), squeeze=False)
    mean = here.wanted.mean()
    axes[0, 0].plot(here.wanted / mean, here.learned / mean, ".", ms=3, alpha=0.4)
    axes[0, 0].plot([0, 3], [0, 3], color="0.6", linewidth=1)
    title = "held-out captions, this page"
    axes[0, 0].set(xlabel="conjured, mean = 1", ylabel="student", title=title)
    if len(rows):
        _draw_teacher(axes[0, 1], rows)
    plt.show()


def _draw_teacher(axis: Axes, rows: pd.DataFrame) -> None:
    """ρ with Algorithm 1 of all that stands in for it, by group of pairs."""
    groups = [group for group in dict.fromkeys(rows["benchmark"]) if group != "all"]
    for i, (group, colour) in enumerate(zip(groups, PALETTE, strict=False)):
        for j, name in enumerate(TEACHER):
            part = rows[(rows["kind"] == name) & (rows["benchmark"] == group)]
            values = 100 * part[["value", "low", "high"]].to_numpy()
            y = j + 0.24 * (i - 0.5)
            axis.hlines(y, values[:, 1].min(), values[:, 2].max(), color=colour, lw=1)
            axis.plot(values[:, 0], [y] * len(values), "o", ms=4, color=colour)
        axis.plot([], [], "o-", ms=4, lw=1, color=colour, label=group)
    axis.set_yticks(range(len(TEACHER)), list(TEACHER.values()))
    axis.invert_yaxis()
    axis.set(xlabel=r"$\rho$ × 100 with Algorithm 1", title="held-out pairs, record")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)


def published_table() -> Styler:
    """Figures of the papers on SimCSE and MCSE."""
    table = published()
    rows = table[table["paper"].isin(["simcse", "mcse"])]
    wide = rows.pivot_table(index=["row", "status"], columns="benchmark", values="spearman")
    names = {name: NAMES[name].removesuffix(", test") for name in benchmarks.STS} | {"avg7": "mean"}
    wide = wide[[name for name in names if name in wide]].rename(columns=names)
    wide = wide.rename_axis(columns=None).reset_index()
    wide = wide.rename(columns={"row": "encoder", "status": "figures"})
    styled = wide.style.hide().format(precision=2, na_rep="–")
    return styled.set_caption("Published by others, ρ × 100, not measured here")
