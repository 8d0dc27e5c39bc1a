"""The shards of a run: a block of pairs in one draw each, sealed, read only where it is sound."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from conjure_tools.folders import write_whole

SHARD = re.compile(r"draw-(\d{4,})-block-(\d{5,})\.parquet")
PARTIAL = re.compile(SHARD.pattern + r"\.\d+\.partial")


def is_shard(file: Path) -> bool:
    """Whether a run wrote ``file``; those of a run whose run.json is lost are taken over."""
    import pyarrow.parquet as pq

    try:
        known = pq.read_schema(file).metadata or {}
    except Exception:  # pyarrow raises many kinds of a damaged file
        return False
    return bool(SHARD.fullmatch(file.name)) and {b"conjure", b"sha256"} <= known.keys()


def set_aside(file: Path, why: object, level: int = 3) -> None:
    """Move ``file`` of a run to set-aside, and say so."""
    folder = file.parent.parent if file.parent.name == "shards" else file.parent
    aside = folder / "set-aside"
    aside.mkdir(exist_ok=True)
    file.rename(aside / f"{time.time_ns()}-{file.name}")
    warnings.warn(f"{file} is set aside in {aside}: {why}", stacklevel=level + 1)


def finished(
    folder: Path,
    record: dict[str, Any],
    blocks: Sequence[pd.DataFrame],
    tidy: bool = False,
) -> dict[tuple[int, int], tuple[np.ndarray, dict[str, Any]]]:
    """(draw, block) to terms and what they cost; shards that are not sound are left out.

    With ``tidy``, which only the process that writes the run may ask for, unsound ones are moved to
    set-aside, and writes that were cut off are removed. Files of other names are let be.
    """
    found = {}
    for file in sorted((folder / "shards").glob("draw-*")):
        if PARTIAL.fullmatch(file.name) and tidy:
            file.unlink(missing_ok=True)
        if not SHARD.fullmatch(file.name):
            continue
        try:
            key, content = _read_shard(file, record, blocks)
        except Exception as error:  # pyarrow raises many kinds of a damaged file
            if tidy and os.path.lexists(file):
                set_aside(file, error)
            else:
                warnings.warn(f"{file} is left out: {error}", stacklevel=3)
            continue
        found[key] = content
    return found


def _read_shard(
    file: Path, record: dict[str, Any], blocks: Sequence[pd.DataFrame]
) -> tuple[tuple[int, int], tuple[np.ndarray, dict[str, Any]]]:
    """Terms (pairs, S, 2) of one shard, checked; raises where it is unsound."""
    name = SHARD.fullmatch(file.name)
    if not name or int(name[2]) >= len(blocks):
        raise ValueError("it is no shard of this run")
    table, meta, terms = _open_shard(file)
    key = int(name[1]), int(name[2])
    if meta.get("fingerprint") != record["fingerprint"] or meta.get("key") != list(key):
        raise ValueError("it belongs to another run")
    if table["id"].to_pylist() != blocks[key[1]]["id"].tolist():
        raise ValueError("its pairs are others than those of the run")
    return key, (terms.reshape(len(table), len(record["timesteps"]), 2), meta)


def _open_shard(file: Path) -> tuple[Any, dict[str, Any], np.ndarray]:
    """The table of a shard, the note in it and its terms in one row; raises where damaged."""
    import pyarrow.parquet as pq

    table = pq.read_table(file, page_checksum_verification=True)
    note = (table.schema.metadata or {}).get(b"conjure", b"{}")
    terms = table["terms"].combine_chunks().flatten().to_numpy()
    if (table.schema.metadata or {}).get(b"sha256") != _seal(note, terms):
        raise ValueError("it is damaged: its contents are not those that were written")
    return table, json.loads(note), terms


def kept_block(folder: Path, fingerprint: str, block: int) -> int:
    """Pairs a shard of a run whose shards are there and whose run.json is not; else ``block``."""
    for file in sorted((folder / "shards").glob("draw-*")):
        with suppress(Exception):  # a damaged one is set aside later
            _, meta, _ = _open_shard(file)
            if meta["fingerprint"] == fingerprint:
                return int(meta["block"])
    return block


def write_shard(
    folder: Path,
    record: dict[str, Any],
    draw: int,
    number: int,
    block: pd.DataFrame,
    terms: np.ndarray,
    spent: dict[str, Any],
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not np.isfinite(terms).all():
        first = block["id"].iloc[int(np.argwhere(~np.isfinite(terms))[0][0])]
        raise ValueError(f"a noise prediction for the pair {first!r} is not finite")
    flat = pa.FixedSizeListArray.from_arrays(pa.array(terms.ravel()), terms[0].size)
    told = {name: record[name] for name in ("fingerprint", "block")}
    meta = {**told, "key": [draw, number], **spent}
    table = pa.table({"id": pa.array(block["id"].tolist()), "terms": flat})
    note = json.dumps(meta).encode()
    table = table.replace_schema_metadata({"conjure": note, "sha256": _seal(note, terms.ravel())})
    file = folder / "shards" / f"draw-{draw:04d}-block-{number:05d}.parquet"
    try:
        write_whole(file, lambda path: pq.write_table(table, path, write_page_checksum=True))
    except OSError as error:
        why = "the disk is full" if error.errno == errno.ENOSPC else str(error)
        raise OSError(
            f"cannot write {file}: {why}. Every finished shard is kept: make room and start the "
            "same command again"
        ) from error


def _seal(note: bytes, terms: np.ndarray) -> bytes:
    """The hash of what a shard says: a flipped bit anywhere changes it, or nothing."""
    return hashlib.sha256(note + np.ascontiguousarray(terms).tobytes()).hexdigest().encode()
