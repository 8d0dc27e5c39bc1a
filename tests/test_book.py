"""The runner of the chapters, the build of the book, and what is kept in the repository of both."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import build_book
import execute
import nbformat
import papermill
import psutil
import pytest
import strict
import torch
import yaml
from execute import ROOT
from strict import ChapterError

import conjure_lib as cj

NOTEBOOKS = execute.chapters(ROOT / "notebooks")
PROFILES = sorted((ROOT / "notebooks" / "profiles").glob("*.yaml"))
HTML = ROOT / "_build" / "html"

FIELDS = {int: "integer", float: "number", str: "string", bool: "boolean"}  # of Colab's forms

PARAMETERS = """\
DRAWS: int = 3  # how many
SCALE: float = 1.5
FAST: bool = False
WORDS: list[str] = ["a # b = c", "d"]  # a list
"""


def write_notebook(path: Path, *cells: str, parameters: str | None = PARAMETERS) -> Path:
    """A notebook of code cells, the first of them tagged ``parameters`` where one is wanted."""
    new = nbformat.v4.new_code_cell
    first = [] if parameters is None else [new(parameters, metadata={"tags": ["parameters"]})]
    notebook = nbformat.v4.new_notebook(cells=first + [new(cell) for cell in cells])
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


def write_profile(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path


# -- parameters and profiles ---------------------------------------------------------------


def test_chapters_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("15_z", "02_b", "100_a", "1_c"):
        write_notebook(tmp_path / f"{name}.ipynb")
    assert [path.stem for path in execute.chapters(tmp_path)] == ["1_c", "02_b", "15_z", "100_a"]


def test_declared_parameters_are_read_with_their_values(tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "01_a.ipynb")
    assert execute.declared_parameters(notebook) == {
        "DRAWS": 3,
        "SCALE": 1.5,
        "FAST": False,
        "WORDS": ["a # b = c", "d"],
    }


@pytest.mark.parametrize("line", ["DRAWS = 3", "DRAWS: int = 1 + N", "DRAWS: int", "print(1)"])
def test_parameters_are_annotated_literals(tmp_path: Path, line: str) -> None:
    notebook = write_notebook(tmp_path / "01_a.ipynb", parameters=line)
    with pytest.raises(ChapterError, match=r"01_a\.ipynb, line 1 of .*: a parameter reads"):
        execute.declared_parameters(notebook)


def test_a_chapter_has_one_parameters_cell(tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "01_a.ipynb", "1", parameters=None)
    with pytest.raises(ChapterError, match="0 cells are tagged"):
        execute.declared_parameters(notebook)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"DRAW": 3}, "has no parameter 'DRAW'; it has: DRAWS, SCALE, FAST, WORDS"),
        ({"DRAWS": "3"}, "declares DRAWS like 3; '3' does not fit"),
        ({"DRAWS": 3.0}, "declares DRAWS"),
        ({"DRAWS": True}, "declares DRAWS"),
        ({"FAST": 1}, "declares FAST"),
        ({"WORDS": "a, b"}, "declares WORDS"),
        ({"WORDS": ["a", 1]}, "declares WORDS"),
    ],
)
def test_a_profile_is_refused_for_wrong_names_and_types(
    tmp_path: Path, parameters: dict[str, Any], message: str
) -> None:
    notebook = write_notebook(tmp_path / "01_a.ipynb")
    profile = write_profile(tmp_path / "ci.yaml", {"01_a": parameters})
    with pytest.raises(ChapterError) as error:
        execute.read_profile(profile, [notebook])
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("01_a:\n  DRAWS: [1\n", "ci.yaml:3: expected ',' or ']'"),
        ("01_a:\n\tDRAWS: 1\n", "ci.yaml:2: "),
        ("01_a: {DRAWS: 1}\n---\n02_b: {}\n", "ci.yaml:2: "),
        ("- 01_a\n", "ci.yaml:1: a mapping is wanted"),
        ("false", "ci.yaml:1: a mapping is wanted"),
        ("# x\n01_a: 3\n", "ci.yaml:2: 01_a has NAME: value below it, not 3"),
        ("# x\n01_a: []\n", "ci.yaml:2: 01_a has NAME: value below it, not []"),
        (
            "01_a:\n  DRAWS: 1\n  FAST: true\n  DRAWS: 2\n",
            "ci.yaml:4: DRAWS stands here and in line 2",
        ),
        ("01_a: {DRAWS: 1}\n01_a: {}\n", "ci.yaml:2: 01_a stands here and in line 1"),
        ("01_a:\n  DRAWS: 010\n", "ci.yaml:2: 01_a declares DRAWS like 3; '010' does not fit"),
        ("01_a:\n  DRAWS: 1:30\n", "ci.yaml:2: 01_a declares DRAWS like 3; '1:30' does not fit"),
        ("01_a:\n  DRAWS: 1_000\n", "'1_000' does not fit"),
        ("01_a:\n  DRAWS: 2026-01-31\n", "'2026-01-31' does not fit"),
        ("01_a:\n  DRAWS: !!timestamp 2026-01-31\n", "ci.yaml: "),
        ("01_a:\n  DRAWS: !!int 1:30\n", "ci.yaml"),
        ("01_a:\n  DRAWS: !!python/object/apply:os.getpid []\n", "ci.yaml:2: could not determine"),
        ("01_a: &a\n  WORDS: [*a]\n", "ci.yaml"),
        ("01_a:\n  FAST: yes\n", "'yes' does not fit"),
        ("01_a:\n  SCALE: .nan\n", "'.nan' does not fit"),
        ("01_a:\n  DRAWS:\n", "ci.yaml:2: 01_a declares DRAWS like 3; None does not fit"),
        ("01_a:\n  1: 2\n", "ci.yaml:2: 01_a has no parameter 1"),
        ("01_a: {}\n1: {}\n", "ci.yaml:2: there is no chapter 1"),
        (b"01_a:\n  WORDS: [caf\xe9]\n", "ci.yaml:2: not UTF-8; save the file as UTF-8"),
        ("01_a: {}\n".encode("utf-16"), "ci.yaml:1: not UTF-8"),
        (b"01_a: \x00\n", "ci.yaml: "),
    ],
)
def test_an_unsound_profile_is_named_with_its_line(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    notebook = write_notebook(tmp_path / "01_a.ipynb")
    file = tmp_path / "ci.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ChapterError) as error:
        execute.read_profile(file, [notebook])
    assert message in str(error.value)


def test_words_of_a_profile_stay_words(tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "01_a.ipynb")
    text = "\ufeff01_a:\n  WORDS: [no, on, 010, 2026-01-31, 1:30]\n  SCALE: 1e-5\n"
    (tmp_path / "ci.yaml").write_text(text, encoding="utf-8")
    words = ["no", "on", "010", "2026-01-31", "1:30"]
    found = execute.read_profile(tmp_path / "ci.yaml", [notebook])
    assert found == {"01_a": {"WORDS": words, "SCALE": 1e-5}}


@pytest.mark.parametrize("name", ["../profiles/ci", "", "a/b", "ci.yaml", ".."])
def test_a_profile_is_a_plain_name(name: str) -> None:
    with pytest.raises(ChapterError, match="profile"):
        execute.execute_profile(name, 1, None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "01_a.ipynb:1: damaged or cut off"),
        ('{\n "cells": [\n', "01_a.ipynb:3: damaged or cut off"),
        ("[]", "01_a.ipynb:1: an object is wanted"),
        ("{}", "01_a.ipynb: no notebook of format 4: nbformat is None"),
        ('{"nbformat": 3, "nbformat_minor": 0, "worksheets": []}', "nbformat is 3"),
        ('{"nbformat": 4, "nbformat_minor": 5, "cells": 1}', "01_a.ipynb: no sound notebook"),
        (b'{\n"\xe9": 1}', "01_a.ipynb:2: not UTF-8"),
    ],
)
def test_an_unsound_notebook_is_named_with_its_line(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    file = tmp_path / "01_a.ipynb"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "ci.yaml").write_text("")
    with pytest.raises(ChapterError) as error:
        execute.read_profile(tmp_path / "ci.yaml", [file])
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("A: int = 1\nB: int = (", "line 2 of the parameters cell: '(' was never closed"),
        ("A: int = 1\nA: int = 2", "line 2 of the parameters cell: A stands twice"),
    ],
)
def test_unsound_parameters_are_named_with_their_line(
    tmp_path: Path, cell: str, message: str
) -> None:
    notebook = write_notebook(tmp_path / "01_a.ipynb", parameters=cell)
    with pytest.raises(ChapterError) as error:
        execute.declared_parameters(notebook)
    assert message in str(error.value)


def test_chapters_have_numbers(tmp_path: Path) -> None:
    with pytest.raises(ChapterError, match="there are no chapters in"):
        execute.chapters(tmp_path)
    write_notebook(tmp_path / "Untitled.ipynb")
    with pytest.raises(ChapterError, match=r"Untitled\.ipynb: the name of a chapter begins"):
        execute.chapters(tmp_path)


def test_a_profile_that_fits_is_read(tmp_path: Path) -> None:
    notebooks = [write_notebook(tmp_path / f"0{i}_a.ipynb") for i in (1, 2)]
    chosen = {"DRAWS": 1, "SCALE": 2, "WORDS": ["x"]}
    profile = write_profile(tmp_path / "ci.yaml", {"01_a": chosen})
    assert execute.read_profile(profile, notebooks) == {"01_a": chosen, "02_a": {}}


def test_a_profile_names_chapters_that_exist(tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "01_a.ipynb")
    profile = write_profile(tmp_path / "ci.yaml", {"01_b": {}})
    with pytest.raises(ChapterError, match="there is no chapter 01_b"):
        execute.read_profile(profile, [notebook])


def test_an_unknown_profile_is_answered_with_those_there_are(tmp_path: Path) -> None:
    write_profile(tmp_path / "ci.yaml", {})
    with pytest.raises(ChapterError, match="there is no profile 'cj'; there are: ci"):
        execute.read_profile(tmp_path / "cj.yaml", [])


# -- execution -----------------------------------------------------------------------------


def test_a_chapter_is_executed_once_and_again_when_something_changes(tmp_path: Path) -> None:
    notebook = write_notebook(
        tmp_path / "notebooks" / "01_a.ipynb",
        "import os, sys\nprint(DRAWS, os.environ['TQDM_DISABLE'], sys.path)",
        "print('careful', file=sys.stderr)",
        "from myst_nb import glue\nglue('answer', DRAWS * 6, display=False)",
    )
    out = tmp_path / "out"
    assert execute.execute(notebook, out, {"DRAWS": 7}, "base")
    assert not execute.execute(notebook, out, {"DRAWS": 7}, "base")

    executed = nbformat.read(out / "01_a.ipynb", as_version=4)
    printed = executed.cells[2].outputs[0].text
    assert printed.startswith("7 1 ")
    assert repr(str(ROOT)) in printed
    assert execute.written_to_stderr(out / "01_a.ipynb") == [
        "01_a.ipynb, cell [4] wrote to stderr: careful"
    ]
    record = json.loads((out / "01_a.json").read_text())
    assert record["seconds"] > 0
    assert 10 < record["peak_mib"] < 10_000

    execute.write_record(tmp_path / "all.json", [notebook], out, {"01_a": {"DRAWS": 7}})
    (written,) = json.loads((tmp_path / "all.json").read_text()).values()
    assert written["glued"] == {"answer": "42"}
    assert written["parameters"] == {"DRAWS": 7}
    assert written["torch"] == record["torch"]

    assert execute.execute(notebook, out, {"DRAWS": 7}, "another base")
    assert execute.execute(notebook, out, {"DRAWS": 8}, "another base")


def test_a_failing_cell_fails_and_is_named(tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "02_b.ipynb", "x = 1", "x / 0  # the culprit")
    out = tmp_path / "out"
    with pytest.raises(ChapterError) as error:
        execute.execute(notebook, out, {}, "base")
    message = str(error.value)
    assert "02_b.ipynb, cell [3] failed with ZeroDivisionError" in message
    assert "the culprit" in message
    assert not (out / "02_b.json").exists()  # so it is not taken for executed


def test_chapters_run_side_by_side_and_a_failure_stops_those_not_begun(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    meet = """
import os, pathlib, time
pathlib.Path("here-" + ME).touch()
until = time.monotonic() + 60
while len(list(pathlib.Path().glob("here-*"))) < 2:  # neither ends before the other has begun
    assert time.monotonic() < until, "alone"
    time.sleep(0.05)
print(os.environ["OMP_NUM_THREADS"])
"""
    pair = [
        write_notebook(tmp_path / f"0{i}_a.ipynb", meet, parameters=f"ME: str = '{i}'  # me")
        for i in (1, 2)
    ]
    out, profile = tmp_path / "out", {f"0{i}_a": {} for i in range(1, 6)}
    execute.execute_all(pair, out, profile, "base", jobs=2)
    said = capfd.readouterr().out
    assert "[2/2] 0" in said
    assert " MiB" in said
    assert all(json.loads((out / f"{path.stem}.json").read_text())["jobs"] == 2 for path in pair)

    bad = [write_notebook(tmp_path / "03_a.ipynb", "1 / 0")]
    rest = [write_notebook(tmp_path / f"0{i}_a.ipynb", "1") for i in (4, 5)]
    with pytest.raises(ChapterError, match=r"03_a\.ipynb, cell"):
        execute.execute_all(pair + bad + rest, out, profile, "base", jobs=1)
    said = capfd.readouterr().out
    assert "[1/5] 01_a.ipynb: unchanged" in said
    assert "05_a" not in said


def test_a_chapter_depends_on_the_scripts_that_it_imports(tmp_path: Path) -> None:
    notebook = write_notebook(
        tmp_path / "01_a.ipynb", "import json\nfrom rooms import one as s, other\n# import comment"
    )
    (tmp_path / "rooms" / "deep").mkdir(parents=True)
    for name, text in {
        "rooms/one": "from rooms.data import f\nif f:\n    import rooms.deep.late as soon",
        "rooms/other": "from rooms.deep import (\n    first,\n    second,\n)",
        "rooms/data": "from rooms import one",  # and back
        **dict.fromkeys(("rooms/deep/late", "rooms/deep/first", "rooms/deep/second"), ""),
        **dict.fromkeys(("comment", "rooms/comment", "rooms/unasked", "s"), ""),
    }.items():
        (tmp_path / f"{name}.py").write_text(text)
    found = [path.stem for path in execute.scripts(notebook, tmp_path)]
    assert sorted(found) == ["data", "first", "late", "one", "other", "second"]
    (notebook_7,) = (path for path in NOTEBOOKS if path.stem.startswith("07"))
    assert {"ablations", "records"} <= {path.stem for path in execute.scripts(notebook_7)}


def test_the_environment_lists_what_is_required() -> None:
    found = execute.environment()
    for name in ("python", "machine", "torch", "numpy", "ray", "sphinxcontrib-bibtex"):
        assert found[name]
    assert found["torch"] == torch.__version__


def test_the_fingerprint_sees_contents_names_and_new_files(tmp_path: Path) -> None:
    folder = tmp_path / "package"
    folder.mkdir()
    seen = [execute.fingerprint([folder])]
    for change in ("a.py", "b.py"):
        (folder / change).write_text("x = 1")
        seen.append(execute.fingerprint([folder]))
    (folder / "a.py").write_text("x = 2")
    seen.append(execute.fingerprint([folder]))
    (folder / "a.py").rename(folder / "c.py")
    seen.append(execute.fingerprint([folder]))
    assert len(set(seen)) == len(seen)
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "a.pyc").write_text("")
    assert execute.fingerprint([folder]) == seen[-1]


def test_the_data_sets_are_watched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert all(path.exists() for path in execute.watched_paths())
    notebook = write_notebook(tmp_path / "01_a.ipynb", "1")
    asked = []
    monkeypatch.setattr(execute, "is_present", lambda *given: asked.append(given[-1]) or True)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "pairs.csv").write_text(name)
        monkeypatch.setenv("CONJURE_DATA", str(tmp_path / name))
        execute.execute(notebook, tmp_path, {}, "base")
    assert asked[0]["benchmark_data"] != asked[1]["benchmark_data"]
    assert asked[0]["key"] == asked[1]["key"]
    monkeypatch.setenv("CONJURE_DATA", str(tmp_path / "none"))
    with pytest.raises(
        ChapterError, match="CONJURE_DATA names .*none, and there is no such folder"
    ):
        execute.execute(notebook, tmp_path, {}, "base")


# -- nothing passes silently, nothing is overwritten ----------------------------------------


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("import sys; sys.exit(0)", "ended with SystemExit"),
        ("import sys\ndef f(): sys.exit()\nf()", "ended with SystemExit"),
        ("raise SystemExit", "ended with SystemExit"),
        ("import sys; sys.exit(3)", "failed with SystemExit"),
        ("import os; os._exit(0)", "01_a.ipynb could not be executed: DeadKernelError"),
    ],
)
def test_a_chapter_that_ends_itself_is_a_failure(tmp_path: Path, cell: str, says: str) -> None:
    notebook = write_notebook(tmp_path / "01_a.ipynb", cell, "print('the rest')")
    with pytest.raises(ChapterError) as error:
        execute.execute(notebook, tmp_path / "out", {}, "base")
    assert says in str(error.value)
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left <= {"01_a.failed.ipynb"}  # to be looked at, and taken for nothing


def test_a_cell_that_is_left_out_is_a_failure(tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "01_a.ipynb", "1", "# a remark alone", "", "2")
    content = nbformat.read(notebook, as_version=4)
    content.cells[1].metadata["tags"] = ["skip-execution"]
    nbformat.write(content, notebook)
    with pytest.raises(ChapterError, match=r"01_a\.ipynb: its cell number 2 was not executed"):
        execute.execute(notebook, tmp_path / "out", {}, "base")
    del content.cells[1].metadata["tags"]
    nbformat.write(content, notebook)
    assert execute.execute(notebook, tmp_path / "out", {}, "base")


def test_a_copy_or_record_that_is_not_sound_is_made_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    notebook, out = write_notebook(tmp_path / "01_a.ipynb", "print(6 * 7)"), tmp_path / "out"
    assert execute.execute(notebook, out, {}, "base")
    copy, record = out / "01_a.ipynb", out / "01_a.json"
    whole = copy.read_text()

    copy.write_text(whole.replace("42", "43"))
    with pytest.raises(ChapterError, match=r"01_a\.ipynb was changed after it was executed"):
        execute.read_record(notebook, out)
    assert execute.execute(notebook, out, {}, "base")
    assert "it is executed again" in capfd.readouterr().err
    assert "42" in copy.read_text()

    record.write_text(record.read_text()[:50])
    with pytest.raises(ChapterError, match=r"01_a\.json:\d+: damaged or cut off"):
        execute.write_record(tmp_path / "all.json", [notebook], out, {"01_a": {}})
    assert not (tmp_path / "all.json").exists()
    assert execute.execute(notebook, out, {}, "base")
    assert not execute.execute(notebook, out, {}, "base")


RUNNER = """
import sys
from pathlib import Path
import execute
if __name__ == "__main__":
    out = Path(sys.argv[2])
    with execute.holding(out):
        execute.execute(Path(sys.argv[1]), out, {"ME": sys.argv[3]}, "base")
"""
SLOW = """
import os, pathlib, subprocess, time
child = subprocess.Popen(["sleep", "600"])
pathlib.Path("pids.part").write_text(f"{os.getpid()} {os.getppid()} {child.pid}")
os.rename("pids.part", "pids")
time.sleep(600 if ME == "slow" else 0)
print("by", ME)
"""


def until(done: Any, seconds: float = 120) -> bool:
    end = time.monotonic() + seconds
    while not done() and time.monotonic() < end:
        time.sleep(0.1)
    return bool(done())


def gone(pid: int) -> bool:
    """Whether a process has ended, be it that nobody has asked how."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_a_killed_runner_and_write_nothing_later(
    tmp_path: Path, how: signal.Signals
) -> None:
    notebook = write_notebook(tmp_path / "01_a.ipynb", SLOW, parameters="ME: str = 'me'  # me")
    (tmp_path / "runner.py").write_text(RUNNER)
    out, pids = tmp_path / "out", tmp_path / "pids"
    path = os.pathsep.join([str(ROOT / "book"), str(ROOT)])
    command = [sys.executable, str(tmp_path / "runner.py"), str(notebook), str(out)]
    with subprocess.Popen([*command, "slow"], env=os.environ | {"PYTHONPATH": path}) as runner:
        try:
            assert until(lambda: pids.exists() or runner.poll() is not None)
            started = [int(pid) for pid in pids.read_text().split()]
            with pytest.raises(ChapterError, match="another runner or build is at work in"):  # noqa: SIM117
                with execute.holding(out):
                    pass
        finally:
            runner.send_signal(how)
    assert until(lambda: all(gone(pid) for pid in started), 60)  # kernel, worker, the cell's own
    with execute.holding(out):  # the lock is free, and what was unfinished is cleared away
        assert {path.name for path in out.iterdir()} <= {".lock"}
        assert execute.execute(notebook, out, {"ME": "newer"}, "base")
    for pid in pids.read_text().split()[2:]:  # the cell's own, if its kernel has left it
        if not gone(int(pid)):
            os.kill(int(pid), signal.SIGKILL)
    assert "by newer" in (out / "01_a.ipynb").read_text()


def test_a_killed_worker_is_named(tmp_path: Path) -> None:
    cell = "import os, signal; os.kill(os.getppid(), signal.SIGKILL)"
    notebook = write_notebook(tmp_path / "01_a.ipynb", cell)
    with pytest.raises(ChapterError, match=r"01_a\.ipynb: its process was killed"):
        execute.execute(notebook, tmp_path / "out", {}, "base")


@pytest.mark.parametrize(
    ("place", "content", "message"),
    [
        ("nowhere/all.json", None, "there is no folder"),
        ("notes.json", '{"mine": 1}', "holds something else"),
        ("torn.json", '{"01_a": ', r"torn\.json:1: damaged or cut off"),
    ],
)
def test_a_place_for_the_record_is_checked_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, content: str | None, message: str
) -> None:
    monkeypatch.setattr(execute, "execute_all", lambda *_: pytest.fail("work was begun"))
    if content:
        (tmp_path / place).write_text(content)
    arguments = ["--profile", "ci", "--jobs", "1", "--record", str(tmp_path / place)]
    with pytest.raises(SystemExit, match=message):
        execute.main(arguments)
    assert not content or (tmp_path / place).read_text() == content


def test_a_file_is_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "record.json"
    strict.write_text(file, "old")

    def full(_: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        strict.write_text(file, "new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_chapters_side_by_side_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute, "cores", lambda: 8)
    for name in execute.threads(1):
        monkeypatch.delenv(name, raising=False)
    assert set(execute.threads(1).values()) == {"8"}
    assert set(execute.threads(3).values()) == {"2"}
    assert set(execute.threads(20).values()) == {"1"}
    assert {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"} <= set(execute.threads(2))
    for set_to, expected in {"1": "1", "64": "4", "0": "4", "4,2": "4", "": "4"}.items():
        monkeypatch.setenv("OMP_NUM_THREADS", set_to)
        assert execute.threads(2)["OMP_NUM_THREADS"] == expected


def small_root(root: Path) -> tuple[Path, Path]:
    """A repository of one chapter and one page, and the folder where the chapter is executed."""
    notebook = write_notebook(root / "notebooks" / "01_a.ipynb", "print(DRAWS)")
    for folder in ("notebooks/profiles", "book", *execute.WATCHED[:-1]):
        (root / folder).mkdir(parents=True)
    (root / "requirements.txt").write_text("")
    (root / "notebooks" / "profiles" / "ci.yaml").write_text("01_a: {DRAWS: 7}\n")
    (root / "book" / "introduction.md").write_text("# A book\n")
    base, out = execute.contents(execute.watched_paths(root)), root / "_build" / "ci"
    execute.execute(notebook, out, {"DRAWS": 7}, base)
    return notebook, out


def test_a_copy_that_is_older_than_its_chapter_is_not_published(tmp_path: Path) -> None:
    notebook, out = small_root(tmp_path)

    def copied(name: str) -> Any:
        (tmp_path / name).mkdir()
        return build_book.copy_chapters(tmp_path, out, tmp_path / name)

    assert list(copied("sound")) == ["01_a"]
    assert "7" in (tmp_path / "sound" / "notebooks" / "01_a.ipynb").read_text()
    for file, content in {
        tmp_path / "notebooks" / "profiles" / "ci.yaml": "01_a: {DRAWS: 8}\n",
        notebook: notebook.read_text().replace("print(", "print(1 + "),
        tmp_path / "conjure_lib" / "sde.py": "x = 1\n",
    }.items():
        before = file.read_text() if file.exists() else None
        file.write_text(content)
        with pytest.raises(ChapterError, match=r"01_a\.ipynb was executed before something"):
            copied(f"stale {file.stem}")
        file.unlink() if before is None else file.write_text(before)
    assert list(copied("sound again")) == ["01_a"]
    (out / "01_a.ipynb").write_text((out / "01_a.ipynb").read_text() + " ")
    with pytest.raises(ChapterError, match="was changed after it was executed"):
        copied("changed")


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        (["notebooks/01_a"], None),
        ([], "does not list notebooks/01_a, which would be left out"),
        (["notebooks/01_a", "notebooks/01_a"], "lists notebooks/01_a twice"),
        (["notebooks/01_a", "book/more"], "lists book/more, and there is no such"),
    ],
)
def test_the_contents_of_the_book_are_checked(
    tmp_path: Path, listed: list[str], message: str | None
) -> None:
    write_notebook(tmp_path / "notebooks" / "01_a.ipynb")
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "introduction.md").write_text("# A book\n")
    parts = [{"caption": "All", "chapters": [{"file": name} for name in listed]}]
    toc = {"format": "jb-book", "root": "book/introduction", "parts": parts}
    (tmp_path / "_toc.yml").write_text(yaml.safe_dump(toc))
    if message is None:
        build_book.check_contents(tmp_path)
    else:
        with pytest.raises(ChapterError, match=message):
            build_book.check_contents(tmp_path)


# -- promises ------------------------------------------------------------------------------


def broken_promises(text: str) -> list[str]:
    """What is wrong with a page of promises: tests that are not there or skipped, or none named."""
    wrong = []
    for entry in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        title, *names = [entry.splitlines()[0], *re.findall(r"`([^`]*\btest_[^`]*)`", entry)]
        wrong += [] if names else [f"{title}: no test"]
        for name in names:
            file, _, test = name.partition("::")
            path = ROOT / "tests" / file
            source = path.read_text(encoding="utf-8") if path.is_file() else ""
            found = [
                node
                for node in ast.parse(source).body
                if isinstance(node, ast.FunctionDef) and node.name == test and test[:5] == "test_"
            ]
            skipped = any("mark.skip(" in ast.unparse(d) for f in found for d in f.decorator_list)
            wrong += [] if found and not skipped else [f"{title}: there is no {name}"]
    return wrong


def test_every_promise_names_tests_that_exist() -> None:
    page = (ROOT / "book" / "promises.md").read_text(encoding="utf-8")
    assert page.count("\n## ") > 8
    assert broken_promises(page) == []


@pytest.mark.parametrize(
    ("kept_by", "wrong"),
    [
        ("`test_book.py::test_every_promise_names_tests_that_exist`", 0),
        ("`test_book.py::test_that_nobody_wrote`", 1),
        ("`test_nothing.py::test_every_promise_names_tests_that_exist`", 1),
        ("`test_every_promise_names_tests_that_exist`", 1),
        ("`test_book.py::small_root`", 1),
        ("no test at all", 1),
    ],
)
def test_a_promise_without_its_test_is_found(kept_by: str, wrong: int) -> None:
    assert len(broken_promises(f"# Page\n\n## A promise\n\nKept by {kept_by}.\n")) == wrong


# -- what is committed ---------------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.stem)
def test_every_profile_fits_the_chapters(profile: Path) -> None:
    assert set(execute.read_profile(profile, NOTEBOOKS)) == {path.stem for path in NOTEBOOKS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_chapters_are_committed_without_results(path: Path) -> None:
    raw = json.loads(path.read_text(encoding="utf-8"))
    assert (raw["nbformat"], raw["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in raw["cells"]}) == len(raw["cells"])
    for cell in raw["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_the_book_lists_every_chapter_and_page_once() -> None:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    listed = [toc["root"]] + [entry["file"] for part in toc["parts"] for entry in part["chapters"]]
    pages = [path.with_suffix("") for path in (ROOT / "book").glob("*.md")]
    pages += [path.with_suffix("") for path in NOTEBOOKS]
    assert sorted(listed) == sorted(page.relative_to(ROOT).as_posix() for page in pages)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_parameters_are_papermills_and_forms_on_colab(path: Path) -> None:
    declared = execute.declared_parameters(path)
    inspected = papermill.inspect_notebook(str(path))
    assert list(inspected) == list(declared)
    (cell,) = (
        cell
        for cell in nbformat.read(path, as_version=4).cells
        if "parameters" in cell.metadata.get("tags", ())
    )
    off, *lines = cell.source.splitlines()
    assert off == "# fmt: off"  # for the formatter would break lines
    assert len(lines) == len(declared)  # one each
    for line, (name, value) in zip(lines, declared.items(), strict=True):
        field = FIELDS.get(type(value), "raw")
        options = r"\[.*\]" if field == "string" else "(?!)"
        pattern = rf'{name}: \S.* = .*  # @param ({{type:"{field}"}}|{options})( # \S.*)?'
        assert re.fullmatch(pattern, line), line


def set_up(path: Path) -> str:
    """What a chapter does on Colab, from its first import on."""
    sources = [cell.source for cell in nbformat.read(path, as_version=4).cells]
    assert not any(re.search(r"^\s*[%!]\s*pip|sys\.path", s, re.MULTILINE) for s in sources)
    (found,) = (source for source in sources if '"google.colab" in sys.modules' in source)
    end = '    os.chdir("book/notebooks")  # so that studies/ and training/ are found\n'
    return found[: found.index(end) + len(end)]


def test_every_chapter_sets_up_colab_alike_with_this_version() -> None:
    (found,) = {set_up(path) for path in NOTEBOOKS}
    assert f'"--branch", "v{cj.__version__}"' in found
    assert "--no-deps" in found  # Colab keeps its own torch


def test_the_set_up_leaves_a_folder_in_which_chapters_find_all_they_import(tmp_path: Path) -> None:
    """A clone of this tree, by a git that is asked for by its address, and no installation."""
    (tmp_path / "bin").mkdir()
    git = f"""#!{sys.executable}
import pathlib, shutil, sys
source, target = pathlib.Path({str(ROOT)!r}), pathlib.Path(sys.argv[-1])
assert sys.argv[-2] == "https://example.org/book"
shutil.copytree(source / "notebooks", target / "notebooks", symlinks=True)
shutil.copytree(source / "training", target / "training")
"""
    (tmp_path / "bin" / "git").write_text(git)
    (tmp_path / "bin" / "git").chmod(0o755)
    code = f"""
import subprocess, sys, types
sys.modules["google.colab"] = types.ModuleType("colab")
sys.path.insert(0, "")  # as Colab's kernel has it
run = subprocess.run
subprocess.run = lambda command, **how: run(command, **how) if command[0] == "git" else None
source = {set_up(NOTEBOOKS[0])!r}
exec(source)
exec(source)  # once more changes nothing
import training
from studies import matrix, records
assert str(records.ROOT).endswith("book"), records.ROOT
"""
    path = os.pathsep.join([str(tmp_path / "bin"), os.environ["PATH"]])
    where = {"PATH": path, "CONJURE_REPOSITORY": "https://example.org/book"}
    where |= {"PYTHONPATH": str(tmp_path / "book"), "HOME": str(tmp_path)}
    for package in ("conjure_lib", "conjure_tools"):
        shutil.copytree(ROOT / package, tmp_path / "lib" / package)
    where["PYTHONPATH"] = str(tmp_path / "lib")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=where, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def code_lines(source: str) -> int:
    """Lines of code: no blank ones, no comments, no docstrings."""
    tree = ast.parse(source)
    said = [
        node.body[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node)
    ]
    gone = {i for one in said for i in range(one.lineno, (one.end_lineno or one.lineno) + 1)}
    lines = enumerate(source.splitlines(), 1)
    return sum(bool(line.strip()) and line.strip()[0] != "#" and i not in gone for i, line in lines)


def shows_an_idea(source: str) -> bool:
    """Whether a cell ends with something to see: a value, a table, a figure, a function's code.

    What gives a name to what it loads or scores, or says a sentence on that, shows none yet.
    """
    last = ast.parse(source).body[-1]
    if isinstance(last, ast.Assign):
        return ast.unparse(last.targets[0]) == "figure"
    no_idea = r"say\(|print\(f|(print\()?\w+\.description\(\)"
    return isinstance(last, ast.Expr) and not re.match(no_idea, ast.unparse(last))


@pytest.mark.parametrize(
    ("source", "shows"),
    [
        ("process = cj.load(MODEL)", False),
        ("table = read()\nprint(f'{len(table)} pairs')", False),
        ("found = opened()\nfound.description()", False),
        ("say(**facts(table))", False),
        ("for row in table:\n    print(row)", False),
        ("process = cj.load(MODEL)\nprint(cj.distance(process, 'a', 'b'))", True),
        ("process = cj.load(MODEL)\nshow_source(distance)", True),
        ("figure = plots.pair_figure(process, trace)", True),
        ("words.show_table(table)", True),
    ],
)
def test_a_cell_that_loads_or_scores_is_no_idea(source: str, shows: bool) -> None:
    assert shows_an_idea(source) == shows


def test_chapters_read_as_equation_function_and_picture() -> None:
    """No plumbing before the first idea, no long cell, and few lines in all."""
    sizes = []
    for path in NOTEBOOKS:
        cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
        lines = [code_lines(cell.source) for cell in cells]
        first = next(i for i, cell in enumerate(cells) if shows_an_idea(cell.source))
        assert sum(lines[:first]) <= 40, path.name
        assert max(lines) <= 40, path.name
        sizes.append(sum(lines))
    assert sorted(sizes)[len(sizes) // 2] <= 120
    assert max(sizes) <= 220


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_functions_are_in_the_studies(path: Path) -> None:
    """Where they have types and tests; a cell calls them, and mypy sees whether it does rightly."""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            for node in ast.walk(ast.parse(cell.source)):
                assert not isinstance(node, ast.ClassDef | ast.FunctionDef), node.name


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_line_of_the_text_is_lost_as_a_comment(path: Path) -> None:
    cells = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown"]
    prose = [re.sub(r"^```.*?^```", "", source, flags=re.DOTALL | re.MULTILINE) for source in cells]
    assert re.findall(r"^%.*", "\n".join(prose), re.MULTILINE) == []  # MyST drops such lines


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_chapters_of_the_gpu_profile_say_how_long_they_take(path: Path) -> None:
    profile = execute.read_profile(ROOT / "notebooks" / "profiles" / "gpu.yaml", NOTEBOOKS)
    title = nbformat.read(path, as_version=4).cells[0].source
    assert bool(profile[path.stem]) == ("**On a GPU" in title)


def test_actions_are_pinned_by_commit() -> None:
    folder = ROOT / ".github" / "workflows"
    used = re.findall(r"uses: (\S+)", "".join(file.read_text() for file in folder.glob("*.yml")))
    assert len(used) > 5
    for action in used:
        assert re.fullmatch(r"\./\S+\.yml|[\w./-]+@[0-9a-f]{40}", action), action


# -- the build -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://github.com/someone/book.git", "https://github.com/someone/book"),
        ("https://user:secret@github.com/someone/book", "https://github.com/someone/book"),
        ("https://gitlab.com/someone/book/", "https://gitlab.com/someone/book"),
        ("git@github.com:someone/book.git", None),
        ("/srv/git/book", None),
        ("https://example.org/someone/book", None),
        ("", None),
    ],
)
def test_repository_address(
    monkeypatch: pytest.MonkeyPatch, address: str, expected: str | None
) -> None:
    monkeypatch.setenv("CONJURE_REPOSITORY", address)
    assert build_book.repository_url() == expected


def test_buttons_need_an_address() -> None:
    config = {"html": {"favicon": "x"}, "title": "t"}
    without = build_book.effective_config(config, None)
    assert not any(value for name, value in without["html"].items() if name.startswith("use_"))
    assert without["launch_buttons"]["colab_url"] == ""
    assert without["repository"]["url"] == ""

    on_github = build_book.effective_config(config, "https://github.com/someone/book")
    assert on_github["html"]["use_repository_button"]
    assert on_github["html"]["favicon"] == "x"
    assert on_github["launch_buttons"]["colab_url"].startswith("https://colab")
    elsewhere = build_book.effective_config(config, "https://gitlab.com/someone/book")
    assert elsewhere["html"]["use_repository_button"]
    assert elsewhere["launch_buttons"]["colab_url"] == ""  # Colab opens GitHub only


def test_the_cost_table_adds_up() -> None:
    common = {"python": "3", "torch": "2", "diffusers": "0", "transformers": "5", "cores": 2}
    records = {
        "01_a": {"predictions": 1200, "seconds": 10.2, "peak_mib": 512.4, **common},
        "02_b": {"predictions": 0, "seconds": 20.1, "peak_mib": 600.0, **common},
    }
    table = build_book.cost_table(records, "ci")
    assert "| [](../notebooks/01_a.ipynb) | 1,200 | 10 | 512 |" in table
    assert "| together | 1,200 | 30 | |" in table
    assert table.count("torch 2") == 1
    assert build_book.predictions_of({"evaluations": "'1,680'"}) == 1680
    assert build_book.predictions_of({"seconds": "4.2"}) == 0


def small_book(folder: Path, text: str) -> Path:
    """A one-page book under the configuration of this one."""
    (folder / "book").mkdir(parents=True)
    (folder / "book" / "introduction.md").write_text(f"# A book\n\n$x^2$ {text}\n")
    (folder / "book" / "references.bib").write_text("")
    shutil.copytree(ROOT / "book" / "images", folder / "book" / "images")
    (folder / "_toc.yml").write_text("format: jb-book\nroot: book/introduction\n")
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    effective = build_book.effective_config(config, "https://github.com/someone/book")
    (folder / "_config.yml").write_text(yaml.safe_dump(effective))
    return folder


def test_a_sound_page_builds_and_needs_no_network(tmp_path: Path) -> None:
    html = build_book.build(small_book(tmp_path / "source", "fine"), tmp_path)
    page = (html / "book" / "introduction.html").read_text()
    assert "https://github.com/someone/book/issues" in page
    assert (html / "_static" / "mathjax" / "tex-chtml.js").is_file()
    assert list(build_book.outside_resources(html)) == []


def test_broken_references_fail_the_build(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    faults = "{doc}`nowhere` {cite:p}`nobody1900nothing` [](no.md)"
    with pytest.raises(ChapterError, match="a warning is an error"):
        build_book.build(small_book(tmp_path / "source", faults), tmp_path)
    warnings = capfd.readouterr().err
    assert "introduction.md:3" in warnings
    for name in ("nowhere", "nobody1900nothing", "no.md"):
        assert name in warnings


@pytest.mark.parametrize(
    ("page", "outside"),
    [
        ('<script src="https://cdn.example/x.js"></script>', ["https://cdn.example/x.js"]),
        ('<link rel="stylesheet" href="//cdn.example/x.css">', ["//cdn.example/x.css"]),
        ('<link rel="preload" as="font" href="http://e.x/f.woff2">', ["http://e.x/f.woff2"]),
        ('<img src="https://e.x/p.png">', ["https://e.x/p.png"]),
        ('<img srcset="a.png 1x, https://e.x/b.png 2x">', ["https://e.x/b.png"]),
        ('<iframe src="https://e.x/"></iframe>', ["https://e.x/"]),
        ("<style>@import 'https://e.x/s.css';</style>", ["https://e.x/s.css"]),
        ('<p style="background: url(https://e.x/b.png)">', ["https://e.x/b.png"]),
        ('<a href="https://e.x/">a link to follow</a>', []),
        ('<link rel="canonical" href="https://e.x/">', []),
        ('<script src="../_static/x.js"></script><img src="data:image/png;base64,AA//">', []),
        ("<p>url(https://e.x/in-text)</p>", []),
    ],
)
def test_outside_resources_of_a_page(tmp_path: Path, page: str, outside: list[str]) -> None:
    (tmp_path / "p.html").write_text(page)
    assert [address for _, address in build_book.outside_resources(tmp_path)] == outside


def test_outside_resources_of_a_style_sheet(tmp_path: Path) -> None:
    (tmp_path / "s.css").write_text(
        "/* https://e.x/licence */ @font-face { src: url('https://e.x/f.woff2'), url(f.woff2) }"
    )
    found = [address for _, address in build_book.outside_resources(tmp_path)]
    assert found == ["https://e.x/f.woff2"]


@pytest.mark.skipif(not (HTML / "index.html").exists(), reason="the book is not built here")
def test_the_built_book_needs_no_network() -> None:
    assert list(build_book.outside_resources(HTML)) == []
    assert (HTML / "_static" / "mathjax" / "tex-chtml.js").is_file()
