"""Runs: the numbers of ``distances``, whatever interrupts them; nothing damaged is read."""

from __future__ import annotations

import errno
import json
import random
import re
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
from conftest import letter_tokenizer, open_pipeline, random_vae
from diffusers import DDIMScheduler
from torch import Tensor
from transformers import CLIPTokenizer

import conjure_lib as cj
from conjure_tools import runs
from conjure_tools.cli import main
from conjure_tools.cluster import PairScorer
from conjure_tools.fingerprints import fingerprint, weights_hash

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


@pytest.mark.parametrize(
    ("chosen", "kind", "message"),
    [
        ({"draws": 0}, ValueError, "draws must be at least 1, not 0"),
        ({"draws": -1}, ValueError, "draws must be at least 1, not -1"),
        ({"draws": 99}, ValueError, "draws=99, and the run has 2"),
        ({"draws": 1.5}, TypeError, "draws must be a whole number, not 1.5"),
        ({"draws": "1"}, TypeError, "draws must be a whole number, not '1'"),
    ],
)
def test_draws_that_a_run_has_not(
    chosen: dict[str, Any], kind: type[Exception], message: str
) -> None:
    terms = np.ones((3, 2, 5, 2), np.float32) * np.arange(5)[:, None]
    of_pairs = cj.Terms(terms, torch.arange(800, -1, -200), toy().schedule)
    run = runs.Run(PAIRS[:3], of_pairs, {"settings": {"quadrature": "sum"}})
    assert (run.distances("noise", draws=1)["distance"] == 2).all()
    with pytest.raises(kind, match=message):
        run.distances(**chosen)


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
    np.testing.assert_array_equal(more.terms.squares[:, :1], few.terms.squares)
    assert more.record["draws"] == 3 and more.record["unet_evaluations"] == 3 * spent
    assert score(tmp_path / "run", process, draws=2).terms.squares.shape[1] == 3
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
    np.testing.assert_array_equal(runs.open_run(tmp_path / "run").terms.squares, run.terms.squares)


def test_another_schedule_does_not_mix(tmp_path: Path) -> None:
    score(tmp_path / "run")
    process = toy()
    process.scheduler = DDIMScheduler(beta_end=0.03, clip_sample=False)
    with pytest.raises(ValueError, match=r"scheduler beta_end 0\.02, and this one has 0\.03"):
        score(tmp_path / "run", process)
    process = toy()
    process.scheduler.alphas_cumprod = process.scheduler.alphas_cumprod**2  # behind its settings
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
    with pytest.raises(ValueError, match="of other pairs .45 and not 10.: choose another folder"):
        runs.score(toy(), PAIRS.iloc[:10], tmp_path / "run", draws=3, steps=5)
    changed = PAIRS.assign(text2=["bird", *PAIRS["text2"][1:]])
    with pytest.raises(ValueError, match=r"row 0 is \['p00', 'cat', 'cat'\] there, .*'bird'"):
        runs.score(toy(), changed, tmp_path / "run", draws=3, steps=5)


def test_the_fingerprint_knows_what_changes_a_number(random_folder: Path, tmp_path: Path) -> None:
    pipeline = open_pipeline(random_folder)

    def now() -> dict[str, Any]:
        return fingerprint(cj.from_pipeline(pipeline))

    def changed() -> list[str]:
        return [key for key, value in now().items() if value != before[key]]

    before = now()
    assert before == json.loads(json.dumps(before)) and not changed()
    process = cj.from_pipeline(pipeline)
    cj.distance(process, "cat", "dog", steps=2, draws=1)
    assert not changed() and fingerprint(cj.from_pipeline(open_pipeline(random_folder))) == before
    pipeline.safety_checker = pipeline.image_encoder = random_vae()
    assert not changed() and weights_hash(cj.from_pipeline(pipeline)) == before["weights"]
    pipeline.scheduler.register_to_config(prediction_type="v_prediction")
    assert changed() == ["prediction", "scheduler"]
    pipeline.scheduler.register_to_config(prediction_type="epsilon", timestep_spacing="trailing")
    assert changed() == ["scheduler"]
    pipeline.scheduler.register_to_config(timestep_spacing="leading")
    own = pipeline.scheduler
    pipeline.scheduler = type("Mine", (type(own),), {}).from_config(own.config)
    assert changed() == ["scheduler"]  # whose settings are the same
    assert (before["scheduler"]["class"], now()["scheduler"]["class"]) == ("PNDMScheduler", "Mine")
    pipeline.scheduler = own
    pipeline.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    assert changed() == ["state"]
    pipeline.disable_freeu()
    assert not changed()
    conv, seen = pipeline.unet.conv_in, []
    for factor in (0.5, 0.5, 2.0):
        hook = conv.register_forward_hook(lambda m, i, o, factor=factor: o * factor)
        assert changed() == ["state"]
        seen.append(now()["state"])
        hook.remove()
    assert seen[0] == seen[1] != seen[2]
    for scale in (0.5, 2.0):
        conv.forward = scaled(type(conv).forward.__get__(conv), scale)
        assert changed() == ["state"]
        seen.append(now()["state"])
        del conv.forward
    assert len(set(seen)) == 4 and not changed()
    pipeline.unet.enable_gradient_checkpointing()
    assert not changed()
    whole = pipeline.unet.mid_block
    pipeline.unet.mid_block = torch.compile(whole, backend="eager")
    assert not changed()
    pipeline.unet.mid_block = whole
    whole.forward = torch.compile(whole.forward, backend="eager")
    assert not changed()
    del whole.forward
    letter_tokenizer(tmp_path / "vocabulary")
    (tmp_path / "vocabulary" / "merges.txt").write_text("#version: 0.2\n")  # the same tokens
    pipeline.tokenizer = CLIPTokenizer.from_pretrained(tmp_path / "vocabulary", model_max_length=77)
    assert changed() == ["tokenizers"]


def scaled(forward: Any, scale: float) -> Any:
    """Another forward, which is told apart from its like by what it closes over alone."""
    return lambda x: scale * forward(x)


def test_a_part_that_is_replaced_later_is_not_that_of_the_process(random_folder: Path) -> None:
    """Neither half of it: what is told and what is hashed stay of one model."""
    pipeline, other = open_pipeline(random_folder), open_pipeline(random_folder)
    process = cj.from_pipeline(pipeline)
    before, told = fingerprint(process), process.encode(["cat"])
    for network in (other.text_encoder, other.unet):
        with torch.no_grad():
            for weight in network.parameters():
                weight.mul_(1.5)
    pipeline.text_encoder, pipeline.unet = other.text_encoder, other.unet
    assert fingerprint(process) == before
    torch.testing.assert_close(process.encode(["cat"]), told, rtol=0, atol=0)
    assert fingerprint(cj.from_pipeline(pipeline)) != before


def test_the_fingerprint_knows_adapters_and_their_state(random_folder: Path) -> None:
    peft = pytest.importorskip("peft")
    pipeline = open_pipeline(random_folder)
    config = peft.LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False)
    pipeline.unet.add_adapter(config, "style")
    seen = []
    for change in (
        lambda: None,
        lambda: pipeline.set_adapters(["style"], [0.5]),
        pipeline.disable_lora,
        lambda: (pipeline.enable_lora(), pipeline.set_adapters(["style"], [1.0])),
    ):
        change()
        seen.append(fingerprint(cj.from_pipeline(pipeline)))
    assert len({told["weights"] for told in seen}) == 1
    states = [told["state"] for told in seen]
    assert len(set(states[:3])) == 3 and states[3] == states[0]


def test_a_run_does_not_mix_models(tmp_path: Path, random_folder: Path) -> None:
    pipeline = open_pipeline(random_folder)
    options: dict[str, Any] = {"draws": 1, "steps": 2, "report": lambda _: None}

    def go(draws: int) -> None:
        process = cj.from_pipeline(pipeline)
        runs.score(process, PAIRS[:2], tmp_path / "run", **options | {"draws": draws})

    go(1)
    pipeline.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    with pytest.raises(ValueError, match=r"another state of them .* choose another folder"):
        go(2)
    pipeline.disable_freeu()
    pipeline.scheduler.register_to_config(prediction_type="v_prediction")
    with pytest.raises(ValueError, match="prediction 'epsilon', and this one has 'v_prediction'"):
        go(2)
    pipeline.scheduler.register_to_config(prediction_type="epsilon")
    go(2)


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
    elif kind == "of another run":
        other = folder.parent / "other"
        score(other, seed=7)
        shard.write_bytes((other / "shards" / shard.name).read_bytes())


@pytest.mark.parametrize("kind", ["torn", "empty", "flipped", "moved", "of another run"])
def test_unsound_shards_are_named_and_set_aside(tmp_path: Path, kind: str) -> None:
    whole = score(tmp_path / "run")
    damage(kind, tmp_path / "run")
    process = toy()
    with pytest.warns(UserWarning, match=r"draw-0001-block-00002\.parquet is set aside in"):
        mended = score(tmp_path / "run", process)
    np.testing.assert_array_equal(mended.terms.squares, whole.terms.squares)
    assert len(list((tmp_path / "run" / "set-aside").iterdir())) == 1
    assert process.evaluations < 300  # one block of one draw at most


def test_no_flipped_bit_changes_a_number_or_blocks_a_run(tmp_path: Path) -> None:
    def small() -> runs.Run:
        settings: dict[str, Any] = {"draws": 1, "steps": 2, "report": lambda _: None}
        return runs.score(toy(), PAIRS[:4], tmp_path / "run", **settings)

    whole = small()
    (shard,) = (tmp_path / "run" / "shards").iterdir()
    content, aside = shard.read_bytes(), 0
    footer = range(len(content) - 1500, len(content), 19)  # where Parquet has no checksum
    for byte in (*range(0, len(content), 31), *footer):
        shard.write_bytes(flipped(content, 8 * byte + byte % 8))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            mended = small()
        aside += len(said)
        np.testing.assert_array_equal(mended.terms.squares, whole.terms.squares)
        assert mended.record["unet_evaluations"] == whole.record["unet_evaluations"]
    assert aside > 20


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize("name", ["run.json", "pairs.parquet"])
def test_a_flipped_bit_beside_the_shards_is_named(tmp_path: Path, name: str) -> None:
    whole = score(tmp_path / "run")
    file = tmp_path / "run" / name
    file.write_bytes(flipped(file.read_bytes(), 8 * (file.stat().st_size // 3)))
    changed = file.read_bytes()
    if name == "run.json":  # the rest is there: moved away, all shards are found again
        with pytest.raises((ValueError, FileExistsError), match="run.json"):
            score(tmp_path / "run")
        assert file.read_bytes() == changed
        file.rename(tmp_path / "moved.json")
        process = toy()
        np.testing.assert_array_equal(
            score(tmp_path / "run", process).terms.squares, whole.terms.squares
        )
        assert process.evaluations < 50  # what the floor and the cost take
    else:
        with pytest.raises(ValueError, match=r"pairs\.parquet is damaged .*start the same run"):
            runs.open_run(tmp_path / "run")
        with pytest.warns(UserWarning, match=r"pairs\.parquet is set aside"):
            np.testing.assert_array_equal(
                score(tmp_path / "run").terms.squares, whole.terms.squares
            )


def foreign(folder: Path) -> dict[str, bytes]:
    return {str(f): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.mark.parametrize("block", [1, 7, 45])
def test_without_its_run_json_a_run_keeps_its_shards(tmp_path: Path, block: int) -> None:
    whole = score(tmp_path / "run", block=block)
    file, draws = tmp_path / "run" / "run.json", 3
    file.write_bytes(flipped(file.read_bytes(), 8 * (file.stat().st_size // 3)))
    with pytest.raises(ValueError, match=r"run\.json .* move it and start the same run again"):
        score(tmp_path / "run")
    file.rename(tmp_path / "moved.json")
    if block < 45:  # neither is the first shard needed for it
        (tmp_path / "run" / "shards" / "draw-0000-block-00000.parquet").unlink()
        draws -= 1
    process = toy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is set aside
        again = score(tmp_path / "run", process, block=9)
    np.testing.assert_allclose(again.terms.squares, whole.terms.squares, rtol=1e-4)
    assert again.record["block"] == block and process.evaluations < 250  # of 3 * 405
    assert not (tmp_path / "run" / "set-aside").exists()


def test_ids_that_look_alike_are_other_pairs(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"draws": 1, "steps": 2, "report": lambda _: None}
    numbers = PAIRS[:3].assign(id=[1, 2, 3])
    runs.score(toy(), numbers, tmp_path / "run", **settings)
    with pytest.raises(
        ValueError, match=r"other pairs \(row 0 is \[1, .* there, and \['1', .*: choose"
    ):
        runs.score(toy(), numbers.assign(id=["1", "2", "3"]), tmp_path / "run", **settings)
    other = numbers.assign(id=numbers["id"].astype("int32"))  # the same numbers
    assert len(runs.score(toy(), other, tmp_path / "run", **settings).pairs) == 3


MARKED = (".written", "written", "shards", "set-aside")
TAKEN = [("written/distances.csv", True), (".written/run.json", False)]
TAKEN += [("shards/draw-0000-block-00000.parquet", False), *[(name, False) for name in MARKED[::2]]]
TAKEN += [("set-aside", False), ("written", True), (".written/mine.txt", True)]


@pytest.mark.parametrize(("name", "goes"), TAKEN)
def test_files_of_anothers_in_the_folders_of_a_run(tmp_path: Path, name: str, goes: bool) -> None:
    folder = tmp_path / "run"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_text("my writings")
    before = foreign(folder)
    if goes:
        score(folder)
    else:
        with pytest.raises((FileExistsError, NotADirectoryError), match=name):
            score(folder)
        assert foreign(folder) == before
    assert (folder / name).read_text() == "my writings"


@pytest.mark.parametrize("name", ["shards/draw-0000-block-00000.parquet", ".written/run.json"])
def test_a_parquet_table_of_anothers_is_no_shard(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir()
    PAIRS.to_parquet(tmp_path / name)
    before = foreign(tmp_path)
    with pytest.raises(FileExistsError, match=name):
        score(tmp_path)
    with pytest.raises(ValueError, match="is read, and would be written over"):
        runs.check_folder(tmp_path, tmp_path / name)
    assert foreign(tmp_path) == before


def test_places_that_cannot_be_written_to_are_said_before_the_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("conjure_lib.load", lambda *_, **__: pytest.fail("loaded"))
    monkeypatch.chdir(tmp_path)
    PAIRS.assign(score=1.0).to_csv("p.csv", index=False)
    Path("lock/run.lock").mkdir(parents=True)
    long = "a" * 300
    places = {"p.csv/x": "is a file", "p.csv": "is a file", "/dev/null/x": "is a file"}
    places |= {f"new/{long}": "cannot be written to", "lock": "is no lock of a run"}
    places |= {"/proc/x": "cannot be written to"} if Path("/proc/self").exists() else {}
    before = foreign(tmp_path)
    for command in ("score", "evaluate"):
        for place, why in places.items():
            if (command, place) == ("evaluate", "lock"):
                continue
            assert main([command, "p.csv", "--out", place]) == 2
            said = capsys.readouterr().err
            assert why in said and "choose another" in said and len(said.splitlines()) == 1
    for command, option in (("score", "--out"), ("evaluate", "--out"), ("evaluate", "--against")):
        with pytest.raises(SystemExit):
            main([command, "p.csv", "--out", "x", option, ""])
        assert f"argument {option}: it is empty" in capsys.readouterr().err
    with pytest.raises(ValueError, match="is empty"):
        runs.score(toy(), PAIRS, "")
    assert foreign(tmp_path) == before and not Path("new").exists()


OTHERS = ("pairs.parquet", "distances.csv", "distances.parquet", "record.json", "run.json")


@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("name", [*OTHERS, "evaluation.json", "run.lock", "shards/mine.partial"])
def test_nothing_of_anothers_is_written_over(tmp_path: Path, name: str, started: bool) -> None:
    folder = tmp_path / "run"
    if started:
        score(folder)
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("{}")
    if started and name == "pairs.parquet":  # set aside, for the run needs the place
        with pytest.warns(UserWarning, match="set aside"):
            score(folder)
        (kept,) = (folder / "set-aside").iterdir()
        assert kept.read_text() == "{}"
        return
    if started and name.startswith("shards"):
        score(folder)
    else:
        with pytest.raises((FileExistsError, ValueError), match=name.split("/")[-1]):
            score(folder)
        assert started or not (folder / ".written").exists()
    assert (folder / name).read_text() == "{}"


@pytest.mark.parametrize("name", ["pairs.parquet", "distances.csv", "distances.parquet"])
def test_the_input_is_never_written_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    file, small = tmp_path / name, ["--steps", "2", "--draws", "1", "--limit", "2"]
    write = PAIRS.to_csv if name.endswith("csv") else PAIRS.to_parquet
    write(file, index=False)
    content = file.read_bytes()
    assert main(["score", str(file), "--out", str(tmp_path), *small]) == 2
    assert f"{name} is read, and would be written over" in capsys.readouterr().err
    assert main(["score", str(file), "--out", str(tmp_path / "run"), *small]) == 0
    kept = tmp_path / "run" / "distances.csv"  # and neither is what was changed since
    kept.write_text(kept.read_text() + "mine,,,,\n")
    assert main(["score", str(file), "--out", str(tmp_path / "run"), *small]) == 2
    assert "distances.csv would be written over" in capsys.readouterr().err
    assert kept.read_text().endswith("mine,,,,\n") and file.read_bytes() == content
    assert [f for f in tmp_path.iterdir() if f.name not in (name, "run")] == []


def test_all_folders_of_an_evaluation_are_checked_before_the_first_is_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--steps", "2", "--draws", "1", "--out", str(tmp_path / "out")]
    for name in ("a", "b"):
        PAIRS[:3].assign(score=[1.0, 2.0, 0.0]).to_csv(tmp_path / f"{name}.csv", index=False)
    taken = tmp_path / "out" / "b-emoji-diffusion-ddim2-w1-seed0" / "run.json"
    taken.parent.mkdir(parents=True)
    taken.write_text("mine")
    assert main(["evaluate", str(tmp_path / "a.csv"), str(tmp_path / "b.csv"), *small]) == 2
    assert "run.json would be written over" in capsys.readouterr().err
    assert foreign(tmp_path / "out") == {str(taken): b"mine"}


@pytest.mark.filterwarnings("ignore:.*rows are left out")
def test_rows_left_out_are_those_of_the_last_start(tmp_path: Path) -> None:
    file, out = tmp_path / "b.csv", tmp_path / "run"
    small = ["--out", str(out), "--steps", "2", "--draws", "1"]
    good = "text1,text2\ncat,dog\nsun,moon\n"
    file.write_text(f"{good},dog\ncat,\n")
    assert main(["score", str(file), *small, "--drop"]) == 0
    assert len(pd.read_csv(out / "dropped.csv")) == 2
    assert main(["score", str(file), *small, "--drop", "--seed", "1"]) == 2  # refused
    file.write_text("text1,text2\ncat,dog\n")
    assert main(["score", str(file), *small]) == 2  # other pairs, refused
    assert len(pd.read_csv(out / "dropped.csv")) == 2
    file.write_text(good)
    assert main(["score", str(file), *small]) == 0
    assert not (out / "dropped.csv").exists()
    (out / "dropped.csv").write_text("mine")
    assert main(["score", str(file), *small]) == 2
    assert (out / "dropped.csv").read_text() == "mine"


def test_evaluation_against_a_run_compares_texts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--steps", "2", "--draws", "1"]
    rows = [("cat", "dog", 1.0), ("sun", "moon", 2.0), ("car", "tree", 0.0)]
    for name, table in (("a", rows), ("b", rows[::-1])):
        file = tmp_path / f"{name}.csv"
        pd.DataFrame(table, columns=["text1", "text2", "score"]).to_csv(file, index=False)
    assert main(["score", str(tmp_path / "a.csv"), "--out", str(tmp_path / "run"), *small]) == 0
    against = ["--out", str(tmp_path / "runs"), "--against", str(tmp_path / "run"), *small]
    assert main(["evaluate", str(tmp_path / "b.csv"), *against]) == 2
    assert not list((tmp_path / "runs").glob("*/shards"))
    said = capsys.readouterr().err
    assert "(row 0 is ['row-000001', 'cat', 'dog'] there, and" in said
    assert "give --against a run of the same pairs" in said
    assert main(["evaluate", str(tmp_path / "a.csv"), *against]) == 0
    pd.DataFrame([*rows, *rows], columns=["text1", "text2", "score"]).to_csv(tmp_path / "c.csv")
    assert main(["evaluate", str(tmp_path / "c.csv"), *against]) == 2
    assert "(3 and not 6)" in (said := capsys.readouterr().err) and "give --against" in said


def test_a_run_json_that_lacks_a_key(tmp_path: Path) -> None:
    score(tmp_path / "run")
    file = tmp_path / "run" / "run.json"
    record = json.loads(file.read_text())
    for key in ("block", "settings", "timesteps"):
        file.write_text(json.dumps({k: v for k, v in record.items() if k != key}))
        with pytest.raises(ValueError, match=f"lacks {key}"):
            runs.open_run(tmp_path / "run")
    file.write_text(json.dumps(record | {"timesteps": record["timesteps"][::-1]}))
    with pytest.raises(ValueError, match="damaged, or was changed"):
        runs.open_run(tmp_path / "run")
    file.write_text("[1]")
    with pytest.raises(ValueError, match="no record of a run"):
        runs.open_run(tmp_path / "run")


def test_a_shard_that_goes_while_the_run_is_written(tmp_path: Path) -> None:
    process, whole = toy(), score(tmp_path / "whole")
    predict, first = process.predict, tmp_path / "run/shards/draw-0000-block-00000.parquet"

    def thief(x: Tensor, t: Tensor, m: Tensor) -> Tensor:
        first.unlink(missing_ok=True)
        return predict(x, t, m)

    process.predict = thief
    with pytest.raises(OSError, match="2 of 3 draws are whole; start the same command again"):
        score(tmp_path / "run", process)
    np.testing.assert_array_equal(score(tmp_path / "run").terms.squares, whole.terms.squares)


def test_a_huge_batch_size_is_cut_to_the_work(tmp_path: Path) -> None:
    process, sizes = toy(), []
    predict = process.predict

    def look(x: Tensor, t: Tensor, m: Tensor) -> Tensor:
        sizes.append(len(x))
        return predict(x, t, m)

    process.predict = look
    settings: dict[str, Any] = {"draws": 1, "steps": 5, "report": lambda _: None}
    runs.score(process, PAIRS[:5], tmp_path / "run", batch_size=10**6, **settings)
    assert max(sizes) <= 5 * 2 * 5


@pytest.mark.skipif(not Path("/proc/meminfo").is_file(), reason="the system does not say")
def test_memory_that_is_not_there_is_refused_before_it_is_used(tmp_path: Path) -> None:
    """On a CPU Linux lends it, and kills who uses it; the batch is halved instead."""
    whole, process = score(tmp_path / "whole"), toy()
    predict = process.predict

    def hungry(x: Tensor, t: Tensor, m: Tensor) -> Tensor:
        known = Path("/proc/meminfo").read_text().split()
        if len(x) > 8:
            torch.empty(1024 * int(known[known.index("MemAvailable:") + 1]), dtype=torch.uint8)
        return predict(x, t, m)

    process.predict = hungry
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run = score(tmp_path / "run", process, batch_size=64)
    assert [str(w.message).split()[-1] for w in said] == ["32", "16", "8"]
    np.testing.assert_allclose(run.terms.squares, whole.terms.squares, rtol=1e-4)


def test_a_cut_off_write_leaves_no_trace(tmp_path: Path) -> None:
    whole = score(tmp_path / "run")
    (tmp_path / "run" / "shards" / "draw-0002-block-00004.parquet").unlink()
    partial = tmp_path / "run" / "shards" / "draw-0002-block-00004.parquet.7.partial"
    partial.write_bytes(b"PAR1 half of it")
    assert runs.open_run(tmp_path / "run").record["draws"] == 2  # the third is not whole
    np.testing.assert_array_equal(score(tmp_path / "run").terms.squares, whole.terms.squares)
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
    np.testing.assert_array_equal(score(tmp_path / "run").terms.squares, whole.terms.squares)


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
    np.testing.assert_allclose(run.terms.squares, whole.terms.squares, rtol=1e-4)


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
    with pytest.raises(ValueError, match="the noise prediction at timestep 801 .* is not finite"):
        score(tmp_path / "run", process)


def test_texts_that_are_cut_are_counted(tmp_path: Path, process: cj.GenerativeProcess) -> None:
    rows = [("a", "cat " * 40, "dog"), ("b", "cat " * 40, "sun " * 50), ("c", "sun", "dog")]
    pairs = pd.DataFrame(rows, columns=["id", "text1", "text2"])
    settings = {"draws": 2, "steps": 2, "block": 2, "report": lambda _: None}
    with pytest.warns(UserWarning, match="2 texts are not read whole by emoji-diffusion") as caught:
        run = runs.score(process, pairs, tmp_path / "run", **settings)
    assert len(caught) == 1 and run.record["texts_not_read_whole"] == 2


def test_more_draws_than_memory_holds_are_refused_before_the_work(tmp_path: Path) -> None:
    for draws in (10**12, 10**40):
        with pytest.raises(MemoryError, match=r"a run of 45 pairs with \d+ draws in .* are free"):
            score(tmp_path / "run", draws=draws)
    assert not (tmp_path / "run").exists()


def test_a_step_that_starts_from_nothing_is_refused(
    tmp_path: Path, process: cj.GenerativeProcess
) -> None:
    """As everywhere else: at t = 1 there is no noise, and x_T is nothing but noise."""
    said = "steps=1 visits timestep 1 of 1000 alone"
    with pytest.raises(ValueError, match=said):
        runs.score(process, PAIRS, tmp_path / "run", steps=1, report=lambda _: None)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match=said):
        PairScorer(loader=lambda *_, **__: process, steps=1)(PAIRS)
    last = runs.score(
        process, PAIRS, tmp_path / "run", steps=1, spacing="trailing", report=lambda _: None
    )
    assert last.terms.timesteps.tolist() == [999]


def test_bad_pairs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lack the column text2"):
        runs.score(toy(), PAIRS[["id", "text1"]], tmp_path / "run")
    with pytest.raises(ValueError, match="'p01' stands twice"):
        runs.score(toy(), pd.concat([PAIRS, PAIRS.iloc[[1]]]), tmp_path / "run")
    with pytest.raises(ValueError, match="no pairs"):
        runs.score(toy(), PAIRS.iloc[:0], tmp_path / "run")
    with pytest.raises(ValueError, match="row 1 of the pairs has no id"):
        ids = [None if i == 1 else i for i in PAIRS["id"].index]
        runs.score(toy(), PAIRS.assign(id=ids), tmp_path / "run")
    with pytest.raises(ValueError, match="of mixed or unusual types"):
        ids = [i if i % 2 else str(i) for i in PAIRS["id"].index]
        runs.score(toy(), PAIRS.assign(id=pd.Series(ids, dtype=object)), tmp_path / "run")
    for name in ("block", "draws", "steps", "seed", "batch_size"):
        for value in (2.5, True, "3"):
            with pytest.raises(TypeError, match=f"{name} must be a whole number, not {value!r}"):
                score(tmp_path / "run", **{name: value})
        with pytest.raises(ValueError, match=f"{name} must be at least"):
            score(tmp_path / "run", **{name: -1})
    assert not (tmp_path / "run").exists()
    for text, why in ((" ", "is blank"), (None, "is no text")):
        with pytest.raises(ValueError, match=f"text2 of the pair 'p02' {why}"):
            bad = PAIRS.assign(text2=[text if i == 2 else t for i, t in enumerate(PAIRS["text2"])])
            runs.score(toy(), bad, tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="holds no run"):
        runs.open_run(tmp_path / "elsewhere")
    score(tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        runs.open_run(tmp_path / "run")


TABLES: dict[str, tuple[Any, type[Exception], str]] = {
    "a dict": ({"id": [1]}, TypeError, "must be a DataFrame .* not dict"),
    "a list": ([("cat", "dog")], TypeError, "must be a DataFrame .* not list"),
    "nothing": (None, TypeError, "must be a DataFrame .* not NoneType"),
    "mixed": (PAIRS.assign(more=[1, "a", *[2.0] * 43]), ValueError, "(?s)more.* of one kind"),
    "objects": (PAIRS.assign(more=[object()] * 45), ValueError, "(?s)more.* of one kind"),
} | {
    f"two {n}": (PAIRS.assign(other="x").rename(columns={"other": n}), ValueError, f"called '{n}'")
    for n in ("id", "text1")
}
NAMES = ("read1", "lost1", "read2", "lost2", "same_tokens", "distance", "stderr")


@pytest.mark.parametrize("table", TABLES)
def test_tables_that_a_run_cannot_keep(tmp_path: Path, table: str) -> None:
    pairs, kind, message = TABLES[table]
    with pytest.raises(kind, match=message):
        runs.score(toy(), pairs, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", NAMES)
def test_columns_of_the_input_are_never_replaced(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("conjure_lib.load", lambda *_, **__: pytest.fail("loaded"))
    table = PAIRS.assign(score=1.0, **{name: "mine"})
    with pytest.raises(ValueError, match=f"a column {name}, which a run writes itself: rename"):
        runs.score(toy(), table, tmp_path / "run")
    table.to_csv(tmp_path / "p.csv", index=False)
    for command in ("score", "evaluate"):
        assert main([command, str(tmp_path / "p.csv"), "--out", str(tmp_path / "run")]) == 2
        assert f"a column {name}, which a run writes" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changed", "kind", "message"),
    [
        ({"note": {"a": object()}}, TypeError, "note must hold what JSON can"),
        ({"note": "sampled"}, TypeError, "note must be a dict, not str"),
        ({"report": None}, TypeError, "report must be a function of a text, not None"),
        ({"sampler": "magic"}, ValueError, "magic"),
    ],
)
def test_other_arguments_are_checked_before_there_is_a_folder(
    tmp_path: Path, changed: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        score(tmp_path / "run", **changed)
    assert not (tmp_path / "run").exists()


def test_provenance(tmp_path: Path, process: cj.GenerativeProcess) -> None:
    record = score(tmp_path / "run").record
    assert record["settings"]["sampler"] == "ddim" and record["settings"]["dtype"] == "float32"
    assert record["devices"] == ["cpu"] and record["seconds"] >= 0
    versions = record["provenance"]["versions"]
    assert versions["torch"] == torch.__version__ and "diffusers" in versions
    weights = weights_hash(process)
    name, weight = next(iter(process.modules["unet"].named_parameters()))
    before = weight.data.clone()
    weight.data[0] += 1
    assert weights_hash(process) != weights, name
    weight.data.copy_(before)
    assert weights_hash(process) == weights


def test_a_commit_is_dirty_by_sources_and_not_by_results(
    tmp_path: Path, process: cj.GenerativeProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record that was made a moment ago has changed no code of the next one."""
    for name in ("conjure_tools/runs.py", "data/results/words.json", "data/model.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for told in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *told], check=True)
    monkeypatch.setattr(runs, "__file__", str(tmp_path / "conjure_tools" / "runs.py"))
    clean = runs.provenance(process)["commit"]
    assert re.fullmatch("[0-9a-f]{12}", clean)
    (tmp_path / "data" / "results" / "words.json").write_text("2")
    assert runs.provenance(process)["commit"] == clean
    (tmp_path / "data" / "model.json").write_text("2")
    assert runs.provenance(process)["commit"] == f"{clean}-dirty"


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
    for wrong in ({"count": 1.5}, {"count": True}, {"count": 5, "seed": 0.5}):
        with pytest.raises(TypeError, match=r"(count|seed) must be a whole number, not"):
            runs.stratified(table, **wrong)


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
