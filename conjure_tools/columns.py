"""Which column of a table is which: by name, by what is in it, or as one says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from conjure_lib.inputs import listed

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
WORDS = r".*[^\d.,\s+-].*"  # not a number
LAYOUTS = (
    ("genre file year number score text1 text2", {0: "main-.*", 4: NUMBER.pattern}),  # STS-B
    ("text1 text2 pos score", {2: "[NVA]", 3: NUMBER.pattern}),  # SimVerb-3500
    ("text1 text2 score", {0: WORDS, 1: WORDS, 2: NUMBER.pattern}),  # RG-65, MEN and many more
)
"""Of tables without a header: the columns, and what the cells of some must look like. All but the
last may have more columns than are named."""
NAMING = (
    "name the columns of the two texts, and perhaps of the score and the id: --columns "
    "FIRST,SECOND,SCORE, or by position --columns 1,2,3"
)
NAMED = '["word1", "word2"]'
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


def plain(cell: Any) -> str:
    """A cell as text that UTF-8 can hold; nothing where there is nothing."""
    if cell is None or cell is pd.NA or (isinstance(cell, (float, np.floating)) and cell != cell):
        return ""
    return str(cell).encode(errors="replace").decode().strip()


def free_name(name: str, i: int, used: set[str]) -> str:
    """A name for column i that is not in use yet, which it is then."""
    kept = name or f"column {i + 1}"
    while kept in used:
        kept += f" ({i + 1})"
    used.add(kept)
    return kept


def wanted_columns(columns: str | Sequence[str | int] | None) -> list[str] | None:
    """The caller's columns as stripped names; an error where there are not two or more."""
    if columns is None:
        return None
    given = columns.split(",") if isinstance(columns, str) else listed(columns, "columns", NAMED)
    wanted = [str(c).strip() for c in given]
    named = [c for c in wanted if c]
    if len(wanted) < 2 or not all(wanted[:2]) or len(set(named)) < len(named):
        raise ValueError(f"columns must be two or more different ones, not {columns!r}: {NAMING}")
    return wanted


def key_of(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def _roles(names: Sequence[str]) -> dict[str, int]:
    """text1, text2, score and id to their places, as far as the names tell.

    Raises:
        ValueError: two columns could be the same.
    """
    keys = [key_of(n) for n in names]
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
    texts = dict.fromkeys(filter(TEXT.fullmatch, map(key_of, names)))
    return [(a, b) for a in texts for b in texts if _are_a_pair(a, b)]


def _are_a_pair(first: str, second: str) -> bool:
    one, two = TEXT.fullmatch(first), TEXT.fullmatch(second)
    return bool(one and two and one[1] == two[1] and one[2] + two[2] in ("12", "ab"))


def shape_of(rows: list[list[str]], wanted: list[str] | None, header: bool = False) -> Shape | None:
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
    keys = [key_of(n) for n in first]
    places = [
        first.index(w) if w in first else keys.index(key_of(w)) if key_of(w) in keys else None
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
    taken = {i for i, n in enumerate(names) if i in chosen.values() or TEXT.fullmatch(key_of(n))}
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


def unknown_columns(first: Sequence[str], wanted: list[str] | None) -> ValueError:
    there = ", ".join(first)[:200]
    if wanted is None:
        return ValueError(f"no two columns are known to be the texts: it has {there}; {NAMING}")
    if all(re.fullmatch(r"\d*", w) for w in wanted):
        return ValueError(f"it has no columns {', '.join(wanted)}: it has {there}")
    keys = {key_of(n) for n in first}
    lacking = ", ".join(w for w in wanted if w and key_of(w) not in keys)
    return ValueError(f"it has no column {lacking}: it has {there}")


def has_score(cells: list[str], shape: Shape) -> bool:
    """Whether there is a number where the score is, counted from the first cell or the last."""
    score, surplus = shape.roles.get("score"), len(cells) - len(shape.names)
    if score is None or surplus < 0:
        return False
    return _numeric(cells, score) or _numeric(cells, score + surplus)


def has_cells(cells: list[str], shape: Shape) -> bool:
    """Whether there are as many as in a row; or more, and then none that quotes enclose."""
    surplus = len(cells) - len(shape.names)
    return surplus == 0 or (surplus > 0 and (shape.loose or not any(map(is_enclosed, cells))))


def is_enclosed(cell: str) -> bool:
    return len(cell) > 1 and cell[0] == cell[-1] == '"'


def all_fit(records: list[Record], shape: Shape) -> bool:
    return not any(_ragged(cells, shape) for _, cells in records)


def _ragged(cells: list[Any], shape: Shape) -> bool:
    surplus = cells[len(shape.names) :]
    return len(cells) < len(shape.names) or (not shape.loose and any(map(plain, surplus)))


def made_table(records: list[Record], shape: Shape, unit: str, delimiter: str = "") -> Table:
    """A table of equally long rows; those that were not are faults."""
    count, faults = len(shape.names), {}
    width = max([count, *(len(c) for _, c in records)]) if shape.loose else count
    mend = f": a text that holds {delimiter!r} must stand in double quotes" if delimiter else ""
    texts = [shape.roles[role] for role in ("text1", "text2")]
    titles = [key_of(shape.names[i]) for i in texts] if shape.header else []
    for line, cells in records:
        if (
            titles
            and len(cells) > max(texts)
            and titles == [key_of(plain(cells[i])) for i in texts]
        ):
            faults[line] = "it is the header once more"
        elif _ragged(cells, shape):
            faults[line] = f"it has {len(cells)} cells, and {count} are expected"
            faults[line] += mend if len(cells) > count else ""
    used: set[str] = set()
    names = [free_name(n, i, used) for i, n in enumerate([*shape.names, *[""] * (width - count)])]
    rows = [(cells + [""] * width)[:width] for _, cells in records]
    index = pd.Index([line for line, _ in records], name=unit)
    kind = str if delimiter else object
    return Table(pd.DataFrame(rows, index, names, dtype=kind), shape.roles, faults)
