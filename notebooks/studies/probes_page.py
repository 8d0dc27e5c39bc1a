"""What chapter 11 shows of the records 'encoders' and 'probes': figures, tables and sentences."""

from __future__ import annotations

import hashlib
import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown
from matplotlib.axes import Axes
from pandas.io.formats.style import Styler
from scipy.stats import spearmanr

import conjure_lib as cj
from conjure_tools.fingerprints import weights_hash
from conjure_tools.plots import PALETTE, forest
from studies import arms, probes
from studies.ablations import DIFFERENCE, MEASURED, RHO
from studies.pages import bracketed_of
from studies.records import Overlay, Record, laid_over, opened

MODELS = {
    "shipped": "shipped model",
    "distilled": "arm distilled",
    "scratch": "arm scratch",
    "untrained": "untrained U-Net",
}
PEOPLE = {
    ("rg65", ""): "RG-65",
    ("simlex999", ""): "SimLex-999",
    ("simlex999", "N"): "… nouns",
    ("simlex999", "A"): "… adjectives",
    ("simlex999", "V"): "… verbs",
    ("simlex999", "named"): "… named by emoji",
    ("simlex999", "not named"): "… not named",
}
CONTROLS = ["synonym", "colour", "size", "scene"]
SIDES = ("closer", "farther")


def no_record(axis: Axes) -> None:
    """Say in a figure that there is nothing to draw."""
    axis.text(0.5, 0.5, "no record", ha="center", transform=axis.transAxes)
    axis.set_axis_off()


# -- who reads the captions -------------------------------------------------------------------


class Readers:
    """The record 'encoders' in hundredths, under one weighting; empty where there is none."""

    def __init__(self, record: Record | None, weighting: str) -> None:
        self.weighting, self.trained, self.arms = weighting, [], {}
        self.rows: pd.DataFrame | None = None
        if record:
            self.arms = record.notes["arms"]
            self.trained = [m for m in MODELS if m in set(record.table["model"])]
            keys = ["benchmark", "group", "model", "method"]
            self.rows = record.table.set_index(keys).sort_index()
            self.rows[MEASURED] *= 100
        self.colours = dict(zip(self.trained, PALETTE, strict=False))  # as in all figures

    def rho(self, model: str, benchmark: str = "simlex999", group: str = "") -> pd.Series:
        """The row of a model on a set."""
        assert self.rows is not None
        return self.rows.loc[(benchmark, group, model, self.weighting)]

    def reached(self, model: str, benchmark: str = "simlex999", group: str = "") -> str:
        """A correlation × 100 with its interval."""
        return bracketed_of(self.rho(model, benchmark, group), ".0f", names=RHO)

    def less(self, model: str, benchmark: str = "simlex999") -> str:
        """The difference from the arm "distilled" with its interval."""
        return bracketed_of(self.rho(model, benchmark), "+.0f", names=DIFFERENCE)

    def facts(self) -> dict[str, Any]:
        """What the arms say, in sentences."""
        compared = {"distilled", "scratch", "untrained"} <= set(self.trained)
        answer = "The record of this question has not been made yet."
        told = {
            "answer_readers": self.answer() if compared else answer,
            "reading": self.reading() if compared else "",
            "arms_trained": self.training() if self.arms else "",
        }
        return {name: Markdown(text) for name, text in told.items()}

    def answer(self) -> str:
        """How far two arms and an untrained U-Net agree with people."""
        second, empty = self.rho("scratch"), self.rho("untrained")
        most = second["difference_high"] < 0 and empty["spearman"] > second["spearman"]
        return (
            f"On SimLex-999, two U-Nets trained alike agree with people at ρ × 100 = "
            f"{self.reached('distilled')} when they read with a text encoder distilled from a "
            f"language model, and at {self.reached('scratch')} when the text encoder has only the "
            f"captions to learn from; a U-Net that was never trained, behind the distilled one, "
            f"reaches {self.reached('untrained')}. {'Most' if most else 'Not all'} of what the "
            "distance knows of people's judgement comes in with the text encoder."
        )

    def reading(self) -> str:
        """How the arm "scratch" and the untrained U-Net differ from the arm "distilled"."""
        empty = self.rho("untrained")
        change = "does not measurably change"
        if empty["difference_high"] < 0:
            change = "raises"
        elif empty["difference_low"] > 0:
            change = "lowers"
        return (
            f"Against the arm *distilled*, *scratch* differs by {self.less('scratch')} in ρ × 100 "
            f"on SimLex-999 and by {self.less('scratch', 'rg65')} on RG-65, the untrained U-Net by "
            f"{self.less('untrained')} and {self.less('untrained', 'rg65')}. Training the U-Net "
            f"{change} the agreement on SimLex-999 that its distilled encoder brings along."
        )

    def training(self) -> str:
        """How long the arms were trained, and where that ended."""
        one = next(iter(self.arms.values()))
        stages = json.loads((arms.MODEL / "training_log.json").read_text())["stages"]
        shown = 32 * sum(stages[s][-1]["step"] for s in stages if s.startswith("unet"))
        more = shown / (one["steps"] * one["batch"])
        ends = ", ".join(
            f"{a['curve'][-1]['held_out_scenes']:.4f} ({n})" for n, a in self.arms.items()
        )
        return (
            f"Each was trained for {one['steps']:,} steps of {one['batch']} pictures, and ends at "
            f"an error on held-out scenes of {ends}. The shipped model was shown {more:.0f} times "
            "as many pictures."
        )


def draw_curves(found: Readers) -> None:
    """The loss of every arm, and its error on what it has not seen."""
    _, axis = plt.subplots(figsize=(5.2, 3))
    for name, arm in found.arms.items():
        colour = found.colours[name]
        curve = pd.DataFrame(arm["curve"]).query("step >= 200")  # before, the axis would burst
        axis.plot(curve["step"], curve["loss"], color=colour, alpha=0.6, lw=1)
        known = curve.dropna(subset="held_out_scenes")
        axis.plot(known["step"], known["held_out_scenes"], "o", color=colour, ms=5, label=name)
    if found.arms:
        axis.set(xlabel="step", ylabel="error")
        axis.legend()
    else:
        no_record(axis)
    plt.show()


def draw_readers(found: Readers) -> None:
    """Agreement with people of every model, and of its text encoder alone."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4.8), sharey=True)
    if found.rows is None:
        no_record(left)
        no_record(right)
        plt.show()
        return
    unasked = pd.DataFrame(np.nan, list(PEOPLE), ["value", "low", "high"])

    def series(method: str, among: Sequence[str]) -> dict[str, pd.DataFrame]:
        """Frames of value, low, high over the rows of the figure; NaN where a model is unasked."""
        assert found.rows is not None
        rows = found.rows.xs(method, level="method").rename(columns={"spearman": "value"})
        return {
            MODELS[m]: rows.xs(m, level="model").reindex(list(PEOPLE)) if m in among else unasked
            for m in found.trained
        }

    readers = ["shipped", "scratch"]  # the others read as the shipped model does
    forest(left, series(found.weighting, found.trained), list(PEOPLE.values()), zero=True)
    forest(right, series("text_encoder_last", readers), list(PEOPLE.values()), zero=True)
    label = "Spearman's ρ × 100"
    left.set(title=f"conjured distance, weighting {found.weighting}", xlabel=label)
    right.set(title="cosine of its text encoder alone", xlabel=label)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5)
    plt.show()


# -- the probes: is the record still true? ----------------------------------------------------


def overlay(record: Record | None, fresh: pd.DataFrame, weights: str) -> Overlay:
    """Both distances of every probe scored now over those of the record; stale if of others."""
    if record is None:
        return laid_over("probes")
    keys = ["id", "model", "method"]
    then, now = (t.melt(keys, SIDES, "side", "distance") for t in (record.table, fresh))
    same = record.notes["probes_sha256"] == hashlib.sha256(probes.PROBES.read_bytes()).hexdigest()
    of = weights if same else "those of other probes"
    return replace(record, table=then).overlay(now, [*keys, "side"], weights=of)


def overlay_facts(found: Overlay) -> dict[str, Any]:
    """Whether the record holds."""
    sentence = (
        "There is no record to compare with: what follows is of the probes scored here alone."
    )
    if len(found.rows):
        sentence = f"The record and this page differ by at most {found}."
    return {"fresh_sentence": Markdown(sentence)}


# -- the probes: who is right -----------------------------------------------------------------


@dataclass(frozen=True)
class Answers:
    """Scored probes (rows model, method, id, closer, farther, margin) and how many are right."""

    table: pd.DataFrame  # the probes
    scored: pd.DataFrame
    weighting: str
    notes: Mapping[str, Any] = field(default_factory=dict)  # of the record, where it is from one

    @property
    def results(self) -> pd.DataFrame:
        """`probes.accuracies` by model, method and phenomenon."""
        keys = ["model", "method", "phenomenon"]
        return probes.accuracies(self.scored, self.table).set_index(keys).sort_index()

    @property
    def phenomena(self) -> list[str]:
        """In the order of the file."""
        return list(self.table["phenomenon"].unique())

    @property
    def limits(self) -> list[str]:
        """The phenomena that are no controls."""
        return [p for p in self.phenomena if p not in CONTROLS]

    @property
    def methods(self) -> dict[tuple[str, str], str]:
        """Model and method to their name in tables, of those that were scored."""
        every = {
            ("shipped", "noise"): "conjured, noise",
            ("shipped", "score"): "conjured, score",
            ("shipped", "sde"): "conjured, sde",
            ("shipped", "text_encoder_last"): "text encoder, end of text",
            ("shipped", "text_encoder_mean"): "text encoder, mean",
            ("untrained", self.weighting): "untrained U-Net",
            ("distilled", self.weighting): "arm distilled",
            ("scratch", self.weighting): "arm scratch",
            ("scratch", "text_encoder_last"): "… its text encoder",
            ("", "minilm"): "all-MiniLM-L6-v2",
            ("", "letter_overlap"): "letters shared",
            ("", "word_overlap"): "words shared",
        }
        there = self.results.index.droplevel("phenomenon")
        return {key: name for key, name in every.items() if key in there}

    def of(self, model: str) -> pd.DataFrame:
        """What a model's distance says of every probe, with its phenomenon."""
        mine = (self.scored["model"] == model) & (self.scored["method"] == self.weighting)
        return self.scored[mine].merge(self.table[["id", "phenomenon"]], on="id")


def of_record(
    process: cj.GenerativeProcess,
    table: pd.DataFrame,
    sample: pd.DataFrame,
    fresh: pd.DataFrame,
    weighting: str,
    recompute: bool,
) -> tuple[Answers, Overlay]:
    """The answers of record to all probes, and what was scored here of a sample over them.

    Without a record of this model, or with ``recompute``, the answers are those of the sample.
    """
    record = opened("probes") if process.name == cj.EMBEDDED and not recompute else None
    beside = overlay(record, fresh, weights_hash(process))
    if record is not None:
        return Answers(table, record.table, weighting, record.notes), beside
    return Answers(sample, pd.concat([probes.by_spelling(table), fresh]), weighting), beside


def paired(
    found: Answers,
    first: tuple[str, str],
    second: tuple[str, str],
    among: Sequence[str],
    resamples: int,
) -> np.ndarray:
    """Share of right answers of the first less that of the second (%): value, low, high.

    The interval is from a bootstrap over the probes within each phenomenon: by hand, since
    scipy.stats.bootstrap has no strata.
    """
    right = found.scored.set_index(["model", "method", "id"])["margin"].sort_index()
    right = (np.sign(right) + 1) / 2
    rng, drawn, value, count = np.random.default_rng(0), np.zeros(resamples), 0.0, 0
    asked = found.table[found.table["phenomenon"].isin(among)]
    for _, part in asked.groupby("phenomenon"):
        gap = (right.loc[first].loc[part["id"]] - right.loc[second].loc[part["id"]]).to_numpy()
        drawn += gap[rng.integers(len(gap), size=(resamples, len(gap)))].sum(1)
        value, count = value + gap.sum(), count + len(gap)
    return 100 * np.array([value, *np.quantile(drawn, [0.025, 0.975])]) / count


def accuracy_table(found: Answers) -> Styler:
    """Right answers in per cent, by method and phenomenon."""
    results, phenomena = found.results, found.phenomena
    percent = 100 * results["accuracy"].unstack().loc[list(found.methods), ["", *phenomena]]
    percent.index = pd.Index(found.methods.values())
    half = (results["high"] - results["low"]).xs("shipped")[found.weighting]
    columns: Any = ["all", *phenomena]
    caption = (
        f"{len(found.table) / len(phenomena):.0f} probes a column. Half the width of an interval "
        f"is about {50 * half[phenomena].mean():.0f} for one phenomenon, "
        f"{50 * half['']:.0f} for all"
    )
    shown = percent.rename(columns={"": "all"}).reset_index(names="right answers, %").style
    shades: dict[str, Any] = {"vmin": -40, "vmax": 140, "text_color_threshold": 0}
    shown = shown.format("{:.0f}", subset=columns)
    shown = shown.background_gradient("RdYlBu", subset=columns, **shades).hide(axis="index")
    small: Any = [{"selector": "", "props": "font-size: 80%"}]
    return shown.set_table_styles(small).set_caption(caption)


def draw_accuracy(found: Answers) -> None:
    """Right answers by phenomenon, with intervals."""
    shown = [
        ("shipped", found.weighting),
        ("shipped", "text_encoder_last"),
        ("scratch", found.weighting),
        ("untrained", found.weighting),
        ("", "minilm"),
    ]
    rows, results = ["", *found.phenomena], found.results.rename(columns={"accuracy": "value"})
    methods = found.methods
    columns = {methods[m]: results.loc[m].loc[rows] for m in shown if m in methods}
    figure, axis = plt.subplots(figsize=(7.5, 8))
    forest(axis, columns, ["all", *found.phenomena])
    axis.axvline(0.5, color="0.3", lw=1)
    for y in range(len(found.phenomena)):
        axis.axhline(y + 0.5, color="0.3" if y in (0, len(CONTROLS)) else "0.88", lw=0.8)
    axis.set(xlabel="share of right answers (guessing: one half)", xlim=(-0.02, 1.02))
    figure.legend(loc="outside lower center", ncols=3)
    plt.show()


def accuracy_facts(found: Answers, resamples: int) -> dict[str, Any]:
    """Where the distance is right, and how it differs from other methods."""
    conjured, own = ("shipped", found.weighting), ("shipped", "text_encoder_last")
    results, methods = found.results, found.methods
    ours = results.loc[conjured]
    over, under = ours["low"] > 0.5, ours["high"] < 0.5

    def names(which: pd.Series) -> str:
        return ", ".join(f"*{p}*" for p in found.phenomena if which[p]) or "none"

    def against(second: tuple[str, str], among: Sequence[str]) -> str:
        if second not in methods:
            return "not known, for want of a record"
        numbers = paired(found, conjured, second, among, resamples)
        return "{:+.0f} points [{:+.0f}, {:+.0f}]".format(*numbers)

    def both(second: tuple[str, str]) -> list[str]:
        return [against(second, among) for among in (CONTROLS, found.limits)]

    text, blind, scratch = map(
        both, (own, ("untrained", found.weighting), ("scratch", found.weighting))
    )
    answer = (
        f"The conjured distance is right on {100 * ours.loc['', 'accuracy']:.0f} % of the "
        f"{ours.loc['', 'items']:.0f} that were scored (weighting {found.weighting}), its "
        f"text encoder alone on {100 * results.loc[(*own, ''), 'accuracy']:.0f} %. By intervals of "
        f"95 % it is better than guessing at {names(over)}, worse at {names(under)}, and not told "
        f"from guessing at {names(~over & ~under)}."
    )
    versus = (
        f"On the controls the conjured distance differs from its own text encoder by {text[0]}, on "
        f"the limits by {text[1]}; from an untrained U-Net behind the same encoder by {blind[0]} "
        f"and {blind[1]}; from the arm *scratch* by {scratch[0]} and {scratch[1]}."
    )
    return {
        "answer_probes": Markdown(answer),
        "versus": Markdown(versus),
        "n_phenomena": len(found.phenomena),
        "unsure": int(ours.loc["", "unsure"]),
        "scored_probes": int(ours.loc["", "items"]),
        "letters": 100 * results.loc[("", "letter_overlap", ""), "accuracy"],
    }


# -- the probes: how large the distances are --------------------------------------------------


def unit_of(part: pd.DataFrame) -> float:
    """The median distance of two unlike scenes."""
    return float(part.loc[part["phenomenon"] == "scene", "farther"].median())


def draw_sizes(found: Answers) -> None:
    """Both distances of every probe, and which is the larger."""
    part, phenomena = found.of("shipped"), found.phenomena
    unit, rng = unit_of(part), np.random.default_rng(0)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4.2), sharey=True)
    for y, name in enumerate(phenomena):
        one = part[part["phenomenon"] == name]
        for side, shift, colour in zip(SIDES, (-0.15, 0.15), (PALETTE[2], PALETTE[3]), strict=True):
            at = y + shift + rng.uniform(-0.07, 0.07, len(one))
            label = f"anchor and {side}" if y == 0 else None
            left.plot(one[side] / unit, at, "o", ms=3, alpha=0.55, color=colour, label=label)
            left.plot(one[side].median() / unit, y + shift, "|", ms=13, mew=2, color=colour)
        ratio = np.log2(one["farther"] / one["closer"])
        colours = np.where(ratio > 0, PALETTE[0], PALETTE[1])
        right.scatter(ratio, y + rng.uniform(-0.15, 0.15, len(one)), s=12, c=colours)
        right.plot(ratio.median(), y, "|", ms=16, mew=2, color="0.2")
    left.set_yticks(range(len(phenomena)), phenomena)
    left.set_ylim(len(phenomena) - 0.5, -0.5)
    left.set(xscale="log", xlabel="distance, in units of two unlike scenes")
    right.set(xlabel="log₂ of farther over closer")
    right.axvline(0, color="0.3", lw=1)
    figure.legend(loc="outside lower center", ncols=2)
    plt.show()


def follows(found: Answers, model: str, process: cj.GenerativeProcess) -> str:
    """Rank correlation of a model's distances with ‖ΔH‖² of its text encoder's states."""
    scored = found.of(model).set_index("id")
    if not len(scored):
        return "not known, for want of a record"
    asked = found.table.set_index("id").loc[scored.index]
    hidden = {side: process.encode(list(asked[side])) for side in ("anchor", *SIDES)}
    squares = [
        (hidden["anchor"] - hidden[side]).double().square().sum((1, 2)).cpu().numpy()
        for side in SIDES
    ]
    distances = np.concatenate([scored[side] for side in SIDES])
    return f"{spearmanr(distances, np.concatenate(squares)).statistic:.2f}"


def size_facts(found: Answers, process: cj.GenerativeProcess) -> dict[str, Any]:
    """Median distances of some phenomena in % of two unlike scenes, and what distances follow."""
    part = found.of("shipped")
    both = pd.concat([part[side] for side in SIDES])
    median = both.groupby(pd.concat([part["phenomenon"]] * 2)).median()
    sizes = ("order", "place", "negation")
    told = {f"size_{name}": 100 * float(median[name]) / unit_of(part) for name in sizes}
    followed = ("untrained", "distilled", "shipped")
    return told | {f"follows_{model}": follows(found, model, process) for model in followed}


# -- the probes: the worst failures -----------------------------------------------------------


def worst_failures(found: Answers, phenomena: Sequence[str], count: int) -> pd.DataFrame:
    """Of each of the phenomena the probes whose farther candidate is the nearest, with texts."""
    part = found.of("shipped")
    ratio = part.assign(ratio=part["farther"] / part["closer"]).sort_values("ratio")
    worst = pd.concat([ratio[ratio["phenomenon"] == name].head(count) for name in phenomena])
    texts = found.table[["id", "anchor", *SIDES]]
    return worst.merge(texts, on="id", suffixes=("_d", ""))


def draw_failures(worst: pd.DataFrame, pictures: np.ndarray) -> None:
    """Anchor, closer and farther of each, as they were painted."""
    columns = 2 if len(worst) > 3 else 1
    rows = -(-len(worst) // columns)
    widths = [1, 1, 1, 0.18, 1, 1, 1][: 4 * columns - 1]  # a gap between two probes of a row
    size, how = (3.7 * columns, 1.8 * rows), {"width_ratios": widths}
    _, axes = plt.subplots(rows, len(widths), figsize=size, squeeze=False, gridspec_kw=how)
    for axis in axes.flat:
        axis.set_axis_off()
    for k, row in enumerate(worst.itertuples()):
        for j, side in enumerate(("anchor", *SIDES)):
            axis = axes[k % rows, 4 * (k // rows) + j]
            axis.imshow(pictures[3 * k + j], interpolation="nearest")
            distance = "" if side == "anchor" else f"\n{side}: {getattr(row, f'{side}_d'):.3g}"
            lines = textwrap.fill(getattr(row, side), 16)
            axis.set_title(lines + (distance or f"\n({row.phenomenon})"), fontsize=8)
    plt.show()


def cost_facts(notes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How long the runs and trainings of some records took."""
    spent = [run for one in notes for run in one.get("runs", {}).values()]
    curves = [arm["curve"] for one in notes for arm in one.get("arms", {}).values()]
    learned = sum(max(step["seconds"] for step in curve) for curve in curves)
    hours = (sum(run["seconds"] for run in spent) + learned) / 3600
    sentence = "that have not been made yet"
    if spent:
        sentence = f"that took {hours:.1f} hours of {spent[0]['devices'][0]} time"
    return {"record_hours": Markdown(sentence)}
