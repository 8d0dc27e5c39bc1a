"""Baselines against plain loops over diffusers and transformers, closed forms, and scipy."""

from __future__ import annotations

import gc
import math
import string
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from conftest import Model
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler
from numpy.typing import NDArray
from PIL import Image
from scipy.linalg import sqrtm
from torch import Tensor

import conjure_lib as cj
from conjure_lib.process import generator
from conjure_tools import baselines, distributions
from conjure_tools.baselines import (
    direct_output,
    image_gaussian,
    initial_timestep,
    text_encoder_cosine,
)
from studies.other_models import clip_features, sentence_cosine

PAIRS = [("a cat", "snow leopard"), ("pizza", "a cat"), ("pizza", "pizza")]
SAMPLERS = {"ddim": DDIMScheduler, "ddpm": DDPMScheduler}
STEPS, DRAWS, SEED = 3, 2, 5

# -- plain loops over diffusers --------------------------------------------------------------


def text_of(model: Model, prompt: str, padding: str = "max_length") -> dict[str, Tensor]:
    tokenizer = model.pipeline.tokenizer
    length = tokenizer.model_max_length
    ids = tokenizer(
        prompt, padding=padding, max_length=length, truncation=True, return_tensors="pt"
    ).input_ids
    return {"ids": ids, **model.pipeline.text_encoder(ids)}


def output(model: Model, x: Tensor, t: Tensor, prompt: str) -> Tensor:
    states = text_of(model, prompt)["last_hidden_state"]
    return model.pipeline.unet(x, t, encoder_hidden_states=states).sample


def prediction(model: Model, x: Tensor, t: Tensor, prompt: str) -> Tensor:
    """Noise prediction, from v where that is what the network says."""
    said, scheduler = output(model, x, t, prompt), model.pipeline.scheduler
    if scheduler.config.prediction_type == "epsilon":
        return said
    bar = scheduler.alphas_cumprod[int(t)]
    return bar.sqrt() * said + (1 - bar).sqrt() * x


def final_latent(
    model: Model, prompt: str, draw: int, guidance: float = 1.0, sampler: str = "ddim"
) -> Tensor:
    """One sample, (1, channels, 8, 8), one prediction at a time."""
    scheduler = SAMPLERS[sampler].from_config(model.pipeline.scheduler.config)
    scheduler.set_timesteps(STEPS)
    x = torch.randn((1, *model.process.latent_shape), generator=generator(SEED, draw))
    for step, t in enumerate(scheduler.timesteps):
        empty = output(model, x, t, "")
        guided = empty + guidance * (output(model, x, t, prompt) - empty)
        noise = generator(SEED, draw, step)
        x = scheduler.step(guided, t, x, generator=noise).prev_sample
    return x


def picture(model: Model, latent: Tensor) -> Tensor:
    vae = model.pipeline.vae
    return (vae.decode(latent / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)


def square(difference: Tensor) -> float:
    return float(difference.double().square().sum())


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@torch.no_grad()
def test_initial_timestep_is_the_first_difference(model: Model, guidance: float) -> None:
    scheduler = DDIMScheduler.from_config(model.pipeline.scheduler.config)
    scheduler.set_timesteps(10)
    t, expected = scheduler.timesteps[0], np.zeros(len(PAIRS))
    assert int(t) == 901
    for draw in range(DRAWS):
        x_T = torch.randn((1, *model.process.latent_shape), generator=generator(SEED, draw))
        empty = prediction(model, x_T, t, "")
        for p, pair in enumerate(PAIRS):
            first, second = (
                empty + guidance * (prediction(model, x_T, t, prompt) - empty) for prompt in pair
            )
            expected[p] -= square(first - second) / DRAWS
    found = initial_timestep(model.process, PAIRS, draws=DRAWS, seed=SEED, guidance=guidance)
    assert found.dtype == np.float64 and expected[0] < 0
    np.testing.assert_allclose(found, expected, rtol=1e-3)


@pytest.mark.parametrize("space", ["latents", "pixels"])
@pytest.mark.parametrize(
    "sampling", [{}, {"guidance": 3.0}, {"sampler": "ddpm"}], ids=["", "guided", "ddpm"]
)
@torch.no_grad()
def test_direct_output_is_the_last_difference(
    model: Model, sampling: dict[str, object], space: str
) -> None:
    expected = np.zeros(len(PAIRS))
    for draw in range(DRAWS):
        for p, pair in enumerate(PAIRS):
            first, second = (final_latent(model, prompt, draw, **sampling) for prompt in pair)
            if space == "pixels":
                first, second = picture(model, first), picture(model, second)
            expected[p] -= square(first - second) / DRAWS
    settings = {"steps": STEPS, "draws": DRAWS, "seed": SEED, "batch_size": 2}
    found = direct_output(model.process, PAIRS, space=space, **settings, **sampling)
    assert found.dtype == np.float64 and expected[0] < 0
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_initial_timestep_is_the_first_term_of_algorithm_1(process: cj.GenerativeProcess) -> None:
    for steps in (1, 4):
        terms = cj.pair_terms(process, PAIRS, steps=steps, draws=DRAWS, guidance=2.0).squares
        found = initial_timestep(process, PAIRS, steps=steps, draws=DRAWS, guidance=2.0)
        np.testing.assert_allclose(found, -terms[:, :, 0, 0].mean(axis=1), rtol=1e-4)


def test_initial_timestep_of_a_flow_asks_at_noise_itself() -> None:
    """At T, where the state is N(0, I), and of velocities: the v of N(m, 1/4) at σ = 1 is x - m."""
    asked = []

    def predict(x: Tensor, t: Tensor, mean: Tensor) -> Tensor:
        asked.append((x, t))
        sigma = t[:, None] / 1000
        clean = mean + (x - (1 - sigma) * mean) * (1 - sigma) / 4 / (
            (1 - sigma) ** 2 / 4 + sigma**2
        )
        eps = (x - (1 - sigma) * clean) / sigma
        return eps - clean

    def encode(texts: Sequence[str]) -> Tensor:
        return torch.tensor([[float(text), 0.5] for text in texts])

    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    flow = cj.GenerativeProcess(predict, encode, scheduler, (2,), kind="flow")
    found = initial_timestep(flow, [("1", "3"), ("1", "-2")], draws=DRAWS, seed=SEED, guidance=2.0)
    np.testing.assert_allclose(found, [-4 * 4, -4 * 9], rtol=1e-5)
    assert flow.evaluations == 3 * DRAWS
    for (x, t), draw in zip(asked, range(DRAWS), strict=True):
        assert (t == 1000).all()
        torch.testing.assert_close(x[0], torch.randn(2, generator=generator(SEED, draw)))


@pytest.mark.parametrize("pooling", ["last", "mean"])
@torch.no_grad()
def test_text_encoder_cosine_is_that_of_the_pipelines_encoder(model: Model, pooling: str) -> None:
    """CLIP's own pooled output; and the mean of an encoding that was never padded."""
    long = " ".join(["snow leopard", *string.ascii_lowercase] * 4)
    prompts = ["cat", "a bengal tiger", long]
    if pooling == "last":
        vectors = [text_of(model, p)["pooler_output"][0] for p in prompts]
    else:
        states = [text_of(model, p, padding="do_not_pad")["last_hidden_state"] for p in prompts]
        assert len({s.shape[1] for s in states}) == 3
        vectors = [s[0, 1:].mean(0) for s in states]
    pairs = [(a, b) for a in prompts for b in prompts]
    expected = [float(a @ b / a.norm() / b.norm()) for a in vectors for b in vectors]
    with pytest.warns(UserWarning, match="are cut"):
        found = text_encoder_cosine(model.process, pairs, pooling=pooling)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.dtype == np.float64 and min(found) < 0.999


# -- closed forms ----------------------------------------------------------------------------

MEANS = {"": 0.5, "a": 1.0, "b": -0.75, "c": 3.0}


def toy(predict: Callable[[Tensor, Tensor, Tensor], Tensor]) -> cj.GenerativeProcess:
    """Latents in two dimensions, prompts that are a number, pictures that are the latents."""

    def encode(texts: Sequence[str]) -> Tensor:
        return torch.tensor([[MEANS[text]] for text in texts])

    scheduler = DDIMScheduler(clip_sample=False, timestep_spacing="leading", steps_offset=1)
    return cj.GenerativeProcess(predict, encode, scheduler, (2,), lambda latents: latents.numpy())


def carried(steps: int) -> tuple[float, float]:
    """(A, c) such that a constant prediction m takes x_T to A x_T + c m, by DDIM's recursion."""
    scheduler = toy(lambda x, t, y: y).sampler(sampler="ddim", steps=steps)
    bars = [float(scheduler.alphas_cumprod[t]) for t in scheduler.timesteps]
    scale, shift = 1.0, 0.0
    for now, after in zip(bars, [*bars[1:], float(scheduler.final_alpha_cumprod)], strict=True):
        ratio = math.sqrt(after / now)
        scale, shift = ratio * scale, ratio * (shift - math.sqrt(1 - now)) + math.sqrt(1 - after)
    return scale, shift


def constant(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """ε(x, t|y) = (y, y) for every x."""
    return y.expand(len(x), 2)


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_a_constant_prediction_has_closed_forms(guidance: float) -> None:
    process, pairs = toy(constant), [("a", "b"), ("b", "c"), ("a", "a")]
    squares = guidance**2 * 2 * np.array([(MEANS[a] - MEANS[b]) ** 2 for a, b in pairs])
    np.testing.assert_allclose(initial_timestep(process, pairs, guidance=guidance), -squares)
    c = carried(7)[1]
    for space in ("latents", "pixels"):
        found = direct_output(process, pairs, space=space, steps=7, guidance=guidance)
        np.testing.assert_allclose(found, -(c**2) * squares, rtol=1e-4)
    settings = {"steps": 7, "guidance": guidance, "components": 2, "images": 5, "seed": 3}
    found = image_gaussian(process, pairs, **settings)  # x_T is shared, and so the covariance
    np.testing.assert_allclose(found, -(c**2) * squares, rtol=1e-4, atol=1e-4)


def test_gaussians_of_two_widths_have_closed_forms() -> None:
    """ε(x|y) = y x makes images f(y) x_T: proportional covariances, the same for all else."""
    process, pairs = toy(lambda x, t, y: 0.1 * y * x), [("a", "b"), ("c", "a"), ("b", "b")]
    settings = {"images": 40, "components": 2, "steps": 4, "seed": 1}
    x_T = process.noise(range(40), seed=1).double().numpy()
    drawn = {}
    for prompt in "abc":
        y = process.encode([prompt])
        final = process.trajectories(y, torch.ones(1, 2), [0], steps=4).final
        drawn[prompt] = float(final[0, 0])
    f = np.array([[drawn[a], drawn[b]] for a, b in pairs]).T
    mean, trace = x_T.mean(axis=0), np.trace(np.cov(x_T.T, bias=True))
    found = image_gaussian(process, pairs, **settings)
    expected = (f[0] - f[1]) ** 2 * (mean @ mean + trace)
    np.testing.assert_allclose(found, -expected, rtol=1e-4, atol=1e-4)
    found = image_gaussian(process, pairs, divergence="jeffreys", **settings)
    ratio, precision = (f[0] / f[1]) ** 2, np.linalg.inv(ledoit_wolf(x_T))
    shift = (f[0] - f[1]) ** 2 * (1 / f[0] ** 2 + 1 / f[1] ** 2) * (mean @ precision @ mean)
    np.testing.assert_allclose(found, -(ratio + 1 / ratio - 2 + shift / 2), rtol=1e-3, atol=1e-6)


# -- Gaussians, written out ------------------------------------------------------------------


def ledoit_wolf(x: NDArray) -> NDArray:
    """Ledoit and Wolf (2004), section 3.2, sample by sample: m_n, d_n², b_n²."""
    x = x - x.mean(axis=0)
    n, p = x.shape
    s = sum(np.outer(row, row) for row in x) / n
    m = np.trace(s) / p
    d2 = np.sum((s - m * np.eye(p)) ** 2) / p
    b2 = min(d2, sum(np.sum((np.outer(row, row) - s) ** 2) / p for row in x) / n**2)
    return b2 / d2 * m * np.eye(p) + (d2 - b2) / d2 * s


def fid(m1: NDArray, s1: NDArray, m2: NDArray, s2: NDArray) -> float:
    return np.sum((m1 - m2) ** 2) + np.trace(s1 + s2 - 2 * sqrtm(s1 @ s2).real)


def kl(m1: NDArray, s1: NDArray, m2: NDArray, s2: NDArray) -> float:
    """KL(N(m1, s1)‖N(m2, s2)), logarithms and all."""
    inverse, d = np.linalg.inv(s2), m1 - m2
    logs = np.linalg.slogdet(s2)[1] - np.linalg.slogdet(s1)[1]
    return (np.trace(inverse @ s1) - len(m1) + d @ inverse @ d + logs) / 2


def test_divergences_of_known_gaussians() -> None:
    rng = np.random.default_rng(0)
    m, a = rng.normal(size=(4, 3)), rng.normal(size=(4, 3, 3))
    s = a @ a.transpose(0, 2, 1) + 0.1 * np.eye(3)
    i, j = np.array([0, 1, 2, 3]), np.array([1, 2, 0, 3])
    expected = [fid(m[p], s[p], m[q], s[q]) for p, q in zip(i, j, strict=True)]
    np.testing.assert_allclose(distributions.gaussian_frechet(m, s, i, j), expected, atol=1e-6)
    pairs = [((m[p], s[p]), (m[q], s[q])) for p, q in zip(i, j, strict=True)]
    expected = [kl(*one, *other) + kl(*other, *one) for one, other in pairs]
    np.testing.assert_allclose(
        distributions.gaussian_jeffreys(m, s, i, j), expected, rtol=1e-9, atol=1e-9
    )
    flat = np.diag([4.0, 0.0, 1.0])[None].repeat(2, 0)  # no spread in one direction
    none = np.array([0])
    shifted = distributions.gaussian_frechet(
        np.array([[0, 0, 0], [0, 2.0, 0]]), flat, none, none + 1
    )
    np.testing.assert_allclose(shifted, 4)
    with pytest.raises(ValueError, match="do not vary"):
        distributions.gaussian_jeffreys(np.zeros((2, 3)), flat, none, none + 1)


@pytest.mark.parametrize("divergence", ["frechet", "jeffreys"])
def test_image_gaussians_step_by_step(model: Model, divergence: str) -> None:
    """Samples one by one, principal components from the covariance matrix, then the formulas."""
    process, pairs, images = model.process, [("a cat", "pizza"), ("pizza", "a dog")], 7
    rows = {}
    for prompt in ("a cat", "pizza", "a dog"):
        condition, drawn = process.encode([prompt]), []
        for draw in range(images):
            final = process.trajectories(
                condition, process.noise([draw], SEED), [draw], steps=2, seed=SEED
            ).final
            drawn.append(final.numpy().ravel())
        rows[prompt] = np.array(drawn, float)
    together = np.concatenate(list(rows.values()))
    basis = np.linalg.eigh(np.cov(together.T))[1][:, -3:]
    fits = {p: ((x @ basis).mean(0), ledoit_wolf(x @ basis)) for p, x in rows.items()}
    found = image_gaussian(
        process,
        pairs,
        divergence=divergence,
        images=images,
        components=3,
        steps=2,
        seed=SEED,
        batch_size=2,
    )
    for value, (a, b) in zip(found, pairs, strict=True):
        both = (*fits[a], *fits[b]), (*fits[b], *fits[a])
        truth = fid(*both[0]) if divergence == "frechet" else kl(*both[0]) + kl(*both[1])
        assert value == pytest.approx(-truth, rel=2e-3) and truth > 0


@pytest.mark.parametrize("kind", ["clip", "dinov2"])
@torch.no_grad()
def test_features_of_pictures_are_the_models_own(kind: str, tmp_path: Path) -> None:
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    size = {"image_size": 28, "patch_size": 14}
    if kind == "clip":
        vision = {**small, **size, "intermediate_size": 32}
        text = {**small, "vocab_size": 9, "intermediate_size": 32}
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
        network, processor = transformers.CLIPModel(config), transformers.CLIPImageProcessorPil
        mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    else:
        network = transformers.Dinov2Model(transformers.Dinov2Config(**small, **size))
        processor = transformers.BitImageProcessorPil
        mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    network.eval().save_pretrained(tmp_path)
    processor(
        size={"shortest_edge": 28},
        crop_size={"height": 28, "width": 28},
        image_mean=mean,
        image_std=std,
    ).save_pretrained(tmp_path)
    pictures = np.random.default_rng(0).random((3, 64, 64, 3)).astype(np.float32)
    found = clip_features(tmp_path)(pictures)
    for picture, vector in zip(pictures, found, strict=True):
        image = Image.fromarray((picture * 255).round().astype(np.uint8))
        resized = np.asarray(image.resize((28, 28), Image.Resampling.BICUBIC)) / 255
        pixels = torch.tensor((resized - mean) / std).float().permute(2, 0, 1)[None]
        if kind == "clip":
            hidden = network.vision_model(pixels).pooler_output
            expected = network.visual_projection(hidden)[0]
        else:
            expected = network(pixels).last_hidden_state[0, 0]
        np.testing.assert_allclose(vector, expected, atol=1e-4)
    assert np.abs(found[0] - found[1]).max() > 1e-2


# -- sentence encoders ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A randomly initialised BERT that spells, with room for 300 tokens."""
    folder = tmp_path_factory.mktemp("bert")
    letters = string.ascii_lowercase
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
    (folder / "vocab.txt").write_text("\n".join(pieces))
    tokenizer = transformers.BertTokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.BertConfig(
            vocab_size=len(pieces),
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=300,
            initializer_range=0.5,
        )
        transformers.BertModel(config).save_pretrained(folder)
    return folder


@torch.no_grad()
def test_sentence_cosine_by_hand(tiny_bert: Path) -> None:
    """Text by text, so without padding, and cut at 256 by hand; more texts than one batch holds."""
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("abc def"), n)) + "x" for n in (*range(1, 75), 290, 400)]
    pairs = list(zip(texts, reversed(texts), strict=True))
    vocab = (tiny_bert / "vocab.txt").read_text().split("\n")
    network = transformers.BertModel.from_pretrained(tiny_bert).eval()
    vectors = {}
    for text in texts:
        words = text.split()
        pieces = [c if k == 0 else f"##{c}" for word in words for k, c in enumerate(word)]
        ids = [vocab.index(p) for p in ["[CLS]", *pieces[:254], "[SEP]"]]
        hidden = network(torch.tensor([ids])).last_hidden_state[0].double()
        vectors[text] = hidden.mean(0)
    expected = [
        float(vectors[a] @ vectors[b] / vectors[a].norm() / vectors[b].norm()) for a, b in pairs
    ]
    found = sentence_cosine(tiny_bert, pairs)
    assert found.dtype == np.float64 and np.std(found) > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_models_are_read_from_safetensors_alone(tiny_bert: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere/at-all"):
        sentence_cosine("nowhere/at-all", PAIRS)
    for file in ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "config.json"):
        (tmp_path / file).write_bytes((tiny_bert / file).read_bytes())
    weights = transformers.BertModel.from_pretrained(tiny_bert).state_dict()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="safetensors"):
        sentence_cosine(tmp_path, PAIRS)


# -- properties of all -----------------------------------------------------------------------

CALLS: dict[str, Callable] = {
    "initial": lambda process, pairs, **more: initial_timestep(process, pairs, draws=2, **more),
    "direct": lambda process, pairs, **more: direct_output(
        process, pairs, draws=2, steps=2, **more
    ),
    "pixels": lambda process, pairs, **more: direct_output(
        process, pairs, space="pixels", draws=2, steps=2, **more
    ),
    "frechet": lambda process, pairs, **more: image_gaussian(
        process, pairs, images=4, components=3, steps=2, **more
    ),
    "jeffreys": lambda process, pairs, **more: image_gaussian(
        process, pairs, divergence="jeffreys", images=4, components=3, steps=2, **more
    ),
    "encoder": lambda process, pairs, **more: text_encoder_cosine(process, pairs),
    "encoder mean": lambda process, pairs, **more: text_encoder_cosine(
        process, pairs, pooling="mean"
    ),
}
MANY = [("a cat", "a dog"), ("pizza", "a cat"), ("a dog", "a dog"), ("pizza", "graveyard")]


@pytest.mark.parametrize("call", CALLS)
def test_order_repetition_and_batches_change_nothing(
    process: cj.GenerativeProcess, call: str
) -> None:
    score = CALLS[call]
    plain = score(process, MANY)
    assert plain.shape == (4,) and plain.dtype == np.float64
    assert plain.argmax() == 2 and np.isfinite(plain).all()  # a prompt and itself
    assert np.ptp(plain) > 1e-3 * np.abs(plain).max()
    tolerance = {"rtol": 2e-3, "atol": 1e-3}
    turned = [(b, a) for a, b in MANY]
    np.testing.assert_allclose(score(process, turned), plain, **tolerance)
    np.testing.assert_allclose(score(process, MANY[::-1])[::-1], plain, **tolerance)
    np.testing.assert_allclose(score(process, [*MANY, *turned])[4:], plain, **tolerance)
    np.testing.assert_allclose(score(process, MANY, batch_size=1), plain, **tolerance)
    first, second = zip(*MANY, strict=True)
    np.testing.assert_array_equal(score(process, zip(first, second, strict=True)), plain)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_each_prompt_is_evaluated_once_a_draw(
    process: cj.GenerativeProcess, guidance: float
) -> None:
    costs = {"initial": 2 * 4, "direct": 2 * 2 * 4, "frechet": 4 * 2 * 4, "encoder": 0}
    for name, cost in costs.items():
        before = process.evaluations
        CALLS[name](process, [*MANY, *MANY[::-1]], guidance=guidance, batch_size=3)
        passes = 2 if guidance != 1 and name in ("direct", "frechet") else 1
        assert process.evaluations - before == passes * cost, name


def test_outputs_are_held_no_longer_than_needed() -> None:
    """Of a chain of pairs, one output waits for the next batch, and not its whole batch either."""
    width, waiting = 777, []

    def output(prompts: Sequence[str], draw: int) -> Tensor:
        rows = [o for o in gc.get_objects() if type(o) is Tensor and o.shape == (width,)]
        rows = [row for row in rows if row.dtype == torch.float32]  # less what is compared last
        storages = {row.data_ptr(): row.untyped_storage().nbytes() for row in rows}
        waiting.append(sum(storages.values()) / (4 * width))
        return torch.tensor([[float(len(p))] * width for p in prompts])

    prompts = ["x" * n for n in range(1, 41)]
    found = baselines._minus_squares(list(pairwise(prompts)), output, 2, 10, "")
    np.testing.assert_allclose(found, -width)
    assert waiting == [0, 1, 1, 1] * 2


# -- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("call", CALLS)
def test_bad_pairs_are_named(process: cj.GenerativeProcess, call: str) -> None:
    before = process.evaluations
    for pairs, error, message in (
        ([], ValueError, "no pairs were given"),
        ([("a cat", "")], ValueError, "second text of pair 0 is empty"),
        ([("a cat", None)], TypeError, "second text of pair 0 must be a string, not NoneType"),
        ([("a cat",)], TypeError, "row 0 must be a pair of texts"),
        (["hi", "no"], TypeError, "row 0 must be a pair of texts, not 'hi'"),
        ({("a", "b")}, TypeError, "a set"),
    ):
        with pytest.raises(error, match=message):
            CALLS[call](process, pairs)
    assert process.evaluations == before


@pytest.mark.parametrize(
    ("function", "settings", "message"),
    [
        (initial_timestep, {"draws": 0}, "draws must be at least 1, not 0"),
        (initial_timestep, {"steps": 1001}, "steps must lie between 1 and 1000"),
        (initial_timestep, {"guidance": math.nan}, "guidance must be a finite number"),
        (initial_timestep, {"seed": -1}, "seed must be at least 0, not -1"),
        (direct_output, {"batch_size": 0}, "batch_size must be at least 1, not 0"),
        (direct_output, {"steps": 0}, "steps must be at least 1, not 0"),
        (direct_output, {"guidance": math.inf}, "guidance must be a finite number"),
        (direct_output, {"space": "words"}, "space must be one of latents, pixels, not 'words'"),
        (direct_output, {"sampler": "heun"}, "sampler must be one of ddim, ddpm, .*, not 'heun'"),
        (text_encoder_cosine, {"pooling": "cls"}, "pooling must be one of last, mean, not 'cls'"),
        (image_gaussian, {"divergence": "kl"}, "divergence must be one of frechet, jeffreys"),
        (image_gaussian, {"components": 0}, "components must be at least 1, not 0"),
        (image_gaussian, {"images": 0}, "images must be at least 1, not 0"),
        (image_gaussian, {"images": 2, "steps": 1}, "components must be at most 6 here, not 8"),
        (image_gaussian, {"images": 2, "divergence": "jeffreys"}, "images must be at least 3"),
        (initial_timestep, {"guidance": 0.0}, "for no guidance take 1"),
        (direct_output, {"seed": 1.9}, "seed must be a whole number, not 1.9"),
        (direct_output, {"steps": 2.7}, "steps must be a whole number, not 2.7"),
        (direct_output, {"draws": [0, 0]}, r"draws=\[0, 0\] holds a number twice"),
        (initial_timestep, {"draws": True}, "draws must be a whole number, not True"),
        (image_gaussian, {"images": 2.5}, "images must be a whole number, not 2.5"),
    ],
)
def test_bad_settings_are_named(
    process: cj.GenerativeProcess, function: Callable, settings: dict[str, object], message: str
) -> None:
    before = process.evaluations
    with pytest.raises((TypeError, ValueError), match=message):
        function(process, PAIRS, **settings)
    assert process.evaluations == before


def test_settings_that_do_not_exist_are_refused(process: cj.GenerativeProcess) -> None:
    for function in (direct_output, image_gaussian):
        with pytest.raises(TypeError, match="stepz"):
            function(process, PAIRS, stepz=3)


def test_what_a_process_cannot_do_is_said() -> None:
    process = toy(constant)
    with pytest.raises(ValueError, match="process gives no lengths"):
        text_encoder_cosine(process, [("a", "b")])
    process.decode = None
    with pytest.raises(ValueError, match="process has no decoder"):
        direct_output(process, [("a", "b")], space="pixels")


def test_bad_settings_of_sentence_encoders(tiny_bert: Path) -> None:
    with pytest.raises(ValueError, match="first text of pair 0 is blank"):
        sentence_cosine(tiny_bert, [(" ", "cat")])
    there = sentence_cosine(tiny_bert, [("cat", "dog"), ("mat", "mat")])
    back = sentence_cosine(tiny_bert, [("mat", "mat"), ("dog", "cat")])
    np.testing.assert_allclose(there, back[::-1], atol=1e-6)
    assert there[1] > there[0]


def test_a_covariance_without_density_is_refused() -> None:
    """What rounding leaves of a direction in which nothing varies is no variance."""
    m, s = np.zeros((2, 2)), np.array([np.diag([1.0, 1e-17]), np.eye(2)])
    with pytest.raises(ValueError, match="no density: take more of them, fewer components"):
        distributions.gaussian_jeffreys(m, s, np.array([0]), np.array([1]))
