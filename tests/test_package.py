"""The wheel: it installs alone and carries the embedded model."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import conjure_lib as cj

ROOT = Path(__file__).resolve().parents[1]
DATA = ("emoji-diffusion", "published", "results")
ASK = "import conjure_lib as cj; p = cj.load(device='cpu'); print(cj.__file__, p.name)"
ASK += "; print(cj.distance(p, 'cat', 'dog', steps=2, draws=1).value)"


def run(*arguments: str | Path, folder: Path) -> str:
    """The output of Python run in ``folder``, which must succeed."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def build_wheel(folder: Path) -> Path:
    """The wheel of a copy of the sources, so that the checkout stays as it is."""
    for name in ("conjure_lib", "conjure_tools", *(f"data/{x}" for x in DATA)):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    pip = ("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    run(*pip, "--wheel-dir", ".", "./source", folder=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_the_wheel_installs_alone_and_carries_the_model(
    tmp_path: Path, process: cj.GenerativeProcess, embedded_folder: Path
) -> None:
    wheel = build_wheel(tmp_path)
    packed = zipfile.ZipFile(wheel).namelist()
    inside = {name.removeprefix("conjure_lib/emoji_diffusion/") for name in packed}
    files = [path for path in embedded_folder.rglob("*") if path.is_file()]
    assert {path.relative_to(embedded_folder).as_posix() for path in files} <= inside
    assert not any(name.startswith(("training", "tests", "book", "data")) for name in packed)
    assert {"conjure_lib/py.typed", "conjure_tools/py.typed"} <= set(packed)  # to type checkers

    target = tmp_path / "target"
    run("-m", "pip", "install", "--quiet", "--no-deps", "--target", target, wheel, folder=tmp_path)
    shutil.rmtree(tmp_path / "source")
    path = f"import sys; sys.path.insert(0, {str(target)!r}); "
    where, name, value = run("-c", path + ASK, folder=tmp_path).split()
    assert Path(where) == target / "conjure_lib" / "__init__.py"
    assert name == process.name == "emoji-diffusion"
    expected = cj.distance(process, "cat", "dog", steps=2, draws=1).value
    assert float(value) == pytest.approx(expected, rel=1e-5)

    command = [str(target / "bin" / "conjure"), "--version"]
    shown = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(target)}, check=True, stdout=subprocess.PIPE
    )
    assert shown.stdout.decode().split() == ["conjure", cj.__version__]
