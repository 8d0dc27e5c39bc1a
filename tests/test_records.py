"""The results of record: written whole or not at all, opened, compared, made in their order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from studies import matrix, people, records

TABLE = pd.DataFrame({"id": ["a", "b", "c"], "distance": [1.0, 2.0, -4.0]})


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder of results, and one of work beside it."""
    monkeypatch.setattr(records, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(records, "WORK", tmp_path / "work")
    return tmp_path / "results"


def test_a_record_is_written_whole_or_not_at_all(shelf: Path) -> None:
    records.write("one", {"one": TABLE, "beside": TABLE}, {"seed": 0})
    assert sorted(f.name for f in shelf.iterdir()) == ["beside.parquet", "one.json", "one.parquet"]
    before = (shelf / "one.parquet").read_bytes()
    mixed = pd.DataFrame({"id": ["a", 1]})  # no column of a table
    with pytest.raises(Exception, match="id"):
        records.write("one", {"one": mixed}, {})
    assert (shelf / "one.parquet").read_bytes() == before
    assert len(list(shelf.iterdir())) == 3


def test_a_kept_table_is_made_once(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> pd.DataFrame:
        made.append(1)
        return TABLE

    for settings in ({"steps": 5}, {"steps": 5}, {"steps": 10}):
        of = [["cat", "dog"], settings]
        found = records.kept_table(tmp_path / "new" / "a.parquet", of, make)
        pd.testing.assert_frame_equal(found, TABLE)
    assert made == [1, 1], "once for each setting"


# -- fresh values over a record ---------------------------------------------------------------


@pytest.mark.parametrize(("factor", "stale"), [(1 + 1e-6, False), (1.02, True), (0.98, True)])
def test_an_overlay_measures_the_largest_relative_difference(
    factor: float, stale: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh = TABLE.iloc[[2, 0]] * [1, 1]
    fresh = fresh.assign(distance=[-4.0 * factor, 1.0])
    found = records.Record("one", TABLE, {}).overlay(fresh)
    assert found.worst == pytest.approx(abs(factor - 1), rel=1e-6)
    assert list(found.rows["id"]) == ["a", "c"]
    assert found.stale == stale
    assert ("make records NAME=one" in capsys.readouterr().out) == stale
    assert str(found) == f"{100 * abs(factor - 1):.2g} %"


def test_nothing_to_compare_is_not_called_fresh() -> None:
    found = records.Record("one", TABLE, {}).overlay(TABLE.assign(id="z"))
    assert np.isnan(found.worst)
    assert not found.stale
    assert str(found) == "not measured: no value is in both the record and this page"


def test_other_weights_make_a_record_stale(capsys: pytest.CaptureFixture[str]) -> None:
    notes = {"runs": {"x": {"settings": {"weights": "abc"}}}}
    record = records.Record("one", TABLE, notes)
    assert not record.overlay(TABLE, weights="abc").stale
    assert record.overlay(TABLE, weights="abd").stale
    assert "other weights" in capsys.readouterr().out


def test_a_record_that_is_not_there_is_said_to_be_missing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert records.opened("nothing") is None
    assert "make records NAME=nothing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "shared"), [("ablations", "variance"), ("distances", "distances_agreement")]
)
def test_tables_of_one_record_share_their_provenance(name: str, shared: str) -> None:
    one, other = records.opened(name), records.opened(shared)
    assert one and other
    assert other.notes == one.notes
    assert not (records.RESULTS / f"{shared}.json").exists()


# -- making them ------------------------------------------------------------------------------


def test_every_record_has_a_maker_and_every_file_a_record() -> None:
    for name in records.MADE_BY:
        assert callable(records.maker(name)), name
    kept = {file.stem for file in records.RESULTS.glob("*.json")}
    assert kept == set(records.MADE_BY) | {"bench"}


@pytest.fixture
def makers(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two records that are made at once, and the list of those that were made."""
    made: list[str] = []

    def maker(name: str) -> Any:
        def make() -> records.Made:
            made.append(name)
            if name == "sts" and made.count("sts") == 1:
                raise KeyboardInterrupt
            return {name: TABLE}, {"from": "nothing"}

        return make

    monkeypatch.setattr(records, "MADE_BY", {"words": ("", 10), "sts": ("", 7200)})
    monkeypatch.setattr(records, "maker", maker)
    return made


def test_all_records_are_made_in_order_and_taken_up_again(
    makers: list[str], shelf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        records.main([])
    assert makers == ["words", "sts"]
    said = capsys.readouterr().out
    assert "[1/2] words; about 2.0 h left" in said
    records.main([])
    assert makers == ["words", "sts", "sts"]  # the first is not made again
    said = capsys.readouterr().out
    assert "made already: words" in said
    assert json.loads((shelf / "sts.json").read_text()) == {"from": "nothing"}
    records.main(["words"])  # unless it is asked for
    assert makers[-1] == "words"
    (shelf / "words.json").unlink()
    records.main([])
    assert makers.count("words") == 3


def test_changed_sources_make_a_record_anew(
    makers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    records.main(["words"])
    monkeypatch.setattr(records, "sources", lambda: "others")
    assert not records.Log(records.WORK / "made.json").has("words")


def test_an_unknown_record_is_answered_with_those_there_are(makers: list[str]) -> None:
    with pytest.raises(SystemExit, match="there is no record spts; there are: words, sts"):
        records.main(["words", "spts"])
    assert makers == []


def test_the_records_hold_what_the_studies_would_make() -> None:
    opened = {name: records.opened(name) for name in ("matrix", "words", "sts")}
    assert all(opened.values())
    matrix_record = opened["matrix"]
    assert matrix_record and matrix_record.notes["groups"] == matrix.word_groups()
    for name, sets in people.SETS.items():
        record = opened[name]
        assert record and set(record.table["benchmark"]) == set(sets) == set(record.notes)


def test_words_of_ones_own_make_groups() -> None:
    assert matrix.word_groups(2, 1, "apple, pear; car, bus") == {
        "group 1": ["apple"],
        "group 2": ["car"],
    }
    with pytest.raises(ValueError, match="twice in the groups: pear"):
        matrix.word_groups(own="apple, pear; pear, bus")
