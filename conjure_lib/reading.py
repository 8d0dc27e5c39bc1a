"""What a model's tokenizers make of a text: what is read, what is lost, and what becomes the same.

A network is told tokens and not strings. What a tokenizer does not know, drops or cuts has no part
in any number, and two texts of equal tokens are one text to the network. What is lost is found by
trying: a character is not read where the tokens stay the same without it, or with another in its
place. So any tokenizer can be asked, and a text is lost only where no encoder of a model reads it.
"""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from unicodedata import category, normalize

TEXTS = threading.RLock()  # how to cut and to fill is a state of a tokenizer, not of a call
LONG = 80  # characters of a text that a message shows
SIGN = "sign"  # how a text is lost that stands for a token with a part in the model
NOT_READ = ("", "cut", SIGN)
SHOWN = 3  # texts that a warning names one by one; the others are counted
FILLERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")  # letters and signs that draw nothing
SELECTORS = frozenset(map(chr, range(0xFE00, 0xFE10)))  # which of two looks: no part of the text
SAME = "are the same tokens to the model"


class UnreadWarning(UserWarning):
    """The text encoder does not read all of a text, or cannot tell two texts apart."""


@dataclass(frozen=True)
class Reader:
    """One tokenizer of a pipeline: its name, how many tokens it has room for, what comes before."""

    name: str
    tokenizer: Any
    length: int
    prepare: Callable[[str], str] = str

    @property
    def room(self) -> int:
        """Tokens of a text that are read; the special ones come on top."""
        return self.length - int(self.tokenizer.num_special_tokens_to_add())

    def __call__(self, texts: Sequence[str]) -> list[list[tuple[int, int, int]]]:
        """The tokens of each text, uncut: (id, first character, the character after the last).

        A tokenizer that does not say where a token comes from is asked word by word.
        """
        fast = getattr(self.tokenizer, "is_fast", False)
        spans = [[m.span() for m in re.finditer(r"\S+", text)] for text in texts]
        words = [text[a:b] for text, ours in zip(texts, spans, strict=True) for a, b in ours]
        asked = list(texts) if fast else words
        if not asked:
            return [[] for _ in texts]
        with TEXTS:
            found = self.tokenizer(
                asked,
                add_special_tokens=False,
                truncation=False,
                return_offsets_mapping=fast,
                verbose=False,  # transformers would say that a text is long, and not what is lost
            )
        if fast:
            rows = zip(found["input_ids"], found["offset_mapping"], strict=True)
            return [[(i, *at) for i, at in zip(*row, strict=True)] for row in rows]
        ids = iter(found["input_ids"])
        return [[(i, *at) for at in ours for i in next(ids)] for ours in spans]


@dataclass(frozen=True)
class Reading:
    """What becomes of one text.

    Attributes:
        tokens: what each encoder is told; the text itself where nothing is known of the encoders.
        read: tokens read of ``written``, by the encoder that reads the largest part.
        lost: what no encoder reads, in words; empty where all is read.
        folded: what is read as something else that means the same to most: case, forms of letters.
    """

    text: str
    tokens: tuple[Any, ...]
    read: int
    written: int
    lost: tuple[str, ...] = ()
    folded: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.read} of {self.written}"


def read(readers: Sequence[Reader], texts: Sequence[str]) -> list[Reading]:
    """The reading of each text by all encoders together."""
    if not readers:
        return [Reading(text, (text,), 0, 0) for text in texts]
    unique = list(dict.fromkeys(texts))
    seen = [_look(reader, unique) for reader in readers]
    found = {text: _together(readers, text, row) for text, *row in zip(unique, *seen, strict=True)}
    return [found[text] for text in texts]


def same(first: Reading, second: Reading) -> bool:
    """Whether two texts differ and the model cannot tell: their distance says nothing of them."""
    return first.text != second.text and first.tokens == second.tokens


def warn_unread(readers: Sequence[Reader], texts: Sequence[str], stacklevel: int = 3) -> None:
    """Warn of texts that no encoder reads whole, each by name or, of many, the number of them."""
    lines = [f"{'; '.join(r.lost)}, from {quoted(r.text)}" for r in read(readers, texts) if r.lost]
    _warn(lines, "texts are not read whole", stacklevel)


def warn_same(pairs: Iterable[tuple[Reading, Reading]], stacklevel: int = 3) -> None:
    """Warn of pairs of texts that differ as strings and not as tokens, each once."""
    alike = dict.fromkeys((a.text, b.text) for a, b in pairs if same(a, b))
    lines = [f"{quoted(a)} and {quoted(b)} {SAME}: it cannot tell them apart" for a, b in alike]
    _warn(lines, "pairs are the same tokens", stacklevel)


def fault(text: str) -> str | None:
    """Why ``text`` cannot be a prompt, as "is blank", and the mend; None where it can."""
    if not text:
        return "is empty: write some text"
    for i, c in enumerate(text):
        if "\ud800" <= c <= "\udfff":
            return (
                f"holds half a character at position {i} ({point(c)} alone): it was read in "
                "another encoding than its own; read or type it as UTF-8"
            )
    if any(_visible(c) for c in text):
        return None
    hidden = " ".join(point(c) for c in dict.fromkeys(text) if not c.isspace())
    return f"is blank{f' (nothing of {hidden} can be seen)' if hidden else ''}: write some text"


def quoted(text: str) -> str:
    """A text for a message, its beginning where it is long."""
    return repr(text if len(text) <= LONG else f"{text[: LONG - 1]}…")


def point(c: str) -> str:
    """A character by its number, such as U+200B."""
    return f"U+{ord(c):04X}"


def _visible(c: str) -> bool:
    kind = category(c)
    return kind[0] not in "ZM" and kind not in ("Cc", "Cf") and c not in FILLERS


def _warn(lines: list[str], what: str, stacklevel: int) -> None:
    if len(lines) > SHOWN + 1:
        lines = [*lines[:SHOWN], f"{len(lines) - SHOWN} more {what}"]
    for line in lines:
        warnings.warn(line, UnreadWarning, stacklevel=stacklevel + 1)


# -- one encoder ----------------------------------------------------------------------------


@dataclass
class _Look:
    """What one encoder makes of a text.

    ``lost`` holds the characters that it does not read, by their position: "" of one that is
    unknown or dropped, "cut", SIGN, or what the character is read as. ``folded`` holds what is
    said of characters that are read, and their positions.
    """

    reader: Reader
    text: str  # as the tokenizer gets it
    ids: tuple[int, ...]  # those that are read
    read: int
    written: int
    lost: dict[int, str] = field(default_factory=dict)
    folded: dict[str, list[int]] = field(default_factory=dict)

    def lose(self, start: int, end: int, how: str) -> None:
        for i in range(start, end):
            if not self.text[i].isspace():
                self.lost.setdefault(i, how)


def _look(reader: Reader, texts: Sequence[str]) -> list[_Look]:
    prepared = [reader.prepare(text) for text in texts]
    rows, special = reader(prepared), set(reader.tokenizer.all_special_ids)
    signs = set(map(str, getattr(reader.tokenizer, "all_special_tokens", ())))
    looks: list[_Look] = []
    asked: list[tuple[int, str, str, str]] = []
    for n, (text, row) in enumerate(zip(prepared, rows, strict=True)):
        kept = row[: reader.room]
        known = sum(i not in special for i, *_ in kept)
        look = _Look(reader, text, tuple(i for i, *_ in kept), known, len(row))
        if len(row) > reader.room:
            look.lose(row[reader.room][1], len(text), "cut")
        for i, start, end in kept:
            if i in special:
                look.lose(start, end, SIGN if text[start:end].strip() in signs else "")
        looks.append(look)
        asked += [(n, *trial) for trial in _trials(text, row)]
        if (small := "".join(c.lower() for c in texts[n])) != texts[n]:
            asked.append((n, "", "", small))
    answers = reader([reader.prepare(text) for *_, text in asked])
    for (n, c, instead, _), row in zip(asked, answers, strict=True):
        if [i for i, *_ in row] == [i for i, *_ in rows[n]]:
            _note(looks[n], c, instead)
    return looks


def _trials(text: str, row: Sequence[tuple[int, int, int]]) -> list[tuple[str, str, str]]:
    """Other texts whose tokens may be the same: (character, what stands in its place, text).

    Without a character that no token comes from, that has no shape of its own or that changes the
    one before it, or with a space for it; with a letter without its marks, or in its plain form.
    """
    trials = []
    covered = {i for _, start, end in row for i in range(start, end)}
    gaps = {c for i, c in enumerate(text) if i not in covered and not c.isspace()} - SELECTORS
    unusual = {c for c in text if not (" " <= c <= "~" or c in SELECTORS or c.isspace())}
    for c in sorted(unusual | gaps):
        kind = category(c)
        if c in gaps or kind[0] == "C" or kind in ("Mn", "Sk"):
            trials.append((c, "", text.replace(c, "")))
        if kind[0] == "C":
            trials.append((c, " ", text.replace(c, " ")))
        bare = normalize("NFC", "".join(d for d in normalize("NFD", c) if category(d) != "Mn"))
        for plain in dict.fromkeys((bare, normalize("NFKC", c))):
            if plain not in ("", c, normalize("NFC", c)):
                trials.append((c, plain, text.replace(c, plain)))
    return trials


def _note(look: _Look, c: str, instead: str) -> None:
    """``c`` is not read, or only as ``instead``; without ``c``, all capitals are not."""
    if not c:
        capitals = [i for i, other in enumerate(look.text) if other.lower() != other]
        look.folded["capitals are read as small letters"] = capitals
        return
    places = [i for i, other in enumerate(look.text) if other == c]
    if instead == " ":
        look.folded[f"{point(c)} is read as a space"] = places
    elif instead and normalize("NFKC", c) == normalize("NFKC", instead):
        look.folded[f"{c!r} is read as {instead!r}"] = places
    else:
        for i in places:
            look.lost.setdefault(i, instead)


# -- all encoders together ------------------------------------------------------------------


def _together(readers: Sequence[Reader], text: str, looks: Sequence[_Look]) -> Reading:
    best = min(looks, key=lambda look: len(look.lost))
    lost = {i: how for i, how in best.lost.items() if all(i in look.lost for look in looks)}
    folded = [
        one
        for one, places in best.folded.items()
        if all(one in look.folded for look in looks)
        and (not places or any(lost.get(i) not in NOT_READ for i in places))
    ]
    for look in looks:
        if look.written > look.reader.room and "cut" not in lost.values():
            folded.append(f"{look.reader.name} reads {look.reader.room} of {look.written} tokens")
    tokens = tuple(look.ids for look in looks)
    names = ", ".join(reader.name for reader in readers)
    several = f"none of the text encoders ({names}) reads" if len(readers) > 1 else ""
    phrases = tuple(_phrases(best, lost, several or "the text encoder does not read"))
    return Reading(text, tokens, best.read, best.written, phrases, tuple(folded))


def _phrases(look: _Look, lost: Mapping[int, str], unread: str) -> Iterable[str]:
    room, written = look.reader.room, look.written
    if cut := [i for i, how in lost.items() if how == "cut"]:
        yield (
            f"the text encoder reads {room} tokens and this prompt has {written}: the "
            f"last {written - room} are cut ({quoted(look.text[min(cut) :].rstrip())})"
        )
    if pieces := _pieces(look.text, [i for i, how in lost.items() if not how]):
        yield f"{unread} {firsts(pieces)}"
    if pieces := _pieces(look.text, [i for i, how in lost.items() if how == SIGN]):
        yield f"the text encoder reads {firsts(pieces)} as signs of its own and not as text"
    marked = {look.text[i]: how for i, how in sorted(lost.items()) if how not in NOT_READ}
    if marked:
        yield f"the text encoder reads {firsts([f'{c!r} as {how!r}' for c, how in marked.items()])}"


def _pieces(text: str, places: Iterable[int]) -> list[str]:
    """The stretches of ``text`` at ``places``, each once: as they are, or by number if unseen."""
    stretches: list[list[int]] = []
    for i in sorted(places):
        if stretches and stretches[-1][-1] == i - 1:
            stretches[-1].append(i)
        else:
            stretches.append([i])
    found = ["".join(text[i] for i in stretch) for stretch in stretches]
    shown = [
        quoted(s) if any(category(c)[0] in "LNPS" for c in s) else " ".join(map(point, s))
        for s in found
    ]
    return list(dict.fromkeys(shown))


def firsts(items: Sequence[str]) -> str:
    """Some items for a message; of many the first, and how many more there are."""
    more = len(items) - 2 * SHOWN
    return ", ".join(items[: 2 * SHOWN]) + (f" and {more} more" if more > 0 else "")
