"""A distance as a loss, against finite differences; embeddings in the place of texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import conjure_lib as cj
from conjure_lib.similarity import RoundingWarning
from conjure_tools.gradients import distance_loss, with_embeddings

FEW: dict[str, Any] = {"steps": 3, "draws": 2}


@pytest.fixture(scope="module")
def exact(random_folder: Path) -> cj.GenerativeProcess:
    """A small pipeline whose network computes in float64."""
    return cj.load(random_folder, device="cpu", dtype="float64")


@pytest.fixture(scope="module")
def cat(exact: cj.GenerativeProcess) -> Tensor:
    return exact.encode(["a cat"]).double()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"guidance": 3.0, "sampler": "ancestral"},
        {"weighting": "noise", "quadrature": "linear", "sampler": "dpm++2m"},
        {"quadrature": "sum"},
    ],
)
def test_the_gradient_is_that_of_finite_differences(
    exact: cj.GenerativeProcess, cat: Tensor, settings: dict[str, Any]
) -> None:
    leaf = cat.clone().requires_grad_()
    value = distance_loss(exact, leaf, "dog", **FEW, **settings)
    value.backward()
    towards = torch.randn(cat.shape, generator=torch.Generator().manual_seed(0)).double()
    step = 1e-4
    ends = [
        distance_loss(exact, cat + k * step * towards, "dog", **FEW, **settings) for k in (1, -1)
    ]
    slope = float((ends[0] - ends[1]) / (2 * step))
    assert leaf.grad is not None and slope != 0
    assert float((leaf.grad * towards).sum()) == pytest.approx(slope, rel=1e-4)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpm++2m"])
@pytest.mark.parametrize(("dtype", "near"), [("float32", 1e-4), ("bfloat16", 0.05)])
def test_its_value_is_the_distance(
    random_folder: Path, sampler: str, dtype: str, near: float
) -> None:
    process = cj.load(random_folder, device="cpu", dtype=dtype)
    settings: dict[str, Any] = {"guidance": 3.0, "sampler": sampler, **FEW}
    value = distance_loss(process, "a cat", "dog", **settings)
    expected = cj.distance(process, "a cat", "dog", **settings).value
    assert value.shape == () and float(value) == pytest.approx(expected, rel=near)


def test_its_value_in_double_precision(exact: cj.GenerativeProcess) -> None:
    value = distance_loss(exact, "a cat", "dog", guidance=3.0, **FEW)
    expected = cj.distance(exact, "a cat", "dog", guidance=3.0, **FEW).value
    assert float(value) == pytest.approx(expected, rel=1e-4)


def test_a_step_down_the_gradient_brings_a_prompt_nearer(
    exact: cj.GenerativeProcess, cat: Tensor
) -> None:
    leaf = cat.clone().requires_grad_()
    before = distance_loss(exact, leaf, "dog", **FEW)
    before.backward()
    assert leaf.grad is not None
    moved = cat - 0.1 * float(before.detach()) / leaf.grad.square().sum() * leaf.grad
    assert distance_loss(exact, moved, "dog", **FEW) < before


def test_gradients_reach_the_weights_that_want_them(exact: cj.GenerativeProcess) -> None:
    network = exact.network
    assert network is not None
    weight = next(p for name, p in network.named_parameters() if "attn2" in name)
    weight.requires_grad_(True)
    try:
        distance_loss(exact, "a cat", "dog", **FEW).backward()
        assert weight.grad is not None and float(weight.grad.abs().sum()) > 0
    finally:
        weight.requires_grad_(False)
        weight.grad = None


def test_what_is_no_single_prompt_is_refused(exact: cj.GenerativeProcess, cat: Tensor) -> None:
    with pytest.raises(ValueError, match="y1 must be the embedding of one prompt, one row, not 2"):
        distance_loss(exact, torch.cat([cat, cat]), "dog", **FEW)
    with pytest.raises(TypeError, match="y2 must be a string, not int"):
        distance_loss(exact, cat, 3, **FEW)  # type: ignore[arg-type]


def test_embeddings_go_by_name_in_all_that_takes_texts(exact: cj.GenerativeProcess) -> None:
    mine = exact.encode(["a cat"])
    named = with_embeddings(exact, {"mine": mine, "between": (mine + exact.encode(["dog"])) / 2})
    pairs = [("mine", "dog"), ("a cat", "dog"), ("mine", "between")]
    found = cj.distances(named, pairs, **FEW)
    assert found[0].value == pytest.approx(found[1].value, rel=1e-6)
    assert 0 < found[2].value < found[0].value
    with pytest.warns(RoundingWarning, match="'mine' and 'a cat' is .* not told from 0"):
        assert cj.distance(named, "mine", "a cat", **FEW) < 1e-6
    direct = distance_loss(exact, mine, (mine + exact.encode(["dog"])) / 2, **FEW)
    assert found[2].value == pytest.approx(float(direct), rel=1e-4)
    matrix = cj.distance_matrix(named, ["mine", "between", "dog"], **FEW)
    np.testing.assert_allclose(matrix["mine", "dog"], found[0].value, rtol=1e-5)


def test_other_embeddings_are_another_model_to_records(exact: cj.GenerativeProcess) -> None:
    one = exact.encode(["a cat"])
    names = [with_embeddings(exact, {"mine": e}).name for e in (one, one, one + 1e-3)]
    assert names[0] == names[1] != names[2]
    assert with_embeddings(exact, {"other": one}).name != names[0] != exact.name
