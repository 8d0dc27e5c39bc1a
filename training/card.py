"""The model card: measure the finished model and write ``README.md`` beside its weights.

Run after training as ``python -m training.card``; it needs ``CONJURE_DATA`` for the benchmarks.
Nothing in the card is typed by hand that a run can measure.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
import transformers

from conjure_lib import WEIGHTINGS, GenerativeProcess, from_pipeline, load, pair_terms
from conjure_lib.loading import open_pipeline
from conjure_tools.benchmarks import load_pairs
from conjure_tools.correlation import agreement
from training import unet as unet_recipe
from training.autoencoder import reconstruction_psnr
from training.pictures import load_emoji
from training.sources import ANNOTATIONS, FONT

BENCHMARKS = ("rg65",)
SETTINGS: dict[str, Any] = {"steps": 10, "draws": 10, "sampler": "ddim", "seed": 0}


def conjured(process: GenerativeProcess, label: str, guidance: float) -> list[dict[str, Any]]:
    """Agreement of minus the distance with people, under every weighting."""
    rows = []
    for name in BENCHMARKS:
        table = load_pairs(name)
        pairs = list(zip(table["text1"], table["text2"], strict=True))
        terms = pair_terms(process, pairs, guidance=guidance, **SETTINGS)
        for weighting in WEIGHTINGS:
            values = [-e.value for e in terms.estimates(weighting, "sum")]
            method = f"{label}, guidance {guidance:g}, weighting {weighting}"
            rows += [{"benchmark": name, "method": method, **r} for r in agreement(table, values)]
    return rows


def text_encoder_alone(pipeline: Any) -> list[dict[str, Any]]:
    """Agreement of the cosine of the pooled text embeddings: no picture is conjured."""

    def embed(texts: Sequence[str]) -> torch.Tensor:
        tokens = pipeline.tokenizer(
            list(texts), padding="max_length", truncation=True, return_tensors="pt"
        )
        return pipeline.text_encoder(tokens.input_ids).pooler_output

    rows = []
    for name in BENCHMARKS:
        table = load_pairs(name)
        cosine = F.cosine_similarity(embed(table["text1"]), embed(table["text2"])).tolist()
        method = "cosine of the text encoder alone"
        rows += [{"benchmark": name, "method": method, **r} for r in agreement(table, cosine)]
    return rows


def measure(folder: Path, sources: Path) -> dict[str, Any]:
    """Everything that the card quotes, with what it was measured on."""
    pipeline = open_pipeline(folder)
    emoji = load_emoji(sources / FONT, sources / ANNOTATIONS)
    parts = {name: getattr(pipeline, name) for name in ("text_encoder", "unet", "vae")}
    rows = [r for g in (1.0, 3.0) for r in conjured(load(folder), "conjured distance", g)]
    rows += text_encoder_alone(pipeline)
    psnr = reconstruction_psnr(pipeline.vae, emoji)
    torch.manual_seed(5)
    pipeline.unet = unet_recipe.build()
    rows += conjured(from_pipeline(pipeline), "control: U-Net untrained", 1.0)
    git = ["git", "rev-parse", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False)
    return {
        "emoji": len(emoji),
        "parameters": {k: sum(p.numel() for p in m.parameters()) for k, m in parts.items()},
        "megabytes": sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 1e6,
        "reconstruction_psnr_db": psnr,
        "agreement": rows,
        "settings": SETTINGS,
        "provenance": {
            "date": datetime.now(UTC).date().isoformat(),
            "commit": commit.stdout.strip(),
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
            "numpy": np.__version__,
        },
    }


def agreement_table(rows: Sequence[dict[str, Any]]) -> str:
    """Methods by benchmarks, Spearman × 100 with its 95 % interval, as Markdown."""
    names = {"rg65": "RG-65"}
    table = pd.DataFrame(rows)
    table["column"] = (table["benchmark"].map(names) + " " + table["group"]).str.strip()
    table["cell"] = [
        f"{100 * r.spearman:.1f} [{100 * r.spearman_low:.0f}, {100 * r.spearman_high:.0f}]"
        for r in table.itertuples()
    ]
    wide = table.pivot(index="method", columns="column", values="cell")
    wide = wide.loc[table["method"].unique(), table["column"].unique()]
    lines = ["| | " + " | ".join(wide.columns) + " |", "|---" * (len(wide.columns) + 1) + "|"]
    lines += [f"| {method} | " + " | ".join(cells) + " |" for method, cells in wide.iterrows()]
    return "\n".join(lines)


def write_card(folder: Path) -> None:
    """Fill ``training/card_template.md`` with the measurements and write it as ``README.md``."""
    measured = json.loads((folder / "evaluation.json").read_text())
    log = json.loads((folder / "training_log.json").read_text())
    last = {stage: records[-1] for stage, records in log["stages"].items()}
    template = (Path(__file__).parent / "card_template.md").read_text(encoding="utf-8")
    rows = measured.pop("agreement")
    text = template.format(
        agreement=agreement_table(rows),
        millions={k: v / 1e6 for k, v in measured["parameters"].items()},
        variance=100 * log["token_table_variance_kept"],
        last=last,
        **measured,
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def main() -> None:
    """Measure (unless ``--text-only``) and write the card."""
    parser = argparse.ArgumentParser(prog="python -m training.card", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("data/emoji-diffusion"))
    parser.add_argument("--sources", type=Path, default=Path("_training/sources"))
    parser.add_argument("--text-only", action="store_true", help="measure nothing anew")
    options = parser.parse_args()
    if not options.text_only:
        measured = measure(options.folder, options.sources)
        (options.folder / "evaluation.json").write_text(json.dumps(measured, indent=1) + "\n")
    write_card(options.folder)


if __name__ == "__main__":
    main()
