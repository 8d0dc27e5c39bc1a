"""Folders that are written to: whole files or none, one writer, and nothing lost that is another's.

Beside every file that :func:`keep` writes, ``.written/NAME`` holds its hash. A file whose hash does
not stand there is somebody else's, or was changed: it is never written over. Nor is a mark that
holds anything else than hashes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from filelock import FileLock, Timeout

LOCK = "run.lock"
MARKS = ".written"
HASHES = re.compile(rb"[0-9a-f]{64}(\n[0-9a-f]{64})?")  # the last, and the one before
Write = Callable[[Path], Any]


def write_whole(file: Path, write: Write, ready: Write = id) -> None:
    """Write so that a kill at any moment leaves the whole file or none; ``ready`` sees it first."""
    unfinished = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        write(unfinished)
        with unfinished.open("rb+") as handle:
            os.fsync(handle.fileno())
        ready(unfinished)
        os.replace(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)


def keep(file: Path, write: Write) -> None:
    """Write ``file`` and note its hash, so that it may be written anew.

    Raises:
        FileExistsError: what is there was not written by this function, or was changed since.
    """
    refuse_others([file])
    mark = _mark(file)
    mark.parent.mkdir(parents=True, exist_ok=True)
    # the old hash stays until the next time: a kill may leave the old file
    known = _known(mark)[-1:]

    def note(unfinished: Path) -> None:
        text = "\n".join([*known, _hash(unfinished)])
        write_whole(mark, lambda path: path.write_text(text, "utf-8"))

    write_whole(file, write, note)


def discard(file: Path) -> None:
    """Remove ``file``, if it stands as :func:`keep` wrote it."""
    if is_ours(file):
        file.unlink()
        _mark(file).unlink()


def is_ours(file: Path) -> bool:
    """Whether ``file`` stands as :func:`keep` wrote it."""
    known = _known(_mark(file))
    return bool(known) and file.is_file() and _hash(file) in known


def is_changed(file: Path) -> bool:
    """Whether ``file`` was written by :func:`keep`, and is no longer as it was."""
    return bool(_known(_mark(file))) and not is_ours(file)


def refuse_others(files: Iterable[Path]) -> None:
    """Check before any work that these may be written.

    Raises:
        FileExistsError: one is there that :func:`keep` did not write, or that was changed since; or
            the place of its hash is taken.
    """
    files = list(files)
    others = [f for f in files if os.path.lexists(f) and not is_ours(f)]
    taken = [m for m in map(_mark, files) if os.path.lexists(m) and not _known(m)]
    if others := others + taken:
        raise FileExistsError(
            f"{', '.join(map(str, others))} would be written over, and was written by something "
            "else, or changed since: move it, or choose another folder"
        )


def check_place(folder: str | Path, inside: Iterable[str] = ()) -> None:
    """Check before any work that files can be written to ``folder``; nothing is left behind.

    Args:
        inside: names in it that are to be folders too.

    Raises:
        ValueError: the name is empty, or none that a folder can have.
        NotADirectoryError: a file is in the way.
        OSError: it cannot be made, or cannot be written to.
    """
    if not str(folder).strip():
        raise ValueError("the name of the folder is empty: name one, or . for the present one")
    made: list[Path] = []
    place = Path(folder)
    try:
        for part in (*reversed(place.parents), place, *(place / name for name in inside)):
            if os.path.lexists(part) and not part.is_dir():
                raise NotADirectoryError(
                    f"{part} is a file, and a folder is needed there: choose another name"
                )
            if not part.exists() and (part == place or part in place.parents):
                part.mkdir(exist_ok=True)
                made.append(part)
        with TemporaryDirectory(dir=place):
            pass
    except NotADirectoryError:
        raise
    except (OSError, ValueError) as error:  # ValueError of a NUL in the name
        kind = OSError if isinstance(error, OSError) else ValueError
        why = getattr(error, "strerror", None) or error
        raise kind(f"{place} cannot be written to ({why}): choose another folder") from error
    finally:
        for part in reversed(made):
            with suppress(OSError):  # another process has begun to use it
                part.rmdir()


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Holds ``folder`` against other processes; the system lets go where one is killed.

    Raises:
        FileExistsError: its lock is a file of something else.
        ValueError: another process holds it.
    """
    check_lock(folder)
    try:
        with FileLock(folder / LOCK, timeout=0):
            yield
    except Timeout as error:
        raise ValueError(
            f"another process is scoring into {folder}: wait for it, or choose another folder"
        ) from error


def check_lock(folder: Path) -> None:
    """Raise FileExistsError where the lock of ``folder`` is something else, which would be lost."""
    lock = folder / LOCK
    if os.path.lexists(lock) and not (lock.is_file() and lock.stat().st_size == 0):
        raise FileExistsError(f"{lock} is no lock of a run: move it, or choose another folder")


def claim(file: Path, note: Mapping[str, Any], what: str) -> None:
    """Note in ``file`` what is made in its folder, or compare with the note that is there.

    Raises:
        ValueError: the note is of something else, or is none.
    """
    plain = json.loads(json.dumps(note, default=str))
    try:
        found = json.loads(file.read_text("utf-8")) if os.path.lexists(file) else plain
    except (ValueError, OSError) as error:
        raise ValueError(f"{file} is no note of {what}: {error}; choose another folder") from error
    if not isinstance(found, dict) or not plain.keys() & found.keys():
        raise ValueError(f"{file} is no note of {what}: choose another folder")
    if other := [name for name in plain if found.get(name) != plain[name]]:
        raise ValueError(
            f"{file.parent} holds {what} with another {', '.join(other)}: choose another folder"
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.is_file():
        write_whole(file, lambda path: path.write_text(json.dumps(plain), "utf-8"))


def _hash(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _mark(file: Path) -> Path:
    return file.parent / MARKS / file.name


def _known(mark: Path) -> list[str]:
    """The hashes in a mark; none where there is no mark, or where it is somebody else's."""
    content = mark.read_bytes() if mark.is_file() else b""
    return content.decode().split() if HASHES.fullmatch(content) else []
