"""Tables of delimited text: what stands between cells, and what double quotes mean in it."""

from __future__ import annotations

import csv
import io
import re
from typing import Any

from conjure_tools.columns import (
    Record,
    Shape,
    Table,
    all_fit,
    has_cells,
    has_score,
    is_enclosed,
    made_table,
    shape_of,
    unknown_columns,
)

DELIMITERS = {".csv": ",;\t|", ".tsv": "\t,;|", ".tab": "\t,;|"}  # likelier ones first
DOUBLE: dict[str, Any] = {"strict": True, "skipinitialspace": True}
BACKSLASH: dict[str, Any] = DOUBLE | {"doublequote": False, "escapechar": "\\"}
NONE: dict[str, Any] = {"quoting": csv.QUOTE_NONE, "skipinitialspace": True}
csv.field_size_limit(2**31 - 1)  # the texts are as long as they are


def delimited_table(text: str, suffix: str, wanted: list[str] | None, quotes: str | None) -> Table:
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
        raise unknown_columns(max(rows, key=len), wanted)
    delimiter, shape = found
    records, note = _quoted(text, delimiter, shape, quotes)
    table = made_table(records[shape.header :], shape, "line", delimiter)
    table.notes += [note] if note else []
    if above:
        table.notes.append(passed_over(1, records[0][0], "line"))
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
            shape = shape_of(rows, wanted)
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


def records_of(text: str, delimiter: str, options: dict[str, Any]) -> list[Record]:
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
    plain = records_of(text, delimiter, NONE)
    if '"' not in text or quotes == "none":
        return plain, None
    escaped = '\\"' in text and "\\" not in re.sub(r'\\[\\"]', "", text)
    faults, rest = [], None
    for options in [BACKSLASH, DOUBLE] if escaped else [DOUBLE]:
        try:
            records = records_of(text, delimiter, options)
        except ValueError as error:
            faults.append(str(error))
            continue
        swallowed = None if quotes else _swallowed(records, plain, shape)
        if not swallowed and (quotes or all_fit(records, shape)):
            return records, None
        faults += [swallowed] if swallowed else []
        rest = rest or records
    if not quotes and all_fit(plain, shape):
        enclosed = any(is_enclosed(c) for _, cells in plain for c in cells)
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
            any(has_score(rows[k], shape) for k in lines[:-1])
            or all(has_cells(rows[k], shape) for k in inner)
        ):
            return (
                f"line {line}: a double quote makes lines {line} to {lines[-1]} one row, and they "
                "look like rows of their own"
            )
    return None


def passed_over(first: int, header: int, unit: str) -> str:
    return f"{unit} {header} is read as the header, and what stands above, from {unit} {first}, not"
