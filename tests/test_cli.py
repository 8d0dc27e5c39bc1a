"""The command line: the same numbers as the library, one line and code 2 for what is not usable."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy.stats import pearsonr, spearmanr

import conjure_lib as cj
from conjure_tools.cli import _prepare_figure, main
from conjure_tools.fingerprints import weights_hash
from conjure_tools.loading import QUANTISER
from conjure_tools.runs import open_run

PAIR = ("snow leopard", "bengal tiger")
SMALL = ("--steps", "2", "--draws", "2", "--device", "cpu")
KEYS = {
    "distance", "stderr", "unit", "steps", "draws", "weighting", "guidance", "model", "seed",
    "unet_evaluations", "seconds",
}  # fmt: skip
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in this interpreter: exit code, standard output, standard error."""

    def call(*arguments: str) -> tuple[int, str, str]:
        with warnings.catch_warnings():  # as in a shell: shown, and not errors as in tests
            warnings.simplefilter("default")
            try:
                code = main(list(arguments))
            except SystemExit as stop:  # argparse
                code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return call


def test_json_holds_what_the_library_computes(run: Run, process: cj.GenerativeProcess) -> None:
    options = ("--guidance", "2", "--sampler", "ddpm", "--seed", "3", "--weighting", "score")
    code, out, err = run("compare", *PAIR, *SMALL, *options, "--json")
    assert code == 0, err
    record = json.loads(out)
    settings = {"steps": 2, "draws": 2, "guidance": 2.0, "seed": 3, "weighting": "score"}
    estimate = cj.distance(process, *PAIR, sampler="ddpm", **settings)
    assert KEYS <= record.keys()
    assert record["distance"] == pytest.approx(estimate.value, rel=1e-6)
    assert record["stderr"] == pytest.approx(estimate.stderr, rel=1e-6)
    assert {k: record[k] for k in settings} == settings
    assert record["model"] == "emoji-diffusion" and record["unit"] is None
    assert record["unet_evaluations"] == 2 * 2 * (2 * 2 + 2)  # with guidance, one pair
    assert record["seconds"] >= 0


def test_options_of_the_model_reach_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load(model: str, **how: Any) -> None:
        asked.append((model, how))
        raise ValueError("that will do")

    monkeypatch.setattr("conjure_lib.load", load)
    code, _, err = run(
        "compare", *PAIR, "--model", "sd.safetensors", "--config", "sd", "--dtype", "float16",
        "--text-dtype", "auto", "--revision", "abc", "--variant", "fp16", "--device-map", "auto",
        "--height", "64", "--width", "32", "--negative-prompt", "a dog", "--long-prompts",
        "--sampler", "own", "--guidance", "2", "--quantization", QUANTISER,
    )  # fmt: skip
    assert (code, err.strip()) == (2, "conjure_lib: that will do")
    expected: dict[str, Any] = {"config": "sd", "dtype": "float16", "text_dtype": "auto"}
    expected |= {"revision": "abc", "variant": "fp16", "device_map": "auto", "long_prompts": True}
    expected |= {"height": 64, "width": 32, "negative_prompt": "a dog"}
    expected["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    assert asked == [("sd.safetensors", expected)]
    run("compare", *PAIR)
    plain = {"dtype": "float32", "text_dtype": "float32", "long_prompts": False}
    assert asked[1] == ("emoji-diffusion", plain)


@pytest.mark.parametrize("given", ["int8", "[1]", '{"load_in_8bit": true', ""])
def test_a_quantization_is_json_of_settings(given: str, run: Run) -> None:
    code, _, err = run("compare", *PAIR, "--quantization", given)
    assert code == 2 and f"{given!r} names no settings as JSON, such as" in err


def test_defaults_are_the_librarys(run: Run, process: cj.GenerativeProcess) -> None:
    code, out, err = run("compare", *PAIR, "--json", "--device", "cpu")
    assert code == 0, err
    record, estimate = json.loads(out), cj.distance(process, *PAIR)
    assert record["distance"] == pytest.approx(estimate.value, rel=1e-6)
    assert record["unit"] == "nats" and record["weighting"] == "sde"
    assert record["unet_evaluations"] == 10 * 5 * (2 + 2)


def test_the_sentence_says_what_ran(run: Run, process: cj.GenerativeProcess) -> None:
    code, out, err = run("compare", *PAIR, *SMALL)
    assert code == 0, err
    estimate = cj.distance(process, *PAIR, steps=2, draws=2)
    said = (*PAIR, f"{estimate} nats", "2 draws of 2 steps")
    for part in (*said, "emoji-diffusion", "cpu", "16 noise predictions"):
        assert part in out


def test_one_draw_is_still_json(run: Run) -> None:
    """NaN is no JSON: without a standard error the key says null."""
    code, out, _ = run("compare", *PAIR, "--steps", "2", "--draws", "1", "--json")
    assert code == 0
    assert json.loads(out, parse_constant=pytest.fail)["stderr"] is None


def test_figure_is_drawn(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "new" / "a.png"
    code, out, err = run("compare", *PAIR, *SMALL, "--json", "--figure", str(file))
    assert code == 0, err
    assert json.loads(out)["unet_evaluations"] == 16  # the figure's own are not the distance's
    picture = plt.imread(file)
    assert min(picture.shape[:2]) > 200 and picture[..., :3].std() > 0.05


def test_a_long_prompt_is_warned_about_and_compared(run: Run) -> None:
    code, out, err = run("compare", "cat " * 40, "a dog", *SMALL, "--json")
    assert code == 0 and json.loads(out)["distance"] > 0
    # work of more than two seconds, on a busy machine, has a progress bar besides
    said = [line for line in err.splitlines() if line and not line.startswith("noise predictions")]
    assert len(said) == 1 and "last 10 are cut" in said[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", "a dog"), "the first prompt is empty"),
        (("a cat", "  "), "the second prompt is blank"),
        ((*PAIR, "--steps", "1"), "steps=1 visits timestep 1 of 1000 alone"),
        ((*PAIR, "--guidance", "0"), "for no guidance take 1"),
        ((*PAIR, "--guidance", "1e200"), "guidance must have a square"),
        ((*PAIR, "--guidance", "1e30"), "at timestep 501 for 'snow leopard' is not finite"),
        ((*PAIR, "--figure", "a.xyz"), "--figure a.xyz must end in .eps"),
        ((*PAIR, "--figure", "a"), "--figure a must end in"),
        ((*PAIR, "--figure", "/proc/nothing/a.png"), "/proc/nothing"),
        ((*PAIR, "--steps", "0"), "steps"),
        ((*PAIR, "--steps", "2000"), "2000"),
        ((*PAIR, "--draws", "0"), "draws"),
        ((*PAIR, "--guidance", "nan"), "guidance"),
        ((*PAIR, "--seed", "-1"), "seed"),
        ((*PAIR, "--model", "emoji-difusion"), "emoji-difusion"),
        ((*PAIR, "--model", "/no/such/folder"), "/no/such/folder"),
        ((*PAIR, "--device", "quantum"), "quantum"),
    ],
)
def test_what_is_not_usable_is_one_line(run: Run, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = run("compare", *SMALL, *arguments)
    assert code == 2 and out == ""
    assert len(err.splitlines()) == 1 and message in err


@pytest.mark.parametrize("arguments", [("-cat", "a dog"), ("--", "-cat", "a dog", "--steps", "2")])
def test_a_prompt_that_looks_like_an_option_says_where_it_goes(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["compare", *arguments])
    assert stop.value.code == 2
    assert "a prompt that begins with - stands last, behind --" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [("--weighting", "girsanov"), ("--sampler", "heun"), ("--steps", "many")]
)
def test_unknown_choices_are_named(run: Run, arguments: tuple[str, str]) -> None:
    code, _, err = run("compare", *PAIR, *arguments)
    assert code == 2 and arguments[1] in err and arguments[0] in err


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    rows = [("cat", "dog", 3.0), ("cat", "pizza", 0.0), ("sun", "moon", 2.0), ("car", "bus", 2.5)]
    table = pd.DataFrame(rows, columns=["text1", "text2", "score"])
    table["subset"] = list("aabb")
    table.to_csv(tmp_path / "pairs.csv", index=False)
    return tmp_path / "pairs.csv"


def test_score_writes_the_distances(
    run: Run, pairs: Path, tmp_path: Path, process: cj.GenerativeProcess
) -> None:
    out = tmp_path / "run"
    code, said, err = run("score", str(pairs), "--out", str(out), *SMALL, "--weighting", "noise")
    assert code == 0, err
    assert "4 distances (weighting noise)" in said and "noise predictions, about" in err
    table = pd.read_csv(out / "distances.csv", keep_default_na=False)
    read = ["read1", "lost1", "read2", "lost2", "same_tokens"]
    assert list(table) == [
        "id",
        "text1",
        "text2",
        "distance",
        "stderr",
        "quadrature_error",
        *read,
        "score",
    ]
    assert set(table["read1"]) <= {"1 of 1", "2 of 2"} and not table["same_tokens"].any()
    pd.testing.assert_frame_equal(pd.read_parquet(out / "distances.parquet"), table)
    texts = list(zip(table["text1"], table["text2"], strict=True))
    reference = cj.distances(process, texts, steps=2, draws=2, weighting="noise")
    np.testing.assert_allclose(table["distance"], [e.value for e in reference], rtol=1e-5)
    off = [e.quadrature_error for e in reference]
    np.testing.assert_allclose(table["quadrature_error"], off, rtol=1e-4)
    record = json.loads((out / "record.json").read_text())
    assert record["settings"]["weights"] == weights_hash(process)
    assert {"sampler", "steps", "guidance", "seed", "dtype"} <= record["settings"].keys()
    assert record["unet_evaluations"] == 2 * 2 * (7 + 2 * 4)
    code, said, err = run("score", str(pairs), "--out", str(out), *SMALL, "--seed", "4")
    assert code == 2 and "seed 0, and this one has 4" in err


def test_evaluate_prints_and_stores_the_agreement(run: Run, pairs: Path, tmp_path: Path) -> None:
    options = (*SMALL, "--out", str(tmp_path / "runs"))
    code, said, err = run("evaluate", str(pairs), *options)
    assert code == 0, err
    folder = next((tmp_path / "runs").iterdir())
    rows = json.loads((folder / "evaluation.json").read_text())["agreement"]
    distances = open_run(folder).distances("noise")["distance"]
    whole = next(r for r in rows if r["weighting"] == "noise" and not r["group"])
    human = pd.read_csv(pairs)["score"]
    assert whole["spearman"] == pytest.approx(spearmanr(-distances, human).statistic)
    assert whole["pearson"] == pytest.approx(pearsonr(-distances, human).statistic)
    assert f" {100 * whole['spearman']:.1f} " in said and "noise" in said
    code, said, err = run("evaluate", str(pairs), *options, "--json", "--against", str(folder))
    assert code == 0, err
    rows = json.loads(said, parse_constant=pytest.fail)[0]["agreement"]  # no NaN
    differences = [r for r in rows if r.get("against")]
    assert [r["value"] for r in differences] == [0, 0, 0]  # a run against itself


def test_samples_are_stratified_and_recorded(run: Run, pairs: Path, tmp_path: Path) -> None:
    options = (*SMALL, "--out", str(tmp_path / "run"), "--limit", "2")
    code, _, err = run("score", str(pairs), *options)
    assert code == 0, err
    table = open_run(tmp_path / "run").pairs
    assert sorted(table["subset"]) == ["a", "b"]
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["note"] == {"pairs_of": 4, "limit": 2, "sample": None}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evaluate", "rg66"), "rg66"),
        (("score", "nowhere.csv", "--out", "run"), "nowhere.csv"),
        (("evaluate", "PAIRS", "--sample", "2"), "--sample"),
        (("evaluate", "PAIRS", "--limit", "-1"), "at least 1"),
        (("evaluate", "PAIRS", "--limit", "0"), "at least 1"),
        (("evaluate", "PAIRS", "PAIRS"), "two benchmarks are called pairs"),
        (("evaluate", "PAIRS", "--against", "nowhere"), "nowhere holds no run"),
        (("evaluate", "PAIRS", "--limit", "2"), "has 2 pairs to score: a correlation needs 3"),
        (("evaluate", "PAIRS", "--batch-size", "0"), "batch_size must be at least 1, not 0"),
        (("score", "PAIRS", "--out", "run", "--block", "0"), "--block must be at least 1, not 0"),
        (("score", "PAIRS", "--out", "run", "--steps", "1"), "steps=1 visits timestep 1"),
    ],
)
def test_runs_that_are_not_usable_are_one_line(
    run: Run,
    pairs: Path,
    arguments: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(pairs.parent)
    filled = [str(pairs) if a == "PAIRS" else a for a in arguments]
    code, out, err = run(filled[0], *SMALL, *filled[1:])
    assert code == 2 and out == ""
    assert len(err.splitlines()) == 1 and message in err


def test_the_module_runs_from_a_shell() -> None:
    command = [sys.executable, "-m", "conjure_lib", "compare"]
    done = subprocess.run(
        [*command, *PAIR, *SMALL, "--json"], capture_output=True, text=True, check=True
    )
    assert KEYS <= json.loads(done.stdout).keys()
    failed = subprocess.run([*command, "a cat", " "], capture_output=True, text=True, check=False)
    assert failed.returncode == 2 and failed.stdout == ""
    assert failed.stderr.splitlines() == [
        "conjure_lib: the second prompt is blank: write some text"
    ]


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is no signal there")
@pytest.mark.parametrize("reached", ["numpy", "torch", "noise predictions"])
def test_ctrl_c_at_any_moment_is_one_line(reached: str) -> None:
    """While the libraries are imported, and while predictions are made."""
    command = [sys.executable, "-X", "importtime", "-m", "conjure_lib", "compare", *PAIR]
    command += ["--draws", "3000"]
    pipe = subprocess.PIPE
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # ignored in the background
    with subprocess.Popen(
        command, stdout=pipe, stderr=pipe, encoding="utf-8", preexec_fn=heard
    ) as program:
        assert program.stderr is not None
        for line in program.stderr:
            if line.split("|")[-1].strip() == reached or line.startswith(f"{reached}:"):
                break
        program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=300)
    assert (program.returncode, out) == (130, ""), err
    skipped = ("import time", reached)
    said = [line for line in err.splitlines() if line and not line.startswith(skipped)]
    assert len(said) == 1 and said[0].startswith("conjure_lib: stopped"), err


@pytest.mark.parametrize("place", ["/dev/null/x.png", "/proc/x.png"])
def test_a_figure_that_cannot_be_written_is_refused_before_any_work(
    run: Run, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    if not Path("/proc/self").exists():
        pytest.skip("there is no /proc here")
    monkeypatch.setattr("conjure_lib.load", lambda *_, **__: pytest.fail("work was begun"))
    code, out, err = run("compare", *PAIR, "--figure", place)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert f"--figure {place} cannot be written: choose another place" in err
    assert "Errno" not in err


def test_trying_a_figure_leaves_no_file(tmp_path: Path) -> None:
    _prepare_figure(tmp_path / "new" / "a.png")
    assert not any((tmp_path / "new").iterdir())
    (tmp_path / "old.png").write_bytes(b"kept")
    _prepare_figure(tmp_path / "old.png")
    assert (tmp_path / "old.png").read_bytes() == b"kept"


def test_everything_that_can_be_is_checked_before_the_model_is_loaded(
    run: Run, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("conjure_lib.load", lambda *_, **__: pytest.fail("loaded"))
    table, out = str(pairs), ("--out", str(tmp_path / "run"))
    for arguments in (
        ("compare", "", "a dog"), ("compare", *PAIR, "--guidance", "0"),
        ("compare", *PAIR, "--draws", "0"), ("compare", *PAIR, "--seed", "-1"),
        ("compare", *PAIR, "--steps", "0"), ("compare", *PAIR, "--figure", "a.xyz"),
        ("score", table, *out, "--block", "0"), ("score", table, *out, "--batch-size", "-1"),
        ("evaluate", table, *out, "--limit", "2"), ("evaluate", table, *out, "--sample", "nan"),
        ("compare", *PAIR, "--negative-prompt", "a dog"),
    ):  # fmt: skip
        code, said, err = run(*arguments)
        assert (code, said, len(err.splitlines())) == (2, "", 1), (arguments, err)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("scheduler", "fits", "not_"),
    [
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "euler", "ddim"),
        ({"_class_name": "DPMSolverMultistepScheduler", "prediction_type": "flow_prediction"},
         "own", "dpm++2m"),
        ({"_class_name": "PNDMScheduler"}, "euler-ancestral", None),
    ],
)  # fmt: skip
def test_a_sampler_that_a_folder_cannot_have_is_refused_before_loading(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheduler: dict[str, str],
    fits: str, not_: str | None,
) -> None:  # fmt: skip
    def load(*_: Any, **__: Any) -> None:
        raise ValueError("it was loaded")

    monkeypatch.setattr("conjure_lib.load", load)
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    command = ("compare", *PAIR, "--model", str(tmp_path), "--sampler")
    assert run(*command, fits)[2].strip() == "conjure_lib: it was loaded"
    if not_:
        code, _, err = run(*command, not_)
        assert code == 2 and f"{tmp_path} must be one of euler, own, not '{not_}'" in err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "stopped"),
        (MemoryError(), 1, "out of memory: take fewer --draws"),
        (RuntimeError("CUDA out of memory.\nTried to"), 1, "smaller --batch-size (CUDA out of"),
        (RuntimeError("a cable\nis loose"), 1, "RuntimeError: a cable is loose"),
        (KeyError("unet"), 1, "KeyError: 'unet'"),
        (AssertionError(), 1, "AssertionError: no more is known"),
        (ValueError("of two\nlines"), 2, "of two lines"),
        (OSError("the disk is full"), 2, "the disk is full"),
    ],
)
def test_no_traceback_whatever_happens(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, said: str
) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("conjure_lib.load", load)
    found, out, err = run("compare", *PAIR, "--json")
    assert found == code and out == ""
    assert len(err.splitlines()) == 1 and said in err and "Traceback" not in err


def test_a_figure_that_fails_loses_no_number(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(*_: Any, **__: Any) -> None:
        raise RuntimeError("no font")

    monkeypatch.setattr("conjure_tools.plots.pair_figure", draw)
    figure = ("--figure", str(tmp_path / "a.png"))
    code, out, err = run("compare", *PAIR, *SMALL, "--json", *figure)
    assert code == 1 and json.loads(out)["distance"] > 0
    assert err.splitlines()[-1] == "conjure_lib: RuntimeError: no font"


def test_a_terminal_without_the_characters_loses_no_number(
    monkeypatch: pytest.MonkeyPatch, process: cj.GenerativeProcess
) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr("conjure_lib.load", lambda *_, **__: process)
    assert main(["compare", *PAIR, *SMALL]) == 0
    stream.seek(0)
    assert "\\u201csnow leopard\\u201d" in stream.read()


def test_a_distance_near_the_floor_says_so(
    run: Run,
    pairs: Path,
    tmp_path: Path,
    process: cj.GenerativeProcess,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of two texts that differ in case alone, which the embedded model does not read; without its
    readers nothing knows that they are the same tokens."""
    blind = replace(process, readers=())
    monkeypatch.setattr("conjure_lib.load", lambda *_, **__: blind)
    code, out, err = run("compare", "cat", "Cat", *SMALL, "--json")
    record = json.loads(out)
    assert code == 0 and record["distance"] < 10 * record["floor"]
    assert "rounding alone makes" in err and "not told from 0" in err
    assert json.loads(run("compare", *PAIR, *SMALL, "--json")[1])["floor"] is None
    pairs.write_text("text1,text2,score\ncat,Cat,3\ncat,dog,2\ncar,bus,1\n")
    code, out, err = run("score", str(pairs), *SMALL, "--out", str(tmp_path / "run"))
    assert code == 0 and "1 distances (weighting sde) are near the floor of rounding" in err


def test_few_pairs_have_no_interval(run: Run, pairs: Path, tmp_path: Path) -> None:
    code, out, err = run("evaluate", str(pairs), *SMALL, "--out", str(tmp_path), "--limit", "3")
    assert code == 0, err
    rows = [line for line in out.splitlines() if line.startswith("all")]
    assert len(rows) == 3 and all(row.endswith("  3") for row in rows)
    assert "[" not in "".join(rows) and "nan" not in "".join(rows)
