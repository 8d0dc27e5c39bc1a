"""What a table comes in: archives and encodings, down to its text; or why it cannot be read."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

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
PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".tgz")
DOUBT = ": if that is right, leave out --encoding"


def unpacked(data: bytes, name: Path) -> tuple[bytes, str]:
    """What is in a compressed file, and the ending of its name without that of compression."""
    while not is_workbook(data):
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


def is_workbook(data: bytes) -> bool:
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


def decoded(data: bytes, encoding: str | None) -> str:
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


def doubts(data: bytes, text: str) -> list[str]:
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
