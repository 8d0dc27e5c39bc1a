"""More than one machine: one callable that scores a block of pairs, and Ray Data around it.

:class:`PairScorer` takes columns and returns columns. It runs in a plain loop, in the processes of
``concurrent.futures`` and, through :func:`score_files`, on a Ray cluster, with the same numbers.
Ray is an extra, ``pip install ".[ray]"`` in a clone, and imported only where it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from conjure_lib import reading
from conjure_lib.loading import EMBEDDED, load
from conjure_lib.process import GenerativeProcess
from conjure_lib.sde import WEIGHTINGS
from conjure_lib.similarity import Estimate, pair_terms
from conjure_lib.tables import read_pairs

BLOCK = 250  # pairs: three draws of ten steps are some three minutes of 150 evaluations a second


@dataclass(frozen=True)
class PairScorer:
    """The distances of a block of pairs, all weightings at once.

    Attributes:
        model: what ``loader`` is given, together with ``device``; each worker loads it once.
        loader: gives the process; :func:`conjure_lib.load` by default.
        threads: CPU threads of a worker; one a core is best where every core has a worker.
        compiled: compile the network for calls of ``batch_size`` rows.
        dtype: of the network alone, such as "float16"; look at :func:`conjure_lib.floor` first.

    The others are settings of :func:`conjure_lib.pair_terms`.
    """

    model: str = EMBEDDED
    loader: Callable[..., GenerativeProcess] = load
    device: str | None = None
    draws: int = 3
    steps: int = 10
    guidance: float = 1.0
    sampler: str = "ddim"
    seed: int = 0
    batch_size: int = 64
    threads: int | None = None
    compiled: bool = False
    dtype: str = "float32"

    def __call__(self, block: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Columns id, text1, text2 to id, and of each weighting the distance and its error.

        What the model reads of the texts stands beside them: :func:`conjure_lib.reading.columns`.
        """
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        process = _process(
            self.loader, self.model, self.device, self.dtype, self.batch_size, self.compiled
        )
        texts = list(zip(block["text1"], block["text2"], strict=True))
        terms, timesteps = pair_terms(
            process,
            texts,
            draws=self.draws,
            steps=self.steps,
            guidance=self.guidance,
            sampler=self.sampler,
            seed=self.seed,
            batch_size=self.batch_size,
            progress=False,
        )
        said = reading.columns(process.readers, *zip(*texts, strict=True))
        columns = {"id": np.asarray(block["id"]), **{k: np.array(v) for k, v in said.items()}}
        for weighting in WEIGHTINGS:
            found = [Estimate.from_terms(t, timesteps, process.schedule, weighting) for t in terms]
            columns[weighting] = np.array([e.value for e in found])
            columns[f"{weighting}_stderr"] = np.array([e.stderr for e in found])
        return columns


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
        process.compile(batch_size)
    return process


def score_files(
    pairs: str | Path,
    out: str | Path,
    checkpoint: str | Path,
    *,
    workers: int = 1,
    cpus: float = 1,
    gpus: float = 0,
    block: int = BLOCK,
    **settings: Any,
) -> None:
    """Score files of pairs with Ray Data, on the cluster that Ray is connected to.

    Started again after any interruption, with the same arguments, it goes on where it stopped: the
    ids of written blocks stand in ``checkpoint``. The three places must be seen by all machines.

    Args:
        pairs: Parquet, a file or a folder, with the columns id (unique), text1 and text2; arranged
            by :func:`conjure_lib.runs.arranged` where prompts repeat. Or any other file that
            :func:`conjure_lib.tables.read_pairs` reads; beside ``checkpoint`` it becomes Parquet.
        out: the folder that gets Parquet files with a row a pair, in no order.
        workers: how many workers, each with its own model, ``cpus`` cores and ``gpus`` GPUs. The
            cluster needs a core or more besides, for reading and writing.
        block: pairs that a worker scores at once, one to five minutes of work. Nobody begins a
            block before its worker's last one is written, so that a worker that dies costs no
            more than one block, and a driver that dies no more than one a worker.
        settings: of :class:`PairScorer`.

    Raises:
        ImportError: Ray is not installed.
    """
    try:
        import ray.data
        from ray.data.checkpoint import CheckpointConfig
    except ImportError as error:
        raise ImportError(
            'Ray is missing, the extra conjure_lib[ray]: in a clone, pip install ".[ray]"'
        ) from error
    context = ray.data.DataContext.get_current().copy()  # the caller's own stays as it is
    context.checkpoint_config = CheckpointConfig(
        id_column="id", checkpoint_path=str(checkpoint), delete_checkpoint_on_success=False
    )
    context.execution_no_progress_timeout_s = -1  # a block may take longer than half an hour
    context.set_config(*_written_first(workers))
    with ray.data.DataContext.current(context):
        source = _as_parquet(pairs, checkpoint)
        table = ray.data.read_parquet(source, columns=["id", "text1", "text2"])
        # Without this a block is as large as the file gives it, and is lost whole with its worker.
        table = table.repartition(target_num_rows_per_block=block)
        scored = table.map_batches(
            PairScorer,
            fn_constructor_kwargs={"threads": max(1, int(cpus))} | settings,
            batch_size=None,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
            num_cpus=cpus,
            num_gpus=gpus,
        )
        scored.write_parquet(str(out))


def _as_parquet(pairs: str | Path, checkpoint: str | Path) -> str:
    """Where Ray finds the pairs: as they are, or made Parquet of where they are not."""
    if Path(pairs).suffix.lower() == ".parquet" or not Path(pairs).is_file():
        return str(pairs)
    file = Path(f"{checkpoint}-pairs.parquet")
    file.parent.mkdir(parents=True, exist_ok=True)
    read_pairs(pairs)[["id", "text1", "text2"]].to_parquet(file, index=False)
    return str(file)


def _written_first(workers: int) -> tuple[str, list[type]]:
    """A setting of Ray Data: at most ``workers`` blocks are in hand or wait to be written.

    Its own limits are on bytes, and blocks of distances are small: where writers are slow to start,
    scored blocks would pile up, and be lost with the driver.
    """
    from ray.data._internal.execution import backpressure_policy as ray_policy
    from ray.data._internal.execution.operators.actor_pool_map_operator import ActorPoolMapOperator

    class WrittenFirst(ray_policy.BackpressurePolicy):
        def can_add_input(self, op: Any) -> bool:
            if not isinstance(op, ActorPoolMapOperator):
                return True
            writers = op.output_dependencies
            ahead = op.num_active_tasks() + op.internal_output_queue_num_blocks()
            ahead += op.internal_input_queue_num_blocks()
            ahead += sum(self._topology[one].total_enqueued_input_blocks() for one in writers)
            return ahead + sum(one.num_active_tasks() for one in writers) < workers

    key = ray_policy.ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY
    return key, [*ray_policy.ENABLED_BACKPRESSURE_POLICIES, WrittenFirst]
