"""What is changed in an executed chapter before it becomes a page.

A reader sees each parameter once, with the value that was used and without what forms of Colab
read; and a page that another profile than the published one has made says so at its top.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import nbformat

PUBLISHED = "full"
FORM = r"(?:\{.*?\}|\[.*?\](?: \{.*?\})?)"  # what Colab reads
LINE = re.compile(rf"(\w+): .+? = (.+?)  # @param {FORM}(?: # (.+))?")
WIDE = 76  # characters of a line of code that a page shows without scrolling


def tidy(notebook: Any, profile: Path) -> Any:
    """The executed ``notebook`` (from nbformat) as a reader is to see it, changed in place."""
    used: dict[str, str] = {}
    for cell in [c for c in notebook.cells if _tagged(c, "injected-parameters")]:
        for node in ast.parse(cell.source).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                used[node.targets[0].id] = ast.unparse(node.value)
        notebook.cells.remove(cell)
    for cell in notebook.cells:
        if _tagged(cell, "parameters"):
            cell.source = parameters(cell.source, used)
    if profile.stem != PUBLISHED:
        notebook.cells.insert(1, banner(profile))
    return notebook


def parameters(source: str, used: dict[str, str]) -> str:
    """A parameters cell with the values that were used, one a line, and what each is for."""
    lines = []
    for line in source.splitlines():
        if (found := LINE.fullmatch(line)) is None:
            if not line.startswith("# fmt:"):
                lines.append(line)
            continue
        name, value, purpose = found.groups()
        assignment = f"{name} = {used.get(name, value)}"
        whole = f"{assignment}  # {purpose}" if purpose else assignment
        lines += [whole] if len(whole) <= WIDE else [f"# {purpose}:", assignment]
    return "\n".join(lines)


def banner(profile: Path) -> Any:
    """A cell that says which profile made the page, in the words at the head of its file."""
    head = []
    for line in profile.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        head.append(line.lstrip("# "))
    text = f"This page was made with the profile `{profile.stem}`. {' '.join(head)}"
    return nbformat.v4.new_markdown_cell(f"```{{warning}}\n{text}\n```")


def _tagged(cell: Any, tag: str) -> bool:
    return tag in cell.metadata.get("tags", ())
