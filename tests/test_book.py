"""The runner of the chapters, the build of the book, and what is kept in the repository of both."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import build_book
import execute
import nbformat
import papermill
import pytest
import torch
import yaml
from execute import ROOT, ChapterError

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
    with pytest.raises(ChapterError, match=r"01_a\.ipynb: a parameter reads"):
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
    monkeypatch.setenv("CONJURE_DATA", str(tmp_path))
    assert tmp_path in execute.watched_paths()
    assert all(path.exists() for path in execute.watched_paths())


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
    shutil.copytree(ROOT / "conjure_lib", tmp_path / "lib" / "conjure_lib")
    where["PYTHONPATH"] = str(tmp_path / "lib")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=where, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


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
        "01_a": {"seconds": 10.2, "peak_mib": 512.4, **common},
        "02_b": {"seconds": 20.1, "peak_mib": 600.0, **common},
    }
    table = build_book.cost_table(records, "ci")
    assert "| [](../notebooks/01_a.ipynb) | 10 | 512 |" in table
    assert "| together | 30 | |" in table
    assert table.count("torch 2") == 1


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
