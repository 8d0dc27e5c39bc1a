"""Every kind of text-to-image pipeline that is proven to work, small and with random weights.

The classes are those of diffusers; text encoders are the smallest that give what a pipeline reads.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import diffusers
import torch
import transformers
from conftest import letter_tokenizer, random_clip, random_unet, random_vae
from tokenizers import Tokenizer, models
from tokenizers.processors import TemplateProcessing
from transformers import CLIPTextModelWithProjection, T5Config, T5EncoderModel

VP = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
LATENT = {"clip_sample": False, "set_alpha_to_one": False}
PLAIN: dict[str, Any] = {"guidance_scale": 1.0}
GUIDED: dict[str, Any] = {"guidance_scale": 3.0}
PAG: dict[str, Any] = {"pag_scale": 0.0}
TRUE: dict[str, Any] = {"true_cfg_scale": 3.0, "negative_prompt": ""}
BINS: dict[str, Any] = {"use_resolution_binning": False}


@dataclass(frozen=True)
class Family:
    """A class of pipelines and how it is tried.

    Attributes:
        size: height and width of a picture.
        plain: options of the pipeline's call without guidance.
        guided: with guidance 3 as we mean it; None where its own rule is another.
        call: options that both are given.
    """

    build: Callable[[], Any]
    size: int = 16
    plain: Mapping[str, Any] = field(default_factory=lambda: PLAIN)
    guided: Mapping[str, Any] | None = field(default_factory=lambda: GUIDED)
    call: Mapping[str, Any] = field(default_factory=dict)


FAMILIES: dict[str, Family] = {}


def family(name: str, **settings: Any) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Enter a function that makes the pipeline of this name."""

    def enter(build: Callable[[], Any]) -> Callable[[], Any]:
        FAMILIES[name] = Family(build, **settings)
        return build

    return enter


def make(name: str) -> Any:
    """The pipeline of a family, always with the same weights, none of which is zero."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that diffusers itself will change
        torch.manual_seed(1)
        pipeline = FAMILIES[name].build()
        network = getattr(pipeline, "unet", None) or pipeline.transformer
        for key, weight in network.named_parameters():
            if weight.ndim > 1 or "scale_shift" in key or not weight.isfinite().all():
                weight.data.nan_to_num_(0).add_(0.05 * torch.randn_like(weight))
            elif "norm" in key and weight.abs().max() > 1e3:
                weight.data.fill_(1)
    pipeline.set_progress_bar_config(disable=True)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    return pipeline


# -- parts --------------------------------------------------------------------------------------


@cache
def clip() -> Any:
    return letter_tokenizer(Path(mkdtemp()) / "vocabulary")


def clips(length: int = 77) -> dict[str, Any]:
    """Two CLIP tokenizers and encoders with a pooled vector, of width 32."""
    parts: dict[str, Any] = {}
    for end in ("", "_2"):
        config = copy.deepcopy(random_clip(clip()).config)
        config.max_position_embeddings = length
        tokenizer = copy.deepcopy(clip())
        tokenizer.model_max_length = length
        encoder = CLIPTextModelWithProjection(config)
        parts |= {f"tokenizer{end}": tokenizer, f"text_encoder{end}": encoder}
    return parts


def characters(length: int = 512) -> Any:
    """A tokenizer of single characters, with the signs that templates of chats need."""
    signs = ["<pad>", "</s>", "<unk>", "<s>"]
    vocab = {piece: i for i, piece in enumerate([*signs, *map(chr, range(32, 127)), "\n"])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    backend.post_processor = TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", vocab["</s>"])]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        bos_token="<s>",
        model_max_length=length,
        padding_side="right",
        chat_template="{% for m in messages %}{% if m['content'] is string %}{{ m['content'] }}"
        "{% else %}{% for c in m['content'] %}{{ c['text'] }}{% endfor %}{% endif %}{% endfor %}",
    )


def t5(end: str = "", width: int = 32, length: int = 64) -> dict[str, Any]:
    config = T5Config(
        vocab_size=128, d_model=width, d_kv=8, d_ff=64, num_layers=2, num_heads=4, dropout_rate=0.0
    )
    return {f"tokenizer{end}": characters(length), f"text_encoder{end}": T5EncoderModel(config)}


def language_model(kind: str = "Qwen3Model", layers: int = 2) -> dict[str, Any]:
    """A decoder of width 32 as text encoder, and a tokenizer of characters."""
    config = transformers.Qwen3Config(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        pad_token_id=0,
    )
    encoder = getattr(transformers, kind)(config)
    return {"tokenizer": characters(), "text_encoder": encoder}


def vision_model(kind: str) -> dict[str, Any]:
    """The same with a part for pictures, which is not used."""
    text = {
        "vocab_size": 128,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "rope_scaling": {"rope_type": "default", "mrope_section": [4, 2, 2]},
    }
    sight: dict[str, Any] = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2}
    sight |= {"out_hidden_size": 32, "deepstack_visual_indexes": [0]}
    config = transformers.Qwen3VLConfig(text_config=text, vision_config=sight)
    return {"tokenizer": characters(), "text_encoder": getattr(transformers, kind)(config)}


def flow(**changed: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(**({"shift": 3.0} | changed))


def shifting(**changed: Any) -> Any:
    return flow(
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
        **changed,
    )


def ddim(**changed: Any) -> Any:
    return diffusers.DDIMScheduler(**VP, **LATENT, **changed)


def qwen_vae(cls: str = "AutoencoderKLQwenImage", **changed: Any) -> Any:
    """An autoencoder of films with frames of 16×16 and latents of 8×8."""
    return getattr(diffusers, cls)(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.1] * 4,
        latents_std=[1.2] * 4,
        **changed,
    )


def flux2_vae() -> Any:
    return diffusers.AutoencoderKLFlux2(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    )


# -- U-Nets -------------------------------------------------------------------------------------

SAFE: dict[str, Any] = {
    "safety_checker": None,
    "feature_extractor": None,
    "requires_safety_checker": False,
}


def _sd(kind: str, **changed: Any) -> Any:
    parts = {
        "vae": random_vae(),
        "text_encoder": random_clip(clip()),
        "tokenizer": clip(),
        "unet": random_unet(),
        "scheduler": ddim(prediction_type="v_prediction"),
    }
    return getattr(diffusers, kind)(**(parts | SAFE | changed))


@family("StableDiffusionPipeline")
def stable_diffusion() -> Any:
    return _sd("StableDiffusionPipeline")


@family("StableDiffusionPAGPipeline", plain=PLAIN | PAG, guided=GUIDED | PAG)
def stable_diffusion_pag() -> Any:
    return _sd("StableDiffusionPAGPipeline", scheduler=ddim())


@family("LatentConsistencyModelPipeline", plain={}, guided=None)
def latent_consistency_model() -> Any:
    parts = SAFE | {"scheduler": diffusers.LCMScheduler(**VP, **LATENT)}
    return _sd("LatentConsistencyModelPipeline", unet=random_unet(time_cond_proj_dim=32), **parts)


def _sdxl(kind: str, **times: Any) -> Any:
    unet = random_unet(
        cross_attention_dim=64,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 32,
    )
    parts = clips() | {"text_encoder": random_clip(clip())}
    return getattr(diffusers, kind)(
        vae=random_vae(),
        unet=unet,
        scheduler=diffusers.EulerDiscreteScheduler(**VP, **times),
        add_watermarker=False,
        **parts,
    )


@family("StableDiffusionXLPipeline")
def stable_diffusion_xl() -> Any:
    return _sdxl("StableDiffusionXLPipeline")


@family("StableDiffusionXLPAGPipeline", plain=PLAIN | PAG, guided=GUIDED | PAG)
def stable_diffusion_xlpag() -> Any:
    return _sdxl("StableDiffusionXLPAGPipeline", use_karras_sigmas=True)


@family("Kandinsky3Pipeline", size=64, guided={"guidance_scale": 2.0})
def kandinsky3() -> Any:
    movq = diffusers.VQModel(
        block_out_channels=(8, 16),
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        num_vq_embeddings=12,
        vq_embed_dim=4,
    )
    unet = diffusers.Kandinsky3UNet(
        in_channels=4,
        time_embedding_dim=4,
        groups=2,
        attention_head_dim=4,
        layers_per_block=3,
        block_out_channels=(32, 64),
        cross_attention_dim=4,
        encoder_hid_dim=32,
    )
    scheduler = diffusers.DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        steps_offset=1,
        beta_schedule="squaredcos_cap_v2",
        clip_sample=True,
        thresholding=False,
    )
    return diffusers.Kandinsky3Pipeline(unet=unet, scheduler=scheduler, movq=movq, **t5())


# -- transformers that predict ε or v -----------------------------------------------------------


def _pixart(kind: str) -> Any:
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=4,
        in_channels=4,
        out_channels=8,
        cross_attention_dim=32,
        caption_channels=32,
    )
    return getattr(diffusers, kind)(
        vae=random_vae(), transformer=transformer, scheduler=ddim(), **t5()
    )


CAPTION = {"clean_caption": False} | BINS


@family("PixArtAlphaPipeline", call=CAPTION)
def pix_art_alpha() -> Any:
    return _pixart("PixArtAlphaPipeline")


@family("PixArtSigmaPipeline", call=CAPTION)
def pix_art_sigma() -> Any:
    return _pixart("PixArtSigmaPipeline")


@family("PixArtSigmaPAGPipeline", call=CAPTION, plain=PLAIN | PAG, guided=GUIDED | PAG)
def pix_art_sigma_pag() -> Any:
    return _pixart("PixArtSigmaPAGPipeline")


def _hunyuan(kind: str) -> Any:
    transformer = diffusers.HunyuanDiT2DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        in_channels=4,
        cross_attention_dim=32,
        cross_attention_dim_t5=32,
        pooled_projection_dim=16,
        hidden_size=24,
        activation_fn="gelu-approximate",
    )
    bert = transformers.BertConfig(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    parts = t5("_2") | SAFE
    return getattr(diffusers, kind)(
        vae=random_vae(),
        transformer=transformer,
        text_encoder=transformers.BertModel(bert),
        tokenizer=characters(77),
        scheduler=diffusers.DDPMScheduler(**VP, clip_sample=False, prediction_type="v_prediction"),
        **parts,
    )


@family("HunyuanDiTPipeline", call=BINS)
def hunyuan_di_t() -> Any:
    return _hunyuan("HunyuanDiTPipeline")


@family("HunyuanDiTPAGPipeline", call=BINS, plain=PLAIN | PAG, guided=GUIDED | PAG)
def hunyuan_di_tpag() -> Any:
    return _hunyuan("HunyuanDiTPAGPipeline")


@family("CogView3PlusPipeline")
def cog_view3_plus() -> Any:
    transformer = diffusers.CogView3PlusTransformer2DModel(
        patch_size=2,
        in_channels=4,
        num_layers=1,
        attention_head_dim=4,
        num_attention_heads=2,
        out_channels=4,
        text_embed_dim=32,
        time_embed_dim=8,
        condition_dim=2,
        pos_embed_max_size=8,
        sample_size=8,
    )
    betas = {k: v for k, v in VP.items() if k not in ("steps_offset",)}
    scheduler = diffusers.CogVideoXDDIMScheduler(
        **betas, prediction_type="v_prediction", snr_shift_scale=4.0, **LATENT
    )
    return diffusers.CogView3PlusPipeline(
        vae=random_vae(), transformer=transformer, scheduler=scheduler, **t5(length=224)
    )


# -- flows --------------------------------------------------------------------------------------


def _sd3(kind: str) -> Any:
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
    return getattr(diffusers, kind)(
        transformer=transformer,
        scheduler=flow(),
        vae=random_vae(shift_factor=0.06),
        **clips(),
        **t5("_3", width=64),
    )


@family("StableDiffusion3Pipeline")
def stable_diffusion3() -> Any:
    return _sd3("StableDiffusion3Pipeline")


@family("StableDiffusion3PAGPipeline", plain=PLAIN | PAG, guided=GUIDED | PAG)
def stable_diffusion3_pag() -> Any:
    return _sd3("StableDiffusion3PAGPipeline")


def _flux(kind: str, embeds: bool = True) -> Any:
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=embeds,
    )
    first = {"text_encoder": random_clip(clip()), "tokenizer": clip()}
    return getattr(diffusers, kind)(
        scheduler=shifting(),
        vae=random_vae(shift_factor=0.1),
        transformer=transformer,
        **first,
        **t5("_2", length=512),
    )


@family("FluxPipeline", plain={}, guided=TRUE)
def flux() -> Any:
    return _flux("FluxPipeline")


@family(
    "FluxKontextPipeline", plain={}, guided=TRUE, call={"max_area": 16 * 16, "_auto_resize": False}
)
def flux_kontext() -> Any:
    return _flux("FluxKontextPipeline")


def _flux2(embeds: bool) -> Any:
    return diffusers.Flux2Transformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=96,
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=embeds,
    )


@family("Flux2Pipeline", plain={}, guided=None, call={"text_encoder_out_layers": (1, 2, 3)})
def flux2() -> Any:
    return diffusers.Flux2Pipeline(
        scheduler=shifting(),
        vae=flux2_vae(),
        transformer=_flux2(True),
        **language_model(layers=4),
    )


@family("Flux2KleinPipeline", call={"text_encoder_out_layers": (1, 2, 3)})
def flux2_klein() -> Any:
    return diffusers.Flux2KleinPipeline(
        scheduler=shifting(),
        vae=flux2_vae(),
        transformer=_flux2(False),
        **language_model("Qwen3ForCausalLM", 4),
    )


@family("ChromaPipeline")
def chroma() -> Any:
    transformer = diffusers.ChromaTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 4, 8),
        approximator_hidden_dim=32,
        approximator_layers=1,
        approximator_num_channels=16,
    )
    return diffusers.ChromaPipeline(
        scheduler=shifting(),
        vae=random_vae(shift_factor=0.1),
        transformer=transformer,
        **t5(length=512),
    )


@family("QwenImagePipeline", plain={}, guided=None)
def qwen_image() -> Any:
    transformer = diffusers.QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 4, 8),
    )
    return diffusers.QwenImagePipeline(
        scheduler=shifting(), vae=qwen_vae(), transformer=transformer, **language_model()
    )


@family("ZImagePipeline", plain={"guidance_scale": 0.0}, guided={"guidance_scale": 2.0})
def z_image() -> Any:
    return diffusers.ZImagePipeline(
        scheduler=flow(),
        vae=random_vae(shift_factor=0.1),
        transformer=_z_image(),
        **language_model(),
    )


def _z_image(**changed: Any) -> Any:
    return diffusers.ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=32,
        axes_dims=[4, 4, 8],
        axes_lens=[1024, 32, 32],
        **changed,
    )


def _sana(kind: str) -> Any:
    transformer = diffusers.SanaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=32,
        sample_size=8,
    )
    vae = diffusers.AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=[1, 1],
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
    )
    return getattr(diffusers, kind)(
        vae=vae, transformer=transformer, scheduler=flow(), **language_model()
    )


@family("SanaPipeline", size=32, call=BINS)
def sana() -> Any:
    return _sana("SanaPipeline")


@family("SanaPAGPipeline", size=32, call=BINS, plain=PLAIN | PAG, guided=GUIDED | PAG)
def sana_pag() -> Any:
    return _sana("SanaPAGPipeline")


@family("Lumina2Pipeline", size=64, guided=GUIDED | {"cfg_normalization": False})
def lumina2() -> Any:
    transformer = diffusers.Lumina2Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        hidden_size=32,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=2,
        axes_dim_rope=(4, 4, 8),
        axes_lens=(600, 32, 32),
        cap_feat_dim=32,
    )
    return diffusers.Lumina2Pipeline(
        vae=random_vae(shift_factor=0.1),
        transformer=transformer,
        scheduler=shifting(),
        **language_model(),
    )


@family("LuminaPipeline", size=64, guided=None, call={"clean_caption": False})
def lumina() -> Any:
    transformer = diffusers.LuminaNextDiT2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        hidden_size=32,
        num_layers=2,
        num_attention_heads=1,
        num_kv_heads=1,
        multiple_of=16,
        norm_eps=1e-5,
        learn_sigma=True,
        qk_norm=True,
        cross_attention_dim=32,
    )
    return diffusers.LuminaPipeline(
        vae=random_vae(), transformer=transformer, scheduler=flow(), **language_model()
    )


@family("AuraFlowPipeline")
def aura_flow() -> Any:
    transformer = diffusers.AuraFlowTransformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pos_embed_max_size=64,
    )
    return diffusers.AuraFlowPipeline(
        vae=random_vae(), transformer=transformer, scheduler=flow(), **t5(length=256)
    )


@family("CogView4Pipeline")
def cog_view4() -> Any:
    transformer = diffusers.CogView4Transformer2DModel(
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=4,
        num_attention_heads=4,
        out_channels=4,
        text_embed_dim=32,
        time_embed_dim=8,
        condition_dim=4,
        sample_size=8,
        rope_axes_dim=(8, 8),
    )
    scheduler = flow(
        use_dynamic_shifting=True,
        base_shift=0.25,
        max_shift=0.75,
        base_image_seq_len=256,
        max_image_seq_len=4096,
        time_shift_type="linear",
    )
    return diffusers.CogView4Pipeline(
        vae=random_vae(), transformer=transformer, scheduler=scheduler, **language_model()
    )


@family("Krea2Pipeline", plain={"guidance_scale": 0.0}, guided={"guidance_scale": 2.0})
def krea2() -> Any:
    transformer = diffusers.Krea2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        timestep_embed_dim=16,
        text_hidden_dim=32,
        num_text_layers=2,
        text_num_attention_heads=2,
        text_num_key_value_heads=2,
        text_intermediate_size=32,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 4, 8),
    )
    return diffusers.Krea2Pipeline(
        scheduler=shifting(),
        vae=qwen_vae(),
        transformer=transformer,
        text_encoder_select_layers=(1, 2),
        **vision_model("Qwen3VLModel"),
    )


@family("OvisImagePipeline")
def ovis_image() -> Any:
    transformer = diffusers.OvisImageTransformer2DModel(
        patch_size=1,
        in_channels=16,
        out_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 4, 8),
    )
    return diffusers.OvisImagePipeline(
        scheduler=shifting(),
        vae=random_vae(shift_factor=0.1),
        transformer=transformer,
        **language_model(),
    )


@family("HiDreamImagePipeline", call={"max_sequence_length": 24})
def hi_dream_image() -> Any:
    transformer = diffusers.HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_channels=[32, 32],
        text_emb_dim=64,
        num_routed_experts=2,
        num_activated_experts=2,
        axes_dims_rope=(4, 2, 2),
        max_resolution=(8, 8),
        llama_layers=(0, 1),
        force_inference_output=True,
    )
    fourth = language_model("Qwen3ForCausalLM")
    pipeline = diffusers.HiDreamImagePipeline(
        scheduler=flow(),
        vae=random_vae(shift_factor=0.1),
        transformer=transformer,
        tokenizer_4=fourth["tokenizer"],
        text_encoder_4=fourth["text_encoder"],
        **clips(),
        **t5("_3"),
    )
    # it scales every picture to the area that this stands for: by itself to 1024 × 1024
    pipeline.default_sample_size = 32 // pipeline.vae_scale_factor
    return pipeline


@family("BriaPipeline")
def bria() -> Any:
    transformer = diffusers.BriaTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=[4, 4, 8],
    )
    return diffusers.BriaPipeline(
        scheduler=shifting(), vae=random_vae(shift_factor=0.0), transformer=transformer, **t5()
    )


@family("LongCatImagePipeline", call={"enable_prompt_rewrite": False, "enable_cfg_renorm": False})
def long_cat_image() -> Any:
    transformer = diffusers.LongCatImageTransformer2DModel(
        patch_size=1,
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=[4, 4, 8],
    )
    parts = language_model()
    return diffusers.LongCatImagePipeline(
        scheduler=shifting(),
        vae=random_vae(16, shift_factor=0.1),
        transformer=transformer,
        text_processor=parts["tokenizer"],
        **parts,
    )


@family(
    "ZImageOmniPipeline", size=32, plain={"guidance_scale": 0.0}, guided={"guidance_scale": 2.0}
)
def z_image_omni() -> Any:
    return diffusers.ZImageOmniPipeline(
        scheduler=flow(),
        vae=random_vae(shift_factor=0.1),
        transformer=_z_image(siglip_feat_dim=32),
        siglip=transformers.SiglipVisionModel(
            transformers.SiglipVisionConfig(
                hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
            )
        ),
        siglip_processor=characters(),
        **language_model(),
    )


@family("NucleusMoEImagePipeline", guided=None)
def nucleus_mo_e_image() -> Any:
    transformer = diffusers.NucleusMoEImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        num_key_value_heads=1,
        joint_attention_dim=32,
        axes_dims_rope=(4, 4, 8),
        moe_enabled=False,
        capacity_factors=[8.0, 8.0],
    )
    parts = language_model(layers=9)
    return diffusers.NucleusMoEImagePipeline(
        scheduler=shifting(),
        vae=qwen_vae(),
        transformer=transformer,
        text_encoder=parts["text_encoder"],
        processor=parts["tokenizer"],
    )


@family("ErnieImagePipeline", size=32, call={"use_pe": False})
def ernie_image() -> Any:
    transformer = diffusers.ErnieImageTransformer2DModel(
        hidden_size=32,
        num_attention_heads=2,
        num_layers=1,
        ffn_hidden_size=32,
        in_channels=16,
        out_channels=16,
        text_in_dim=32,
        rope_axes_dim=(4, 4, 8),
    )
    return diffusers.ErnieImagePipeline(
        scheduler=flow(), vae=flux2_vae(), transformer=transformer, **language_model()
    )
