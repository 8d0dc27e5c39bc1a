"""The model card: measure the finished model and write ``README.md`` beside its weights.

Run after training as ``python -m training.card``; it needs ``CONJURE_DATA`` for the benchmarks.
``--before FOLDER`` measures earlier weights the same way, for the column beside. Nothing in the
card is typed by hand that a run can measure.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import diffusers
import numpy as np
import pandas as pd
import torch
import transformers

from conjure_lib import GenerativeProcess, from_pipeline, load, pair_terms
from conjure_tools import benchmarks
from conjure_tools.baselines import text_encoder_cosine
from conjure_tools.correlation import both_texts, paired_bootstrap, partial_spearman, spearman
from conjure_tools.fingerprints import weights_hash
from conjure_tools.loading import open_pipeline
from training.autoencoder import reconstruction_psnr, reconstructions, to_tensor
from training.exact import exact_denoiser, known_pictures
from training.pictures import Emoji, drawn, load_emoji, singles
from training.recognise import NAMES, chosen, conjured_ranks, ranks
from training.sources import ANNOTATIONS, FONT, TEACHER
from training.text_encoder import near_words

DRAWS = {"rg65": 10, "simlex999": 2}
TWIN_DRAWS = {"rg65": 3, "simlex999": 1}  # of networks whose answers hardly depend on x
SETTINGS: dict[str, Any] = {"steps": 10, "sampler": "ddim", "seed": 0}
TWINS = 4  # untrained U-Nets, seeds 0 to 3
NOUNS = "nouns"
POOLINGS: tuple[Literal["last", "mean"], ...] = ("last", "mean")


def shares(found: np.ndarray) -> dict[str, float]:
    """Of ranks (n,): how many are first and among five, in percent, and the median."""
    first, five = (100 * float((found <= most).mean()) for most in (1, 5))
    return {"first": first, "five": five, "median": float(np.median(found))}


def recognised(
    pipeline: Any, processes: Mapping[str, GenerativeProcess], emoji: Sequence[Emoji]
) -> dict[str, dict[str, float]]:
    """How many conjured pictures can be told, of the model and of what it is compared with."""
    again = reconstructions(pipeline.vae, to_tensor(drawn(singles(emoji), emoji)))
    again = (again.permute(0, 2, 3, 1) + 1) * 127.5
    seen = ranks(list(again.round().byte().numpy()), emoji, range(len(emoji)))
    found = {name: shares(conjured_ranks(one, emoji)) for name, one in processes.items()}
    return found | {"reconstructed": shares(seen[chosen(len(emoji))])}


def twins(folder: Path) -> Iterator[GenerativeProcess]:
    """The model with U-Nets of its own architecture that were never trained."""
    for seed in range(TWINS):
        pipeline = open_pipeline(folder)
        torch.manual_seed(seed)
        pipeline.unet = type(pipeline.unet).from_config(pipeline.unet.config)
        yield from_pipeline(pipeline)


def similarity(process: GenerativeProcess, name: str, draws: Mapping[str, int]) -> np.ndarray:
    """Minus the distance of every pair of a benchmark, noise weighting, (draws, P)."""
    table = benchmarks.load_pairs(name)
    pairs = list(zip(table["text1"], table["text2"], strict=True))
    terms = pair_terms(process, pairs, draws=draws[name], **SETTINGS)
    return -np.asarray([estimate.by_draw for estimate in terms.estimates("noise")]).T


def people(
    folder: Path, process: GenerativeProcess, exact: GenerativeProcess | None, name: str
) -> list[dict[str, Any]]:
    """How far the model agrees with a benchmark; with the ``exact`` one what training adds, too."""
    table = benchmarks.load_pairs(name)
    human, texts = table["score"].to_numpy(), both_texts(table)
    pairs = list(zip(table["text1"], table["text2"], strict=True))
    cosines = np.stack([text_encoder_cosine(process, pairs, pooling=p) for p in POOLINGS])
    mine = similarity(process, name, DRAWS)
    rows = [("conjured distance", spearman(mine, human, texts=texts))]
    if exact is None:
        return [{"benchmark": name, "method": m, **vars(found)} for m, found in rows]
    known = similarity(exact, name, DRAWS)
    rows.append(("exact denoiser of the emoji", spearman(known, human, texts=texts)))
    for pooling, cosine in zip(POOLINGS, cosines, strict=True):
        found = spearman(cosine, human, texts=texts)
        rows.append((f"cosine of the text encoder, {pooling}", found))
    untrained = [similarity(twin, name, TWIN_DRAWS) for twin in twins(folder)]
    for seed, other in enumerate(untrained):
        rows.append((f"untrained U-Net {seed}", spearman(other.mean(0), human, texts=texts)))
    for seed, other in enumerate(untrained):
        gained = paired_bootstrap(mine.mean(0), other.mean(0), human, texts=texts)
        rows.append((f"trained less untrained U-Net {seed}", gained))
    where = {"": np.arange(len(table))}
    if "pos" in table:
        where[NOUNS] = np.flatnonzero(table["pos"].str.lower().str.startswith("n"))
    for group, rows_of in where.items():
        given = np.stack([*cosines, *(u.mean(0) for u in untrained)], axis=1)[rows_of]
        own = None if texts is None else texts[rows_of]
        beyond = {"both cosines": given[:, :2], f"both cosines and {TWINS} untrained": given}
        for held, columns in beyond.items():
            found = partial_spearman(mine[:, rows_of], human[rows_of], columns, texts=own)
            rows.append((f"partial, {held}{', ' * bool(group)}{group}", found))
    return [{"benchmark": name, "method": m, **vars(found)} for m, found in rows]


def words_with_a_picture(emoji: Sequence[Emoji], name: str) -> dict[str, int]:
    """Words of a benchmark, and those that are a name, keyword or near word of some emoji."""
    table = benchmarks.load_pairs(name)
    words = {w.lower() for w in [*table["text1"], *table["text2"]]}
    named = {e.name.lower() for e in emoji}
    near = {w.lower() for e in emoji for w in (*e.keywords, *e.near)}
    return {
        "words": len(words),
        "names": len(words & named),
        "captions": len(words & (named | near)),
    }


def measure(folder: Path, emoji: Sequence[Emoji], controls: bool = True) -> dict[str, Any]:
    """Everything that the card quotes of one set of weights."""
    pipeline, process = open_pipeline(folder), load(folder)
    names = ("text_encoder", "unet", "vae")
    exact = exact_denoiser(process, known_pictures(process, emoji))
    each = {"conjured": process, "untrained": next(twins(folder)), "exact": exact}
    found = {
        "parameters": {k: sum(p.numel() for p in getattr(pipeline, k).parameters()) for k in names},
        "megabytes": sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 1e6,
        "reconstruction_psnr_db": reconstruction_psnr(pipeline.vae, emoji),
        "recognised": recognised(pipeline, each, emoji),
        "weights": weights_hash(process),
    }
    print(json.dumps(found, indent=1), flush=True)
    known = exact if controls else None
    rows = [row for name in DRAWS for row in people(folder, process, known, name)]
    return found | {"agreement": rows}


def provenance() -> dict[str, str]:
    """When, and with what."""
    git = ["git", "rev-parse", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False)
    versions = {m.__name__: m.__version__ for m in (torch, diffusers, transformers, np)}
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit.stdout.strip(),
        **versions,
    }


def quality_table(now: Mapping[str, Any], before: Mapping[str, Any] | None) -> str:
    """Recognition and reconstruction, now and before, as Markdown."""

    def told(measured: Mapping[str, Any], kind: str) -> str:
        found = measured["recognised"][kind]
        return f"{found['first']:.1f} % / {found['five']:.1f} %"

    lines = [
        (
            f"pictures of {NAMES} random names that are nearest their own emoji: first / in five",
            "conjured",
        ),
        ("the same for the autoencoder's reconstructions, a ceiling", "reconstructed"),
        ("the same for the exact denoiser of the emoji", "exact"),
        ("the same for the U-Net untrained", "untrained"),
    ]
    both = [now, *([before] if before else [])]
    rows = [[label, *(told(one, kind) for one in both)] for label, kind in lines]
    psnr = [f"{one['reconstruction_psnr_db']:.1f} dB" for one in both]
    rows.append(["PSNR of the autoencoder over all emoji, each drawn alone", *psnr])
    head = ["measurement", "value", *(["before"] if before else [])]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def agreement_table(now: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]]) -> str:
    """Methods by benchmarks, × 100 with 95 % intervals, as Markdown; before in columns beside."""

    def cells(rows: Sequence[Mapping[str, Any]], when: str) -> pd.DataFrame:
        table = pd.DataFrame(rows)
        table["column"] = table["benchmark"].map(benchmarks.NAMES) + when
        table["cell"] = [
            f"{100 * r.value:z.1f} [{100 * r.low:z.0f}, {100 * r.high:z.0f}]"
            for r in table.itertuples()
        ]
        return table

    table = pd.concat([cells(now, ""), *([cells(before, ", before")] if before else [])])
    wide = table.pivot(index="method", columns="column", values="cell").fillna("")
    wide = wide.loc[table["method"].unique(), table["column"].unique()]
    lines = ["| | " + " | ".join(wide.columns) + " |", "|---" * (len(wide.columns) + 1) + "|"]
    lines += [f"| {method} | " + " | ".join(row) + " |" for method, row in wide.iterrows()]
    return "\n".join(lines)


def words_table(found: Mapping[str, Mapping[str, int]]) -> str:
    """How many words of each benchmark the captions hold, as Markdown."""
    lines = ["| benchmark | words | names of an emoji | in some caption |", "|---|---:|---:|---:|"]
    for name, count in found.items():
        counts = " | ".join(str(count[key]) for key in ("words", "names", "captions"))
        lines.append(f"| {benchmarks.NAMES[name]} | {counts} |")
    return "\n".join(lines)


def write_card(folder: Path) -> None:
    """Fill ``training/card_template.md`` with the measurements and write it as ``README.md``."""
    measured = json.loads((folder / "evaluation.json").read_text())
    log = json.loads((folder / "training_log.json").read_text())
    last = {stage: records[-1] for stage, records in log["stages"].items()}
    template = (Path(__file__).parent / "card_template.md").read_text(encoding="utf-8")
    rows, before = measured.pop("agreement"), measured.pop("before", None)
    text = template.format(
        quality=quality_table(measured, before),
        agreement=agreement_table(rows, before["agreement"] if before else []),
        words=words_table(measured["benchmark_words"]),
        millions={k: v / 1e6 for k, v in measured["parameters"].items()},
        variance=100 * log["token_table_variance_kept"],
        last=last,
        **measured,
    )
    (folder / "README.md").write_text(re.sub(r"\n{3,}", "\n\n", text), encoding="utf-8")


def main() -> None:
    """Measure (unless ``--text-only``) and write the card."""
    parser = argparse.ArgumentParser(prog="python -m training.card", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("data/emoji-diffusion"))
    parser.add_argument(
        "--work", type=Path, default=Path("_training"), help="of python -m training"
    )
    parser.add_argument("--before", type=Path, help="earlier weights, measured for comparison")
    parser.add_argument("--text-only", action="store_true", help="measure nothing anew")
    options = parser.parse_args()
    file, sources = options.folder / "evaluation.json", options.work / "sources"
    if not options.text_only:
        emoji = load_emoji(sources / FONT, sources / ANNOTATIONS)
        emoji = near_words(sources / TEACHER, emoji, [], options.work / "near_words.json")
        measured = {"emoji": len(emoji), "settings": SETTINGS, "draws": DRAWS}
        measured |= {"benchmark_words": {n: words_with_a_picture(emoji, n) for n in DRAWS}}
        measured |= measure(options.folder, emoji) | {"provenance": provenance()}
        if options.before:
            measured["before"] = measure(options.before, emoji, controls=False)
        file.write_text(json.dumps(measured, indent=1) + "\n")
    write_card(options.folder)


if __name__ == "__main__":
    main()
