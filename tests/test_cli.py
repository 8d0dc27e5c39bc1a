"""The command line: the same numbers as the library, one line and code 2 for what is not usable."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

import conjure_lib as cj
from conjure_lib.__main__ import main

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
    said = (*PAIR, f"{estimate.value:.4g} ± {estimate.stderr:.2g} nats", "2 draws of 2 steps")
    for part in (*said, "emoji-diffusion", "cpu", "16 noise predictions"):
        assert part in out


def test_one_draw_is_still_json(run: Run) -> None:
    """NaN is no JSON: without a standard error the key says null."""
    code, out, _ = run("compare", *PAIR, "--steps", "1", "--draws", "1", "--json")
    assert code == 0
    assert json.loads(out, parse_constant=pytest.fail)["stderr"] is None


def test_figure_is_drawn(run: Run, tmp_path: Path) -> None:
    code, out, err = run("compare", *PAIR, *SMALL, "--json", "--figure", str(tmp_path / "a.png"))
    assert code == 0, err
    assert json.loads(out)["unet_evaluations"] == 16  # the figure's own are not the distance's
    picture = plt.imread(tmp_path / "a.png")
    assert min(picture.shape[:2]) > 200 and picture[..., :3].std() > 0.05


def test_a_long_prompt_is_warned_about_and_compared(run: Run) -> None:
    code, out, err = run("compare", "cat " * 40, "a dog", *SMALL, "--json")
    assert code == 0 and json.loads(out)["distance"] > 0
    assert len(err.splitlines()) == 1 and "last 10 are cut" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", "a dog"), "empty"),
        (("a cat", "  "), "blank"),
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


@pytest.mark.parametrize(
    "arguments", [("--weighting", "girsanov"), ("--sampler", "euler"), ("--steps", "many")]
)
def test_unknown_choices_are_named(run: Run, arguments: tuple[str, str]) -> None:
    code, _, err = run("compare", *PAIR, *arguments)
    assert code == 2 and arguments[1] in err and arguments[0] in err


def test_the_module_runs_from_a_shell() -> None:
    command = [sys.executable, "-m", "conjure_lib", "compare"]
    done = subprocess.run(
        [*command, *PAIR, *SMALL, "--json"], capture_output=True, text=True, check=True
    )
    assert KEYS <= json.loads(done.stdout).keys()
    failed = subprocess.run([*command, "a cat", " "], capture_output=True, text=True, check=False)
    assert failed.returncode == 2 and failed.stdout == ""
    assert failed.stderr.splitlines() == ["conjure_lib: prompt 1 is blank: write some text"]
