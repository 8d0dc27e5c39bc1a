"""The study of tolerances, on normal laws whose divergence is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_spending import LAWS, scattered, true_divergence

pytest.importorskip("studies")
from studies import tolerances

PAIRS = pd.DataFrame(
    {"text1": ["0", "0", "1", "0"] * 3, "text2": ["1", "2", "2", "3"] * 3,
     "score": np.arange(12.0), "id": [f"p{i}" for i in range(12)]}
)  # fmt: skip


def test_a_study_of_known_divergences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = scattered()
    monkeypatch.setattr(tolerances, "weights_hash", lambda _: "0" * 64)
    pairs = PAIRS[PAIRS["text2"] != "3"].reset_index(drop=True)
    how = {"references": 3, "reference": {"draws": 400, "fine_draws": 20, "fine": 100}}
    table, notes = tolerances.make(process, pairs, tmp_path, tolerance=0.2, resamples=50, **how)
    assert len(LAWS) == 4 and not {"text1", "text2"} & set(table)
    mine = table[table["setting"] == tolerances.ADAPTIVE]
    assert len(mine) == len(pairs) and mine["met"].all() and mine["draws"].nunique() > 1
    known = mine.dropna(subset="reference")
    truth = [true_divergence(int(a), int(b)) for a, b in pairs[["text1", "text2"]].to_numpy()[:3]]
    off = (known["reference"] - truth).abs()
    assert (off < 4 * known["reference_error"] + 0.02 * np.array(truth)).all()
    found = tolerances.errors_by_setting(table)
    cost = found["predictions"] / mine["evaluations"].mean()
    assert set(found.index) == {tolerances.ADAPTIVE, *tolerances.FIXED}
    assert cost.between(0.7, 1.4).all()
    assert found.loc[tolerances.ADAPTIVE, "worst told"] <= 20
    before = process.evaluations  # all is kept
    again, _ = tolerances.make(process, pairs, tmp_path, tolerance=0.2, resamples=50, **how)
    assert process.evaluations == before
    pd.testing.assert_frame_equal(again, table)
    record = tolerances.Record("tolerance", table, notes)
    overlay = record.overlay(mine, ["id", "setting"], "value")
    facts = tolerances.facts(mine, record, overlay)
    assert "100 % met it" in facts["tolerance_found"]
    assert len(tolerances.shown_errors(record).data) == 5  # type: ignore[union-attr]
