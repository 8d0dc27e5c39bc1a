"""Execute the chapters with papermill under a named profile of parameters.

    python book/execute.py --profile book

The executed copies go to _build/executed/PROFILE. Beside each stands a record of what the run
cost, a key and a checksum of the copy: a chapter is executed again only when the chapter, its
parameters, the scripts that it imports, the package, the recipe, the data, the environment or the
copy has changed.

No chapter reads what another has written, so several run at a time, each in processes of its own.
These end when the runner ends, however it ends, and what they write is put in place by the runner.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import functools
import hashlib
import json
import math
import os
import platform
import re
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import Any

import papermill
import psutil
from filelock import FileLock, Timeout
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError
from strict import ChapterError, Lines, read_json, read_notebook, read_text, read_yaml, write_text
from traitlets.config import Config

from conjure_lib.machine import cores, settle

ROOT = Path(__file__).resolve().parent.parent
WATCHED = ("conjure_lib", "conjure_tools", "training", "data", "requirements.txt")
IMPORTED = re.compile(r"^\s*(?:from ([\w.]+) )?import ([\w., ]+|\([\w\s,]+\))", re.MULTILINE)
GIB_EACH = 4  # memory that is allowed for a chapter when several run at a time
THREADS = ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "RAYON")  # libraries that start a thread a core
COST = ("seconds", "peak_mib", "cores", "jobs")
UNFINISHED = ".unfinished-"  # folders of chapters in hand


def chapters(folder: Path) -> list[Path]:
    """The notebooks of ``folder``, by the number that their names begin with.

    Raises:
        ChapterError: there are none, or a name does not begin with a number.
    """
    found = list(folder.glob("*.ipynb"))
    for path in found:
        if not re.fullmatch(r"[0-9]+_.+", path.stem):
            raise ChapterError(f"{path}: the name of a chapter begins with its number: 07_name")
    if not found:
        raise ChapterError(f"there are no chapters in {folder}")
    return sorted(found, key=lambda path: int(path.name.split("_")[0]))


def declared_parameters(notebook: Path) -> dict[str, Any]:
    """Names and values in the parameters cell of ``notebook``.

    Raises:
        ChapterError: the notebook is unsound, there is not exactly one such cell, or one of its
            lines is not ``NAME: type = literal`` or gives a name again.
    """
    cells = read_notebook(notebook).cells
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", ())]
    if len(tagged) != 1:
        raise ChapterError(f"{notebook.name}: {len(tagged)} cells are tagged 'parameters', not 1")
    place = f"{notebook.name}, line {{}} of the parameters cell"
    try:
        lines = ast.parse(tagged[0].source).body
    except SyntaxError as error:
        raise ChapterError(f"{place.format(error.lineno)}: {error.msg}") from None
    found: dict[str, Any] = {}
    for line in lines:
        try:
            match line:
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                    if name in found:
                        raise ChapterError(f"{place.format(line.lineno)}: {name} stands twice")
                    found[name] = ast.literal_eval(value)
                case _:
                    raise ValueError("no annotated assignment")
        except ValueError as error:
            raise ChapterError(
                f"{place.format(line.lineno)}: a parameter reads NAME: type = literal, not "
                f"{ast.unparse(line)}"
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
        ChapterError: the profile is not there or no sound YAML, or names a chapter that does not
            exist, or :func:`check_parameters` refuses what it gives to one.
    """
    there = sorted(path.stem for path in file.parent.glob("*.yaml"))
    if file.stem not in there or not file.is_file():
        raise ChapterError(f"there is no profile {file.stem!r}; there are: {', '.join(there)}")
    profile, lines = read_yaml(file)
    chosen = {}
    for path in notebooks:
        given = profile.pop(path.stem, None)
        if given is not None and not isinstance(given, dict):
            place = f"{file.name}:{lines.get((path.stem,), 1)}"
            raise ChapterError(f"{place}: {path.stem} has NAME: value below it, not {given!r:.60}")
        chosen[path.stem] = given or {}
        check_parameters(path, chosen[path.stem], file.name, lines)
    for name in profile:
        raise ChapterError(f"{file.name}:{lines.get((str(name),), 1)}: there is no chapter {name}")
    return chosen


def check_parameters(
    notebook: Path, parameters: Mapping[str, Any], source: str, lines: Lines
) -> None:
    """Refuse what papermill lets pass with a warning, or without one.

    Args:
        source: the name of the file that gives the parameters.
        lines: where it does.

    Raises:
        ChapterError: ``notebook`` does not declare a parameter, or declares it with another type.
    """
    declared = declared_parameters(notebook)
    for name, value in parameters.items():
        place = f"{source}:{lines.get((notebook.stem, str(name)), 1)}: {notebook.stem}"
        if name not in declared:
            raise ChapterError(
                f"{place} has no parameter {name!r}; it has: {', '.join(declared) or 'none'}"
            )
        if not fits(value, declared[name]):
            raise ChapterError(
                f"{place} declares {name} like {declared[name]!r}; {value!r} does not fit"
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
    """SHA-256 over :func:`environment` and :func:`contents`."""
    return hashlib.sha256(
        (json.dumps(environment(packages)) + contents(paths)).encode()
    ).hexdigest()


def contents(paths: Iterable[Path]) -> str:
    """SHA-256 over names and contents of files, and of all inside folders."""
    digest = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(f"{file.relative_to(path.parent)}\0".encode())
                digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def watched_paths(root: Path = ROOT) -> list[Path]:
    """What all chapters depend on: the package, the recipe, the data, the list of requirements."""
    return [root / name for name in WATCHED]


@functools.cache
def datasets(folder: str) -> str:
    """:func:`contents` of the benchmark data sets, where CONJURE_DATA names their folder.

    Raises:
        ChapterError: it names no folder.
    """
    if folder and not Path(folder).is_dir():
        raise ChapterError(f"CONJURE_DATA names {folder}, and there is no such folder")
    return contents([Path(folder)]) if folder else "-"


def modules(source: str) -> Iterable[str]:
    """Every name that ``source`` may import a module under: of a.b import c both a.b and a.b.c."""
    for package, names in IMPORTED.findall(source):
        for name in re.findall(r"[\w.]+", re.sub(r"\bas \w+", "", names)):
            yield from [package, f"{package}.{name}"] if package else [name]


def scripts(notebook: Path, folder: Path = ROOT / "notebooks") -> list[Path]:
    """The modules of ``folder`` that a chapter imports, and those that they import in turn."""
    cells = read_notebook(notebook).cells
    sources = [cell.source for cell in cells if cell.cell_type == "code"]
    found: set[Path] = set()
    while sources:
        named = {folder / f"{name.replace('.', '/')}.py" for name in modules(sources.pop())}
        new = {path for path in named - found if path.is_file()}
        sources += [path.read_text(encoding="utf-8") for path in new]
        found |= new
    return sorted(found)


def threads(jobs: int) -> dict[str, str]:
    """The environment of a kernel that shares the cores with ``jobs`` - 1 others: its threads.

    Fewer, where the reader has set fewer; never more, for they would take each other's cores.
    """
    share = max(1, cores() // jobs)
    names = [f"{library}_NUM_THREADS" for library in THREADS]
    set_ones = {name: os.environ.get(name, "").strip() for name in names}
    return {
        name: str(min(share, int(value)) if value.isdecimal() and int(value) else share)
        for name, value in set_ones.items()
    }


def follow_parent() -> None:
    """Let this process, and all that it has started, end when the runner does, even if killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the runner, and so for us
    runner = parent_process()
    assert runner is not None

    def end() -> None:
        connection.wait([runner.sentinel])
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def run(
    notebook: Path, output: Path, parameters: Mapping[str, Any], jobs: int = 1
) -> dict[str, float]:
    """Execute one notebook in the folder it lies in; seconds, and the kernel's peak memory in MiB.

    Meant for a process of its own, so that the peak memory of its children is the kernel's.

    Args:
        jobs: how many share the machine: the kernel gets its share of the cores, and shows no
            progress bar where there are several.

    Raises:
        ChapterError: a cell failed, or was not executed.
    """
    os.environ["TQDM_DISABLE"] = "1"  # for the kernel: progress bars are no part of a page
    settle()  # for the kernel as well, which inherits the environment: its threads do not spin
    os.environ |= threads(jobs)
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
                start_timeout=600,  # on a busy machine a kernel takes minutes to start
                config=kernel,
            )
        except PapermillExecutionError as error:
            raise ChapterError(
                f"{notebook.name}, cell [{error.exec_count}] failed with {error.ename}\n\n"
                f"{error.source}\n{error}"
            ) from None
        except Exception as error:
            raise ChapterError(f"{notebook.name} could not be executed: {error!r}") from error
    check_finished(output)
    unit = 2**20 if sys.platform == "darwin" else 2**10
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / unit
    return {"seconds": time.perf_counter() - began, "peak_mib": peak}


def check_finished(notebook: Path) -> None:
    """Refuse an executed notebook that did not come to its end, which papermill lets pass.

    Raises:
        ChapterError: a cell called sys.exit, or was not executed.
    """
    for number, cell in enumerate(read_notebook(notebook).cells, 1):
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        place = f"{notebook.name}, cell [{cell.execution_count}]"
        for output in cell.outputs:
            if output.output_type == "error":
                raise ChapterError(f"{place} ended with {output.ename}\n\n{cell.source}")
        if cell.execution_count is None:
            raise ChapterError(
                f"{notebook.name}: its cell number {number} was not executed\n\n{cell.source}"
            )


def written_to_stderr(notebook: Path) -> list[str]:
    """What the cells of an executed notebook wrote to standard error, for the log of the build."""
    return [
        f"{notebook.name}, cell [{cell.execution_count}] wrote to stderr: {output.text.strip()}"
        for cell in read_notebook(notebook).cells
        for output in cell.get("outputs", ())
        if output.get("name") == "stderr"
    ]


def glued(notebook: NotebookNode) -> dict[str, str]:
    """What an executed chapter glued into its text: names, and values as they are written."""
    found = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if name := output.get("metadata", {}).get("scrapbook", {}).get("name"):
                forms = {kind.split("/")[-1]: value for kind, value in output.data.items()}
                found[name] = forms.get("markdown", forms.get("plain", ""))
    return found


def chapter_key(notebook: Path, parameters: Mapping[str, Any], base: str) -> str:
    """SHA-256 over everything in the repository that the numbers of a chapter depend on.

    Args:
        base: :func:`contents` of what all chapters depend on.
    """
    settings = json.dumps(parameters, sort_keys=True)
    parts = [base, contents(scripts(notebook)), read_text(notebook), settings]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def read_record(notebook: Path, out: Path) -> dict[str, Any]:
    """The record of a chapter that was executed into ``out``.

    Raises:
        ChapterError: there is none, it is damaged, or the executed copy is not that of the record.
    """
    file, output = out / f"{notebook.stem}.json", out / notebook.name
    if not file.is_file() or not output.is_file():
        raise ChapterError(f"{notebook.name} is not executed yet: make book does it")
    record = read_json(file)
    wanted = ("key", "output", "benchmark_data", *COST, *environment())
    if lacking := [name for name in wanted if name not in record]:
        raise ChapterError(f"{file.name}: no record of this runner, without {', '.join(lacking)}")
    if record["output"] != hashlib.sha256(output.read_bytes()).hexdigest():
        raise ChapterError(f"{output.name} was changed after it was executed: make book mends it")
    return record


def is_present(notebook: Path, out: Path, present: Mapping[str, str]) -> bool:
    """Whether ``out`` holds a sound copy that was executed under all that is ``present``."""
    try:
        record = read_record(notebook, out)
    except ChapterError as error:
        if (out / f"{notebook.stem}.json").exists():
            print(f"{error}; it is executed again", file=sys.stderr)
        return False
    return present.items() <= record.items()


def execute(
    notebook: Path, out: Path, parameters: Mapping[str, Any], base: str, jobs: int = 1
) -> bool:
    """Execute one chapter into ``out`` unless its record carries the present key.

    A copy that failed is left as NAME.failed.ipynb.

    Args:
        base: :func:`contents` of what all chapters depend on.
        jobs: see :func:`run`.

    Returns:
        Whether it had to be executed.
    """
    key = chapter_key(notebook, parameters, base)
    data = datasets(os.environ.get("CONJURE_DATA", ""))
    present = {"key": key, "benchmark_data": data} | environment()
    if is_present(notebook, out, present):
        return False
    print(f"{notebook.name} begins", flush=True)
    record = out / f"{notebook.stem}.json"
    record.unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=out))  # an orphan could write only here
    try:
        cost = in_a_process_of_its_own(notebook, folder / notebook.name, parameters, jobs)
        digest = hashlib.sha256((folder / notebook.name).read_bytes()).hexdigest()
        os.replace(folder / notebook.name, out / notebook.name)
    except ChapterError:
        with contextlib.suppress(FileNotFoundError):
            os.replace(folder / notebook.name, out / f"{notebook.stem}.failed.ipynb")
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    (out / f"{notebook.stem}.failed.ipynb").unlink(missing_ok=True)
    found = present | {"output": digest, "cores": os.cpu_count(), "jobs": jobs} | cost
    write_text(record, json.dumps(found, indent=2) + "\n")
    return True


def in_a_process_of_its_own(
    notebook: Path, output: Path, parameters: Mapping[str, Any], jobs: int
) -> dict[str, float]:
    """:func:`run` in a process that ends when this one does.

    Raises:
        ChapterError: see there; or the process was killed.
    """
    try:
        with ProcessPoolExecutor(1, get_context("spawn"), follow_parent) as pool:
            return pool.submit(run, notebook, output, parameters, jobs).result()
    except BrokenProcessPool:
        raise ChapterError(
            f"{notebook.name}: its process was killed, perhaps for want of memory; fewer --jobs "
            "need less"
        ) from None


@contextlib.contextmanager
def holding(out: Path) -> Iterator[None]:
    """Hold the folder of executed chapters, for one runner or one build at a time.

    Raises:
        ChapterError: another holds it.
    """
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / ".lock", timeout=0):
            for left in out.glob(f"{UNFINISHED}*"):  # by a runner that was killed
                shutil.rmtree(left, ignore_errors=True)
            yield
    except Timeout:
        raise ChapterError(
            f"another runner or build is at work in {out}: wait for its end, or stop it"
        ) from None


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
    began = time.monotonic()
    with ThreadPoolExecutor(jobs) as pool:
        tasks = {pool.submit(execute, n, out, profile[n.stem], base, jobs): n for n in notebooks}
        try:
            for i, task in enumerate(as_completed(tasks), 1):
                notebook, fresh = tasks[task], task.result()
                cost = read_record(notebook, out)
                took = f"{cost['seconds']:.0f} s, {cost['peak_mib']:,.0f} MiB"
                took = took if fresh else "unchanged"
                left = time_left(time.monotonic() - began, i, len(tasks))
                print(f"[{i}/{len(tasks)}] {notebook.name}: {took}{left}", flush=True)
                for line in written_to_stderr(out / notebook.name):
                    print(line, file=sys.stderr)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def time_left(seconds: float, done: int, of: int) -> str:
    """What the other chapters may take, were they like those that are done."""
    minutes = math.ceil(seconds * (of - done) / done / 60)
    return f"; about {minutes} min left" if done < of else ""


def write_record(
    file: Path, notebooks: Sequence[Path], out: Path, profile: Mapping[str, Mapping[str, Any]]
) -> None:
    """All that executed chapters glued, with their parameters, cost and environment, as JSON."""
    record = {}
    for notebook in notebooks:
        about = read_record(notebook, out)
        del about["key"], about["output"], about["benchmark_data"]
        said = glued(read_notebook(out / notebook.name))
        values = {"parameters": profile[notebook.stem], "glued": said}
        record[notebook.stem] = about | values
    write_text(file, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def check_record(file: Path) -> None:
    """Refuse a place for :func:`write_record` before hours are spent on what goes there.

    Raises:
        ChapterError: its folder is not there or not writable, or the file is no such record.
    """
    if not file.parent.is_dir():
        raise ChapterError(f"--record {file}: there is no folder {file.parent}; make it first")
    if not os.access(file.parent, os.W_OK):
        raise ChapterError(f"--record {file}: the folder {file.parent} cannot be written to")
    if file.exists():
        there = read_json(file)
        if not all(isinstance(entry, dict) and "glued" in entry for entry in there.values()):
            raise ChapterError(f"--record {file}: holds something else, and is not overwritten")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Execute the chapters with papermill.")
    parser.add_argument("--profile", default="book", help="a file of notebooks/profiles")
    parser.add_argument("--jobs", type=int, help="chapters at a time")
    parser.add_argument("--record", type=Path, help="a file for all numbers of the chapters")
    chosen = parser.parse_args(arguments)
    if chosen.jobs is not None and chosen.jobs < 1:
        parser.error(f"--jobs must be at least 1, not {chosen.jobs}")
    try:
        execute_profile(chosen.profile, chosen.jobs or default_jobs(), chosen.record)
    except (ChapterError, OSError) as error:
        sys.exit(f"\nFAILED: {error}")


def folders(profile: str) -> tuple[Path, Path]:
    """The file of a profile, and the folder of the chapters that are executed under it.

    Raises:
        ChapterError: ``profile`` is no plain name.
    """
    if not re.fullmatch(r"\w[\w.-]*", profile):
        raise ChapterError(f"--profile {profile!r}: a name of notebooks/profiles, without .yaml")
    file = ROOT / "notebooks" / "profiles" / f"{profile}.yaml"
    return file, ROOT / "_build" / "executed" / profile


def execute_profile(name: str, jobs: int, record: Path | None) -> None:
    """Execute all chapters under one profile; everything is checked before the first begins.

    Raises:
        ChapterError: a chapter failed, or something that it depends on changed meanwhile.
    """
    file, out = folders(name)
    notebooks = chapters(ROOT / "notebooks")
    profile = read_profile(file, notebooks)
    if record:
        check_record(record)
    base = contents(watched_paths())
    datasets(os.environ.get("CONJURE_DATA", ""))  # or the error before any work
    with holding(out):
        print(f"{len(notebooks)} chapters, profile {name}, {jobs} at a time", flush=True)
        execute_all(notebooks, out, profile, base, jobs)
        if contents(watched_paths()) != base:
            raise ChapterError(f"one of {', '.join(WATCHED)} changed meanwhile: execute again")
        if record:
            write_record(record, notebooks, out, profile)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends at once, and the workers follow
    main()
