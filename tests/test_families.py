"""Every adapted family against diffusers' own call, on small pipelines with random weights.

The same x_T goes through diffusers' pipeline and through ours: what the network is given and what
it answers at every step, and the sample at the end, must be the same.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from conftest import letter_tokenizer, random_clip, random_unet, random_vae
from torch import Tensor
from transformers import CLIPTextModelWithProjection, T5Config, T5EncoderModel, T5Tokenizer

import conjure_lib as cj

PROMPTS = ["a red fox", "two boats on the sea"]
STEPS = 4
VP = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return letter_tokenizer(tmp_path_factory.mktemp("clip") / "vocabulary")


def t5() -> dict[str, Any]:
    """A T5 tokenizer that spells in letters, and a T5 encoder of width 32."""
    letters = [(c, -2.0) for c in "▁abcdefghijklmnopqrstuvwxyz"]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters]
    config = T5Config(
        vocab_size=200, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, dropout_rate=0.0
    )
    tokenizer = T5Tokenizer(vocab=vocab, extra_ids=0)
    tokenizer.model_max_length = 64
    return {"tokenizer": tokenizer, "encoder": T5EncoderModel(config)}


def pooled_clip(tokenizer: Any) -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(random_clip(tokenizer).config)


def sd2(clip: Any) -> Any:
    """Stable Diffusion 2.1: v prediction, and betas rescaled to zero terminal SNR left out."""
    return diffusers.StableDiffusionPipeline(
        vae=random_vae(),
        text_encoder=random_clip(clip),
        tokenizer=clip,
        unet=random_unet(),
        scheduler=diffusers.DDIMScheduler(**VP, prediction_type="v_prediction"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl(clip: Any) -> Any:
    unet = random_unet(
        cross_attention_dim=64,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 32,
    )
    scheduler = {k: v for k, v in VP.items() if k not in ("clip_sample", "set_alpha_to_one")}
    return diffusers.StableDiffusionXLPipeline(
        vae=random_vae(),
        text_encoder=random_clip(clip),
        text_encoder_2=pooled_clip(clip),
        tokenizer=clip,
        tokenizer_2=clip,
        unet=unet,
        scheduler=diffusers.EulerDiscreteScheduler(**scheduler, timestep_spacing="leading"),
        add_watermarker=False,
    )


def sd3(clip: Any) -> Any:
    third = t5()
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=64,
        pooled_projection_dim=64,
        pos_embed_max_size=8,
    )
    third["encoder"] = T5EncoderModel(
        T5Config(vocab_size=200, d_model=64, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    )
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=random_vae(shift_factor=0.06),
        text_encoder=pooled_clip(clip),
        text_encoder_2=pooled_clip(clip),
        text_encoder_3=third["encoder"],
        tokenizer=clip,
        tokenizer_2=clip,
        tokenizer_3=third["tokenizer"],
    )


def flux(clip: Any) -> Any:
    second = t5()
    pipeline = diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(
            shift=3.0,
            use_dynamic_shifting=True,
            base_shift=0.5,
            max_shift=1.15,
            base_image_seq_len=256,
            max_image_seq_len=4096,
        ),
        vae=random_vae(shift_factor=0.1),
        text_encoder=random_clip(clip),
        tokenizer=clip,
        text_encoder_2=second["encoder"],
        tokenizer_2=second["tokenizer"],
        transformer=diffusers.FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=True,
        ),
    )
    pipeline.default_sample_size = 8
    return pipeline


def pixart(clip: Any) -> Any:
    text = t5()
    return diffusers.PixArtAlphaPipeline(
        tokenizer=text["tokenizer"],
        text_encoder=text["encoder"],
        vae=random_vae(),
        transformer=diffusers.PixArtTransformer2DModel(
            sample_size=8,
            num_layers=2,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=4,
            in_channels=4,
            out_channels=8,
            cross_attention_dim=32,
            caption_channels=32,
        ),
        scheduler=diffusers.DDIMScheduler(**VP),
    )


SAMPLER = {sd2: "ddim", sdxl: "euler", sd3: "euler", flux: "euler", pixart: "ddim"}
Build = Callable[[Any], Any]


def make(build: Build, clip: Any) -> tuple[Any, cj.GenerativeProcess]:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        pipeline = build(clip)
        network = getattr(pipeline, "unet", None) or pipeline.transformer
        for name, weight in network.named_parameters():
            if weight.ndim > 1 or "scale_shift" in name:
                weight.data.add_(0.05 * torch.randn_like(weight))  # some start at zero
    pipeline.set_progress_bar_config(disable=True)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()  # diffusers' own runs have no other way to be without dropout
    return pipeline, cj.from_pipeline(pipeline)


def their_run(
    pipeline: Any, prompt: str, x_T: Tensor, guidance: float
) -> tuple[Tensor, list[Tensor]]:
    """The final latents of diffusers' own call, and the network's outputs on its way."""
    network = getattr(pipeline, "unet", None) or pipeline.transformer
    outputs: list[Tensor] = []
    hook = network.register_forward_hook(lambda _, __, out: outputs.append(out[0].clone()))
    latents, options = x_T[None], {"guidance_scale": guidance}
    if isinstance(pipeline, diffusers.FluxPipeline):
        n, channels, height, width = latents.shape
        latents = pipeline._pack_latents(latents, n, channels, height, width)
        options = {"guidance_scale": 3.5, "true_cfg_scale": guidance}
        if guidance != 1:
            options["negative_prompt"] = ""
    size = x_T.shape[-1] * pipeline.vae_scale_factor
    more = {"use_resolution_binning": False, "clean_caption": False}
    if not isinstance(pipeline, diffusers.PixArtAlphaPipeline):
        more = {}
    result = pipeline(
        prompt,
        num_inference_steps=STEPS,
        latents=latents,
        output_type="latent",
        height=size,
        width=size,
        **options,
        **more,
    ).images
    hook.remove()
    if isinstance(pipeline, diffusers.FluxPipeline):
        result = pipeline._unpack_latents(result, size, size, pipeline.vae_scale_factor)
    return result[0], outputs


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("build", SAMPLER, ids=lambda b: b.__name__)
def test_the_trajectory_is_diffusers_own(build: Build, clip: Any, guidance: float) -> None:
    pipeline, process = make(build, clip)
    x_T = process.noise([0, 1], seed=3)
    for prompt, noise in zip(PROMPTS, x_T, strict=True):
        theirs, _ = their_run(pipeline, prompt, noise.clone(), guidance)
        path = process.trajectories(
            process.encode([prompt]),
            noise[None],
            [0],
            steps=STEPS,
            guidance=guidance,
            sampler=SAMPLER[build],
        )
        torch.testing.assert_close(path.final[0], theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("build", SAMPLER, ids=lambda b: b.__name__)
def test_differences_of_noise_predictions(build: Build, clip: Any) -> None:
    """Δε = Δoutput, α Δv or (1 - σ) Δv, from the outputs of the network as diffusers calls it."""
    pipeline, process = make(build, clip)
    x_T = process.noise([0], seed=3)
    raw = [their_run(pipeline, prompt, x_T[0].clone(), 1.0)[1][0] for prompt in PROMPTS]
    delta = raw[0] - raw[1]
    if isinstance(pipeline, diffusers.FluxPipeline):
        side = x_T.shape[-1] * pipeline.vae_scale_factor
        delta = pipeline._unpack_latents(delta, side, side, pipeline.vae_scale_factor)
    delta = delta[:, : x_T.shape[1]]
    scheduler = process.sampler(SAMPLER[build], STEPS)
    t = scheduler.timesteps[:1]
    x = x_T * float(getattr(scheduler, "init_noise_sigma", 1.0))
    if hasattr(scheduler, "scale_model_input"):
        x = scheduler.scale_model_input(x, t[0])
    ours = [process.eps(x, t, process.encode([prompt])) for prompt in PROMPTS]
    if process.kind == "v_prediction":
        delta = delta * pipeline.scheduler.alphas_cumprod[t.long()].sqrt()
    if process.kind == "flow":
        delta = delta * (1 - t / 1000)
    torch.testing.assert_close(ours[0] - ours[1], delta, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("build", SAMPLER, ids=lambda b: b.__name__)
def test_distances(build: Build, clip: Any) -> None:
    _, process = make(build, clip)
    settings = {"steps": STEPS, "draws": 2, "sampler": SAMPLER[build]}
    for weighting in cj.WEIGHTINGS:
        one = cj.distance(process, *PROMPTS, weighting=weighting, **settings)
        other = cj.distance(process, *PROMPTS[::-1], weighting=weighting, **settings)
        assert one.value > 0 and one.value == pytest.approx(other.value, rel=1e-5)
    assert cj.distance(process, PROMPTS[0], PROMPTS[0], **settings).value == 0
    guided = cj.distance(process, *PROMPTS, guidance=3.0, **settings)
    assert guided.value > 0


def test_a_saved_pipeline_loads(clip: Any, tmp_path: Path) -> None:
    pipeline, process = make(sdxl, clip)
    pipeline.save_pretrained(tmp_path / "sdxl")
    again = cj.load(tmp_path / "sdxl", device="cpu")
    settings = {"steps": 2, "draws": 1, "sampler": "euler"}
    mine, loaded = (cj.distance(p, *PROMPTS, **settings).value for p in (process, again))
    assert loaded == pytest.approx(mine, rel=1e-5)


@pytest.mark.parametrize("build", SAMPLER, ids=lambda b: b.__name__)
def test_pictures_by_the_first_sampler_that_fits(build: Build, clip: Any) -> None:
    _, process = make(build, clip)
    pictures = process.generate(["a red fox"], steps=2)
    assert pictures.shape[0] == 1 and pictures.shape[3] == 3 and 0 <= pictures.min()


def test_latents_are_not_clipped_by_a_samplers_own_default(clip: Any) -> None:
    """PixArt's checkpoints come with a scheduler that has no setting for it."""
    pipeline, _ = make(pixart, clip)
    pipeline.scheduler = diffusers.DPMSolverMultistepScheduler()
    process = cj.from_pipeline(pipeline)
    for name in ("ddim", "ddpm"):
        assert not process.sampler(name, 4).config.clip_sample
    path = process.trajectories(process.encode(["a"]), 30 * process.noise([0], 0), [0], steps=4)
    assert path.final.abs().max() > 2


@pytest.mark.parametrize("build", [sd2, sdxl, sd3, flux, pixart])
def test_use_changes_no_fingerprint(build: Build, clip: Any) -> None:
    _, process = make(build, clip)
    before = process.fingerprint()
    sampler = next(iter(process.samplers))
    cj.distance(process, "cat", "dog", steps=2, draws=1, sampler=sampler)
    process.generate(["cat"], steps=2)
    assert process.fingerprint() == before == copy.deepcopy(process).fingerprint()


def test_a_flow_needs_two_steps(clip: Any) -> None:
    _, process = make(sd3, clip)
    with pytest.raises(ValueError, match="2 steps or more"):
        process.sampler("euler", 1)


def test_half_precision_is_of_the_network_alone(clip: Any, tmp_path: Path) -> None:
    for build in (sdxl, sd3):
        make(build, clip)[0].save_pretrained(tmp_path / build.__name__)
        process = cj.load(tmp_path / build.__name__, device="cpu", dtype=torch.bfloat16)
        dtypes = {name: next(m.parameters()).dtype for name, m in process.modules.items()}
        network = dtypes.pop("unet", None) or dtypes.pop("transformer")
        assert network == torch.bfloat16 and set(dtypes.values()) == {torch.float32}
        assert process.dtype == "bfloat16"
        settings = {"steps": 2, "draws": 1, "sampler": "euler"}
        assert cj.distance(process, *PROMPTS, **settings).value > 0


def test_samplers_that_do_not_fit(clip: Any) -> None:
    _, process = make(sd3, clip)
    with pytest.raises(ValueError, match="3Pipeline's sampler must be one of euler, not 'ddim'"):
        process.sampler("ddim", 4)
