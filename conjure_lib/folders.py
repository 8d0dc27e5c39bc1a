"""Folders that are written to: whole files or none, one writer, and nothing lost that is another's.

Beside every file that :func:`keep` writes, ``written/NAME`` holds its hash. A file whose hash does
not stand there is somebody else's, or was changed: it is never written over.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

LOCK = "run.lock"
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
    mark = file.parent / "written" / file.name
    mark.parent.mkdir(parents=True, exist_ok=True)
    # the old hash stays until the next time: a kill may leave the old file
    known = mark.read_text("utf-8").split()[-1:] if mark.is_file() else []

    def note(unfinished: Path) -> None:
        text = "\n".join([*known, _hash(unfinished)])
        write_whole(mark, lambda path: path.write_text(text, "utf-8"))

    write_whole(file, write, note)


def is_ours(file: Path) -> bool:
    """Whether ``file`` stands as :func:`keep` wrote it."""
    mark = file.parent / "written" / file.name
    if not (file.is_file() and mark.is_file()):
        return False
    return _hash(file) in mark.read_bytes().decode("utf-8", "replace").split()


def is_changed(file: Path) -> bool:
    """Whether ``file`` was written by :func:`keep`, and is no longer as it was."""
    return (file.parent / "written" / file.name).is_file() and not is_ours(file)


def refuse_others(files: Iterable[Path]) -> None:
    """Check before any work that these may be written.

    Raises:
        FileExistsError: one is there that :func:`keep` did not write, or that was changed since.
    """
    if others := [f for f in files if os.path.lexists(f) and not is_ours(f)]:
        raise FileExistsError(
            f"{', '.join(map(str, others))} would be written over, and was written by something "
            "else, or changed since: move it, or choose another folder"
        )


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Holds ``folder`` against other processes; the system lets go where one is killed.

    Raises:
        FileExistsError: its lock is a file of something else.
        ValueError: another process holds it.
    """
    lock = folder / LOCK
    if lock.is_file() and lock.stat().st_size:  # locking would empty it
        raise FileExistsError(f"{lock} is no lock of a run: move it, or choose another folder")
    try:
        with FileLock(lock, timeout=0):
            yield
    except Timeout as error:
        raise ValueError(
            f"another process is scoring into {folder}: wait for it, or choose another folder"
        ) from error


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
