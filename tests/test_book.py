"""The runner of the chapters, the build of the book, and what is kept in the repository of both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import build_book
import execute
import nbformat
import pytest
import yaml
from execute import ROOT, ChapterError

NOTEBOOKS = execute.chapters(ROOT / "notebooks")
PROFILES = sorted((ROOT / "notebooks" / "profiles").glob("*.yaml"))
HTML = ROOT / "_build" / "html"

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
