"""A Sphinx extension: docstrings are written for a terminal, and are made reStructuredText here.

In them a star is a star, as in (n, *latent_shape), and `name` is code.
"""

from __future__ import annotations

import re
from typing import Any

CODE = re.compile(r"(``.+?``|:[a-z]+:`.+?`)")


def marked_up(lines: list[str]) -> list[str]:
    """The lines of a docstring as reStructuredText; its examples stay as they are."""
    found, example = [], False
    for line in lines:
        example = bool(line.strip()) and (example or line.lstrip().startswith(">>>"))
        found.append(line if example else _text(line))
    return found


def _text(line: str) -> str:
    line = re.sub(r"(?<![`\w:])`([^`]+)`(?!`)", r"``\1``", line)
    pieces = CODE.split(line)  # text and code in turn
    pieces[::2] = [re.sub(r"([*|])", r"\\\1", piece) for piece in pieces[::2]]
    return "".join(pieces)


def _process(_app: Any, _what: str, _name: str, _object: Any, _options: Any, lines: Any) -> None:
    lines[:] = marked_up(lines)


def setup(app: Any) -> dict[str, bool]:
    """What Sphinx calls: before napoleon, which reads the sections."""
    app.connect("autodoc-process-docstring", _process, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
