"""Execute the chapters with papermill under a named profile of parameters.

    python book/execute.py --profile book

The executed copies go to _build/executed/PROFILE. Beside each stands a record of what the run
cost and a key: a chapter is executed again only when the chapter, its parameters, the package,
the recipe, the data or the environment has changed.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import nbformat
import papermill
import yaml
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

ROOT = Path(__file__).resolve().parent.parent
WATCHED = ("conjure_lib", "training", "data", "book/ablations.py", "requirements.txt")
VERSIONS = ("torch", "diffusers", "transformers")


class ChapterError(Exception):
    """A chapter cannot be executed; the message names the chapter and the reason."""


def chapters(folder: Path) -> list[Path]:
    """The notebooks of ``folder``, by the number that their names begin with."""
    return sorted(folder.glob("*.ipynb"), key=lambda path: int(path.name.split("_")[0]))


def declared_parameters(notebook: Path) -> dict[str, Any]:
    """Names and values in the parameters cell of ``notebook``.

    Raises:
        ChapterError: there is not exactly one such cell, or one of its lines is not
            ``NAME: type = literal``.
    """
    cells = nbformat.read(notebook, as_version=4).cells
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", ())]
    if len(tagged) != 1:
        raise ChapterError(f"{notebook.name}: {len(tagged)} cells are tagged 'parameters', not 1")
    found = {}
    for line in ast.parse(tagged[0].source).body:
        try:
            match line:
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                    found[name] = ast.literal_eval(value)
                case _:
                    raise ValueError("no annotated assignment")
        except ValueError as error:
            raise ChapterError(
                f"{notebook.name}: a parameter reads NAME: type = literal, not {ast.unparse(line)}"
            ) from error
    return found


def fits(value: Any, declared: Any) -> bool:
    """Whether ``value`` has the type of the ``declared`` one; lists are compared by their items."""
    if isinstance(declared, list | tuple):
        return isinstance(value, list) and all(fits(v, d) for v in value for d in declared[:1])
    if isinstance(declared, float) and type(value) is int:
        return True
    return declared is None or type(value) is type(declared)


def read_profile(file: Path, notebooks: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Parameters by notebook stem, checked against the parameters cells.

    Raises:
        ChapterError: the profile is not there, or names a chapter that does not exist, or
            :func:`check_parameters` refuses what it gives to one.
    """
    if not file.is_file():
        there = ", ".join(sorted(path.stem for path in file.parent.glob("*.yaml")))
        raise ChapterError(f"there is no profile {file.stem!r}; there are: {there}")
    profile = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    chosen = {path.stem: profile.pop(path.stem, None) or {} for path in notebooks}
    if profile:
        raise ChapterError(f"{file.name}: there is no chapter {', '.join(profile)}")
    for path in notebooks:
        check_parameters(path, chosen[path.stem], file.name)
    return chosen


def check_parameters(notebook: Path, parameters: Mapping[str, Any], source: str) -> None:
    """Refuse what papermill lets pass with a warning, or without one.

    Raises:
        ChapterError: ``notebook`` does not declare a parameter, or declares it with another type.
    """
    declared = declared_parameters(notebook)
    for name, value in parameters.items():
        if name not in declared:
            raise ChapterError(
                f"{source}: {notebook.stem} has no parameter {name!r}; it has: "
                f"{', '.join(declared) or 'none'}"
            )
        if not fits(value, declared[name]):
            raise ChapterError(
                f"{source}: {notebook.stem} declares {name} like {declared[name]!r}; "
                f"{value!r} does not fit"
            )


def environment() -> dict[str, str]:
    """What the numbers of a run depend on beside the repository."""
    return {"python": platform.python_version()} | {name: version(name) for name in VERSIONS}


def fingerprint(paths: Iterable[Path]) -> str:
    """SHA-256 over the names and contents of files, and of all files inside folders."""
    digest = hashlib.sha256(json.dumps(environment()).encode())
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(f"{file.relative_to(path.parent)}\0".encode())
                digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def watched_paths() -> list[Path]:
    """The package, the recipe, the data, and the benchmark data sets where they are given."""
    datasets = [Path(os.environ["CONJURE_DATA"])] if os.environ.get("CONJURE_DATA") else []
    return [ROOT / name for name in WATCHED] + datasets


def run(notebook: Path, output: Path, parameters: Mapping[str, Any]) -> dict[str, float]:
    """Execute one notebook in the folder it lies in; seconds, and the kernel's peak memory in MiB.

    Meant for a process of its own, so that the peak memory of its children is the kernel's.

    Raises:
        ChapterError: a cell failed.
    """
    os.environ["TQDM_DISABLE"] = "1"  # for the kernel: progress bars are no part of a page
    inherited = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT)] + ([inherited] if inherited else []))
    began = time.perf_counter()
    try:
        papermill.execute_notebook(
            str(notebook),
            str(output),
            dict(parameters),
            kernel_name="python3",
            language="python",
            cwd=str(notebook.parent),
            progress_bar={"desc": notebook.stem, "leave": False, "disable": None},
            config=Config({"KernelManager": {"transport_encryption": "auto"}}),
        )
    except PapermillExecutionError as error:
        raise ChapterError(
            f"{notebook.name}, cell [{error.exec_count}] failed with {error.ename}\n\n"
            f"{error.source}\n{error}"
        ) from None
    except Exception as error:
        raise ChapterError(f"{notebook.name} could not be executed: {error!r}") from error
    unit = 2**20 if sys.platform == "darwin" else 2**10
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / unit
    return {"seconds": time.perf_counter() - began, "peak_mib": peak}


def written_to_stderr(notebook: Path) -> list[str]:
    """What the cells of an executed notebook wrote to standard error, for the log of the build."""
    return [
        f"{notebook.name}, cell [{cell.execution_count}] wrote to stderr: {output.text.strip()}"
        for cell in nbformat.read(notebook, as_version=4).cells
        for output in cell.get("outputs", ())
        if output.get("name") == "stderr"
    ]


def execute(notebook: Path, out: Path, parameters: Mapping[str, Any], base: str) -> bool:
    """Execute one chapter into ``out`` unless its record carries the present key.

    Args:
        base: the :func:`fingerprint` of everything that all chapters depend on.

    Returns:
        Whether it had to be executed.
    """
    settings = json.dumps(parameters, sort_keys=True).encode()
    key = hashlib.sha256(b"\0".join([base.encode(), notebook.read_bytes(), settings])).hexdigest()
    output, record = out / notebook.name, out / f"{notebook.stem}.json"
    if output.exists() and record.exists() and json.loads(record.read_text())["key"] == key:
        return False
    record.unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        cost = pool.submit(run, notebook, output, parameters).result()
    found = {"key": key, "cores": os.cpu_count()} | cost | environment()
    record.write_text(json.dumps(found, indent=2) + "\n")
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description="Execute the chapters with papermill.")
    parser.add_argument("--profile", default="book", help="a file of notebooks/profiles")
    name = parser.parse_args().profile
    folder, out = ROOT / "notebooks", ROOT / "_build" / "executed" / name
    notebooks = chapters(folder)
    base = fingerprint(watched_paths())
    try:
        profile = read_profile(folder / "profiles" / f"{name}.yaml", notebooks)
        for i, notebook in enumerate(notebooks, 1):
            print(f"[{i}/{len(notebooks)}] {notebook.name} ({name})", end=" ", flush=True)
            fresh = execute(notebook, out, profile[notebook.stem], base)
            cost = json.loads((out / f"{notebook.stem}.json").read_text())
            print(f"{cost['seconds']:.0f} s" if fresh else "unchanged", flush=True)
            for line in written_to_stderr(out / notebook.name):
                print(line, file=sys.stderr)
    except ChapterError as error:
        sys.exit(f"\nFAILED: {error}")


if __name__ == "__main__":
    main()
