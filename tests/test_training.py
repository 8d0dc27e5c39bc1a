"""The recipe: pictures, captions, and a training loop that a kill does not change."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoTokenizer

from conjure_lib import load
from conjure_tools.weights import reader
from studies.gaussians import Mixture
from training.autoencoder import to_tensor
from training.exact import STD, exact_denoiser, known_pictures
from training.loop import save_atomically, train
from training.pictures import Emoji, Picture, article, caption, compose, draw, load_sample, plural
from training.pipeline import BITS, round_weights
from training.recognise import ranks
from training.text_encoder import pad_ids, principal_axes
from training.unet import build, build_scheduler, picture_set, train_unet

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
    singles = [Picture((k,), "single") for k in range(8)]
    for picture in [*singles, *compose(60, len(emoji), rng)]:
        drawn = draw(picture, emoji)
        assert drawn.shape == (64, 64, 3)
        assert drawn.dtype == np.uint8
        assert (drawn == 255).all(axis=2).mean() > 0.1  # paper is left
        assert (drawn < 200).any()  # and something is on it
    assert to_tensor(drawn[None]).shape == (1, 3, 64, 64)


def test_every_emoji_is_shown_once_alone_and_scenes_follow() -> None:
    pictures = picture_set(50, 1000)
    assert [p.parts for p in pictures[:50]] == [(k,) for k in range(50)]
    assert {p.layout for p in pictures[:50]} == {"single"}
    assert {p.layout for p in pictures[50:]} == {"row", "column", "three", "many"}
    assert pictures == picture_set(50, 1000)


def test_the_loss_is_that_of_v(emoji: list[Emoji], tmp_path: Path) -> None:
    """A network whose noise is right has no error in v, and one that says zero an error of one."""

    class Known(nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(scale))
            self.process = build_scheduler()
            self.x0 = latents[0]

        def set_attn_processor(self, _: object) -> None: ...

        def forward(self, x: Tensor, t: Tensor, _: Tensor) -> Any:
            bar = self.process.alphas_cumprod[t][:, None, None, None]
            eps = (x - bar.sqrt() * self.x0) / (1 - bar).sqrt()
            v = self.process.get_velocity(self.x0.expand_as(x), eps, t)
            return SimpleNamespace(sample=self.scale * v)

    pictures = picture_set(len(emoji), 260)
    latents = torch.randn(1, 16, 8, 8).expand(len(pictures), -1, -1, -1)
    folder = Path(DATA / "emoji-diffusion")
    for scale, wanted in ((1.0, 0.0), (0.0, 1.0)):
        process = load(folder, device="cpu")
        train_unet(
            emoji,
            pictures,
            latents,
            process.modules["text_encoder"],
            reader(AutoTokenizer, folder / "tokenizer"),
            tmp_path / str(scale),
            1,
            batch=4,
            start=Known(scale),
        )
        log = json.loads((tmp_path / str(scale) / "log.jsonl").read_text().splitlines()[-1])
        assert log["singles"] == pytest.approx(wanted, abs=0.15)


def test_every_emoji_is_told_from_all_others_by_its_own_picture(emoji: list[Emoji]) -> None:
    drawn = [draw(Picture((k,), "single"), emoji) for k in range(len(emoji))]
    assert (ranks(drawn, emoji, range(len(emoji))) == 1).all()
    mirrored = [one[:, ::-1] for one in drawn]
    assert (ranks(mirrored, emoji, range(len(emoji))) == 1).all()
    shifted = [np.roll(one, (2, -1), (0, 1)) for one in drawn]  # cropped to its ink, it is the same
    assert (ranks(shifted, emoji, range(len(emoji))) == 1).mean() > 0.95
    others = [drawn[-1 - k] for k in range(len(emoji))]
    assert (ranks(others, emoji, range(len(emoji))) > 1).all()


@torch.no_grad()
def test_the_exact_denoiser_draws_what_is_named_and_scores_as_a_mixture_does(
    emoji: list[Emoji],
) -> None:
    process = load(DATA / "emoji-diffusion", device="cpu")
    known = known_pictures(process, emoji)
    exact = exact_denoiser(process, known)
    names = [one.name for one in emoji[:12]]
    pictures = exact.generate(names, steps=20, seed=0)
    found = ranks(list((pictures * 255).round().astype(np.uint8)), emoji, range(12))
    assert (found == 1).mean() > 0.9
    x = torch.randn(2, *exact.latent_shape, generator=torch.Generator().manual_seed(0)).double()
    log_weights, t = exact.encode(names[:2]).double(), torch.tensor([300, 600])
    bar = exact.scheduler.alphas_cumprod.double()[t]
    law = [
        Mixture(
            bar[i].sqrt() * known.centres.double(),
            (bar[i] * STD**2 + 1 - bar[i]).sqrt().expand(len(emoji)),
            log_weights[i].exp(),
        )
        for i in range(2)
    ]
    score = torch.stack([law[i].score(x[i].flatten()[None])[0] for i in range(2)])
    wanted = -(1 - bar).sqrt()[:, None] * score
    eps = exact.eps(x.float(), t, exact.encode(names[:2])).flatten(1)
    torch.testing.assert_close(eps, wanted.float(), rtol=1e-3, atol=1e-3)


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
    mean, basis, kept = principal_axes(vectors, 2)
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


def test_weights_that_ship_have_few_bits_and_are_near_what_was_trained() -> None:
    part = nn.ModuleList([nn.Linear(400, 30), nn.Embedding(6000, 192), nn.Embedding(32, 192)])
    before = [weight.detach().clone() for weight in part.parameters()]
    round_weights(part)
    linear, bias, table, places = part.parameters()
    assert torch.equal(table * 16, (table * 16).round())
    assert (table - before[2]).abs().max() <= 1 / 32
    for weight, old in ((linear, before[0]), (bias, before[1]), (places, before[3])):
        assert ((weight - old).abs() <= old.abs() / 2**BITS).all()
        normal = weight.detach()[weight.abs() > 1e-4].half().view(torch.int16)
        assert not (normal & 0b1111).any()  # of ten explicit bits of the mantissa six are used
