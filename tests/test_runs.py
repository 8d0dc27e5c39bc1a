"""Runs: the numbers of ``distances``, whatever interrupts them; nothing damaged is read."""

from __future__ import annotations

import errno
import json
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

import conjure_lib as cj
from conjure_lib import runs

WORDS = ["cat", "dog", "pizza", "car", "tree", "house", "sun", "moon", "fish"]
PAIRS = pd.DataFrame(
    [(f"p{i}{j}", WORDS[i], WORDS[j]) for i in range(9) for j in range(i, 9)],
    columns=["id", "text1", "text2"],
)  # 45 pairs, nine of them of a word with itself


def toy(scale: float = 1.0) -> cj.GenerativeProcess:
    """A model without a network, whose prediction depends on x, on t and on the word's letters."""
    scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1)

    def predict(x: Tensor, t: Tensor, m: Tensor) -> Tensor:
        return torch.tanh(x * m) + t[:, None] / 1000 * m

    def encode(texts: Any) -> Tensor:
        vectors = [np.random.default_rng([ord(c) for c in w + "."]).normal(size=4) for w in texts]
        return scale * torch.tensor(np.array(vectors), dtype=torch.float32)

    return cj.GenerativeProcess(predict, encode, scheduler, (4,), name=f"toy-{scale:g}")


def score(folder: Path, process: cj.GenerativeProcess | None = None, **changed: Any) -> runs.Run:
    settings = {"draws": 3, "steps": 5, "block": 10, "report": lambda _: None} | changed
    return runs.score(process or toy(), PAIRS, folder, **settings)


def expected(weighting: Any = "sde", draws: int = 3) -> list[cj.Estimate]:
    pairs = list(zip(PAIRS["text1"], PAIRS["text2"], strict=True))
    return cj.distances(toy(), pairs, weighting=weighting, draws=draws, steps=5)


@pytest.mark.parametrize("weighting", cj.WEIGHTINGS)
@pytest.mark.parametrize("changed", [{}, {"block": 45}, {"block": 1, "batch_size": 3}])
def test_a_run_is_the_distances(tmp_path: Path, weighting: str, changed: dict[str, int]) -> None:
    table = score(tmp_path / "run", **changed).distances(weighting)
    reference = expected(weighting)
    assert table["id"].tolist() == PAIRS["id"].tolist()
    np.testing.assert_allclose(table["distance"], [e.value for e in reference], rtol=1e-4)
    np.testing.assert_allclose(table["stderr"], [e.stderr for e in reference], rtol=1e-3)
    assert (table["distance"][PAIRS["text1"] == PAIRS["text2"]] == 0).all()


def test_order_of_the_pairs_changes_no_number(tmp_path: Path) -> None:
    shuffled = PAIRS.sample(frac=1, random_state=3)
    one = score(tmp_path / "one").distances().set_index("id")
    other = runs.score(toy(), shuffled, tmp_path / "other", draws=3, steps=5, block=7)
    np.testing.assert_allclose(
        other.distances().set_index("id").loc[one.index, "distance"], one["distance"], rtol=1e-4
    )


def test_draws_are_added_without_repeating_any(tmp_path: Path) -> None:
    process = toy()
    few = score(tmp_path / "run", process, draws=1)
    spent = process.evaluations
    assert few.distances()["stderr"].isna().all()
    more = score(tmp_path / "run", process, draws=3)
    assert process.evaluations == 3 * spent  # the first draw was not made again
    np.testing.assert_array_equal(more.terms[:, :1], few.terms)
    assert more.record["draws"] == 3 and more.record["unet_evaluations"] == 3 * spent
    assert score(tmp_path / "run", process, draws=2).terms.shape[1] == 3
    assert process.evaluations == 3 * spent


def test_cost_is_announced_and_exact(tmp_path: Path) -> None:
    process, said = toy(), []
    score(tmp_path / "run", process, draws=2, report=said.append)
    count = int(said[0].split(" noise predictions")[0].split(": ")[1].replace(",", ""))
    assert count == process.evaluations
    assert said[0].startswith("90 pairs (one draw each)")
    said.clear()
    score(tmp_path / "run", process, draws=2, report=said.append)
    assert said == []  # nothing is left to do


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"steps": 4}, r"steps 5, and this one has 4"),
        ({"seed": 1}, r"seed 0, and this one has 1"),
        ({"guidance": 2.0}, r"guidance 1\.0, and this one has 2\.0"),
        ({"sampler": "ddpm"}, r"sampler 'ddim', and this one has 'ddpm'"),
        ({"process": toy(2.0)}, r"model 'toy-1', and this one has 'toy-2'"),
    ],
)
def test_other_settings_do_not_mix(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    run = score(tmp_path / "run")
    with pytest.raises(ValueError, match=message):
        score(tmp_path / "run", **changed)
    np.testing.assert_array_equal(runs.open_run(tmp_path / "run").terms, run.terms)


def test_another_schedule_does_not_mix(tmp_path: Path) -> None:
    score(tmp_path / "run")
    process = toy()
    process.scheduler = DDIMScheduler(beta_end=0.03, clip_sample=False)
    with pytest.raises(ValueError, match="another noise schedule"):
        score(tmp_path / "run", process)


def test_mended_human_scores_are_taken_over(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"draws": 1, "steps": 2, "report": lambda _: None}
    runs.score(toy(), PAIRS.assign(score=1.0), tmp_path / "run", **settings)
    again = runs.score(toy(), PAIRS.assign(score=2.0), tmp_path / "run", **settings)
    assert set(again.pairs["score"]) == {2.0}


def test_a_reader_does_not_disturb_and_a_second_writer_is_refused(tmp_path: Path) -> None:
    process, seen = toy(), []
    predict = process.predict

    def look(x: Tensor, t: Tensor, m: Tensor) -> Tensor:
        if (tmp_path / "run" / "run.json").is_file() and not seen:
            seen.append(True)
            partial = tmp_path / "run" / "shards" / "draw-0000-block-00000.parquet.1.partial"
            partial.write_bytes(b"being written")
            with pytest.raises(FileNotFoundError, match="no draw of the run"):
                runs.open_run(tmp_path / "run")
            assert partial.exists()
            with pytest.raises(ValueError, match="another process is scoring into"):
                score(tmp_path / "run")
        return predict(x, t, m)

    process.predict = look
    assert score(tmp_path / "run", process).record["draws"] == 3 and seen
    score(tmp_path / "run")  # the folder was let go


def test_other_pairs_do_not_mix(tmp_path: Path) -> None:
    score(tmp_path / "run")
    with pytest.raises(ValueError, match="pairs"):
        runs.score(toy(), PAIRS.iloc[:10], tmp_path / "run", draws=3, steps=5)


def damage(kind: str, folder: Path) -> None:
    shard = folder / "shards" / "draw-0001-block-00002.parquet"
    content = bytearray(shard.read_bytes())
    if kind == "torn":
        shard.write_bytes(content[: len(content) // 2])
    elif kind == "empty":
        shard.write_bytes(b"")
    elif kind == "flipped":  # one bit, in the values
        content[100] ^= 1
        shard.write_bytes(content)
    elif kind == "moved":
        shard.write_bytes((folder / "shards" / "draw-0000-block-00002.parquet").read_bytes())
    elif kind == "foreign":
        (shard.parent / "notes.txt").write_text("mine")
    elif kind == "of another run":
        other = folder.parent / "other"
        score(other, seed=7)
        shard.write_bytes((other / "shards" / shard.name).read_bytes())


@pytest.mark.parametrize("kind", ["torn", "empty", "flipped", "moved", "foreign", "of another run"])
def test_unsound_shards_are_named_and_set_aside(tmp_path: Path, kind: str) -> None:
    whole = score(tmp_path / "run")
    damage(kind, tmp_path / "run")
    process = toy()
    with pytest.warns(UserWarning, match=r"(draw-0001-block-00002\.parquet|notes\.txt) is set as"):
        mended = score(tmp_path / "run", process)
    np.testing.assert_array_equal(mended.terms, whole.terms)
    assert len(list((tmp_path / "run" / "set-aside").iterdir())) == 1
    assert process.evaluations < 300  # one block of one draw at most


@pytest.mark.parametrize("bit", range(0, 40_000, 997))
def test_no_flipped_bit_changes_a_number(tmp_path: Path, bit: int) -> None:
    whole = score(tmp_path / "run", draws=1, block=45)
    (shard,) = (tmp_path / "run" / "shards").iterdir()
    content = bytearray(shard.read_bytes())
    content[bit // 8 % len(content)] ^= 1 << bit % 8
    shard.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where the flip shows
        mended = score(tmp_path / "run", draws=1)
    np.testing.assert_array_equal(mended.terms, whole.terms)


def test_a_cut_off_write_leaves_no_trace(tmp_path: Path) -> None:
    whole = score(tmp_path / "run")
    (tmp_path / "run" / "shards" / "draw-0002-block-00004.parquet").unlink()
    partial = tmp_path / "run" / "shards" / "draw-0002-block-00004.parquet.7.partial"
    partial.write_bytes(b"PAR1 half of it")
    assert runs.open_run(tmp_path / "run").record["draws"] == 2  # the third is not whole
    np.testing.assert_array_equal(score(tmp_path / "run").terms, whole.terms)
    assert not partial.exists()


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet as pq

    whole, write = score(tmp_path / "whole"), pq.write_table

    def fill(table: Any, path: Path, **options: Any) -> None:
        if "draw-0001-block-00001" in str(path):
            Path(path).write_bytes(b"PAR1")
            raise OSError(errno.ENOSPC, "No space left on device")
        write(table, path, **options)

    monkeypatch.setattr(pq, "write_table", fill)
    with pytest.raises(OSError, match=r"the disk is full\. Every finished shard is kept"):
        score(tmp_path / "run")
    monkeypatch.undo()
    assert runs.open_run(tmp_path / "run").record["draws"] == 1
    np.testing.assert_array_equal(score(tmp_path / "run").terms, whole.terms)


def test_out_of_memory_halves_the_batch(tmp_path: Path) -> None:
    whole, process, sizes = score(tmp_path / "whole"), toy(), []
    predict = process.predict

    def small(x: Tensor, t: Tensor, m: Tensor) -> Tensor:
        sizes.append(len(x))
        if len(x) > 12 or (len(sizes) > 20 and len(x) > 6):  # memory gets scarcer on the way
            raise torch.OutOfMemoryError("no room")
        return predict(x, t, m)

    process.predict = small
    with pytest.warns(UserWarning, match="out of memory") as caught:
        run = score(tmp_path / "run", process, batch_size=32)
    said = [str(w.message).split()[-1] for w in caught]
    assert said == ["16", "8", "4"] and sizes[-1] <= 4
    np.testing.assert_allclose(run.terms, whole.terms, rtol=1e-4)


def test_other_errors_are_not_swallowed(tmp_path: Path) -> None:
    process = toy()

    def broken(x: Tensor, t: Tensor, m: Tensor) -> Tensor:
        raise RuntimeError("a cable is loose")

    process.predict = broken
    with pytest.raises(RuntimeError, match="a cable is loose"):
        score(tmp_path / "run", process)


def test_predictions_that_are_not_finite(tmp_path: Path) -> None:
    process = toy()
    predict = process.predict
    process.predict = lambda x, t, m: predict(x, t, m) / 0
    with pytest.raises(ValueError, match="for the pair 'p00?1' is not finite"):
        score(tmp_path / "run", process)


def test_texts_that_are_cut_are_counted(tmp_path: Path, process: cj.GenerativeProcess) -> None:
    rows = [("a", "cat " * 40, "dog"), ("b", "cat " * 40, "sun " * 50), ("c", "sun", "dog")]
    pairs = pd.DataFrame(rows, columns=["id", "text1", "text2"])
    settings = {"draws": 2, "steps": 1, "block": 2, "report": lambda _: None}
    with pytest.warns(UserWarning, match="2 texts are not read whole by emoji-diffusion") as caught:
        run = runs.score(process, pairs, tmp_path / "run", **settings)
    assert len(caught) == 1 and run.record["texts_not_read_whole"] == 2


def test_bad_pairs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lack the column text2"):
        runs.score(toy(), PAIRS[["id", "text1"]], tmp_path / "run")
    with pytest.raises(ValueError, match="'p01' stands twice"):
        runs.score(toy(), pd.concat([PAIRS, PAIRS.iloc[[1]]]), tmp_path / "run")
    with pytest.raises(ValueError, match="no pairs"):
        runs.score(toy(), PAIRS.iloc[:0], tmp_path / "run")
    for text in (" ", None):
        with pytest.raises(ValueError, match="text2 of the pair 'p02' is no text"):
            bad = PAIRS.assign(text2=[text if i == 2 else t for i, t in enumerate(PAIRS["text2"])])
            runs.score(toy(), bad, tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="holds no run"):
        runs.open_run(tmp_path / "elsewhere")
    score(tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        runs.open_run(tmp_path / "run")


def test_provenance(tmp_path: Path, process: cj.GenerativeProcess) -> None:
    record = score(tmp_path / "run").record
    assert record["settings"]["sampler"] == "ddim" and record["settings"]["dtype"] == "float32"
    assert record["devices"] == ["cpu"] and record["seconds"] >= 0
    versions = record["provenance"]["versions"]
    assert versions["torch"] == torch.__version__ and "diffusers" in versions
    weights = process.weights_hash()
    name, weight = next(iter(process.modules["unet"].named_parameters()))
    before = weight.data.clone()
    weight.data[0] += 1
    assert process.weights_hash() != weights, name
    weight.data.copy_(before)
    assert process.weights_hash() == weights


def test_stratified_samples_keep_the_proportions() -> None:
    table = pd.DataFrame({"id": range(1000), "subset": ["a"] * 700 + ["b"] * 200 + ["c"] * 100})
    for count in (10, 100, 333):
        part = runs.stratified(table, count, seed=1)
        assert len(part) == count and part["id"].is_monotonic_increasing
        shares = part["subset"].value_counts() / count
        assert abs(shares["a"] - 0.7) <= 1 / count + 1e-9
        assert abs(shares["b"] - 0.2) <= 1 / count + 1e-9
    shuffled = table.sample(frac=1, random_state=0)  # its index is no longer the row number
    assert (runs.stratified(shuffled, 10)["subset"] == "a").sum() == 7
    assert not runs.stratified(table, 100, seed=2).equals(runs.stratified(table, 100, seed=1))
    assert runs.stratified(table, 5000) is table
    with pytest.raises(ValueError, match="at least 1"):
        runs.stratified(table, 0)


def test_ten_kills(tmp_path: Path) -> None:
    """SIGKILL at ten random moments: the table is that of an undisturbed run, bit for bit."""
    file = tmp_path / "pairs.csv"
    PAIRS.to_csv(file, index=False)

    def start(folder: str) -> subprocess.Popen[str]:
        command = f"-m conjure_lib score {file} --out {tmp_path / folder} --steps 4 --draws 12"
        return subprocess.Popen(
            [sys.executable, *command.split(), "--block", "9", "--device", "cpu"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    with start("whole") as undisturbed:
        undisturbed.communicate()
    assert undisturbed.returncode == 0
    kills, chance = 0, random.Random(5)
    while kills < 10:
        with start("killed") as run:
            assert run.stderr is not None
            for line in iter(run.stderr.readline, ""):
                if "noise predictions" in line:  # the work begins
                    time.sleep(chance.uniform(0, 0.3))
                    break
            run.kill()
        assert run.returncode == -signal.SIGKILL  # it was not finished
        kills += 1
    with start("killed") as run:
        run.communicate()
    assert run.returncode == 0
    for name in ("distances.csv", "distances.parquet"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    record = json.loads((tmp_path / "killed" / "record.json").read_text())
    assert record["draws"] == 12
