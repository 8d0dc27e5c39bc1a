"""The measurements of a card, as far as they go without one."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    return importlib.import_module("gpu")


@pytest.mark.filterwarnings("ignore:Dynamo detected a call:UserWarning")  # of diffusers' own
def test_all_that_needs_no_card_runs(gpu: ModuleType, tmp_path: Path) -> None:
    gpu.main(["--tiny", "--out", str(tmp_path / "record.json")])
    record = json.loads((tmp_path / "record.json").read_text("utf-8"))
    assert record["device"] == "CPU" and record["tiny"] and record["left_out"] == []
    rows = record["rows"]
    assert {r["model"] for r in rows} == {"Stable Diffusion 1.x", "SDXL", "Flux"}
    assert {r["dtype"] for r in rows} == {"float32", "bfloat16"}
    rounding = [r for r in rows if r["part"] == "rounding"]
    for row in rounding:  # of single precision next to nothing, of half more, of a text much more
        exact = row["dtype"] == "float32"
        assert row["floor"] < (1e-5 if exact else 0.05) and row["texts"] > row["floor"]
        if row["model"] != "Flux":
            assert row["from_cpu"] < (1e-5 if exact else 0.1)
    rates = [r for r in rows if r["part"] == "rate"]
    assert all(r["evaluations_per_second"] > 0 and r["share_of_ceiling"] > 0 for r in rates)
    assert {r["batch"] for r in rates} == {1, 4}
    compiled = [r for r in rates if r["compiled"]]
    assert len(compiled) == 3 and all(r["difference"] < 0.05 for r in compiled)


def test_what_time_does_not_allow_is_named(gpu: ModuleType) -> None:
    record = gpu.measure(torch.device("cpu"), tiny=True, budget=-1)
    assert record["rows"] == [] and len(record["left_out"]) == 6
    assert record["left_out"][0] == "Stable Diffusion 1.x in torch.float32: no time"


def test_no_card_is_one_sentence(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"^There is no CUDA card here, and .*\.$"):
        gpu.main(["--out", str(tmp_path / "record.json")])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "millions", "operations"),
    [("Stable Diffusion 1.x", 860, 0.8e12), ("SDXL", 2567, 6e12), ("Flux", 11901, 60e12)],
)
def test_the_full_sizes_are_those_of_the_models(
    gpu: ModuleType, name: str, millions: int, operations: float
) -> None:
    """Published numbers of parameters; operations of an evaluation to a factor of two."""
    (one,) = (a for a in gpu.architectures(tiny=False) if a.name == name)
    with torch.device("meta"):
        network = one.kind.from_config(one.config)
    assert sum(p.numel() for p in network.parameters()) // 10**6 in range(
        millions - 8, millions + 8
    )
    assert operations / 2 < gpu.flops(one) < 2 * operations
