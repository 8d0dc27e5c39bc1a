"""Steps and draws by a tolerance, against fixed ones at equal cost: the record 'tolerance'.

Chapter 7 runs the same functions on a few pairs. What is finished is kept,
resumable. Takes about 360,000 noise predictions: half an hour of a free CPU core that makes 200 a
second.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

import conjure_lib as cj
from conjure_lib.sampling import Settings
from conjure_lib.terms import BUDGET, Spent
from conjure_tools import benchmarks, correlation, runs
from conjure_tools.fingerprints import weights_hash
from studies.pages import bracketed
from studies.records import (
    Made,
    Overlay,
    Record,
    in_single,
    kept_table,
    laid_over,
    opened,
    rows_of,
    texts_of,
    work,
)

PAIRS = 200  # of SimLex-999, at random
TOLERANCE = 0.15
BEGIN: dict[str, Any] = {"steps": 10, "draws": 4}
FIXED = {  # settings of equal cost: steps and spacing
    "10 steps, even in λ": (10, "log-snr"),
    "5 steps, even in λ": (5, "log-snr"),
    "20 steps, even in λ": (20, "log-snr"),
    "10 steps, even in t": (10, "leading"),
}
EVERYWHERE = 1  # of FIXED, so many on all pairs; the others where there is a reference
REFERENCES = 12  # pairs that have one
REFERENCE = {"draws": 48, "fine_draws": 2, "fine": 200}
OTHER = 1000  # the first draw of the reference: none of the others
BLOCK = 20  # pairs that are kept at a time
ADAPTIVE = "by the tolerance"
ELSEWHERE = [("cat", "dog"), ("car", "train"), ("coast", "shore"), ("boy", "lad")]


def record() -> Made:
    """The table 'tolerance'."""
    table, notes = make(cj.load(), pairs_of(PAIRS), work("tolerances"))
    return {"tolerance": in_single(table)}, notes


def pairs_of(count: int) -> pd.DataFrame:
    """So many pairs of SimLex-999, at random: text1, text2, score, id."""
    pairs = benchmarks.load_pairs("simlex999")
    return pairs.sample(count, random_state=0).reset_index(drop=True)


def make(
    process: cj.GenerativeProcess,
    pairs: pd.DataFrame,
    folder: Path,
    *,
    tolerance: float = TOLERANCE,
    references: int = REFERENCES,
    reference: dict[str, int] | None = None,
    batch_size: int = 64,
    resamples: int = 10_000,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A row a pair and setting: id, setting, value, both errors, evaluations, met, steps, draws;
    reference and its standard error, for the first ``references`` pairs. And where it is from.

    The fixed settings take as many draws as cost what the adaptive one takes in the mean.
    """
    how = dict[str, Any](batch_size=batch_size)
    adaptive = {**BEGIN, "tolerance": tolerance, **how}
    parts = [_kept(process, pairs, folder, ADAPTIVE, adaptive)]
    spent = float(parts[0]["evaluations"].mean())
    for i, (name, (steps, spacing)) in enumerate(FIXED.items()):
        some = pairs if i < EVERYWHERE else pairs[:references]
        draws = max(2, round(spent / (4 * steps)))
        settings = {"steps": steps, "draws": draws, "spacing": spacing, **how}
        parts.append(_kept(process, some, folder, name, settings))
    some, how = pairs[:references], how | (reference or REFERENCE)
    truth = kept_table(
        folder / "reference.parquet",
        [rows_of(some), weights_hash(process), how],
        lambda: referred(process, some, **how),
    )
    table = pd.concat(parts, ignore_index=True).merge(truth, on="id", how="left")
    begin = process.settled(**BEGIN, spacing="log-snr")  # as a tolerance has it
    notes = {
        "settings": {"tolerance": tolerance, "budget": BUDGET, **BEGIN, **begin.told()},
        "reference": reference or REFERENCE, "model": process.name,
        "weights": weights_hash(process),
        "agreement": agreement_by_setting(table, pairs, resamples),
        **runs.provenance(process),
    }  # fmt: skip
    return table, notes


def _kept(
    process: cj.GenerativeProcess, pairs: pd.DataFrame, folder: Path, name: str, how: dict[str, Any]
) -> pd.DataFrame:
    """`measured`, block by block, each from its file or made and put there."""
    parts, weights = [], weights_hash(process)
    for first in range(0, len(pairs), BLOCK):
        some = pairs[first : first + BLOCK]
        file = folder / f"{name.replace(' ', '-')}-{first:04d}.parquet"
        of = [rows_of(some), weights, how]
        parts.append(kept_table(file, of, partial(measured, process, some, name, **how)))
    return pd.concat(parts, ignore_index=True)


class Spending(Settings, total=False):
    """What a call of `conjure_lib.distances` takes by name, of which a study sets some."""

    tolerance: float | None
    budget: int | None


def measured(
    process: cj.GenerativeProcess, pairs: pd.DataFrame, name: str, **how: Unpack[Spending]
) -> pd.DataFrame:
    """A row a pair: what `make` has of one setting."""
    found = cj.distances(process, texts_of(pairs), **how)
    rows = []
    for key, one in zip(pairs["id"], found, strict=True):
        steps, draws = len(one.timesteps), len(one.by_draw)
        spent = one.spent or Spent(4 * steps * draws, True)
        rows.append({
            "id": key, "setting": name, "value": one.value, "stderr": one.stderr,
            "quadrature_error": one.quadrature_error, "steps": steps, "draws": draws,
            **asdict(spent),
        })  # fmt: skip
    return pd.DataFrame(rows)


def referred(
    process: cj.GenerativeProcess,
    pairs: pd.DataFrame,
    *,
    draws: int,
    fine_draws: int,
    fine: int,
    batch_size: int,
) -> pd.DataFrame:
    """The distance in ``fine`` steps of each pair, with its standard error: id, reference, error.

    Many draws of ten steps, and what more steps change in a few of them: fine and coarse paths of
    one draw scatter alike, so that little is left in the difference.
    """
    even: dict[str, Any] = {"spacing": "log-snr", "batch_size": batch_size}
    texts = texts_of(pairs)
    few = range(OTHER, OTHER + fine_draws)
    many = cj.distances(process, texts, steps=10, draws=range(OTHER, OTHER + draws), **even)
    coarse = cj.distances(process, texts, steps=10, draws=few, **even)
    finer = cj.distances(process, texts, steps=fine, draws=few, **even)
    rows = []
    for key, a, b, c in zip(pairs["id"], many, coarse, finer, strict=True):
        change = c.by_draw - b.by_draw
        error = math.hypot(a.stderr, change.std(ddof=1) / math.sqrt(len(change)))
        rows.append({"id": key, "reference": a.value + change.mean(), "reference_error": error})
    return pd.DataFrame(rows)


def agreement_by_setting(
    table: pd.DataFrame, pairs: pd.DataFrame, resamples: int
) -> list[dict[str, Any]]:
    """ρ of minus the distance with people for the settings that have all pairs, with intervals."""
    human, rows, of = pairs["score"].to_numpy(float), [], {}
    for name, part in table.groupby("setting", sort=False):
        if len(part) == len(pairs):
            of[name] = -part.set_index("id").loc[pairs["id"], "value"].to_numpy()
    how: dict[str, Any] = {"texts": correlation.both_texts(pairs), "resamples": resamples}
    for name, values in of.items():
        found = correlation.spearman(values, human, **how)
        less = correlation.paired_bootstrap(values, of[ADAPTIVE], human, **how)
        rows.append({"setting": name, **asdict(found), "less": less.value,
                     "less_low": less.low, "less_high": less.high})  # fmt: skip
    return rows


# -- on the page ------------------------------------------------------------------------------


def live(
    process: cj.GenerativeProcess, count: int, tolerance: float, batch_size: int
) -> pd.DataFrame:
    """The first pairs of the record, or others where SimLex-999 is not at hand, done here."""
    try:
        pairs = pairs_of(PAIRS)[:count]
    except FileNotFoundError:
        print("SimLex-999 is not at hand (set CONJURE_DATA): these are other pairs")
        pairs = pd.DataFrame(ELSEWHERE[:count], columns=["text1", "text2"])
        pairs["id"] = [f"{a}, {b}" for a, b in ELSEWHERE[:count]]
    how = {**BEGIN, "tolerance": tolerance, "batch_size": batch_size}
    found = measured(process, pairs, ADAPTIVE, **how)
    return found.assign(pair=[f"{a}, {b}" for a, b in texts_of(pairs)])


def of_record(
    process: cj.GenerativeProcess, here: pd.DataFrame, tolerance: float
) -> tuple[Record | None, Overlay]:
    """The record, and the pairs of this page laid over it."""
    nothing = laid_over("tolerance")
    found = opened("tolerance")
    if found is None or process.name != found.notes["model"]:
        return None, nothing
    if found.notes["settings"]["tolerance"] != tolerance:
        return found, nothing
    keys = ["id", "setting"]
    return found, found.overlay(here, keys, "value", weights=weights_hash(process))


HEADINGS = {
    "value": "distance, nats",
    "stderr": "± draws, nats",
    "quadrature_error": "± steps, nats",
    "evaluations": "noise predictions",
    "met": "within the tolerance",
}


def shown(here: pd.DataFrame) -> Styler:
    """The pairs of this page."""
    table = here.drop(columns=["id", "setting"]).rename(columns=HEADINGS).set_index("pair")
    table[HEADINGS["met"]] = table[HEADINGS["met"]].map({True: "yes", False: "no"})
    styled = table.style.format(precision=1, thousands=",")
    return styled.set_caption("Steps and draws by the tolerance")


def errors_by_setting(table: pd.DataFrame) -> pd.DataFrame:
    """A row a setting: pairs, cost, relative error against the reference, and how far it is told.

    ``rms`` is freed of the reference's own variance; ``told`` is the rms of both errors that the
    estimates print, of all pairs, and ``worst told`` the largest.
    """
    rows = []
    for name, part in table.groupby("setting", sort=False):
        known = part.dropna(subset="reference")
        off = known["value"] / known["reference"] - 1
        own = (known["reference_error"] / known["reference"]) ** 2
        told = np.hypot(part["stderr"], part["quadrature_error"]) / part["value"]
        mean_square = float((off**2).mean() - own.mean())
        rows.append({
            "setting": name, "pairs": len(part), "predictions": part["evaluations"].mean(),
            "rms": 100 * math.sqrt(max(0.0, mean_square)), "bias": 100 * off.mean(),
            "worst": 100 * off.abs().max(), "told": 100 * math.sqrt((told**2).mean()),
            "worst told": 100 * told.max(),
        })  # fmt: skip
    return pd.DataFrame(rows).set_index("setting")


ERRORS = {
    "predictions": "noise predictions a pair",
    "rms": "rms error, %",
    "bias": "mean error, %",
    "worst": "largest error, %",
    "told": "rms of the errors told, %",
    "worst told": "largest error told, %",
    "ρ × 100, low": "from",
    "ρ × 100, high": "to",
}


def shown_errors(found: Record | None) -> Styler | None:
    """`errors_by_setting` of the record, with people's agreement where a setting has all pairs."""
    if found is None:
        return None
    table = errors_by_setting(found.table)
    agreed = pd.DataFrame(found.notes["agreement"]).set_index("setting")
    for column in ("value", "low", "high"):
        table[f"ρ × 100{'' if column == 'value' else f', {column}'}"] = 100 * agreed[column]
    table = table.rename(columns=ERRORS)
    caption = "Relative errors against the reference, and agreement with people [95 %]"
    return table.style.format(precision=1, na_rep="", thousands=",").set_caption(caption)


def facts(here: pd.DataFrame, found: Record | None, overlay: Overlay) -> dict[str, Any]:
    """What the text quotes."""
    least, most = here["evaluations"].min(), here["evaluations"].max()
    said = "There is no record of more pairs."
    if found is not None:
        aimed = 100 * found.notes["settings"]["tolerance"]
        said = (
            f"The record has a tolerance of {aimed:.0f} % on random pairs of SimLex-999, beside "
            f"fixed settings of the same mean cost. {_said(found)}"
        )
        if len(overlay.rows):
            said = f"Largest relative difference from the record: {overlay}. {said}"
    return {
        "here_spent": f"{least:,}" if least == most else f"between {least:,} and {most:,}",
        "tolerance_found": said,
    }


def _said(found: Record) -> str:
    """The record in words."""
    table, mine = errors_by_setting(found.table), found.table[found.table["setting"] == ADAPTIVE]
    fixed, pairs = table.drop(index=ADAPTIVE), found.table.dropna(subset="reference")["id"]
    agreed = pd.DataFrame(found.notes["agreement"]).set_index("setting").drop(index=ADAPTIVE)
    less = 100 * agreed[["less", "less_low", "less_high"]].iloc[0]
    best, worst, told = fixed["rms"].min(), fixed["rms"].max(), table["worst told"]
    return (
        f"Of {len(mine)} pairs {100 * mine['met'].mean():.0f} % met it, with "
        f"{mine['draws'].min()} to {mine['draws'].max()} draws and "
        f"{mine['evaluations'].mean():.0f} predictions in the mean. Against the reference, of "
        f"{pairs.nunique()} pairs, they are off by {table.loc[ADAPTIVE, 'rms']:.0f} % (root of the "
        f"mean square); fixed settings, at the same cost, by {best:.0f} % "
        f"({fixed['rms'].idxmin()}) to {worst:.0f} % ({fixed['rms'].idxmax()}). The largest error "
        f"that a pair is told is {told[ADAPTIVE]:.0f} % of its value with the tolerance, and "
        f"{told[agreed.index[0]]:.0f} % with {agreed.index[0]}. The latter's agreement with "
        f"people, less that of the former, is {bracketed(less.iloc[:3], '+.1f')} points of ρ × 100."
    )
