"""Files of the book: read strictly, with file and line of what is wrong, and written whole."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import nbformat
import yaml
from yaml.constructor import ConstructorError

from conjure_tools import folders

Lines = dict[tuple[str, ...], int]  # where the keys of a file stand, those of the two upper levels


class ChapterError(Exception):
    """A chapter or the book cannot be made; the message names the file and the reason."""


class _Core(yaml.SafeLoader):  # type: ignore[misc]
    """Scalars of YAML 1.2: dates, 010, 1:30, yes and no are text; and every key stands once."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        first: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                line = key.start_mark.line + 1
                if first.setdefault(key.value, line) != line:
                    problem = f"{key.value} stands here and in line {first[key.value]}"
                    raise ConstructorError(None, None, problem, key.start_mark)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _begins in (
    ("bool", "true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", "[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", "<<", "<"),
):
    _whole = re.compile(f"^(?:{_pattern})$")
    _Core.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _whole, list(_begins))

# An explicit !!int is decimal, too.
_Core.add_constructor(
    "tag:yaml.org,2002:int", lambda loader, node: int(loader.construct_scalar(node))
)


def read_text(file: Path) -> str:
    """The text of ``file``.

    Raises:
        ChapterError: it cannot be read, or is not UTF-8.
    """
    try:
        return file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ChapterError(f"{file.name}:{line}: not UTF-8; save the file as UTF-8") from None
    except OSError as error:
        raise ChapterError(f"{file} cannot be read: {error.strerror}") from None


def read_yaml(file: Path) -> tuple[dict[str, Any], Lines]:
    """The mapping in ``file``, empty for an empty file, and the lines of its keys.

    Raises:
        ChapterError: it cannot be read, is no YAML, holds no mapping, or one with a key twice.
    """
    try:
        loader = _Core(read_text(file))
        node = loader.get_single_node()
        lines = _lines(node)
        content = {} if node is None else loader.construct_document(node)
        json.dumps(content)  # neither dates nor circles, which need tags and anchors
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{file.name}:{mark.line + 1}" if mark else file.name
        raise ChapterError(f"{place}: {getattr(error, 'problem', None) or error}") from None
    if content is None:
        return {}, {}
    if not isinstance(content, dict):
        raise ChapterError(f"{file.name}:1: a mapping is wanted, NAME: ..., not {content!r:.60}")
    return content, lines


def _lines(node: yaml.Node | None, depth: int = 2) -> Lines:
    found: Lines = {}
    for key, value in node.value if depth and isinstance(node, yaml.MappingNode) else ():
        name = str(key.value)
        found[(name,)] = key.start_mark.line + 1
        found |= {(name, *inner): line for inner, line in _lines(value, depth - 1).items()}
    return found


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in ``file``.

    Raises:
        ChapterError: it cannot be read, is no JSON, such as a file that is cut off, or no object.
    """
    try:
        content = json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise ChapterError(f"{file.name}{line}: damaged or cut off: {error}") from None
    if not isinstance(content, dict):
        raise ChapterError(f"{file.name}:1: an object is wanted, not {content!r:.60}")
    return content


def read_notebook(file: Path) -> nbformat.NotebookNode:
    """A notebook of format 4.

    Raises:
        ChapterError: it cannot be read, is cut off, or is no notebook.
    """
    version = read_json(file).get("nbformat")
    if version != 4:
        raise ChapterError(f"{file.name}: no notebook of format 4: nbformat is {version!r}")
    try:
        notebook = nbformat.reads(read_text(file), as_version=4)
        nbformat.validate(notebook)
    except Exception as error:  # of many kinds
        raise ChapterError(f"{file.name}: no sound notebook: {error!r:.300}") from None
    return notebook


def embedded(content: Any) -> str:
    """JSON for a script element of a page, which no text in it can end."""
    packed = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return packed.replace("<", "\\u003c")


def copy_into(folder: Path, files: Iterable[Path]) -> None:
    """Put files into a folder that may have to be made."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copy(file, folder)


def write_text(file: Path, text: str) -> None:
    """Write ``text`` into ``file``, which holds what it held before until all is on the disk."""
    folders.write_whole(file, lambda path: path.write_text(text, encoding="utf-8"))
