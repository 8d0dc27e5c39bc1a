"""Tables of pairs as people have them: read into one form, or refused with what would read them.

What a file is, is read off its content, not off its name: compressed or not, Parquet, Excel, JSON
or text; in text the encoding, the delimiter, the header and what its quotes mean. Where two
readings are possible and differ, neither is taken silently.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import math
import re
import tarfile
import unicodedata
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from conjure_lib.inputs import listed
from conjure_lib.reading import fault, quoted
from conjure_tools.folders import discard, keep

ROLES = ("text1", "text2", "score", "id")
STEMS = "text|sentence|sent|word|prompt|caption|phrase|question|term|w|s"
TEXT = re.compile(rf"({STEMS})(1|2|a|b)")
SCORE = re.compile(
    "score|simlex999|human(mean|score|rating)|mean(score|rating)|rating|gold(score)?|"
    "(similarity|relatedness)(score)?"
)
ID = re.compile("id|pairid")
"""Names of columns, without their case, spaces and signs."""

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
COMMA = re.compile(r"[+-]?\d*,\d+", re.ASCII)  # a decimal comma, unless it is one of thousands:
THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+", re.ASCII)

UNUSED = {0x81, 0x8D, 0x8F, 0x90, 0x9D}  # bytes that cp1252 has no character for
BYTE = "[\x80-\xbf{}]".format(bytes({*range(0x80, 0xA0)} - UNUSED).decode("cp1252"))
GARBLED = re.compile(
    f"(?:[Â-ß]{BYTE}|[à-ï]{BYTE}{{2}}|[ð-ô]{BYTE}{{3}}){{2,}}"
    f"|Â[\xa0-\xbf]|Ã{BYTE}|[ÄÅ](?![«»]){BYTE}|â{BYTE}{{2}}|ð{BYTE}{{3}}"
)
"""UTF-8 read as Latin-1 or cp1252: several characters in a row, or one that is no other text."""
CONTROLS = re.compile("[\x80-\x84\x86-\x9f]|\x85(?!\\w)")  # of Latin-1, which are signs in cp1252
MARKUP = re.compile(
    r"&(#\d+|#x[\da-f]+|[a-z]{2,8}\d?);|</?[a-z][a-z\d]*(\s[^<>]*)?/?>", re.IGNORECASE
)

WORDS = r".*[^\d.,\s+-].*"  # not a number
TAGGED = re.compile(r"\S+[-_][nvjar]")  # as MEN writes sun-n
UNCOUNTED = re.compile(rb"<c [^>]*><f[^>]*>[^<]*</f>(<v ?/>|<v></v>)?</c>")
MARKS = ("''", "``", "‘’", "’’", "“”", "””", "„“", "„”", "‚‘", "«»", "»«", "‹›", "›‹")

LAYOUTS = (
    ("genre file year number score text1 text2", {0: "main-.*", 4: NUMBER.pattern}),  # STS-B
    ("text1 text2 pos score", {2: "[NVA]", 3: NUMBER.pattern}),  # SimVerb-3500
    ("text1 text2 score", {0: WORDS, 1: WORDS, 2: NUMBER.pattern}),  # RG-65, MEN and many more
)
"""Of tables without a header: the columns, and what the cells of some must look like. All but the
last may have more columns than are named."""

BOMS = {
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xef\xbb\xbf": "utf-8",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
WIDE = {"x0x0": "utf-16-le", "0x0x": "utf-16-be"}
WIDE |= {"x000": "utf-32-le", "xx00": "utf-32-le", "000x": "utf-32-be", "00xx": "utf-32-be"}
"""Which of four bytes in turn are mostly NUL, and what is so encoded."""
OTHERS = {
    r"\s*<(!doctype html|html\b|\?xml)": "HTML or XML, perhaps a page about an error: save the "
    "table itself, as CSV or JSON lines",
    r"version https://git-lfs\.": "a pointer of Git LFS and not the table: git lfs pull gets it",
    r"\s*\|.*\|[ \t]*\r?\n[ \t]*\|[\s:|-]+\|": "a table of Markdown: save it as CSV",
}
"""What texts that are no tables begin with, and what they are."""
PRETTY = re.compile(r"\s*[\[{][ \t]*\r?\n")  # JSON over several lines
PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".tgz")
DELIMITERS = {".csv": ",;\t|", ".tsv": "\t,;|", ".tab": "\t,;|"}  # likelier ones first
DOUBLE: dict[str, Any] = {"strict": True, "skipinitialspace": True}
BACKSLASH: dict[str, Any] = DOUBLE | {"doublequote": False, "escapechar": "\\"}
NONE: dict[str, Any] = {"quoting": csv.QUOTE_NONE, "skipinitialspace": True}
NAMING = (
    "name the columns of the two texts, and perhaps of the score and the id: --columns "
    "FIRST,SECOND,SCORE, or by position --columns 1,2,3"
)
DOUBT = ": if that is right, leave out --encoding"
NAMED = '["word1", "word2"]'
EXAMPLE = '{"text1": "a cat", "text2": "a dog"}'

csv.field_size_limit(2**31 - 1)  # the texts are as long as they are

Record = tuple[int, list[Any]]  # line or row, counted from 1, and its cells


@dataclass
class Table:
    """A table as its file has it.

    Attributes:
        cells: a row a pair, columns named as in the file; the index counts lines, or rows.
        roles: which columns, by position, are text1, text2, score and id.
        faults: line, or row, to the reason why it cannot be used.
        notes: what the caller should be told.
    """

    cells: pd.DataFrame
    roles: dict[str, int]
    faults: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Shape:
    """Names of the columns, whether the first record holds them, and which are which."""

    names: list[str]
    header: bool
    roles: dict[str, int]
    loose: bool = False  # records may have more cells than there are names
    sure: bool = True  # a header, or a number where only a score can be


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
        table.notes += _odd_texts(pairs, str(table.cells.index.name))
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
    wanted = _wanted(columns)
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
    data, suffix = _unpacked(data, name)
    if not data.strip():
        raise ValueError("it is empty: there are no pairs in it")
    if re.match(rb"PAR1[\x00-\x08\x0e-\x1f]", data) or (
        suffix == ".parquet" and data.startswith(b"PAR1")
    ):
        return _parquet(data, wanted)
    if _is_workbook(data):
        return _excel(data, wanted)
    text = _decoded(data, encoding)
    if what := next((w for looks, w in OTHERS.items() if re.match(looks, text, re.I)), None):
        raise ValueError(f"it is {what}")
    if suffix in (".json", ".jsonl", ".ndjson") or _is_json(text) or PRETTY.match(text):
        table = _json(text, wanted)
    else:
        table = _delimited(text, suffix, wanted, quotes)
    table.notes += _doubts(data, text)
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
        kept = ["" if why else _plain(c) for c, why in zip(cells, reasons, strict=True)]
        table[column] = pd.Series(kept, table.index)
    if number:
        cells = table[number].astype(object).tolist()
        found = _numbers(cells)
        for k, cell, value in zip(table.index, cells, found, strict=True):
            if not math.isfinite(value):
                said = f"is not a number: {_plain(cell)[:80]!r}" if _plain(cell) else "is empty"
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


# -- rows ---------------------------------------------------------------------------------------


def _plain(cell: Any) -> str:
    """A cell as text that UTF-8 can hold; nothing where there is nothing."""
    if cell is None or cell is pd.NA or (isinstance(cell, (float, np.floating)) and cell != cell):
        return ""
    return str(cell).encode(errors="replace").decode().strip()


def _no_text(cell: Any) -> str:
    """Why a cell is no text that can be scored; empty where it is one."""
    text = _plain(cell)
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
        text = _plain(cell).replace(",", ".") if decimal else _plain(cell)
        return float(text) if NUMBER.fullmatch(text) else math.nan

    found = np.array([number(c) for c in cells], float)
    return np.where(np.isfinite(found), found, np.nan)


def _pairs(table: Table) -> pd.DataFrame:
    """The table in the columns of `read_pairs`, all rows; its faults are added to."""
    cells, roles = table.cells, dict(table.roles)
    if "score" in roles and not any(map(_plain, cells.iloc[:, roles["score"]])):
        del roles["score"]  # not one score in it
    named = pd.DataFrame({r: cells.iloc[:, roles[r]] for r in ROLES if r in roles})
    named, faults = examined(named, ("text1", "text2"), "score" if "score" in roles else None)
    if "id" in named:
        ids = list(map(_plain, named["id"].astype(object)))
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
            parts[_free(name, i, used)] = _other(cells.iloc[:, i])
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
    kinds = {type(c) for c in cells if _plain(c)}
    if kinds <= {int, float} or kinds == {bool}:
        return cells.infer_objects()
    return pd.Series([_plain(c) for c in cells], cells.index)


def _free(name: str, i: int, used: set[str]) -> str:
    """A name for column i that is not in use yet, which it is then."""
    kept = name or f"column {i + 1}"
    while kept in used:
        kept += f" ({i + 1})"
    used.add(kept)
    return kept


def _passed_by(table: Table) -> list[str]:
    """What is to be said where another column could be the score too."""
    names = [str(n) for i, n in enumerate(table.cells.columns) if i not in table.roles.values()]
    others = ", ".join(n for n in names if SCORE.fullmatch(_key(n)))
    score = table.cells.columns[table.roles["score"]] if "score" in table.roles and others else ""
    return [f"of its numbers {score} is read as the score, and not {others}"] if score else []


def _odd_texts(pairs: pd.DataFrame, unit: str) -> list[str]:
    """What is to be said of texts that can hardly be meant so: of the first one of each kind."""
    texts = {t: k for role in ("text1", "text2") for k, t in pairs[role][::-1].items()}
    notes = []
    for look in (_garbled, _marked_up):
        odd = sorted((k, t, said) for t, k in texts.items() if (said := look(t)))
        for line, text, said in odd[:1]:
            many = f" ({len(odd)} texts are such)" if len(odd) > 1 else ""
            notes.append(f"{unit} {line}: {quoted(text)} {said}{many}")
    marked = [t for t in texts if len(t) > 2 and t[0] + t[-1] in MARKS]
    if 2 * len(marked) > len(texts):  # a few may well be quotations
        notes.append(
            f"{len(marked)} of {len(texts)} texts stand in quotation marks, such as "
            f"{quoted(marked[0])}: the marks are read with them, as only straight double ones "
            'around a cell (") are taken off'
        )
    tagged = [t for t in texts if TAGGED.fullmatch(t)]
    if len(tagged) > 2 and 10 * len(tagged) > 9 * len(texts):
        notes.append(
            f"{len(tagged)} of {len(texts)} texts end in a letter for a part of speech, such as "
            f"{quoted(tagged[0])}, which is read with them: take a file without these tags"
        )
    return notes


def _marked_up(text: str) -> str:
    found = MARKUP.search(text)
    return f"holds HTML ({found[0]}), which is read as it stands: write plain text" if found else ""


def _garbled(text: str) -> str:
    other = "" if GARBLED.search(text) else _misread(text)
    odd = other or "\ufffd" in text or GARBLED.search(text) or CONTROLS.search(text)
    if text.isascii() or not odd:
        return ""
    mended = other or CONTROLS.sub(lambda c: _in_cp1252(c[0]), GARBLED.sub(_of_bytes, text))
    seems = f"seems to be {quoted(mended)}" if mended != text else "has characters that were lost"
    return f"{seems}, read in another encoding than its own and saved so: save it anew, as UTF-8"


def _misread(text: str) -> str:
    """What UTF-8 says that was read as a Macintosh or an old DOS has it; empty if it was not."""
    for codec in () if text.isascii() else ("mac_roman", "cp437"):
        with suppress(UnicodeError):  # a text of other letters is hardly UTF-8 by chance
            found = text.encode(codec).decode("utf-8")
            if all(c.isascii() or unicodedata.category(c)[0] in "LPS" for c in found):
                return found
    return ""


def _in_cp1252(character: str) -> str:
    return character.encode("latin-1").decode("cp1252", errors="replace")


def _of_bytes(garbled: re.Match[str]) -> str:
    """The characters whose UTF-8 was read byte by byte."""
    data = b"".join(c.encode("latin-1" if c <= "\xff" else "cp1252") for c in garbled[0])
    return data.decode("utf-8", errors="replace")


def _dropped(rows: pd.DataFrame, faults: Mapping[int, str]) -> list[dict[str, Any]]:
    unit = str(rows.index.name)
    return [
        {unit: int(k), "why": faults[k], "cells": json.dumps(row, ensure_ascii=False, default=str)}
        for k, row in zip(rows.index, rows.astype(object).to_numpy().tolist(), strict=True)
    ]


# -- which column is which ----------------------------------------------------------------------


def _wanted(columns: str | Sequence[str | int] | None) -> list[str] | None:
    """The caller's columns as stripped names; an error where there are not two or more."""
    if columns is None:
        return None
    given = columns.split(",") if isinstance(columns, str) else listed(columns, "columns", NAMED)
    wanted = [str(c).strip() for c in given]
    named = [c for c in wanted if c]
    if len(wanted) < 2 or not all(wanted[:2]) or len(set(named)) < len(named):
        raise ValueError(f"columns must be two or more different ones, not {columns!r}: {NAMING}")
    return wanted


def _key(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def _roles(names: Sequence[str]) -> dict[str, int]:
    """text1, text2, score and id to their places, as far as the names tell.

    Raises:
        ValueError: two columns could be the same.
    """
    keys = [_key(n) for n in names]
    both = _text_pairs(names)
    found = {"text1": {a for a, _ in both}, "text2": {b for _, b in both}}
    found |= {"score": set(filter(SCORE.fullmatch, keys)), "id": set(filter(ID.fullmatch, keys))}
    roles: dict[str, int] = {}
    for role, these in found.items():
        if role in these - found["text1"] - found["text2"]:  # our own name, before any other
            these = {role}
        places = [i for i, key in enumerate(keys) if key in these]
        if len(places) > 1:
            several = ", ".join(names[i] for i in places)
            raise ValueError(f"each of the columns {several} could be the {role}; {NAMING}")
        roles |= {role: places[0]} if places else {}
    return roles


def _text_pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """The keys of all columns that could be text1 and text2."""
    texts = dict.fromkeys(filter(TEXT.fullmatch, map(_key, names)))
    return [(a, b) for a in texts for b in texts if _are_a_pair(a, b)]


def _are_a_pair(first: str, second: str) -> bool:
    one, two = TEXT.fullmatch(first), TEXT.fullmatch(second)
    return bool(one and two and one[1] == two[1] and one[2] + two[2] in ("12", "ab"))


def _shape(rows: list[list[str]], wanted: list[str] | None, header: bool = False) -> Shape | None:
    """What the first rows of a table are; None where they do not tell.

    Args:
        rows: the first few, stripped; at least one.
        wanted: the caller's columns.
        header: the first row is known to be one.
    """
    first = rows[0][: max((i for i, n in enumerate(rows[0], 1) if n), default=0)]
    if wanted is None:
        roles = _roles(first)
        if "text2" in roles:
            return Shape(first, True, roles)
        return None if header else _layout(rows)
    if all(re.fullmatch(r"\d*", w) for w in wanted) and not set(wanted) <= set(first):
        return _by_position(rows, first, wanted, header)
    keys = [_key(n) for n in first]
    places = [
        first.index(w) if w in first else keys.index(_key(w)) if _key(w) in keys else None
        for w in wanted
    ]
    if all(p is not None for p, w in zip(places, wanted, strict=True) if w):
        chosen = {r: p for r, i in _chosen(wanted, True).items() if (p := places[i]) is not None}
        return Shape(first, True, _besides(first, chosen, wanted))
    if header or any(p is not None for p in places) or len(wanted) != len(rows[0]):
        return None
    return _headless(wanted, _chosen(wanted, False), rows)


def _headless(names: list[str], roles: dict[str, int], rows: list[list[str]]) -> Shape:
    sure = "score" in roles and bool(_numeric(rows[0], roles["score"]))
    return Shape(names, False, roles, sure=sure)


def _numeric(row: list[str], place: int) -> bool:
    return place < len(row) and bool(NUMBER.fullmatch(row[place].strip(' "').replace(",", ".")))


def _chosen(wanted: list[str], ids: bool) -> dict[str, int]:
    """Places in the caller's columns of text1, text2, score and (with ``ids``) id.

    They stand in this order, unless their names say otherwise.
    """
    known = _roles(wanted)
    roles = {r: i for r, i in known.items() if r in ("score", "id")}
    others = [i for i, w in enumerate(wanted) if w and i not in roles.values()]
    if len(others) < 2:  # not all are what they are called
        roles, others = {}, [i for i, w in enumerate(wanted) if w]
    roles |= {"text1": others[0], "text2": others[1]}
    if "text2" in known and {known["text1"], known["text2"]} != set(others[:2]):
        roles |= {"text1": known["text1"], "text2": known["text2"]}
    for i in set(others) - set(roles.values()):
        if i < 3 + ids and ROLES[i] not in roles:
            roles[ROLES[i]] = i
    return roles


def _besides(names: list[str], chosen: dict[str, int], wanted: list[str]) -> dict[str, int]:
    """``chosen``, and score and id by their names where the caller has named the texts alone."""
    if len(wanted) > 2:
        return chosen
    taken = {i for i, n in enumerate(names) if i in chosen.values() or TEXT.fullmatch(_key(n))}
    return _roles(["" if i in taken else n for i, n in enumerate(names)]) | chosen


def _by_position(
    rows: list[list[str]], first: list[str], wanted: list[str], header: bool
) -> Shape | None:
    roles = {r: int(w) - 1 for r, w in zip(ROLES, wanted, strict=False) if w}
    if min(roles.values()) < 0 or max(roles.values()) >= len(rows[0]):
        return None
    if "score" in roles and len(rows) > 1:
        header |= not _numeric(rows[0], roles["score"]) and _numeric(rows[1], roles["score"])
    if header or _text_pairs(first):
        return Shape(first, True, _besides(first, roles, wanted))
    return _headless([f"column {i + 1}" for i in range(len(rows[0]))], roles, rows)


def _layout(rows: list[list[str]]) -> Shape | None:
    """The layout of a table without a header that all rows fit, if there is one."""
    for line, looks in LAYOUTS:
        names, loose = line.split(), line != LAYOUTS[-1][0]
        fits = all(
            (len(row) >= len(names) if loose else len(row) == len(names))
            and all(re.fullmatch(look, row[i], re.IGNORECASE) for i, look in looks.items())
            for row in rows
        )
        if fits:
            return Shape(names, False, {r: names.index(r) for r in ROLES if r in names}, loose)
    return None


def _unknown(first: Sequence[str], wanted: list[str] | None) -> ValueError:
    there = ", ".join(first)[:200]
    if wanted is None:
        return ValueError(f"no two columns are known to be the texts: it has {there}; {NAMING}")
    if all(re.fullmatch(r"\d*", w) for w in wanted):
        return ValueError(f"it has no columns {', '.join(wanted)}: it has {there}")
    keys = {_key(n) for n in first}
    lacking = ", ".join(w for w in wanted if w and _key(w) not in keys)
    return ValueError(f"it has no column {lacking}: it has {there}")


# -- containers and encodings -------------------------------------------------------------------


def _unpacked(data: bytes, name: Path) -> tuple[bytes, str]:
    """What is in a compressed file, and the ending of its name without that of compression."""
    while not _is_workbook(data):
        if what := next((w for looks, w in FORMATS.items() if re.match(looks, data, re.S)), None):
            raise ValueError(f"it is {what}")
        unpack = next((f for magic, f in UNPACK.items() if re.match(magic, data)), None)
        if unpack is None:
            break
        try:
            data = unpack(data)
        except Exception as error:  # whatever the formats' readers may raise
            raise ValueError(f"it is damaged, or cannot be unpacked: {error}") from error
        name = name.with_suffix("") if name.suffix.lower() in PACKED else name
    return data, name.suffix.lower()


def _is_workbook(data: bytes) -> bool:
    return data.startswith(b"PK\3\4") and b"xl/workbook.xml" in data


def _unzip(data: bytes) -> bytes:
    """The one file of a zip archive."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.read(_only(archive.namelist()))


def _untar(data: bytes) -> bytes:
    """The one file of a tar archive."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        files = {member.name: member for member in archive if member.isfile()}
        if data[archive.offset :].strip(b"\0"):  # where tarfile takes it for the end
            raise ValueError("there is more behind its end")
        found = archive.extractfile(files[_only(files)])
        return found.read() if found else b""


def _only(names: Iterable[str]) -> str:
    """The one file that an archive is to hold, beside what macOS puts there."""
    files = [n for n in names if n[-1] != "/" and "__MACOSX" not in n and "/._" not in f"/{n}"]
    if len(files) != 1:
        raise ValueError(f"{len(files)} files ({', '.join(files[:9])}), and one is expected")
    return files[0]


def _streams(start: Callable[[], Any]) -> Callable[[bytes], bytes]:
    """What unpacks streams that follow each other, every one of them whole and nothing between.

    bz2.decompress and lzma.decompress pass over whatever they cannot read behind the first.
    """

    def unpack(data: bytes) -> bytes:
        parts = []
        while data.strip(b"\0"):  # which may fill up a file
            reader = start()
            parts.append(reader.decompress(data))
            if not reader.eof:
                raise ValueError("it ends before its end")
            data = reader.unused_data.lstrip(b"\0")
        return b"".join(parts)

    return unpack


def _zstandard(data: bytes) -> bytes:
    import pyarrow as pa

    return pa.CompressedInputStream(pa.BufferReader(data), "zstd").read()


UNPACK: dict[bytes, Callable[[bytes], bytes]] = {
    rb"\x1f\x8b": gzip.decompress,
    rb"BZh[1-9](1AY&SY|\x17rE8P\x90)": _streams(bz2.BZ2Decompressor),
    rb"\xfd7zXZ\x00": _streams(lzma.LZMADecompressor),
    rb"\x28\xb5\x2f\xfd": _zstandard,
    rb"PK(\x03\x04|\x05\x06|\x07\x08)": _unzip,
    rb"(?s:.{257})ustar": _untar,
}
FORMATS = {
    rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "an old workbook (.xls): save it as .xlsx or CSV UTF-8",
    rb"PK\x03\x04.{26}mimetypeapplication/vnd\.oasis": "OpenDocument: save it as .xlsx or CSV",
    rb"%PDF-": "a PDF: it needs the table itself, as CSV or JSON lines",
    rb"7z\xbc\xaf|Rar!\x1a|\x1f\x9d|\x04\"M\x18": "an archive that is not read: unpack it first",
    rb"SQLite format 3\x00": "a database of SQLite: write the table as CSV or Parquet",
    rb"ARROW1\x00|FEA1\x00|\x89HDF": "of a format that is not read: write it with to_parquet",
    rb"\x80[\x02-\x05]": "a pickle, which could run anything: write it with to_parquet",
}
"""Patterns that no text begins with: of what is unpacked, and of what is not read."""


def _decoded(data: bytes, encoding: str | None) -> str:
    """The text of a file: by its mark, the caller's word, or UTF-8."""
    marked = next((name for bom, name in BOMS.items() if data.startswith(bom)), None)
    codec = marked or encoding or "utf-8"
    if codec == "utf-8" and (other := _unmarked(data)):
        raise ValueError(f"it is not UTF-8 but, it seems, {other[:6].upper()}: --encoding {other}")
    try:
        text = data.decode(codec).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ValueError(_undecodable(data, codec, error.start)) from error
    except (LookupError, ValueError) as error:
        raise ValueError(f"encoding {encoding!r} cannot be used: {error}") from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise ValueError(f"line {line} holds a NUL character: it is damaged, or no text")
    return text


def _unmarked(data: bytes) -> str | None:
    """The encoding of a text that has no mark and is full of NULs."""
    four = [data[i:4096:4] for i in range(4)]
    return WIDE.get("".join("0" if part.count(0) > len(part) / 2 else "x" for part in four))


def _doubts(data: bytes, text: str) -> list[str]:
    """What is to be said of a text that is valid UTF-8 too, and reads otherwise in it."""
    try:
        other = data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError:
        return []
    if data.isascii() or other == text or "\0" in other:
        return []
    pairs = enumerate(zip(text.split("\n"), other.split("\n"), strict=False), 1)
    lines = ((k, a.strip(), b.strip()) for k, (a, b) in pairs if a != b)
    k, ours, theirs = next(lines, (1, text, other))
    said = f"line {k} is read as {ours[:80]!r}, and in UTF-8, which it is too, as {theirs[:80]!r}"
    return [f"{said}{DOUBT}"]


def _undecodable(data: bytes, codec: str, at: int) -> str:
    number = data[:at].count(b"\n") + 1
    message = f"line {number} is not {codec.upper()} (byte {data[at]:#04x})"
    if any(c < 9 for c in data[:4096]):
        return f"{message}: it is no text; CSV, JSON lines, Parquet and Excel's .xlsx are read"
    if codec == "utf-8":
        line = data[data.rfind(b"\n", 0, at) + 1 :].split(b"\n")[0][:200]
        read = line.decode("cp1252", errors="replace").strip()
        message += f"; if it should be {read!r}: --encoding cp1252; if not, --encoding and its own"
    return f"{message}, or save it as UTF-8"


# -- delimited text -----------------------------------------------------------------------------


def _delimited(text: str, suffix: str, wanted: list[str] | None, quotes: str | None) -> Table:
    above = _titles(text)
    below = re.sub(r"[^\r\n]", "", text[:above]) + text[above:]
    found = _likeliest(below, suffix, wanted, quotes) if above else None
    if found and found[1].header and found[0] != " ":
        text = below
    else:
        above = 0
        text, found = _sniffed(text, suffix, wanted, quotes)
    if found is None:
        rows = [_head(text, d, quotes or "double")[0] for d in ",;\t|"]
        raise _unknown(max(rows, key=len), wanted)
    delimiter, shape = found
    records, note = _quoted(text, delimiter, shape, quotes)
    table = _table(records[shape.header :], shape, "line", delimiter)
    table.notes += [note] if note else []
    if above:
        table.notes.append(_passed_over(1, records[0][0], "line"))
    if not shape.sure:
        line, cells = records[0]
        pair = " and ".join(repr(cells[shape.roles[r]].strip()) for r in ("text1", "text2"))
        table.notes.append(f"line {line} is read as a pair, not as a header: {pair}")
    return table


def _sniffed(
    text: str, suffix: str, wanted: list[str] | None, quotes: str | None
) -> tuple[str, tuple[str, Shape] | None]:
    """Delimiter and shape; and the text, where lines before the header are blanked."""
    while True:
        if found := _likeliest(text, suffix, wanted, quotes):
            return text, found
        preamble = re.match(r"\s*(#|sep=)[^\r\n]*[\r\n]+(?=\s*\S)", text)
        if not preamble:
            return text, None
        text = re.sub(r"[^\r\n]", "", preamble[0]) + text[preamble.end() :]


def _likeliest(
    text: str, suffix: str, wanted: list[str] | None, quotes: str | None
) -> tuple[str, Shape] | None:
    found: list[tuple[str, Shape]] = []
    for delimiter in DELIMITERS.get(suffix, "\t;,|") + " ":
        if delimiter == " " and any(shape.header for _, shape in found):
            break  # spaces around what others delimit
        for reading in [quotes] if quotes else ["double", "none"]:
            rows = _head(text, delimiter, reading)
            shape = _shape(rows, wanted)
            even = len({len(r) for r in rows}) == 1 and not (found and delimiter == " ")
            if shape and (shape.header or shape.loose or even):
                found.append((delimiter, shape))
    # a header tells; without one, the more columns come out even
    return max(found, key=lambda f: (f[1].header, len(f[1].names)), default=None)


def _titles(text: str) -> int:
    """Where the first lines end that hold one cell each and are no comments."""
    stream, end = io.StringIO(text, newline=""), 0
    for _ in range(9):
        line = stream.readline()
        cells = [c for c in re.split(r"[,;\t|]", re.sub('"[^"]*"', "x", line)) if c.strip()]
        if not line or len(cells) > 1 or re.match(r"\s*(#|sep=)", line):
            break
        end += len(line)
    return end if text[:end].strip() else 0


def _head(text: str, delimiter: str, quotes: str, count: int = 10) -> list[list[str]]:
    """The first rows, stripped; leniently, for a look at them."""
    options = (NONE if quotes == "none" else DOUBLE) | {"strict": False}
    rows: list[list[str]] = []
    for cells in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, **options):
        if any(map(str.strip, cells)):
            rows.append([c.strip() for c in cells])
            while delimiter == " " and not rows[-1][-1]:  # of a space at the end
                rows[-1].pop()
        if len(rows) == count:
            break
    return rows or [[text[:200].strip()]]


def _records(text: str, delimiter: str, options: dict[str, Any]) -> list[Record]:
    """Records that are not blank, each with its first line. ValueError names a quote's line."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, **options)
    records, before = [], 0
    try:
        for cells in reader:
            if any(map(str.strip, cells)):
                records.append((before + 1, cells))
            before = reader.line_num
    except csv.Error as error:
        why = str(error) if options is NONE else "a double quote is not closed, or not doubled"
        raise ValueError(f"line {before + 1}: {why}") from error
    return records


def _quoted(
    text: str, delimiter: str, shape: Shape, quotes: str | None
) -> tuple[list[Record], str | None]:
    """The records under what double quotes can mean in this file, and what is to be said of it.

    Raises:
        ValueError: they can mean two things, or nothing that makes a table.
    """
    plain = _records(text, delimiter, NONE)
    if '"' not in text or quotes == "none":
        return plain, None
    escaped = '\\"' in text and "\\" not in re.sub(r'\\[\\"]', "", text)
    faults, rest = [], None
    for options in [BACKSLASH, DOUBLE] if escaped else [DOUBLE]:
        try:
            records = _records(text, delimiter, options)
        except ValueError as error:
            faults.append(str(error))
            continue
        swallowed = None if quotes else _swallowed(records, plain, shape)
        if not swallowed and (quotes or _fit(records, shape)):
            return records, None
        faults += [swallowed] if swallowed else []
        rest = rest or records
    if not quotes and _fit(plain, shape):
        enclosed = any(_enclosed(c) for _, cells in plain for c in cells)
        if delimiter == "\t" or not (enclosed or (rest and faults)):  # nothing that they enclose
            why = faults[0] if faults else "double quotes do not enclose whole cells"
            return plain, f"{why}: they are read as characters of the texts (--quotes none)"
    if faults:
        raise ValueError(
            f"{faults[0]}. Mend it, or say what the quotes are: --quotes none for characters of "
            "the texts, --quotes double where they enclose cells, of several lines too"
        )
    return rest or plain, None


def _swallowed(records: list[Record], plain: list[Record], shape: Shape) -> str | None:
    """A record that runs over lines which look like records of their own, if there is one.

    One of them has a score; or all have cells enough (without scores, those between suffice).
    """
    rows = dict(plain)
    ends = [line for line, _ in records[1:]] + [max(rows) + 1]
    for (line, cells), end in zip(records, ends, strict=True):
        if shape.loose and any("\t" in cell for cell in cells) and len(rows[line]) > len(cells):
            return f"line {line}: a double quote makes cells one that look like two"
        lines = [k for k in range(line, end) if k in rows]
        inner = lines if "score" in shape.roles else lines[1:-1] or lines
        if len(lines) > 1 and (
            any(_has_score(rows[k], shape) for k in lines[:-1])
            or all(_has_cells(rows[k], shape) for k in inner)
        ):
            return (
                f"line {line}: a double quote makes lines {line} to {lines[-1]} one row, and they "
                "look like rows of their own"
            )
    return None


def _has_score(cells: list[str], shape: Shape) -> bool:
    """Whether there is a number where the score is, counted from the first cell or the last."""
    score, surplus = shape.roles.get("score"), len(cells) - len(shape.names)
    if score is None or surplus < 0:
        return False
    return _numeric(cells, score) or _numeric(cells, score + surplus)


def _has_cells(cells: list[str], shape: Shape) -> bool:
    """Whether there are as many as in a row; or more, and then none that quotes enclose."""
    surplus = len(cells) - len(shape.names)
    return surplus == 0 or (surplus > 0 and (shape.loose or not any(map(_enclosed, cells))))


def _enclosed(cell: str) -> bool:
    return len(cell) > 1 and cell[0] == cell[-1] == '"'


def _fit(records: list[Record], shape: Shape) -> bool:
    return not any(_ragged(cells, shape) for _, cells in records)


def _ragged(cells: list[Any], shape: Shape) -> bool:
    surplus = cells[len(shape.names) :]
    return len(cells) < len(shape.names) or (not shape.loose and any(map(_plain, surplus)))


# -- tables from records ------------------------------------------------------------------------


def _table(records: list[Record], shape: Shape, unit: str, delimiter: str = "") -> Table:
    """A table of equally long rows; those that were not are faults."""
    count, faults = len(shape.names), {}
    width = max([count, *(len(c) for _, c in records)]) if shape.loose else count
    mend = f": a text that holds {delimiter!r} must stand in double quotes" if delimiter else ""
    texts = [shape.roles[role] for role in ("text1", "text2")]
    titles = [_key(shape.names[i]) for i in texts] if shape.header else []
    for line, cells in records:
        if titles and len(cells) > max(texts) and titles == [_key(_plain(cells[i])) for i in texts]:
            faults[line] = "it is the header once more"
        elif _ragged(cells, shape):
            faults[line] = f"it has {len(cells)} cells, and {count} are expected"
            faults[line] += mend if len(cells) > count else ""
    used: set[str] = set()
    names = [_free(n, i, used) for i, n in enumerate([*shape.names, *[""] * (width - count)])]
    rows = [(cells + [""] * width)[:width] for _, cells in records]
    index = pd.Index([line for line, _ in records], name=unit)
    kind = str if delimiter else object
    return Table(pd.DataFrame(rows, index, names, dtype=kind), shape.roles, faults)


def _shaped(records: list[Record], wanted: list[str] | None, unit: str) -> Table:
    """Records of a sheet or of JSON arrays, with a header or without."""
    width = max(len(cells) for _, cells in records)
    records = [(k, cells + [None] * (width - len(cells))) for k, cells in records]
    head = [[_plain(c) for c in cells] for _, cells in records[:10]]
    titles = next((i for i, cells in enumerate(head) if len(list(filter(None, cells))) > 1), 0)
    below = _shape(head[titles:], wanted)
    if titles and below and below.header:
        table = _table(records[titles + 1 :], below, unit)
        table.notes.append(_passed_over(records[0][0], records[titles][0], unit))
        return table
    shape = _shape(head, wanted)
    if shape is None:
        raise _unknown(head[0], wanted)
    return _table(records[shape.header :], shape, unit)


def _passed_over(first: int, header: int, unit: str) -> str:
    return f"{unit} {header} is read as the header, and what stands above, from {unit} {first}, not"


def _of_columns(cells: pd.DataFrame, wanted: list[str] | None, unit: str = "row") -> Table:
    """A table whose columns have names of their own."""
    names = [str(c).strip() for c in cells.columns]
    shape = _shape([names], wanted, header=True)
    if shape is None:
        raise _unknown(names, wanted)
    used: set[str] = set()
    cells.columns = pd.Index([_free(n, i, used) for i, n in enumerate(names)])
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
    return [(i, row) for i, row in enumerate(rows, 1) if any(map(_plain, row))]


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
    text = _decoded(file.read_bytes(), encoding)
    records = _records(text, "\t", NONE)
    gold = file.with_name(re.sub(r"\.input\.", ".gs.", file.name, flags=re.IGNORECASE))
    shape = Shape(["text1", "text2"], False, {"text1": 0, "text2": 1}, loose=True)
    table = _table(records, shape, "line", "\t")
    table.notes += _doubts(file.read_bytes(), text)
    if not gold.is_file():
        table.notes.append(f"there are no scores, since {gold.name} is not beside it")
        return table
    lines = _decoded(gold.read_bytes(), encoding).removesuffix("\n").split("\n")
    last = records[-1][0] if records else 0
    if len(lines) < last or any(map(str.strip, lines[last:])):
        raise ValueError(f"it has {last} lines and {gold.name} has {len(lines)}: they do not match")
    table.cells["score"] = [lines[k - 1].strip() for k in table.cells.index]
    table.roles = table.roles | {"score": table.cells.shape[1] - 1}
    empty = table.cells.index[table.cells["score"] == ""]
    table.faults = dict.fromkeys(map(int, empty), UNSCORED) | table.faults
    return table
