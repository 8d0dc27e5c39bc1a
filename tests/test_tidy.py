"""A chapter as it becomes a page: each parameter once, and a banner on a smaller build."""

from __future__ import annotations

import ast
from pathlib import Path

import nbformat
import pytest
from execute import chapters, declared_parameters
from tidy import parameters, tidy

ROOT = Path(__file__).parent.parent
CHAPTERS = chapters(ROOT / "notebooks")


def assigned(source: str) -> dict[str, object]:
    """What a cell of plain assignments gives its names."""
    return {
        node.targets[0].id: ast.literal_eval(node.value)  # type: ignore[attr-defined]
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign)
    }


@pytest.mark.parametrize("notebook", CHAPTERS, ids=lambda path: path.stem)
def test_every_parameter_of_every_chapter_stands_once(notebook: Path) -> None:
    page = nbformat.read(notebook, 4)
    declared = declared_parameters(notebook)
    changed = next(iter(declared))
    cell = nbformat.v4.new_code_cell(
        f"# Parameters\n{changed} = 'x'", metadata={"tags": ["injected-parameters"]}
    )
    page.cells.insert(3, cell)
    tidy(page, ROOT / "notebooks/profiles/full.yaml")
    (shown,) = [c for c in page.cells if "parameters" in c.metadata.get("tags", ())]
    assert assigned(shown.source) == declared | {changed: "x"}
    assert "@param" not in shown.source and "injected" not in str(page.cells)


def test_a_quick_build_says_so_and_the_published_one_does_not() -> None:
    for name, expected in (("ci", True), ("book", True), ("full", False)):
        page = tidy(nbformat.read(CHAPTERS[0], 4), ROOT / f"notebooks/profiles/{name}.yaml")
        assert (f"the profile `{name}`" in page.cells[1].source) is expected
        assert page.cells[0].source.startswith("# ")  # the title stays first


def test_what_a_parameter_is_for_stays_in_sight() -> None:
    long = 'X: int = 1  # @param {type:"integer"} # ' + "a long purpose " * 6
    assert max(map(len, parameters(long.strip(), {"X": "22"}).splitlines()[1:])) < 10
    assert parameters('Y: str = "a"  # @param ["a", "b"]', {}) == 'Y = "a"'
