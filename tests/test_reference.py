"""The reference: it names everything that is public, and its examples run."""

from __future__ import annotations

import doctest
import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import docstrings
import matplotlib.pyplot as plt
import pytest

import conjure_lib as cj

PAGE = (Path(__file__).resolve().parents[1] / "book" / "api.md").read_text("utf-8")
CONSTANTS = {"WEIGHTINGS"}  # which have no docstring


def listed() -> list[str]:
    """The full names of what the page is made of."""
    found, module = [], ""
    for line in PAGE.splitlines():
        if match := re.match(r"\.\. currentmodule:: (\S+)", line):
            module = match[1]
        elif match := re.match(r"\.\. auto(?:function|class):: ([\w.]+)", line):
            name = match[1]
            found.append(name if name.startswith("conjure_tools.") else f"{module}.{name}")
    return found


def named(name: str) -> Any:
    module, _, own = name.rpartition(".")
    return getattr(import_module(module), own)


def test_the_page_names_all_that_is_public() -> None:
    names = listed()
    assert len(names) == len(set(names))
    ours = {name.removeprefix("conjure_lib.") for name in names if name.startswith("conjure_lib.")}
    assert ours == set(cj.__all__) - CONSTANTS
    assert all(f"`{name}`" in PAGE for name in CONSTANTS)


def test_members_that_the_page_names_are_there_and_told_of() -> None:
    (members,) = re.findall(r"GenerativeProcess\(\)\n +:members: (.+)", PAGE)
    fields = inspect.getdoc(cj.GenerativeProcess) or ""
    for member in members.split(", "):
        told = getattr(getattr(cj.GenerativeProcess, member, None), "__doc__", "")
        assert told or f"{member}: " in fields


@pytest.mark.parametrize("name", ["conjure_lib", *listed()])
def test_the_examples_run(
    name: str, process: cj.GenerativeProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name.startswith("conjure_tools.metrics."):
        pytest.importorskip("torchmetrics")
        pytest.importorskip("evaluate")
    if "Mteb" in name:
        pytest.importorskip("mteb")
    plt.switch_backend("agg")
    one = cj if name == "conjure_lib" else named(name)
    monkeypatch.setitem(vars(cj), "load", lambda: process)  # the embedded model, which is there
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    test = parser.get_doctest(inspect.getdoc(one) or "", {}, name, None, None)
    assert test.examples, f"{name} has no example"
    told: list[str] = []
    result = runner.run(test, out=told.append)
    plt.close("all")
    assert result.failed == 0, "".join(told)


def test_docstrings_become_markup_and_examples_stay() -> None:
    lines = [
        "x (n, *shape), `name`, ``*a``, :func:`b` |y",
        "",
        ">>> f(*x) | y",
        "*out",
        "",
        "a * b",
    ]
    assert docstrings.marked_up(lines) == [
        r"x (n, \*shape), ``name``, ``*a``, :func:`b` \|y",
        "",
        ">>> f(*x) | y",
        "*out",
        "",
        r"a \* b",
    ]
