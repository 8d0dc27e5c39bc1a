"""How chapters begin and end: in prose, briefly, and with something for the reader to do."""

from __future__ import annotations

import re
from pathlib import Path

import execute
import nbformat
import pytest
from execute import ROOT

CHAPTERS = execute.chapters(ROOT / "notebooks")
ENDING = ["What to take away", "Where it fails", "Exercises", "Further reading", "Next"]


def prose(path: Path) -> str:
    """The text of a chapter, without code, tables and display formulas."""
    cells = nbformat.read(path, as_version=4).cells
    text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    text = re.sub(r"^```.*?^```|\$\$.*?\$\$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"^\|.*$", "", text, flags=re.MULTILINE)


def section(text: str, title: str) -> str:
    """What stands under a heading of the second level."""
    return re.split(r"^## ", text.split(f"\n## {title}\n")[1], flags=re.MULTILINE)[0]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_chapters_end_alike(path: Path) -> None:
    text = prose(path)
    assert re.findall(r"^## (.+)$", text, re.MULTILINE)[-len(ENDING) :] == ENDING
    assert len(re.findall(r"^- ", section(text, ENDING[0]), re.MULTILINE)) == 3
    assert len(re.findall(r"\{cite:t\}`", section(text, "Further reading"))) in (2, 3)
    assert re.search(r"\{doc\}`\w+`", section(text, "Next"))
    assert "book/notation>`" in text


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_exercise_has_a_hidden_solution_that_runs(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    asked = len(re.findall(r"^\*\*\d\.\*\*", section(prose(path), "Exercises"), re.MULTILINE))
    code = [cell for cell in cells if cell.cell_type == "code"]
    solved = [cell for cell in code if "hide-cell" in cell.metadata.get("tags", ())]
    assert 2 <= asked == len(solved) <= 4
    assert all("assert " in cell.source for cell in solved)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_chapters_are_short_enough_to_finish(path: Path) -> None:
    words = re.sub(r"\$[^$]+\$", "x", prose(path)).split()
    assert sum(bool(re.search("[A-Za-z]", word)) for word in words) <= 2200


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_numbers_of_the_takeaways_are_those_of_the_run(path: Path) -> None:
    plain = re.sub(r"\{\w+(:\w+)?\}`[^`]*`|\$[^$]*\$", "", section(prose(path), ENDING[0]))
    assert re.findall(r"\d+", plain) == []
