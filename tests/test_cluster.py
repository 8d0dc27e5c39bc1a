"""One callable in a loop, in local processes and on a Ray cluster whose parts are killed."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from copy import copy
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from cluster_driver import ROWS, SETTINGS, toy
from diffusers import DDIMScheduler

import conjure_lib as cj
from conjure_tools import cluster
from conjure_tools.cluster import PairScorer, score_files

HERE = Path(__file__).resolve().parent
PAIRS = pd.DataFrame(
    [(f"p{i:03d}", f"left {i}", f"right {i}") for i in range(72)], columns=["id", "text1", "text2"]
)
Block = dict[str, np.ndarray]
without_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None,
    reason='Ray is an extra: pip install ".[ray]"',
)


def scorer(folder: Path) -> PairScorer:
    return PairScorer(str(folder), toy, **SETTINGS)


def blocks(table: pd.DataFrame) -> list[Block]:
    parts = [table.iloc[i : i + ROWS] for i in range(0, len(table), ROWS)]
    return [{name: part[name].to_numpy() for name in part} for part in parts]


def joined(found: list[Block]) -> pd.DataFrame:
    return pd.concat(map(pd.DataFrame, found)).set_index("id").sort_index()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The plain loop."""
    return joined([scorer(tmp_path_factory.mktemp("loop"))(block) for block in blocks(PAIRS)])


def test_a_plain_loop_gives_the_distances(tmp_path: Path, expected: pd.DataFrame) -> None:
    texts = list(zip(PAIRS["text1"], PAIRS["text2"], strict=True))
    for weighting in cj.WEIGHTINGS:
        found = cj.distances(toy(str(tmp_path)), texts, weighting=weighting, **SETTINGS)
        np.testing.assert_allclose(expected[weighting], [e.value for e in found], rtol=1e-4)
        error = [e.stderr for e in found]
        np.testing.assert_allclose(expected[f"{weighting}_stderr"], error, rtol=1e-3)


def test_a_worker_loads_its_model_once(tmp_path: Path) -> None:
    loads = []

    def loader(model: str, **how: Any) -> cj.GenerativeProcess:
        loads.append(model)
        return toy(model, **how)

    one = PairScorer(str(tmp_path), loader, **SETTINGS)
    one(blocks(PAIRS)[0]), one(blocks(PAIRS)[1])
    assert loads == [str(tmp_path)]


def test_local_processes(tmp_path: Path, expected: pd.DataFrame) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        found = joined(list(pool.map(scorer(tmp_path), blocks(PAIRS[:24]))))
    pd.testing.assert_frame_equal(found, expected.iloc[:24], rtol=1e-5)
    assert 1 <= len(list(tmp_path.glob("log-*"))) <= 2


def test_no_flipped_bit_of_a_block_is_taken_for_one_that_is_done(tmp_path: Path) -> None:
    part, file = PAIRS[:ROWS], tmp_path / "out" / "block-000000.parquet"
    file.parent.mkdir()
    cluster._Worker(scorer(tmp_path)).score(file, part)
    found, whole = pd.read_parquet(file), file.read_bytes()
    assert cluster._is_whole(file, part) and len(found) == ROWS
    assert not cluster._is_whole(file, PAIRS[1 : ROWS + 1])
    chance = np.random.default_rng(0)
    for at in chance.choice(len(whole), 600, replace=False):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << int(chance.integers(8))
        file.write_bytes(bytes(flipped))
        if cluster._is_whole(file, part):  # then it is, bit or no bit
            pd.testing.assert_frame_equal(pd.read_parquet(file), found, check_exact=True)


def test_blocks_of_two_models_do_not_mix(tmp_path: Path) -> None:
    """The place of a model may hold another one when the work goes on."""
    part, out = PAIRS[:2], tmp_path / "out"
    out.mkdir()
    cluster._Worker(scorer(tmp_path)).score(out / "block-000000.parquet", part)

    def other(folder: str, **how: Any) -> cj.GenerativeProcess:
        process = toy(folder)
        process.scheduler = DDIMScheduler(clip_sample=False, beta_end=0.03)
        return process

    changed = cluster._Worker(PairScorer(str(tmp_path), other, **SETTINGS))
    with pytest.raises(ValueError, match="holds distances of a model with another scheduler: cho"):
        changed.score(out / "block-000001.parquet", part)
    assert not (out / "block-000001.parquet").exists()
    cluster._Worker(scorer(tmp_path)).score(out / "block-000001.parquet", part)


def start(folder: Path) -> subprocess.Popen[bytes]:
    """One worker on two cores, the least that the book promises."""
    driver = [str(HERE / "cluster_driver.py"), str(folder)]
    habits = {"RAY_AUTH_MODE": "disabled"}  # nothing written at home
    with (folder / "driver.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-W", "ignore", *driver],
            stdout=log,
            stderr=log,
            env=os.environ | habits,
        )


def skip_where_ray_cannot_start(folder: Path, times: int) -> None:
    """Its parts wait seconds for each other: on a busy machine, only there, it may not start."""
    log = (folder / "driver.log").read_text()
    if log.count("Started a local Ray") < times and os.getloadavg()[0] > (os.cpu_count() or 1):
        pytest.skip("Ray did not start on this machine, which is busy")


def written(folder: Path) -> pd.DataFrame:
    files = sorted((folder / "out").glob("*.parquet"))
    return pd.concat(map(pd.read_parquet, files)) if files else PAIRS[:0]


@without_ray
def test_a_ray_cluster_whose_driver_and_worker_are_killed(
    tmp_path: Path, expected: pd.DataFrame
) -> None:
    PAIRS.to_parquet(tmp_path / "pairs.parquet", index=False)
    deadline = time.monotonic() + 180  # for all of it
    with start(tmp_path) as driver:
        while len(written(tmp_path)) < 3 * ROWS and driver.poll() is None:
            if time.monotonic() > deadline:
                break
            time.sleep(0.3)
        driver.kill()
    skip_where_ray_cannot_start(tmp_path, 1)
    assert driver.returncode == -signal.SIGKILL, (tmp_path / "driver.log").read_text()
    done = set(written(tmp_path)["id"])
    assert 3 * ROWS <= len(done) < len(PAIRS)
    left = PAIRS[~PAIRS["id"].isin(done)]
    (tmp_path / "poison").write_text(left["text1"].iloc[len(left) // 2])  # for a worker, once
    with start(tmp_path) as driver:
        with suppress(subprocess.TimeoutExpired):
            driver.wait(max(1, deadline - time.monotonic()))
        driver.kill()
    skip_where_ray_cannot_start(tmp_path, 2)
    assert driver.returncode == 0, (tmp_path / "driver.log").read_text()
    assert not (tmp_path / "poison").exists()

    table = written(tmp_path)
    assert sorted(table["id"]) == list(PAIRS["id"])  # each once
    found = table.set_index("id").sort_index()[list(expected)]
    pd.testing.assert_frame_equal(found, expected, rtol=1e-5)
    asked = Counter(t for log in tmp_path.glob("log-*") for t in log.read_text().splitlines())
    assert {asked[text] for text in PAIRS["text1"][PAIRS["id"].isin(done)]} == {1}
    # the block that the worker had in hand, and the poisoned one
    assert sum(asked[text] for text in PAIRS["text1"]) - len(PAIRS) <= 2 * ROWS


DYING = """
import sys
from ray._private import services
from conjure_tools.cluster import start_ray
services.RAYLET_EXECUTABLE = sys.argv[1]
start_ray(num_cpus=2, object_store_memory=100 << 20, include_dashboard=False)
"""


@without_ray
def test_a_raylet_that_dies_at_its_start_is_said_soon(tmp_path: Path) -> None:
    raylet = tmp_path / "raylet"
    raylet.write_text(f"#!/bin/sh\necho >> {tmp_path}/starts\nsleep 1\nexit 1\n")
    raylet.chmod(0o755)
    command = [sys.executable, "-W", "ignore", "-c", DYING, str(raylet)]
    environment = os.environ | {"RAY_AUTH_MODE": "disabled"}
    found = subprocess.run(command, capture_output=True, text=True, timeout=180, env=environment)
    assert "RuntimeError: Ray did not start, tried twice: its raylet died" in found.stderr
    assert found.returncode == 1 and (tmp_path / "starts").read_text() == "\n\n"


@without_ray
def test_pairs_and_settings_are_checked_before_ray_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray was started"))
    file, out = tmp_path / "pairs.parquet", tmp_path / "out"
    options: dict[str, Any] = {"model": str(tmp_path), "loader": toy, **SETTINGS}
    pd.concat([PAIRS, PAIRS.iloc[[3]]]).to_parquet(file)
    with pytest.raises(ValueError, match="the id 'p003' stands in row 4 too"):
        score_files(file, out, **options)
    PAIRS.drop(columns="text2").to_parquet(file)
    with pytest.raises(ValueError, match="no two columns are known to be the texts"):
        score_files(file, out, **options)
    with pytest.raises(TypeError, match="typo"):
        score_files(file, out, typo=1)
    assert not out.exists()

    some = PAIRS[:ROWS]
    some.to_parquet(file)
    done = scorer(tmp_path)(blocks(some)[0])
    one = scorer(tmp_path)
    other = copy(one)
    other.threads = 1  # which changes no number
    cluster._claim(out, other, some, ROWS)
    cluster._Worker(one).score(out / "block-000000.parquet", some)
    score_files(file, out, block=ROWS, **options)  # all is there
    pd.testing.assert_frame_equal(pd.read_parquet(out), pd.DataFrame(done))
    with pytest.raises(ValueError, match="distances with another steps: choose another folder"):
        score_files(file, out, block=ROWS, **options | {"steps": 3})
    PAIRS[: ROWS + 1].to_parquet(file)
    with pytest.raises(ValueError, match="distances with another pairs: choose another folder"):
        score_files(file, out, block=ROWS, **options)
    with pytest.raises(ValueError, match="blocks of something else"):
        (out / "_settings.json").unlink()
        score_files(file, out, block=ROWS, **options)


@pytest.mark.parametrize(
    ("changed", "kind", "message"),
    [
        ({"cpus": "1"}, TypeError, "cpus must be a finite number, not '1'"),
        ({"cpus": 1.5}, ValueError, "cpus must be a whole number or below 1"),
        ({"cpus": -1}, ValueError, "cpus must be a whole number or below 1"),
        ({"gpus": None}, TypeError, "gpus must be a finite number, not None"),
        ({"workers": "1"}, TypeError, "workers must be a whole number, not '1'"),
        ({"block": 0}, ValueError, "block must be at least 1"),
        ({"steps": "3"}, TypeError, "steps must be a whole number, not '3'"),
        ({"draws": 0}, ValueError, "draws must be at least 1"),
        ({"threads": 0}, ValueError, "threads must be at least 1"),
        ({"dtype": "float17"}, ValueError, "dtype must be one of float32"),
        ({"dtype": "int8"}, ValueError, "dtype must be one of float32"),
        ({"loader": "load"}, TypeError, "loader must be a function"),
    ],
)
def test_arguments_are_checked_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: Any, kind: Any, message: str
) -> None:
    monkeypatch.setattr(cluster, "_ray", lambda: None)
    PAIRS.to_parquet(tmp_path / "pairs.parquet")
    with pytest.raises(kind, match=message):
        score_files(tmp_path / "pairs.parquet", tmp_path / "out", **{"loader": toy} | changed)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("out", "message"),
    [("", "is empty"), ("pairs.parquet/x", "is a file"), (".", "would be written to")],
)
def test_a_place_for_blocks_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, message: str
) -> None:
    monkeypatch.setattr(cluster, "_ray", lambda: None)
    monkeypatch.chdir(tmp_path)
    PAIRS.to_parquet("pairs.parquet")
    with pytest.raises((ValueError, OSError), match=message):
        score_files("." if out == "." else "pairs.parquet", out, loader=toy)
    assert [file.name for file in tmp_path.iterdir()] == ["pairs.parquet"]


@pytest.mark.parametrize("own", [None, "7"])
def test_workers_have_the_priority_of_any_program(
    monkeypatch: pytest.MonkeyPatch, own: str | None
) -> None:
    seen, niceness = [], "RAY_worker_niceness"
    ray = SimpleNamespace(init=lambda **_: seen.append(os.environ[niceness]))
    monkeypatch.setattr(cluster, "_ray", lambda: ray)
    monkeypatch.setenv(niceness, own or "15")
    if own is None:
        monkeypatch.delenv(niceness)
    cluster.start_ray()
    assert seen == [own or "0"]


def test_blocks_are_counted_as_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Pool:  # of Ray, of one process
        def __init__(self, crew: list[Any]) -> None:
            self.crew = crew

        def map_unordered(self, call: Any, files: list[Path]) -> Any:
            return (call(self.crew[0], file) for file in files)

    def remote(made: Any) -> Any:
        one = SimpleNamespace(score=SimpleNamespace(remote=made.score))
        return SimpleNamespace(remote=lambda _: one)

    ray = SimpleNamespace(
        is_initialized=lambda: True,
        cluster_resources=lambda: {"CPU": 1},
        remote=lambda **_: lambda kind: remote(kind(scorer(tmp_path))),
        util=SimpleNamespace(ActorPool=Pool),
    )
    monkeypatch.setattr(cluster, "_ray", lambda: ray)
    PAIRS[:12].to_parquet(tmp_path / "pairs.parquet")
    options: dict[str, Any] = {"model": str(tmp_path), "loader": toy, "block": 6, **SETTINGS}
    score_files(tmp_path / "pairs.parquet", tmp_path / "out", **options)
    assert "out: 100%" in (said := capsys.readouterr().err) and "2/2" in said
    (tmp_path / "out" / "block-000001.parquet").unlink()
    score_files(tmp_path / "pairs.parquet", tmp_path / "out", **options)
    assert "1/2" in capsys.readouterr().err  # what is there is counted


def test_without_ray_it_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"conjure_lib\[ray\]"):
        score_files(tmp_path, tmp_path)
