"""Processes: trajectories and pictures against diffusers' own pipeline, loading and its errors."""

from __future__ import annotations

import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Model
from diffusers import DDIMScheduler, DDPMScheduler

import conjure_lib as cj
from conjure_lib.process import generator

UNET = "unet/diffusion_pytorch_model.safetensors"
TEXT_ENCODER = "text_encoder/model.safetensors"


def test_encoding_is_that_of_the_pipelines_text_encoder(model: Model) -> None:
    texts = ["snow leopard", ""]
    tokenizer = model.pipeline.tokenizer
    ids = tokenizer(
        texts, padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt"
    ).input_ids
    expected = model.pipeline.text_encoder(ids)[0]
    torch.testing.assert_close(model.process.encode(texts), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_trajectory_ends_where_the_pipeline_ends(model: Model, guidance: float) -> None:
    x_T = model.process.noise([0, 1], seed=3)
    prompts = ["snow leopard", "pizza"]
    path = model.process.trajectories(
        model.process.encode(prompts), x_T, [0, 1], steps=5, guidance=guidance
    )
    pipeline = model.pipeline
    kept, pipeline.scheduler = (
        pipeline.scheduler,
        DDIMScheduler.from_config(pipeline.scheduler.config),
    )
    latents = pipeline(
        prompts,
        num_inference_steps=5,
        guidance_scale=guidance,
        latents=x_T.clone(),
        output_type="latent",
    ).images
    pipeline.scheduler = kept
    torch.testing.assert_close(path.final, latents, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_generated_picture_is_the_pipelines(model: Model, guidance: float) -> None:
    pictures = model.process.generate(["a cat", "a dog"], steps=3, guidance=guidance, seed=4)
    pipeline = model.pipeline
    kept, pipeline.scheduler = (
        pipeline.scheduler,
        DDIMScheduler.from_config(pipeline.scheduler.config),
    )
    expected = pipeline(
        ["a cat", "a dog"],
        num_inference_steps=3,
        guidance_scale=guidance,
        latents=model.process.noise([0], seed=4).repeat(2, 1, 1, 1),  # one x_T for all prompts
        output_type="np",
    ).images
    pipeline.scheduler = kept
    np.testing.assert_allclose(pictures, expected, rtol=0, atol=1e-4)


def noise_in(v: torch.Tensor, x: torch.Tensor, t: torch.Tensor, bars: torch.Tensor) -> torch.Tensor:
    """The noise that a prediction of v = α ε - σ x_0 stands for: ε = α v + σ x."""
    return bars[t].sqrt() * v + (1 - bars[t]).sqrt() * x


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_trajectory_keeps_what_was_computed_along_it(model: Model, guidance: float) -> None:
    process, unet = model.process, model.pipeline.unet
    condition, empty = process.encode(["snow leopard"]), process.encode([""])
    x_T = process.noise([2], seed=0)
    path = process.trajectories(condition, x_T, [2], steps=3, guidance=guidance)
    assert path.timesteps.tolist() == [667, 334, 1]  # leading spacing, offset one
    torch.testing.assert_close(path.states[:, 0], x_T, rtol=0, atol=0)
    for step, t in enumerate(path.timesteps):
        own, none = (unet(path.states[:, step], t, c).sample for c in (condition, empty))
        if model.pipeline.scheduler.config.prediction_type == "v_prediction":
            bars = model.pipeline.scheduler.alphas_cumprod
            own, none = (noise_in(v, path.states[:, step], t, bars) for v in (own, none))
        close = {"rtol": 1e-4, "atol": 1e-4}
        torch.testing.assert_close(path.eps[:, step], own, **close)
        torch.testing.assert_close(path.guided[:, step], none + guidance * (own - none), **close)


def test_the_default_sampler_takes_no_noise_and_the_other_its_draws(
    process: cj.GenerativeProcess,
) -> None:
    """Rows of one draw share the noise of the sampler too; rows of two draws do not."""
    condition = process.encode(["a cat"]).expand(3, -1, -1)
    x_T = process.noise([0], seed=0).expand(3, -1, -1, -1)

    def final(sampler: str, seed: int) -> torch.Tensor:
        return process.trajectories(
            condition, x_T, [0, 0, 1], steps=3, sampler=sampler, seed=seed
        ).final

    ddpm, ddim = final("ddpm", 0), final("ddim", 0)
    torch.testing.assert_close(ddpm[0], ddpm[1])
    assert not torch.allclose(ddpm[0], ddpm[2], atol=0.1)
    assert not torch.allclose(ddpm[0], final("ddpm", 1)[0], atol=0.1)
    torch.testing.assert_close(ddim[0], ddim[2])
    torch.testing.assert_close(ddim, final("ddim", 1))


@pytest.mark.parametrize("steps", [300, 600])
def test_steps_that_leave_out_the_noisy_end(process: cj.GenerativeProcess, steps: int) -> None:
    with pytest.raises(ValueError, match=rf"{steps} steps reach only timestep \d+ of 1000"):
        process.sampler(sampler="ddim", steps=steps)


@pytest.mark.parametrize("steps", [1, 3, 10, 30, 500, 999, 1000])
def test_visited_timesteps_stay_on_the_schedule(process: cj.GenerativeProcess, steps: int) -> None:
    timesteps = process.sampler(sampler="ddim", steps=steps).timesteps
    assert len(timesteps) == steps
    assert 0 <= int(timesteps.min()) and int(timesteps.max()) <= 999


def test_samplers_are_fresh_and_take_the_checkpoints_schedule(model: Model) -> None:
    process = model.process
    for name, kind in (("ddim", DDIMScheduler), ("ddpm", DDPMScheduler)):
        sampler = process.sampler(sampler=name, steps=5)
        assert type(sampler) is kind
        torch.testing.assert_close(sampler.betas, model.pipeline.scheduler.betas)
        assert sampler is not process.sampler(sampler=name, steps=5)
        assert not sampler.config.clip_sample


def test_noise_is_keyed_by_seed_and_draw_alone(process: cj.GenerativeProcess) -> None:
    torch.manual_seed(1)
    three = process.noise([0, 1, 2], seed=0)
    torch.manual_seed(2)
    torch.testing.assert_close(process.noise([2], seed=0)[0], three[2], rtol=0, atol=0)
    assert not torch.allclose(three[0], three[1])
    assert not torch.allclose(process.noise([0], seed=1)[0], three[0])
    many = process.noise(range(200), seed=0)
    n = many.numel()
    assert abs(float(many.mean())) < 4 / n**0.5
    assert abs(float(many.std()) - 1) < 4 / (2 * n) ** 0.5


def test_generators_differ_with_every_part_of_the_key() -> None:
    """Trailing zeros too: x_T of a draw must not be the noise of its first step."""
    keys = [(0, 0), (0, 1), (1, 0), (0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]
    first = {torch.randn(4, generator=generator(*key)).numpy().tobytes() for key in keys}
    assert len(first) == len(keys)


def test_predictions_are_counted_and_carry_no_gradient(process: cj.GenerativeProcess) -> None:
    before = process.evaluations
    eps = process.eps(process.noise([0, 1], 0), torch.tensor([5, 900]), process.encode(["a", "b"]))
    assert process.evaluations - before == 2
    assert not eps.requires_grad and not any(process.encode(["a"]).flatten().isnan())


def test_denoised_view_is_the_samplers(process: cj.GenerativeProcess) -> None:
    x, eps = process.noise([0, 1], 0), process.noise([2, 3], 0)
    t = torch.tensor([700, 700])
    bar = process.scheduler.alphas_cumprod[700]
    alpha, sigma = float(bar.sqrt()), float((1 - bar).sqrt())
    x_0 = (x - sigma * eps) / alpha
    sampler = process.sampler(sampler="ddim", steps=10)
    assert sampler.config.prediction_type == "v_prediction"
    expected = sampler.step(alpha * eps - sigma * x_0, 700, x).pred_original_sample
    torch.testing.assert_close(process.clean(x, t, eps), expected, rtol=1e-4, atol=1e-4)


def test_half_precision_stays_inside_the_network(random_folder: Path) -> None:
    half = cj.load(random_folder, device="cpu", dtype=torch.bfloat16)
    full = cj.load(random_folder, device="cpu")
    x, t = full.noise([0], 0), torch.tensor([500])
    predictions = [p.eps(x, t, p.encode(["cat"])) for p in (half, full)]
    assert predictions[0].dtype == torch.float32
    assert not torch.equal(*predictions)
    assert float((predictions[0] - predictions[1]).norm() / predictions[1].norm()) < 0.1


# -- errors ----------------------------------------------------------------------------------


def test_what_is_not_adapted(model: Model) -> None:
    pipeline = model.pipeline
    kept = pipeline.scheduler
    pipeline.scheduler = DDIMScheduler.from_config(kept.config, prediction_type="sample")
    try:
        with pytest.raises(ValueError, match="predicts 'sample'"):
            cj.from_pipeline(pipeline)
    finally:
        pipeline.scheduler = kept
    with pytest.raises(ValueError, match="object is not adapted: diffusers has no such pipeline"):
        cj.from_pipeline(object())


@pytest.mark.parametrize("device", ["cuda:99", "quantum", "meta"])
def test_a_device_that_is_not_there(device: str) -> None:
    with pytest.raises(ValueError, match=f"device '{device}' is not"):
        cj.load(device=device)


@pytest.mark.parametrize("name", ["emoji-difusion", "no-one/no-model", "/no/such/folder/at-all"])
def test_an_unknown_model(name: str) -> None:
    with pytest.raises(FileNotFoundError, match=name) as caught:
        cj.load(name, device="cpu")
    assert "emoji-diffusion" in str(caught.value)  # where to go from here


def test_a_folder_that_is_no_pipeline(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"model_index\.json"):
        cj.load(tmp_path, device="cpu")


def damaged_copy(folder: Path, name: str, to: Path) -> Path:
    """A copy of a pipeline folder with one byte flipped in the middle of a file."""
    shutil.copytree(folder, to)
    content = bytearray((to / name).read_bytes())
    content[len(content) // 2] ^= 0xFF
    (to / name).write_bytes(content)
    return to


@pytest.mark.parametrize("name", [UNET, TEXT_ENCODER, "tokenizer/tokenizer.json"])
def test_one_flipped_byte_is_found_by_the_checksums(
    embedded_folder: Path, tmp_path: Path, name: str
) -> None:
    folder = damaged_copy(embedded_folder, name, tmp_path / "model")
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        cj.load(folder, device="cpu")


def test_every_weights_file_stands_in_the_checksums(embedded_folder: Path) -> None:
    listed = (embedded_folder / "SHA256SUMS").read_text()
    files = [f for f in embedded_folder.glob("*/*") if f.suffix in (".safetensors", ".json")]
    names = {str(f.relative_to(embedded_folder)) for f in files}
    assert names and all(name in listed for name in names)


def test_a_missing_weights_file(embedded_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(embedded_folder, folder, ignore=shutil.ignore_patterns("model.safetensors"))
    with pytest.raises(FileNotFoundError, match=f"{TEXT_ENCODER} is missing"):
        cj.load(folder, device="cpu")


@pytest.mark.parametrize("name", [UNET, TEXT_ENCODER])
@pytest.mark.parametrize("damage", ["missing", "cut short"])
def test_bad_weights_without_checksums(
    random_folder: Path, tmp_path: Path, name: str, damage: str
) -> None:
    """Where a folder brings no SHA256SUMS, the message still says which part is at fault."""
    folder = tmp_path / "model"
    shutil.copytree(random_folder, folder)
    weights = folder / name
    content = weights.read_bytes()
    weights.unlink()
    if damage == "cut short":
        weights.write_bytes(content[:-1000])
    with pytest.raises((FileNotFoundError, ValueError), match=re.escape(str(folder))) as caught:
        cj.load(folder, device="cpu")
    if damage == "missing":
        assert name.split("/")[0] in str(caught.value)
    assert "Hub" not in str(caught.value)  # a folder was given: nothing was asked of the Hub


def test_a_prompt_that_is_too_long_says_what_is_cut(process: cj.GenerativeProcess) -> None:
    with pytest.warns(UserWarning, match=r"reads 30 tokens.*has 34.*last 4 are cut") as caught:
        cut = process.encode([" ".join(["cat"] * 30 + ["dog"] * 4)])
    assert "'dog dog dog dog'" in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fits = process.encode([" ".join(["cat"] * 30)])
    torch.testing.assert_close(cut, fits)  # what was cut has no part in it


def test_generate_refuses_what_is_no_list_of_prompts(process: cj.GenerativeProcess) -> None:
    with pytest.raises(TypeError, match="single string 'a cat'"):
        process.generate("a cat", steps=1)
    with pytest.raises(ValueError, match="prompt 1 is blank"):
        process.generate(["a cat", "  "], steps=1)


def test_a_process_without_decoder_says_so(process: cj.GenerativeProcess) -> None:
    blind = cj.GenerativeProcess(
        process.predict, process.encode, process.scheduler, process.latent_shape, name="blind"
    )
    with pytest.raises(ValueError, match="blind has no decoder"):
        blind.generate(["a cat"], steps=1)


def test_samplers_read_what_the_process_predicts(process: cj.GenerativeProcess) -> None:
    """Of a process made by hand, whose scheduler was taken from a model that predicts otherwise."""
    config = process.scheduler.config

    def path(prediction: str) -> torch.Tensor:
        scheduler = type(process.scheduler).from_config(config, prediction_type=prediction)
        made = cj.GenerativeProcess(
            lambda x, t, c: 0.5 * x, lambda texts: torch.zeros(len(texts), 1), scheduler, (2,)
        )
        return made.trajectories(torch.zeros(1, 1), torch.ones(1, 2), [0], steps=4).final

    torch.testing.assert_close(path("v_prediction"), path("epsilon"), rtol=0, atol=0)
