"""Findings across chapters: their statistics against independent truth, their words, their page."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import choosing
import execute
import findings as page
import numpy as np
import pandas as pd
import pytest
from execute import ROOT
from scipy.stats import norm, rankdata, spearmanr

from conjure_tools.correlation import of_ranks
from conjure_tools.neighbors import nngs
from studies import book_findings, claims, comparison, findings, records, tolerances
from studies.book_findings import Finding

NOTEBOOKS = execute.chapters(ROOT / "notebooks")


# -- statistics -------------------------------------------------------------------------------


def growth(people: np.ndarray, others: np.ndarray, one: np.ndarray) -> float:
    """By how much R² of people's ranks grows with one more variable, by plain least squares."""

    def explained(x: np.ndarray) -> float:
        ranks = np.column_stack([np.ones(len(x)), *(rankdata(c) for c in x.T)])
        target = rankdata(people)
        left = target - ranks @ np.linalg.lstsq(ranks, target)[0]
        return float(1 - left.var() / target.var())

    return explained(np.column_stack([others, one])) - explained(others)


@pytest.mark.parametrize("seed", range(3))
def test_the_share_is_what_least_squares_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(90, 1))
    people, ours, *cosines = (common + rng.normal(size=(90, 4))).T.round(1)  # with ties
    own = growth(people, np.column_stack(cosines), ours)
    expected = 1 - own / spearmanr(ours, people).statistic ** 2
    found = of_ranks([ours, people, *cosines], findings.share, resamples=0)
    assert found.value == pytest.approx(expected, abs=1e-9)


def test_the_share_of_a_known_law() -> None:
    """Gaussians of known correlations, whose rank correlations are known too: 6/π asin(r/2)."""
    r = np.array([[1, 0.5, 0.6], [0.5, 1, 0.4], [0.6, 0.4, 1]])  # conjured, people, cosine
    x = np.random.default_rng(0).multivariate_normal(np.zeros(3), r, size=40_000)
    ranks = 6 / np.pi * np.arcsin(r / 2)
    partial = ranks[0, 1] - ranks[0, 2] * ranks[1, 2]
    expected = 1 - partial**2 / (1 - ranks[0, 2] ** 2) / ranks[0, 1] ** 2
    assert of_ranks(list(x.T), findings.share, resamples=0).value == pytest.approx(
        expected, abs=0.02
    )
    echo = x[:, 2] + np.random.default_rng(1).normal(size=len(x))  # the cosine, blurred
    found = of_ranks([echo, x[:, 1], x[:, 2]], findings.share, resamples=0)
    assert found.value == pytest.approx(1, abs=0.01)


def test_a_gain_is_over_the_better_of_the_two() -> None:
    rng = np.random.default_rng(0)
    people = rng.normal(size=60)
    both, first, second = people + rng.normal(size=(3, 60)) * [[0.5], [2], [1]]

    def gain(rows: np.ndarray) -> float:
        rho = [spearmanr(x[rows], people[rows]).statistic for x in (both, first, second)]
        return float(rho[0] - max(rho[1:]))

    found = of_ranks([both, first, second, people], findings.over_the_better, resamples=2000)
    assert found.value == pytest.approx(gain(np.arange(60)), abs=1e-12)
    drawn = [gain(rng.integers(60, size=60)) for _ in range(2000)]  # a plain bootstrap
    np.testing.assert_allclose(
        [found.low, found.high], np.quantile(drawn, [0.025, 0.975]), atol=0.02
    )
    swapped = of_ranks([both, second, first, people], findings.over_the_better, resamples=0)
    assert swapped.value == pytest.approx(found.value)


def test_no_gain_is_found_where_there_is_none() -> None:
    """A half that knows nothing of people: averaging it in loses, and the interval says so."""
    rng = np.random.default_rng(0)
    people = rng.normal(size=400)
    cosine, noise = people + rng.normal(size=400), rng.normal(size=400)
    part = pd.DataFrame({findings.WEIGHTING: noise, "cosine": cosine})
    four = [findings.averaged(part, "cosine"), noise, cosine, people]
    found = of_ranks(four, findings.over_the_better, resamples=500)
    assert found.high < 0


@pytest.mark.parametrize(
    ("rows", "weights", "expected"),
    [
        ([[1, 0, 3]], [1], [1, 0, 3]),
        ([[1, 0, 3]], [-1], [-1, -3, 0]),
        ([[2, 1, 5], [1, 0, 3]], [1, -1], [1, 1 - 5**0.5, 1 + 10**0.5]),
        ([[2, 1, 5], [4, 3, 7]], [0.5, 0.5], [3, 3 - 0.5**0.5, 3 + 4.5**0.5]),
    ],
)
def test_intervals_add_in_squares(rows: Any, weights: Any, expected: Any) -> None:
    np.testing.assert_allclose(findings.combined(rows, weights), expected)


def test_intervals_of_differences_cover() -> None:
    """Two correlations of different pairs, by Fisher's interval: as in Zou's own study."""
    rng, n, true, inside = np.random.default_rng(0), 50, (0.7, 0.3), []
    for _ in range(1500):
        rows = []
        for r in true:
            x = rng.multivariate_normal([0, 0], [[1, r], [r, 1]], size=n)
            z = np.arctanh(np.corrcoef(x.T)[0, 1])
            wide = norm.ppf(0.975) / (n - 3) ** 0.5
            rows.append(np.tanh([z, z - wide, z + wide]))
        _, low, high = findings.combined(np.array(rows), [1, -1])
        inside.append(low < true[0] - true[1] < high)
    assert 0.935 < np.mean(inside) < 0.965


# -- weights learned elsewhere ----------------------------------------------------------------


def rated(seed: int, weights: tuple[float, float], pairs: int = 60) -> pd.DataFrame:
    """A set whose ratings are a known mix of conjured similarity and a cosine."""
    rng = np.random.default_rng(seed)
    x = np.stack([rng.permutation(pairs), rng.permutation(pairs)])
    texts = {"text1": [f"{seed} {i}" for i in range(pairs)], "text2": "word"}
    mixed = {findings.WEIGHTING: x[0], "cosine": x[1], "people": np.asarray(weights) @ x}
    return pd.DataFrame(texts | mixed)


def test_weights_come_from_the_other_sets_alone() -> None:
    sets = {name: rated(i, (0.8, 0.2)) for i, name in enumerate("abc")}
    before = findings.learned(sets, "a", "cosine")
    assert before[0] / before[1] == pytest.approx(4, rel=0.15)  # of percentiles, not of values
    sets["a"]["people"] *= -1
    np.testing.assert_array_equal(findings.learned(sets, "a", "cosine"), before)
    assert findings.learned(sets, "b", "cosine") @ [1, 1] < before @ [1, 1]


def test_no_pair_is_tested_that_was_fitted() -> None:
    """A pair that stands in both, in the other order and in capitals, has no say."""
    sets = {"a": rated(0, (0.5, 0.5)), "b": rated(1, (0.5, 0.5))}
    other = sets["b"].copy()
    twice = sets["a"].loc[:9, ["text2", "text1"]].apply(lambda c: c.str.upper())
    other.loc[:9, ["text1", "text2"]] = twice.to_numpy()
    ranked = other[[findings.WEIGHTING, "cosine", "people"]].rank(pct=True)
    x = (ranked - ranked.mean()).to_numpy()[10:]
    by_hand = np.linalg.solve(x[:, :2].T @ x[:, :2], x[:, :2].T @ x[:, 2])
    found = findings.learned({"a": sets["a"], "b": other}, "a", "cosine")
    np.testing.assert_allclose(found, by_hand)


def test_a_set_is_measured_as_the_words_say() -> None:
    rng, n = np.random.default_rng(0), 80
    people = rng.normal(size=n)
    methods = [findings.WEIGHTING, *findings.COSINES, *findings.READINGS.values()]
    sets = {}
    for name in ("a", "b"):
        columns = {m: people + rng.normal(size=n) for m in methods}
        words = {
            "text1": rng.integers(20, size=n).astype(str),
            "text2": name,
            "pos": ["N", "V"] * 40,
        }
        sets[name] = pd.DataFrame(words | columns | {"people": people})
    own = findings.COSINES[0]
    found, part = findings.statistics_of_set(sets, "a", own, 50), sets["a"]

    def rho(column: Any, rows: Any = slice(None)) -> float:
        return float(spearmanr(np.asarray(column)[rows], people[rows]).statistic)

    ours = part[findings.WEIGHTING]
    assert found["", "conjured"].value == pytest.approx(rho(ours))
    assert found["N", "conjured"].value == pytest.approx(rho(ours, slice(0, None, 2)))
    assert found["V", "partial"].pairs == 40
    less = found["", "less text encoder"]
    assert less.value == pytest.approx(rho(ours) - rho(part[own]))
    assert less.low < less.value < less.high
    final = part["direct_output"]
    assert found["", "less final outputs"].value == pytest.approx(rho(ours) - rho(final))
    both = rho(rankdata(ours) + rankdata(part[own]))
    assert found["", "averaged"].value == pytest.approx(both)
    best = max(rho(ours), rho(part[own]))
    assert found["", "averaged, over the better"].value == pytest.approx(both - best)


# -- the record -------------------------------------------------------------------------------


def test_the_record_is_of_the_records_beside_it() -> None:
    record = records.opened("findings")
    assert record
    assert record.notes["from"] == findings.source_hashes(), "make records NAME=findings"
    assert record.notes["weights"] == findings.common_weights()
    assert not {"text1", "text2", "score", "people", "id"} & {*record.table}
    rows = record.table.dropna(subset=["low", "high"])
    assert len(rows) == len(record.table)
    assert (rows["low"] <= rows["value"]).all() and (rows["value"] <= rows["high"]).all()


@pytest.mark.skipif(
    "CONJURE_DATA" not in os.environ, reason="ratings: CONJURE_DATA names no folder"
)
def test_the_record_is_what_the_ratings_give() -> None:
    record = records.opened("findings")
    assert record
    again = book_findings.computed_again(record)
    assert again is not None
    assert len(again.rows) == len(record.table)
    assert again.worst < 1e-9


def test_different_models_are_not_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(name: str) -> records.Record:
        return records.Record(name, pd.DataFrame(), {"weights": "b" if name == "sts" else "a"})

    monkeypatch.setattr(records, "results_of_record", made)
    with pytest.raises(ValueError, match="words, sts were made with different models"):
        findings.common_weights()


@pytest.mark.parametrize(("spaces", "read"), [("a", True), ("b", False)])
def test_spaces_of_another_model_are_left_out(
    spaces: str, read: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(name: str) -> records.Record:
        weights = spaces if name == "spaces" else "a"
        return records.Record(name, pd.DataFrame(), {"weights": weights})

    monkeypatch.setattr(records, "results_of_record", made)
    assert findings.made_alike() == ["words", "sts", *["spaces"] * read]


def test_what_is_not_recorded_is_no_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    assert findings.source_hashes() == {}


# -- in words ---------------------------------------------------------------------------------


HEADS = ("It rises", "It falls", "The change")


@pytest.mark.parametrize(
    ("numbers", "side", "sentence"),
    [
        ((2, 1, 3), 1, "It rises: +2.0 [+1.0, +3.0]."),
        ((-2, -3, -1), -1, "It falls: -2.0 [-3.0, -1.0]."),
        ((1, -1, 3), 0, "The change is not distinguishable from zero: +1.0 [-1.0, +3.0]."),
        ((0, 0, 0), 0, "The change is not distinguishable from zero: +0.00 [+0.00, +0.00]."),
        ((-0.04, -0.06, -0.01), -1, "It falls: -0.04 [-0.06, -0.01]."),
    ],
)
def test_a_finding_says_what_its_interval_allows(
    numbers: tuple[float, float, float], side: int, sentence: str
) -> None:
    (found,) = book_findings.finding("part", "name", "chapter", numbers, HEADS, times=1)
    assert (found.side, found.sentence) == (side, sentence)


def test_what_was_not_measured_is_no_finding() -> None:
    assert book_findings.finding("part", "name", "chapter", (np.nan, 0, 1), HEADS) == []


@pytest.mark.parametrize(
    ("lows", "verdict"),
    [
        ([1, 2], "holds"),
        ([1, -1], "in part"),
        ([-1, 0], "not confirmed"),
        ([], "could not be tested here"),
        ([1, np.nan], "could not be tested here"),
    ],
)
def test_verdicts_follow_the_rule(lows: list[float], verdict: str) -> None:
    rows = [np.array([low + 1, low, low + 2]) for low in lows]
    assert claims.claim_of("text", "theirs", "ours", "05_sts", rows).verdict == verdict


def test_the_papers_figures_are_those_of_the_file() -> None:
    assert claims.printed(claims.METHOD) == "STS-B 70.3, SICK-R 66.0, mean of seven 65.4"
    (simcse,) = claims.on_simcse()
    assert "68.4" in simcse.theirs and "76.85" in simcse.ours and simcse.verdict == "not confirmed"


def test_neighbours_beyond_chance_are_those_of_the_library() -> None:
    record = records.opened("spaces")
    assert record
    (found,) = book_findings.of_neighbours(record)
    words = record.notes["words"]
    space = comparison.matrices(record.table, words, findings.WEIGHTING)[comparison.BASE]
    group = [record.notes["groups"][w] for w in words]
    theirs = np.array([[float(a != b) for a in group] for b in group])
    how: dict[str, Any] = {"metric": "precomputed", "permutations": 0, "resamples": 0}
    one = [nngs(space, theirs, 5, seed=s, **how).corrected for s in range(10)]
    assert found.value == pytest.approx(100 * np.mean(one))


def test_the_weightings_are_those_of_the_chapters() -> None:
    said = {p.name[:2]: execute.declared_parameters(p).get("WEIGHTING") for p in NOTEBOOKS}
    assert {said[number] for number in ("05", "06", "09", "11", "12")} == {findings.WEIGHTING}
    assert {said[number] for number in ("07", "08")} == {book_findings.PATHS}


# -- the page ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found() -> Mapping[str, list[Finding]]:
    there = {name: records.opened(name) for name in book_findings.SOURCES}
    return book_findings.everything({name: one for name, one in there.items() if one})


def test_every_finding_has_an_interval_a_sentence_and_a_chapter(
    found: Mapping[str, list[Finding]],
) -> None:
    assert tuple(found) == book_findings.PARTS
    every = [f for part in found.values() for f in part]
    assert len({f.name for f in every}) == len(every) > 25
    for f in every:
        assert f.low <= f.value <= f.high, f.name
        assert f.chapter in {path.stem for path in NOTEBOOKS}
        assert ("not distinguishable from zero" in f.sentence) == (f.low <= 0 <= f.high)
        assert re.search(r"[^,;:] ?: [+-][\d.]+ \[[+-][\d.]+, [+-][\d.]+\]\.$", f.sentence), (
            f.sentence
        )


def written(folder: Path) -> dict[str, str]:
    """What the page includes, by name."""
    (folder / "images").mkdir()
    page.put_beside(folder)
    return {file.stem: file.read_text(encoding="utf-8") for file in folder.glob("*.txt")}


def included() -> set[str]:
    text = (ROOT / "book" / "findings.md").read_text(encoding="utf-8")
    return {Path(name).stem for name in re.findall(r"\{include\} (\S+)", text)}


def test_the_page_is_made_without_ratings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(resamples: int) -> Any:
        raise FileNotFoundError("no ratings")

    monkeypatch.setattr(findings, "measured_table", nothing)
    parts = written(tmp_path)
    assert parts.keys() == included()
    assert all(text.strip() for text in parts.values())
    assert "not at hand" in parts["findings_state"]
    said = re.sub(r"```.*?```", "", " ".join(parts.values()), flags=re.DOTALL)  # not its code
    assert "nan" not in said.lower().replace("finance", "")
    drawn = (tmp_path / "images" / "findings.svg").read_bytes()
    assert b"conjured less text encoder: sentences" in drawn
    (tmp_path / "again").mkdir()
    written(tmp_path / "again")
    assert (tmp_path / "again" / "images" / "findings.svg").read_bytes() == drawn


def test_the_page_is_made_without_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "opened", lambda name: None)
    parts = written(tmp_path)
    assert "have not been made: `findings`, `encoders`" in parts["findings_state"]
    assert "not been made yet" in parts["findings_answer"]
    assert "could not be tested here" in parts["findings_claims"]


def test_records_of_other_weights_are_called_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book_findings, "computed_again", lambda record: None)
    stale = page.state(book_findings.kept("0" * 64))
    assert "were made with other weights" in stale and "`encoders`" in stale
    mine = json.loads((records.RESULTS / "findings.json").read_text())["weights"]
    assert "`findings`" not in page.state(book_findings.kept(mine))
    monkeypatch.setattr(findings, "source_hashes", lambda: {"words": "", "sts": "", "spaces": ""})
    assert "`words`, `sts`, `spaces`" in page.state(book_findings.kept(mine))


# -- which settings ---------------------------------------------------------------------------


def test_the_page_of_settings_has_agreement_and_error_of_the_records(tmp_path: Path) -> None:
    choosing.put_beside(tmp_path)
    rows = (tmp_path / "settings_ranks.txt").read_text().splitlines()[4:-2]
    prices = [int(row.split("|")[3].replace(",", "")) for row in rows]
    assert prices == sorted(prices)
    table = records.results_of_record("ablations").table
    table = table[(table["weighting"] == "noise") & (table["study"] == "draws")]
    for row in table[table["benchmark"] == "rg65"].itertuples():
        (line,) = [r for r in rows if r.startswith(f"| {row.steps} | {row.draws} |")]
        assert line.split("|")[4].split()[0] == f"{100 * row.spearman:.0f}"
    errors = (tmp_path / "settings_numbers.txt").read_text()
    assert tolerances.ADAPTIVE in errors
    assert all(name in errors for name in tolerances.FIXED)


def test_the_page_of_settings_says_which_record_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "opened", lambda name: None)
    choosing.put_beside(tmp_path)
    for part in ("ranks", "numbers"):
        assert "not been made" in (tmp_path / f"settings_{part}.txt").read_text()
