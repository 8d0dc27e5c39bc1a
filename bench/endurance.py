"""Twenty thousand pairs on the embedded model: is memory flat, and the end as fast as the start?

    python bench/endurance.py                              # hours on two cores
    python bench/endurance.py --pairs 256 --steps 2        # a minute, in sizes that prove nothing

One run, as ``conjure score`` makes it, watched from beside: noise predictions, CPU seconds and
resident memory, each second, in _build/bench/endurance.csv. The last tenth of the predictions must
come at a rate within 10 % of the first tenth's, by CPU seconds, and in memory that has grown by
less than 2 % since the middle; else the exit status is 1. What memory grew by before is printed:
blocks have calls of different sizes, for each of which oneDNN keeps a kernel, 1,024 at most.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

import conjure_lib as cj
from conjure_tools import runs

WORK = Path(__file__).resolve().parent.parent / "_build" / "bench"
ADJECTIVES = ("red", "old", "wet", "tiny", "proud", "sleepy", "round", "broken", "golden", "cold")
NOUNS = ("cat", "dog", "lion", "tree", "apple", "car", "house", "fish", "moon", "cake", "drum")
PLACES = ("", "at night", "in the snow")


def main() -> None:
    """Score the pairs into a fresh folder and compare the last tenth with the first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    process, table = cj.load(device="cpu"), pairs(options.pairs)
    shutil.rmtree(WORK / "endurance", ignore_errors=True)
    seen, ended = [sample(process)], threading.Event()

    def watch() -> None:
        while not ended.wait(1):
            seen.append(sample(process))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        runs.score(process, table, WORK / "endurance", steps=options.steps, draws=1)
    finally:
        ended.set()
        watcher.join()
        found = pd.DataFrame(seen, columns=["evaluations", "cpu_seconds", "mib"])
        found.to_csv(WORK / "endurance.csv", index=False)
    sys.exit(judge(found))


def sample(process: cj.GenerativeProcess) -> tuple[int, float, float]:
    """Noise predictions so far, CPU seconds so far, resident memory in MiB."""
    return process.evaluations, time.process_time(), psutil.Process().memory_info().rss / 2**20


def pairs(count: int) -> pd.DataFrame:
    """As many different pairs of phrases, in an order that is the same every time."""
    phrases = [" ".join(words) for words in itertools.product(ADJECTIVES, NOUNS, PLACES)]
    every = list(itertools.combinations([phrase.strip() for phrase in phrases], 2))
    if count > len(every):
        sys.exit(f"there are only {len(every)} pairs")
    chosen = np.random.default_rng(0).permutation(len(every))[:count]
    texts = [every[i] for i in chosen]
    ids = [f"pair-{i:05d}" for i in range(count)]
    return pd.DataFrame(texts, columns=["text1", "text2"]).assign(id=ids)


def judge(found: pd.DataFrame) -> int:
    """Print the comparison; 0 where both promises hold."""
    share = found["evaluations"] / found["evaluations"].iloc[-1]
    first, last = found[(share > 0.01) & (share <= 0.11)], found[share >= 0.9]
    middle = found[(share > 0.45) & (share <= 0.55)]
    if min(len(first), len(middle), len(last)) < 3:
        sys.exit(f"{len(found)} seconds are too few to compare anything: take more pairs")
    slow, fast = (part["cpu_seconds"].diff().sum() / part["evaluations"].diff().sum()
                  for part in (last, first))  # fmt: skip
    rate, memory = fast / slow, last["mib"].mean() / middle["mib"].mean()
    print(f"the rate of the last tenth is {rate:.3f} times that of the first")
    early, half = (part["mib"].mean() for part in (first, middle))
    print(f"memory {early:.0f} MiB in the first tenth, {half:.0f} in the middle one, ", end="")
    print(f"in the last {memory:.3f} times that")
    return int(abs(rate - 1) > 0.1 or memory > 1.02)


if __name__ == "__main__":
    main()
