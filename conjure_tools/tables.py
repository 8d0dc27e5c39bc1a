"""Tables of pairs as people have them: read into one form, or refused with what would read them.

What a file is, is read off its content, not off its name: compressed or not, Parquet, Excel, JSON
or text; in text the encoding, the delimiter, the header and what its quotes mean. Where two
readings are possible and differ, neither is taken silently.
"""

from __future__ import annotations

import io
import json
import math
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from conjure_lib.reading import fault
from conjure_tools.columns import (
    NUMBER,
    ROLES,
    SCORE,
    Record,
    Shape,
    Table,
    free_name,
    key_of,
    made_table,
    plain,
    shape_of,
    unknown_columns,
    wanted_columns,
)
from conjure_tools.containers import DOUBT, OTHERS, decoded, doubts, is_workbook, unpacked
from conjure_tools.delimited import NONE, delimited_table, passed_over, records_of
from conjure_tools.folders import discard, keep
from conjure_tools.oddities import odd_texts

COMMA = re.compile(r"[+-]?\d*,\d+", re.ASCII)  # a decimal comma, unless it is one of thousands:
THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+", re.ASCII)
UNCOUNTED = re.compile(rb"<c [^>]*><f[^>]*>[^<]*</f>(<v ?/>|<v></v>)?</c>")
PRETTY = re.compile(r"\s*[\[{][ \t]*\r?\n")  # JSON over several lines
EXAMPLE = '{"text1": "a cat", "text2": "a dog"}'


def read_pairs(
    path: str | Path,
    columns: str | Sequence[str | int] | None = None,
    *,
    encoding: str | None = None,
    quotes: str | None = None,
    drop: bool = False,
) -> pd.DataFrame:
    """The pairs of a file: CSV and its kin, JSON (lines), Parquet or Excel, compressed or not.

    Args:
        path: also an original ``STS*.input.*.txt``, which takes its scores from ``STS*.gs.*.txt``.
        columns: which are text1, text2 and perhaps score and id, by name or by position from 1;
            of a file without a header, also the names of all its columns. By default they are known
            by names such as word1 and word2, sentence_A and sentence_B, or "Human (mean)".
        encoding: of a text file that is neither UTF-8 nor marked, such as "cp1252".
        quotes: "double" if double quotes enclose cells, "none" if they are characters of the
            texts; by default what the file allows.
        drop: leave out rows that cannot be used instead of refusing the file.

    Returns:
        Columns id (unique; "row-000001" and so on where the file has none), text1, text2
        (stripped), score (float, if there), then the other columns. Rows that were left out are
        in ``attrs["dropped"]``: each with its line, the reason and its cells as JSON.

    Raises:
        FileNotFoundError: no such file.
        TypeError: columns that are no list, or that have no order.
        ValueError: it cannot be read, or a row cannot be used: a text is empty, a score no finite
            number, an id empty or there twice, a cell too many or too few. The message names the
            file and the line (Excel, JSON arrays and Parquet: the row) and what to do.

    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> from conjure_tools.tables import read_pairs
    >>> file = Path(mkdtemp()) / "pairs.csv"
    >>> _ = file.write_text("word1,word2,score\\ncat,dog,8.1\\ncat,car,1.2\\n")
    >>> read_pairs(file)[["text1", "text2", "score"]].values.tolist()
    [['cat', 'dog', 8.1], ['cat', 'car', 1.2]]
    """
    file = Path(path)
    if not isinstance(drop, (bool, np.bool_)):
        raise ValueError(f"drop must be True or False, not {drop!r}")
    table = read_table(file, columns, encoding=encoding, quotes=quotes)
    unscored = {k for k, why in table.faults.items() if why == UNSCORED}
    pairs = _pairs(table)
    if not drop:
        faults = {k: why for k, why in table.faults.items() if k not in unscored}
        refuse(faults, file, pairs, "; or leave such rows out: --drop (drop=True)")
    bad = pairs.index.isin(list(table.faults))
    if bad.all():
        raise ValueError(f"{file} holds no pairs" + (" that can be used" if len(bad) else ""))
    dropped = _dropped(table.cells[bad], table.faults)
    if dropped:
        first = ", ".join(f"{k} {v}" for k, v in dropped[0].items() if k != "cells")
        table.notes.append(f"{len(dropped)} of {len(bad)} rows are left out, first {first}")
    pairs = pairs[~bad]
    if not any(note.endswith(DOUBT) for note in table.notes):  # which is why texts look odd
        table.notes += odd_texts(pairs, str(table.cells.index.name))
    table.notes += _passed_by(table) if columns is None else []
    for note in table.notes:
        warnings.warn(f"{file}: {note}", stacklevel=2)
    pairs = pairs.reset_index(drop=True)
    pairs.attrs |= {"dropped": dropped} if dropped else {}
    return pairs


def write_dropped(pairs: pd.DataFrame, folder: Path) -> None:
    """The rows that `read_pairs` left out, into ``dropped.csv`` in ``folder``; none, no file.

    Raises:
        FileExistsError: there is such a file, and it was not written by this function.
    """
    file = folder / "dropped.csv"
    if dropped := pairs.attrs.get("dropped"):
        folder.mkdir(parents=True, exist_ok=True)
        table = pd.DataFrame(dropped)
        keep(file, lambda path: table.to_csv(path, index=False))
    else:
        discard(file)  # of an earlier start, whose file has been mended since


def read_table(
    file: Path,
    columns: str | Sequence[str | int] | None = None,
    *,
    encoding: str | None = None,
    quotes: str | None = None,
) -> Table:
    """The cells of a file as they stand in it. Arguments and errors as of `read_pairs`."""
    if quotes not in (None, "double", "none"):
        raise ValueError(f"quotes must be 'double' or 'none', not {quotes!r}")
    if not isinstance(encoding, str | None) or encoding == "":
        raise ValueError(f"encoding must be a name such as 'cp1252', not {encoding!r}")
    wanted = wanted_columns(columns)
    if not file.is_file() and not file.is_fifo():  # such as /dev/stdin, where a pipe ends
        raise FileNotFoundError(
            f"{file} is a folder: name a file" if file.is_dir() else f"there is no file {file}"
        )
    try:
        if re.fullmatch(r"STS.*\.input\..+\.txt", file.name, re.IGNORECASE):
            return _sts(file, encoding)
        return _read(file.read_bytes(), file, wanted, encoding, quotes)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _read(
    data: bytes, name: Path, wanted: list[str] | None, encoding: str | None, quotes: str | None
) -> Table:
    data, suffix = unpacked(data, name)
    if not data.strip():
        raise ValueError("it is empty: there are no pairs in it")
    if re.match(rb"PAR1[\x00-\x08\x0e-\x1f]", data) or (
        suffix == ".parquet" and data.startswith(b"PAR1")
    ):
        return _parquet(data, wanted)
    if is_workbook(data):
        return _excel(data, wanted)
    text = decoded(data, encoding)
    if what := next((w for looks, w in OTHERS.items() if re.match(looks, text, re.I)), None):
        raise ValueError(f"it is {what}")
    if suffix in (".json", ".jsonl", ".ndjson") or _is_json(text) or PRETTY.match(text):
        table = _json(text, wanted)
    else:
        table = delimited_table(text, suffix, wanted, quotes)
    table.notes += doubts(data, text)
    return table


def examined(
    table: pd.DataFrame, texts: Iterable[str], number: str | None
) -> tuple[pd.DataFrame, dict[int, str]]:
    """The table with stripped texts and float numbers; index to reason of rows without them.

    Args:
        table: with an index without repeats.
        texts, number: its columns to look at.
    """
    table = table.copy()
    faults: dict[int, str] = {}
    for column in texts:
        cells = table[column].astype(object).tolist()
        reasons = [_no_text(cell) for cell in cells]
        for k, why in zip(table.index, reasons, strict=True):
            if why:
                faults.setdefault(k, f"{column} {why}")
        kept = ["" if why else plain(c) for c, why in zip(cells, reasons, strict=True)]
        table[column] = pd.Series(kept, table.index)
    if number:
        cells = table[number].astype(object).tolist()
        found = _numbers(cells)
        for k, cell, value in zip(table.index, cells, found, strict=True):
            if not math.isfinite(value):
                said = f"is not a number: {plain(cell)[:80]!r}" if plain(cell) else "is empty"
                faults.setdefault(k, f"{number} {said}")
        table[number] = found
    return table, faults


def refuse(
    faults: Mapping[int, str], origin: Path | str, table: pd.DataFrame, mend: str = ""
) -> None:
    """ValueError that names the first line, or row, of ``faults``; nothing if there is none."""
    if faults:
        first = min(faults)
        others = f" ({len(faults)} rows have faults)" if len(faults) > 1 else ""
        unit = table.index.name or "row"
        raise ValueError(f"{origin}, {unit} {first}: {faults[first]}{others}{mend}")


def _no_text(cell: Any) -> str:
    """Why a cell is no text that can be scored; empty where it is one."""
    text = plain(cell)
    if text and (isinstance(cell, bool) or not isinstance(cell, (str, int, float, np.number))):
        return f"is {cell!r}, which is no text"
    why = fault(str(cell) if text else "")
    return why.partition(":")[0] if why else "holds a NUL character" if "\0" in text else ""


def _numbers(cells: list[Any]) -> np.ndarray:
    """Finite numbers as floats, anything else as NaN; decimal commas where they can be no other."""
    texts = [c.strip() for c in cells if isinstance(c, str)]
    commas = [t for t in texts if COMMA.fullmatch(t)]
    decimal = not any("." in t for t in texts) and not all(map(THOUSANDS.fullmatch, commas))

    def number(cell: Any) -> float:
        if isinstance(cell, (int, float, np.number)) and not isinstance(cell, bool):
            return float(cell)
        text = plain(cell).replace(",", ".") if decimal else plain(cell)
        return float(text) if NUMBER.fullmatch(text) else math.nan

    found = np.array([number(c) for c in cells], float)
    return np.where(np.isfinite(found), found, np.nan)


def _pairs(table: Table) -> pd.DataFrame:
    """The table in the columns of `read_pairs`, all rows; its faults are added to."""
    cells, roles = table.cells, dict(table.roles)
    if "score" in roles and not any(map(plain, cells.iloc[:, roles["score"]])):
        del roles["score"]  # not one score in it
    named = pd.DataFrame({r: cells.iloc[:, roles[r]] for r in ROLES if r in roles})
    named, faults = examined(named, ("text1", "text2"), "score" if "score" in roles else None)
    if "id" in named:
        ids = list(map(plain, named["id"].astype(object)))
        for k, why in _bad_ids(ids, cells.index).items():
            faults.setdefault(k, why)
    else:
        ids = [f"row-{i:06d}" for i in range(1, len(cells) + 1)]
    table.faults = faults | table.faults
    parts = {"id": pd.Series(ids, cells.index)}
    parts |= {r: named[r] for r in ROLES[:3] if r in named}
    used = set(ROLES)
    for i, name in enumerate(cells.columns):
        if i not in table.roles.values():
            parts[free_name(name, i, used)] = _other(cells.iloc[:, i])
    return pd.DataFrame(parts)


def _bad_ids(ids: list[str], index: pd.Index) -> dict[int, str]:
    first: dict[str, int] = {}
    faults = {}
    for k, name in zip(index, ids, strict=True):
        if not name:
            faults[k] = "the id is empty"
        elif first.setdefault(name, k) != k:
            faults[k] = f"the id {name!r} stands in {index.name} {first[name]} too"
    return faults


def _other(cells: pd.Series) -> pd.Series:
    """A column that is carried along: of one type, so that every format can hold it."""
    if cells.dtype != object:
        return cells
    kinds = {type(c) for c in cells if plain(c)}
    if kinds <= {int, float} or kinds == {bool}:
        return cells.infer_objects()
    return pd.Series([plain(c) for c in cells], cells.index)


def _passed_by(table: Table) -> list[str]:
    """What is to be said where another column could be the score too."""
    names = [str(n) for i, n in enumerate(table.cells.columns) if i not in table.roles.values()]
    others = ", ".join(n for n in names if SCORE.fullmatch(key_of(n)))
    score = table.cells.columns[table.roles["score"]] if "score" in table.roles and others else ""
    return [f"of its numbers {score} is read as the score, and not {others}"] if score else []


def _dropped(rows: pd.DataFrame, faults: Mapping[int, str]) -> list[dict[str, Any]]:
    unit = str(rows.index.name)
    return [
        {unit: int(k), "why": faults[k], "cells": json.dumps(row, ensure_ascii=False, default=str)}
        for k, row in zip(rows.index, rows.astype(object).to_numpy().tolist(), strict=True)
    ]


def _shaped(records: list[Record], wanted: list[str] | None, unit: str) -> Table:
    """Records of a sheet or of JSON arrays, with a header or without."""
    width = max(len(cells) for _, cells in records)
    records = [(k, cells + [None] * (width - len(cells))) for k, cells in records]
    head = [[plain(c) for c in cells] for _, cells in records[:10]]
    titles = next((i for i, cells in enumerate(head) if len(list(filter(None, cells))) > 1), 0)
    below = shape_of(head[titles:], wanted)
    if titles and below and below.header:
        table = made_table(records[titles + 1 :], below, unit)
        table.notes.append(passed_over(records[0][0], records[titles][0], unit))
        return table
    shape = shape_of(head, wanted)
    if shape is None:
        raise unknown_columns(head[0], wanted)
    return made_table(records[shape.header :], shape, unit)


def _of_columns(cells: pd.DataFrame, wanted: list[str] | None, unit: str = "row") -> Table:
    """A table whose columns have names of their own."""
    names = [str(c).strip() for c in cells.columns]
    shape = shape_of([names], wanted, header=True)
    if shape is None:
        raise unknown_columns(names, wanted)
    used: set[str] = set()
    cells.columns = pd.Index([free_name(n, i, used) for i, n in enumerate(names)])
    cells.index.name = unit
    return Table(cells, shape.roles)


def _parquet(data: bytes, wanted: list[str] | None) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(pa.BufferReader(data)).read()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"it is damaged, or no Parquet file: {error}") from error
    # An index that has a name is a column like any other; one without is a DataFrame's own affair.
    names = [n for n in table.column_names if not n.startswith("__index_level_")]
    table = table.select([i for i, n in enumerate(table.column_names) if n in names])
    table = table.rename_columns([str(i) for i in range(len(names))])  # two may have one name
    cells = table.to_pandas(ignore_metadata=True, integer_object_nulls=True)
    cells.columns, cells.index = pd.Index(names), pd.RangeIndex(1, len(cells) + 1)
    return _of_columns(cells, wanted)


def _excel(data: bytes, wanted: list[str] | None) -> Table:
    try:
        import openpyxl
    except ImportError as error:
        raise ValueError("for Excel, pip install openpyxl, or save it as CSV UTF-8") from error
    try:
        with warnings.catch_warnings(action="ignore"):  # on styles and the like
            book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
            sheets = {s.title: _sheet(s) for s in book.worksheets}
    except Exception as error:  # whatever its parsers of zip and XML may raise
        raise ValueError(f"it is damaged, or no Excel workbook: {error}") from error
    filled = {title: records for title, records in sheets.items() if records}
    if not filled:
        raise ValueError("it is empty: there are no pairs in it")
    tables: dict[str, Table] = {}
    faults = []
    for title, records in filled.items():
        try:
            tables[title] = _shaped(records, wanted, "row")
        except ValueError as error:
            faults.append(str(error) if len(filled) == 1 else f"sheet {title!r}: {error}")
    if len(tables) > 1:
        names = ", ".join(map(repr, tables))
        raise ValueError(f"its sheets {names} could all be the table: save the right one as CSV")
    if not tables:
        raise ValueError("; ".join(faults))
    title, table = tables.popitem()
    parts = _sheet_parts(data)
    if any(UNCOUNTED.search(part) for part in parts):
        table.notes.append(
            "formulas whose value was never stored are read as empty cells: save it in Excel again"
        )
    if any(re.search(rb'<row [^>]*\bhidden="(1|true)"', part) for part in parts):
        table.notes.append("rows that Excel hides, as a filter does, are read like all others")
    if len(filled) > 1:
        table.notes.append(f"of its {len(filled)} sheets that are not empty, {title!r} is read")
    return table


def _sheet_parts(data: bytes) -> list[bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [archive.read(n) for n in archive.namelist() if n.startswith("xl/worksheets/")]


def _sheet(sheet: Any) -> list[Record]:
    """The rows that are not blank; a cell with an error, such as #N/A, is empty."""
    sheet.reset_dimensions()  # which some programs write wrong
    rows = [[c.value if c.data_type != "e" else None for c in row] for row in sheet.iter_rows()]
    return [(i, row) for i, row in enumerate(rows, 1) if any(map(plain, row))]


# -- JSON ---------------------------------------------------------------------------------------


def _is_json(text: str) -> bool:
    """Whether the first line is an object or an array."""
    try:
        first = text.lstrip().split("\n")[0]
        return isinstance(json.loads(first, parse_int=_integer), (dict, list))
    except RecursionError:
        return True
    except ValueError:
        return False


def _json(text: str, wanted: list[str] | None) -> Table:
    """JSON lines, or one array of records, or one object of columns."""
    records, unit = _json_records(text)
    if all(r in ([], {}) for _, r in records):
        raise ValueError("it is empty: there are no pairs in it")
    kinds = {type(r) for _, r in records}
    if kinds == {list}:
        return _shaped(records, wanted, unit)
    if kinds != {dict}:
        raise ValueError(f"each {unit} must be one object, such as {EXAMPLE}")
    names = dict.fromkeys(name for _, r in records for name in r)
    index = pd.Index([k for k, _ in records])
    cells = {n: [r.get(n) for _, r in records] for n in names}
    return _of_columns(pd.DataFrame(cells, index, dtype=object), wanted, unit)


def _json_records(text: str) -> tuple[list[tuple[int, Any]], str]:
    """Each record with its line, or its place in an array, counted from 1."""
    lines = [(k, line) for k, line in enumerate(text.split("\n"), 1) if line.strip()]
    if len(lines) > 1 and _is_json(text):
        return [(k, _loads(line, k)) for k, line in lines], "line"
    whole = _loads(text, 1)
    if isinstance(whole, dict) and (
        (whole and all(isinstance(c, dict) for c in whole.values()))
        or {"data"} <= set(whole) <= {"data", "columns", "index", "schema"}
    ):
        raise ValueError(
            "it is nested: write one object with text1 and text2 a line, as "
            'to_json(orient="records", lines=True) of pandas does'
        )
    if isinstance(whole, dict) and whole and all(isinstance(c, list) for c in whole.values()):
        if len({len(c) for c in whole.values()}) > 1:
            raise ValueError("its columns differ in length")
        whole = [dict(zip(whole, row, strict=True)) for row in zip(*whole.values(), strict=True)]
    return list(enumerate(whole if isinstance(whole, list) else [whole], 1)), "row"


def _loads(text: str, line: int) -> Any:
    def unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in items]
        if twice := {n for n in names if names.count(n) > 1}:
            raise ValueError(f"line {line}: the name {min(twice)!r} stands twice in one object")
        return dict(items)

    try:
        return json.loads(text, object_pairs_hook=unique, parse_int=_integer)
    except json.JSONDecodeError as error:
        where = line + error.lineno - 1
        raise ValueError(f"line {where} is no JSON ({error.msg}), such as {EXAMPLE}") from error
    except RecursionError as error:
        raise ValueError(f"line {line}: its JSON is nested too deeply for a pair") from error


def _integer(digits: str) -> int | str:
    """An integer that a float can hold; the digits themselves of any other."""
    return int(digits) if len(digits) < 300 else digits


# -- the original files of STS12 to STS16 -------------------------------------------------------

UNSCORED = "nobody has scored it"


def _sts(file: Path, encoding: str | None) -> Table:
    """Two texts a line and perhaps their sources; the scores are in another file, line by line."""
    text = decoded(file.read_bytes(), encoding)
    records = records_of(text, "\t", NONE)
    gold = file.with_name(re.sub(r"\.input\.", ".gs.", file.name, flags=re.IGNORECASE))
    shape = Shape(["text1", "text2"], False, {"text1": 0, "text2": 1}, loose=True)
    table = made_table(records, shape, "line", "\t")
    table.notes += doubts(file.read_bytes(), text)
    if not gold.is_file():
        table.notes.append(f"there are no scores, since {gold.name} is not beside it")
        return table
    lines = decoded(gold.read_bytes(), encoding).removesuffix("\n").split("\n")
    last = records[-1][0] if records else 0
    if len(lines) < last or any(map(str.strip, lines[last:])):
        raise ValueError(f"it has {last} lines and {gold.name} has {len(lines)}: they do not match")
    table.cells["score"] = [lines[k - 1].strip() for k in table.cells.index]
    table.roles = table.roles | {"score": table.cells.shape[1] - 1}
    empty = table.cells.index[table.cells["score"] == ""]
    table.faults = dict.fromkeys(map(int, empty), UNSCORED) | table.faults
    return table
