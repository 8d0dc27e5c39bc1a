"""What steps and draws buy, from the results of record: the tables of book/settings.md.

Everything is computed when the book is built; chapter 7 has the same in full.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from conjure_tools.benchmarks import NAMES
from studies import ablations, ablations_page, records, tolerances
from studies.findings import WEIGHTING
from studies.pages import bracketed, captioned

SETS = {name: (NAMES | ablations_page.LABELS)[name] for name in ablations.SETS}


def put_beside(page: Path) -> None:
    """What book/settings.md includes."""
    settings, tolerance = records.opened("ablations"), records.opened("tolerance")
    parts = {
        "ranks": ranks(settings.table) if settings else records.NOT_MADE,
        "numbers": numbers(tolerance) if tolerance else records.NOT_MADE,
    }
    for name, text in parts.items():
        (page / f"settings_{name}.txt").write_text(text, encoding="utf-8")


def ranks(table: pd.DataFrame) -> str:
    """Agreement with people by steps and draws, on each set of the ablations."""
    table = table[(table["weighting"] == WEIGHTING) & table["study"].isin(["steps", "draws"])]
    rows = []
    table = table.assign(price=4 * table["steps"] * table["draws"])
    for (price, steps, draws), part in table.groupby(["price", "steps", "draws"]):
        agreed = part.set_index("benchmark")[["spearman", "low", "high"]]
        found = [100 * agreed.loc[name].to_numpy(float) for name in SETS]
        # a range over one or two draws says next to nothing of others
        said = [bracketed(one, ".0f") if draws > 2 else f"{one[0]:.0f}" for one in found]
        rows.append([f"{steps}", f"{draws}", f"{price:,}", *said])
    heads = ["steps", "draws", "noise predictions", *SETS.values()]
    return captioned(
        "Agreement with people, ρ × 100 [95 %], and the price of a pair that shares no text.",
        heads,
        rows,
    )


def numbers(found: records.Record) -> str:
    """How far the number of one pair is off, by how steps and draws were chosen."""
    rows = [
        [
            str(name),
            f"{row['pairs']:.0f}",
            f"{row['predictions']:,.0f}",
            f"{row['rms']:.0f} %",
            f"{row['worst told']:.0f} %",
        ]
        for name, row in tolerances.errors_by_setting(found.table).iterrows()
    ]
    heads = ["steps and draws", "pairs", "noise predictions", "rms error", "largest error told"]
    aimed = 100 * found.notes["settings"]["tolerance"]
    return captioned(
        f"Distances of words in nats against a fine reference: a tolerance of {aimed:.0f} %, and "
        "fixed settings at its mean price.",
        heads,
        rows,
    )
