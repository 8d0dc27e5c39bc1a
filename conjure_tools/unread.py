"""What a model does not read of many texts: warned of, as columns beside pairs, and their sum."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from conjure_lib.reading import (
    Reader,
    Reading,
    firsts,
    quoted,
    read,
    same,
    warn_same,
)

COLUMNS = ("read1", "lost1", "read2", "lost2", "same_tokens")  # of a table of pairs
UNREAD = ("texts_not_read_whole", "pairs_of_same_tokens")  # what a record counts


def warn_alike(readers: Sequence[Reader], texts: Iterable[str], stacklevel: int = 3) -> None:
    """Warn of texts that have the tokens of one before them."""
    first: dict[tuple[Any, ...], Reading] = {}
    told = read(readers, list(dict.fromkeys(texts)))
    warn_same([(first.setdefault(one.tokens, one), one) for one in told], stacklevel + 1)


def columns(
    readers: Sequence[Reader], text1: Sequence[str], text2: Sequence[str]
) -> dict[str, list[Any]]:
    """Columns of a table of pairs: read1, lost1, read2, lost2 and same_tokens.

    ``read`` is tokens read of tokens written, such as "30 of 34"; ``lost`` says what is not read,
    and is empty where all is. Without ``readers`` nothing is known, and there are no columns.
    """
    if not readers:
        return {}
    readings = read(readers, [*text1, *text2])
    halves = readings[: len(text1)], readings[len(text1) :]
    found: dict[str, list[Any]] = {}
    for number, half in enumerate(halves, 1):
        found[f"read{number}"] = [str(one) for one in half]
        found[f"lost{number}"] = ["; ".join(one.lost) for one in half]
    return {**found, "same_tokens": [same(*pair) for pair in zip(*halves, strict=True)]}


def summary(table: Mapping[str, Sequence[Any]]) -> dict[str, int]:
    """Of a table with :func:`columns`: texts not read whole, pairs that are the same tokens."""
    return {k: len(found) for k, found in zip(UNREAD, _unread(table), strict=False)}


def examples(table: Mapping[str, Sequence[Any]]) -> list[str]:
    """Of the same: the first of these texts and the first of these pairs, in brackets."""
    texts, pairs = _unread(table)
    named = [*map(quoted, texts)], [" and ".join(map(quoted, pair)) for pair in pairs]
    return [f" ({firsts(some)})" if some else "" for some in named]


def _unread(table: Mapping[str, Sequence[Any]]) -> list[list[Any]]:
    """Texts that are not read whole, and pairs of the same tokens; none where nothing is known."""
    if "same_tokens" not in table:
        return []
    lost = [t for i in "12" for t, w in zip(table[f"text{i}"], table[f"lost{i}"], strict=True) if w]
    rows = zip(table["text1"], table["text2"], table["same_tokens"], strict=True)
    return [list(dict.fromkeys(lost)), [(a, b) for a, b, alike in rows if alike]]
