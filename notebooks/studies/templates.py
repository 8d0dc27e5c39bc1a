"""Which template names pictures best, and does NNGS say so? The second case study of chapter 12."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

import conjure_lib as cj
from conjure_tools.fingerprints import weights_hash
from conjure_tools.neighbors import chance, nngs_profile
from conjure_tools.plots import PALETTE
from studies import neighbor_graphs, zero_shot
from studies.neighbourhoods import (
    correlation,
    nngs_less_cka,
    of_authors,
    published_value,
    spoken,
)
from studies.pages import bracketed, bracketed_of
from studies.records import Overlay, Record, results_of_record

FEATURES = {"unet": "U-Net", "latents": "latents"}
"""Spaces of the pictures as a page calls them."""


@dataclass(frozen=True)
class Judged:
    """Pictures of some classes, judged under every template."""

    images: pd.DataFrame  # class means of both kinds of features
    table: pd.DataFrame  # template, class, error, rank, predicted
    notes: dict[str, Any]

    @property
    def classes(self) -> list[str]:
        """Their names."""
        return list(self.images["class"])

    @property
    def templates(self) -> list[str]:
        """In the order of the study."""
        return list(dict.fromkeys(self.table["template"]))

    @property
    def accuracy(self) -> pd.Series:
        """Share of pictures that are named right, by template."""
        return (self.table["rank"] == 1).groupby(self.table["template"]).mean()

    @property
    def features(self) -> dict[str, np.ndarray]:
        """Spaces (classes, width) of the pictures."""
        return {kind: np.stack(list(self.images[kind])).astype(float) for kind in FEATURES}


def judged_templates(process: cj.GenerativeProcess, recompute: bool) -> Judged:
    """The records, or all of it made anew.

    Raises:
        FileNotFoundError: a record is not there; the message names the command that makes it.
    """
    if recompute:
        every = zero_shot.emoji_of(zero_shot.CLASSES, everything=True)
        images = zero_shot.class_means(process, every)
        return Judged(images, zero_shot.judge_all(process, every, zero_shot.TEMPLATES), {})
    images, judged = (results_of_record(f"nngs_{name}") for name in ("images", "templates"))
    return Judged(images.table, judged.table, judged.notes)


def class_vectors(process: cj.GenerativeProcess, found: Judged) -> dict[str, np.ndarray]:
    """By template, the text encoder's vectors (classes, width) of the classes filled in."""
    return {
        t: neighbor_graphs.text_vectors(process, zero_shot.filled(t, found.classes))
        for t in found.templates
    }


def studied(found: Judged, texts: Mapping[str, np.ndarray], k: int) -> dict[str, pd.DataFrame]:
    """By kind of features, `neighbor_graphs.template_study` of the pictures and the texts."""
    return {
        name: neighbor_graphs.template_study(space, texts, found.accuracy, k)
        for name, space in found.features.items()
    }


def by_template(by_feature: Mapping[str, pd.DataFrame], classes: int, k: int) -> Styler:
    """Both kinds of features by template, the best first."""
    both = by_feature["unet"].sort_values("accuracy", ascending=False)
    latents = by_feature["latents"].set_index("template").loc[both["template"]]
    shown = pd.DataFrame(
        {
            "template": both["template"],
            "named right, %": 100 * both["accuracy"],
            "NNGS, U-Net": [bracketed((r.nngs, r.low, r.high), ".3f") for r in both.itertuples()],
            "CKA, U-Net": both["cka"],
            "NNGS, latents": latents["nngs"].to_numpy(),
            "CKA, latents": latents["cka"].to_numpy(),
            "denies": ["yes" if t in zero_shot.NEGATED else "" for t in both["template"]],
        }
    )
    styled = shown.style.hide().format(precision=3).format("{:.0f}", subset="named right, %")
    by_chance = f"by chance {100 / classes:.0f} % right and an NNGS of {chance(classes, k):.3f}"
    return styled.set_caption(f"{classes} classes; {by_chance}")


def by_space_with_accuracy(by_feature: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Correlations over templates of NNGS and CKA with accuracy, by space."""
    return pd.concat(
        neighbor_graphs.correlations(table, "accuracy", ["nngs", "cka"]).assign(space=name)
        for name, table in by_feature.items()
    )


def template_correlations(found: pd.DataFrame, k: int) -> Styler:
    """The correlations beside the published ones."""
    theirs = of_authors("zero-shot").assign(low=np.nan, high=np.nan)
    theirs["space"] += ", published"
    both = spoken(pd.concat([found.replace({"space": FEATURES}), theirs[found.columns]]))
    both["r [95 %]"] = [bracketed_of(r, ".2f") for r in both.itertuples()]
    wide = both.pivot(index="space", columns=["measure", "statistic"], values="r [95 %]")
    return wide.style.set_caption(
        f"Correlation over templates with the accuracy of naming, k = {k}"
    )


def over_scales(
    space: np.ndarray, texts: Mapping[str, np.ndarray], accuracy: pd.Series
) -> np.ndarray:
    """Pearson's r over templates of NNGS at every k with accuracy, (n - 1,)."""
    rows = [nngs_profile(space, of, permutations=0).value for of in texts.values()]
    curves, target = np.array(rows), accuracy[list(texts)].to_numpy()
    spread = curves.std(0) * target.std()
    spread[spread < 1e-12] = np.nan
    r = ((curves - curves.mean(0)) * (target - target.mean())[:, None]).mean(0) / spread
    return np.asarray(r)


def draw_templates(
    by_feature: Mapping[str, pd.DataFrame],
    scales: Mapping[str, np.ndarray],
    found: pd.DataFrame,
    k: int,
) -> None:
    """Accuracy over NNGS for both kinds of features, and their correlation at every k."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.9))
    for axis, name in zip(axes, scales, strict=False):
        table = by_feature[name]
        denied = table["template"].isin(zero_shot.NEGATED)
        for group, colour, label in (
            (~denied, PALETTE[0], "affirms"),
            (denied, PALETTE[1], "denies"),
        ):
            part = table[group]
            axis.hlines(100 * part["accuracy"], part["low"], part["high"], color="0.87", zorder=0)
            axis.plot(part["nngs"], 100 * part["accuracy"], "o", ms=5, color=colour, label=label)
        axis.axvline(table["chance"].iloc[0], color="0.4", linestyle="--", linewidth=1)
        axis.set(xlabel=f"NNGS of {FEATURES[name]} and texts, k = {k}", ylabel="pictures named (%)")
        r = correlation(found, space=name, statistic="pearson", measure="nngs")
        axis.set_title(f"r = {r}", fontsize=9)
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, fontsize=8, loc="outside lower left", ncols=2)
    for (name, curve), colour in zip(scales.items(), PALETTE, strict=False):
        axes[2].plot(np.arange(1, len(curve) + 1), curve, color=colour, label=FEATURES[name])
    axes[2].axvline(k, color="0.4", linestyle="--", linewidth=1)
    axes[2].axhline(0, color="0.8", linewidth=1)
    axes[2].set(xscale="log", xlabel="neighbours k", ylabel="Pearson's r with accuracy")
    axes[2].set_ylim(-1, 1)
    axes[2].legend(fontsize=8, loc="lower right")
    plt.show()


def judged_again(process: cj.GenerativeProcess, found: Judged, pictures: int) -> Overlay:
    """A few pictures judged anew under the first template, laid over the table."""
    picked = [c for c in found.classes if c in zero_shot.SHIPPED]
    picked = picked[:: max(1, len(picked) // pictures)][:pictures]
    few = zero_shot.emoji_of(picked, everything=False)
    clean = zero_shot.as_latents(process, np.stack([zero_shot.drawings(e)[0] for e in few]))
    keys, template = [zero_shot.CLASSES.index(c) for c in picked], found.templates[0]
    texts = zero_shot.filled(template, found.classes)
    errors = zero_shot.errors(process, clean, keys, texts)  # (pictures, classes)
    own = errors[np.arange(len(picked)), [found.classes.index(c) for c in picked]]
    record = Record("nngs_templates", found.table, found.notes)
    weights = weights_hash(process) if found.notes else ""
    fresh = pd.DataFrame({"template": template, "class": picked, "error": own})
    overlay = record.overlay(fresh, ["template", "class"], "error", weights=weights)
    table = found.table[found.table["template"] == template].set_index("class").loc[picked]
    same = int((np.array(found.classes)[errors.argmin(1)] == table["predicted"]).sum())
    print(
        f"{len(picked)} pictures judged anew: errors differ from the table's by up to "
        f"{overlay}, {same} of {len(picked)} are named alike."
    )
    return overlay


def facts(
    judged: Judged,
    by_feature: Mapping[str, pd.DataFrame],
    found: pd.DataFrame,
    scale: np.ndarray,
) -> dict[str, Any]:
    """How far NNGS says which templates work; ``scale`` is the U-Net's correlation at every k."""
    unet = by_feature["unet"]
    top = unet.sort_values("accuracy")["template"]
    denied = unet["template"].isin(zero_shot.NEGATED)
    chosen = {"statistic": "pearson", "measure": "nngs"}
    theirs = {"measure": "NNGS", "statistic": "pearson"}
    clip = "CLIP ViT-B/32 CIFAR-100 ({} templates)"
    return {
        "r_template": correlation(found, space="unet", **chosen),
        "r_template_latents": correlation(found, space="latents", **chosen),
        "r_template_cka": correlation(found, space="unet", statistic="pearson", measure="cka"),
        "template_nngs_cka": nngs_less_cka(unet, "accuracy"),
        "published_template": published_value("zero-shot", space=clip.format(18), **theirs),
        "published_template_more": published_value("zero-shot", space=clip.format(53), **theirs),
        "n_templates": len(judged.templates),
        "n_negated": int(denied.sum()),
        "n_classes": len(judged.classes),
        "accuracy_denied": denial(100 * unet["accuracy"], denied, ".0f"),
        "nngs_denied": denial(unet["nngs"], denied, ".3f"),
        "best_template": f"“{top.iloc[-1]}”",
        "best_accuracy": 100 * judged.accuracy.max(),
        "worst_template": f"“{top.iloc[0]}”",
        "worst_accuracy": 100 * judged.accuracy.min(),
        "scale_low": float(np.nanmin(scale)),
        "scale_high": float(np.nanmax(scale)),
    }


def denial(values: pd.Series, denied: Sequence[bool] | pd.Series, spec: str) -> str:
    """Mean over denying templates, and over the others."""
    denied = np.asarray(denied)
    if not denied.any():
        return "not known for want of such templates"
    return f"{values[denied].mean():{spec}} against {values[~denied].mean():{spec}}"
