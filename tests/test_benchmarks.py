"""Data sets and correlations against scipy, hand-made cases and the published counts."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from conjure_lib.benchmarks import FILES, agreement, load_pairs, spearman


def test_spearman_equals_scipy_with_ties() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, 80).astype(float), rng.normal(size=80)
    assert spearman(x, y).rho == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


def test_the_interval_equals_scipys_bootstrap() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=120)
    y = x + rng.normal(size=120)
    found = spearman(x, y)
    reference = stats.bootstrap(
        (x, y),
        lambda a, b: stats.spearmanr(a, b).statistic,
        paired=True,
        vectorized=False,
        method="percentile",
        n_resamples=2000,
        rng=np.random.default_rng(2),
    ).confidence_interval
    assert found.low == pytest.approx(reference.low, abs=0.02)
    assert found.high == pytest.approx(reference.high, abs=0.02)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([1, 2, 3], [1, 2], "one length"),
        ([1, 2], [1, 2], "3 or more"),
        ([1, 2, np.nan], [1, 2, 3], "not finite"),
    ],
)
def test_bad_vectors(x: list[float], y: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spearman(np.array(x), np.array(y))


def test_agreement_by_part_of_speech() -> None:
    table = pd.DataFrame({"score": [1, 2, 3, 3, 2, 1.0], "pos": list("NNNVVV")})
    rows = agreement(table, [1, 2, 3, 4, 5, 6])
    assert {r["group"]: round(r["rho"], 6) for r in rows if r["group"]} == {"N": 1.0, "V": -1.0}
    assert [r["pairs"] for r in rows] == [6, 3, 3]


def test_errors_name_the_set_and_the_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"one of rg65, .*not 'rg66'"):
        load_pairs("rg66")
    monkeypatch.delenv("CONJURE_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match=r"set CONJURE_DATA to a folder .*rg65\.csv"):
        load_pairs("rg65")
    file = tmp_path / FILES["rg65"][0]
    file.parent.mkdir()
    file.write_text("word1,word2,pos,score\ncat,dog,N,3\n")
    monkeypatch.setenv("CONJURE_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"rg65\.csv is not the published file"):
        load_pairs("rg65")


@pytest.mark.skipif(not os.environ.get("CONJURE_DATA"), reason="CONJURE_DATA is not set")
@pytest.mark.parametrize(
    ("name", "pairs", "lowest", "highest"), [("rg65", 65, 0, 4), ("simlex999", 999, 0, 10)]
)
def test_published_counts(name: str, pairs: int, lowest: float, highest: float) -> None:
    table = load_pairs(name)
    assert len(table) == pairs
    assert list(table.columns[:2]) == ["text1", "text2"]
    assert table["score"].between(lowest, highest).all()
