"""More than one machine: one callable that scores a block of pairs, and Ray around it.

:class:`PairScorer` takes columns and returns columns. It runs in a plain loop, in the processes of
``concurrent.futures`` and, through :func:`score_files`, on a Ray cluster, with the same numbers.
Ray is an extra, ``pip install ".[ray]"`` in a clone, and imported only where it is used.
"""

from __future__ import annotations

import hashlib
import json
import os
from _thread import interrupt_main
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from threading import Event, Thread, current_thread, main_thread
from typing import Any, Unpack

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from conjure_lib import EMBEDDED, WEIGHTINGS, Quadrature
from conjure_lib.inputs import finite, whole
from conjure_lib.process import GenerativeProcess
from conjure_lib.sampling import Sampling, Single, check_settings
from conjure_lib.similarity import check_reach, pair_terms
from conjure_tools import unread
from conjure_tools.fingerprints import fingerprint
from conjure_tools.folders import check_place, claim, write_whole
from conjure_tools.hardware import compile_network
from conjure_tools.loading import load, pick_dtype
from conjure_tools.runs import DRAWN, check_pairs, digest
from conjure_tools.tables import read_pairs

BLOCK = 250  # pairs: three draws of ten steps are some three minutes of 150 evaluations a second
RETRIES = 3  # of a block whose worker dies


class Scoring(Single, total=False):
    """What :class:`PairScorer` takes by name, as :func:`score_files` does too."""

    model: str
    loader: Callable[..., GenerativeProcess]
    device: str | None
    sampling: Sampling
    quadrature: Quadrature
    batch_size: int
    threads: int | None
    compiled: bool
    dtype: str


class PairScorer:
    """The distances of a block of pairs, all weightings at once.

    Args:
        model: what ``loader`` is given, together with ``device``; each worker loads it once.
        loader: gives the process; :func:`conjure_lib.load` by default.
        sampling: what is drawn, by default :data:`conjure_tools.runs.DRAWN`; or some of its fields
            singly.
        threads: CPU threads of a worker; one a core is best where every core has a worker.
        compiled: compile the network for calls of ``batch_size`` rows.
        dtype: of the network alone, such as "float16"; look at :func:`conjure_lib.floor` first.

    Raises:
        TypeError, ValueError: a setting of the sampling is not usable.
    """

    def __init__(
        self,
        model: str = EMBEDDED,
        loader: Callable[..., GenerativeProcess] = load,
        *,
        device: str | None = None,
        sampling: Sampling = DRAWN,
        quadrature: Quadrature = "log-snr",
        batch_size: int = 64,
        threads: int | None = None,
        compiled: bool = False,
        dtype: str = "float32",
        **single: Unpack[Single],
    ) -> None:
        self.model, self.loader, self.device = model, loader, device
        self.sampling, self.quadrature = Sampling.of(sampling, **single), quadrature
        self.batch_size, self.threads = batch_size, threads
        self.compiled, self.dtype = compiled, dtype

    def __call__(self, block: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Columns id, text1, text2 to id, and of each weighting the distance and its error.

        What the model reads of the texts stands beside them: :func:`conjure_tools.unread.columns`.
        """
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        process = self.process()
        check_reach(process, self.sampling)
        texts = list(zip(block["text1"], block["text2"], strict=True))
        how: Any = {"sampling": self.sampling, "batch_size": self.batch_size}
        terms = pair_terms(process, texts, progress=False, **how)
        said = unread.columns(process.readers, *zip(*texts, strict=True))
        columns = {"id": np.asarray(block["id"]), **{k: np.array(v) for k, v in said.items()}}
        for weighting in WEIGHTINGS:
            found = terms.estimates(weighting, self.quadrature)
            columns[weighting] = np.array([e.value for e in found])
            columns[f"{weighting}_stderr"] = np.array([e.stderr for e in found])
        return columns

    def process(self) -> GenerativeProcess:
        """The model, as this worker has loaded it."""
        return _process(
            self.loader, self.model, self.device, self.dtype, self.batch_size, self.compiled
        )


@cache
def _process(
    loader: Callable[..., GenerativeProcess],
    model: str,
    device: str | None,
    dtype: str,
    batch_size: int,
    compiled: bool,
) -> GenerativeProcess:
    """The model of this worker, loaded at its first block."""
    process = loader(model, device=device, dtype=getattr(torch, dtype))
    if compiled:
        compile_network(process, batch_size)
    return process


def score_files(
    pairs: str | Path,
    out: str | Path,
    *,
    workers: int = 1,
    cpus: float = 1,
    gpus: float = 0,
    block: int = BLOCK,
    **settings: Unpack[Scoring],
) -> None:
    """Score files of pairs with Ray, on the cluster that it is connected to or starts here.

    Started again after any interruption, with the same arguments, it goes on where it stopped:
    blocks that are written are not scored again. Both places must be seen by all machines.

    Args:
        pairs: a file that :func:`conjure_tools.tables.read_pairs` reads, or a folder of Parquet
            files with the columns id (unique), text1 and text2; arranged by
            :func:`conjure_tools.runs.arranged` where prompts repeat.
        out: the folder that gets a Parquet file a block, with a row a pair.
        workers: how many workers, each with its own model, ``cpus`` cores and ``gpus`` GPUs.
        block: pairs that a worker scores at once, one to five minutes of work. A worker that dies
            costs no more than one block, and a driver that dies no more than one a worker.
        settings: of :class:`PairScorer`.

    Raises:
        ImportError: Ray is not installed.
        TypeError: an argument is of another kind than it must be.
        OSError: ``out`` cannot be written to.
        ValueError: an argument or the pairs are not usable, ``out`` is the place of the pairs or
            holds distances of other pairs or settings, or the cluster has no room for the workers.
        RuntimeError: Ray did not start, or a block killed its worker again and again.
    """
    ray = _ray()
    whole("workers", workers), whole("block", block)
    _check_share("cpus", cpus)
    _check_share("gpus", gpus)
    own: Scoring = {"threads": max(1, int(cpus))}
    scorer = PairScorer(**(own | settings))
    _check_scorer(scorer)
    check_place(out)
    if Path(out).resolve() == Path(pairs).resolve():
        raise ValueError(f"{out} is read, and would be written to: choose another folder")
    table = _pairs(pairs)
    check_pairs(table)
    table, out = table[["id", "text1", "text2"]], Path(out)
    _claim(out, scorer, table, block)
    blocks = {
        out / f"block-{i:06d}.parquet": table.iloc[first : first + block]
        for i, first in enumerate(range(0, len(table), block))
    }
    left = [file for file, part in blocks.items() if not _is_whole(file, part)]
    if not left:
        return
    if not ray.is_initialized():
        start_ray()
    _check_room(ray, workers, cpus, gpus)
    options = {"num_cpus": cpus, "num_gpus": gpus, "max_restarts": -1, "max_task_retries": RETRIES}
    worker = ray.remote(**options)(_Worker)
    crew = [worker.remote(scorer) for _ in range(min(workers, len(left)))]
    pool = ray.util.ActorPool(crew)
    done = pool.map_unordered(lambda one, file: one.score.remote(file, blocks[file]), left)
    before = len(blocks) - len(left)
    for _ in tqdm(done, out.name, len(blocks), initial=before, unit="block"):
        pass


def _check_share(name: str, each: Any) -> None:
    """Check what Ray can give to a worker: whole cores or GPUs, or a part of one."""
    if finite(name, each) < 0 or (each > 1 and each != int(each)):
        raise ValueError(f"{name} must be a whole number or below 1, and not negative: not {each}")


def _check_scorer(scorer: PairScorer) -> None:
    """Check whatever needs no model, which only the workers load."""
    how: Any = {"quadrature": scorer.quadrature, "batch_size": scorer.batch_size}
    check_settings(sampling=scorer.sampling, **how)
    whole("draws", scorer.sampling.draws)
    if scorer.threads is not None:
        whole("threads", scorer.threads)
    pick_dtype(scorer.dtype)
    if not callable(scorer.loader):
        raise TypeError(f"loader must be a function such as conjure_lib.load: {scorer.loader!r}")


def _pairs(place: str | Path) -> pd.DataFrame:
    return pd.read_parquet(place) if Path(place).is_dir() else read_pairs(place)


class _Worker:
    """Scores blocks on a machine of the cluster, and writes each."""

    def __init__(self, scorer: PairScorer) -> None:
        self.scorer = scorer
        self.model: dict[str, Any] | None = None

    def score(self, file: Path, block: pd.DataFrame) -> None:
        """Write the distances of ``block``; ValueError where ``file``'s folder has other weights.

        Only workers have the model: its place may hold another one than it did at the first start.
        """
        if self.model is None:
            self.model = fingerprint(self.scorer.process())
        claim(file.parent / "_model.json", self.model, "distances of a model")
        found = pd.DataFrame(self.scorer({name: block[name].to_numpy() for name in block}))
        write_whole(file, partial(_write, found))


def _write(found: pd.DataFrame, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(found, preserve_index=False)
    table = table.replace_schema_metadata({"sha256": _seal(table)})
    pq.write_table(table, path, write_page_checksum=True)


def _seal(table: Any) -> bytes:
    """The hash of all names and values: a flipped bit anywhere changes it, or nothing."""
    return hashlib.sha256(json.dumps(table.to_pydict(), default=repr).encode()).hexdigest().encode()


def _is_whole(file: Path, block: pd.DataFrame) -> bool:
    """Whether ``block`` is scored; a damaged file is scored anew."""
    import pyarrow.parquet as pq

    try:
        found = pq.read_table(file, page_checksum_verification=True)
        sealed = (found.schema.metadata or {}).get(b"sha256") == _seal(found)
        return sealed and found["id"].to_pylist() == block["id"].tolist()
    except Exception:  # pyarrow raises many kinds of a damaged file
        return False


def _claim(out: Path, scorer: PairScorer, table: pd.DataFrame, block: int) -> None:
    """Note in ``out`` what is scored there, or compare with the note that is there."""
    apart = ("device", "threads", "batch_size", "sampling")
    note = {k: v for k, v in vars(scorer).items() if k not in apart}
    note |= scorer.sampling.told() | {"draws": scorer.sampling.draws}
    note["loader"] = f"{scorer.loader.__module__}.{scorer.loader.__qualname__}"
    file = out / "_settings.json"  # readers of Parquet folders pass over such a name
    if not file.exists() and any(out.glob("block-*")):
        raise ValueError(f"{out} holds blocks of something else: choose another folder")
    claim(file, note | {"pairs": digest(table), "block": int(block)}, "distances")


# -- the cluster ------------------------------------------------------------------------------


def _ray() -> Any:
    try:
        import ray
        import ray.util
    except ImportError as error:
        raise ImportError(
            'Ray is missing, the extra conjure_lib[ray]: in a clone, pip install ".[ray]"'
        ) from error
    return ray


def start_ray(**options: Any) -> None:
    """Start Ray on this machine; where it dies while it starts, once more.

    On a busy machine it may: its parts wait for each other only so long. Its workers get the
    priority of any program, and not Ray's niceness 15, at which they stand still on such a machine;
    RAY_worker_niceness in the environment sets another.

    Args:
        options: of ``ray.init``.

    Raises:
        RuntimeError: it did not start twice; said within a minute of a part that died.
    """
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "2")  # of one question of half a minute
    os.environ.setdefault("RAY_worker_niceness", "0")
    ray = _ray()
    for last in (False, True):
        try:
            with _interrupted_where_it_dies():
                ray.init(**options)
            return
        except Exception as error:
            ray.shutdown()
            if last:
                raise RuntimeError(
                    f"Ray did not start, tried twice: {error} Its logs are in "
                    "/tmp/ray/session_latest/logs; on a busy machine, try again when it is quiet"
                ) from error


@contextmanager
def _interrupted_where_it_dies() -> Iterator[None]:
    """Ends a start of Ray whose raylet has died, for which Ray itself would go on waiting."""
    import psutil

    died, ended, here = Event(), Event(), psutil.Process()

    def watch() -> None:
        seen: set[Any] = set()
        while not ended.wait(0.5):
            there = {c for c in here.children() if _is_raylet(c)}
            if seen - there and not ended.is_set():
                died.set()
                interrupt_main()
                return
            seen |= there

    watcher = Thread(target=watch, daemon=True)
    if current_thread() is main_thread():  # only that can be interrupted
        watcher.start()
    try:
        yield
    except KeyboardInterrupt:
        if not died.is_set():
            raise
        raise RuntimeError("its raylet died.") from None
    finally:
        ended.set()


def _is_raylet(process: Any) -> bool:
    import psutil

    try:
        return process.name() == "raylet" and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _check_room(ray: Any, workers: int, cpus: float, gpus: float) -> None:
    """Raises ValueError where the workers would wait for ever for what the cluster has not."""
    there = ray.cluster_resources()
    for name, each in (("CPU", cpus), ("GPU", gpus)):
        if workers * each > there.get(name, 0):
            raise ValueError(
                f"{workers} workers with {each:g} {name}s each need {workers * each:g}, and the "
                f"cluster has {there.get(name, 0):g}: ask for fewer"
            )
