"""Execute the chapters with papermill under a named profile of parameters.

    python book/execute.py --profile book

The executed copies go to _build/executed/PROFILE. Beside each stands a record of what the run
cost and a key: a chapter is executed again only when the chapter, its parameters, the scripts that
it imports, the package, the recipe, the data or the environment has changed.

No chapter reads what another has written, so several run at a time, each in processes of its own.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import platform
import re
import resource
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import nbformat
import papermill
import yaml
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from conjure_lib.machine import cores, settle

ROOT = Path(__file__).resolve().parent.parent
WATCHED = ("conjure_lib", "training", "data", "requirements.txt")
IMPORTED = re.compile(r"^\s*(?:from|import)\s+(\w+)", re.MULTILINE)
GIB_EACH = 4  # memory that is allowed for a chapter when several run at a time


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


def environment(packages: Iterable[str] = ()) -> dict[str, str]:
    """What the numbers of a run depend on beside the repository: versions, "-" for none.

    Of all required packages, where none are named.
    """
    found = {"python": platform.python_version(), "machine": platform.machine()}
    required = re.findall(r"^[\w-]+", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    for name in packages or required:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "-"
    return found


def fingerprint(paths: Iterable[Path], packages: Iterable[str] = ()) -> str:
    """SHA-256 over :func:`environment`, names and contents of files, and of all inside folders."""
    digest = hashlib.sha256(json.dumps(environment(packages)).encode())
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


def scripts(notebook: Path, folder: Path = ROOT / "book") -> list[Path]:
    """The scripts of ``folder`` that a chapter imports, and those that they import in turn."""
    cells = nbformat.read(notebook, as_version=4).cells
    sources = [cell.source for cell in cells if cell.cell_type == "code"]
    found: set[Path] = set()
    while sources:
        named = {folder / f"{name}.py" for name in IMPORTED.findall(sources.pop())}
        new = {path for path in named - found if path.is_file()}
        sources += [path.read_text(encoding="utf-8") for path in new]
        found |= new
    return sorted(found)


def run(
    notebook: Path, output: Path, parameters: Mapping[str, Any], jobs: int = 1
) -> dict[str, float]:
    """Execute one notebook in the folder it lies in; seconds, and the kernel's peak memory in MiB.

    Meant for a process of its own, so that the peak memory of its children is the kernel's.

    Args:
        jobs: how many share the machine: the kernel gets its share of the cores, and shows no
            progress bar where there are several.

    Raises:
        ChapterError: a cell failed.
    """
    os.environ["TQDM_DISABLE"] = "1"  # for the kernel: progress bars are no part of a page
    settle()  # for the kernel as well, which inherits the environment: its threads do not spin
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // jobs)))
    inherited = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT)] + ([inherited] if inherited else []))
    began = time.perf_counter()
    # Sockets in a folder of their own: kernels that start at one moment can't take the same port.
    with tempfile.TemporaryDirectory() as sockets:
        kernel = Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}})
        bar = {"desc": notebook.stem, "leave": False, "disable": jobs > 1 or None}
        try:
            papermill.execute_notebook(
                str(notebook),
                str(output),
                dict(parameters),
                kernel_name="python3",
                language="python",
                cwd=str(notebook.parent),
                progress_bar=bar,
                config=kernel,
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


def glued(notebook: Path) -> dict[str, str]:
    """What an executed chapter glued into its text: names, and values as they are written."""
    found = {}
    for cell in nbformat.read(notebook, as_version=4).cells:
        for output in cell.get("outputs", ()):
            if name := output.get("metadata", {}).get("scrapbook", {}).get("name"):
                forms = {kind.split("/")[-1]: value for kind, value in output.data.items()}
                found[name] = forms.get("markdown", forms.get("plain", ""))
    return found


def execute(
    notebook: Path, out: Path, parameters: Mapping[str, Any], base: str, jobs: int = 1
) -> bool:
    """Execute one chapter into ``out`` unless its record carries the present key.

    Args:
        base: the :func:`fingerprint` of everything that all chapters depend on.
        jobs: see :func:`run`.

    Returns:
        Whether it had to be executed.
    """
    settings = json.dumps(parameters, sort_keys=True)
    parts = [base, fingerprint(scripts(notebook)), notebook.read_text(encoding="utf-8"), settings]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    output, record = out / notebook.name, out / f"{notebook.stem}.json"
    if output.exists() and record.exists() and json.loads(record.read_text())["key"] == key:
        return False
    print(f"{notebook.name} begins", flush=True)
    record.unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        cost = pool.submit(run, notebook, output, parameters, jobs).result()
    found = {"key": key, "cores": os.cpu_count(), "jobs": jobs} | cost | environment()
    record.write_text(json.dumps(found, indent=2) + "\n")
    return True


def default_jobs() -> int:
    """Chapters at a time: what cores and memory allow, and one where they would share a GPU."""
    import torch

    if torch.cuda.is_available() or torch.backends.mps.is_available():
        return 1
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return max(1, min(cores(), int(gib / GIB_EACH)))


def execute_all(
    notebooks: Sequence[Path],
    out: Path,
    profile: Mapping[str, Mapping[str, Any]],
    base: str,
    jobs: int,
) -> None:
    """Execute chapters into ``out``, ``jobs`` at a time, in their order, and say how they went.

    Raises:
        ChapterError: of the first that fails; those in hand are finished, no other is begun.
    """
    with ThreadPoolExecutor(jobs) as pool:
        tasks = {pool.submit(execute, n, out, profile[n.stem], base, jobs): n for n in notebooks}
        try:
            for i, task in enumerate(as_completed(tasks), 1):
                notebook, fresh = tasks[task], task.result()
                cost = json.loads((out / f"{notebook.stem}.json").read_text())
                took = f"{cost['seconds']:.0f} s, {cost['peak_mib']:,.0f} MiB"
                took = took if fresh else "unchanged"
                print(f"[{i}/{len(tasks)}] {notebook.name}: {took}", flush=True)
                for line in written_to_stderr(out / notebook.name):
                    print(line, file=sys.stderr)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def write_record(
    file: Path, notebooks: Sequence[Path], out: Path, profile: Mapping[str, Mapping[str, Any]]
) -> None:
    """All that executed chapters glued, with their parameters, cost and environment, as JSON."""
    record = {}
    for notebook in notebooks:
        about = json.loads((out / f"{notebook.stem}.json").read_text())
        del about["key"]
        values = {"parameters": profile[notebook.stem], "glued": glued(out / notebook.name)}
        record[notebook.stem] = about | values
    file.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Execute the chapters with papermill.")
    parser.add_argument("--profile", default="book", help="a file of notebooks/profiles")
    parser.add_argument("--jobs", type=int, default=default_jobs(), help="chapters at a time")
    parser.add_argument("--record", type=Path, help="a file for all numbers of the chapters")
    chosen = parser.parse_args(arguments)
    if chosen.jobs < 1:
        parser.error("--jobs must be at least 1")
    folder, out = ROOT / "notebooks", ROOT / "_build" / "executed" / chosen.profile
    notebooks = chapters(folder)
    try:
        profile = read_profile(folder / "profiles" / f"{chosen.profile}.yaml", notebooks)
        print(f"{len(notebooks)} chapters, profile {chosen.profile}, {chosen.jobs} at a time")
        execute_all(notebooks, out, profile, fingerprint(watched_paths()), chosen.jobs)
        if chosen.record:
            write_record(chosen.record, notebooks, out, profile)
    except ChapterError as error:
        sys.exit(f"\nFAILED: {error}")


if __name__ == "__main__":
    main()
