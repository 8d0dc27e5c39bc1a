"""What a model does not read of many texts: warned of, as columns beside pairs, and their sum."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from conjure_lib.reading import (
    Reader,
    Reading,
    UnreadWarning,
    firsts,
    quoted,
    read,
    same,
    warn_same,
)

if TYPE_CHECKING:
    from conjure_lib.adapters import Adapter

CLIP = 77  # tokens that its encoders have room for

COLUMNS = ("read1", "lost1", "read2", "lost2", "same_tokens")  # of a table of pairs
UNREAD = ("texts_not_read_whole", "pairs_of_same_tokens")  # what a record counts


def warn_alike(readers: Sequence[Reader], texts: Iterable[str], stacklevel: int = 3) -> None:
    """Warn of texts that have the tokens of one before them."""
    first: dict[tuple[Any, ...], Reading] = {}
    told = read(readers, list(dict.fromkeys(texts)))
    warn_same([(first.setdefault(one.tokens, one), one) for one in told], stacklevel + 1)


def warn_cut(adapter: Adapter, readers: Sequence[Reader], texts: Sequence[str]) -> None:
    """Warn of long texts whose last word changes nothing of what the network is told.

    A pipeline that puts a text into a frame, or has a limit of its own, reads less of it than its
    tokenizers have room for. So a text that fills a quarter of such a room is told once more
    without its last word; the room of CLIP, which is known, is left out.
    """
    from conjure_lib.adapters import apart

    rooms = [(reader.room, reader(texts)) for reader in readers if reader.length > CLIP]
    for i, text in enumerate(texts):
        shorter = text.rstrip().rpartition(" ")[0]
        if not shorter or not any(room < 4 * len(rows[i]) <= 4 * room for room, rows in rooms):
            continue
        whole, less = (adapter.told([one]).rows[0] for one in (text, shorter))
        if whole.form is less.form and apart(whole, less) == 0:
            warnings.warn(
                f"the network is told nothing of the end of {quoted(text)}: the pipeline cuts it",
                UnreadWarning,
                stacklevel=4,
            )


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
