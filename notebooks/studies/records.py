"""Results of record: made, written with their provenance, opened, and held against a fresh sample.

    cd notebooks && python -m studies.records            # all of them, in order; or: make records
    cd notebooks && python -m studies.records words sts  # these;  or: make records NAME="words sts"

A record is a table in data/results/NAME.parquet, or several of them, and their common provenance in
NAME.json. All of them take some six hours of two CPU cores, so everything is resumable: the studies
keep what is finished in `work`, a folder of the present code, and without a name the records that
this code has made already are passed over.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from conjure_tools.folders import write_whole
from conjure_tools.loading import shipped

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "_build" / "records"
DATA = [shipped(name) for name in ("emoji-diffusion", "emoji-sample", "probes")]
DRAWING = ("conjure_tools.plots", "studies.pages")  # makes no numbers
RESULTS = shipped("results")
TOLERANCE = 0.01  # relative: rounding differs between machines, a changed model by far more
NOTHING = "no value is in both the record and this page"
NOT_MADE = "The record of this has not been made yet.\n"
Pairs = list[tuple[str, str]]
Made = tuple[Mapping[str, pd.DataFrame], Mapping[str, Any]]
"""Tables by name, and where they are from."""
MADE_BY = {
    "words": ("people:words", 1900),
    "sts": ("people:sts", 3600),
    "agreement": ("people:agreements", 300),
    "matrix": ("matrix:record", 400),
    "ablations": ("ablations:record", 2000),
    "tolerance": ("tolerances:record", 2000),
    "spaces": ("spaces:record", 3300),
    "findings": ("findings:record", 100),
    "distances": ("image_distances:record", 900),
    "probes": ("arms:probe_record", 3000),
    "encoders": ("arms:agreement_record", 1200),
    "nngs_images": ("neighbor_graphs:image_record", 10),
    "nngs_templates": ("neighbor_graphs:template_record", 1250),
    "nngs_scale": ("neighbor_graphs:scale_record", 300),
    "grounding": ("mcse.study:record", 3600),
}
"""What makes each record, in an order in which each finds what it needs; and about how many seconds
that takes on two cores, until it has been timed on this machine."""
FROM = {"agreement": ("words", "sts"), "findings": ("words", "sts", "spaces")}  # other records
NOTES = {"variance": "ablations", "distances_agreement": "distances"}
"""Tables whose provenance is that of another record."""


# -- writing ----------------------------------------------------------------------------------


def write(name: str, tables: Mapping[str, pd.DataFrame], notes: Mapping[str, Any]) -> None:
    """Tables as RESULTS/TABLE.parquet and their common provenance as RESULTS/NAME.json."""
    for table, rows in tables.items():
        in_place(RESULTS / f"{table}.parquet", partial(rows.to_parquet, index=False))
        print(f"{len(rows)} rows in {RESULTS / table}.parquet", flush=True)
    write_json(RESULTS / f"{name}.json", notes)


def in_place(file: Path, write: Callable[[Path], Any]) -> None:
    """`write_whole` into a folder that may have to be made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, write)


def write_json(file: Path, notes: Mapping[str, Any]) -> None:
    """Notes as JSON, whole or not at all."""
    text = json.dumps(notes, indent=1, default=str) + "\n"
    in_place(file, lambda part: part.write_text(text, encoding="utf-8"))


def short_hash(of: object) -> str:
    """Twelve digits of the SHA-256 of ``of`` as JSON: a name for all that something comes from."""
    return hashlib.sha256(json.dumps(of).encode()).hexdigest()[:12]


def kept_table(file: Path, of: object, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """The table that was kept as ``file``; made and put there first, if need be.

    ``of`` is all that it comes from, as JSON has it: its digest is in the file's name, so that no
    table of other pairs, settings or weights is taken for this one.
    """
    file = file.with_stem(f"{file.stem}-{short_hash(of)}")
    if not file.is_file():
        in_place(file, partial(make().to_parquet, index=False))
    return pd.read_parquet(file)


def hashes_of(names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of the tables of records, as far as they are there: what others are computed from."""
    files = {name: RESULTS / f"{name}.parquet" for name in names}
    there = {name: file.read_bytes() for name, file in files.items() if file.is_file()}
    return {name: hashlib.sha256(content).hexdigest() for name, content in there.items()}


def in_single(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its floats as float32, as records store them."""
    return table.astype(dict.fromkeys(table.select_dtypes("float").columns, "float32"))


def published(name: str = "published") -> pd.DataFrame:
    """Figures of papers, with their sources: a table of data/published."""
    return pd.read_csv(shipped("published") / f"{name}.csv")


def matching(table: pd.DataFrame, /, **equal: object) -> pd.DataFrame:
    """The rows in which every one of these columns has this value."""
    for column, value in equal.items():
        table = table[table[column] == value]
    return table


def texts_of(pairs: pd.DataFrame) -> Pairs:
    """The two texts of each row."""
    return list(zip(pairs["text1"], pairs["text2"], strict=True))


def rows_of(pairs: pd.DataFrame) -> list[list[Any]]:
    """Id and texts of each row, as JSON has them."""
    rows: list[list[Any]] = pairs[["id", "text1", "text2"]].astype(object).to_numpy().tolist()
    return rows


# -- opening, and laying fresh values over ----------------------------------------------------


@dataclass(frozen=True)
class Overlay:
    """Rows of a record with the same values computed now: columns recorded and fresh, and keys."""

    name: str
    rows: pd.DataFrame
    worst: float  # the largest relative difference; NaN where nothing could be compared
    other_weights: bool = False
    missing: str = NOTHING  # why nothing could be compared, where nothing could

    @property
    def stale(self) -> bool:
        """Whether the record describes another model or algorithm."""
        return self.worst > TOLERANCE or self.other_weights

    def __str__(self) -> str:
        if not len(self.rows):
            return f"not measured: {self.missing}"
        return f"{float(f'{100 * self.worst:.2g}'):g} %"  # two digits; 120 and not 1.2e+02


@dataclass(frozen=True)
class Record:
    """A table of record, and where it is from."""

    name: str
    table: pd.DataFrame
    notes: dict[str, Any]

    def overlay(
        self,
        fresh: pd.DataFrame,
        on: Sequence[str] = ("id",),
        value: str = "distance",
        *,
        per: Callable[[pd.DataFrame], Any] | None = None,
        weights: str = "",
    ) -> Overlay:
        """``fresh`` laid over the rows with equal keys; a warning is printed where it is stale.

        Args:
            on: columns that name a row; both tables have them, and ``value``.
            per: what differences are measured in, from the joined rows; the recorded value itself
                by default.
            weights: hash of the weights that are loaded; compared with all that the notes name.
        """
        keys = list(on)
        rows = self.table[[*keys, value]].merge(fresh[[*keys, value]], on=keys)
        rows = rows.rename(columns={f"{value}_x": "recorded", f"{value}_y": "fresh"})
        return laid_over(self.name, rows, per=per, others=weights not in ("", *weights_in(self)))

    def checked(self, weights: str) -> Overlay:
        """An overlay without rows, stale where the notes do not name these weights."""
        return laid_over(self.name, others=weights not in weights_in(self))


def laid_over(
    name: str,
    rows: pd.DataFrame | None = None,
    *,
    per: Callable[[pd.DataFrame], Any] | None = None,
    others: bool = False,
    missing: str = NOTHING,
) -> Overlay:
    """The overlay of ``rows`` with columns recorded and fresh, or of none; see `Record.overlay`."""
    rows = pd.DataFrame(columns=["recorded", "fresh"], dtype=float) if rows is None else rows
    unit = rows["recorded"].abs() + 1e-12 if per is None else per(rows)
    worst = float(((rows["fresh"] - rows["recorded"]).abs() / unit).max()) if len(rows) else np.nan
    found = Overlay(name, rows, worst, others, missing)
    if found.stale:
        why = "was made with other weights" if others else f"differs from this page by {found}"
        print(f"WARNING: the record “{name}” is stale: it {why}. To make it anew: {how(name)}")
    return found


def weights_in(record: Record) -> set[str]:
    """Every hash of weights that the provenance of a record names."""

    def inside(notes: Any) -> Iterator[str]:
        if isinstance(notes, Mapping):
            for key, value in notes.items():
                yield from [value] if key == "weights" and isinstance(value, str) else inside(value)

    return set(inside(record.notes))


def how(name: str) -> str:
    """The command that makes a record."""
    return "make bench" if name == "bench" else f"make records NAME={NOTES.get(name, name)}"


def results_of_record(name: str) -> Record:
    """A record of data/results; texts and human scores are not in it.

    Raises:
        FileNotFoundError: there is no such record.
    """
    file = shipped("results") / f"{name}.parquet"
    of = file.with_name(f"{NOTES.get(name, name)}.json")
    notes = json.loads(of.read_text(encoding="utf-8")) if of.is_file() else {}
    if file.is_file():
        return Record(name, pd.read_parquet(file), notes)
    if "rows" in notes:  # a small table of mixed rows stands in the JSON itself
        return Record(name, pd.DataFrame(notes.pop("rows")), notes)
    raise FileNotFoundError(f"there is no record {file}: {how(name)}, in a clone")


def opened(name: str) -> Record | None:
    """A record; None where it has not been made, which is printed."""
    try:
        return results_of_record(name)
    except FileNotFoundError:
        print(f"There is no record “{name}”: what would be drawn from it is left out. ", end="")
        print(f"To make it: {how(name)}")
        return None


# -- making them ------------------------------------------------------------------------------


def study_of(name: str) -> str:
    """The module of studies that makes a record."""
    return MADE_BY[name][0].split(":")[0]


def maker(name: str) -> Callable[[], Made]:
    """What makes a record."""
    module, function = MADE_BY[name][0].split(":")
    return getattr(import_module(f"studies.{module}"), function)


def work(study: str) -> Path:
    """The folder in which a study keeps what is finished: another one for each state of its code.

    So nothing that older code has made is taken for what the present code makes.
    """
    return WORK / f"{study}-{code_of(study)[:12]}"


@cache
def code_of(study: str) -> str:
    """SHA-256 over all that the numbers of a study come from, as far as it is in the repository.

    That is the code of its module and of all that it imports, however far, but for what only draws;
    without comments and docstrings, and wherever its lines are; and the data that it may read.
    """
    told = [(name, _module(file)[0]) for name, file in reached(f"studies.{study}").items()]
    return hashlib.sha256(f"{sorted(told)} {_shipped()}".encode()).hexdigest()


def reached(module: str) -> dict[str, Path]:
    """The modules of this repository that a module imports, and all that those import; and itself.

    A package stands for its face: conjure_lib for all that its __init__.py names.
    """
    found: dict[str, Path] = {}
    todo = [module]
    while todo:
        name = todo.pop()
        room = ROOT / "notebooks" if name.startswith("studies.") else ROOT
        path = room.joinpath(*name.split("."))
        files = [f for f in (path.with_suffix(".py"), path / "__init__.py") if f.is_file()]
        if not files or name in (*found, *DRAWING):
            continue
        found[name] = file = files[0]
        todo += _module(file)[1]
    return found


@cache
def _module(file: Path) -> tuple[str, list[str]]:
    """What a module does, as a hash: not what it says, nor on which lines; and what it imports."""
    tree, names = ast.parse(file.read_text("utf-8")), list[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        if isinstance(getattr(node, "body", None), list):
            node.body = [one for one in node.body if not _is_told(one)]  # type: ignore[attr-defined]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), names


@cache
def _shipped() -> str:
    """A hash of the data that studies read."""
    digest = hashlib.sha256()
    for folder in DATA:
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            digest.update(f"{file.relative_to(folder)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def _is_told(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def source_of(name: str) -> str:
    """What a record is made from: the code of its study, and the records that it comes from."""
    return short_hash([code_of(study_of(name)), hashes_of(FROM.get(name, ()))])


class Log:
    """Which records this code has made, and what they took: WORK/made.json."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.made: dict[str, dict[str, Any]] = {}
        if file.is_file():
            self.made = json.loads(file.read_text(encoding="utf-8"))

    def has(self, name: str) -> bool:
        """Whether the record was made from the present sources, and is still there."""
        there = (RESULTS / f"{name}.json").is_file()
        return there and self.made.get(name, {}).get("from") == source_of(name)

    def add(self, name: str, seconds: float) -> None:
        """Keep that a record is made; of several times the longest, for others only resumed."""
        seconds = max(seconds, self.made.get(name, {}).get("seconds", 0.0))
        self.made[name] = {"from": source_of(name), "seconds": seconds}
        write_json(self.file, self.made)

    def expected(self, names: Sequence[str]) -> float:
        """About how many seconds the records take: as timed here, or as MADE_BY has it."""
        return sum(self.made.get(name, {}).get("seconds", MADE_BY[name][1]) for name in names)


def lasting(seconds: float) -> str:
    """A time in words."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def make(names: Sequence[str], log: Log) -> dict[str, str]:
    """Make records one after the other, and say how far this is and how long it may take.

    Returns:
        Those that could not be made, and why; the others are made all the same.
    """
    failed: dict[str, str] = {}
    for i, name in enumerate(names):
        left = lasting(log.expected(names[i:]))
        print(f"[{i + 1}/{len(names)}] {name}; about {left} left, or less", flush=True)
        if lacking := [one for one in FROM.get(name, ()) if one in failed]:
            failed[name] = f"it comes from {', '.join(lacking)}"
            continue
        began = time.perf_counter()
        try:
            write(name, *maker(name)())
        except Exception as error:  # hours of others are not lost for one
            traceback.print_exc()
            failed[name] = f"{type(error).__name__}: {error}"
            continue
        took = time.perf_counter() - began
        log.add(name, took)
        print(f"[{i + 1}/{len(names)}] {name}: {lasting(took)}", flush=True)
    return failed


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the named records, or all that the present sources have not made yet."""
    parser = argparse.ArgumentParser(description=f"Make results of record: {', '.join(MADE_BY)}.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="all by default")
    names = parser.parse_args(arguments).names
    if unknown := [name for name in names if name not in MADE_BY]:
        sys.exit(f"there is no record {', '.join(unknown)}; there are: {', '.join(MADE_BY)}")
    log = Log(WORK / "made.json")
    wanted = [name for name in MADE_BY if name in names or not names]
    todo = [name for name in wanted if names or not log.has(name)]
    if passed := [name for name in wanted if name not in todo]:
        print(f"made already: {', '.join(passed)}")
    try:
        failed = make(todo, log)
    except KeyboardInterrupt:
        sys.exit("\nstopped: what is finished is kept, and the same command goes on from there")
    if failed:
        sys.exit("not made: " + "; ".join(f"{name} ({why})" for name, why in failed.items()))


if __name__ == "__main__":
    from studies import records  # the module that the studies know, not this copy of it

    records.main()
