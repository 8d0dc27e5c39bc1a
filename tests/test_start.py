"""What a start loads, how many threads there are and how they wait, which precision is taken."""

from __future__ import annotations

import ast
import io
import os
import platform
import re
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

import conjure_lib as cj
from conjure_lib import machine
from conjure_tools import grounding, hardware

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "numpy", "diffusers", "transformers", "pandas", "sklearn", "matplotlib")
LOADED = f"; import sys; print(*(m for m in {HEAVY} if m in sys.modules), file=sys.stderr)"
SETTINGS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a fresh interpreter, in which nothing is set but ``environment``."""
    kept = {k: v for k, v in os.environ.items() if k not in SETTINGS}
    kept |= {"PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=kept, capture_output=True, text=True, check=True)


def command_line(*arguments: str) -> str:
    """Code that runs the command line and then says which of ``HEAVY`` it has loaded."""
    run = f"from conjure_tools.cli import main\ntry: main({list(arguments)})\n"
    return run + "except SystemExit: pass\n" + LOADED.removeprefix("; ")


@pytest.mark.parametrize(
    "code",
    ["import conjure_lib" + LOADED, *(command_line(x) for x in ("--help", "--version"))]
    + ["import conjure_lib as cj; dir(cj); cj.WEIGHTINGS" + LOADED]
    + [command_line(x, "--help") for x in ("compare", "score", "evaluate")],
)
def test_nothing_heavy_is_loaded_before_it_is_needed(code: str) -> None:
    assert python(code).stderr.split() == []


def test_a_comparison_loads_no_tables_and_no_figures() -> None:
    code = command_line("compare", "a cat", "a dog", "--steps", "2", "--draws", "1")
    loaded = python(code).stderr.split()
    assert {"torch", "diffusers"} <= set(loaded)
    assert not {"pandas", "sklearn", "matplotlib"} & set(loaded)


def test_every_name_of_the_library_is_that_of_its_module() -> None:
    tree = ast.parse((ROOT / "conjure_lib" / "__init__.py").read_text())
    blocks = [n for n in tree.body if isinstance(n, ast.If)]  # if TYPE_CHECKING
    imports = [n for b in blocks for n in b.body if isinstance(n, ast.ImportFrom)]
    homes = {alias.name: n.module for n in imports for alias in n.names}
    assert sorted([*homes, "WEIGHTINGS"]) == sorted(cj.__all__)
    for name, home in homes.items():
        assert home is not None
        assert getattr(cj, name) is getattr(import_module(home), name)
        assert name in dir(cj)
    assert cj.EMBEDDED == "emoji-diffusion"
    with pytest.raises(AttributeError, match="no attribute 'distanse'"):
        cj.distanse  # noqa: B018


LEANS = {  # the face of the package hands on what stands on it; no module of it looks up
    "__init__.py": [
        "from conjure_tools.loading import load",
        "from conjure_tools.matrices import DistanceMatrix, distance_matrix",
        "from conjure_tools.scorer import Scorer",
        "from conjure_tools.traces import Trace, trace",
    ],
    "__main__.py": ["from conjure_tools.cli import entry"],
}


def test_the_library_does_not_lean_on_the_tools() -> None:
    for file in sorted((ROOT / "conjure_lib").glob("*.py")):
        imports = [line for line in file.read_text().splitlines() if "import" in line.split()]
        own = [line.strip() for line in imports if ">>>" not in line]  # examples may
        leans = [line for line in own if "conjure_tools" in line]
        assert leans == LEANS.get(file.name, []), file.name


def imported(file: Path, rooms: Sequence[str]) -> set[str]:
    """The modules of ``rooms`` that a file imports, also in its functions, as "room.module"."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            found |= {name for name in names if name.startswith(tuple(f"{r}." for r in rooms))}
    return found


def test_no_import_is_circular() -> None:
    rooms = {name: ROOT / name for name in ("conjure_lib", "conjure_tools", "training")}
    rooms["studies"] = ROOT / "notebooks" / "studies"
    files = {f"{room}.{f.stem}": f for room, at in rooms.items() for f in at.glob("[!_]*.py")}
    left = {n: imported(file, list(rooms)) & files.keys() - {n} for n, file in files.items()}
    assert left["conjure_tools.loading"] >= {"conjure_lib.pipelines", "conjure_tools.hub"}
    while free := [name for name, needs in left.items() if not needs & left.keys()]:
        left = {name: needs for name, needs in left.items() if name not in free}
    assert not left


LINES = {"": 2_700, "sde process engine similarity": 750}  # of the library, of the method itself


def code_lines(file: Path) -> int:
    """The lines of a module that hold code: no docstrings, no comments, no blank ones."""
    text = file.read_text("utf-8")
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    told = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None:
            told |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    silent = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    spans = [(t.start[0], t.end[0]) for t in tokens if t.type not in (*silent, tokenize.ENDMARKER)]
    return len({line for first, last in spans for line in range(first, last + 1)} - told)


def test_lines_of_code_are_counted(tmp_path: Path) -> None:
    text = '"""Told\nof."""\n\nx = (  # why\n    1\n)\n\ndef f():\n    """No."""\n'
    text += '    return """a\nb"""\n'
    (tmp_path / "module.py").write_text(text)
    assert code_lines(tmp_path / "module.py") == 6


def test_the_library_is_read_in_a_sitting() -> None:
    files = sorted((ROOT / "conjure_lib").glob("*.py"))
    assert len(files) <= 16
    for names, most in LINES.items():
        counted = [file for file in files if file.stem in (names.split() or [file.stem])]
        assert sum(map(code_lines, counted)) <= most, names


def test_nothing_edits_the_path_that_modules_are_found_on() -> None:
    rooms = ("conjure_lib", "conjure_tools", "training", "book", "bench", "notebooks")
    files = [
        f for room in rooms for kind in ("py", "ipynb") for f in (ROOT / room).rglob(f"*.{kind}")
    ]
    edit = re.compile(r"sys\.path\b\s*(\.(append|insert|extend)|\+?=|\[)")
    assert len(files) > 100
    assert [file.name for file in files if edit.search(file.read_text("utf-8"))] == []


ROLES = {"record", "make", "main", "facts", "of_record", "overlay"}  # what any study may have


COMMANDS = {"score"}  # what the program calls a command and a room calls its work


def test_no_two_rooms_have_a_function_of_one_name() -> None:
    """Of the library, the tools and the studies: a name means one thing."""
    kinds, names = (ast.ClassDef, ast.FunctionDef), Counter[str]()
    for room in ("conjure_lib", "conjure_tools", "notebooks/studies"):
        for file in (ROOT / room).rglob("*.py"):
            body = ast.parse(file.read_text("utf-8")).body
            names.update({n.name for n in body if isinstance(n, kinds)})
    assert len(names) > 700
    twice = {k for k, n in names.items() if n > 1 and k[0] != "_"}
    assert twice - ROLES - COMMANDS == set()


OPEN = {  # what is handed on is a library's, and checked when it is run
    *("load", "from_pipeline", "rehearse", "pretrained", "start_ray"),
    *("predict", "rank", "encode", "similarity", "similarity_pairwise"),  # sentence-transformers'
    *("compute_loss", "evaluate", "on_step_end"),  # those of transformers' Trainer
}


def test_a_misspelt_setting_is_an_error_in_the_editor() -> None:
    found = set()
    for room in ("conjure_lib", "conjure_tools"):
        for file in (ROOT / room).glob("*.py"):
            body = ast.parse(file.read_text("utf-8")).body
            inner = [n for one in body if isinstance(one, ast.ClassDef) for n in one.body]
            for node in [*body, *inner]:
                if isinstance(node, ast.FunctionDef) and node.args.kwarg and node.name[0] != "_":
                    kind = node.args.kwarg.annotation
                    if isinstance(kind, ast.Name) and kind.id == "Any":
                        found.add(f"{file.stem}.{node.name}")
    assert {name for name in found if name.split(".")[1] not in OPEN} == set()


# -- threads ----------------------------------------------------------------------------------

ASK = "import conjure_lib, os; print(*(os.environ.get(n) for n in {names}))".format(
    names=("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS")
)


def test_threads_do_not_spin_unless_the_user_says_so() -> None:
    assert python(ASK).stdout.split() == ["passive", "1000", "None", "None"]
    chosen = {"OMP_WAIT_POLICY": "active", "GOMP_SPINCOUNT": "7", "KMP_BLOCKTIME": "1"}
    for i, (name, value) in enumerate(chosen.items()):
        found = python(ASK, **{name: value}).stdout.split()
        assert found == [*["None"] * i, value, *["None"] * (3 - i)]


def test_the_openmp_that_torch_loads_has_read_it() -> None:
    shown = python("import conjure_lib, torch", OMP_DISPLAY_ENV="verbose").stderr
    if "GOMP_SPINCOUNT" not in shown:
        pytest.skip("torch is not built with GNU OpenMP")
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in shown and "GOMP_SPINCOUNT = '1000'" in shown


def group(folder: Path, **files: str) -> None:
    """A control group with some files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


def process_in(folder: Path, cgroup: str, *mounts: str) -> Path:
    """A /proc/self of a process in some groups; mounts are "root folder kind options"."""
    lines = []
    for root, where, kind, options in (mount.split() for mount in mounts):
        lines.append(f"31 23 0:28 {root} {folder / where} rw shared:9 - {kind} cgroup {options}")
    group(folder / "proc", cgroup=cgroup, mountinfo="\n".join(lines))
    return folder / "proc"


INF = float("inf")
V2 = "/ cg cgroup2 rw,nsdelegate"
V1 = ("/ cpuset cgroup rw,cpuset", "/ cg cgroup rw,cpu,cpuacct", "/ v2 cgroup2 rw")


@pytest.mark.parametrize(
    ("cgroup", "mounts", "groups", "quota"),
    [
        ("0::/", [V2], {"": "max 100000"}, INF),
        ("0::/", [V2], {"": "150000 100000"}, 1.5),  # a container that sees its own group
        ("0::/a/b.scope", [V2], {"a": "50000 100000", "a/b.scope": "300000 100000"}, 0.5),
        ("0::/a/b.scope", [V2], {"a": "max 100000", "a/b.scope": "25000 50000"}, 0.5),
        ("0::/a", [V2], {"other": "10000 100000"}, INF),
        ("0::/../host/pod", [V2], {"": "200000 100000"}, 2.0),
        ("4:memory:/\n3:cpu,cpuacct:/a\n0::/", V1, {"a": "-1 100000"}, INF),
        ("4:memory:/\n3:cpu,cpuacct:/a\n0::/", V1, {"": "-1 100000", "a": "50000 100000"}, 0.5),
        # Docker with version 1: the path is the host's, and so is the root of the mount
        ("3:cpu:/docker/4f", ["/docker/4f cg cgroup rw,cpu"], {"": "400000 100000"}, 4.0),
        ("3:cpu:/docker/4f", ["/ cg cgroup rw,cpu"], {"": "400000 100000"}, 4.0),
        ("3:cpuset:/a", ["/ cg cgroup rw,cpuset"], {"a": "50000 100000"}, INF),
    ],
)
def test_the_quota_is_read_as_the_kernel_shows_it(
    tmp_path: Path, cgroup: str, mounts: list[str], groups: dict[str, str], quota: float
) -> None:
    for name, text in groups.items():
        if "cgroup2" in mounts[0]:
            group(tmp_path / "cg" / name, cpu__max=text)
        else:
            limit, period = text.split()
            group(tmp_path / "cg" / name, cpu__cfs_quota_us=limit, cpu__cfs_period_us=period)
    assert machine._quota(process_in(tmp_path, cgroup, *mounts)) == quota


def test_without_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert machine._quota(tmp_path / "nothing") == INF


@pytest.mark.parametrize(("quota", "expected"), [(INF, 8), (0.2, 1), (1.5, 2), (3.0, 3), (64.0, 8)])
def test_cores_are_those_of_the_quota(
    monkeypatch: pytest.MonkeyPatch, quota: float, expected: int
) -> None:
    monkeypatch.setattr(machine, "visible", lambda: 8)
    monkeypatch.setattr(machine, "_quota", lambda proc: quota)
    assert machine.cores() == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="there is no affinity here")
def test_cores_are_those_of_the_affinity() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += "from conjure_lib import machine; print(machine.cores())"
    assert python(code).stdout.split() == ["1"]


@pytest.mark.parametrize(
    ("threads", "variable", "expected"), [(8, None, 3), (4, None, 3), (6, None, 6), (8, "8", 8)]
)
def test_threads_are_no_more_than_the_cores(
    monkeypatch: pytest.MonkeyPatch, threads: int, variable: str | None, expected: int
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    found = [threads]
    monkeypatch.setattr(machine, "visible", lambda: 8)
    monkeypatch.setattr(machine, "_quota", lambda proc: 3.0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: found[-1])
    monkeypatch.setattr(torch, "set_num_threads", found.append)
    machine.limit_threads()
    assert found[-1] == expected


# -- precision --------------------------------------------------------------------------------


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the variables are for x86")
def test_a_cpu_without_bfloat16_trains_in_float32() -> None:
    code = "from conjure_tools.hardware import autocast, half_pays\n"
    code += "print(half_pays(), autocast()._enabled)"
    older = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}
    assert python(code, **older).stdout.split() == ["False", "False"]


@pytest.mark.parametrize("pays", [False, True])
def test_the_precision_is_the_one_that_pays(monkeypatch: pytest.MonkeyPatch, pays: bool) -> None:
    monkeypatch.setattr(hardware, "_measured", lambda: pays)
    a = torch.ones(2, 2)
    with hardware.autocast():
        assert (a @ a).dtype == (torch.bfloat16 if pays else torch.float32)


@pytest.mark.parametrize("slow", ["float32", "bfloat16"])
def test_what_is_measured_decides(monkeypatch: pytest.MonkeyPatch, slow: str) -> None:
    now = 0.0

    def clock() -> float:  # read twice a step; a step in the slow precision takes 3, else 1
        nonlocal now
        half = torch.is_autocast_enabled("cpu")
        now += 3.0 if half == (slow == "bfloat16") else 1.0
        return now

    def network(*layers: Any) -> Any:
        return lambda x: (clock(), x.requires_grad_())[1]

    monkeypatch.setattr(hardware.time, "process_time", lambda: now)
    monkeypatch.setattr(torch.nn, "Sequential", network)
    assert hardware._measured.__wrapped__() is (slow == "float32")


def test_the_measurement_leaves_the_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    with torch.no_grad():
        hardware._measured.__wrapped__()
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("pays", [False, True])
@pytest.mark.parametrize("asked", [False, True])
def test_grounding_takes_bfloat16_only_where_it_pays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: bool, pays: bool
) -> None:
    class AskedError(Exception):
        pass

    def arguments(**options: Any) -> None:
        raise AskedError(options["bf16"])

    monkeypatch.setattr(grounding, "TrainingArguments", arguments)
    monkeypatch.setattr(grounding, "half_pays", lambda device: pays)
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "data/emoji-diffusion/tokenizer")
    batches = grounding.Batches(tokenizer, grounding.Corpus(["a cat"]), None)
    with pytest.raises(AskedError) as found:
        grounding.train(torch.nn.Identity(), batches, tmp_path, bf16=asked)
    assert found.value.args == (asked and pays,)
