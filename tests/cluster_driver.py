"""What the workers of test_cluster.py load, and the program that is killed there.

python tests/cluster_driver.py FOLDER

It scores FOLDER/pairs.parquet on a cluster of its own.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch import Tensor

import conjure_lib as cj
from conjure_tools.cluster import score_files, start_ray

ROWS = 6  # pairs a block
SETTINGS = {"draws": 2, "steps": 2, "batch_size": 16}


def toy(
    folder: str, device: str | None = None, dtype: torch.dtype | None = None
) -> cj.GenerativeProcess:
    """A slow model that notes the texts it encodes, and once kills the worker that it is in.

    It does so at the text that stands in ``folder``/poison, where there is such a file.
    """

    def encode(texts: Sequence[str]) -> Tensor:
        with (Path(folder) / f"log-{os.getpid()}").open("a") as log:
            log.write("".join(f"{text}\n" for text in texts))
        poison = Path(folder) / "poison"
        if poison.exists() and poison.read_text() in texts:
            poison.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.3)
        vectors = [np.random.default_rng([ord(c) for c in w]).normal(size=4) for w in texts]
        return torch.tensor(np.array(vectors), dtype=torch.float32)

    def predict(x: Tensor, t: Tensor, m: Tensor) -> Tensor:
        return torch.tanh(x * m) + t[:, None] / 1000 * m

    scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    return cj.GenerativeProcess(predict, encode, scheduler, (4,))


def main(folder: Path) -> None:
    import cluster_driver  # the workers find the loader by this name, and not in __main__

    here = str(Path(__file__).parent)
    start_ray(
        num_cpus=2,
        object_store_memory=100 << 20,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": here, "OMP_NUM_THREADS": "1"}},
    )
    score_files(
        folder / "pairs.parquet",
        folder / "out",
        workers=1,
        block=ROWS,
        model=str(folder),
        loader=cluster_driver.toy,
        **SETTINGS,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
