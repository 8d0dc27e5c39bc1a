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

    monkeypatch.setattr(records, "MADE_BY", {"words": ("no:one", 10), "sts": ("no:one", 7200)})
    monkeypatch.setattr(records, "maker", maker)
    return made


def test_all_records_are_made_in_order_and_taken_up_again(
    makers: list[str], shelf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="stopped: what is finished is kept"):
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
    assert records.Log(records.WORK / "made.json").has("words")
    monkeypatch.setattr(records, "code_of", lambda study: "another")
    assert not records.Log(records.WORK / "made.json").has("words")


def test_a_record_is_made_anew_after_those_that_it_comes_from(
    makers: list[str], shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "FROM", {"words": ("sts",)})
    records.main(["words"])
    assert records.Log(records.WORK / "made.json").has("words")
    TABLE.to_parquet(shelf / "sts.parquet")
    assert not records.Log(records.WORK / "made.json").has("words")


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of two studies and what they import."""
    files = {
        "conjure_lib/__init__.py": "from conjure_lib.sde import drift\n",
        "conjure_lib/sde.py": '"""Told."""\n\n\ndef drift():\n    """So."""\n    return 1\n',
        "conjure_tools/plots.py": "COLOUR = 1\n",
        "conjure_tools/other.py": "x = 1\n",
        "notebooks/studies/one.py": "import conjure_lib as cj\nfrom conjure_tools import plots\n",
        "notebooks/studies/two.py": "from conjure_tools.other import x\nfrom studies import one\n",
        "data/weights": "abc",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(records, "ROOT", tmp_path)
    monkeypatch.setattr(records, "DATA", [tmp_path / "data"])
    return tmp_path


@pytest.mark.parametrize(
    ("file", "text", "changes"),
    [
        ("conjure_lib/sde.py", '"""Other."""\n# why\ndef drift():\n    return 1\n', ""),
        ("conjure_lib/sde.py", "def drift():\n    return 2\n", "one two"),
        ("conjure_lib/__init__.py", "drift = 3\n", "one two"),
        ("conjure_tools/other.py", "x = 2\n", "two"),
        ("conjure_tools/plots.py", "COLOUR = 2\n", ""),
        ("notebooks/studies/one.py", "y = 1\n", "one two"),
        ("data/weights", "abd", "one two"),
    ],
)
def test_kept_parts_are_those_of_the_present_code(
    house: Path, file: str, text: str, changes: str
) -> None:
    """What a study had finished is not taken for what other code, or other weights, would make."""

    def folders() -> list[Path]:
        for cached in (records.code_of, records._module, records._shipped):
            cached.cache_clear()
        return [records.work(study) for study in ("one", "two")]

    before = folders()
    (house / file).write_text(text)
    changed = [name for name, *both in zip(("one", "two"), before, folders(), strict=True)
               if both[0] != both[1]]  # fmt: skip
    assert changed == changes.split()
    for cached in (records.code_of, records._module, records._shipped):
        cached.cache_clear()


def test_one_record_that_fails_does_not_lose_the_others(
    makers: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> Any:
        raise FileNotFoundError("there are no pairs")

    makers.append("sts")  # whose first time is a stop
    maker = records.maker
    monkeypatch.setattr(records, "maker", lambda name: fail if name == "words" else maker(name))
    monkeypatch.setattr(records, "FROM", {"more": ("words",)})
    monkeypatch.setattr(records, "MADE_BY", records.MADE_BY | {"more": ("no:one", 5)})
    told = r"not made: words \(FileNotFoundError: there are no pairs\); more \(it comes from words"
    with pytest.raises(SystemExit, match=told):
        records.main([])
    assert makers == ["sts", "sts"] and "FileNotFoundError" in capsys.readouterr().err


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
