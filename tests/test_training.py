"""The recipe: pictures, captions, and a training loop that a kill does not change."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from training.autoencoder import to_tensor
from training.loop import save_atomically, train
from training.pictures import Emoji, Picture, article, caption, compose, draw, load_sample, plural
from training.text_encoder import pad_ids, principal_components
from training.unet import build, build_scheduler

DATA = Path(__file__).parent.parent / "data"


@pytest.fixture(scope="module")
def emoji() -> list[Emoji]:
    return load_sample(DATA / "emoji-sample")


def test_the_sample_holds_what_its_words_say(emoji: list[Emoji]) -> None:
    assert len({e.text for e in emoji}) == 64
    heart = next(e for e in emoji if e.name == "red heart")
    red, green, blue, opaque = np.asarray(heart.bitmap).reshape(-1, 4).T.astype(float)
    assert (red * opaque).sum() > 2 * (green * opaque).sum() > 0
    assert (red * opaque).sum() > 2 * (blue * opaque).sum()


def test_a_picture_is_drawn_inside_its_frame_on_white(emoji: list[Emoji]) -> None:
    rng = np.random.default_rng(0)
    for picture in compose(60, len(emoji), rng):
        drawn = draw(picture, emoji, rng)
        assert drawn.shape == (64, 64, 3)
        assert drawn.dtype == np.uint8
        assert (drawn == 255).all(axis=2).mean() > 0.1  # paper is left
        assert (drawn < 200).any()  # and something is on it
    assert to_tensor(drawn[None]).shape == (1, 3, 64, 64)


def test_every_emoji_is_shown_equally_often_alone() -> None:
    pictures = compose(1000, 50, np.random.default_rng(0))
    single = np.bincount([p.parts[0] for p in pictures if p.layout == "single"], minlength=50)
    assert single.max() - single.min() <= 1
    assert {p.layout for p in pictures} == {"single", "row", "column", "three", "many"}


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (Picture((0, 1), "row"), {"and", "with", "next to", "beside", "near", "together with"}),
        (Picture((5, 5, 5), "many"), {"three", "many", "some"}),
    ],
)
def test_captions_say_what_is_there(emoji: list[Emoji], picture: Picture, words: set[str]) -> None:
    rng = np.random.default_rng(1)
    said = [caption(picture, emoji, rng) for _ in range(200)]
    assert all(any(word in text for word in words) for text in said)
    assert all(any(word in text for text in said) for word in words)


def test_above_and_below_follow_the_picture(emoji: list[Emoji]) -> None:
    rng = np.random.default_rng(2)
    cat = next(i for i, e in enumerate(emoji) if e.name == "cat")
    fire = next(i for i, e in enumerate(emoji) if e.name == "fire")
    said = {caption(Picture((cat, fire), "column"), emoji, rng) for _ in range(2000)}
    assert "a cat above a fire" in said and "a fire below a cat" in said
    assert not said & {"a cat below a fire", "a fire above a cat", "a fire on a cat"}


def test_small_words() -> None:
    assert [article("apple"), article("cat")] == ["an apple", "a cat"]
    assert [plural(w) for w in ("cat", "fox", "baby", "boy")] == ["cats", "foxes", "babies", "boys"]


def test_principal_components_against_svd() -> None:
    vectors = torch.randn(200, 6, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 7)
    mean, basis, kept = principal_components(vectors, 2)
    _, singular, rows = torch.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    torch.testing.assert_close(mean, vectors.mean(0))
    torch.testing.assert_close(basis.abs(), rows[:2].T.abs(), atol=1e-4, rtol=1e-4)
    assert kept == pytest.approx(float((singular[:2] ** 2).sum() / (singular**2).sum()), rel=1e-5)
    assert pad_ids([[1, 2], [3]], 3, 0).tolist() == [[1, 2, 0], [3, 0, 0]]


def test_the_schedule_is_that_of_stable_diffusion() -> None:
    root = np.linspace(0.00085**0.5, 0.012**0.5, 1000)
    expected = np.cumprod(1 - root**2)
    np.testing.assert_allclose(build_scheduler().alphas_cumprod.numpy(), expected, rtol=1e-4)
    assert 5e6 < sum(p.numel() for p in build().parameters()) < 10e6


class KilledError(Exception):
    """Stands for SIGKILL between two steps."""


def fit(folder: Path, steps: int, killed_at: int | None = None) -> nn.Linear:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)

    def loss(step: int, generator: torch.Generator) -> Tensor:
        if step == killed_at:
            raise KilledError
        x = torch.randn(8, 3, generator=generator)
        return (model(x) - x[:, :2]).square().mean()

    train(model, loss, folder, steps=steps, learning_rate=1e-2, ema=0.9, checkpoint_every=4)
    return model


def test_a_kill_changes_nothing(tmp_path: Path) -> None:
    undisturbed = fit(tmp_path / "whole", 60)
    with pytest.raises(KilledError):
        fit(tmp_path / "broken", 60, killed_at=31)
    resumed = fit(tmp_path / "broken", 60)
    for a, b in zip(undisturbed.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    records = (tmp_path / "broken/log.jsonl").read_text().splitlines()
    assert json.loads(records[-1])["step"] == 60


def test_the_loop_minimises(tmp_path: Path) -> None:
    model = fit(tmp_path, 1500)
    expected = torch.eye(2, 3)
    torch.testing.assert_close(model.weight.detach(), expected, atol=0.05, rtol=0)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    fit(tmp_path, 4)
    before = load_file(tmp_path / "checkpoint.safetensors")
    model = nn.Linear(3, 2)
    with pytest.raises(FloatingPointError, match="loss of step 4 is nan"):
        train(
            model,
            lambda step, generator: model.weight.sum() * torch.nan,
            tmp_path,
            steps=8,
            learning_rate=1e-2,
        )
    after = load_file(tmp_path / "checkpoint.safetensors")
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    save_atomically({"a": torch.ones(2)}, file)
    assert [f.name for f in tmp_path.iterdir()] == ["x.safetensors"]
    assert torch.equal(load_file(file)["a"], torch.ones(2))
