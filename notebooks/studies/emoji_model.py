"""What the training of the embedded model has left to read, for chapter 15: its log, its record."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pandas.io.formats.style import Styler
from transformers import CLIPTextModel, PreTrainedTokenizerBase

import conjure_lib as cj
from conjure_tools import benchmarks, correlation
from conjure_tools.fingerprints import weights_hash
from conjure_tools.loading import shipped
from studies.records import texts_of

FOLDER = shipped(cj.EMBEDDED)
SAMPLE = shipped("emoji-sample")
STAGES = {"unet": "pictures", "unet_even": "all noise alike", "unet_taught": "texts of every kind"}
METHODS = {
    "conjured": "conjured distance",
    "text": "cosine of the text encoder, last",
    "exact": "exact denoiser of the emoji",
    "beyond": "partial, both cosines and 4 untrained",
}
"""Rows of the record, as the prose calls them."""


def training_log() -> dict[str, Any]:
    """What was measured while the shipped model was trained."""
    log: dict[str, Any] = json.loads((FOLDER / "training_log.json").read_text())
    return log


def stage_table(log: Mapping[str, Any]) -> Styler:
    """Where each stage of the U-Net ended."""
    rows = []
    for name, title in STAGES.items():
        last = log["stages"][name][-1]
        rows.append([title, last["step"], last["singles"], last["held_out_scenes"]])
    columns = ["stage", "steps of 32", "error, single emoji", "error, new scenes"]
    stages = pd.DataFrame(rows, columns=columns).set_index("stage")
    styled = stages.style.format("{:.3f}", subset=columns[2:]).format("{:,}", subset=columns[1])
    return styled.set_caption("The three stages of the shipped U-Net")


def training_facts(log: Mapping[str, Any], work: Path) -> dict[str, float]:
    """Hours that the shipped parts took; the error of the U-Net that was trained into ``work``.

    A resumed training counts its seconds from zero again.
    """
    seconds = [[entry["seconds"] for entry in run] for run in log["stages"].values()]
    stretches = [
        b - a if b > a else b for run in seconds for a, b in zip([0, *run], run, strict=False)
    ]
    here = [json.loads(line) for line in (work / "log.jsonl").read_text().splitlines()]
    mine = [entry["singles"] for entry in here if "singles" in entry]
    return {"hours": sum(stretches) / 3600, "mine": mine[-1]}


@torch.no_grad()
def word_cosines(
    encoder: CLIPTextModel, tokenizer: PreTrainedTokenizerBase, word: str, others: Sequence[str]
) -> list[float]:
    """Cosine of the pooled embedding of ``word`` with those of ``others``."""
    tokens = tokenizer([word, *others], padding="max_length", truncation=True, return_tensors="pt")
    pooled = torch.nn.functional.normalize(encoder(tokens.input_ids).pooler_output, dim=-1)
    found: list[float] = (pooled[1:] @ pooled[0]).tolist()
    return found


@dataclass(frozen=True)
class Evaluation:
    """The record of how well the shipped model is recognised, and agrees with people."""

    record: Mapping[str, Any]

    @classmethod
    def shipped(cls) -> Evaluation:
        """The one that lies beside the model."""
        return cls(json.loads((FOLDER / "evaluation.json").read_text()))

    @cached_property
    def agreement(self) -> pd.DataFrame:
        """Spearman's ρ by benchmark and method, with its interval in words."""
        table = pd.DataFrame(self.record["agreement"])
        table = table.replace(benchmarks.NAMES)
        scaled = 100 * table[["value", "low", "high"]]
        table["said"] = [f"{v:.1f} [{low:.0f}, {high:.0f}]" for v, low, high in scaled.to_numpy()]
        return table

    def table(self) -> Styler:
        """The agreement, a row for each method."""
        wide = self.agreement.pivot(index="method", columns="benchmark", values="said")
        wide = wide.loc[self.agreement["method"].unique()].rename_axis(index=None, columns=None)
        wide = wide.rename(index=lambda method: method.replace(", last", ", end of text"))
        return wide.style.set_caption(
            "Spearman's ρ × 100 with people's ratings, and 95 % intervals"
        )

    def beside_fresh(self, process: cj.GenerativeProcess) -> str:
        """Agreement on RG-65 on record and with two draws, where the ratings are at hand.

        Raises:
            AssertionError: the record is of other weights or of another algorithm.
        """
        assert self.record["weights"] == weights_hash(process), "the record is of other weights"
        if not os.environ.get("CONJURE_DATA"):
            return "Not scored afresh: CONJURE_DATA is not set."
        rated = benchmarks.load_pairs("rg65")
        found = cj.distances(process, texts_of(rated), draws=2, weighting="noise", seed=1)
        fresh = correlation.agreement(rated, [-e.value for e in found])[0]["spearman"]
        rows = self.agreement.set_index(["benchmark", "method"])
        kept = rows.loc["RG-65", "conjured distance"]
        assert kept["low"] < fresh < kept["high"], "the record is of another algorithm"
        on_record = f"RG-65, ρ × 100: {100 * kept['value']:.1f} on record"
        return f"{on_record}, {100 * fresh:.1f} afresh with 2 draws"

    def facts(self) -> dict[str, Any]:
        """Agreement on SimLex-999 beside its controls, and how often a picture is recognised."""
        table = self.agreement
        on = table[table["benchmark"] == "SimLex-999"].set_index("method")
        told: dict[str, Any] = {name: on.loc[method, "said"] for name, method in METHODS.items()}
        for name, start in (("untrained", "untrained"), ("gained", "trained less")):
            values = 100 * on.loc[on.index.str.startswith(start), "value"]
            told |= {f"{name}_least": values.min(), f"{name}_most": values.max()}
        gains = on[on.index.str.startswith("trained less")]
        better, worse = (gains["low"] > 0).sum(), (gains["high"] < 0).sum()
        lies = f"the interval lies above zero for {better} of the {len(gains)}"
        beyond = on.loc[METHODS["beyond"]]
        left = "so that much is not in the text encoder"
        if beyond["low"] <= 0 <= beyond["high"]:
            left = "which is not distinguishable from zero: pictures add nothing here that this set"
            left += " can show"
        told |= {"gain_verdict": f"{lies}, below it for {worse}", "beyond_verdict": left}
        for kind, found in self.record["recognised"].items():
            told |= {f"first_{kind}": found["first"], f"five_{kind}": found["five"]}
        return told | {"emoji": self.record["emoji"], "others": self.record["emoji"] - 1}
