"""Scoring pair sets of any size: in shards, resumable after any interruption.

A run is a folder: ``run.json`` (settings, provenance, the floor that rounding sets),
``pairs.parquet``, ``shards/`` and ``.written/``, the hashes of what was written. A shard holds
‖Δε‖² of one block of pairs for one draw, before any weighting, so that more draws can be added
later, and every weighting, number of draws or choice of timesteps is read off one run. Noise is
keyed by (seed, draw): which shard a pair lies in changes no number.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import io
import json
import math
import os
import platform
import subprocess
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

import conjure_lib
from conjure_lib import WEIGHTINGS, Quadrature, Weighting
from conjure_lib.engine import tiled
from conjure_lib.inputs import one_of, whole
from conjure_lib.machine import check_memory
from conjure_lib.process import GenerativeProcess, as_process
from conjure_lib.reading import UnreadWarning, fault
from conjure_lib.sampling import DEFAULT, Pairing, Sampling, Single, check_settings
from conjure_lib.sde import FlowSchedule, Schedule
from conjure_lib.similarity import check_reach, floor, pair_terms
from conjure_lib.terms import Terms
from conjure_tools.fingerprints import fingerprint
from conjure_tools.folders import (
    MARKS,
    alone,
    check_lock,
    check_place,
    is_changed,
    is_ours,
    keep,
    refuse_others,
)
from conjure_tools.hardware import fitting, is_compiled, within_memory
from conjure_tools.shards import finished, is_shard, kept_block, set_aside, write_shard
from conjure_tools.tables import write_dropped
from conjure_tools.unread import COLUMNS, UNREAD, columns, examples, summary

BLOCK = 128  # pairs a shard
DRAWN = Sampling(draws=3)
PROBE = "a picture"  # what speed and rounding are measured with
PROBED = 256  # rows that speed is measured with, at most
OUTPUTS = ("distances.parquet", "distances.csv", "dropped.csv", "record.json", "evaluation.json")
OF_PAIRS = ["id", "text1", "text2"]  # columns
ERRORS = ("stderr", "quadrature_error")  # columns of distances, as of an Estimate
OWN = (MARKS, "shards", "set-aside")  # the folders in a run's
PARTS = {"settings", "fingerprint", "block", "timesteps", "schedule", "floor", "provenance"}
HIDDEN = {  # settings whose value says nothing to a reader
    "weights": "other weights of the networks",
    "state": "other networks, or another state of them (adapters and their scale, FreeU, …)",
    "tokenizers": "another tokenizer",
}


@dataclass(frozen=True)
class Run:
    """A finished run, or what is finished of one.

    Attributes:
        pairs: columns id, text1, text2 and what the input had besides; P rows.
        terms: the terms of its pairs, float32; only draws of which every pair is there.
        record: settings, with the quadrature that distances are read off with, and provenance.
    """

    pairs: pd.DataFrame
    terms: Terms
    record: dict[str, Any]

    @property
    def quadrature(self) -> Quadrature:
        """What the settings say."""
        found: Quadrature = self.record["settings"]["quadrature"]
        return found

    def weights(self, weighting: Weighting = "sde") -> np.ndarray:
        """What the mean over draws of each term counts in the distance of its pair, (P, S)."""
        return self.terms.weights(weighting, self.quadrature)

    def by_draw(self, weighting: Weighting = "sde") -> np.ndarray:
        """The distance of each pair in each draw, (P, draws)."""
        return self.terms.by_draw(weighting, self.quadrature)

    def distances(self, weighting: Weighting = "sde", *, draws: int | None = None) -> pd.DataFrame:
        """Columns id, text1, text2, distance, its errors stderr (of the draws, NaN of a single one)
        and quadrature_error (of the steps), and what was read.

        The last are those of :func:`conjure_tools.unread.columns`.

        Args:
            draws: the first so many; all by default.

        Raises:
            TypeError: ``draws`` is no whole number.
            ValueError: it is below 1, or the run has fewer; or there is no such weighting.
        """
        there = self.terms.squares.shape[1]
        if draws is not None and whole("draws", draws) > there:
            raise ValueError(f"draws={draws}, and the run has {there}: take fewer, or score more")
        some = replace(self.terms, squares=self.terms.squares[:, :draws])
        found = some.estimates(weighting, self.quadrature)
        table = self.pairs[OF_PAIRS].copy()
        errors = {name: [getattr(e, name) for e in found] for name in ERRORS}
        said = {name: self.pairs[name] for name in COLUMNS if name in self.pairs}
        return table.assign(distance=[e.value for e in found], **errors, **said)


class Options(Single, total=False):
    """What :func:`score` takes by name."""

    sampling: Sampling
    pairing: Pairing
    quadrature: Quadrature
    batch_size: int
    block: int
    note: dict[str, Any] | None
    report: Callable[[str], None]


def score(
    process: GenerativeProcess,
    pairs: pd.DataFrame,
    folder: str | Path,
    *,
    sampling: Sampling = DRAWN,
    pairing: Pairing = "same",
    quadrature: Quadrature = "log-snr",
    batch_size: int = 64,
    block: int = BLOCK,
    note: dict[str, Any] | None = None,
    report: Callable[[str], None] = print,
    **single: Unpack[Single],
) -> Run:
    """Score ``pairs`` into ``folder``, or go on where an earlier start of the same was cut off.

    Args:
        pairs: columns id (unique), text1, text2; others are kept, of names that a run does not
            write (:func:`check_kept`).
        sampling: what is drawn, three draws by default, or some of its fields singly. A run with
            fewer draws is added to, one with more stays as it is.
        quadrature: how the run's distances are read off its terms, see :class:`Terms`.
        batch_size: rows a network call; halved as often as memory runs out.
        block: pairs a shard, which is what an interruption can lose at most; a run that exists
            keeps its own.
        note: kept in the record, for instance how the pairs were sampled.
        report: is told the cost before the work starts.

    Raises:
        ValueError: ``folder`` holds a run of other settings, or a setting is not usable.
        TypeError: an argument is of another kind than it must be.
        FileExistsError: ``folder`` holds files that a run would write over and did not write.
        OSError: a shard could not be written, or was taken away; the finished ones are kept.
        MemoryError: so many pairs and draws that their terms have no room.

    >>> import conjure_lib as cj
    >>> process = cj.load()
    >>> from tempfile import mkdtemp
    >>> import pandas as pd
    >>> from conjure_tools.runs import score
    >>> pairs = pd.DataFrame({"id": ["a"], "text1": ["cat"], "text2": ["dog"]})
    >>> run = score(process, pairs, mkdtemp(), steps=2, draws=1, report=str)
    >>> len(run.distances())
    1
    """
    check_pairs(pairs)
    check_kept(pairs)
    _check_talk(note, report)
    whole("block", block)
    sampling = as_process(process).settled(sampling, **single)
    draws = whole("draws", sampling.draws)
    one_of("quadrature of a run", quadrature, ("log-snr", "linear", "sum"))
    check_settings(sampling=sampling, pairing=pairing, batch_size=batch_size)
    check_reach(process, sampling)
    # twice what its terms are, as they are read, and of each shard what is known besides
    need = len(pairs) * draws * (16.0 * sampling.steps + 500 / block)
    check_memory(f"a run of {len(pairs)} pairs with {draws} draws in {sampling.steps} steps", need)
    check_folder(folder)
    folder = Path(folder)
    pairs = pairs.assign(**columns(process.readers, list(pairs["text1"]), list(pairs["text2"])))
    settings: dict[str, Any] = {
        "model": process.name,
        "revision": process.revision,
        **fingerprint(process),
        **sampling.told(),
        "pairing": pairing,
        "quadrature": quadrature,
        "pairs": digest(pairs),
    }
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        return _score(process, pairs, folder, settings, draws, batch_size, block, note, report)


def _score(
    process: GenerativeProcess,
    pairs: pd.DataFrame,
    folder: Path,
    settings: dict[str, Any],
    draws: int,
    batch_size: int,
    block: int,
    note: dict[str, Any] | None,
    report: Callable[[str], None],
) -> Run:
    record = _start(process, pairs, folder, settings, block, note, batch_size)
    blocks = [pairs.iloc[i : i + record["block"]] for i in range(0, len(pairs), record["block"])]
    (folder / "shards").mkdir(exist_ok=True)
    done = finished(folder, record, blocks, tidy=True)
    missing = [(d, b) for d in range(draws) for b in range(len(blocks)) if (d, b) not in done]
    if missing:
        rows = 2 * settings["steps"] * min(len(pairs), record["block"])  # of the largest call
        batch_size = min(batch_size, rows)
        with within_memory(process.device):
            rate, most = fitting(partial(_rate, process), min(batch_size, PROBED))
        batch_size = most if most < PROBED else batch_size
        report(_cost(process, [blocks[b] for _, b in missing], settings, rate))
    total, left = len(pairs) * draws, sum(len(blocks[b]) for _, b in missing)
    options = {"unit": "pair", "desc": folder.name, "mininterval": 1}
    with tqdm(total=total, initial=total - left, **options) as bar:
        for d, b in missing:
            began, before = time.perf_counter(), process.evaluations
            make = partial(_terms, process, blocks[b], d, settings)
            with warnings.catch_warnings(), within_memory(process.device):
                warnings.simplefilter("ignore", UnreadWarning)  # said once, at the end
                terms, batch_size = fitting(make, batch_size)
            spent = {
                "evaluations": process.evaluations - before,
                "seconds": time.perf_counter() - began,
                "device": str(process.device),
            }
            write_shard(folder, record, d, b, blocks[b], terms, spent)
            bar.update(len(blocks[b]))
    run = open_run(folder)
    if (there := run.terms.squares.shape[1]) < draws:
        raise OSError(
            f"shards in {folder} were taken away or damaged while it was written: "
            f"{there} of {draws} draws are whole; start the same command again"
        )
    if missing and any((unread := summary(pairs)).values()):
        texts, alike = examples(pairs)
        warnings.warn(
            f"{unread[UNREAD[0]]} texts are not read whole by {process.name}{texts}, and "
            f"{unread[UNREAD[1]]} pairs differ as strings and not as tokens{alike}: see lost1, "
            "lost2 and same_tokens",
            UnreadWarning,
            stacklevel=2,
        )
    return run


def open_run(folder: str | Path) -> Run:
    """What is finished in ``folder``; damaged and foreign shards are named and left out.

    Raises:
        FileNotFoundError: there is no run, or no draw of it is finished.
        ValueError: ``run.json`` or ``pairs.parquet`` is damaged.

    >>> import conjure_lib as cj
    >>> process = cj.load()
    >>> from tempfile import mkdtemp
    >>> import pandas as pd
    >>> from conjure_tools.runs import open_run, score
    >>> pairs, folder = pd.DataFrame({"id": ["a"], "text1": ["cat"], "text2": ["dog"]}), mkdtemp()
    >>> run = score(process, pairs, folder, steps=2, draws=1, report=str)
    >>> bool((open_run(folder).by_draw() == run.by_draw()).all())
    True
    """
    folder = Path(folder)
    if not (folder / "run.json").is_file():
        raise FileNotFoundError(f"{folder} holds no run: it has no run.json")
    record = _record(folder)
    pairs = _pairs(folder, record)
    size = record["block"]
    blocks = [pairs.iloc[i : i + size] for i in range(0, len(pairs), size)]
    done = finished(folder, record, blocks)
    whole = [
        d for d in sorted({d for d, _ in done}) if all((d, b) in done for b in range(len(blocks)))
    ]
    if not whole:
        raise FileNotFoundError(f"no draw of the run in {folder} is finished: start it again")
    steps = len(record["timesteps"])
    terms = np.empty((len(pairs), len(whole), steps, 2), np.float32)
    for k, d in enumerate(whole):
        terms[:, k] = np.concatenate([done[d, b][0] for b in range(len(blocks))])
    spent = [done[d, b][1] for d in whole for b in range(len(blocks))]
    record |= {
        "draws": len(whole),
        **summary(pairs),
        "unet_evaluations": sum(s["evaluations"] for s in spent),
        "seconds": round(sum(s["seconds"] for s in spent), 1),
        "devices": sorted({s["device"] for s in spent}),
    }
    sampling = replace(_sampling(record["settings"]), draws=whole)
    schedule = _schedule(record.pop("schedule"))
    return Run(pairs, Terms(terms, torch.tensor(record["timesteps"]), schedule, sampling), record)


def _sampling(settings: Mapping[str, Any]) -> Sampling:
    """The sampling of a run, without its draws."""
    return Sampling(**{name: settings[name] for name in DEFAULT.told()})


def _schedule(told: float | list[float]) -> Schedule | FlowSchedule:
    """A schedule from what a record says of it: the length of a flow, or ᾱ of every timestep."""
    return Schedule(torch.tensor(told)) if isinstance(told, list) else FlowSchedule(int(told))


def stratified(
    pairs: pd.DataFrame,
    count: int,
    *,
    seed: int = 0,
    by: Sequence[str] = ("benchmark", "subset", "pos"),
) -> pd.DataFrame:
    """About ``count`` of the pairs, each stratum in its proportion, in their order.

    By hand: scikit-learn's train_test_split refuses strata of one pair, and so small a sample that
    some stratum has no pair in it.

    Raises:
        TypeError: ``count`` or ``seed`` is no whole number.
        ValueError: ``count`` is below 1, or ``seed`` below 0.
    """
    if whole("count", count) >= len(pairs):
        return pairs
    columns = [c for c in by if c in pairs]
    keys = pairs[columns].astype(str).agg("/".join, axis=1).to_numpy() if columns else ""
    order = np.random.default_rng(whole("seed", seed, 0)).permutation(len(pairs))
    # the k-th pair of a stratum of n stands at (k + ½)/n: the lowest ranks hold all in proportion
    table = pd.DataFrame({"key": keys, "order": order}, index=np.arange(len(pairs)))
    rank = table.groupby("key")["order"].rank().sub(0.5)
    place = rank / table.groupby("key")["order"].transform("size")
    chosen = np.lexsort((order, place.to_numpy()))[:count]
    return pairs.iloc[np.sort(chosen)]


def arranged(pairs: pd.DataFrame, block: int = BLOCK) -> pd.DataFrame:
    """The same pairs in an order in which each ``block`` of them has few prompts.

    A trajectory is computed once in every block that its prompt is in. For all pairs of n prompts,
    listed row by row, that is about one trajectory a pair; arranged, two for every √block pairs.
    Changes nothing where each prompt is in one pair.
    """
    codes = pd.factorize(pairs[["text1", "text2"]].to_numpy().ravel())[0].reshape(-1, 2)
    return pairs.iloc[tiled(codes.tolist(), max(1, math.isqrt(block)))]


def provenance(process: GenerativeProcess) -> dict[str, Any]:
    """What a number depends on besides its settings: versions, machine, commit, date."""
    versions = {
        name: importlib.metadata.version(name) for name in ("torch", "diffusers", "transformers")
    }
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:  # not the commit of some repository that an installed package happens to lie in
        mine = Path(git("rev-parse", "--show-toplevel")) == here.parent
        ours = ("--", ":(top)", ":(top,exclude)data/results")  # what makes records, and not these
        changed = mine and git("status", "--porcelain", "--untracked-files=no", *ours)
        commit = git("rev-parse", "--short=12", "HEAD") + "-dirty" * bool(changed) if mine else None
    except (OSError, subprocess.CalledProcessError):
        commit = None
    cuda = process.device.type == "cuda"
    return {
        "device": str(process.device),
        "machine": torch.cuda.get_device_name(process.device)
        if cuda
        else f"{platform.machine()}, {torch.get_num_threads()} threads",
        "tf32": torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32
        if cuda
        else None,
        "compiled": is_compiled(process),
        "versions": {
            "python": platform.python_version(),
            "conjure_lib": conjure_lib.__version__,
            **versions,
        },
        "commit": commit,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


# -- starting and finding ---------------------------------------------------------------------


def check_pairs(pairs: Any) -> None:
    """Check that these can be scored: columns id (unique), text1, text2.

    Raises:
        TypeError: they are no DataFrame.
        ValueError: they cannot; the message names the column or the row.
    """
    if not isinstance(pairs, pd.DataFrame):
        raise TypeError(
            "pairs must be a DataFrame with the columns id, text1 and text2, not "
            f"{type(pairs).__name__}: pandas.DataFrame makes one of rows or of columns"
        )
    if twice := pairs.columns[pairs.columns.duplicated()].tolist():
        raise ValueError(f"the pairs have two columns called {twice[0]!r}: rename one")
    if lacking := {*OF_PAIRS} - set(pairs.columns):
        raise ValueError(f"the pairs lack the column {', '.join(sorted(lacking))}")
    if not len(pairs):
        raise ValueError("there are no pairs to score")
    if pairs["id"].isna().any():
        row = int(pairs["id"].isna().to_numpy().argmax())
        raise ValueError(f"row {row} of the pairs has no id: fill the column id, or leave it out")
    if not pairs["id"].is_unique:
        again = pairs["id"][pairs["id"].duplicated()].iloc[0]
        raise ValueError(f"the id {again!r} stands twice in the pairs: ids must be unique")
    if not _survives(pairs["id"].tolist()):
        raise ValueError("the ids of the pairs are of mixed or unusual types: make them strings")
    for name in ("text1", "text2"):
        for row, text in zip(pairs["id"], pairs[name], strict=True):
            if why := fault(text) if isinstance(text, str) else "is no text":
                raise ValueError(f"{name} of the pair {row!r} {why}")


def check_kept(pairs: pd.DataFrame) -> None:
    """Check that a run can keep all columns of ``pairs`` beside those of its own.

    Raises:
        ValueError: one has a name that a run writes, or values that Parquet cannot hold.
    """
    if own := [name for name in (*COLUMNS, "distance", *ERRORS) if name in pairs]:
        raise ValueError(
            f"the pairs have a column {', '.join(own)}, which a run writes itself: rename it, or "
            "leave it out"
        )
    try:
        pairs.to_parquet(io.BytesIO(), index=False)
    except Exception as error:  # pandas and pyarrow raise many kinds
        raise ValueError(
            f"a column of the pairs cannot be kept as Parquet ({error}): give each a string for a "
            "name and values of one kind"
        ) from error


def _check_talk(note: Any, report: Any) -> None:
    """Raises TypeError where a run cannot keep ``note``, or cannot call ``report``."""
    if not callable(report):
        raise TypeError(
            f"report must be a function of a text, not {report!r}: lambda text: None says nothing"
        )
    if note is not None and not isinstance(note, Mapping):
        raise TypeError(f"note must be a dict, not {type(note).__name__}")
    try:
        json.dumps(note, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(f"note must hold what JSON can, such as texts: {error}") from error


def _survives(values: list[Any]) -> bool:
    """Whether ``values`` come back from a Parquet file as they are."""
    import pyarrow as pa

    try:
        return pa.array(values).to_pylist() == values
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        return False


def check_folder(folder: str | Path, reading: Path | None = None) -> None:
    """Check, before any work, that a run into ``folder`` writes over nothing that no run wrote.

    Args:
        reading: the input file, which must not be one of the run's own files either.

    Raises:
        FileExistsError: files are in the way; they are named.
        NotADirectoryError: ``folder``, or one that it needs in it, is a file.
        OSError: ``folder`` cannot be written to.
        ValueError: ``reading`` would be written over, or ``run.json`` is damaged.
    """
    check_place(folder, OWN)
    folder = Path(folder)
    check_lock(folder)
    names = ("run.json", "pairs.parquet", *OUTPUTS)
    taken = [(folder / name).resolve() for name in (*names, *OWN)]
    if reading is not None and {*taken} & {reading.resolve(), *reading.resolve().parents}:
        raise ValueError(f"{reading} is read, and would be written over: choose another folder")
    started = os.path.lexists(folder / "run.json")
    if started and is_changed(folder / "run.json"):
        _record(folder)  # which says how to go on
    # pairs are kept once more, and damaged ones set aside
    refuse_others([folder / n for n in names if not (started and n == "pairs.parquet")])
    others = [] if started else sorted((folder / "shards").glob("*"))
    if strange := [file for file in others if not is_shard(file)]:
        raise FileExistsError(
            f"{strange[0]} was written by no run, or is damaged: move it, or choose another folder"
        )


def _start(
    process: GenerativeProcess,
    pairs: pd.DataFrame,
    folder: Path,
    settings: dict[str, Any],
    block: int,
    note: dict[str, Any] | None,
    batch_size: int,
) -> dict[str, Any]:
    """The record of the run in ``folder``: the one that is there, or a new one."""
    schedule = process.schedule
    sampling = _sampling(settings)
    times = process.sampler(sampling).timesteps
    told: float | list[float] = schedule.T
    if isinstance(schedule, Schedule):
        told = schedule.alphas_cumprod.tolist()
    file = folder / "run.json"
    if file.is_file():
        record = _record(folder)
        _compare(folder, record, settings, pairs)
        if record["timesteps"] != times.tolist() or record["schedule"] != told:
            raise ValueError(
                f"{folder} holds a run with another noise schedule: choose another folder"
            )
        _keep_pairs(folder, pairs)  # its scores and subsets may have been mended since
        return record
    rounding, _ = fitting(
        lambda size: floor(process, PROBE, sampling=sampling, batch_size=size), min(8, batch_size)
    )
    record = {
        "settings": settings,
        "fingerprint": (fingerprint := _fingerprint(settings)),
        "block": kept_block(folder, fingerprint, block),
        "timesteps": times.tolist(),
        "schedule": told,
        "floor": {w: rounding.estimates(w, settings["quadrature"])[0].value for w in WEIGHTINGS},
        "note": note or {},
        "provenance": provenance(process),
    }
    _keep_pairs(folder, pairs)
    keep(file, lambda path: path.write_text(json.dumps(record, indent=1) + "\n", "utf-8"))
    return record


def _compare(
    folder: Path, record: dict[str, Any], settings: dict[str, Any], pairs: pd.DataFrame
) -> None:
    """Raises ValueError where the run in ``folder`` has other settings, and says which."""
    before = record["settings"]
    mend = "choose another folder, or take the run's own settings"
    for key in sorted(settings.keys() | before.keys(), key=lambda k: (k in HIDDEN, k)):
        old, new = before.get(key), settings.get(key)
        if old == new:
            continue
        if key == "pairs":
            raise ValueError(f"{folder} holds a run of other pairs{_change(folder, pairs)}")
        if key in HIDDEN:
            raise ValueError(f"{folder} holds a run with {HIDDEN[key]}: {mend}")
        if isinstance(old, dict) and isinstance(new, dict):
            flag = next(k for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k))
            key, old, new = f"{key} {flag}", old.get(flag), new.get(flag)
        raise ValueError(
            f"{folder} holds a run with {key} {old!r}, and this one has {new!r}: {mend}"
        )


def _change(folder: Path, pairs: pd.DataFrame) -> str:
    """Where ``pairs`` differ from those of the run, and the mend."""
    mend = "choose another folder, or give the pairs of the first start"
    try:
        old = pd.read_parquet(folder / "pairs.parquet", columns=OF_PAIRS)
    except (OSError, ValueError):
        return f": {mend}"
    return f"{first_difference(old, pairs)}: {mend}"


def first_difference(there: pd.DataFrame, here: pd.DataFrame) -> str:
    """Where two tables of pairs differ first, in brackets; empty where they do not."""
    if len(there) != len(here):
        return f" ({len(there):,} and not {len(here):,})"
    rows = zip(*(table[OF_PAIRS].to_numpy().tolist() for table in (there, here)), strict=True)
    first = next(((i, a, b) for i, (a, b) in enumerate(rows) if a != b), None)
    return "" if first is None else " (row {} is {} there, and {} here)".format(*first)


def _keep_pairs(folder: Path, pairs: pd.DataFrame) -> None:
    """Write the pairs, and what was left out of their file.

    What stands in the place of the pairs and is damaged or somebody else's is set aside.
    """
    file = folder / "pairs.parquet"
    if os.path.lexists(file) and not is_ours(file):
        set_aside(file, "it was changed, or is damaged")
    keep(file, lambda path: pairs.to_parquet(path, index=False))
    write_dropped(pairs, folder)


def _pairs(folder: Path, record: dict[str, Any]) -> pd.DataFrame:
    """The pairs of a run, as they were written."""
    file = folder / "pairs.parquet"
    try:
        pairs = pd.read_parquet(file)
        if not is_changed(file) and digest(pairs) == record["settings"]["pairs"]:
            return pairs
        problem: object = "it is not as it was written"
    except FileNotFoundError:
        raise
    except Exception as error:  # pyarrow raises many kinds of a damaged file
        problem = error
    raise ValueError(f"{file} is damaged ({problem}): start the same run again, which mends it")


def _record(folder: Path) -> dict[str, Any]:
    """What run.json says. Raises ValueError where it is damaged, or is no record of a run."""
    file = folder / "run.json"
    mend = (
        "move it and start the same run again, which keeps its shards and their size, or choose "
        "another folder"
    )
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}; {mend}") from error
    if not isinstance(record, dict) or (lacking := PARTS - record.keys()):
        what = "" if not isinstance(record, dict) else f", it lacks {', '.join(sorted(lacking))}"
        raise ValueError(f"{file} is no record of a run{what}: {mend}")
    if is_changed(file) or record["fingerprint"] != _fingerprint(record["settings"]):
        raise ValueError(f"{file} is damaged, or was changed since it was written: {mend}")
    return record


def _fingerprint(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


# -- the work ---------------------------------------------------------------------------------


def _terms(
    process: GenerativeProcess,
    block: pd.DataFrame,
    draw: int,
    settings: dict[str, Any],
    batch_size: int,
) -> np.ndarray:
    """Terms (pairs, S, 2) of one block in one draw."""
    sampling = replace(_sampling(settings), draws=[draw])
    texts = list(zip(block["text1"], block["text2"], strict=True))
    options: Any = {"pairing": settings["pairing"], "batch_size": batch_size, "progress": False}
    terms = pair_terms(process, texts, sampling=sampling, **options)
    return terms.squares[:, 0].astype(np.float32)


def _cost(
    process: GenerativeProcess,
    blocks: Sequence[pd.DataFrame],
    settings: dict[str, Any],
    rate: float,
) -> str:
    """What is left to do, in noise predictions and in time."""
    evaluations = settings["steps"] * sum(_per_step(b, settings) for b in blocks)
    pairs = sum(len(b) for b in blocks)
    return (
        f"{pairs:,} pairs (one draw each) to score: {evaluations:,} noise predictions, about "
        f"{_duration(evaluations / rate)} at {rate:,.0f} a second on {process.device}"
    )


def _rate(process: GenerativeProcess, batch_size: int) -> float:
    """Noise predictions a second, measured now; they are not counted."""
    condition = process.encode([PROBE])[[0] * batch_size]
    x = process.noise([0], 0).expand(batch_size, *process.latent_shape)
    t = torch.full((batch_size,), 1, device=process.device)
    before, began = process.evaluations, 0.0
    for _ in range(2):  # the first call warms up
        began = time.perf_counter()
        process.eps(x, t, condition).sum().item()
    process.evaluations = before
    return batch_size / (time.perf_counter() - began)


def _per_step(block: pd.DataFrame, settings: dict[str, Any]) -> int:
    """Noise predictions a step of a block: its prompts' trajectories, and two for each pair."""
    prompts = set(block["text1"]) | set(block["text2"])
    pairs = {frozenset(p) for p in zip(block["text1"], block["text2"], strict=True)}
    other = sum(len(p) == 2 for p in pairs) if settings["pairing"] == "same" else 0
    return len(prompts) * (1 + (settings["guidance"] != 1)) + 2 * other


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def digest(pairs: pd.DataFrame) -> str:
    """SHA-256 of the ids and texts, in their order; 1 and "1" are two ids."""
    columns = [pairs[name].tolist() for name in OF_PAIRS]
    rows = list(zip(*columns, strict=True))
    return hashlib.sha256(json.dumps(rows, default=repr).encode()).hexdigest()
