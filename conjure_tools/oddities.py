"""Texts that look like a mistake of their file: in another encoding, marked up, tagged."""

from __future__ import annotations

import re
import unicodedata
from contextlib import suppress

import pandas as pd

from conjure_lib.reading import quoted

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
TAGGED = re.compile(r"\S+[-_][nvjar]")  # as MEN writes sun-n
MARKS = ("''", "``", "‘’", "’’", "“”", "””", "„“", "„”", "‚‘", "«»", "»«", "‹›", "›‹")


def odd_texts(pairs: pd.DataFrame, unit: str) -> list[str]:
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
