"""Prompts beyond the window of a text encoder, read in pieces: nothing of them is cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from conjure_lib.adapters import HIDDEN, Adapter
from conjure_lib.capture import Conditioning
from conjure_lib.reading import Reader

ENDLESS = 1 << 30  # tokens that are read where nothing is cut
POOLED = ("added_cond_kwargs.text_embeds", "added_cond_kwargs.time_ids")  # one for all of a text


def in_pieces(
    adapter: Adapter, readers: Sequence[Reader], wanted: object = True
) -> tuple[list[Reader], Any]:
    """Readers to which no text is too long, and in place of ``encode`` what reads texts in pieces.

    The hidden states of the pieces are strung together; the rest is that of the first piece.

    Raises:
        TypeError: it is not True that this is ``wanted``, but "no", say, or 1.
        ValueError: the network is told more than hidden states and what one piece can give.
    """
    if wanted is not True:
        raise TypeError(f"long_prompts must be True or False, not {wanted!r}")
    shapes, name = adapter.plain.shapes, type(adapter.pipeline).__name__
    if set(shapes) - {HIDDEN, *POOLED} or HIDDEN not in shapes:
        more = ", ".join(sorted(shapes))
        raise ValueError(f"{name} reads no long prompts: its network is told {more}")
    window = min(readers, key=lambda reader: reader.room)

    def told(texts: Sequence[str]) -> Conditioning:
        return Conditioning.cat([_strung(adapter, pieces(window, text)) for text in texts])

    return [replace(reader, length=ENDLESS) for reader in readers], told


def _strung(adapter: Adapter, several: Sequence[str]) -> Conditioning:
    """Pieces of one text as one row."""
    found = [adapter.encode([one]) for one in several]
    first = found[0].rows[0]
    if len(found) == 1:
        return found[0]
    hidden = torch.cat([one.rows[0].parts[HIDDEN] for one in found], dim=1)
    return adapter.formed(first.form.tree, first.form.shared, [{**first.parts, HIDDEN: hidden}])


def pieces(reader: Reader, text: str) -> list[str]:
    """``text`` in pieces that there is room for, cut between words where that can be."""
    (row,), found, first = reader([text]), [], 0
    while len(row) - first > reader.room:
        last = first + reader.room
        words = [i for i in range(first + 1, last + 1) if row[i][1] > row[i - 1][2]]
        last = words[-1] if words else last
        found.append(text[row[first][1] : row[last - 1][2]])
        first = last
    return [*found, text[row[first][1] :] if found else text]
